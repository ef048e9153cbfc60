"""Scores against closed forms and numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from stimpute.metrics import by_bins, central_z, crps_gaussian, score, seam_ratio


def test_scores_by_hand():
    s = score(np.array([1.0, -2.0, 3.0, 4.0]), np.array([2.0, -2.0, 1.0, 4.0]))
    assert (s.n, s.mae, s.rmse, s.bias, s.mre) == (4, 0.75, math.sqrt(5 / 4), -0.25, 0.3)
    assert s.r == pytest.approx(np.corrcoef([1, -2, 3, 4], [2, -2, 1, 4])[0, 1], abs=1e-12)
    assert math.isnan(s.coverage)
    assert s.to_dict()["crps"] is None


def test_not_estimated_and_unknown_truth():
    s = score(
        np.array([1.0, 2.0, np.nan, 4.0]),
        np.array([1.0, np.nan, 3.0, 5.0]),
        where=np.array([1, 1, 1, 0], bool),
    )
    assert (s.n, s.not_estimated, s.mae) == (1, 1, 0.0)
    empty = score(np.array([np.nan]), np.array([1.0]))
    assert empty.n == 0
    assert math.isnan(empty.mae)


def test_float32_sums_do_not_drift():
    truth = np.full(3_000_000, 300.1, dtype=np.float32)
    assert score(truth, truth + np.float32(0.5)).bias == pytest.approx(0.5, abs=1e-5)


def test_coverage_of_a_true_gaussian_is_its_level():
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.5, 2, 200_000)
    error = rng.normal(size=200_000) * scale
    assert score(np.zeros(200_000), error, scale).coverage == pytest.approx(0.9, abs=0.003)
    assert score(np.zeros(200_000), error, scale, level=0.5).coverage == pytest.approx(0.5, abs=0.005)
    assert central_z(0.9) == pytest.approx(1.6448536, abs=1e-6)


@pytest.mark.parametrize(("error", "scale"), [(0.0, 1.0), (1.5, 0.7), (-3.0, 2.0)])
def test_crps_is_the_integral_of_its_definition(error, scale):
    below = quad(lambda x: norm.cdf(x, error, scale) ** 2, error - 12 * scale, 0)[0]
    above = quad(lambda x: norm.sf(x, error, scale) ** 2, 0, error + 12 * scale)[0]
    assert float(crps_gaussian(np.array(error), np.array(scale))) == pytest.approx(below + above, rel=1e-6)


def test_crps_of_a_certain_forecast_is_its_error():
    assert score(np.array([1.0]), np.array([3.0]), np.array([0.0])).crps == 2.0


def test_bins():
    truth, mean = np.zeros(4), np.array([1.0, 2.0, 3.0, 4.0])
    bins = by_bins(truth, mean, None, np.array([0.0, 1.0, 1.5, np.inf]), [0, 1, 2, np.inf])
    assert [(b.lower, b.upper, b.scores.n, b.scores.mae) for b in bins] == [
        (0, 1, 1, 1.0),
        (1, 2, 2, 2.5),
        (2, np.inf, 1, 4.0),
    ]


def test_seam_ratio():
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(20, 40, 40))
    assert seam_ratio(smooth, ([20], [10, 30])) == pytest.approx(1, abs=0.05)
    stepped = np.zeros((1, 4, 4))
    stepped[..., 2:] = 3.0
    stepped[..., 1, 1] = 1.0  # steps of 1 along three of its sides, and of 2 across the border
    # rows: 12 steps, two of them 1; columns: 8 inside, one of them 1; across: 3, 2, 3, 3
    assert seam_ratio(stepped, ([], [2])) == pytest.approx((11 / 4) / (3 / 20))
    assert math.isnan(seam_ratio(stepped, ([], [])))
