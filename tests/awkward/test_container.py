"""Awkward containers and runs: rows 55 to 60, 64, 67, 68 (resuming, disks and accelerators are tested with the engine)."""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import torch
import zarr

from stimpute.cli import run


def edit(path, change) -> None:
    with netCDF4.Dataset(path, "a") as file:
        change(file)


def test_55_several_variables_are_listed(gappy, write_netcdf, refuses, fill):
    source = write_netcdf(gappy())
    edit(
        source,
        lambda f: f.createVariable("chl", "f4", ("time", "lat", "lon"), fill_value=np.nan).__setitem__(
            ..., gappy(seed=3)
        ),
    )
    said = refuses(source)
    assert all(word in said for word in ("sst", "chl", "--var"))
    assert fill(source, "one.nc", var="chl").layers[0].name == "chl"
    assert len(fill(source, "two.nc", var=["sst", "chl"]).layers) == 2
    assert len(fill(source, "all.nc", var="all").layers) == 2


def test_56_everything_else_in_the_file_is_kept(gappy, write_netcdf, fill):
    source = write_netcdf(gappy())

    def furnish(file):
        file.title = "a file with furniture"
        file.createDimension("bound", 2)
        file.createDimension("growing", None)
        file.createVariable("lat_bnds", "f8", ("lat", "bound"))[:] = 1.5
        file["lat"].bounds = "lat_bnds"
        file.createVariable("height", "f4")[...] = 2.0
        file.createVariable("log", "f4", ("growing",))[:] = [1, 2, 3]
        file.createVariable("station", str, ("bound",))[:] = np.array(["a", "bc"], dtype=object)
        file.createGroup("calibration").createVariable("gain", "f8")[...] = 0.5
        file["calibration"].author = "somebody"

    edit(source, furnish)
    outcome = fill(source)  # verify compares all of it
    with netCDF4.Dataset(outcome.out) as file:
        assert file["calibration/gain"][...] == 0.5
        assert file.dimensions["growing"].isunlimited()
        assert file["station"][1] == "bc"


@pytest.mark.parametrize("part", [0, 10, 3000])
def test_57_truncated_files_are_named(gappy, write_netcdf, refuses, part):
    source = write_netcdf(gappy())
    broken = source.with_name("broken.nc")
    broken.write_bytes(source.read_bytes()[:part])
    assert "broken.nc" in refuses(broken)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
@pytest.mark.parametrize("lost", [1, 100, 4000])
def test_57_a_cut_classic_file_is_never_read_as_zeros(gappy, write_netcdf, refuses, kind, lost):
    source = write_netcdf(gappy(ny=16, nx=20), file_format=kind)
    source.write_bytes(source.read_bytes()[:-lost])
    said = refuses(source)
    assert "stack.nc" in said
    assert "truncated" in said


@pytest.mark.parametrize("behind", [b"\0" * 500, b"rubbish" * 99, b""])
def test_57_a_magic_number_alone_is_damage(tmp_path, refuses, behind):
    source = tmp_path / "magic.nc"
    source.write_bytes(b"CDF\x01" + behind)
    said = refuses(source)
    assert "magic.nc" in said
    assert "damaged" in said


def test_57_a_truncated_raster_is_named(gappy, write_geotiffs, refuses):
    paths = write_geotiffs(gappy(ny=64, nx=64), compress="deflate")
    paths[2].write_bytes(paths[2].read_bytes()[:900])
    assert paths[2].name in refuses(paths, "out.tif")


def test_58_a_missing_chunk_reads_as_the_fill_value(tmp_path, gappy, fill):
    values = np.nan_to_num(gappy(), nan=14.0)
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=2)
    for name, data, dims in (("time", np.arange(6.0), ["time"]), ("sm", values, ["time", "y", "x"])):
        chunks = (1, *data.shape[1:])
        array = root.create_array(name, shape=data.shape, dtype=data.dtype, chunks=chunks, fill_value=np.nan)
        array[...] = data
        array.attrs["_ARRAY_DIMENSIONS"] = dims
    root["time"].attrs["units"] = "days since 2020-01-01"
    (tmp_path / "in.zarr" / "sm" / "2.0.0").unlink()
    outcome = fill(tmp_path / "in.zarr", "out.zarr")
    assert outcome.counts == (5 * 80, 80, 0)


@pytest.mark.parametrize("name", ["with space.nc", "größe.nc", "{braces}.nc", "stack[1].nc", "100%.nc"])
def test_59_paths_of_every_kind(gappy, write_netcdf, fill, name):
    source = write_netcdf(gappy(), name)
    assert fill(source, f"filled {name}").counts[2] == 0


def test_60_outputs_are_checked_before_any_computing(tmp_path, gappy, write_netcdf, refuses, capsys):
    source = write_netcdf(gappy())
    (tmp_path / "there.nc").write_text("precious")
    assert "--overwrite" in refuses(source, "there.nc")
    assert (tmp_path / "there.nc").read_text() == "precious"
    assert "stack.nc" in refuses(source, "stack.nc", overwrite=True)
    assert "nowhere" in refuses(source, "nowhere/out.nc")
    (tmp_path / "folder.nc").mkdir()
    (tmp_path / "folder.nc" / "precious").write_text("x")
    run(["fill", str(source), str(tmp_path / "folder.nc"), "--overwrite", "--method", "mean", "-q"])
    assert (tmp_path / "folder.nc" / "precious").read_text() == "x"


def test_64_an_absent_accelerator_asked_for_by_name(gappy, write_netcdf, refuses):
    if torch.cuda.is_available():
        pytest.skip("this machine has the accelerator that the test asks for in vain")
    assert "cuda" in refuses(write_netcdf(gappy()), method="st", device="cuda")


def test_67_no_code_of_a_checkpoint_is_executed(tmp_path, gappy, write_netcdf, refuses):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    model = tmp_path / "model.pt"
    torch.save({"weights": Bomb()}, model)
    source = write_netcdf(gappy())
    for name in ("model.pt", "model.safetensors"):
        model = model.rename(tmp_path / name)
        said = refuses(source, method="st", model=str(model))
        assert f"{name}: a pickled model is never loaded (it can run code)" in said
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fill", "absent.nc", "out.nc"], 1),
        (["fill", "stack.nc"], 2),
        (["fill", "stack.nc", "out.nc", "--var", "salt"], 1),
        (["fill", "stack.nc", "out.nc", "--no-such-option"], 2),
        (["fill", "stack.nc", "out.nc", "--method", "guess"], 2),
        (["fill", "stack.nc", "stack.nc", "--overwrite"], 1),
        (["verify", "stack.nc", "absent.nc"], 1),
        (["no-such-command"], 2),
    ],
)
def test_exit_codes(tmp_path, monkeypatch, gappy, write_netcdf, capsys, arguments, code):
    write_netcdf(gappy())
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert run(arguments) == code
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("stimpute: error: ")
    assert set(tmp_path.iterdir()) == before
