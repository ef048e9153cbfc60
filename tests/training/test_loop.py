"""A run is the same run after an interruption, on one process or two, and never makes a model worse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from stimpute.errors import DeviceError, ModelError, OutputError
from stimpute.model.config import ModelConfig
from stimpute.pretrained import load_model
from stimpute.training import Archive, FeedOptions, TrainOptions, TrainProgress, loop, run_training

TINY = ModelConfig.small(embed_dim=16, depth=1, num_heads=2, cell_dim=8)
FEED = FeedOptions(shapes=((2, 6, 8, 8), (2, 4, 12, 8)), world_share=0.5)


def waves(seed: int = 0, missing: float = 0.4) -> Archive:
    """A travelling wave with clouds."""
    generator = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(20), np.arange(16), np.arange(18), indexing="ij")
    values = 290 + 5 * np.sin(t / 4 + y / 5) + np.cos(x / 3) + 0.1 * generator.standard_normal(t.shape)
    clouds = np.repeat(np.repeat(generator.random((20, 4, 6)), 4, axis=1), 3, axis=2) < missing
    return Archive.from_array("waves", np.where(clouds, np.nan, values))


def showers() -> Archive:
    """Mostly exact zeros, no two cells alike: the best guess is zero, where every candidate says the mean."""
    generator = np.random.default_rng(0)
    values = np.maximum(generator.standard_normal((20, 16, 18)) - 0.8, 0)
    return Archive.from_array("showers", np.where(generator.random(values.shape) < 0.3, np.nan, values))


def options(out: Path, **changes: object) -> TrainOptions:
    given: dict[str, object] = {
        "model": TINY, "steps": 6, "feed": FEED, "device": "cpu", "val_examples": 1, "val_steps": 3, "save_steps": 1,
        "storage": "float32", "lr": 3e-3,
    }  # fmt: skip
    return TrainOptions(out, **{**given, **changes})  # type: ignore[arg-type]


class KilledError(Exception):
    """What a progress callback raises in the middle of a run."""


def kill_after(steps: int) -> object:
    def progress(now: TrainProgress) -> None:
        if now.step == steps:
            raise KilledError

    return progress


@pytest.mark.parametrize("reuse", [1, 2])
def test_resumed_run_is_the_same_run(tmp_path: Path, reuse: int) -> None:
    whole = options(tmp_path / "whole.safetensors", reuse=reuse, keep_state=True)
    run_training(whole, [waves()])
    cut = options(tmp_path / "cut.safetensors", reuse=reuse, keep_state=True)
    with pytest.raises(KilledError):
        run_training(cut, [waves()], kill_after(3))  # type: ignore[arg-type]
    assert not cut.out.exists()
    summary = run_training(options(cut.out, reuse=reuse, keep_state=True, resume=True), [waves()])
    assert summary.steps == 6
    one, other = (safetensors.torch.load_file(o.state_path) for o in (whole, cut))
    assert set(one) == set(other)
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert differing == []


@pytest.mark.parametrize(("within", "step"), [("example", 3), ("update_average", 2), ("validate", 3)])
def test_interrupted_before_anything_was_saved_it_resumes_into_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str, step: int
) -> None:
    never: dict[str, object] = {"save_steps": None, "save_seconds": 1e9, "keep_state": True}
    whole = options(tmp_path / "whole.safetensors", **never)
    run_training(whole, [waves()])
    cut = options(tmp_path / "cut.safetensors", **never)
    original = getattr(loop.Run, within)

    def interrupted(run: loop.Run, *given: object) -> object:
        if run.state.step == step:
            signal.raise_signal(signal.SIGINT)
        return original(run, *given)

    monkeypatch.setattr(loop.Run, within, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_training(cut, [waves()])
    monkeypatch.setattr(loop.Run, within, original)
    assert cut.state_path.exists()
    assert not cut.out.exists()
    run_training(options(cut.out, resume=True, **never), [waves()])
    one, other = (safetensors.torch.load_file(o.state_path) for o in (whole, cut))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_an_archive_too_small_to_validate_on_trains_all_the_same(tmp_path: Path) -> None:
    tiny = Archive.from_array("tiny", waves().values[:3, :4, :5])
    summary = run_training(
        options(tmp_path / "m.safetensors", steps=2, feed=FeedOptions(FEED.shapes, world_share=0.0)), [tiny]
    )
    assert summary.best is None
    assert (tmp_path / "m.safetensors").exists()


def test_interrupted_run_in_the_way_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run_training(options(tmp_path / "m.safetensors"), [waves()], kill_after(1))  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="--resume"):
        run_training(options(tmp_path / "m.safetensors"), [waves()])


def test_resume_with_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run_training(options(tmp_path / "m.safetensors"), [waves()], kill_after(1))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="seed 0, this one has 5"):
        run_training(options(tmp_path / "m.safetensors", seed=5, resume=True), [waves()])


def test_what_is_saved_is_loaded_and_described(tmp_path: Path) -> None:
    summary = run_training(options(tmp_path / "m.safetensors"), [waves()])
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.config == TINY
    assert not loaded.network.training
    assert loaded.card["training"]["archives"][0]["name"] == "waves"
    assert loaded.card["training"]["steps"] == 6
    assert summary.best is not None
    assert loaded.card["scores"]["best"]["vs_best"] == summary.best.vs_best
    events = [json.loads(line)["event"] for line in (tmp_path / "m.log.jsonl").read_text().splitlines()]
    assert events[0] == "start"
    assert events[-1] == "end"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.log.jsonl", "m.safetensors"]


def test_fine_tuning_keeps_its_start_unless_better(tmp_path: Path) -> None:
    run_training(options(tmp_path / "first.safetensors", steps=2), [waves()])
    ruinous = options(
        tmp_path / "second.safetensors",
        start=tmp_path / "first.safetensors",
        lr=10.0,
        average=0.0,
        warmup=0.0,
    )
    summary = run_training(ruinous, [waves()])
    assert summary.start is not None
    assert summary.best is not None
    assert summary.best.vs_best <= summary.start.vs_best
    first, second = (
        load_model(tmp_path / f"{n}.safetensors").network.state_dict() for n in ("first", "second")
    )
    if summary.best == summary.start:
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_learns_what_no_candidate_knows(tmp_path: Path) -> None:
    feed = FeedOptions(shapes=((4, 8, 12, 12),), world_share=0.0, augment="none")
    summary = run_training(
        options(tmp_path / "m.safetensors", steps=40, feed=feed, average=0.9, val_steps=20, val_examples=3),
        [showers()],
    )
    assert summary.start is not None
    assert summary.best is not None
    assert summary.best.vs_prior < 0.9 * summary.start.vs_prior
    assert summary.best.vs_best < 0.9


def test_learns_a_wave(tmp_path: Path) -> None:
    feed = FeedOptions(shapes=((4, 8, 12, 12),), world_share=0.0, augment="none")
    alone = ModelConfig.small(
        embed_dim=16, depth=1, num_heads=2, cell_dim=8, head="direct"
    )  # without any candidates
    summary = run_training(
        options(
            tmp_path / "m.safetensors", model=alone, steps=60, feed=feed, average=0.9, val_steps=30, val_examples=3
        ),
        [waves()],
    )  # fmt: skip
    assert summary.start is not None
    assert summary.best is not None
    assert summary.best.mae < 0.8 * summary.start.mae


def test_archives_never_trained_on_are_validated_by_name(tmp_path: Path) -> None:
    away = Archive.from_array("away", waves(9).values[:, :14])
    summary = run_training(options(tmp_path / "m.safetensors", steps=1), [waves()], validation=[away])
    assert summary.best is not None
    assert set(summary.best.groups) == {"away", "waves", "worlds"}
    assert [a["name"] for a in summary.card["training"]["archives"]] == ["waves"]


def test_patience_stops_early(tmp_path: Path) -> None:
    summary = run_training(
        options(tmp_path / "m.safetensors", lr=1e-12, steps=30, val_steps=1, patience=2), [waves()]
    )
    assert summary.stopped_early
    assert summary.steps < 30


def test_minutes_are_a_budget(tmp_path: Path) -> None:
    summary = run_training(
        options(tmp_path / "m.safetensors", steps=None, minutes=0.02, val_steps=100), [waves()]
    )
    assert 0.02 <= summary.minutes < 0.2


def test_fixed_covariates_and_grid(tmp_path: Path) -> None:
    plain = waves()
    archive = Archive.from_array(
        "grid",
        plain.values,
        dynamic={"rain": np.nan_to_num(plain.values)},
        static={"height": plain.values[0]},
    )
    config = ModelConfig.small(
        embed_dim=16,
        depth=1,
        num_heads=2,
        cell_dim=8,
        covariates=("rain", "height"),
        spatial_embedding=(16, 18),
    )
    run_training(options(tmp_path / "m.safetensors", model=config, steps=2), [archive])
    assert load_model(tmp_path / "m.safetensors").covariates_required == ("rain", "height")


def test_bfloat16_trains(tmp_path: Path) -> None:
    summary = run_training(options(tmp_path / "m.safetensors", steps=2, precision="bf16"), [waves()])
    assert summary.best is not None
    assert np.isfinite(summary.best.mae)


def test_direct_head_trains_without_candidates(tmp_path: Path) -> None:
    config = ModelConfig.paper(embed_dim=16, depth=1, num_heads=2, cell_dim=8)
    summary = run_training(options(tmp_path / "m.safetensors", model=config, steps=2), [waves()])
    assert summary.best is not None


def test_absent_device(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(DeviceError, match="--device cpu"):
        run_training(options(tmp_path / "m.safetensors", device="cuda"), [waves()])


SCRIPT = """
import sys
from pathlib import Path
import safetensors.torch, torch
sys.path.insert(0, sys.argv[2])
from test_loop import options, waves
from stimpute.training import loop
torch.set_num_threads(1)
folder = Path(sys.argv[1])
made = []
class Kept(loop.Run):
    def __init__(self, *a):
        super().__init__(*a)
        made.append(self)
loop.Run = Kept
summary = loop.run_training(options(folder / "m.safetensors", steps=3), [waves()])
rank = made[0].ranks.rank
assert made[0].ranks.size == 2
state = {k: v.contiguous() for k, v in made[0].network.state_dict().items()}
safetensors.torch.save_file(state, folder / f"rank{rank}.weights")
"""


def test_two_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "0",
        "--standalone",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(
        [*command, str(script), str(tmp_path), str(Path(__file__).parent)],
        capture_output=True, text=True, env=environment, timeout=400, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    one, other = (safetensors.torch.load_file(tmp_path / f"rank{r}.weights") for r in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    events = [json.loads(line) for line in (tmp_path / "m.log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events].count("start") == 1
    assert [e["event"] for e in events].count("end") == 1
    assert events[0]["ranks"] == 2
