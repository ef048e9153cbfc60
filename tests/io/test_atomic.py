"""Nothing under the final name until it is finished; nothing left after a failure."""

import os
from pathlib import Path

import pytest

from stimpute.errors import OutputError
from stimpute.io import check_output
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
