"""A grid cut finer: corners, orientation, CRS, times, attributes, in every format."""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import rasterio

from stimpute import io
from stimpute.errors import InputError
from stimpute.protocols import FILLED, Filled, Window


def written(source, factor, out, **options):
    """Ramp values written onto the refined grid."""
    fine = io.refine(source, factor)
    shape = fine.layers[0].shape
    values = np.broadcast_to(np.arange(shape[2], dtype=np.float32), shape).copy()
    with io.create_sink(
        out, fine, io.SinkOptions(format=io.output_format(out, source, io.SinkOptions()), **options)
    ) as sink:
        sink.write(
            Window.whole(shape),
            Filled(values, np.full(shape, FILLED, np.uint8), members=np.stack([values, values + 1])),
        )
        sink.commit("refined")
    return values


def edges(centres):
    """Outer edges of an evenly spaced axis."""
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    return centres[0] - step / 2, centres[-1] + step / 2


def test_netcdf_keeps_corners_orientation_times_and_attributes(tmp_path, write_netcdf, gappy):
    path = write_netcdf(gappy(t=4, ny=5, nx=7), calendar="noleap", attributes={"long_name": "sea"})
    with io.open_source(path) as source:
        values = written(source, 3, tmp_path / "out.nc")
    with netCDF4.Dataset(path) as before, netCDF4.Dataset(tmp_path / "out.nc") as after:
        for name in ("lat", "lon"):
            assert np.allclose(edges(before[name][:]), edges(after[name][:]), atol=1e-9)
            assert after[name].units == before[name].units
        assert after["lat"][0] > after["lat"][-1]  # north up, as it was
        assert after["time"].calendar == "noleap"
        assert np.array_equal(after["time"][:], before["time"][:])
        assert after["sst"].long_name == "sea"
        assert np.array_equal(after["sst"][:], values)
        assert after.history.endswith("refined")


def test_longitudes_wrap_and_latitudes_ascend_as_they_did(tmp_path, write_netcdf, gappy):
    path = write_netcdf(gappy(t=2, ny=4, nx=6))
    with netCDF4.Dataset(path, "a") as file:
        file["lon"][:] = np.arange(0, 360, 60.0)
        file["lat"][:] = np.arange(-45.0, 46, 30)
    with io.open_source(path) as source:
        fine = io.refine(source, 2)
        assert source.grid.wraps
        assert fine.grid.wraps
        assert np.allclose(fine.grid.x[:3], [-15, 15, 45])
        assert np.allclose(edges(fine.grid.y), (-60, 60))


def test_bounds_follow_the_cells(tmp_path, write_netcdf, gappy):
    path = write_netcdf(gappy(t=2, ny=3, nx=3))
    with netCDF4.Dataset(path, "a") as file:
        file.createDimension("nv", 2)
        file["lat"].bounds = "lat_bnds"
        bounds = file.createVariable("lat_bnds", "f8", ("lat", "nv"))
        bounds[:] = file["lat"][:][:, None] + np.array([0.05, -0.05])
    with io.open_source(path) as source:
        written(source, 2, tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as after:
        assert np.allclose(after["lat_bnds"][:].mean(axis=1), after["lat"][:])
        assert np.allclose(after["lat_bnds"][0], [45.05, 45.0])


@pytest.mark.parametrize("start", [300.0, 120.0])
def test_bounds_do_not_go_round_the_globe(start, write_netcdf, gappy):
    """Over Greenwich (0 to 360) and over the date line (-180 to 180)."""
    path = write_netcdf(gappy(t=2, ny=3, nx=6))
    turn = 0.0 if start == 300 else -180.0
    centres = (start + 22.5 * np.arange(6) - turn) % 360 + turn
    with netCDF4.Dataset(path, "a") as file:
        file["lon"][:] = centres
        file["lon"].bounds = "lon_bnds"
        file.createDimension("nv", 2)
        both = centres[:, None] + np.array([-11.25, 11.25])
        file.createVariable("lon_bnds", "f8", ("lon", "nv"))[:] = (both - turn) % 360 + turn
    with pytest.warns(UserWarning, match="unevenly spaced"):
        opened = io.open_source(path)
    with opened as source:
        fine = io.refine(source, 2).files[0]
    lon, edges = fine.variables["lon"].read(), fine.variables["lon_bnds"].read()
    assert np.allclose(np.diff(edges, axis=1), 11.25)
    assert np.allclose(edges.mean(axis=1), lon)
    assert np.allclose(lon.reshape(6, 2).mean(axis=1), centres)


@pytest.mark.parametrize("north_up", [True, False])
def test_rows_at_the_poles_end_there(write_netcdf, gappy, north_up):
    path = write_netcdf(gappy(t=2, ny=7, nx=4))
    order = slice(None, None, -1) if north_up else slice(None)
    with netCDF4.Dataset(path, "a") as file:
        file["lat"][:] = np.linspace(-90, 90, 7)[order]
        file["lon"][:] = np.arange(4) * 90.0
        file["lat"].bounds = "lat_bnds"
        file.createDimension("nv", 2)
        rows = np.clip(np.linspace(-90, 90, 7)[:, None] + np.array([-15, 15]), -90, 90)
        file.createVariable("lat_bnds", "f8", ("lat", "nv"))[:] = rows[order]
    with io.open_source(path) as source:
        fine = io.refine(source, 3).files[0]
    lat, edges = fine.variables["lat"].read(), fine.variables["lat_bnds"].read()
    assert np.abs(lat).max() < 90
    assert (np.diff(lat[order]) > 0).all()
    assert ((edges.min(axis=1) < lat) & (lat < edges.max(axis=1))).all()
    assert np.allclose(lat[3:-3], np.linspace(-70, 70, 15)[order])


@pytest.mark.parametrize("suffix", [".nc", ".tif"])
def test_rows_at_the_poles_of_rasters_stay_even(tmp_path, write_netcdf, gappy, suffix):
    """A GeoTIFF has no uneven rows, and its rows at the poles reach beyond them as they did."""
    path = write_netcdf(gappy(t=2, ny=7, nx=4))
    with netCDF4.Dataset(path, "a") as file:
        file["lat"][:] = np.linspace(90, -90, 7)
        file["lon"][:] = np.arange(4) * 90.0
    with (
        io.open_source(path) as source,
        io.create_sink(tmp_path / "in.tif", source, io.SinkOptions(flags=False, uncertainty=False)) as sink,
    ):
        window = Window.whole(source.layers[0].shape)
        stack = source.read(window)
        sink.write(window, Filled(stack.values, np.where(stack.valid, 0, FILLED).astype(np.uint8)))
        sink.commit("filled")
    with io.open_source(tmp_path / "in.tif" if suffix == ".tif" else path) as source:
        fine = io.refine(source, 2, even=suffix == ".nc")
        assert fine.grid.kind == "affine"
        assert np.allclose(np.diff(fine.grid.y), -15)


def test_a_stated_transform_is_left_out_where_rows_are_uneven(tmp_path, write_netcdf, gappy):
    path = write_netcdf(gappy(t=2, ny=7, nx=4))
    with netCDF4.Dataset(path, "a") as file:
        file["lat"][:] = np.linspace(90, -90, 7)
        file["lon"][:] = np.arange(4) * 90.0
        crs = file.createVariable("crs", "i4", ())
        crs.grid_mapping_name, crs.GeoTransform = "latitude_longitude", "-45 90 0 105 0 -30"
        file["sst"].grid_mapping = "crs"
    with io.open_source(path) as source:
        fine, even = (io.refine(source, 2, even=even).files[0].variables["crs"] for even in (False, True))
    assert "GeoTransform" not in fine.attrs
    assert even.attrs["GeoTransform"].split()[-1] == "-15.0"


def test_stations_are_refused():
    import xarray as xr

    places = {"lon": ("station", [1.0, 2.0]), "lat": ("station", [3.0, 4.0])}
    data = xr.Dataset(
        {"v": (("time", "station"), np.ones((3, 2)))},
        {"time": np.arange("2020-01", "2020-04", dtype="M8[M]").astype("M8[ns]"), **places},
    )
    with io.open_source(data) as source, pytest.raises(InputError, match="stations"):
        io.refine(source, 2)


def test_what_lies_on_coarse_cells_is_left_out_with_a_warning(write_netcdf, gappy):
    path = write_netcdf(gappy(t=2, ny=3, nx=4))
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("area", "f4", ("lat", "lon"))[:] = 1
    with io.open_source(path) as source, pytest.warns(UserWarning, match="area lie on the coarse cells"):
        fine = io.refine(source, 2)
    assert "area" not in fine.files[0].variables


def test_packed_integers_stay_packed(tmp_path, write_netcdf, gappy):
    path = write_netcdf(gappy(t=2, ny=3, nx=4), dtype="i2", scale=0.01, offset=20.0)
    with io.open_source(path) as source:
        values = written(source, 2, tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as after:
        assert after["sst"].dtype == np.int16
        assert np.allclose(after["sst"][:], values, atol=0.005)


def test_members_lie_along_a_dimension_of_their_own(tmp_path, write_netcdf, gappy):
    path = write_netcdf(gappy(t=2, ny=3, nx=4))
    with io.open_source(path) as source:
        values = written(source, 2, tmp_path / "out.nc", members=2)
    with netCDF4.Dataset(tmp_path / "out.nc") as after:
        assert after["sst_members"].dimensions == ("realization", "time", "lat", "lon")
        assert np.array_equal(after["sst_members"][1], values + 1)


def test_geotiffs_become_one_with_the_same_corners(tmp_path, write_geotiffs, gappy):
    paths = write_geotiffs(gappy(t=3, ny=5, nx=6))
    with io.open_source(paths) as source:
        values = written(source, 4, tmp_path / "out.tif", members=2)
    with rasterio.open(paths[0]) as before, rasterio.open(tmp_path / "out.tif") as after:
        assert after.bounds == before.bounds
        assert after.crs == before.crs
        assert (after.height, after.width, after.count) == (20, 24, 3)
        assert after.descriptions[1].startswith("2020-01-02")
        assert np.array_equal(after.read(2), values[1])
    assert (tmp_path / "out_member02.tif").exists()


def test_a_rotated_geotiff_keeps_its_corners(tmp_path):
    transform = (
        rasterio.Affine.translation(5e5, 4e6)
        * rasterio.Affine.rotation(20)
        * rasterio.Affine.scale(900, -900)
    )
    path = tmp_path / "turned_20200101.tif"
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "nodata": -1.0, "crs": "EPSG:32630"}
    with rasterio.open(path, "w", height=4, width=6, transform=transform, **profile) as file:
        file.write(np.arange(24, dtype=np.float32).reshape(1, 4, 6))
    with io.open_source(path) as source:
        written(source, 2, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as after:
        assert np.allclose(
            after.transform @ (0, 0) if hasattr(transform, "__matmul__") else after.transform * (0, 0),
            (5e5, 4e6),
        )
        assert np.allclose(
            np.array(after.transform)[:6], np.array(transform * rasterio.Affine.scale(0.5))[:6]
        )


def test_zarr_and_curvilinear_coordinates(tmp_path):
    import xarray as xr

    y, x = np.meshgrid(np.arange(3.0), np.arange(4.0), indexing="ij")
    data = xr.Dataset(
        {"t": (("time", "j", "i"), np.ones((2, 3, 4), "f4"), {"coordinates": "lat lon"})},
        coords={
            "time": ("time", [0, 1], {"units": "days since 2000-01-01"}),
            "lat": (("j", "i"), 50 + y + 0.1 * x, {"units": "degrees_north"}),
            "lon": (
                ("j", "i"),
                179.0 + x - 0.1 * y - 360 * (179.0 + x - 0.1 * y > 180),
                {"units": "degrees_east"},
            ),
        },
    )
    with io.open_source(data) as source:
        fine = io.refine(source, 2)
        written(source, 2, tmp_path / "out.zarr")
    assert fine.grid.kind == "curvilinear"
    assert np.allclose(np.diff(fine.grid.x, axis=1), 0.5)
    assert np.allclose(np.diff(fine.grid.y, axis=0), 0.5)
    assert xr.open_zarr(tmp_path / "out.zarr", decode_times=False)["t"].shape == (2, 6, 8)
