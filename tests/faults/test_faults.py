"""Real processes, really disturbed, in every format. Always: a non-zero exit, one clear line, nothing under the output's name, nothing
left behind but, after an interruption, the folder that a later run resumes from.
"""

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
import torch
import zarr

from stimpute import api, cli
from stimpute.baselines import METHODS
from stimpute.errors import InputError
from stimpute.model import method as network

FORMATS = ("NetCDF4", "NetCDF3", "Zarr", "GeoTIFF", "COG", "folder")
NOBODY = 65534


@dataclass(frozen=True)
class End:
    """How a run ended: its exit code (negative: the signal), its error lines, and the names that are new beside its inputs."""

    code: int
    errors: tuple[str, ...]
    err: str
    new: frozenset[str]
    scratch: frozenset[str]

    @property
    def left(self) -> frozenset[str]:
        """What is new besides the folder that a later run may resume from; what stays in the folder of temporary files, too."""
        return self.scratch | frozenset(name for name in self.new if ".stimpute-partial" not in name)


class Slow:
    """A method that says where it is and waits to be disturbed."""

    name, sees_whole = "mean", True

    def __init__(self, here: Path, go: Path, then: Callable[[], object] = lambda: None) -> None:
        self.here, self.go, self.then = here, go, then

    def prepare(self, overview):
        self.inner = METHODS["mean"]().prepare(overview)
        return self

    def impute(self, stack):
        self.here.touch()
        for _ in range(1200):
            if self.go.exists():
                break
            time.sleep(0.05)
        self.then()
        return self.inner.impute(stack)


class Place:
    """A folder with inputs, in which runs are started and disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scratch = folder, folder.parent / f"{folder.name}.tmp"
        self.scratch.mkdir()
        self.scratch.chmod(0o777)
        self.here, self.go = folder.parent / f"{folder.name}.here", folder.parent / f"{folder.name}.go"

    def names(self) -> frozenset[str]:
        """Everything in it."""
        return frozenset(str(p.relative_to(self.folder)) for p in self.folder.rglob("*"))

    def start(
        self,
        words: Sequence[object],
        prelude: Callable[[], object] = lambda: None,
        slow: bool = False,
        then: Callable[[], object] = lambda: None,
    ) -> tuple[multiprocessing.process.BaseProcess, Path]:
        """One command line in a process of its own, and the file that takes what it says."""
        said = Path(tempfile.mkstemp(prefix="said-")[1])
        said.chmod(0o666)

        def child() -> None:
            tempfile.tempdir = str(self.scratch)
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

        original, waiting = METHODS["mean"], Slow(self.here, self.go, then)
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
        scratch = frozenset(path.name for path in self.scratch.iterdir())
        return End(process.exitcode, lines, text, self.names() - before, scratch)

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

    def make(kind: str, large: int = 0) -> tuple[list[Path], Path]:
        values = gappy(t=6, ny=large or 40, nx=large or 44)
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
        variant = {"NetCDF4": "NETCDF4", "NetCDF3": "NETCDF3_CLASSIC"}.get(kind)
        paths = [write_netcdf(values, file_format=variant)] if variant else write_geotiffs(values)
        moved = [path.rename(place.folder / path.name) for path in paths]
        names = {"GeoTIFF": "out.tif", "COG": "cog.out.tif", "folder": "filled"}
        return moved, place.folder / names.get(kind, "out.nc")

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
    cog = ["--of", "COG"] if out.name.startswith("cog") else []
    return ["fill", *inputs, out, "--method", "mean", "--no-uncertainty", "-q", *cog, *more]


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


@pytest.mark.parametrize("kind", ["Zarr", "GeoTIFF"])
def test_a_folder_that_may_not_be_read_is_said(place, stack, kind):
    inputs, _ = stack(kind)
    folder = inputs[0] if kind == "Zarr" else place.folder
    folder.chmod(0o700)
    end = place.run(["info", folder], nobody)
    assert (end.code, end.new) == (1, frozenset()), end.err
    assert end.errors == (f"stimpute: error: {folder}: this folder may not be read (permission denied)",)


@pytest.mark.parametrize("kind", FORMATS)
def test_61_a_permission_lost_in_the_middle_is_one_line(place, stack, kind):
    inputs, out = stack(kind)
    for path in [place.folder, *place.folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY) if os.getuid() == 0 else None
    end = place.run_and(words(inputs, out), lambda pid: place.folder.chmod(0o555), nobody)
    assert end.code == 1, end.err
    assert len(end.errors) == 1, end.err
    assert not out.exists()


def cut(inputs: Sequence[Path]) -> None:
    """Every file of the inputs loses its second half; of a store, those of the chunks."""
    for path in inputs:
        for part in [path] if path.is_file() else path.glob("sst/*"):
            if not part.name.startswith("."):
                os.truncate(part, min(part.stat().st_size // 2, 4000))


@pytest.mark.parametrize("kind", FORMATS)
def test_57_an_input_that_is_cut_while_it_is_read_is_an_error(place, stack, kind):
    inputs, out = stack(kind)
    end = place.run_and(words(inputs, out), lambda pid: cut(inputs))
    assert end.code == 1, end.err
    assert len(end.errors) == 1, end.err
    assert any(path.name in end.errors[0] for path in inputs)
    assert end.left == set()


@pytest.mark.parametrize("kind", FORMATS)
def test_an_input_that_is_rewritten_in_the_middle_gives_no_mixture(place, stack, kind):
    inputs, out = stack(kind)
    for more in ([], ["--tile", "16"]):
        end = place.run_and([*words(inputs, out), *more], lambda pid: [rewrite(path) for path in inputs])
        place.here.unlink()
        place.go.unlink()
        assert end.code == 1, end.err
        assert len(end.errors) == 1, end.err
        assert "was changed while it was read" in end.errors[0]
        assert any(path.name in end.errors[0] for path in inputs)
        assert end.new == set()


def rewrite(path: Path) -> None:
    """The same bytes, written anew; the size stays, as with most archives that are updated."""
    for part in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        part.write_bytes(part.read_bytes())


@pytest.mark.parametrize("role", ["input", "domain"])
def test_what_is_rewritten_is_refused_without_a_folder_of_tiles_too(write_netcdf, gappy, monkeypatch, role):
    path = write_netcdf(gappy())
    beside = write_netcdf(gappy()[:1], path.with_name("beside.nc"))
    read = {} if role == "input" else {"domain": str(beside)}
    original = METHODS["mean"]
    rewritten = beside if read else path
    waiting = Slow(path.with_name("here"), path, lambda: rewrite(rewritten))
    waiting.prepare = lambda overview: (setattr(waiting, "inner", original().prepare(overview)), waiting)[1]  # type: ignore[method-assign]
    monkeypatch.setitem(METHODS, "mean", lambda: waiting)
    with pytest.raises(InputError, match=rf"{rewritten.name}: was changed while it was read"):
        api.fill(path, method="mean", **read)


HOARD: list[bytearray] = []


def eat_all_memory() -> None:
    """No more address space than now, and what the allocator still holds is taken, down to pieces of 1 MB."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    for size in (1 << 24, 1 << 22, 1 << 20):
        with contextlib.suppress(MemoryError):
            while True:
                HOARD.append(bytearray(size))


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="no /proc on this system to limit memory by"
)
@pytest.mark.parametrize("kind", FORMATS)
def test_memory_that_runs_out_is_one_line(place, stack, kind):
    inputs, out = stack(kind, large=300)  # steps of 360 kB, arrays of 2 MB and more
    before = place.names()
    process, said = place.start(words(inputs, out), slow=True, then=eat_all_memory)
    place.go.touch()
    end = place.end(process, said, before)
    assert end.code == 1, end.err
    assert end.errors == ("stimpute: error: out of memory; lower --memory or --tile",), end.err
    assert end.left == set()


@pytest.mark.parametrize("kind", FORMATS)
def test_63_an_accelerator_that_cannot_allocate_leaves_the_output_to_the_cpu(place, stack, kind):
    inputs, out = stack(kind, large=16)

    def full() -> None:
        real, initialise = network.predict, network.STMethod.__init__

        def predict(net, batch, precision="fp32", fast=False):
            if batch.values.device.type == "cpu" and not hasattr(predict, "failed"):
                predict.failed = True  # type: ignore[attr-defined]
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(net, batch, precision, fast)

        def opened(self, net, device="cpu", precision="fp32", fast=False):
            initialise(self, net, "cpu", precision, fast)
            self.device = type("Elsewhere", (), {"type": "xpu", "__str__": lambda self: "xpu:0"})()

        network.predict, network.STMethod.__init__ = predict, opened
        network.Batch.to = lambda self, device: self

    end = place.run([w if w != "mean" else "st" for w in words(inputs, out)], full)
    assert end.code == 0, end.err
    assert end.err.count("too little free memory") == 1
    assert all("out" in name or "filled" in name for name in end.new), end.new
    assert not any(".stimpute-" in name for name in end.new), end.new
    assert place.run(["verify", *inputs, out]).code == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_two_runs_onto_one_output_make_one(place, stack, kind):
    inputs, out = stack(kind)
    before = place.names()
    one = place.start(words(inputs, out), slow=True)
    place.wait_for(*one)
    two = place.start(words(inputs, out), slow=True)
    time.sleep(0.5)
    place.go.touch()
    ends = [place.end(*run, before) for run in (one, two)]
    assert sorted(end.code for end in ends) == [0, 1], [end.err for end in ends]
    assert sum(len(end.errors) for end in ends) == 1
    assert not any(".stimpute-" in name for name in place.names()), place.names()
    assert out.exists()
    assert place.run(["verify", *inputs, out]).code == 0


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "<-12>12"])
def test_the_clock_and_the_language_of_the_machine_change_nothing(place, stack, zone):
    inputs, out = stack("NetCDF4")

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
