"""The steps that come after a stack, in its own calendar and cadence, and the stack they will make. Reads no values.

The future stack is the file that would come next: the same grid, attributes and packing, times that go on, and nothing but
gaps where the forecast belongs. Every sink writes it as it writes a stack that is filled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeWarning
from stimpute.io.cadence import Cadence, Even, cadence_of, even_places, given_cadence
from stimpute.io.cf import time_variable
from stimpute.io.cf_source import CFSource
from stimpute.io.cf_time import EPOCH, NO_CALENDAR, from_dates, is_time_units, parse_label
from stimpute.io.options import ReadOptions
from stimpute.io.raw import Array, RawFile, RawVariable

FloatArray = npt.NDArray[np.float64]
REFERENCE = "forecast_reference_time"
_REFERRING = ("ancillary_variables", "coordinates", "climatology")  # attributes that name other variables


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
        return self.cadence.step_days


def future_of(source: CFSource, steps: int, every: float | None = None) -> Future:
    """The ``steps`` steps after the last one of a source.

    Parameters
    ----------
    every : days between steps; None: as in the source.

    Raises
    ------
    InputError : a single step, or steps so uneven that nothing says when the next one is.
    """
    label, stamps = _label(source), source.steps.stamps
    if len(stamps) < 2 and every is None:
        raise InputError(f"{label}: one time step; a forecast needs a series to go on from")
    days = source.steps.days
    if source.calendar == NO_CALENDAR:
        step = float(np.median(np.diff(days))) if every is None else every
        slots = even_places(days, step, label, every is not None)
        ahead = days[-1] + step * np.arange(1, steps + 1)
        zeros = np.zeros(steps)
        return Future(
            ahead - days[0], tuple(f"{v:g}" for v in ahead), zeros, zeros, slots, Even(step * 86400)
        )
    dates = [parse_label(s, label, source.calendar) for s in stamps]
    cadence = cadence_of(dates, label) if every is None else given_cadence(every, dates, label)
    axis = from_dates(np.array(cadence.after(dates[-1], steps), dtype=object))
    return Future(
        axis.days - days[0], axis.stamps, axis.year_phase, axis.day_phase, cadence.places(dates), cadence
    )


def _label(source: CFSource) -> str:
    return str(source.paths[0]) if source.paths else "the stack"


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
    made.besides = source.besides
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
    variables = {n: replace(v, attrs=_up_to_date(v.attrs, dropped)) for n, v in replaced.items()}
    reference = next((v.short for n, v in replaced.items() if v.short == REFERENCE), "")
    for variable in first.variables.values():
        if variable.name in source.variables:
            variables[variable.name] = _gaps(source, variable, time, len(future.days), dropped, reference)
        elif variable.name not in dropped and variable.name not in replaced:
            variables[variable.name] = variable
    ordered = {n: variables.pop(n) for n in first.variables if n in variables} | variables
    last = Path(str(source.paths[-1])) if len(source.paths) > 1 else None
    return RawFile(
        path=first.path if last is None else last.with_name(f"{last.stem}_forecast{last.suffix}"),
        format="memory" if first.format == "GeoTIFF" else first.format,
        variant=first.variant,
        dims={**first.dims, time: len(future.days)},
        variables=ordered,
        groups=first.groups,
        native=None if first.format in ("memory", "GeoTIFF") else first.native,
        unlimited=first.unlimited,
    )


def _up_to_date(attrs: Mapping[str, Any], dropped: set[str]) -> dict[str, Any]:
    """Attributes without the names of variables that are left out, and without the range of the values that were."""
    short = {n.rpartition("/")[2] for n in dropped}
    out = {k: v for k, v in attrs.items() if k != "actual_range"}
    for key in _REFERRING:
        before = str(attrs.get(key, "")).split()
        kept = [w for w in before if w not in short]
        if kept != before:
            out[key] = " ".join(kept)
            if not kept:
                del out[key]
    return out


def _gaps(
    source: CFSource, variable: RawVariable, time: str, steps: int, dropped: set[str], reference: str
) -> RawVariable:
    """A forecast variable: its fill everywhere."""
    dims = variable.dims if time in variable.dims else (time, *variable.dims)
    sizes = dict(zip(variable.dims, variable.shape)) | {time: steps}
    shape = tuple(sizes[d] for d in dims)
    layer = next(i for i, described in enumerate(source.layers) if described.variable == variable.name)
    packing = source.packing(layer)
    stored = packing.as_stored(source.fill_number(layer))
    attrs = _up_to_date(variable.attrs, dropped)
    if packing.fill is None:
        attrs["_FillValue"] = stored[()]
    named = str(attrs.get("coordinates", "")).split()
    if reference and reference not in named:
        attrs["coordinates"] = " ".join([*named, reference])

    def load(key: tuple[slice, ...]) -> Array:
        lengths = [len(range(*k.indices(n))) for k, n in zip(key, shape)] if key else list(shape)
        return np.full(lengths, stored, dtype=packing.stored_dtype)

    return RawVariable(variable.name, dims, shape, variable.dtype, attrs, load, variable.storage)


def _times(source: CFSource, future: Future, dated: RawVariable | None, time: str) -> list[RawVariable]:
    """The time coordinate, its bounds and the time the forecast starts from."""
    label = _label(source)
    if source.calendar == NO_CALENDAR:
        return _plain_numbers(source, future, dated, time)
    dates = [parse_label(s, label, source.calendar) for s in future.stamps]
    own = dated is not None and dated.dtype.kind in "iuf" and is_time_units(dated.text("units"))
    own = own and "%Y" not in dated.text("units") and source.options.times is None  # type: ignore[union-attr]
    if not own or dated is None:
        name = dated.name if dated is not None and source.options.times is None else time
        attrs = {"standard_name": "time", "axis": "T", "units": EPOCH, "calendar": source.calendar}
        template = RawVariable(name, (time,), (0,), np.dtype(np.float64), attrs, lambda key: np.zeros(0))
        return [_constant(template, (time,), _numbers(dates, EPOCH))]
    units = dated.text("units")
    made = [_constant(dated, (time,), _whole(_numbers(dates, units), dated.dtype))]
    bounds = source.files[0].find(dated.text("bounds"), dated.group) if dated.text("bounds") else None
    if bounds is not None and bounds.dims[:1] == (time,) and len(bounds.dims) == 2:
        edges = np.stack([_numbers(e, units) for e in _edges_to_come(source, future, bounds, dates)], axis=1)
        made.append(_constant(bounds, bounds.dims, _whole(edges, bounds.dtype)))
    return [*made, _reference(source, dated)]


def _plain_numbers(
    source: CFSource, future: Future, dated: RawVariable | None, time: str
) -> list[RawVariable]:
    """Times that are no dates, in their own numbers."""
    if dated is None or dated.dtype.kind not in "iuf":
        return []
    first, last = (float(source.steps.stamps[step]) for step in (0, -1))
    so_far = float(np.ptp(source.steps.days))
    per_day = (last - first) / so_far if so_far else 1.0
    ahead = last + (future.days - so_far) * per_day
    return [_constant(dated, (time,), _whole(ahead, dated.dtype))]


def _edges_to_come(
    source: CFSource, future: Future, bounds: RawVariable, dates: Sequence[Any]
) -> list[list[Any]]:
    """Both ends of every step to come: each goes on as it has so far, else keeps its distance from the time."""
    known = _edges_so_far(source, bounds)
    last = parse_label(source.steps.stamps[-1], _label(source), source.calendar)
    out = []
    for edges in zip(*known):
        ahead = None
        if not isinstance(future.cadence, Even) and len(edges) > 1:
            try:
                cadence = cadence_of(edges, "")
                same = type(cadence) is type(future.cadence) and cadence.step_days == future.step_days
                ahead = cadence.after(edges[-1], len(dates)) if same else None
            except InputError:
                ahead = None
        out.append(ahead if ahead is not None else [d + (edges[-1] - last) for d in dates])
    return out


def _edges_so_far(source: CFSource, bounds: RawVariable) -> list[tuple[Any, ...]]:
    """Dates (start, end) of every step that a file holds."""
    files, lead = source.files, source.variables[0]
    read: dict[int, Any] = {}
    for number in {places[0][0] for places in source.steps.places if places}:
        file = files[number]
        dated = time_variable(file, file.variables[lead], source.axes[number][lead])
        units = dated.text("units") if dated is not None else EPOCH
        read[number] = cftime.num2date(
            file.variables[bounds.name].read(), units, source.calendar, only_use_cftime_datetimes=True
        )
    return [tuple(read[file][index]) for (file, index), *_ in (p for p in source.steps.places if p)]


def _reference(source: CFSource, dated: RawVariable) -> RawVariable:
    """``forecast_reference_time``: the last step observed, in the words of a scalar of that name where there is one."""
    name = f"{dated.group}/{REFERENCE}" if dated.group else REFERENCE
    last = parse_label(source.steps.stamps[-1], REFERENCE, source.calendar)
    before = source.files[0].variables.get(name)
    units = "" if before is None or before.dims else before.text("units")
    if before is not None and is_time_units(units) and "%Y" not in units:
        number = _whole(_numbers([last], units), before.dtype)[0]
        return _constant(replace(before, attrs={**before.attrs, "calendar": source.calendar}), (), number)
    attrs = {
        "standard_name": REFERENCE, "long_name": "last step the forecast starts from",
        "units": dated.text("units"), "calendar": source.calendar,
    }  # fmt: skip
    number = _numbers([last], dated.text("units"))[0]
    template = RawVariable(name, (), (), number.dtype, attrs, lambda key: number)
    return _constant(template, (), number)


def _numbers(dates: Sequence[Any], units: str) -> FloatArray:
    """Dates (cftime, one calendar) in CF units."""
    array = np.array(list(dates), dtype=object)
    return np.asarray(cftime.date2num(array, units, calendar=array[0].calendar), dtype=np.float64)


def _whole(numbers: FloatArray, dtype: np.dtype[Any]) -> Array:
    """In the stored type, or in a wider one where that would round or overflow."""
    if dtype.kind not in "iu":
        return numbers.astype(dtype)
    whole = np.rint(numbers)
    if not bool((np.abs(whole - numbers) < 1e-6).all()):
        return numbers
    for wider in (dtype, np.dtype(np.int32)):
        if np.iinfo(wider).min <= whole.min() and whole.max() <= np.iinfo(wider).max:
            return whole.astype(wider)
    return numbers


def _constant(like: RawVariable, dims: tuple[str, ...], values: Any) -> RawVariable:
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
