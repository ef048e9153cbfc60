"""Tiles as tasks on a Dask cluster. The client surveys, keeps what comes back and writes; the workers impute.

A worker opens the inputs itself and answers tiles exactly as :mod:`stimpute.inference.answers` does here. What belongs to the
whole layer is a task of its own, so that the scheduler can send it anew when the worker that held it is gone.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stimpute.errors import ClusterError, StimputeError, StimputeWarning, UsageError
from stimpute.inference.answers import Answer, Prepare, answer_tile
from stimpute.inference.devices import MALLOC_ENVIRONMENT, choose_device, thread_count
from stimpute.inference.memory import wrapped
from stimpute.inference.survey import Survey
from stimpute.inference.trust import Hidden, Question, Trust, predict_hidden
from stimpute.io import ReadOptions, open_source
from stimpute.protocols import Imputer, Window
from stimpute.stack import BoolArray, Stack
from stimpute.tiling import Tile

_WAIT_SECONDS = 60.0  # for a scheduler to answer, and for its first worker
# Dask's own setting asks the C library to give back all memory it can.
_BEFORE_WORKERS = "distributed.nanny.pre-spawn-environ"
_SCHEDULER = re.compile(r"(tcp|tls|ucx)://([^\s/:]+|\[[^\s\]]+\]):\d+/?")
_AHEAD = 2  # tasks in flight per thread of the cluster: one computes, one is at hand
_opened = threading.local()  # the source that this thread of a worker has open


@dataclass(frozen=True)
class Recipe:
    """How a worker opens the source: absolute paths that mean the same everywhere, and how they are read."""

    paths: tuple[str, ...]
    reading: ReadOptions

    @classmethod
    def of(cls, paths: Sequence[str | Path], reading: ReadOptions) -> Recipe:
        """Of the files behind an open source.

        Raises
        ------
        UsageError : there are none: it is an object in memory.
        """
        if not paths:
            raise UsageError(
                "--dask: the input is in memory; workers need files or addresses that all of them can open"
            )
        domain = reading.domain and _absolute(reading.domain)
        covariates = tuple(_absolute(item) for item in reading.covariates)
        return cls(
            tuple(_absolute(str(p)) for p in paths), replace(reading, domain=domain, covariates=covariates)
        )


def _absolute(path: str) -> str:
    return path if "://" in path or path.startswith("/vsi") else os.path.abspath(path)


@dataclass(frozen=True, eq=False)
class _LayerWork:
    """What all tiles of a layer share on a worker."""

    recipe: Recipe
    layer: int
    columns: int
    margin: int
    imputer: Imputer
    trust: Trust
    threads: int

    def read(self, window: Window) -> Stack:
        """A window of the extended grid."""
        source = _source(self.recipe)

        def own(part: Window) -> Stack:
            return source.read(part, self.layer)  # type: ignore[no-any-return]

        return wrapped(own, self.columns, self.margin)(window) if self.margin else own(window)

    def take_threads(self) -> None:
        """Compute with as many threads as the client does."""
        if thread_count() != self.threads:
            choose_device("cpu", self.threads)


def _source(recipe: Recipe) -> Any:
    """The source of a recipe, opened once in each thread of a worker."""
    known = getattr(_opened, "known", None)
    if known is None or known[0] != recipe:
        if known is not None:
            known[1].close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StimputeWarning)  # the client has said it
            _opened.known = (recipe, open_source(list(recipe.paths), recipe.reading))
    return _opened.known[1]


def _as_it_is(work: _LayerWork) -> _LayerWork:
    return work


def _answer(work: _LayerWork, tile: Tile, fillable: BoolArray) -> Answer:
    """One tile, on a worker."""
    work.take_threads()
    return answer_tile(work.read, fillable, lambda: work.imputer, work.trust, tile)


def _predict(work: _LayerWork, window: Window, hidden: BoolArray) -> Hidden:
    """What is hidden in one window, on a worker."""
    work.take_threads()
    return predict_hidden(work.read(window).contiguous(), hidden, work.imputer)


@dataclass(frozen=True, eq=False)
class Cluster:
    """A Dask cluster that answers tiles.

    Parameters
    ----------
    client : of ``distributed``.
    recipe : of the source.
    """

    client: Any
    recipe: Recipe

    def answers(
        self, survey: Survey, prepare: Prepare, trust: Trust, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        """Answers as they come. See :class:`stimpute.inference.answers.Executor`.

        Raises
        ------
        ClusterError : no worker can answer: each that tried was lost, or lacks this package.
        """
        fillable = survey.fillable[:, survey.extended_columns]
        jobs = (
            (number, _answer, (survey.tiles[number], fillable[survey.tiles[number].core.slices[1:]]))
            for number in numbers
        )
        if numbers:
            yield from self._tasks("fill", survey, prepare(), trust, jobs)

    def predictions(
        self, survey: Survey, imputer: Imputer, questions: Iterable[Question]
    ) -> Iterator[Hidden]:
        """What the method says about hidden cells, in the order of the questions.

        Raises
        ------
        ClusterError : as for :meth:`answers`.
        """
        jobs = ((number, _predict, (q.window, q.hidden)) for number, q in enumerate(questions))
        early: dict[int, Hidden] = {}
        turn = 0
        for number, found in self._tasks("calibrate", survey, imputer, Trust(), jobs):
            early[number] = found
            while turn in early:
                yield early.pop(turn)
                turn += 1

    def _tasks(
        self,
        verb: str,
        survey: Survey,
        imputer: Imputer,
        trust: Trust,
        jobs: Iterator[tuple[int, Callable[..., Any], tuple[Any, ...]]],
    ) -> Iterator[tuple[int, Any]]:
        """Results as they come: of numbered functions of what the tiles of a layer share, and of arguments of their own."""
        from distributed import as_completed

        run, name = secrets.token_hex(8), survey.layer.name
        work = _LayerWork(
            self.recipe, survey.index, survey.shape[2], survey.margin, imputer, trust, thread_count()
        )
        running: dict[Any, int] = {}
        with warnings.catch_warnings(), _in_touch():
            warnings.filterwarnings(
                "ignore", message="Sending large graph"
            )  # weights, sent to each worker once
            shared = self.client.submit(_as_it_is, work, key=f"prepare {name}-{run}", pure=False)
        done = as_completed([])

        def send() -> None:
            for number, function, arguments in jobs:
                future = self.client.submit(
                    function, shared, *arguments, key=(f"{verb} {name}-{run}", number), pure=False
                )
                running[future] = number
                done.add(future)
                if len(running) >= self._room():
                    return

        try:
            with _in_touch():
                send()
                while running:
                    future = next(done)
                    result = self._result(future)
                    yield running.pop(future), result
                    send()
        finally:
            with suppress(Exception):  # nobody is left who could be told
                self.client.cancel([*running, shared], force=True)

    def _room(self) -> int:
        """Tasks to have in flight; workers may come and go."""
        from distributed.comm import CommClosedError

        try:
            threads = int(sum(self.client.nthreads().values()))
        except OSError as error:  # no connection within the time that is waited for one
            raise CommClosedError(str(error)) from error
        return max(_AHEAD * threads, 4)

    def _result(self, future: Any) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except StimputeError:
            raise
        except KilledWorker as error:
            raise ClusterError(
                f"--dask: the workers that tried a tile were lost, one after the other ({error}); give them more memory,"
                " or lower --tile"
            ) from error
        except ModuleNotFoundError as error:
            raise ClusterError(
                f"--dask: a worker cannot import {error.name}; install the same stimpute there"
            ) from error
        except FileNotFoundError as error:
            raise ClusterError(
                f"--dask: a worker cannot open {error.filename}; inputs must lie where all see them"
            ) from error


@contextmanager
def connected(address: str, recipe: Recipe) -> Iterator[Cluster]:
    """A cluster by its address, ``local:N`` (made here, N processes) or ``tcp://host:port`` (a scheduler that runs).

    Raises
    ------
    UsageError : another address, or the package ``distributed`` is absent.
    ClusterError : no scheduler answers, or it has no workers.
    """
    workers = local_workers(address)
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is raised as well
    with _faults(address):
        if workers is not None:
            with dask.config.set(
                {_BEFORE_WORKERS: {**dask.config.get(_BEFORE_WORKERS), **MALLOC_ENVIRONMENT}}
            ):
                cluster: Any = LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    silence_logs=logging.ERROR,
                )
            client = Client(cluster)
        else:
            cluster, client = None, Client(address, timeout=_WAIT_SECONDS)
    try:
        with _faults(address):
            client.wait_for_workers(1, timeout=_WAIT_SECONDS)
        yield Cluster(client, recipe)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


def local_workers(address: str) -> int | None:
    """How many workers ``local:N`` asks for; None for the address of a scheduler.

    Raises
    ------
    UsageError : neither, or the package ``distributed`` is absent.
    """
    kind, _, rest = address.partition(":")
    if kind == "local" and (not rest.isdigit() or int(rest) < 1):
        raise UsageError(f"--dask {address}: local:N with N processes, such as local:4")
    if kind != "local" and not _SCHEDULER.fullmatch(address):
        raise UsageError(f"--dask {address}: local:N, or the address of a scheduler such as tcp://host:8786")
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--dask {address}: needs the package distributed; pip install 'stimpute[dask]'"
        ) from error
    return int(rest) if kind == "local" else None


@contextmanager
def _in_touch() -> Iterator[None]:
    """A scheduler that is lost, or gives up what it was asked, as one of our errors."""
    from distributed import CancelledError
    from distributed.comm import CommClosedError

    try:
        yield
    except (CancelledError, CommClosedError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise ClusterError(
            f"--dask: the scheduler was lost, or gave up what it was asked: {reason}"
        ) from error


@contextmanager
def _faults(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"--dask {address}: no scheduler with workers answers there within {_WAIT_SECONDS:.0f} s ({error})"
        ) from error
