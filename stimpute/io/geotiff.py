"""GeoTIFF stacks: what the user may name (a file, a folder, a pattern, a list, an archive) and the stack it stands for."""

from __future__ import annotations

import glob
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from stimpute.errors import InputError
from stimpute.io.geotiff_source import GeoTiffSource, open_stack
from stimpute.io.options import ReadOptions

SUFFIXES = (".tif", ".tiff", ".gtiff", ".jp2", ".vrt", ".img", ".cog")
_SIBLING = re.compile(r"_(flag|stderr|q\d\d[\d.]*)$")


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
    """The raster files that the user's words stand for, in the order given, names sorted within each word.

    Raises
    ------
    InputError : a word that stands for nothing.
    """
    found = [file for word in paths for file in _expand_one(str(word))]
    return tuple(dict.fromkeys(found))


def is_raster_name(name: str | Path) -> bool:
    """Whether a file name has the suffix of a raster format read here."""
    return str(name).lower().endswith(SUFFIXES)


def _expand_one(word: str) -> list[str]:
    if word.startswith("/vsi") or "://" in word:
        return _expand_virtual(word)
    path = Path(word)
    if path.is_dir():
        return _checked(word, _rasters([str(p) for p in path.iterdir() if p.is_file()]), "holds no GeoTIFF")
    if path.is_file():
        return _expand_archive(path) if path.suffix.lower() == ".zip" else [word]
    if word.startswith("@"):
        return _expand_list(Path(word[1:]))
    if any(c in word for c in "*?["):
        return _checked(word, sorted(glob.glob(word, recursive=True)), "matches no file")
    raise InputError(f"{word}: no such file")


def _expand_list(path: Path) -> list[str]:
    """One path per line; relative to the current folder, or else to the list's own. ``#`` begins a comment line."""
    if not path.is_file():
        raise InputError(f"@{path}: no such list")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    words = [line for line in lines if line and not line.startswith("#")]
    beside = [
        str(path.parent / w) if not Path(w).exists() and (path.parent / w).exists() else w for w in words
    ]
    return _checked(f"@{path}", [file for word in beside for file in _expand_one(word)], "names no file")


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
    """Raster files by suffix, sorted, without hidden files and without our own flag and uncertainty siblings."""
    stems = {str(PurePosixPath(f).with_suffix("")) for f in files}

    def kept(file: str) -> bool:
        path = PurePosixPath(file)
        stem = str(path.with_suffix(""))
        sibling = _SIBLING.search(stem)
        ours = sibling is not None and stem[: sibling.start()] in stems
        return is_raster_name(path.name) and not path.name.startswith(".") and not ours

    return sorted(f for f in files if kept(f))


def _checked(word: str, files: list[str], problem: str) -> list[str]:
    if not files:
        raise InputError(f"{word}: {problem}")
    return files
