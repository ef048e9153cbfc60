"""Turning scales into standard errors whose intervals cover what they claim. Knows nothing about methods or files.

Split-conformal: on cells that were hidden, the ratio |error| / scale is ranked; its quantile, divided by the Gaussian
one, is the factor by which scales are too small. Factors depend on the distance to the nearest observation, because
that is where methods are wrong about themselves.

Source: Papadopoulos et al. (2002), Inductive confidence machines for regression (normalised nonconformity scores).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

MIN_PER_BIN = 100
MAX_BINS = 12
_SCALE_FLOOR = 1e-3  # of the median scale: what a method may claim at best


def distance_to_data(valid: BoolArray, times_days: npt.ArrayLike | None = None) -> Float32Array:
    """Distance from every cell to the nearest observation, in cells: Euclidean in space, plus one cell per step in time.

    Parameters
    ----------
    valid : bool (time, y, x), True = observed.
    times_days : float (time,), increasing; a gap in the series counts as many steps as median steps fit into it.
        Evenly spaced if None.

    Returns
    -------
    float32 (time, y, x): 0 where observed; inf if nothing is.

    >>> distance_to_data(np.array([[[True, False, False]], [[False, False, False]]])).tolist()
    [[[0.0, 1.0, 2.0]], [[1.0, 2.0, 3.0]]]
    """
    steps = len(valid)
    distance = np.full(valid.shape, np.inf, dtype=np.float32)
    for t in range(steps):
        if valid[t].all():
            distance[t] = 0
        elif valid[t].any():
            distance[t] = distance_transform_edt(~valid[t])
    if steps > 1:
        apart = np.diff(np.arange(steps) if times_days is None else np.asarray(times_days, dtype=np.float64))
        cells = (apart / np.median(apart)).astype(np.float32)
        for t in range(1, steps):
            np.minimum(distance[t], distance[t - 1] + cells[t - 1], out=distance[t])
        for t in range(steps - 2, -1, -1):
            np.minimum(distance[t], distance[t + 1] + cells[t], out=distance[t])
    return distance


@dataclass(frozen=True, eq=False)
class Calibration:
    """Factors for a method's scale, by distance to data.

    Attributes
    ----------
    distance : float64 (bins,), increasing: median distance of each bin's samples.
    factor : float64 (bins,), monotone: what the scale is multiplied by there; interpolated between, constant beyond.
    floor : smallest scale believed, in the variable's units; smaller ones are raised to it first.
    level : of the central interval that was made to cover.
    samples : held-out cells it was fitted on.

    Examples
    --------
    >>> error = np.random.default_rng(0).normal(size=5000) * 3
    >>> fitted = Calibration.fit(error, np.ones(5000), np.ones(5000))
    >>> fitted.apply(np.array([2.0]), np.array([1.0])).round(1).tolist()
    [6.0]
    """

    distance: Float64Array
    factor: Float64Array
    floor: float
    level: float
    samples: int

    def __post_init__(self) -> None:
        if self.distance.shape != self.factor.shape or self.distance.ndim != 1 or not len(self.factor):
            raise ValueError(f"{self.distance.shape} distances for {self.factor.shape} factors")
        if not (np.isfinite(self.factor).all() and (self.factor >= 0).all()):
            raise ValueError(f"factors {self.factor} are not finite and positive")

    @classmethod
    def fit(
        cls,
        error: npt.ArrayLike,
        scale: npt.ArrayLike | None,
        distance: npt.ArrayLike,
        level: float = 0.9,
    ) -> Calibration:
        """Learn the factors from held-out cells.

        Parameters
        ----------
        error : estimate minus truth, any shape; non-finite entries are left out.
        scale : the method's own standard error, same shape; None where it has none (taken as 1: the factors then are
            standard errors in the variable's units).
        distance : to the nearest observation, same shape, as :func:`distance_to_data` gives it.
        level : ``mean +- z(level) * scale`` is made to cover this share.

        Bins hold at least ``MIN_PER_BIN`` samples each; with fewer than twice that there is one factor, with no
        sample at all it is 1.
        """
        e = np.abs(np.asarray(error, dtype=np.float64)).ravel()
        s = np.ones_like(e) if scale is None else np.asarray(scale, dtype=np.float64).ravel()
        d = np.asarray(distance, dtype=np.float64).ravel()
        known = np.isfinite(e) & np.isfinite(s) & ~np.isnan(d)
        e, s, d = e[known], s[known], d[known]
        if not len(e):
            return cls(np.zeros(1), np.ones(1), 0.0, level, 0)
        floor = _SCALE_FLOOR * float(np.median(s)) if np.median(s) > 0 else 1.0
        ratio = e / np.maximum(s, floor)
        order = np.argsort(d, kind="stable")
        centers, factors, counts = _binned(d[order], ratio[order], level)
        factors = _monotone(factors, counts)
        # smoothing moved the factors: one more factor restores the coverage over all samples
        local = np.interp(d, centers, factors)
        if (local > 0).all():
            factors = factors * _conformal_quantile(ratio / local, level)
        return cls(centers, factors / NormalDist().inv_cdf((1 + level) / 2), floor, level, len(e))

    def apply(self, scale: npt.ArrayLike | None, distance: npt.ArrayLike) -> Float32Array:
        """Standard errors, float32, of the shape of ``distance``: ``mean +- z(level) * result`` covers the level.

        ``scale`` is None where the calibration was fitted without one. NaN in, NaN out.
        """
        d = np.asarray(distance)
        out = np.empty(d.shape, dtype=np.float32)
        for part in range(len(d)) if d.ndim > 1 else (slice(None),):
            out[part] = np.interp(d[part], self.distance, self.factor)
        if scale is not None:
            out *= np.maximum(np.asarray(scale, dtype=np.float32), np.float32(self.floor))
        return out

    def widened(self, times: float) -> Calibration:
        """The same with every standard error so many times as large.

        >>> Calibration(np.zeros(1), np.ones(1), 0.0, 0.9, 100).widened(1.5).apply(np.array([2.0]), np.array([4.0])).tolist()
        [3.0]
        """
        return replace(self, factor=self.factor * times)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "distance": self.distance.tolist(),
            "factor": self.factor.tolist(),
            "floor": self.floor,
            "level": self.level,
            "samples": self.samples,
        }

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Calibration:
        """The inverse of :meth:`to_dict`."""
        distance, factor = (np.asarray(entries[k], dtype=np.float64) for k in ("distance", "factor"))
        return cls(
            distance, factor, float(entries["floor"]), float(entries["level"]), int(entries["samples"])
        )


def _conformal_quantile(ratio: Float64Array, level: float) -> float:
    """The ceil((n + 1) level)-th smallest: what a new exchangeable ratio stays below with probability >= level."""
    n = len(ratio)
    rank = min(int(np.ceil((n + 1) * level)), n) - 1
    return float(np.partition(ratio, rank)[rank])


def _binned(
    distance: Float64Array, ratio: Float64Array, level: float
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Center, quantile and count of bins of about equal count; equal distances stay together. Sorted input."""
    wanted = max(min(len(distance) // MIN_PER_BIN, MAX_BINS), 1)
    edges = distance[np.linspace(0, len(distance) - 1, wanted + 1).astype(int)[1:-1]]
    starts = np.unique(np.concatenate([[0], np.searchsorted(distance, edges, side="right")]))
    kept = [0]
    for start in starts[1:].tolist():
        if min(start - kept[-1], len(distance) - start) >= MIN_PER_BIN:
            kept.append(start)
    parts = list(zip(kept, [*kept[1:], len(distance)], strict=True))
    finite_end = float(distance[np.isfinite(distance)].max(initial=0.0))
    centers = np.array([min(float(distance[(a + b) // 2]), finite_end + 1) for a, b in parts])
    quantiles = np.array([_conformal_quantile(ratio[a:b], level) for a, b in parts])
    return centers, quantiles, np.array([b - a for a, b in parts], dtype=np.float64)


def _monotone(values: Float64Array, weights: Float64Array) -> Float64Array:
    """The nearest rising or falling sequence, whichever is nearer (weighted least squares)."""
    rising = _pool_adjacent(values, weights)
    falling = _pool_adjacent(values[::-1], weights[::-1])[::-1]
    losses = [float((weights * (fit - values) ** 2).sum()) for fit in (rising, falling)]
    return rising if losses[0] <= losses[1] else falling


def _pool_adjacent(values: Float64Array, weights: Float64Array) -> Float64Array:
    """Pool-adjacent-violators: isotonic regression."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (float(value), float(weight), 1)
        while blocks and blocks[-1][0] > block[0]:
            v, w, n = blocks.pop()
            total = w + block[1]
            block = ((v * w + block[0] * block[1]) / total, total, n + block[2])
        blocks.append(block)
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks])
