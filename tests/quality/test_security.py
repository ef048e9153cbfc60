"""What must not be anywhere in the package, read off the source; and that hostile files are refused before they cost anything."""

from __future__ import annotations

import ast
import json
import os
import pickle
import stat
import struct
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
import zarr

from stimpute.cli import run
from stimpute.errors import InputError, ModelError
from stimpute.io import room
from stimpute.io.atomic import AtomicTarget
from stimpute.pretrained.checkpoint import MAX_HEADER_BYTES, read_header

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "stimpute").rglob("*.py"))
BANNED_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "subprocess", "pty", "commands",
    "importlib.util", "runpy", "ctypes", "urllib.request", "http.client", "requests", "socket",
}  # fmt: skip
BANNED_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.spawnl", "os.execv", "torch.load", "torch.save",
    "torch.hub.load", "np.fromregex", "pd.read_pickle", "tempfile.mktemp", "os.tmpnam",
}  # fmt: skip

ALLOWED = {
    "stimpute/inference/devices.py": ["ctypes"]
}  # to ask the C library of the process itself; loads nothing


def dotted(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def offences(source: str) -> list[str]:
    """Imports and calls that can run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if {a.name, a.name.split(".")[0]} & BANNED_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if {node.module, node.module.split(".")[0]} & BANNED_MODULES else []
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            found += [name] if name in BANNED_CALLS else []
            for keyword in node.keywords:
                allowed = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in ("allow_pickle", "shell", "trust_remote_code") and not allowed:
                    found.append(f"{name}({keyword.arg}=...)")
            if name in ("np.load", "numpy.load") and "allow_pickle" not in {k.arg for k in node.keywords}:
                found.append(f"{name} without allow_pickle=False")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.stem)
def test_nothing_runs_what_a_file_says(module):
    name = module.relative_to(ROOT).as_posix()
    assert offences(module.read_text(encoding="utf-8")) == ALLOWED.get(name, [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from yaml import load", "eval('1')", "import torch\ntorch.load('m')", "np.load('a.npz')",
        "np.load('a.npz', allow_pickle=True)", "import subprocess", "import os\nos.system('ls')", "run(x, shell=True)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(source):
    assert offences(source)


# --- models -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**40, 2**63, 2**64 - 1])
def test_the_header_of_a_model_is_bounded_before_it_is_read(tmp_path, length):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(MAX_HEADER_BYTES + 4096)  # sparse
    with pytest.raises(ModelError, match="header"):
        read_header(path)


@pytest.mark.parametrize("shape", [[2**40, 2**20], [2**62], [-4], [1e9]])
def test_absurd_shapes_in_a_model_are_refused(tmp_path, shape):
    header = json.dumps({"w": {"dtype": "F16", "shape": shape, "data_offsets": [0, 32]}}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    with pytest.raises(ModelError):
        read_header(path)


# --- shapes and chunks that no memory holds -----------------------------------------------------------------------------


def store(folder: Path, **document: object) -> Path:
    """A Zarr v2 store whose variable has a hand-written document."""
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    time = root.create_array("time", shape=(3,), dtype="f8")
    time[...] = np.arange(3.0)
    time.attrs.update({"_ARRAY_DIMENSIONS": ["time"], "units": "days since 2020-01-01"})
    sst = root.create_array("sst", shape=(3, 4, 5), dtype="f4", fill_value=np.nan)
    sst.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    sst[...] = np.ones((3, 4, 5))
    path = folder / "sst" / ".zarray"
    path.write_text(json.dumps({**json.loads(path.read_text()), **document}))
    return folder


def refused(capsys, *words: object) -> str:
    capsys.readouterr()
    assert run([str(w) for w in words]) == 1
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.startswith("stimpute: error")]
    return line


def test_an_absurd_shape_of_a_zarr_store_is_refused_before_it_is_allocated(tmp_path, capsys):
    path = store(tmp_path / "a.zarr", shape=[3, 10**6, 10**6], chunks=[1, 1000, 1000])
    said = refused(capsys, "fill", path, tmp_path / "out.zarr", "--method", "mean")
    assert "a.zarr" in said
    assert "GiB" in said
    assert list(tmp_path.iterdir()) == [path]


def test_a_chunk_that_unpacks_to_more_than_the_memory_is_refused_unread(tmp_path, capsys):
    import zlib

    path = store(tmp_path / "a.zarr", chunks=[10**5, 10**4, 10**4], compressor={"id": "zlib", "level": 9})
    (path / "sst" / "0.0.0").write_bytes(zlib.compress(bytes(10**7)))
    said = refused(capsys, "fill", path, tmp_path / "out.zarr", "--method", "mean")
    assert "sst" in said
    assert "chunks of" in said


def test_an_absurd_netcdf_is_refused(tmp_path, capsys):
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", 3), ("lat", 4), ("lon", 2**31 - 1)):
            file.createDimension(name, size)
        file.createVariable("time", "f8", ("time",)).units = "days since 2020-01-01"
        file["time"][:] = np.arange(3)
        file.createVariable("sst", "f4", ("time", "lat", "lon"), chunksizes=(1, 1, 1024), zlib=True)
    said = refused(capsys, "fill", path, tmp_path / "out.nc", "--method", "mean")
    assert "GiB" in said
    assert "sst" in said


def test_a_raster_of_one_giant_block_is_refused(tmp_path, capsys, monkeypatch):
    path = tmp_path / "a_20200101.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=30_000, height=30_000, count=1, dtype="float32", nodata=0, blockysize=30_000,
        compress="deflate", SPARSE_OK=True, transform=rasterio.transform.from_origin(1000, 5000, 30, 30), crs="EPSG:32630",
    ):  # fmt: skip
        pass
    monkeypatch.setattr(room, "available_bytes", lambda: 2**30)
    said = refused(capsys, "fill", path, tmp_path / "out.tif", "--method", "mean")
    assert "blocks of" in said
    assert "TILED" in said


def test_what_fits_is_read():
    room.refuse_absurd(2**20, "a", "b")
    with pytest.raises(InputError, match="GiB"):
        room.refuse_absurd(2**60, "a", "b")


# --- pickles in stores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["compressor", "filters", "object"])
def test_a_chunk_that_is_a_pickle_is_never_read(tmp_path, capsys, place):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    codec = {"id": "pickle", "protocol": 5}
    document = {"compressor": codec} if place == "compressor" else {"filters": [codec]}
    path = store(tmp_path / "a.zarr", **document, **({"dtype": "|O"} if place == "object" else {}))
    for chunk in (path / "sst").glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Trap()))
    assert "a.zarr" in refused(capsys, "fill", path, tmp_path / "out.zarr", "--method", "mean")
    assert not (tmp_path / "sprung").exists()


# --- races and leaks ----------------------------------------------------------------------------------------------------


def test_the_unfinished_file_lies_in_the_targets_folder_and_follows_no_link(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = iter(["aa", "aa", "bb"])
    monkeypatch.setattr("stimpute.io.atomic.secrets.token_hex", lambda n: next(names))
    first = AtomicTarget(tmp_path / "out.nc")
    assert first.path.parent == tmp_path
    first.abort()
    first.path.symlink_to(victim)  # someone guessed the name
    with pytest.raises(Exception, match=r"out\.nc"):
        AtomicTarget(tmp_path / "out.nc")
    assert victim.read_text() == "precious"


def test_a_link_at_the_output_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out.nc").symlink_to(victim)
    target = AtomicTarget(tmp_path / "out.nc", overwrite=True)
    target.path.write_text("new")
    target.commit()
    assert victim.read_text() == "precious"
    assert (tmp_path / "out.nc").read_text() == "new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_overwriting_keeps_the_mode(tmp_path, mode):
    out = tmp_path / "out.nc"
    out.write_text("old")
    out.chmod(mode)
    target = AtomicTarget(out, overwrite=True)
    target.path.write_text("new")
    target.commit()
    assert stat.S_IMODE(out.stat().st_mode) == mode
    assert out.read_text() == "new"


def test_no_message_shows_the_environment(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    (tmp_path / "a.nc").write_bytes(b"\x89HDF rubbish")
    for words in (
        ["fill", "a.nc", "b.nc"],
        ["fill", "a.nc", "b.nc", "-v"],
        ["fill", "--tile", "x", "a", "b"],
        ["info", "absent"],
    ):
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        assert run(words) in (1, 2)
        captured = capsys.readouterr()
        assert "hunter2" not in captured.err + captured.out
