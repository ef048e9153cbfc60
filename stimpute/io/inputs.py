"""What the inputs on a command line stand for: files, folders, globs, lists, standard input. Opens nothing for its data."""

from __future__ import annotations

import glob
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Literal
from urllib.parse import unquote

from stimpute.errors import InputError, UsageError
from stimpute.io.zarr_layout import is_zarr

Kind = Literal["NetCDF", "Zarr", "GeoTIFF"]

_NETCDF_MAGIC = (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF")
_TIFF_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
SIBLING = re.compile(r"_(flag|stderr|member\d\d+|q\d\d[\d.]*)$")
NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5", ".he5")
TIFF_SUFFIXES = (".tif", ".tiff", ".gtiff")
RASTER_SUFFIXES = (
    *TIFF_SUFFIXES, ".cog", ".vrt", ".jp2", ".grib", ".grb", ".grib2", ".grb2", ".hdf", ".img",
)  # fmt: skip


def expand_inputs(inputs: Sequence[str | Path]) -> list[str]:
    """The files behind the inputs: ``@list.txt`` and ``@-`` read, globs that name no file expanded; everything else as it is.

    Folders that are no Zarr store stand for the dated rasters, or NetCDF files, inside them.

    Raises
    ------
    InputError : an absent file, an empty list, folder or glob, or no path at all.
    UsageError : ``@-`` where standard input is a terminal.
    """
    paths: list[str] = []
    for item in inputs:
        if not isinstance(item, str | os.PathLike):
            raise InputError(
                f"input of type {type(item).__name__} among several: only paths can be one stack"
            )
        text = _local(os.fspath(item))
        if text.startswith("@") and not os.path.exists(text):
            paths += _listed(text)
        elif is_remote(text) or os.path.isfile(text):
            paths.append(text)
        elif os.path.isdir(text):
            paths += _folder(text)
        elif glob.has_magic(text) and (found := sorted(glob.glob(text, recursive=True))):
            paths += found
        elif os.path.exists(text):
            raise InputError(f"{text}: is no file; - reads a stream from standard input")
        else:
            raise InputError(f"{text}: no such file or folder")
    if not paths:
        raise InputError("no input files; give at least one path, folder or glob")
    return paths


def is_remote(path: str) -> bool:
    """Whether a path is a URL or one of GDAL's virtual paths, which no look at the disk can check."""
    return path.startswith("/vsi") or "://" in path


def _local(text: str) -> str:
    """The path behind a ``file://`` address; everything else as it is.

    >>> _local("file:///data/a%20b.nc"), _local("s3://bucket/a.zarr")
    ('/data/a b.nc', 's3://bucket/a.zarr')
    """
    return (
        unquote(text.removeprefix("file://").removeprefix("localhost"))
        if text.startswith("file://")
        else text
    )


def name_problem(path: str) -> str:
    """What keeps GDAL and HDF5 from a file whose name is no text in the encoding of names here; empty where nothing does.

    >>> name_problem("\u00f1.nc")
    ''
    """
    if not any("\ud800" <= letter <= "\udfff" for letter in path):  # bytes that Python could not decode
        return ""
    encoding = sys.getfilesystemencoding().upper()
    way = "rename it" if encoding == "UTF-8" else "set PYTHONUTF8=1 or a UTF-8 locale (LC_ALL=C.UTF-8)"
    return f"{path}: this name is no {encoding}, the encoding of names here; {way}"


def kind_of(path: str) -> Kind:
    """The format of one input, by its content, or by its suffix where the content cannot be seen.

    Raises
    ------
    InputError : empty, nothing that is known here, or of a name that no library takes.
    """
    if is_remote(path):
        return _by_suffix(path)

    if os.path.isdir(path):
        return "Zarr"
    if problem := name_problem(path):
        raise InputError(problem)
    with open(path, "rb") as file:
        head = file.read(8)
    if not head:
        raise InputError(f"{path}: is empty")
    if head.startswith(_NETCDF_MAGIC):
        return "NetCDF"
    if head.startswith(_TIFF_MAGIC):
        return "GeoTIFF"
    if zipfile.is_zipfile(path):
        return "Zarr" if is_zarr(path) else "GeoTIFF"
    return _by_suffix(path)


def _by_suffix(path: str) -> Kind:
    name = path.lower().split("?")[0].rstrip("/")
    if name.endswith(NETCDF_SUFFIXES):
        return "NetCDF"
    return "Zarr" if name.endswith((".zarr", ".zarr.zip")) else "GeoTIFF"


def _listed(text: str) -> list[str]:
    """The files behind ``@list.txt``, or ``@-``: one name a line, in the folder of the list unless it is found here."""
    path = Path(text[1:])
    try:
        content = _read_through(sys.stdin.buffer) if text == "@-" else path.read_bytes()
    except OSError as error:
        raise InputError(f"{text}: list of inputs cannot be read: {error.strerror}") from error
    if b"\0" in content:
        raise InputError(
            f"{text}: a list of inputs is text, one name a line; a file of data is named without @"
        )
    lines = [line.strip() for line in os.fsdecode(content).splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"{text}: lists no inputs")
    here = [
        n if is_remote(n) or os.path.isabs(n) or os.path.exists(n) else str(path.parent / n) for n in names
    ]
    if text in here:
        raise InputError(f"{text}: lists itself")
    return expand_inputs(here)


@lru_cache(maxsize=1)
def _read_through(stream: IO[bytes]) -> bytes:
    """All that comes through a stream, kept: inputs are looked at by checks and opened later.

    Raises
    ------
    UsageError : the stream is a terminal.
    """
    if stream.isatty():
        raise UsageError("@-: standard input is a terminal; pipe a list of inputs into it, or name a file")
    return stream.read()


def _folder(path: str) -> list[str]:
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path}: this folder may not be read (permission denied)")
    if is_zarr(path):
        return [path]
    inside = sorted(os.path.join(path, name) for name in os.listdir(path) if not name.startswith("."))
    for suffixes in (RASTER_SUFFIXES, NETCDF_SUFFIXES):
        found = [p for p in inside if p.lower().endswith(suffixes) and os.path.isfile(p)]
        if found:
            return found
    raise InputError(f"{path}: a folder without GeoTIFF or NetCDF files, and no Zarr store")


def without_siblings(files: Sequence[str]) -> list[str]:
    """Without the flag and uncertainty files that were written beside other files of a stack.

    >>> without_siblings(["a/x.tif", "a/x_flag.tif", "a/y_flag.tif"])
    ['a/x.tif', 'a/y_flag.tif']
    """
    stems = {str(PurePosixPath(file).with_suffix("")) for file in files}
    ends = {file: SIBLING.search(str(PurePosixPath(file).with_suffix(""))) for file in files}
    return [f for f in files if (end := ends[f]) is None or end.string[: end.start()] not in stems]
