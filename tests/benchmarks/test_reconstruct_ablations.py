"""The benchmark of what the parts of DiffRecon are worth."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import reconstruct
import reconstruct_ablations as ablations


def test_every_part_left_out_has_a_row_and_a_network_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reconstruct, "WORLD_SHAPE", (4, 16, 20))
    monkeypatch.setattr(ablations, "STARTS", {"mean": 1.0})
    given = ["--quick", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path), "--data", str(tmp_path)]
    assert ablations.main(given) == 0
    page = (tmp_path / "reconstruct_ablations.md").read_text()
    for part in ablations.PARTS:
        assert f"| {part} |" in page
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == len(ablations.PARTS)
    capsys.readouterr()
    monkeypatch.setattr(ablations, "train_diffusion", None)  # nothing is trained or made twice
    assert ablations.main(given) == 0
    assert (tmp_path / "reconstruct_ablations.md").read_text() == page


def test_batches_are_made_once(tmp_path, monkeypatch):
    feed = ablations.KeptFeed([], 4, shapes=((1, 3, 3, 3),))
    feed.folder = tmp_path / "batches"
    made = feed.pairs(0)
    monkeypatch.setattr(ablations.PairFeed, "pairs", None)
    assert (feed.pairs(0).fine == made.fine).all()
    with pytest.raises(TypeError):
        feed.pairs(1)
