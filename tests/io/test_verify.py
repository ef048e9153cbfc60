"""The proof must find every kind of damage, and nothing else: outputs are made here by hand, without any sink."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr

from stimpute import api
from stimpute.cli import run
from stimpute.errors import InputError
from stimpute.io import SinkOptions
from stimpute.io.verify import VerifyReport, verify
from stimpute.io.verify.cells import Encoding, blocks

HISTORY = "2024-05-01T10:00:00Z stimpute fill {} a.nc b.nc; stimpute 0.1.0, model st-small"


def fill_netcdf(
    source: Path, out: Path, variable: str = "sst", value: float = 7.0, options: str = ""
) -> Path:
    """What an honest sink does: the same file, gaps filled with ``value`` but for the last, a flag, a line of history."""
    shutil.copy(source, out)
    with netCDF4.Dataset(out, "a") as file:
        file.set_auto_maskandscale(False)
        data = file[variable]
        stored = data[:]
        fill = getattr(data, "_FillValue", np.nan)
        gap = np.isnan(stored) if stored.dtype.kind == "f" and np.isnan(fill) else stored == fill
        refused = np.zeros_like(gap)
        refused[tuple(np.argwhere(gap)[-1])] = True
        data[:] = np.where(gap & ~refused, value, stored)
        flag = file.createVariable(f"{variable}_fill_flag", "i1", data.dimensions)
        flag[:] = np.where(refused, 2, gap)
        data.ancillary_variables = flag.name
        file.history = HISTORY.format(options)
    return out


def edit(path: Path, change: Callable[[netCDF4.Dataset], object]) -> None:
    with netCDF4.Dataset(path, "a") as file:
        file.set_auto_maskandscale(False)
        change(file)


def put(variable: netCDF4.Variable, where: np.ndarray, number: float) -> None:
    variable[:] = np.where(where, number, variable[:])


def differences(report: VerifyReport) -> str:
    assert not report.identical
    assert report.differences
    return "\n".join(report.differences)


@pytest.fixture
def pair(tmp_path: Path, gappy, write_netcdf) -> tuple[Path, Path]:
    """A packed NetCDF stack and an honest filling of it."""
    source = write_netcdf(gappy(), dtype="i2", scale=0.01, offset=10.0)
    return source, fill_netcdf(source, tmp_path / "out.nc")


@pytest.mark.parametrize("name", ["s[1]", "s*", "s?"])
def test_names_with_signs_of_patterns_in_another_format(tmp_path, gappy, write_netcdf, fill_with, name):
    paths = [write_netcdf(gappy(), f"{name}.nc"), write_netcdf(gappy(seed=1), "s1.nc", times=range(6, 12))]
    (tmp_path / "out").mkdir()
    fill_with(7.0, paths, tmp_path / "out", None, SinkOptions(format="Zarr"))
    report = verify(paths, tmp_path / "out")
    assert report.differences == ()
    assert report.total("observed") == sum(int(np.isfinite(gappy(seed=s)).sum()) for s in (0, 1))


class TestNetcdf:
    def test_an_honest_filling_passes_and_is_counted(self, pair):
        report = verify(*pair)
        assert report.differences == ()
        with netCDF4.Dataset(pair[0]) as file:
            observed = int(file["sst"][:].count())
        assert report.total("observed") == observed
        assert report.total("refused") == 1
        assert report.total("filled") == 6 * 8 * 10 - observed - 1
        assert json.loads(json.dumps(report.to_dict()))["identical"] is True

    def test_one_changed_observation_is_named_with_its_place(self, pair):
        with netCDF4.Dataset(pair[0]) as file:
            t, y, x = (int(i) for i in np.argwhere(~np.ma.getmaskarray(file["sst"][:]))[5])
        edit(pair[1], lambda f: f["sst"].__setitem__((t, y, x), f["sst"][t, y, x] + 1))
        text = differences(verify(*pair))
        assert f"sst: 1 cells observed, and changed; first at time={t}, lat={y}, lon={x}: stored" in text

    def test_a_wiped_observation_is_found(self, pair):
        edit(pair[1], lambda f: put(f["sst"], f["sst_fill_flag"][:] == 0, -9999))
        assert "observed, and changed" in differences(verify(*pair))

    def test_a_gap_claimed_as_observed_is_found(self, pair):
        edit(pair[1], lambda f: f["sst_fill_flag"].__setitem__(..., 0))
        assert "flagged observed, but missing from the input" in differences(verify(*pair))

    def test_a_filled_flag_without_a_value_is_found(self, pair):
        edit(pair[1], lambda f: put(f["sst"], f["sst_fill_flag"][:] == 1, -9999))
        assert "flagged filled, but hold no value" in differences(verify(*pair))

    def test_a_refused_cell_with_a_value_is_found(self, pair):
        edit(pair[1], lambda f: f["sst"].__setitem__(..., 1))
        assert "flagged refused or outside the domain, but hold a value" in differences(verify(*pair))

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda f: f["sst"].setncattr("units", "K"), "units: 'degC' became 'K'"),
            (lambda f: f["sst"].delncattr("units"), "units: absent from the output"),
            (lambda f: f["sst"].setncattr("scale_factor", 0.02), "scale_factor: 0.01 became 0.02"),
            (lambda f: f["time"].setncattr("calendar", "noleap"), "calendar: 'standard' became 'noleap'"),
            (lambda f: f["lat"].__setitem__(3, 44.71), "lat"),
            (lambda f: f["time"].__setitem__(0, 0.25), "time"),
        ],
    )
    def test_changed_metadata_are_found(self, pair, change, named):
        edit(pair[1], change)
        assert named in differences(verify(*pair))

    def test_history_and_ancillary_variables_may_change(self, pair):
        edit(pair[0], lambda f: f.setncattr("history", "made by hand"))
        assert verify(*pair).identical

    def test_an_untouched_variable_that_changed_is_found(self, tmp_path, gappy, write_netcdf):
        source = write_netcdf(gappy())
        edit(
            source,
            lambda f: f.createVariable("depth", "f4", ("lat", "lon")).__setitem__(..., np.float32(0.0)),
        )
        out = fill_netcdf(source, tmp_path / "out.nc")
        assert verify(source, out).identical
        edit(out, lambda f: f["depth"].__setitem__((2, 3), np.float32(-0.0)))  # equal, but other bits
        assert (
            "depth: 1 cells changed in a variable that was not filled; first at lat=2, lon=3"
            in differences(verify(source, out))
        )

    def test_a_missing_variable_is_found(self, pair):
        edit(pair[0], lambda f: f.createVariable("quality", "i1", ("lat", "lon")))
        assert "variable quality: absent from the output" in differences(verify(*pair))

    def test_other_chunks_or_compression_are_found(self, tmp_path, gappy, write_netcdf):
        source = write_netcdf(gappy())
        out = tmp_path / "out.nc"
        with netCDF4.Dataset(source) as a, netCDF4.Dataset(out, "w") as b:
            for name, dimension in a.dimensions.items():
                b.createDimension(name, dimension.size)
            for name, v in a.variables.items():
                fill = getattr(v, "_FillValue", None)
                w = b.createVariable(name, v.dtype, v.dimensions, fill_value=fill, zlib=name == "sst")
                w.setncatts({k: v.getncattr(k) for k in v.ncattrs() if k != "_FillValue"})
                w[:] = v[:]
        assert "variable sst, layout" in differences(verify(source, out))

    def test_another_dtype_is_a_difference_unless_declared(self, tmp_path, gappy, write_netcdf):
        values = gappy()
        source = write_netcdf(values)
        out = write_netcdf(values, "double.nc", dtype="f8")
        assert "dtype: '<f4' became '<f8'" in differences(verify(source, out))
        edit(out, lambda f: f.setncattr("history", HISTORY.format("--dtype float64")))
        assert verify(source, out).identical
        edit(out, lambda f: f["sst"].__setitem__(..., f["sst"][:] + 1e-3))
        assert "observed, and changed" in differences(verify(source, out))

    def test_nodata_given_to_the_run_is_read_from_history(self, tmp_path, gappy, write_netcdf):
        values = np.nan_to_num(gappy(), nan=0.0)
        source = write_netcdf(values)
        out = write_netcdf(np.where(values == 0, 5, values).astype(np.float32), "out.nc")
        assert "observed, and changed" in differences(verify(source, out))
        assert verify(source, out, nodata=(0.0,)).identical
        edit(out, lambda f: f.setncattr("history", HISTORY.format("--nodata 0")))
        assert verify(source, out).identical

    def test_a_part_is_compared_where_the_user_asked_for_one(self, tmp_path, pair, gappy, write_netcdf):
        values = gappy()
        source = write_netcdf(values, "float.nc")
        out = tmp_path / "part.nc"
        with netCDF4.Dataset(source) as a, netCDF4.Dataset(out, "w") as b:
            part = {"time": slice(1, 5), "lat": slice(2, 8), "lon": slice(0, 7)}
            for name, dimension in a.dimensions.items():
                b.createDimension(name, len(range(*part[name].indices(dimension.size))))
            for name, v in a.variables.items():
                w = b.createVariable(name, v.dtype, v.dimensions, fill_value=getattr(v, "_FillValue", None))
                w.setncatts({k: v.getncattr(k) for k in v.ncattrs() if k != "_FillValue"})
                w[:] = v[tuple(part[d] for d in v.dimensions)]
        assert "2 of 6 positions" in differences(verify(source, out))
        edit(
            out,
            lambda f: f.setncattr(
                "history", HISTORY.format("--bbox 5,44,5.6,44.8 --time 2020-01-02,2020-01-05")
            ),
        )
        report = verify(source, out)
        assert report.identical
        assert report.total("observed") == int(np.isfinite(values[1:5, 2:8, :7]).sum())
        edit(out, lambda f: put(f["sst"], np.isfinite(f["sst"][:]), 1.0))
        assert "observed, and changed" in differences(verify(source, out))

    def test_time_anywhere_among_four_dimensions(self, tmp_path):
        source, out = tmp_path / "a.nc", tmp_path / "b.nc"
        values = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype("f4")
        values[0, 0, 1, 1] = np.nan
        for path in (source, out):
            with netCDF4.Dataset(path, "w") as file:
                for name, size in zip(("lat", "level", "time", "lon"), values.shape, strict=True):
                    file.createDimension(name, size)
                file.createVariable("u", "f4", ("lat", "level", "time", "lon"))[:] = values
        edit(out, lambda f: f["u"].__setitem__((0, 0, 1, 1), 3.0))
        assert verify(source, out).total("filled") == 1
        edit(out, lambda f: f["u"].__setitem__((2, 1, 3, 4), 3.0))
        assert "lat=2, level=1, time=3, lon=4" in differences(verify(source, out))


class TestMerging:
    def halves(self, gappy, write_netcdf) -> tuple[np.ndarray, Path, Path]:
        values = gappy()
        first = write_netcdf(values[:3], "first.nc", times=[0, 1, 2])
        second = write_netcdf(values[3:], "second.nc", times=[3, 4, 5])
        return values, first, second

    def test_two_files_in_one_whatever_their_order(self, gappy, write_netcdf):
        values, first, second = self.halves(gappy, write_netcdf)
        out = write_netcdf(values, "out.nc")
        report = verify([second, first], out)
        assert report.identical
        assert report.total("observed") == int(np.isfinite(values).sum())
        edit(out, lambda f: f["sst"].__setitem__((4, ...), 1.0))
        assert "time=1" in differences(
            verify([first, second], out)
        )  # the fifth step is the second of its file

    def test_a_lost_step_is_found(self, gappy, write_netcdf):
        values, first, second = self.halves(gappy, write_netcdf)
        out = write_netcdf(values[:5], "out.nc")
        assert "1 of 3 positions of second.nc are not in the output" in differences(
            verify([first, second], out)
        )

    def test_an_invented_step_is_found_unless_regular(self, gappy, write_netcdf):
        values = gappy()
        source = write_netcdf(values[[0, 1, 3]], times=[0, 1, 3])
        out = write_netcdf(values[:4], "out.nc")
        assert "1 positions along time are in the output but in no input" in differences(verify(source, out))
        edit(out, lambda f: f.setncattr("history", HISTORY.format("--regular")))
        assert verify(source, out).identical

    @pytest.mark.parametrize("declared", [(), (255,)])
    def test_cells_of_an_inserted_step_hold_what_their_flag_says(self, gappy, write_netcdf, declared):
        values = np.round(gappy(t=4, missing=0)) + 20
        values[2] = 255
        source = write_netcdf(values[[0, 1, 3]], times=[0, 1, 3], dtype="u1", fill=254)
        out = write_netcdf(values, "out.nc", dtype="u1", fill=254)
        edit(out, lambda f: f.setncattr("history", HISTORY.format("--regular")))
        with netCDF4.Dataset(out, "a") as file:
            flag = file.createVariable("sst_fill_flag", "i1", file["sst"].dimensions)
            flag[:] = np.where(values == 255, 2, 0)
        if declared:
            assert verify(source, out, nodata=declared).identical
            edit(out, lambda f: f["sst_fill_flag"].__setitem__((2, 0, 0), 1))
            text = differences(verify(source, out, nodata=declared))
            assert "1 cells flagged filled, but hold no value; first at time=2" in text
        else:
            assert f"{values[2].size} cells flagged refused or outside the domain, but hold a value" in (
                differences(verify(source, out))
            )

    @pytest.mark.parametrize(("choice", "kept"), [("first", 1), ("last", 2), ("mean", None)])
    def test_duplicate_steps(self, gappy, write_netcdf, choice, kept):
        values = gappy(t=4)
        source = write_netcdf(values, times=[0, 1, 1, 2])
        merged = (
            values[[0, kept or 1, 3]]
            if kept
            else np.stack([values[0], values[1] / 2 + values[2] / 2, values[3]])
        )
        out = write_netcdf(merged.astype("f4"), "out.nc")
        edit(out, lambda f: f.setncattr("history", HISTORY.format(f"--dedupe {choice}")))
        report = verify(source, out)
        assert report.differences == ()
        assert (report.total("altered") > 0) == (choice == "mean")
        edit(out, lambda f: f["sst"].__setitem__((0, ...), 1.0))
        assert "time=0" in differences(verify(source, out))

    def test_every_cell_of_a_mean_of_steps_is_counted_once(self, tmp_path, gappy, write_netcdf):
        source, out = write_netcdf(gappy(t=5), times=[0, 1, 1, 2, 3]), tmp_path / "out.nc"
        fill(source, out, "--dedupe", "mean")
        report = verify(source, out)
        assert report.differences == ()
        counted = sum(report.total(kind) for kind in ("observed", "altered", "filled", "refused"))
        assert counted == 4 * 8 * 10
        assert report.total("altered") == int(np.isfinite(gappy(t=5)[1:3]).any(axis=0).sum())

    def test_steps_that_two_files_share_count_as_altered_under_dedupe(self, gappy, write_netcdf):
        values = gappy(t=4)
        first = write_netcdf(values[:2], "first.nc", times=[0, 1])
        second = write_netcdf(values[2:], "second.nc", times=[1, 2])
        out = write_netcdf(values[[0, 1, 3]], "out.nc")
        assert "observed, and" in differences(verify([first, second], out))
        edit(out, lambda f: f.setncattr("history", HISTORY.format("--dedupe first")))
        report = verify([first, second], out)
        assert report.differences == ()
        assert report.total("altered") == int(np.isfinite(values[1:3]).sum())


class TestEncoding:
    @pytest.mark.parametrize(
        ("dtype", "attributes", "stored", "observed"),
        [
            (
                "i2",
                {"_FillValue": np.int16(-1), "missing_value": np.array([7, 8], "i2")},
                [-1, 7, 8, 9],
                [0, 0, 0, 1],
            ),
            ("f4", {}, [np.nan, np.inf, netCDF4.default_fillvals["f4"], 1], [0, 0, 0, 1]),
            ("f4", {"_FillValue": np.float64(-3.4e38)}, [np.float32(-3.4e38), 1], [0, 1]),
            ("i2", {"valid_range": np.array([0, 5], "i2"), "scale_factor": 0.1}, [-1, 0, 5, 6], [0, 1, 1, 0]),
            ("i2", {"valid_range": np.array([0.0, 0.5]), "scale_factor": 0.1}, [-1, 0, 5, 6], [0, 1, 1, 0]),
            ("i2", {"valid_min": np.int16(2)}, [1, 2], [0, 1]),
            ("i2", {}, [-32767, 1], [0, 1]),
            ("u1", {"_Unsigned": "false", "_FillValue": np.int8(-1)}, [255, 1], [0, 1]),
            (
                "i1",
                {"_Unsigned": "true", "_FillValue": np.int8(-1), "valid_max": np.int8(-6)},
                [-1, -5, -6, 1],
                [0, 0, 1, 1],
            ),
            ("f4", {"_FillValue": "AAAAAAAA+H8=", "missing_value": -999.0}, [np.nan, -999, 0], [0, 0, 1]),
        ],
    )
    def test_what_counts_as_observed(self, dtype, attributes, stored, observed):
        encoding = Encoding.from_cf(np.dtype(dtype), attributes)
        array = encoding.stored(np.array(stored, dtype=dtype))
        assert encoding.observed(array).tolist() == [bool(o) for o in observed]

    def test_unsigned_numbers_decode_unsigned(self):
        encoding = Encoding.from_cf(np.dtype("i1"), {"_Unsigned": "true", "scale_factor": 0.5})
        assert encoding.decode(encoding.stored(np.array([-1], "i1"))).tolist() == [127.5]

    @pytest.mark.parametrize("chunks", [None, (1, 3, 4), (7, 2, 2), (2, 5, 9)])
    @pytest.mark.parametrize("cells", [1, 10, 60, 10_000])
    def test_blocks_cover_everything_once(self, chunks, cells):
        covered = np.zeros((7, 5, 9), dtype=int)
        for block in blocks(covered.shape, chunks, cells):
            covered[block] += 1
        assert (covered == 1).all()


@pytest.mark.parametrize("version", [2, 3])
class TestZarr:
    def make(self, path: Path, values: np.ndarray, version: int) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = zarr.open_group(path, mode="w", zarr_format=version)
            names = {"dimension_names": ["time", "y", "x"]} if version == 3 else {}
            array = root.create_array(
                "sm", shape=values.shape, dtype=values.dtype, chunks=(2, 4, 5), fill_value=0, **names
            )
            array[:] = values
            array.attrs.update(
                {"_FillValue": -1, "units": "1"}
                | ({"_ARRAY_DIMENSIONS": ["time", "y", "x"]} if version == 2 else {})
            )
        return path

    def test_true_zeros_stay_and_damage_is_found(self, tmp_path, version):
        values = np.random.default_rng(1).integers(-1, 3, (6, 8, 10)).astype("i4")
        source = self.make(tmp_path / "a.zarr", values, version)
        filled = np.where(values == -1, 9, values)
        out = self.make(tmp_path / "b.zarr", filled, version)
        report = verify(source, out)
        assert report.differences == ()
        assert report.total("observed") == int((values >= 0).sum())
        at = tuple(np.argwhere(values == 0)[0])
        filled[at] = 1
        worse = self.make(tmp_path / "c.zarr", filled, version)
        assert f"time={at[0]}, y={at[1]}, x={at[2]}: stored 0 became 1" in differences(verify(source, worse))

    def test_netcdf_against_zarr(self, tmp_path, gappy, write_netcdf, version):
        values = gappy()
        source = write_netcdf(values, variable="sm")
        out = self.make(tmp_path / "out.zarr", np.nan_to_num(values, nan=3.0), version)
        text = differences(verify(source, out))
        assert "observed" not in text  # the numbers agree, only this file's names and attributes do not
        assert "dimension lat: absent from the output" in text

    def test_other_chunks_are_found(self, tmp_path, version):
        values = np.ones((2, 4, 5), "i4")
        source = self.make(tmp_path / "a.zarr", values, version)
        out = self.make(tmp_path / "b.zarr", values, version)
        other = zarr.open_group(out, mode="a")
        attributes = dict(other["sm"].attrs)
        names = {"dimension_names": ["time", "y", "x"]} if version == 3 else {}
        other.create_array(
            "sm", shape=(2, 4, 5), dtype="i4", chunks=(1, 2, 5), fill_value=0, overwrite=True, **names
        )[:] = values
        other["sm"].attrs.update(attributes)
        assert differences(verify(source, out)).startswith(
            "variable sm, layout, chunks: (2, 4, 5) became (1,"
        )

    @pytest.mark.parametrize("kept", [None, 0])
    def test_a_nodata_that_a_filled_array_gained(self, tmp_path, version, kept):
        """In v2 it is the array's ``fill_value``; in v3 that says how an unwritten chunk reads, and must stay."""
        values = np.ones((2, 4, 5), "u1")
        names = {"dimension_names": ["time", "y", "x"]} if version == 3 else {}
        attributes = {} if version == 3 else {"_ARRAY_DIMENSIONS": ["time", "y", "x"]}
        for name, number in (("a.zarr", kept), ("b.zarr", 255)):
            root = zarr.open_group(tmp_path / name, mode="w", zarr_format=version)
            array = root.create_array(
                "sm", shape=values.shape, dtype="u1", chunks=(2, 4, 5), fill_value=number, **names
            )
            array[:] = values
            array.attrs.update(attributes)
        report = verify(tmp_path / "a.zarr", tmp_path / "b.zarr")
        assert "variable sm, attribute _FillValue: only in the output (255)" in report.notes
        if version == 2:
            assert report.identical
            assert "layout, fill_value: '255' became" in differences(
                verify(tmp_path / "b.zarr", tmp_path / "a.zarr")
            )
        else:
            assert "layout, fill_value: " in differences(report)


def edit_raster(path: Path, row: int, column: int, value: float) -> None:
    with rasterio.open(path, "r+") as file:
        band = file.read(1)
        band[row, column] = value
        file.write(band, 1)


class TestRasters:
    def fill(self, sources: list[Path], folder: Path, code: float = -9999, options: str = "") -> Path:
        folder.mkdir()
        for path in sources:
            shutil.copy(path, folder)
            with rasterio.open(folder / path.name, "r+") as file:
                band = file.read(1)
                file.write(np.where(band == code, 12.5, band).astype(band.dtype), 1)
                file.update_tags(STIMPUTE_HISTORY=HISTORY.format(options))
        return folder

    def test_folder_to_folder(self, tmp_path, gappy, write_geotiffs):
        values = gappy()
        sources = write_geotiffs(values)
        out = self.fill(sources, tmp_path / "out")
        report = verify(sources, out)
        assert report.differences == ()
        assert report.total("observed") == int(np.isfinite(values).sum())
        assert report.total("filled") == int(np.isnan(values).sum())
        row, column = np.argwhere(np.isfinite(values[2]))[0]
        edit_raster(out / sources[2].name, int(row), int(column), 3.25)
        assert (
            f"{sources[2].name}: 1 cells observed, and changed; first at band 1, row {row}, column {column}"
            in differences(verify(sources, out))
        )
        (out / sources[0].name).unlink()
        assert f"{sources[0].name}: no such file" in differences(verify(sources, out))

    def test_nodata_given_to_the_run_is_read_from_its_history(self, tmp_path, gappy, write_geotiffs):
        sources = write_geotiffs(np.nan_to_num(gappy(t=2), nan=-1.0), nodata=None)
        silent = self.fill(sources, tmp_path / "silent", code=-1)
        assert "observed, and changed" in differences(verify(sources, silent))
        said = self.fill(sources, tmp_path / "said", code=-1, options="--nodata -1")
        assert verify(sources, said).identical

    @pytest.mark.parametrize("whose", ["named", "nodata", "alpha"])
    def test_four_named_bands_of_bytes_are_steps_and_an_alpha_is_none(self, tmp_path, gappy, whose):
        """A library marks the last of four bands of bytes as alpha by itself; ``fill`` goes by their names."""
        values = np.where(np.isnan(gappy(t=4)), 0, 20 * (gappy(t=4) - np.nanmin(gappy(t=4))) + 1).astype("u1")
        values[0, :2, :3] = 9
        values[3, :4] = 0  # of a step: nothing is known there; of an alpha: nothing is known in any band
        source, profile = tmp_path / "four.tif", {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32630"}
        place = rasterio.transform.from_origin(5e5, 4e6, 1000, 1000)
        nodata = 0 if whose == "nodata" else None
        if whose == "named":
            values = np.maximum(values, 1)
            values[3, 0, :2] = 0
        with rasterio.open(source, "w", count=4, height=8, width=10, nodata=nodata, transform=place, **profile) as file:  # fmt: skip
            file.write(values)
            assert file.colorinterp[3] is rasterio.enums.ColorInterp.alpha
            for band in range(1, 4 if whose == "alpha" else 5):
                file.set_band_description(band, f"red 2020-01-0{band}")
        observed = {
            "named": values.size,
            "nodata": (values > 0).sum(),
            "alpha": 3 * int((values[3] > 0).sum()),
        }
        for out in ("out.tif", "out.nc"):
            fill(source, tmp_path / out)
            report = verify(source, tmp_path / out)
            assert report.differences == ()
            assert report.total("observed") == observed[whose]

    @pytest.mark.parametrize("out", ["out.tif", "out.nc", "out/"])
    @pytest.mark.parametrize("window", [(), ("--time", "2020-01-02,2020-01-04")])
    def test_files_with_an_alpha_each_are_merged(self, tmp_path, gappy, write_geotiffs, out, window):
        sources = write_geotiffs(np.nan_to_num(gappy(), nan=7.0), nodata=None, bands=2)
        for path, step in zip(sources, gappy(), strict=True):
            with rasterio.open(path, "r+") as file:
                file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
                file.write(np.isfinite(step).astype("f4"), 2)
        fill(sources, f"{tmp_path}/{out}", *window)
        report = verify(sources, tmp_path / out)
        assert report.differences == ()
        assert report.total("observed") == int(np.isfinite(gappy()[1:4] if window else gappy()).sum())
        if out == "out.tif":
            fill(tmp_path / out, tmp_path / "again.tif", "--time", "2020-01-02,2020-01-03")
            assert verify(tmp_path / out, tmp_path / "again.tif").differences == ()

    @pytest.mark.parametrize("kind", ["one", "merged", "from NetCDF"])
    def test_a_mask_that_no_input_had_is_found(self, tmp_path, gappy, write_geotiffs, write_netcdf, kind):
        """It says that the gaps left are data, whatever nodata says."""
        sources = write_netcdf(gappy()) if kind == "from NetCDF" else write_geotiffs(gappy())
        sources, out = sources[:1] if kind == "one" else sources, tmp_path / "out.tif"
        fill(sources, out, "--max-gap", "1d")
        assert verify(sources, out).differences == ()
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(out, "r+") as file:
            file.write_mask(True)
        assert "out.tif, mask beside the numbers: False became True" in differences(verify(sources, out))

    def test_a_further_tag_is_told(self, tmp_path, gappy, write_geotiffs):
        source = write_geotiffs(gappy(t=1))[0]
        out = self.fill([source], tmp_path / "out") / source.name
        assert verify(source, out).notes == ()
        with rasterio.open(out, "r+") as file:
            file.update_tags(SENSOR="MODIS")
            file.update_tags(1, gain="2")
        report = verify(source, out)
        assert report.differences == ()
        assert report.notes == (
            f"{out.name}, tag SENSOR: only in the output ('MODIS')",
            f"{out.name}, band 1, tag gain: only in the output ('2')",
        )

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda f: setattr(f, "crs", "EPSG:32631"), "CRS"),
            (lambda f: setattr(f, "transform", f.transform * f.transform.translation(0.5, 0)), "transform"),
            (lambda f: setattr(f, "nodata", -1.0), "nodata"),
            (lambda f: setattr(f, "scales", (0.5,)), "scale"),
            (lambda f: f.set_band_description(1, "other"), "description"),
            (lambda f: f.update_tags(SENSOR="none"), "tag SENSOR: 'MODIS' became 'none'"),
        ],
    )
    def test_changed_metadata_are_found(self, tmp_path, gappy, write_geotiffs, change, named):
        source = write_geotiffs(gappy(t=1))[0]
        with rasterio.open(source, "r+") as file:
            file.update_tags(SENSOR="MODIS")
        out = self.fill([source], tmp_path / "out") / source.name
        assert verify(source, out).identical
        with rasterio.open(out, "r+") as file:
            change(file)
        assert named in differences(verify(source, out))

    def test_a_date_may_move_from_the_file_name_into_the_band(self, tmp_path, gappy, write_geotiffs):
        source = write_geotiffs(gappy(t=1))[0]
        out = Path(shutil.copy(source, tmp_path / "filled.tif"))
        for description, expected in (("2020-01-01", ()), ("something else", ("description",))):
            with rasterio.open(out, "r+") as file:
                file.set_band_description(1, description)
            found = [line for line in verify([source], out).differences if "description" in line]
            assert len(found) == len(expected), found

    def test_a_side_file_says_what_was_observed(self, tmp_path, write_geotiffs):
        source = write_geotiffs(np.full((1, 4, 5), 3.0), nodata=None)[0]
        out = tmp_path / "out.tif"
        shutil.copy(source, out)
        with rasterio.open(source, "r+") as file:
            valid = np.full((4, 5), 255, "u1")
            valid[1, 1] = 0
            file.write_mask(valid)
        edit_raster(out, 1, 1, 9.0)
        report = verify(source, out)
        assert not any("observed" in line for line in report.differences)
        assert report.total("filled") == 1
        edit_raster(out, 1, 2, 9.0)
        assert "row 1, column 2: stored 3.0 became 9.0" in differences(verify(source, out))

    def test_many_files_in_one(self, tmp_path, gappy, write_geotiffs):
        values = gappy()
        sources = write_geotiffs(values)
        out = tmp_path / "merged.tif"
        with rasterio.open(sources[0]) as first:
            profile = {**first.profile, "count": len(values)}
        with rasterio.open(out, "w", **profile) as file:
            file.write(np.nan_to_num(values, nan=5.0))
        report = verify(sources[::-1], out)  # dates in the names decide, not the order given
        assert report.differences == ()
        assert report.total("observed") == int(np.isfinite(values).sum())
        with rasterio.open(out, "r+") as file:
            file.write(np.ones(values.shape[1:], "f4"), 4)
        assert "first at band 4" in differences(verify(sources, out))

    def test_rasters_against_netcdf(self, gappy, write_geotiffs, write_netcdf):
        values = gappy()
        sources = write_geotiffs(values)
        out = write_netcdf(np.nan_to_num(values, nan=5.0), dtype="f8")
        report = verify(sources, out)
        assert report.differences == ()
        assert report.total("filled") == int(np.isnan(values).sum())
        edit(out, lambda f: f["sst"].__setitem__((3, ...), 1.0))
        assert "sst_20200104.tif, band 1" in differences(verify(sources, out))

    def test_netcdf_against_raster(self, tmp_path, gappy, write_netcdf):
        values = gappy()
        source = write_netcdf(values, dtype="i2", scale=0.01)
        with netCDF4.Dataset(source) as file:
            decoded = file["sst"][:].filled(5.0).astype("f4")
        out = tmp_path / "out.tif"
        profile = {"driver": "GTiff", "dtype": "float32", "count": 6, "height": 8, "width": 10}
        transform = rasterio.transform.from_origin(4.95, 45.05, 0.1, 0.1)
        with rasterio.open(out, "w", crs="EPSG:4326", transform=transform, **profile) as file:
            file.write(decoded)
        edit(source, lambda f: f.createVariable("other", "f4", f["sst"].dimensions))
        with pytest.raises(InputError, match=r"found \['sst', 'other'\]; name it with --var"):
            verify(source, out)
        with rasterio.open(out, "r+") as file:
            file.update_tags(STIMPUTE_HISTORY=HISTORY.format("--var sst"))
        report = verify(source, out)
        assert report.differences == ()
        assert report.total("observed") == int(np.isfinite(values).sum())

    def test_of_netcdf_the_variable_along_time_is_taken_as_fill_does(self, tmp_path, gappy, write_netcdf):
        source, out = write_netcdf(gappy()), tmp_path / "out.tif"

        def add_levels(file):
            file.createDimension("level", 3)
            file.createVariable("profile", "f4", ("level", *file["sst"].dimensions[1:]))

        edit(source, add_levels)
        api.fill(source, out, method="mean")
        report = verify(source, out)
        assert report.differences == ()
        assert report.total("observed") == int(np.isfinite(gappy()).sum())


@pytest.mark.parametrize("flags", ["--flags", "--no-flags"])
@pytest.mark.parametrize(("before", "after"), [("nc", "nc"), ("tif", "tif"), ("nc", "tif"), ("tif", "nc")])
def test_a_negative_standard_error_is_found(
    tmp_path, gappy, write_netcdf, write_geotiffs, before, after, flags
):
    source, out = (write_netcdf if before == "nc" else write_geotiffs)(gappy()), tmp_path / f"out.{after}"
    fill(source, out, flags)
    assert verify(source, out, variables=["sst"]).differences == ()
    step, row, column = (int(i) for i in np.argwhere(np.isnan(gappy()))[0])
    if after == "nc":
        edit(out, lambda f: f["sst_standard_error"].__setitem__((step, row, column), -5))
    else:
        with rasterio.open(tmp_path / "out_stderr.tif", "r+") as file:
            errors = file.read(step + 1)
            errors[row, column] = -5
            file.write(errors, step + 1)
    assert "1 cells filled, with a negative standard error" in differences(
        verify(source, out, variables=["sst"])
    )


def test_a_variable_that_is_not_there_proves_nothing(pair):
    source, out = pair
    with pytest.raises(InputError, match=r"--var ssh: no such variable, only time, lat, lon, sst"):
        verify([source], out, variables=["ssh"])
    everything = verify([source], out, variables=["all"])
    assert everything.layers == verify([source], out).layers
    assert everything.total("observed") > 0


def test_files_that_cannot_be_compared_are_refused_by_name(tmp_path, gappy, write_netcdf):
    source = write_netcdf(gappy())
    with pytest.raises(InputError, match=r"absent\.nc: no such file"):
        verify(source, tmp_path / "absent.nc")
    broken = tmp_path / "broken.nc"
    broken.write_bytes(source.read_bytes()[:600])
    with pytest.raises(InputError, match=r"broken\.nc"):
        verify(source, broken)


@pytest.mark.parametrize(
    "name",
    [
        "alboran_sst/alboranSST_small.nc",
        "modis_ndvi_gabon/mod13a2_h18v09_ndvi.nc",
        "awkward/eraint/eraint_uvz.nc",
        "awkward/oisst_reduced/reduced.nc",
        "awkward/fusets_s2/workshops_BIDS_demo_raw_s2_ndvi_field.nc",
        "awkward/zarr_zip/sic_daily_sample.zarr.zip",
        "complete_fields/E1_north_america.nc",
    ],
)
def test_a_real_file_equals_itself(shared_data, name):
    path = shared_data / name
    report = verify(path, path)
    assert report.differences == ()
    assert report.total("observed") > 0


def fill(source, out, *options) -> None:
    """By the command line, which tells its options in the history of the output."""
    inputs = [source] if isinstance(source, str | Path) else source
    command = ["fill", *map(str, inputs), str(out), "--method", "mean", "--fill-never-observed", *options]
    assert run(command) == 0


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
class TestParts:
    """Outputs that --time and --bbox cut, in another format too: proven, and still found wrong where they are."""

    @pytest.mark.parametrize(
        "window", [("--time", "2020-01-02,2020-01-04"), ("--bbox", "5.15,44.45,5.65,44.85")]
    )
    @pytest.mark.parametrize(
        ("before", "after"), [("nc", "tif"), ("tif", "nc"), ("nc", "nc"), ("tif", "folder")]
    )
    def test_a_part_is_proven(self, tmp_path, gappy, write_netcdf, write_geotiffs, before, after, window):
        source = write_netcdf(gappy()) if before == "nc" else write_geotiffs(gappy())
        out = f"{tmp_path}/out/" if after == "folder" else str(tmp_path / f"out.{after}")
        if before == "tif" and window[0] == "--bbox":
            with rasterio.open(source[0]) as file:
                left, bottom, right, top = file.bounds
            window = (
                "--bbox",
                f"{left + 0.2 * (right - left)},{bottom + 0.2 * (top - bottom)},{right},{top}",
            )
        fill(source, out, *window)
        report = verify(source, out)
        assert report.differences == ()
        assert 0 < report.total("observed") < np.isfinite(gappy()).sum()

    def test_a_changed_cell_of_a_part_is_found(self, tmp_path, gappy, write_netcdf):
        source, out = write_netcdf(gappy()), tmp_path / "out.tif"
        fill(source, out, "--time", "2020-01-02,2020-01-04")
        with rasterio.open(out, "r+") as file:
            band = file.read(2)
            band[3, 4] += 1
            file.write(band, 2)
        changed = np.isfinite(gappy()[2, 3, 4])
        assert ("observed, and changed" in differences(verify(source, out))) == bool(changed)
        assert changed

    def test_a_part_of_a_curvilinear_grid(self, tmp_path, gappy):
        y, x = np.mgrid[:8, :10]
        lat, lon = 50 - 0.1 * y + 0.02 * x, 5 + 0.1 * x + 0.02 * y
        coords = {"time": np.arange("2020-01-01", "2020-01-07", dtype="M8[D]").astype("M8[ns]"),
                  "lat": (("y", "x"), lat, {"units": "degrees_north"}), "lon": (("y", "x"), lon, {"units": "degrees_east"})}  # fmt: skip
        xr.Dataset({"v": (("time", "y", "x"), gappy(), {"coordinates": "lat lon"})}, coords).to_netcdf(
            tmp_path / "in.nc"
        )
        fill(tmp_path / "in.nc", tmp_path / "out.nc", "--bbox", "5.2,49.4,5.7,49.9")
        assert verify(tmp_path / "in.nc", tmp_path / "out.nc").differences == ()

    @pytest.mark.parametrize("level", [True, False])
    def test_a_single_step_or_level_against_a_raster(self, tmp_path, gappy, level):
        coords = {
            "lat": ("lat", 45 - 0.1 * np.arange(8), {"units": "degrees_north"}),
            "lon": ("lon", 5 + 0.1 * np.arange(10), {"units": "degrees_east"}),
        }
        dims, values = ("lat", "lon"), gappy()[0]
        if level:
            dims, values = ("time", "lev", *dims), gappy()[:, None]
            coords["time"] = np.arange("2020-01-01", "2020-01-07", dtype="M8[D]").astype("M8[ns]")
        xr.Dataset({"v": (dims, values)}, coords).to_netcdf(tmp_path / "in.nc")
        fill(tmp_path / "in.nc", tmp_path / "out.tif")
        report = verify(tmp_path / "in.nc", tmp_path / "out.tif")
        assert report.differences == ()
        assert report.total("observed") == np.isfinite(values).sum()

    def test_bands_of_a_part_in_time(self, tmp_path, gappy):
        """A raster of several bands, several such rasters, and dated ones, cut in time: into one raster, NetCDF and a folder."""
        values = np.where(np.isnan(gappy()), -1, gappy()).astype("f4")
        dates = [f"2020-01-0{k + 1}" for k in range(6)]
        profile = {"driver": "GTiff", "dtype": "float32", "nodata": -1.0, "crs": "EPSG:32630", "height": 8, "width": 10,
                   "transform": rasterio.Affine(9, 0, 5e5, 0, -9, 4e6)}  # fmt: skip

        def raster(path, steps):
            path.parent.mkdir(exist_ok=True)
            with rasterio.open(path, "w", count=len(steps), **profile) as file:
                file.write(values[steps])
                file.descriptions = tuple(dates[k] for k in steps)

        raster(tmp_path / "one" / "all.tif", list(range(6)))
        raster(tmp_path / "two" / "x_1.tif", [0, 1, 2])
        raster(tmp_path / "two" / "x_2.tif", [3, 4, 5])
        for k in range(6):
            raster(tmp_path / "six" / f"v_2020010{k + 1}.tif", [k])
        for folder in ("one", "two", "six"):
            for out in ("part.tif", "part.nc", "part/"):
                target = f"{tmp_path}/{folder}_{out}"
                fill(tmp_path / folder, target, "--time", "2020-01-02,2020-01-04")
                report = verify(tmp_path / folder, target)
                assert report.differences == (), (folder, out)
                assert report.total("observed") == int(np.isfinite(gappy()[1:4]).sum())

    def test_a_folder_that_was_filled_before(self, tmp_path, gappy, write_geotiffs):
        fill(write_geotiffs(gappy()), f"{tmp_path}/first/")
        fill(tmp_path / "first", f"{tmp_path}/second/")
        assert verify(tmp_path / "first", tmp_path / "second").differences == ()

    def test_a_part_made_by_the_python_api(self, tmp_path, gappy, write_netcdf):
        source = write_netcdf(gappy())
        api.fill(
            source,
            tmp_path / "out.nc",
            method="mean",
            time=("2020-01-02", "2020-01-04"),
            fill_never_observed=True,
        )
        assert verify(source, tmp_path / "out.nc").differences == ()
        with netCDF4.Dataset(tmp_path / "out.nc") as file:
            assert (
                "stimpute.fill --method mean --time 2020-01-02,2020-01-04 --fill-never-observed"
                in file.history
            )

    @pytest.mark.parametrize("said", [True, False])
    def test_a_flag_may_be_gone_only_if_that_was_asked_for(self, tmp_path, gappy, write_netcdf, said):
        first, second = tmp_path / "first.nc", tmp_path / "second.nc"
        fill(write_netcdf(gappy()), first, "--max-gap", "1d")
        fill(first, second, "--var", "sst", "--no-flags")
        if not said:
            edit(second, lambda f: f.setncattr("history", f.history.replace(" --no-flags", "")))
        assert (verify(first, second).differences == ()) == said
