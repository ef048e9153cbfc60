"""A sensor step is found; seasons, trends, weather and single bad scenes are not taken for one."""

import numpy as np
import pytest

from stimpute.inference.level_shift import level_shift
from stimpute.stack import Stack


def series(level: np.ndarray, missing: float = 0.5, seed: int = 0) -> Stack:
    rng = np.random.default_rng(seed)
    values = level[:, None, None] + rng.normal(size=(len(level), 10, 10)) + 5 * rng.normal(size=(1, 10, 10))
    values[rng.random(values.shape) < missing] = np.nan
    return Stack.from_array(values)


@pytest.mark.parametrize("at", [4, 20, 36])
@pytest.mark.parametrize("height", [-30.0, 30.0])
def test_the_step_is_found_where_it_is(at, height):
    level = 3 * np.sin(np.arange(40) / 6)
    level[at:] += height
    step, found = level_shift(series(level))
    assert step == at
    assert found == pytest.approx(height, abs=6)


@pytest.mark.parametrize("kind", ["season", "trend", "random walk", "one bad scene", "constant", "short"])
def test_what_is_no_step(kind):
    steps = np.arange(60.0)
    level = {
        "season": 10 * np.sin(steps / 6),
        "trend": steps,
        "random walk": np.random.default_rng(1).normal(size=60).cumsum(),
        "one bad scene": np.where(steps == 30, 100.0, 0.0),
        "constant": 0 * steps,
        "short": np.array([0, 0, 0, 50, 50, 50.0]),
    }[kind]
    assert level_shift(series(level)) is None
