"""How a series of dates goes on: evenly, by calendar months, on the same days of every month, afresh every 1 January.

Reads no files. A cadence numbers the places of a series, so that steps that are missing leave places empty, and says
the date of any place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import cftime
import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.io.cf_time import EPOCH

FloatArray = npt.NDArray[np.float64]
_UNEVEN = 0.15  # of a step that a time may be off its place
_STRAYS = 0.1  # part of the steps that may be further off
_EXACT = 1e-6  # of a step: times that are even to the rounding of their storage
_DRIFT = 0.1  # of a month that the one step of every month may move
_MONTH = 30.436875
_MOST_IN_A_MONTH = 6
_HABITS = (
    (1, 11, 21),
    (10, 20, 31),
    (1, 16),
    (15, 31),
)  # dekads and half months, even where a month has 30 days
_EPOCH_DATE = EPOCH.partition("since ")[2]
Clock = tuple[int, int, int, int]  # hour, minute, second, microsecond


class Cadence(Protocol):
    """How a series goes on."""

    @property
    def step_days(self) -> float:
        """Days between steps; the mean where they differ."""
        ...

    def places(self, dates: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Numbers of the places of some dates, the last at 0.

        Raises
        ------
        InputError : too many dates that fit no place.
        """
        ...

    def after(self, last: Any, steps: int) -> list[Any]:
        """The dates of the ``steps`` places after ``last``."""
        ...


@dataclass(frozen=True)
class Even:
    """Steps ``seconds`` apart; ``given``: by the user, so that nothing is irregular."""

    seconds: float
    label: str = ""
    given: bool = False

    @property
    def step_days(self) -> float:
        """Days between steps."""
        return self.seconds / 86400

    def places(self, dates: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Multiples of the step."""
        return even_places(_days(dates), self.step_days, self.label, self.given)

    def after(self, last: Any, steps: int) -> list[Any]:
        """Whole multiples of the step after the last.

        >>> [str(d) for d in Even(43200.0).after(cftime.datetime(2019, 12, 31, 12), 2)]
        ['2020-01-01 00:00:00', '2020-01-01 12:00:00']
        """
        units = f"seconds since {_EPOCH_DATE}"
        first = float(cftime.date2num(last, units, calendar=last.calendar))
        return [_date_of(first + self.seconds * k, units, last.calendar) for k in range(1, steps + 1)]


@dataclass(frozen=True)
class Monthly:
    """Steps ``months`` calendar months apart.

    Parameters
    ----------
    day : of the month, the last one in shorter months (31: always the last); 0: see the others.
    share : of the month that has passed; None: see ``tails``.
    tails : day and clock by month of the year, as last seen.
    """

    months: int
    day: int = 0
    share: float | None = None
    tails: Mapping[int, tuple[int, Clock]] = field(default_factory=dict)

    @property
    def step_days(self) -> float:
        """Days between steps, on average."""
        return self.months * _MONTH

    def places(self, dates: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Months, in steps."""
        numbers = np.array([_month(d) for d in dates], dtype=np.int64)
        return np.asarray((numbers - numbers[-1]) // self.months)

    def after(self, last: Any, steps: int) -> list[Any]:
        """The same place of later months.

        >>> Monthly(1, 31).after(cftime.datetime(2020, 1, 31), 1)[0].isoformat()
        '2020-02-29T00:00:00'
        """
        return [self._in(_month(last) + self.months * k, last) for k in range(1, steps + 1)]

    def _in(self, month: int, last: Any) -> Any:
        year, index = divmod(month, 12)
        length = _month_length(year, index + 1, last.calendar)
        if self.share is not None:
            units = f"seconds since {year:04d}-{index + 1:02d}-01 00:00:00"
            return _date_of(round(self.share * length * 86400, 3), units, last.calendar)
        day, clock = (
            (self.day, _clock(last)) if self.day else self.tails.get(index + 1, (last.day, _clock(last)))
        )
        return cftime.datetime(year, index + 1, min(day, length), *clock, calendar=last.calendar)


@dataclass(frozen=True)
class DaysOfMonth:
    """Steps on the same days of every month (dekads, half months, pentads); a day beyond 28 is the last of shorter months."""

    days: tuple[int, ...]

    @property
    def step_days(self) -> float:
        """Days between steps, on average."""
        return _MONTH / len(self.days)

    def places(self, dates: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Months and the rank among their days."""
        numbers = np.array([_month(d) * len(self.days) + self._rank(d) for d in dates], dtype=np.int64)
        return np.asarray(numbers - numbers[-1])

    def after(self, last: Any, steps: int) -> list[Any]:
        """The days that follow.

        >>> [d.strftime("%m-%d") for d in DaysOfMonth((1, 11, 21)).after(cftime.datetime(2021, 12, 21), 2)]
        ['01-01', '01-11']
        """
        start = _month(last) * len(self.days) + self._rank(last)
        return [self._at(start + k, last) for k in range(1, steps + 1)]

    def _rank(self, date: Any) -> int:
        return int(np.abs(np.array(_clamped(self.days, date)) - date.day).argmin())

    def _at(self, number: int, last: Any) -> Any:
        month, rank = divmod(number, len(self.days))
        year, index = divmod(month, 12)
        day = min(self.days[rank], _month_length(year, index + 1, last.calendar))
        return cftime.datetime(year, index + 1, day, *_clock(last), calendar=last.calendar)


@dataclass(frozen=True)
class DaysOfYear:
    """Every ``step`` days from day ``first`` of every year on (MODIS composites: 1, 17, ..., 353)."""

    step: int
    first: int = 1
    count: int = 0  # places of a year; 0: as many as begin in 365 days

    @property
    def step_days(self) -> float:
        """Days between steps but for the last one of a year."""
        return float(self.step)

    @property
    def _each_year(self) -> int:
        return self.count or (365 - self.first) // self.step + 1

    def places(self, dates: Sequence[Any]) -> npt.NDArray[np.int64]:
        """Years and the rank in them."""
        numbers = np.array([self._number(d) for d in dates], dtype=np.int64)
        return np.asarray(numbers - numbers[-1])

    def after(self, last: Any, steps: int) -> list[Any]:
        """The places that follow, over the turn of the year.

        >>> [d.dayofyr for d in DaysOfYear(16).after(cftime.datetime(2020, 12, 18), 2)]
        [1, 17]
        """
        out = []
        for k in range(1, steps + 1):
            year, rank = divmod(self._number(last) + k, self._each_year)
            units = f"days since {year:04d}-01-01 00:00:00"
            day = _date_of(self.first - 1 + rank * self.step, units, last.calendar)
            out.append(day.replace(**dict(zip(("hour", "minute", "second", "microsecond"), _clock(last)))))
        return out

    def _number(self, date: Any) -> int:
        return int(date.year * self._each_year + (date.dayofyr - self.first) // self.step)


def cadence_of(dates: Sequence[Any], label: str) -> Cadence:
    """How a series of increasing dates (cftime, one calendar) goes on.

    One step a month on the same day is monthly, dekads and half months are what they are; times that are even to their
    rounding are even; then come one step somewhere in every month, other days that every month shares, the same days of
    every year, and times that are nearly even.

    Raises
    ------
    InputError : uneven steps.

    >>> cadence_of([cftime.datetime(2020, m, d) for m, d in ((1, 31), (2, 29), (3, 31))], "")
    Monthly(months=1, day=31, share=None, tails={})
    >>> cadence_of([cftime.datetime(2020, 1, 1), cftime.datetime(2020, 1, 29), cftime.datetime(2020, 2, 26)], "").step_days
    28.0
    """
    days = _days(dates)
    step = float(np.median(np.diff(days)))
    same_clock = len({_clock(d) for d in dates}) == 1
    apart = np.diff([_month(d) for d in dates])
    once = step >= 27 and int(apart.min()) >= 1
    if once and same_clock and (day := _same_day(dates)):
        return Monthly(int(np.gcd.reduce(apart)), day)
    monthly_days = _days_of_month(dates) if same_clock else None
    if monthly_days and monthly_days.days in _HABITS:
        return monthly_days
    even = np.diff(days) / step
    if bool((np.abs(even - np.rint(even)) < _EXACT).all()):
        return Even(_whole_seconds(step), label)
    if once and (monthly := _somewhere_in(dates, int(np.gcd.reduce(apart)))):
        return monthly
    if same_clock and (found := monthly_days or _days_of_year(dates, step)):
        return found
    even_places(days, step, label, False)
    return Even(_whole_seconds(step), label)


def given_cadence(every: float, dates: Sequence[Any], label: str) -> Cadence:
    """What the user says: ``every`` days; calendar months where that is their mean length, times a whole number.

    Raises
    ------
    InputError : less than a second, which no date tells.

    >>> given_cadence(30.436875, [cftime.datetime(2020, 1, 31)], "").after(cftime.datetime(2020, 1, 31), 1)[0].isoformat()
    '2020-02-29T00:00:00'
    """
    if every * 86400 < 1:
        raise InputError(
            f"{label}: --every {every:g} days is less than a second; give more, such as --every 1h"
        )
    months = round(every / _MONTH)
    if months and abs(every - months * _MONTH) < 1e-9 * every:
        return Monthly(months, 31 if all(_is_month_end(d) for d in dates) else int(dates[-1].day))
    return Even(float(round(every * 86400)), label, True)


def even_places(days: FloatArray, step: float, label: str, given: bool) -> npt.NDArray[np.int64]:
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


def _same_day(dates: Sequence[Any]) -> int:
    """The day of the month they share, where short months end before it; 0: none."""
    day = max(int(d.day) for d in dates)
    return day if all(d.day == _clamped((day,), d)[0] for d in dates) else 0


def _somewhere_in(dates: Sequence[Any], months: int) -> Monthly | None:
    """One step a month, such as its middle; None where it wanders through the month."""
    shares = np.array([_share(d) for d in dates])
    if np.ptp(shares) > _DRIFT:
        return None
    if np.ptp(shares) < _EXACT:
        return Monthly(months, share=float(shares.mean()))
    return Monthly(months, tails={int(d.month): (int(d.day), _clock(d)) for d in dates})


def _days_of_month(dates: Sequence[Any]) -> DaysOfMonth | None:
    """The few days that come back in every month; None where there are no such days."""
    days = {int(d.day) for d in dates if d.day < 28 or not _is_month_end(d)}
    ends = {int(d.day) for d in dates if _is_month_end(d)} - days
    days |= {max(ends)} if len(ends) == 1 else {31} if ends else set()
    ordered = tuple(sorted(days))
    if not 2 <= len(ordered) <= _MOST_IN_A_MONTH or len(dates) <= len(ordered):
        return None
    lengths = np.diff([*ordered, ordered[0] + 30])
    if lengths.max() > 1.5 * lengths.min():
        return None
    cadence = DaysOfMonth(ordered)
    places = cadence.places(dates)
    return cadence if bool((np.diff(places) >= 1).all()) else None


def _days_of_year(dates: Sequence[Any], step: float) -> DaysOfYear | None:
    """Composites that start afresh every year; None where they do not."""
    whole = round(step)
    if abs(step - whole) > _EXACT or not 2 <= whole <= 183 or dates[0].year == dates[-1].year:
        return None
    off = {(d.dayofyr - 1) % whole for d in dates}
    if len(off) > 1:
        return None
    first = off.pop() + 1
    usual = ((360 if dates[0].calendar == "360_day" else 365) - first) // whole + 1
    seen = max((d.dayofyr - first) // whole for d in dates) + 1
    cadence = DaysOfYear(whole, first, seen if seen == usual - 1 else usual)
    return cadence if bool((np.diff(cadence.places(dates)) >= 1).all()) else None


def _clamped(days: Sequence[int], date: Any) -> list[int]:
    length = _month_length(date.year, date.month, date.calendar)
    return [min(d, length) for d in days]


def _days(dates: Sequence[Any]) -> FloatArray:
    array = np.array(list(dates), dtype=object)
    return np.asarray(cftime.date2num(array, EPOCH, calendar=array[0].calendar), dtype=np.float64)


def _date_of(number: float, units: str, calendar: str) -> Any:
    whole = round(number)
    exact = whole if abs(whole - number) < 1e-3 else number
    return cftime.num2date(exact, units, calendar, only_use_cftime_datetimes=True)


def _whole_seconds(step: float) -> float:
    return float(round(step * 86400)) if step * 86400 >= 1 else step * 86400


def _clock(date: Any) -> Clock:
    return (int(date.hour), int(date.minute), int(date.second), int(date.microsecond))


def _month(date: Any) -> int:
    return int(date.year) * 12 + int(date.month) - 1


def _share(date: Any) -> float:
    hour, minute, second, micro = _clock(date)
    passed = date.day - 1 + (hour + (minute + (second + micro / 1e6) / 60) / 60) / 24
    return float(passed / _month_length(date.year, date.month, date.calendar))


def _month_length(year: int, month: int, calendar: str) -> int:
    if calendar == "360_day":
        return 30
    if month == 2:
        return 29 if cftime.is_leap_year(year, calendar) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _is_month_end(date: Any) -> bool:
    return bool(date.day == _month_length(date.year, date.month, date.calendar))
