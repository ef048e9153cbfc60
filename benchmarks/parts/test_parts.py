"""How long the parts take, one by one: variogram, tiling, blend, candidates, model, engine.

Times compare states of the code on one machine (`--benchmark-autosave`, then `--benchmark-compare`); they are no tests.
Needs the extra ``bench``. Sizes are those of one tile of a month of daily images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stimpute.baselines.averages import MeanMethod
from stimpute.calibration import Calibration, distance_to_data
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.methods import open_method
from stimpute.inference.options import FillOptions
from stimpute.model.batch import Batch
from stimpute.model.candidates import compute_candidates
from stimpute.stack import Stack
from stimpute.synthetic.draw import Draw
from stimpute.synthetic.spectral import Covariance, random_field
from stimpute.tiling import blend_weights, plan_tiles, tiles
from stimpute.variography import analyse

STEPS, SIDE = 31, 96
Timer = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def stack_of(steps: int, side: int) -> Stack:
    """A smooth field, two fifths of it under clouds as large as its correlation is long."""
    draw = Draw(torch.Generator().manual_seed(0))
    times = torch.arange(steps, dtype=torch.float32)[None]
    field = random_field(draw, Covariance.isotropic(1, 8.0, 1.0, 3.0), times, (side, side))[0].numpy()
    clouds = random_field(draw, Covariance.isotropic(1, 8.0, 1.0), times, (side, side))[0].numpy()
    return Stack.from_array(field, clouds > np.quantile(clouds, 0.4))


@pytest.fixture(scope="module")
def stack() -> Stack:
    return stack_of(STEPS, SIDE)


@pytest.fixture(scope="module")
def tile(stack: Stack) -> tuple[Any, Batch]:
    """The shipped network and one tile in its normalised units."""
    method = open_method("st")
    imputer = method.prepare(stack)
    return method, Batch.from_stacks([stack], imputer.center, imputer.scale, imputer.covariates)


def test_variogram(benchmark: Timer, stack: Stack) -> None:
    assert benchmark(analyse, stack).spatial_fit is not None


def test_tiling(benchmark: Timer) -> None:
    def plan() -> int:
        shape = (365, 5000, 5000)
        return len(tiles(shape, plan_tiles(shape, range_cells=30, range_steps=10, multiple=8)))

    assert benchmark(plan) > 1000


def test_blend(benchmark: Timer) -> None:
    shape = (STEPS, 512, 512)
    tile = tiles(shape, plan_tiles(shape, range_cells=30, multiple=8))[10]
    assert benchmark(blend_weights, tile, shape).shape == tile.read.shape


def test_distance_to_data(benchmark: Timer, stack: Stack) -> None:
    assert np.isfinite(benchmark(distance_to_data, stack.valid)).all()


def test_calibration(benchmark: Timer) -> None:
    rng = np.random.default_rng(0)
    error, distance = rng.normal(size=10**6), rng.integers(0, 40, 10**6)
    assert benchmark(Calibration.fit, error, np.ones(10**6), distance).samples == 10**6


@pytest.mark.parametrize("fast", [False, True], ids=["default", "fast"])
def test_candidates(benchmark: Timer, tile: tuple[Any, Batch], fast: bool) -> None:
    found = benchmark.pedantic(compute_candidates, (tile[1], fast), rounds=2)  # type: ignore[attr-defined]
    assert torch.isfinite(found.prior).all()


def test_model(benchmark: Timer, tile: tuple[Any, Batch]) -> None:
    method, batch = tile
    candidates = compute_candidates(batch, fast=True)

    def predict() -> Any:
        with torch.no_grad():
            return method.network(batch, candidates)

    assert torch.isfinite(benchmark.pedantic(predict, rounds=3, warmup_rounds=1).mean).all()  # type: ignore[attr-defined]


def test_engine(benchmark: Timer) -> None:
    """Everything but the method: reading, tiling, calibrating, blending, writing."""
    stack = stack_of(STEPS, 256)

    def fill() -> Any:
        sink = ArraySink(stack.shape)
        return fill_source(StackSource(stack, "field"), sink, MeanMethod(), FillOptions(tile=64))

    assert benchmark.pedantic(fill, rounds=3).layers  # type: ignore[attr-defined]
