"""Across formats and back: stored numbers, CRS, coordinates and times survive; what cannot be held is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from stimpute.errors import OutputError, StimputeWarning
from stimpute.io import create_sink, open_source
from stimpute.io.geotiff import open_geotiff
from stimpute.io.geotiff_as_cf import as_cf
from stimpute.io.options import ReadOptions, SinkOptions
from stimpute.protocols import FILLED, OBSERVED, Filled, Window

BARE = SinkOptions(flags=False, uncertainty=False)


def fill(source: Any, out: Path | None, options: SinkOptions = BARE, value: float = 7.0) -> Any:
    """Fill every gap with one value; returns the sink."""
    with create_sink(out, source, options) as sink:
        for number, layer in enumerate(source.layers):
            window = Window.whole(layer.shape)
            flag = np.where(source.read(window, number).valid, OBSERVED, FILLED).astype(np.uint8)
            sink.write(window, Filled(np.full(window.shape, value, np.float32), flag), number)
        sink.commit("2026-01-01T00:00:00Z stimpute fill")
    return sink


def whole(source: Any) -> Window:
    return Window.whole(source.layers[0].shape)


def tiff(path: Path, bands: Any, names: list[str], **profile: Any) -> Path:
    array = np.asarray(bands)
    given = {"crs": "EPSG:32630", "transform": Affine(1000, 0, 500_000, 0, -1000, 4_600_000), **profile}
    count, ny, nx = array.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=ny, width=nx, dtype=array.dtype, **given
    ) as f:
        f.write(array)
        for i, name in enumerate(names, start=1):
            f.set_band_description(i, name)
        f.scales, f.offsets = (0.1,) * count, (-5.0,) * count
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """int16 (2, 3, 4) with scale and offset, dated bands, nodata -99."""
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    values[0, 1, 1] = -99
    return tiff(tmp_path / "a.tif", values, ["2020-01-31", "2020-02-29"], nodata=-99)


def same(a: Any, b: Any) -> None:
    """Two sources hold the same stored numbers on the same cells at the same times."""
    one, two = a.read_stored(whole(a)), b.read_stored(whole(b))
    valid = a.read(whole(a)).valid
    assert one.dtype == two.dtype
    assert np.array_equal(one[valid], two[valid])
    assert np.allclose(a.read(whole(a)).values[valid], b.read(whole(b)).values[valid])
    assert a.time_labels == b.time_labels
    assert np.allclose(a.grid.x, b.grid.x, rtol=1e-12)
    assert np.allclose(a.grid.y, b.grid.y, rtol=1e-12)
    assert a.grid.crs_wkt == b.grid.crs_wkt


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_geotiff_to_cf_and_back(tmp_path: Path, packed: Path, suffix: str) -> None:
    with open_source(packed) as first:
        fill(first, tmp_path / f"b.{suffix}")
        with open_source(tmp_path / f"b.{suffix}") as second:
            same(first, second)
            fill(second, tmp_path / "c.tif")
            with open_source(tmp_path / "c.tif") as third:
                same(first, third)
    with rasterio.open(packed) as before, rasterio.open(tmp_path / "c.tif") as after:
        for name in ("transform", "crs", "nodata", "dtypes", "scales", "offsets", "descriptions"):
            assert getattr(after, name) == getattr(before, name), name
        assert after.read(1)[1, 1] == 120  # (7 + 5) / 0.1


def test_the_cf_header_says_what_the_geotiff_said(tmp_path: Path, packed: Path) -> None:
    with open_source(packed) as source:
        fill(source, tmp_path / "b.nc", SinkOptions())
    with xr.open_dataset(tmp_path / "b.nc", decode_cf=False) as raw:
        assert raw["a"].dims == ("time", "y", "x")
        assert raw["a"].attrs["grid_mapping"] == "spatial_ref"
        assert (
            raw["a"].attrs["scale_factor"],
            raw["a"].attrs["add_offset"],
            raw["a"].attrs["_FillValue"],
        ) == (0.1, -5.0, -99)
        assert raw["spatial_ref"].attrs["GeoTransform"] == "500000.0 1000.0 0.0 4600000.0 0.0 -1000.0"
        assert raw["spatial_ref"].attrs["grid_mapping_name"] == "transverse_mercator"
        assert raw["x"].attrs["standard_name"] == "projection_x_coordinate"
        assert raw["x"].values.tolist() == [500_500, 501_500, 502_500, 503_500]
        assert raw["time"].attrs["units"] == "days since 1970-01-01"
    with xr.open_dataset(tmp_path / "b.nc") as decoded:
        assert [str(t)[:10] for t in decoded["time"].values] == ["2020-01-31", "2020-02-29"]
        assert set(decoded) >= {"a", "a_fill_flag", "a_standard_error"}


def test_degrees_and_hours(tmp_path: Path) -> None:
    names = ["2020-01-31T06:30", "2020-01-31T07:30"]
    path = tiff(
        tmp_path / "a.tif",
        np.ones((2, 2, 3), "f4"),
        names,
        crs="EPSG:4326",
        transform=Affine(1, 0, 5, 0, -1, 50),
        nodata=np.nan,
    )
    with open_source(path) as source:
        dataset = fill(source, None).dataset
    assert dataset["a"].dims == ("time", "lat", "lon")
    assert dataset["lat"].values.tolist() == [49.5, 48.5]
    assert dataset["lon"].attrs["units"] == "degrees_east"
    assert [str(t)[:16] for t in dataset["time"].values] == names


def test_files_of_different_packing_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for day, scale in ((1, 0.1), (2, 0.5)):
        path = tiff(tmp_path / "in" / f"a_2020010{day}.tif", np.array([[[10, -1]]], "i2"), [], nodata=-1)
        with rasterio.open(path, "r+") as file:
            file.scales = (scale,)
    with open_source(tmp_path / "in") as source:
        dataset = fill(source, None).dataset
        assert as_cf(source).alterations
    assert dataset["a"].values.ravel().tolist() == pytest.approx([-4, 7, 0, 7])
    assert "decoded" in dataset.attrs["history"]


def test_an_internal_mask_becomes_a_fill(tmp_path: Path) -> None:
    path = tmp_path / "a_20200101.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=1,
        height=1,
        width=3,
        dtype="float32",
        crs="EPSG:4326",
        transform=Affine(1, 0, 10, 0, -1, 50),
    ) as f:
        f.write(np.array([[[1, 2, 3]]], "f4"))
        f.write_mask(np.array([[True, False, True]]))
    with open_source(path) as source:
        assert fill(source, None).dataset["a"].values.ravel().tolist() == [1, 7, 3]


def test_a_rotated_grid_keeps_its_transform(tmp_path: Path) -> None:
    turned = Affine(1000, 0, 500_000, 0, -1000, 4_600_000) @ Affine.rotation(30)
    path = tiff(
        tmp_path / "a.tif",
        np.ones((2, 3, 4), "i2"),
        ["2020-01-01", "2020-01-02"],
        transform=turned,
        nodata=-1,
    )
    with open_source(path) as source:
        fill(source, tmp_path / "b.nc")
    with pytest.warns(StimputeWarning), open_source(tmp_path / "b.nc") as source:
        fill(source, tmp_path / "c.tif")
    with rasterio.open(tmp_path / "c.tif") as written:
        assert written.transform.almost_equals(turned)


def test_netcdf_to_geotiff(
    tmp_path: Path, gappy: Callable[..., np.ndarray], write_netcdf: Callable[..., Path]
) -> None:
    path = write_netcdf(gappy(), dtype="i2", scale=0.01, offset=10.0, fill=-999)
    with open_source(path) as source:
        fill(source, tmp_path / "out.tif", SinkOptions(), value=12.5)
        with open_geotiff(tmp_path / "out.tif") as again:
            valid = source.read(whole(source)).valid
            assert np.array_equal(
                again.read_stored(whole(again))[valid], source.read_stored(whole(source))[valid]
            )
            assert again.time_labels == source.time_labels
            assert np.allclose(again.read(whole(again)).values[~valid], 12.5)
    with rasterio.open(tmp_path / "out.tif") as written:
        assert (written.crs.to_epsg(), written.nodata, written.scales[0], written.offsets[0]) == (
            4326,
            -999,
            0.01,
            10,
        )
        assert tuple(written.transform)[:6] == pytest.approx((0.1, 0, 4.95, 0, -0.1, 45.05))
        assert written.units[0] == "degC"
    assert (tmp_path / "out_flag.tif").exists()


def test_several_layers_need_a_folder(tmp_path: Path) -> None:
    axes = {
        "time": ("time", np.arange(2), {"units": "days since 2020-01-01"}),
        "lat": [1.0, 2.0],
        "lon": [5.0, 6.0, 7.0],
    }
    values = np.ones((2, 2, 3), "f4")
    values[0, 0, 0] = np.nan
    dataset = xr.Dataset(
        {"a": (("time", "lat", "lon"), values), "b": (("time", "lat", "lon"), 2 * values)}, axes
    )
    source = open_source(dataset, ReadOptions(variables=("all",)))
    with pytest.raises(OutputError, match="folder"):
        create_sink(tmp_path / "out.tif", source, BARE)
    fill(source, tmp_path / "out", SinkOptions(format="GeoTIFF", flags=False, uncertainty=False))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tif", "b.tif"]
    with rasterio.open(tmp_path / "out" / "b.tif") as written:
        assert written.read(1).tolist() == [[7, 2, 2], [2, 2, 2]]
        assert written.transform.e == 1  # ascending latitude stays


def test_grids_that_no_geotiff_can_hold(tmp_path: Path) -> None:
    time = ("time", np.arange(2), {"units": "days since 2020-01-01"})
    values = np.ones((2, 2, 3), "f4")
    uneven = xr.Dataset(
        {"a": (("time", "lat", "lon"), values)}, {"time": time, "lat": [1.0, 2.0], "lon": [5.0, 6.0, 9.0]}
    )
    with pytest.warns(StimputeWarning):
        source = open_source(uneven)
    with pytest.raises(OutputError, match="rectilinear"):
        create_sink(tmp_path / "out.tif", source, BARE)
    lon, lat = np.meshgrid([5.0, 6.0, 7.0], [1.0, 2.0])
    swath = xr.Dataset(
        {"a": (("time", "y", "x"), values)},
        {"time": time, "lon": (("y", "x"), lon), "lat": (("y", "x"), lat)},
    )
    source = open_source(swath)
    with pytest.raises(OutputError, match="curvilinear"):
        create_sink(tmp_path / "out.tif", source, BARE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_a_geostationary_view_in_metres(shared_data: Path, tmp_path: Path) -> None:
    options = ReadOptions(time=("2022-12-14T00", "2022-12-14T01"))
    with open_source(shared_data / "goes_lst_fulldisk/goes16_lst_northamerica.nc", options) as source:
        fill(source, tmp_path / "out.tif", value=280.0)
        with open_geotiff(tmp_path / "out.tif") as again:
            assert again.grid.spacing_km() == pytest.approx(source.grid.spacing_km(), rel=1e-6)
            valid = source.read(whole(source)).valid
            assert np.array_equal(
                again.read_stored(whole(again))[valid], source.read_stored(whole(source))[valid]
            )


@pytest.mark.data
def test_a_rotated_pole_keeps_its_crs_in_the_side_file(shared_data: Path, tmp_path: Path) -> None:
    with open_source(shared_data / "awkward/rotated_pole/tas_rotated_grid_EUR11.nc") as source:
        fill(source, tmp_path / "out.tif")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "out.tif.aux.xml"]
        with open_geotiff(tmp_path / "out.tif", ReadOptions(force=True)) as again:
            assert np.allclose(again.grid.x, source.grid.x, atol=1e-5)
            assert "rotation" in str(again.grid.crs_wkt)


def test_geotiffs_become_one_netcdf_each_in_a_folder(tmp_path, write_geotiffs, gappy, fill_with):
    values = gappy(t=4, ny=6, nx=5)
    paths = write_geotiffs(values)
    sink = fill_with(7.0, paths, Path(f"{tmp_path}/out/"), None, SinkOptions(format="NetCDF"))
    assert sink is not None
    names = [Path(p).with_suffix(".nc").name for p in paths]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(names)
    for number, name in enumerate(names):
        with open_source(paths[number]) as before, open_source(tmp_path / "out" / name) as after:
            assert after.time_labels == before.time_labels
            stack = after.read(Window.whole(after.layers[0].shape))
            seen = np.isfinite(values[number])
            assert np.array_equal(stack.values[0][seen], before.read(Window.whole((1, 6, 5))).values[0][seen])


def test_netcdfs_become_one_geotiff_each_in_a_folder(tmp_path, write_netcdf, gappy, fill_with):
    values = gappy(t=6)
    paths = [write_netcdf(values[k : k + 2], f"f{k}.nc", times=[k, k + 1]) for k in (0, 2, 4)]
    fill_with(
        7.0,
        paths,
        Path(f"{tmp_path}/out/"),
        None,
        SinkOptions(format="GeoTIFF", flags=False, uncertainty=False),
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["f0.tif", "f2.tif", "f4.tif"]
    with rasterio.open(tmp_path / "out" / "f2.tif") as file:
        assert file.count == 2
        assert np.array_equal(file.read()[np.isfinite(values[2:4])], values[2:4][np.isfinite(values[2:4])])


def test_what_only_a_later_file_has_is_named(tmp_path, write_netcdf, gappy, fill_with):
    values = gappy(t=4)
    paths = [write_netcdf(values[k : k + 2], f"f{k}.nc", times=[k, k + 1]) for k in (0, 2)]
    with netCDF4.Dataset(paths[1], "a") as file:
        file.createVariable("extra", "f4", ("time",))[:] = 1
    with pytest.warns(StimputeWarning, match=r"f2\.nc: extra is not in .*f0\.nc; left out"):
        fill_with(7.0, paths, tmp_path / "out.nc", ReadOptions(variables=("sst",)))


def test_dates_that_geotiff_cannot_give_back_are_named(tmp_path, write_netcdf, gappy, fill_with):
    path = write_netcdf(gappy(t=3), calendar="360_day", times=[28, 58, 59])
    with pytest.warns(StimputeWarning, match="2020-02-30 of the 360_day calendar"):
        fill_with(7.0, path, tmp_path / "out.tif", None, BARE)


@pytest.mark.parametrize("target", ["out.nc", "out.zarr", "out.tif", None])
@pytest.mark.parametrize("given", ["nc", "tif"])
def test_a_refused_outlier_is_gone_in_every_format(
    tmp_path, write_netcdf, write_geotiffs, gappy, fill_with, given, target
):
    values = gappy(t=20, missing=0.2)
    values[9, 0, 2] = 60.0
    inputs = write_netcdf(values) if given == "nc" else write_geotiffs(values)
    out = None if target is None else tmp_path / target
    with pytest.warns(StimputeWarning, match=r"1 outliers are treated as gaps"):
        sink = fill_with(15.0, inputs, out, ReadOptions(qc=True), BARE)
    with open_source(sink.dataset if out is None else out) as written:
        after = written.read(whole(written)).with_nan()
    assert np.isnan(after[9, 0, 2])
    assert (after == values).sum() == np.isfinite(values).sum() - 1


@pytest.mark.parametrize(("dtype", "nodata"), [(None, 255), ("uint8", 255), ("float32", np.nan)])
def test_inserted_steps_of_whole_numbers_in_a_raster(tmp_path, fill_with, dtype, nodata):
    values = np.random.default_rng(0).integers(10, 40, (4, 6, 5)).astype("u1")
    dims = ("time", "lat", "lon")
    data = xr.Dataset({"v": (dims, values)}, {d: np.arange(n) * 1.0 for d, n in zip(dims, values.shape)})
    data["time"] = ("time", [0, 1, 3, 4], {"units": "days since 2020-01-01"})
    data.lat.attrs["units"], data.lon.attrs["units"] = "degrees_north", "degrees_east"
    data.to_netcdf(tmp_path / "in.nc")
    out = tmp_path / "out.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        fill_with(5.0, tmp_path / "in.nc", out, ReadOptions(regular=True), SinkOptions(dtype=dtype))
    with rasterio.open(out) as written:
        np.testing.assert_array_equal(written.nodata, nodata)
        assert (written.read_masks(3)[0] == 0).all()  # refused
        assert (written.read(3)[1:] == 5).all()
        np.testing.assert_array_equal(written.read([1, 2, 4, 5]), values)


def test_a_raster_takes_whole_numbers_of_which_all_are_observed_where_no_gap_is_left(tmp_path):
    values = (np.arange(8 * 6 * 6) % 256).reshape(8, 6, 6).astype("u1")
    dims = ("time", "lat", "lon")
    data = xr.Dataset({"v": (dims, values)}, {d: np.arange(n) * 1.0 for d, n in zip(dims, values.shape)})
    data["time"] = ("time", [0, 1, 2, 3, 5, 6, 7, 8], {"units": "days since 2020-01-01"})
    data.lat.attrs["units"], data.lon.attrs["units"] = "degrees_north", "degrees_east"
    data.to_netcdf(tmp_path / "in.nc")
    with open_source(tmp_path / "in.nc", ReadOptions(regular=True)) as source:
        fill(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as written:
        assert written.nodata is None
        np.testing.assert_array_equal(written.read(5), 7)


@pytest.mark.parametrize("name", ["x", "y", "time", "spatial_ref", "lat", "z"])
def test_a_raster_named_as_a_coordinate_keeps_its_values(tmp_path: Path, name: str) -> None:
    path = tiff(
        tmp_path / f"{name}.tif", np.arange(24, dtype=np.int16).reshape(2, 3, 4), ["2020-01-31", "2020-02-29"]
    )
    with open_source(path) as source:
        dataset = fill(source, None).dataset
        fill(source, tmp_path / "out.nc")
        expected = source.read(whole(source)).values
    variable = name if name == "z" else f"{name}_"
    with open_source(tmp_path / "out.nc", ReadOptions(variables=(variable,))) as written:
        np.testing.assert_array_equal(written.read(whole(written)).values, expected)
    assert dataset[variable].dims == ("time", "y", "x")
