"""The benchmark of covariates: its irrelevant ones, its arithmetic, what it says of figures, and that it goes on where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import covariates
from scoring import covariate_page as page
from scoring import covariate_worlds as worlds
from scoring.covariate_page import Changes, Entry, Findings, Row
from scoring.covariate_worlds import ASKED, Name
from scoring.pages import About

from stimpute.stack import Stack

ABOUT = About("m", "0" * 64, "none", (0,), "python benchmarks/covariates.py", {"torch": "0"})
SIZES = {"days": 120, "side": 36, "steps": 48, "world_side": 32, "worlds": 1}


def row(part: worlds.Part, gaps: str = "orbit", seed: int = 0, code: str = "a", **errors: float) -> Row:
    """A row whose variants all err by 1, but for those that are given (``_`` for ``+``)."""
    given = {k.replace("_", "+"): v for k, v in errors.items()}
    entries = {v: Entry(given.get(v, 1.0), 1.0, 9, 1.0, code) for v in ASKED[part]}
    return Row(Name(part, part, gaps, seed), 1.0, entries, {"own": 2, "informative": 1, "missing": 0.5})


# --- the data ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def soil() -> worlds.Question:
    return worlds.soil_question(worlds.Sizes(days=60, side=20), worlds.ORBIT, 0)


def test_irrelevant_covariates_are_smooth_alike_and_know_nothing_of_the_stack(soil: worlds.Question) -> None:
    dynamic, static = worlds.irrelevant(soil.stack, 0)
    again, _ = worlds.irrelevant(soil.stack, 0)
    other, _ = worlds.irrelevant(soil.stack, 1)
    assert (len(dynamic), len(static)) == (3, 2)
    truth = np.where(soil.wanted, 0, soil.stack.values)
    for name, field in dynamic.items():
        assert field.shape == soil.stack.shape
        np.testing.assert_array_equal(field, again[name])
        assert not np.array_equal(field, other[name])
        assert np.abs(np.diff(field, axis=2)).mean() < 0.7 * np.abs(field[:, :, :1] - field[:, :, -1:]).mean()
        assert abs(np.corrcoef(field[soil.stack.valid], truth[soil.stack.valid])[0, 1]) < 0.4
    cells, days = worlds.ranges(soil.stack)
    assert 0 < cells <= 20
    assert 0 < days <= 59


def test_variants_hold_what_they_say(soil: worlds.Question) -> None:
    counts = {
        v: (len(s.dynamic), len(s.static))
        for v in worlds.VARIANTS
        if (s := worlds.with_covariates(soil.stack, v, 0)) is not None
    }
    assert counts == {
        "none": (0, 0), "own": (5, 6), "dynamic": (5, 0), "static": (0, 6), "irrelevant": (3, 2), "own+irrelevant": (8, 8),
    }  # fmt: skip


@pytest.mark.parametrize("gaps", list(worlds.MISSING))
def test_soil_moisture_is_scored_where_it_is_missing(gaps: str) -> None:
    asked = worlds.soil_question(worlds.Sizes(days=36, side=12), gaps, 0)
    assert asked.stack.gap.mean() == pytest.approx(worlds.MISSING[gaps], abs=0.05)
    np.testing.assert_array_equal(asked.wanted, asked.stack.gap)
    assert len(asked.truth) == asked.wanted.sum()


def test_worlds_have_a_covariate_that_informs() -> None:
    sizes = worlds.Sizes(steps=6, world_side=10, worlds=2)
    for seed in worlds.informed_worlds(sizes):
        asked = worlds.world_question(sizes, seed)
        assert 1 <= asked.about["informative"] <= asked.about["own"]
        assert not (asked.wanted & asked.stack.valid).any()


def test_a_question_is_known_by_what_it_depends_on() -> None:
    soil, real = Name("soil_moisture", "soil moisture", "orbit", 0), Name("real", "gapfill_ndvi", "gap", 0)
    short = worlds.Sizes(days=10)
    assert worlds.digest(soil, short) != worlds.digest(soil, worlds.Sizes())
    assert worlds.digest(real, short) == worlds.digest(real, worlds.Sizes())


def test_ranges_of_a_stack_without_structure_are_the_usual_ones() -> None:
    assert worlds.ranges(Stack.from_array(np.ones((4, 9, 9)))) == (6.0, 3.0)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_bars_are_judged_by_the_median() -> None:
    rows = [row("soil_moisture", seed=i, own=o, irrelevant=i_) for i, (o, i_) in enumerate([(0.5, 1.5), (0.65, 1.0), (0.9, 1.01)])]  # fmt: skip
    found = page.bars(Findings(rows, ABOUT, SIZES))
    assert [(round(b.changes.middle, 2), b.met, b.above) for b in found] == [
        (-0.35, True, 1),
        (0.01, True, 1),
    ]
    worse = page.bars(Findings([row("soil_moisture", own=0.75, irrelevant=1.03)], ABOUT, SIZES))
    assert [b.met for b in worse] == [False, False]


def test_the_verdict_follows_from_the_figures() -> None:
    good = Findings(
        [row("soil_moisture", own=0.5, dynamic=0.6, static=0.9), row("worlds", "drawn", own=0.9)],
        ABOUT,
        SIZES,
    )
    text = page.verdict(good)
    assert "fall by at least 30%: met in 1 of 1" in text
    assert "the time-varying ones bring most (time-varying -40.0%, static -10.0%)" in text
    assert "rises by more than 2% in 0 with their own covariates and in 0 with five" in text
    bad = page.verdict(Findings([row("soil_moisture", own=0.9, irrelevant=1.2)], ABOUT, SIZES))
    assert "**missed in 1 of 1** (simulated soil moisture, orbit gaps: -10.0%)" in bad
    assert "+20.0%" in bad


def test_rows_that_lack_a_variant_are_left_out() -> None:
    partial = row("soil_moisture")
    partial = Row(partial.name, 1.0, {k: v for k, v in partial.entries.items() if k != "own"})
    assert Findings([partial], ABOUT, SIZES).of("soil_moisture") == []
    assert str(Changes.of([])) == "–"


def test_mixed_states_of_the_code_are_told(tmp_path: Path) -> None:
    found = Findings([row("real", "gap", 0, "a"), row("real", "gap", 1, "b")], ABOUT, SIZES)
    page.write_page(tmp_path / "p.md", found, "p.png")
    assert "2 states of the code" in (tmp_path / "p.md").read_text()


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_its_page_and_goes_on_from_what_is_kept(
    tmp_path: Path, shared_data: Path, capsys
) -> None:
    command = ["--quick", "--seeds", "0", "--days", "6", "--device", "cpu", "--data", str(shared_data),
               "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]  # fmt: skip
    assert covariates.main(command) == 0
    assert capsys.readouterr().out.count(" s  MAE ") == 6 + 6 + 4 + 2
    assert covariates.main(command) == 0
    assert capsys.readouterr().out.count(" s  MAE ") == 0
    written = (tmp_path / "out" / "covariates.md").read_text()
    document = json.loads((tmp_path / "out" / "covariates.json").read_text())
    assert (tmp_path / "out" / "covariates.png").stat().st_size > 5000
    assert "the figures mean nothing" in written
    assert str(tmp_path) not in written
    assert {r["part"] for r in document["rows"]} == set(worlds.PARTS)
    assert len(document["bars"]) == 6


def test_the_clock_leaves_runs_and_the_page_says_so(tmp_path: Path, capsys) -> None:
    command = ["--quick", "--parts", "soil_moisture", "--seeds", "0", "--minutes", "0",
               "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]  # fmt: skip
    assert covariates.main(command) == 1
    assert "nothing to compare" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [("--parts", "atlantis"), ("--days", "1"), ("--model", "atlantis")])
def test_what_cannot_be_run_is_named(wrong: tuple[str, str], capsys) -> None:
    assert covariates.main(["--quick", *wrong]) == 1
    assert wrong[1] in capsys.readouterr().err
