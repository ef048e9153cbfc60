"""What an output holds, before any format: the input's variables, cut to the selection, and the new ones beside them.

Built from a source; the NetCDF, Zarr and in-memory sinks each write it in their own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cftime
import numpy as np
import numpy.typing as npt

from stimpute.errors import OutputError
from stimpute.io.cf import Axes, time_variable
from stimpute.io.cf_source import CFSource
from stimpute.io.cf_time import NO_CALENDAR, parse_label
from stimpute.io.options import SinkOptions
from stimpute.io.packing import DEFAULT_FILLS, Packing
from stimpute.io.raw import Array, RawFile, RawVariable
from stimpute.protocols import FILLED, FLAG_MEANINGS, OBSERVED, Filled, Window

Role = Literal["copied", "filled", "flag", "error", "quantile", "member"]
REALIZATION = "realization"  # the dimension of members
SLAB_BYTES = 64 << 20
ERROR_FILL = np.float32(9.969209968386869e36)
_STORED_LIMITS = ("valid_range", "valid_min", "valid_max")


@dataclass(frozen=True, eq=False)
class OutVariable:
    """One variable of the output. ``of`` is the variable it is copied from, or belongs to."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any]
    role: Role
    of: str
    storage: Mapping[str, Any] = field(default_factory=dict)
    level: float | None = None  # of a quantile
    member: int | None = None  # the one that is being written


@dataclass(frozen=True, eq=False)
class Layout:
    """The whole output: lengths of dimensions, groups with their attributes, variables in order."""

    dims: Mapping[str, int]
    unlimited: frozenset[str]
    groups: Mapping[str, Mapping[str, Any]]
    variables: tuple[OutVariable, ...]
    packings: Mapping[str, Packing]  # of the filled variables, as written

    def of(self, variable: str, role: Role) -> list[OutVariable]:
        """The output variables that belong to a filled one."""
        return [v for v in self.variables if v.of == variable and v.role == role]


def layout_of(source: CFSource, options: SinkOptions) -> Layout:
    """Plan the output of a source.

    Raises
    ------
    OutputError : files without a time dimension cannot become one file; an unusable ``--dtype``.
    """
    first = source.files[0]
    lead = source.axes[0][source.variables[0]]
    if lead.time is None and len(source.files) > 1:
        raise OutputError(
            f"{first.path} and the others have no time dimension, so they cannot be merged into one file; "
            "give a folder as the output, which gets one file per input"
        )
    sizes = {lead.y: source.selection.rows.size, lead.x: source.selection.cols.size}
    dims = {d: sizes.get(d, n) for d, n in first.dims.items()}
    if lead.time is not None:
        dims[lead.time] = len(source.steps.days)
    if options.members:
        dims[REALIZATION] = options.members
    packings = {v: _packing(source, v, options) for v in source.variables}
    new = [n for v in source.variables for n in _new_variables(first.variables[v], dims, options)]
    replaced = {n.name for n in new}
    kept = [
        _filled(source, v, dims, packings[v.name], [n.short for n in map(_Named, new) if n.of == v.name])
        if v.name in source.variables
        else _copied(source, v, dims)
        for v in first.variables.values()
        if v.name not in replaced
    ]
    return Layout(dims, first.unlimited, first.groups, (*kept, *new), packings)


class _Named:
    """Short name and owner of a new variable."""

    def __init__(self, variable: OutVariable) -> None:
        self.short, self.of = variable.name.rpartition("/")[2], variable.of


def _packing(source: CFSource, name: str, options: SinkOptions) -> Packing:
    packing = source.packings[0][name]
    if options.dtype is not None:
        return packing.with_dtype(options.dtype)
    if source.needs_fill and packing.fill is None:
        fill = source.fill_number(next(i for i, layer in enumerate(source.layers) if layer.variable == name))
        return replace(packing, fill=fill, nodata=(*packing.nodata, fill))
    return packing


def _copied(source: CFSource, variable: RawVariable, dims: Mapping[str, int]) -> OutVariable:
    dtype = variable.dtype
    if _is_time_number(source, variable) and dtype.kind in "iu":
        numbers = _time_numbers(source, variable)
        if numbers is not None and bool((numbers != np.rint(numbers)).any()):
            dtype = np.dtype(np.float64)
    shape = tuple(dims[d] for d in variable.dims)
    return OutVariable(
        variable.name, variable.dims, shape, dtype, variable.attrs, "copied", variable.name, variable.storage
    )


def _filled(
    source: CFSource,
    variable: RawVariable,
    dims: Mapping[str, int],
    packing: Packing,
    ancillary: Sequence[str],
) -> OutVariable:
    attrs = dict(variable.attrs)
    before = source.packings[0][variable.name]
    if not packing.same_as(before):
        attrs = _repacked_attrs(attrs, packing, before)
    if ancillary:
        named = str(attrs.get("ancillary_variables", "")).split()
        attrs["ancillary_variables"] = " ".join([*named, *(a for a in ancillary if a not in named)])
    shape = tuple(dims[d] for d in variable.dims)
    return OutVariable(
        variable.name,
        variable.dims,
        shape,
        packing.stored_dtype,
        attrs,
        "filled",
        variable.name,
        variable.storage,
    )


def _repacked_attrs(attrs: Mapping[str, Any], packing: Packing, before: Packing) -> dict[str, Any]:
    """Attributes that say how the numbers are stored, brought up to date."""
    out = {k: v for k, v in attrs.items() if k not in ("_FillValue", "missing_value")}
    if packing.fill is not None:
        out["_FillValue"] = packing.dtype.type(packing.fill)
    if packing.stored_dtype == before.stored_dtype:
        return out
    for key in (*_STORED_LIMITS, "_Unsigned", *(() if packing.packed else ("scale_factor", "add_offset"))):
        out.pop(key, None)
    if packing.dtype.kind == "f":
        for key, limit in zip(("valid_min", "valid_max"), packing.value_limits):
            if limit is not None:
                out[key] = packing.dtype.type(limit)
    return out


def _new_variables(
    variable: RawVariable, dims: Mapping[str, int], options: SinkOptions
) -> Iterator[OutVariable]:
    """Flag, standard error and quantiles beside a filled variable."""
    shape = tuple(dims[d] for d in variable.dims)
    place = {k: variable.attrs[k] for k in ("coordinates", "grid_mapping") if k in variable.attrs}
    title = variable.text("long_name") or variable.short
    units = {"units": variable.attrs["units"]} if "units" in variable.attrs else {}
    standard = variable.text("standard_name")

    def new(
        suffix: str, dtype: Any, role: Role, attrs: Mapping[str, Any], level: float | None = None
    ) -> OutVariable:
        name = f"{variable.name}_{suffix}"
        return OutVariable(
            name, variable.dims, shape, np.dtype(dtype), {**attrs, **place}, role, variable.name,
            _new_storage(variable.storage), level,
        )  # fmt: skip

    if options.flags:
        yield new(
            "fill_flag",
            "i1",
            "flag",
            {
                "long_name": f"origin of {title}",
                "standard_name": "status_flag",
                "flag_values": np.arange(len(FLAG_MEANINGS), dtype=np.int8),
                "flag_meanings": " ".join(FLAG_MEANINGS),
            },
        )
    if options.uncertainty:
        named = {"standard_name": f"{standard} standard_error"} if standard and " " not in standard else {}
        yield new(
            "standard_error",
            "f4",
            "error",
            {
                "_FillValue": ERROR_FILL,
                "long_name": f"standard error of {options.made} {title}",
                **named,
                **units,
            },
        )
    for level in options.quantiles:
        yield new(
            f"q{level * 100:04.1f}".replace(".0", "").replace(".", "_"),
            "f4",
            "quantile",
            {"_FillValue": ERROR_FILL, "long_name": f"{level:g} quantile of {options.made} {title}", **units},
            level,
        )
    if options.members:
        attrs = {"_FillValue": ERROR_FILL, "long_name": f"members of the ensemble of {title}", **units}
        one = new("members", "f4", "member", attrs)
        dims_of, sizes = (REALIZATION, *one.dims), (options.members, *one.shape)
        yield replace(one, dims=dims_of, shape=sizes, storage=_with_members(one.storage))


def _with_members(storage: Mapping[str, Any]) -> dict[str, Any]:
    """Chunks of one member each."""
    chunks = storage.get("chunksizes")
    return {**storage, "chunksizes": (1, *chunks)} if chunks else dict(storage)


def _new_storage(storage: Mapping[str, Any]) -> dict[str, Any]:
    """Chunks and byte-wise compression of the variable it stands beside; no lossy or type-bound filters."""
    return {k: v for k, v in storage.items() if k in ("chunksizes", "contiguous", "compression", "complevel", "shuffle")
            and storage.get("compression") != "szip"}  # fmt: skip


# -- data of copied variables -----------------------------------------------------------------------------------


def slabs(source: CFSource, variable: OutVariable) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """The stored numbers of a copied variable, cut to the selection, in pieces of bounded size: (where, numbers)."""
    raw = source.files[0].variables[variable.of]
    lead = source.axes[0][source.variables[0]]
    if _is_time_number(source, raw):
        numbers = _time_numbers(source, raw)
        if numbers is not None:
            whole = tuple(slice(0, n) for n in variable.shape)
            yield whole, np.rint(numbers).astype(variable.dtype) if variable.dtype.kind in "iu" else numbers
            return
    if source.selection.rolled and raw.dims == (lead.x,) and raw is source.files[0].coordinate(lead.x):
        yield (slice(0, variable.shape[0]),), _rolled_coordinate(source, raw)
        return
    for key in _pieces(variable):
        yield key, _read(source, raw, key, lead)


def _pieces(variable: OutVariable) -> Iterator[tuple[slice, ...]]:
    if not variable.shape:
        yield ()
        return
    row = max(1, int(np.prod(variable.shape[1:], dtype=np.int64))) * max(variable.dtype.itemsize, 1)
    step = max(1, SLAB_BYTES // row)
    for start in range(0, variable.shape[0], step):
        yield (slice(start, min(start + step, variable.shape[0])), *(slice(0, n) for n in variable.shape[1:]))


def _read(source: CFSource, raw: RawVariable, key: tuple[slice, ...], lead: Axes) -> Array:
    """A piece of a copied variable, along the steps out of the files where they lie."""
    if not raw.dims:
        return raw.read()
    at = {d: np.arange(k.start, k.stop) for d, k in zip(raw.dims, key)}
    if lead.y in at:
        at[lead.y] = source.selection.rows[at[lead.y]]
    if lead.x in at:
        at[lead.x] = source.selection.cols[at[lead.x]]
    if lead.time is None or lead.time not in at:
        return raw.read_at(at)
    axis = raw.dims.index(lead.time)
    steps = np.argsort(source.steps.position)[at[lead.time]]  # output position -> step
    places = [source.steps.places[s] for s in steps]
    out = _empty(raw, tuple(k.stop - k.start for k in key))
    for file in sorted({p[0][0] for p in places if p}):
        theirs = source.files[file].variables.get(raw.name)
        here = [i for i, p in enumerate(places) if p and p[0][0] == file]
        if theirs is None or theirs.dims != raw.dims:
            continue
        at[lead.time] = np.array([places[i][0][1] for i in here])
        out[(slice(None),) * axis + (here,)] = theirs.read_at(at)
    return out


def _empty(raw: RawVariable, shape: tuple[int, ...]) -> Array:
    """Nothing but fill, for steps that no file holds."""
    if raw.dtype.kind not in "iuf":
        return np.zeros(shape, dtype=raw.dtype)
    fill = np.asarray(raw.attrs.get("_FillValue", np.nan)).ravel()[0]
    if not np.isfinite(fill):
        fill = DEFAULT_FILLS.get(raw.dtype.str[1:], 0) if raw.dtype.kind in "iu" else np.nan
    return np.full(shape, fill, dtype=raw.dtype)


def _rolled_coordinate(source: CFSource, raw: RawVariable) -> Array:
    from stimpute.io.packing import packing_of

    attrs = {k: v for k, v in raw.attrs.items() if k not in _STORED_LIMITS}
    return packing_of(attrs, raw.dtype, label=raw.name).encode(source.grid.x, raw.name)


def _is_time_number(source: CFSource, raw: RawVariable) -> bool:
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


def _time_numbers(source: CFSource, raw: RawVariable) -> npt.NDArray[np.float64] | None:
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
            out[at] = cftime.date2num(date, units[0][0], calendar=source.calendar)
            continue
        file, index = places[0]
        numbers = (
            files[file]
            .variables[raw.name]
            .read((slice(index, index + 1), *(slice(None),) * (out.ndim - 1)))[0]
        )
        dates = cftime.num2date(numbers, units[file][0], source.calendar, only_use_cftime_datetimes=True)
        out[at] = cftime.date2num(dates, units[0][0], calendar=source.calendar)
    return out


# -- windows of filled variables --------------------------------------------------------------------------------


def placements(
    source: CFSource, variable: OutVariable, window: Window, layer: int
) -> Iterator[tuple[slice, tuple[int | slice, ...], tuple[int, ...]]]:
    """Where a window of a layer lies in a variable of the output.

    Yields (steps of the window, key into the variable, which of the axes time, y, x make up the variable's, in its order).
    """
    axes = source.axes[0][variable.of]
    index = source.layers[layer].index
    order = (axes.time, axes.y, axes.x)
    transpose = tuple(order.index(d) for d in variable.dims if d in order)
    positions = source.steps.position[slice(*window.time)]
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    for start, stop in zip([0, *breaks], [*breaks, len(positions)]):
        time = slice(int(positions[start]), int(positions[stop - 1]) + 1)
        key: list[int | slice] = []
        for dim in variable.dims:
            if dim == axes.time:
                key.append(time)
            elif dim == axes.y:
                key.append(slice(*window.y))
            elif dim == axes.x:
                key.append(slice(*window.x))
            elif dim == REALIZATION and variable.member is not None:
                key.append(variable.member)
            else:
                key.append(int(index[dim.rpartition("/")[2]]))
        yield slice(int(start), int(stop)), tuple(key), transpose


def chunk_of(source: CFSource, variable: OutVariable, chunks: Sequence[int] | None) -> tuple[int, int, int]:
    """The (time, y, x) lengths of a variable's chunks along its dimensions; rows where it is not chunked."""
    axes = source.axes[0][variable.of]
    if not chunks or len(chunks) != len(variable.dims):
        chunks = [n if d == axes.x else 1 for d, n in zip(variable.dims, variable.shape)]
    along = dict(zip(variable.dims, chunks))
    t, y, x = (max(1, int(along.get(d, 1))) if d is not None else 1 for d in (axes.time, axes.y, axes.x))
    return t, y, x


def arranged(data: Array, steps: slice, transpose: tuple[int, ...]) -> Array:
    """A (time, y, x) array as ``placements`` wants it."""
    absent = tuple(axis for axis in range(3) if axis not in transpose)
    kept = sorted(transpose)
    part = data[steps][tuple(0 if axis in absent else slice(None) for axis in range(3))]
    return np.ascontiguousarray(part.transpose([kept.index(axis) for axis in transpose]))


def contents(
    source: CFSource, layout: Layout, window: Window, filled: Filled, layer: int
) -> Iterator[tuple[OutVariable, Array]]:
    """What goes into every output variable of a layer in a window: stored numbers (time, y, x).

    Raises
    ------
    OutputError : a filled value that the stored type cannot hold.
    """
    name = source.layers[layer].variable
    if filled.flag.shape != window.shape or filled.values.shape != window.shape:
        raise ValueError(
            f"a window of {window.shape} with values {filled.values.shape}, flag {filled.flag.shape}"
        )
    estimated = filled.flag == FILLED
    yield layout.of(name, "filled")[0], _numbers(source, layout, window, filled, layer)
    for variable in layout.of(name, "flag"):
        yield variable, filled.flag.astype(np.int8)
    for variable in layout.of(name, "error"):
        yield variable, _where(estimated, filled.standard_error)
    for variable in layout.of(name, "quantile"):
        yield variable, _where(estimated, filled.quantiles.get(variable.level or 0.0))
    for variable in layout.of(name, "member"):
        for number, values in enumerate([] if filled.members is None else filled.members):
            yield replace(variable, member=number), _where(estimated, values)


def _numbers(source: CFSource, layout: Layout, window: Window, filled: Filled, layer: int) -> Array:
    name, estimated = source.layers[layer].variable, filled.flag == FILLED
    packing, before = layout.packings[name], source.packing(layer)
    stored = source.read_stored(window, layer)
    if source.options.qc:  # an outlier that was not filled is a gap now
        discarded = before.observed(stored) & ~estimated & (filled.flag != OBSERVED)
        stored[discarded] = source.fill_number(layer)
    label = f"{source.paths[0]}: {source.layers[layer].name}"
    if packing.stored_dtype != before.stored_dtype:
        values, valid = before.decode64(stored)
        out = np.full(stored.shape, packing.fill, dtype=packing.dtype)
        out[valid] = packing.recode(values[valid], label)
        stored = out
    if estimated.any():
        stored[estimated] = packing.encode(filled.values[estimated], label)
    return stored


def _where(estimated: npt.NDArray[np.bool_], values: npt.NDArray[np.float32] | None) -> Array:
    if values is None:
        return np.full(estimated.shape, ERROR_FILL)
    return np.where(estimated & np.isfinite(values), values, ERROR_FILL).astype(np.float32)


def history_line(before: str, line: str, alterations: Sequence[str]) -> str:
    """The ``history`` attribute with one more line."""
    if alterations:
        line = f"{line} [altered: {'; '.join(alterations)}]"
    return f"{before.rstrip()}\n{line}" if before.strip() else line
