"""A fill that is killed, and taken up again, through the real command line."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from stimpute import api
from stimpute.errors import ClusterError, InputError, StimputeWarning

PROGRAM = (
    "import time\n"
    "from stimpute.baselines.averages import MeanImputer\n"
    "impute = MeanImputer.impute\n"
    "def slow(*a):\n"
    "    time.sleep({pause}); return impute(*a)\n"
    "MeanImputer.impute = slow\n"
    "from stimpute.cli import main; main()"
)
TILES = ("--method", "mean", "--tile", "8", "--overlap", "2", "--memory", "1MB")


KILLS = int(
    os.environ.get("STIMPUTE_TEST_KILLS", "2")
)  # more of them: STIMPUTE_TEST_KILLS=20 pytest -k killed


@pytest.fixture
def stack(write_netcdf: Callable[..., Path], gappy: Callable[..., np.ndarray]) -> Path:
    """A file of 7 x 7 tiles, too large for its memory."""
    return write_netcdf(gappy(t=12, ny=60, nx=55), dtype="i2", scale=0.001, offset=10, fill=-32768)


def started(arguments: Sequence[str | Path], pause: float = 0.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM.format(pause=pause), *(str(a) for a in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(arguments: Sequence[str | Path]) -> str:
    running = started(arguments)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said.decode()
    return said.decode()


def tiles(folder: Path) -> int:
    return len(list(folder.glob("layer-*/*.safetensors")))


def contents(path: Path) -> dict[str, object]:
    """Everything in a file; the timestamp is left out of ``history``."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        found: dict[str, object] = {
            name: (v.dtype, v.dimensions, v.filters(), v.chunking(), v.__dict__, np.array(v[:]).tobytes())
            for name, v in file.variables.items()
        }
        found["attributes"] = {**file.__dict__, "history": re.sub(r"\S+Z: ", "", file.history)}
    return found


def assert_same(one: Path, other: Path) -> None:
    before, after = contents(one), contents(other)
    for name in {**before, **after}:
        assert str(before[name]) == str(after[name]), name


def test_killed_at_random_moments_and_resumed_it_is_the_same_output(stack: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out" / "filled.nc", tmp_path / "out" / "filled.nc.stimpute-partial"
    out.parent.mkdir()
    arguments = ["fill", stack, out, *TILES]
    chance, kept, kills = random.Random(time.time_ns()), 0, 0
    while kills < KILLS:
        running = started([*arguments, *(["--resume"] if kills else [])], pause=0.02)
        enough = kept + chance.randint(1, 15) if kills else 0
        while running.poll() is None and not (
            (folder / "manifest.json").exists() and tiles(folder) >= enough
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.03 if kills else 1.0))
        running.kill()
        running.communicate()
        if running.returncode == 0:
            break
        kills += 1
        assert [p.name for p in out.parent.iterdir()] == [folder.name]
        assert tiles(folder) >= kept
        kept = tiles(folder)
    assert kills
    assert kept
    if not out.exists():
        finished([*arguments, "--resume"])
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    undisturbed = tmp_path / "undisturbed" / "filled.nc"
    undisturbed.parent.mkdir()
    finished(["fill", stack, undisturbed, *TILES])
    with netCDF4.Dataset(undisturbed, "a") as file:  # the command that is recorded names another folder
        file.history = file.history.replace(str(undisturbed), str(out))
    assert_same(out, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_finished_stays_after_an_interruption(stack: Path, tmp_path: Path, number: int) -> None:
    target = tmp_path / "target"
    target.mkdir()
    folder = target / "out.nc.stimpute-partial"
    running = started(["fill", stack, target / "out.nc", *TILES], pause=0.05)
    while tiles(folder) < 3:  # of 49
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert [p.name for p in target.iterdir()] == [folder.name]
    assert not (folder / "output").exists()
    assert re.search(
        r"warning: \d+ of 49 tiles of sst kept in .*out.nc.stimpute-partial.*--resume", said.decode()
    )
    assert b"Traceback" not in said


@pytest.fixture
def left(stack: Path, tmp_path: Path, stimpute: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output whose fill was interrupted: ``left/out.nc``."""
    from stimpute.baselines.averages import MeanImputer

    out = tmp_path / "left" / "out.nc"
    out.parent.mkdir()
    folder, impute = Path(f"{out}.stimpute-partial"), MeanImputer.impute

    def until_enough(*given: object) -> object:
        if tiles(folder) == 5:
            raise KeyboardInterrupt
        return impute(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(MeanImputer, "impute", until_enough)
        assert stimpute("fill", stack, out, *TILES).code == 130
    assert tiles(folder) == 5
    return out


def test_another_run_is_not_resumed_and_says_why(left: Path, stack: Path, stimpute: Callable) -> None:
    folder = Path(f"{left}.stimpute-partial")
    before = sorted(folder.rglob("*.safetensors"))
    refused = stimpute("fill", stack, left, *TILES)
    assert refused.code == 1
    assert "interrupted fill" in refused.errors[0]
    assert "--resume" in refused.errors[0]
    assert str(folder) in refused.errors[0]
    for change, difference in (
        (("--overlap", "3"), "--overlap was 2, is 3"),
        (("--quantiles", "0.1"), "--quantiles was none, is [0.1]"),
        (("--method", "linear"), "method was mean, is linear"),
        (("--memory", "2MB"), "--memory was 1000000, is 2000000"),
    ):
        refused = stimpute("fill", stack, left, *TILES, "--resume", *change)
        assert refused.code == 1
        assert difference in refused.errors[0]
    with netCDF4.Dataset(stack, "a") as file:
        file["sst"][0, 0, 0] = 12
    refused = stimpute("fill", stack, left, *TILES, "--resume")
    assert refused.code == 1
    assert f"the input {stack} was changed" in refused.errors[0]
    assert sorted(folder.rglob("*.safetensors")) == before
    done = stimpute("fill", stack, left, *TILES, "--overwrite")
    assert done.code == 0, done.err
    assert [p.name for p in left.parent.iterdir()] == [left.name]


def test_damaged_tiles_are_computed_again(
    left: Path, stack: Path, tmp_path: Path, stimpute: Callable
) -> None:
    folder = Path(f"{left}.stimpute-partial")
    first, second, *_ = sorted(folder.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    second.write_bytes(b"")
    assert stimpute("fill", stack, left, *TILES, "--resume").code == 0
    whole = tmp_path / "whole.nc"
    assert stimpute("fill", stack, whole, *TILES).code == 0
    with netCDF4.Dataset(left) as one, netCDF4.Dataset(whole) as other:
        for name in one.variables:
            np.testing.assert_array_equal(one[name][:], other[name][:])


def test_killed_while_the_output_was_named(left: Path, stack: Path, stimpute: Callable) -> None:
    Path(f"{left}.stimpute-partial", "committing").touch()
    left.write_bytes(b"half")
    assert stimpute("fill", stack, left, *TILES, "--resume").code == 0
    with netCDF4.Dataset(left) as file:
        assert "sst_fill_flag" in file.variables


def test_nothing_to_resume(stack: Path, tmp_path: Path, stimpute: Callable) -> None:
    with pytest.warns(StimputeWarning, match="no interrupted fill"):
        api.fill(stack, tmp_path / "out.nc", method="mean", resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.nc", "stack.nc"]
    refused = stimpute("fill", stack, "-", "--method", "mean", "--resume")
    assert refused.code == 2
    assert "cannot be resumed" in refused.err


class FailingImputer:
    """The mean, until enough tiles were answered; then an error, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int) -> None:
        from stimpute.baselines.averages import MeanImputer

        calls, impute = iter(range(10_000)), MeanImputer.impute

        def failing(*given: object) -> object:
            if next(calls) == after:
                raise error
            return impute(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(MeanImputer, "impute", failing)


@pytest.mark.parametrize("name", ["out.zarr", "out.zarr.zip", "out.tif", "out/"])
def test_after_an_error_finished_tiles_stay_and_nothing_else(
    stack: Path, tmp_path: Path, stimpute: Callable, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    FailingImputer(monkeypatch, OSError(28, "No space left on device"), 25)
    target = tmp_path / "target"
    target.mkdir()
    folder = target / f"{name.rstrip('/')}.stimpute-partial"
    failed = stimpute("fill", stack, f"{target}/{name}", *TILES)
    assert failed.code == 1
    assert len(failed.errors) == 1
    assert re.search(r"warning: \d+ of 49 tiles of sst kept in .*--resume", failed.err)
    assert list(target.iterdir()) == [folder]
    assert not (folder / "output").exists()
    assert tiles(folder) > 0
    done = stimpute("fill", stack, f"{target}/{name}", *TILES, "--resume")
    assert done.code == 0, done.err
    assert name.rstrip("/") in [p.name for p in target.iterdir()]
    assert not folder.exists()


def test_an_error_before_the_first_tile_leaves_nothing(
    stack: Path, tmp_path: Path, stimpute: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    FailingImputer(monkeypatch, InputError("in.nc: cut short"), 0)
    failed = stimpute("fill", stack, tmp_path / "out.nc", *TILES)
    assert failed.code == 1
    assert [p.name for p in tmp_path.iterdir()] == [stack.name]


def test_an_error_of_a_resumed_run_keeps_what_was_there(
    left: Path, stack: Path, stimpute: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the layer is even read, and by its first tile."""
    folder = Path(f"{left}.stimpute-partial")
    before = sorted(folder.rglob("*.safetensors"))
    for where, error in (
        ("engine.survey_layer", ClusterError("no scheduler")),
        ("engine._trust", OSError(5, "I/O")),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(f"stimpute.inference.{where}", Raising(error))
            (folder / "layer-000" / "trust.json").unlink(missing_ok=True)
            failed = stimpute("fill", stack, left, *TILES, "--resume")
        assert failed.code == 1
        assert "kept in" in failed.err
        assert sorted(folder.rglob("*.safetensors")) == before
    assert stimpute("fill", stack, left, *TILES, "--resume").code == 0


class Raising:
    """Called, it raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"type": "Nothing"}', '"text"'])
@pytest.mark.parametrize("name", ["trust.json", "survey.json"])
def test_a_damaged_calibration_or_survey_is_made_anew(
    left: Path, stack: Path, tmp_path: Path, stimpute: Callable, name: str, damage: str
) -> None:
    folder = Path(f"{left}.stimpute-partial")
    (folder / "layer-000" / name).write_text(damage)
    resumed = stimpute("fill", stack, left, *TILES, "--resume")
    if name == "survey.json" and damage not in ("", "{"):  # whole, of another stack
        assert resumed.code == 1
        assert "reads otherwise" in resumed.errors[0]
        assert tiles(folder) == 5
        return
    assert resumed.code == 0, resumed.err
    whole = tmp_path / "whole.nc"
    assert stimpute("fill", stack, whole, *TILES).code == 0
    with netCDF4.Dataset(left) as one, netCDF4.Dataset(whole) as other:
        for variable in one.variables:
            np.testing.assert_array_equal(one[variable][:], other[variable][:])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_begun_does_not_stay(
    stack: Path, tmp_path: Path, stimpute: Callable, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("stimpute.inference.finished_tiles.os.replace", Raising(error))
        failed = stimpute("fill", stack, tmp_path / "out.nc", *TILES)
    assert failed.code != 0
    assert len(failed.errors) == 1
    assert [p.name for p in tmp_path.iterdir()] == [stack.name]
    assert stimpute("fill", stack, tmp_path / "out.nc", *TILES).code == 0


def test_a_value_that_the_output_cannot_hold_keeps_no_tiles(stimpute, tmp_path, small):
    out = tmp_path / "out.nc"
    given = ("fill", small, out, "--method", "linear", "--tile", "8")
    failed = stimpute(*given, "--dtype", "int8")
    assert failed.code == 1
    assert "--resume" not in failed.err
    assert not list(tmp_path.glob("out.nc*"))
    assert stimpute(*given).code == 0


def test_resume_with_overwrite_starts_anew_where_it_was_begun_otherwise(stimpute, tmp_path, small):
    out = tmp_path / "out.nc"
    folder = tmp_path / "out.nc.stimpute-partial"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    given = ("fill", small, out, "--method", "mean", "--resume")
    assert stimpute(*given).code == 1
    assert folder.exists()
    done = stimpute(*given, "--overwrite")
    assert done.code == 0, done.err
    assert out.exists()
    assert not folder.exists()
