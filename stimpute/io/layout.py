"""What an output holds, before any format: the input's variables, cut to the selection, and the new ones beside them.

Built from a source; the NetCDF, Zarr and in-memory sinks each write it in their own words.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from stimpute.errors import OutputError, StimputeWarning
from stimpute.io.cf_source import CFSource
from stimpute.io.layout_times import is_time_number, time_numbers
from stimpute.io.options import SinkOptions, quantile_name
from stimpute.io.packing import Packing
from stimpute.io.raw import RawVariable
from stimpute.protocols import FLAG_MEANINGS

Role = Literal["copied", "filled", "flag", "error", "quantile", "member"]
REALIZATION = "realization"  # the dimension of members
ERROR_FILL = np.float32(9.969209968386869e36)
STORED_LIMITS = ("valid_range", "valid_min", "valid_max")


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
    later = {n: f.path for f in source.files[:0:-1] for n in f.variables if n not in first.variables}
    if later:
        path = next(iter(later.values()))
        warnings.warn(
            f"{path}: {', '.join(later)} {'is' if len(later) == 1 else 'are'} not in {first.path}; left out of the merged output",
            StimputeWarning,
            stacklevel=3,
        )
    for variable in new:
        _refuse_replacing(source, variable)
        if variable.role == "flag" and variable.name in first.variables:
            warnings.warn(
                f"{source.paths[0]}: {variable.name} marks values that an earlier run filled; they are taken as observed, and stay marked",
                StimputeWarning,
                stacklevel=3,
            )
    stale = _outdated_flags(source, options)
    kept = [
        _filled(
            source, v, dims, packings[v.name], [n.short for n in map(_Named, new) if n.of == v.name], stale
        )
        if v.name in source.variables
        else _copied(source, v, dims)
        for v in first.variables.values()
        if v.name not in replaced and v.name not in stale
    ]
    return Layout(dims, first.unlimited, first.groups, (*kept, *new), packings)


_OURS = {"error": "standard error of ", "quantile": " quantile of ", "member": "members of "}


def _refuse_replacing(source: CFSource, variable: OutVariable) -> None:
    """A variable of the input that happens to bear the name of a new one is not given up for it.

    Raises
    ------
    OutputError : it is none that an earlier run wrote.
    """
    there = source.files[0].variables.get(variable.name)
    if there is None:
        return
    if variable.role == "flag":
        ours = source.is_fill_flag(variable.name)
    else:
        ours = there.dims == variable.dims and _OURS[variable.role] in there.text("long_name")
    if not ours:
        raise OutputError(
            f"{source.paths[0]}: has a variable {variable.name} of its own, which the output would need for {variable.attrs['long_name']}; "
            "rename it, or leave out what it would be replaced by (--no-flags, --no-uncertainty, --quantiles)"
        )


def _outdated_flags(source: CFSource, options: SinkOptions) -> set[str]:
    """Flags of an earlier run that are not written anew: they would say of this fill what is not so."""
    flags = {f"{name}_fill_flag" for name in source.variables if source.is_fill_flag(f"{name}_fill_flag")}
    return set() if options.flags else flags


class _Named:
    """Short name and owner of a new variable."""

    def __init__(self, variable: OutVariable) -> None:
        self.short, self.of = variable.name.rpartition("/")[2], variable.of


def _packing(source: CFSource, name: str, options: SinkOptions) -> Packing:
    """How a filled variable is stored: as in the input or by ``--dtype``, with a number for gaps where there may be some."""
    packing = source.shared[name]
    if options.dtype is not None:
        packing = packing.with_dtype(options.dtype)
    if source.needs_fill and packing.fill is None:
        fill = source.fill_number(next(i for i, layer in enumerate(source.layers) if layer.variable == name))
        return replace(packing, fill=fill, nodata=(*packing.nodata, fill))
    return packing


def _copied(source: CFSource, variable: RawVariable, dims: Mapping[str, int]) -> OutVariable:
    dtype = variable.dtype
    if is_time_number(source, variable) and dtype.kind in "iu":
        numbers = time_numbers(source, variable)
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
    stale: set[str],
) -> OutVariable:
    attrs = dict(variable.attrs)
    before = source.packings[0][variable.name]
    if not packing.same_as(before):
        attrs = _repacked_attrs(attrs, packing, before)
    gone = {n.rpartition("/")[2] for n in stale}
    before_named = str(attrs.get("ancillary_variables", "")).split()
    named = [w for w in before_named if w not in gone]
    if ancillary or named != before_named:
        attrs["ancillary_variables"] = " ".join([*named, *(a for a in ancillary if a not in named)])
        if not attrs["ancillary_variables"]:
            del attrs["ancillary_variables"]
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
        out["_FillValue"] = packing.as_stored(packing.fill)[()]
    limits = [(p.stored_limits, p.value_limits) for p in (packing, before)]
    if packing.stored_dtype == before.stored_dtype and limits[0] == limits[1]:
        return out
    for key in (*STORED_LIMITS, "_Unsigned", *(() if packing.packed else ("scale_factor", "add_offset"))):
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
            quantile_name(level),
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


def history_line(before: str, line: str, alterations: Sequence[str]) -> str:
    """The ``history`` attribute with one more line."""
    if alterations:
        line = f"{line} [altered: {'; '.join(alterations)}]"
    return f"{before.rstrip()}\n{line}" if before.strip() else line
