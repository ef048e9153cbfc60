"""A CF stack as the bands of GeoTIFF files, for their sink.

What GeoTIFF cannot hold is refused or said, never invented: no transform is made up for curvilinear coordinates.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

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
from stimpute.io.cf_time import NO_CALENDAR
from stimpute.io.folder_sink import file_names
from stimpute.io.geotiff_grid import SAME_CELLS, transform_difference
from stimpute.io.geotiff_layout import BandLayout, FileLayout, creation_profile
from stimpute.io.options import SinkOptions
from stimpute.io.outputs import is_folder_output
from stimpute.io.raw import Array
from stimpute.protocols import Layer, Window


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
        self.source, self.options = source, source.options
        self.paths: tuple[Path | str, ...] = source.paths
        self.besides = source.besides
        self.layers: tuple[Layer, ...] = source.layers
        self.time_labels = source.time_labels
        self.alterations = source.alterations
        self.transform = transform_of(source)
        for name in source.variables:
            if source.is_fill_flag(f"{name}_fill_flag"):
                warnings.warn(
                    f"{source.paths[0]}: {name}_fill_flag marks values that an earlier run filled; they are taken as observed, and a GeoTIFF "
                    "loses their mark",
                    StimputeWarning,
                    stacklevel=3,
                )
        odd = next((label for label in self.time_labels if _no_date(label, source.calendar)), None)
        if odd is not None:
            warnings.warn(
                f"{source.paths[0]}: {odd} of the {source.calendar} calendar names a band, but is no date that programs read back from a "
                "GeoTIFF; NetCDF and Zarr keep the calendar",
                StimputeWarning,
                stacklevel=3,
            )
        self.crs = _raster_crs(source.grid.crs_wkt, str(source.paths[0]))
        mapping = crs_of(source.files[0], source.files[0].variables[source.variables[0]])[1]
        if self.crs is None and "grid_mapping_name" in mapping:
            raise OutputError(
                f"{source.paths[0]}: GeoTIFF cannot hold its grid mapping; write NetCDF or Zarr"
            )

    def read_stored(self, window: Window, layer: int = 0) -> Array:
        """Stored numbers (time, y, x) as the numbers they mean; 0 in new gaps of whole numbers that declare none, which the sink marks."""
        packing = self.source.packing(layer)
        gap = 0 if packing.fill is None and packing.dtype.kind in "iu" else None
        return packing.as_read(self.source.read_stored(window, layer, gap))

    def layouts(self, out: str | Path, options: SinkOptions) -> tuple[FileLayout, ...]:
        """One file per layer; several layers need a folder.

        Raises
        ------
        OutputError : several layers for one file.
        """
        if is_folder_output(out):
            stems = [_file_stem(layer.name) for layer in self.layers]
            if len(stems) == 1 and self.source.step_names:
                whole = self._file(0, "", options)
                return tuple(
                    replace(whole, name=name, bands=(band,))
                    for name, band in zip(self.source.step_names, whole.bands, strict=True)
                )
            if len(self.source.files) > 1:
                return self._one_each(stems, options)
            if len(stems) == 1:
                stems = [Path(str(self.source.files[0].path)).stem]
            return tuple(self._file(i, f"{stem}.tif", options) for i, stem in enumerate(stems))
        if len(self.layers) > 1:
            names = ", ".join(layer.name for layer in self.layers[:4]) + (
                ", ..." if len(self.layers) > 4 else ""
            )
            several = len({layer.variable for layer in self.layers}) > 1
            choice = (
                "choose one with --var"
                if several
                else "take one level out of the input first (ncks -d, cdo sellevel)"
            )
            raise OutputError(
                f"{out}: {len(self.layers)} layers ({names}) do not fit into one GeoTIFF; name a folder (OUT/ --of GeoTIFF), which "
                f"gets one file per layer, or {choice}"
            )
        return (self._file(0, Path(out).name, options),)

    def _one_each(self, layers: Sequence[str], options: SinkOptions) -> tuple[FileLayout, ...]:
        """One file for each input and layer.

        Raises
        ------
        OutputError : steps that belong to no single file; equal names.
        """
        places = self.source.steps.places
        if any(len(p) != 1 for p in places):
            raise OutputError(
                f"{self.paths[0]}: --dedupe and --regular change the steps; name one output file instead of a folder"
            )
        stems = [Path(name).stem for name in file_names([f.path for f in self.source.files], ".tif")]
        files = []
        for number, layer in enumerate(layers):
            whole = self._file(number, "", options)
            for file, stem in enumerate(stems):
                bands = tuple(b for b in whole.bands if places[b.step][0][0] == file)
                name = f"{stem}.tif" if len(layers) == 1 else f"{stem}_{layer}.tif"
                files += [replace(whole, name=name, bands=bands)] if bands else []
        return tuple(files)

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
    OutputError : stations, or coordinates that no transform describes.
    """
    grid = source.grid
    if grid.kind == "points":
        raise OutputError(f"{source.paths[0]}: stations fit no GeoTIFF; write NetCDF or Zarr")
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


def _no_date(label: str, calendar: str) -> bool:
    """Whether a label of another calendar is no date in the usual one (30 February).

    >>> _no_date("2001-02-30", "360_day"), _no_date("2001-02-28", "360_day")
    (True, False)
    """
    if calendar == NO_CALENDAR:
        return False
    try:
        datetime.fromisoformat(label)
    except ValueError:
        return True
    return False


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
