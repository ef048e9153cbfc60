"""Estimators against GSTools and by hand, models against literature values, ranges against simulated fields."""

import math
import time
from functools import cache

import gstools as gs
import numpy as np
import pytest
import xarray as xr

from stimpute.errors import UsageError, VariogramError
from stimpute.grid import Grid
from stimpute.stack import Stack
from stimpute.variography import (
    EmpiricalVariogram,
    FittedVariogram,
    analyse,
    empirical,
    fit,
    range_factor,
    shape,
)


def simulated(model, frames, n, seed=1):
    x = np.arange(float(n))
    return np.stack([gs.SRF(model, seed=seed + k, mode_no=250).structured([x, x]) for k in range(frames)])


def with_clouds(values, seed=0):
    rng = np.random.default_rng(seed)
    values = values.copy()
    for frame in values:
        y, x = rng.integers(0, frame.shape[0], 2)
        frame[y : y + frame.shape[0] // 2, x : x + frame.shape[1] // 2] = np.nan
    return values


@cache
def known_field(model, length):
    return simulated(model(dim=2, var=2.0, len_scale=length, rescale=1.0), 16, 72)


@pytest.mark.parametrize(
    ("model", "length", "effective"),
    [(gs.Spherical, 12.0, 12.0), (gs.Exponential, 4.0, 11.98), (gs.Gaussian, 7.0, 12.12)],
)
@pytest.mark.parametrize("estimator", ["matheron", "cressie"])
def test_range_of_a_simulated_field_is_found(model, length, effective, estimator):
    field = with_clouds(known_field(model, length))
    fitted = analyse(Stack.from_array(field), estimator=estimator, max_pairs=300_000).spatial_fit
    assert fitted.effective_range == pytest.approx(effective, rel=0.15)
    assert fitted.sill == pytest.approx(np.nanvar(field - np.nanmean(field, axis=0)), rel=0.15)


def test_nugget_of_a_simulated_field_is_found():
    field = known_field(gs.Exponential, 4.0) + np.random.default_rng(0).normal(size=(16, 72, 72))
    fitted = fit(analyse(Stack.from_array(field), max_pairs=300_000).spatial, kinds=("exponential",))
    assert fitted.nugget == pytest.approx(1.0, abs=0.2)
    assert fitted.effective_range == pytest.approx(11.98, rel=0.2)


def test_a_range_far_shorter_than_the_extent_is_found():
    field = simulated(gs.Spherical(dim=2, var=1.0, len_scale=8.0, rescale=1.0), 1, 400)
    fitted = analyse(Stack.from_array(field), max_pairs=300_000).spatial_fit
    assert fitted.effective_range == pytest.approx(8.0, rel=0.15)


@pytest.mark.parametrize("estimator", ["matheron", "cressie"])
def test_estimators_agree_with_gstools_on_every_pair(estimator):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 10, (2, 150))
    values = rng.normal(size=150) + x
    edges = np.linspace(0, 6, 13)
    _, gamma, count = gs.vario_estimate((x, y), values, edges, estimator=estimator, return_counts=True)
    first, second = np.triu_indices(150, 1)
    lag = np.hypot(x[first] - x[second], y[first] - y[second])
    ours = empirical((lag, values[first] - values[second]), 6.0, bins=12, estimator=estimator)
    np.testing.assert_allclose(ours.gamma, gamma, rtol=1e-10)
    assert ours.pairs.tolist() == count.tolist()


def test_a_small_stack_uses_every_pair_of_its_residuals():
    values = np.random.default_rng(0).normal(size=(6, 5, 7)).cumsum(axis=2)
    values[2, 1:3, 2:5] = np.nan
    ours = analyse(Stack.from_array(values), estimator="matheron").spatial
    residual = values.astype(np.float32) - np.nanmean(values, axis=0)
    edges = np.linspace(0, ours.max_lag, math.floor(ours.max_lag) + 1)
    rows, cols = np.mgrid[:5, :7].reshape(2, -1).astype(float)
    total, count = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for frame in residual.reshape(6, -1):
        seen = np.isfinite(frame)
        _, gamma, n = gs.vario_estimate(
            (rows[seen], cols[seen]), frame[seen], edges, estimator="matheron", return_counts=True
        )
        total, count = total + gamma * n, count + n
    keep = ours.lag < edges[-2]  # GSTools leaves the upper edge of the last bin out
    np.testing.assert_allclose(ours.gamma[keep], (total / count)[: keep.sum()], rtol=1e-4)


def test_models_are_those_of_the_literature():
    assert shape("spherical", [0, 0.5, 1, 2]).tolist() == [0, 0.6875, 1, 1]
    np.testing.assert_allclose(shape("exponential", [1.0, 3.0]), [1 - math.exp(-1), 1 - math.exp(-3)])
    np.testing.assert_allclose(shape("gaussian", [0.5]), [1 - math.exp(-0.25)])
    h = np.array([0.0, 0.1, 1.0, 3.0])
    np.testing.assert_allclose(shape("matern", h, 0.5), shape("exponential", h), atol=1e-9)
    root3 = math.sqrt(3) * h
    np.testing.assert_allclose(shape("matern", h, 1.5), 1 - (1 + root3) * np.exp(-root3), atol=1e-9)
    assert shape("matern", [1e5], 2.5).tolist() == [1.0]


@pytest.mark.parametrize(
    ("kind", "model"),
    [("spherical", gs.Spherical), ("exponential", gs.Exponential), ("gaussian", gs.Gaussian)],
)
def test_models_agree_with_gstools(kind, model):
    h = np.linspace(0.1, 30, 50)
    theirs = model(dim=2, var=1.5, len_scale=7, nugget=0.3, rescale=1.0).variogram(h)
    np.testing.assert_allclose(FittedVariogram.of(kind, 0.3, 1.8, 7.0).evaluate(h), theirs, rtol=1e-9)


@pytest.mark.parametrize("nu", [0.3, 0.75, 2.5])
def test_matern_reaches_95_percent_at_its_effective_range(nu):
    model = FittedVariogram.of("matern", 0.5, 2.5, 3.0, nu)
    assert model.evaluate([model.effective_range])[0] == pytest.approx(0.5 + 0.95 * 2.0)
    assert range_factor("matern", 1.5) == pytest.approx(4.744 / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize("kind", ["spherical", "exponential", "gaussian", "matern"])
def test_exact_points_return_their_model(kind):
    truth = FittedVariogram.of(kind, 0.4, 2.0, 9.0, 1.5 if kind == "matern" else None)
    lag = np.linspace(1, 40, 20)
    points = EmpiricalVariogram(lag, truth.evaluate(lag), np.full(20, 1000), "km", 40.0)
    fitted = fit(points)
    assert fitted.kind == kind
    assert fitted.effective_range == pytest.approx(truth.effective_range, rel=1e-2)
    assert (fitted.nugget, fitted.sill) == pytest.approx((0.4, 2.0), rel=2e-2)
    only = fit(points, kinds=("exponential",))
    assert only.kind == "exponential"
    assert only.weighted_error >= fitted.weighted_error


def test_fit_is_as_good_as_that_of_gstools():
    field = simulated(gs.Exponential(dim=2, var=2.0, len_scale=5.0, rescale=1.0), 8, 60)
    points = analyse(Stack.from_array(field), max_pairs=200_000).spatial
    model = gs.Exponential(dim=2, rescale=1.0)
    model.fit_variogram(
        points.lag, points.gamma, weights=points.gamma
    )  # their weights are standard deviations
    ours = fit(points, kinds=("exponential",))

    def misfit(gamma):
        return float((((gamma - points.gamma) / points.gamma) ** 2 * points.pairs).sum())

    assert misfit(ours.evaluate(points.lag)) <= misfit(model.variogram(points.lag)) * 1.001


def test_distances_are_kilometres():
    field = simulated(gs.Exponential(dim=2, var=1.0, len_scale=4.0, rescale=1.0), 12, 60)
    degrees = Grid("affine", (60, 60), 10 + np.arange(60) * 0.02, 60 + np.arange(60) * 0.01, "degrees")
    geographic = analyse(Stack.from_array(field, grid=degrees), max_pairs=200_000)  # cells of 1.11 x 1.11 km
    assert geographic.spatial.unit == "km"
    index = analyse(Stack.from_array(field), max_pairs=200_000)
    assert index.spatial.unit == "cells"
    ratio = geographic.spatial_fit.effective_range / index.spatial_fit.effective_range
    assert ratio == pytest.approx(1.114, rel=0.05)


def test_temporal_range_of_a_red_series_in_days():
    rng = np.random.default_rng(0)
    values = np.zeros((400, 10, 10))
    for t in range(1, 400):
        values[t] = values[t - 1] * math.exp(-1 / 5) + rng.normal(size=(10, 10)) * math.sqrt(
            1 - math.exp(-2 / 5)
        )
    values[rng.random(values.shape) < 0.4] = np.nan
    stack = Stack.from_array(
        values[50:], times=np.arange(350) * 0.5
    )  # two steps a day: e-folding of 2.5 days
    result = analyse(stack, max_pairs=300_000)
    assert result.temporal.unit == "days"
    assert result.temporal_fit.effective_range == pytest.approx(2.5 * 3, rel=0.15)


def test_what_a_covariate_explains_is_not_in_the_variogram():
    rng = np.random.default_rng(0)
    driver = simulated(gs.Gaussian(dim=2, var=9.0, len_scale=30.0, rescale=1.0), 12, 60)
    field = simulated(gs.Exponential(dim=2, var=1.0, len_scale=3.0, rescale=1.0), 12, 60, seed=50)
    driver_seen = driver.copy()
    driver_seen[rng.random(driver.shape) < 0.05] = np.nan
    plain = analyse(Stack.from_array(2 * driver + field), max_pairs=200_000)
    stack = Stack.from_array(
        2 * np.where(np.isnan(driver_seen), 0, driver) + field, dynamic={"driver": driver_seen}
    )
    explained = analyse(stack, max_pairs=200_000)
    assert plain.spatial_fit.effective_range > 25
    assert explained.spatial_fit.effective_range < 15


def test_static_covariate_explains_a_single_step():
    slope = np.linspace(0, 50, 3600).reshape(60, 60) ** 2 / 50
    field = simulated(gs.Exponential(dim=2, var=1.0, len_scale=3.0, rescale=1.0), 1, 60)
    result = analyse(Stack.from_array(field + slope, static={"dem": slope}), max_pairs=200_000)
    assert result.spatial_fit.effective_range == pytest.approx(9, rel=0.4)
    assert result.temporal_fit is None


def test_without_structure_there_is_no_fit_but_a_note():
    noise = np.random.default_rng(0).normal(size=(10, 40, 40))
    result = analyse(Stack.from_array(noise), max_pairs=200_000)
    assert (result.spatial_fit, result.temporal_fit) == (None, None)
    assert "pure nugget" in result.note
    assert result.spatial.gamma.mean() == pytest.approx(0.9, abs=0.05)  # 1 - 1/10: the mean takes its part


@pytest.mark.parametrize("value", [0.0, 273.15, 1e10, 1e-12])
def test_constant_field(value):
    result = analyse(Stack.from_array(np.full((6, 10, 10), value)))
    assert (result.spatial_fit, result.temporal_fit) == (None, None)
    assert "no variance" in result.note


@pytest.mark.parametrize(
    "shape", [(1, 1, 2), (2, 1, 1), (5, 1, 1), (1, 1, 40), (40, 1, 1), (3, 40, 1), (2, 5, 5)]
)
def test_odd_shapes_do_not_fail(shape):
    result = analyse(Stack.from_array(np.random.default_rng(0).normal(size=shape)))
    assert result.to_dict()["spatial"]["unit"] == "cells"
    if shape[1] * shape[2] == 1:
        assert "space: no two observations" in result.note


def test_too_few_observations_and_unknown_estimator():
    with pytest.raises(VariogramError, match="1 observations"):
        analyse(Stack.from_array([[[1.0, np.nan]]]))
    with pytest.raises(UsageError, match="dowd"):
        analyse(Stack.from_array(np.ones((1, 2, 2))), estimator="dowd")


def test_points_and_a_globe_that_wraps():
    rng = np.random.default_rng(0)
    field = simulated(gs.Exponential(dim=2, var=1.0, len_scale=5.0, rescale=1.0), 20, 60)
    rows, cols = rng.integers(0, 60, (2, 300))
    points = Grid("points", (1, 300), cols.astype(float), rows.astype(float), "length")
    result = analyse(Stack.from_array(field[:, None, rows, cols], grid=points), max_pairs=200_000)
    assert result.spatial_fit.effective_range == pytest.approx(15, rel=0.25)
    globe = Grid("affine", (18, 36), np.arange(5.0, 360, 10), np.arange(-85.0, 90, 10), "degrees", wraps=True)
    stack = Stack.from_array(rng.normal(size=(5, 18, 36)), grid=globe)
    assert analyse(stack, max_pairs=20_000).spatial.lag.max() <= 20_100 / 2


def test_seed_decides():
    stack = Stack.from_array(np.random.default_rng(0).normal(size=(4, 40, 40)).cumsum(axis=2))
    one, same, other = (analyse(stack, max_pairs=5000, seed=s).spatial.gamma.tolist() for s in (1, 1, 2))
    assert one == same != other


def test_a_large_stack_takes_seconds():
    rng = np.random.default_rng(0)
    values = np.tile(rng.standard_normal((4, 260, 465), dtype=np.float32), (43, 1, 1))
    values[:, ::2] = np.nan
    stack = Stack.from_array(values)
    begin = time.process_time()
    analyse(stack)
    assert time.process_time() - begin < 20


@pytest.mark.data
def test_real_archives_have_sane_ranges(shared_data):
    def ranges(path, variable, unit_km=None):
        with xr.open_dataset(shared_data / path) as data:
            cube = data[variable].load()
        time, y, x = (cube[d].values for d in cube.dims)
        days = (time - time[0]) / np.timedelta64(1, "D")
        units = "degrees" if unit_km is None else "length"
        grid = Grid("affine", cube.shape[1:], x.astype(float), y.astype(float), units, unit_km or 1.0)
        return analyse(Stack.from_array(cube.values, times=days, grid=grid), max_pairs=200_000)

    sst = ranges("alboran_sst/alboranSST_small.nc", "SST")
    assert 50 < sst.spatial_fit.effective_range < 600
    assert 2 < sst.temporal_fit.effective_range < 30
    ndvi = ranges("gapfill_ndvi/ndvi.nc", "ndvi")
    assert 4 < ndvi.spatial_fit.effective_range < 30
    lst = ranges("goes_lst_fulldisk/goes16_lst_northamerica.nc", "LST", 35786.023)
    assert 500 < lst.spatial_fit.effective_range < 5000
    assert 0.2 < lst.temporal_fit.effective_range < 2  # the day's course, in spite of holes of weeks
