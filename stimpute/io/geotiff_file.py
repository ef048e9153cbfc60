"""One GeoTIFF or COG file out of staged arrays: its blocks, coverage, bands and tags, and the proof that all of it arrived.

Every compressed block is written exactly once. Knows nothing about stacks, names or what is committed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow

from stimpute.errors import InputError, OutputError
from stimpute.io.geotiff_bands import GDAL_CACHE_MB, HISTORY_TAG, environment, open_raster
from stimpute.io.geotiff_layout import BandLayout, FileLayout
from stimpute.io.geotiff_staging import PIECE_BYTES, Staged, strips
from stimpute.protocols import FILLED, OBSERVED, Window

Array = npt.NDArray[Any]


def write_file(path: Path, layout: FileLayout, staged: Staged, name: str, *, folder: Path, out: Path) -> None:
    """Write one file and read it back.

    Parameters
    ----------
    path : where to; nothing else is written there.
    staged, name : the arrays, and which of them the file holds: ``values``, ``flag``, a sibling's.
    folder : where what a COG is made of may lie meanwhile.
    out : the output as the user named it, for messages.

    Raises
    ------
    OutputError : the file does not hold what was to be written.
    """
    if not layout.cog:
        _write_tiff(path, layout, staged, name)
        _prove(path, layout, staged, name, out)
        return
    plain = folder / f"cog-{path.name}"
    interim: dict[str, Any] = {"interleave": "band", "bigtiff": "IF_SAFER"}
    if min(layout.shape) >= 512:
        interim |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
    _write_tiff(plain, replace(layout, profile=interim, overviews=()), staged, name)
    path.unlink(missing_ok=True)
    with rasterio.Env(GDAL_CACHEMAX=_cache_mb(512 * 512 * len(layout.bands) * layout.dtype.itemsize)):
        copy_raster(plain, path, driver="COG", **_cog_options(layout.profile, layout.dtype))
    plain.unlink()
    _prove(path, layout, staged, name, out)


def _prove(path: Path, layout: FileLayout, staged: Staged, name: str, out: Path) -> None:
    """Read the file back and compare: GDAL keeps silent about writes that fail while a file is closed.

    Raises
    ------
    OutputError : the file does not hold what was to be written.
    """
    problem = f"{out}: {layout.name} was not written completely; is the disk full?"
    try:
        with environment(), open_raster(str(path)) as written:
            rows = int(written.block_shapes[0][0])
            for bands, window in _chunks(layout, rows):
                cells = written.read([i + 1 for i in bands], window=window)
                if cells.tobytes() != _chunk(layout, staged, name, bands, window).tobytes():
                    raise OutputError(problem)
            lost_crs = bool(layout.crs) and not layout.gcps and not written.crs
            if lost_crs or HISTORY_TAG not in written.tags():
                raise OutputError(problem)
    except (InputError, RasterioError) as error:
        raise OutputError(problem) from error


def _write_tiff(path: Path, layout: FileLayout, staged: Staged, name: str) -> None:
    alpha = layout.cover == "alpha" and name == "values"
    ny, nx = layout.shape
    place = {"transform": layout.transform} if layout.transform is not None else {}
    profile = {k: v for k, v in layout.profile.items() if v is not None}
    if not layout.colormap and all(
        b.color in (ColorInterp.undefined, ColorInterp.gray) for b in layout.bands
    ):
        profile.setdefault("photometric", "minisblack")  # or GDAL takes three or four bytes for a picture
    block = int(profile.get("blockxsize") or nx) * int(profile.get("blockysize") or 1) * len(layout.bands)
    settings = {
        "GDAL_CACHEMAX": _cache_mb(block * layout.dtype.itemsize),
        "GDAL_TIFF_INTERNAL_MASK": True,
    }
    with rasterio.Env(**settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=nx,
            height=ny,
            count=len(layout.bands) + alpha,
            dtype=layout.dtype,
            crs=layout.crs,
            nodata=layout.nodata,
            **place,
            **profile,
        ) as target:
            _describe_file(target, layout, alpha)
            for bands, window in _chunks(layout, int(profile.get("blockysize") or 1)):
                at = [i + 1 for i in bands]
                target.write(_chunk(layout, staged, name, bands, window), at, window=window)
            if name == "values":
                _write_cover(target, layout, staged)
            for index, planned in enumerate(layout.bands, start=1):
                _describe_band(target, index, planned, staged, name)
            if layout.overviews:
                target.build_overviews(list(layout.overviews), _resampling(layout, name))
                target.update_tags(ns="rio_overview", resampling=_resampling(layout, name).name)


def _chunk(
    layout: FileLayout, staged: Staged, name: str, bands: Sequence[int], window: RasterWindow
) -> Array:
    """Staged numbers (band, y, x) of a window of a file, in its dtype."""
    rows, columns = (slice(*w) for w in window.toranges())
    cells = np.empty((len(bands), rows.stop - rows.start, columns.stop - columns.start), dtype=layout.dtype)
    for k, index in enumerate(bands):
        band = layout.bands[index]
        part = Window((band.step, band.step + 1), (rows.start, rows.stop), (columns.start, columns.stop))
        cells[k] = staged[name, band.layer].read(part)[0]
    return cells


def _write_cover(target: Any, layout: FileLayout, staged: Staged) -> None:
    """The coverage of the input's kind: a cell is covered if any step of it holds a value."""
    if layout.cover == "none":
        return
    for window in strips(0, layout.shape, 1):
        covered = np.zeros(window.shape[1:], dtype=bool)
        for band in layout.bands:
            part = Window((band.step, band.step + 1), window.y, window.x)
            covered |= staged["flag", band.layer].read(part)[0] <= FILLED
        place = RasterWindow(0, window.y[0], layout.shape[1], window.y[1] - window.y[0])
        if layout.cover == "dataset":
            target.write_mask(covered, window=place)
        else:
            opaque = np.where(covered, _opaque(layout.dtype), 0).astype(layout.dtype)
            target.write(opaque, len(layout.bands) + 1, window=place)


def _describe_band(target: Any, index: int, band: BandLayout, staged: Staged, name: str) -> None:
    if band.description:
        target.set_band_description(index, band.description)
    if band.units:
        target.set_band_unit(index, band.units)
    changed = name == "values" and bool(
        any(
            (staged["flag", band.layer].read(w) != OBSERVED).any() for w in strips(band.step, target.shape, 1)
        )
    )
    for space, tags in (band.tags or {}).items():
        kept = {k: v for k, v in tags.items() if not (changed and k.startswith("STATISTICS_"))}
        if kept:
            target.update_tags(index, ns=space or None, **kept)


def _describe_file(target: Any, layout: FileLayout, alpha: bool) -> None:
    """Everything that belongs to the file and must stand before its blocks are written."""
    for space, tags in layout.tags.items():
        if tags:
            target.update_tags(ns=space or None, **tags)
    if layout.gcps:
        target.gcps = (list(layout.gcps), layout.gcps_crs)
    target.scales = [b.packing.scale for b in layout.bands] + [1.0] * alpha
    target.offsets = [b.packing.offset for b in layout.bands] + [0.0] * alpha
    if any(b.color != ColorInterp.undefined for b in layout.bands) or alpha:
        colors = [ColorInterp.undefined if b.color == ColorInterp.palette else b.color for b in layout.bands]
        target.colorinterp = colors + [ColorInterp.alpha] * alpha
    if layout.colormap:
        target.write_colormap(1, dict(layout.colormap))


def _cog_options(profile: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Creation options of a GeoTIFF in the words of the COG driver."""
    compress = str(profile.get("compress") or "deflate").upper()
    options: dict[str, Any] = {"COMPRESS": compress, "BIGTIFF": profile.get("bigtiff", "IF_SAFER")}
    if compress in ("DEFLATE", "LZW", "ZSTD"):
        options["PREDICTOR"] = {"2": "STANDARD", "3": "FLOATING_POINT"}.get(
            str(profile.get("predictor")), "NO"
        )
    size = profile.get("blocksize") or profile.get("blockxsize")
    if size and int(size) >= 128 and int(size) % 16 == 0:
        options["BLOCKSIZE"] = int(size)
    known = {
        "tiled",
        "blockxsize",
        "blockysize",
        "interleave",
        "photometric",
        "compress",
        "predictor",
        "bigtiff",
        "blocksize",
    }
    return options | {k.upper(): v for k, v in profile.items() if k not in known}


def _chunks(layout: FileLayout, block_rows: int) -> Iterator[tuple[Sequence[int], RasterWindow]]:
    """Bands and windows to write at once: block rows of all bands if they are interleaved by pixel, else of one."""
    ny, nx = layout.shape
    count = len(layout.bands)
    together = layout.profile.get("interleave") == "pixel" and count > 1
    groups: list[Sequence[int]] = [range(count)] if together else [(i,) for i in range(count)]
    across = _across(layout, block_rows, len(groups[0]))
    rows = max(
        block_rows,
        PIECE_BYTES // (across * len(groups[0]) * layout.dtype.itemsize) // block_rows * block_rows,
    )
    for group in groups:
        for top in range(0, ny, rows):
            for left in range(0, nx, across):
                yield group, RasterWindow(left, top, min(across, nx - left), min(rows, ny - top))


def _across(layout: FileLayout, block_rows: int, bands: int) -> int:
    """How many columns to write at once: all, or as many tiles as fit."""
    nx = layout.shape[1]
    tile = int(layout.profile.get("blockxsize") or nx) if layout.profile.get("tiled") else nx
    fitting = PIECE_BYTES // (block_rows * bands * layout.dtype.itemsize)
    return nx if fitting >= nx else max(tile, fitting // tile * tile)


def _cache_mb(block_bytes: int) -> int:
    """A block cache that holds a row of pixel-interleaved blocks, so that no block is compressed twice."""
    chosen = os.environ.get("GDAL_CACHEMAX", "")
    if chosen.isdigit():
        return int(chosen)
    return min(max(GDAL_CACHE_MB, 2 * block_bytes // 2**20 + 1), 2048)


def _resampling(layout: FileLayout, name: str) -> Resampling:
    known = Resampling.__members__.get(layout.overview_resampling.lower(), Resampling.nearest)
    return Resampling.nearest if name == "flag" else known


def _opaque(dtype: np.dtype[Any]) -> float | int:
    return 255 if dtype.kind == "f" else int(min(np.iinfo(dtype).max, 65535))
