"""A sensor step: from one time step on, everything lies higher or lower. Looks at numbers only; changes none.

Every cell is compared with its own median, so that what happens to be cloudy does not count; a jump must stand out of the
changes from step to step and must last, so that neither seasons nor single bad scenes do.
"""

from __future__ import annotations

import numpy as np

from stimpute.stack import Float32Array, Stack

JUMP = 6.0  # times the usual change from step to step
APART = 3.0  # times the spread of the levels on either side
LEAST_STEPS = 4  # on either side
LEAST_CELLS = 12  # seen in both steps that are compared
_MOST_CELLS = 4096


def level_shift(stack: Stack) -> tuple[int, float] | None:
    """Where a series jumps to another level for good: (first step of the new level, height of the jump).

    The level of a step is the median over its cells of value minus the cell's own median. The largest change between
    neighbouring levels counts where it is ``JUMP`` times the usual one, the levels before and after it do not overlap, and
    their medians lie ``APART`` times their spread apart. None: no such step.

    >>> values = np.random.default_rng(0).normal(size=(20, 8, 8))
    >>> values[12:] += 50
    >>> step, height = level_shift(Stack.from_array(values))
    >>> step, round(height / 50)
    (12, 1)
    """
    levels, steps = _levels(stack)
    if len(steps) < 2 * LEAST_STEPS:
        return None
    change = np.diff(levels)
    usual = float(np.median(np.abs(change)))
    at = int(np.argmax(np.abs(change))) + 1
    height = float(change[at - 1])
    before, after = levels[:at], levels[at:]
    if min(len(before), len(after)) < LEAST_STEPS or not abs(height) > JUMP * usual:
        return None
    apart = abs(float(np.median(after) - np.median(before)))
    spread = max(_spread(before), _spread(after))
    overlap = before.max() >= after.min() if height > 0 else before.min() <= after.max()
    if overlap or apart < APART * spread or apart < 0.5 * abs(height):
        return None
    return int(steps[at]), _height(stack, int(steps[at]))


def _height(stack: Stack, step: int) -> float:
    """Median over the cells of how much higher they lie in the few steps from ``step`` on than in those before."""
    near = (slice(max(step - LEAST_STEPS, 0), step), slice(step, step + LEAST_STEPS))
    parts = [np.where(stack.valid[part], stack.values[part], np.float32(np.nan)) for part in near]
    both = np.isfinite(parts[0]).any(axis=0) & np.isfinite(parts[1]).any(axis=0)
    if not both.any():
        return float(np.nanmedian(parts[1]) - np.nanmedian(parts[0]))
    before, after = (np.nanmedian(part[:, both], axis=0) for part in parts)
    return float(np.median(after - before))


def _spread(levels: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    return float(np.median(np.abs(levels - np.median(levels))))


def _levels(
    stack: Stack,
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Level of every step that shows enough cells, and which steps those are."""
    often = np.flatnonzero(stack.valid.sum(axis=0).ravel() >= 2)
    chosen = often[:: max(1, len(often) // _MOST_CELLS)]
    values: Float32Array = np.where(stack.valid, stack.values, np.float32(np.nan)).reshape(
        stack.shape[0], -1
    )[:, chosen]
    if not values.size:
        return np.empty(0), np.empty(0, dtype=np.intp)
    residual = values - np.nanmedian(values, axis=0)
    seen = np.isfinite(residual).sum(axis=1)
    steps = np.flatnonzero(seen >= min(LEAST_CELLS, max(1, len(chosen) // 2)))
    return np.array([np.nanmedian(residual[step]) for step in steps], dtype=np.float64), steps
