"""When the bands of raster files were taken: as the user says, by names of files, folders or bands, by tags. Reads no data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stimpute.errors import InputError
from stimpute.io.cf_time import TimeAxis, decode_times, from_labels
from stimpute.io.dates import DateReading, detect_dates, find_readings
from stimpute.io.geotiff_bands import Band, Header
from stimpute.io.options import ReadOptions

_DATE_TAGS = (
    "time",
    "date",
    "datetime",
    "acquisitiondatetime",
    "tifftag_datetime",
    "sensing_time",
    "acquisition_date",
)


def date_files(headers: Sequence[Header], options: ReadOptions) -> tuple[list[TimeAxis], DateReading | None]:
    """One time axis per file, in file order, and how names were read if they were.

    Raises
    ------
    InputError : no dates, ambiguous ones, or not as many as there are bands.
    """
    if options.times is not None:
        return _given(headers, options.times), None
    if len(headers) > 1 and all(len(h.bands) == 1 for h in headers):
        return _dated_files(headers, options.date_format)
    several = [h for h in headers if len(h.bands) > 1]
    if several:
        return [_dated_bands(h, options.date_format, headers) for h in headers], None
    return _dated_files(headers, options.date_format)


def _given(headers: Sequence[Header], times: Sequence[str]) -> list[TimeAxis]:
    bands = [len(h.bands) for h in headers]
    if sum(bands) != len(times):
        what = _bands_in(headers[0]) if len(headers) == 1 else f"{sum(bands)} bands in {len(headers)} files"
        raise InputError(f"{headers[0].path}: {what}, but --times gives {len(times)} dates")
    ends = np.cumsum(bands)
    return [from_labels(times[b - n : b], label="--times") for b, n in zip(ends, bands)]


def _dated_files(
    headers: Sequence[Header], date_format: str | None
) -> tuple[list[TimeAxis], DateReading | None]:
    """Dates in the file names; else in the folders' names; else in the files' own tags."""
    names = [h.name for h in headers]
    where = str(Path(headers[0].path).parent) if len(headers) > 1 else ""
    parents = [h.path.rstrip("/").rpartition("/")[0].rpartition("/")[2] for h in headers]
    for candidates in (names, parents):
        if date_format is None and not find_readings(candidates):
            continue
        if date_format is not None and candidates is parents:
            continue
        reading = detect_dates(candidates, date_format, where=where)
        axes = [from_labels([t.isoformat()], label=h.path) for t, h in zip(reading.instants, headers)]
        return axes, reading if candidates is names else None
    tagged = [_tagged(h, h.bands[0]) for h in headers]
    if all(t is not None for t in tagged):
        return [t for t in tagged if t is not None], None
    detect_dates(names, date_format, where=where)  # raises, with the names
    raise AssertionError("unreachable")


def _dated_bands(header: Header, date_format: str | None, headers: Sequence[Header]) -> TimeAxis:
    """Dates of the bands of one of several files: in their descriptions or in their tags."""
    descriptions = [b.description for b in header.bands]
    if all(descriptions) and (date_format is not None or find_readings(descriptions)):
        reading = detect_dates(descriptions, date_format, where=f"{header.path} (band names)")
        return from_labels([t.isoformat() for t in reading.instants], label=header.path)
    tagged = [_tagged(header, b) for b in header.bands]
    if all(t is not None for t in tagged):
        return _joined([t for t in tagged if t is not None])
    if len(header.bands) == 1:
        raise _of_two_kinds(headers)
    names = ", ".join(repr(d) for d in descriptions[:3]) if any(descriptions) else "none"
    one = "" if len(headers) == 1 else "; a file of a stack holds one band, or bands that are steps"
    raise InputError(
        f"{header.path}: {len(header.bands)} bands without dates (band names: {names}), so they may be steps or "
        f"different variables; if they are steps, give --times (one date per band) or --date-format{one}"
    )


def _of_two_kinds(headers: Sequence[Header]) -> InputError:
    """Names the odd file where some hold one undated band and others hold several."""
    kinds = [[h for h in headers if (len(h.bands) > 1) == several] for several in (True, False)]
    odd, usual = (files[0] for files in sorted(kinds, key=len))
    return InputError(
        f"{odd.path}: {_bands_in(odd)}, where {usual.path} holds {_bands_in(usual)}: a stack is files of one band each, "
        "dated by their names, or files of dated bands; leave it out, or read it alone"
    )


def _bands_in(header: Header) -> str:
    number = len(header.bands)
    return "1 band" if number == 1 else f"{number} bands"


def _tagged(header: Header, band: Band) -> TimeAxis | None:
    """The date in a band's tags (or, of a file of one band, in the file's)."""
    spaces = [*band.tags.values(), *(header.tags.values() if len(header.bands) == 1 else ())]
    tags = {k.lower(): v for space in reversed(spaces) for k, v in space.items()}
    file_tags = {k.lower(): v for space in header.tags.values() for k, v in space.items()}
    if "netcdf_dim_time" in tags:
        units = {key: file_tags.get(f"time#{key}", "") for key in ("units", "calendar")}
        if units["units"]:
            number = np.array([float(tags["netcdf_dim_time"])])
            return decode_times(number, {k: v for k, v in units.items() if v}, label=header.path)
    for key, unit in (("system:time_start", "milliseconds"), ("grib_valid_time", "seconds")):
        count = re.match(r"\s*(\d{6,13})\b", tags.get(key, ""))
        if count:
            return decode_times(
                np.array([int(count[1])]), {"units": f"{unit} since 1970-01-01"}, label=header.path
            )
    tags["description"] = band.description
    for key in ("description", *_DATE_TAGS):
        readings = find_readings([tags[key]]) if key in tags else []
        if len(readings) == 1:
            return from_labels([readings[0].instants[0].isoformat()], label=header.path)
    return None


def _joined(axes: Sequence[TimeAxis]) -> TimeAxis:
    if len({a.calendar for a in axes}) > 1:
        names = " and ".join(sorted({a.calendar for a in axes}))
        raise InputError(f"bands of one file are dated in different calendars ({names}); give --times")
    return TimeAxis(
        days=np.concatenate([a.days for a in axes]),
        stamps=tuple(s for a in axes for s in a.stamps),
        calendar=axes[0].calendar,
        year_phase=np.concatenate([a.year_phase for a in axes]),
        day_phase=np.concatenate([a.day_phase for a in axes]),
    )


def refuse_shared_dates(headers: Sequence[Header], axes: Sequence[TimeAxis], options: ReadOptions) -> None:
    """Refuse files with several bands of one date, which are several variables rather than steps.

    Raises
    ------
    InputError : names the file and the date, unless ``--dedupe`` or ``--times`` decides.
    """
    if options.dedupe is not None or options.times is not None:
        return
    for header, axis in zip(headers, axes):
        repeats = len(axis.days) - len(np.unique(axis.days))
        if repeats:
            raise InputError(
                f"{header.path}: {repeats + 1} or more bands share a date ({axis.stamps[0]}, ...); several variables in "
                "one file are not read: take one out with gdal_translate -b, or decide with --dedupe first, last or mean"
            )
