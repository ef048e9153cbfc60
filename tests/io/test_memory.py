"""xarray objects in, xarray objects out."""

import cftime
import numpy as np
import pytest
import xarray as xr

from stimpute.io import ReadOptions, open_source
from stimpute.protocols import Window


@pytest.fixture
def dataset(gappy):
    values = gappy()
    return xr.Dataset(
        {
            "sst": (("time", "lat", "lon"), values, {"units": "degC"}),
            "depth": (("lat", "lon"), values[0] * 0 + 1),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns") + np.arange(6).astype("timedelta64[D]"),
            "lat": ("lat", 50 - 0.5 * np.arange(8), {"standard_name": "latitude"}),
            "lon": ("lon", 0.5 * np.arange(10), {"standard_name": "longitude"}),
            "label": ("time", list("abcdef")),
        },
        attrs={"title": "kept"},
    )


def test_a_dataset_comes_back_with_its_gaps_filled(dataset, fill_with):
    before = dataset.copy(deep=True)
    result = fill_with(1.0, dataset, None).dataset
    xr.testing.assert_identical(dataset, before)
    for name in dataset.coords:
        xr.testing.assert_identical(result[name], dataset[name])
    np.testing.assert_array_equal(result.sst.where(result.sst_fill_flag == 0), dataset.sst)
    assert set(np.unique(result.sst_fill_flag)) == {0, 1, 2}
    assert np.isnan(result.sst_standard_error.values[result.sst_fill_flag.values != 1]).all()
    assert result.attrs["title"] == "kept"
    assert result.sst.attrs["units"] == "degC"


def test_a_data_array_without_a_name(dataset, fill_with):
    array = dataset.sst.rename(None)
    assert "data" in fill_with(1.0, array, None).dataset


def test_dask_arrays_stay_lazy(dataset):
    with open_source(dataset.chunk(time=2)) as source:
        assert source.read(Window((0, 2), (0, 8), (0, 10))).shape == (2, 8, 10)


def test_float64_is_not_rounded(dataset, fill_with):
    fine = dataset.assign(sst=dataset.sst.astype("f8") + 1e-12)
    result = fill_with(1.0, fine, None).dataset
    assert result.sst.dtype == np.float64
    np.testing.assert_array_equal(result.sst.where(result.sst_fill_flag == 0), fine.sst)


def test_other_calendars(dataset, fill_with):
    dates = [cftime.datetime(1500, 2, 25 + i, calendar="360_day") for i in range(6)]
    result = fill_with(1.0, dataset.assign_coords(time=dates), None).dataset
    assert result.time.values[5] == dates[5]


def test_stations_come_back_as_stations(gappy, fill_with):
    values = gappy()[:, 0]
    at = {"lon": ("station", np.arange(10.0), {"units": "degrees_east"}), "lat": ("station", np.arange(10.0), {"units": "degrees_north"})}  # fmt: skip
    times = np.datetime64("2020-01-01", "ns") + np.arange(6).astype("timedelta64[D]")
    given = xr.Dataset({"t": (("time", "station"), values)}, {"time": times, **at})
    result = fill_with(1.0, given, None, ReadOptions(time=("2020-01-02", ""))).dataset
    assert result.t.dims == ("time", "station")
    np.testing.assert_array_equal(result.t.where(result.t_fill_flag == 0), given.t[1:])
    xr.testing.assert_identical(result.lon, given.lon)


def test_selection_and_time(dataset, fill_with):
    result = fill_with(1.0, dataset, None, ReadOptions(time=("2020-01-02", "2020-01-03"))).dataset
    assert result.sizes["time"] == 2
    assert result.label.values.tolist() == ["b", "c"]


def test_raw_objects_mean_what_their_attributes_say(gappy, write_netcdf, fill_with):
    path = write_netcdf(gappy(), dtype="i2", scale=0.01)
    with xr.open_dataset(path, decode_cf=False) as raw:
        result = fill_with(1.0, raw, None).dataset
    assert result.sst.dtype == np.int16
    assert set(result.sst.values[result.sst_fill_flag.values == 1].tolist()) == {100}


def test_a_file_without_an_output_is_decoded(gappy, write_netcdf, fill_with):
    result = fill_with(1.0, write_netcdf(gappy(), dtype="i2", scale=0.01), None).dataset
    assert np.issubdtype(result.time.dtype, np.datetime64)
    assert float(result.sst.where(result.sst_fill_flag == 1).max()) == pytest.approx(1.0)


def test_in_memory_to_netcdf(dataset, fill_with, tmp_path):
    fill_with(1.0, dataset, tmp_path / "out.nc")
    with xr.open_dataset(tmp_path / "out.nc") as written:
        np.testing.assert_array_equal(written.sst.where(written.sst_fill_flag == 0), dataset.sst)
        assert written.label.values.tolist() == list("abcdef")


def test_big_integers_and_halves_keep_their_numbers(fill_with, tmp_path):
    coords = {
        "time": ("time", [0, 1], {"units": "days since 2000-01-01"}),
        "lat": [0.0, 1.0],
        "lon": [0.0, 1.0],
    }
    big = np.array([[[1, 2], [2**62 + 1, -5]], [[3, 4], [7, 2**53 + 1]]], dtype="i8")
    halves = np.where(big < 10, big, np.nan).astype("f2")
    data = xr.Dataset(
        {
            "n": (("time", "lat", "lon"), big, {"_FillValue": np.int64(-5)}),
            "h": (("time", "lat", "lon"), halves),
        },
        coords,
    )
    for out in (tmp_path / "out.nc", tmp_path / "out.zarr"):
        fill_with(3.0, data, out, ReadOptions(variables=("n", "h")))
        with open_source(out, ReadOptions(variables=("n", "h"))) as source:
            window = Window.whole(source.layers[0].shape)
            after = source.read_stored(window, 0)
            assert after[big != -5].tolist() == big[big != -5].tolist()
            known = np.isfinite(halves)
            np.testing.assert_array_equal(source.read_stored(window, 1)[known], halves[known])
