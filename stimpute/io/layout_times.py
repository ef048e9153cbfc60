"""Times as an output states them: in the first file's units, for steps that several files, or none, hold."""

from __future__ import annotations

import cftime
import numpy as np
import numpy.typing as npt

from stimpute.io.cf import time_variable
from stimpute.io.cf_source import CFSource
from stimpute.io.cf_time import NO_CALENDAR, parse_label, time_number
from stimpute.io.raw import RawFile, RawVariable


def is_time_number(source: CFSource, raw: RawVariable) -> bool:
    """Whether a variable of the first file is its time coordinate, or the bounds of it, in numbers."""
    return _time_of(source.files[0], source, raw) is not None


def _time_of(file: RawFile, source: CFSource, raw: RawVariable) -> RawVariable | None:
    """The dated variable that a variable is, or is the bounds of; None otherwise."""
    number = source.files.index(file)
    lead = source.axes[number][source.variables[0]]
    if lead.time is None:
        return None
    dated = time_variable(file, file.variables[source.variables[0]], lead)
    if dated is None or dated.dtype.kind not in "iuf":
        return None
    bounds = (dated.text("bounds"), dated.text("climatology"))
    return dated if raw.name == dated.name or (raw.short in bounds and raw.dims[:1] == (lead.time,)) else None


def time_numbers(source: CFSource, raw: RawVariable) -> npt.NDArray[np.float64] | None:
    """Times in the first file's units where they cannot simply be copied: other units in another file, inserted steps."""
    files = source.files
    dated = [_time_of(f, source, raw) for f in files]
    units = [(d.text("units"), d.text("calendar")) for d in dated if d is not None]
    inserted = any(not p for p in source.steps.places)
    if (len(set(units)) == 1 and not inserted) or source.calendar == NO_CALENDAR or dated[0] is None:
        return None
    order = np.argsort(source.steps.position)
    out = np.empty((len(order), *(source.files[0].dims[d] for d in raw.dims[1:])))
    for at, step in enumerate(order):
        places = source.steps.places[step]
        if not places or raw.name == dated[0].name:
            date = parse_label(source.steps.stamps[step], raw.name, source.calendar)
            out[at] = time_number(date, units[0][0])
            continue
        file, index = places[0]
        numbers = (
            files[file]
            .variables[raw.name]
            .read((slice(index, index + 1), *(slice(None),) * (out.ndim - 1)))[0]
        )
        if units[file] == units[0]:
            out[at] = numbers
            continue
        dates = cftime.num2date(numbers, units[file][0], source.calendar, only_use_cftime_datetimes=True)
        out[at] = cftime.date2num(dates, units[0][0], calendar=source.calendar)
    return out
