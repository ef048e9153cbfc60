"""Dates in file names, band names and tags: which reading of the digits holds for a whole stack.

Pure functions over text. The names of one stack follow one pattern, so a reading counts only if the same pattern, at
the same place in its order of occurrence, is a date in *every* name. Two readings that survive and differ are an
error, not a guess. Knows nothing about rasters and opens nothing.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal

from stimpute.errors import InputError

Resolution = Literal["year", "month", "day", "time"]
_RANKS: Mapping[Resolution, int] = {"year": 0, "month": 1, "day": 2, "time": 3}
_EARLIEST, _LATEST = 1800, 2199
_DAY = timedelta(days=1)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_YMD = r"(?P<Y>\d{4})(?P<m>\d{2})(?P<d>\d{2})"
_YJ = r"(?P<Y>\d{4})(?P<j>\d{3})"
_HMS = r"(?P<H>\d{2})(?P<M>\d{2})(?P<S>\d{2})"
_MON = rf"(?P<b>{'|'.join(_MONTHS)})"

# Product names whose documentation says which of several dates is the observation. They settle the question alone.
_PRODUCTS: tuple[tuple[str, str], ...] = (
    ("MODIS/VIIRS .AYYYYDDD", rf"(?:^|[._])A{_YJ}(?:\.(?P<H>\d{{2}})(?P<M>\d{{2}}))?(?=[._]|$)"),
    (
        "Landsat Collection acquisition date",
        rf"(?:^|[^A-Za-z0-9])L[COTEM]\d\d_L\w{{3}}_\d{{6}}_{_YMD}_\d{{8}}_",
    ),
    ("Landsat scene YYYYDDD", rf"(?:^|[^A-Za-z0-9])L[COTEM]\d\d{{6}}{_YJ}[A-Z]{{3}}\d\d"),
    ("Sentinel-1/2/3 sensing start", rf"(?:^|[^A-Za-z0-9])S[123][A-D]_\w*?_{_YMD}T{_HMS}(?=_)"),
    ("GOES-R scan start", rf"_s{_YJ}{_HMS}\d_e\d{{14}}"),
    ("IMERG start", rf"\.{_YMD}-S{_HMS}-E\d{{6}}"),
    (
        "ocean colour YYYYDDD range",
        r"(?:^|[^A-Za-z0-9])[A-Z](?P<Y>\d{4})(?P<j>\d{3})(?P<Y2>\d{4})(?P<j2>\d{3})(?=[._])",
    ),
)

# Everything else, most precise first. Every expression is fenced against neighbouring digits.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("YYYYMMDDhhmmss", rf"{_YMD}T?{_HMS}Z?"),
    ("YYYYMMDDhhmm", rf"{_YMD}T?(?P<H>\d{{2}})(?P<M>\d{{2}})Z?"),
    ("YYYYMMDDhh", rf"{_YMD}T?(?P<H>\d{{2}})Z?"),
    ("YYYYMMDD_hhmmss", rf"{_YMD}[ _-]{_HMS}"),
    ("YYYYMMDD_hhmm", rf"{_YMD}[ _-](?P<H>\d{{2}})(?P<M>\d{{2}})"),
    (
        "YYYY-MM-DDThh:mm:ss",
        r"(?P<Y>\d{4})(?P<s>[-_.:/])(?P<m>\d{2})(?P=s)(?P<d>\d{2})[T _-](?!\d{4}[-_.]\d{2}[-_.]\d{2})"
        r"(?P<H>\d{2})[:_-]?(?P<M>\d{2})(?:[:_-]?(?P<S>\d{2})(?:\.\d+)?)?Z?",
    ),
    ("YYYYDDDhhmmss", rf"{_YJ}T?{_HMS}"),
    ("YYYYDDDhhmm", rf"{_YJ}T?(?P<H>\d{{2}})(?P<M>\d{{2}})"),
    ("YYYYMMDD", _YMD),
    ("YYYY-MM-DD", r"(?P<Y>\d{4})(?P<s>[-_./])(?P<m>\d{2})(?P=s)(?P<d>\d{2})"),
    ("YYYYDDD", _YJ),
    ("YYYY_DDD", r"(?P<Y>\d{4})[-_.](?P<j>\d{3})"),
    ("DD-MM-YYYY", r"(?P<d>\d{2})(?P<s>[-_.]?)(?P<m>\d{2})(?P=s)(?P<Y>\d{4})"),
    ("MM-DD-YYYY", r"(?P<m>\d{2})(?P<s>[-_.]?)(?P<d>\d{2})(?P=s)(?P<Y>\d{4})"),
    ("YYYY-Mon-DD", rf"(?P<Y>\d{{4}})[-_.]?{_MON}[-_.]?(?P<d>\d{{2}})"),
    ("DD-Mon-YYYY", rf"(?P<d>\d{{2}})[-_.]?{_MON}[-_.]?(?P<Y>\d{{4}})"),
    ("YYYY-Mon", rf"(?P<Y>\d{{4}})[-_.]?{_MON}(?![a-z])"),
    ("Mon-YYYY", rf"(?<![a-z]){_MON}[-_.]?(?P<Y>\d{{4}})"),
    ("YYYYMM", r"(?P<Y>\d{4})(?P<m>\d{2})"),
    ("YYYY-MM", r"(?P<Y>\d{4})[-_.](?P<m>\d{2})"),
)
_YEAR = ("YYYY", r"(?P<Y>\d{4})")
_LOOSE_TIME = ("YYYYMMDD_hhmmss", "YYYYMMDD_hhmm")  # the second number may be an identifier instead

_FORMAT_CODES: Mapping[str, str] = {
    "Y": r"\d{4}", "y": r"\d{2}", "m": r"\d{2}", "d": r"\d{2}", "j": r"\d{3}", "H": r"\d{2}", "M": r"\d{2}",
    "S": r"\d{2}", "f": r"\d{1,6}", "b": r"[^\W\d_]{3,4}", "B": r"[^\W\d_]{3,9}", "p": r"[AaPp][Mm]", "I": r"\d{2}",
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """One date in one name: the instant, where it stands, and where its digits stand (code, start, stop)."""

    instant: datetime
    span: tuple[int, int]
    parts: tuple[tuple[str, int, int], ...]
    end: datetime | None = None


@dataclass(frozen=True)
class DateReading:
    """One consistent reading of all names.

    Parameters
    ----------
    pattern : what was recognised, for people ("YYYYMMDD").
    found : one date per name, in the order of the names.
    resolution : how precise the names are.
    """

    pattern: str
    found: tuple[Found, ...]
    resolution: Resolution

    @property
    def instants(self) -> tuple[datetime, ...]:
        """The start of every step, naive, UTC by convention."""
        return tuple(f.instant for f in self.found)

    @property
    def ends(self) -> tuple[datetime, ...] | None:
        """The last day (or instant) of every step where the names hold ranges, else None."""
        ends = tuple(f.end for f in self.found if f.end is not None)
        return ends if len(ends) == len(self.found) else None


def detect_dates(names: Sequence[str], date_format: str | None = None, *, where: str = "") -> DateReading:
    """The one reading of ``names`` as dates.

    Parameters
    ----------
    names : file names or band names of one stack (a known suffix such as ``.tif`` may stay on).
    date_format : ``strptime`` format; literal text and the wildcards ``*`` and ``?`` may stand around the codes.
    where : prefix for error messages (a file, a folder).

    Raises
    ------
    InputError : no date in some name, or two readings that differ; names ``--date-format``.

    >>> [d.date().isoformat() for d in detect_dates(["sst_2018031.tif", "sst_2018032.tif"]).instants]
    ['2018-01-31', '2018-02-01']
    """
    if not names:
        raise InputError(f"{_prefix(where)}no names to find dates in")
    readings = _formatted(names, date_format, where) if date_format else find_readings(names)
    if not readings:
        raise InputError(f"{_prefix(where)}{_no_date(names, date_format)}")
    if len(readings) > 1:
        raise InputError(f"{_prefix(where)}{_ambiguous(names, readings, date_format)}")
    return readings[0]


def find_readings(names: Sequence[str]) -> list[DateReading]:
    """Every reading that holds for all names and that no other explains: none, one, or an ambiguity.

    >>> [r.pattern for r in find_readings(["a_01022018", "a_03042018"])]
    ['DD-MM-YYYY', 'MM-DD-YYYY']
    """
    for pattern, expression in _PRODUCTS:
        readings = _readings(names, pattern, re.compile(expression))
        if readings:
            return readings[:1]
    candidates = [r for p, e in _PATTERNS for r in _readings(names, p, _fenced(e)) if not _is_loose(r)]
    plausible = _without_implied(_without_constant(_without_contained(candidates)))
    if not plausible:
        years = _without_constant(_readings(names, _YEAR[0], _fenced(_YEAR[1])))
        return [r for r in years if len(set(r.instants)) == len(names)]
    return _join_ranges(plausible)


def rename(name: str, found: Found, instant: datetime) -> str:
    """The name with the digits of its date replaced (a range keeps its length).

    >>> reading = detect_dates(["NDVI_2016_017.tif"])
    >>> rename("NDVI_2016_017.tif", reading.found[0], datetime(2016, 2, 2))
    'NDVI_2016_033.tif'
    """
    later = None if found.end is None else found.end + (instant - found.instant)
    for code, start, stop in reversed(found.parts):
        moment = later if code.endswith("2") and later is not None else instant
        name = name[:start] + _digits(moment, code[0], name[start:stop]) + name[stop:]
    return name


# ---------------------------------------------------------------------------------------------- one pattern


def _fenced(expression: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\d)(?:{expression})(?!\d)", re.IGNORECASE)


def _readings(names: Sequence[str], pattern: str, expression: re.Pattern[str]) -> list[DateReading]:
    """The k-th match of one pattern in every name, for each k from the left (and from the right if counts differ)."""
    found = [list(_matches(name, expression)) for name in names]
    fewest = min(len(f) for f in found)
    uneven = len({len(f) for f in found}) > 1
    places = [*range(fewest), *(range(-fewest, 0) if uneven else ())]
    readings: list[DateReading] = []
    for place in places:
        dates = tuple(f[place] for f in found)
        resolution = _resolution({code for code, _, _ in dates[0].parts})
        reading = DateReading(pattern, dates, resolution)
        if all(reading.instants != other.instants for other in readings):
            readings.append(reading)
    return readings


def _matches(name: str, expression: re.Pattern[str]) -> Iterator[Found]:
    for match in expression.finditer(name):
        codes = {k: v for k, v in match.groupdict().items() if v is not None and k != "s"}
        instant = _instant(codes)
        if instant is None:
            continue
        end = _instant({"Y": codes["Y2"], "j": codes["j2"]}) if "Y2" in codes else None
        parts = sorted(((k, *match.span(k)) for k in codes), key=lambda part: part[1])
        yield Found(instant, match.span(), tuple(parts), end)


def _instant(codes: Mapping[str, str]) -> datetime | None:
    """The instant of named digit groups; None where they are no date."""
    year = int(codes["Y"])
    if not _EARLIEST <= year <= _LATEST:
        return None
    month = _MONTHS.index(codes["b"].lower()) + 1 if "b" in codes else int(codes.get("m", 1))
    hour, minute, second = (int(codes.get(code, 0)) for code in "HMS")
    try:
        if "j" not in codes:
            return datetime(year, month, int(codes.get("d", 1)), hour, minute, second)
        if not 1 <= int(codes["j"]) <= 365 + calendar.isleap(year):
            return None
        return datetime(year, 1, 1, hour, minute, second) + (int(codes["j"]) - 1) * _DAY
    except ValueError:
        return None


def _resolution(codes: set[str]) -> Resolution:
    if codes & {"H", "M", "S", "I", "f"}:
        return "time"
    if codes & {"d", "j"}:
        return "day"
    return "month" if codes & {"m", "b", "B"} else "year"


# ---------------------------------------------------------------------------------------- choosing among readings


def _is_loose(reading: DateReading) -> bool:
    """A separate number that never changes is hardly the time of day."""
    clocks = {t.time() for t in reading.instants}
    return reading.pattern in _LOOSE_TIME and len(reading.found) > 1 and len(clocks) == 1


def _without_contained(readings: Sequence[DateReading]) -> list[DateReading]:
    """Drop readings of digits that a longer reading covers in every name (the YYYYMM inside a YYYYMMDD)."""

    def covered(inner: DateReading, outer: DateReading) -> bool:
        spans = [(i.span, o.span) for i, o in zip(inner.found, outer.found)]
        return all(o[0] <= i[0] and i[1] <= o[1] for i, o in spans) and any(i != o for i, o in spans)

    return [r for r in readings if not any(covered(r, other) for other in readings)]


def _without_constant(readings: Sequence[DateReading]) -> list[DateReading]:
    """Drop dates that are the same in every name (a version, a processing day) where another reading varies."""
    varying = [r for r in readings if len(set(r.instants)) > 1]
    return varying or list(readings)


def _without_implied(readings: Sequence[DateReading]) -> list[DateReading]:
    """Drop readings that say the same as a more precise one, only less of it; and later copies of one reading."""

    def shortened(instant: datetime, resolution: Resolution) -> tuple[int, ...]:
        whole = (instant.year, instant.month, instant.day, instant.hour, instant.minute, instant.second)
        return whole[: {"year": 1, "month": 2, "day": 3, "time": 6}[resolution]]

    def implied(coarse: DateReading, fine: DateReading) -> bool:
        level = coarse.resolution
        return all(shortened(a, level) == shortened(b, level) for a, b in zip(coarse.instants, fine.instants))

    kept: list[DateReading] = []
    for reading in sorted(readings, key=lambda r: -_RANKS[r.resolution]):
        if not any(implied(reading, finer) for finer in kept):
            kept.append(reading)
    return [r for r in readings if r in kept]


def _join_ranges(readings: list[DateReading]) -> list[DateReading]:
    """Two readings that are the start and the end of one step become one."""
    if len(readings) != 2 or readings[0].pattern != readings[1].pattern:
        return readings
    first, second = sorted(readings, key=lambda r: r.found[0].span)
    if first.resolution == "year" or not _is_range(first, second):
        return readings
    found = tuple(
        Found(a.instant, a.span, a.parts + tuple((f"{c}2", i, j) for c, i, j in b.parts), b.instant)
        for a, b in zip(first.found, second.found)
    )
    return [DateReading(f"{first.pattern} range", found, first.resolution)]


def _is_range(first: DateReading, second: DateReading) -> bool:
    """Whether pairs of dates are the bounds of a step, rather than (say) acquisition and processing."""
    pairs = sorted({(a, b) for a, b in zip(first.instants, second.instants)})
    if any(b < a for a, b in pairs):
        return False
    lengths = {b - a for a, b in pairs}
    if max(lengths) <= _DAY:
        return True
    if len(pairs) == 1 or first.resolution == "month":
        return first.resolution == "month" or all(a.day == 1 and (b + _DAY).day == 1 for a, b in pairs)
    edges = {1, 11, 16, 21}
    if all(a.day in edges and (b + _DAY).day in edges for a, b in pairs):
        return True
    steps = [later[0] - earlier[1] for earlier, later in pairwise(pairs)]
    follows = sum(timedelta(0) <= s <= _DAY for s in steps)
    return len(lengths) == 1 or (min(steps) >= timedelta(0) and 2 * follows >= len(steps))


# ------------------------------------------------------------------------------------------------- --date-format


def _formatted(names: Sequence[str], date_format: str, where: str) -> list[DateReading]:
    tokens, expression = _compile_format(date_format, where)
    starts, ends = date_format.startswith("%"), date_format[-2:-1] == "%"
    tight = (r"(?<!\d)" if starts else "") + expression + (r"(?!\d)" if ends else "")
    for attempt in (tight, expression):
        found = [list(_format_matches(name, re.compile(attempt), tokens)) for name in names]
        fewest = min(len(f) for f in found)
        if fewest:
            break
    resolution = _resolution(set(tokens))
    readings: list[DateReading] = []
    for place in range(fewest):
        reading = DateReading(date_format, tuple(f[place] for f in found), resolution)
        if all(reading.instants != other.instants for other in readings):
            readings.append(reading)
    return _join_ranges(_without_constant(readings))


def _compile_format(date_format: str, where: str) -> tuple[list[str], str]:
    expression, codes, i = "", [], 0
    while i < len(date_format):
        char = date_format[i]
        if char == "%" and i + 1 < len(date_format):
            i += 1
            code = date_format[i]
            if code == "%":
                expression += "%"
            elif code not in _FORMAT_CODES or code in codes:
                raise InputError(
                    f"{_prefix(where)}--date-format {date_format!r}: %{code} is not understood here"
                )
            else:
                codes.append(code)
                expression += f"(?P<{code}>{_FORMAT_CODES[code]})"
        else:
            expression += {"*": ".*?", "?": "."}.get(char) or re.escape(char)
        i += 1
    if not {"Y", "y"} & set(codes):
        raise InputError(f"{_prefix(where)}--date-format {date_format!r} has no year (%Y)")
    return codes, expression


def _format_matches(name: str, expression: re.Pattern[str], codes: Sequence[str]) -> Iterator[Found]:
    for match in expression.finditer(name):
        try:
            instant = datetime.strptime(" ".join(match[c] for c in codes), " ".join(f"%{c}" for c in codes))
        except ValueError:
            continue
        parts = sorted(((c, *match.span(c)) for c in codes), key=lambda part: part[1])
        yield Found(instant, match.span(), tuple(parts))


# ------------------------------------------------------------------------------------------------------- text


def _digits(moment: datetime, code: str, old: str) -> str:
    new = moment.strftime(f"%{code}").zfill(len(old))
    if code == "Y":
        new = f"{moment.year:04d}"
    if old.isupper():
        return new.upper()
    return new.lower() if old.islower() else new


def _prefix(where: str) -> str:
    return f"{where}: " if where else ""


def _no_date(names: Sequence[str], date_format: str | None) -> str:
    example = names[0] if len(names) == 1 else f"{names[0]!r}, {names[1]!r}"
    if date_format:
        missing = next((n for n in names if not _formatted([n], date_format, "")), names[0])
        return f"--date-format {date_format!r} finds no date in {missing!r}"
    return (
        f"no date found that holds for all of {len(names)} names (e.g. {example}); "
        "give --date-format, e.g. '%Y%m%d', or --times"
    )


def _ambiguous(names: Sequence[str], readings: Sequence[DateReading], date_format: str | None) -> str:
    shown = []
    for reading in readings[:3]:
        date = reading.found[0]
        start, stop = date.span
        day = date.instant.date() if reading.resolution != "time" else date.instant
        shown.append(f"{names[0][start:stop]!r} as {reading.pattern} -> {day}")
    fix = (
        "write more of the text around the date into --date-format, e.g. 'scene_%Y%m%d'"
        if date_format
        else "say which with --date-format, e.g. '%Y%m%d' with the text before it"
    )
    return f"the dates in the names are ambiguous, e.g. {names[0]!r}: {' or '.join(shown)}; {fix}"
