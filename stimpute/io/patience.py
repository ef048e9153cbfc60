"""Waiting for a library, but not for ever: damaged files can send its reader round in circles. Knows no format."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from stimpute.errors import InputError

Opened = TypeVar("Opened")

OPEN_SECONDS = 300.0
THREAD = "stimpute-open"  # while one lives, the process cannot end in order: the command line leaves at once


def opened_in_time(path: object, opener: Callable[[], Opened]) -> Opened:
    """What ``opener`` returns, or raises, if it does so within ``OPEN_SECONDS``.

    It runs in a thread of its own, which must let go of the interpreter's lock while it waits (netCDF4 does); a call that
    never returns ends with the process.

    Raises
    ------
    InputError : it takes longer.

    >>> opened_in_time("a.nc", lambda: 7)
    7
    """
    found: list[Opened] = []
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            found.append(opener())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, name=THREAD, daemon=True)
    thread.start()
    thread.join(OPEN_SECONDS)
    if failed:
        raise failed[0]
    if not found:
        raise InputError(f"{path}: not open after {OPEN_SECONDS:g} s; is it truncated or damaged?")
    return found[0]
