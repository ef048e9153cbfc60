"""Awkward time axes: rows 44 to 54."""

from __future__ import annotations

import shutil

import netCDF4
import numpy as np
import pytest
import rasterio

from stimpute import api, io


def edit(path, change) -> None:
    with netCDF4.Dataset(path, "a") as file:
        change(file)


def test_44_unsorted_steps_keep_their_order(gappy, write_netcdf, fill):
    values = gappy()
    order = [3, 0, 5, 1, 4, 2]
    shuffled = fill(write_netcdf(values[order], "shuffled.nc", times=order), "a.nc")
    sorted_ = fill(write_netcdf(values, "sorted.nc"), "b.nc")
    assert shuffled.stored("time").tolist() == order
    np.testing.assert_array_equal(shuffled.stored("sst"), sorted_.stored("sst")[order])


def test_45_duplicate_steps_need_a_decision(gappy, write_netcdf, refuses, fill):
    source = write_netcdf(gappy(t=4), times=[0, 1, 1, 2])
    assert "--dedupe" in refuses(source)
    for choice in ("first", "last", "mean"):
        outcome = fill(source, f"{choice}.nc", dedupe=choice)
        assert outcome.stored("sst").shape[0] == 3


def test_46_one_step_is_filled_from_space_and_said(write_netcdf, fill):
    y, x = np.mgrid[0:16, 0:20]
    values = (np.sin(y / 4) + np.cos(x / 4)).astype("f4")[None]
    values[0, 5:7, 5:7] = np.nan
    outcome = fill(write_netcdf(values), method="dct-pls")
    assert outcome.counts == (316, 4, 0)
    assert "single time step" in outcome.warned


def test_47_irregular_steps_use_real_distances(write_netcdf, fill):
    values = np.array([0.0, np.nan, 10.0], "f4")[:, None, None] * np.ones((1, 3, 4), "f4")
    outcome = fill(write_netcdf(values, times=[0, 8, 10]))
    np.testing.assert_allclose(outcome.stored("sst")[1], 8.0, rtol=1e-3)


@pytest.mark.parametrize(
    ("calendar", "first", "last"),
    [
        ("noleap", "2020-02-27", "2020-03-04"),
        ("360_day", "2020-02-28", "2020-03-03"),
        ("julian", "2020-02-27", "2020-03-03"),
    ],
)
def test_48_calendars_are_kept(gappy, write_netcdf, fill, calendar, first, last):
    source = write_netcdf(gappy(), calendar=calendar, times=[57, 58, 59, 60, 61, 62])
    outcome = fill(source)
    with netCDF4.Dataset(outcome.out) as file:
        assert file["time"].calendar == calendar
    told = api.info(source)["time"]
    assert (told["calendar"], told["first"], told["last"]) == (calendar, first, last)
    with netCDF4.Dataset(fill(source, "day.nc", time=f"{last},{last}").out) as file:
        assert file["time"][:].tolist() == [62]


def test_48_dates_before_1678(gappy, write_netcdf, fill):
    source = write_netcdf(gappy())
    edit(source, lambda f: f["time"].setncattr("units", "days since 1066-10-14"))
    assert fill(source).counts[2] == 0


@pytest.mark.parametrize("units", ["months since 2020-01-01", "fortnights since the flood"])
def test_49_units_without_a_length(gappy, write_netcdf, refuses, units):
    source = write_netcdf(gappy())
    edit(source, lambda f: f["time"].setncattr("units", units))
    said = refuses(source)
    assert units.split()[0] in said


def test_50_missing_steps_become_gaps_only_when_asked(gappy, write_netcdf, fill):
    values = gappy()[[0, 1, 3, 4, 5]]
    source = write_netcdf(values, times=[0, 1, 3, 4, 5])
    assert fill(source, "as_it_is.nc").stored("sst").shape[0] == 5
    outcome = fill(source, "regular.nc", regular=True)
    assert outcome.stored("time").tolist() == [0, 1, 2, 3, 4, 5]
    assert (outcome.stored("sst_fill_flag")[2] == 1).all()


def test_51_a_step_without_a_time(gappy, write_netcdf, refuses):
    source = write_netcdf(gappy(), times=[0, 1, np.nan, 3, 4, 5])
    assert "time" in refuses(source)


@pytest.mark.parametrize("pattern", ["scene_{day}.tif", "sst_{day:02d}032020.tif"])
def test_52_no_date_or_two_possible_ones(gappy, write_geotiffs, refuses, fill, pattern):
    paths = write_geotiffs(gappy(), pattern=pattern)
    assert "--date-format" in refuses(paths, "out.tif")
    if "032020" in pattern:
        assert fill(paths, "out.tif", date_format="%d%m%Y").counts[2] == 0


def test_53_bands_are_time_only_with_dates(tmp_path, gappy, write_geotiffs, refuses, fill):
    values = gappy()
    source = tmp_path / "stack.tif"
    with rasterio.open(write_geotiffs(values)[0]) as one:
        profile = {**one.profile, "count": 6}
    with rasterio.open(source, "w", **profile) as file:
        file.write(np.where(np.isnan(values), -9999, values))
    assert "--times" in refuses(source, "out.tif")
    days = [f"2020-01-0{k}" for k in range(1, 7)]
    assert fill(source, "times.tif", times=days).counts[2] == 0
    named = tmp_path / "named.tif"
    shutil.copy(source, named)
    with rasterio.open(named, "r+") as file:
        for band, day in enumerate(days, start=1):
            file.set_band_description(band, f"X{day.replace('-', '.')}")
    assert fill(named, "named_out.tif").counts[2] == 0
    with io.open_source([named]) as opened:
        assert [label[:10] for label in opened.time_labels] == days


def test_54_levels_members_and_time_in_the_middle(tmp_path, gappy, fill):
    values = np.stack([gappy(seed=1), gappy(seed=2) + 100], axis=0).transpose(2, 0, 1, 3)  # y, level, time, x
    source = tmp_path / "in.nc"
    with netCDF4.Dataset(source, "w") as file:
        for name, at in (
            ("lat", 45 - 0.1 * np.arange(8)),
            ("level", [850, 500]),
            ("time", np.arange(6)),
            ("lon", 0.1 * np.arange(10)),
        ):
            file.createDimension(name, len(at))
            file.createVariable(name, "f8", (name,))[:] = at
        file["time"].units = "days since 2020-01-01"
        file["lat"].units, file["lon"].units, file["level"].units = "degrees_north", "degrees_east", "hPa"
        file.createVariable("u", "f4", ("lat", "level", "time", "lon"), fill_value=np.nan)[:] = values
    outcome = fill(source)
    stored = outcome.stored("u")
    assert stored.shape == values.shape
    assert outcome.counts[2] == 0
    assert stored[:, 0].max() < 50 < 90 < stored[:, 1].min()  # each level filled from itself
