"""Intervals cover what they claim on cells that were not used to fit them."""

import json
import math

import numpy as np
import pytest

from stimpute.calibration import Calibration, distance_to_data
from stimpute.metrics import central_z


def growing(n, seed, truth_slope=0.3):
    """Errors whose true scale grows with distance."""
    rng = np.random.default_rng(seed)
    distance = rng.exponential(5, n)
    return rng.normal(size=n) * (0.5 + truth_slope * distance), distance


def covered(error, scale, level=0.9):
    return float((np.abs(error) <= central_z(level) * scale).mean())


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_without_a_scale_overall_and_near_and_far(level):
    fitted = Calibration.fit(*growing(20_000, 0)[:1], None, growing(20_000, 0)[1], level)
    error, distance = growing(50_000, 1)
    scale = fitted.apply(None, distance)
    assert covered(error, scale, level) == pytest.approx(level, abs=0.015)
    for part in (distance < 3, (distance > 3) & (distance < 8), (distance > 8) & (distance < 15)):
        assert covered(error[part], scale[part], level) == pytest.approx(level, abs=0.05)
    assert (np.diff(fitted.factor) >= 0).all()


def test_a_scale_that_is_right_but_for_a_factor():
    error, distance = growing(20_000, 0)
    fitted = Calibration.fit(error, (0.5 + 0.3 * distance) / 4, distance)
    np.testing.assert_allclose(fitted.factor, 4, rtol=0.12)


def test_a_scale_that_grows_too_fast_is_reined_in():
    error, distance = growing(20_000, 0, truth_slope=0.0)
    fitted = Calibration.fit(error, 0.5 + 0.5 * distance, distance)
    assert fitted.factor[0] > 2 * fitted.factor[-1]
    fresh, where = growing(20_000, 1, truth_slope=0.0)
    assert covered(fresh, fitted.apply(0.5 + 0.5 * where, where)) == pytest.approx(0.9, abs=0.02)


def test_heavy_tails_cover_where_gaussian_intervals_would_not():
    rng = np.random.default_rng(0)
    error = rng.standard_t(2, 20_000)
    fitted = Calibration.fit(error[:10_000], None, np.ones(10_000))
    assert covered(error[10_000:], fitted.apply(None, np.ones(10_000))) == pytest.approx(0.9, abs=0.015)


def test_few_samples_give_one_factor_and_none_gives_one():
    few = Calibration.fit(np.full(20, 2.0), np.ones(20), np.arange(20.0))
    assert len(few.factor) == 1
    assert few.factor[0] == pytest.approx(2 / 1.6448536)
    none = Calibration.fit([], [], [])
    assert none.apply([3.0], [1.0]).tolist() == [3.0]


def test_many_equal_distances_stay_in_one_bin():
    error = np.random.default_rng(0).normal(size=5000)
    distance = np.where(np.arange(5000) < 4900, 1.0, 2.0)
    assert Calibration.fit(error, None, distance).distance.tolist() == [1.0, 2.0]


def test_zero_errors_zero_scales_and_far_cells():
    exact = Calibration.fit(np.zeros(500), np.zeros(500), np.arange(500.0))
    assert (exact.apply(np.zeros(3), np.array([0.0, 9.0, np.inf])) == 0).all()
    fitted = Calibration.fit(*growing(2000, 0)[:1], None, growing(2000, 0)[1])
    assert fitted.apply(None, np.array([np.inf])) == pytest.approx(fitted.factor[-1])
    some_inf = Calibration.fit(np.ones(1000), None, np.where(np.arange(1000) < 500, 1.0, np.inf))
    assert np.isfinite(some_inf.distance).all()


def test_survives_json():
    fitted = Calibration.fit(*growing(2000, 0)[:1], None, growing(2000, 0)[1])
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    volume = np.random.default_rng(0).exponential(4, (3, 4, 5)).astype(np.float32)
    assert (again.apply(None, volume) == fitted.apply(None, volume)).all()
    assert again.apply(None, volume).dtype == np.float32


def test_distance_is_the_least_over_all_observations():
    rng = np.random.default_rng(0)
    valid = rng.random((6, 7, 8)) < 0.05
    times = np.array([0, 1, 2, 5, 6, 7.0])
    t, y, x = np.meshgrid(times, np.arange(7), np.arange(8), indexing="ij")
    brute = np.full(valid.shape, np.inf)
    for i, j, k in zip(*np.nonzero(valid), strict=True):
        brute = np.minimum(brute, np.hypot(y - j, x - k) + np.abs(t - times[i]))
    np.testing.assert_allclose(distance_to_data(valid, times), brute, atol=1e-5)


def test_distance_with_nothing_and_one_step():
    assert math.isinf(distance_to_data(np.zeros((2, 2, 2), bool)).min())
    assert distance_to_data(np.array([[[True, False]]])).tolist() == [[[0.0, 1.0]]]
