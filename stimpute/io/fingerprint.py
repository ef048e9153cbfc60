"""Telling whether what was read before is what lies there now: sizes and times of change. Opens nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from stimpute.errors import InputError
from stimpute.io.inputs import is_remote


def fingerprints(paths: Iterable[str | Path]) -> dict[str, list[int] | None]:
    """Absolute path -> size in bytes, time of last change in ns, number of files; None for what cannot be looked at (URLs).

    Of a folder (a Zarr store) the sizes of all files in it together, and the latest change of any.
    """
    return {_name(str(path)): _fingerprint(str(path)) for path in paths}


def refuse_changed(before: Mapping[str, list[int] | None]) -> None:
    """Refuse to name a result of which one part was read before a change, another after it.

    Raises
    ------
    InputError : a file is not what :func:`fingerprints` found.
    """
    for path, now in fingerprints(before).items():
        if now != before[path]:
            raise InputError(f"{path}: was changed while it was read; nothing is written, run it again")


def _name(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def _fingerprint(path: str) -> list[int] | None:
    if is_remote(path) or not os.path.exists(path):
        return None
    if os.path.isfile(path):
        found = os.stat(path)
        return [found.st_size, found.st_mtime_ns, 1]
    size = latest = count = 0
    for folder, _, names in os.walk(path):
        for name in names:
            found = os.stat(os.path.join(folder, name))
            size, latest, count = size + found.st_size, max(latest, found.st_mtime_ns), count + 1
    return [size, latest, count]
