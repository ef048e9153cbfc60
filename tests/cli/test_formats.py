"""Formats on the way in and out that other programs must be able to read, through the real command line."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")


def with_integers(path: Path, largest: int) -> None:
    """64-bit times and a 64-bit side variable, as xarray writes them."""
    with netCDF4.Dataset(path, "a") as file:
        file.renameVariable("time", "hours")
        axis = file.createVariable("time", "i8", ("time",))
        axis.setncatts({"units": "days since 2020-01-01", "valid_max": np.int64(9)})
        axis[:] = np.arange(file.dimensions["time"].size)
        file.createVariable("orbit", "i8", ("time",))[:] = largest - np.arange(8)


@pytest.mark.parametrize(
    ("largest", "dtype"), [(900, np.int16), (70_000, np.int32), (2**40, np.float64), (2**60, np.int64)]
)
def test_netcdf3_holds_64_bit_integers_as_numbers_it_knows(
    stimpute: Callable, small: Path, tmp_path: Path, largest: int, dtype: type
) -> None:
    with_integers(small, largest)
    out = tmp_path / "out.nc"
    done = stimpute("fill", small, out, "--method", "linear", "--of", "NetCDF3")
    assert done.code == 0, done.err
    with netCDF4.Dataset(out) as file:
        assert file["orbit"].dtype == dtype
        np.testing.assert_array_equal(file["orbit"][:].astype("i8"), largest - np.arange(8))
        classic = file.data_model
    if dtype is np.int64:  # nothing smaller holds them
        assert classic == "NETCDF3_64BIT_DATA"
    else:
        assert classic == "NETCDF3_CLASSIC"
        assert stimpute("verify", small, out).code == 0
    with netCDF4.Dataset(out, "a") as file:
        file["orbit"][3] = 5
    assert stimpute("verify", small, out).code == 1


@pytest.mark.parametrize("inside", ["", "scenes/"])
def test_a_zip_of_rasters_is_filled_and_verified(
    stimpute: Callable, write_geotiffs: Callable, gappy: Callable, tmp_path: Path, inside: str
) -> None:
    archive, out, folder = tmp_path / "scenes.zip", tmp_path / "out.tif", tmp_path / "folder"
    with zipfile.ZipFile(archive, "w") as file:
        for path in write_geotiffs(gappy()):
            file.write(path, inside + path.name)
    assert stimpute("fill", archive, out, "--method", "linear").code == 0
    assert stimpute("verify", archive, out).code == 0
    assert stimpute("fill", archive, folder, "--method", "linear").code == 0
    done = stimpute("verify", archive, folder)
    assert done.code == 0, done.err
    other = tmp_path / "other.tif"
    shutil.copy(out, other)
    import rasterio

    with rasterio.open(other, "r+") as file:
        band = file.read(2)
        seen = np.argwhere(rasterio.open(tmp_path / "tiffs" / "sst_20200102.tif").read(1) != -9999)[0]
        band[tuple(seen)] += 1
        file.write(band, 2)
    assert stimpute("verify", archive, other).code == 1


def test_file_addresses_are_paths(stimpute: Callable, small: Path, tmp_path: Path) -> None:
    assert stimpute("fill", small.as_uri(), tmp_path / "out.nc", "--method", "mean").code == 0
    assert stimpute("verify", small.as_uri(), tmp_path / "out.nc").code == 0
    assert "is the input" in stimpute("fill", small.as_uri(), small, "--method", "mean").err


def test_netcdf_on_a_server_is_to_be_downloaded_first(stimpute: Callable) -> None:
    done = stimpute("info", "http://127.0.0.1:9/a.nc")
    assert done.code == 1
    assert "download it first" in done.err
    assert "damaged" not in done.err


def test_a_package_that_zarr_on_a_server_needs_is_named(
    stimpute: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr

    def absent(*args: object, **kwargs: object) -> None:
        raise ImportError("HTTPFileSystem requires more")

    monkeypatch.setattr(zarr, "open_group", absent)
    done = stimpute("info", "https://example.invalid/a.zarr")
    assert done.code == 1
    assert "pip install aiohttp requests" in done.err
    assert "damaged" not in done.err
