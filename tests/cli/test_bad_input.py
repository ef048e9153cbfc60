"""Bad input gets one clear line, the right exit code, and writes nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest


@pytest.fixture
def refused(stimpute: Callable, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail: its code, one line, nothing new in the folder; returns the line."""

    def check(code: int, *arguments: str | Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        done = stimpute(*arguments)
        assert done.code == code, done.err
        assert len(done.errors) == 1, done.err
        assert "Traceback" not in done.err
        assert done.out == ""
        assert sorted(tmp_path.rglob("*")) == before
        return str(done.errors[0])

    return check


def test_a_missing_file(refused: Callable, tmp_path: Path) -> None:
    line = refused(1, "fill", tmp_path / "absent.nc", tmp_path / "out.nc", "--method", "linear")
    assert "absent.nc" in line


@pytest.mark.parametrize(
    "command", ["info", "fill", "verify", "forecast", "reconstruct", "variogram", "evaluate", "train"]
)
def test_an_empty_name_is_not_the_current_folder(
    refused: Callable, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    more: list[str | Path] = (
        [] if command in ("info", "variogram", "evaluate", "train") else [tmp_path / "out.nc"]
    )
    more += {"reconstruct": ["--factor", "2"], "train": ["--out", "m.safetensors"]}.get(command, [])
    assert "empty" in refused(2, command, "", *more)


@pytest.mark.parametrize("command", ["fill", "forecast", "reconstruct"])
@pytest.mark.parametrize("out", ["", "/", "//", "memory://b/out.zarr"])
def test_an_output_that_is_none(refused: Callable, small: Path, command: str, out: str) -> None:
    refused(2, command, small, out, *(["--factor", "2"] if command == "reconstruct" else []))


@pytest.mark.parametrize("out", [".", "./", "..", "../here"])
def test_the_current_folder_is_an_output_as_any_other(
    stimpute: Callable, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    here = tmp_path / "here"
    (here / "inner").mkdir(parents=True)
    monkeypatch.chdir(here / "inner" if out == ".." else here)
    done = stimpute("fill", small, out, "--method", "mean", "--tile", "8")
    assert done.code == 0, done.err
    assert sorted(p.name for p in here.iterdir()) == ["inner", "stack.nc"]
    refused = stimpute("fill", small, out, "--method", "mean", "--tile", "8")
    assert "already exists" in refused.errors[0]


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
@pytest.mark.parametrize("kind", ["flag", "stderr", "q05"])
def test_a_file_in_the_place_of_a_sibling_is_refused_before_any_computing(
    refused: Callable, stimpute: Callable, small: Path, tmp_path: Path, kind: str, more: tuple[str, ...]
) -> None:
    out, there = tmp_path / "out.tif", tmp_path / f"out_{kind}.tif"
    there.write_text("mine")
    asked = ("fill", small, out, "--method", "linear", "--quantiles", "0.05", *more)
    assert f"{there}: already exists; --overwrite replaces it" in refused(1, *asked)
    assert there.read_text() == "mine"
    assert stimpute(*asked, "--overwrite").code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_with_a_name(refused: Callable, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    line = refused(1, "info", tmp_path / "pipe")
    assert f"{tmp_path / 'pipe'}: is no file" in line
    assert "- reads a stream" in line


def test_no_such_variable(refused: Callable, small: Path, tmp_path: Path) -> None:
    line = refused(1, "fill", small, tmp_path / "out.nc", "--var", "nope", "--method", "linear")
    assert "nope" in line
    assert "sst" in line


def test_the_output_exists(refused: Callable, stimpute: Callable, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    out.write_bytes(b"precious")
    line = refused(1, "fill", small, out, "--method", "linear")
    assert "--overwrite" in line
    assert out.read_bytes() == b"precious"
    assert stimpute("fill", small, out, "--method", "linear", "--overwrite").code == 0


def test_the_output_is_the_input(refused: Callable, small: Path) -> None:
    content = small.read_bytes()
    line = refused(1, "fill", small, small, "--method", "linear", "--overwrite")
    assert "input" in line
    assert small.read_bytes() == content


def test_a_truncated_file(refused: Callable, small: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.nc"
    cut.write_bytes(small.read_bytes()[:2000])
    assert "cut.nc" in refused(1, "fill", cut, tmp_path / "out.nc", "--method", "linear")


def test_a_pickle_as_a_model_is_never_loaded(refused: Callable, small: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for name in ("model.pt", "model.safetensors"):
        model = tmp_path / name
        model.write_bytes(pickle.dumps(Trap()))
        assert name in refused(1, "fill", small, tmp_path / "out.nc", "--model", model)
    assert not (tmp_path / "sprung").exists()


def test_no_such_model(refused: Callable, small: Path, tmp_path: Path) -> None:
    assert "st-huge" in refused(1, "fill", small, tmp_path / "out.nc", "--model", "st-huge")


def test_a_device_by_name_that_is_not_there(refused: Callable, small: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    assert "mps" in refused(1, "fill", small, tmp_path / "out.nc", "--device", "mps")


def test_nothing_but_gaps(refused: Callable, write_netcdf: Callable, tmp_path: Path) -> None:
    path = write_netcdf(np.full((4, 5, 6), np.nan, dtype=np.float32))
    assert "stack.nc" in refused(1, "fill", path, tmp_path / "out.nc", "--method", "linear")


def test_an_output_folder_that_does_not_exist(refused: Callable, small: Path, tmp_path: Path) -> None:
    assert "nowhere" in refused(1, "fill", small, tmp_path / "nowhere" / "out.nc", "--method", "linear")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fill", "only-one.nc"), "output"),
        (("fill", "a.nc", "b.nc", "--method", "magic"), "magic"),
        (("fill", "a.nc", "b.nc", "--bbox", "1,2,3"), "xmin"),
        (("fill", "a.nc", "b.nc", "--bbox", "1,9,3,4"), "ymin"),
        (("fill", "a.nc", "b.nc", "--memory", "lots"), "lots"),
        (("fill", "a.nc", "b.nc", "--tile", "0"), "tile"),
        (("fill", "a.nc", "b.nc", "--seed", "-1"), "seed"),
        (("fill", "a.nc", "b.nc", "--time", "2020-13,"), "2020-13"),
        (("fill", "a.nc", "b.nc", "--time", ",202006"), "202006"),
        (("fill", "a.nc", "b.nc", "--dtype", "potato"), "potato"),
        (("fill", "a.nc", "b.nc", "--bounds", "3,1"), "bounds"),
        (("fill", "a.nc", "b.nc", "--quantiles", "1.5"), "quantiles"),
        (("fill", "a.nc", "b.nc", "--quantiles", "0.5,0.5"), "NAME_q50"),
        (("fill", "a.nc", "b.nc", "--co", "novalue"), "KEY=VALUE"),
        (("fill", "a.nc", "b.nc", "--of", "Word"), "Word"),
        (("fill", "a.nc", "b.nc", "--method", "mean", "--model", "st-small"), "no model"),
        (("fill", "a.nc", "b.nc", "--precision", "fp8"), "fp8"),
        (("fill", "a.nc", "b.nc", "--plot", "p.doc"), "p.doc"),
        (("fill", "a.nc", "-", "--json"), "stdout"),
        (("fill", "a.nc", "b.nc", "--nonsense"), "nonsense"),
        (("evaluate", "a.nc", "--holdout", "moon"), "moon"),
        (("evaluate", "a.nc", "--share", "2"), "share"),
        (("evaluate", "a.nc", "--methods", "linear,magic"), "magic"),
        (("evaluate", "a.nc", "--by", "colour"), "colour"),
        (("models", "paint"), "paint"),
        (("simulate", "out.txt"), "out.txt"),
        (("simulate", "out.nc", "--kind", "moon"), "moon"),
        (("simulate", "out.nc", "--shape", "a,b"), "a,b"),
        (("train", "-o", "model.pt", "a.nc"), "safetensors"),
        (("train", "-o", "model.safetensors", "--worlds", "1", "--steps", "0"), "--steps 0: at least 1"),
        (("train", "-o", "model.safetensors", "--worlds", "1", "--batch", "0"), "--batch 0: at least 1"),
        (("train", "-o", "model.safetensors", "--worlds", "1", "--val-fraction", "2"), "--val-fraction 2"),
        (
            ("train", "-o", "model.safetensors", "--worlds", "1", "--val-fraction", "0.5"),
            "--val-fraction 0.5: from 0 to below 0.5",
        ),
        (
            ("train", "-o", "model.safetensors", "--from", "st-small", "--worlds", "1", "--size", "base"),
            "--size base",
        ),
        (("train", "-o", "model.safetensors", "--worlds", "1", "--lr", "-1"), "lr"),
        (("train", "-o", "model.safetensors", "--worlds", "1", "--precision", "fp8"), "fp8"),
        (("train", "-o", "model.safetensors", "--worlds", "1", "--attention", "magic"), "magic"),
        (("variogram", "a.nc", "--estimator", "magic"), "magic"),
        (("nonsense",), "nonsense"),
    ],
)
def test_a_wrong_command_line_exits_2(refused: Callable, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(2, *arguments)


@pytest.mark.parametrize(
    ("option", "words"), [("COMPRES=ZSTD", "did you mean COMPRESS"), ("COMPRESS=FOO", "DEFLATE")]
)
def test_a_creation_option_that_gdal_would_pass_over(
    refused: Callable, small: Path, tmp_path: Path, option: str, words: str
) -> None:
    assert words in refused(2, "fill", small, tmp_path / "out.tif", "--method", "mean", "--co", option)


def test_times_in_a_file_that_is_not_there(refused: Callable, small: Path, tmp_path: Path) -> None:
    said = refused(1, "fill", small, tmp_path / "out.nc", "--method", "mean", "--times", "nofile.txt")
    assert "nofile.txt: no such file" in said


def test_a_folder_of_other_files_is_not_replaced(refused: Callable, small: Path, tmp_path: Path) -> None:
    (tmp_path / "e.zarr").mkdir()
    (tmp_path / "e.zarr" / "notes.txt").write_text("mine")
    assert "folder of other files" in refused(
        1, "fill", small, tmp_path / "e.zarr", "--method", "mean", "--overwrite"
    )
    assert (tmp_path / "e.zarr" / "notes.txt").read_text() == "mine"


def test_a_link_to_a_pipe_is_not_replaced(refused: Callable, small: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out.nc").symlink_to(tmp_path / "pipe")
    said = refused(1, "fill", small, tmp_path / "out.nc", "--method", "mean", "--overwrite")
    assert "- stands for standard output" in said
    assert (tmp_path / "out.nc").is_symlink()


def test_groups_fit_no_netcdf3(refused: Callable, small: Path, tmp_path: Path) -> None:
    with netCDF4.Dataset(small, "a") as file:
        file.createGroup("meta").note = "kept"
    said = refused(1, "fill", small, tmp_path / "out.nc", "--method", "mean", "--of", "NetCDF3")
    assert "knows no groups (meta" in said


def test_an_observed_value_beyond_the_type_is_called_observed(
    refused: Callable, write_netcdf: Callable, gappy: Callable, tmp_path: Path
) -> None:
    path = write_netcdf(gappy(), dtype="i2", scale=0.001)
    said = refused(1, "fill", path, tmp_path / "out.nc", "--method", "mean", "--dtype", "int8")
    assert "the observed value" in said
    assert "--bounds" not in said


@pytest.mark.parametrize("options", [("--co", "COMPRESS=magic"), ("--co", "ZLEVEL=99")])
def test_a_wrong_creation_option(
    refused: Callable, small: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert options[1] in refused(2, "fill", small, tmp_path / "out.nc", "--method", "linear", *options)


@pytest.mark.parametrize("role", ["--covariate", "--domain", "--plot"])
def test_what_is_read_beside_the_input_is_never_written_onto(
    refused: Callable, small: Path, tmp_path: Path, role: str
) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(small.read_bytes())
    refused(1, "fill", small, other, role, other, "--overwrite", "--method", "linear")
    refused(1, "fill", small, other, role, other, "--overwrite", "--method", "linear", "--dry-run")
    assert other.read_bytes() == small.read_bytes()


def test_a_picture_is_never_drawn_onto_an_input(refused: Callable, small: Path, tmp_path: Path) -> None:
    stack = tmp_path / "stack.png"
    stack.write_bytes(small.read_bytes())
    refused(1, "fill", stack, tmp_path / "out.nc", "--plot", stack, "--overwrite", "--method", "linear")
    refused(1, "variogram", stack, "--plot", stack, "--overwrite")
    assert stack.read_bytes() == small.read_bytes()


def test_fast_is_not_ignored_where_it_has_no_effect(refused: Callable, small: Path, tmp_path: Path) -> None:
    assert "--fast" in refused(2, "fill", small, tmp_path / "out.nc", "--method", "linear", "--fast")
    assert "--fast" in refused(2, "evaluate", small, "--methods", "linear", "--fast")
    for more in (("--adapt", "1"), ("--model", "st-small"), ("--precision", "bf16")):
        said = refused(2, "fill", small, tmp_path / "out.nc", "--fast", *more)
        assert more[0] in said
        assert "--fast leaves the network out" in said


def test_half_precision_is_not_ignored_where_it_has_no_effect(
    refused: Callable, small: Path, tmp_path: Path
) -> None:
    line = refused(2, "fill", small, tmp_path / "out.nc", "--method", "linear", "--precision", "bf16")
    assert "--precision bf16" in line
    assert "linear" in line
