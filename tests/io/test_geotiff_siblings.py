"""What lies beside a GeoTIFF output, and every file that a run reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from stimpute.errors import OutputError
from stimpute.io import ReadOptions, SinkOptions, archive_on, create_sink, open_future, open_source, refine
from stimpute.io.files_read import files_read

pytestmark = pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")  # white noise has no range

GRID = Affine(1000, 0, 500_000, 0, -1000, 4_600_000)


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


def test_a_netcdf_output_spares_what_lies_behind_a_vrt(tmp_path: Path, temp: Path) -> None:
    hidden = temp.rename(tmp_path / "hidden.nc")  # GDAL goes by the content
    source = open_source(write_vrt(tmp_path / "in.vrt", hidden.name))
    with source, pytest.raises(OutputError, match=r"hidden\.nc: is read in this run"):
        create_sink(hidden, source, SinkOptions(overwrite=True))
