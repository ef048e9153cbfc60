"""Further variables brought onto the grid and steps of a stack. Values only: NaN where unknown.

A covariate is opened like any stack; its cells are matched by coordinates (through the CRS where it differs), its steps
by time: interpolated between neighbours, the nearest one kept within one of its own steps.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeWarning
from stimpute.grid import Grid
from stimpute.io.cf_time import NO_CALENDAR, from_labels
from stimpute.io.options import Dedupe, ReadOptions
from stimpute.protocols import Window
from stimpute.stack import Stack

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Covariate:
    """One covariate on a stack's own grid.

    Parameters
    ----------
    name : unique among a stack's covariates.
    dynamic : whether it has a time axis.
    read : float32 (time, y, x) of a window, NaN where unknown; one step if it is static.
    """

    name: str
    dynamic: bool
    read: Callable[[Window], Float32Array]
    close: Callable[[], None] = lambda: None


def attach(source: Any, options: ReadOptions, opened: Callable[[str, ReadOptions], Any]) -> None:
    """Open the covariates and the domain of ``options`` and put them into a source, whose ``besides`` gain the paths of their files.

    Parameters
    ----------
    opened : opens one path as a source.

    Raises
    ------
    InputError : a file or variable that is not there, or does not fit.
    """
    covariates: list[Covariate] = []
    read: list[str] = []

    def noted(path: str, reading: ReadOptions) -> Any:
        other = opened(path, reading)
        read.extend(str(p) for p in other.paths)
        return other

    try:
        for text in options.covariates:
            covariates += _covariates(text, source, noted, {c.name for c in covariates}, options.dedupe)
        if options.domain is not None:
            source.domain = _domain(options.domain, source, noted)
    except BaseException:
        for covariate in covariates:
            covariate.close()
        raise
    source.covariates = (*source.covariates, *covariates)
    source.besides = tuple(dict.fromkeys([*source.besides, *read]))


def split_variable(text: str) -> tuple[str, tuple[str, ...]]:
    """``PATH[:VAR]`` as (path, variables).

    >>> split_variable("https://host/sm.nc:sm"), split_variable("https://host/sm.nc")
    (('https://host/sm.nc', ('sm',)), ('https://host/sm.nc', ()))
    """
    if os.path.exists(text):
        return text, ()
    path, colon, name = text.rpartition(":")
    if colon and name and not name.startswith("//"):
        return path, (name,)
    return text, ()


def _open(
    text: str, option: str, opened: Callable[[str, ReadOptions], Any], dedupe: Dedupe | None = None
) -> Any:
    """One file as a source. Static fields have no dates and need none, so what is said about them is kept quiet."""
    path, variables = split_variable(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        reading = ReadOptions(variables=variables, force=True, beside=True, dedupe=dedupe)
        try:
            return opened(path, reading)
        except InputError as error:
            try:  # a single band without a date
                return opened(path, replace(reading, times=("2000-01-01",)))
            except InputError:
                said = str(error).replace("give --times (one date per band)", "name the bands by their dates")
                said = said.replace("give the dates with --times", "it needs dates of its own")
                raise InputError(f"{option} {text}: {said}") from error


def _covariates(
    text: str, source: Any, opened: Callable[[str, ReadOptions], Any], taken: set[str], dedupe: Dedupe | None
) -> list[Covariate]:
    other = _open(text, "--covariate", opened, dedupe)
    remaining = [len(other.layers)]

    def close() -> None:
        remaining[0] -= 1
        if remaining[0] == 0:
            other.close()

    try:
        names: list[str] = []
        for layer in other.layers:
            name = _free_name(layer.name, Path(split_variable(text)[0]), taken | set(names))
            names.append(name)
        return [
            Covariate(
                name, len(other.times) > 1, _Reader(source, other, number, f"--covariate {text}").read, close
            )
            for number, name in enumerate(names)
        ]
    except BaseException:
        other.close()
        raise


def _free_name(name: str, path: Path, taken: set[str]) -> str:
    """A covariate's name; with that of its file, of its folder, or a number where it is taken.

    >>> _free_name("c", Path("lag1/rain.nc"), {"c", "rain_c"}), _free_name("c", Path("rain.nc"), {"c", "rain_c"})
    ('lag1_rain_c', 'c_3')
    """
    folder = f"{path.parent.name}_" if path.parent.name else ""
    numbered = (f"{name}_{n}" for n in count(len(taken) + 1))
    choices = (name, f"{path.stem}_{name}", *([f"{folder}{path.stem}_{name}"] if folder else []))
    return next(n for n in chain(choices, numbered) if n not in taken)


def _domain(text: str, source: Any, opened: Callable[[str, ReadOptions], Any]) -> npt.NDArray[np.bool_]:
    with _open(text, "--domain", opened) as other:
        if len(other.layers) > 1:
            names = ", ".join(layer.name for layer in other.layers)
            raise InputError(f"--domain {text}: several layers ({names}); choose one with PATH:VAR")
        reader = _Reader(source, other, 0, f"--domain {text}", nearest=True)
        field = reader.still(slice(0, source.grid.shape[0]), slice(0, source.grid.shape[1]))
    inside = np.isfinite(field) & (field != 0)
    if not inside.any():
        raise InputError(f"--domain {text}: no cell of the grid lies inside it (non-zero values are inside)")
    return np.asarray(inside)


class ArchiveOn:
    """Another stack of the same place with its own steps, read on the grid of ``source``; no more than ``most`` of its steps, evenly spread.

    Parameters
    ----------
    text : ``PATH[:VAR]``; without VAR the variable of the same name, or the only one.

    Raises
    ------
    InputError : a file or variable that is not there, or that does not fit.
    """

    def __init__(self, source: Any, text: str, opened: Callable[[str, ReadOptions], Any], most: int) -> None:
        self._other = _open(text, "--archive", opened)
        self.paths: tuple[Path | str, ...] = self._other.paths
        try:
            self._reader = self._chosen(source, f"--archive {text}")
        except BaseException:
            self.close()
            raise
        length = len(self._other.times)
        self._steps = np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.intp))
        self._grid: Grid = source.grid
        self.shape = (len(self._steps), *self._grid.shape)

    def _chosen(self, source: Any, label: str) -> _Reader:
        names = [layer.name for layer in self._other.layers]
        wanted = source.layers[0].name
        if len(names) > 1 and wanted not in names:
            raise InputError(f"{label}: several layers ({', '.join(names)}); choose one with PATH:VAR")
        number = names.index(wanted) if wanted in names else 0
        return _Reader(source, self._other, number, label, matched=False)

    def read(self, window: Window) -> Stack:
        """One window; its steps are counted among those that are read."""
        steps, rows, columns = window.slices
        chosen = self._steps[steps]
        values = np.stack(self._reader.fields(chosen, rows, columns))
        valid = np.isfinite(values)
        other = self._other
        return Stack(
            np.where(valid, values, np.float32(0)), valid, np.asarray(other.times)[chosen], self._grid.window(rows, columns),
            np.asarray(other.year_phase)[chosen], np.asarray(other.day_phase)[chosen],
        )  # fmt: skip

    def close(self) -> None:
        """Release the archive's files."""
        self._other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Reader:
    """Reads windows of one layer of another source onto the grid and steps of a stack; ``matched`` False: onto the grid only."""

    def __init__(
        self,
        source: Any,
        other: Any,
        layer: int,
        label: str,
        *,
        nearest: bool = False,
        matched: bool = True,
    ) -> None:
        from stimpute.io.cf_grid import grid_difference

        self.grid: Grid = source.grid
        self.other, self.layer, self.label = other, layer, label
        self.same_grid = not grid_difference(source.grid, other.grid)
        self.nearest = nearest or _categories(other, layer) or other.grid.kind == "curvilinear"
        self.coarsening = _coarsening(source.grid, other.grid)
        self.before: npt.NDArray[np.intp] | None = None
        self.weight: FloatArray | None = None
        if matched and len(other.times) > 1:
            self.before, self.weight = _matched_steps(source, other, label)
        if not self.same_grid:
            self._refuse_apart()

    def _refuse_apart(self) -> None:
        """A covariate of another place is refused at once rather than read as unknown everywhere."""
        from stimpute.io.regrid import positions

        coarse = (
            self.grid.coarsen(max(1, max(self.grid.shape) // 200))
            if self.grid.units != "cells"
            else self.grid
        )
        places = positions(coarse, self.other.grid, slice(None), slice(None), label=self.label)
        if places.box(0, self.other.grid.shape) is None:
            raise InputError(f"{self.label}: it covers no cell of the stack's grid")

    def read(self, window: Window) -> Float32Array:
        """(time, y, x) of a window; one step of a static layer."""
        _, y, x = window.slices
        if self.before is None or self.weight is None:
            return self.still(y, x)[np.newaxis]
        steps = slice(*window.time)
        before, weight = self.before[steps], self.weight[steps]
        known = np.isfinite(weight)
        needed = np.unique(np.concatenate([before[known], before[known] + (weight[known] > 0)])).astype(int)
        fields = {int(step): field for step, field in zip(needed, self.fields(needed, y, x))}
        out = np.full((len(before), window.shape[1], window.shape[2]), np.nan, dtype=np.float32)
        for at in np.flatnonzero(known):
            first, share = fields[int(before[at])], float(weight[at])
            if share >= 1:  # the very step: its gaps stay gaps
                out[at] = fields[int(before[at]) + 1]
                continue
            second = fields[int(before[at]) + 1] if share > 0 else first
            mixed = first * np.float32(1 - share) + second * np.float32(share)
            if self.nearest:
                mixed = first if share <= 0.5 else second
            out[at] = np.where(np.isfinite(mixed), mixed, np.where(np.isfinite(first), first, second))
        return out

    def still(self, y: slice, x: slice) -> Float32Array:
        """(y, x) of the first step."""
        return np.asarray(next(iter(self.fields(np.array([0]), y, x))))

    def fields(self, steps: npt.NDArray[np.intp], y: slice, x: slice) -> list[Float32Array]:
        """(y, x) of each of some steps of the other source."""
        if self.same_grid:
            return [self._stored(step, y, x)[0] for step in steps]
        from stimpute.io.regrid import positions, sample

        places = positions(self.grid, self.other.grid, y, x, label=self.label)
        box = places.box(2 + int(self.coarsening), self.other.grid.shape)
        if box is None:
            return [np.full(places.rows.shape, np.nan, dtype=np.float32) for _ in steps]
        around = self._around(places.cols, 2 + int(self.coarsening))
        box = (box[0], slice(0, self.other.grid.shape[1])) if around else box
        rows, cols = places.rows - box[0].start, places.cols - box[1].start + around
        return [
            sample(
                self._stored(step, *box, around), rows, cols, nearest=self.nearest, coarsening=self.coarsening
            )[0]
            for step in steps
        ]

    def _around(self, cols: FloatArray, margin: int) -> int:
        """How many columns to lay on beyond both ends of a grid that goes round the globe; none away from its seam."""
        width = self.other.grid.shape[1]
        inside = cols[np.isfinite(cols)]
        near = inside.size > 0 and (inside.min() < margin or inside.max() > width - 1 - margin)
        return min(margin, width) if self.other.grid.wraps and near else 0

    def _stored(self, step: int, y: slice, x: slice, around: int = 0) -> Float32Array:
        window = Window((int(step), int(step) + 1), (y.start, y.stop), (x.start, x.stop))
        field = np.asarray(self.other.read(window, self.layer).with_nan())
        return np.pad(field, ((0, 0), (0, 0), (around, around)), mode="wrap") if around else field


def _categories(other: Any, layer: int) -> bool:
    files, described = getattr(other, "files", None), other.layers[layer]
    if files is None or not hasattr(files[0], "variables"):
        return False
    from stimpute.io.cf import is_flag

    return is_flag(files[0].variables[described.variable])


def _coarsening(grid: Grid, other: Grid) -> float:
    """How many cells of the other grid one cell of ours is wide."""
    if "cells" in (grid.units, other.units):
        return 1.0
    ours, theirs = min(grid.spacing_km()), max(other.spacing_km())
    return ours / theirs if theirs > 0 and ours > 0 else 1.0


def _matched_steps(source: Any, other: Any, label: str) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """For every step of the stack: the covariate's step at or before it, and the weight of the next one (NaN: none near)."""
    if NO_CALENDAR in (source.calendar, other.calendar):
        if len(source.times) != len(other.times):
            raise InputError(
                f"{label}: {len(other.times)} steps cannot be matched with {len(source.times)} without dates on both sides"
            )
        return np.arange(len(source.times)), np.zeros(len(source.times))
    ours, theirs = _comparable(source, other)
    step = float(np.median(np.diff(theirs)))
    reach = step * 1.01
    after = np.clip(np.searchsorted(theirs, ours, side="right"), 1, len(theirs) - 1)
    before = after - 1
    gap = theirs[after] - theirs[before]
    weight = np.clip((ours - theirs[before]) / gap, 0.0, 1.0)
    weight = np.where(
        gap > 3 * step, np.rint(weight), weight
    )  # no interpolation across a hole in the covariate
    distance = np.minimum(np.abs(ours - theirs[before]), np.abs(ours - theirs[after]))
    weight = np.where(distance > reach, np.nan, weight)
    if not np.isfinite(weight).any():
        raise InputError(
            f"{label}: its steps ({other.time_labels[0]} to {other.time_labels[-1]}) are nowhere near those of the stack "
            f"({source.time_labels[0]} to {source.time_labels[-1]})"
        )
    return before, weight


def _comparable(source: Any, other: Any) -> tuple[FloatArray, FloatArray]:
    """Both time axes in days; by the position in the year where the calendars differ."""
    same = _family(source.calendar) == _family(other.calendar)
    return _days(source, by_year=not same), _days(other, by_year=not same)


def _days(source: Any, *, by_year: bool) -> FloatArray:
    if by_year:
        years = np.array([float(label[: label.index("-", 1)]) for label in source.time_labels])
        return np.asarray((years + source.year_phase) * 365.2425)
    first = from_labels(source.time_labels[:1], label=str(source.paths[0]), calendar=source.calendar)
    return np.asarray(source.times + first.days[0])


def _family(calendar: str) -> str:
    return "standard" if calendar in ("standard", "gregorian", "proleptic_gregorian", "julian") else calendar
