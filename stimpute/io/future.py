"""The steps that come after a stack, in its own calendar and cadence, and the stack they will make. Reads no values.

The future stack is the file that would come next: the same grid, attributes and packing, times that go on, and nothing but
gaps where the forecast belongs. Every sink writes it as it writes a stack that is filled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cftime
import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeWarning
from stimpute.io.cf import time_variable
from stimpute.io.cf_source import CFSource
from stimpute.io.cf_time import EPOCH, NO_CALENDAR, from_dates, is_time_units, parse_label
from stimpute.io.options import ReadOptions
from stimpute.io.packing import DEFAULT_FILLS
from stimpute.io.raw import Array, RawFile, RawVariable

FloatArray = npt.NDArray[np.float64]
REFERENCE = "forecast_reference_time"
_UNEVEN = 0.15  # of a step that a time may be off its place
_STRAYS = 0.1  # part of the steps that may be further off


@dataclass(frozen=True)
class Cadence:
    """How a series goes on: ``months`` apart if that is not 0, else ``seconds`` apart (plain units without a calendar).

    ``month_end`` keeps steps on the last day of their month; ``tails`` are day and time of day by month of the year, as
    last seen.
    """

    seconds: float
    months: int = 0
    month_end: bool = False
    tails: Mapping[int, str] | None = None

    @property
    def words(self) -> str:
        """In words, for summaries.

        >>> Cadence(3600.0).words, Cadence(0.0, months=1).words, Cadence(5 * 86400.0).words
        ('1 h', '1 month', '5 d')
        """
        if self.months:
            return f"{self.months} month{'s' if self.months > 1 else ''}"
        for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
            if self.seconds >= length:
                return f"{self.seconds / length:g} {unit}"
        return f"{self.seconds:g} s"


@dataclass(frozen=True, eq=False)
class Future:
    """The steps to come.

    Parameters
    ----------
    days : float64 (steps,), days since the first step of the source.
    stamps : full ISO 8601 labels in the source's calendar; numbers as text where it has none.
    year_phase, day_phase : float64 (steps,) in [0, 1).
    slots : int64 (time,), the place of every step of the source in the regular series that ends with its last, at 0.
    cadence : what lies between two steps.
    """

    days: FloatArray
    stamps: tuple[str, ...]
    year_phase: FloatArray
    day_phase: FloatArray
    slots: npt.NDArray[np.int64]
    cadence: Cadence

    @property
    def step_days(self) -> float:
        """Days between steps; the mean of months."""
        return self.cadence.months * 30.436875 if self.cadence.months else self.cadence.seconds / 86400


def future_of(source: CFSource, steps: int, every: float | None = None) -> Future:
    """The ``steps`` steps after the last one of a source.

    Parameters
    ----------
    every : days between steps; None: as in the source.

    Raises
    ------
    InputError : a single step, or steps so uneven that nothing says when the next one is.
    """
    label, stamps = str(source.paths[0]) if source.paths else "the stack", source.steps.stamps
    if len(stamps) < 2 and every is None:
        raise InputError(f"{label}: one time step; a forecast needs a series to go on from")
    days = source.steps.days
    if source.calendar == NO_CALENDAR:
        step = float(np.median(np.diff(days))) if every is None else every
        slots = _slots(days, step, label, every is not None)
        ahead = days[-1] + step * np.arange(1, steps + 1)
        zeros = np.zeros(steps)
        return Future(
            ahead - days[0], tuple(f"{v:g}" for v in ahead), zeros, zeros, slots, Cadence(step * 86400)
        )
    cadence = cadence_of(stamps, days, source.calendar, label, every)
    last = parse_label(stamps[-1], label, source.calendar)
    axis = from_dates(np.array([advanced(last, cadence, k) for k in range(1, steps + 1)], dtype=object))
    if cadence.months:
        slots = np.array([_month(s) for s in stamps], dtype=np.int64)
        slots = (slots - slots[-1]) // cadence.months
    else:
        slots = _slots(days, cadence.seconds / 86400, label, every is not None)
    return Future(axis.days - days[0], axis.stamps, axis.year_phase, axis.day_phase, slots, cadence)


def cadence_of(
    stamps: Sequence[str], days: FloatArray, calendar: str, label: str, every: float | None = None
) -> Cadence:
    """What lies between the steps: whole months where they are calendar months, else the median distance.

    Raises
    ------
    InputError : uneven steps.

    >>> cadence_of(["2020-01-31T00:00:00", "2020-02-29T00:00:00", "2020-03-31T00:00:00"], np.array([0.0, 29, 60]), "standard", "").months
    1
    """
    if every is not None:
        return Cadence(float(round(every * 86400)))
    step = float(np.median(np.diff(days)))
    numbers = np.array([_month(s) for s in stamps])
    apart = np.diff(numbers)
    if step >= 27 and apart.min() >= 1:
        count = int(np.gcd.reduce(apart))
        tails = {int(n) % 12 + 1: s[s.index("-", 1) + 4 :] for n, s in zip(numbers, stamps)}
        ends = all(_is_month_end(parse_label(s, label, calendar)) for s in stamps)
        return Cadence(step * 86400, count, ends and len(set(tails.values())) > 1, tails)
    _slots(days, step, label, False)
    return Cadence(float(round(step * 86400)) if step * 86400 >= 1 else step * 86400)


def advanced(date: Any, cadence: Cadence, steps: int) -> Any:
    """A cftime date so many steps later.

    >>> str(advanced(cftime.datetime(2019, 11, 30, calendar="standard"), Cadence(0.0, 1, True), 3))
    '2020-02-29 00:00:00'
    """
    calendar = date.calendar
    if not cadence.months:
        seconds = round(float(cftime.date2num(date, f"seconds since {_EPOCH_DATE}", calendar=calendar)))
        moved = seconds + round(cadence.seconds * steps)
        return cftime.num2date(
            moved, f"seconds since {_EPOCH_DATE}", calendar, only_use_cftime_datetimes=True
        )
    year, month = divmod(date.year * 12 + date.month - 1 + cadence.months * steps, 12)
    tail = (cadence.tails or {}).get(month + 1)
    day = _month_length(year, month + 1, calendar) if cadence.month_end else date.day
    clock = (date.hour, date.minute, date.second)
    if tail is not None and not cadence.month_end:
        day = int(tail[:2])
        clock = (int(tail[3:5]), int(tail[6:8]), int(tail[9:11]))
    return cftime.datetime(
        year, month + 1, min(day, _month_length(year, month + 1, calendar)), *clock, calendar=calendar
    )


_EPOCH_DATE = EPOCH.partition("since ")[2]


def _month(stamp: str) -> int:
    at = stamp.index("-", 1)
    return int(stamp[:at]) * 12 + int(stamp[at + 1 : at + 3]) - 1


def _month_length(year: int, month: int, calendar: str) -> int:
    if calendar == "360_day":
        return 30
    if month == 2:
        return 29 if cftime.is_leap_year(year, calendar) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _is_month_end(date: Any) -> bool:
    return bool(date.day == _month_length(date.year, date.month, date.calendar))


def _slots(days: FloatArray, step: float, label: str, given: bool) -> npt.NDArray[np.int64]:
    """Place of every step in a regular series that ends at 0.

    Raises
    ------
    InputError : too many steps that fit no place.
    """
    if given or len(days) < 2:
        return np.asarray(np.rint((days - days[-1]) / step), dtype=np.int64)
    apart = np.diff(days) / step
    stray = np.abs(apart - np.maximum(np.rint(apart), 1)) > _UNEVEN
    if stray.mean() > _STRAYS:
        raise InputError(
            f"{label}: irregular times ({int(stray.sum())} of {len(stray)} distances are no multiple of the median, "
            f"{step:g} days), so nothing says when the next step is; give --every, such as --every 1d"
        )
    counts = np.maximum(np.rint(apart), 1).astype(np.int64)
    return np.asarray(np.concatenate([[0], np.cumsum(counts)]) - counts.sum())


# --- the future as a source -------------------------------------------------------------------------------------------


def future_source(source: Any, future: Future) -> CFSource:
    """The stack that a forecast fills: nothing but gaps, everything else as in the source (a CF source, see ``as_cf``).

    Variables along time other than the forecast ones are left out: nobody knows them yet.
    """
    raw = _future_file(source, future)
    options = ReadOptions(
        variables=source.variables, bbox=source.options.bbox, bbox_crs=source.options.bbox_crs,
        nodata=source.options.nodata, wrap=source.options.wrap, force=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        made = CFSource([raw], options)
    made.paths, made.domain = source.paths, source.domain
    made.alterations, made.notes = (), ()
    return made


def _future_file(source: CFSource, future: Future) -> RawFile:
    first = source.files[0]
    lead = source.axes[0][source.variables[0]]
    time = lead.time or "time"
    dated = time_variable(first, first.variables[source.variables[0]], lead)
    clock = _times(source, future, dated, time)
    replaced = {v.name: v for v in clock}
    dropped = {v.name for v in first.variables.values() if time in v.dims} - {*source.variables, *replaced}
    variables = dict(replaced)
    for variable in first.variables.values():
        if variable.name in source.variables:
            variables[variable.name] = _gaps(source, variable, time, len(future.days), dropped)
        elif variable.name not in dropped and variable.name not in replaced:
            variables[variable.name] = variable
    ordered = {n: variables.pop(n) for n in first.variables if n in variables} | variables
    return RawFile(
        path=first.path,
        format="memory" if first.format == "GeoTIFF" else first.format,
        variant=first.variant,
        dims={**first.dims, time: len(future.days)},
        variables=ordered,
        groups=first.groups,
        native=None if first.format in ("memory", "GeoTIFF") else first.native,
        unlimited=first.unlimited,
    )


def _gaps(source: CFSource, variable: RawVariable, time: str, steps: int, dropped: set[str]) -> RawVariable:
    """A forecast variable: its fill everywhere."""
    dims = variable.dims if time in variable.dims else (time, *variable.dims)
    sizes = dict(zip(variable.dims, variable.shape)) | {time: steps}
    shape = tuple(sizes[d] for d in dims)
    layer = next(i for i, described in enumerate(source.layers) if described.variable == variable.name)
    packing = source.packing(layer)
    fill = np.asarray(source.fill_number(layer)).astype(packing.dtype)
    attrs = dict(variable.attrs)
    if packing.fill is None:
        attrs["_FillValue"] = (
            packing.dtype.type(DEFAULT_FILLS.get(packing.dtype.str[1:], 0))
            if packing.dtype.kind in "iu"
            else packing.dtype.type(np.nan)
        )
        fill = np.asarray(attrs["_FillValue"])
    short = {n.rpartition("/")[2] for n in dropped}
    for key in ("ancillary_variables", "coordinates"):
        words = [w for w in variable.text(key).split() if w not in short]
        if key in attrs and words != variable.text(key).split():
            attrs[key] = " ".join(words)
            if not words:
                del attrs[key]
    stored = fill.view(packing.stored_dtype)

    def load(key: tuple[slice, ...]) -> Array:
        lengths = [len(range(*k.indices(n))) for k, n in zip(key, shape)] if key else list(shape)
        return np.full(lengths, stored, dtype=packing.stored_dtype)

    return RawVariable(variable.name, dims, shape, variable.dtype, attrs, load, variable.storage)


def _times(source: CFSource, future: Future, dated: RawVariable | None, time: str) -> list[RawVariable]:
    """The time coordinate, its bounds and the time the forecast starts from."""
    label = str(source.paths[0]) if source.paths else "the stack"
    if source.calendar == NO_CALENDAR:
        if dated is None or dated.dtype.kind not in "iuf":
            return []
        numbers = dated.read().astype(np.float64).reshape(-1)
        step = (numbers.max() - numbers.min()) / max(int(-future.slots.min()), 1)
        return [
            _constant(
                dated, (time,), _whole(numbers.max() + step * np.arange(1, len(future.days) + 1), dated.dtype)
            )
        ]
    dates = np.array([parse_label(s, label, source.calendar) for s in future.stamps], dtype=object)
    own = dated is not None and dated.dtype.kind in "iuf" and is_time_units(dated.text("units"))
    own = own and "%Y" not in dated.text("units") and source.options.times is None  # type: ignore[union-attr]
    if not own or dated is None:
        name = dated.name if dated is not None and source.options.times is None else time
        attrs = {"standard_name": "time", "axis": "T", "units": EPOCH, "calendar": source.calendar}
        template = RawVariable(name, (time,), (0,), np.dtype(np.float64), attrs, lambda key: np.zeros(0))
        return [
            _constant(template, (time,), np.asarray(cftime.date2num(dates, EPOCH, calendar=source.calendar)))
        ]
    units = dated.text("units")
    numbers = np.asarray(cftime.date2num(dates, units, calendar=source.calendar), dtype=np.float64)
    made = [_constant(dated, (time,), _whole(numbers, dated.dtype))]
    bounds = source.files[0].find(dated.text("bounds"), dated.group) if dated.text("bounds") else None
    if bounds is not None and bounds.dims[:1] == (time,) and len(bounds.dims) == 2:
        last = _last_bounds(source, bounds)
        cells = [[advanced(d, replace(future.cadence, tails=None, month_end=False), k) for d in last] for k in range(1, len(dates) + 1)]  # fmt: skip
        edges = np.asarray(
            cftime.date2num(np.array(cells), units, calendar=source.calendar), dtype=np.float64
        )
        made.append(_constant(bounds, bounds.dims, _whole(edges, bounds.dtype)))
    return [*made, *_reference(source, dated)]


def _last_bounds(source: CFSource, bounds: RawVariable) -> list[Any]:
    """Dates of both ends of the last step."""
    file, index = source.steps.places[-1][0] if source.steps.places[-1] else (0, bounds.shape[0] - 1)
    theirs = source.files[file].variables[bounds.name]
    dated = time_variable(
        source.files[file],
        source.files[file].variables[source.variables[0]],
        source.axes[file][source.variables[0]],
    )
    units = dated.text("units") if dated is not None else EPOCH
    numbers = theirs.read((slice(index, index + 1), slice(None)))[0]
    return list(cftime.num2date(numbers, units, source.calendar, only_use_cftime_datetimes=True))


def _reference(source: CFSource, dated: RawVariable) -> list[RawVariable]:
    """``forecast_reference_time``: the last step observed; none where the file has a variable of that name."""
    name = f"{dated.group}/{REFERENCE}" if dated.group else REFERENCE
    if name in source.files[0].variables:
        return []
    last = parse_label(source.steps.stamps[-1], REFERENCE, source.calendar)
    number = np.asarray(
        cftime.date2num(last, dated.text("units"), calendar=source.calendar), dtype=np.float64
    )
    attrs = {
        "standard_name": REFERENCE, "long_name": "last step the forecast starts from",
        "units": dated.text("units"), "calendar": source.calendar,
    }  # fmt: skip
    template = RawVariable(name, (), (), number.dtype, attrs, lambda key: number)
    return [_constant(template, (), number)]


def _whole(numbers: FloatArray, dtype: np.dtype[Any]) -> Array:
    """In the stored type, or in float64 where that would round."""
    if dtype.kind in "iu":
        whole = np.rint(numbers)
        return whole.astype(dtype) if bool((np.abs(whole - numbers) < 1e-6).all()) else numbers
    return numbers.astype(dtype)


def _constant(like: RawVariable, dims: tuple[str, ...], values: Array) -> RawVariable:
    array = np.asarray(values)
    storage = {k: v for k, v in like.storage.items() if k not in ("chunksizes", "contiguous")}
    return RawVariable(
        like.name,
        dims,
        array.shape,
        array.dtype,
        like.attrs,
        lambda key: array[key] if key else array,
        storage,
    )
