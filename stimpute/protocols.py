"""The protocols at both ends of the corridor (`Source`, `Sink`) and in its middle (`Method`, `Imputer`).

A *layer* is one (time, y, x) stack inside a source: a variable, at one index of its extra dimensions
(level, member) if it has any. Windows are half-open integer ranges in a layer's own (time, y, x); time is
sorted ascending in windows whatever the order in the file, y and x keep the file's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from stimpute.estimate import Estimate
from stimpute.grid import Grid
from stimpute.stack import Stack

OBSERVED, FILLED, REFUSED, OUTSIDE_DOMAIN = 0, 1, 2, 3
FLAG_MEANINGS = ("observed", "filled", "refused", "outside_domain")


@dataclass(frozen=True)
class Window:
    """Half-open index ranges (start, stop) over the time, y and x of a layer."""

    time: tuple[int, int]
    y: tuple[int, int]
    x: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(time, y, x) lengths."""
        return self.time[1] - self.time[0], self.y[1] - self.y[0], self.x[1] - self.x[0]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The same ranges as slices."""
        return slice(*self.time), slice(*self.y), slice(*self.x)

    def within(self, outer: Window) -> tuple[slice, slice, slice]:
        """Slices of this window within the array of an outer one.

        >>> Window((2, 4), (0, 1), (5, 9)).within(Window((1, 6), (0, 3), (5, 10)))
        (slice(1, 3, None), slice(0, 1, None), slice(0, 4, None))
        """
        pairs = zip((self.time, self.y, self.x), (outer.time, outer.y, outer.x), strict=True)
        t, y, x = (slice(start - origin, stop - origin) for (start, stop), (origin, _) in pairs)
        return t, y, x

    def common(self, other: Window) -> Window:
        """What both cover; a length below 1 where they do not meet."""
        pairs = zip((self.time, self.y, self.x), (other.time, other.y, other.x), strict=True)
        t, y, x = ((max(a[0], b[0]), min(a[1], b[1])) for a, b in pairs)
        return Window(t, y, x)

    @classmethod
    def whole(cls, shape: tuple[int, int, int]) -> Window:
        """Everything."""
        return cls((0, shape[0]), (0, shape[1]), (0, shape[2]))


@dataclass(frozen=True)
class Layer:
    """One (time, y, x) stack of a source, described without reading it."""

    name: str  # "sst", or "u[level=850]" where there are extra dimensions
    variable: str
    index: Mapping[str, int]  # extra dimension -> index; empty if there are none
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]  # as stored
    units: str = ""
    long_name: str = ""
    standard_name: str = ""
    valid_range: tuple[float | None, float | None] = (None, None)  # decoded units, as declared in the file


@runtime_checkable
class Source(Protocol):
    """A stack of any size that can be read window by window. Closing is a context manager's work."""

    paths: tuple[Path | str, ...]
    format: str  # "NetCDF", "Zarr", "GeoTIFF", "memory"
    layers: tuple[Layer, ...]
    grid: Grid
    times: npt.NDArray[np.float64]  # days since the first step, sorted, of all layers
    time_labels: tuple[str, ...]  # ISO 8601, sorted, in the file's own calendar
    calendar: str
    year_phase: npt.NDArray[np.float64]
    day_phase: npt.NDArray[np.float64]

    def read(self, window: Window, layer: int = 0) -> Stack:
        """One window, decoded, with the covariates that were attached when the source was opened."""
        ...

    def close(self) -> None:
        """Release files."""
        ...

    def __enter__(self) -> Source: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True, eq=False)
class Filled:
    """What the engine hands to a sink for one window; arrays (time, y, x) in time-sorted order.

    ``values`` are in decoded units; a sink uses them only where ``flag`` is FILLED. Where it is OBSERVED the sink
    copies the stored number from the source; elsewhere it writes the file's own nodata.
    """

    values: npt.NDArray[np.float32]
    flag: npt.NDArray[np.uint8]
    standard_error: npt.NDArray[np.float32] | None = None
    quantiles: Mapping[float, npt.NDArray[np.float32]] = field(default_factory=dict)
    members: npt.NDArray[np.float32] | None = None  # (member, time, y, x)


@runtime_checkable
class Sink(Protocol):
    """Writes windows into temporary files beside the target and gives them their final name on ``commit``.

    As a context manager: leaving it without ``commit`` removes everything that was written.
    """

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window (any order, each cell once)."""
        ...

    def commit(self, history: str) -> tuple[Path | str, ...]:
        """Flush, record ``history``, rename; returns the files (or the address) that now exist."""
        ...

    def abort(self) -> None:
        """Remove what was written."""
        ...

    def __enter__(self) -> Sink: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class Imputer(Protocol):
    """A prepared method: everything that belongs to the whole stack is frozen in it."""

    def impute(self, stack: Stack) -> Estimate:
        """Mean (and scale) for every cell of a stack. Deterministic."""
        ...


@runtime_checkable
class Method(Protocol):
    """A way of filling gaps."""

    name: str
    sees_whole: bool  # better on the whole stack than on tiles (EOFs, DCT); gets it where memory allows

    def prepare(self, overview: Stack) -> Imputer:
        """Freeze what needs to see the whole stack. ``overview`` is the stack at bounded size (coarsened)."""
        ...


@runtime_checkable
class Forecaster(Protocol):
    """A way of saying what comes next."""

    name: str

    def forecast(
        self, past: Stack, steps: int, slots: npt.NDArray[np.int64] | None = None, step: float | None = None
    ) -> Estimate:
        """Mean and scale of the next ``steps`` steps, (steps, y, x); NaN where a cell was never observed. Deterministic.

        ``slots`` are the places of the past steps in a regular series that ends at 0, ``step`` days apart; None: by distance.
        """
        ...


@dataclass(frozen=True)
class Refining:
    """How a stack is to be completed and refined.

    Parameters
    ----------
    factor : fine cells per coarse cell and axis.
    samples : members of the ensemble.
    conserve : block means of every member are the coarse observation, where there is one.
    bounds : (low, high) that every fine value lies in; None leaves a side open.
    seed : of the ensemble.
    origin : step, row, column of the coarse stack's first cell in its layer: pieces that overlap share their noise.
    columns : coarse ones of a layer whose last column is the first one's neighbour; ``origin`` may lie before the first one.
    """

    factor: int
    samples: int = 8
    conserve: bool = True
    bounds: tuple[float | None, float | None] = (None, None)
    seed: int = 0
    origin: tuple[int, int, int] = (0, 0, 0)
    columns: int | None = None


@runtime_checkable
class Refiner(Protocol):
    """A way of completing a coarse stack and refining it."""

    name: str

    def bytes_per_cell(self, wanted: Refining, steps: int) -> int:
        """What it takes at its peak, per coarse cell-step of a stack of that many steps."""
        ...

    def refine(self, coarse: Stack, fine: Stack, wanted: Refining) -> Estimate:
        """Every cell of ``fine``'s grid, ``wanted.factor`` times finer than ``coarse``'s; ``fine`` brings covariates, no values."""
        ...


__all__: Sequence[str] = [
    "FILLED", "FLAG_MEANINGS", "OBSERVED", "OUTSIDE_DOMAIN", "REFUSED", "Filled", "Forecaster", "Imputer", "Layer", "Method",
    "Refiner", "Refining", "Sink", "Source", "Window",
]  # fmt: skip
