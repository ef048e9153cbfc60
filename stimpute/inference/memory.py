"""A stack in memory as a `Source`, and arrays as a `Sink`: what `evaluate` and the tests run the engine on. Knows no files."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from stimpute.protocols import REFUSED, Filled, Layer, Sink, Source, Window
from stimpute.stack import BoolArray, Float32Array, Stack

Read = Callable[[Window], Stack]


class StackSource:
    """A :class:`Stack` seen as a source with one layer."""

    format = "memory"
    paths: tuple[Path | str, ...] = ()
    calendar = "standard"

    def __init__(
        self, stack: Stack, name: str = "stack", domain: BoolArray | None = None, units: str = ""
    ) -> None:
        self._stack = stack
        self.layers: tuple[Layer, ...] = (Layer(name, name, {}, stack.shape, np.dtype(np.float32), units),)
        self.grid = stack.grid
        self.times, self.year_phase, self.day_phase = stack.times, stack.year_phase, stack.day_phase
        self.time_labels = tuple(f"{day:g}" for day in stack.times)
        self.domain = domain

    def read(self, window: Window, layer: int = 0) -> Stack:
        """One window (views, no copy)."""
        return self._stack.window(*window.slices)

    def close(self) -> None:
        """Nothing to release."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ArraySink:
    """Keeps what the engine writes: ``values`` (NaN where nothing was filled or observed), ``flag``, ``standard_error``."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.values: Float32Array = np.full(shape, np.nan, dtype=np.float32)
        self.standard_error: Float32Array = np.full(shape, np.nan, dtype=np.float32)
        self.flag = np.full(shape, REFUSED, dtype=np.uint8)
        self.history: str | None = None

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window."""
        self.values[window.slices] = filled.values
        self.flag[window.slices] = filled.flag
        if filled.standard_error is not None:
            self.standard_error[window.slices] = filled.standard_error

    def commit(self, history: str) -> tuple[Path, ...]:
        """Remember the history; there are no files."""
        self.history = history
        return ()

    def abort(self) -> None:
        """Nothing to remove."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


class BandReader:
    """Reads tiles out of one wide piece of their row of tiles, where several fit into memory at once.

    A chunk of a file that is as wide as the map is then decoded once for a row of tiles, not once for each of them. The first
    tile of a row is read alone: a tile here and there costs no more than itself.

    Parameters
    ----------
    read : windows of the source.
    columns : of the grid that ``read`` knows.
    cells : most cell-steps to hold.
    """

    def __init__(self, read: Read, columns: int, cells: int) -> None:
        self._read, self._columns, self._cells = read, columns, cells
        self._held: tuple[Window, Stack] | None = None
        self._rows: tuple[tuple[int, int], tuple[int, int]] | None = None

    def __call__(self, window: Window) -> Stack:
        """One window."""
        rows, (start, stop) = (window.time, window.y), window.x
        again, self._rows = rows == self._rows, rows
        if self._held is not None:
            place, band = self._held
            if (place.time, place.y) == rows and place.x[0] <= start and stop <= place.x[1]:
                return band.window(slice(None), slice(None), slice(start - place.x[0], stop - place.x[0]))
            self._held = None
        width = self._cells // (window.shape[0] * window.shape[1])
        if not again or width < 2 * (stop - start):
            return self._read(window)
        place = Window(*rows, (start, min(start + width, self._columns)))
        self._held = place, self._read(place)
        return self(window)


def wrapped(read: Read, columns: int, halo: int) -> Read:
    """Windows of a grid whose last column is the first one's neighbour, extended by ``halo`` columns on either side.

    Column 0 of the extended grid is column ``-halo`` of the real one, so that tiles of the extended grid see across
    the 180/360 degree line.
    """

    def extended(window: Window) -> Stack:
        start, stop = window.x[0] - halo, window.x[1] - halo
        parts = []
        while start < stop:
            column = start % columns
            width = min(stop - start, columns - column)
            parts.append(read(Window(window.time, window.y, (column, column + width))))
            start += width
        return _side_by_side(parts)

    return extended


def _side_by_side(parts: list[Stack]) -> Stack:
    first = parts[0]
    if len(parts) == 1:
        return first
    grid = first.grid
    x, shift = [grid.x], 0.0
    for before, part in pairwise(parts):
        shift += 360.0 * (1 if part.grid.x[..., 0].mean() < before.grid.x[..., -1].mean() else 0)
        x.append(part.grid.x + shift)
    columns = sum(part.shape[2] for part in parts)
    y = np.concatenate([p.grid.y for p in parts], axis=-1) if grid.kind == "curvilinear" else grid.y
    return Stack(
        values=np.concatenate([p.values for p in parts], axis=2),
        valid=np.concatenate([p.valid for p in parts], axis=2),
        times=first.times,
        grid=type(grid)(
            grid.kind,
            (grid.shape[0], columns),
            np.concatenate(x, axis=-1),
            y,
            grid.units,
            grid.km_per_unit,
            grid.crs_wkt,
        ),
        year_phase=first.year_phase,
        day_phase=first.day_phase,
        dynamic={k: np.concatenate([p.dynamic[k] for p in parts], axis=2) for k in first.dynamic},
        static={k: np.concatenate([p.static[k] for p in parts], axis=1) for k in first.static},
    )


class RecordingSink:
    """Passes everything on to another sink and keeps one layer of it, thinned in space, for a picture."""

    def __init__(self, sink: Sink, source: Source, layer: int = 0, cells: int = 2**23) -> None:
        t, ny, nx = source.layers[layer].shape
        self._sink, self._source, self._layer = sink, source, layer
        self.every = max(1, math.ceil(math.sqrt(t * ny * nx / cells)))
        self.grid = source.grid.window(slice(None, None, self.every), slice(None, None, self.every))
        shape = (t, *self.grid.shape)
        self.before: Float32Array = np.full(shape, np.nan, dtype=np.float32)
        self.after: Float32Array = np.full(shape, np.nan, dtype=np.float32)
        self.standard_error: Float32Array = np.full(shape, np.nan, dtype=np.float32)
        self.flag = np.full(shape, REFUSED, dtype=np.uint8)

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """Keep every n-th cell, and pass the window on."""
        if layer == self._layer:
            self._keep(window, filled)
        self._sink.write(window, filled, layer)

    def _keep(self, window: Window, filled: Filled) -> None:
        n = self.every
        rows, cols = (np.arange(start + -start % n, stop, n) for start, stop in (window.y, window.x))
        if not (len(rows) and len(cols)):
            return
        inside = np.ix_(np.arange(window.shape[0]), rows - window.y[0], cols - window.x[0])
        kept = np.ix_(np.arange(*window.time), rows // n, cols // n)
        stack = self._source.read(window, self._layer)
        self.before[kept] = stack.with_nan()[inside]
        self.after[kept] = np.where(stack.valid, stack.values, filled.values)[inside]
        self.flag[kept] = filled.flag[inside]
        if filled.standard_error is not None:
            self.standard_error[kept] = filled.standard_error[inside]

    def chunk(self, layer: int) -> tuple[int, int, int]:
        """(time, y, x) that the other sink best writes at once."""
        preferred = getattr(self._sink, "chunk", None)
        t, y, x = (1, 1, self._source.layers[layer].shape[2]) if preferred is None else preferred(layer)
        return int(t), int(y), int(x)

    def commit(self, history: str) -> tuple[Path | str, ...]:
        """Commit the other sink."""
        return self._sink.commit(history)

    def abort(self) -> None:
        """Abort the other sink."""
        self._sink.abort()

    def __enter__(self) -> Self:
        self._sink.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sink.__exit__(*exc)
