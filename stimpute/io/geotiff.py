"""GeoTIFF stacks: what the user may name (a file, a folder, a pattern, a list, an archive) and the stack it stands for."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from stimpute.errors import InputError
from stimpute.io.geotiff_sink import GeoTiffSink
from stimpute.io.geotiff_source import GeoTiffSource, open_stack
from stimpute.io.inputs import RASTER_SUFFIXES, expand_inputs, is_remote, without_siblings
from stimpute.io.options import ReadOptions

__all__ = ["GeoTiffSink", "GeoTiffSource", "expand", "open_geotiff"]


def open_geotiff(
    paths: str | Path | Sequence[str | Path], options: ReadOptions | None = None
) -> GeoTiffSource:
    """Open GeoTIFFs (or whatever else rasterio reads) as one stack.

    Parameters
    ----------
    paths : a multi-band file whose bands are dated; a folder, a glob, ``@list.txt``, a zip archive of dated files; or
        several of these. ``/vsi...`` paths and URLs are taken as they are.

    Raises
    ------
    InputError : nothing found, unreadable, no or ambiguous dates, grids that differ, undeclared nodata.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    return open_stack(expand(given), options or ReadOptions())


def expand(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """The raster files that the user's words stand for, in the order given, without flag and uncertainty siblings.

    Raises
    ------
    InputError : a word that stands for nothing.
    """
    found = [file for word in expand_inputs(paths) for file in _expand_one(word)]
    return tuple(dict.fromkeys(without_siblings(found)))


def is_raster_name(name: str | Path) -> bool:
    """Whether a file name has the suffix of a raster format read here."""
    return str(name).lower().endswith(RASTER_SUFFIXES)


def _expand_one(word: str) -> list[str]:
    if is_remote(word):
        return _expand_virtual(word)
    return _expand_archive(Path(word)) if zipfile.is_zipfile(word) else [word]


def _expand_archive(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path}: cannot be read as a zip archive ({error})") from error
    inner = [f"/vsizip/{{{path.resolve()}}}/{m}" for m in members]
    return _checked(str(path), _rasters(inner), "holds no GeoTIFF")


def _expand_virtual(word: str) -> list[str]:
    """``/vsizip/`` of a whole archive, or of a folder in it, stands for the rasters inside; the rest for itself."""
    match = re.match(r"/vsizip/\{?(.+?\.zip)\}?(?:/(.*))?$", word, flags=re.IGNORECASE)
    if match is None or is_raster_name(word) or not Path(match[1]).is_file():
        return [word]
    folder = (match[2] or "").strip("/")
    files = [
        f
        for f in _expand_archive(Path(match[1]))
        if PurePosixPath(f.partition("}/")[2]).is_relative_to(folder)
    ]
    return _checked(word, files, "holds no GeoTIFF")


def _rasters(files: Sequence[str]) -> list[str]:
    """Raster files by suffix, sorted, without hidden files."""
    return sorted(f for f in files if is_raster_name(f) and not PurePosixPath(f).name.startswith("."))


def _checked(word: str, files: list[str], problem: str) -> list[str]:
    if not files:
        raise InputError(f"{word}: {problem}")
    return files
