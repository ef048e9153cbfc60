"""Simulated archives: seeded, plausible numbers, the promised gaps, covariates that drive the variable."""

import numpy as np
import pytest

from stimpute.synthetic import STACK_KINDS, gappy_stack, smap_like


@pytest.fixture(scope="module")
def soil():
    return smap_like(7, (120, 36, 36))


@pytest.mark.parametrize("kind", STACK_KINDS)
def test_every_kind_is_seeded_complete_below_and_gappy_above(kind):
    shape = (20, 18, 26)
    a, b, c = gappy_stack(kind, 1, shape), gappy_stack(kind, 1, shape), gappy_stack(kind, 2, shape)
    np.testing.assert_array_equal(a.values, b.values)
    assert not np.array_equal(a.truth, c.truth)
    assert a.truth.shape == a.valid.shape == shape
    assert a.truth.dtype == np.float32
    assert np.isfinite(a.truth).all()
    assert a.valid_range[0] <= a.truth.min()
    assert a.truth.max() <= a.valid_range[1]
    assert 0.05 < 1 - a.valid.mean() < 0.98
    assert np.isnan(a.values[~a.valid]).all()
    np.testing.assert_array_equal(a.values[a.valid], a.truth[a.valid])
    assert (np.diff(a.times) > 0).all()
    assert (len(a.y), len(a.x)) == shape[1:]
    assert (np.diff(a.y) < 0).all()
    assert a.units
    assert a.standard_name
    assert np.datetime64(a.start)


def test_soil_moisture_is_ninety_per_cent_missing_by_orbit(soil):
    assert 1 - soil.valid.mean() == pytest.approx(0.9, abs=0.005)
    per_frame = soil.valid.mean(axis=(1, 2))
    assert (per_frame == 0).mean() > 0.6
    assert per_frame.max() > 0.3
    assert soil.valid.any(axis=0).all()
    assert 1 - smap_like(1, (60, 36, 36), missing=0.95).valid.mean() == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("steps", [1, 2, 5, 11])
def test_archives_shorter_than_an_orbit_cycle(steps):
    archive = smap_like(0, (steps, 12, 12))
    assert 1 - archive.valid.mean() == pytest.approx(0.9, abs=0.05)


def test_soil_moisture_is_plausible(soil):
    assert soil.truth.min() >= 0.02
    assert soil.truth.max() <= 0.5
    assert 0.08 < soil.truth.mean() < 0.35
    assert soil.truth.std(axis=0).mean() > 0.02  # in time
    assert soil.truth.std(axis=(1, 2)).mean() > 0.01  # in space


def test_rain_wets_and_drought_dries(soil):
    wetter = np.diff(soil.truth.mean(axis=(1, 2)))
    rain = soil.dynamic["precipitation"].mean(axis=(1, 2))[1:]
    assert wetter[rain > 10].mean() > 0.02
    assert wetter[rain < 0.1].mean() < 0


def test_eleven_covariates_explain_most_of_it(soil):
    assert len(soil.dynamic) == 5
    assert len(soil.static) == 6
    assert set(soil.covariate_units) == {*soil.dynamic, *soil.static}
    columns = [v.ravel() for v in soil.dynamic.values()]
    columns += [np.broadcast_to(v, soil.truth.shape).ravel() for v in soil.static.values()]

    def explained(used: list[np.ndarray]) -> float:
        design = np.stack([*used, np.ones(soil.truth.size)], axis=1)
        design /= np.abs(design).max(axis=0)
        left = soil.truth.ravel() - design @ np.linalg.lstsq(design, soil.truth.ravel(), rcond=None)[0]
        return float(1 - left.var() / soil.truth.var())

    assert explained(columns) > 0.75
    assert explained(columns) > explained(columns[:5]) + 0.02  # the ground adds to the weather


def test_land_cover_has_classes(soil):
    assert set(np.unique(soil.static["land_cover"])) == {0.0, 1.0, 2.0, 3.0}


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="soil-moisture"):
        gappy_stack("snow")
    with pytest.raises(ValueError, match="2 x 2"):
        gappy_stack("sst", 0, (4, 1, 9))
