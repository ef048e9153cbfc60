"""Awkward runs: rows 62, 63, 66, 68, 69 and 70 (61 and 65, what is interrupted and what is resumed, are tested with the faults)."""

from __future__ import annotations

import socket

import netCDF4
import numpy as np
import pytest
import rasterio
import torch
import xarray as xr

from stimpute import io
from stimpute.io.options import SinkOptions
from stimpute.model import method as network
from stimpute.protocols import FILLED, Window

DEVIATION = 3.0  # of the simulated fields here, roughly


@pytest.fixture
def waves(write_netcdf, gappy):
    """A smooth stack of 4 x 40 x 88 cells; half of it missing."""
    return write_netcdf(gappy(t=4, ny=40, nx=88, missing=0.5))


def far(one, other) -> float:
    """Largest difference of two filled variables, in standard deviations."""
    return float(np.nanmax(np.abs(one.stored("sst") - other.stored("sst")))) / DEVIATION


def test_62_more_than_4_gib_become_a_bigtiff(tmp_path):
    """Written for real, but sparse: 5 GB of zeros are declared, one window holds numbers."""
    source, out = tmp_path / "wide_20200101.tif", tmp_path / "out.tif"
    profile = {
        "driver": "GTiff",
        "dtype": "float32",
        "width": 40_000,
        "height": 34_000,
        "count": 1,
        "crs": "EPSG:32630",
    }
    with rasterio.open(
        source, "w", nodata=-1, tiled=True, SPARSE_OK=True, bigtiff="YES",
        transform=rasterio.transform.from_origin(0, 4_000_000, 10, 10), **profile,
    ) as file:  # fmt: skip
        file.write(np.ones((1, 512, 512), "f4"), window=((0, 512), (0, 512)))
    with io.open_source([source]) as opened:
        [layout] = opened.layouts(out, SinkOptions())
    with rasterio.open(
        out, "w", driver="GTiff", width=layout.shape[1], height=layout.shape[0], count=1, dtype=layout.dtype,
        crs=layout.crs, transform=layout.transform, SPARSE_OK=True, **layout.profile,
    ):  # fmt: skip
        pass
    assert out.read_bytes()[:4] == b"II+\x00"


@pytest.fixture
def small_memory(monkeypatch):
    """The allocator of an accelerator that is always full: simulated on the CPU, under the name of another device."""
    calls = []
    real = network.predict

    def predict(net, batch, precision="fp32", fast=False):
        calls.append(net)
        if len(calls) % 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(net, batch, precision, fast)

    def opened(self, net, device="cpu", precision="fp32", fast=False):
        initialise(self, net, "cpu", precision, fast)
        self.device = Elsewhere()

    class Elsewhere:
        type = "xpu"

        def __str__(self):
            return "xpu:0"

    initialise = network.STMethod.__init__
    monkeypatch.setattr(network.STMethod, "__init__", opened)
    monkeypatch.setattr(network, "predict", predict)
    monkeypatch.setattr(network.Batch, "to", lambda self, device: self)
    return calls


def test_63_an_accelerator_out_of_memory_goes_on_with_the_cpu(gappy, write_netcdf, fill, request):
    source = write_netcdf(gappy(t=3, ny=12, nx=12))
    undisturbed = fill(source, "undisturbed.nc", method="st", device="cpu")
    calls = request.getfixturevalue("small_memory")
    outcome = fill(source, "disturbed.nc", method="st", device="cpu")
    assert len(calls) >= 2
    assert "xpu:0 has too little free memory" in outcome.warned
    assert outcome.warned.count("too little free memory") == 1
    assert far(outcome, undisturbed) < 1e-5


def test_63_the_machine_itself_out_of_memory_is_one_line(gappy, write_netcdf, refuses, monkeypatch):
    def predict(net, batch, precision="fp32", fast=False):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(network, "predict", predict)
    said = refuses(write_netcdf(gappy(t=3, ny=12, nx=12)), method="st", device="cpu")
    assert "out of memory" in said
    assert "--tile" in said


def test_66_half_precision_and_single_agree(gappy, write_netcdf, fill):
    source = write_netcdf(gappy(t=4, ny=16, nx=16))
    single = fill(source, "fp32.nc", method="st", precision="fp32", device="cpu")
    half = fill(source, "bf16.nc", method="st", precision="bf16", device="cpu")
    assert 0 < far(single, half) < 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
def test_66_the_accelerator_and_the_cpu_agree(gappy, write_netcdf, fill):
    source = write_netcdf(gappy(t=4, ny=16, nx=16))
    cpu = fill(source, "cpu.nc", method="st", device="cpu")
    assert far(cpu, fill(source, "cuda.nc", method="st", device="cuda")) < 1e-3


def test_68_no_network_is_needed(gappy, write_netcdf, fill, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("the network is unreachable")

    for name in ("connect", "connect_ex", "sendto", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert fill(write_netcdf(gappy(t=3, ny=12, nx=12)), method="st").counts[2] == 0


def covariate(path, values, lat, lon, times=None):
    """Written by xarray's own writer; NaN where unknown."""
    coords = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    dims = ("lat", "lon")
    if times is not None:
        coords["time"] = ("time", times, {"units": "days since 2020-01-01"})
        dims = ("time", *dims)
    xr.Dataset({"rain": (dims, values.astype("f4"))}, coords).to_netcdf(path)
    return path


@pytest.mark.parametrize("kind", ["coarse", "fine", "shifted", "gappy"])
def test_69_covariates_on_another_grid_or_with_gaps_are_brought_onto_the_stack(
    tmp_path, gappy, write_netcdf, fill, kind
):
    step = {"coarse": 0.35, "fine": 0.03, "shifted": 0.1, "gappy": 0.1}[kind]
    lat, lon = np.arange(46, 43, -step), np.arange(4 + 0.05 * (kind == "shifted"), 7, step)
    rain = 2 * lat[:, None] + 3 * lon[None] + 5 * np.arange(6)[:, None, None]
    if kind == "gappy":
        rain[np.random.default_rng(0).random(rain.shape) < 0.5] = np.nan
    beside = covariate(tmp_path / "rain.nc", rain, lat, lon, np.arange(6))
    source = write_netcdf(gappy())
    with io.open_source([source], io.ReadOptions(covariates=(f"{beside}:rain",))) as opened:
        window = opened.read(Window.whole(opened.layers[0].shape))
    read, grid = window.dynamic["rain"], window.grid
    truth = 2 * grid.y[:, None] + 3 * grid.x[None] + 5 * np.arange(6)[:, None, None]
    known = np.isfinite(read)
    assert (known.mean() < 0.7) == (kind == "gappy")
    np.testing.assert_allclose(read[known], truth[known], atol=0.05)
    outcome = fill(source, method="st", covariate=f"{beside}:rain")
    assert outcome.counts[2] == 0


@pytest.mark.parametrize("kind", ["absent", "elsewhere", "no such variable"])
def test_69_a_covariate_that_cannot_be_used_is_named(tmp_path, gappy, write_netcdf, refuses, kind):
    lat = np.arange(-40, -43, -0.1) if kind == "elsewhere" else np.arange(46, 43, -0.1)
    beside = covariate(tmp_path / "rain.nc", np.ones((30, 30)), lat, np.arange(4, 7, 0.1))
    named = {"absent": tmp_path / "snow.nc", "elsewhere": beside, "no such variable": f"{beside}:snow"}[kind]
    said = refuses(write_netcdf(gappy()), method="st", covariate=str(named))
    assert "--covariate" in said
    assert str(named) in said


def test_69_a_method_that_hears_of_no_covariate_says_so(tmp_path, gappy, write_netcdf, refuses):
    beside = covariate(tmp_path / "rain.nc", np.ones((30, 30)), np.arange(46, 43, -0.1), np.arange(4, 7, 0.1))
    said = refuses(write_netcdf(gappy()), method="linear", covariate=str(beside))
    assert "--covariate: method linear" in said


@pytest.mark.parametrize(("method", "most"), [("linear", 1e-5), ("dct-pls", 0.02), ("st", 0.25)])
def test_70_another_tile_size_is_the_same_answer(waves, fill, method, most):
    small, large = (
        fill(waves, f"{tile}.nc", method=method, tile=tile, fill_never_observed=True) for tile in (40, 88)
    )
    assert (small.summary["layers"][0]["tiles"], large.summary["layers"][0]["tiles"]) == (2, 1)
    assert far(small, large) < most
    with netCDF4.Dataset(small.out) as file:
        filled = file["sst_fill_flag"][:] == FILLED
    difference = (small.stored("sst") - large.stored("sst"))[filled] / DEVIATION
    assert np.sqrt((difference**2).mean()) < most / 5
