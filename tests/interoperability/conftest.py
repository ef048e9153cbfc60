"""Real programs: found on PATH or beside the interpreter, else the test is skipped and says which one is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stimpute.cli import run

PACKAGES = {"gdalinfo": "gdal-bin", "gdal_translate": "gdal-bin", "cdo": "cdo", "ncks": "nco", "ncdump": "netcdf-bin",
            "rio": "rasterio, rio-cogeo", "compliance-checker": "compliance-checker"}  # fmt: skip


@pytest.fixture
def program() -> Callable[..., str]:
    """``program("gdalinfo", ...)``: what it writes to standard output; it must exit 0 (or one of ``codes``), without a word about errors."""

    def call(name: str, *arguments: object, codes: tuple[int, ...] = (0,)) -> str:
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed ({PACKAGES[name]})")
        done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        assert done.returncode in codes, done.stdout + done.stderr
        assert "ERROR" not in done.stderr.upper().replace("ERROR_", ""), done.stderr
        return done.stdout

    return call


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., Path]:
    """``fill(inputs, "out.nc", ...)``: the command, quick, every gap filled; its output."""

    def call(inputs: object, out: str, *more: str) -> Path:
        given = [str(path) for path in (inputs if isinstance(inputs, list) else [inputs])]
        words = [
            "fill",
            *given,
            str(tmp_path / out),
            "--method",
            "mean",
            "--fill-never-observed",
            "-q",
            *more,
        ]
        assert run(words) == 0
        return tmp_path / out

    return call
