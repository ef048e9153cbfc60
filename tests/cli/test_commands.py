"""The other commands through the real command line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr

import stimpute as package
from stimpute.cli import app

COMMANDS = (
    "fill", "forecast", "reconstruct", "info", "variogram", "train", "evaluate", "verify", "models", "simulate",
)  # fmt: skip


def test_every_command_has_help_with_an_example(stimpute: Callable) -> None:
    assert {str(c.name or c.callback.__name__) for c in app.registered_commands if c.callback} == set(
        COMMANDS
    )
    for name in COMMANDS:
        done = stimpute(name, "--help")
        assert done.code == 0
        assert f"Example: stimpute {name} " in " ".join(done.out.split())


def test_version(stimpute: Callable) -> None:
    assert stimpute("--version").out.strip() == f"stimpute {package.__version__}"


@pytest.mark.parametrize(
    ("asked", "spins"),
    [({}, b"3000"), ({"GOMP_SPINCOUNT": "77"}, b"77"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_do_not_burn_the_cores_of_others(
    process: Callable, small: Path, tmp_path: Path, asked: dict[str, str], spins: bytes | None
) -> None:
    ours = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = process(
        "fill", small, tmp_path / "out.nc", "--method", "mean", env={**ours, "OMP_DISPLAY_ENV": "verbose", **asked}
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = re.findall(
        rb"GOMP_SPINCOUNT = '(\d+)'", done.stderr
    )  # by every copy of GNU OpenMP that is loaded; elsewhere none
    if sys.platform == "linux":
        assert said
    assert set(said) == {spins} or (spins is None and b"3000" not in said) or not said


def test_info(stimpute: Callable, small: Path) -> None:
    done = stimpute("info", small)
    assert done.code == 0
    for word in ("NetCDF", "sst", "missing", "time", "8 steps x 16 x 18"):
        assert word in done.out
    found = json.loads(stimpute("info", small, "--json").out)
    with xr.open_dataset(small) as data:
        assert found["statistics"][0]["observed"] == int(data["sst"].notnull().sum())
    assert found["time"]["steps"] == 8


def test_info_says_why_a_fill_would_refuse(stimpute: Callable, write_netcdf: Callable) -> None:
    path = write_netcdf(np.full((4, 5, 6), np.nan, dtype=np.float32))
    done = stimpute("info", path)
    assert done.code == 0
    assert "refuse" in done.out


def test_info_says_that_a_fill_needs_a_variable(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    with xr.open_dataset(small, decode_cf=False) as data:
        data.assign(other=data["sst"]).to_netcdf(tmp_path / "two.nc")
    note = "several variables (sst, other): fill needs --var NAME, or --var all"
    done = stimpute("info", tmp_path / "two.nc")
    assert done.code == 0
    assert note in done.out
    assert json.loads(stimpute("info", tmp_path / "two.nc", "--json").out)["notes"] == [note]
    assert "several" not in stimpute("info", tmp_path / "two.nc", "--var", "all").out
    assert "several" not in stimpute("info", small).out


def test_variogram(stimpute: Callable, tmp_path: Path) -> None:
    path, plot = tmp_path / "s.nc", tmp_path / "v.png"
    assert stimpute("simulate", path, "--kind", "sst", "--shape", "12,40,40").code == 0
    done = stimpute("variogram", path, "--plot", plot)
    assert done.code == 0, done.err
    assert "effective range" in done.out
    assert "tile:" in done.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    found = json.loads(stimpute("variogram", path, "--json", "--estimator", "matheron").out)
    assert found["spatial_fit"]["effective_range"] > 0
    assert found["tile"]["core"] >= 1
    assert len(found["spatial"]["lag"]) == len(found["spatial"]["pairs"])


def test_evaluate(stimpute: Callable, tmp_path: Path) -> None:
    path, plot = tmp_path / "s.nc", tmp_path / "e.png"
    stimpute("simulate", path, "--kind", "ndvi", "--shape", "12,20,20")
    done = stimpute("evaluate", path, "--methods", "mean,linear,dct-pls", "--by", "distance", "--plot", plot)
    assert done.code == 0, done.err
    for word in ("MAE", "dct-pls", "linear", "90 % cov.", "distance to the nearest observation"):
        assert word in done.out
    assert plot.read_bytes().startswith(b"\x89PNG")
    board = json.loads(
        stimpute(
            "evaluate", path, "--methods", "mean,linear", "--holdout", "gap,frames", "--seeds", "2", "--json"
        ).out
    )
    assert {(row["method"], row["kind"]) for row in board["rows"]} == {
        (m, k) for m in ("mean", "linear") for k in ("gap", "frames")
    }
    assert set(board["ratio_to_best_other"]) == {"mean", "linear"}


def test_models(stimpute: Callable, tmp_path: Path) -> None:
    assert "st-small" in stimpute("models").out
    card = json.loads(stimpute("models", "show", "st-small").out)
    assert len(card["sha256"]) == 64
    path = Path(stimpute("models", "path", "st-small").out.strip())
    assert path.suffix == ".safetensors"
    assert path.is_file()
    assert json.loads(stimpute("models", "--json").out)[0]["name"]


def test_simulate_is_seeded_and_comes_with_its_truth(stimpute: Callable, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = stimpute(
            "simulate",
            tmp_path / f"{name}.nc",
            "--truth",
            tmp_path / f"{name}_truth.nc",
            "--shape",
            "30,16,16",
            "--seed",
            "4",
        )
        assert done.code == 0, done.err
    with (
        xr.open_dataset(tmp_path / "a.nc") as a,
        xr.open_dataset(tmp_path / "b.nc") as b,
        xr.open_dataset(tmp_path / "a_truth.nc") as truth,
    ):
        xr.testing.assert_identical(a["soil_moisture"], b["soil_moisture"])
        seen = a["soil_moisture"].notnull().to_numpy()
        assert 0.02 < seen.mean() < 0.3
        np.testing.assert_array_equal(
            a["soil_moisture"].to_numpy()[seen], truth["soil_moisture"].to_numpy()[seen]
        )
        assert truth["soil_moisture"].notnull().all()
        assert a["soil_moisture"].attrs["grid_mapping"] == "crs"


@pytest.mark.parametrize("name", ["s.tif", "s.zarr"])
def test_simulate_in_other_formats_can_be_filled(stimpute: Callable, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert stimpute("simulate", path, "--kind", "sst", "--shape", "6,12,14").code == 0
    out = tmp_path / f"filled_{name}"
    done = stimpute("fill", path, out, "--method", "linear")
    assert done.code == 0, done.err
    if name == "s.tif":
        with rasterio.open(path) as before, rasterio.open(out) as after:
            assert after.crs == before.crs
            assert after.transform == before.transform
            assert after.descriptions == before.descriptions
    assert stimpute("verify", path, out).code == 0


def test_simulate_with_covariates(stimpute: Callable, tmp_path: Path) -> None:
    stimpute("simulate", tmp_path / "s.nc", "--shape", "12,8,8", "--covariates")
    with netCDF4.Dataset(tmp_path / "s.nc") as file:
        assert {"precipitation", "elevation", "soil_moisture"} <= set(file.variables)


@pytest.mark.parametrize(("name", "kind"), [("a.tif", "soil-moisture"), ("a.nc", "sst"), ("a.nc", "rain")])
def test_covariates_that_would_not_be_written_are_refused(
    stimpute: Callable, tmp_path: Path, name: str, kind: str
) -> None:
    done = stimpute("simulate", tmp_path / name, "--kind", kind, "--shape", "3,8,8", "--covariates")
    assert done.code == 2
    assert "--covariates: " in done.err
    assert list(tmp_path.iterdir()) == []


def test_train_and_fill_with_what_came_out(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    model = tmp_path / "mine.safetensors"
    done = stimpute(
        "train",
        small,
        "-o",
        model,
        "--steps",
        "1",
        "--depth",
        "1",
        "--width",
        "16",
        "--batch",
        "1",
        "--device",
        "cpu",
    )
    assert done.code == 0, done.err
    assert json.loads(model.with_suffix(".json").read_text())["training"]
    assert stimpute("train", small, "-o", model, "--steps", "2").code == 1
    again = stimpute("train", small, "-o", model, "--steps", "2", "--resume")
    assert again.code == 1
    assert "no interrupted run" in again.err
    filled = stimpute("fill", small, tmp_path / "out.nc", "--model", model, "--json")
    assert filled.code == 0, filled.err
    assert json.loads(filled.out)["model"] == "mine"


def test_python_simulate_and_evaluate_return_objects() -> None:
    gappy, truth = package.simulate(kind="sst", shape=(8, 12, 12), seed=1)
    assert gappy["sst"].shape == truth["sst"].shape == (8, 12, 12)
    board = package.evaluate(gappy, methods=["mean", "linear"])[0]
    assert [row.method for row in board.rows] == ["mean", "linear"]
    assert package.info(gappy)["statistics"][0]["name"] == "sst"


def test_training_takes_xarray_objects_in_a_list(small: Path, tmp_path: Path) -> None:
    from stimpute import api
    from stimpute.errors import UsageError

    with (
        xr.open_dataset(small) as stack,
        pytest.raises(UsageError, match="--size huge"),
    ):  # read, then refused
        api.train([stack], tmp_path / "model.safetensors", steps=1, size="huge")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "--methods", "mean,linear"),
        ("variogram",),
        ("train", "--steps", "1", "--depth", "1", "--width", "16", "--batch", "1"),
    ],
)
def test_what_was_filled_is_no_observation_to_judge_on(
    stimpute: Callable, small: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Scores, variogram and archive are those of the file before it was filled."""
    filled = tmp_path / "filled.nc"
    assert stimpute("fill", small, filled, "--method", "mean").code == 0
    name, *options = command
    if name == "train":
        done = stimpute(name, filled, "--var", "sst", "-o", tmp_path / "m.safetensors", *options)
        assert done.code == 0, done.err
        assert "count as gaps here" in done.err
        return
    before, after = (stimpute(name, path, "--var", "sst", *options, "--json") for path in (small, filled))
    assert after.code == 0, after.err
    assert "sst_fill_flag marks values that an earlier run filled; they count as gaps here" in after.err

    def figures(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if "seconds" not in line and ".nc" not in line)

    assert figures(before.out) == figures(after.out)


@pytest.mark.parametrize("several", [False, True])
def test_what_was_filled_in_rasters_is_no_observation_to_judge_on(
    stimpute: Callable, write_geotiffs: Callable, gappy: Callable, tmp_path: Path, several: bool
) -> None:
    tiffs = write_geotiffs(gappy(t=12, ny=10, nx=12))[0].parent
    (tmp_path / "folder").mkdir()
    filled = tmp_path / "folder" if several else tmp_path / "filled.tif"
    assert stimpute("fill", tiffs, filled, "--method", "mean", "--max-extrapolation", "none").code == 0
    before, after = (
        stimpute("evaluate", path, "--methods", "mean,linear", "--seed", 3, "--json")
        for path in (tiffs, filled)
    )
    assert after.code == 0, after.err
    assert "_flag.tif" in after.err
    assert "marks values that an earlier run filled; they count as gaps here" in after.err
    rows = [[(r["method"], r["scores"]) for r in json.loads(done.out)["rows"]] for done in (before, after)]
    assert rows[0] == rows[1]
    ahead = stimpute("forecast", filled, tmp_path / "next.tif", "--steps", "2", "--method", "persistence")
    assert "earlier run filled; they are taken as observed" in ahead.err
    for flag in tmp_path.rglob("*_flag.tif"):
        flag.unlink()
    unmarked = stimpute("variogram", filled)
    assert "no flag beside it says where; all of it counts as observed" in unmarked.err


def test_a_forecast_from_what_was_filled_says_so(
    stimpute: Callable, write_netcdf: Callable, gappy: Callable, tmp_path: Path
) -> None:
    assert stimpute("fill", write_netcdf(gappy(t=20)), tmp_path / "filled.nc", "--method", "mean").code == 0
    done = stimpute(
        "forecast",
        tmp_path / "filled.nc",
        tmp_path / "next.nc",
        "--var",
        "sst",
        "--steps",
        "2",
        "--method",
        "persistence",
    )
    assert done.code == 0, done.err
    assert "sst_fill_flag marks values that an earlier run filled; they are taken as observed" in done.err
