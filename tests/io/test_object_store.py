"""Outputs at addresses: uploaded whole, refused early, tried again after a failure. On fsspec's store in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr

from stimpute import api
from stimpute.errors import InputError, OutputError, StimputeWarning, UploadError
from stimpute.io import object_store

SETTINGS: dict[str, Any] = {"method": "mean", "tile": 8, "overlap": 2, "memory": 10**6}


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    """An empty store; the work is done in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def stack(bucket: object, write_netcdf: Callable[..., Path], gappy: Callable[..., np.ndarray]) -> Path:
    """A file of several tiles, in a folder that is not the one of the work."""
    return write_netcdf(gappy(t=6, ny=30, nx=25))


def left_over(stack: Path) -> list[str]:
    return sorted(p.name for p in Path.cwd().iterdir() if p != stack)


def opened(path: Path) -> xr.Dataset:
    if path.suffix == ".nc":
        return xr.open_dataset(path, decode_cf=False)
    store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path
    return xr.open_zarr(store, decode_cf=False, consolidated=path.suffix != ".zip")


@pytest.mark.parametrize("name", ["filled.zarr", "deep/er/filled.nc", "filled.zarr.zip"])
def test_what_arrives_is_what_a_disk_would_hold(
    bucket: fsspec.AbstractFileSystem, stack: Path, name: str, tmp_path: Path
) -> None:
    local = tmp_path / f"local-{Path(name).name}"
    api.fill(stack, local, **SETTINGS)
    local_there = left_over(stack)
    summary = api.fill(stack, f"memory://b/{name}", **SETTINGS)
    assert summary.outputs == (f"memory://b/{name}",)
    assert left_over(stack) == local_there, "something stays on the disk"
    back = tmp_path / f"back-{Path(name).name}"
    bucket.get(f"b/{name}", str(back), recursive=bucket.isdir(f"b/{name}"))
    one, other = (opened(path) for path in (local, back))
    xr.testing.assert_equal(one, other)


def test_the_root_of_a_store_arrives_last(
    bucket: fsspec.AbstractFileSystem, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[str]] = []
    put = type(bucket).put

    def watched(self: Any, local: list[str], there: list[str], **more: Any) -> Any:
        batches.append([Path(p).name for p in there])
        return put(self, local, there, **more)

    monkeypatch.setattr(type(bucket), "put", watched)
    api.fill(stack, "memory://b/filled.zarr", **SETTINGS)
    assert sorted(batches[-1]) == [".zgroup", ".zmetadata"]
    assert not {".zgroup", ".zmetadata"} & set(itertools.chain(*batches[:-1]))


def test_it_is_refused_before_anything_is_read(bucket: fsspec.AbstractFileSystem, stack: Path) -> None:
    bucket.pipe("b/filled.nc", b"precious")
    with pytest.raises(OutputError, match=r"memory://b/filled\.nc: already exists; --overwrite"):
        api.fill(stack, "memory://b/filled.nc", **SETTINGS)
    assert bucket.cat("b/filled.nc") == b"precious"
    with pytest.raises(OutputError, match=r"nosuch://b/filled.nc: cannot be written \(Protocol not known"):
        api.fill(stack, "nosuch://b/filled.nc", **SETTINGS)
    with pytest.raises(OutputError, match="memory://: names a bucket or folder"):
        api.fill(stack, "memory://", **SETTINGS)
    assert left_over(stack) == []


def test_overwrite_leaves_nothing_of_what_was_there(bucket: fsspec.AbstractFileSystem, stack: Path) -> None:
    bucket.pipe("b/filled.zarr/old/0.0", b"old")
    api.fill(stack, "memory://b/filled.zarr", overwrite=True, **SETTINGS)
    assert not bucket.exists("b/filled.zarr/old/0.0")
    assert bucket.exists("b/filled.zarr/.zmetadata")


def test_a_failed_upload_keeps_the_tiles_for_another_try(
    bucket: fsspec.AbstractFileSystem, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = "memory://b/filled.nc"
    with monkeypatch.context() as broken:
        broken.setattr(type(bucket), "put", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
        with (
            pytest.warns(StimputeWarning, match="--resume goes on"),
            pytest.raises(UploadError, match="no route"),
        ):
            api.fill(stack, out, **SETTINGS)
    assert left_over(stack) == ["filled.nc.stimpute-partial"]
    assert not bucket.exists("b/filled.nc")
    reads = []
    monkeypatch.setattr(
        "stimpute.baselines.averages.MeanImputer.impute", lambda *a: reads.append(a) or 1 / 0
    )  # every tile is there already
    api.fill(stack, out, resume=True, **SETTINGS)
    assert reads == []
    assert bucket.exists("b/filled.nc")
    assert left_over(stack) == []


def test_a_file_that_is_there_stays_until_the_new_one_has_arrived(
    bucket: fsspec.AbstractFileSystem, stack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe("b/filled.nc", b"precious")
    monkeypatch.setattr(type(bucket), "put", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    with (
        pytest.warns(StimputeWarning, match="--resume goes on"),
        pytest.raises(UploadError, match="no route"),
    ):
        api.fill(stack, "memory://b/filled.nc", overwrite=True, **SETTINGS)
    assert bucket.cat("b/filled.nc") == b"precious"


def test_an_input_is_never_replaced_by_its_output(stack: Path) -> None:
    api.fill(stack, "memory://b/filled.zarr", **SETTINGS)
    with pytest.raises(OutputError, match="is an input"):
        api.fill("memory://b/filled.zarr", "memory://b/filled.zarr", overwrite=True, **SETTINGS)


def test_bits_are_compared_on_the_disk_only(stack: Path) -> None:
    with pytest.raises(InputError, match=r"memory://b/filled\.nc: bits are compared on the disk only"):
        api.verify(stack, "memory://b/filled.nc")


def test_without_fsspec_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(OutputError, match="pip install fsspec"):
        object_store.check_address("s3://b/filled.nc", overwrite=False)
