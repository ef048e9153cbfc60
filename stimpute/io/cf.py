"""What the variables of a raw file are, by the CF conventions and common habits: data, axes, flags. Reads no data."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stimpute.errors import InputError
from stimpute.io.cf_grid import horizontal
from stimpute.io.cf_time import is_time_units
from stimpute.io.raw import RawFile, RawVariable

_TIME_NAMES = {
    "time",
    "t",
    "date",
    "dates",
    "day",
    "month",
    "year",
    "datetime",
    "ocean_time",
    "valid_time",
    "times",
}
_X_NAMES = {
    "x",
    "xc",
    "lon",
    "longitude",
    "easting",
    "xdim",
    "west_east",
    "xi_rho",
    "ni",
    "col",
    "cols",
    "column",
    "columns",
}
_Y_NAMES = {"y", "yc", "lat", "latitude", "northing", "ydim", "south_north", "eta_rho", "nj", "row", "rows"}
_VERTEX_NAMES = {"bnds", "bounds", "nv", "nv4", "nb2", "nbnd", "vertices", "vertex", "nvertex", "corners"}
NO_ROWS = ""  # the y of stations: a dimension of length one that no variable has
_STATION_NAMES = {
    "station",
    "stations",
    "site",
    "sites",
    "node",
    "nodes",
    "location",
    "locations",
    "sensor",
    "sensors",
    "point",
    "points",
    "cell",
    "cells",
    "ncells",
    "stid",
}
_REFERENCES = (
    "coordinates",
    "bounds",
    "climatology",
    "grid_mapping",
    "ancillary_variables",
    "cell_measures",
    "formula_terms",
)
_FLAG_NAMES = ("status_flag", "quality_flag")


@dataclass(frozen=True)
class Axes:
    """Which dimension of a variable is what. ``extra`` are levels, members and the like.

    Stations lie along ``x``; their ``y`` is ``NO_ROWS``.
    """

    time: str | None
    y: str
    x: str
    extra: tuple[str, ...] = ()


def axes_of(raw: RawFile, variable: RawVariable) -> Axes | None:
    """The axes of a variable; None if it has neither two horizontal ones nor one along which stations lie."""
    roles = {dim: _role(raw, dim) for dim in variable.dims}
    if len(roles) < len(variable.dims):  # a dimension twice: a covariance matrix, no map
        return None
    open_dims = [
        d for d, role in roles.items() if role is None and d.rpartition("/")[2].lower() not in _VERTEX_NAMES
    ]
    taken: dict[str, str] = {}
    for wanted in ("time", "y", "x"):
        found = [d for d, role in roles.items() if role == wanted]
        if found:
            taken[wanted] = found[-1]
    for wanted in ("x", "y"):
        if wanted not in taken and open_dims:
            taken[wanted] = open_dims.pop()
    if "x" not in taken or "y" not in taken:
        return _stations(raw, variable, taken.get("time"))
    extra = tuple(d for d in variable.dims if d not in taken.values())
    return Axes(taken.get("time"), taken["y"], taken["x"], extra)


def _stations(raw: RawFile, variable: RawVariable, time: str | None) -> Axes | None:
    """The axes of (time, station): one dimension besides time that is called so, or along which positions are given."""
    others = [d for d in variable.dims if d != time]
    if len(others) != 1 or time is None:
        return None
    named = others[0].rpartition("/")[2].lower() in _STATION_NAMES
    if not named and len(positions(raw, variable, others[0])) < 2:
        return None
    return Axes(time, NO_ROWS, others[0])


def positions(raw: RawFile, variable: RawVariable, dim: str) -> dict[str, RawVariable]:
    """The variables that say where stations along ``dim`` are: by ``lon`` and ``lat``, or by ``x`` and ``y``."""
    named = [raw.find(n, variable.group) for n in variable.text("coordinates").split()]
    near = [v for v in raw.variables.values() if v.group == variable.group]
    found: dict[str, RawVariable] = {}
    for candidate in (*named, *near):
        if candidate is None or candidate.dims != (dim,) or candidate.dtype.kind not in "iuf":
            continue
        kind = horizontal(candidate) or ("x" if candidate.short.lower() in _X_NAMES else "y" if candidate.short.lower() in _Y_NAMES else None)  # fmt: skip
        if kind is not None:
            found.setdefault(kind, candidate)
    for pair in (("lon", "lat"), ("x", "y")):
        if all(k in found for k in pair):
            return {k: found[k] for k in pair}
    return {}


def _role(raw: RawFile, dim: str) -> str | None:
    """time, y, x, extra, or None where nothing tells."""
    name = dim.rpartition("/")[2].lower()
    coordinate = raw.coordinate(dim)
    if coordinate is not None:
        axis = coordinate.text("axis").upper()
        standard = coordinate.text("standard_name")
        if (
            (is_time_units(coordinate.text("units")) and standard != "forecast_reference_time")
            or axis == "T"
            or standard == "time"
        ):
            return "time"
        kind = horizontal(coordinate)
        if kind is not None:
            return "x" if kind in ("lon", "x") else "y"
        if (
            axis == "Z"
            or coordinate.text("positive")
            or standard.endswith(("_pressure", "depth", "height", "altitude"))
        ):
            return "extra"
    if name in _TIME_NAMES:
        return "time"
    if name in _X_NAMES:
        return "x"
    if name in _Y_NAMES:
        return "y"
    return (
        "extra"
        if coordinate is not None or name in ("band", "bands", "level", "member", "zlev", "depth")
        else None
    )


def is_flag(variable: RawVariable) -> bool:
    """Whether a variable holds categories rather than quantities."""
    attrs = variable.attrs
    return (
        "flag_values" in attrs
        or "flag_masks" in attrs
        or any(variable.text("standard_name").endswith(f) for f in _FLAG_NAMES)
        or variable.dtype.kind == "b"
    )


def candidates(raw: RawFile, *, flags: bool = False, still: bool = False) -> list[RawVariable]:
    """The variables that may be filled: numbers over y and x, neither coordinates, bounds nor ancillary.

    Those with ``flags`` (categories) instead of quantities on request only. Where some have a time axis, those without
    are left out, but not if ``still`` ones count as well.
    """
    referred = _referred(raw)
    found: list[tuple[RawVariable, Axes]] = []
    for name, variable in raw.variables.items():
        if name in referred or name in raw.dims or variable.dtype.kind not in "iufc":
            continue
        if is_flag(variable) is not flags:
            continue
        if variable.short.endswith(("_bnds", "_bounds")) or (
            horizontal(variable) is not None and len(variable.dims) == 2
        ):
            continue
        if any(d.rpartition("/")[2].lower() in _VERTEX_NAMES for d in variable.dims):
            continue
        axes = axes_of(raw, variable)
        if axes is not None:
            found.append((variable, axes))
    located = [(v, a) for v, a in found if _role(raw, a.x) == "x" and _role(raw, a.y) == "y"]
    found = located or found
    timed = [] if still else [(v, a) for v, a in found if a.time is not None]
    return [v for v, _ in (timed or found)]


def _referred(raw: RawFile) -> set[str]:
    """Variables that others name as their coordinates, bounds, grid mapping, ancillary data."""
    names: set[str] = set()
    for variable in raw.variables.values():
        for attribute in _REFERENCES:
            for word in variable.text(attribute).replace(":", " ").split():
                found = raw.find(word, variable.group)
                if found is not None:
                    names.add(found.name)
    return names


def choose(
    raw: RawFile, wanted: Sequence[str], *, force: bool = False, beside: bool = False
) -> list[RawVariable]:
    """The variables to fill (or to read ``beside`` those): the ones asked for, or the only candidate.

    Raises
    ------
    InputError : none or several candidates, an unknown name, a variable that holds no quantities.
    """
    possible = candidates(raw, still=beside)
    possible = possible or candidates(raw, flags=True, still=beside)  # flags alone are refused by name below
    if tuple(wanted) == ("all",):
        chosen = possible
    elif wanted:
        chosen = [_named(raw, name, beside) for name in wanted]
    elif len(possible) > 1:
        listed = ", ".join(f"{v.name} ({' '.join(d.rpartition('/')[2] for d in v.dims)})" for v in possible)
        how = f"one with {raw.path}:{possible[0].name}" if beside else "with --var (repeatable, or --var all)"
        raise InputError(f"{raw.path}: several variables: {listed}; choose {how}")
    else:
        chosen = possible
    if not chosen:
        present = ", ".join(raw.variables) or "none"
        raise InputError(
            f"{raw.path}: no variable with two horizontal dimensions to fill (variables: {present})"
        )
    for variable in chosen:
        _refuse_unfillable(raw, variable, force)
    return list(dict.fromkeys(chosen))


def _named(raw: RawFile, name: str, still: bool) -> RawVariable:
    if name.strip("/") in raw.variables:
        return raw.variables[name.strip("/")]
    matches = [v for v in raw.variables.values() if v.short == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(f"{raw.path}: --var {name} is ambiguous: {', '.join(v.name for v in matches)}")
    close = difflib.get_close_matches(name, list(raw.variables), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise InputError(
        f"{raw.path}: no variable {name}{hint} (it has {', '.join(v.name for v in candidates(raw, still=still)) or 'none with two horizontal dimensions'})"
    )


def _refuse_unfillable(raw: RawFile, variable: RawVariable, force: bool) -> None:
    if variable.dtype.kind == "c":
        raise InputError(f"{raw.path}: {variable.name} holds complex numbers, which cannot be filled")
    if variable.dtype.kind not in "iufb":
        raise InputError(f"{raw.path}: {variable.name} holds {variable.dtype}, no numbers")
    if is_flag(variable) and not force:
        raise InputError(
            f"{raw.path}: {variable.name} holds categories (flags), not quantities; --force fills it all the same"
        )
    if axes_of(raw, variable) is None:
        dims = ", ".join(variable.dims) or "none"
        raise InputError(f"{raw.path}: {variable.name} has no two horizontal dimensions (dimensions: {dims})")


def time_variable(raw: RawFile, variable: RawVariable, axes: Axes) -> RawVariable | None:
    """The variable that dates the steps: the coordinate of the time dimension, an auxiliary one along it, or a scalar."""
    if axes.time is None:
        named = [raw.find(n, variable.group) for n in variable.text("coordinates").split()]
        scalars = [
            v for v in (*named, *raw.variables.values()) if v is not None and int(np.prod(v.shape)) == 1
        ]
        dated = [
            v
            for v in scalars
            if is_time_units(v.text("units")) and v.text("standard_name") != "forecast_reference_time"
        ]
        return next(iter(dated), None)
    coordinate = raw.coordinate(axes.time)
    if coordinate is not None:
        return coordinate
    along = [v for v in raw.variables.values() if v.dims[:1] == (axes.time,)]
    dated = [v for v in along if v.dims == (axes.time,) and is_time_units(v.text("units"))]
    texts = [v for v in along if v.dtype.kind in "SU" and v.short.lower() in _TIME_NAMES]
    return next(iter([*dated, *texts]), None)
