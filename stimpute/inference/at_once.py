"""Several computations at once in threads of this process. Knows neither stacks nor methods.

Python's own lock is free while torch computes, so threads that compute a tile each use cores better than one computation that
all of them share: nothing waits for the slowest after every operation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREAD_NAME = "stimpute-tile"
_AHEAD = 2  # items at hand, computed or waiting, for every thread


def at_once(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """``function`` of every item, in their order, ``workers`` at once, each with its share of the CPU threads.

    Items are made in the calling thread (files are not safe to read in several), as many ahead as keep the threads busy. Given up
    early, what has begun is not waited for.

    Parameters
    ----------
    workers : 1 computes in the calling thread, with all of the CPU threads.
    """
    if workers == 1:
        yield from map(function, items)
        return
    from stimpute.inference.devices import shared_out  # loads torch, which `info` and `variogram` do without

    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, THREAD_NAME)
    finished = False
    try:
        with shared_out(workers):
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finished = True
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)
