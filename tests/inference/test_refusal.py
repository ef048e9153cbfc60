"""What is refused, in days, kilometres and cells."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from stimpute.errors import UsageError
from stimpute.estimate import Estimate
from stimpute.grid import Grid
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.options import FillOptions
from stimpute.inference.refusal import Distance, extrapolation_limit, past_days
from stimpute.inference.survey import _reach
from stimpute.protocols import FILLED, OBSERVED, REFUSED
from stimpute.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")


class Seven:
    """A method that always says 7."""

    name, sees_whole = "seven", False

    def prepare(self, overview: Stack):
        return self

    def impute(self, stack: Stack) -> Estimate:
        return Estimate(np.full(stack.shape, 7, np.float32))


def run(values: np.ndarray, grid: Grid | None = None, **options):
    stack = Stack.from_array(values, grid=grid)
    sink = ArraySink(stack.shape)
    chosen = FillOptions(uncertainty=False, **options)
    return sink, fill_source(StackSource(stack), sink, Seven(), chosen).layers[0]


def smooth(t: int = 40, ny: int = 20, nx: int = 24, seed: int = 0) -> np.ndarray:
    """A field with a temporal range of about ten steps and a spatial one of a few cells."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(t + 20, ny, nx))
    field = gaussian_filter(noise, (4, 1.5, 1.5))[10:-10]
    return (field / field.std()).astype(np.float32)


def lonely(where: tuple[int, int], nx: int = 40, ny: int = 12) -> np.ndarray:
    values = np.ones((6, ny, nx), np.float32)
    values[3] = np.nan
    values[3, where[0], where[1]] = 1
    return values


@pytest.mark.parametrize(("distance", "cells"), [("3cells", 3), ("30km", 3), (45, 4.5), ("20000m", 2)])
def test_farther_than_max_distance_is_refused(distance, cells):
    grid = Grid("affine", (12, 40), 10.0 * np.arange(40), -10.0 * np.arange(12), "length")
    sink, layer = run(lonely((5, 7)), grid, max_distance=Distance.of(distance))
    y, x = np.mgrid[0:12, 0:40]
    near = np.hypot(y - 5, x - 7) <= cells
    expected = np.where(near, FILLED, REFUSED)
    expected[5, 7] = OBSERVED
    np.testing.assert_array_equal(sink.flag[3], expected)
    assert layer.refusals == {"beyond --max-distance": int((~near).sum())}
    assert layer.refused == int((~near).sum())


def test_distance_is_measured_across_bands_that_are_streamed():
    values = np.ones((40, 90, 100), np.float32)
    values[7] = np.nan
    values[7, 44, 50] = 1
    whole, _ = run(values, max_distance=Distance.of("30cells"), tile=16, overlap=4)
    bands, _ = run(values, max_distance=Distance.of("30cells"), tile=16, overlap=4, memory=2**21)
    np.testing.assert_array_equal(whole.flag, bands.flag)
    y, x = np.mgrid[0:90, 0:100]
    assert (whole.flag[7] == FILLED).sum() == (np.hypot(y - 44, x - 50) <= 30).sum() - 1


def test_kilometres_shrink_with_the_parallels_and_wrap():
    lat, lon = np.array([60.0, 59.0, 58.0]), np.arange(0.5, 360)
    grid = Grid("affine", (3, 360), lon, lat, "degrees", wraps=True)
    sink, _ = run(lonely((1, 0), nx=360, ny=3), grid, max_distance=Distance.of("200km"))
    width = 111.32 * math.cos(math.radians(59))
    reach = int(200 // width)
    assert set(np.flatnonzero(sink.flag[3, 1] != REFUSED)) == {k % 360 for k in range(-reach, reach + 1)}


def test_kilometres_on_a_grid_of_cells_are_a_mistake():
    with pytest.raises(UsageError, match="cells"):
        run(lonely((5, 7)), max_distance=Distance.of("50km"))


@pytest.mark.parametrize("text", ["", "far", "-3km", "0km", "3 miles", "nan", "1e999", "km"])
def test_what_is_no_distance(text):
    with pytest.raises(UsageError, match="--max-distance"):
        Distance.of(text)


def test_nothing_is_extrapolated_beyond_the_temporal_range():
    values = smooth()
    values[20:, :10, :12] = np.nan  # a corner far larger than the spatial range, dark for the second half
    sink, layer = run(values)
    assert layer.range_days is not None
    assert 4 < layer.range_days < 18
    flag = sink.flag[:, 0, 0]
    last_filled = int(np.flatnonzero(flag == FILLED).max())
    assert last_filled == 19 + int(layer.range_days)
    assert (flag[last_filled + 1 :] == REFUSED).all()
    assert layer.refusals["past the first or last observation"] == layer.refused > 0
    assert (sink.flag[:, 9, 11] != REFUSED).all()  # at the rim the neighbours tell


def test_an_extrapolation_asked_for_is_filled_and_a_shorter_one_refused():
    values = smooth()
    values[20:, :10, :12] = np.nan
    assert run(values, max_extrapolation_days=math.inf)[1].refused == 0
    assert run(values, fill_never_observed=True)[1].refused == 0
    sink, _ = run(values, max_extrapolation_days=2.0)
    assert (sink.flag[20:22, 0, 0] == FILLED).all()
    assert (sink.flag[22:, 0, 0] == REFUSED).all()


def test_gaps_inside_a_series_and_never_observed_cells_have_rules_of_their_own():
    values = smooth()
    values[2:38, :10, :12] = np.nan
    assert run(values)[1].refused == 0
    values[:, 0, 0] = np.nan
    assert run(values)[1].refusals == {"never observed": 40}
    assert run(values, fill_never_observed=True)[1].refused == 0
    assert run(values, min_obs=0.5)[1].refusals == {"below --min-obs": 119 * 36, "never observed": 40}


def test_empty_steps_at_the_end_are_filled_as_far_as_the_range():
    values = smooth()
    values[-3:] = np.nan
    assert run(values)[1].refused == 0


def test_few_steps_have_no_temporal_range():
    survey = SimpleNamespace(shape=(4, 9, 9), range_days=1.0, times=np.arange(4.0))
    assert extrapolation_limit(survey, FillOptions()) == math.inf
    survey = SimpleNamespace(shape=(12, 9, 9), range_days=3.0, times=30 * np.arange(12.0))
    assert extrapolation_limit(survey, FillOptions()) == 30  # at least a step
    assert extrapolation_limit(survey, FillOptions(max_extrapolation_days=7)) == 7


def test_days_past_a_series_use_real_times():
    days = past_days(np.array([[10.0]]), np.array([[20.0]]), np.array([0, 1, 10, 11, 20, 50.0]))
    assert days.ravel().tolist() == [10, 9, 0, 0, 0, 30]


def test_a_range_beyond_the_largest_lag_is_not_believed():
    assert _reach(SimpleNamespace(spatial=SimpleNamespace(max_lag=40.0)), 3000.0) == 40
    assert _reach(SimpleNamespace(spatial=SimpleNamespace(max_lag=40.0)), 12.0) == 12
    assert _reach(None, None) is None
