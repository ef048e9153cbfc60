"""Devices are chosen or refused; without ``torchrun`` there is one rank."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from stimpute.errors import DeviceError
from stimpute.training.parallel import joined_ranks, training_device


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
        assert ranks.agree(1.5, 2.0) == (1.5, 2.0)
        parameter = torch.nn.Parameter(torch.ones(2))
        ranks.average_gradients([parameter])
        assert parameter.grad is None


def test_unknown_device() -> None:
    with pytest.raises(DeviceError, match="--device tpu9"):
        training_device("tpu9")


def test_training_needs_no_geodata_libraries() -> None:
    blocked = (
        "rasterio",
        "xarray",
        "rioxarray",
        "zarr",
        "netCDF4",
        "pyproj",
        "dask",
        "matplotlib",
        "rich",
        "typer",
    )
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import stimpute.training, stimpute.pretrained"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
