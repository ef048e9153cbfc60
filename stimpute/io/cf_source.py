"""The `Source` of NetCDF, Zarr and xarray inputs: one stack out of one or several raw files, read window by window."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.grid import Grid
from stimpute.io.cf import NO_ROWS, Axes, axes_of, choose, positions
from stimpute.io.cf_dates import time_axes
from stimpute.io.cf_grid import build_grid, grid_difference, station_grid
from stimpute.io.cf_select import Selection, select
from stimpute.io.cf_steps import Steps, arrange
from stimpute.io.cf_time import short_labels
from stimpute.io.covariates import Covariate
from stimpute.io.options import ReadOptions
from stimpute.io.packing import Packing, equals, nodata_candidates, shared_packing, unused_number
from stimpute.io.packing_attributes import packing_of
from stimpute.io.raw import Array, RawFile, RawVariable
from stimpute.io.units import units_as_powers
from stimpute.protocols import FILLED, FLAG_MEANINGS, Layer, Window
from stimpute.stack import Stack

_BLOCK_CELLS = 1 << 22


@dataclass(frozen=True)
class Block:
    """Steps of a window that lie in one file: their places in the window and in the file."""

    at: slice
    file: int
    indices: tuple[int, ...]


class CFSource:
    """A stack stored by the CF conventions.

    Attributes (beyond the protocol's)
    ----------
    files : the raw files, in the order given.
    axes : dimensions of each chosen variable, per file.
    steps, selection : what of the files is kept, in which order.
    packings : of each chosen variable, per file; ``shared``: the one its numbers are given in.
    domain : bool (y, x) or None, True inside the domain to fill.
    alterations : what the user asked to change in observed cells, for the history.
    warnings : texts of the warnings given while opening.
    notes : what is worth a line in a log, though nothing is wrong.
    observed_only : what an earlier run filled is read as a gap.
    outliers : how many observations are read as gaps (``--qc``).
    step_names : file names, one for each step, where the steps belong into files of their own; else empty.
    """

    def __init__(self, files: Sequence[RawFile], options: ReadOptions) -> None:
        self.files = tuple(files)
        first = self.files[0]
        self.options = options
        self.paths: tuple[Path | str, ...] = tuple(f.path for f in files)
        self.besides: tuple[str, ...] = ()
        self.format = first.format
        self.domain: npt.NDArray[np.bool_] | None = None
        self.covariates: tuple[Covariate, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.observed_only = False
        self.outliers = 0
        self.step_names: tuple[str, ...] = ()
        self._told: set[str] = set()
        self._unused: dict[str, int] = {}
        self._lock = threading.Lock()
        chosen = choose(first, options.variables, force=options.force, beside=options.beside)
        self.variables = self._on_same_dimensions(tuple(v.name for v in chosen))
        self.axes = tuple({v: _axes(f, _variable(f, v, first)) for v in self.variables} for f in self.files)
        lead = self.variables[0]
        axes = self.axes[0][lead]
        whole = _grid(first, first.variables[lead], axes, options.wrap)
        self._refuse_different_grids(whole)
        self.selection: Selection = select(whole, options.bbox, options.bbox_crs, label=str(first.path))
        self.grid: Grid = self.selection.grid
        axes_in_time = time_axes(self.files, [a[lead] for a in self.axes], lead, options)
        self._all_stamps = tuple(axis.stamps for axis in axes_in_time)
        self.steps: Steps = arrange(
            axes_in_time,
            [str(f.path) for f in self.files],
            time=options.time,
            dedupe=options.dedupe,
            regular=options.regular,
        )
        self.times = self.steps.days - self.steps.days[0]
        self.time_labels = short_labels(self.steps.stamps)
        self.calendar = self.steps.calendar
        self.year_phase, self.day_phase = self.steps.year_phase, self.steps.day_phase
        self.packings = tuple({v: self._packing(f, v) for v in self.variables} for f in self.files)
        self.shared = {v: shared_packing([p[v] for p in self.packings]) for v in self.variables}
        self._refuse_different_units()
        self.layers = tuple(layer for v in self.variables for layer in self._layers(v))
        self.alterations = self.steps.altered + self._repackings()
        self.notes = tuple(self._missing_chunks())

    # -- reading ------------------------------------------------------------------------------------------------

    def read(self, window: Window, layer: int = 0) -> Stack:
        """One window, decoded; gaps hold 0. Reads no more than the window."""
        values = np.zeros(window.shape, dtype=np.float32)
        valid = np.zeros(window.shape, dtype=bool)
        name = self.layers[layer].variable
        for block in self._blocks(window):
            stored = self._stored(block, window, layer)
            packing = self.packings[block.file][name]
            self._tell(stored, packing, block.file, name)
            packing.refuse_beyond(stored, f"{self.paths[block.file]}: {name}")
            values[block.at], valid[block.at] = packing.decode(stored)
        for at, places in self._averaged(window):
            values[at], valid[at] = self._mean(places, window, layer)
        before = self.filled_before(window, layer) if self.observed_only else None
        if before is not None:
            valid &= ~before
            values[before] = 0
        time, y, x = window.slices
        return Stack(
            values=values,
            valid=valid,
            times=self.times[time],
            grid=self.grid.window(y, x),
            year_phase=self.year_phase[time],
            day_phase=self.day_phase[time],
            dynamic={c.name: c.read(window) for c in self.covariates if c.dynamic},
            static={c.name: c.read(window)[0] for c in self.covariates if not c.dynamic},
        )

    def read_stored(self, window: Window, layer: int = 0, gap: float | int | None = None) -> Array:
        """The stored numbers of a window, as ``packing`` says they are to be understood.

        ``gap``: of cells that no file holds, or as a gap in another packing; by default :meth:`fill_number`.
        """
        name = self.layers[layer].variable
        packing = self.packing(layer)
        out = np.empty(window.shape, dtype=packing.stored_dtype)
        if self.needs_fill:
            gap = self.fill_number(layer) if gap is None else gap
            out[...] = packing.as_stored(gap)
        for block in self._blocks(window):
            stored = self._stored(block, window, layer)
            theirs = self.packings[block.file][name]
            out[block.at] = stored if theirs.same_as(packing) else self._repacked(stored, theirs, layer, gap)
        for at, places in self._averaged(window):
            values, valid = self._mean(places, window, layer)
            out[at][valid] = packing.encode(values[valid], name)
        return out

    def read64(self, window: Window, layer: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """A window in double precision, each file by its own packing; gaps hold 0."""
        values, valid = np.zeros(window.shape), np.zeros(window.shape, dtype=bool)
        name = self.layers[layer].variable
        for block in self._blocks(window):
            values[block.at], valid[block.at] = self.packings[block.file][name].decode64(
                self._stored(block, window, layer)
            )
        for at, places in self._averaged(window):
            values[at], valid[at] = self._mean(places, window, layer)
        return values, valid

    def filled_before(self, window: Window, layer: int = 0) -> npt.NDArray[np.bool_] | None:
        """Which cells of a window an earlier run filled, by the flag it left; None where there is none."""
        name = f"{self.layers[layer].variable}_fill_flag"
        numbers = self.beside(name, window, layer) if self.is_fill_flag(name) else None
        return None if numbers is None else numbers == FILLED

    def is_fill_flag(self, name: str) -> bool:
        """Whether the input has a flag of that name, as ``fill`` writes it beside a variable."""
        flags = [f.variables[name] for f in self.files if name in f.variables]
        return bool(flags) and all(f.text("flag_meanings") == " ".join(FLAG_MEANINGS) for f in flags)

    def beside(self, name: str, window: Window, layer: int = 0) -> Array | None:
        """Stored numbers of another variable on the dimensions of a layer, 0 where no file holds them; None if it lies on others."""
        owner = self.layers[layer].variable
        there = [
            f.variables[name].dims == f.variables[owner].dims if name in f.variables else None
            for f in self.files
        ]
        if False in there or True not in there:
            return None
        out = np.zeros(window.shape, dtype=self.files[there.index(True)].variables[name].dtype)
        for block in self._blocks(window):
            if there[block.file]:
                out[block.at] = self._stored(block, window, layer, name)
        return out

    def packing(self, layer: int = 0) -> Packing:
        """How the stored numbers of a layer are to be understood: as in the file, or as all files can be."""
        return self.shared[self.layers[layer].variable]

    def fill_number(self, layer: int = 0) -> float | int:
        """The stored number of a gap: the one declared, or one that no observation holds (reads all of them once).

        Raises
        ------
        OutputError : nothing is declared, and observations hold every number that could mean it.
        """
        packing = self.packing(layer)
        if packing.fill is not None:
            return packing.fill
        if packing.dtype.kind == "f":
            return float("nan")
        if packing.undeclared_fill is not None:
            return int(packing.undeclared_fill)
        name = self.layers[layer].variable
        if name not in self._unused:
            self._unused[name] = self._unused_number(name)
        return self._unused[name]

    def _unused_number(self, name: str) -> int:
        number = unused_number(nodata_candidates(self.shared[name].dtype), self._held(name))
        if number is None:
            raise OutputError(
                f"{self.paths[0]}: {name} declares no nodata, and its observations hold every number of {self.shared[name].dtype} "
                "that could mark a gap; choose a wider type with --dtype (e.g. --dtype float32), or say with --nodata which number is no observation"
            )
        return number

    def _held(self, name: str) -> Iterator[Array]:
        for number, layer in enumerate(self.layers):
            steps, ny, nx = layer.shape
            together = max(1, _BLOCK_CELLS // max(1, ny * nx))
            for start in range(0, steps if layer.variable == name else 0, together):
                window = Window((start, min(start + together, steps)), (0, ny), (0, nx))
                yield self.observed_numbers(window, number)

    def observed_numbers(self, window: Window, layer: int = 0) -> Array:
        """What the observations of a window hold, 1-D; for whole numbers, which all files store alike (``shared_packing``)."""
        name, packing = self.layers[layer].variable, self.packing(layer)
        found = [np.empty(0, dtype=packing.dtype)]
        for block in self._blocks(window):
            stored, theirs = self._stored(block, window, layer), self.packings[block.file][name]
            found.append(theirs.as_read(stored)[theirs.observed(stored)])
        for _, places in self._averaged(window):
            values, valid = self._mean(places, window, layer)
            found.append(packing.as_read(packing.encode(values[valid], name)))
        return np.concatenate(found)

    @property
    def needs_fill(self) -> bool:
        """Whether the output may hold gaps that no input holds (inserted or merged steps, outliers, another file's packing)."""
        return self.outliers > 0 or self._joined

    @cached_property
    def _joined(self) -> bool:
        """Whether steps are inserted or merged, or files packed anew."""
        return any(len(p) != 1 for p in self.steps.places) or bool(self._repackings())

    @property
    def untouched(self) -> bool:
        """One file, every cell and step of it: the output has the input's dimensions."""
        axes = self.axes[0][self.variables[0]]
        first = self.files[0]
        whole = (
            self.selection.rows.size == first.dims.get(axes.y, 1)
            and self.selection.cols.size == first.dims[axes.x]
        )
        steps = axes.time is None or sorted(self.steps.places) == [
            ((0, i),) for i in range(first.dims[axes.time])
        ]
        return len(self.files) == 1 and whole and steps and not self.selection.rolled

    def part(self, number: int) -> CFSource:
        """The steps of one file alone, in its own packing; it shares the file with this source."""
        options = replace(self.options, variables=self.variables, times=self._labels_of(number))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StimputeWarning)
            alone = CFSource([self.files[number]], options)
        alone.outliers = self.outliers
        return alone

    def _labels_of(self, number: int) -> tuple[str, ...] | None:
        """The labels of a file's steps where they were given or found in file names; None where the file has its own."""
        axes = self.axes[number][self.variables[0]]
        if self.options.times is None and (len(self.files) == 1 or axes.time is not None):
            return None
        return self._all_stamps[number]

    def close(self) -> None:
        """Release the files."""
        for file in self.files:
            file.close()
        for covariate in self.covariates:
            covariate.close()

    def __enter__(self) -> CFSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _blocks(self, window: Window) -> Iterator[Block]:
        """Steps with one place each, grouped by file."""
        start, stop = window.time
        at = start
        while at < stop:
            places = self.steps.places[at]
            end = at + 1
            if len(places) == 1:
                file = places[0][0]
                while (
                    end < stop and len(self.steps.places[end]) == 1 and self.steps.places[end][0][0] == file
                ):
                    end += 1
                indices = tuple(self.steps.places[i][0][1] for i in range(at, end))
                yield Block(slice(at - start, end - start), file, indices)
            at = end

    def _averaged(self, window: Window) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
        for at in range(*window.time):
            if len(self.steps.places[at]) > 1:
                yield at - window.time[0], self.steps.places[at]

    def _stored(self, block: Block, window: Window, layer: int, name: str | None = None) -> Array:
        """(time, y, x) of one file, stored numbers; of a variable beside the layer's, if ``name`` says so."""
        described = self.layers[layer]
        axes = self.axes[block.file][described.variable]
        variable = self.files[block.file].variables[name or described.variable]
        at = {axes.y: self.selection.rows[slice(*window.y)], axes.x: self.selection.cols[slice(*window.x)]}
        at |= {dim: np.array([described.index[_short(dim)]]) for dim in axes.extra}
        if axes.time is not None:
            at[axes.time] = np.array(block.indices)
        data = variable.read_at(at)
        kept = [d for d in (*axes.extra, axes.time, axes.y, axes.x) if d in variable.dims]
        order = [variable.dims.index(d) for d in kept]
        return np.ascontiguousarray(data.transpose(order)).reshape(len(block.indices), *window.shape[1:])

    def _mean(self, places: Sequence[tuple[int, int]], window: Window, layer: int) -> tuple[Array, Array]:
        """Mean of the observed values of several steps (``--dedupe mean``)."""
        name = self.layers[layer].variable
        total, count = np.zeros(window.shape[1:]), np.zeros(window.shape[1:], dtype=int)
        for file, index in places:
            stored = self._stored(Block(slice(0, 1), file, (index,)), window, layer)[0]
            values, valid = self.packings[file][name].decode64(stored)
            total, count = total + values, count + valid
        mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        return mean, count > 0

    def _repacked(self, stored: Array, theirs: Packing, layer: int, gap: float | int | None) -> Array:
        values, valid = theirs.decode64(stored)
        packing = self.packing(layer)
        out = np.full(stored.shape, packing.as_stored(self.fill_number(layer) if gap is None else gap))
        out[valid] = packing.recode(values[valid], self.layers[layer].name, theirs.dtype)
        return out

    def _tell(self, stored: Array, packing: Packing, file: int, name: str) -> None:
        """Warn once of values that are masked though nothing declares them."""
        found = []
        if stored.dtype.kind == "f" and np.isinf(stored).any():
            found.append("infinite values are treated as gaps")
        if (
            packing.undeclared_fill is not None
            and equals(packing.as_read(stored), packing.undeclared_fill).any()
        ):
            found.append(f"undeclared default fill {packing.undeclared_fill:g} is treated as a gap")
        for text in found:
            with self._lock:
                message = f"{self.paths[file]}: {name}: {text}"
                if message not in self._told:
                    self._told.add(message)
                    warnings.warn(message, StimputeWarning, stacklevel=3)

    # -- opening ------------------------------------------------------------------------------------------------

    def _on_same_dimensions(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The variables that share the first one's dimensions; others are refused, or left out of ``--var all``."""
        first, kept = self.files[0], []
        lead = _axes(first, first.variables[names[0]])
        for name in names:
            axes = _axes(first, first.variables[name])
            if (axes.time, axes.y, axes.x) == (lead.time, lead.y, lead.x):
                kept.append(name)
                continue
            told = (
                f"{first.path}: {names[0]} and {name} lie on different dimensions ({lead.time}, {lead.y}, {lead.x} and "
                f"{axes.time}, {axes.y}, {axes.x})"
            )
            if self.options.variables != ("all",):
                raise InputError(f"{told}; fill them one by one with --var")
            warnings.warn(f"{told}; {name} is left out", StimputeWarning, stacklevel=2)
        return tuple(kept)

    def _refuse_different_grids(self, grid: Grid) -> None:
        lead = self.variables[0]
        for number, file in enumerate(self.files[1:], start=1):
            axes = self.axes[number][lead]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StimputeWarning)
                other = _grid(file, file.variables[lead], axes, self.options.wrap)
            difference = grid_difference(grid, other)
            if difference:
                raise InputError(
                    f"{self.paths[0]} and {file.path} lie on different grids ({difference}): they cannot be one stack"
                )

    def _refuse_different_units(self) -> None:
        """Files that say they hold the same variable in different units, unless the user knows better."""
        for name in self.variables:
            said = [(f.path, f.variables[name].text("units")) for f in self.files]
            stated = [(path, units) for path, units in said if units]
            for path, units in stated[1:]:
                if units_as_powers(units) != units_as_powers(stated[0][1]) and not self.options.force:
                    raise InputError(
                        f"{stated[0][0]} has {name} in {stated[0][1]}, {path} in {units}: bring them to one unit first, or say "
                        "--force if it is one"
                    )

    def _packing(self, file: RawFile, name: str) -> Packing:
        variable = file.variables[name]
        return packing_of(
            variable.attrs,
            variable.dtype,
            label=f"{file.path}: {name}",
            nodata=self.options.nodata,
            netcdf=file.format == "NetCDF",
        )

    def _missing_chunks(self) -> Iterator[str]:
        """Chunks of Zarr arrays that were never written and read as the fill value."""
        if self.format != "Zarr":
            return
        from stimpute.io.zarr_store import missing_chunks

        for file in self.files:
            for name in self.variables:
                count = missing_chunks(file.native[name])
                if count:
                    note = f"{file.path}: {name}: {count} of {file.native[name].nchunks} chunks are absent"
                    logging.getLogger(__name__).info(note)
                    yield note

    def _repackings(self) -> tuple[str, ...]:
        """What was done to stored numbers of files that differ in how they pack them."""
        told = []
        for name, shared in self.shared.items():
            if not shared.same_as(self.packings[0][name]):
                told.append(f"{name}: files of different packing decoded to {shared.dtype}")
                continue
            others = (i for i, p in enumerate(self.packings) if not p[name].same_as(shared))
            told += [
                f"{name} of {Path(self.paths[i]).name} repacked like {Path(self.paths[0]).name}"
                for i in others
            ]
        return tuple(told)

    def _layers(self, name: str) -> Iterator[Layer]:
        first, axes = self.files[0], self.axes[0][name]
        variable, packing = first.variables[name], self.packings[0][name]
        shape = (len(self.steps.days), *self.grid.shape)
        for place in product(*(range(first.dims[d]) for d in axes.extra)):
            index = dict(zip((_short(d) for d in axes.extra), place))
            yield Layer(
                name=name + self._suffix(axes, index),
                variable=name,
                index=index,
                shape=shape,
                dtype=self.shared[name].stored_dtype,
                units=variable.text("units"),
                long_name=variable.text("long_name"),
                standard_name=variable.text("standard_name"),
                valid_range=packing.decoded_limits,
            )

    def _suffix(self, axes: Axes, index: Mapping[str, int]) -> str:
        """``[level=850]``; nothing for dimensions of length one."""
        first, parts = self.files[0], []
        for dim in axes.extra:
            if first.dims[dim] > 1:
                coordinate = first.coordinate(dim)
                value: Any = index[_short(dim)]
                if coordinate is not None and coordinate.dtype.kind in "iuf":
                    value = f"{coordinate.read()[value]:g}"
                parts.append(f"{_short(dim)}={value}")
        return f"[{','.join(parts)}]" if parts else ""


def _short(dim: str) -> str:
    return dim.rpartition("/")[2]


def _variable(file: RawFile, name: str, first: RawFile) -> RawVariable:
    if name not in file.variables:
        raise InputError(f"{file.path}: no variable {name}, which {first.path} has: they cannot be one stack")
    return file.variables[name]


def _grid(file: RawFile, variable: RawVariable, axes: Axes, wrap: bool) -> Grid:
    if axes.y == NO_ROWS:
        return station_grid(file, variable, axes.x, positions(file, variable, axes.x))
    return build_grid(file, variable, axes.y, axes.x, wrap=wrap)


def _axes(file: RawFile, variable: RawVariable) -> Axes:
    axes = axes_of(file, variable)
    if axes is None:
        raise InputError(f"{file.path}: {variable.name} has no two horizontal dimensions")
    return axes
