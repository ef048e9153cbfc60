"""Seams and agreement: steps of an error field across the borders of tiles against steps elsewhere. Pure numpy.

The measure is that of docs/decisions/0004: mean |step across a border| / mean |step inside|, over fill minus truth of a stationary
field. It is kept in sums by block of the map, so that blocks can be drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stimpute.stack import Float32Array
from stimpute.tiling import TilePlan, borders

Float64Array = npt.NDArray[np.float64]
BLOCK = 24  # cells: steps that are drawn together, at all times
DRAWS, RANGE = 2000, (2.5, 97.5)
LEVELS = (50.0, 99.0)


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps of one field, by block: (blocks, 2) sums of |step| and counts; column 0 inside, column 1 across a border."""

    total: Float64Array
    count: Float64Array

    @property
    def pairs(self) -> int:
        """Pairs of cells on either side of a border."""
        return int(self.count[:, 1].sum())

    @property
    def inside(self) -> float:
        """Mean |step| inside; NaN of nothing."""
        total, count = self.total[:, 0].sum(), self.count[:, 0].sum()
        return float(total / count) if count else math.nan


def steps_of(error: Float32Array, starts: tuple[Sequence[int], Sequence[int]]) -> Steps:
    """The steps of ``error`` (time, y, x) between neighbours that are both known.

    Parameters
    ----------
    error : NaN where nothing was filled; a pair with a NaN is no pair.
    starts : rows, and columns, at which a new core begins.

    >>> field = np.float32([[[0, 1, 1, 4, 4]]])
    >>> found = steps_of(field, ([], [3]))
    >>> found.pairs, found.inside, found.total[:, 1].sum().item()
    (1, 0.3333333333333333, 3.0)
    """
    _, ny, nx = error.shape
    across_blocks = -(-nx // BLOCK)
    blocks = -(-ny // BLOCK) * across_blocks
    total, count = np.zeros((blocks, 2)), np.zeros((blocks, 2))
    for axis, chosen in zip((1, 2), starts, strict=True):
        steps = np.abs(np.diff(error, axis=axis).astype(np.float64))
        known = np.isfinite(steps)
        sums, pairs = np.where(known, steps, 0).sum(axis=0), known.sum(axis=0)
        rows, columns = np.indices(sums.shape)
        block = rows // BLOCK * across_blocks + columns // BLOCK
        place = (rows, columns)[axis - 1] + 1
        side = np.isin(place, list(chosen)).astype(np.int64)
        where = (block * 2 + side).ravel()
        total += np.bincount(where, sums.ravel(), blocks * 2).reshape(blocks, 2)
        count += np.bincount(where, pairs.ravel(), blocks * 2).reshape(blocks, 2)
    return Steps(total, count)


@dataclass(frozen=True)
class Seam:
    """How much larger steps are across borders, over several fields, with its 95 % range; ``pairs`` across borders."""

    ratio: float
    low: float
    high: float
    pairs: int


def seam(fields: Sequence[Steps], seed: int = 0) -> Seam:
    """The measure over fields of different error: each in units of its own mean step inside.

    >>> steps = Steps(np.full((50, 2), 2.0), np.full((50, 2), 1.0))
    >>> seam([steps, steps])
    Seam(ratio=1.0, low=1.0, high=1.0, pairs=100)
    """
    known = [f for f in fields if f.pairs and f.inside > 0]
    if not known:
        return Seam(math.nan, math.nan, math.nan, 0)
    total = np.concatenate([f.total / f.inside for f in known])
    count = np.concatenate([f.count for f in known])
    drawn = _drawn(total, count, seed)
    low, high = np.nanpercentile(drawn, RANGE)
    return Seam(
        float(_ratio(total.sum(0), count.sum(0))), float(low), float(high), sum(f.pairs for f in known)
    )


def excess(fields: Sequence[Steps], controls: Sequence[Steps], seed: int = 0) -> Seam:
    """:func:`seam` of ``fields`` over that of ``controls``, the same maps without borders, with the same blocks drawn for both."""
    pairs = [
        (f, c)
        for f, c in zip(fields, controls, strict=True)
        if f.pairs and c.pairs and f.inside > 0 and c.inside > 0
    ]
    if not pairs:
        return Seam(math.nan, math.nan, math.nan, 0)
    parts = [
        (np.concatenate([f.total / f.inside for f in chosen]), np.concatenate([f.count for f in chosen]))
        for chosen in ([f for f, _ in pairs], [c for _, c in pairs])
    ]
    ratios = [_ratio(total.sum(0), count.sum(0)) for total, count in parts]
    drawn = [_drawn(total, count, seed) for total, count in parts]
    low, high = np.nanpercentile(drawn[0] / drawn[1], RANGE)
    return Seam(float(ratios[0] / ratios[1]), float(low), float(high), sum(f.pairs for f, _ in pairs))


def _drawn(total: Float64Array, count: Float64Array, seed: int) -> Float64Array:
    """The ratio when blocks are drawn again with replacement; the same blocks for the same seed and number."""
    n = len(total)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    return np.asarray(_ratio(times @ total, times @ count))


def _ratio(total: Float64Array, count: Float64Array) -> Float64Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        return np.asarray(mean[..., 1] / mean[..., 0])


def border_lines(shape: tuple[int, int, int], tile: dict[str, int | str]) -> tuple[list[int], list[int]]:
    """Rows and columns at which cores begin, from what the engine says of its tiles; none where it saw the whole."""
    return borders(shape, TilePlan(**tile)) if tile else ([], [])  # type: ignore[arg-type]


def agreement(a: Float32Array, b: Float32Array, spread: float) -> tuple[float, ...]:
    """Median and 99th percentile of |a - b| in units of ``spread``, over the cells that both know; NaN of nothing.

    >>> agreement(np.float32([1, 2, np.nan]), np.float32([1, 4, 0]), 2.0)
    (0.5, 0.99)
    """
    difference = np.abs(a - b)
    difference = difference[np.isfinite(difference)]
    if not difference.size:
        return (math.nan,) * len(LEVELS)
    return tuple(round(float(q), 9) for q in np.percentile(difference.astype(np.float64) / spread, LEVELS))
