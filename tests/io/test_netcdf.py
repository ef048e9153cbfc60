"""NetCDF from end to end: what was observed keeps its stored numbers, everything else its structure."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr

from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.io import ReadOptions, SinkOptions, create_sink, describe, open_future, open_source, refine
from stimpute.io.verify import verify
from stimpute.protocols import Filled, Window


def raw(path: Path, name: str) -> np.ndarray:
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        return np.asarray(file[name][...])


@pytest.mark.parametrize(
    "file_format", ["NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA"]
)
def test_observed_numbers_and_structure_survive(write_netcdf, gappy, fill_with, tmp_path, file_format):
    path = write_netcdf(gappy(), dtype="i2", scale=0.01, offset=10.0, file_format=file_format)
    out = tmp_path / "out.nc"
    fill_with(15.5, path, out)
    before, after, flag = raw(path, "sst"), raw(out, "sst"), raw(out, "sst_fill_flag")
    np.testing.assert_array_equal(before[flag != 1], after[flag != 1])
    assert set(after[flag == 1].tolist()) == {550}
    assert (flag[:, 0] != 1).all()
    with netCDF4.Dataset(out) as file:
        assert file.data_model == file_format
        sst, error = file["sst"], file["sst_standard_error"]
        assert sst.ancillary_variables == "sst_fill_flag sst_standard_error"
        assert file["sst_fill_flag"].flag_meanings == "observed filled refused outside_domain"
        assert file["sst_fill_flag"].standard_name == "status_flag"
        assert sst.scale_factor == 0.01
        assert error.units == "degC"
        assert file.history.splitlines()[-1].endswith("(test)")
        assert np.ma.count(error[:]) == int((flag == 1).sum())
    assert os.listdir(tmp_path) == ["stack.nc", "out.nc"] or set(os.listdir(tmp_path)) == {
        "stack.nc",
        "out.nc",
    }


def test_everything_else_in_the_file_is_kept(tmp_path, fill_with):
    path, out = tmp_path / "in.nc", tmp_path / "out.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.title, file.history = "kept", "first line"
        file.createDimension("time", None)
        file.createDimension("bnds", 2)
        group = file.createGroup("data/fine")
        group.note = "in a group"
        for name, size in (("lat", 4), ("lon", 6)):
            group.createDimension(name, size)
            axis = group.createVariable(name, "f4", (name,))
            axis.units = "degrees_north" if name == "lat" else "degrees_east"
            axis[:] = np.arange(size)
        time = file.createVariable("time", "i4", ("time",), chunksizes=(512,))
        time.units, time.bounds = "days since 2000-01-01", "time_bnds"
        time[:] = [0, 1, 2]
        file.createVariable("time_bnds", "f8", ("time", "bnds"))[:] = [[0, 1], [1, 2], [2, 3]]
        file.createVariable("height", "f4", ())[...] = 2.0
        file.createVariable("station", str, ("bnds",))[:] = np.array(["Ämter", "b"], dtype=object)
        kind = file.createEnumType(np.uint8, "kind", {"land": 0, "sea": 1})
        file.createVariable("surface", kind, ("bnds",))[:] = [1, 0]
        v = group.createVariable("v", ">i4", ("time", "lat", "lon"), fill_value=-1, zlib=True, complevel=7,
                                 shuffle=True, fletcher32=True, chunksizes=(1, 4, 3), endian="big")  # fmt: skip
        v.set_auto_maskandscale(False)
        numbers = np.arange(72, dtype="i4").reshape(3, 4, 6) + 2**30
        numbers[1] = -1
        v[:] = numbers
    fill_with(7.0, path, out)
    with netCDF4.Dataset(path) as a, netCDF4.Dataset(out) as b:
        assert (b.title, b.history.splitlines()[0]) == ("kept", "first line")
        assert b.dimensions["time"].isunlimited()
        assert b["data/fine"].note == "in a group"
        for name in ("time", "time_bnds", "height", "station", "surface"):
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name][...], b[name][...])
        assert b["time"].chunking() == [512]
        x, y = a["data/fine/v"], b["data/fine/v"]
        assert (x.filters(), x.chunking(), x.endian(), x.dtype) == (
            y.filters(),
            y.chunking(),
            y.endian(),
            y.dtype,
        )
        assert b["data/fine/v_fill_flag"].chunking() == [1, 4, 3]
    np.testing.assert_array_equal(raw(out, "data/fine/v")[[0, 2]], numbers[[0, 2]])
    assert set(raw(out, "data/fine/v")[1, 1:].ravel().tolist()) == {7}


@pytest.fixture
def typed(tmp_path):
    """6 steps of 5 x 4 cells, with text, an enum, a compound and ragged cells beside them."""
    path = tmp_path / "in.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", 6), ("lat", 5), ("lon", 4)):
            file.createDimension(name, size)
            axis = file.createVariable(name, "f8", (name,))
            axis.units = {"time": "days since 2000-01-01", "lat": "degrees_north", "lon": "degrees_east"}[
                name
            ]
            axis[:] = np.arange(size)
        file.createVariable("v", "f4", ("time", "lat", "lon"), fill_value=-1)[:] = np.full((6, 5, 4), -1)
        file.createVariable("row", str, ("lat",))[:] = np.array([f"row {k}" for k in range(5)], dtype=object)
        file.createVariable("step", str, ("time",))[:] = np.array(
            [f"step {k}" for k in range(6)], dtype=object
        )
        kind = file.createEnumType(np.uint8, "kind", {"land": 0, "sea": 1})
        file.createVariable("surface", kind, ("lat", "lon"))[:] = np.arange(20).reshape(5, 4) % 3 % 2
        pair = file.createCompoundType(np.dtype([("a", "f4"), ("b", "i2")]), "pair")
        file.createVariable("pairs", pair, ("lat",))[:] = np.array([(k, -k) for k in range(5)], pair.dtype)
        ragged = file.createVariable("ragged", file.createVLType(np.int32, "many"), ("lat",))
        for k in range(5):
            ragged[k] = np.arange(k, dtype=np.int32)
    return path


def test_types_of_the_file_are_cut_like_numbers(typed, tmp_path, fill_with):
    """Text, enums, compounds and ragged arrays along the cells and steps that are kept."""
    path, out = typed, tmp_path / "out.nc"
    options = ReadOptions(bbox=(0.5, 0.5, 2.5, 3.5), time=("2000-01-02", "2000-01-04"))
    fill_with(7.0, path, out, options)
    with netCDF4.Dataset(out) as made:
        assert made["row"][:].tolist() == ["row 1", "row 2", "row 3"]
        assert made["step"][:].tolist() == ["step 1", "step 2", "step 3"]
        assert made["surface"][:].tolist() == (np.arange(20).reshape(5, 4) % 3 % 2)[1:4, 1:3].tolist()
        assert made["pairs"][:]["b"].tolist() == [-1, -2, -3]
        assert [len(cell) for cell in made["ragged"][:]] == [1, 2, 3]
    fill_with(7.0, path, tmp_path / "whole.nc")
    assert verify(path, tmp_path / "whole.nc").identical


def test_text_that_classic_files_cannot_hold_is_left_out_with_a_warning(typed, tmp_path, fill_with):
    with pytest.warns(StimputeWarning, match="cannot be stored as NETCDF3_CLASSIC; left out") as said:
        fill_with(7.0, typed, tmp_path / "out.nc", None, SinkOptions(format="NetCDF3"))
    assert any(": row (object)" in str(w.message) for w in said)
    assert "row" not in netCDF4.Dataset(tmp_path / "out.nc").variables


def test_refined_files_keep_text_and_leave_out_types_of_their_own(typed, tmp_path):
    with open_source(typed) as source:
        with pytest.warns(StimputeWarning, match="left out") as said:
            fine = refine(source, 2)
        assert any("surface, pairs, ragged hold values of types of their own" in str(w.message) for w in said)
        assert fine.files[0].variables["step"].read().tolist() == [f"step {k}" for k in range(6)]


def test_dimension_order_levels_and_unsorted_times(tmp_path, fill_with):
    path, out = tmp_path / "in.nc", tmp_path / "out.nc"
    numbers = np.random.default_rng(0).normal(size=(4, 2, 5, 3)).astype("f4")  # lat, level, lon, time
    numbers[2, :, 3, 1] = np.nan
    with netCDF4.Dataset(path, "w") as file:
        for name, units, values in (
            ("lat", "degrees_north", np.arange(4)),
            ("level", "hPa", [850, 500]),
            ("lon", "degrees_east", np.arange(5)),
            ("time", "days since 2000-01-01", [5, 1, 3]),
        ):
            file.createDimension(name, len(values))
            axis = file.createVariable(name, "f8", (name,))
            axis.units = units
            axis[:] = values
        file["level"].axis = "Z"
        file.createVariable("u", "f4", ("lat", "level", "lon", "time"))[:] = numbers
    with open_source(path) as source:
        assert [layer.name for layer in source.layers] == ["u[level=850]", "u[level=500]"]
        assert source.time_labels == ("2000-01-02", "2000-01-04", "2000-01-06")
        stack = source.read(Window.whole(source.layers[1].shape), 1)
        np.testing.assert_array_equal(stack.with_nan()[0], numbers[:, 1, :, 1])
    fill_with(9.0, path, out)
    flag, after = raw(out, "u_fill_flag"), raw(out, "u")
    np.testing.assert_array_equal(after[flag == 0], numbers[flag == 0])
    assert raw(out, "time").tolist() == [5, 1, 3]
    assert (after[2, :, 3, 1] == 9).all()


def test_a_window_reads_only_itself(write_netcdf, gappy, monkeypatch):
    with open_source(write_netcdf(gappy())) as source:
        asked = []
        variable = source.files[0].variables["sst"]
        load = variable.load
        object.__setattr__(variable, "load", lambda key: asked.append(key) or load(key))
        source.read(Window((1, 3), (2, 4), (5, 6)))
        assert asked == [(slice(1, 3), slice(2, 4), slice(5, 6))]


def test_selection_cuts_coordinates(write_netcdf, gappy, fill_with, tmp_path):
    path, out = write_netcdf(gappy()), tmp_path / "out.nc"
    fill_with(1.0, path, out, ReadOptions(bbox=(5.15, 44.5, 5.55, 44.85), time=("2020-01-02", "2020-01-04")))
    assert raw(out, "sst").shape == (3, 4, 4)
    assert raw(out, "time").tolist() == [1, 2, 3]
    np.testing.assert_allclose(raw(out, "lon"), [5.2, 5.3, 5.4, 5.5])
    np.testing.assert_allclose(raw(out, "lat"), [44.8, 44.7, 44.6, 44.5])
    with pytest.raises(InputError, match="no cell inside --bbox"):
        open_source(path, ReadOptions(bbox=(50, 0, 60, 1)))


def test_files_of_one_stack_with_other_packing_and_units(write_netcdf, gappy, fill_with, tmp_path):
    values = gappy()
    a = write_netcdf(values[:3], "a.nc", dtype="i2", scale=0.01)
    b = write_netcdf(values[3:], "b.nc", dtype="i2", scale=0.02)
    with netCDF4.Dataset(b, "a") as file:
        file["time"].units = "hours since 2020-01-04"
        file["time"][:] = [0, 24, 48]
    out = tmp_path / "out.nc"
    fill_with(15.0, [b, a], out)  # neither packing holds the numbers of both
    assert raw(out, "time").tolist() == [-72, -48, -24, 0, 24, 48]
    after, flag = raw(out, "sst"), raw(out, "sst_fill_flag")
    stored = np.concatenate([raw(a, "sst") * 0.01, raw(b, "sst") * 0.02])
    np.testing.assert_array_equal(after[flag == 0], stored[flag == 0])
    with netCDF4.Dataset(out) as file:
        assert "sst: files of different packing decoded to float64" in file.history
        assert not {"scale_factor", "add_offset"} & set(file["sst"].ncattrs())


def test_files_that_differ_in_their_fill_alone_keep_their_packing(write_netcdf, gappy, fill_with, tmp_path):
    values = gappy()
    a = write_netcdf(values[:3], "a.nc", dtype="i2", scale=0.01)
    b = write_netcdf(values[3:], "b.nc", dtype="i2", scale=0.01)
    with netCDF4.Dataset(b, "a") as file:
        file["sst"].set_auto_maskandscale(False)
        numbers = file["sst"][:]
        file.renameVariable("sst", "old")
        other = file.createVariable("sst", "i2", ("time", "lat", "lon"), fill_value=-1)
        other.set_auto_maskandscale(False)
        other.scale_factor = 0.01
        other[:] = np.where(numbers == -9999, -1, numbers)
        file["time"][:] = [3, 4, 5]
    with pytest.warns(StimputeWarning, match="old is not in"):
        fill_with(15.0, [a, b], tmp_path / "out.nc", ReadOptions(variables=("sst",)))
    assert raw(tmp_path / "out.nc", "sst").dtype == np.int16
    assert "sst of b.nc repacked like a.nc" in netCDF4.Dataset(tmp_path / "out.nc").history


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_what_an_earlier_run_filled_stays_marked(write_netcdf, gappy, fill_with, tmp_path, suffix):
    """The first row is refused by the first run, and filled by the second, without ``fill_with``."""
    path, first, second = write_netcdf(gappy()), tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    fill_with(15.0, path, first)
    with pytest.warns(StimputeWarning, match="sst_fill_flag marks values that an earlier run filled"):
        done = fill_with(16.0, first, second, None, SinkOptions(quantiles=(0.1,)))
    assert done
    with open_source(first) as a, open_source(second) as b:
        window = Window.whole(a.layers[0].shape)
        before, after = a.filled_before(window), b.filled_before(window)
        assert before is not None
        assert before.any()
        assert np.array_equal(after, before)
        errors = [s.beside("sst_standard_error", window) for s in (a, b)]
    assert (errors[0][before] == 0.5).all()
    assert (errors[1][before] == 0.5).all()
    assert verify(first, second).identical


def test_what_an_earlier_run_said_may_not_change(write_netcdf, gappy, fill_with, tmp_path):
    path, first, second = write_netcdf(gappy()), tmp_path / "first.nc", tmp_path / "second.nc"
    fill_with(15.0, path, first)
    with netCDF4.Dataset(first, "a") as file:
        file.createVariable("sst_quality", "f4", ("time", "lat", "lon"))[:] = 1
    with pytest.warns(StimputeWarning, match="an earlier run filled"):
        fill_with(16.0, first, second, ReadOptions(variables=("sst",)))
    assert verify(first, second).identical
    marked = raw(first, "sst_fill_flag") == 1
    for name, value in (("sst_fill_flag", 0), ("sst_standard_error", 7.0), ("sst_quality", 2.0)):
        shutil.copy(second, tmp_path / "bad.nc")
        with netCDF4.Dataset(tmp_path / "bad.nc", "a") as file:
            numbers = file[name][:]
            numbers[marked] = value
            file[name][:] = numbers
        assert not verify(first, tmp_path / "bad.nc").identical, name


@pytest.mark.filterwarnings("ignore:.*an earlier run filled")
def test_marks_of_one_file_of_several_stay(write_netcdf, gappy, fill_with, tmp_path):
    a, b = write_netcdf(gappy(t=3), "a.nc"), write_netcdf(gappy(t=3), "b.nc", times=[3, 4, 5])
    fill_with(15.0, a, tmp_path / "a1.nc")
    fill_with(16.0, [tmp_path / "a1.nc", b], tmp_path / "m.nc", ReadOptions(variables=("sst",)))
    before, after = raw(tmp_path / "a1.nc", "sst_fill_flag"), raw(tmp_path / "m.nc", "sst_fill_flag")
    assert (before == 1).any()
    assert (after[:3][before == 1] == 1).all()


@pytest.mark.filterwarnings("ignore:.*an earlier run filled")
def test_without_flags_no_outdated_one_is_left(write_netcdf, gappy, fill_with, tmp_path):
    fill_with(15.0, write_netcdf(gappy()), tmp_path / "first.nc")
    fill_with(16.0, tmp_path / "first.nc", tmp_path / "second.nc", None, SinkOptions(flags=False))
    with netCDF4.Dataset(tmp_path / "second.nc") as file:
        assert "sst_fill_flag" not in file.variables
        assert file["sst"].ancillary_variables == "sst_standard_error"


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_packings_with_large_offsets_are_exact(write_netcdf, gappy, fill_with, tmp_path, dtype):
    values = gappy() / 100
    a = write_netcdf(values[:3] + 1e5, "a.nc", dtype="i2", scale=0.001, offset=1e5)
    b = write_netcdf(values[3:] + 1e5, "b.nc", dtype="i2", scale=0.001, offset=1e5 + 1, times=[3, 4, 5])
    fill_with(1e5, [a, b], tmp_path / "out.nc", None, SinkOptions(dtype=dtype))
    after, flag = raw(tmp_path / "out.nc", "sst"), raw(tmp_path / "out.nc", "sst_fill_flag")
    stored = np.concatenate([raw(a, "sst") * 0.001 + 1e5, raw(b, "sst") * 0.001 + 1e5 + 1])
    np.testing.assert_array_equal(after[flag == 0], stored[flag == 0])
    report = verify([a, b], tmp_path / "out.nc")
    assert report.differences == ()
    assert report.identical


def test_a_number_that_means_missing_in_one_file_only(write_netcdf, gappy, fill_with, tmp_path):
    """-9999 is observed in the second file."""
    values = gappy()
    a, b = write_netcdf(values[:3], "a.nc"), tmp_path / "b.nc"
    with netCDF4.Dataset(a) as one, netCDF4.Dataset(b, "w") as file:
        for name, dimension in one.dimensions.items():
            file.createDimension(name, len(dimension))
            axis = file.createVariable(name, "f8", (name,))
            axis.setncatts({k: one[name].getncattr(k) for k in one[name].ncattrs()})
            axis[:] = one[name][:] + (3 if name == "time" else 0)
        other = file.createVariable("sst", "f4", ("time", "lat", "lon"), fill_value=np.nan)
        numbers = np.where(np.isnan(values[3:]), np.nan, values[3:])
        numbers[0, 5, 5] = -9999
        other[:] = numbers
    fill_with(15.0, [a, b], tmp_path / "out.nc")
    assert raw(tmp_path / "out.nc", "sst")[3, 5, 5] == -9999
    assert raw(tmp_path / "out.nc", "sst_fill_flag")[3, 5, 5] == 0


def test_a_variable_of_the_users_is_not_replaced(write_netcdf, gappy, fill_with, tmp_path):
    path = write_netcdf(gappy())
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("sst_q10", "f4", ("time",))[:] = 1
    with pytest.raises(OutputError, match="sst_q10 of its own"):
        fill_with(16.0, path, tmp_path / "out.nc", None, SinkOptions(quantiles=(0.1,)))
    fill_with(16.0, path, tmp_path / "out.nc", None, SinkOptions())
    assert netCDF4.Dataset(tmp_path / "out.nc")["sst_q10"].dimensions == ("time",)


def test_files_in_different_units_are_refused(write_netcdf, gappy):
    a = write_netcdf(gappy(t=3), "a.nc", attributes={"units": "K"})
    b = write_netcdf(gappy(t=3), "b.nc", times=[3, 4, 5], attributes={"units": "degC"})
    with pytest.raises(InputError, match=r"a\.nc has sst in K, .*b\.nc in degC"):
        open_source([a, b])
    open_source([a, b], ReadOptions(force=True)).close()
    for one, other, same in (("K", "kelvin", True), ("m3 m-3", "m3/m3", True), ("m s-1", "m/s", True), ("1", "1.0", True),
                             ("mW m-2", "MW m-2", False), ("m s-1", "ms-1", False), ("mm", "m", False)):  # fmt: skip
        for path, units in ((a, one), (b, other)):
            with netCDF4.Dataset(path, "a") as file:
                file["sst"].units = units
        if same:
            open_source([a, b]).close()
        else:
            with pytest.raises(InputError, match="bring them to one unit"):
                open_source([a, b])


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_half_precision_does_not_hold_what_was_observed(write_netcdf, gappy, fill_with, tmp_path, suffix):
    path = write_netcdf(gappy())
    with pytest.raises(OutputError, match=r"would become .* as float16"):
        fill_with(15.0, path, tmp_path / f"out{suffix}", None, SinkOptions(dtype="float16"))


def test_files_on_other_grids_are_named(write_netcdf, gappy):
    a, b = write_netcdf(gappy(), "a.nc"), write_netcdf(gappy(), "b.nc")
    with netCDF4.Dataset(b, "a") as file:
        file["time"][:] = file["time"][:] + 10
        file["lon"][:] = file["lon"][:] + 1e-12
    open_source([a, b]).close()  # snapped
    with netCDF4.Dataset(b, "a") as file:
        file["lon"][:] = file["lon"][:] + 0.05
    with pytest.raises(InputError, match=r"a\.nc and .*b\.nc lie on different grids"):
        open_source([a, b])


def test_regular_and_dedupe_are_written_and_recorded(write_netcdf, gappy, fill_with, tmp_path):
    values = gappy(t=3)
    path, out = write_netcdf(values, times=[0, 1, 3], dtype="i2", scale=0.01), tmp_path / "out.nc"
    fill_with(3.0, path, out, ReadOptions(regular=True))
    assert raw(out, "time").tolist() == [0, 1, 2, 3]
    assert (raw(out, "sst_fill_flag")[2, 1:] == 1).all()
    assert (raw(out, "sst")[2, 0] == -9999).all()
    with netCDF4.Dataset(out) as file:
        assert "1 missing steps inserted (--regular)" in file.history
    twice = write_netcdf(values, "twice.nc", times=[0, 1, 1])
    fill_with(3.0, twice, tmp_path / "mean.nc", ReadOptions(dedupe="mean"))
    after, both = raw(tmp_path / "mean.nc", "sst"), np.isfinite(values[1]) & np.isfinite(values[2])
    np.testing.assert_allclose(after[1][both], values[1:][:, both].mean(axis=0), rtol=1e-6)
    assert after.shape[0] == 2


def test_the_mean_of_duplicate_steps_is_one_of_double_precision(write_netcdf, fill_with, tmp_path):
    values = np.full((3, 4, 5), 999999.12387)
    values[1, 0, 0] = values[2, 1, 1] = np.nan
    path, out = write_netcdf(values, dtype="f8", times=[0, 1, 1]), tmp_path / "out.nc"
    fill_with(3.0, path, out, ReadOptions(dedupe="mean"))
    np.testing.assert_array_equal(raw(out, "sst"), values[:1].repeat(2, axis=0), strict=True)


def test_missing_steps_of_absolute_times_are_inserted(write_netcdf, gappy, fill_with, tmp_path):
    times, out = [20200227.25, 20200228.25, 20200301.25, 20200302.25], tmp_path / "out.nc"
    path = write_netcdf(gappy(t=4), times=times)
    with netCDF4.Dataset(path, "a") as file:
        file["time"].units = "day as %Y%m%d.%f"
    fill_with(1.0, path, out, ReadOptions(regular=True))
    assert raw(out, "time").tolist() == [*times[:2], 20200229.25, *times[2:]]


class TestIntegersThatDeclareNoFill:
    """Inserted and merged steps hold gaps, for which a number is needed that no observation holds."""

    @staticmethod
    def write(path: Path, values: np.ndarray, times: list[int], **attributes: Any) -> Path:
        dims = ("time", "lat", "lon")
        axes = [(n, np.arange(k, dtype="f8")) for n, k in zip(dims, values.shape)]
        data = xr.Dataset({"v": (dims, values, attributes)}, coords=dict(axes))
        data["time"] = ("time", times, {"units": "days since 2020-01-01"})
        data.lat.attrs["units"], data.lon.attrs["units"] = "degrees_north", "degrees_east"
        if path.suffix == ".zarr":
            data.to_zarr(path, zarr_format=2, encoding={"v": {"_FillValue": None}})
        else:
            data.to_netcdf(path)
        return path

    @pytest.mark.parametrize(
        ("suffix", "dtype", "held", "expected"),
        [
            (".nc", "u1", [0, 0], 255),
            (".nc", "u1", [0, 255], 254),
            (".nc", "i1", [-128, 0], -127),
            (".nc", "i2", [-32768, 0], -32767),
            (".zarr", "i2", [0, 0], -32767),
            (".zarr", "i2", [-32767, 0], -32768),
            (".zarr", "u4", [4294967295, 0], 4294967294),
        ],
    )
    def test_a_number_that_no_observation_holds(self, tmp_path, fill_with, suffix, dtype, held, expected):
        values = np.random.default_rng(0).integers(10, 40, (7, 5, 6)).astype(dtype)
        values[2, 2, :2] = held
        path = self.write(tmp_path / f"in{suffix}", values, [0, 1, 2, 4, 5, 6, 7])
        out = tmp_path / f"out{suffix}"
        fill_with(1.0, path, out, ReadOptions(regular=True))
        with xr.open_dataset(out, mask_and_scale=False, decode_times=False) as written:
            assert written.v.attrs["_FillValue"] == expected
            assert written.v.dtype == dtype
            np.testing.assert_array_equal(written.v.values[[0, 1, 2, 4, 5, 6, 7]], values)
            assert (written.v.values[3, 0] == expected).all()  # refused
            assert (written.v.values[3, 1:] == 1).all()
        assert verify(path, out).total("observed") == values.size

    def test_unsigned_numbers_in_signed_bytes(self, tmp_path, fill_with):
        values = np.arange(7 * 5 * 6, dtype="u1").reshape(7, 5, 6)
        path = self.write(tmp_path / "in.nc", values.view("i1"), [0, 1, 2, 4, 5, 6, 7], _Unsigned="true")
        fill_with(1.0, path, tmp_path / "out.nc", ReadOptions(regular=True))
        with xr.open_dataset(tmp_path / "out.nc") as written:
            np.testing.assert_array_equal(written.v.values[[0, 1, 2, 4, 5, 6, 7]], values)
            assert np.isnan(written.v.values[3, 0]).all()

    def test_no_number_is_left(self, tmp_path, fill_with):
        values = np.arange(8 * 6 * 6).reshape(8, 6, 6).astype("u1")
        path = self.write(tmp_path / "in.nc", values, [0, 1, 2, 3, 5, 6, 7, 8])
        out, options = tmp_path / "out.nc", ReadOptions(regular=True)
        with pytest.raises(
            OutputError, match=r"in\.nc: v declares no nodata.* uint8 .*--dtype float32.*--nodata"
        ):
            fill_with(1.0, path, out, options)
        assert not out.exists()
        fill_with(1.0, path, out, options, SinkOptions(dtype="float32"))
        np.testing.assert_array_equal(raw(out, "v")[[0, 1, 2, 3, 5, 6, 7, 8]], values)

    @pytest.mark.parametrize("suffix", [".nc", ".zarr"])
    def test_the_type_that_the_input_has_asked_for(self, tmp_path, fill_with, suffix):
        values = np.random.default_rng(0).integers(10, 40, (7, 5, 6)).astype("u1")
        path = self.write(tmp_path / f"in{suffix}", values, [0, 1, 2, 4, 5, 6, 7])
        out, sinking = tmp_path / f"out{suffix}", SinkOptions(dtype="uint8")
        fill_with(1.0, path, out, ReadOptions(regular=True), sinking)
        with xr.open_dataset(out, mask_and_scale=False, decode_times=False) as written:
            assert written.v.attrs["_FillValue"] == 255
            assert (written.v.values[3, 0] == 255).all()  # refused

    def test_a_merge_in_the_type_that_the_inputs_have(self, tmp_path, fill_with):
        values = np.random.default_rng(0).integers(10, 40, (6, 5, 6)).astype("u1")
        values[4, 0, 2], values[4, 3, 2] = 0, 0
        one = self.write(tmp_path / "a.nc", values[:3], [0, 1, 2])
        two = self.write(tmp_path / "b.nc", values[3:], [3, 4, 5], _FillValue=np.uint8(0))
        out = tmp_path / "out.nc"
        fill_with(1.0, [one, two], out, None, SinkOptions(dtype="uint8"))
        with xr.open_dataset(out, mask_and_scale=False, decode_times=False) as written:
            assert written.v.attrs["_FillValue"] == 255
            assert written.v.values[4, [0, 3], 2].tolist() == [255, 1]  # refused, filled

    def test_a_forecast_and_a_finer_grid(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 40, (7, 5, 6)).astype("u1")
        path = self.write(tmp_path / "in.nc", values, list(range(7)))
        with open_source(path) as source:
            assert open_future(source, 2)[0].files[0].variables["v"].attrs["_FillValue"] == 255
            assert refine(source, 2).files[0].variables["v"].attrs["_FillValue"] == 255


def test_values_the_packing_cannot_hold(write_netcdf, gappy, fill_with, tmp_path):
    path, out = write_netcdf(gappy(), dtype="i2", scale=0.01), tmp_path / "out.nc"
    with pytest.raises(OutputError, match=r"stack.nc: sst: the filled value 400 is beyond 327\.67.*--dtype"):
        fill_with(400.0, path, out)
    assert os.listdir(tmp_path) == ["stack.nc"]
    fill_with(400.0, path, out, None, SinkOptions(dtype="float32"))
    after, flag = raw(out, "sst"), raw(out, "sst_fill_flag")
    np.testing.assert_allclose(after[flag == 0], (raw(path, "sst") * 0.01)[flag == 0], rtol=1e-6)
    assert np.isnan(after[flag == 2]).all()
    with netCDF4.Dataset(out) as file:
        assert "stored as float32" in file.history
        assert "scale_factor" not in file["sst"].ncattrs()


@pytest.mark.filterwarnings("ignore:.*an earlier run filled")
def test_options_of_the_output(write_netcdf, gappy, fill_with, tmp_path):
    path = write_netcdf(gappy())
    fill_with(1.0, path, tmp_path / "bare.nc", None, SinkOptions(flags=False, uncertainty=False))
    with netCDF4.Dataset(tmp_path / "bare.nc") as file:
        assert set(file.variables) == {"time", "lat", "lon", "sst"}
        assert "ancillary_variables" not in file["sst"].ncattrs()
    fill_with(1.0, path, tmp_path / "q.nc", None, SinkOptions(format="NetCDF3", quantiles=(0.05, 0.975)))
    with netCDF4.Dataset(tmp_path / "q.nc") as file:
        assert file.data_model == "NETCDF3_CLASSIC"
        assert {"sst_q05", "sst_q97_5"} <= set(file.variables)
    again = tmp_path / "again.nc"
    fill_with(2.0, tmp_path / "q.nc", again)  # an output of ours as an input
    with netCDF4.Dataset(again) as file:
        assert file["sst"].ancillary_variables.split().count("sst_fill_flag") == 1
    creation = SinkOptions(creation={"FORMAT": "NC4C", "COMPRESS": "DEFLATE", "ZLEVEL": "9"})
    fill_with(1.0, path, tmp_path / "co.nc", None, creation)
    with netCDF4.Dataset(tmp_path / "co.nc") as file:
        assert file.data_model == "NETCDF4_CLASSIC"
        assert file["sst"].filters()["complevel"] == 9


def test_several_variables_are_listed(write_netcdf, gappy, fill_with, tmp_path):
    path = write_netcdf(gappy())
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("chl", "f4", ("time", "lat", "lon"))[:] = 1.0
        file.createVariable("depth", "f4", ("lat", "lon"))[:] = 100.0
        flag = file.createVariable("quality", "i1", ("time", "lat", "lon"))
        flag.flag_values = np.array([0, 1], dtype="i1")
    with pytest.raises(
        InputError, match=r"several variables: sst \(time lat lon\), chl \(time lat lon\); .*--var"
    ):
        open_source(path)
    with pytest.raises(InputError, match="did you mean chl"):
        open_source(path, ReadOptions(variables=("chll",)))
    with pytest.raises(InputError, match=r"holds categories .* --force"):
        open_source(path, ReadOptions(variables=("quality",)))
    fill_with(5.0, path, tmp_path / "out.nc", ReadOptions(variables=("all",)))
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert {"sst_fill_flag", "chl_fill_flag"} <= set(file.variables)
        assert "depth_fill_flag" not in file.variables


def test_undeclared_fills(write_netcdf, gappy):
    values = gappy()
    path = write_netcdf(np.nan_to_num(values, nan=9.969209968386869e36))
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
    bare = path.with_name("bare.nc")
    with netCDF4.Dataset(path) as a, netCDF4.Dataset(bare, "w") as b:
        for name, dim in a.dimensions.items():
            b.createDimension(name, len(dim))
        for name, v in a.variables.items():
            w = b.createVariable(name, v.dtype, v.dimensions)
            w.setncatts({k: v.getncattr(k) for k in v.ncattrs() if k != "_FillValue"})
            w[:] = v[:]
    with (
        open_source(bare) as source,
        pytest.warns(StimputeWarning, match=r"undeclared default fill 9.96921e\+36"),
    ):
        stack = source.read(Window.whole(source.layers[0].shape))
    np.testing.assert_array_equal(stack.valid, np.isfinite(values))


def test_an_integer_fill_that_nothing_declares(tmp_path, gappy):
    path = tmp_path / "in.nc"
    values = gappy()
    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(("time", "y", "x"), values.shape):
            file.createDimension(name, size)
        file.createVariable("ndvi", "i2", ("time", "y", "x"))[:] = np.nan_to_num(
            values * 100, nan=-9999
        ).astype("i2")
    with pytest.raises(InputError, match=r"ndvi declares no nodata, but .* are -9999.*--nodata -9999"):
        open_source(path)
    with pytest.warns(StimputeWarning), open_source(path, ReadOptions(nodata=(-9999,))) as source:
        stack = source.read(Window.whole(source.layers[0].shape))
    np.testing.assert_array_equal(stack.valid, np.isfinite(values))


def test_what_cannot_be_read(tmp_path, write_netcdf, gappy):
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "nothing.nc")
    path = write_netcdf(gappy(ny=200, nx=200))
    for name, keep in (("cut.nc", 5000), ("empty.nc", 0)):
        (tmp_path / name).write_bytes(path.read_bytes()[:keep])
        with pytest.raises(InputError, match=name):
            open_source(tmp_path / name)


def test_nothing_is_left_after_an_interruption(write_netcdf, gappy, tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        open_source(write_netcdf(gappy())) as source,
        create_sink(tmp_path / "out.nc", source),
    ):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ["stack.nc"]


def test_odd_names(write_netcdf, gappy, fill_with, tmp_path):
    path = write_netcdf(gappy(), "a b{c}[1]*ü.nc")
    fill_with(1.0, str(path), tmp_path / "o [2].nc")
    assert (tmp_path / "o [2].nc").is_file()


def test_describe_is_json(write_netcdf, gappy):
    import json

    with open_source(write_netcdf(gappy(), dtype="i2", scale=0.1)) as source:
        described = json.loads(json.dumps(describe(source), allow_nan=False))
    assert described["crs"]["epsg"] == 4326
    assert described["time"]["first"] == "2020-01-01"
    assert described["layers"][0]["nodata"] == [-9999]


REAL = [
    ("alboran_sst/alboranSST_small.nc", ""),
    ("gapfill_ndvi/ndvi.nc", ""),
    ("modis_ndvi_gabon/mod13a2_h18v09_ndvi.nc", ""),
    ("modis_chl_gom/modis_aqua_chlor_a_monthly_2018.nc", ""),
    ("awkward/fusets_s2/workshops_BIDS_demo_raw_s2_ndvi_field.nc", "NDVI"),
    ("awkward/oisst_reduced/reduced.nc", "sst"),
    ("awkward/eraint/eraint_uvz.nc", "u"),
    ("awkward/rotated_pole/tas_rotated_grid_EUR11.nc", ""),
    ("awkward/tmmx_20190121.nc", ""),
    ("awkward/nonstandard_dim.nc", ""),
]


@pytest.mark.data
@pytest.mark.parametrize(("name", "variable"), REAL)
@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
def test_real_files(shared_data, tmp_path, name, variable):
    path, out = shared_data / name, tmp_path / "out.nc"
    with open_source(path, ReadOptions(variables=(variable,) if variable else ())) as source:
        with create_sink(out, source) as sink:
            for number, layer in enumerate(source.layers):
                window = Window.whole(layer.shape)
                stack = source.read(window, number)
                middle = float(np.median(stack.values[stack.valid]))
                flag = (~stack.valid).astype(np.uint8)
                sink.write(window, Filled(np.full(window.shape, middle, np.float32), flag), number)
            sink.commit("test")
        filled = source.variables[0]
    before, after, flag = raw(path, filled), raw(out, filled), raw(out, f"{filled}_fill_flag")
    assert before[flag == 0].tobytes() == after[flag == 0].tobytes()
    assert _header(path) <= _header(out)


def _header(path: Path) -> set[str]:
    """The lines of ``ncdump -h`` that an output shares with its input."""
    text = subprocess.run(["ncdump", "-hs", str(path)], capture_output=True, text=True, check=True).stdout
    lines = {line.strip() for line in text.splitlines()[1:]}
    ours = ("history", "_NCProperties", "_SuperblockVersion", '"', "ancillary_variables")
    return {line for line in lines if not any(word in line for word in ours)}


def test_a_folder_gets_one_file_per_input(write_netcdf, gappy, fill_with, tmp_path):
    values = gappy()
    a = write_netcdf(values[:3], "a.nc", dtype="i2", scale=0.01)
    b = write_netcdf(values[3:], "b.nc", dtype="i2", scale=0.02, times=[3, 4, 5])
    fill_with(15.0, [a, b], tmp_path / "filled")
    assert sorted(p.name for p in (tmp_path / "filled").iterdir()) == ["a.nc", "b.nc"]
    for path, number in ((a, 1500), (b, 750)):
        after, flag = (
            raw(tmp_path / "filled" / path.name, "sst"),
            raw(tmp_path / "filled" / path.name, "sst_fill_flag"),
        )
        np.testing.assert_array_equal(after[flag == 0], raw(path, "sst")[flag == 0])
        assert set(after[flag == 1].tolist()) == {number}
    with pytest.raises(OutputError, match="is the input"):
        fill_with(15.0, [a, b], tmp_path)
    with pytest.raises(OutputError, match=r"filled.a\.nc: already exists"):
        fill_with(15.0, [a, b], tmp_path / "filled")


def test_members_reach_every_file_of_a_folder(write_netcdf, gappy, tmp_path):
    values = gappy()
    paths = [write_netcdf(values[:3], "a.nc"), write_netcdf(values[3:], "b.nc", times=[3, 4, 5])]
    with (
        open_source(paths) as source,
        create_sink(tmp_path / "filled", source, SinkOptions(members=2)) as sink,
    ):
        window = Window.whole(source.layers[0].shape)
        members = np.arange(2 * values.size, dtype="f4").reshape(2, *values.shape)
        flag = np.ones(values.shape, dtype="u1")
        sink.write(window, Filled(members.mean(axis=0), flag, members=members))
        sink.commit("2026-01-01T00:00:00Z stimpute fill")
    for name, steps in (("a.nc", slice(0, 3)), ("b.nc", slice(3, 6))):
        np.testing.assert_array_equal(raw(tmp_path / "filled" / name, "sst_members"), members[:, steps])


def test_granules_without_a_time_dimension(tmp_path, gappy, fill_with):
    values = gappy(t=2)
    for day, frame in enumerate(values, start=1):
        with netCDF4.Dataset(tmp_path / f"lst_2020010{day}.nc", "w") as file:
            for name, size, units in (("lat", 8, "degrees_north"), ("lon", 10, "degrees_east")):
                file.createDimension(name, size)
                file.createVariable(name, "f8", (name,)).units = units
                file[name][:] = np.arange(size)
            file.createVariable("lst", "f4", ("lat", "lon"), fill_value=np.nan)[:] = frame
    paths = sorted(tmp_path.glob("lst_*.nc"))
    with open_source(paths) as source:
        assert source.time_labels == ("2020-01-01", "2020-01-02")
    with pytest.raises(OutputError, match="give a folder as the output"):
        fill_with(1.0, paths, tmp_path / "merged.nc")
    fill_with(1.0, paths, tmp_path / "filled")
    assert raw(tmp_path / "filled" / "lst_20200102.nc", "lst").shape == (8, 10)


def test_several_fill_values_are_missing_values_of_the_output(tmp_path, gappy, write_netcdf, fill_with):
    """As HDF-EOS has them: its library takes a vector as ``_FillValue``, netCDF's does not."""
    import h5py

    from stimpute.io.verify import verify

    path, codes = write_netcdf(gappy(), dtype="i2", scale=0.01, fill=-9999), np.array([-9999, -8888], "i2")
    with h5py.File(path, "a") as file:
        del file["sst"].attrs["_FillValue"]
        file["sst"].attrs["_FillValue"] = codes
        file["sst"][2, 3, 4] = -8888
    fill_with(12.5, path, tmp_path / "out.nc")
    with netCDF4.Dataset(tmp_path / "out.nc") as out:
        assert out["sst"]._FillValue == -9999
        np.testing.assert_array_equal(out["sst"].missing_value, codes)
        assert out["sst_fill_flag"][2, 3, 4] == 1
    assert verify([path], tmp_path / "out.nc").differences == ()
    with netCDF4.Dataset(tmp_path / "out.nc", "a") as out:
        out["sst"].missing_value = codes[:1]
    assert "_FillValue" in " ".join(verify([path], tmp_path / "out.nc").differences)


def test_a_name_that_netcdf_does_not_take_is_one_error_that_says_so(tmp_path, write_netcdf, gappy, fill_with):
    """The library reads such names from damaged classic files, and refuses to write them."""
    path = write_netcdf(gappy(), file_format="NETCDF3_CLASSIC", attributes={"odd_name": 1})
    path.write_bytes(path.read_bytes().replace(b"odd_name", b"odd\x01name"))
    with pytest.raises(OutputError, match=r"illegal characters\); --of Zarr"):
        fill_with(12.5, path, tmp_path / "out.nc")
    assert list(tmp_path.iterdir()) == [path]


def test_a_classic_file_that_the_disk_cannot_hold_is_refused_before_it_is_begun(
    write_netcdf, gappy, fill_with, tmp_path, monkeypatch
):
    path, out = write_netcdf(gappy(), file_format="NETCDF3_CLASSIC"), tmp_path / "out.nc"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OutputError, match=r"out\.nc: takes .* MB are free"):
        fill_with(15.5, path, out)
    assert os.listdir(tmp_path) == ["stack.nc"]


def test_a_file_that_cannot_be_closed_is_closed_once(write_netcdf, gappy, tmp_path):
    class Failing:
        closed = 0

        def isopen(self) -> bool:
            return self.closed == 0

        def _close(self, check_err: bool) -> None:
            self.closed += 1
            assert (
                not check_err
            )  # with it an error would leave the file open, to be closed again by the destructor: a crash

    with open_source([write_netcdf(gappy())]) as source:
        sink = create_sink(tmp_path / "out.nc", source)
        sink._dataset.close()
        sink._dataset = failing = Failing()
        sink.abort()
        sink.abort()
    assert failing.closed == 1
    assert os.listdir(tmp_path) == ["stack.nc"]
