"""The benchmark of forecasts: its tables, training on the first part, and what one pass costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import forecast

from stimpute.protocols import Layer
from stimpute.stack import Stack


@pytest.fixture
def small(monkeypatch):
    """A case of 60 hours on 5 x 6 cells, and what was asked of it."""
    hours = np.arange(60) / 24
    rng = np.random.default_rng(0)
    values = np.sin(2 * np.pi * hours)[:, None, None] + 0.3 * rng.normal(size=(60, 5, 6)).cumsum(axis=0)
    stack = Stack.from_array(values.astype("f4"), times=hours, day_phase=hours % 1)
    layer = Layer("v", "v", {}, stack.shape, np.dtype("f4"), "K")
    asked = []

    def stack_of(data, case, thin=1):
        asked.append((case, thin))
        return stack, layer, 3

    monkeypatch.setattr(forecast, "stack_of", stack_of)
    return asked


def test_skill_prints_a_row_for_every_method_with_its_error_over_the_best_baseline(small, capsys):
    assert (
        forecast.main(["skill", "unused", "--quick", "--cases", "era5", "--methods", "blend,persistence,ar"])
        == 0
    )
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["method", "blend", "persistence", "ar"]
    errors = {row[0].strip(): float(row[1]) for row in rows[1:]}
    ratio = float(rows[1][6])
    assert ratio == pytest.approx(errors["blend"] / min(errors["persistence"], errors["ar"]), abs=2e-3)
    assert small == [("era5", 2)]


def test_training_sees_the_first_part_only(small, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    given = ["train", "unused", "era5", "-o", str(out), "--minutes", "0.0001", "--sides", "2,4"]
    assert forecast.main(given) == 0
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["training"]["archives"][0]["shape"][0] == 42  # of 60 hours
    assert card["config"]["sides"] == [2, 4]
    assert "error / blend" in capsys.readouterr().out


def test_one_pass_prints_seconds_and_memory(capsys):
    for kind in ("balanced", "full"):
        assert forecast.main(["scaling", "--one", f"12,{kind}"]) == 0
        seconds, memory = map(float, capsys.readouterr().out.split())
        assert seconds > 0
        assert memory >= 0


def test_exponents_are_those_between_neighbours():
    assert forecast.exponent(4.0, 1.0, 1024, 256) == pytest.approx(1.0)
    assert forecast.exponent(16.0, 1.0, 1024, 256) == pytest.approx(2.0)


def test_scales_compares_growing_parts_with_parts_of_one_size_on_the_same_origins(small, capsys):
    asked = [
        "scales",
        "unused",
        "--cases",
        "era5",
        "--examples",
        "1",
        "--judged",
        "1",
        "--steps",
        "2",
        "--seeds",
        "1",
    ]
    assert forecast.main(asked) == 0
    row = capsys.readouterr().out.splitlines()[-1].split("|")[1:-1]
    assert row[0].strip() == "era5"
    growing, one, ratio = (float(cell.split()[0]) for cell in row[1:])
    assert 0.5 < growing < 2
    assert ratio == pytest.approx(growing / one, abs=2e-4)


def test_intervals_prints_what_was_held_on_every_piece_and_their_mean(small, monkeypatch, capsys):
    stack, layer, _ = forecast.stack_of(Path(), "era5")
    monkeypatch.setattr(forecast, "piece_of", lambda data, *where: (stack, layer))
    monkeypatch.setattr(
        forecast, "SHORT", {"some": {"a": ("f", "", 0, 60, 1, 3), "b": ("f", "", 0, 60, 1, 4)}}
    )
    assert forecast.main(["intervals", "unused", "--groups", "some", "--method", "persistence"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["series", "a", "b", "mean, and mean distance from 90 %"]
    held = [float(row[5].strip(" %")) for row in rows[1:3]]
    assert float(rows[3][5].split("%")[0]) == pytest.approx(np.mean(held), abs=0.11)


def test_a_piece_is_some_steps_and_every_so_manieth_cell(tmp_path):
    import xarray as xr

    (tmp_path / "complete_fields").mkdir()
    values = np.arange(20 * 6 * 8, dtype="f4").reshape(20, 6, 8)
    axes = {"time": np.arange(20, dtype="f8"), "lat": np.arange(6.0), "lon": np.arange(8.0)}
    field = xr.DataArray(values, axes, ("time", "lat", "lon"), "v")
    field["time"].attrs["units"] = "days since 2000-01-01"
    field.to_dataset().to_netcdf(tmp_path / "complete_fields" / "f.nc")
    stack, layer = forecast.piece_of(tmp_path, "f", "v", 5, 10, 2)
    assert layer.name == "v"
    np.testing.assert_array_equal(stack.values, values[5:15, ::2, ::2])
