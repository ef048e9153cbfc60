"""`stimpute fill` through the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr

import stimpute as package


def test_a_netcdf_file_is_filled_and_verified(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    done = stimpute("fill", small, out, "--method", "linear")
    assert (done.code, done.out) == (0, "")
    assert "filled" in done.err
    with xr.open_dataset(small) as before, xr.open_dataset(out) as after:
        seen = np.isfinite(before["sst"].to_numpy())
        np.testing.assert_array_equal(after["sst"].to_numpy()[seen], before["sst"].to_numpy()[seen])
        assert np.isfinite(after["sst"].to_numpy()).all()
        np.testing.assert_array_equal(after["sst_fill_flag"].to_numpy() == 1, ~seen)
        assert np.isfinite(after["sst_standard_error"].to_numpy()[~seen]).all()
        assert f"stimpute fill {small}" in after.attrs["history"]
        assert "method linear" in after.attrs["history"]
    assert stimpute("verify", small, out).code == 0


@pytest.mark.parametrize(
    ("names", "words"), [(("precipitation", "clay"), "the covariates helped"), (("noise",), "did not help")]
)
def test_what_came_of_covariates_is_said(
    stimpute: Callable, tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "s.nc"
    stimpute("simulate", path, "--shape", "60,20,20", "--covariates")
    with netCDF4.Dataset(path, "a") as file:
        driver = file["precipitation"]
        noise = file.createVariable("noise", "f4", driver.dimensions)
        noise[:] = np.random.default_rng(0).normal(size=driver.shape)
    beside = [word for name in names for word in ("--covariate", f"{path}:{name}")]
    done = stimpute("fill", path, tmp_path / "out.nc", "--var", "soil_moisture", "--fast", *beside)
    assert done.code == 0, done.err
    assert words in done.err
    bare = stimpute("fill", path, tmp_path / "bare.nc", "--var", "soil_moisture", "--fast")
    assert "the covariates" not in bare.err


def test_verify_finds_one_changed_cell(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    stimpute("fill", small, out, "--method", "mean", "-q")
    with netCDF4.Dataset(out, "a") as file:
        flags = file["sst_fill_flag"][:]
        t, y, x = (int(i[0]) for i in np.nonzero(flags == 0))
        file["sst"][t, y, x] = 99.0
    done = stimpute("verify", small, out)
    assert done.code == 1
    assert done.errors


@pytest.mark.parametrize("method", ["st", "linear", "mean", "dct-pls", "dineof", "kriging"])
def test_every_method_fills(stimpute: Callable, small: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out.nc"
    done = stimpute("fill", small, out, "--method", method, "--json", "--device", "cpu")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["method"] == method
    layer = summary["layers"][0]
    assert layer["refused"] == 0
    assert layer["expected_error"] < 3
    assert summary["outputs"] == [str(out)]
    assert (summary["model_sha256"] is not None) == (method == "st")


def test_geotiffs_in_a_folder_become_a_folder(
    stimpute: Callable, write_geotiffs: Callable, gappy: Callable, tmp_path: Path
) -> None:
    paths = write_geotiffs(gappy())
    out = tmp_path / "out"
    done = stimpute("fill", *paths, out, "--method", "linear")
    assert done.code == 0, done.err
    with rasterio.open(paths[2]) as before, rasterio.open(out / paths[2].name) as after:
        seen = before.read(1) != -9999
        np.testing.assert_array_equal(after.read(1)[seen], before.read(1)[seen])
        assert (after.read(1) != -9999).all()
        assert after.crs == before.crs


def test_dry_run_writes_nothing_and_says_why(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    done = stimpute("fill", small, out, "--method", "linear", "--dry-run")
    assert done.code == 0
    assert not out.exists()
    for word in ("missing", "effective range", "memory", "disk", "time"):
        assert word in done.out
    plan = json.loads(stimpute("fill", small, out, "--method", "linear", "--dry-run", "--json").out)
    assert plan["layers"][0]["fillable_gaps"] > 0


@pytest.mark.parametrize(
    "options",
    [(), ("--max-gap", "3d"), ("--max-distance", "1cells"), ("--max-extrapolation", "1d"), ("--max-extrapolation", "none"), ("--min-obs", "0.5")],
)  # fmt: skip
def test_a_dry_run_counts_as_the_fill_does(
    stimpute: Callable, write_netcdf: Callable, gappy: Callable, tmp_path: Path, options: tuple[str, ...]
) -> None:
    values = gappy(t=20, missing=0.7)
    values[8:, :4] = np.nan
    path, asked = write_netcdf(values), ("--method", "linear", *options)
    plan = json.loads(stimpute("fill", path, tmp_path / "a.nc", *asked, "--dry-run", "--json").out)["layers"][
        0
    ]
    done = json.loads(stimpute("fill", path, tmp_path / "a.nc", *asked, "--json").out)["layers"][0]
    assert plan["counted"]
    assert (plan["fillable_gaps"], plan["refusals"]) == (done["filled"], done["refusals"])
    said = stimpute("fill", path, tmp_path / "b.nc", *asked, "--dry-run").out
    assert f"{done['filled']:,} gaps would be filled, {done['refused']:,} refused" in said


def test_a_dry_run_says_at_most_where_it_does_not_count(
    stimpute: Callable, write_netcdf: Callable, gappy: Callable, tmp_path: Path
) -> None:
    path = write_netcdf(gappy(t=20, ny=60, nx=60))
    asked = ("--method", "mean", "--dry-run", "--memory", "1MB", "--max-gap", "2d")
    assert "  at most " in stimpute("fill", path, tmp_path / "a.nc", *asked).out


def test_strict_exits_3_where_gaps_remain(
    stimpute: Callable, write_netcdf: Callable, gappy: Callable, tmp_path: Path
) -> None:
    values = gappy(t=6)
    values[:, 2, 2] = np.nan
    path = write_netcdf(values)
    assert stimpute("fill", path, tmp_path / "a.nc", "--method", "linear", "--strict").code == 3
    assert (tmp_path / "a.nc").exists()
    assert (
        stimpute(
            "fill", path, tmp_path / "b.nc", "--method", "linear", "--strict", "--fill-never-observed"
        ).code
        == 0
    )


def test_options_of_the_result(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    done = stimpute(
        "fill",
        small,
        out,
        "--method",
        "linear",
        "--no-flags",
        "--quantiles",
        "0.05,0.95",
        "--bounds",
        "14,16",
    )
    assert done.code == 0, done.err
    assert "clipped" in done.err
    with xr.open_dataset(out) as after, xr.open_dataset(small) as before:
        assert "sst_fill_flag" not in after
        filled = np.isnan(before["sst"].to_numpy())
        assert after["sst"].to_numpy()[filled].min() >= 14
        assert after["sst"].to_numpy()[filled].max() <= 16
        assert any(name.startswith("sst_q") for name in map(str, after.data_vars))


def test_a_picture(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    plot = tmp_path / "p.png"
    assert stimpute("fill", small, tmp_path / "out.nc", "--method", "linear", "--plot", plot).code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_environment_mirrors_options(
    stimpute: Callable, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STIMPUTE_METHOD", "mean")
    monkeypatch.setenv("STIMPUTE_FLAGS", "0")
    done = stimpute("fill", small, tmp_path / "out.nc", "--json")
    assert json.loads(done.out)["method"] == "mean"
    with xr.open_dataset(tmp_path / "out.nc") as after:
        assert "sst_fill_flag" not in after


def test_what_the_environment_asked_for_is_recorded(
    stimpute: Callable,
    write_netcdf: Callable,
    gappy: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, out = write_netcdf(gappy(t=8, ny=16, nx=18)), tmp_path / "out.nc"
    with xr.open_dataset(small) as before:
        first, last = (str(before["time"].to_numpy()[i])[:10] for i in (0, 5))
    for name, value in {
        "TIME": f"{first},{last}",
        "NODATA": "-3 -4",
        "FLAGS": "0",
        "QC": "0",
        "MAX_GAP": "3d",
    }.items():
        monkeypatch.setenv(f"STIMPUTE_{name}", value)
    done = stimpute("fill", small, out, "--method", "linear")
    assert done.code == 0, done.err
    with xr.open_dataset(out) as after:
        history = after.attrs["history"]
    asked = f"--time {first},{last} --nodata -3 --nodata -4 --max-gap 3d --no-flags"
    assert f"stimpute fill {asked} {small} {out} --method linear" in history
    for name in ("TIME", "NODATA", "FLAGS", "QC", "MAX_GAP"):
        monkeypatch.delenv(f"STIMPUTE_{name}")
    assert stimpute("verify", small, out).code == 0


def test_python_and_command_line_agree(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    stimpute("fill", small, out, "--method", "dct-pls")
    with xr.open_dataset(small) as before, xr.open_dataset(out) as written:
        returned = package.fill(before.load(), method="dct-pls")
        np.testing.assert_allclose(returned["sst"].to_numpy(), written["sst"].to_numpy(), rtol=1e-6)
        summary = package.fill(small, tmp_path / "b.nc", method="dct-pls")
        assert summary.layers[0].filled == int(np.isnan(before["sst"].to_numpy()).sum())
    with pytest.raises(TypeError, match="tyle"):
        package.fill(small, tyle=3)


def test_quiet_and_no_colour(process: Callable, small: Path, tmp_path: Path) -> None:
    done = process(
        "fill", small, tmp_path / "out.nc", "--method", "mean", "-q", env={**os.environ, "NO_COLOR": "1"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = process("fill", small, tmp_path / "out2.nc", "--method", "mean")
    assert b"\x1b[" not in done.stderr


def test_streams(process: Callable, small: Path, tmp_path: Path) -> None:
    done = process("fill", "-", "-", "--method", "linear", "-q", input=small.read_bytes())
    assert done.returncode == 0, done.stderr
    (tmp_path / "piped.nc").write_bytes(done.stdout)
    with xr.open_dataset(tmp_path / "piped.nc") as after:
        assert np.isfinite(after["sst"].to_numpy()).all()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGINT, 130)])
def test_an_interrupted_fill_leaves_nothing(small: Path, tmp_path: Path, number: int, code: int) -> None:
    program = (
        "import stimpute.inference.engine as engine, time\n"
        "pieces = engine.in_one_piece\n"
        "def slow(*a):\n"
        "    for piece in pieces(*a):\n"
        "        print('started', flush=True); time.sleep(30); yield piece\n"
        "engine.in_one_piece = slow\n"
        "from stimpute.cli import main; main()"
    )
    target = tmp_path / "target"
    target.mkdir()
    command = [sys.executable, "-c", program, "fill", str(small), str(target / "out.nc"), "--method", "mean"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == b"started"
        time.sleep(0.1)
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
    assert running.returncode == code
    assert list(target.iterdir()) == []
    assert b"stimpute: error:" in said
    assert b"Traceback" not in said


def test_fast_fills_the_same_cells_and_says_so(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    stimpute("fill", small, tmp_path / "whole.nc", "--method", "st")
    stimpute("fill", small, tmp_path / "fast.nc", "--method", "st", "--fast")
    with xr.open_dataset(tmp_path / "whole.nc") as whole, xr.open_dataset(tmp_path / "fast.nc") as fast:
        assert "method st, fast" in fast.attrs["history"]
        assert "model" not in fast.attrs["history"]  # none spoke
        assert ", fast" not in whole.attrs["history"]
        name = next(iter(whole.data_vars))
        assert bool((whole[name].notnull() == fast[name].notnull()).all())
        assert bool((whole[name] != fast[name]).any())
