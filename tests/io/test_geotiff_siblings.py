"""What lies beside a GeoTIFF output under the name of its sibling: replaced or removed only if an earlier fill left it and nobody reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from stimpute import api
from stimpute.errors import OutputError, StimputeWarning
from stimpute.io import ReadOptions, SinkOptions, archive_on, create_sink, open_future, open_source, refine
from stimpute.io.files_read import files_read

pytestmark = pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")  # white noise has no range

GRID = Affine(1000, 0, 500_000, 0, -1000, 4_600_000)
LINEAR = {"method": "linear"}
FORECAST = {"steps": 1, "method": "persistence"}
REFINE = {"factor": 2, "method": "classical", "samples": 2}


def write(path: Path, dtype: str = "float32", **tags: str) -> Path:
    """A GeoTIFF (9, 8, 8) of dated bands with gaps."""
    values = np.random.default_rng(0).uniform(1, 9, (9, 8, 8)).astype(dtype)
    values[2, 2:4, 3] = -1
    with rasterio.open(
        path, "w", driver="GTiff", count=9, height=8, width=8, dtype=dtype, crs="EPSG:32630", transform=GRID,
        nodata=-1,
    ) as file:  # fmt: skip
        file.write(values)
        file.update_tags(**tags)
        for day in range(1, 10):
            file.set_band_description(day, f"2020-01-0{day}")
    return path


def write_vrt(path: Path, of: str) -> Path:
    """A VRT (9, 8, 8) of another raster in its folder."""
    bands = "".join(
        f'<VRTRasterBand dataType="Float32" band="{n}"><Description>2020-01-0{n}</Description><NoDataValue>nan</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{of}</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource></VRTRasterBand>'
        for n in range(1, 10)
    )
    place = ", ".join(str(number) for number in GRID.to_gdal())
    path.write_text(
        f'<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:32630</SRS><GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>'
    )
    return path


@pytest.fixture
def temp(tmp_path: Path) -> Path:
    return write(tmp_path / "temp.tif")


@pytest.fixture
def left(tmp_path: Path, temp: Path) -> Path:
    """The quantile that an earlier fill left beside an output which is gone: it covers every cell, as fields of its own."""
    api.fill(temp, tmp_path / "out.tif", quantiles=(0.05,), flags=False, **LINEAR)
    for name in ("out.tif", "out_stderr.tif"):
        (tmp_path / name).unlink()
    quantile = tmp_path / "out_q05.tif"
    with rasterio.open(quantile, "r+") as file:
        file.write(np.ones((9, 8, 8), dtype="float32"))
    return quantile


def test_what_an_earlier_fill_left_goes_where_nobody_reads_it(tmp_path: Path, temp: Path, left: Path) -> None:
    with pytest.raises(OutputError, match=r"out_q05\.tif: an earlier fill left it"):
        api.fill(temp, tmp_path / "out.tif", **LINEAR)
    api.fill(temp, tmp_path / "out.tif", overwrite=True, **LINEAR)
    assert not left.exists()


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("fill", "domain"), ("forecast", "domain"),
        ("reconstruct", "covariate"), ("reconstruct", "domain"), ("reconstruct", "archive"),
    ],
)  # fmt: skip
def test_what_is_read_besides_the_inputs_stays(
    tmp_path: Path, temp: Path, left: Path, command: str, role: str
) -> None:
    given = LINEAR | {"fill": {}, "forecast": FORECAST, "reconstruct": REFINE}[command]
    asked: dict[str, Any] = {role: str(left) if role != "covariate" else (str(left),), "overwrite": True}
    with pytest.warns(StimputeWarning, match=r"out_q05\.tif: is read in this run and stays"):
        getattr(api, command)(temp, tmp_path / "out.tif", **given, **asked)
    assert (tmp_path / "out.tif").exists()
    assert left.exists()


@pytest.mark.parametrize("command", ["fill", "forecast", "reconstruct"])
def test_what_lies_behind_a_vrt_stays(tmp_path: Path, left: Path, command: str) -> None:
    write_vrt(tmp_path / "inner.vrt", left.name)
    outer = write_vrt(tmp_path / "outer.vrt", "inner.vrt")
    given = LINEAR | {"fill": {}, "forecast": FORECAST, "reconstruct": REFINE}[command]
    with pytest.warns(StimputeWarning, match=r"out_q05\.tif: is read in this run and stays"):
        getattr(api, command)(outer, tmp_path / "out.tif", overwrite=True, **given)
    assert left.exists()
    for out in (left, tmp_path / "inner.vrt"):
        with pytest.raises(OutputError, match=f"{out.name}: "):
            getattr(api, command)(outer, out, overwrite=True, **given)


def test_every_source_knows_all_that_is_read(tmp_path: Path, temp: Path) -> None:
    inner = write(tmp_path / "inner.tif")
    names = ("covariate.tif", "domain.vrt", "archive.vrt")
    covariate, domain, archive = write(tmp_path / names[0]), *(tmp_path / name for name in names[1:])
    for vrt in (domain, archive):
        write_vrt(vrt, inner.name)
    with open_source(temp, ReadOptions(domain=str(domain))) as source:
        assert files_read(source) == {str(p.resolve()) for p in (temp, domain, inner)}
        assert files_read(open_future(source, 2)[0]) == files_read(source)
        fine = refine(source, 2, (str(covariate),))
        with archive_on(fine, str(archive)):
            assert files_read(fine) == files_read(source) | {str(p.resolve()) for p in (covariate, archive)}


def test_a_folder_read_besides_the_inputs_counts_file_by_file(tmp_path: Path, temp: Path) -> None:
    folder = tmp_path / "rain"
    folder.mkdir()
    parts = [shutil.copy(temp, folder / f"rain_{year}0101.tif") for year in (2019, 2020)]
    for part in parts:
        with rasterio.open(part) as file:
            values, profile = file.read(1), file.profile
        with rasterio.open(part, "w", **{**profile, "count": 1}) as file:
            file.write(values, 1)
    with open_source(temp, ReadOptions(domain=str(folder))) as source:
        assert files_read(source) >= {str(Path(p).resolve()) for p in (temp, *parts)}


def test_what_gdal_would_read_with_the_output_is_no_place_of_an_input(tmp_path: Path, temp: Path) -> None:
    mask = Path(shutil.copy(temp, tmp_path / "out.tif.msk"))
    with pytest.raises(OutputError, match=r"out\.tif\.msk: is read in this run"):
        api.fill(temp, tmp_path / "out.tif", domain=str(mask), overwrite=True, **LINEAR)
    with pytest.raises(OutputError, match=r"out\.tif\.msk: already exists, .*--overwrite removes it"):
        api.fill(temp, tmp_path / "out.tif", **LINEAR)
    assert mask.exists()


@pytest.mark.parametrize("kind", ["member01", "stderr", "q05", "flag"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_main_output_of_another_fill_is_no_sibling(
    tmp_path: Path, temp: Path, kind: str, overwrite: bool
) -> None:
    """Even where the stack that was filled calls itself what siblings are called."""
    names = {"stderr": "standard error", "flag": "flag"}
    other = write(tmp_path / f"temp_{kind}.tif", long_name=names.get(kind, f"{kind} of the filled cells"))
    filled = tmp_path / "filled"
    filled.mkdir()
    command = f"stimpute fill {other.name} filled/{other.name}"
    api.fill(other, filled / other.name, command=command, **LINEAR)
    bare = LINEAR | {"flags": False, "uncertainty": False}
    with pytest.warns(StimputeWarning, match=rf"temp_{kind}\.tif: may be an output of its own and stays"):
        api.fill(temp, filled / "temp.tif", overwrite=overwrite, **bare)
    left = {f"temp_{kind}{end}.tif" for end in ("", "_flag", "_stderr")}
    assert {path.name for path in filled.iterdir()} == {"temp.tif", *left}


def test_a_sibling_that_was_filled_itself_is_an_output_of_its_own(
    tmp_path: Path, temp: Path, left: Path
) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    api.fill(left, place / left.name, flags=False, uncertainty=False, **LINEAR)
    with pytest.warns(StimputeWarning, match=r"out_q05\.tif: may be an output of its own and stays"):
        api.fill(temp, place / "out.tif", overwrite=True, **LINEAR)
    assert (place / left.name).exists()


def test_what_cannot_be_removed_is_named_once_the_output_is_there(tmp_path: Path, temp: Path) -> None:
    (tmp_path / "out.tif.ovr").mkdir()
    with pytest.warns(StimputeWarning, match=r"out\.tif\.ovr: cannot be removed \("):
        api.fill(temp, tmp_path / "out.tif", overwrite=True, **LINEAR)
    assert (tmp_path / "out.tif").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_netcdf_output_spares_what_lies_behind_a_vrt(tmp_path: Path, temp: Path) -> None:
    hidden = temp.rename(tmp_path / "hidden.nc")  # GDAL goes by the content
    source = open_source(write_vrt(tmp_path / "in.vrt", hidden.name))
    with source, pytest.raises(OutputError, match=r"hidden\.nc: is read in this run"):
        create_sink(hidden, source, SinkOptions(overwrite=True))
