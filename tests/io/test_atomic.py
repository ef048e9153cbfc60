"""Nothing under the final name until it is finished; nothing left after a failure."""

import importlib
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stimpute import api
from stimpute.errors import OutputError, StimputeWarning
from stimpute.io import check_output, create_sink, open_source
from stimpute.io.atomic import AtomicTarget, commit_all


def test_a_file_appears_on_commit_only(tmp_path: Path):
    target = AtomicTarget(tmp_path / "out.nc")
    target.path.write_bytes(b"x")
    assert not (tmp_path / "out.nc").exists()
    assert target.path.suffix == ".nc"
    assert target.commit() == tmp_path / "out.nc"
    assert os.listdir(tmp_path) == ["out.nc"]


def test_abort_leaves_nothing(tmp_path: Path):
    AtomicTarget(tmp_path / "out.nc").abort()
    folder = AtomicTarget(tmp_path / "out.zarr", kind="folder")
    (folder.path / "inner").mkdir()
    folder.abort()
    assert os.listdir(tmp_path) == []


def test_a_folder_replaces_a_folder(tmp_path: Path):
    old = tmp_path / "out.zarr"
    old.mkdir()
    (old / "old").touch()
    target = AtomicTarget(old, kind="folder", overwrite=True)
    (target.path / "new").touch()
    target.commit()
    assert os.listdir(tmp_path) == ["out.zarr"]
    assert os.listdir(old) == ["new"]


def test_what_appeared_meanwhile_is_not_overwritten(tmp_path: Path):
    target = AtomicTarget(tmp_path / "out.nc")
    (tmp_path / "out.nc").write_text("someone else's")
    with pytest.raises(OutputError, match="already exists"):
        target.commit()
    assert (tmp_path / "out.nc").read_text() == "someone else's"
    assert os.listdir(tmp_path) == ["out.nc"]


def test_several_files_together(tmp_path: Path):
    targets = [AtomicTarget(tmp_path / name) for name in ("a.tif", "b.tif")]
    assert [p.name for p in commit_all(targets)] == ["a.tif", "b.tif"]


class Disturbed:
    """A function of :mod:`os` that fails, or is interrupted, before or after its n-th call."""

    def __init__(self, real: Callable[..., Any], number: int, after: bool, error: BaseException) -> None:
        self.real, self.left, self.after, self.error = real, number, after, error

    def __call__(self, *given: Any, **more: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise self.error
        done = self.real(*given, **more)
        if self.left == 0:
            raise self.error
        return done


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"]
)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("old", ["", "b.tif", "a.tif b.tif c.tif"])
def test_several_files_get_their_names_or_none(tmp_path: Path, monkeypatch, number, after, error, old):
    for name in old.split():
        (tmp_path / name).write_text("old")
    targets = [AtomicTarget(tmp_path / name, overwrite=True) for name in ("a.tif", "b.tif", "c.tif")]
    for target in targets:
        target.path.write_text("new")
    with monkeypatch.context() as patched:
        patched.setattr("stimpute.io.atomic.os.replace", Disturbed(os.replace, number, after, error))
        with pytest.raises((OutputError, KeyboardInterrupt)):
            commit_all(targets)
    assert sorted(os.listdir(tmp_path)) == old.split()
    assert all((tmp_path / name).read_text() == "old" for name in old.split())


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"]
)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_a_folder_whose_replacement_is_disturbed_comes_back(
    tmp_path: Path, monkeypatch, number, after, error
):
    store = old_store(tmp_path)
    target = AtomicTarget(store, kind="folder", overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr("stimpute.io.atomic.os.replace", Disturbed(os.replace, number, after, error))
        with pytest.raises((OutputError, KeyboardInterrupt)):
            target.commit()
    assert os.listdir(tmp_path) == [store.name]
    assert os.listdir(store) == ["old"]


@pytest.mark.parametrize("after", [False, True])
def test_what_was_replaced_goes_even_if_its_removal_is_interrupted(tmp_path: Path, monkeypatch, after):
    store = old_store(tmp_path)
    target = AtomicTarget(store, kind="folder", overwrite=True)
    with monkeypatch.context() as patched:
        patched.setattr(
            "stimpute.io.atomic.shutil.rmtree", Disturbed(shutil.rmtree, 1, after, KeyboardInterrupt())
        )
        with pytest.raises(KeyboardInterrupt):
            target.commit()
    assert os.listdir(tmp_path) == [store.name]
    assert os.listdir(store) == []


def test_what_a_killed_run_put_aside_goes_with_the_next_commit(tmp_path: Path):
    store = old_store(tmp_path)
    (tmp_path / ".q.stimpute-0123abcd.zarr.old").mkdir()
    (tmp_path / ".other.stimpute-0123abcd.zarr.old").mkdir()
    AtomicTarget(store, kind="folder", overwrite=True).commit()
    assert sorted(os.listdir(tmp_path)) == [".other.stimpute-0123abcd.zarr.old", "q.zarr"]


def old_store(folder: Path) -> Path:
    store = folder / "q.zarr"
    store.mkdir()
    (store / "old").touch()
    return store


@pytest.mark.parametrize("name", ["out.nc", "out.zarr", "out.tif", "out/"])
def test_what_a_killed_run_left_is_named_by_the_next(tmp_path: Path, write_netcdf, gappy, name: str):
    """It is not removed: nothing tells it from the unfinished output of a run beside this one."""
    with open_source(write_netcdf(gappy())) as source, warnings.catch_warnings():
        warnings.simplefilter("error")
        out, before = f"{tmp_path}/{name}", set(tmp_path.iterdir())
        sink = create_sink(out, source)
        (made,) = set(tmp_path.iterdir()) - before
        kept = shutil.move(made, tmp_path / "kept")
        sink.abort()
        shutil.move(kept, made)
        (tmp_path / f".{Path(name).stem}.stimpute-01234567{Path(name).suffix}.old").touch()
        (tmp_path / f".my {Path(name).stem}.stimpute-01234567{Path(name).suffix}").touch()
        with pytest.warns(StimputeWarning, match=re.escape(f"{made} is the unfinished output of a run")):
            create_sink(out, source).abort()
        assert made.exists()
        create_sink(f"{tmp_path}/an{name}", source).abort()


def test_a_folder_is_as_private_as_the_one_it_replaces(tmp_path: Path):
    store = old_store(tmp_path)
    store.chmod(0o700)
    AtomicTarget(store, kind="folder", overwrite=True).commit()
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    store.chmod(0o550)
    AtomicTarget(store, kind="folder", overwrite=True).commit()
    assert stat.S_IMODE(store.stat().st_mode) == 0o750  # it must be written into


@pytest.mark.parametrize("name", ["out.nc", "out.tif"])
def test_a_link_to_nothing_is_not_replaced(tmp_path: Path, write_netcdf, gappy, name):
    (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="already exists"):
        api.fill(write_netcdf(gappy()), tmp_path / name, method="mean")
    assert (tmp_path / name).is_symlink()
    assert sorted(os.listdir(tmp_path)) == sorted([name, "stack.nc"])


@pytest.mark.parametrize("format", ["NetCDF", "Zarr"])
def test_files_of_a_folder_get_their_names_when_all_are_finished(
    tmp_path: Path, write_netcdf, gappy, monkeypatch, format
):
    """The second cannot be finished: the first is not there either."""
    values = gappy(t=6)
    inputs = [write_netcdf(values[:3], "a.nc"), write_netcdf(values[3:], "b.nc", times=[3, 4, 5])]
    out = tmp_path / "out"
    out.mkdir()
    module, name = {"NetCDF": ("netcdf_sink", "NetCDFSink"), "Zarr": ("zarr_sink", "ZarrSink")}[format]
    sink = getattr(importlib.import_module(f"stimpute.io.{module}"), name)
    full = Disturbed(sink.finish, 2, False, OutputError("b: cannot be written; is the disk full?"))
    with monkeypatch.context() as patched:
        patched.setattr(sink, "finish", lambda *given: full(*given))
        with pytest.raises(OutputError, match="full"):
            api.fill(inputs, out, method="mean", of=format)
    assert os.listdir(out) == []
    assert len(api.fill(inputs, out, method="mean", of=format).outputs) == 2


def test_checks_before_computing(tmp_path: Path):
    source = tmp_path / "in.nc"
    source.touch()
    link = tmp_path / "link.nc"
    link.symlink_to(source)
    with pytest.raises(OutputError, match=r"is the input"):
        check_output(link, [source], overwrite=True)
    with pytest.raises(OutputError, match=r"--overwrite"):
        check_output(source, [])
    with pytest.raises(OutputError, match=r"does not exist"):
        check_output(tmp_path / "nowhere" / "out.nc", [source])
    store = tmp_path / "in.zarr"
    (store / "v").mkdir(parents=True)
    (store / ".zgroup").touch()
    with pytest.raises(OutputError, match=r"is the input"):
        check_output(tmp_path, [store], overwrite=True)


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "store.zarr" / "old").write_text("old")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "store.zarr")
    target = AtomicTarget(tmp_path / "link.zarr", kind="folder", overwrite=True)
    (target.path / "new").write_text("new")
    target.commit()
    assert (tmp_path / "link.zarr").is_symlink()
    assert [p.name for p in (tmp_path / "store.zarr").iterdir()] == ["new"]
