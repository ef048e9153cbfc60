"""`stimpute forecast` on real files: what comes out, and what is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
import xarray as xr

from stimpute.api import forecast
from stimpute.api.forecasting import METHODS
from stimpute.cli import run
from stimpute.errors import UsageError


def write(path, steps=40, missing=0.1, shape=(5, 6), times=None, name="v"):
    rng = np.random.default_rng(0)
    when = (
        np.datetime64("2020-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
        if times is None
        else times
    )
    values = rng.normal(size=(steps, *shape)).cumsum(axis=0).astype(np.float32) + 280
    values[rng.random(values.shape) < missing] = np.nan
    values[:, 0, 0] = np.nan
    coords = {"time": when, "lat": ("lat", np.arange(shape[0]) * 0.5, {"units": "degrees_north"}),
              "lon": ("lon", np.arange(shape[1]) * 0.5, {"units": "degrees_east"})}  # fmt: skip
    xr.Dataset({name: (("time", "lat", "lon"), values, {"units": "K"})}, coords).to_netcdf(path)
    return path


def said(capsys):
    return capsys.readouterr().err


def test_the_next_steps_come_out_with_errors_and_quantiles(tmp_path, capsys):
    path, out = write(tmp_path / "in.nc"), tmp_path / "out.nc"
    code = run(
        [
            "forecast",
            str(path),
            str(out),
            "--steps",
            "3",
            "--method",
            "blend",
            "--quantiles",
            "0.1,0.9",
            "--json",
        ]
    )
    assert code == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["layers"][0]["refused"] == 1
    made = xr.open_dataset(out)
    assert made.time.values.astype("M8[D]").astype(str).tolist() == ["2020-02-10", "2020-02-11", "2020-02-12"]
    assert np.isnan(made.v[:, 0, 0]).all()
    assert int(made.v.notnull().sum()) == 3 * 29
    known = made.v.notnull()
    assert bool((made.v_q10 < made.v).where(known, True).all())
    assert bool((made.v_q90 > made.v).where(known, True).all())
    assert "stimpute forecast" in made.attrs["history"]


@pytest.mark.parametrize("method", ["blend", "persistence"])
def test_cells_outside_the_domain_are_no_refused_ones(tmp_path, capsys, method):
    path = write(tmp_path / "in.nc")
    inside = xr.open_dataset(path).v[0].fillna(1).drop_vars("time").copy()
    inside[:], inside[-1] = 1, 0
    inside.rename("inside").to_netcdf(tmp_path / "domain.nc")
    given = ["forecast", str(path), str(tmp_path / "out.nc"), "--steps", "2", "--method", method]
    assert run([*given, "--domain", str(tmp_path / "domain.nc"), "--json"]) == 0
    out, err = capsys.readouterr()
    layer = json.loads(out)["layers"][0]
    assert (layer["cells"], layer["refused"], layer["outside_domain"]) == (23, 1, 6)
    assert "1 never observed in the 40 steps looked back on, 6 outside the domain" in err
    assert bool(xr.open_dataset(tmp_path / "out.nc").v[:, -1].isnull().all())


@pytest.fixture
def waves(tmp_path):
    """Waves that pass over 40 x 150 cells, of which a third was never observed."""
    steps, rows, columns = np.ogrid[:66, :40, :150]
    values = np.sin(columns / 9 + steps / 4) + np.cos(rows / 7 - steps / 5)
    days = np.datetime64("2020-01-01", "ns") + np.arange(66) * np.timedelta64(1, "D")
    truth = xr.DataArray(values, dims=("time", "y", "x"), coords={"time": days}, name="v").astype("f4")
    seen = np.random.default_rng(0).random(truth.shape) < 0.8
    truth.isel(time=slice(60)).where(seen[:60]).where(truth.x < 100).to_netcdf(tmp_path / "waves.nc")
    return tmp_path / "waves.nc", truth.isel(time=slice(60, None)).values


@pytest.mark.parametrize("method", ["blend", "persistence"])
def test_pieces_forecast_what_the_whole_forecasts(tmp_path, capsys, waves, method):
    path, truth = waves
    found = []
    for memory in ("8GB", "10MB"):
        out = tmp_path / f"{memory}.nc"
        given = ["forecast", str(path), str(out), "--steps", "6", "--method", method, "--memory", memory]
        assert run([*given, "--quantiles", "0.1", "--json"]) == 0, said(capsys)
        summary = json.loads(capsys.readouterr().out)["layers"][0]
        assert summary["looked_back"] == 60
        assert summary["cells"] == 40 * 100
        assert len(summary["expected_error"]) == 6
        found.append(xr.open_dataset(out).load())
    whole, pieces = found
    for name in ("v", "v_standard_error", "v_q10"):
        np.testing.assert_array_equal(np.isfinite(whole[name]), np.isfinite(pieces[name]))
        assert bool(np.isfinite(pieces[name][..., :100]).all())
    errors = [float(np.abs(data.v - truth).mean()) for data in found]
    if method == "persistence":
        np.testing.assert_allclose(whole.v, pieces.v, atol=1e-5)
    else:
        assert 0 < float(np.abs(whole.v - pieces.v).mean()) < 0.2 * truth.std()
        assert errors[1] < 1.2 * errors[0] + 0.05


def test_a_stack_of_which_nothing_was_observed_is_refused_in_pieces_too(tmp_path, capsys, waves):
    path, _ = waves
    nothing = tmp_path / "nothing.nc"
    xr.open_dataset(path).where(False).to_netcdf(nothing)
    out = tmp_path / "out.nc"
    assert (
        run(["forecast", str(nothing), str(out), "--steps", "3", "--method", "blend", "--memory", "10MB"])
        == 1
    )
    assert "nothing observed" in said(capsys)
    assert not out.exists()


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
@pytest.mark.parametrize("memory", [None, "2MB"])
def test_what_was_observed_below_a_bound_is_forecast_there(waves, memory):
    path, _ = waves
    stack = xr.open_dataset(path).load()
    stack.v.attrs["standard_name"] = "surface_albedo"
    made = forecast(stack, steps=3, method="persistence", memory=memory).v
    assert float(made.min()) < -0.5
    made = forecast(np.abs(stack), steps=3, method="dlinear", memory=memory).v
    assert float(made.min()) >= 0


def test_what_lies_before_a_long_hole_is_looked_back_on_however_long_the_hole(tmp_path, capsys):
    days = np.r_[0:40, 3040:3080] * np.timedelta64(1, "D")
    path = write(tmp_path / "in.nc", steps=80, shape=(9, 9), times=np.datetime64("2010-01-01", "ns") + days)
    given = ["forecast", str(path), str(tmp_path / "out.nc"), "--steps", "3", "--method", "blend"]
    assert run([*given, "--memory", "5MB", "--json"]) == 0  # some 380 slots of 81 cells
    assert json.loads(capsys.readouterr().out)["layers"][0]["looked_back"] > 100


def test_a_long_hole_is_no_past_to_go_on_from(tmp_path, capsys):
    days = np.r_[0:40, 3040:3080] * np.timedelta64(1, "D")
    path = write(tmp_path / "in.nc", steps=80, times=np.datetime64("2010-01-01", "ns") + days)
    assert run(["forecast", str(path), str(tmp_path / "out.nc"), "--steps", "1000", "--method", "blend"]) == 1
    assert "too few to forecast 1000" in said(capsys)
    assert not (tmp_path / "out.nc").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_that_is_offered_forecasts(tmp_path, method):
    made = forecast(write(tmp_path / "in.nc"), steps=2, method=method)
    assert int(made.v.notnull().sum()) == 2 * 29


def test_every_guess_is_offered_and_help_names_all_methods():
    from stimpute.cli import app
    from stimpute.forecasting.guesses import Guesses

    assert ("sba", "blend", *(name.replace(" ", "-") for name in Guesses.names)) == METHODS
    (option,) = (p for p in typer.main.get_command(app).commands["forecast"].params if p.name == "method")
    assert option.metavar.split("|") == list(METHODS)


def test_every_method_that_is_offered_is_scored(tmp_path, capsys):
    arguments = [
        "--task",
        "forecast",
        "--steps",
        "2",
        "--origins",
        "2",
        "--methods",
        ",".join(METHODS),
        "--json",
    ]
    assert run(["evaluate", str(write(tmp_path / "in.nc")), *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in rows if row["scores"]] == list(METHODS)


def test_a_method_without_a_spread_writes_none(tmp_path):
    path, out = write(tmp_path / "in.nc"), tmp_path / "out.nc"
    assert run(["forecast", str(path), str(out), "--steps", "3", "--method", "ar"]) == 0
    assert "v_standard_error" not in xr.open_dataset(out)


def test_steps_may_be_numbers_of_numpy(tmp_path):
    path = write(tmp_path / "in.nc")
    made = forecast(path, steps=np.int64(2), every=np.int64(1), method="persistence")
    assert made.v.shape[0] == 2


def test_a_month_to_go_is_a_calendar_month(tmp_path):
    times = np.array(
        ["2019-01", "2019-02", "2019-03", "2019-05", "2019-08", "2019-11", "2019-12", "2020-01"], "M8[M]"
    )
    times = (times.astype("M8[D]") + np.array([0, 3, 9, 1, 5, 0, 7, 4])).astype("M8[ns]")
    path, out = write(tmp_path / "in.nc", steps=8, times=times), tmp_path / "out.nc"
    assert (
        run(["forecast", str(path), str(out), "--steps", "2", "--method", "persistence", "--every", "1mo"])
        == 0
    )
    assert xr.open_dataset(out).time.values.astype("M8[D]").astype(str).tolist() == [
        "2020-02-05",
        "2020-03-05",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "nope"], 1, "nope: neither a model file"),
        (["--model", "reconstruct-x2"], 1, "not for fill"),
        (["--task", "forecast", "--model", "st-small"], 1, "not for forecast"),
        (["--task", "reconstruct", "--factor", "2", "--model", "nope"], 1, "nope: neither a model file"),
        (
            ["--task", "reconstruct", "--factor", "3", "--methods", "diffrecon"],
            1,
            "no method could be scored",
        ),
        (["--task", "reconstruct", "--factor", "0"], 2, "--factor 0: 2 to"),
        (["--task", "reconstruct", "--factor", "2", "--samples", "0"], 2, "--samples 0: 2 to"),
        (["--task", "forecast", "--steps", "300"], 1, "lower --steps"),
    ],
)
def test_what_cannot_be_scored_is_an_error(tmp_path, capsys, arguments, code, words):
    assert run(["evaluate", str(write(tmp_path / "in.nc", shape=(12, 12))), *arguments]) == code
    assert words in said(capsys)


def test_an_output_is_not_replaced_unasked(tmp_path, capsys):
    path, out = write(tmp_path / "in.nc"), tmp_path / "out.nc"
    out.write_text("mine")
    assert run(["forecast", str(path), str(out), "--method", "blend"]) == 1
    assert "--overwrite" in said(capsys)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--steps", "0"], 2, "--steps 0: a whole number, at least 1"),
        (["--steps", "-3"], 2, "--steps -3"),
        (["--method", "wishful"], 2, "--method wishful"),
        (["--every", "0d"], 2, "--every"),
        (["--model", "st-small"], 1, "not for forecast"),
        (["--method", "blend", "--model", "x"], 2, "has no model"),
        (["--method", "ar", "--quantiles", "0.1"], 2, "--quantiles: method ar"),
        (["--steps", "60", "--method", "blend"], 1, "too few"),
    ],
)
def test_bad_wishes_are_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, arguments, code, words):
    path, out = write(tmp_path / "in.nc"), tmp_path / "out.nc"
    assert run(["forecast", str(path), str(out), *arguments]) == code
    text = said(capsys)
    assert words in text
    assert len(text.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["in.nc"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"missing": 1.1}, "nothing observed"),
        ({"steps": 1}, "one time step"),
        ({"steps": 5}, "too few"),
        ({"steps": 8, "times": np.datetime64("2020-01-01", "ns") + (np.array([0, 1.4, 3.9, 4.5, 7.8, 9.3, 11.75, 12.15]) * 86400).astype("m8[s]")}, "--every"),
    ],
)  # fmt: skip
def test_bad_stacks_are_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, more, words):
    path, out = write(tmp_path / "in.nc", **more), tmp_path / "out.nc"
    assert run(["forecast", str(path), str(out), "--steps", "3", "--method", "blend"]) == 1
    text = said(capsys)
    assert words in text
    assert "in.nc" in text
    assert [p.name for p in tmp_path.iterdir()] == ["in.nc"]


def test_covariates_that_no_forecaster_hears_of_are_refused(tmp_path, capsys):
    path = write(tmp_path / "in.nc")
    with pytest.raises(UsageError, match="--covariate: no forecaster"):
        forecast(path, steps=2, method="persistence", covariate=f"{path}:v")
    assert run(["evaluate", str(path), "--task", "forecast", "--covariate", f"{path}:v"]) == 2
    assert "--covariate: no forecaster" in said(capsys)


def test_stations_in_stations_out(tmp_path):
    rng = np.random.default_rng(1)
    coords = {
        "time": np.datetime64("2020-01-01", "ns") + np.arange(30) * np.timedelta64(1, "h"),
        "station": np.arange(7),
    }
    fields = {"v": (("time", "station"), rng.normal(size=(30, 7)), {"coordinates": "lon lat"}),
              "lon": ("station", rng.uniform(5, 6, 7), {"units": "degrees_east"}),
              "lat": ("station", rng.uniform(50, 51, 7), {"units": "degrees_north"})}  # fmt: skip
    xr.Dataset(fields, coords).to_netcdf(tmp_path / "in.nc")
    assert (
        run(
            [
                "forecast",
                str(tmp_path / "in.nc"),
                str(tmp_path / "out.nc"),
                "--steps",
                "2",
                "--method",
                "blend",
            ]
        )
        == 0
    )
    made = xr.open_dataset(tmp_path / "out.nc")
    assert made.v.dims == ("time", "station")
    assert made.v.shape == (2, 7)


def test_a_model_is_trained_evaluated_and_used(tmp_path, capsys):
    path, model = write(tmp_path / "in.nc", steps=60), tmp_path / "m.safetensors"
    trained = ["train", str(path), "--task", "forecast", "-o", str(model), "--steps", "2", "--horizon", "3", "--width", "16", "--depth", "2", "--worlds", "0"]  # fmt: skip
    assert run(trained) == 0
    assert json.loads(model.with_suffix(".json").read_text())["config"]["task"] == "forecast"
    assert run(["forecast", str(path), str(tmp_path / "out.nc"), "--steps", "3", "--model", str(model)]) == 0
    assert xr.open_dataset(tmp_path / "out.nc").v.shape == (3, 5, 6)
    capsys.readouterr()
    scored = ["evaluate", str(path), "--task", "forecast", "--steps", "3", "--origins", "2", "--model", str(model), "--methods", "sba,blend,ar,dlinear,persistence", "--json"]  # fmt: skip
    assert run(scored) == 0
    board = json.loads(capsys.readouterr().out)
    assert [r["method"] for r in board["rows"]] == ["sba", "blend", "ar", "dlinear", "persistence"]
    assert all(len(r["mae_by_lead"]) == 3 for r in board["rows"])
    assert run(["fill", str(path), str(tmp_path / "filled.nc"), "--model", str(model)]) == 1
    assert "not for fill" in said(capsys)


@pytest.mark.parametrize(
    "arguments",
    [["train", "-o", "m.safetensors", "--task", "forecast", "--attention", "msa"],
     ["train", "-o", "m.safetensors", "--task", "forecast", "--window", "0"],
     ["train", "-o", "m.safetensors", "--horizon", "3"],
     ["evaluate", "in.nc", "--task", "forecast", "--seeds", "3"],
     ["evaluate", "in.nc", "--task", "reconstruct", "--factor", "2", "--seeds", "3"],
     ["evaluate", "in.nc", "--origins", "3"],
     ["evaluate", "in.nc", "--task", "forecast", "--by", "length"]],
)  # fmt: skip
def test_options_of_the_other_task_are_refused(arguments, capsys):
    assert run(arguments) == 2
    assert "task" in said(capsys)


def test_a_horizon_of_no_step_is_refused(tmp_path, capsys):
    path = write(tmp_path / "in.nc", steps=60)
    out = str(tmp_path / "m.safetensors")
    assert run(["train", str(path), "-o", out, "--task", "forecast", "--horizon", "0"]) == 2
    assert "--horizon 0: at least 1" in said(capsys)


def test_small_memory_does_not_cut_the_past_shorter_than_the_horizon(tmp_path, capsys):
    path, out = write(tmp_path / "in.nc", steps=300, shape=(40, 40), missing=0.0), tmp_path / "out.nc"
    given = ["forecast", str(path), str(out), "--steps", "100", "--method", "persistence", "--memory", "5MB"]
    assert run([*given, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["layers"][0]["looked_back"] == 300
    assert run([*given[:4], "10", *given[5:], "--overwrite", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["layers"][0]["looked_back"] == 64
    assert "look back on 64 of 300 steps only; raise --memory" in captured.err
