"""What other programs say of what `fill` writes: GDAL, rasterio and rio-cogeo, netCDF, CDO, NCO, xarray, a CF checker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr

from stimpute.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")
LARGE = {"t": 3, "ny": 530, "nx": 600}  # of more than one block: a COG needs overviews


@pytest.fixture
def netcdf(gappy, write_netcdf, fill):
    """(input, output, the numbers written): packed, in degrees, with a CF time axis."""
    values = gappy()
    source = write_netcdf(
        values, dtype="i2", scale=0.01, offset=10.0, fill=-9999, attributes={"units": "degC"}
    )
    return source, fill(source, "out.nc"), values


@pytest.fixture
def cog(gappy, write_geotiffs, fill):
    """A Cloud-Optimized GeoTIFF of three dated bands."""
    return fill(write_geotiffs(gappy(**LARGE)), "out.tif", "--of", "COG")


# --- rasters --------------------------------------------------------------------------------------------------------------


def test_gdalinfo_sees_the_grid_the_dates_and_the_nodata_of_the_inputs(gappy, write_geotiffs, fill, program):
    sources = write_geotiffs(gappy())
    told = json.loads(program("gdalinfo", "-json", "-stats", fill(sources, "out.tif")))
    before = json.loads(program("gdalinfo", "-json", sources[0]))
    for key in ("size", "geoTransform", "coordinateSystem", "cornerCoordinates"):
        assert told[key] == before[key], key
    assert [band["description"] for band in told["bands"]] == [f"2020-01-0{day}" for day in range(1, 7)]
    for band in told["bands"]:
        assert (band["type"], band["noDataValue"]) == ("Float32", -9999.0)
        assert float(band["metadata"][""]["STATISTICS_VALID_PERCENT"]) == 100.0


def test_a_flag_file_is_a_byte_raster_that_explains_itself(gappy, write_geotiffs, fill, program, tmp_path):
    fill(write_geotiffs(gappy()), "out.tif")
    told = json.loads(program("gdalinfo", "-json", tmp_path / "out_flag.tif"))
    assert {band["type"] for band in told["bands"]} == {"Byte"}
    assert told["metadata"][""]["flag_meanings"] == "observed filled refused outside_domain"


def test_gdal_translate_takes_a_date_out_as_it_is(gappy, write_geotiffs, fill, program, tmp_path):
    out, one = fill(write_geotiffs(gappy()), "out.tif"), tmp_path / "one.tif"
    program("gdal_translate", "-q", "-b", 3, out, one)
    with rasterio.open(out) as whole, rasterio.open(one) as part:
        np.testing.assert_array_equal(part.read(1), whole.read(3))
        assert part.descriptions == ("2020-01-03",)


def test_gdal_reads_the_netcdf_output_with_its_georeference(netcdf, program):
    source, out, _ = netcdf
    before, told = (json.loads(program("gdalinfo", "-json", f"NETCDF:{path}:sst")) for path in (source, out))
    assert told["geoTransform"] == before["geoTransform"]
    assert told["size"] == before["size"]
    for a, b in zip(before["bands"], told["bands"], strict=True):
        assert {k: a[k] for k in ("type", "noDataValue", "scale", "offset", "unit")} == {
            k: b[k] for k in ("type", "noDataValue", "scale", "offset", "unit")
        }


def test_rio_info_and_rio_cogeo_accept_a_cog(cog, program):
    told = json.loads(program("rio", "info", cog))
    assert (told["count"], told["crs"], told["nodata"]) == (3, "EPSG:32630", -9999.0)
    assert told["descriptions"] == ["2020-01-01", "2020-01-02", "2020-01-03"]
    said = program("rio", "cogeo", "validate", "--strict", cog)
    assert "is a valid cloud optimized GeoTIFF" in said


def test_every_side_file_of_a_cog_is_a_cog(cog, program):
    for kind in ("flag", "stderr"):
        said = program("rio", "cogeo", "validate", "--strict", cog.with_name(f"out_{kind}.tif"))
        assert "is a valid cloud optimized GeoTIFF" in said


# --- NetCDF ---------------------------------------------------------------------------------------------------------------


def test_ncdump_prints_the_attributes_of_the_input(netcdf, program):
    source, out, _ = netcdf
    lines = [
        {line.strip() for line in program("ncdump", "-h", path).splitlines() if re.match(r"\s+(sst|time|lat|lon):", line)}
        for path in (source, out)
    ]  # fmt: skip
    assert lines[0] <= lines[1]
    assert any("ancillary_variables" in line for line in lines[1] - lines[0])


def test_cdo_sees_the_same_grid_and_dates(netcdf, program):
    source, out, values = netcdf
    for command in ("showdate", "griddes"):
        before, after = (program("cdo", "-s", command, "-selname,sst", path) for path in (source, out))
        assert after == before
    assert "sst" in program("cdo", "-s", "showname", out)
    told = program("cdo", "-s", "sinfo", out)
    assert "lonlat" in told
    assert f"points={values[0].size}" in told


def test_cdo_timmean_is_the_mean_of_what_was_observed_and_filled(netcdf, program, tmp_path):
    _, out, _ = netcdf
    program("cdo", "-s", "-b", "F64", "timmean", "-selname,sst", out, tmp_path / "mean.nc")
    with netCDF4.Dataset(out) as file, netCDF4.Dataset(tmp_path / "mean.nc") as mean:
        filled = np.ma.filled(file["sst"][:].astype("f8"), np.nan)
        np.testing.assert_allclose(np.ma.filled(mean["sst"][0], np.nan), filled.mean(axis=0), atol=1e-9)
        assert np.isfinite(filled).all()


def test_ncks_cuts_a_variable_out_bit_for_bit(netcdf, program, tmp_path):
    _, out, _ = netcdf
    program("ncks", "-O", "-v", "sst", "-d", "time,2,4", out, tmp_path / "part.nc")
    with netCDF4.Dataset(out) as file, netCDF4.Dataset(tmp_path / "part.nc") as part:
        file.set_auto_maskandscale(False)
        part.set_auto_maskandscale(False)
        np.testing.assert_array_equal(part["sst"][:], file["sst"][2:5])


def test_xarray_opens_several_outputs_as_one(gappy, write_netcdf, fill, tmp_path):
    values = gappy(t=8)
    outs = [
        fill(write_netcdf(values[part], f"in{k}.nc", times=np.arange(8)[part]), f"out{k}.nc")
        for k, part in enumerate((slice(0, 4), slice(4, 8)))
    ]
    with xr.open_mfdataset(
        outs, combine="by_coords", data_vars="minimal", coords="minimal", compat="override"
    ) as both:
        seen = np.isfinite(values)
        np.testing.assert_array_equal(both.sst.values[seen], values[seen])
        assert np.isfinite(both.sst.values).all()
        assert set(np.unique(both.sst_fill_flag)) == {0, 1}
        assert str(both.time.values[7])[:10] == "2020-01-08"


def test_a_cf_checker_finds_nothing_that_the_input_did_not_have(netcdf, program, tmp_path):
    source, out, _ = netcdf
    found = []
    for path in (source, out):
        report = tmp_path / f"{path.stem}.json"
        program(
            "compliance-checker",
            "--test=cf:1.8",
            "--criteria=lenient",
            "--format=json",
            f"--output={report}",
            path,
            codes=(0, 1),  # 1: it has something to say
        )
        checks = json.loads(report.read_text())["cf:1.8"]["high_priorities"]
        found.append({message for check in checks for message in check["msgs"]})
    assert found[1] - found[0] == set()


# --- there and back -------------------------------------------------------------------------------------------------------


def test_netcdf_to_geotiff_and_back_keeps_every_stored_number(netcdf, program, tmp_path):
    source, _, values = netcdf
    raster, back = tmp_path / "way.tif", tmp_path / "back.nc"
    assert run(["fill", str(source), str(raster), "--method", "mean", "--no-uncertainty", "-q"]) == 0
    told = json.loads(program("gdalinfo", "-json", raster))
    assert {(b["type"], b["scale"], b["offset"]) for b in told["bands"]} == {("Int16", 0.01, 10.0)}
    assert run(["verify", str(source), str(raster)]) == 0
    assert (
        run(["fill", str(raster), str(back), "--of", "NetCDF", "--method", "mean", "--no-uncertainty", "-q"])
        == 0
    )
    with netCDF4.Dataset(source) as a, netCDF4.Dataset(back) as b:
        for file in (a, b):
            file.set_auto_maskandscale(False)
        [name] = [n for n, v in b.variables.items() if v.ndim == 3 and not n.endswith("_flag")]
        seen = np.isfinite(values)
        assert b[name].dtype == np.int16
        np.testing.assert_array_equal(b[name][:][seen], a["sst"][:][seen])
        assert (b[name].scale_factor, b[name].add_offset) == (0.01, 10.0)
        dates = [netCDF4.num2date(f["time"][:], f["time"].units).tolist() for f in (a, b)]
        assert dates[0] == dates[1]
        for axis, kind in (("lat", "y"), ("lon", "x")):
            there = next(
                v
                for n, v in b.variables.items()
                if n in (axis, kind, {"lat": "latitude", "lon": "longitude"}[axis])
            )
            np.testing.assert_allclose(there[:], a[axis][:], atol=1e-9)


def test_a_picture_of_the_report_is_found(tmp_path: Path, netcdf):
    """The last program is a person: the picture that --plot draws is a readable PNG."""
    source, _, _ = netcdf
    words = [
        "fill",
        str(source),
        str(tmp_path / "p.nc"),
        "--method",
        "mean",
        "--plot",
        str(tmp_path / "p.png"),
        "-q",
    ]
    assert run(words) == 0
    with rasterio.open(tmp_path / "p.png") as picture:
        assert picture.width > 400
