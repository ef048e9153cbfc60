"""A GeoTIFF stack as the variables, coordinates and grid mapping of a CF file, for the sinks of those formats.

What the file does not hold is not invented: no coordinates where there is only an index, no CF projection that CF lacks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import cftime
import numpy as np
import pyproj
from rasterio.transform import Affine

from stimpute.errors import OutputError, StimputeWarning
from stimpute.io.cf_source import CFSource
from stimpute.io.cf_time import parse_label
from stimpute.io.geotiff_bands import HISTORY_TAG
from stimpute.io.geotiff_grid import cell_centres, wkt_of
from stimpute.io.geotiff_layout import common_tags
from stimpute.io.geotiff_source import GeoTiffSource
from stimpute.io.options import ReadOptions
from stimpute.io.packing import Packing
from stimpute.io.raw import Array, Key, RawFile, RawVariable
from stimpute.protocols import Window

_MAPPING = "spatial_ref"


def as_cf(source: GeoTiffSource) -> CFSource:
    """A GeoTIFF stack as a CF source with the same numbers, for the NetCDF, Zarr and in-memory sinks.

    Stored numbers and packing stay where all bands share them and gaps have a number of their own; otherwise the
    variable is decoded to floats, which is recorded as an alteration.
    """
    return _converted(source, [raw_file(source)])


def as_cf_files(source: GeoTiffSource) -> CFSource:
    """The same with one file for each GeoTIFF, for outputs that are one file per input.

    Raises
    ------
    OutputError : steps that no single file holds (inserted or merged ones).
    """
    members: dict[int, list[int]] = {}
    for step, stored in enumerate(source.steps):
        if len(stored.files) != 1:
            raise OutputError(
                f"{source.paths[0]}: --dedupe and --regular change the steps; name one output file instead of a folder"
            )
        members.setdefault(stored.files[0], []).append(step)
    ordered = sorted(members)
    converted = _converted(source, [raw_file(source, members[file]) for file in ordered])
    converted.paths = tuple(source.headers[file].path for file in ordered)
    return converted


def _converted(source: GeoTiffSource, raws: Sequence[RawFile]) -> CFSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        converted = CFSource(raws, ReadOptions(wrap=source.options.wrap))
    converted.outliers = source.outliers
    converted.paths, converted.warnings = source.paths, source.warnings
    converted.domain, converted.covariates = source.domain, source.covariates
    converted.besides = source.besides
    unpacked = () if _common_packing(source) else ("files of different packing decoded to floats",)
    converted.alterations = (*source.alterations, *unpacked)
    return converted


def raw_file(source: GeoTiffSource, steps: Sequence[int] | None = None) -> RawFile:
    """The file that a GeoTIFF stack, or ``steps`` of one of its files, would be if it were NetCDF.

    Dimensions, coordinates, grid mapping, lazy values.
    """
    chosen = list(range(len(source.steps))) if steps is None else list(steps)
    geographic = bool(source.headers[0].crs) and bool(source.headers[0].crs.is_geographic)
    names = ("lat", "lon") if geographic else ("y", "x")
    _, ny, nx = source.layers[0].shape
    variables = [
        _time(source, chosen), *_coordinates(source, names), _mapping(source), _values(source, names, chosen)
    ]  # fmt: skip
    return RawFile(
        path=source.paths[0] if steps is None else source.headers[source.steps[chosen[0]].files[0]].path,
        format="GeoTIFF",
        variant="",
        dims={"time": len(chosen), names[0]: ny, names[1]: nx},
        variables={v.name: v for v in variables if v is not None},
        groups={"": {"Conventions": "CF-1.8", **_global_attributes(source)}},
        native=None,
        close=source.close,
    )


def _time(source: GeoTiffSource, steps: Sequence[int]) -> RawVariable:
    """Days, or seconds where steps are not at midnight, since 1970."""
    dates = [parse_label(source.time_labels[step], "time", source.calendar) for step in steps]
    whole_days = all("T" not in label for label in source.time_labels)
    units = "days since 1970-01-01" if whole_days else "seconds since 1970-01-01 00:00:00"
    numbers = np.asarray(cftime.date2num(dates, units, calendar=source.calendar))
    numbers = np.rint(numbers).astype(np.int32) if whole_days else numbers.astype(np.float64)
    attrs = {"standard_name": "time", "axis": "T", "units": units, "calendar": source.calendar}
    return _constant("time", ("time",), numbers, attrs)


def _coordinates(source: GeoTiffSource, names: tuple[str, str]) -> list[RawVariable]:
    """1-D coordinates of cell centres; 2-D ones of a rotated grid; none where there is only an index."""
    header, grid = source.headers[0], source.grid
    if header.gcps or header.transform == Affine.identity():
        return []
    ny, nx = grid.shape
    transform = source.transform
    y_name, x_name = names
    if grid.kind == "curvilinear":
        attrs = _axis_attributes(source)
        dims = (y_name, x_name)
        aux = ("lat", "lon") if grid.units == "degrees" else ("yc", "xc")
        return [
            _constant(f"{aux[0]}_2d", dims, grid.y, {k: v for k, v in attrs[0].items() if k != "axis"}),
            _constant(f"{aux[1]}_2d", dims, grid.x, {k: v for k, v in attrs[1].items() if k != "axis"}),
        ]
    x, y = cell_centres(transform, np.arange(ny, dtype=np.float64), np.arange(nx, dtype=np.float64))
    if grid.units == "degrees":
        x, y = grid.x, grid.y  # the same, but for columns on both sides of the antimeridian
    y_attrs, x_attrs = _axis_attributes(source)
    return [_constant(y_name, (y_name,), y, y_attrs), _constant(x_name, (x_name,), x, x_attrs)]


def _axis_attributes(source: GeoTiffSource) -> tuple[dict[str, Any], dict[str, Any]]:
    crs = source.headers[0].crs
    if crs and crs.is_geographic:
        return (
            {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
            {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        )
    units = {}
    if source.grid.units == "length":
        name = {0.001: "m", 1.0: "km", 0.0003048: "foot"}.get(source.grid.km_per_unit)
        units = (
            {"units": name or "US_survey_foot"}
            if name or abs(source.grid.km_per_unit - 0.0003048006) < 1e-9
            else {}
        )
    return (
        {"standard_name": "projection_y_coordinate", "axis": "Y", **units},
        {"standard_name": "projection_x_coordinate", "axis": "X", **units},
    )


def _mapping(source: GeoTiffSource) -> RawVariable | None:
    """The grid mapping: the WKT as the file states it, CF parameters where there are any, GDAL's GeoTransform."""
    header = source.headers[0]
    attrs: dict[str, Any] = {}
    wkt = wkt_of(header.crs)
    if wkt:
        attrs = {**_cf_parameters(wkt), "crs_wkt": wkt, _MAPPING: wkt}
    if not header.gcps and header.transform != Affine.identity():
        attrs["GeoTransform"] = " ".join(repr(float(v)) for v in source.transform.to_gdal())
    return _constant(_MAPPING, (), np.array(0, dtype=np.int32), attrs) if attrs else None


def _cf_parameters(wkt: str) -> dict[str, Any]:
    """Grid mapping parameters of a WKT; empty where CF knows no such projection."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parameters = pyproj.CRS.from_wkt(wkt).to_cf()
    except (pyproj.exceptions.CRSError, KeyError, ValueError):
        return {}
    return {
        k: v
        for k, v in parameters.items()
        if k != "crs_wkt" and isinstance(v, str | int | float | list | tuple)
    }


def _values(source: GeoTiffSource, names: tuple[str, str], steps: Sequence[int]) -> RawVariable:
    layer = source.layers[0]
    packing = _common_packing(source)
    dtype = packing.dtype if packing is not None else _float_for(layer.dtype)

    shape = (len(steps), *layer.shape[1:])

    def load(key: Key) -> Array:
        wanted, y, x = key or (slice(None),) * 3
        rows, cols = _range(y, shape[1]), _range(x, shape[2])
        asked = list(steps)[wanted]
        runs = [(k, k + 1) for k in asked] if asked != list(range(*_ends(asked))) else [_ends(asked)]
        parts = [_read(source, Window(run, rows, cols), packing, dtype) for run in runs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    attrs: dict[str, Any] = {}
    if packing is None:
        attrs["_FillValue"] = dtype.type(np.nan)
    else:
        attrs |= _packing_attributes(packing)
    attrs |= {k: v for k, v in (("long_name", layer.long_name), ("standard_name", layer.standard_name)) if v}
    attrs |= {"units": layer.units} if layer.units else {}
    if _mapping(source) is not None:
        attrs["grid_mapping"] = _MAPPING
    two = [v.name for v in _coordinates(source, names) if len(v.dims) == 2]
    attrs |= {"coordinates": " ".join(two)} if two else {}
    return RawVariable(layer.variable, ("time", *names), shape, dtype, attrs, load)


def _common_packing(source: GeoTiffSource) -> Packing | None:
    """The packing of every band, if it is one and can mark every gap; else None."""
    bands = [b for s in source.steps for b in s.bands]
    first = bands[0].packing
    if any(not b.packing.same_as(first) for b in bands):
        return None
    marks_gaps = first.fill is not None or first.dtype.kind == "f"
    hidden = any(b.cover != "none" for b in bands) or any(not s.bands for s in source.steps)
    return first if marks_gaps or not hidden else None


def _packing_attributes(packing: Packing) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    if packing.fill is not None:
        attrs["_FillValue"] = packing.dtype.type(packing.fill)
        others = [packing.dtype.type(code) for code in packing.nodata if code != packing.fill]
        attrs |= {"missing_value": np.array(others)} if others and packing.fill == packing.fill else {}
    elif packing.dtype.kind == "f":
        attrs["_FillValue"] = packing.dtype.type(np.nan)
    if packing.packed:
        attrs |= {"scale_factor": packing.scale, "add_offset": packing.offset}
    return attrs


def _native(source: GeoTiffSource, window: Window, packing: Packing) -> Array:
    """Stored numbers; gaps that only a coverage band or an inserted step tells are given the fill."""
    stored, gap = source.read_marked(window)
    numbers = stored.astype(packing.dtype, copy=False)
    hidden = gap & packing.observed(numbers)
    if hidden.any():
        numbers[hidden] = np.nan if packing.fill is None else packing.fill
    return numbers


def _decoded(source: GeoTiffSource, window: Window, dtype: np.dtype[Any]) -> Array:
    out = np.full(window.shape, np.nan, dtype=dtype)
    for k, step in enumerate(range(*window.time)):
        one = Window((step, step + 1), window.y, window.x)
        stored, gap = source.read_marked(one)
        band = source.steps[step].band
        if band is not None:
            values, valid = band.packing.decode64(stored[0].astype(band.dtype))
            out[k] = np.where(valid & ~gap[0], values, np.nan)
    return out


def _global_attributes(source: GeoTiffSource) -> dict[str, Any]:
    tags = dict(common_tags([h.tags for h in source.headers]).get("", {}))
    history = [tags.pop(key, "") for key in ("history", HISTORY_TAG)]
    attrs = {
        k: v
        for k, v in tags.items()
        if (k, v) != ("AREA_OR_POINT", "Area") and re.fullmatch(r"[A-Za-z]\w*", k)
    }
    lines = "\n".join(h for h in history if h)
    return attrs | ({"history": lines} if lines else {})


def _constant(name: str, dims: tuple[str, ...], values: Array, attrs: Mapping[str, Any]) -> RawVariable:
    array = np.asarray(values)
    return RawVariable(name, dims, array.shape, array.dtype, attrs, lambda key: array[key] if key else array)


def _range(key: slice, length: int) -> tuple[int, int]:
    start, stop, _ = key.indices(length)
    return start, stop


def _read(source: GeoTiffSource, window: Window, packing: Packing | None, dtype: np.dtype[Any]) -> Array:
    return _decoded(source, window, dtype) if packing is None else _native(source, window, packing)


def _ends(steps: Sequence[int]) -> tuple[int, int]:
    return (steps[0], steps[-1] + 1) if steps else (0, 0)


def _float_for(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A float type that holds every number of a type.

    >>> _float_for(np.dtype("int16")), _float_for(np.dtype("int32"))
    (dtype('float32'), dtype('float64'))
    """
    return np.dtype(np.result_type(dtype, np.float32))
