"""Awkward grids: rows 27 to 43."""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

SINUSOIDAL = (
    'PROJCS["Custom sphere sinusoidal",GEOGCS["Sphere",DATUM["Sphere",SPHEROID["Sphere",6371007.181,0]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Sinusoidal"],PARAMETER["longitude_of_center",0],'
    'PARAMETER["false_easting",0],PARAMETER["false_northing",0],UNIT["metre",1]]'
)


def write(path, values, lat, lon, *, attributes=None, mapping=None):
    """A NetCDF stack on given 1-D or 2-D coordinates; ``mapping``: a CF grid mapping."""
    ny, nx = values.shape[1:]
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", len(values)), ("y", ny), ("x", nx)):
            file.createDimension(name, size)
        axis = file.createVariable("time", "f8", ("time",))
        axis.units, axis[:] = "days since 2020-01-01", np.arange(len(values))
        curvilinear = np.ndim(lat) == 2
        for name, dim, units, at in (("lat", "y", "degrees_north", lat), ("lon", "x", "degrees_east", lon)):
            c = file.createVariable(name if curvilinear else dim, "f8", ("y", "x") if curvilinear else (dim,))
            c.units, c.standard_name, c[:] = units, "latitude" if name == "lat" else "longitude", at
        data = file.createVariable("sst", "f4", ("time", "y", "x"), fill_value=np.nan)
        data.setncatts(attributes or {})
        if curvilinear:
            data.coordinates = "lat lon"
        if mapping:
            file.createVariable("crs", "i4").setncatts(mapping)
            data.grid_mapping = "crs"
        data[:] = values
    return path


def count(outcome, values):
    observed, filled, refused = outcome.counts
    assert observed == np.isfinite(values).sum()
    assert (filled, refused) == (np.isnan(values).sum(), 0)


def test_27_ascending_latitude_stays_ascending(tmp_path, gappy, fill):
    values = gappy()
    outcome = fill(write(tmp_path / "in.nc", values, np.linspace(40, 41, 8), np.linspace(5, 6, 10)))
    count(outcome, values)
    assert (np.diff(outcome.stored("y")) > 0).all()


def test_27_a_south_up_raster_stays_so(gappy, write_geotiffs, fill):
    values = gappy()
    paths = write_geotiffs(values)
    for path in paths:
        with rasterio.open(path, "r+") as file:
            file.transform = Affine(1000, 0, 500000, 0, 1000, 4500000)
    outcome = fill(paths, "out.tif")
    count(outcome, values)
    with rasterio.open(outcome.out) as file:
        assert file.transform.e == 1000


def test_28_packed_latitude(tmp_path, gappy, write_netcdf, fill):
    values = gappy()
    source = write_netcdf(values)
    packed = tmp_path / "packed.nc"
    with netCDF4.Dataset(source) as a, netCDF4.Dataset(packed, "w") as b:
        for name, dimension in a.dimensions.items():
            b.createDimension(name, dimension.size)
        for name, v in a.variables.items():
            w = b.createVariable(
                name,
                "i2" if name == "lat" else v.dtype,
                v.dimensions,
                fill_value=getattr(v, "_FillValue", None),
            )
            w.setncatts({k: v.getncattr(k) for k in v.ncattrs() if k != "_FillValue"})
            if name == "lat":
                w.scale_factor = 0.1
            w[:] = v[:]
    count(fill(packed), values)


def test_29_longitude_from_0_to_360_is_kept(tmp_path, gappy, fill):
    values = gappy(nx=12)
    outcome = fill(write(tmp_path / "in.nc", values, np.linspace(60, -60, 8), np.arange(15, 360, 30)))
    count(outcome, values)
    assert outcome.stored("x").max() == 345


def test_30_a_global_grid_has_no_seam(tmp_path, fill):
    """Columns beyond the antimeridian are neighbours: the same map, turned by 180 degrees, gets the same answer."""
    rng = np.random.default_rng(0)
    lon, lat = np.arange(-177.5, 180, 5), np.linspace(40, -40, 17)
    phase = np.radians(lon)[None, None] * np.array([1, 2, 3])[:, None, None]
    values = (np.cos(phase) + np.cos(np.radians(lat))[None, :, None]).astype("f4")
    values[rng.random(values.shape) < 0.3] = np.nan
    values[0, :, :2] = values[0, :, -2:] = np.nan
    here = fill(write(tmp_path / "here.nc", values, lat, lon), "a.nc", method="dct-pls")
    turned = fill(
        write(tmp_path / "turned.nc", np.roll(values, 36, axis=2), lat, lon + 180), "b.nc", method="dct-pls"
    )
    error = np.abs(here.stored("sst") - np.roll(turned.stored("sst"), -36, axis=2))
    flat = fill(write(tmp_path / "flat.nc", values, lat, lon), "c.nc", method="dct-pls", no_wrap=True)
    cut = np.abs(here.stored("sst") - flat.stored("sst"))
    assert np.nanmean(error[0, :, :2]) < 0.2 * np.nanmean(cut[0, :, :2])


def test_31_a_box_across_the_antimeridian(tmp_path, gappy, fill):
    values = gappy(nx=36)
    source = write(tmp_path / "in.nc", values, np.linspace(40, 33, 8), np.arange(-175, 180, 10))
    outcome = fill(source, bbox=(160, 30, -160, 45))
    assert outcome.counts[0] == np.isfinite(values[:, :, [34, 35, 0, 1]]).sum()
    assert len(outcome.stored("x")) == 4


def test_32_rows_at_the_poles(tmp_path, gappy, fill):
    values = gappy(ny=9, nx=12)
    count(fill(write(tmp_path / "in.nc", values, np.linspace(90, -90, 9), np.arange(0, 360, 30))), values)


def test_33_a_rotated_transform_is_kept(gappy, write_geotiffs, fill):
    values = gappy()
    paths = write_geotiffs(values)
    turned = Affine(900, 100, 500000, 100, -900, 4500000)
    for path in paths:
        with rasterio.open(path, "r+") as file:
            file.transform = turned
    outcome = fill(paths, "out.tif")
    count(outcome, values)
    with rasterio.open(outcome.out) as file:
        assert file.transform == turned


def test_34_curvilinear_coordinates_are_kept(tmp_path, gappy, fill):
    values = gappy()
    y, x = np.mgrid[0:8, 0:10]
    outcome = fill(write(tmp_path / "in.nc", values, 40 + 0.1 * y + 0.02 * x, 5 + 0.1 * x - 0.03 * y))
    count(outcome, values)
    assert outcome.stored("lat").shape == (8, 10)


def test_35_uneven_coordinates_are_said(tmp_path, gappy, fill):
    values = gappy()
    outcome = fill(
        write(tmp_path / "in.nc", values, np.array([50, 49, 47, 46, 42, 41, 40, 33.0]), np.arange(10.0))
    )
    count(outcome, values)
    assert "uneven" in outcome.warned


def test_36_no_crs_is_said(gappy, write_geotiffs, fill):
    values = gappy()
    outcome = fill(write_geotiffs(values, crs=None), "out.tif")
    count(outcome, values)
    assert "CRS" in outcome.warned


@pytest.mark.parametrize("wkt", [SINUSOIDAL, "EPSG:7415"])
def test_37_unusual_crs_come_out_word_for_word(gappy, write_geotiffs, fill, wkt):
    values = gappy()
    paths = write_geotiffs(values, crs=CRS.from_user_input(wkt))
    outcome = fill(paths, "out.tif")
    count(outcome, values)
    with rasterio.open(outcome.out) as after, rasterio.open(paths[0]) as before:
        assert after.crs.to_wkt() == before.crs.to_wkt()


def test_38_coordinates_that_differ_by_rounding_are_one_grid(tmp_path, gappy, write_netcdf, fill):
    values = gappy()
    first = write_netcdf(values[:3], "a.nc", times=[0, 1, 2])
    second = write_netcdf(values[3:], "b.nc", times=[3, 4, 5])
    with netCDF4.Dataset(second, "a") as file:
        file["lat"][:] = file["lat"][:] + 1e-12
    count(fill([first, second]), values)


@pytest.mark.parametrize("shift", [500, 1000 * 40])
def test_39_files_on_other_grids_are_named(gappy, write_geotiffs, refuses, shift):
    paths = write_geotiffs(gappy(t=2))
    with rasterio.open(paths[1], "r+") as file:
        file.transform = Affine(1000, 0, 500000 + shift, 0, -1000, 4600000)
    said = refuses(paths, "out.tif")
    assert paths[0].name in said
    assert paths[1].name in said


def test_39_another_resolution_is_named(gappy, write_geotiffs, refuses):
    paths = write_geotiffs(gappy(t=1)) + write_geotiffs(
        gappy(t=1, ny=4, nx=5), "other", pattern="sst_202002{day:02d}.tif"
    )
    said = refuses(paths, "out.tif")
    assert paths[1].name in said


@pytest.mark.parametrize(("ny", "nx"), [(1, 9), (9, 1), (1, 1), (3, 17)])
def test_40_41_small_and_narrow_grids(gappy, write_geotiffs, fill, ny, nx):
    values = gappy(ny=ny, nx=nx)
    count(fill(write_geotiffs(values), "out.tif"), values)


def test_41_a_single_cell_of_a_netcdf_stack(gappy, write_netcdf, fill):
    values = gappy(ny=1, nx=1)
    count(fill(write_netcdf(values)), values)


def test_42_degrees_far_north_have_distances_in_km(tmp_path, gappy):
    from stimpute import io

    source = write(tmp_path / "in.nc", gappy(), np.linspace(75, 74.3, 8), np.linspace(10, 10.9, 10))
    with io.open_source([source]) as opened:
        down, across = opened.grid.spacing_km()
    assert across / down == pytest.approx(np.cos(np.radians(74.65)), rel=0.02)


def test_43_pure_noise_has_no_range_and_that_is_said(write_netcdf, fill):
    values = np.random.default_rng(0).normal(size=(4, 12, 12)).astype("f4")
    values[0, 3:5, 3:5] = np.nan
    assert "range" in fill(write_netcdf(values)).warned
