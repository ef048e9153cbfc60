"""From one family of formats to the other: GeoTIFF stacks as CF variables, CF variables as GeoTIFF bands.

What the target cannot hold is refused or said, never invented: no transform is made up for curvilinear coordinates.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import numpy.typing as npt
import pyproj
from rasterio.crs import CRS
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import Affine

from stimpute.errors import OutputError, StimputeWarning
from stimpute.io.cf_grid import crs_of
from stimpute.io.cf_select import grid_units_in_crs
from stimpute.io.cf_source import CFSource
from stimpute.io.cf_time import parse_label
from stimpute.io.geotiff_bands import HISTORY_TAG
from stimpute.io.geotiff_grid import SAME_CELLS, cell_centres, transform_difference, wkt_of
from stimpute.io.geotiff_layout import BandLayout, FileLayout, common_tags, creation_profile, is_folder_output
from stimpute.io.geotiff_source import GeoTiffSource
from stimpute.io.options import ReadOptions, SinkOptions
from stimpute.io.packing import Packing
from stimpute.io.raw import Array, Key, RawFile, RawVariable
from stimpute.protocols import Layer, Window

_MAPPING = "spatial_ref"


# ------------------------------------------------------------------------------------------------ GeoTIFF -> CF


def as_cf(source: GeoTiffSource) -> CFSource:
    """A GeoTIFF stack as a CF source with the same numbers, for the NetCDF, Zarr and in-memory sinks.

    Stored numbers and packing stay where all bands share them and gaps have a number of their own; otherwise the
    variable is decoded to floats, which is recorded as an alteration.
    """
    raw = raw_file(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        converted = CFSource([raw], ReadOptions(wrap=source.options.wrap))
    converted.paths, converted.warnings = source.paths, source.warnings
    converted.domain, converted.covariates = source.domain, source.covariates
    unpacked = () if _common_packing(source) else ("files of different packing decoded to floats",)
    converted.alterations = (*source.alterations, *unpacked)
    return converted


def raw_file(source: GeoTiffSource) -> RawFile:
    """The file that a GeoTIFF stack would be if it were NetCDF: dimensions, coordinates, grid mapping, lazy values."""
    geographic = bool(source.headers[0].crs) and bool(source.headers[0].crs.is_geographic)
    names = ("lat", "lon") if geographic else ("y", "x")
    nt, ny, nx = source.layers[0].shape
    variables = [_time(source), *_coordinates(source, names), _mapping(source), _values(source, names)]
    return RawFile(
        path=source.paths[0],
        format="GeoTIFF",
        variant="",
        dims={"time": nt, names[0]: ny, names[1]: nx},
        variables={v.name: v for v in variables if v is not None},
        groups={"": {"Conventions": "CF-1.8", **_global_attributes(source)}},
        native=None,
        close=source.close,
    )


def _time(source: GeoTiffSource) -> RawVariable:
    """Days, or seconds where steps are not at midnight, since 1970."""
    dates = [parse_label(label, "time", source.calendar) for label in source.time_labels]
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


def _values(source: GeoTiffSource, names: tuple[str, str]) -> RawVariable:
    layer = source.layers[0]
    packing = _common_packing(source)
    dtype = packing.dtype if packing is not None else _float_for(layer.dtype)

    def load(key: Key) -> Array:
        window = Window(*(_range(k, n) for k, n in zip(key or (slice(None),) * 3, layer.shape)))
        return _native(source, window, packing) if packing is not None else _decoded(source, window, dtype)

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
    return RawVariable(layer.variable, ("time", *names), layer.shape, dtype, attrs, load)


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
    attrs = {k: v for k, v in tags.items() if k != "AREA_OR_POINT" and re.fullmatch(r"[A-Za-z]\w*", k)}
    lines = "\n".join(h for h in history if h)
    return attrs | ({"history": lines} if lines else {})


def _constant(name: str, dims: tuple[str, ...], values: Array, attrs: Mapping[str, Any]) -> RawVariable:
    array = np.asarray(values)
    return RawVariable(name, dims, array.shape, array.dtype, attrs, lambda key: array[key] if key else array)


def _range(key: slice, length: int) -> tuple[int, int]:
    start, stop, _ = key.indices(length)
    return start, stop


def _float_for(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A float type that holds every number of a type.

    >>> _float_for(np.dtype("int16")), _float_for(np.dtype("int32"))
    (dtype('float32'), dtype('float64'))
    """
    return np.dtype(np.result_type(dtype, np.float32))


# ------------------------------------------------------------------------------------------------ CF -> GeoTIFF


def as_geotiff(source: CFSource) -> TiffView:
    """A CF source as the GeoTIFF sink wants it.

    Raises
    ------
    OutputError : a grid that no GeoTIFF can hold (uneven or curvilinear coordinates).
    """
    return TiffView(source)


class TiffView:
    """A CF source seen as bands: what :class:`stimpute.io.geotiff_sink.GeoTiffSink` asks of a source."""

    format = "GeoTIFF"

    def __init__(self, source: CFSource) -> None:
        self.source = source
        self.paths: tuple[Path | str, ...] = source.paths
        self.layers: tuple[Layer, ...] = source.layers
        self.time_labels = source.time_labels
        self.alterations = source.alterations
        self.transform = transform_of(source)
        self.crs = _raster_crs(source.grid.crs_wkt, str(source.paths[0]))
        if self.crs is None and crs_of(source.files[0], source.files[0].variables[source.variables[0]])[1]:
            raise OutputError(
                f"{source.paths[0]}: GeoTIFF cannot hold its grid mapping; write NetCDF or Zarr"
            )

    def read_stored(self, window: Window, layer: int = 0) -> Array:
        """Stored numbers (time, y, x) as the numbers they mean."""
        return self.source.packing(layer).as_read(self.source.read_stored(window, layer))

    def layouts(self, out: str | Path, options: SinkOptions) -> tuple[FileLayout, ...]:
        """One file per layer; several layers need a folder.

        Raises
        ------
        OutputError : several layers for one file.
        """
        if is_folder_output(out):
            stems = [_file_stem(layer.name) for layer in self.layers]
            if len(stems) == 1:
                stems = [Path(str(self.paths[0])).stem]
            return tuple(self._file(i, f"{stem}.tif", options) for i, stem in enumerate(stems))
        if len(self.layers) > 1:
            names = ", ".join(layer.name for layer in self.layers[:4])
            raise OutputError(
                f"{out}: {len(self.layers)} layers ({names}, ...) do not fit into one GeoTIFF; name a folder (OUT/), which "
                "gets one file per layer, or choose one with --var"
            )
        return (self._file(0, Path(out).name, options),)

    def _file(self, number: int, name: str, options: SinkOptions) -> FileLayout:
        layer = self.layers[number]
        before = self.source.packing(number)
        packing = (
            before.with_dtype(options.dtype) if options.dtype else replace(before, stored_dtype=before.dtype)
        )
        if packing.dtype == np.float16:
            packing = replace(packing, dtype=np.dtype(np.float32), stored_dtype=np.dtype(np.float32))
        bands = tuple(
            BandLayout(
                step=step,
                layer=number,
                packing=packing,
                source_packing=replace(before, stored_dtype=before.dtype) if options.dtype else None,
                description=label,
                units=layer.units,
            )
            for step, label in enumerate(self.time_labels)
        )
        profile = {"compress": "deflate", "interleave": "band", **_tiling(layer.shape)}
        return FileLayout(
            name=name,
            bands=bands,
            shape=self.source.grid.shape,
            crs=self.crs,
            transform=self.transform,
            dtype=packing.dtype,
            nodata=packing.fill,
            profile=creation_profile(profile, packing.dtype, options, self.source.grid.shape),
            tags={"": self._tags(layer)},
            cog=options.format == "COG",
        )

    def _tags(self, layer: Layer) -> dict[str, str]:
        attrs = {k: str(v) for k, v in self.source.files[0].attrs.items() if isinstance(v, str | int | float)}
        named = {"variable": layer.name, "long_name": layer.long_name, "standard_name": layer.standard_name}
        dropped = ("Conventions", "_NCProperties")
        return {k: v for k, v in (attrs | named).items() if v and k not in dropped}


def transform_of(source: CFSource) -> Affine | None:
    """The affine transform of a CF grid; None without coordinates.

    GDAL's ``GeoTransform`` attribute is taken where it agrees with the coordinates, so that a round trip is exact.

    Raises
    ------
    OutputError : coordinates that no transform describes.
    """
    grid = source.grid
    stated = _stated_transform(source)
    whole = grid.shape == tuple(source.files[0].dims[d] for d in _dims(source))
    if stated is not None and whole and (stated.b or stated.d or grid.units == "cells"):
        return stated
    if grid.units == "cells":
        warnings.warn(
            f"{source.paths[0]}: no coordinates; the GeoTIFF has no georeference",
            StimputeWarning,
            stacklevel=2,
        )
        return None
    if grid.kind != "affine":
        raise OutputError(
            f"{source.paths[0]}: its {grid.kind} coordinates fit no GeoTIFF; write NetCDF or Zarr, or regrid first"
        )
    computed = _from_centres(grid.x, grid.y, _units_in_crs(source))
    if stated is not None and transform_difference(stated, computed, grid.shape) < SAME_CELLS:
        return stated
    return computed


def _dims(source: CFSource) -> tuple[str, str]:
    axes = source.axes[0][source.variables[0]]
    return axes.y, axes.x


def _from_centres(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], unit: float) -> Affine:
    """From evenly spaced cell centres; a single row or column takes the other's spacing.

    >>> _from_centres(np.array([5.0, 15.0]), np.array([35.0]), 1.0)
    Affine(10.0, 0.0, 0.0,
           0.0, -10.0, 40.0)
    """
    dx = (x[-1] - x[0]) / (len(x) - 1) if len(x) > 1 else None
    dy = (y[-1] - y[0]) / (len(y) - 1) if len(y) > 1 else None
    across = float(dx if dx is not None else abs(dy) if dy is not None else 1.0) * unit
    down = float(dy if dy is not None else -abs(dx) if dx is not None else -1.0) * unit
    return Affine(across, 0.0, float(x[0]) * unit - across / 2, 0.0, down, float(y[0]) * unit - down / 2)


def _units_in_crs(source: CFSource) -> float:
    """CRS units in one coordinate unit (kilometres, or scan angles of a geostationary view)."""
    if source.grid.crs_wkt is None:
        return 1.0
    try:
        return float(grid_units_in_crs(source.grid, pyproj.CRS.from_user_input(source.grid.crs_wkt)))
    except pyproj.exceptions.CRSError:
        return 1.0


def _stated_transform(source: CFSource) -> Affine | None:
    raw = source.files[0]
    _, mapping = crs_of(raw, raw.variables[source.variables[0]])
    numbers = str(mapping.get("GeoTransform", "")).split()
    try:
        return Affine.from_gdal(*(float(n) for n in numbers)) if len(numbers) == 6 else None
    except ValueError:
        return None


def _raster_crs(wkt: str | None, path: str) -> CRS | None:
    """The CRS for a GeoTIFF, tried out on one of a single cell: some CRSs are dropped by the format without a word.

    Raises
    ------
    OutputError : GeoTIFF cannot hold it.
    """
    if wkt is None:
        return None
    try:
        crs = CRS.from_wkt(wkt)
        with warnings.catch_warnings(), MemoryFile() as memory:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", crs=crs):
                pass
            with memory.open() as written:
                kept = bool(written.crs)
    except (CRSError, RasterioError) as error:
        raise OutputError(f"{path}: GeoTIFF cannot hold its CRS ({error}); write NetCDF or Zarr") from error
    if not kept:
        raise OutputError(
            f"{path}: GeoTIFF cannot hold its CRS ({crs.to_wkt()[:60]}...); write NetCDF or Zarr"
        )
    return crs


def _tiling(shape: tuple[int, int, int]) -> dict[str, Any]:
    large = min(shape[1:]) >= 512
    return {"tiled": True, "blockxsize": 256, "blockysize": 256} if large else {}


def _file_stem(name: str) -> str:
    """A layer's name as a file name.

    >>> _file_stem("u[level=850]")
    'u_level_850'
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("_")
