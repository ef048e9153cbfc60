"""Every file that a run reads, so that no output takes its place: inputs, what is read besides them, what lies behind virtual rasters."""

from __future__ import annotations

import os
from typing import Any

from stimpute.errors import InputError
from stimpute.io.covariates import split_variable
from stimpute.io.inputs import is_remote, kind_of

_TIFF_ORDERS = (b"II", b"MM")


def files_read(source: Any) -> frozenset[str]:
    """Real paths (addresses as they are) of a source's inputs, covariates, domain, archive, and of the files that virtual rasters name."""
    options = source.options
    asked = (*options.covariates, *(() if options.domain is None else (options.domain,)))
    left = [str(p) for p in (*source.paths, *source.besides, *(split_variable(text)[0] for text in asked))]
    found: set[str] = set()
    while left:
        path = left.pop()
        place = path if is_remote(path) else os.path.realpath(path)
        if place not in found:
            found.add(place)
            left += _behind(path)
    return frozenset(found)


def _behind(path: str) -> list[str]:
    """What GDAL opens for a raster that may be made of others; nothing for one that GDAL cannot open."""
    if not _may_be_virtual(path):
        return []
    from stimpute.io.geotiff_bands import environment, open_raster

    try:
        with environment(), open_raster(path) as dataset:
            return [str(file) for file in dataset.files]
    except InputError:
        return []


def _may_be_virtual(path: str) -> bool:
    """Whether a raster may be made of others: by its content, since any suffix may hide a VRT; by its name where it is no file here."""
    if is_remote(path):
        return path.startswith("vrt://") or path.lower().endswith(".vrt")
    try:
        if not os.path.isfile(path) or kind_of(path) != "GeoTIFF":
            return False
        with open(path, "rb") as file:
            return file.read(2) not in _TIFF_ORDERS
    except (InputError, OSError):
        return False
