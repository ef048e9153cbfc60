"""Time axes: stored numbers with units and calendar to dates, in any calendar. Knows no files and no grids."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cftime
import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeWarning

FloatArray = npt.NDArray[np.float64]
EPOCH = "days since 1970-01-01"
NO_CALENDAR = "none"
_SINCE = re.compile(r"^\s*(\w+)\s+(since|after|from|ref|per)\s", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class TimeAxis:
    """The steps of one file, in the file's order.

    Parameters
    ----------
    days : days since 1970-01-01 in the axis' own calendar; plain numbers where ``calendar`` is ``"none"``.
    stamps : full ISO 8601 labels (``2020-01-31T12:00:00``), or the numbers as text.
    calendar : CF name, or ``"none"`` for an axis without dates.
    year_phase, day_phase : position in the year and in the day, in [0, 1).
    units : of the stored numbers, or None.
    """

    days: FloatArray
    stamps: tuple[str, ...]
    calendar: str
    year_phase: FloatArray
    day_phase: FloatArray
    units: str | None = None


def is_time_units(units: str) -> bool:
    """Whether units are those of a time axis ("days since ...", "day as %Y%m%d.%f").

    >>> is_time_units("days since 2000-01-01"), is_time_units("m s-1")
    (True, False)
    """
    return bool(_SINCE.match(units)) or "%Y" in units


def decode_times(
    numbers: npt.NDArray[Any], attrs: Mapping[str, Any], *, label: str, name: str = ""
) -> TimeAxis:
    """Decode stored time numbers.

    Parameters
    ----------
    numbers : 1-D, as stored.
    attrs : ``units``, ``calendar``, fills.
    label : file and variable, for messages.
    name : the dimension's own name; "month" and "year" are understood without units.

    Raises
    ------
    InputError : missing times, or units that do not define dates.
    """
    units = str(attrs.get("units", "")).strip()
    values = np.asarray(numbers)
    if values.dtype.kind in "SU":
        return from_labels([_text(row) for row in values], label=label)
    _refuse_missing(values, attrs, label)
    calendar = str(attrs.get("calendar", "standard")).strip().lower() or "standard"
    if "%Y" in units:
        return _absolute(values, calendar, label)
    if not is_time_units(units):
        return _without_units(values, units, name, label)
    return from_dates(_dates(values, units, calendar, label), units)


def _refuse_missing(values: npt.NDArray[Any], attrs: Mapping[str, Any], label: str) -> None:
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    for key in ("_FillValue", "missing_value"):
        if key in attrs:
            missing |= np.isin(values, np.asarray(attrs[key]))
    if values.dtype.kind == "i" and values.dtype.itemsize == 8:
        missing |= values == np.iinfo(np.int64).min  # numpy's NaT
    if missing.any():
        raise InputError(
            f"{label}: {int(missing.sum())} of {missing.size} times are missing (first at step {int(missing.argmax())}); "
            "give the dates with --times, or leave those steps out"
        )


def _dates(values: npt.NDArray[Any], units: str, calendar: str, label: str) -> npt.NDArray[Any]:
    word = units.split()[0].lower()
    if word.rstrip("s") in ("year", "yr", "common_year") or (
        word.rstrip("s") in ("month", "mon") and calendar not in ("360_day",)
    ):
        raise InputError(
            f"{label}: times in '{units}' are not dates: {word} differ in length in the {calendar} calendar; "
            "give the dates with --times"
        )
    try:
        return np.asarray(cftime.num2date(values, units, calendar, only_use_cftime_datetimes=True))
    except (ValueError, OverflowError, TypeError) as error:
        raise InputError(
            f"{label}: times with units '{units}', calendar '{calendar}' cannot be decoded ({error}); "
            "give the dates with --times"
        ) from error


def from_dates(dates: npt.NDArray[Any], units: str | None = None) -> TimeAxis:
    """An axis from cftime dates of one calendar."""
    flat = dates.ravel()
    calendar = str(flat[0].calendar) if flat.size else "standard"
    days = np.atleast_1d(np.asarray(cftime.date2num(flat, EPOCH, calendar=calendar), dtype=np.float64))
    phases = [_phases(d) for d in flat]
    return TimeAxis(
        days=days,
        stamps=tuple(_stamp(d) for d in flat),
        calendar=calendar,
        year_phase=np.array([p[0] for p in phases]),
        day_phase=np.array([p[1] for p in phases]),
        units=units,
    )


def from_labels(labels: Sequence[str], *, label: str, calendar: str = "standard") -> TimeAxis:
    """An axis from ISO 8601 labels.

    Raises
    ------
    InputError : a label that is no date.
    """
    return from_dates(np.array([parse_label(text, label, calendar) for text in labels], dtype=object))


def parse_label(text: str, label: str, calendar: str = "standard") -> Any:
    """A cftime date from ISO 8601 text (also with a blank or underscore for the T).

    >>> parse_label("2020-02-30T06:00", "doctest", "360_day").isoformat()
    '2020-02-30T06:00:00'
    """
    match = re.fullmatch(
        r"\s*(-?\d{4,5})-?(\d\d)?-?(\d\d)?(?:[T _](\d\d):?(\d\d)?:?(\d\d)?(?:[.,](\d+))?)?(?:Z|\+00:?00)?\s*",
        text,
    )
    try:
        if match is None:
            raise ValueError("not ISO 8601")
        year, *rest = (int(g) if g else None for g in match.groups()[:6])
        micro = int(f"{match.group(7) or '0':0<6}"[:6])
        month, day, hour, minute, second = (r if r is not None else d for r, d in zip(rest, (1, 1, 0, 0, 0)))
        return cftime.datetime(year, month, day, hour, minute, second, micro, calendar=calendar)
    except ValueError as error:
        raise InputError(
            f"{label}: '{text.strip()}' is no date ({error}); expected e.g. 2020-01-31T12:00"
        ) from error


def _text(row: Any) -> str:
    if isinstance(row, np.ndarray):
        return b"".join(np.atleast_1d(row).astype("S").tolist()).decode("ascii", "replace")
    return row.decode("ascii", "replace") if isinstance(row, bytes) else str(row)


def _absolute(values: npt.NDArray[Any], calendar: str, label: str) -> TimeAxis:
    """CDO's absolute times: 20200131.25."""
    whole = np.floor(values.astype(np.float64)).astype(np.int64)
    dates = []
    for number, fraction in zip(whole, values.astype(np.float64) - whole):
        day = parse_label(f"{number:08d}", label, calendar)
        seconds, units = round(float(fraction) * 86400), f"seconds since {day.isoformat()}"
        dates.append(cftime.num2date(seconds, units, calendar, only_use_cftime_datetimes=True))
    return from_dates(np.array(dates, dtype=object))


def time_number(date: Any, units: str) -> float:
    """A date in the units of a time axis, also CDO's absolute ones.

    >>> time_number(cftime.datetime(2020, 1, 31, 6), "day as %Y%m%d.%f")
    20200131.25
    """
    if "%Y" not in units:
        return float(cftime.date2num(date, units, calendar=date.calendar))
    return float(10_000 * date.year + 100 * date.month + date.day + _phases(date)[1])


def _without_units(values: npt.NDArray[Any], units: str, name: str, label: str) -> TimeAxis:
    """Integers that are years, months, YYYYMMDD, or nothing but an order; always with a warning."""
    whole = values.astype(np.int64)
    integral = bool((values == whole).all())
    if units and units.lower() not in ("1", "none", "index", "count", "month", "months", "year", "years"):
        raise InputError(
            f"{label}: times have units '{units}', which define no dates; give the dates with --times"
        )
    if integral and bool(((whole > 10_000_000) & (whole < 30_000_000)).all()):
        _warn(label, f"no units; {whole[0]} and the others were read as YYYYMMDD")
        return from_labels([str(v) for v in whole], label=label)
    if (
        integral
        and name.lower() in ("year", "years", "time")
        and bool(((whole > 1500) & (whole < 2500)).all())
    ):
        _warn(label, f"no units; {whole[0]} and the others were read as years")
        return from_labels([str(v) for v in whole], label=label)
    _warn(label, "no dates; steps are taken one unit apart (--times gives their dates)")
    months = integral and name.lower() in ("month", "months") and bool(((whole >= 1) & (whole <= 12)).all())
    phase = (whole - 0.5) / 12 if months else np.zeros(len(values))
    return TimeAxis(
        days=values.astype(np.float64) * (30.4375 if months else 1.0),
        stamps=tuple(str(v) for v in (whole if integral else values)),
        calendar=NO_CALENDAR,
        year_phase=np.asarray(phase, dtype=np.float64),
        day_phase=np.zeros(len(values)),
    )


def index_axis(length: int, *, label: str) -> TimeAxis:
    """Steps without any times, one day apart."""
    _warn(label, "no times; steps are taken one unit apart (--times gives their dates)")
    zeros = np.zeros(length)
    return TimeAxis(
        np.arange(length, dtype=np.float64), tuple(map(str, range(length))), NO_CALENDAR, zeros, zeros
    )


def _warn(label: str, text: str) -> None:
    warnings.warn(f"{label}: {text}", StimputeWarning, stacklevel=3)


def _phases(date: Any) -> tuple[float, float]:
    fraction = (date.hour + (date.minute + (date.second + date.microsecond / 1e6) / 60) / 60) / 24
    length = (
        360 if date.calendar == "360_day" else 366 if cftime.is_leap_year(date.year, date.calendar) else 365
    )
    return min((date.dayofyr - 1 + fraction) / length, np.nextafter(1.0, 0.0)), fraction


def _stamp(date: Any) -> str:
    text = (
        f"{date.year:04d}-{date.month:02d}-{date.day:02d}T{date.hour:02d}:{date.minute:02d}:{date.second:02d}"
    )
    return f"{text}.{date.microsecond:06d}" if date.microsecond else text


def short_labels(stamps: Sequence[str]) -> tuple[str, ...]:
    """Dates only, where every step is at midnight.

    >>> short_labels(["2020-01-01T00:00:00", "2020-01-02T00:00:00"])
    ('2020-01-01', '2020-01-02')
    """
    if stamps and all(s.endswith("T00:00:00") for s in stamps):
        return tuple(s[: -len("T00:00:00")] for s in stamps)
    return tuple(stamps)


def inside(stamps: Sequence[str], first: str, last: str) -> npt.NDArray[np.bool_]:
    """Which steps lie between two (possibly partial, possibly empty) ISO dates, both inclusive.

    >>> inside(["2020-01-31T12:00:00", "2020-02-01T00:00:00"], "", "2020-01").tolist()
    [True, False]
    """
    low, high = (_normal(text) for text in (first, last))
    return np.array(
        [(not low or s >= low) and (not high or s[: len(high)] <= high) for s in stamps], dtype=bool
    )


def _normal(text: str) -> str:
    return text.strip().replace(" ", "T").removesuffix("Z")
