"""How wide a forecast's intervals must be, learnt from what was missed at a few earlier origins. Knows no guesses and no networks.

Thousands of cells of a few frames are few errors, not many: those of one frame come in common. Two things follow. What was missed is measured
in units of a scale that means the same as today's. And the level so found, being estimated from few independent errors, is uncertain
itself: intervals are those of Student's t, with the independent origins times the field's spatial degrees of freedom.

Sources: Papadopoulos et al. (2002), normalised nonconformity scores; Bretherton et al. (1999), The effective number of spatial degrees of
freedom of a time-varying field.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from stimpute.calibration import Calibration

LEVEL = 0.9
CELLS = 300  # that the degrees of freedom are counted on, at most


@dataclass(frozen=True, eq=False)
class Missed:
    """What a forecast from an earlier origin missed.

    Parameters
    ----------
    back : slots before today's origin.
    error : (H, N), forecast minus truth, NaN where the truth is not known.
    scale : (H, N), what the forecast said of its error; None where it was made from fewer earlier origins than today's is, and so
        does not mean the same: today's stands for it.
    """

    back: int
    error: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32] | None = None


def mean_error(missed: list[Missed]) -> float:
    """Mean absolute error over all that is known of the truth; 0 where nothing is."""
    known = [np.abs(m.error[np.isfinite(m.error)]) for m in missed]
    return float(sum(e.sum(dtype=np.float64) for e in known)) / max(sum(map(len, known)), 1)


def calibrated(
    missed: list[Missed],
    scale: npt.NDArray[np.float32],
    freedom: float,
    asked: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Standard errors (H, N) whose 90 % interval ``mean +- 1.645 * result`` holds so much of what a new origin brings.

    Parameters
    ----------
    missed : at earlier origins; none: the scale stays as it is.
    scale : (H, N), today's.
    freedom : spatial degrees of freedom of a frame, see :func:`spatial_freedom`.
    asked : nodes (n,) that ``missed`` is of; by default all.
    """
    if not any(np.isfinite(m.error).any() for m in missed):
        return scale
    leads = np.arange(1.0, len(scale) + 1)[:, None]
    there = scale if asked is None else scale[:, asked]
    scales = np.stack([there if m.scale is None else m.scale for m in missed])
    fitted = Calibration.fit(
        np.stack([m.error for m in missed]), scales, np.broadcast_to(leads, scales.shape), LEVEL
    )
    wider = widening([m.back for m in missed], len(scale), freedom)
    return np.asarray(
        fitted.apply(scale, np.broadcast_to(leads, scale.shape)) * wider[:, None], dtype=np.float32
    )


def widening(backs: list[int], steps: int, freedom: float) -> npt.NDArray[np.float64]:
    """(steps,): quantile of Student's t over the normal one, by lead time.

    Origins so near to each other that what they forecast overlaps count once: as many are independent as stretches as long as the
    lead time fit between the farthest and today.

    >>> widening([12], 12, 3.0).round(2).tolist()[::11]
    [1.43, 1.43]
    >>> widening([3, 6, 9, 12], 12, 3.0).round(2).tolist()[::11]
    [1.08, 1.43]
    """
    lead = np.arange(1, steps + 1)
    independent = np.clip(max(backs) / lead, 1, len(backs))
    p = (1 + LEVEL) / 2
    return np.asarray(stdtrit(np.maximum(independent * freedom, 1.0), p) / NormalDist().inv_cdf(p))


def spatial_freedom(anomalies: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> float:
    """How many independent series vary as much together as these (C, N): ``tr(C)^2 / tr(C C)`` of their covariance C, at least 1.

    Gaps are left out. Short and persistent series show fewer than there are, which errs to the safe side.

    >>> common = np.random.default_rng(0).normal(size=(500, 1))
    >>> bool(spatial_freedom(common * np.ones(20), np.ones((500, 20), bool)) < 1.01)
    True
    """
    nodes = np.unique(np.linspace(0, anomalies.shape[1] - 1, CELLS).round().astype(int))
    known = valid[:, nodes].astype(np.float64)
    apart = anomalies[:, nodes].astype(np.float64) * known
    apart -= known * (apart.sum(axis=0) / np.maximum(known.sum(axis=0), 1))
    covariance = (apart.T @ apart) / np.maximum(known.T @ known, 1)
    together = float((covariance**2).sum())
    return max(float(np.trace(covariance)) ** 2 / together, 1.0) if together > 0 else 1.0
