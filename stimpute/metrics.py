"""Scores of an estimate against held-out truth. Knows nothing about how either was made.

All scores are taken over the cells of ``where`` whose truth is known and whose mean is not NaN; NaN in the mean means
"not estimated" and is counted apart. Sums run in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

FloatArray = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """Scores in the variable's units, except ``mre``, ``r`` and ``coverage``; NaN where undefined.

    ``n`` cells were scored and ``not_estimated`` wanted but NaN. ``bias`` is mean(estimate - truth), ``mre``
    sum|e| / sum|truth|, ``r`` Pearson's correlation, ``coverage`` the part of the truth inside the central interval
    of the stated level, ``crps`` that of a Gaussian (the last two only where a scale was given).
    """

    n: int
    mae: float
    rmse: float
    bias: float
    mre: float
    r: float
    coverage: float
    crps: float
    not_estimated: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON; None for what is undefined."""
        return {k: None if v != v else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class BinScores:
    """Scores of the cells whose variable lies in [lower, upper)."""

    lower: float
    upper: float
    scores: Scores


def score(
    truth: FloatArray,
    mean: FloatArray,
    scale: FloatArray | None = None,
    where: BoolArray | None = None,
    level: float = 0.9,
) -> Scores:
    """Compare an estimate with the truth.

    Parameters
    ----------
    truth : any shape; NaN where unknown (not counted).
    mean : same shape; NaN where the method estimated nothing.
    scale : same shape, one standard error, or None. NaN or negative scales are left out of coverage and CRPS.
    where : bool, same shape: the cells to score (all by default).
    level : of the central interval ``mean +- z * scale``; 0.9 gives z = 1.645.

    Source
    ------
    CRPS of a Gaussian: Gneiting and Raftery (2007), Strictly proper scoring rules, eq. 21.

    >>> s = score(np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.0, np.nan]))
    >>> s.n, s.not_estimated, s.mae, round(s.mre, 4)
    (2, 1, 0.5, 0.3333)
    """
    wanted = np.isfinite(truth) if where is None else np.isfinite(truth) & where
    estimated = wanted & np.isfinite(mean)
    y, m = truth[estimated].astype(np.float64), mean[estimated].astype(np.float64)
    n, not_estimated = len(y), int(wanted.sum()) - len(y)
    if n == 0:
        return Scores(0, *(float("nan"),) * 7, not_estimated=not_estimated)
    error = m - y
    absolute, size = np.abs(error).sum(), np.abs(y).sum()
    coverage, crps = _probabilistic(
        error, None if scale is None else scale[estimated].astype(np.float64), level
    )
    return Scores(
        n=n,
        mae=float(absolute / n),
        rmse=float(np.sqrt(np.square(error).mean())),
        bias=float(error.mean()),
        mre=float(absolute / size) if size > 0 else float("nan"),
        r=_correlation(y, m),
        coverage=coverage,
        crps=crps,
        not_estimated=not_estimated,
    )


def by_bins(
    truth: FloatArray,
    mean: FloatArray,
    scale: FloatArray | None,
    variable: FloatArray,
    edges: Sequence[float],
    where: BoolArray | None = None,
    level: float = 0.9,
) -> list[BinScores]:
    """Scores by bins ``edges[i] <= variable < edges[i + 1]`` (same shape as ``truth``; the last bin holds its upper edge).

    NaN in the variable belongs to no bin; inf belongs to a bin that ends there.
    """
    chosen = np.isfinite(truth) if where is None else np.isfinite(truth) & where
    t, m, v = truth[chosen], mean[chosen], variable[chosen]
    s = None if scale is None else scale[chosen]
    out = []
    for i, (lower, upper) in enumerate(pairwise(edges)):
        inside = (v >= lower) & ((v <= upper) if i == len(edges) - 2 else (v < upper))
        out.append(BinScores(float(lower), float(upper), score(t, m, s, inside, level)))
    return out


def crps_gaussian(error: Float64Array, scale: Float64Array) -> Float64Array:
    """Continuous ranked probability score of N(mean, scale^2), in the units of the error; |error| where the scale is 0.

    >>> round(float(crps_gaussian(np.array(0.0), np.array(1.0))), 6)  # (sqrt(2) - 1) / sqrt(pi)
    0.233695
    """
    safe = np.where(scale > 0, scale, 1.0)
    z = error / safe
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    crps = safe * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return np.asarray(np.where(scale > 0, crps, np.abs(error)))


def central_z(level: float) -> float:
    """Half-width, in standard deviations, of the central Gaussian interval: 1.645 for 0.9."""
    return float(ndtri((1 + level) / 2))


def seam_ratio(error: FloatArray, borders: tuple[Sequence[int], Sequence[int]]) -> float:
    """How much larger the steps of an error field are across tile borders than elsewhere: 1 means no seam.

    Parameters
    ----------
    error : (time, y, x), estimate minus truth over a stationary field; steps with a NaN on either side are left out.
    borders : rows, and columns, where a new tile begins (index of its first row or column).

    Returns
    -------
    mean |step across a border| / mean |step inside|; NaN if there is no step of either sort.
    """
    sums = np.zeros((2, 2))  # (inside, across) x (sum, count)
    for axis, starts in zip((1, 2), borders, strict=True):
        steps = np.abs(np.diff(error, axis=axis))
        across = np.isin(np.arange(1, error.shape[axis]), list(starts))
        for side, chosen in enumerate((~across, across)):
            part = np.compress(chosen, steps, axis=axis)
            sums[side] += np.nansum(part, dtype=np.float64), np.isfinite(part).sum()
    if not sums[:, 1].all() or sums[0, 0] == 0:
        return float("nan")
    return float((sums[1, 0] / sums[1, 1]) / (sums[0, 0] / sums[0, 1]))


def _correlation(y: Float64Array, m: Float64Array) -> float:
    dy, dm = y - y.mean(), m - m.mean()
    norm = np.sqrt(np.square(dy).sum() * np.square(dm).sum())
    return float((dy * dm).sum() / norm) if norm > 0 else float("nan")


def _probabilistic(error: Float64Array, scale: Float64Array | None, level: float) -> tuple[float, float]:
    if scale is None:
        return float("nan"), float("nan")
    known = np.isfinite(scale) & (scale >= 0)
    if not known.any():
        return float("nan"), float("nan")
    e, s = error[known], scale[known]
    return float((np.abs(e) <= central_z(level) * s).mean()), float(crps_gaussian(e, s).mean())
