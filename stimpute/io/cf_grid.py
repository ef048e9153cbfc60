"""Coordinates and grid mappings to a `Grid`: what x and y are measured in, how far a cell is, which CRS. Reads no data.

And what tells two such grids apart.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyproj

from stimpute.errors import StimputeWarning
from stimpute.grid import Grid, Units
from stimpute.io.packing_attributes import packing_of
from stimpute.io.raw import RawFile, RawVariable
from stimpute.io.room import refuse_absurd

FloatArray = npt.NDArray[np.float64]

_LENGTH_KM = {
    "m": 1e-3,
    "metre": 1e-3,
    "meter": 1e-3,
    "metres": 1e-3,
    "meters": 1e-3,
    "km": 1.0,
    "kilometre": 1.0,
    "kilometer": 1.0,
    "kilometres": 1.0,
    "kilometers": 1.0,
    "us survey foot": 1200 / 3937 * 1e-3,
    "us_survey_foot": 1200 / 3937 * 1e-3,
    "foot": 0.3048e-3,
    "feet": 0.3048e-3,
    "ft": 0.3048e-3,
}
_LON_NAMES = {"lon", "longitude", "long", "lons", "nav_lon", "xlong", "hlon", "rlon", "glon"}
_LAT_NAMES = {"lat", "latitude", "lats", "nav_lat", "xlat", "hlat", "rlat", "glat"}


_AXIS_BYTES = 128  # per position of an axis, with everything that is derived from it


def horizontal(variable: RawVariable) -> Literal["lon", "lat", "x", "y"] | None:
    """Which horizontal axis a coordinate variable stands for, by its units, standard name, axis, or name."""
    units, standard, name = (
        variable.text("units").lower(),
        variable.text("standard_name"),
        variable.short.lower(),
    )
    if standard in ("longitude", "grid_longitude") or units.replace(" ", "_").startswith(
        ("degrees_e", "degree_e")
    ):
        return "lon"
    if standard in ("latitude", "grid_latitude") or units.replace(" ", "_").startswith(
        ("degrees_n", "degree_n")
    ):
        return "lat"
    if standard in ("projection_x_coordinate", "projection_x_angular_coordinate"):
        return "x"
    if standard in ("projection_y_coordinate", "projection_y_angular_coordinate"):
        return "y"
    if name in _LON_NAMES:
        return "lon"
    if name in _LAT_NAMES:
        return "lat"
    axis = variable.text("axis").upper()
    return "x" if axis == "X" else "y" if axis == "Y" else None


def decoded(variable: RawVariable) -> FloatArray:
    """A coordinate's values in float64, packed or not; NaN where missing."""
    packing = packing_of(
        {k: v for k, v in variable.attrs.items() if not k.startswith("valid")}, variable.dtype, label=""
    )
    values, valid = packing.decode64(variable.read())
    return np.where(valid, values, np.nan)


def crs_of(raw: RawFile, variable: RawVariable) -> tuple[str | None, Mapping[str, Any]]:
    """(WKT as the file states it or as its CF parameters say, the grid mapping's attributes); (None, {}) without one."""
    mapping = _grid_mapping(raw, variable)
    if mapping is None:
        return None, {}
    attrs = mapping.attrs
    for key in ("crs_wkt", "spatial_ref", "esri_pe_string", "proj4text", "proj4"):
        text = str(attrs.get(key, "")).strip()
        if text:
            return _wkt(text, key), attrs
    if "grid_mapping_name" in attrs:
        try:
            return str(pyproj.CRS.from_cf({k: _plain(v) for k, v in attrs.items()}).to_wkt()), attrs
        except (pyproj.exceptions.CRSError, KeyError, ValueError, TypeError) as error:
            warnings.warn(
                f"{raw.path}: grid mapping {mapping.name} cannot be understood ({error})",
                StimputeWarning,
                stacklevel=2,
            )
    return None, attrs


def _wkt(text: str, key: str) -> str:
    if key.startswith("proj4") or not text.upper().startswith(
        ("PROJ", "GEO", "COMP", "BOUND", "LOCAL", "ENG")
    ):
        try:
            return str(pyproj.CRS.from_user_input(text).to_wkt())
        except pyproj.exceptions.CRSError:
            return text
    return text


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _grid_mapping(raw: RawFile, variable: RawVariable) -> RawVariable | None:
    named = variable.text("grid_mapping")
    if named:
        # extended form: "crs: x y crs84: lat lon"
        first = named.split(":")[0].split()[0] if ":" in named else named
        return raw.find(first, variable.group)
    for name in ("spatial_ref", "crs"):  # the habit of rioxarray and GDAL
        found = raw.find(name, variable.group)
        if found is not None and {"crs_wkt", "spatial_ref", "grid_mapping_name"} & set(found.attrs):
            return found
    return None


def build_grid(raw: RawFile, variable: RawVariable, y_dim: str, x_dim: str, *, wrap: bool = True) -> Grid:
    """The grid of a variable's horizontal dimensions.

    1-D coordinates give an affine (evenly spaced) or rectilinear grid, 2-D latitude and longitude a curvilinear one in
    index space, none at all a grid of cells; the last two of these, uneven spacing and a missing CRS come with a warning.
    """
    shape = (raw.dims[y_dim], raw.dims[x_dim])
    wkt, mapping = crs_of(raw, variable)
    x_var, y_var = raw.coordinate(x_dim), raw.coordinate(y_dim)
    refuse_absurd(
        sum(shape) * _AXIS_BYTES, f"{raw.path}: {variable.name}: a grid of {shape[0]} x {shape[1]} cells", "is the file damaged?"
    )  # fmt: skip
    degrees = (
        x_var is not None and y_var is not None and horizontal(x_var) == "lon" and horizontal(y_var) == "lat"
    )
    rotated = degrees and _rotated(x_var, mapping)
    curvilinear = _two_dimensional(raw, variable, y_dim, x_dim)
    if curvilinear is not None and (not degrees or rotated) and not _projected(x_var, mapping, wkt):
        lon, lat = curvilinear
        return Grid("curvilinear", shape, lon, lat, "degrees", crs_wkt=wkt)
    if x_var is None or y_var is None:
        _warn(raw, variable, "no coordinates; distances are counted in cells")
        return _cells(shape, wkt)
    units, km = _units(x_var, y_var, degrees, mapping, wkt)
    if units == "cells":
        _warn(raw, variable, "no CRS and no units of the coordinates; distances are counted in cells")
        return _cells(shape, wkt)
    x, y = decoded(x_var), decoded(y_var)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        _warn(raw, variable, "coordinates have missing values; distances are counted in cells")
        return _cells(shape, wkt)
    even = _even(x, x_var.dtype) and _even(y, y_var.dtype)
    if not even:
        _warn(
            raw,
            variable,
            f"coordinates {y_var.name}, {x_var.name} are unevenly spaced; filled in index space",
        )
    if degrees and wkt is None and not rotated:
        wkt = str(pyproj.CRS.from_epsg(4326).to_wkt())
    wraps = wrap and degrees and not rotated and _spans_circle(x)
    return Grid("affine" if even else "rectilinear", shape, x, y, units, km, wkt, wraps)


def station_grid(raw: RawFile, variable: RawVariable, dim: str, at: Mapping[str, RawVariable]) -> Grid:
    """The grid of stations: one row of points, at the positions found for them (:func:`stimpute.io.cf.positions`)."""
    wkt, mapping = crs_of(raw, variable)
    shape = (1, raw.dims[dim])
    numbers = np.arange(shape[1], dtype=np.float64)
    if not at:
        _warn(raw, variable, f"no positions along {dim}; its members are taken as one cell apart")
        return Grid("points", shape, numbers, np.zeros_like(numbers), "cells", crs_wkt=wkt)
    x_var, y_var = at.values()
    x, y = decoded(x_var), decoded(y_var)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        _warn(raw, variable, f"positions along {dim} have missing values; taken as one cell apart")
        return Grid("points", shape, numbers, np.zeros_like(numbers), "cells", crs_wkt=wkt)
    units, km = _units(x_var, y_var, "lon" in at, mapping, wkt)
    if units == "degrees" and wkt is None:
        wkt = str(pyproj.CRS.from_epsg(4326).to_wkt())
    return Grid("points", shape, x, y, units, km, wkt)


def grid_difference(one: Grid, other: Grid) -> str:
    """What tells two grids apart, in words; empty if they are the same within a thousandth of a cell."""
    if one.shape != other.shape:
        return f"{one.shape[0]} x {one.shape[1]} and {other.shape[0]} x {other.shape[1]} cells"
    if one.kind != other.kind or one.units != other.units:
        return f"{one.kind} in {one.units} and {other.kind} in {other.units}"
    for axis, a, b in (("x", one.x, other.x), ("y", one.y, other.y)):
        cell = float(np.nanmedian(np.abs(np.diff(a)))) if a.shape[-1] > 1 else 1.0
        apart = float(np.nanmax(np.abs(a - b))) if a.size else 0.0
        if apart > 1e-3 * cell:
            return f"{axis} starts at {a.flat[0]:g} and {b.flat[0]:g}, up to {apart:g} apart"
    if one.crs_wkt != other.crs_wkt and not _same_crs(one.crs_wkt, other.crs_wkt):
        return "different CRS"
    return ""


def _same_crs(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    try:
        return bool(pyproj.CRS.from_user_input(one) == pyproj.CRS.from_user_input(other))
    except pyproj.exceptions.CRSError:
        return False


def _cells(shape: tuple[int, int], wkt: str | None) -> Grid:
    ny, nx = shape
    return Grid(
        "affine", shape, np.arange(nx, dtype=np.float64), np.arange(ny, dtype=np.float64), "cells", 1.0, wkt
    )


def _rotated(x_var: RawVariable | None, mapping: Mapping[str, Any]) -> bool:
    if str(mapping.get("grid_mapping_name", "")) == "rotated_latitude_longitude":
        return True
    return x_var is not None and (
        x_var.text("standard_name") == "grid_longitude" or x_var.short.lower() == "rlon"
    )


def _projected(x_var: RawVariable | None, mapping: Mapping[str, Any], wkt: str | None) -> bool:
    if x_var is None or horizontal(x_var) == "lon":
        return False
    if str(mapping.get("grid_mapping_name", "")) == "geostationary":
        return True
    return x_var.text("units").lower() in _LENGTH_KM or (wkt is not None and _axis_km(wkt) is not None)


def _two_dimensional(
    raw: RawFile, variable: RawVariable, y_dim: str, x_dim: str
) -> tuple[FloatArray, FloatArray] | None:
    """2-D longitude and latitude over the variable's horizontal dimensions."""
    named = [raw.find(n, variable.group) for n in variable.text("coordinates").split()]
    near = [v for v in raw.variables.values() if v.group == variable.group]
    found: dict[str, FloatArray] = {}
    for candidate in [*named, *near]:
        if candidate is None or candidate.dtype.kind not in "iuf" or set(candidate.dims) != {y_dim, x_dim}:
            continue
        kind = horizontal(candidate)
        if kind in ("lon", "lat") and kind not in found:
            values = decoded(candidate)
            found[kind] = values if candidate.dims == (y_dim, x_dim) else values.T
    return (found["lon"], found["lat"]) if len(found) == 2 else None


def _units(
    x_var: RawVariable, y_var: RawVariable, degrees: bool, mapping: Mapping[str, Any], wkt: str | None
) -> tuple[Units, float]:
    if degrees:
        return "degrees", 1.0
    text = x_var.text("units").lower()
    if str(mapping.get("grid_mapping_name", "")) == "geostationary":
        height_km = float(np.asarray(mapping.get("perspective_point_height", 35_786_023.0)).ravel()[0]) / 1000
        if text in ("rad", "radian", "radians", "", "1"):
            return "length", height_km
        if text in ("microradian", "microradians", "urad"):
            return "length", height_km * 1e-6
    if text in _LENGTH_KM:
        return "length", _LENGTH_KM[text]
    if wkt is not None:
        km = _axis_km(wkt)
        if km is not None:
            return "length", km
        if _geographic(wkt):
            return "degrees", 1.0
    return "cells", 1.0


def _axis_km(wkt: str) -> float | None:
    """Kilometres in one unit of a projected CRS' axes; None if it is not projected."""
    try:
        crs = pyproj.CRS.from_wkt(wkt)
    except pyproj.exceptions.CRSError:
        return None
    if not crs.is_projected or not crs.axis_info:
        return None
    return float(crs.axis_info[0].unit_conversion_factor) / 1000


def _geographic(wkt: str) -> bool:
    try:
        return bool(pyproj.CRS.from_wkt(wkt).is_geographic)
    except pyproj.exceptions.CRSError:
        return False


def _even(values: FloatArray, dtype: np.dtype[Any]) -> bool:
    """Evenly spaced, within what the stored precision allows."""
    if len(values) < 3:
        return True
    steps = np.diff(values)
    step = (values[-1] - values[0]) / (len(values) - 1)
    grain = float(np.finfo(dtype).eps) * float(np.abs(values).max()) if dtype.kind == "f" else 0.0
    return bool(step != 0 and (np.abs(steps - step) <= 2e-3 * abs(step) + 4 * grain).all())


def _spans_circle(lon: FloatArray) -> bool:
    if len(lon) < 4:
        return False
    step = abs(lon[-1] - lon[0]) / (len(lon) - 1)
    return bool(abs(step * len(lon) - 360) < 0.5 * step)


def _warn(raw: RawFile, variable: RawVariable, text: str) -> None:
    warnings.warn(f"{raw.path}: {variable.name}: {text}", StimputeWarning, stacklevel=3)
