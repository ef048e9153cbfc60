"""Awkward values and nodata: rows 1 to 26."""

from __future__ import annotations

import re
import warnings

import netCDF4
import numpy as np
import pytest
import rasterio
import zarr

from stimpute import api, io
from stimpute.errors import OutputError
from stimpute.estimate import Estimate
from stimpute.inference.engine import fill_source
from stimpute.inference.options import FillOptions


def edit(path, change) -> None:
    with netCDF4.Dataset(path, "a") as file:
        file.set_auto_maskandscale(False)
        change(file)


def gaps(values) -> int:
    return int(np.isnan(values).sum())


def test_01_holes_without_declared_nodata_are_asked_about(gappy, write_geotiffs, fill, refuses):
    values = np.round(gappy() * 100)
    holes = np.where(np.isnan(values), -9999, values)
    paths = write_geotiffs(holes, dtype="int16", nodata=None)
    assert "--nodata" in refuses(paths, "out.tif")
    assert fill(paths, "out.tif", nodata=-9999).counts[1] == gaps(values)


def test_02_nodata_is_nan(gappy, write_geotiffs, fill):
    values = gappy()
    paths = write_geotiffs(values, nodata=float("nan"))
    for path, band in zip(paths, values, strict=True):
        with rasterio.open(path, "r+") as file:
            file.write(band, 1)
    assert fill(paths, "out.tif").counts[1] == gaps(values)


@pytest.mark.parametrize("held", [-3.4e38, float(np.finfo("f4").min)], ids=["rounded", "the type's lowest"])
def test_03_nodata_with_other_digits_than_the_data(gappy, write_geotiffs, fill, held):
    values = gappy()
    paths = write_geotiffs(np.where(np.isnan(values), held, values), nodata=-3.4e38)
    assert fill(paths, "out.tif").counts[1] == gaps(values)


def test_04_nodata_outside_the_dtype(gappy, write_netcdf, refuses):
    source = write_netcdf(np.nan_to_num(gappy()), dtype="u1", fill=0)
    with netCDF4.Dataset(source) as old, netCDF4.Dataset(source.with_name("bad.nc"), "w") as new:
        for name, dimension in old.dimensions.items():
            new.createDimension(name, dimension.size)
        for name, variable in old.variables.items():
            copy = new.createVariable(name, variable.dtype, variable.dimensions)
            copy.setncatts({k: variable.getncattr(k) for k in variable.ncattrs() if k != "_FillValue"})
            copy[:] = variable[:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # netCDF4 notices too
            new["sst"].missing_value = np.int16(-9999)
    said = refuses(source.with_name("bad.nc"))
    assert "-9999" in said
    assert "--nodata" in said


def test_05_nodata_of_each_band_of_a_vrt(tmp_path, gappy, write_geotiffs, fill):
    values = gappy(t=2)
    for band, code in enumerate((-1.0, -2.0)):
        write_geotiffs(
            np.where(np.isnan(values[band : band + 1]), code, values[band : band + 1]),
            f"b{band}",
            nodata=None,
        )
    bands = "".join(
        f'<VRTRasterBand dataType="Float32" band="{b + 1}"><Description>2020-01-0{b + 1}</Description>'
        f'<NoDataValue>{-1.0 - b}</NoDataValue><SimpleSource><SourceFilename relativeToVRT="1">b{b}/sst_20200101.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for b in range(2)
    )
    vrt = tmp_path / "stack.vrt"
    geo = "<GeoTransform>500000,1000,0,4600000,0,-1000</GeoTransform>"
    vrt.write_text(
        f'<VRTDataset rasterXSize="10" rasterYSize="8"><SRS>EPSG:32630</SRS>{geo}{bands}</VRTDataset>'
    )
    assert fill(vrt, "out.tif", fill_never_observed=True).counts[0] == values.size - gaps(values)


def test_06_several_fill_codes(gappy, write_geotiffs, fill):
    values = gappy()
    codes = np.random.default_rng(0).integers(249, 256, values.shape)
    paths = write_geotiffs(np.where(np.isnan(values), codes, values), dtype="uint8", nodata=None)
    assert fill(paths, "out.tif", nodata=tuple(range(249, 256))).counts[1] == gaps(values)


def test_07_fill_value_and_a_vector_of_missing_values(gappy, write_netcdf, fill):
    values = np.round(gappy())
    holes = np.where(np.isnan(values), np.random.default_rng(0).choice([-1, -2, -3], values.shape), values)
    source = write_netcdf(holes, dtype="i2", fill=-1, attributes={"missing_value": np.array([-2, -3], "i2")})
    assert fill(source).counts[1] == gaps(values)


def test_08_undeclared_default_fill_is_said(tmp_path, gappy, fill):
    values = gappy()
    source = tmp_path / "bare.nc"
    with netCDF4.Dataset(source, "w") as file:
        for name, size in zip(("time", "y", "x"), values.shape, strict=True):
            file.createDimension(name, size)
        axis = file.createVariable("time", "f8", ("time",))
        axis.units, axis[:] = "days since 2020-01-01", np.arange(len(values))
        file.createVariable("sst", "f4", ("time", "y", "x"))[:] = np.ma.masked_invalid(values)
    outcome = fill(source)
    assert outcome.counts[1] == gaps(values)
    assert "9.96" in outcome.warned
    assert "bare.nc" in outcome.warned


def test_09_nan_and_a_sentinel_in_one_file(gappy, write_netcdf, fill):
    values = gappy()
    source = write_netcdf(values, fill=-999.0)
    edit(
        source,
        lambda f: f["sst"].__setitem__(
            (slice(None), 0), np.where(f["sst"][:, 0] == -999, np.nan, f["sst"][:, 0])
        ),
    )
    assert fill(source).counts[1] == gaps(values)


def test_10_infinities_are_gaps_and_said(gappy, write_netcdf, fill):
    values = gappy()
    values[2, 3, 4], values[3, 3, 4] = np.inf, -np.inf
    outcome = fill(write_netcdf(values))
    assert outcome.counts[0] == np.isfinite(values).sum()
    assert "stack.nc: sst: infinite values" in outcome.warned


@pytest.mark.parametrize("cover", ["internal", "side file", "alpha"])
def test_11_validity_kept_beside_the_values(tmp_path, gappy, write_geotiffs, fill, cover):
    values = gappy()
    paths = write_geotiffs(np.nan_to_num(values, nan=7.0), nodata=None, bands=2 if cover == "alpha" else 1)
    for path, band in zip(paths, values, strict=True):
        seen = np.where(np.isnan(band), 0, 255)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=cover == "internal"), rasterio.open(path, "r+") as file:
            if cover == "alpha":
                file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
                file.write(seen.astype("f4"), 2)
            else:
                file.write_mask(seen.astype("u1"))
    (tmp_path / "filled").mkdir()
    outcome = fill(paths, "filled")
    assert outcome.counts[0] == values.size - gaps(values)


@pytest.mark.parametrize("version", [2, 3])
def test_12_true_zeros_of_a_zarr_store_stay(tmp_path, fill, version):
    values = np.random.default_rng(0).integers(0, 5, (4, 6, 7)).astype("i2")
    values[1, 2, 3] = -1
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=version)
    for name, data, dims in (("time", np.arange(4.0), ["time"]), ("sm", values, ["time", "y", "x"])):
        names = {"dimension_names": dims} if version == 3 else {}
        array = root.create_array(name, shape=data.shape, dtype=data.dtype, fill_value=0, **names)
        array[...] = data
        array.attrs.update({"_ARRAY_DIMENSIONS": dims} if version == 2 else {})
    root["time"].attrs["units"] = "days since 2020-01-01"
    root["sm"].attrs["missing_value"] = -1
    outcome = fill(tmp_path / "in.zarr", "out.zarr")
    assert outcome.counts == (values.size - 1, 1, 0)


def test_13_valid_range_and_unsigned(gappy, write_netcdf, fill):
    values = np.round(gappy())
    holes = np.where(np.isnan(values), 60, values)
    ranged = write_netcdf(
        holes, "ranged.nc", dtype="i2", attributes={"valid_range": np.array([-50, 50], "i2")}
    )
    assert fill(ranged, "a.nc").counts[1] == gaps(values)
    bytes_ = np.where(np.isnan(values), -1, values + 180 - 256).astype(
        "f8"
    )  # 195.. as signed bytes, 255 is the fill
    unsigned = write_netcdf(bytes_, "unsigned.nc", dtype="i1", fill=-1)
    edit(unsigned, lambda f: f["sst"].setncattr("_Unsigned", "true"))
    outcome = fill(unsigned, "b.nc")
    assert outcome.counts[1] == gaps(values)
    filled = outcome.stored("sst").view("u1")
    assert 180 < filled.min() <= filled.max() < 255


def test_14_packing_differs_between_the_files_of_a_stack(gappy, write_netcdf, fill):
    values = gappy()
    first = write_netcdf(values[:3], "a.nc", dtype="i2", scale=0.01, times=[0, 1, 2])
    second = write_netcdf(values[3:], "b.nc", dtype="i2", scale=0.002, offset=5.0, times=[3, 4, 5])
    outcome = fill([first, second])
    assert outcome.counts[0] == np.isfinite(values).sum()
    with netCDF4.Dataset(outcome.out) as file:
        np.testing.assert_allclose(
            np.where(np.isnan(values), 0, file["sst"][:]), np.nan_to_num(values), atol=0.0051
        )


def test_15_values_beyond_the_packing_are_never_clipped(tmp_path, gappy, write_netcdf):
    class Wild:
        name, sees_whole = "wild", True

        def prepare(self, overview):
            return self

        def impute(self, stack):
            return Estimate(np.full(stack.shape, 1e6, np.float32))

    source = write_netcdf(gappy(), dtype="i2", scale=0.01)
    run = FillOptions(bounds=None, uncertainty=False)
    with (
        io.open_source([source]) as opened,
        pytest.raises(OutputError, match="--dtype") as caught,
        io.create_sink(tmp_path / "out.nc", opened, io.SinkOptions()) as sink,
    ):
        fill_source(opened, sink, Wild(), run)
    assert "1e+06" in str(caught.value) or "1000000" in str(caught.value)
    assert not (tmp_path / "out.nc").exists()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "i8", "f8"])
def test_16_every_dtype_keeps_its_exact_numbers(gappy, write_netcdf, fill, dtype):
    values = np.round(gappy())
    source = write_netcdf(values, dtype=dtype, fill=99)
    if dtype in ("i8", "f8"):  # more digits than float32 holds
        big = 2**53 - 1 if dtype == "f8" else 2**60 + 1
        edit(source, lambda f: f["sst"].__setitem__((0, 0, slice(0, 2)), np.array([big, big - 2], dtype)))
    outcome = fill(source)  # verify compares bits
    assert outcome.stored("sst").dtype == np.dtype(dtype)


def test_16_half_precision_of_a_zarr_store(tmp_path, gappy, fill):
    values = gappy().astype("f2")
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=3)
    for name, data, dims in (("time", np.arange(6.0), ["time"]), ("sm", values, ["time", "y", "x"])):
        root.create_array(name, shape=data.shape, dtype=data.dtype, dimension_names=dims)[...] = data
    root["time"].attrs["units"] = "days since 2020-01-01"
    outcome = fill(tmp_path / "in.zarr", "out.zarr")
    assert outcome.counts[1] == gaps(values)
    assert zarr.open_group(outcome.out, mode="r")["sm"].dtype == np.float16


@pytest.mark.parametrize("kind", ["complex", "palette", "flag_values"])
def test_17_what_cannot_be_averaged_is_refused(gappy, write_geotiffs, write_netcdf, refuses, fill, kind):
    values = np.round(gappy())
    if kind == "flag_values":
        attributes = {"flag_values": np.array([0, 1], "i2"), "flag_meanings": "land sea"}
        inputs, out = write_netcdf(values, dtype="i2", attributes=attributes), "out.nc"
    else:
        dtype = "complex64" if kind == "complex" else "uint8"
        inputs, out = (
            write_geotiffs(np.nan_to_num(values), dtype=dtype, nodata=None if kind == "complex" else 0),
            "out.tif",
        )
        for path in inputs if kind == "palette" else ():
            with rasterio.open(path, "r+") as file:
                file.write_colormap(1, {k: (k, k, k, 255) for k in range(256)})
    said = refuses(inputs, out)
    if kind != "complex":  # never read, whatever the user says
        assert "--force" in said
        assert fill(inputs, out, force=True).counts[1] == gaps(values)


def test_18_a_constant_field(gappy, write_netcdf, fill):
    values = np.where(np.isnan(gappy()), np.nan, np.float32(4.25))
    outcome = fill(write_netcdf(values))
    assert (outcome.stored("sst") == 4.25).all()


@pytest.mark.parametrize("method", ["linear", "st"])
@pytest.mark.parametrize("value", [4.25, 0.0, 1e-9])
def test_18_a_constant_field_through_every_kind_of_method(gappy, write_netcdf, fill, method, value):
    values = np.where(np.isnan(gappy()), np.nan, np.float32(value))
    outcome = fill(write_netcdf(values), method=method)
    assert (outcome.stored("sst") == np.float32(value)).all()


@pytest.mark.parametrize("spread", [0.03, 20.0])
def test_18_values_that_single_precision_hardly_tells_apart(gappy, write_netcdf, fill, spread):
    """Observed numbers stay to the bit, and the user is told why the filled ones are poor."""
    values = 1e8 + spread * np.random.default_rng(0).normal(size=gappy().shape)
    values[np.isnan(gappy())] = np.nan
    outcome = fill(write_netcdf(values, dtype="f8"))
    assert "single precision" in outcome.warned
    assert "every observed value" not in outcome.warned
    observed = np.isfinite(values)
    assert np.array_equal(outcome.stored("sst")[observed], values[observed])


def test_18_values_beyond_single_precision_are_refused(gappy, write_netcdf, fill, refuses):
    values = gappy().astype(np.float64)
    values[0, :2] = 1e40
    path = write_netcdf(values, dtype="f8")
    assert "sst holds 1e+40, beyond" in refuses(path)
    assert fill(path, nodata=(1e40,)).counts[1] > 20


def test_18_the_same_of_a_geotiff(tmp_path, refuses):
    values = np.random.default_rng(0).normal(size=(6, 5, 4))
    values[2, 1, 1], values[3, 2, 2] = np.nan, -1e40
    path = tmp_path / "big.tif"
    with rasterio.open(path, "w", driver="GTiff", height=5, width=4, count=6, dtype="float64", crs="EPSG:32631",
                       transform=rasterio.Affine(9, 0, 5e5, 0, -9, 4e6), nodata=np.nan) as file:  # fmt: skip
        file.write(values)
        file.descriptions = tuple(f"2020-01-0{k + 1}" for k in range(6))
    assert "band 4 holds -1e+40, beyond" in refuses(path)


def test_19_no_gaps_is_a_copy(gappy, write_netcdf, fill):
    values = np.nan_to_num(gappy(), nan=3.0)
    outcome = fill(write_netcdf(values))
    assert outcome.counts == (values.size, 0, 0)
    assert outcome.summary["gaps_left"] == 0


def test_20_nothing_but_gaps(write_netcdf, refuses):
    said = refuses(write_netcdf(np.full((3, 4, 5), np.nan, "f4")))
    assert "sst" in said
    assert "stack.nc" in said


def test_21_one_cell_ever_observed(write_netcdf, fill):
    values = np.full((6, 4, 5), np.nan, "f4")
    values[2, 1, 1] = 3.0
    outcome = fill(write_netcdf(values))
    assert outcome.counts == (1, 5, 6 * 20 - 6)
    assert outcome.warned
    assert np.isnan(outcome.stored("sst")[:, 0, 0]).all()


def test_22_never_observed_cells_stay_gaps_unless_asked_for(gappy, write_netcdf, fill):
    values = gappy()
    values[:, 2, 3] = np.nan
    source = write_netcdf(values)
    outcome = fill(source, "default.nc")
    assert outcome.counts[2] == 6
    assert (outcome.stored("sst_fill_flag")[:, 2, 3] == 2).all()
    assert fill(source, "asked.nc", method="dct-pls", fill_never_observed=True).counts[2] == 0


def test_22_with_few_steps_distance_decides(write_netcdf, fill):
    y, x = np.mgrid[0:24, 0:30]
    field = np.stack([np.sin(y / 2.5 + t) + np.cos(x / 2.5) for t in range(3)]).astype("f4")
    field[:, :, 20:] = np.nan
    outcome = fill(write_netcdf(field), method="dct-pls")
    observed, filled, refused = outcome.counts
    assert filled > 0
    assert refused > 0
    assert observed + filled + refused == field.size
    assert "range" in outcome.warned


def test_22_outside_the_domain(tmp_path, gappy, write_netcdf, fill):
    values = gappy()
    values[:, :, :2] = np.nan
    land = tmp_path / "land.nc"
    with netCDF4.Dataset(write_netcdf(values)) as stack, netCDF4.Dataset(land, "w") as file:
        for name in ("lat", "lon"):
            file.createDimension(name, stack.dimensions[name].size)
            axis = file.createVariable(name, "f8", (name,))
            axis.units, axis[:] = stack[name].units, stack[name][:]
        file.createVariable("land", "i1", ("lat", "lon"))[:] = np.arange(10) >= 2
    outcome = fill(tmp_path / "stack.nc", domain=str(land))
    assert outcome.total("outside_domain") == 6 * 8 * 2
    assert outcome.counts[2] == 0


def test_23_an_empty_step_is_filled_and_counted(gappy, write_netcdf, fill):
    values = gappy()
    values[[2, 4]] = np.nan
    values[0] = np.nan_to_num(values[0], nan=1.0)
    outcome = fill(write_netcdf(values))
    assert outcome.counts[2] == 0
    assert "2 of 6" in outcome.warned


@pytest.mark.parametrize("unit", [1e-12, 1e10])
def test_25_extreme_units(gappy, write_netcdf, fill, unit):
    values = (gappy().astype("f8") * unit).astype("f4")
    outcome = fill(write_netcdf(values), method="dct-pls")
    filled = outcome.stored("sst")
    assert np.isfinite(filled).all()
    assert 5 * unit < filled.min() <= filled.max() < 30 * unit


def test_25_rain_is_never_negative(gappy, write_netcdf, fill):
    values = np.maximum(gappy(t=8) - 17, 0)
    values[np.isnan(gappy(t=8))] = np.nan
    source = write_netcdf(values, attributes={"standard_name": "precipitation_amount", "units": "kg m-2"})
    assert fill(source, method="dct-pls").stored("sst").min() >= 0


def test_info_says_what_a_run_would_refuse(gappy, write_geotiffs):
    values = np.round(gappy() * 100)
    paths = write_geotiffs(np.where(np.isnan(values), -9999, values), dtype="int16", nodata=None)
    try:
        said = str(api.info(paths))
    except Exception as error:
        said = str(error)
    assert "--nodata" in said


def test_24_an_outlier_at_a_cloud_edge_is_kept_or_screened_and_said(gappy, write_netcdf, fill):
    values = gappy(t=12, missing=0.2)
    values[5, 3, 4] = 90.0
    source = write_netcdf(values)
    assert fill(source, "as_it_is.nc").stored("sst")[5, 3, 4] == 90
    outcome = fill(source, "screened.nc", qc=True)
    assert outcome.stored("sst")[5, 3, 4] < 25
    assert "1 outliers" in outcome.warned
    assert "stack.nc: sst" in outcome.warned
    assert outcome.total("altered") == 1


def test_26_a_sensor_step_is_said(gappy, write_netcdf, fill):
    values = gappy(t=16, ny=12, nx=14) * 50
    assert "jumps" not in fill(write_netcdf(values, "one.nc", dtype="i2"), "a.nc").warned
    values[10:] += 1000
    outcome = fill(write_netcdf(values, "two.nc", dtype="i2"), "b.nc")
    assert re.search(r"two.nc: sst jumps by \+(9|10)\d\d ", outcome.warned)
    assert "two.nc" in outcome.warned
    assert "2020-01-11" in outcome.warned


def test_22_with_few_steps_a_range_that_was_only_extrapolated_does_not_reach_everywhere(write_netcdf, fill):
    y, x = np.mgrid[0:20, 0:80]
    field = np.stack([0.01 * x + 0.02 * y + t for t in range(3)]).astype("f4")
    field += np.random.default_rng(0).normal(size=field.shape).astype("f4") * 0.02
    field[:, :, 20:] = np.nan
    outcome = fill(write_netcdf(field), method="dct-pls")
    flag = outcome.stored("sst_fill_flag")
    reached = int((flag[0, 10] == 1).sum())
    assert 5 <= reached <= 20  # columns: not beyond half of what is observed
    assert (flag[:, :, 60:] == 2).all()


def test_22_a_cell_is_not_filled_far_past_its_last_observation(write_netcdf, fill):
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(0).normal(size=(60, 16, 18)), (4, 1.2, 1.2))[10:50].astype(
        "f4"
    )
    values[20:, :9, :10] = np.nan
    source = write_netcdf(values)
    outcome = fill(source, "default.nc")
    refused = outcome.summary["layers"][0]["refusals"]
    assert refused == {"past the first or last observation": outcome.counts[2]}
    assert (outcome.stored("sst_fill_flag")[-1, :4, :4] == 2).all()
    assert np.isnan(outcome.stored("sst")[-1, :4, :4]).all()
    assert fill(source, "asked.nc", max_extrapolation="none").counts[2] == 0
    assert fill(source, "near.nc", max_extrapolation="1d").counts[2] > outcome.counts[2]


def test_22_cells_far_from_every_observation_of_their_step_are_refused_on_request(
    gappy, write_netcdf, fill, refuses
):
    values = gappy(t=6, ny=10, nx=20, missing=0.0)
    values[2, :, 5:] = np.nan
    source = write_netcdf(values)  # a cell is about 8 by 11 km
    outcome = fill(source, max_distance="20km")
    flag = outcome.stored("sst_fill_flag")[2]
    assert (flag[:, 5:7] == 1).all()
    assert (flag[:, 7:] == 2).all()
    assert outcome.summary["layers"][0]["refusals"] == {"beyond --max-distance": 130}
    assert "--max-distance" in refuses(source, max_distance="far")
