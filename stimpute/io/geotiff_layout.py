"""What a GeoTIFF output will look like, decided before anything is written: files, bands, profile, tags. Opens nothing."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import ColorInterp

from stimpute.errors import InputError, OutputError, UsageError
from stimpute.io.dates import DateReading, detect_dates, find_readings, rename
from stimpute.io.geotiff_bands import Band, Cover, Header, Tags
from stimpute.io.inputs import TIFF_SUFFIXES
from stimpute.io.options import SinkOptions
from stimpute.io.outputs import is_folder_output
from stimpute.io.packing import Packing

if TYPE_CHECKING:
    from stimpute.io.geotiff_source import GeoTiffSource

_COMPRESSIONS = (
    "none", "deflate", "zstd", "lzw", "lzma", "packbits", "lerc", "lerc_deflate", "lerc_zstd", "jpeg", "webp", "jxl", "ccittrle",
    "ccittfax3", "ccittfax4",
)  # fmt: skip
_CREATION = frozenset(  # of GDAL's GTiff and COG drivers
    [
        "add_alpha",
        "aligned_levels",
        "alpha",
        "bigtiff",
        "blocksize",
        "blockxsize",
        "blockysize",
        "compress",
        "copy_src_overviews",
        "discard_lsb",
        "endianness",
        "extent",
        "geotiff_keys_flavor",
        "geotiff_version",
        "interleave",
        "jpeg_quality",
        "jpegtablesmode",
        "level",
        "max_z_error",
        "max_z_error_overview",
        "nbits",
        "num_threads",
        "overviews",
        "photometric",
        "pixeltype",
        "predictor",
        "profile",
        "quality",
        "resampling",
        "res",
        "rpb",
        "rpctxt",
        "sparse_ok",
        "statistics",
        "streamable_output",
        "target_srs",
        "tfw",
        "tiled",
        "tiling_scheme",
        "warp_resampling",
        "webp_level",
        "webp_lossless",
        "zlevel",
        "zoom_level",
        "zoom_level_strategy",
        "zstd_level",
    ]
)
_LOSSY = ("jpeg", "webp", "lerc", "lerc_deflate", "lerc_zstd", "jxl", "jpeg2000")


@dataclass(frozen=True, eq=False)
class BandLayout:
    """One band of an output: which step and layer of the stack it holds and how it is described."""

    step: int
    packing: Packing
    layer: int = 0
    source_packing: Packing | None = None  # where the output's packing differs (--dtype)
    description: str = ""
    units: str = ""
    tags: Tags | None = None
    color: ColorInterp = ColorInterp.undefined


@dataclass(frozen=True, eq=False)
class FileLayout:
    """One output file.

    Parameters
    ----------
    name : file name, without folder.
    nodata : what the file declares; None: nothing, unless cells are left unfilled.
    cover : how the input kept validity beside the values; the output does the same.
    profile : creation options (lower case). ``cog``: written by the COG driver.
    """

    name: str
    bands: tuple[BandLayout, ...]
    shape: tuple[int, int]
    crs: Any
    transform: Any
    dtype: np.dtype[Any]
    nodata: float | int | None
    profile: Mapping[str, Any]
    tags: Tags
    gcps: tuple[Any, ...] = ()
    gcps_crs: Any = None
    cover: Cover = "none"
    cog: bool = False
    overviews: tuple[int, ...] = ()
    overview_resampling: str = "nearest"
    colormap: Mapping[int, Any] | None = None


def layouts(source: GeoTiffSource, out: str | Path, options: SinkOptions) -> tuple[FileLayout, ...]:
    """The files that a filled GeoTIFF stack becomes.

    One file stays one file; several become one multi-band file if ``out`` has a suffix, one file each if it is a folder.

    Raises
    ------
    OutputError : equal file names, bands that cannot share one file, an impossible ``--dtype``.
    """
    if is_folder_output(out):
        files = _one_each(source, options)
    elif len(source.headers) == 1:
        files = (_single(source, Path(out).name, options),)
    else:
        files = (_merged(source, Path(out).name, options),)
    names = [f.name for f in files]
    repeated = next((n for n in names if names.count(n) > 1), None)
    if repeated:
        raise OutputError(f"{out}: two inputs are called {repeated}; write one merged file instead (OUT.tif)")
    return files


def creation_profile(
    profile: Mapping[str, Any], dtype: np.dtype[Any], options: SinkOptions, shape: tuple[int, int]
) -> dict[str, Any]:
    """Creation options for an output: the input's, lossless, fitting its dtype, then the user's."""
    _check_creation(options.creation)
    chosen = {k.lower(): v for k, v in profile.items()}
    if str(chosen.get("compress", "")).lower() in _LOSSY:  # would alter observed cells
        chosen = {k: v for k, v in chosen.items() if k in ("tiled", "blockxsize", "blockysize", "interleave")}
        chosen["compress"] = "deflate"
    for key in ("nbits", "max_z_error", "jpeg_quality", "webp_level"):
        chosen.pop(key, None)
    if not chosen.get("tiled"):
        chosen.pop("blockxsize", None)
    chosen = {"interleave": "band", **chosen, **{k.lower(): v for k, v in options.creation.items()}}
    chosen["interleave"] = str(chosen["interleave"]).lower()
    if str(chosen.get("predictor")) == "3" and dtype.kind != "f":
        chosen["predictor"] = "2"
    if str(chosen.get("compress", "none")).lower() in ("none", "packbits"):
        chosen.pop("predictor", None)
    return {"bigtiff": "IF_SAFER", **chosen}


def _check_creation(creation: Mapping[str, str]) -> None:
    """Refuse creation options that GDAL would pass over in silence.

    Raises
    ------
    UsageError : an option that neither driver has, or an unknown compression.
    """
    for key, value in creation.items():
        name = key.lower()
        if name not in _CREATION and not name.startswith(("jxl_", "overview_", "source_", "tiff_")):
            close = difflib.get_close_matches(name, _CREATION, n=1)
            hint = f"; did you mean {close[0].upper()}?" if close else ""
            raise UsageError(f"--co {key}={value}: no creation option of GeoTIFF or COG{hint}")
        if name == "compress" and str(value).lower() not in _COMPRESSIONS:
            raise UsageError(f"--co {key}={value}: one of {', '.join(c.upper() for c in _COMPRESSIONS)}")


def common_tags(all_tags: Sequence[Tags]) -> Tags:
    """Tags that several files share, namespace by namespace.

    >>> common_tags([{"": {"a": "1", "b": "2"}}, {"": {"a": "1", "b": "3"}}])
    {'': {'a': '1'}}
    """
    first, *rest = all_tags
    return {
        space: {k: v for k, v in tags.items() if all(t.get(space, {}).get(k) == v for t in rest)}
        for space, tags in first.items()
    }


# ---------------------------------------------------------------------------------------------- one way of writing each


def _single(source: GeoTiffSource, name: str, options: SinkOptions) -> FileLayout:
    """One input file: its bands in its own order."""
    header = source.headers[0]
    order = sorted(range(len(source.steps)), key=lambda step: int(source.position[step]))
    names = _descriptions(source, order)
    if len(order) == 1 and not names[0] and not find_readings([name]):
        names[0] = source.time_labels[0]  # the date would be lost with the input's name
    bands = tuple(_band(source, step, names[step], options) for step in order)
    return _file(source, header, name, bands, header.tags, options)


def _merged(source: GeoTiffSource, name: str, options: SinkOptions) -> FileLayout:
    """Several input files as the bands of one, in time order, named by their dates."""
    steps = range(len(source.steps))
    bands = tuple(_band(source, step, source.time_labels[step], options) for step in steps)
    layout = _file(
        source, source.headers[0], name, bands, common_tags([h.tags for h in source.headers]), options
    )
    interleave = (
        "pixel" if source.headers[0].profile.get("interleave") == "pixel" and not layout.cog else "band"
    )
    if "interleave" in (key.lower() for key in options.creation):
        return layout
    return replace(layout, profile={**layout.profile, "interleave": interleave})


def _one_each(source: GeoTiffSource, options: SinkOptions) -> tuple[FileLayout, ...]:
    """One output per input file that has steps in the stack; inserted steps get files of their own."""
    if len(source.headers) == 1:
        return (_single(source, _tiff_name(source.headers[0].name), options),)
    members: dict[int, list[int]] = {}
    for step, stored in enumerate(source.steps):
        members.setdefault(stored.files[0] if stored.files else -1 - step, []).append(step)
    files = []
    for file, steps in members.items():
        header = source.headers[file] if file >= 0 else source.headers[0]
        name = _tiff_name(header.name) if file >= 0 else name_of_step(source, source.time_labels[steps[0]])
        names = {s: b.description if (b := source.steps[s].band) else "" for s in steps}
        bands = tuple(_band(source, s, names[s], options) for s in steps)
        tags = header.tags if file >= 0 else common_tags([h.tags for h in source.headers])
        files.append(_file(source, header, name, bands, tags, options))
    return tuple(files)


def _file(
    source: GeoTiffSource,
    header: Header,
    name: str,
    bands: tuple[BandLayout, ...],
    tags: Tags,
    options: SinkOptions,
) -> FileLayout:
    dtype = np.result_type(*{b.packing.dtype for b in bands})
    nodata = next((b.packing.fill for b in bands if _declares(source, b, options)), None)
    bands = tuple(replace(b, packing=_sharing(b.packing, dtype, nodata)) for b in bands)
    whole = source.grid.shape == (header.height, header.width)
    cog = options.format == "COG" or (header.is_cog and options.format is None)
    return FileLayout(
        name=name,
        bands=bands,
        shape=source.grid.shape,
        crs=header.crs,
        transform=None if header.gcps else _transform(source, header, whole),
        dtype=dtype,
        nodata=nodata,
        profile=creation_profile(header.profile, dtype, options, source.grid.shape),
        tags={k: v for k, v in tags.items() if whole or k != "RPC"},
        gcps=header.gcps,
        gcps_crs=header.gcps_crs,
        cover=header.bands[0].cover,
        cog=cog,
        overviews=() if cog else header.overviews,
        overview_resampling=header.overview_resampling,
        colormap=header.colormap,
    )


def _transform(source: GeoTiffSource, header: Header, whole: bool) -> Any:
    return header.transform if whole else source.transform


def _band(source: GeoTiffSource, step: int, description: str, options: SinkOptions) -> BandLayout:
    band = source.steps[step].band
    lender = band or _neighbour(source, step)
    packing = lender.packing
    tags = dict(lender.tags) if band is not None else {}
    return BandLayout(
        step=step,
        packing=packing.with_dtype(options.dtype) if options.dtype else packing,
        source_packing=packing if options.dtype else None,
        description=description,
        units=lender.units,
        tags=tags,
        color=lender.color,
    )


def _declares(source: GeoTiffSource, band: BandLayout, options: SinkOptions) -> bool:
    """Whether a band's file states its nodata (or has it stated by --dtype)."""
    stored = source.steps[band.step].band
    return options.dtype is not None or (stored is not None and stored.declared is not None)


def _sharing(packing: Packing, dtype: np.dtype[Any], nodata: float | int | None) -> Packing:
    """The packing of a band in a file whose dtype and nodata all bands share."""
    codes = packing.nodata if nodata is None else (nodata, *packing.nodata)
    fill = packing.fill if nodata is None else nodata
    return replace(packing, dtype=dtype, stored_dtype=dtype, nodata=tuple(dict.fromkeys(codes)), fill=fill)


def _neighbour(source: GeoTiffSource, step: int) -> Band:
    near = sorted(range(len(source.steps)), key=lambda other: abs(other - step))
    return next(b for b in (source.steps[i].band for i in near) if b is not None)


# ---------------------------------------------------------------------------------------------------------- names


def _tiff_name(name: str) -> str:
    """The input's file name, with a GeoTIFF suffix.

    >>> _tiff_name("a_2018-01-31.jp2"), _tiff_name("a.TIF")
    ('a_2018-01-31.tif', 'a.TIF')
    """
    path = PurePosixPath(name)
    return name if path.suffix.lower() in TIFF_SUFFIXES else f"{path.stem}.tif"


def name_of_step(source: GeoTiffSource, label: str) -> str:
    """A file name for a step that no file holds: that of the first file, with the date replaced by ``label``."""
    if source.reading is None:
        return f"{label.replace(':', '')}.tif"
    return _tiff_name(rename(source.headers[0].name, source.reading.found[0], datetime.fromisoformat(label)))


def _descriptions(source: GeoTiffSource, order: Sequence[int]) -> dict[int, str]:
    """Band names of a multi-band file; inserted steps are named like the others."""
    names = {step: band.description for step in order if (band := source.steps[step].band) is not None}
    if len(names) == len(order):
        return names
    reading = _reading_of(list(names.values()), source.options.date_format)
    for step in order:
        if step not in names:
            label = source.time_labels[step]
            names[step] = label
            if reading is not None:
                first = next(iter(names.values()))
                names[step] = rename(first, reading.found[0], datetime.fromisoformat(label))
    return names


def _reading_of(names: Sequence[str], date_format: str | None) -> DateReading | None:
    try:
        return detect_dates(names, date_format)
    except InputError:
        return None
