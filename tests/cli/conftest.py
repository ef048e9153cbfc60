"""Running the command in this process as the console script would, or for real in another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stimpute.cli import run


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines that say what was wrong."""
        return [line for line in self.err.splitlines() if line.startswith("stimpute: error: ")]


@pytest.fixture
def stimpute(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run one command line in this process."""
    monkeypatch.setattr("warnings.showwarning", lambda *args, **kwargs: None)

    def call(*arguments: str | Path) -> Outcome:
        import warnings

        capsys.readouterr()
        with warnings.catch_warnings():
            code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run one command line in a process of its own."""

    def call(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
        command = [
            sys.executable,
            "-c",
            "from stimpute.cli import main; main()",
            *(str(a) for a in arguments),
        ]
        return subprocess.run(command, capture_output=True, check=False, timeout=120, **options)  # type: ignore[call-overload, no-any-return]

    return call


@pytest.fixture
def small(write_netcdf: Callable[..., Path], gappy: Callable[..., np.ndarray]) -> Path:
    """A small gappy NetCDF file, ``stack.nc``."""
    return write_netcdf(gappy(t=8, ny=16, nx=18))
