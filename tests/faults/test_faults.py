"""Real processes, really disturbed. Always: a non-zero exit, one clear line, nothing under the output's name, nothing left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr

from stimpute import cli
from stimpute.baselines import METHODS
from stimpute.model import method as network  # noqa: F401  (torch is loaded once, before processes fork)

FORMATS = ("NetCDF", "Zarr", "GeoTIFF", "folder")
NOBODY = 65534


@dataclass(frozen=True)
class End:
    """How a run ended: its exit code (negative: the signal), its error lines, and the names that are new beside its inputs."""

    code: int
    errors: tuple[str, ...]
    err: str
    new: frozenset[str]

    @property
    def left(self) -> frozenset[str]:
        """What is new besides the folder that a later run may resume from."""
        return frozenset(name for name in self.new if ".stimpute-partial" not in name)


class Slow:
    """A method that says where it is and waits to be disturbed."""

    name, sees_whole = "mean", True

    def __init__(self, here: Path, go: Path) -> None:
        self.here, self.go = here, go

    def prepare(self, overview):
        self.inner = METHODS["mean"]().prepare(overview)
        return self

    def impute(self, stack):
        self.here.touch()
        for _ in range(1200):
            if self.go.exists():
                break
            time.sleep(0.05)
        return self.inner.impute(stack)


class Place:
    """A folder with inputs, in which runs are started and disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.here, self.go = folder.parent / f"{folder.name}.here", folder.parent / f"{folder.name}.go"

    def names(self) -> frozenset[str]:
        """Everything in it."""
        return frozenset(str(p.relative_to(self.folder)) for p in self.folder.rglob("*"))

    def start(
        self, words: Sequence[object], prelude: Callable[[], object] = lambda: None, slow: bool = False
    ) -> tuple[multiprocessing.process.BaseProcess, Path]:
        """One command line in a process of its own, and the file that takes what it says."""
        said = Path(tempfile.mkstemp(prefix="said-")[1])
        said.chmod(0o666)

        def child() -> None:
            os.dup2(os.open(said, os.O_WRONLY | os.O_TRUNC), 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            signal.signal(signal.SIGTERM, cli._terminate)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            warnings.resetwarnings()
            warnings.simplefilter("ignore")
            if slow:
                METHODS["mean"] = lambda: waiting  # type: ignore[assignment]
            prelude()
            code = cli.run([str(word) for word in words])
            sys.stderr.flush()
            os._exit(code)

        original, waiting = METHODS["mean"], Slow(self.here, self.go)
        waiting.prepare = lambda overview: (setattr(waiting, "inner", original().prepare(overview)), waiting)[
            1
        ]  # type: ignore[method-assign]
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        return process, said

    def end(self, process: multiprocessing.process.BaseProcess, said: Path, before: frozenset[str]) -> End:
        """Wait for a run."""
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        text = said.read_text()
        said.unlink()
        lines = tuple(line for line in text.splitlines() if line.startswith("stimpute: error: "))
        return End(process.exitcode, lines, text, self.names() - before)

    def run(self, words: Sequence[object], prelude: Callable[[], object] = lambda: None) -> End:
        """One command line to its end."""
        before = self.names()
        return self.end(*self.start(words, prelude), before)

    def run_and(self, words: Sequence[object], disturb: Callable[[int], object], prelude=lambda: None) -> End:
        """One command line; in the middle of it ``disturb(process id)`` happens."""
        before = self.names()
        process, said = self.start(words, prelude, slow=True)
        self.wait_for(process, said)
        disturb(process.pid or 0)
        self.go.touch()
        return self.end(process, said, before)

    def wait_for(self, process: multiprocessing.process.BaseProcess, said: Path) -> None:
        """Until a slow run is in its middle."""
        while not self.here.exists():
            assert process.is_alive(), said.read_text()
            time.sleep(0.02)


@pytest.fixture
def place() -> Iterator[Place]:
    """Reachable by every user."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name) / "with space and größe"
        folder.mkdir()
        Path(name).chmod(0o777)
        folder.chmod(0o755)
        yield Place(folder)
        folder.chmod(0o755)


@pytest.fixture
def stack(place, gappy, write_netcdf, write_geotiffs, tmp_path) -> Callable[..., tuple[list[Path], Path]]:
    """``stack(format)``: (inputs, output) in the place."""

    def make(kind: str, **options: object) -> tuple[list[Path], Path]:
        values = gappy(t=6, ny=40, nx=44)
        if kind == "Zarr":
            root = zarr.open_group(place.folder / "in.zarr", mode="w", zarr_format=2)
            for name, data, dims in (("time", np.arange(6.0), ["time"]), ("sst", values, ["time", "y", "x"])):
                array = root.create_array(
                    name, shape=data.shape, dtype=data.dtype, fill_value=np.nan, compressors=None
                )
                array[...] = data
                array.attrs["_ARRAY_DIMENSIONS"] = dims
            root["time"].attrs["units"] = "days since 2020-01-01"
            return [place.folder / "in.zarr"], place.folder / "out.zarr"
        paths = [write_netcdf(values, **options)] if kind == "NetCDF" else write_geotiffs(values)
        moved = [path.rename(place.folder / path.name) for path in paths]
        return moved, place.folder / {"NetCDF": "out.nc", "GeoTIFF": "out.tif", "folder": "filled"}[kind]

    return make


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported(tmp_path_factory) -> None:
    """Once, here: the processes that fork are quick then, and need not be allowed to read the libraries."""
    folder = tmp_path_factory.mktemp("warm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli.run(["simulate", str(folder / "a.nc"), "--kind", "sst", "--shape", "6,9,9", "-q"]) == 0
        for name in ("b.nc", "b.zarr", "b.tif"):
            words = [
                "fill",
                str(folder / "a.nc"),
                str(folder / name),
                "--method",
                "mean",
                "--no-uncertainty",
                "-q",
            ]
            assert cli.run(words) == 0
        assert cli.run([*words[:1], str(folder / "b.tif"), str(folder / "c.tif"), *words[3:]]) == 0
        assert cli.run(["verify", str(folder / "a.nc"), str(folder / "b.nc")]) == 0


def words(inputs: Sequence[Path], out: Path, *more: str) -> list[object]:
    return ["fill", *inputs, out, "--method", "mean", "--no-uncertainty", "-q", *more]


def limit_files() -> None:
    """As a full disk: no file may grow beyond 20 kB (the output is larger)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def nobody() -> None:
    """Give up what root may do."""
    if os.getuid() == 0:
        os.setresuid(NOBODY, NOBODY, NOBODY)


@pytest.mark.parametrize("kind", FORMATS)
def test_61_a_full_disk_leaves_nothing(place, stack, kind):
    inputs, out = stack(kind)
    end = place.run(words(inputs, out), limit_files)
    assert end.code == 1, end.err
    assert len(end.errors) == 1, end.err
    assert "out" in end.errors[0] or "filled" in end.errors[0]
    assert "cannot be written" in end.errors[0]
    assert end.left == set()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_61_an_interrupted_run_leaves_nothing_but_what_can_be_resumed(place, stack, kind, number):
    inputs, out = stack(kind)
    end = place.run_and(words(inputs, out), lambda pid: os.kill(pid, number))
    assert end.code == 130, end.err
    assert len(end.errors) == 1, end.err
    assert end.left == set()
    assert not out.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_61_a_killed_run_leaves_nothing_under_the_final_name(place, stack, kind):
    inputs, out = stack(kind)
    end = place.run_and(words(inputs, out), lambda pid: os.kill(pid, signal.SIGKILL))
    assert end.code == -signal.SIGKILL
    assert not out.exists()
    assert all(".stimpute-" in name for name in end.new), end.new


@pytest.mark.parametrize("kind", FORMATS)
def test_60_a_folder_that_may_not_be_written_is_said_before_anything_is_computed(place, stack, kind):
    inputs, out = stack(kind)
    place.folder.chmod(0o555)
    end = place.run(words(inputs, out), nobody)
    assert (end.code, end.new) == (1, frozenset()), end.err
    assert "not writable" in end.errors[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_61_a_permission_lost_in_the_middle_is_one_line(place, stack, kind):
    inputs, out = stack(kind)
    for path in [place.folder, *place.folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY) if os.getuid() == 0 else None
    end = place.run_and(words(inputs, out), lambda pid: place.folder.chmod(0o555), nobody)
    assert end.code == 1, end.err
    assert len(end.errors) == 1, end.err
    assert not out.exists()


@pytest.mark.parametrize("variant", ["NETCDF4", "NETCDF3_CLASSIC"])
def test_57_a_file_that_is_cut_while_it_is_read_is_an_error(place, stack, variant):
    inputs, out = stack("NetCDF", file_format=variant)

    def cut(pid: int) -> None:
        os.truncate(inputs[0], inputs[0].stat().st_size // 2)

    end = place.run_and(words(inputs, out), cut)
    assert end.code == 1, end.err
    assert "stack.nc" in end.errors[0]
    assert end.left == set()


def test_57_a_raster_that_is_cut_while_it_is_read_is_an_error(place, stack):
    inputs, out = stack("GeoTIFF")
    end = place.run_and(words(inputs, out), lambda pid: [os.truncate(path, 600) for path in inputs])
    assert end.code == 1, end.err
    assert inputs[0].name in end.errors[0]
    assert end.left == set()


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_that_runs_out_is_one_line(place, stack, kind):
    inputs, out = stack(kind)

    def starve(pid: int) -> None:
        used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(pid, resource.RLIMIT_AS, (used, used))

    if not hasattr(resource, "prlimit"):
        pytest.skip("no limits of another process on this system")
    end = place.run_and([*words(inputs, out)], starve)
    if end.code == 0:  # small enough to go on in what the allocator had left
        assert out.exists()
        return
    assert end.code == 1, end.err
    assert len(end.errors) == 1, end.err
    assert end.left == set()


def test_two_runs_onto_one_output_make_one(place, stack):
    inputs, out = stack("NetCDF")
    before = place.names()
    one = place.start(words(inputs, out), slow=True)
    place.wait_for(*one)
    two = place.start(words(inputs, out), slow=True)
    time.sleep(0.5)
    place.go.touch()
    ends = [place.end(*run, before) for run in (one, two)]
    assert sorted(end.code for end in ends) == [0, 1], [end.err for end in ends]
    assert place.names() - before == {out.name}
    assert place.run(["verify", *inputs, out]).code == 0


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "<-12>12"])
def test_the_clock_and_the_language_of_the_machine_change_nothing(place, stack, zone):
    inputs, out = stack("NetCDF")

    def elsewhere() -> None:
        import locale

        os.environ.update(TZ=zone, LC_ALL="C", LANG="tr_TR.UTF-8")
        time.tzset()
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")

    end = place.run(words(inputs, out), elsewhere)
    assert end.code == 0, end.err
    assert place.run(["verify", *inputs, out]).code == 0
    assert stat.S_IMODE(out.stat().st_mode) & 0o600 == 0o600
