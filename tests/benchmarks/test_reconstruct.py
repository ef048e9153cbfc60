"""The benchmark of completing and refining: its page, and that it goes on where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import reconstruct


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model for factor 4, and where everything goes."""
    from stimpute.diffusion.config import DiffReconConfig
    from stimpute.training.diffusion_loop import DiffusionTraining, train_diffusion

    folder = tmp_path_factory.mktemp("bench")
    network = DiffReconConfig(factor=4, width=8, token_dim=16, num_heads=2, steps=2)
    run = DiffusionTraining(
        folder / "m.safetensors",
        network=network,
        steps=1,
        pool=1,
        shapes=((1, 3, 3, 3),),
        val_examples=1,
        device="cpu",
    )
    return folder, train_diffusion(run).path


def test_a_quick_run_writes_its_page_and_is_not_made_twice(tiny, monkeypatch, capsys):
    folder, model = tiny
    monkeypatch.setattr(reconstruct, "WORLD_SHAPE", (4, 16, 20))
    given = [
        "--quick",
        "--model",
        str(model),
        "--cache",
        str(folder / "cache"),
        "--out",
        str(folder / "out"),
        "--data",
        str(folder),
    ]
    assert reconstruct.main(given) == 0
    page = (folder / "out" / "reconstruct.md").read_text()
    assert "| st |" in page
    assert "fixed 40%" in page
    assert "**" in page
    assert (folder / "out" / "reconstruct.png").stat().st_size > 1000
    capsys.readouterr()
    monkeypatch.setattr(reconstruct, "evaluate_refining", None)  # nothing is left to be computed
    assert reconstruct.main(given) == 0
    assert (folder / "out" / "reconstruct.md").read_text() == page


def test_ratios_are_against_the_lowest_of_the_others():
    def row(method, mae):
        return {"stack": "s", "case": "c", "method": method, "spread": 2.0, "scores": {"mae": mae}}

    rows = [row("a", 2.0), row("b", 4.0), row("ours", 1.0)]
    plan = reconstruct.Plan(
        ("s",), (0.4,), ("random",), ("a", "b", "ours"), 2, 0, 1, Path(), Path(), None, 0.0
    )
    assert reconstruct.pooled(rows, "s", "c", "a", "mae") == 1.0
    assert reconstruct.against(rows, plan, "ours", ("a", "b"), "mae", ["c"]) == pytest.approx(0.5)
    assert reconstruct.against(rows, plan, "a", ("a", "b"), "mae", ["c"]) == pytest.approx(0.5)


def test_worlds_are_the_same_every_time():
    one, two = reconstruct.world(1, True), reconstruct.world(1, True)
    assert (one.values == two.values).all()
    assert one.shape == reconstruct.WORLD_SHAPE


def test_an_archive_is_of_other_times_than_what_is_refined():
    shown, archive = reconstruct.long_world(0)
    assert archive.times.min() > shown.times.max()
    plan = reconstruct.Plan((), (), (), (), 2, 0, 1, Path(), Path(), None, 0.0)
    assert reconstruct.archive_of("worlds", 0, plan) is None
    assert (reconstruct.archive_of("worlds+archive", 0, plan).values == archive.values).all()


def test_only_methods_that_say_so_are_told_by_an_archive():
    _, archive = reconstruct.long_world(0)
    make = reconstruct.refiner_maker("classical", 4)
    assert reconstruct.beside(make, "st", archive) is make
    assert reconstruct.beside(make, "st+archive", archive)().archive is archive
