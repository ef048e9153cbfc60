"""What tells a Zarr store from other folders and zip files, without the zarr library, which takes long to load."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

ROOT_DOCUMENTS = (".zmetadata", ".zgroup", "zarr.json", ".zarray")


def is_zarr(path: str | Path) -> bool:
    """Whether a folder or zip file holds a Zarr store."""
    place = Path(path)
    if place.is_dir():
        return any((place / name).exists() for name in ROOT_DOCUMENTS)
    if place.is_file() and zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            return any(PurePosixPath(name).name in ROOT_DOCUMENTS for name in archive.namelist())
    return False


def inner_root(path: str | Path) -> str:
    """Zip files often hold the store in a folder of its own."""
    if not Path(path).is_file():
        return ""
    with zipfile.ZipFile(path) as archive:
        roots = [
            PurePosixPath(n).parent for n in archive.namelist() if PurePosixPath(n).name in ROOT_DOCUMENTS
        ]
    shallowest = min(roots, key=lambda p: len(p.parts), default=PurePosixPath("."))
    return "" if str(shallowest) == "." else str(shallowest)
