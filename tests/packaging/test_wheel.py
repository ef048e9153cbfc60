"""The wheel, built and installed outside the checkout, holds all it needs and fills a stack without any network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import netCDF4
import numpy as np
import pytest

NO_NETWORK = """
import socket

def refuse(self, address, *rest):
    if self.family != socket.AF_UNIX:
        raise OSError(f"a test without network tried to reach {address}")

socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(repository),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory) -> Path:
    """A folder with nothing but the unpacked wheel (dependencies come from the running environment)."""
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    return folder


def run(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "NO_COLOR": "1"}
    return subprocess.run(
        [str(a) for a in arguments],
        env=environment,
        cwd=site.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_wheel_holds_code_weights_cards_licence_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "stimpute = stimpute.cli:main" in entry_points
    assert "stimpute/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)
    weights = {n for n in names if n.endswith(".safetensors")}
    assert "stimpute/pretrained/st-small.safetensors" in weights
    assert {n.replace(".safetensors", ".json") for n in weights} <= set(names)
    strangers = [n for n in names if not n.startswith(("stimpute/", "stimpute-"))]
    assert not strangers


def test_the_weights_are_those_the_card_speaks_of(wheel):
    import hashlib

    with zipfile.ZipFile(wheel) as archive:
        card = json.loads(archive.read("stimpute/pretrained/st-small.json"))
        weights = archive.read("stimpute/pretrained/st-small.safetensors")
    assert card["sha256"] == hashlib.sha256(weights).hexdigest()
    assert len(weights) <= 16 * 2**20


def test_the_installed_wheel_is_the_one_that_runs(site):
    result = run(site, sys.executable, "-c", "import stimpute; print(stimpute.__file__)")
    assert Path(result.stdout.strip()).is_relative_to(site), result.stderr


def test_it_fills_offline_with_the_shipped_weights(site, tmp_path):
    script = site / "bin" / "stimpute"
    stack, filled = tmp_path / "sm.nc", tmp_path / "filled.nc"
    for command in (
        ["simulate", stack, "--shape", "12,24,24"],
        ["fill", stack, filled],
        ["verify", stack, filled],
    ):
        result = run(site, sys.executable, script, *command)
        assert result.returncode == 0, result.stderr
    with netCDF4.Dataset(stack) as before, netCDF4.Dataset(filled) as after:
        name = next(n for n in after.variables if f"{n}_fill_flag" in after.variables)
        assert after[name][:].count() > before[name][:].count()
        assert "st-small" in after.history
        assert np.isfinite(after[f"{name}_standard_error"][:].compressed()).all()
