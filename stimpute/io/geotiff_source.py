"""Dated raster files as one stack, read window by window. Knows bands, steps and grids; writes nothing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeWarning
from stimpute.io.cf_select import Selection, select
from stimpute.io.cf_steps import Steps, arrange
from stimpute.io.cf_time import short_labels
from stimpute.io.covariates import Covariate
from stimpute.io.dates import DateReading
from stimpute.io.geotiff_bands import HISTORY_TAG, Band, Files, Header, read_header, suspected_fill
from stimpute.io.geotiff_dates import date_files, refuse_shared_dates
from stimpute.io.geotiff_grid import check_same_grid, grid_of, moved
from stimpute.io.geotiff_layout import FileLayout, layouts
from stimpute.io.geotiff_siblings import flag_beside
from stimpute.io.options import ReadOptions, SinkOptions
from stimpute.io.packing import Packing
from stimpute.io.raw import stretches
from stimpute.protocols import FILLED, Layer, Window
from stimpute.stack import Stack

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
Range = tuple[int, int]

_SAMPLED_STEPS, _SAMPLED_ROWS = 12, 64
_READ_AT_ONCE = 512
_FILLED = re.compile(r"\bstimpute[ .]fill\b")
_TAKEN = (
    "time",
    "x",
    "y",
    "lat",
    "lon",
    "xc",
    "yc",
    "lat_2d",
    "lon_2d",
    "xc_2d",
    "yc_2d",
    "spatial_ref",
)  # by CF coordinates
_UNEVEN = 50.0  # ratio of magnitudes between files that makes us ask about units


@dataclass(frozen=True, eq=False)
class Step:
    """Where one step of the stack is stored: one band; several that are averaged; none for an inserted gap."""

    bands: tuple[Band, ...]
    files: tuple[int, ...]  # index of each band's file among the headers

    @property
    def band(self) -> Band | None:
        """The band that lends the step its type, packing and nodata."""
        return self.bands[0] if self.bands else None


class GeoTiffSource:
    """A stack of bands that share one grid. See :class:`stimpute.protocols.Source`.

    Attributes
    ----------
    headers : of the files, in the order they were given.
    steps : in ascending time; ``position`` is the place of each in the file's own order.
    selection : the part of the files' grid that is the stack.
    reading : how the dates in names were read, or None.
    alterations : what the user asked to change beyond the gaps, for the history.
    domain : bool (y, x) or None, True inside the domain to fill.
    observed_only : what an earlier run filled is read as a gap.
    outliers : how many observations are read as gaps (``--qc``).
    covariates : further variables on the stack's grid.
    besides : paths of what is read besides ``paths``: covariates, the domain.
    """

    format = "GeoTIFF"

    def __init__(
        self,
        headers: Sequence[Header],
        arranged: Steps,
        selection: Selection,
        options: ReadOptions,
        *,
        reading: DateReading | None = None,
    ) -> None:
        self.options = options
        self.headers = tuple(headers)
        self.selection, self.reading = selection, reading
        self._columns = tuple((run.start, run.stop) for run, _ in stretches(selection.cols))
        self.paths: tuple[Path | str, ...] = tuple(_as_path(h.path) for h in headers)
        self.besides: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.covariates: tuple[Covariate, ...] = ()
        self.domain: BoolArray | None = None
        self.observed_only = False
        self.outliers = 0
        self.steps = tuple(
            Step(tuple(headers[f].bands[i] for f, i in places), tuple(f for f, _ in places))
            for places in arranged.places
        )
        self.position = arranged.position
        self.alterations = arranged.altered
        self.grid = selection.grid
        self.times = arranged.days - arranged.days[0]
        self.time_labels = short_labels(arranged.stamps)
        self.calendar = arranged.calendar
        self.year_phase, self.day_phase = arranged.year_phase, arranged.day_phase
        self.layers: tuple[Layer, ...] = (self._layer(),)
        self._files = Files()
        self._saw_infinity = False

    @property
    def transform(self) -> Any:
        """The affine transform of the stack's own upper left corner."""
        return moved(self.headers[0].transform, int(self.selection.rows[0]), int(self.selection.cols[0]))

    def read_stored(self, window: Window, layer: int = 0) -> Array:
        """Stored numbers (time, y, x) of a window, in the layer's dtype (wide enough for every file's).

        Raises
        ------
        InputError : a file cannot be read there.
        """
        return self.read_marked(window)[0]

    def read_marked(self, window: Window) -> tuple[Array, BoolArray]:
        """Stored numbers as :meth:`read_stored` gives them, and where they are gaps."""
        out, gap = np.empty(window.shape, dtype=self.layers[0].dtype), np.empty(window.shape, dtype=bool)
        for k, (stored, missing) in enumerate(self._steps(window)):
            out[k], gap[k] = stored, missing
        return out, gap

    def read(self, window: Window, layer: int = 0) -> Stack:
        """Decoded values, validity, times and covariates of a window.

        Raises
        ------
        InputError : a file cannot be read there.
        """
        values, valid = np.zeros(window.shape, dtype=np.float32), np.zeros(window.shape, dtype=bool)
        for k, (stored, gap) in enumerate(self._steps(window)):
            step = self.steps[window.time[0] + k]
            if step.band is not None:
                self._note_infinity(step.band, stored)
                label = f"{step.band.path}: band {step.band.index}"
                step.band.packing.refuse_beyond(stored[~gap], label)
                decoded, observed = step.band.packing.decode(np.where(gap, step.band.dtype.type(0), stored))
                valid[k] = observed & ~gap
                if self.observed_only:
                    valid[k] &= ~self._filled_before(step, window)
                values[k] = np.where(valid[k], decoded, np.float32(0))
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

    @cached_property
    def flags(self) -> dict[tuple[str, int], Band]:
        """The bands in flag files beside these, which say what an earlier run filled; by file and band."""
        beside = [(header, flag_beside(header)) for header in self.headers]
        return {(b.path, b.index): mark for h, flag in beside if flag for b, mark in zip(h.bands, flag.bands)}

    def filled_unmarked(self) -> str | None:
        """The first file that an earlier run filled, as its history tells, without a flag beside it."""
        marked = {path for path, _ in self.flags}
        filled = (h.path for h in self.headers if _FILLED.search(h.tags.get("", {}).get(HISTORY_TAG, "")))
        return next((path for path in filled if path not in marked), None)

    def packing(self, layer: int = 0) -> Packing:
        """How the stored numbers of the first band are to be understood (others may differ: ``steps``)."""
        return next(s.band for s in self.steps if s.band is not None).packing

    def gap_number(self, step: int) -> float | int | None:
        """The stored number that marks a gap in a step: the file's nodata, NaN for floats without one, else None."""
        band = self.steps[step].band or next(s.band for s in self.steps if s.band is not None)
        if band.packing.fill is not None:
            return band.packing.fill
        return float("nan") if band.dtype.kind == "f" else None

    def layouts(self, out: str | Path, options: SinkOptions) -> tuple[FileLayout, ...]:
        """The files that this stack, filled, becomes."""
        return layouts(self, out, options)

    def close(self) -> None:
        """Release files."""
        self._files.close()

    def __enter__(self) -> GeoTiffSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ inner parts

    def _layer(self) -> Layer:
        bands = [b for s in self.steps for b in s.bands]
        first = bands[0]
        shape = (len(self.steps), *self.grid.shape)
        return Layer(
            name=_variable_name(self.headers, self.reading),
            variable=_variable_name(self.headers, self.reading),
            index={},
            shape=shape,
            dtype=np.result_type(*{b.dtype for b in bands}),
            units=first.units,
            long_name=first.tags.get("", {}).get("long_name", ""),
            standard_name=first.tags.get("", {}).get("standard_name", ""),
        )

    def _steps(self, window: Window) -> Iterator[tuple[Array, BoolArray]]:
        """Stored numbers (y, x) of each step of a window, in its band's dtype, and where they are gaps."""
        at, stop = window.time
        while at < stop:
            run = self._run(at, stop)
            bands = [self.steps[i].bands[0] for i in range(at, at + run)]
            if bands:
                yield from zip(*self._bands(bands, window))
            elif self.steps[at].bands:
                parts = [self._bands([b], window) for b in self.steps[at].bands]
                yield _averaged(self.steps[at].bands, [(stored[0], gap[0]) for stored, gap in parts])
            else:
                number, shape = self.gap_number(at), window.shape[1:]
                yield (
                    np.full(shape, 0 if number is None else number, self.layers[0].dtype),
                    np.ones(shape, bool),
                )
            at += max(run, 1)

    def _filled_before(self, step: Step, window: Window) -> BoolArray:
        """Which cells of a step (y, x) a flag marks as filled."""
        filled = np.zeros(window.shape[1:], dtype=bool)
        for band in step.bands:
            if (band.path, band.index) in self.flags:
                filled |= self._bands([self.flags[band.path, band.index]], window)[0][0] == FILLED
        return filled

    def _run(self, at: int, stop: int) -> int:
        """How many steps from ``at`` on are single bands of one file and type, so that they can be read at once."""
        first, n = self.steps[at], 0
        while at + n < stop and n < _READ_AT_ONCE and len(self.steps[at + n].bands) == 1:
            band = self.steps[at + n].bands[0]
            if (band.path, band.dtype) != (first.bands[0].path, first.bands[0].dtype):
                break
            n += 1
        return n

    def _bands(self, bands: Sequence[Band], window: Window) -> tuple[Array, BoolArray]:
        """Bands of one file (band, y, x) and their gaps."""
        top = int(self.selection.rows[0])
        rows = (top + window.y[0], top + window.y[1])
        parts = [self._files.read(bands, rows, c) for c in _columns(self._columns, window.x)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([p[0] for p in parts], axis=2), np.concatenate([p[1] for p in parts], axis=2)

    def _note_infinity(self, band: Band, stored: Array) -> None:
        if self._saw_infinity or stored.dtype.kind != "f" or not np.isinf(stored).any():
            return
        self._saw_infinity = True
        self.warn(f"{band.path}: band {band.index} holds infinite values; they are taken as gaps")

    def warn(self, text: str) -> None:
        """Tell the user, and remember it for ``info``."""
        self.warnings += (text,)
        warnings.warn(text, StimputeWarning, stacklevel=3)

    def refuse_undeclared_fill(self) -> None:
        """Refuse a stack without any gap that is full of a number which looks like an undeclared nodata.

        Raises
        ------
        InputError : names the number, its share, and ``--nodata``.
        """
        ours = all(HISTORY_TAG in h.tags.get("", {}) for h in self.headers)  # filled, so complete
        if self.options.nodata or self.options.force or ours:
            return
        samples = self._sample()
        if not samples or any(gap.any() for _, gap in samples):
            return
        stored = np.concatenate([s.ravel() for s, _ in samples])
        suspect = suspected_fill(stored)
        if suspect is None:
            return
        number, share = suspect
        raise InputError(
            f"{self.headers[0].path}: no nodata is declared and nothing is missing, but {share:.0%} of the cells hold "
            f"{number:g}; if that marks gaps, say so with --nodata {number:g} (--force takes every number as an observation)"
        )

    def warn_of_uneven_scales(self) -> None:
        """Warn where files of different type or packing decode to numbers of different magnitude."""
        kinds: dict[tuple[str, float, float], tuple[Band, float]] = {}
        for at, step in enumerate(self.steps):
            if step.band is None or step.band.layout in kinds:
                continue
            rows = (self.grid.shape[0] // 2, min(self.grid.shape[0] // 2 + _SAMPLED_ROWS, self.grid.shape[0]))
            stored, gap = next(self._steps(Window((at, at + 1), rows, (0, self.grid.shape[1]))))
            values = np.abs(step.band.packing.decode64(stored[~gap])[0])
            if values.any():
                kinds[step.band.layout] = (step.band, float(np.median(values[values > 0])))
        if len(kinds) < 2:
            return
        (small, low), (large, high) = (f(kinds.values(), key=lambda k: k[1]) for f in (min, max))
        if high > _UNEVEN * low:
            self.warn(
                f"{small.path} ({small.dtype}) holds values about {high / low:.0f} times smaller than {large.path} "
                f"({large.dtype}); do they share one unit? Rescale one kind first"
            )

    def _sample(self) -> list[tuple[Array, BoolArray]]:
        """Strips of some steps: enough to see whether anything is missing, however large the stack."""
        nt, ny, nx = self.layers[0].shape
        steps = np.unique(np.linspace(0, nt - 1, min(nt, _SAMPLED_STEPS)).astype(int)).tolist()
        height = max(1, min(ny, _SAMPLED_ROWS, 4_000_000 // nx))
        starts = np.unique(np.linspace(0, ny - height, min(4, -(-ny // height))).astype(int)).tolist()
        windows = [
            Window((t, t + 1), (y, y + height), (0, nx)) for y in starts for t in steps if self.steps[t].bands
        ]
        return [next(self._steps(w)) for w in windows]


def open_stack(paths: Sequence[str], options: ReadOptions) -> GeoTiffSource:
    """Open raster files as one stack.

    Parameters
    ----------
    paths : one multi-band file, or several dated files.

    Raises
    ------
    InputError : unreadable files, no or ambiguous dates, grids that differ, nothing inside the selection.
    """
    headers = [read_header(p, options.nodata, force=options.force) for p in paths]
    for other in headers[1:]:
        check_same_grid(headers[0], other)
    axes, reading = date_files(headers, options)
    labels = [h.path for h in headers]
    refuse_shared_dates(headers, axes, options)
    arranged = arrange(axes, labels, time=options.time, dedupe=options.dedupe, regular=options.regular)
    grid = grid_of(headers[0], wrap=options.wrap)
    selection = select(grid, options.bbox, options.bbox_crs, label=headers[0].path)
    source = GeoTiffSource(headers, arranged, selection, options, reading=reading)
    source.refuse_undeclared_fill()
    source.warn_of_uneven_scales()
    return source


def _averaged(bands: Sequence[Band], parts: Sequence[tuple[Array, BoolArray]]) -> tuple[Array, BoolArray]:
    """The mean of several bands of one date, stored as the first is."""
    total, count = np.zeros(parts[0][0].shape), np.zeros(parts[0][0].shape)
    for band, (stored, gap) in zip(bands, parts):
        values, observed = band.packing.decode64(stored)
        total += np.where(gap, 0.0, values)
        count += observed & ~gap
    gap = count == 0
    packing = bands[0].packing
    fill = packing.fill if packing.fill is not None else (np.nan if packing.dtype.kind == "f" else 0)
    mean = np.full(total.shape, fill, dtype=packing.dtype)
    mean[~gap] = packing.encode(total[~gap] / count[~gap], bands[0].path)
    return mean, gap


def _columns(columns: Sequence[Range], wanted: Range) -> list[Range]:
    """The ranges of file columns behind a range of stack columns.

    >>> _columns([(8, 10), (0, 3)], (1, 4))
    [(9, 10), (0, 2)]
    """
    found, start = [], 0
    for first, last in columns:
        a, b = max(wanted[0] - start, 0), min(wanted[1] - start, last - first)
        if a < b:
            found.append((first + a, first + b))
        start += last - first
    return found


def _variable_name(headers: Sequence[Header], reading: DateReading | None) -> str:
    """What the values are called in formats that need a name: the file's name without its date and suffix."""
    name = headers[0].name
    if reading is not None:
        start, stop = reading.found[0].span
        end = max([stop, *(p[2] for p in reading.found[0].parts)])
        name = f"{name[:start]} {name[end:]}"
    name = re.sub(r"\.(tiff?|jp2|vrt|img)$", "", name, flags=re.IGNORECASE)
    name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    name = name if re.match(r"[A-Za-z]", name) else f"values_{name}".strip("_")
    return f"{name}_" if name in _TAKEN else name


def _as_path(path: str) -> Path | str:
    return path if path.startswith("/vsi") or "://" in path else Path(path)
