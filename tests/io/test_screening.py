"""``--qc`` and fills that nothing declares."""

import numpy as np
import pytest
import xarray as xr

from stimpute.errors import StimputeWarning
from stimpute.io import ReadOptions, SinkOptions, open_source, screening
from stimpute.io.screening import _limits_of, cell_limits
from stimpute.io.suspicion import suspicious_number
from stimpute.io.verify import verify
from stimpute.protocols import Window


def test_an_outlier_is_read_as_a_gap_and_counted(write_netcdf, gappy, fill_with, tmp_path):
    values = gappy(t=20, missing=0.2)
    values[7, 3, 4], values[9, 0, 2] = 60.0, 60.0
    path, out = write_netcdf(values), tmp_path / "out.nc"
    with pytest.warns(StimputeWarning, match=r"sst: 2 outliers are treated as gaps \(--qc\)"):
        source = open_source(path, ReadOptions(qc=True))
    with source:
        valid = source.read(Window.whole(source.layers[0].shape)).valid
        assert not valid[7, 3, 4]
        assert (valid != np.isfinite(values)).sum() == 2
    with pytest.warns(StimputeWarning):
        fill_with(15.0, path, out, ReadOptions(qc=True))
    with open_source(out, ReadOptions(variables=("sst",))) as written:
        after = written.read(Window.whole(written.layers[0].shape)).with_nan()
        assert after[7, 3, 4] == 15
        assert np.isnan(after[9, 0, 2])  # refused, and no longer there
        assert "2 outliers treated as gaps" in written.files[0].attrs["history"]


def test_covariates_are_not_read_to_find_outliers(write_netcdf, gappy, monkeypatch):
    beside = write_netcdf(gappy(t=20), "beside.nc", variable="elevation")
    asked = []
    monkeypatch.setattr(
        screening, "_limits_of", lambda s, n: (asked.append(s.covariates), _limits_of(s, n))[1]
    )
    options = ReadOptions(qc=True, covariates=(str(beside),))
    with open_source(write_netcdf(gappy(t=20)), options) as source:
        assert asked == [()]
        assert source.read(Window((0, 1), (0, 8), (0, 10))).dynamic.keys() == {"elevation"}


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("target", ["out.nc", "out.zarr", None])
def test_a_refused_outlier_of_whole_numbers_without_a_fill_is_declared_missing(
    gappy, fill_with, tmp_path, target, dtype
):
    values = np.round(gappy(t=20, missing=0)).astype("i2")
    values[9, 0, 2] = 900
    data = xr.Dataset(
        {"v": (("time", "lat", "lon"), values)},
        coords={
            "time": ("time", np.arange(20), {"units": "days since 2020-01-01"}),
            "lat": ("lat", np.arange(8.0), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(10.0), {"units": "degrees_east"}),
        },
    )
    given, out = tmp_path / "in.nc", None if target is None else tmp_path / target
    data.to_netcdf(given)
    for source in (given, *([xr.decode_cf(data)] if target is None else [])):
        with pytest.warns(StimputeWarning, match="1 outliers"):
            sink = fill_with(15.0, source, out, ReadOptions(qc=True), SinkOptions(dtype=dtype))
        after = sink.dataset if out is None else xr.open_dataset(out)
        if after.v.dtype.kind == "i":
            assert after.v.values[9, 0, 2] == after.v.attrs["_FillValue"] == -32767
            after["v"] = after.v.where(after.v != after.v.attrs["_FillValue"])
        assert np.isnan(after.v.values[9, 0, 2])
        assert (after.v == values).sum() == values.size - 1


def write_u1(path, values):
    """Whole numbers (time, y, x) of one byte that declare no nodata."""
    data = xr.Dataset(
        {"v": (("time", "lat", "lon"), values.astype("u1"))},
        coords={
            "time": ("time", np.arange(len(values)), {"units": "days since 2020-01-01"}),
            "lat": ("lat", np.arange(values.shape[1]) * 1.0, {"units": "degrees_north"}),
            "lon": ("lon", np.arange(values.shape[2]) * 1.0, {"units": "degrees_east"}),
        },
    )
    if path.suffix == ".zarr":
        data.to_zarr(path, zarr_format=2)
    else:
        data.to_netcdf(path)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_without_an_outlier_no_nodata_is_needed(fill_with, tmp_path, suffix):
    values = np.arange(8 * 6 * 6).reshape(8, 6, 6) % 256  # every number, so none could mark a gap
    path, out = write_u1(tmp_path / f"in{suffix}", values), tmp_path / f"out{suffix}"
    with open_source(path, ReadOptions(qc=True)) as source:
        assert source.outliers == 0
        assert not source.needs_fill
    fill_with(1.0, path, out, ReadOptions(qc=True))
    with xr.open_dataset(out, mask_and_scale=False) as after:
        assert "_FillValue" not in after.v.attrs
        np.testing.assert_array_equal(after.v.values, values)
    assert verify(path, out).identical


@pytest.mark.parametrize("target", ["out", "out.nc"])
def test_a_nodata_is_chosen_where_an_outlier_is_refused(fill_with, tmp_path, target):
    values = np.broadcast_to(10 + np.arange(20)[:, None, None] % 7, (20, 4, 5)).copy()
    values[9, 0, 2] = 200
    path, out = write_u1(tmp_path / "in.nc", values), tmp_path / target
    with pytest.warns(StimputeWarning, match="1 outliers"):
        fill_with(1.0, path, out, ReadOptions(qc=True))
    with xr.open_dataset(out / "in.nc" if target == "out" else out, mask_and_scale=False) as after:
        assert after.v.attrs["_FillValue"] == after.v.values[9, 0, 2] == 255


def test_few_observations_and_constant_cells_have_no_limits():
    values = np.full((6, 1, 2), np.nan, dtype="f4")
    values[:4, 0, 0] = [1, 1, 1, 100]
    values[:, 0, 1] = 3
    low, high = cell_limits(values)
    assert np.isinf(low).all()
    assert np.isinf(high).all()


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([255] * 50 + list(range(200)), 255),
        ([0] * 400 + list(range(1, 200)), None),  # rain
        ([65535] * 9 + list(range(3000)) * 2, None),  # too rare
        ([0] * 50 + list(range(9000, 9400)), 0),
        ([7] * 100, None),
    ],
)
def test_what_looks_like_a_fill(numbers, found):
    assert suspicious_number(np.array(numbers, dtype="u2" if max(numbers) > 255 else "u1")) == found
