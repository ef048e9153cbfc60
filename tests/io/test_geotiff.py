"""GeoTIFF stacks in and out: small files of every kind, written here, read, filled by hand, read back by rasterio."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling

from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.io import check_siblings, geotiff_file, open_source, output_format
from stimpute.io.geotiff import GeoTiffSink, expand, open_geotiff
from stimpute.io.options import ReadOptions, SinkOptions
from stimpute.io.verify import verify
from stimpute.protocols import FILLED, OBSERVED, REFUSED, Filled, Window

GRID = Affine(1000, 0, 500_000, 0, -1000, 4_600_000)
DAYS = ["2020-01-01", "2020-01-02", "2020-01-03"]


def write(path: Path, bands: Any, *, names: list[str] | None = None, **profile: Any) -> Path:
    """A raster of (band, y, x) with optional band names."""
    array = np.asarray(bands)
    given = {"driver": "GTiff", "crs": "EPSG:32630", "transform": GRID, **profile}
    count, ny, nx = array.shape
    with rasterio.open(path, "w", count=count, height=ny, width=nx, dtype=array.dtype, **given) as target:
        target.write(array)
        for index, name in enumerate(names or [], start=1):
            target.set_band_description(index, name)
    return path


def fill(source: Any, out: Path | str, options: SinkOptions | None = None, **how: Any) -> tuple[Path, ...]:
    """Fill every gap with ``value``, refuse the cells of ``refused``, tile by tile; returns the files."""
    value, refused, tile = how.get("value", 7.0), how.get("refused"), how.get("tile", 3)
    with GeoTiffSink(out, source, options or SinkOptions()) as sink:
        for layer, described in enumerate(source.layers):
            nt, ny, nx = described.shape
            for y in range(0, ny, tile):
                for x in range(0, nx, tile):
                    window = Window((0, nt), (y, min(y + tile, ny)), (x, min(x + tile, nx)))
                    valid = source.read(window, layer).valid
                    flag = np.where(valid, OBSERVED, FILLED).astype(np.uint8)
                    if refused is not None:
                        flag[refused[window.slices] & ~valid] = REFUSED
                    values = np.full(window.shape, value, dtype=np.float32)
                    sink.write(
                        window,
                        Filled(values, flag, np.full(window.shape, 0.5, np.float32), {0.05: values}),
                        layer,
                    )
        return sink.commit("2026-01-01T00:00:00Z stimpute fill")


def read_all(path: Path) -> Any:
    with open_geotiff(path) as source:
        return source.read(whole(source))


def whole(source: Any) -> Window:
    return Window.whole(source.layers[0].shape)


@pytest.fixture
def stack() -> np.ndarray:
    """int16 (3, 4, 5), gaps are -1."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1000, (3, 4, 5)).astype(np.int16)
    values[:, 1, 1], values[1, 2, 3] = -1, -1
    return values


def dated(folder: Path, stack: np.ndarray, pattern: str = "ndvi_202001{:02d}.tif", **profile: Any) -> Path:
    folder.mkdir()
    for i, band in enumerate(stack, start=1):
        write(folder / pattern.format(i), band[None], **profile)
    return folder


# ------------------------------------------------------------------------------------------------------- reading


def test_a_folder_of_dated_files(tmp_path: Path, stack: np.ndarray) -> None:
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source:
        read = source.read(whole(source))
        assert source.time_labels == tuple(DAYS)
        assert source.layers[0].name == "ndvi"
        assert (source.grid.units, source.grid.km_per_unit) == ("length", 0.001)
        assert np.array_equal(read.valid, stack != -1)
        assert np.array_equal(read.with_nan(), np.where(stack == -1, np.nan, stack), equal_nan=True)
        assert np.array_equal(source.read_stored(whole(source)), stack)


def test_order_is_that_of_the_dates_not_of_the_names(tmp_path: Path, stack: np.ndarray) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for band, name in zip(stack, ("b_20200101", "c_20200103", "a_20200102")):
        write(folder / f"{name}.tif", band[None], nodata=-1)
    with open_geotiff(folder) as source:
        assert np.array_equal(source.read_stored(whole(source)), stack[[0, 2, 1]])


def test_a_window_reads_only_that_window(tmp_path: Path, stack: np.ndarray) -> None:
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source:
        part = source.read(Window((1, 3), (1, 4), (2, 5)))
        assert np.array_equal(
            part.with_nan(), source.read(whole(source)).with_nan()[1:3, 1:4, 2:5], equal_nan=True
        )
        assert part.times.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_dated_by_their_names_in_any_order(tmp_path: Path, stack: np.ndarray, interleave: str) -> None:
    names = ["X2020.01.03", "X2020.01.01", "X2020.01.02"]
    path = write(tmp_path / "a.tif", stack, names=names, nodata=-1, interleave=interleave)
    with open_geotiff(path) as source:
        assert source.time_labels == tuple(DAYS)
        assert np.array_equal(source.read_stored(whole(source)), stack[[1, 2, 0]])
        (out,) = fill(source, tmp_path / "out.tif", SinkOptions(flags=False, uncertainty=False))
    with rasterio.open(out) as written:
        assert list(written.descriptions) == names
        assert np.array_equal(written.read(), np.where(stack == -1, 7, stack))


def test_bands_dated_by_tags_or_by_hand(tmp_path: Path, stack: np.ndarray) -> None:
    path = write(tmp_path / "a.tif", stack, nodata=-1)
    with pytest.raises(InputError, match="--times"):
        open_geotiff(path)
    assert open_geotiff(path, ReadOptions(times=tuple(DAYS))).time_labels == tuple(DAYS)
    with pytest.raises(InputError, match="2 dates"):
        open_geotiff(path, ReadOptions(times=tuple(DAYS[:2])))
    with rasterio.open(path, "r+") as file:
        file.update_tags(**{"time#units": "days since 2020-01-01", "time#calendar": "noleap"})
        for i in range(3):
            file.update_tags(i + 1, NETCDF_DIM_time=str(58 + i))
    source = open_geotiff(path)
    assert (source.time_labels, source.calendar) == (("2020-02-28", "2020-03-01", "2020-03-02"), "noleap")


def test_interleaved_variables_are_refused(tmp_path: Path, stack: np.ndarray) -> None:
    path = write(tmp_path / "a.tif", stack[:2], names=["2020-01-01_red", "2020-01-01_nir"], nodata=-1)
    with pytest.raises(InputError, match="several variables"):
        open_geotiff(path)


@pytest.mark.parametrize("odd", ["a.tif", "z.tif"])
@pytest.mark.parametrize("names", [DAYS, None])
def test_of_files_of_two_kinds_the_odd_one_is_named(
    tmp_path: Path, stack: np.ndarray, odd: str, names: list[str] | None
) -> None:
    """Among files that their names date lies one of several bands, dated ones or not."""
    folder = dated(tmp_path / "in", stack, nodata=-1)
    write(folder / odd, stack, names=names, nodata=-1)
    message = rf"{odd}: 3 bands, where .*ndvi_20200101\.tif holds 1 band: .*leave it out, or read it alone"
    if names is None and odd == "a.tif":
        message = r"a\.tif: 3 bands without dates"
    with pytest.raises(InputError, match=message):
        open_geotiff(folder)


def test_one_band_among_files_of_dated_bands_is_named(tmp_path: Path, stack: np.ndarray) -> None:
    several = [write(tmp_path / f"x{k}.tif", stack, names=[f"{d}T0{k}" for d in DAYS], nodata=-1) for k in (1, 2)]  # fmt: skip
    one = write(tmp_path / "b_20200101.tif", stack[:1], nodata=-1)
    with pytest.raises(InputError, match=r"b_20200101\.tif: 1 band, where .*x1\.tif holds 3 bands"):
        open_geotiff([*several, one])


def test_one_band_is_called_so(tmp_path: Path, stack: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"a\.tif: 1 band, but --times gives 3 dates"):
        open_geotiff(write(tmp_path / "a.tif", stack[:1], nodata=-1), ReadOptions(times=tuple(DAYS)))


def test_duplicate_dates(tmp_path: Path, stack: np.ndarray) -> None:
    names = ["2020-01-01", "2020-01-01", "2020-01-02"]
    path = write(tmp_path / "a.tif", stack, names=names, nodata=-1)
    last = open_geotiff(path, ReadOptions(dedupe="last"))
    assert np.array_equal(last.read_stored(whole(last)), stack[1:])
    mean = open_geotiff(path, ReadOptions(dedupe="mean"))
    read = mean.read(whole(mean)).with_nan()[0]
    expected = np.where(stack[0] == -1, np.nan, stack[0].astype(float))
    second = np.where(stack[1] == -1, np.nan, stack[1].astype(float))
    with np.errstate(all="ignore"):
        both = np.where(np.isnan(second), expected, (expected + second) / 2)
    assert np.nanmax(np.abs(read - both)) <= 0.5
    assert np.array_equal(np.isnan(read), np.isnan(both))
    assert mean.alterations


def test_selection_in_time_and_space(tmp_path: Path, stack: np.ndarray) -> None:
    folder = dated(tmp_path / "in", stack, nodata=-1)
    options = ReadOptions(time=("2020-01-02", ""), bbox=(502_000, 4_597_000, 504_900, 4_599_000))
    with open_geotiff(folder, options) as source:
        assert source.layers[0].shape == (2, 2, 3)
        assert np.array_equal(source.read_stored(whole(source)), stack[1:, 1:3, 2:5])
        assert tuple(source.transform)[:6] == (1000, 0, 502_000, 0, -1000, 4_599_000)
        fill(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as written:
        assert (written.transform.c, written.transform.f, written.count) == (502_000, 4_599_000, 2)


def test_a_box_across_the_antimeridian(tmp_path: Path) -> None:
    globe = np.arange(36, dtype=np.float32)[None, None].repeat(3, axis=1)
    path = write(
        tmp_path / "g.tif",
        globe,
        names=["2020-01-01"],
        crs="EPSG:4326",
        transform=Affine(10, 0, -180, 0, -10, 15),
    )
    with open_geotiff(path, ReadOptions(bbox=(160, -15, -160, 15))) as source:
        assert source.read(whole(source)).values[0, 0].tolist() == [34, 35, 0, 1]
        assert source.grid.x.tolist() == [165, 175, 185, 195]
        fill(source, tmp_path / "o.tif")
    with rasterio.open(tmp_path / "o.tif") as written:
        assert written.transform.c == 160
    assert open_geotiff(path).grid.wraps
    assert not open_geotiff(path, ReadOptions(wrap=False)).grid.wraps


def test_lists_globs_archives_and_odd_names(tmp_path: Path, stack: np.ndarray) -> None:
    folder = dated(tmp_path / "räume {1} [a]", stack, nodata=-1)
    files = sorted(str(p) for p in folder.iterdir())
    assert list(expand([folder])) == files
    (tmp_path / "list.txt").write_text("# three\n" + "\n".join(files) + "\n", encoding="utf-8")
    assert list(expand([f"@{tmp_path / 'list.txt'}"])) == files
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in files:
            archive.write(file, f"inner/{Path(file).name}")
    for word in (tmp_path / "all.zip", f"/vsizip/{tmp_path}/all.zip", f"/vsizip/{tmp_path}/all.zip/inner"):
        with open_geotiff(word) as source:
            assert np.array_equal(source.read_stored(whole(source)), stack)
    write(folder / "ndvi_20200101_flag.tif", stack[:1])
    assert list(expand([folder])) == files
    with pytest.raises(InputError, match="no such file"):
        expand([tmp_path / "absent.tif"])


@pytest.mark.parametrize("suffix", ["gtiff", "TIFF", "cog"])
def test_a_folder_an_archive_and_an_output_know_the_same_suffixes(
    tmp_path: Path, stack: np.ndarray, suffix: str
) -> None:
    folder = dated(tmp_path / "in", stack, f"ndvi_202001{{:02d}}.{suffix}", nodata=-1)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    for word in (folder, tmp_path / "all.zip"):
        with open_geotiff(word) as source:
            assert np.array_equal(source.read_stored(whole(source)), stack)
            assert output_format(tmp_path / "out.gtiff", source, SinkOptions()) == "GeoTIFF"
            fill(source, tmp_path / "out.gtiff", SinkOptions(overwrite=True))
        assert verify(word, tmp_path / "out.gtiff").identical


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": Affine(1000, 0, 500_500, 0, -1000, 4_600_000)}, "0.5 cells apart"),
        ({"transform": Affine(1010, 0, 500_000, 0, -1000, 4_600_000)}, "cells apart"),
        ({"crs": "EPSG:32631"}, "differ in CRS: EPSG:32630 and EPSG:32631"),
    ],
)
def test_files_that_do_not_share_a_grid(
    tmp_path: Path, stack: np.ndarray, change: dict[str, Any], message: str
) -> None:
    folder = dated(tmp_path / "in", stack, nodata=-1)
    write(folder / "ndvi_20200102.tif", stack[1:2], nodata=-1, **change)
    with pytest.raises(InputError, match=message) as caught:
        open_geotiff(folder)
    assert "ndvi_20200101.tif" in str(caught.value)
    assert "ndvi_20200102.tif" in str(caught.value)


def test_another_size_is_refused_and_a_rounding_is_not(tmp_path: Path, stack: np.ndarray) -> None:
    folder = dated(tmp_path / "in", stack, nodata=-1)
    write(
        folder / "ndvi_20200102.tif",
        stack[1:2],
        nodata=-1,
        transform=Affine(1000, 0, 500_000 + 1e-7, 0, -1000, 4_600_000),
    )
    open_geotiff(folder).close()
    write(folder / "ndvi_20200102.tif", stack[1:2, :3], nodata=-1)
    with pytest.raises(InputError, match="5 x 4 and 5 x 3"):
        open_geotiff(folder)


def test_no_crs_rotated_and_control_points(tmp_path: Path, stack: np.ndarray) -> None:
    plain = write(tmp_path / "a.tif", stack, names=DAYS, nodata=-1, crs=None)
    with pytest.warns(StimputeWarning, match="no CRS"):
        assert open_geotiff(plain).grid.units == "cells"
    turned = GRID @ Affine.rotation(30)
    rotated = write(tmp_path / "b.tif", stack, names=DAYS, nodata=-1, transform=turned)
    with open_geotiff(rotated) as source:
        assert source.grid.kind == "curvilinear"
        assert source.grid.spacing_km() == pytest.approx((1, 1))
        fill(source, tmp_path / "b_out.tif")
    with rasterio.open(tmp_path / "b_out.tif") as written:
        assert written.transform.almost_equals(turned)
    points = [GroundControlPoint(r, c, 10.0 + c, 50.0 - r) for r, c in ((0, 0), (0, 5), (4, 0), (4, 5))]
    wgs84 = rasterio.crs.CRS.from_epsg(4326)
    located = write(tmp_path / "c.tif", stack, names=DAYS, nodata=-1, crs=wgs84, transform=None, gcps=points)
    with pytest.warns(StimputeWarning, match="control points"):
        source = open_geotiff(located)
    fill(source, tmp_path / "c_out.tif")
    with rasterio.open(tmp_path / "c_out.tif") as written:
        assert [(p.row, p.col, p.x, p.y) for p in written.gcps[0]] == [
            (p.row, p.col, p.x, p.y) for p in points
        ]
        assert written.gcps[1].to_epsg() == 4326


# ------------------------------------------------------------------------------------------------- what is missing


def test_an_integer_raster_that_hides_its_nodata(tmp_path: Path) -> None:
    bands = np.full((1, 10, 10), 3, dtype=np.uint8)
    bands[0, :2] = 255
    path = write(tmp_path / "a_20200101.tif", bands)
    with pytest.raises(InputError, match="--nodata 255"):
        open_geotiff(path)
    with open_geotiff(path, ReadOptions(nodata=(255,))) as source:
        assert source.read(whole(source)).valid.mean() == pytest.approx(0.8)
    assert open_geotiff(path, ReadOptions(force=True)).read(whole(source)).valid.all()
    bands[0, :2] = 4
    assert open_geotiff(write(tmp_path / "b_20200101.tif", bands)).read(whole(source)).valid.all()


@pytest.mark.parametrize(
    ("stored", "nodata", "extra", "valid"),
    [
        (np.array([1, np.nan, 3], "f4"), np.nan, (), [True, False, True]),
        (np.array([1, np.nan, -99], "f4"), -99, (), [True, False, False]),
        (np.array([1, np.finfo("f4").min, 3], "f4"), -3.4e38, (), [True, False, True]),
        (np.array([1, np.float32(-3.4e38), 3], "f4"), float(np.finfo("f4").min), (), [True, False, True]),
        (np.array([1, 1e300, -1e308], "f8"), -1e308, (1e300,), [True, False, False]),
        (np.array([1, 250, 255], "u1"), 255, (249, 250), [True, False, False]),
        (np.array([0, 1, 65535], "u2"), 0, (), [False, True, True]),
    ],
)
def test_nodata_of_every_kind(
    tmp_path: Path, stored: np.ndarray, nodata: float, extra: tuple[float, ...], valid: list[bool]
) -> None:
    path = write(tmp_path / "a_20200101.tif", stored[None, None], nodata=nodata)
    with open_geotiff(path, ReadOptions(nodata=extra)) as source:
        assert source.read(whole(source)).valid.ravel().tolist() == valid


def test_infinite_values_are_gaps_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a_20200101.tif", np.array([[[1, np.inf, -np.inf]]], "f4"))
    with open_geotiff(path) as source, pytest.warns(StimputeWarning, match="infinite"):
        assert source.read(whole(source)).valid.ravel().tolist() == [True, False, False]


def test_nodata_outside_the_type_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a_20200101.tif", np.ones((1, 2, 2), "u2"), nodata=65535)
    path.write_bytes(path.read_bytes().replace(b"65535\0", b"-9999\0"))
    with pytest.raises(InputError, match=r"-9999.*--nodata"):
        open_geotiff(path)
    with pytest.warns(StimputeWarning, match="ignored"):
        open_geotiff(path, ReadOptions(nodata=(7,))).close()
    signed = write(tmp_path / "b_20200101.tif", np.ones((1, 2, 2), "i2"), nodata=-1)
    with pytest.raises(InputError, match="--nodata 70000"):
        open_geotiff(signed, ReadOptions(nodata=(70000,)))


@pytest.mark.parametrize("side", [True, False])
def test_internal_masks_and_side_files(tmp_path: Path, side: bool) -> None:
    values = np.arange(1, 7, dtype=np.uint8).reshape(1, 2, 3)
    covered = np.array([[1, 1, 0], [1, 0, 1]], dtype=bool)
    path = tmp_path / "a_20200101.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not side),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=1,
            height=2,
            width=3,
            dtype="uint8",
            transform=GRID,
            crs="EPSG:32630",
        ) as f,
    ):
        f.write(values)
        f.write_mask(covered)
    assert (tmp_path / "a_20200101.tif.msk").exists() == side
    with open_geotiff(path) as source:
        assert np.array_equal(source.read(whole(source)).valid[0], covered)
        refused = np.zeros((1, 2, 3), dtype=bool)
        refused[0, 1, 1] = True
        fill(source, tmp_path / "out_20200101.tif", refused=refused)
    with rasterio.open(tmp_path / "out_20200101.tif") as written:
        assert np.array_equal(written.read_masks(1) > 0, ~refused[0])
        assert written.read(1).tolist() == [[1, 2, 7], [4, 5, 6]]


def test_an_alpha_band(tmp_path: Path) -> None:
    bands = np.stack([np.arange(1, 7).reshape(2, 3), [[255, 255, 0], [255, 0, 255]]]).astype(np.uint8)
    path = write(tmp_path / "a_20200101.tif", bands)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    with open_geotiff(path) as source:
        assert source.layers[0].shape == (1, 2, 3)
        assert np.array_equal(source.read(whole(source)).valid[0], bands[1] > 0)
        fill(source, tmp_path / "out_20200101.tif")
    with rasterio.open(tmp_path / "out_20200101.tif") as written:
        assert written.read(2).min() == 255
        assert written.colorinterp[1] == ColorInterp.alpha


def test_four_named_steps_of_bytes_are_no_picture(tmp_path: Path) -> None:
    names = [*DAYS, "2020-01-04"]
    bands = np.arange(1, 17, dtype=np.uint8).reshape(4, 2, 2)
    with open_geotiff(write(tmp_path / "a.tif", bands, names=names)) as source:
        assert source.layers[0].shape == (4, 2, 2)
        fill(source, tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out_flag.tif") as flags:
        assert ColorInterp.alpha not in flags.colorinterp


def test_nodata_per_band_of_a_vrt(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.array([[[1, 2, 3]], [[1, 2, 3]]], "i2"), names=DAYS[:2])
    vrt = tmp_path / "a.vrt"
    subprocess.run(["gdal_translate", "-q", "-of", "VRT", str(tmp_path / "a.tif"), str(vrt)], check=True)
    first, second, third = vrt.read_text().split("</VRTRasterBand>")
    parts = [
        first,
        "<NoDataValue>1</NoDataValue></VRTRasterBand>",
        second,
        "<NoDataValue>2</NoDataValue></VRTRasterBand>",
        third,
    ]
    vrt.write_text("".join(parts))
    with open_geotiff(vrt) as source:
        assert source.read(whole(source)).valid.tolist() == [[[False, True, True]], [[True, False, True]]]
        with pytest.raises(OutputError, match="another band"):
            fill(source, tmp_path / "out.tif")
    assert not list(tmp_path.glob("*out*"))


def test_packed_files_with_different_scales(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for day, scale in ((1, 0.1), (2, 0.5)):
        path = write(folder / f"a_2020010{day}.tif", np.array([[[10, -1]]], "i2"), nodata=-1)
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (scale,), (100.0,)
    with open_geotiff(folder) as source:
        assert source.read(whole(source)).values[:, 0, 0].tolist() == pytest.approx([101, 105])
        fill(source, tmp_path / "out", value=102.0)
        fill(source, tmp_path / "merged.tif", value=102.0)
    with rasterio.open(tmp_path / "out" / "a_20200102.tif") as written:
        assert (written.scales, written.offsets) == ((0.5,), (100.0,))
        assert written.read(1).tolist() == [[10, 4]]
    with rasterio.open(tmp_path / "merged.tif") as written:
        assert written.scales == (0.1, 0.5)
        assert written.read()[:, 0].tolist() == [[10, 20], [10, 4]]


def test_complex_palette_and_thematic_are_refused(tmp_path: Path, stack: np.ndarray) -> None:
    with pytest.raises(InputError, match="complex"):
        open_geotiff(write(tmp_path / "a_20200101.tif", np.ones((1, 2, 2), "complex64")))
    path = write(tmp_path / "b_20200101.tif", np.arange(1, 5, dtype="u1").reshape(1, 2, 2))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {1: (255, 0, 0, 255)})
    with pytest.raises(InputError, match="palette"):
        open_geotiff(path)
    open_geotiff(path, ReadOptions(force=True)).close()
    path = write(tmp_path / "c_20200101.tif", stack[:1], nodata=-1)
    with rasterio.open(path, "r+") as file:
        file.update_tags(1, LAYER_TYPE="thematic")
    with pytest.raises(InputError, match="thematic"):
        open_geotiff(path)


def test_a_truncated_file_is_an_error_not_a_gap(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a_20200101.tif", np.random.default_rng(0).random((1, 200, 200), "f4"), compress="deflate"
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a_20200101\.tif"):
        read_all(path)


# ------------------------------------------------------------------------------------------------------- writing


def test_a_file_keeps_everything_but_its_gaps(tmp_path: Path, stack: np.ndarray) -> None:
    big = np.tile(stack, (1, 20, 20))
    path = write(
        tmp_path / "a.tif", big, names=DAYS, nodata=-1, compress="deflate", predictor=2, tiled=True, blockxsize=32,
        blockysize=16, interleave="pixel",
    )  # fmt: skip
    with rasterio.open(path, "r+") as file:
        file.update_tags(PROJECT="x", TIFFTAG_SOFTWARE="other", AREA_OR_POINT="Point")
        file.update_tags(ns="MINE", key="value")
        file.update_tags(2, cloud="0.3", STATISTICS_MAXIMUM="5")
        file.set_band_unit(1, "m")
        file.scales, file.offsets = (0.5,) * 3, (1.0,) * 3
        file.build_overviews([2, 4], Resampling.average)
    with open_geotiff(path) as source:
        paths = fill(source, tmp_path / "out.tif", SinkOptions(quantiles=(0.05,)), tile=37)
    assert [p.name for p in paths] == ["out.tif", "out_flag.tif", "out_stderr.tif", "out_q05.tif"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.tif", *(p.name for p in paths)])
    with rasterio.open(path) as before, rasterio.open(tmp_path / "out.tif") as after:
        for name in (
            "nodata",
            "crs",
            "transform",
            "block_shapes",
            "compression",
            "interleaving",
            "dtypes",
            "scales",
            "offsets",
        ):
            assert getattr(after, name) == getattr(before, name), name
        assert (after.descriptions, after.units, after.colorinterp) == (
            before.descriptions,
            before.units,
            before.colorinterp,
        )
        assert after.overviews(1) == [2, 4]
        assert after.crs.to_wkt() == before.crs.to_wkt()
        assert after.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == "2"
        assert after.tags(ns="MINE") == {"key": "value"}
        assert after.tags(2) == {"cloud": "0.3"}
        assert after.tags()["TIFFTAG_SOFTWARE"] == "other"
        assert after.tags()["STIMPUTE_HISTORY"] == "2026-01-01T00:00:00Z stimpute fill"
        assert np.array_equal(after.read(), np.where(big == -1, 12, big))  # (7 - 1) / 0.5
    with rasterio.open(tmp_path / "out_flag.tif") as flags:
        assert np.array_equal(flags.read(), big == -1)
        assert flags.tags()["flag_meanings"] == "observed filled refused outside_domain"
        assert flags.descriptions == tuple(DAYS)
    with rasterio.open(tmp_path / "out_stderr.tif") as error:
        assert np.array_equal(np.isnan(error.read()), big != -1)


def test_a_folder_becomes_a_folder_or_one_file(tmp_path: Path, stack: np.ndarray) -> None:
    folder = dated(tmp_path / "in", stack, nodata=-1)
    with open_geotiff(folder) as source:
        each = fill(source, f"{tmp_path}/each/", SinkOptions(uncertainty=False))
        merged = fill(source, tmp_path / "merged.tif")
    assert sorted(p.name for p in each)[:2] == ["ndvi_20200101.tif", "ndvi_20200101_flag.tif"]
    with rasterio.open(merged[0]) as one:
        assert one.descriptions == tuple(DAYS)
        for i, name in enumerate(sorted(folder.iterdir()), start=1):
            with rasterio.open(tmp_path / "each" / name.name) as single:
                assert np.array_equal(single.read(1), one.read(i))


def test_refused_cells_stay_nodata(tmp_path: Path, stack: np.ndarray) -> None:
    refused = np.zeros(stack.shape, dtype=bool)
    refused[0, 1, 1] = True
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source:
        fill(source, tmp_path / "out.tif", refused=refused)
    with rasterio.open(tmp_path / "out.tif") as written, rasterio.open(tmp_path / "out_flag.tif") as flags:
        assert np.array_equal(written.read() == -1, refused)
        assert flags.read()[0, 1, 1] == REFUSED


def test_a_nodata_is_declared_only_where_it_is_needed(tmp_path: Path) -> None:
    values = np.array([[[1, np.nan, 3]]], "f4")
    path = write(tmp_path / "a_20200101.tif", values)
    refused = np.isnan(values)
    with open_geotiff(path) as source:
        fill(source, tmp_path / "b_20200101.tif")
        with pytest.warns(StimputeWarning, match="declares no nodata"):
            fill(source, tmp_path / "c_20200101.tif", refused=refused)
    with rasterio.open(tmp_path / "b_20200101.tif") as b, rasterio.open(tmp_path / "c_20200101.tif") as c:
        assert b.nodata is None
        assert np.isnan(c.nodata)
    codes = write(tmp_path / "d_20200101.tif", np.array([[[1, 255, 3]]], "u1"))
    with (
        open_geotiff(codes, ReadOptions(nodata=(255,))) as source,
        pytest.warns(StimputeWarning, match="255"),
    ):
        fill(source, tmp_path / "e_20200101.tif", refused=refused)
    with rasterio.open(tmp_path / "e_20200101.tif") as e:
        assert e.nodata == 255


def outlying(path: Path) -> Path:
    """A raster of 20 dated bands without a nodata, one cell of which lies far from its others in time."""
    values = np.broadcast_to(10 + np.arange(20)[:, None, None] % 7, (20, 4, 5)).astype("u1")
    values[9, 1, 2] = 200
    values[:, 0, 0] = 254
    return write(path, values, names=[f"2020-01-{day:02d}" for day in range(1, 21)])


@pytest.mark.parametrize("dtype", [None, "uint8"])
def test_a_refused_outlier_gets_a_number_that_no_other_cell_holds(tmp_path: Path, dtype: str | None) -> None:
    path, out = outlying(tmp_path / "a.tif"), tmp_path / "b.tif"
    refused = np.zeros((20, 4, 5), dtype=bool)
    refused[9, 1, 2] = True
    with pytest.warns(StimputeWarning, match="1 outliers"):
        source = open_source(path, ReadOptions(qc=True))
    with source, pytest.warns(StimputeWarning, match="unfilled cells hold 255, now declared"):
        fill(source, out, SinkOptions(dtype=dtype), refused=refused)
    with rasterio.open(path) as before, rasterio.open(out) as after:
        assert after.nodata == 255
        assert np.array_equal(after.read() == 255, refused)
        assert np.array_equal(after.read()[~refused], before.read()[~refused])


def test_inserted_steps_of_whole_numbers_get_one_that_is_neither_observed_nor_filled(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(10, 20, (3, 4, 5)).astype("u1")
    values[0, 0, 0] = 254
    path = write(tmp_path / "a.tif", values, names=["2020-01-01", "2020-01-02", "2020-01-04"])
    refused = np.zeros((4, 4, 5), dtype=bool)
    refused[2, 1] = True
    with open_source(path, ReadOptions(regular=True)) as source:
        with pytest.warns(StimputeWarning, match="unfilled cells hold 253, now declared"):
            fill(source, tmp_path / "b.tif", value=255.0, refused=refused)
        fill(source, tmp_path / "c.tif", value=255.0)
    with rasterio.open(tmp_path / "b.tif") as b, rasterio.open(tmp_path / "c.tif") as c:
        assert b.nodata == 253
        assert np.array_equal(b.read() == 253, refused)
        assert c.nodata is None  # every gap was filled


@pytest.mark.parametrize("dtype", ["u1", "i8", "u8"])
def test_whole_numbers_that_leave_none_for_a_gap(tmp_path: Path, dtype: str) -> None:
    """Of 64 bits no number next to an end survives as a nodata, which is kept in double precision."""
    values = (np.arange(8 * 6 * 6) % 256).reshape(8, 6, 6).astype(dtype)
    path = write(tmp_path / "a.tif", values, names=[f"2020-01-{day:02d}" for day in (1, 2, 3, 4, 6, 7, 8, 9)])
    refused = np.ones((9, 6, 6), dtype=bool)
    with open_source(path, ReadOptions(regular=True)) as source:
        with pytest.raises(
            OutputError, match=r"b\.tif: cells stay unfilled, and no number of u?int\d+ .*--dtype"
        ):
            fill(source, tmp_path / "b.tif", refused=refused)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif"]
        fill(source, tmp_path / "c.tif", SinkOptions(dtype="float32"), refused=refused)
    with rasterio.open(tmp_path / "c.tif") as c:
        assert np.isnan(c.read(5)).all()


def test_a_filled_value_beyond_the_type_is_an_error_and_leaves_nothing(
    tmp_path: Path, stack: np.ndarray
) -> None:
    with (
        open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source,
        pytest.raises(OutputError, match=r"40000.*32767.*--dtype"),
    ):
        fill(source, tmp_path / "out.tif", value=40_000.0)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_another_dtype_is_a_declared_alteration(tmp_path: Path, stack: np.ndarray) -> None:
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source:
        fill(source, tmp_path / "out.tif", SinkOptions(dtype="float32"), value=40_000.0)
    with rasterio.open(tmp_path / "out.tif") as written:
        assert written.dtypes[0] == "float32"
        assert np.array_equal(written.read(), np.where(stack == -1, 40_000, stack.astype(int)))
        assert "stored as float32" in written.tags()["STIMPUTE_HISTORY"]


def test_large_integers_do_not_pass_through_floats(tmp_path: Path) -> None:
    values = np.array([[[2**53 + 1, -1, 2**40 + 3]]], dtype=np.int64)
    with open_geotiff(write(tmp_path / "a_20200101.tif", values, nodata=-1)) as source:
        fill(source, tmp_path / "b_20200101.tif")
    with rasterio.open(tmp_path / "b_20200101.tif") as written:
        assert written.read().ravel().tolist() == [2**53 + 1, 7, 2**40 + 3]


def test_steps_missing_from_a_regular_series(tmp_path: Path, stack: np.ndarray) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for day, band in zip((1, 2, 4), stack):
        write(folder / f"ndvi_2020010{day}.tif", band[None], nodata=-1)
    with open_geotiff(folder, ReadOptions(regular=True)) as source:
        assert source.time_labels == (*DAYS, "2020-01-04")
        assert not source.read(whole(source)).valid[2].any()
        fill(source, tmp_path / "out", SinkOptions(flags=False, uncertainty=False))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"ndvi_2020010{d}.tif" for d in (1, 2, 3, 4)
    ]
    with rasterio.open(tmp_path / "out" / "ndvi_20200103.tif") as written:
        assert (written.read() == 7).all()


def test_the_order_and_size_of_windows_do_not_change_a_byte(tmp_path: Path, stack: np.ndarray) -> None:
    path = write(
        tmp_path / "a.tif",
        np.tile(stack, (1, 8, 8)),
        names=DAYS,
        nodata=-1,
        compress="deflate",
        interleave="pixel",
    )
    with open_geotiff(path) as source:
        one = fill(source, tmp_path / "one.tif", tile=5)[0]
        two = fill(source, tmp_path / "two.tif", tile=100)[0]
    assert one.read_bytes() == two.read_bytes()


def test_creation_options_win(tmp_path: Path, stack: np.ndarray) -> None:
    options = SinkOptions(
        creation={"COMPRESS": "LZW", "TILED": "YES", "BLOCKXSIZE": "16", "BLOCKYSIZE": "16"}
    )
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1, compress="deflate")) as source:
        fill(source, tmp_path / "out.tif", options)
    with rasterio.open(tmp_path / "out.tif") as written:
        assert (written.compression.value, written.block_shapes[0]) == ("LZW", (16, 16))


def test_lossy_compression_is_replaced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(1, 255, (1, 32, 32)).astype(np.uint8)
    path = write(tmp_path / "a_20200101.tif", values, compress="jpeg", nodata=0)
    with open_geotiff(path) as source:
        fill(source, tmp_path / "b_20200101.tif")
        with rasterio.open(tmp_path / "b_20200101.tif") as written:
            same = source.read(whole(source)).valid
            assert np.array_equal(written.read()[same], source.read_stored(whole(source))[same])
            assert written.compression.value == "DEFLATE"


@pytest.mark.parametrize("asked", ["COG", None])
def test_cog(tmp_path: Path, stack: np.ndarray, asked: Any) -> None:
    from rasterio.shutil import copy
    from rio_cogeo.cogeo import cog_validate

    path = write(tmp_path / "a.tif", np.tile(stack, (1, 200, 160)), names=DAYS, nodata=-1)
    if asked is None:  # a COG stays one
        copy(path, tmp_path / "cog.tif", driver="COG")
        path = tmp_path / "cog.tif"
    with open_geotiff(path) as source:
        paths = fill(source, tmp_path / "out.tif", SinkOptions(format=asked), tile=400)
    for written in paths:
        assert cog_validate(written)[0], written
    with rasterio.open(paths[0]) as file:
        assert file.descriptions == tuple(DAYS)
        assert "STIMPUTE_HISTORY" in file.tags()
        assert (file.read() != -1).all()


def test_outputs_that_may_not_be_written(tmp_path: Path, stack: np.ndarray) -> None:
    folder = dated(tmp_path / "in", stack, nodata=-1)
    with open_geotiff(folder) as source:
        with pytest.raises(OutputError, match="equals an input"):
            GeoTiffSink(folder, source, SinkOptions(overwrite=True))
        out = tmp_path / "out.tif"
        out.write_text("mine")
        with pytest.raises(OutputError, match="already exists"):
            GeoTiffSink(out, source)
        fill(source, out, SinkOptions(overwrite=True))
        with pytest.raises(OutputError):
            GeoTiffSink(tmp_path / "absent" / "out.tif", source)
    with rasterio.open(out) as written:
        assert written.count == 3


def test_what_lies_beside_an_earlier_fill_is_refused_or_goes(tmp_path: Path, stack: np.ndarray) -> None:
    out, everything = tmp_path / "out.tif", SinkOptions(quantiles=(0.05,))
    bare = SinkOptions(flags=False, uncertainty=False)
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source:
        fill(source, out, everything)
        siblings = {out.with_name(f"out_{kind}.tif") for kind in ("flag", "stderr", "q05")}
        assert siblings <= set(tmp_path.iterdir())
        out.unlink()
        for options in (SinkOptions(), bare):
            with pytest.raises(OutputError, match=r"out_\w+\.tif: .*--overwrite"):
                GeoTiffSink(out, source, options)
            with pytest.raises(OutputError, match=r"out_\w+\.tif: .*--overwrite"):
                check_siblings(out, source, options)
        mine, other = write(tmp_path / "out_q50.tif", stack[:1]), tmp_path / "other_flag.tif"
        shutil.copy(tmp_path / "out_flag.tif", other)
        (tmp_path / "out_stderr.tif.aux.xml").write_text("<PAMDataset/>")
        with GeoTiffSink(out, source, replace(bare, overwrite=True)):
            pass
        assert siblings <= set(tmp_path.iterdir())  # nothing goes before the new output is there
        fill(source, out, replace(bare, overwrite=True))
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out.tif", mine.name, other.name}


@pytest.mark.parametrize("read", ["input", "covariate", "domain"])
def test_what_is_read_is_no_sibling_to_be_replaced_or_removed(
    tmp_path: Path, stack: np.ndarray, read: str
) -> None:
    folder = dated(tmp_path / "in", stack, nodata=-1)
    with open_geotiff(folder) as source:
        fill(source, tmp_path / "out.tif")
    flag = tmp_path / "out_flag.tif"
    given = {"covariate": {"covariates": (str(flag),)}, "domain": {"domain": str(flag)}}.get(read, {})
    with open_geotiff([flag] if read == "input" else folder, ReadOptions(**given)) as source:
        with pytest.raises(OutputError, match=r"out_flag\.tif: equals an input"):
            GeoTiffSink(tmp_path / "out.tif", source, SinkOptions(overwrite=True))
        with pytest.warns(StimputeWarning, match=r"out_flag\.tif: is read in this run and stays"):
            fill(source, tmp_path / "out.tif", SinkOptions(flags=False, overwrite=True))
    assert flag.exists()


def test_an_outdated_side_file_does_not_say_where_the_new_file_lies(
    tmp_path: Path, stack: np.ndarray
) -> None:
    out = tmp_path / "out.tif"
    side = out.with_name("out.tif.aux.xml")
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source:
        fill(source, out)
        with rasterio.open(out) as file:
            placed = (file.crs, file.transform)
        side.write_text(
            "<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>1, 2, 0, 3, 0, -4</GeoTransform></PAMDataset>"
        )
        with rasterio.open(out) as file:
            assert (file.crs, file.transform) != placed
        fill(source, out, SinkOptions(overwrite=True))
    with rasterio.open(out) as file:
        assert (file.crs, file.transform) == placed
    assert not side.exists()


def test_overviews_and_masks_beside_an_earlier_file_do_not_speak_for_the_new_one(
    tmp_path: Path, stack: np.ndarray
) -> None:
    out = tmp_path / "out.tif"
    with open_geotiff(dated(tmp_path / "in", stack, nodata=-1)) as source:
        fill(source, out)
        with rasterio.open(out) as file:
            before, profile = file.read_masks(1), file.profile
        with rasterio.open(tmp_path / "mask.tif", "w", **{**profile, "count": 1, "nodata": None}) as file:
            file.update_tags(INTERNAL_MASK_FLAGS_1="2")
            file.write(np.zeros((1, *before.shape), dtype=profile["dtype"]))
        for kind in ("msk", "ovr"):
            shutil.copy(tmp_path / "mask.tif", f"{out}.{kind}")
        with rasterio.open(out) as file:
            assert (file.read_masks(1) != before).any(), "GDAL reads the mask along"
        fill(source, out, SinkOptions(overwrite=True))
    with rasterio.open(out) as file:
        assert (file.read_masks(1) == before).all()
    assert not [*tmp_path.glob("*.ovr"), *tmp_path.glob("*.msk")]


FULL_DISK = """
import resource, sys
import numpy as np
from stimpute.errors import OutputError
from stimpute.io.geotiff import GeoTiffSink, open_geotiff
from stimpute.io.options import SinkOptions
from stimpute.protocols import Filled, Window

source = open_geotiff(sys.argv[1])
window = Window.whole(source.layers[0].shape)
with GeoTiffSink(sys.argv[2], source, SinkOptions(flags=False)) as sink:
    sink.write(window, Filled(np.zeros(window.shape, np.float32), np.zeros(window.shape, np.uint8)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
    try:
        sink.commit("x")
    except OutputError as error:
        sys.exit(7)
"""


@pytest.mark.parametrize("share", [0.3, 0.98, 0.9999])
def test_a_full_disk_is_noticed_even_while_closing(tmp_path: Path, share: float) -> None:
    values = np.random.default_rng(0).random((2, 100, 100), "f4")
    tiles = {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16, "interleave": "pixel"}
    path = write(tmp_path / "a.tif", values, names=DAYS[:2], nodata=np.nan, **tiles)
    limit = int(share * path.stat().st_size)
    command = [sys.executable, "-c", FULL_DISK, str(path), str(tmp_path / "out.tif"), str(limit)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 7
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


def test_an_interrupted_sink_leaves_nothing(tmp_path: Path, stack: np.ndarray) -> None:
    source = open_geotiff(dated(tmp_path / "in", stack, nodata=-1))

    def interrupted(out: str) -> None:
        with GeoTiffSink(tmp_path / out, source) as sink:
            window = Window((0, 1), (0, 4), (0, 5))
            flag = np.where(source.read(window).valid, OBSERVED, FILLED).astype(np.uint8)
            sink.write(window, Filled(np.ones(window.shape, np.float32), flag))
            raise KeyboardInterrupt

    for out in ("out.tif", "out"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(out)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


# ----------------------------------------------------------------------------------------------------- real files

REAL: list[tuple[str, dict[str, Any], tuple[int, int, int], str, str]] = [
    ("modis_chl_gom/raw_tif", {}, (6, 86, 110), "2018-01-01", "2018-06-01"),
    ("awkward/multiband_time/modisraster.tif", {}, (275, 5, 5), "2000-02-18", "2012-01-17"),
    ("awkward/multiband_time/mohinora_MOD13Q1_v061_NDVI.tif", {}, (4, 56, 88), "2022-01-17", "2023-02-02"),
    ("awkward/modistsp_ndvi_tif/NDVI.zip", {}, (23, 122, 65), "2016-01-01", "2016-12-18"),
    ("awkward/sits_mod13q1_jp2", {}, (12, 147, 255), "2013-09-14", "2014-08-29"),
    ("awkward/grib/era5-2mt-2019-03-uk.grib", {}, (744, 33, 49), "2019-03-01T00:00:00", "2019-03-31T23:00:00"),
    ("fmi_radar/201609281445_FINUTM.tif", {"nodata": (255.0,)}, (1, 7316, 4963), "2016-09-28T14:45:00", "2016-09-28T14:45:00"),
]  # fmt: skip


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
@pytest.mark.parametrize(("path", "options", "shape", "first", "last"), REAL, ids=[r[0] for r in REAL])
def test_real_files(
    shared_data: Path, path: str, options: dict[str, Any], shape: tuple[int, int, int], first: str, last: str
) -> None:
    with open_geotiff(shared_data / path, ReadOptions(**options)) as source:
        assert (source.layers[0].shape, source.time_labels[0], source.time_labels[-1]) == (shape, first, last)


@pytest.mark.data
def test_real_files_of_mixed_units_are_pointed_out(shared_data: Path) -> None:
    with pytest.warns(StimputeWarning, match="times smaller"):
        open_geotiff(shared_data / "awkward/modistsp_ndvi_tif/NDVI.zip").close()


@pytest.mark.data
def test_real_scenes_that_do_not_align_are_refused(shared_data: Path) -> None:
    with pytest.raises(InputError, match="do not share a grid"):
        open_geotiff(f"{shared_data}/landsat8_newyork/*/*_B4.TIF")


@pytest.mark.data
def test_real_files_filled_and_read_back(shared_data: Path, tmp_path: Path) -> None:
    with open_geotiff(shared_data / "modis_chl_gom/raw_tif") as source:
        fill(source, tmp_path / "out.tif", tile=60)
        with open_geotiff(tmp_path / "out.tif") as again:
            before, after = source.read(whole(source)), again.read(whole(again))
            assert again.time_labels == source.time_labels
            assert again.grid.crs_wkt == source.grid.crs_wkt
            assert np.array_equal(
                again.read_stored(whole(again))[before.valid], source.read_stored(whole(source))[before.valid]
            )
            assert after.valid.all()


@pytest.mark.parametrize(("asked", "expected"), [({}, "band"), ({"INTERLEAVE": "PIXEL"}, "pixel")])
def test_bands_of_another_format_are_not_interleaved_unless_asked_for(tmp_path, asked, expected):
    """GTiff's own default is by pixel: hundreds of bands would be compressed anew for each of them."""
    values = np.arange(3 * 6 * 7, dtype="f4").reshape(3, 6, 7)
    path = write(tmp_path / "a.img", values, names=DAYS, driver="HFA")
    with open_geotiff([path]) as source:
        fill(source, tmp_path / "out.tif", SinkOptions(creation=asked))
    with rasterio.open(tmp_path / "out.tif") as file:
        assert file.profile["interleave"] == expected
        np.testing.assert_array_equal(file.read(), values)


def test_61_what_a_library_lost_without_a_word_is_found_before_the_file_gets_its_name(tmp_path, monkeypatch):
    """GDAL keeps silent about writes that fail while a file is closed: it is read back."""
    path = write(tmp_path / "a.tif", np.ones((3, 40, 30), "f4"), names=DAYS)
    written = geotiff_file._write_tiff

    def losing(target: Path, *more: Any) -> None:
        written(target, *more)
        with rasterio.open(target, "r+") as file:
            file.write(np.zeros((2, 30), file.dtypes[0]), 3, window=((38, 40), (0, 30)))

    monkeypatch.setattr(geotiff_file, "_write_tiff", losing)
    with (
        open_geotiff([path]) as source,
        pytest.raises(OutputError, match=r"out\.tif was not written completely"),
    ):
        fill(source, tmp_path / "out.tif")
    assert list(tmp_path.iterdir()) == [path]


def test_a_flag_of_an_earlier_run_is_named(tmp_path, write_geotiffs, gappy, fill_with):
    paths = write_geotiffs(gappy(t=3))
    fill_with(7.0, paths, tmp_path / "first.tif")
    with pytest.warns(StimputeWarning, match="first_flag.tif: marks values that an earlier run filled"):
        fill_with(7.0, tmp_path / "first.tif", tmp_path / "second.tif")
