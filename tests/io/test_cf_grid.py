"""Grids from coordinates and grid mappings; boxes as index ranges."""

import numpy as np
import pytest
import xarray as xr
from pyproj import CRS

from stimpute.errors import InputError, StimputeWarning, UsageError
from stimpute.grid import Grid
from stimpute.io import ReadOptions, open_source
from stimpute.io.cf_select import select


def grid_of(x, y, names=("x", "y"), attrs=({}, {}), mapping=None, dtype="f8", **extra):
    data = {
        "v": (
            ("time", names[1], names[0]),
            np.ones((2, len(y), len(x)), "f4"),
            {"grid_mapping": "crs"} if mapping else {},
        )
    }
    if mapping:
        data["crs"] = ((), 0, mapping)
    coords = {
        "time": ("time", [0, 1], {"units": "days since 2000-01-01"}),
        names[0]: (names[0], np.asarray(x, dtype), attrs[0]),
        names[1]: (names[1], np.asarray(y, dtype), attrs[1]),
    }
    with open_source(xr.Dataset({**data, **extra}, coords=coords)) as source:
        return source.grid


def test_degrees_without_a_crs():
    grid = grid_of([5, 5.5, 6], [50, 49], ("lon", "lat"))
    assert (grid.kind, grid.units, grid.wraps) == ("affine", "degrees", False)
    assert CRS.from_wkt(grid.crs_wkt).to_epsg() == 4326


def test_float32_rounding_is_not_uneven():
    assert grid_of(np.arange(0, 360, 0.01), [50, 49.99], ("lon", "lat"), dtype="f4").kind == "affine"


def test_longitude_that_spans_the_circle_wraps():
    lon = np.arange(0.5, 360, 1)
    assert grid_of(lon, [0, 1], ("lon", "lat")).wraps
    assert not grid_of(lon[:-5], [0, 1], ("lon", "lat")).wraps


def test_projected_metres_and_kilometres():
    mapping = {"crs_wkt": CRS.from_epsg(32630).to_wkt("WKT1_GDAL")}
    grid = grid_of([0, 1000], [0, -1000], mapping=mapping)
    assert (grid.units, grid.km_per_unit, grid.crs_wkt) == ("length", 1e-3, mapping["crs_wkt"])
    assert grid.spacing_km() == (1.0, 1.0)
    assert grid_of(
        [0, 1], [0, 1], attrs=({"units": "km"}, {"units": "km"}), mapping=mapping
    ).spacing_km() == (1, 1)


def test_geostationary_scan_angles():
    mapping = {"grid_mapping_name": "geostationary", "perspective_point_height": 35786023.0, "semi_major_axis": 6378137.0,
               "semi_minor_axis": 6356752.31, "longitude_of_projection_origin": -75.0, "sweep_angle_axis": "x",
               "latitude_of_projection_origin": 0.0}  # fmt: skip
    rad = {"units": "rad"}
    grid = grid_of([0, 0.00028], [0.1, 0.09972], attrs=(rad, rad), mapping=mapping)
    assert grid.spacing_km()[1] == pytest.approx(10.02, abs=0.01)
    box = select(grid, (-75.2, 34, -74, 36), "EPSG:4326", label="doc")
    assert (box.rows.size, box.cols.size) == (2, 2)


def test_uneven_coordinates_warn():
    with pytest.warns(StimputeWarning, match="unevenly spaced"):
        assert grid_of([0, 1, 3], [0, 1], ("lon", "lat")).kind == "rectilinear"


def test_no_crs_and_no_coordinates_warn():
    with pytest.warns(StimputeWarning, match="distances are counted in cells"):
        assert grid_of([0, 30, 60], [0, 30]).units == "cells"
    bare = xr.Dataset(
        {"v": (("time", "a", "b"), np.ones((2, 3, 4), "f4"))},
        {"time": ("time", [0, 1], {"units": "days since 2000-01-01"})},
    )
    with pytest.warns(StimputeWarning, match="no coordinates"):
        assert open_source(bare).grid.shape == (3, 4)


def test_curvilinear_coordinates_are_kept_in_index_space():
    lon, lat = np.meshgrid(np.arange(5.0), 50 - np.arange(4.0))
    extra = {
        "lon": (("y", "x"), lon + lat / 50, {"units": "degrees_east"}),
        "lat": (("y", "x"), lat, {"units": "degrees_north"}),
    }
    data = xr.Dataset({"v": (("time", "y", "x"), np.ones((2, 4, 5), "f4"), {"coordinates": "lon lat"}), **extra},
                      {"time": ("time", [0, 1], {"units": "days since 2000-01-01"})})  # fmt: skip
    with open_source(data, ReadOptions(bbox=(2.5, 48.5, 6, 51))) as source:
        assert (source.grid.kind, source.grid.shape) == ("curvilinear", (2, 3))
        np.testing.assert_array_equal(source.grid.y[:, 0], [50, 49])


def globe() -> Grid:
    return Grid("affine", (2, 360), np.arange(-179.5, 180), np.array([0.0, 1.0]), "degrees", wraps=True)


def test_a_box_across_the_antimeridian():
    chosen = select(globe(), (178, -1, -178, 2), label="doc")
    assert chosen.cols.tolist() == [358, 359, 0, 1]
    assert chosen.grid.x.tolist() == [178.5, 179.5, 180.5, 181.5]
    assert chosen.rolled


def test_a_box_in_the_other_longitude_convention():
    assert select(globe(), (350, -1, 360, 2), label="doc").grid.x.tolist() == np.arange(-9.5, 0).tolist()
    assert not select(globe(), (-180, -1, 180, 2), label="doc").rolled


def test_boxes_that_make_no_sense():
    with pytest.raises(InputError, match="no cell inside"):
        select(globe(), (0, 10, 1, 20), label="doc")
    with pytest.raises(UsageError, match="not a CRS"):
        select(globe(), (0, 0, 1, 2), "EPSG:potato", label="doc")
    with pytest.raises(InputError, match="needs coordinates"):
        select(Grid.from_shape(3, 3), (0, 0, 1, 1), label="doc")


@pytest.mark.parametrize(("ny", "nx"), [(1, 1), (1, 5), (5, 1)])
def test_lines_and_single_cells(ny, nx):
    assert grid_of(np.arange(nx), np.arange(ny), ("lon", "lat")).shape == (ny, nx)


def test_packed_latitudes_are_decoded():
    packed = ({"units": "degrees_east"}, {"units": "degrees_north", "scale_factor": 0.1})
    np.testing.assert_allclose(
        grid_of([0, 1], [450, 451], ("lon", "lat"), packed, dtype="i2").y, [45.0, 45.1]
    )
