"""A filled window on its way into an output: its stored numbers, variable by variable, and where in each they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from stimpute.io.cf_source import CFSource
from stimpute.io.layout import ERROR_FILL, REALIZATION, Layout, OutVariable
from stimpute.io.raw import Array
from stimpute.protocols import FILLED, OBSERVED, Filled, Window


def placements(
    source: CFSource, variable: OutVariable, window: Window, layer: int
) -> Iterator[tuple[slice, tuple[int | slice, ...], tuple[int, ...]]]:
    """Where a window of a layer lies in a variable of the output.

    Yields (steps of the window, key into the variable, which of the axes time, y, x make up the variable's, in its order).
    """
    axes = source.axes[0][variable.of]
    index = source.layers[layer].index
    order = (axes.time, axes.y, axes.x)
    transpose = tuple(order.index(d) for d in variable.dims if d in order)
    positions = source.steps.position[slice(*window.time)]
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    for start, stop in zip([0, *breaks], [*breaks, len(positions)]):
        time = slice(int(positions[start]), int(positions[stop - 1]) + 1)
        key: list[int | slice] = []
        for dim in variable.dims:
            if dim == axes.time:
                key.append(time)
            elif dim == axes.y:
                key.append(slice(*window.y))
            elif dim == axes.x:
                key.append(slice(*window.x))
            elif dim == REALIZATION and variable.member is not None:
                key.append(variable.member)
            else:
                key.append(int(index[dim.rpartition("/")[2]]))
        yield slice(int(start), int(stop)), tuple(key), transpose


def chunk_of(source: CFSource, variable: OutVariable, chunks: Sequence[int] | None) -> tuple[int, int, int]:
    """The (time, y, x) lengths of a variable's chunks along its dimensions; rows where it is not chunked."""
    axes = source.axes[0][variable.of]
    if not chunks or len(chunks) != len(variable.dims):
        chunks = [n if d == axes.x else 1 for d, n in zip(variable.dims, variable.shape)]
    along = dict(zip(variable.dims, chunks))
    t, y, x = (max(1, int(along.get(d, 1))) if d is not None else 1 for d in (axes.time, axes.y, axes.x))
    return t, y, x


def arranged(data: Array, steps: slice, transpose: tuple[int, ...]) -> Array:
    """A (time, y, x) array as ``placements`` wants it."""
    absent = tuple(axis for axis in range(3) if axis not in transpose)
    kept = sorted(transpose)
    part = data[steps][tuple(0 if axis in absent else slice(None) for axis in range(3))]
    return np.ascontiguousarray(part.transpose([kept.index(axis) for axis in transpose]))


def contents(
    source: CFSource, layout: Layout, window: Window, filled: Filled, layer: int
) -> Iterator[tuple[OutVariable, Array]]:
    """What goes into every output variable of a layer in a window: stored numbers (time, y, x).

    Raises
    ------
    OutputError : a filled value that the stored type cannot hold.
    """
    name = source.layers[layer].variable
    if filled.flag.shape != window.shape or filled.values.shape != window.shape:
        raise ValueError(
            f"a window of {window.shape} with values {filled.values.shape}, flag {filled.flag.shape}"
        )
    estimated = filled.flag == FILLED
    yield layout.of(name, "filled")[0], _numbers(source, layout, window, filled, layer)
    before = source.filled_before(window, layer)
    kept = None if before is None else before & (filled.flag == OBSERVED)

    def with_kept(variable: OutVariable, new: Array) -> Array:
        """What an earlier run said of the cells it filled stays."""
        said = None if kept is None else source.beside(variable.name, window, layer)
        return new if said is None or kept is None else np.where(kept, said.astype(new.dtype), new)

    for variable in layout.of(name, "flag"):
        yield variable, with_kept(variable, filled.flag.astype(np.int8))
    for variable in layout.of(name, "error"):
        yield variable, with_kept(variable, _where(estimated, filled.standard_error))
    for variable in layout.of(name, "quantile"):
        yield variable, with_kept(variable, _where(estimated, filled.quantiles.get(variable.level or 0.0)))
    for variable in layout.of(name, "member"):
        for number, values in enumerate([] if filled.members is None else filled.members):
            yield replace(variable, member=number), _where(estimated, values)


def _numbers(source: CFSource, layout: Layout, window: Window, filled: Filled, layer: int) -> Array:
    name, estimated = source.layers[layer].variable, filled.flag == FILLED
    packing, before = layout.packings[name], source.packing(layer)
    label = f"{source.paths[0]}: {source.layers[layer].name}"
    # an outlier that was not filled is a gap now
    discarded = (filled.flag != OBSERVED) & ~estimated & (source.outliers > 0)
    if packing.stored_dtype != before.stored_dtype:
        values, valid = source.read64(window, layer)
        valid &= ~discarded
        stored = np.full(window.shape, packing.fill, dtype=packing.dtype)
        stored[valid] = packing.recode(values[valid], label, before.dtype)
    else:
        stored = source.read_stored(window, layer)
        if discarded.any():
            stored[discarded & before.observed(stored)] = packing.as_stored(source.fill_number(layer))
    if estimated.any():
        stored[estimated] = packing.encode(filled.values[estimated], label)
    return stored


def _where(estimated: npt.NDArray[np.bool_], values: npt.NDArray[np.float32] | None) -> Array:
    if values is None:
        return np.full(estimated.shape, ERROR_FILL)
    return np.where(estimated & np.isfinite(values), values, ERROR_FILL).astype(np.float32)
