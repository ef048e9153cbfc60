"""One pass over a layer by windows: counts, whether it is a single value, the whole if memory holds it, a thinned overview.

Knows protocols only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stimpute.inference.memory import Read, StackSource
from stimpute.inference.options import Progress
from stimpute.io.room import refuse_absurd
from stimpute.protocols import Layer, Source, Window
from stimpute.stack import BoolArray, Stack

OVERVIEW_CELLS = 2**22
STEP_BYTES = 40  # per cell of one step: what is kept of every cell whatever the number of steps, and one step of the stack
ENGINE_BYTES = 32  # per cell-step: stack, accumulators and output of the engine itself

# (y, x) each: the steps in which a cell was first and last observed; -1: never
FirstAndLast = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


@dataclass(frozen=True, eq=False)
class Scan:
    """One pass over a layer: how to read it from now on, the whole if it fits, a thinned overview, counts."""

    read: Read
    whole: Stack | None
    overview: Stack
    per_cell: npt.NDArray[np.int32]
    per_step: npt.NDArray[np.int64]
    first_and_last: FirstAndLast
    constant: float | None = None


def where(source: Source, layer: Layer) -> str:
    """A layer for messages: its file and its name."""
    return f"{source.paths[0]}: {layer.name}" if source.paths else layer.name


def inside_domain(source: Source, index: int) -> Read:
    """Reads windows of a layer in which nothing was observed outside the source's domain."""
    domain: BoolArray | None = getattr(source, "domain", None)
    if domain is None:
        return lambda window: source.read(window, index)

    def read(window: Window) -> Stack:
        stack = source.read(window, index)
        return stack.hide(np.broadcast_to(~domain[window.slices[1:]], stack.shape))

    return read


def scan_layer(
    source: Source, index: int, budget: int, progress: Progress | None = None, read: Read | None = None
) -> Scan:
    """One pass over a layer by windows: counts, and every ``step``-th cell (and step) as the overview.

    The layer is kept in memory where the engine's arrays for all of it fit into ``budget`` bytes. ``read`` gives its windows
    (None: as the source does).
    """
    read = read or (lambda window: source.read(window, index))
    shape = source.layers[index].shape
    refuse_absurd(
        math.prod(shape[1:]) * STEP_BYTES,
        f"{where(source, source.layers[index])}: one step of {shape[1]} x {shape[2]} cells",
        "take a part of it with --bbox",
    )
    in_memory = math.prod(shape) * ENGINE_BYTES <= budget
    every_step, every_cell = thinning(shape, OVERVIEW_CELLS)
    per_cell = np.zeros(shape[1:], dtype=np.int32)
    per_step = np.zeros(shape[0], dtype=np.int64)
    first_seen, last_seen = (np.full(shape[1:], -1, dtype=np.int32) for _ in range(2))
    whole, thinned = None, []
    low, high = np.inf, -np.inf
    for start, stop in _slabs(
        shape, shape[0] if in_memory else budget // (ENGINE_BYTES * shape[1] * shape[2])
    ):
        slab = read(Window((start, stop), (0, shape[1]), (0, shape[2])))
        for step, seen in enumerate(slab.valid, start):
            per_cell += seen
            per_step[step] = seen.sum()
            np.copyto(first_seen, step, where=seen & (first_seen < 0))
            np.copyto(last_seen, step, where=seen)
        if not low < high:
            low = min(low, float(slab.values.min(where=slab.valid, initial=np.inf)))
            high = max(high, float(slab.values.max(where=slab.valid, initial=-np.inf)))
        first = -start % every_step
        if first < stop - start:
            thinned.append(_thin(slab, slice(first, None, every_step), every_cell))
        whole = slab if in_memory else None
        if progress:
            progress("survey", stop, shape[0])
    constant = low if low == high and not _many_numbers(source, index) else None
    read = StackSource(whole).read if whole is not None else read
    return Scan(read, whole, joined(thinned), per_cell, per_step, (first_seen, last_seen), constant)


def _many_numbers(source: Source, index: int) -> bool:
    """Whether a layer that is one value in single precision holds several as it is stored."""
    stored = getattr(source, "read_stored", None)
    if stored is None:
        return False
    shape, seen = source.layers[index].shape, set()
    for step in range(shape[0]):
        window = Window((step, step + 1), (0, shape[1]), (0, shape[2]))
        numbers = stored(window, index)[source.read(window, index).valid]
        seen |= set(np.unique(numbers)[:2].tolist())
        if len(seen) > 1:
            return True
    return False


def thinning(shape: tuple[int, int, int], cells: int) -> tuple[int, int]:
    """(every n-th step, every m-th cell) that brings a stack down to ``cells``: space first, time when space is small.

    >>> thinning((10, 100, 100), 1000), thinning((100_000, 8, 8), 64_000), thinning((3, 4, 5), 1000)
    ((1, 10), (100, 1), (1, 1))
    """
    t, ny, nx = shape
    every_cell = 1
    while (
        t * math.ceil(ny / every_cell) * math.ceil(nx / every_cell) > cells and max(ny, nx) / every_cell > 8
    ):
        every_cell += 1
    thinned = math.ceil(ny / every_cell) * math.ceil(nx / every_cell)
    return max(1, math.ceil(t * thinned / cells)), every_cell


def _slabs(shape: tuple[int, int, int], steps: int) -> Iterator[tuple[int, int]]:
    steps = max(1, steps)
    for start in range(0, shape[0], steps):
        yield start, min(start + steps, shape[0])


def _thin(stack: Stack, steps: slice, every: int) -> Stack:
    """Every so many cells of some steps, as arrays of their own."""
    first = (every - 1) // 2
    rows, cols = (slice(min(first, n - 1), None, every) for n in stack.shape[1:])
    part = stack.window(steps, rows, cols)  # views, which would keep all of it in memory
    return replace(
        part,
        values=part.values.copy(),
        valid=part.valid.copy(),
        dynamic={name: array.copy() for name, array in part.dynamic.items()},
        static={name: array.copy() for name, array in part.static.items()},
    )


def joined(parts: list[Stack]) -> Stack:
    """One stack from parts that follow each other in time."""
    if len(parts) == 1:
        return parts[0]
    joined = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("values", "valid", "times", "year_phase", "day_phase")
    }
    dynamic = {k: np.concatenate([p.dynamic[k] for p in parts]) for k in parts[0].dynamic}
    return Stack(**joined, grid=parts[0].grid, dynamic=dynamic, static=parts[0].static)
