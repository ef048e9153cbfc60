"""Every classical method behind the common interface."""

import numpy as np
import pytest

from stimpute.baselines import METHODS
from stimpute.baselines.dineof import DineofMethod
from stimpute.protocols import Imputer, Method
from stimpute.stack import Stack


def stack_of(values, **options):
    return Stack.from_array(values, **options)


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_keeps_to_the_protocols(self, name, gappy):
        method = METHODS[name]()
        assert isinstance(method, Method)
        assert method.name == name
        assert isinstance(method.prepare(stack_of(gappy())), Imputer)

    def test_fills_a_smooth_field_in_its_units(self, name, gappy):
        values = gappy(t=10, ny=12, nx=14, missing=0.4)
        truth = gappy(t=10, ny=12, nx=14, missing=0.0)
        stack = stack_of(values)
        estimate = METHODS[name]().prepare(stack).impute(stack)
        error = np.abs(estimate.mean - truth)[stack.gap].mean()
        assert estimate.mean.dtype == np.float32
        assert error < (1.2 if name == "mean" else 0.4) * truth.std()
        assert estimate.scale is None or (estimate.scale > 0).all()

    def test_is_deterministic_and_follows_the_units(self, name, gappy):
        stack = stack_of(gappy())
        moved = stack_of(gappy() * 100 - 3000)
        first, second, other = (METHODS[name]().prepare(s).impute(s) for s in (stack, stack, moved))
        assert np.array_equal(first.mean, second.mean)
        assert np.abs(other.mean - (first.mean * 100 - 3000)).max() < 0.5
        if first.scale is not None:
            np.testing.assert_allclose(other.scale, first.scale * 100, rtol=1e-3)

    @pytest.mark.parametrize("shape", [(1, 6, 7), (8, 1, 1), (1, 1, 1), (3, 4, 4)])
    def test_survives_little_and_nothing(self, name, shape):
        few = np.full(shape, np.nan)
        few.flat[:: max(1, few.size // 3)] = 2.0
        for values in (few, np.full(shape, 2.0)):
            stack = stack_of(values)
            assert np.allclose(METHODS[name]().prepare(stack).impute(stack).mean, 2.0, atol=1e-3)
        nothing = stack_of(np.full(shape, np.nan))
        assert np.isfinite(METHODS[name]().prepare(nothing).impute(nothing).mean).all()

    def test_a_tile_uses_what_the_overview_froze(self, name, gappy):
        whole = stack_of(gappy(t=8, ny=12, nx=12))
        empty = np.zeros((8, 4, 4), dtype=np.float32)
        tile = stack_of(empty, valid=np.zeros(empty.shape, dtype=bool))
        filled = METHODS[name]().prepare(whole).impute(tile).mean
        assert np.allclose(filled, whole.values[whole.valid].mean(), atol=1e-3)


def test_the_scale_of_the_mean_is_the_spread_of_the_cell():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2000, 1, 2)) * [1.0, 5.0]
    stack = stack_of(values)
    scale = METHODS["mean"]().prepare(stack).impute(stack).scale
    np.testing.assert_allclose(scale[0, 0], [1.0, 5.0], rtol=0.06)


def test_dineof_finds_the_number_of_modes():
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(3, 20 * 20)) * [[4.0], [3.0], [2.0]]
    truth = (rng.normal(size=(20, 3)) @ pattern + 0.3 * rng.normal(size=(20, 400))).reshape(20, 20, 20)
    stack = stack_of(truth, valid=rng.random(truth.shape) > 0.3)
    errors = DineofMethod(max_modes=6).cross_validate(stack)
    assert len(errors) == 6
    assert errors[2] < 0.4 * errors[1]
    assert errors[2] < 1.05 * min(errors)
    assert DineofMethod(max_modes=6).prepare(stack).modes == int(np.argmin(errors)) + 1


@pytest.mark.data
def test_dineof_cross_validates_on_alboran_as_the_reference_run_did(shared_data):
    """valc.dat: .506 .445 .445 .473 .473 degC with 1 to 5 modes, on other clouds than ours."""
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(shared_data / "alboran_sst" / "alboranSST_small.nc") as file:
        sea = np.asarray(file["mask"][:]) == 1
        sst = np.where(sea, np.ma.filled(file["SST"][:], np.nan), np.nan)
        days = np.asarray(file["time"][:], dtype=np.float64)
    errors = DineofMethod(max_modes=5).cross_validate(stack_of(sst, times=days - days[0]))
    assert 0.3 < min(errors) < 0.6
