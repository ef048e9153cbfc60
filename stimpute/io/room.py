"""Whether what a file declares fits into this machine, asked before anything is allocated. Knows sizes only."""

from __future__ import annotations

import os

from stimpute.errors import InputError

_ALWAYS = 1 << 28  # what is smaller is never asked about


def available_bytes() -> int:
    """Free memory of this machine (what Linux calls available; elsewhere half of what is installed)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            free = next(line for line in lines if line.startswith("MemAvailable"))
        return int(free.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def refuse_absurd(needed: int, what: str, advice: str) -> None:
    """Refuse to read what cannot fit: a shape, a chunk or a block as a damaged or hostile file may declare it.

    Parameters
    ----------
    needed : bytes that one piece takes once it is read.
    what : the file, the variable and what of it.

    Raises
    ------
    InputError : more than is free.
    """
    if needed > _ALWAYS and needed > (free := available_bytes()):
        raise InputError(
            f"{what}: reading it takes {needed / 2**30:,.3g} GiB, {free / 2**30:,.3g} GiB are free; {advice}"
        )
