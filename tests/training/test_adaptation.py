"""Adapting a model to a stack: bounded windows of it, never worse on what was set aside, nothing left behind."""

from __future__ import annotations

import importlib
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stimpute.errors import InputError, ModelError
from stimpute.inference.memory import StackSource
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.pretrained import LoadedModel, load_model, save_checkpoint
from stimpute.stack import Stack
from stimpute.training import Archive, TrainProgress
from stimpute.training.adaptation import (
    MIN_SEEN,
    SIDE,
    STEPS,
    WINDOWS,
    AdaptOptions,
    adapt,
    adaptation_windows,
    fitted_shapes,
    read_archives,
)
from tests.training.test_loop import TINY, waves

QUICK = AdaptOptions(steps=4, shapes=((2, 6, 8, 8),))


@pytest.fixture
def start(tmp_path: Path) -> LoadedModel:
    """An untrained tiny model."""
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, STTransformer(TINY).state_dict(), TINY.to_dict(), training={}, scores={})
    return load_model(path)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; torch's compiler makes its own, once, when it is first loaded, elsewhere."""
    importlib.import_module("torch._inductor.runtime.cache_dir_utils").cache_dir()
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_better_weights_are_kept_and_leave_no_file(start: LoadedModel, temporary: Path) -> None:
    done = adapt(start, [waves()], replace(QUICK, steps=40, lr=3e-3, patience=40))
    assert done.kept
    assert done.summary is not None
    assert done.summary.start is not None
    assert done.summary.best is not None
    assert done.summary.best.mae < done.summary.start.mae
    assert done.optimism >= 1
    assert done.model.name == "tiny-adapted"
    assert done.model.sha256 != start.sha256
    assert done.model.card["training"]["from"]["sha256"] == start.sha256
    assert list(temporary.iterdir()) == []


def test_ruinous_training_keeps_the_start(start: LoadedModel, temporary: Path) -> None:
    done = adapt(start, [waves()], replace(QUICK, lr=1000.0))
    assert not done.kept
    assert done.model is start
    assert done.summary is not None
    assert done.summary.best == done.summary.start
    assert done.summary.card["scores"]["best_step"] == 0
    assert list(temporary.iterdir()) == []


def test_steps_are_reproducible(start: LoadedModel) -> None:
    options = replace(QUICK, lr=3e-3, patience=40)
    one, other = (adapt(start, [waves()], options).summary for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.card["sha256"] == other.card["sha256"]


def test_it_stops_early(start: LoadedModel) -> None:
    done = adapt(start, [waves()], replace(QUICK, steps=60, lr=1000.0, patience=1))
    assert done.summary is not None
    assert done.summary.stopped_early
    assert done.summary.steps < 60


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing(
    start: LoadedModel, temporary: Path, error: type[BaseException]
) -> None:
    def stop(now: TrainProgress) -> None:
        raise error

    with pytest.raises(error):
        adapt(start, [waves()], QUICK, stop)
    assert list(temporary.iterdir()) == []


def test_too_few_cells_are_left_alone(start: LoadedModel) -> None:
    few = Archive.from_array("few", np.where(np.arange(8 * 64).reshape(8, 8, 8) % 40 == 0, 1.0, np.nan))
    done = adapt(start, [few], QUICK)
    assert (done.kept, done.summary) == (False, None)
    assert done.model is start


def test_required_covariates_are_named(tmp_path: Path) -> None:
    config = ModelConfig.small(embed_dim=16, depth=1, num_heads=2, cell_dim=8, covariates=("rain",))
    path = tmp_path / "wet.safetensors"
    network = STTransformer(config).state_dict()
    save_checkpoint(path, network, config.to_dict(), training={}, scores={}, covariates=("rain",))
    with pytest.raises(ModelError, match="rain: give them with --covariate"):
        adapt(load_model(path), [waves()], QUICK)


def test_shapes_fit_several_archives() -> None:
    wide, long = (
        Archive.from_array("wide", np.ones((4, 60, 60))),
        Archive.from_array("long", np.ones((90, 9, 9))),
    )
    assert fitted_shapes([(1, 120, 16, 16), (2, 16, 80, 30)], [wide, long]) == (
        (1, 90, 16, 16),
        (2, 16, 60, 30),
    )


# --- what is read ----------------------------------------------------------------------------------------------------


def stack(shape: tuple[int, int, int], seen: np.ndarray | None = None) -> Stack:
    """Numbered cells with two covariates, observed where ``seen`` is true."""
    from stimpute.grid import Grid

    values = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    valid = np.ones(shape, dtype=bool) if seen is None else np.broadcast_to(seen, shape).copy()
    values[~valid] = 0
    days = np.arange(shape[0], dtype=np.float64)
    return Stack(
        values=values, valid=valid, times=days, grid=Grid.from_shape(*shape[1:]), year_phase=days / 365.2425 % 1,
        day_phase=days % 1, dynamic={"rain": values.copy()}, static={"height": values[0].copy()},
    )  # fmt: skip


def test_a_small_stack_is_read_whole_with_its_covariates() -> None:
    (archive,) = read_archives(StackSource(stack((5, 6, 7)), "sst"))
    assert archive.name == "sst"
    assert archive.shape == (5, 6, 7)
    assert set(archive.dynamic) == {"rain"}
    assert set(archive.static) == {"height"}


def test_a_large_stack_is_read_in_disjoint_windows() -> None:
    archives = read_archives(StackSource(stack((12, 220, 300))), cells=240_000)
    assert len(archives) == WINDOWS
    numbers = np.concatenate([a.values.ravel() for a in archives])
    assert len(np.unique(numbers)) == numbers.size
    assert numbers.size < 300_000
    assert all(min(a.shape[1:]) >= SIDE // 2 for a in archives)
    assert all(np.array_equal(a.values, a.dynamic["rain"]) for a in archives)


def test_covariates_make_windows_smaller() -> None:
    plain = adaptation_windows((10, 200, 200), 400_000)
    assert len(plain) == 1
    (first, *_) = read_archives(StackSource(stack((10, 200, 200))), cells=400_000)
    assert first.shape != (10, 200, 200)


@pytest.mark.parametrize("shape", [(10, 333, 517), (3000, 90, 4), (1, 2000, 2000), (2000, 1, 9000)])
def test_windows_cover_every_cell_once(shape: tuple[int, int, int]) -> None:
    covered = np.zeros([-(-n // 4) for n in shape], dtype=int)  # every fourth cell
    windows = adaptation_windows(shape, 300_000)
    for window in windows:
        t, y, x = (slice(-(-a // 4), -(-b // 4)) for a, b in (window.time, window.y, window.x))
        covered[t, y, x] += 1
    assert (covered == 1).all()
    assert max(w.shape[0] for w in windows) <= STEPS


def test_windows_without_observations_are_passed_over() -> None:
    seen = np.zeros((220, 300), dtype=bool)
    seen[:60, :60] = True
    archives = read_archives(StackSource(stack((12, 220, 300), seen)), cells=240_000)
    assert 1 <= len(archives) < WINDOWS
    assert all(a.valid.sum() >= MIN_SEEN for a in archives)


def test_a_single_observed_cell_is_found() -> None:
    seen = np.zeros((220, 300), dtype=bool)
    seen[217, 3] = True
    (archive,) = read_archives(StackSource(stack((12, 220, 300), seen)), cells=240_000)
    assert archive.valid.sum() == 12


def test_nothing_observed() -> None:
    with pytest.raises(InputError, match="nothing observed"):
        read_archives(StackSource(stack((3, 4, 5), np.zeros((4, 5), dtype=bool))))


def test_a_run_that_diverges_leaves_the_start(start: LoadedModel, temporary: Path) -> None:
    done = adapt(start, [waves()], replace(QUICK, steps=60, lr=float("inf")))
    assert done.diverged
    assert not done.kept
    assert done.model is start
    assert list(temporary.iterdir()) == []
