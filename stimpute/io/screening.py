"""``--qc``: observations far from all others of their own cell (cloud edges, bad retrievals) are read as gaps.

A cell's limits are its median over time plus and minus five robust standard deviations (1.4826 MAD, at least half of
what is usual on the grid), where it has at least five observations.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import StimputeWarning
from stimpute.protocols import Window
from stimpute.stack import Stack

Float32Array = npt.NDArray[np.float32]

DEVIATIONS = 5.0
_LEAST = 5
_BLOCK_CELLS = 1 << 22


def cell_limits(values: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Lowest and highest plausible value of every cell of a (time, y, x) array with NaN gaps; infinite where unknown."""
    count = np.isfinite(values).sum(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # cells without observations
        middle = np.nanmedian(values, axis=0)
        spread = 1.4826 * np.nanmedian(np.abs(values - middle), axis=0)
        usual = np.nanmedian(spread)
    reach = DEVIATIONS * np.maximum(spread, 0.5 * usual if np.isfinite(usual) else 0.0)
    told = (count >= _LEAST) & (reach > 0)
    low = np.where(told, middle - reach, -np.inf).astype(np.float32)
    high = np.where(told, middle + reach, np.inf).astype(np.float32)
    return low, high


def screen(source: Any) -> None:
    """Make a source read outliers as gaps; counts them (``source.outliers``), warns, and records it among its alterations."""
    beside, source.covariates = source.covariates, ()  # would be read with every window
    try:
        found = [_limits_of(source, number) for number in range(len(source.layers))]
    finally:
        source.covariates = beside
    total = 0
    for layer, (_, _, outliers) in zip(source.layers, found, strict=True):
        if outliers:
            total += outliers
            warnings.warn(
                f"{source.paths[0] if source.paths else 'input'}: {layer.name}: {outliers} outliers are treated as gaps (--qc)",
                StimputeWarning,
                stacklevel=3,
            )
    read = source.read

    def read_screened(window: Window, layer: int = 0) -> Stack:
        stack: Stack = read(window, layer)
        _, y, x = window.slices
        low, high, _ = found[layer]
        return stack.hide((stack.values < low[y, x]) | (stack.values > high[y, x]))

    source.read, source.outliers = read_screened, total
    if total:
        source.alterations = (*source.alterations, f"{total} outliers treated as gaps (--qc)")


def _limits_of(source: Any, number: int) -> tuple[Float32Array, Float32Array, int]:
    """Limits of a whole layer, block of rows by block of rows, and how many observations lie outside."""
    steps, ny, nx = source.layers[number].shape
    low, high = np.empty((ny, nx), dtype=np.float32), np.empty((ny, nx), dtype=np.float32)
    outliers = 0
    rows = max(1, _BLOCK_CELLS // max(1, steps * nx))
    for top in range(0, ny, rows):
        bottom = min(top + rows, ny)
        values = source.read(Window((0, steps), (top, bottom), (0, nx)), number).with_nan()
        low[top:bottom], high[top:bottom] = cell_limits(values)
        outliers += int(((values < low[top:bottom]) | (values > high[top:bottom])).sum())
    return low, high, outliers
