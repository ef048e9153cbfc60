"""What comes after a stack: its times in every calendar, and the file that would come next."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import xarray as xr

from stimpute import io
from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.io.future import future_of
from stimpute.protocols import FILLED, REFUSED, Filled, Window


def stack(times, shape=(3, 4), dtype="float32", **more):
    values = np.random.default_rng(0).normal(size=(len(times), *shape)).astype(np.float32) + 10
    fields = {"v": (("time", "lat", "lon"), values, {"units": "K", "ancillary_variables": "quality"}), **more}
    coords = {"time": times, "lat": ("lat", np.arange(shape[0]) * 1.0, {"units": "degrees_north"}),
              "lon": ("lon", np.arange(shape[1]) * 1.0, {"units": "degrees_east"})}  # fmt: skip
    return xr.Dataset(fields, coords, {"title": "a stack", "history": "made"})


def stamps(dataset, steps=3, every=None):
    with io.open_source(dataset) as source:
        return [s.removesuffix("T00:00:00") for s in future_of(source, steps, every).stamps]


def test_steps_go_on_at_the_median_distance():
    assert stamps(stack(np.arange("2020-02-26", "2020-02-29", dtype="M8[D]").astype("M8[ns]"))) == [
        "2020-02-29", "2020-03-01", "2020-03-02",
    ]  # fmt: skip


def test_hours_go_on_over_midnight():
    times = np.datetime64("2020-01-01T18:30", "ns") + np.arange(5) * np.timedelta64(1, "h")
    assert stamps(stack(times), 2) == ["2020-01-01T23:30:00", "2020-01-02T00:30:00"]


def test_months_go_on_as_calendar_months():
    times = np.arange("2019-10", "2020-01", dtype="M8[M]").astype("M8[ns]")
    assert stamps(stack(times)) == ["2020-01-01", "2020-02-01", "2020-03-01"]


def test_ends_of_months_stay_ends_of_months():
    assert stamps(stack(np.array(["2019-10-31", "2019-11-30", "2019-12-31"], dtype="M8[ns]"))) == [
        "2020-01-31", "2020-02-29", "2020-03-31",
    ]  # fmt: skip


@pytest.mark.parametrize(("calendar", "expected"), [("360_day", "2001-02-30"), ("noleap", "2001-03-01")])
def test_other_calendars_are_kept(calendar, expected):
    times = xr.date_range("2001-02-26", periods=3, freq="D", calendar=calendar, use_cftime=True)
    assert stamps(stack(times), 2 if calendar == "360_day" else 1)[-1] == expected


def test_missing_steps_are_places_left_empty():
    times = np.array(["2020-01-01", "2020-01-02", "2020-01-05", "2020-01-06"], dtype="M8[ns]")
    with io.open_source(stack(times)) as source:
        assert future_of(source, 1).slots.tolist() == [-5, -4, -1, 0]


def test_a_single_step_is_refused():
    with pytest.raises(InputError, match="one time step"):
        stamps(stack(np.array(["2020-01-01"], dtype="M8[ns]")))


def test_irregular_times_are_refused_and_every_settles_them():
    days = np.cumsum([0, 1.4, 2.5, 0.6, 3.3, 1.5, 2.45, 0.4])
    times = np.datetime64("2020-01-01", "ns") + (days * 86400).astype("m8[s]")
    with pytest.raises(InputError, match="--every"):
        stamps(stack(times))
    assert len(stamps(stack(times), 2, every=1.0)) == 2
    with pytest.raises(InputError, match=r"--every 1e-06 days is less than a second; .* --every 1h"):
        stamps(stack(times), 2, every=1e-6)


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".tif"])
def test_the_future_file_is_the_input_with_later_times(tmp_path, suffix):
    given = stack(
        np.arange("2020-01-01", "2020-01-11", dtype="M8[D]").astype("M8[ns]"),
        quality=(("time", "lat", "lon"), np.zeros((10, 3, 4), np.int8), {"flag_values": np.int8(0)}),
        height=((), 2.0),
    )
    path, out = tmp_path / "in.nc", tmp_path / f"out{suffix}"
    given.to_netcdf(
        path, encoding={"v": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -9}}
    )
    with io.open_source(path) as source:
        future, _ = io.open_future(source, 2)
        assert future.layers[0].shape == (2, 3, 4)
        flag = np.full((2, 3, 4), FILLED, np.uint8)
        flag[:, 0, 0] = REFUSED
        options = io.SinkOptions(flags=False, made="forecast")
        with io.create_sink(out, future, options) as sink:
            values = np.full((2, 3, 4), 12.34, np.float32)
            sink.write(Window.whole((2, 3, 4)), Filled(values, flag, np.ones_like(values)))
            sink.commit("forecast")
    if suffix == ".tif":
        with io.open_source(out) as made:
            assert made.time_labels == ("2020-01-11", "2020-01-12")
        return
    made = xr.open_dataset(out) if suffix == ".nc" else xr.open_zarr(out)
    raw = xr.open_dataset(out, decode_cf=False) if suffix == ".nc" else xr.open_zarr(out, decode_cf=False)
    assert made.time.values.astype("M8[D]").astype(str).tolist() == ["2020-01-11", "2020-01-12"]
    assert np.isnan(made.v.values[:, 0, 0]).all()
    assert np.nanmax(np.abs(made.v.values - 12.34)) < 0.006
    assert raw.v.dtype == np.int16
    assert raw.v.attrs["scale_factor"] == pytest.approx(0.01)
    assert raw.v.attrs["ancillary_variables"] == "v_standard_error"
    assert "quality" not in made
    assert made.attrs["title"] == "a stack"
    assert made.attrs["history"] == "made\nforecast"
    assert made.v_standard_error.attrs["long_name"] == "standard error of forecast v"
    assert float(made.height) == 2.0
    assert str(made.forecast_reference_time.values)[:10] == "2020-01-10"


def test_bounds_of_time_go_on_with_it(tmp_path):
    times = np.arange("2020-01", "2020-05", dtype="M8[M]").astype("M8[ns]")
    edges = np.stack((times, np.arange("2020-02", "2020-06", dtype="M8[M]").astype("M8[ns]")), axis=1)
    given = stack(times, time_bnds=(("time", "nv"), edges))
    given = given.assign_coords(time=("time", times, {"bounds": "time_bnds"}))
    given.to_netcdf(tmp_path / "in.nc", encoding={"time": {"units": "days since 2020-01-01"}})
    with io.open_source(tmp_path / "in.nc") as source:
        future, _ = io.open_future(source, 2)
        with io.create_sink(tmp_path / "out.nc", future, io.SinkOptions(flags=False)) as sink:
            sink.commit("")
    made = xr.open_dataset(tmp_path / "out.nc")
    assert made.time_bnds.values.astype("M8[D]").astype(str).tolist() == [
        ["2020-05-01", "2020-06-01"], ["2020-06-01", "2020-07-01"],
    ]  # fmt: skip


def to_come(path, out, steps=2, every=None):
    """The file that comes next, of nothing but gaps."""
    with io.open_source(path) as source:
        future, ahead = io.open_future(source, steps, every)
        with io.create_sink(out, future, io.SinkOptions(flags=False, made="forecast")) as sink:
            sink.commit("forecast")
    return ahead


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_comes_after_zarr(tmp_path, version):
    times = np.arange("2020-01-01", "2020-01-11", dtype="M8[D]").astype("M8[ns]")
    stack(times).to_zarr(tmp_path / "in.zarr", zarr_format=version, consolidated=version == 2)
    to_come(tmp_path / "in.zarr", tmp_path / "out.zarr")
    made = xr.open_zarr(tmp_path / "out.zarr", consolidated=version == 2)
    assert made.time.values.astype("M8[D]").astype(str).tolist() == ["2020-01-11", "2020-01-12"]
    assert str(made.forecast_reference_time.values)[:10] == "2020-01-10"


def test_bounds_that_end_with_the_month_stay_there(tmp_path):
    times = np.array(["2019-12-15", "2020-01-15", "2020-02-15"], dtype="M8[ns]")
    ends = [["2019-12-01", "2019-12-31"], ["2020-01-01", "2020-01-31"], ["2020-02-01", "2020-02-29"]]
    given = stack(times, time_bnds=(("time", "nv"), np.array(ends, "M8[ns]")))
    given.assign_coords(time=("time", times, {"bounds": "time_bnds"})).to_netcdf(
        tmp_path / "in.nc", encoding={"time": {"units": "days since 2019-01-01"}}
    )
    to_come(tmp_path / "in.nc", tmp_path / "out.nc", 3)
    made = xr.open_dataset(tmp_path / "out.nc")
    assert made.time_bnds.values.astype("M8[D]").astype(str).tolist() == [
        ["2020-03-01", "2020-03-31"], ["2020-04-01", "2020-04-30"], ["2020-05-01", "2020-05-31"],
    ]  # fmt: skip


def test_a_reference_time_of_the_input_is_brought_up_to_date(tmp_path):
    times = np.arange("2020-01-01", "2020-01-11", dtype="M8[D]").astype("M8[ns]")
    given = stack(
        times, forecast_reference_time=((), np.datetime64("1999-01-01", "ns"), {"long_name": "the run"})
    )
    given.to_netcdf(tmp_path / "in.nc")
    to_come(tmp_path / "in.nc", tmp_path / "out.nc")
    made = xr.open_dataset(tmp_path / "out.nc")
    assert str(made.forecast_reference_time.values)[:10] == "2020-01-10"
    assert made.forecast_reference_time.attrs["long_name"] == "the run"
    assert "forecast_reference_time" in made.v.coords


def test_times_that_outgrow_their_type_get_a_wider_one(tmp_path):
    times = np.arange("2020-01-01", "2020-04-30", dtype="M8[D]").astype("M8[ns]")
    stack(times).to_netcdf(
        tmp_path / "in.nc", encoding={"time": {"units": "days since 2020-01-01", "dtype": "int8"}}
    )
    to_come(tmp_path / "in.nc", tmp_path / "out.nc", 14)
    made = xr.open_dataset(tmp_path / "out.nc")
    assert str(made.time.values[-1])[:10] == "2020-05-13"


def test_attributes_name_nothing_that_is_left_out(tmp_path):
    times = np.arange("2020-01-01", "2020-01-06", dtype="M8[D]").astype("M8[ns]")
    ends = np.stack([times, times + np.timedelta64(1, "D")], axis=1)
    given = stack(
        times, time_bnds=(("time", "nv"), ends), climate=(("time", "nv"), ends), season=("time", np.arange(5))
    )
    given = given.assign_coords(
        time=(
            "time",
            times,
            {"bounds": "time_bnds", "climatology": "climate", "actual_range": np.array([0.0, 4.0])},
        )
    )
    given.v.attrs["actual_range"] = np.array([8.0, 12.0])
    given["time_bnds"].encoding["coordinates"] = "season"
    given.to_netcdf(tmp_path / "in.nc", encoding={"time": {"units": "days since 2020-01-01"}})
    to_come(tmp_path / "in.nc", tmp_path / "out.nc")
    made = xr.open_dataset(tmp_path / "out.nc", decode_cf=False)
    assert "actual_range" not in {**made.v.attrs, **made.time.attrs}
    named = [
        made[v].attrs.get(k, "") for v in made.variables for k in ("climatology", "bounds", "coordinates")
    ]
    assert all(word in made.variables for words in named for word in words.split())


def test_every_holds_for_plain_numbers(tmp_path):
    given = xr.Dataset(
        {"v": (("time", "lat", "lon"), np.ones((4, 3, 4), "f4"))}, {"time": np.array([0.0, 2, 4, 6])}
    )
    given.to_netcdf(tmp_path / "in.nc")
    with pytest.warns(StimputeWarning):
        ahead = to_come(tmp_path / "in.nc", tmp_path / "out.nc", 2, every=4.0)
    assert xr.open_dataset(tmp_path / "out.nc").time.values.tolist() == [10.0, 14.0]
    assert ahead.stamps == ("10", "14")


@pytest.mark.parametrize("cuts", [(30,), (1, 2), (10, 20)])
def test_plain_numbers_of_several_files_go_on_after_the_last(tmp_path, cuts):
    numbers = np.arange(60 if cuts == (30,) else 3 if cuts == (1, 2) else 30)
    for part in np.split(numbers, cuts):
        fields = {"v": (("time", "lat", "lon"), np.ones((len(part), 3, 4), "f4"))}
        xr.Dataset(fields, {"time": part}).to_netcdf(tmp_path / f"in{part[0]:02d}.nc")
    with pytest.warns(StimputeWarning):
        to_come(sorted(tmp_path.glob("in*.nc")), tmp_path / "out.nc", 3)
    made = xr.open_dataset(tmp_path / "out.nc")
    assert made.time.values.tolist() == (numbers[-1] + np.array([1, 2, 3])).tolist()


def test_months_without_a_year_go_on_as_months(tmp_path):
    fields = {"v": (("month", "lat", "lon"), np.ones((4, 3, 4), "f4"))}
    for name, months in (("a", [1, 2, 3, 4]), ("b", [5, 6, 7, 8])):
        xr.Dataset(fields, {"month": months}).to_netcdf(tmp_path / f"{name}.nc")
    with pytest.warns(StimputeWarning):
        to_come([tmp_path / "a.nc", tmp_path / "b.nc"], tmp_path / "out.nc", 3)
    assert xr.open_dataset(tmp_path / "out.nc").month.values.tolist() == [9, 10, 11]


@pytest.mark.parametrize("suffix", [".tif", ".nc"])
def test_what_comes_after_several_files_bears_no_name_of_theirs(tmp_path, suffix):
    """Dated GeoTIFFs go on as dated GeoTIFFs; other files get one file to come."""
    (tmp_path / "in").mkdir()
    for k in range(4):
        date = np.datetime64("2021-01-01") + 10 * k
        name = tmp_path / "in" / f"ndvi_{str(date).replace('-', '')}{suffix}"
        if suffix == ".nc":
            stack(np.array([date], dtype="M8[ns]")).to_netcdf(name)
            continue
        profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "nodata": -1.0, "crs": "EPSG:32630"}
        with rasterio.open(
            name, "w", height=3, width=4, transform=rasterio.Affine(9, 0, 5e5, 0, -9, 4e6), **profile
        ) as file:
            file.update_tags(AREA_OR_POINT="Point")
            file.write(np.arange(12, dtype=np.float32).reshape(1, 3, 4))
    with io.open_source(tmp_path / "in") as source:
        future, _ = io.open_future(source, 2)
        kind = io.output_format(f"{tmp_path}/out/", source, io.SinkOptions())
        with io.create_sink(
            f"{tmp_path}/out/", future, io.SinkOptions(flags=False, uncertainty=False, format=kind)
        ) as sink:
            gaps = np.zeros((2, 3, 4), np.float32)
            sink.write(Window.whole(gaps.shape), Filled(gaps, np.full(gaps.shape, FILLED, np.uint8)))
            made = sorted(path.name for path in sink.commit("forecast"))
    if suffix == ".nc":
        assert made == ["ndvi_20210131_forecast.nc"]
        return
    assert made == ["ndvi_20210210.tif", "ndvi_20210220.tif"]
    with rasterio.open(tmp_path / "out" / made[1]) as file:
        assert file.tags()["AREA_OR_POINT"] == "Point"
        assert file.transform == rasterio.Affine(9, 0, 5e5, 0, -9, 4e6)


def test_a_raster_without_crs_comes_after_one_without(tmp_path):
    with rasterio.open(tmp_path / "in.tif", "w", driver="GTiff", height=3, width=4, count=4, dtype="float32",
                       transform=rasterio.Affine(9, 0, 5, 0, -9, 4), nodata=-1) as file:  # fmt: skip
        for k in range(4):
            file.write(np.arange(12, dtype=np.float32).reshape(3, 4), k + 1)
            file.set_band_description(k + 1, f"2020-01-0{k + 1}")
    with pytest.warns(StimputeWarning, match="no CRS"):
        opened = io.open_source(tmp_path / "in.tif")
    with opened as source:
        future, _ = io.open_future(source, 2)
        with io.create_sink(
            tmp_path / "out.tif", future, io.SinkOptions(flags=False, uncertainty=False)
        ) as sink:
            gaps = np.zeros((2, 3, 4), np.float32)
            sink.write(Window.whole(gaps.shape), Filled(gaps, np.full(gaps.shape, FILLED, np.uint8)))
            sink.commit("forecast")
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.crs is None
        assert file.transform == rasterio.Affine(9, 0, 5, 0, -9, 4)


# --- stations ---------------------------------------------------------------------------------------------------------


def stations(order=slice(None)):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(30, 7)).astype(np.float32)
    at = {"lon": ("station", rng.uniform(5, 6, 7)[order], {"units": "degrees_east"}),
          "lat": ("station", rng.uniform(50, 51, 7)[order], {"units": "degrees_north"})}  # fmt: skip
    times = np.arange("2020-01-01", "2020-01-31", dtype="M8[D]").astype("M8[ns]")
    fields = {"v": (("time", "station"), values[:, order], {"coordinates": "lon lat"}), **at}
    return xr.Dataset(fields, {"time": times, "station": np.arange(7)[order]})


def test_stations_are_a_row_of_points_and_come_back_as_stations(tmp_path):
    stations().to_netcdf(tmp_path / "in.nc")
    with io.open_source(tmp_path / "in.nc") as source:
        assert source.grid.kind == "points"
        assert source.layers[0].shape == (30, 1, 7)
        window = Window.whole((30, 1, 7))
        stack = source.read(window)
        assert np.array_equal(stack.values[:, 0], stations().v.values)
        with io.create_sink(tmp_path / "out.nc", source) as sink:
            flag = np.zeros(window.shape, np.uint8)
            sink.write(window, Filled(stack.values, flag, np.ones_like(stack.values)))
            sink.commit("")
    made = xr.open_dataset(tmp_path / "out.nc")
    assert made.v.dims == ("time", "station")
    assert np.array_equal(made.v.values, stations().v.values)


def test_stations_in_memory_come_back_filled(fill_with):
    given = stations()
    given.v[3, 2] = np.nan
    options = io.ReadOptions(bbox=(5.0, 50.0, 5.5, 51.0))
    for inside, read in ((np.full(7, True), None), (given.lon.values < 5.5, options)):
        made = fill_with(1.0, given, None, read).dataset
        assert made.v.dims == ("time", "station")
        assert np.array_equal(made.v.where(made.v_fill_flag == 0), given.v[:, inside], equal_nan=True)
        xr.testing.assert_identical(made.station, given.station[inside])


def test_stations_fit_no_geotiff(tmp_path):
    with io.open_source(stations()) as source, pytest.raises(OutputError, match="stations"):
        io.create_sink(tmp_path / "out.tif", source)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_stations_in_a_box_are_written(tmp_path, suffix):
    stations().to_netcdf(tmp_path / "in.nc")
    inside = stations().lon.values < 5.5
    options = io.ReadOptions(bbox=(5.0, 50.0, 5.5, 51.0))
    with io.open_source(tmp_path / "in.nc", options) as source:
        stack = source.read(Window.whole(source.layers[0].shape))
        with io.create_sink(tmp_path / f"out{suffix}", source) as sink:
            sink.write(Window.whole(stack.shape), Filled(stack.values, np.zeros(stack.shape, np.uint8)))
            sink.commit("")
    made = xr.open_dataset(tmp_path / f"out{suffix}")
    assert np.array_equal(made.v.values, stations().v.values[:, inside])
    assert np.array_equal(made.lon.values, stations().lon.values[inside])


def test_a_box_picks_stations_by_both_coordinates():
    with io.open_source(stations(), io.ReadOptions(bbox=(5.0, 50.0, 5.5, 51.0))) as source:
        assert source.grid.shape == (1, int((stations().lon < 5.5).sum()))
