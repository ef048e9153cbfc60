"""Raster files and their bands as rasterio sees them: headers, nodata, stored numbers, what is missing.

One :class:`Header` per file, one :class:`Band` per band. Knows nothing about time, stacks or sinks.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio import shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from stimpute.errors import InputError
from stimpute.io.packing import Packing, equals, type_limits
from stimpute.io.packing_attributes import packing_of
from stimpute.io.room import refuse_absurd

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
Tags = Mapping[str, Mapping[str, str]]  # namespace -> key -> value
Cover = Literal["none", "dataset", "alpha"]

HISTORY_TAG = "STIMPUTE_HISTORY"
GDAL_CACHE_MB = 256
GDAL_ERRORS = (RasterioError, CPLE_BaseError)  # rasterio passes some of GDAL's on as they are
_OPEN_FILES = 48
_SKIPPED_NAMESPACES = {"IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "COLOR_PROFILE"}
_USUAL_FILLS = (-9999.0, -99999.0, -999.0, -32768.0, 1e20, 9.969209968386869e36)


@dataclass(frozen=True, eq=False)
class Band:
    """One band that holds values.

    Parameters
    ----------
    path, index : the file and the band in it (1-based).
    packing : dtype, scale, offset, and every stored number that means "no data".
    declared : the nodata number the file states, or None.
    cover : validity kept beside the values: the dataset's own coverage band, or an alpha band (``alpha``, 1-based).
    """

    path: str
    index: int
    packing: Packing
    declared: float | None
    cover: Cover
    alpha: int
    description: str
    units: str
    tags: Tags
    color: ColorInterp

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.packing.dtype

    @property
    def layout(self) -> tuple[str, float, float]:
        """dtype, scale, offset."""
        return self.dtype.name, self.packing.scale, self.packing.offset


@dataclass(frozen=True, eq=False)
class Header:
    """One raster file: everything but its numbers.

    ``profile`` holds the creation options that reproduce its layout; ``tags`` all its namespaces; ``crs`` is rasterio's.
    """

    path: str
    driver: str
    width: int
    height: int
    crs: Any
    transform: Any
    gcps: tuple[Any, ...]
    gcps_crs: Any
    bands: tuple[Band, ...]
    tags: Tags
    profile: Mapping[str, Any]
    overviews: tuple[int, ...]
    overview_resampling: str
    is_cog: bool
    colormap: Mapping[int, Any] | None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2].rpartition("!")[2]


class Files:
    """Open datasets, the most recently used few. Reading is serialised: GDAL handles are not for threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.RLock()

    def read(
        self, bands: Sequence[Band], rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[Array, BoolArray]:
        """Stored numbers of a window of bands of one file and where they are missing, both (band, y, x).

        Raises
        ------
        InputError : the file is truncated or damaged there.
        """
        window = RasterWindow(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        first = bands[0]
        with self._lock, environment():
            try:
                dataset = self._dataset(first.path)
                stored = dataset.read([b.index for b in bands], window=window)
                gap = np.stack([~b.packing.observed(s) for b, s in zip(bands, stored)])
                if first.cover == "alpha":
                    gap |= dataset.read(first.alpha, window=window) == 0
                elif first.cover == "dataset":
                    gap |= dataset.read_masks(first.index, window=window) == 0
            except GDAL_ERRORS as error:
                raise InputError(
                    f"{first.path}: band {first.index} cannot be read, is it truncated? ({error})"
                ) from error
        return stored, gap

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _dataset(self, path: str) -> Any:
        dataset = self._open.pop(path, None)
        if dataset is None:
            dataset = open_raster(path)
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open[path] = dataset
        return dataset


def environment() -> Any:
    """The GDAL settings of every read and write; ``GDAL_CACHEMAX`` of the user wins."""
    return rasterio.Env(**({} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": GDAL_CACHE_MB}))


def open_raster(path: str) -> Any:
    """Open for reading, or raise InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path, sharing=False)
    except GDAL_ERRORS as error:
        raise InputError(f"{path}: cannot be opened as a raster ({error})") from error


def read_header(path: str, extra_fills: Sequence[float] = (), *, force: bool = False) -> Header:
    """Open one file, check that its bands can be filled, describe it.

    Parameters
    ----------
    path : anything rasterio opens.
    extra_fills : further stored numbers that mean "no data" (``--nodata``).
    force : accept palettes and thematic layers.

    Raises
    ------
    InputError : unreadable; complex, palette or categorical values; nodata that the dtype cannot hold.
    """
    try:
        return _header(path, extra_fills, force)
    except GDAL_ERRORS as error:
        raise InputError(
            f"{path}: cannot be read as a raster ({error}); is it truncated or damaged?"
        ) from error


def _header(path: str, extra_fills: Sequence[float], force: bool) -> Header:
    with environment(), open_raster(path) as dataset:
        if dataset.count == 0:
            raise InputError(
                f"{path}: holds no bands (subdatasets: {', '.join(dataset.subdatasets[:3]) or 'none'})"
            )
        _check_kind(path, dataset, force)
        _check_blocks(path, dataset)
        gcps, gcps_crs = dataset.gcps
        return Header(
            path=path,
            driver=dataset.driver,
            width=dataset.width,
            height=dataset.height,
            crs=dataset.crs,
            transform=dataset.transform,
            gcps=tuple(gcps),
            gcps_crs=gcps_crs,
            bands=_bands(path, dataset, tuple(extra_fills)),
            tags=_tags(dataset, 0),
            profile=_profile(dataset),
            overviews=tuple(dataset.overviews(1)),
            overview_resampling=str(dataset.tags(1, ns="rio_overview").get("resampling", "nearest")),
            is_cog=dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG",
            colormap=_colormap(dataset),
        )


def suspected_fill(stored: Array, share: float = 0.05) -> tuple[float, float] | None:
    """A number that looks like an undeclared fill value in a sample without gaps, and how much of it it covers.

    Suspects are the limits of an integer dtype (and 0) or the usual sentinels; the commonest above ``share``, else None.

    >>> suspected_fill(np.array([255, 255, 1, 7], dtype=np.uint8))
    (255.0, 0.5)
    """
    if stored.size == 0:
        return None
    suspects = {*_USUAL_FILLS, *type_limits(stored.dtype)} | ({0.0} if stored.dtype.kind in "iu" else set())
    counts = {fill: int(equals(stored, fill).sum()) / stored.size for fill in sorted(suspects)}
    fill = max(counts, key=lambda f: counts[f])
    return (float(fill), counts[fill]) if share < counts[fill] < 1 else None


# --------------------------------------------------------------------------------------------------- header parts


def _check_blocks(path: str, dataset: Any) -> None:
    """The library reads whole blocks: of all bands at once where they are interleaved by pixel."""
    together = dataset.count if str(dataset.interleaving or "").lower().endswith("pixel") else 1
    for (height, width), dtype in zip(dataset.block_shapes, dataset.dtypes):
        if dtype.startswith("complex"):
            continue
        refuse_absurd(
            height * width * together * np.dtype(dtype).itemsize,
            f"{path} ({dataset.count} bands of {dataset.height} x {dataset.width}, in blocks of {height} x {width})",
            "is the file damaged? If not, gdal_translate -co TILED=YES makes it readable",
        )


def _check_kind(path: str, dataset: Any, force: bool) -> None:
    for index, dtype in zip(dataset.indexes, dataset.dtypes):
        if dtype.startswith("complex"):
            raise InputError(
                f"{path}: band {index} is {dtype}; extract a real quantity first (gdal_calc, magnitude)"
            )
    if force:
        return
    if ColorInterp.palette in dataset.colorinterp:
        raise InputError(
            f"{path}: the values are palette indices, not quantities; --force fills them as numbers"
        )
    for index in dataset.indexes:
        if dataset.tags(index).get("LAYER_TYPE", "").lower() == "thematic":
            raise InputError(
                f"{path}: band {index} is thematic (classes, not quantities); --force fills it as numbers"
            )


def _bands(path: str, dataset: Any, extra: tuple[float, ...]) -> tuple[Band, ...]:
    alpha = _alpha(dataset)
    declared, flags, dtypes = _declared(path, dataset), dataset.mask_flag_enums, dataset.dtypes
    scales, offsets, units = dataset.scales, dataset.offsets, dataset.units
    descriptions, colors = dataset.descriptions, dataset.colorinterp
    bands = []
    for i, index in enumerate(dataset.indexes):
        if index == alpha:
            continue
        attrs = {"scale_factor": scales[i], "add_offset": offsets[i]}
        if declared[i] is not None:
            attrs["_FillValue"] = declared[i]
        label = f"{path}: band {index}"
        beside = MaskFlags.per_dataset in flags[i] and MaskFlags.alpha not in flags[i]
        cover: Cover = "alpha" if alpha else "dataset" if beside else "none"
        bands.append(
            Band(
                path=path,
                index=index,
                packing=packing_of(attrs, np.dtype(dtypes[i]), label=label, nodata=extra),
                declared=declared[i],
                cover=cover,
                alpha=alpha,
                description=descriptions[i] or "",
                units=units[i] or "",
                tags=_tags(dataset, index),
                color=colors[i],
            )
        )
    return tuple(bands)


def _alpha(dataset: Any) -> int:
    """The band that says where the others are valid; 0 for none. Four steps of bytes look like RGBA: names decide."""
    last = dataset.count
    named = all(dataset.descriptions)
    is_alpha = last > 1 and dataset.colorinterp[-1] == ColorInterp.alpha and not named
    return last if is_alpha else 0


def _declared(path: str, dataset: Any) -> list[float | None]:
    """Nodata per band. rasterio hides numbers that the dtype cannot hold; a VRT of the file still shows them."""
    numbers: list[float | None] = list(dataset.nodatavals)
    dtypes = dataset.dtypes
    hidden = [i for i, n in enumerate(numbers) if n is None and np.dtype(dtypes[i]).kind in "iuf"]
    if not hidden:
        return numbers
    text = _vrt_text(dataset) or _vrt_text_of_copy(dataset)
    bands = re.findall(r"<VRTRasterBand\b.*?</VRTRasterBand>", text, flags=re.DOTALL)
    for i in hidden:
        stated = re.search(r"<NoDataValue>([^<]+)</NoDataValue>", bands[i]) if i < len(bands) else None
        if stated:
            numbers[i] = float(stated[1])
    return numbers


def _vrt_text(dataset: Any) -> str:
    return "".join(dataset.tags(ns="xml:VRT").values())


def _vrt_text_of_copy(dataset: Any) -> str:
    name = f"/vsimem/stimpute-{secrets.token_hex(8)}.vrt"
    shutil.copy(dataset, name, driver="VRT")
    try:
        with rasterio.open(name) as view:
            return _vrt_text(view)
    finally:
        shutil.delete(name)


def _tags(dataset: Any, index: int) -> dict[str, dict[str, str]]:
    found = {"": dataset.tags(index)}
    for namespace in dataset.tag_namespaces(index):
        if namespace not in _SKIPPED_NAMESPACES and not namespace.startswith("xml:"):
            found[namespace] = dataset.tags(index, ns=namespace)
    return {k: v for k, v in found.items() if v}


def _colormap(dataset: Any) -> Mapping[int, Any] | None:
    try:
        return dict(dataset.colormap(1))
    except ValueError:
        return None


def _profile(dataset: Any) -> dict[str, Any]:
    """The creation options of a GeoTIFF laid out like this file; a plain, compressed one for other formats."""
    if dataset.driver not in ("GTiff", "COG"):
        return {"compress": "deflate"}
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    profile = {
        k: v for k, v in dataset.profile.items() if k in ("tiled", "blockxsize", "blockysize", "interleave")
    }
    if not profile.get("tiled"):
        profile.pop("blockxsize", None)
    if "COMPRESSION" in structure:
        profile["compress"] = structure["COMPRESSION"].lower().replace("ycbcr ", "")
    for key in ("PREDICTOR", "NBITS", "MAX_Z_ERROR", "JPEG_QUALITY", "WEBP_LEVEL"):
        if key in structure:
            profile[key.lower()] = structure[key]
    if dataset.photometric is not None:
        profile["photometric"] = dataset.photometric.value
    return profile
