"""Stacks of any size, generated piece by piece, and commands whose time and peak memory are measured. Knows no methods."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Array = np.ndarray
ROOT = Path(__file__).resolve().parents[2]
MISSING = 0.4
_CLOUD = 16  # cells along a side of the blocks that gaps are made of


@dataclass(frozen=True)
class Measured:
    """What a command took: wall and CPU seconds, peak resident memory in bytes, exit code, what it said on stderr and stdout."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    code: int
    said: str
    printed: str


# A process is born with the peak memory of the one that started it: a small one stands between.
_BETWEEN = """
import json, os, subprocess, sys, time
started = time.perf_counter()
running = subprocess.Popen(sys.argv[2:])
_, status, used = os.wait4(running.pid, 0)
seconds = time.perf_counter() - started
with open(int(sys.argv[1]), "w") as pipe:
    json.dump([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss, os.waitstatus_to_exitcode(status)], pipe)
"""


def measure(
    command: Sequence[str | Path], threads: int = 1, settings: Mapping[str, str] | None = None
) -> Measured:
    """Run a command in a process of its own, with ``settings`` in its environment, and wait for it."""
    environment = {
        **os.environ, **(settings or {}), "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    reading, writing = os.pipe()
    between = [sys.executable, "-I", "-S", "-c", _BETWEEN, str(writing), *(str(part) for part in command)]
    running = subprocess.Popen(
        between,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        pass_fds=[writing],
    )
    os.close(writing)
    printed, said = running.communicate()
    with open(reading) as pipe:
        seconds, cpu_seconds, peak, code = json.load(pipe)
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(seconds, cpu_seconds, peak * unit, code, said, printed)


def stimpute(*arguments: str | Path) -> list[str | Path]:
    """The command line of this very code."""
    return [sys.executable, "-c", "from stimpute.cli import main; main()", *arguments]


def side_of(megabytes: float, steps: int) -> int:
    """Cells along the side of a square float32 stack of a size.

    >>> side_of(256, 100)
    819
    """
    return math.isqrt(int(megabytes * 2**20 / 4 / steps))


def frames(steps: int, ny: int, nx: int, seed: int = 0) -> Iterator[Array]:
    """:func:`scenes` with NaN in the gaps; float32 (y, x)."""
    for field, gap in scenes(steps, ny, nx, seed):
        yield np.where(gap, np.float32(np.nan), field)


def scenes(steps: int, ny: int, nx: int, seed: int = 0) -> Iterator[tuple[Array, Array]]:
    """A smooth moving field with noise, and block-shaped clouds over it, step by step: float32 and bool (y, x)."""
    rng = np.random.default_rng(seed)
    y, x = np.arange(ny, dtype=np.float32)[:, None], np.arange(nx, dtype=np.float32)[None]
    blocks = -(-ny // _CLOUD), -(-nx // _CLOUD)
    for step in range(steps):
        moving = 15 + 3 * np.sin(y / 25 + step / 9) + 2 * np.cos(x / 31 - step / 7) * np.sin(y / 57)
        field = moving + 0.3 * rng.standard_normal((ny, nx), dtype=np.float32)
        cloudy = rng.random(blocks) < MISSING
        gap = np.repeat(np.repeat(cloudy, _CLOUD, axis=0), _CLOUD, axis=1)[:ny, :nx]
        yield field.astype(np.float32), gap


def write_stack(path: Path, steps: int, ny: int, nx: int, seed: int = 0, *, compress: bool = False) -> Path:
    """A generated stack as NetCDF, Zarr or GeoTIFF by the suffix, one step a day, cells of 1 km."""
    write = {".nc": _write_netcdf, ".zarr": _write_zarr, ".tif": _write_geotiff}[path.suffix]
    write(path, steps, ny, nx, seed, compress)
    return path


def _write_netcdf(path: Path, steps: int, ny: int, nx: int, seed: int, compress: bool) -> None:
    import netCDF4

    packed = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": (1, ny, nx)} if compress else {}
    with netCDF4.Dataset(path, "w") as file:
        for name, size, units in (("time", steps, "days since 2020-01-01"), ("y", ny, "km"), ("x", nx, "km")):
            file.createDimension(name, size)
            axis = file.createVariable(name, "f8", (name,))
            axis.units, axis[:] = units, np.arange(size)
            if name != "time":
                axis.standard_name = f"projection_{name}_coordinate"
        data = file.createVariable("sst", "f4", ("time", "y", "x"), fill_value=np.float32(np.nan), **packed)
        data.units = "degC"
        for step, frame in enumerate(frames(steps, ny, nx, seed)):
            data[step] = frame


def _write_zarr(path: Path, steps: int, ny: int, nx: int, seed: int, compress: bool) -> None:
    import zarr

    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    for name, size, units in (("time", steps, "days since 2020-01-01"), ("y", ny, "km"), ("x", nx, "km")):
        axis = root.create_array(name, shape=(size,), dtype="f8", attributes={"_ARRAY_DIMENSIONS": [name], "units": units})  # fmt: skip
        axis[:] = np.arange(size, dtype=np.float64)
        if name != "time":
            axis.attrs["standard_name"] = f"projection_{name}_coordinate"
    data = root.create_array(
        "sst", shape=(steps, ny, nx), dtype="f4", chunks=(8, min(256, ny), min(256, nx)), fill_value=np.nan,
        compressors="auto" if compress else None, attributes={"_ARRAY_DIMENSIONS": ["time", "y", "x"], "units": "degC"},
    )  # fmt: skip
    block: list[Array] = []
    for step, frame in enumerate(frames(steps, ny, nx, seed), start=1):
        block.append(frame)
        if len(block) == 8 or step == steps:
            data[step - len(block) : step] = np.stack(block)
            block = []


def _write_geotiff(path: Path, steps: int, ny: int, nx: int, seed: int, compress: bool) -> None:
    import rasterio

    with rasterio.open(
        path, "w", driver="GTiff", count=steps, dtype="float32", nodata=float("nan"), crs="EPSG:32630", height=ny, width=nx,
        transform=rasterio.transform.from_origin(500_000, 4_600_000, 1000, 1000), interleave="band", bigtiff="IF_SAFER",
        tiled=True, blockxsize=256, blockysize=256, **({"compress": "deflate"} if compress else {}),
    ) as file:  # fmt: skip
        for step, frame in enumerate(frames(steps, ny, nx, seed)):
            file.write(frame, step + 1)
            file.set_band_description(step + 1, str(np.datetime64("2020-01-01") + step))
