"""Which device a run computes on, found out by really allocating on it. Knows torch; nothing about methods."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

import torch

from stimpute.errors import DeviceError, StimputeWarning, UsageError

Device = Literal["auto", "cpu", "cuda", "mps"]
_ACCELERATORS = ("cuda", "mps")
_KEPT_BYTES = 1 << 30  # of freed memory
# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX of malloc.h: threads share one heap, since those of other threads than the
# first cannot hold large arrays.
_MALLOPT = {-1: _KEPT_BYTES, -3: _KEPT_BYTES, -8: 1}
# The same by environment variables, for processes still to be started.
MALLOC_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
    "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
    "MALLOC_ARENA_MAX": "1",
}


def choose_device(wanted: str = "auto", threads: int | None = None) -> torch.device:
    """The device a run computes on: ``auto`` is the first accelerator that works, else the CPU.

    Parameters
    ----------
    wanted : ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
    threads : CPU threads torch may use; None leaves its own choice.

    Raises
    ------
    DeviceError : a device asked for by name is absent or does not work.
    UsageError : no device is called that.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if wanted.split(":")[0] not in get_args(Device):
        raise UsageError(f"--device {wanted}: one of {', '.join(get_args(Device))}")
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads}: at least 1")
        torch.set_num_threads(threads)
    keep_freed_memory()
    if wanted == "auto":
        return _first_that_works()
    fault = _fault(wanted)
    if fault:
        raise DeviceError(f"--device {wanted}: {fault}; use --device auto or cpu")
    return torch.device(wanted)


@cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed arrays for the next ones; whether it is one that can be asked (glibc).

    Kriging makes and drops arrays of many megabytes all the time; given back to the system, each costs a page fault for every 4 KB.
    What the environment asks for goes first.
    """
    if any(name in os.environ for name in MALLOC_ENVIRONMENT):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return False
    return all(mallopt(option, size) == 1 for option, size in _MALLOPT.items())


def thread_count() -> int:
    """CPU threads that torch uses now."""
    return torch.get_num_threads()


@contextmanager
def shared_out(parts: int) -> Iterator[None]:
    """Meanwhile every thread of this process computes with its share of the CPU threads, at least one.

    >>> with shared_out(10**6):
    ...     thread_count()
    1
    """
    before = thread_count()
    torch.set_num_threads(max(1, before // parts))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_that_works() -> torch.device:
    for name in _ACCELERATORS:
        if not _present(name):
            continue
        fault = _fault(name)
        if not fault:
            return torch.device(name)
        warnings.warn(
            f"{name} is there but does not work ({fault}); computing on the CPU",
            StimputeWarning,
            stacklevel=3,
        )
    return torch.device("cpu")


def _present(name: str) -> bool:
    return torch.cuda.is_available() if name == "cuda" else torch.backends.mps.is_available()


def _fault(name: str) -> str:
    """Why a device cannot be used; empty if it can."""
    kind = name.split(":")[0]
    if kind in _ACCELERATORS and not _present(kind):
        return "no such device on this machine"
    try:
        square = torch.ones(8, 8, device=name)
        works = float((square @ square).sum()) == 8**3
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "" if works else "it computes wrongly"
