"""Examples and their candidates, made by other processes while the network learns. The same whoever makes them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor

import torch

from stimpute.model.candidates import Candidates, compute_candidates
from stimpute.training.feed import Example, Feed

Material = tuple[Example, Candidates | None]

_feed: Feed | None = None
_names: tuple[str, ...] | None = None


class Ahead:
    """A pool of processes on the CPU that make batches before they are asked for.

    Parameters
    ----------
    feed : what they draw from.
    names : of the candidates wanted; None: none.
    workers : processes.
    """

    def __init__(self, feed: Feed, names: tuple[str, ...] | None, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _take_feed, (feed, names))
        self._asked: dict[int, Future[Material]] = {}

    def ask(self, numbers: Iterable[int]) -> None:
        """Begin to make these batches, in this order."""
        for number in numbers:
            if number not in self._asked:
                self._asked[number] = self._pool.submit(_make, number)

    def take(self, number: int) -> Material:
        """One of the batches asked for; each once."""
        return self._asked.pop(number).result()

    def close(self) -> None:
        """End the processes; what they are at is lost."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _take_feed(feed: Feed, names: tuple[str, ...] | None) -> None:
    global _feed, _names
    _feed, _names = feed, names
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that was killed cannot end its workers: they watch it themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _make(number: int) -> Material:
    if _feed is None:
        raise RuntimeError("the worker was given nothing to draw from")
    example = _feed.example(number)
    return example, None if _names is None else compute_candidates(example.given, names=_names)
