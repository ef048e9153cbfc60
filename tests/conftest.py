"""What every test may ask for: real data where it is at hand, and small files of the kinds stimpute reads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # started in the background: tests of Ctrl-C would wait for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real files; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("STIMPUTE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data absent: no ../shared/data, and STIMPUTE_TEST_DATA names no folder")
    return folder


@pytest.fixture
def gappy() -> Callable[..., np.ndarray]:
    """A smooth moving float32 field (time, y, x) of about ``missing`` NaN, every cell observed at least once."""

    def make(t: int = 6, ny: int = 8, nx: int = 10, missing: float = 0.4, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        time, y, x = np.meshgrid(np.arange(t), np.arange(ny), np.arange(nx), indexing="ij")
        field = 15 + 3 * np.sin(y / 3 + time / 4) + 2 * np.cos(x / 4 - time / 5)
        gap = rng.random(field.shape) < missing
        gap[rng.integers(t, size=(ny, nx)), y[0], x[0]] = False
        return np.where(gap, np.nan, field).astype(np.float32)

    return make


@pytest.fixture
def write_netcdf(tmp_path: Path) -> Callable[..., Path]:
    """Write ``values`` (time, y, x), NaN in the gaps, as a small CF file in degrees, one step a day; returns its path.

    ``dtype``, ``scale``, ``offset``, ``fill`` choose the packing; ``attributes`` go on the variable, ``times`` replaces
    the day numbers.
    """
    import netCDF4

    def write(
        values: np.ndarray,
        name: str = "stack.nc",
        *,
        variable: str = "sst",
        dtype: str = "f4",
        scale: float | None = None,
        offset: float | None = None,
        fill: float | None = None,
        times: Sequence[float] | None = None,
        calendar: str = "standard",
        file_format: str = "NETCDF4",
        attributes: dict[str, Any] | None = None,
    ) -> Path:
        path = tmp_path / name
        t, ny, nx = values.shape
        stored_fill = fill if fill is not None else (-9999 if np.dtype(dtype).kind in "iu" else np.nan)
        stored = np.where(np.isnan(values), np.nan, (values - (offset or 0)) / (scale or 1))
        if np.dtype(dtype).kind in "iu":
            stored = np.round(stored)
        stored = np.where(np.isnan(stored), stored_fill, stored).astype(dtype)
        with netCDF4.Dataset(path, "w", format=file_format) as file:
            for dimension, size in (("time", t), ("lat", ny), ("lon", nx)):
                file.createDimension(dimension, size)
            axis = file.createVariable("time", "f8", ("time",))
            axis.units, axis.calendar, axis.standard_name = "days since 2020-01-01", calendar, "time"
            axis[:] = np.arange(t) if times is None else np.asarray(times)
            for coordinate, units, centres in (
                ("lat", "degrees_north", 45 - 0.1 * np.arange(ny)),
                ("lon", "degrees_east", 5 + 0.1 * np.arange(nx)),
            ):
                c = file.createVariable(coordinate, "f8", (coordinate,))
                c.units, c[:] = units, centres
            data = file.createVariable(variable, dtype, ("time", "lat", "lon"), fill_value=stored_fill)
            data.set_auto_maskandscale(False)
            if scale is not None:
                data.scale_factor = scale
            if offset is not None:
                data.add_offset = offset
            data.setncatts({"units": "degC", **(attributes or {})})
            data[:] = stored
        return path

    return write


@pytest.fixture
def write_geotiffs(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write ``values`` (time, y, x) as one dated GeoTIFF per step (UTM, 1 km), NaN in the gaps; returns the paths in order.

    Of several ``bands`` only the first is written.
    """
    import rasterio

    def write(
        values: np.ndarray,
        folder: str = "tiffs",
        *,
        dtype: str = "float32",
        nodata: float | None = -9999.0,
        crs: str | None = "EPSG:32630",
        pattern: str = "sst_202001{day:02d}.tif",
        bands: int = 1,
        **creation: Any,
    ) -> list[Path]:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        gap = np.isnan(values)
        stored = np.where(gap, 0 if nodata is None else nodata, np.nan_to_num(values)).astype(dtype)
        paths = []
        for step, band in enumerate(stored):
            path = target / pattern.format(day=step + 1)
            profile = {"driver": "GTiff", "count": bands, "dtype": dtype, "nodata": nodata, "crs": crs}
            ny, nx = band.shape
            transform = rasterio.transform.from_origin(500_000, 4_600_000, 1000, 1000)
            with rasterio.open(
                path, "w", height=ny, width=nx, transform=transform, **profile, **creation
            ) as file:
                file.write(band, 1)
            paths.append(path)
        return paths

    return write
