"""Local kriging against PyKrige, and its standard error against its errors."""

import numpy as np
import pytest

from stimpute.baselines.kriging import KrigingMethod, SpaceTimeModel, fit_model, krige
from stimpute.stack import Stack
from stimpute.variography import FittedVariogram

FLAT = FittedVariogram.of("spherical", 0.0, 0.0, 1.0)


@pytest.mark.parametrize("neighbours", [8, 40])
def test_equals_pykrige(neighbours):
    pykrige = pytest.importorskip("pykrige.ok3d")
    rng = np.random.default_rng(0)
    known, values, wanted = rng.random((40, 3)) * 10, rng.normal(size=40), rng.random((25, 3)) * 10
    reference = pykrige.OrdinaryKriging3D(
        *known.T,
        values,
        variogram_model="spherical",
        variogram_parameters={"sill": 2.0, "range": 6.0, "nugget": 0.3},
    )
    mean, variance = reference.execute("points", *wanted.T, backend="loop", n_closest_points=neighbours)
    model = SpaceTimeModel(FittedVariogram.of("spherical", 0.3, 2.0, 6.0), FLAT, 1.0)
    got, error = krige(known, values, wanted, model.gamma, neighbours)
    assert np.abs(got - mean).max() < 1e-4
    assert np.abs(error**2 - variance).max() < 1e-4


@pytest.mark.parametrize(("kind", "nu"), [("spherical", None), ("gaussian", None), ("matern", 0.75)])
def test_the_table_reads_as_the_variogram(kind, nu):
    variogram = FittedVariogram.of(kind, 0.1, 1.5, 7.0, nu)
    lags = np.linspace(0.01, 60, 500)
    got = SpaceTimeModel(variogram, FLAT, 1.0).gamma(np.stack((0 * lags, lags), axis=1))
    assert np.abs(got - variogram.evaluate(np.minimum(lags, 4 * variogram.effective_range))).max() < 1e-4


def moving_field(steps=12, size=24, seed=0):
    """A field of many waves that drift and change, with white noise; unit variance, about."""
    rng = np.random.default_rng(seed)
    t, y, x = np.meshgrid(np.arange(steps), np.arange(size), np.arange(size), indexing="ij")
    wave, phase = rng.normal(size=(60, 3)) * (0.15, 0.25, 0.25), rng.random(60) * 2 * np.pi
    field = sum(np.cos(w[0] * t + w[1] * y + w[2] * x + p) for w, p in zip(wave, phase, strict=True))
    return field * np.sqrt(2 / 60) + 0.1 * rng.normal(size=field.shape)


def test_standard_errors_cover_what_they_claim():
    truth = moving_field()
    seen = np.random.default_rng(1).random(truth.shape) > 0.7
    stack = Stack.from_array(truth, seen)
    estimate = KrigingMethod().prepare(stack).impute(stack)
    error = (estimate.mean - truth)[~seen]
    assert np.abs(error).mean() < 0.3 * truth.std()
    assert 0.8 < (np.abs(error) < 1.645 * estimate.scale[~seen]).mean() < 0.99


def test_distances_are_those_on_the_ground():
    """One degree of longitude is half as far at 60 degrees north: ranges in km follow."""
    from stimpute.baselines.kriging import _ground, _places
    from stimpute.grid import Grid

    grid = Grid("affine", (2, 2), np.array([0.0, 1.0]), np.array([60.0, 0.0]), "degrees")
    at = _places(_ground(grid), np.array([0.0, 2.0]), km_per_day=10.0)(np.arange(8))
    assert np.linalg.norm(at[1] - at[0]) == pytest.approx(111.19 / 2, rel=1e-3)
    assert np.linalg.norm(at[3] - at[2]) == pytest.approx(111.19, rel=1e-3)
    assert np.linalg.norm(at[4] - at[0]) == pytest.approx(20.0)


def test_places_that_a_globe_shows_twice_count_once():
    """Columns beyond 360 degrees, and every longitude of a pole, are the same place: no singular system."""
    from stimpute.grid import Grid

    lon, lat = np.arange(0.0, 400.0, 10.0) % 360, np.array([90.0, 80.0, 70.0, 60.0])
    field = np.cos(np.radians(lon)) * np.cos(np.radians(lat))[:, None] + np.arange(6.0)[:, None, None]
    seen = np.random.default_rng(0).random(field.shape) < 0.5
    seen[..., -4:] = seen[..., :4]
    stack = Stack.from_array(field, seen, grid=Grid("rectilinear", field.shape[1:], lon, lat, "degrees"))
    once = stack.window(slice(None), slice(None), slice(0, 36))
    estimate = KrigingMethod().prepare(once).impute(stack)
    assert np.isfinite(estimate.mean).all()
    assert np.abs(estimate.mean - field)[~seen].mean() < 0.5  # steps differ by 1


def test_cells_without_coordinates_take_no_part():
    """The corner of a swath that lies in space: answered NaN, and what was observed there tells the others nothing."""
    from stimpute.grid import Grid

    truth = moving_field(steps=6, size=12)
    lat, lon = np.meshgrid(np.linspace(40, 41, 12), np.linspace(5, 6, 12), indexing="ij")
    lat[:2, :3] = np.nan
    seen = np.random.default_rng(1).random(truth.shape) > 0.5
    grid = Grid("curvilinear", lat.shape, lon, lat, "degrees")
    with_corner = Stack.from_array(truth, seen, grid=grid)
    estimate = KrigingMethod().prepare(with_corner).impute(with_corner)
    gaps, placed = ~seen, np.isfinite(lat)
    assert np.isnan(estimate.mean[:, ~placed][gaps[:, ~placed]]).all()
    assert np.isfinite(estimate.scale[:, placed]).all()
    assert np.abs(estimate.mean - truth)[:, placed][gaps[:, placed]].mean() < 0.5 * truth.std()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 5), (4, 1, 1), (3, 4, 5)])
def test_without_a_variogram_there_is_a_usual_one(shape):
    values = np.full(shape, np.nan)
    values.flat[0] = 3.0
    stack = Stack.from_array(values)
    assert fit_model(stack).sill > 0
    estimate = KrigingMethod().prepare(stack).impute(stack)
    assert np.allclose(estimate.mean, 3.0)
    assert (estimate.scale > 0).all()
