"""Tiles on a Dask cluster: the answers of one machine, bit by bit, also where a worker is lost on the way."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("distributed")
import cloudpickle
import netCDF4

from stimpute import api
from stimpute.errors import ClusterError, UsageError
from stimpute.estimate import Estimate
from stimpute.inference.answers import Executor, LocalExecutor
from stimpute.inference.distributed import Cluster, Recipe, connected, local_workers
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink
from stimpute.inference.options import FillOptions
from stimpute.io import ReadOptions, open_source
from stimpute.stack import Stack

pytestmark = [
    pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets of the cluster
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@dataclass
class Mortal:
    """A method that says the mean of what it sees; the first worker that answers a tile is killed."""

    deaths: Path
    client: int
    fatal: bool
    name: str = "mortal"
    sees_whole: bool = False
    bytes_per_cell: int = 10

    def prepare(self, overview: Stack) -> Mortal:
        return self

    def impute(self, stack: Stack) -> Estimate:
        if self.fatal and os.getpid() != self.client:
            try:
                self.deaths.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return Estimate(np.full(stack.shape, stack.values[stack.valid].mean(), dtype=np.float32))


@pytest.fixture(scope="module")
def stack_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cluster") / "stack.nc"
    rng = np.random.default_rng(3)
    values = rng.normal(size=(6, 40, 50)).astype("f4")
    values[rng.random(values.shape) < 0.4] = np.nan
    with netCDF4.Dataset(path, "w") as file:
        for name, size, units in (
            ("time", 6, "days since 2020-01-01"),
            ("lat", 40, "degrees_north"),
            ("lon", 50, "degrees_east"),
        ):
            file.createDimension(name, size)
            axis = file.createVariable(name, "f8", (name,))
            axis.units, axis[:] = units, np.arange(size) * 0.1 if name != "time" else np.arange(size)
        file.createVariable("sst", "f4", ("time", "lat", "lon"), fill_value=np.float32(np.nan))[:] = values
    return path


@pytest.fixture(scope="module")
def cluster(stack_file: Path) -> Iterator[Cluster]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with connected("local:2", Recipe.of([stack_file], ReadOptions())) as made:
        yield made
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def filled(path: Path, method: object, executor: Executor, uncertainty: bool) -> ArraySink:
    with open_source([path]) as source:
        sink = ArraySink(source.layers[0].shape)
        options = FillOptions(tile=8, overlap=2, uncertainty=uncertainty)
        fill_source(source, sink, method, options, executor=executor)  # type: ignore[arg-type]
    return sink


@pytest.mark.parametrize(("uncertainty", "fatal"), [(True, False), (True, True), (False, True)])
def test_the_answers_are_those_of_one_machine(
    stack_file: Path, cluster: Cluster, tmp_path: Path, uncertainty: bool, fatal: bool
) -> None:
    """Also where a worker is lost: the first one that computes anything, for the calibration if there is one."""
    method = Mortal(tmp_path / "died", os.getpid(), fatal)
    there = filled(stack_file, method, cluster, uncertainty)
    here = filled(stack_file, method, LocalExecutor(), uncertainty)
    assert method.deaths.exists() == fatal
    for name in ("values", "flag", "standard_error"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))


def faults() -> int:
    """Page faults of twenty pairs of arrays of 20 MB, each dropped at once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        _ = np.ones(2_500_000), np.ones(2_500_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_workers_started_here_keep_freed_memory(cluster: Cluster) -> None:
    said = [cluster.client.submit(faults, pure=False, key=f"faults-{n}").result() for n in range(4)]
    if platform.libc_ver()[0] == "glibc":
        assert min(said) < 20 * 2 * 20e6 / 4096 / 10, said


def test_addresses() -> None:
    assert local_workers("local:3") == 3
    assert local_workers("tcp://node:8786") is None
    assert local_workers("tls://[::1]:8786") is None
    for wrong in (
        "local", "local:0", "local:x", "node:8786", "3", "tcp://", "tcp://127.0.0.1", "tcp:node:8786", "tcp://:8786", "tcp://node:x", "",
    ):  # fmt: skip
        with pytest.raises(UsageError, match="--dask"):
            local_workers(wrong)


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stimpute.inference.distributed._WAIT_SECONDS", 1.0)
    with (
        pytest.raises(ClusterError, match="no scheduler"),
        connected("tcp://127.0.0.1:1", Recipe(("a.nc",), ReadOptions())),
    ):
        pass


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler of its own with one worker: its address, and the process to kill."""
    announced = tmp_path / "scheduler.json"
    place = ["--scheduler-file", str(announced)]
    server = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    scheduler = subprocess.Popen([*server, "--dashboard-address", ":0", *place], stderr=subprocess.DEVNULL)
    hand = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *place]
    worker = subprocess.Popen([*hand, "--no-dashboard", "--death-timeout", "60"], stderr=subprocess.DEVNULL)
    while not announced.exists() or not announced.read_text():
        assert scheduler.poll() is None
        time.sleep(0.05)
    yield json.loads(announced.read_text())["address"], scheduler
    for process in (scheduler, worker):
        process.kill()
        process.wait()


def test_a_scheduler_that_is_lost_leaves_the_finished_tiles(
    doomed: tuple[str, subprocess.Popen[bytes]],
    stack_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stimpute.inference.distributed._WAIT_SECONDS", 15.0)
    address, scheduler = doomed
    out, folder = tmp_path / "out.nc", tmp_path / "out.nc.stimpute-partial"
    settings: dict[str, Any] = {"method": "mean", "tile": 8, "overlap": 2, "memory": 10**6}

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "fill" and done == 3:
            scheduler.kill()
            scheduler.wait()

    with pytest.raises(ClusterError, match="the scheduler was lost"):
        api.fill(stack_file, out, dask=address, progress=progress, **settings)
    assert len(list(folder.glob("layer-*/*.safetensors"))) >= 3
    api.fill(stack_file, out, resume=True, **settings)
    assert out.exists()
    assert not folder.exists()


def test_an_object_in_memory_reaches_no_worker() -> None:
    with pytest.raises(UsageError, match="in memory"):
        Recipe.of([], ReadOptions())


def test_paths_mean_the_same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.of(
        ["a.nc", "s3://bucket/b.zarr"], ReadOptions(covariates=("c.nc:elevation",), domain="d.tif")
    )
    assert recipe.paths == (str(tmp_path / "a.nc"), "s3://bucket/b.zarr")
    assert recipe.reading.covariates == (str(tmp_path / "c.nc:elevation"),)
    assert recipe.reading.domain == str(tmp_path / "d.tif")
