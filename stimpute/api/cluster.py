"""``--dask``: where the tiles of a fill are computed, if not here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stimpute.api.keywords import FillKeywords, paths_of
from stimpute.errors import UsageError

if TYPE_CHECKING:
    from stimpute.inference.answers import Executor
    from stimpute.io import ReadOptions


def distributed_options(address: str, options: FillKeywords) -> FillKeywords:
    """The options with the threads of one worker, where they are not given: all cores shared out, one on a cluster elsewhere.

    Raises
    ------
    UsageError : no such address, or the package ``distributed`` is absent.
    """
    from stimpute.inference.distributed import local_workers

    workers = local_workers(address)
    if options.get("threads") is not None:
        return options
    shared = 1 if workers is None else max(1, (os.cpu_count() or 1) // workers)
    return {**options, "threads": shared}


@contextmanager
def cluster_at(address: str, source: Any, inputs: Any, reading: ReadOptions) -> Iterator[Executor]:
    """What computes tiles on a cluster.

    Raises
    ------
    UsageError : the input is a stream or an object in memory.
    ClusterError : no scheduler answers.
    """
    from stimpute.inference.distributed import Recipe, connected

    if "-" in (str(item) for item in paths_of(inputs)):
        raise UsageError("--dask: standard input reaches no worker; name a file that all of them can open")
    with connected(address, Recipe.of(source.paths, reading)) as cluster:
        yield cluster
