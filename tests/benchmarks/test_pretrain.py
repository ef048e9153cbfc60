"""Which archives the shipped weights are trained on, and that their card says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pretrain
from scoring import seen

from stimpute.errors import InputError

NAMES = ("goes16-LST-0.npz", "goes16-LST-1.npz", "mcd43-band1-0.npz", "sst-v-0.npz")
TINY = """
[training]
seed = 1
world_share = 0.0
lr = 1e-3
reuse = 1
val_seconds = 700
val_examples = 1
shapes = [[1, 3, 8, 8]]
"""


@pytest.fixture
def folder(tmp_path: Path, gappy) -> Path:
    for name in NAMES:
        np.savez(tmp_path / name, values=gappy(t=4, ny=10, nx=10))
    return tmp_path


def test_archives_are_left_out_by_the_beginning_of_their_name(folder: Path) -> None:
    assert [path.name for path in pretrain.archive_paths(folder)] == sorted(NAMES)
    kept = pretrain.archive_paths(folder, ("goes16", "sst"))
    assert [path.name for path in kept] == ["mcd43-band1-0.npz"]
    assert pretrain.archive_paths(None) == []


def test_a_name_that_none_has_is_told(folder: Path, capsys) -> None:
    with pytest.raises(InputError, match="atlantis"):
        pretrain.archive_paths(folder, ("goes16", "atlantis"))
    out = folder / "m.safetensors"
    command = ["train", str(folder), "-o", str(out), "--minutes", "1", "--without", "goes16,atlantis"]
    assert pretrain.main(command) == 1
    assert "--without atlantis" in capsys.readouterr().err
    assert not out.exists()


def test_the_card_lists_what_was_trained_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = folder / "recipe.toml"
    recipe.write_text(TINY)
    monkeypatch.setattr(pretrain, "RECIPE", recipe)
    command = ["train", str(folder), "-o", str(folder / "m.safetensors"), "--minutes", "0.0001", "--device", "cpu"]  # fmt: skip
    assert pretrain.main([*command, "--without", "goes16"]) == 0
    card = json.loads((folder / "m.json").read_text())
    assert seen.archive_names(card["training"]) == ["mcd43-band1-0.npz", "sst-v-0.npz"]


def test_packed_archives_are_named_after_their_file() -> None:
    stems = seen.training_stems()
    assert len(set(stems)) == len(stems)
    assert not any(seen.is_of(f"{a}-v-0.npz", b) for a in stems for b in stems if a != b)
