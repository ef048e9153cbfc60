"""Zarr stores, v2 and v3, folders and zip files, from end to end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from stimpute.errors import InputError, UsageError
from stimpute.io import ReadOptions, SinkOptions, open_source
from stimpute.io.verify import verify
from stimpute.protocols import Window


def store(path: Path, values: np.ndarray, version: int = 2, dtype: str = "i2") -> Path:
    scaled = np.where(np.isnan(values), -999, np.round(np.nan_to_num(values) * 10)).astype(dtype)
    dataset = xr.Dataset(
        {"sst": (("time", "lat", "lon"), scaled, {"scale_factor": 0.1, "units": "degC", "_FillValue": np.dtype(dtype).type(-999)}),
         "depth": (("lat", "lon"), np.ones(values.shape[1:], "f4"))},
        coords={"time": ("time", np.arange(len(values)), {"units": "days since 2000-01-01"}),
                "lat": ("lat", 10.0 - np.arange(values.shape[1]), {"units": "degrees_north"}),
                "lon": ("lon", 1.0 * np.arange(values.shape[2]), {"units": "degrees_east"})},
        attrs={"title": "kept"},
    )  # fmt: skip
    decoded = xr.decode_cf(dataset)
    decoded["sst"].encoding |= {"dtype": dtype, "chunks": (2, 3, 4)}
    decoded.to_zarr(path, zarr_format=version, consolidated=version == 2)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_stored_numbers_chunks_and_metadata_survive(tmp_path, gappy, fill_with, version):
    path, out = store(tmp_path / "in.zarr", gappy(), version), tmp_path / "out.zarr"
    fill_with(12.3, path, out)
    a, b = zarr.open_group(path, mode="r"), zarr.open_group(out, mode="r")
    flag = b["sst_fill_flag"][:]
    np.testing.assert_array_equal(a["sst"][:][flag != 1], b["sst"][:][flag != 1])
    assert set(b["sst"][:][flag == 1].tolist()) == {123}
    assert b.metadata.zarr_format == version
    for key in ("chunks", "dtype", "compressors", "fill_value"):
        assert getattr(a["sst"], key) == getattr(b["sst"], key), key
    assert b.attrs["title"] == "kept"
    assert b.attrs["history"].endswith("(test)")
    assert os.listdir(tmp_path) == ["in.zarr", "out.zarr"] or set(os.listdir(tmp_path)) == {
        "in.zarr",
        "out.zarr",
    }
    with xr.open_zarr(path, consolidated=False) as x, xr.open_zarr(out, consolidated=False) as y:
        np.testing.assert_array_equal(y.sst.where(y.sst_fill_flag == 0), x.sst)
        assert y.sst.attrs["ancillary_variables"] == "sst_fill_flag sst_standard_error"
        xr.testing.assert_identical(x.depth.drop_attrs(), y.depth.drop_attrs())


def test_a_zip_file_holds_a_store_in_a_folder(tmp_path, gappy, fill_with):
    import shutil

    inner = store(tmp_path / "x" / "in.zarr", gappy())
    shutil.make_archive(str(tmp_path / "in.zarr"), "zip", root_dir=inner.parent, base_dir="in.zarr")
    fill_with(12.3, tmp_path / "in.zarr.zip", tmp_path / "out.zarr.zip")
    with open_source(tmp_path / "out.zarr.zip") as source:
        assert source.format == "Zarr"
        assert source.read(Window.whole(source.layers[0].shape)).valid[:, 1:].all()
    assert {p.name for p in tmp_path.iterdir()} == {"x", "in.zarr.zip", "out.zarr.zip"}


def test_zero_as_fill_value_leaves_zeros_alone(tmp_path):
    root = zarr.open_group(tmp_path / "rain.zarr", mode="w", zarr_format=2)
    for name, size in (("time", 3), ("y", 4), ("x", 5)):
        root.create_array(name, data=np.arange(size, dtype="f8"), attributes={"_ARRAY_DIMENSIONS": [name]})
    root["time"].attrs["units"] = "days since 2000-01-01"
    rain = root.create_array("rain", shape=(3, 4, 5), chunks=(1, 4, 5), dtype="f2", fill_value=0,
                             attributes={"_ARRAY_DIMENSIONS": ["time", "y", "x"]})  # fmt: skip
    rain[0] = 1.5
    rain[1, 0, 0] = np.nan  # the chunk of the last step is missing: zeros
    with pytest.warns(match="no CRS"), open_source(tmp_path / "rain.zarr") as source:
        stack = source.read(Window.whole((3, 4, 5)))
    assert int((~stack.valid).sum()) == 1
    assert (stack.values[2] == 0).all()


@pytest.mark.filterwarnings("ignore:.*an earlier run filled")
def test_netcdf_to_zarr_and_back_keeps_numbers(write_netcdf, gappy, fill_with, tmp_path):
    path = write_netcdf(gappy(), dtype="i2", scale=0.01)
    fill_with(11.0, path, tmp_path / "out.zarr", None, SinkOptions(creation={"ZARR_FORMAT": "3"}))
    fill_with(11.0, tmp_path / "out.zarr", tmp_path / "back.nc")
    with open_source(path) as a, open_source(tmp_path / "back.nc") as b:
        window = Window.whole(a.layers[0].shape)
        valid = a.read(window).valid
        np.testing.assert_array_equal(a.read_stored(window)[valid], b.read_stored(window)[valid])
    with pytest.raises(UsageError, match="ZARR_FORMAT"):
        fill_with(1.0, path, tmp_path / "no.zarr", None, SinkOptions(creation={"BLOCK": "3"}))


def test_a_selection_of_a_store(tmp_path, gappy, fill_with):
    path, out = store(tmp_path / "in.zarr", gappy()), tmp_path / "out.zarr"
    fill_with(12.3, path, out, ReadOptions(bbox=(2, 5, 6, 9), time=("2000-01-02", "")))
    root = zarr.open_group(out, mode="r")
    assert root["sst"].shape == (5, 5, 5)
    assert root["lat"][:].tolist() == [9, 8, 7, 6, 5]
    assert root["depth"].shape == (5, 5)


def test_no_store(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match=r"empty\.zarr"):
        open_source(tmp_path / "empty.zarr")


@pytest.mark.data
def test_real_zip(shared_data, tmp_path, fill_with):
    path = next((shared_data / "awkward" / "zarr_zip").glob("*.zip"))
    out = tmp_path / "out.zarr.zip"
    fill_with(0.5, path, out, tile=(1, 500, 2000))
    report = verify([str(path)], out)
    assert report.ok if hasattr(report, "ok") else report


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
@pytest.mark.parametrize("fill", [-9999.0, np.nan])
def test_a_v3_store_that_declares_its_gaps_by_the_fill_value_alone_verifies(tmp_path, gappy, fill_with, fill):
    """As zarr itself writes it, without xarray's ``_FillValue`` attribute."""
    values = gappy()
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=3)
    for name, data, dims in (("time", np.arange(6.0), ["time"]), ("sst", values, ["time", "y", "x"])):
        array = root.create_array(
            name, shape=data.shape, dtype=data.dtype, fill_value=fill, dimension_names=dims
        )
        array[...] = np.where(np.isnan(data), fill, data)
    root["time"].attrs["units"] = "days since 2020-01-01"
    fill_with(12.5, tmp_path / "in.zarr", tmp_path / "out.zarr")
    report = verify([tmp_path / "in.zarr"], tmp_path / "out.zarr")
    assert report.differences == ()
    assert report.layers[0].observed == np.isfinite(values).sum()


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
def test_arrays_without_dimension_names_do_not_share_any(tmp_path, gappy, fill_with):
    """Their lengths differ: under one name the output could not be opened by xarray."""
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=2)
    for name, data in (("sst", gappy(t=3)), ("weights", np.arange(5.0))):
        array = root.create_array(name, shape=data.shape, dtype=data.dtype, fill_value=np.nan)
        array[...] = data
    root["sst"].attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    fill_with(12.5, tmp_path / "in.zarr", tmp_path / "out.zarr")
    assert verify([tmp_path / "in.zarr"], tmp_path / "out.zarr").differences == ()
    with xr.open_zarr(tmp_path / "out.zarr", consolidated=False) as out:
        assert out.weights.dims == ("weights_dim_0",)


@pytest.mark.parametrize("version", [2, 3, "nc"])
def test_text_of_any_length_is_kept(tmp_path, fill_with, version):
    values = np.where(np.random.default_rng(0).random((4, 3, 5)) < 0.3, np.nan, 1.0).astype(np.float32)
    times = np.arange("2020-01-01", "2020-01-05", dtype="M8[D]").astype("M8[ns]")
    coords = {
        "time": times,
        "lat": ("lat", np.arange(3.0), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(5.0), {"units": "degrees_east"}),
    }
    names = np.array(["a", "longer", "b", "c"], dtype=object)
    given = xr.Dataset({"v": (("time", "lat", "lon"), values), "names": ("time", names)}, coords)
    path = tmp_path / ("in.nc" if version == "nc" else "in.zarr")
    if version == "nc":
        given.to_netcdf(path)
    else:
        given.to_zarr(path, zarr_format=version, consolidated=version == 2)
    fill_with(7.0, path, tmp_path / "out.zarr")
    assert (
        xr.open_zarr(tmp_path / "out.zarr", consolidated=version != 3).names.values.tolist() == names.tolist()
    )
    assert verify(path, tmp_path / "out.zarr").identical
