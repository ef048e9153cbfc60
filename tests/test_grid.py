"""Where cells are, and how far apart: against geodesics of PROJ and by hand."""

import math

import numpy as np
import pytest
from pyproj import Geod

from stimpute.grid import Grid, geodesic_km

GEOD = Geod(ellps="WGS84")


def degrees(lon, lat, **kwargs):
    return Grid(
        "affine", (len(lat), len(lon)), np.array(lon, float), np.array(lat, float), "degrees", **kwargs
    )


@pytest.mark.parametrize(
    ("reach", "relative"),
    [(0.01, 1e-5), (1.0, 1e-5), (60.0, 1e-3)],
)
def test_distances_agree_with_proj(reach, relative):
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 500), rng.uniform(-89, 89, 500)
    lon1, lat1 = (
        lon + rng.uniform(-reach, reach, 500),
        np.clip(lat + rng.uniform(-reach, reach, 500), -90, 90),
    )
    expected = GEOD.inv(lon, lat, lon1, lat1)[2] / 1000
    np.testing.assert_allclose(geodesic_km(lon, lat, lon1, lat1), expected, rtol=relative, atol=1e-6)


def test_distances_at_the_ends():
    assert geodesic_km(10, 50, 10, 50) == 0
    assert geodesic_km(179.5, 0, -179.5, 0) == pytest.approx(111.319, abs=1e-3)
    assert geodesic_km(0, 0, 180, 0) == pytest.approx(20_000, rel=0.005)
    assert geodesic_km(0, 90, 77, 90) == pytest.approx(0, abs=1e-6)
    assert math.isnan(geodesic_km(0, np.nan, 1, 1))


def test_coordinates_and_distance_by_kind():
    affine = Grid("affine", (2, 3), np.array([0.0, 10, 20]), np.array([5.0, 0]), "length", 0.001)
    assert [c.tolist() for c in affine.coordinates([1], [2])] == [[20.0], [0.0]]
    assert affine.distance_km([0], [0], [1], [1]).tolist() == pytest.approx([math.hypot(10, 5) / 1000])
    x, y = np.meshgrid([0.0, 3.0], [0.0, 4.0])
    assert Grid("curvilinear", (2, 2), x, y, "cells").distance_km([0], [0], [1], [1]).tolist() == [5.0]
    points = Grid("points", (1, 2), np.array([0.0, 3.0]), np.array([0.0, 4.0]), "length")
    assert points.distance_km([0], [0], [0], [1]).tolist() == [5.0]


def test_spacing():
    down, across = degrees([0, 1, 2], [60, 61]).spacing_km()
    assert down == pytest.approx(GEOD.inv(0, 60, 0, 61)[2] / 1000, rel=1e-4)
    assert across == pytest.approx(GEOD.inv(0, 61, 1, 61)[2] / 1000, rel=1e-4)
    assert Grid.from_shape(1, 5).spacing_km() == (0.0, 1.0)
    assert Grid.from_shape(1, 1).spacing_km() == (0.0, 0.0)


def test_window_and_coarsen():
    grid = Grid.from_shape(10, 12)
    part = grid.window(slice(2, 5), slice(4, None))
    assert (part.shape, part.y.tolist(), part.x.tolist()[:2]) == ((3, 8), [2, 3, 4], [4, 5])
    coarse = grid.coarsen(3)
    assert (coarse.shape, coarse.y.tolist(), coarse.x.tolist()) == ((3, 4), [1, 4, 7], [1, 4, 7, 10])
    assert grid.coarsen(50).shape == (1, 1)
    x, y = np.meshgrid(np.arange(4.0), np.arange(3.0))
    assert Grid("curvilinear", (3, 4), x, y, "cells").window(slice(1, 3), slice(0, 2)).x.shape == (2, 2)


def test_a_part_of_the_globe_does_not_wrap():
    globe = degrees(range(0, 360, 90), [0, 1], wraps=True)
    assert globe.window(slice(0, 1), slice(None)).wraps
    assert not globe.window(slice(None), slice(0, 3)).wraps


@pytest.mark.parametrize(
    ("kind", "shape", "nx", "ny"),
    [
        ("affine", (2, 3), 2, 3),
        ("rectilinear", (2, 3), 3, 3),
        ("points", (2, 3), 3, 3),
        ("points", (1, 3), 3, 2),
    ],
)
def test_contradictory_shapes(kind, shape, nx, ny):
    with pytest.raises(ValueError, match="grid"):
        Grid(kind, shape, np.zeros(nx), np.zeros(ny), "cells")
