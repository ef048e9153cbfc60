"""`--adapt` and interrupted training through the real command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

import stimpute as package
from stimpute.errors import StimputeWarning
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.pretrained import save_checkpoint

TINY = ModelConfig.small(embed_dim=16, depth=1, num_heads=2, cell_dim=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An untrained tiny model, so that these tests take seconds."""
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, STTransformer(TINY).state_dict(), TINY.to_dict(), training={}, scores={})
    return path


def test_fill_adapts_and_tells(stimpute: Callable, small: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    done = stimpute("fill", small, out, "--model", model, "--adapt", "3steps", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    told = summary["adaptation"]
    assert (told["start"], told["steps"], told["windows"], told["cells"]) == ("tiny", 3, 1, 8 * 16 * 18)
    assert told["error_after"] <= told["error_before"]
    assert told["minutes"] > 0
    assert told["kept"] == (told["error_after"] < told["error_before"]) == (told["best_step"] > 0)
    assert summary["model"] == ("tiny-adapted" if told["kept"] else "tiny")
    assert (summary["model_sha256"] != told["start_sha256"]) == told["kept"]
    assert "tiny adapted, 3 steps" in done.err or "tiny not adapted: 3 steps" in done.err
    assert stimpute("verify", small, out).code == 0
    with xr.open_dataset(out) as after, xr.open_dataset(small) as before:
        assert f"{told['start_sha256']}" in after.attrs["history"]
        assert "3 steps in" in after.attrs["history"]
        seen = np.isfinite(before["sst"].to_numpy())
        np.testing.assert_array_equal(after["sst"].to_numpy()[seen], before["sst"].to_numpy()[seen])


def test_python_takes_minutes_and_covariates(small: Path, model: Path) -> None:
    with xr.open_dataset(small) as stack:
        loaded = stack.load()
    both = loaded.assign(height=loaded["sst"].mean("time"))
    filled = package.fill(both, var="sst", model=str(model), adapt=0.01, device="cpu")
    assert np.isfinite(filled["sst"].to_numpy()).all()
    assert " min" in filled.attrs["history"]


def test_too_few_cells_are_filled_with_the_model_as_it_is(
    write_netcdf: Callable, model: Path, tmp_path: Path
) -> None:
    values = np.full((4, 8, 8), np.nan, dtype=np.float32)
    values[::2, ::3, ::3] = 15 + np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    path = write_netcdf(values)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        summary = package.fill(path, tmp_path / "out.nc", model=str(model), adapt=5, device="cpu")
    assert any("too few observed cells" in str(w.message) for w in caught)
    assert (summary.adaptation.steps, summary.adaptation.kept) == (0, False)
    assert summary.adaptation.error_before is None


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "soon", "0steps"])
def test_a_budget_is_above_zero(stimpute: Callable, tmp_path: Path, budget: str) -> None:
    done = stimpute("fill", tmp_path / "absent.nc", tmp_path / "out.nc", f"--adapt={budget}")
    assert done.code == 2
    assert f"--adapt {budget}" in done.err
    assert done.errors


def test_only_the_network_adapts(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    done = stimpute("fill", small, tmp_path / "out.nc", "--method", "linear", "--adapt", "2")
    assert done.code == 2
    assert "--method st" in done.err
    done = stimpute("evaluate", small, "--methods", "linear,mean", "--adapt", "2")
    assert done.code == 2
    assert "without method st" in done.err


def test_dry_run_says_so_and_does_nothing(
    stimpute: Callable, small: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stimpute.training.loop.run_training", None)
    arguments = ("fill", small, tmp_path / "out.nc", "--model", model, "--adapt", "2", "--dry-run")
    done = stimpute(*arguments)
    assert done.code == 0, done.err
    assert "adapt: 2 min of training on the whole stack (sst)" in done.out
    assert "2 min" in json.loads(stimpute(*arguments, "--json").out)["adaptation"]


def test_evaluate_scores_before_and_after(stimpute: Callable, small: Path, model: Path) -> None:
    arguments = ("evaluate", small, "--methods", "linear,st", "--model", model, "--adapt", "2steps")
    done = stimpute(*arguments, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    board = json.loads(done.out)
    assert [row["method"] for row in board["rows"]] == ["linear", "st", "st+adapt"]
    assert all(row["scores"]["n"] == board["rows"][0]["scores"]["n"] for row in board["rows"])
    assert "2 steps" in board["rows"][2]["note"]
    alone = board["rows"][1]["scores"]["mae"] / board["rows"][0]["scores"]["mae"]
    assert board["ratio_to_best_other"]["st"] == pytest.approx(alone)  # against linear, not against itself


def interrupted(program: str, *arguments: str | Path, folder: Path) -> tuple[int, bytes]:
    """Exit code and stderr of a command line that is interrupted once it prints ``started``."""
    command = [sys.executable, "-c", program, *(str(a) for a in arguments)]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == b"started"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    return running.returncode, said


PROGRAM = (
    "import stimpute.training.loop as loop, time\n"
    "step = loop.Run.step\n"
    "def slow(run, fraction):\n"
    "    if run.state.step == 2:\n"
    "        print('started', flush=True); time.sleep(30)\n"
    "    return step(run, fraction)\n"
    "loop.Run.step = slow\n"
    "from stimpute.cli import main; main()"
)


def test_an_interrupted_adaptation_leaves_nothing(small: Path, model: Path, tmp_path: Path) -> None:
    temporary, target = tmp_path / "temporary", tmp_path / "target"
    temporary.mkdir()
    target.mkdir()
    given = ("fill", small, target / "out.nc", "--model", model, "--adapt", "9steps", "--device", "cpu")
    code, said = interrupted(PROGRAM, *given, folder=temporary)
    assert code == 130, said.decode()
    assert list(target.iterdir()) == []
    assert [p.name for p in temporary.iterdir() if p.name.startswith("stimpute")] == []


def test_interrupted_training_says_how_to_resume(
    stimpute: Callable, small: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    given = ("train", small, "-o", out, "--from", model, "--steps", "4", "--batch", "1", "--device", "cpu")
    code, said = interrupted(PROGRAM, *given, folder=tmp_path)
    assert code == 130, said.decode()
    assert b"--resume goes on from there" in said
    assert not out.exists()
    done = stimpute(*given, "--resume", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 4


def test_resume_without_anything_to_resume_warns(small: Path, model: Path, tmp_path: Path) -> None:
    from stimpute import api

    with pytest.warns(StimputeWarning, match="no interrupted run of .*mine.safetensors.* from the beginning"):
        api.train(
            small, tmp_path / "mine.safetensors", start=model, steps=1, batch=1, device="cpu", resume=True
        )


def test_an_interrupted_fill_goes_on_with_the_weights_it_had_adapted(
    stimpute: Callable, small: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stimpute.api import learning
    from stimpute.inference import engine

    out = tmp_path / "out.nc"
    given = ("fill", small, out, "--model", model, "--adapt", "2steps", "--device", "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(engine, "survey_layer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert stimpute(*given).code == 130
    kept = tmp_path / "out.nc.stimpute-partial" / "adapted"
    assert json.loads((kept / "adaptation.json").read_text())["adaptation"]["steps"] > 0
    with monkeypatch.context() as patched:
        patched.setattr(learning, "adapt_method", None)
        done = stimpute(*given, "--resume")
    assert done.code == 0, done.err
    assert not kept.parent.exists()
    whole = tmp_path / "whole.nc"
    assert stimpute(*given[:2], whole, *given[3:]).code == 0
    with netCDF4.Dataset(out) as one, netCDF4.Dataset(whole) as other:
        for name in one.variables:
            np.testing.assert_array_equal(one[name][:], other[name][:])
        weights = [re.search(r"model \S+ sha256 \w+", file.history) for file in (one, other)]
        assert weights[0]
        assert weights[1]
        assert weights[0][0] == weights[1][0]
