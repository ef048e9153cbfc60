"""What a candidate is worth: crops and what is taken from them, the arithmetic, what the page says, and a tiny run."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import candidates
from scoring import candidate_page, candidate_rows
from scoring.candidate_figures import (
    BEST,
    FAST,
    NETWORK,
    PRIOR,
    Row,
    against_prior,
    alone,
    better,
    candidates_of,
    settings_of,
    without,
)
from scoring.candidate_page import Findings
from scoring.candidate_rows import Crop, Question
from scoring.compute_figures import NOISE
from scoring.pages import About

from stimpute.holdout import hold_out
from stimpute.model.candidates import CANDIDATES, compute_candidates
from stimpute.model.method import predict
from stimpute.pretrained.registry import load_model
from stimpute.stack import Stack

WORTH = {"linear": 1.1, "eof": 1.0, "spline": 0.9}  # of the prior's error, without it


def row(archive: str, kind: str = "gap", empty: float = 0.0, worth: dict[str, float] | None = None) -> Row:
    """A row whose prior errs 0.2, with chance of its own in every ratio."""
    lot = np.random.default_rng([*archive.encode(), *kind.encode(), int(10 * empty)])
    prior = 0.2
    mae = {PRIOR: prior, FAST: 0.21, NETWORK: 0.19}
    for name, factor in (WORTH if worth is None else worth).items():
        mae[without(name)] = (prior + NOISE) * factor * lot.normal(1, 1e-3) - NOISE
        mae[alone(name)] = prior * (1.2 if name == "linear" else 1.5)
    return Row(archive, kind, empty, (12, 5, 5), 0.3, True, 60, mae, ("eof",), 2.0, "code")


def rows(worth: dict[str, float] | None = None) -> list[Row]:
    return [
        row(f"file{i // 2}-v-{i % 2}.npz", kind, empty, worth)
        for i in range(20)
        for empty in (0.0, 0.4)
        for kind in ("gap", "pixel")
    ]


def findings(found: list[Row]) -> Findings:
    seen = frozenset({"file1", "another"})
    return Findings(found, 0.2, 50_000, seen, About("m", "0" * 64, "some", (0,), "command", {"torch": "2"}))


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_ratios_are_geometric_means_with_ranges_over_files() -> None:
    found = rows()
    for name, factor in WORTH.items():
        effect = against_prior(found, without(name))
        assert effect.value == pytest.approx(factor, rel=1e-3)
        assert (effect.harms, effect.helps) == (factor > 1, factor < 1)
    logs = [math.log(r.ratio(without("linear"))) for r in found]
    assert against_prior(found, without("linear")).value == pytest.approx(math.exp(np.mean(logs)))
    assert against_prior(found, PRIOR).value == 1


def test_archives_of_one_file_are_drawn_together() -> None:
    one = [r for r in rows() if r.archive.startswith("file3-")]
    assert len({r.archive for r in one}) == 2
    assert math.isnan(against_prior(one, without("linear")).ratio.low)
    two = [dataclasses.replace(one[0], mae={PRIOR: 0.2, without("linear"): error}, archive=name)
           for name, error in (("a-v-0.npz", 0.3), ("a-v-1.npz", 0.1), ("b-v-0.npz", 0.2))]  # fmt: skip
    low, high = (math.sqrt(0.302 * 0.102) / 0.202, 1.0)
    ratio = against_prior(two, without("linear")).ratio
    assert (ratio.low, ratio.high) == (pytest.approx(low), pytest.approx(high))


def test_the_best_candidate_is_chosen_row_by_row_and_ties_are_not_better() -> None:
    found = rows()
    assert [r.error(BEST) for r in found] == pytest.approx([0.24] * len(found))
    assert better(found, NETWORK) == 1
    assert better(found, PRIOR) == 0
    assert better(found, without("spline")) == 1
    assert math.isnan(better([], PRIOR))
    assert candidates_of(found) == list(WORTH)
    assert settings_of(found) == [0.0, 0.4]


# --- what the page says -----------------------------------------------------------------------------------------------


def test_every_candidate_has_its_sentence() -> None:
    told = candidate_page.verdict(findings(rows())).splitlines()
    assert "costs for 1 of 3 candidates, lowers the error for 1 (spline); for 1 neither" in told[0]
    order = [line.split("`")[1] for line in told if line.startswith("- `")]
    assert order == ["linear", "eof", "spline"]
    linear, eof, spline = (line for line in told if line.startswith("- `"))
    assert linear.count("costs 10.0 %") == 2
    assert eof.count("changes nothing for certain") == 2
    assert "In 80 of 80 rows another candidate says exactly the same" in eof
    assert spline.count("lowers the error by 10.0 %: it does harm") == 2
    assert "with 40 % of the steps taken away" in spline
    assert "0.950 (0.950-0.950) for the network, which saw 1 of 10 files in training" in told[-1]


def test_few_files_are_said_to_be_few() -> None:
    assert "10 files only" not in candidate_page.verdict(findings(rows()))
    few = [r for r in rows() if r.archive < "file3"]
    assert "3 files only: too few" in candidate_page.verdict(findings(few))


def test_the_page_holds_every_variant_in_every_setting(tmp_path: Path) -> None:
    found = findings([r for r in rows() if r.kind == "gap" or not r.empty])
    candidate_page.write_page(tmp_path / "p.md", found, "p.png")
    candidate_page.write_json(tmp_path / "p.json", found)
    candidate_page.draw(found, tmp_path / "p.png")
    page = (tmp_path / "p.md").read_text()
    assert page.count("| without linear | 1.1") == 2
    assert page.count("| variant | all rows (95 %) | gap | pixel | rows better |") == 1
    assert page.count("| file0-v-1.npz | 12 x 5 x 5 | of other archives | 30% | 30% |") == 1
    document = json.loads((tmp_path / "p.json").read_text())
    assert [s["rows"] for s in document["settings"]] == [40, 20]
    assert document["settings"][1]["over_prior"]["network"]["by_kind"] == {"gap": pytest.approx(0.192 / 0.202, abs=1e-6)}  # fmt: skip
    assert len(document["rows"]) == 60
    assert (tmp_path / "p.png").stat().st_size > 5000


# --- crops and what is taken from them --------------------------------------------------------------------------------


@pytest.fixture
def archives(tmp_path: Path, gappy) -> list[Path]:
    """Two complete ones, the second with land, and one whose gaps move."""
    whole = gappy(t=14, ny=12, nx=11, missing=0.0)
    land = whole.copy()
    land[:, :, :4] = np.nan
    for name, values in (("land-v-0", land), ("sea-v-0", whole), ("cloudy-v-0", gappy(t=14, ny=30, nx=30, missing=0.5))):  # fmt: skip
        np.savez(tmp_path / f"{name}.npz", values=values)
    return sorted(tmp_path.glob("*.npz"))


def test_crops_are_the_same_each_time_and_within_limits(archives: list[Path]) -> None:
    found = {crop.archive: crop for crop in candidate_rows.crops(archives, 900)}
    again = candidate_rows.crops(archives[::-1], 900)
    assert {c.archive: c.digest for c in again} == {name: c.digest for name, c in found.items()}
    assert {c.stack.shape for c in found.values()} == {(12, 8, 8)}
    assert not found["cloudy-v-0.npz"].laid
    assert found["sea-v-0.npz"].laid
    whole = {c.archive: c.stack.shape for c in candidate_rows.crops(archives)}
    assert whole == {"land-v-0.npz": (12, 12, 11), "sea-v-0.npz": (12, 12, 11), "cloudy-v-0.npz": (12, 30, 30)}  # fmt: skip


def test_gaps_lie_over_what_has_none_frame_by_frame() -> None:
    sea = Stack.from_array(np.random.default_rng(0).normal(size=(6, 8, 8)))
    columns = np.zeros((3, 10, 10), dtype=bool)
    columns[0, :, ::2] = True
    columns[2] = True  # all gap: lends nothing
    crop = candidate_rows.under_gaps(Crop("a", sea), [columns, np.ones((2, 4, 4), dtype=bool)])
    gap = crop.stack.gap
    assert crop.laid
    assert gap.mean() == 0.5
    assert bool((gap.all(axis=1) | ~gap.any(axis=1)).all())
    assert np.array_equal(crop.stack.values[~gap], sea.values[~gap])
    kept = candidate_rows.under_gaps(crop, [columns])
    assert kept is crop
    assert candidate_rows.under_gaps(Crop("a", sea), []).stack is sea


def test_steps_are_taken_away_wholly() -> None:
    sea = Stack.from_array(np.random.default_rng(0).normal(size=(10, 3, 3)))
    asked = candidate_rows.questions([Crop("a", sea)], ("gap", "pixel"), (0.0, 0.4))
    assert [(q.kind, q.empty) for q in asked] == [("gap", 0.0), ("pixel", 0.0), ("gap", 0.4), ("pixel", 0.4)]
    left = asked[2].stack.valid
    assert left.any(axis=(1, 2)).sum() == 6
    assert np.array_equal(left, left.all(axis=(1, 2))[:, None, None] & sea.valid)
    assert np.array_equal(left, asked[3].stack.valid)
    assert asked[0].stack is sea
    short = Stack.from_array(np.ones((7, 3, 3)))
    assert {q.empty for q in candidate_rows.questions([Crop("b", short)], ("gap",), (0.0, 0.4))} == {0.0}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_holds_the_errors_of_what_a_fill_blends(gappy) -> None:
    stack, model = Stack.from_array(gappy(t=9, ny=10, nx=10)), load_model()
    asked = Question(Crop("a-v-0.npz", stack), "gap", 0.4)
    found = candidate_rows.measure(asked, model)
    hidden = hold_out(asked.stack, "gap", 0.2, candidate_rows.SEED)
    batch, truth = candidate_rows.given(asked.stack, hidden)

    def mae(field: torch.Tensor) -> float:
        return float(np.abs(field[0].numpy()[hidden] - truth).mean())

    whole = compute_candidates(batch)
    assert found.hidden == hidden.sum() > 0
    assert found.error(PRIOR) == mae(whole.prior)
    assert found.error(FAST) == mae(compute_candidates(batch, fast=True).prior)
    assert found.error(NETWORK) == mae(predict(model.network, batch).mean)
    rest = tuple(name for name in CANDIDATES if name != "linear")
    assert found.error(without("linear")) == mae(compute_candidates(batch, names=rest).prior)
    assert found.error(alone("eof")) == mae(whole.estimates[:, CANDIDATES.index("eof")])
    assert candidates_of([found]) == list(CANDIDATES)
    assert {"kriging", "covariate regression + kriging"} <= set(found.doubles)
    assert "linear" not in found.doubles
    assert Row.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_pattern_that_cannot_be_had_makes_a_row_without_errors(tmp_path: Path) -> None:
    one = Question(Crop("a-v-0.npz", Stack.from_array(np.ones((1, 3, 3)))), "frames")
    model = load_model()
    assert candidate_rows.measured(one, model, tmp_path).hidden == 0
    assert candidate_rows.kept(one, model, tmp_path) == candidate_rows.measure(one, model)
    (path,) = tmp_path.glob("*.json")
    path.write_text("{")
    assert candidate_rows.kept(one, model, tmp_path) is None


def test_a_tiny_run_writes_the_page_and_goes_on_where_it_was(
    tmp_path: Path, archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--quick", "--archives", str(tmp_path), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    monkeypatch.setattr(candidates, "QUICK_ARCHIVES", 1)
    monkeypatch.setattr(candidates, "QUICK_CELLS", 600)
    assert candidates.main([*command, "--page-only"]) == 1
    calls: list[str] = []
    measure = candidate_rows.measure

    def counted(asked: Question, model: object) -> Row:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(asked.crop.archive)
        return measure(asked, model)  # type: ignore[arg-type]

    monkeypatch.setattr(candidate_rows, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        candidates.main(command)
    assert candidates.main([*command, "--page-only"]) == 0
    assert "2 rows are not measured yet" in (tmp_path / "out" / "candidates.md").read_text()
    calls.clear()
    assert candidates.main(command) == 0
    assert len(calls) == 2
    assert candidates.main(command) == 0
    assert len(calls) == 2
    page = (tmp_path / "out" / "candidates.md").read_text()
    assert "not measured yet" not in page
    assert "the figures mean nothing" in page
    assert str(tmp_path) not in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"candidates.{s}" for s in ("md", "json", "png")}  # fmt: skip


def test_files_that_judge_are_refused(archives: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = archives[0].parent
    archives[0].rename(folder / "alboranSST_small-sst-0.npz")
    assert candidates.main(["--page-only", "--archives", str(folder), "--cache", str(folder / "cache")]) == 1
    assert "alboranSST_small-sst-0.npz is of a file that judges" in capsys.readouterr().err


def test_bad_options_and_no_archives_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, expected in (
        ([], "pretrain.py pack"),
        (["--kinds", "cloud"], "some of pixel"),
        (["--empty", "1"], "from 0 to 0.8"),
        (["--empty", "half"], "numbers with commas"),
    ):
        assert candidates.main(["--archives", str(tmp_path), *given]) == 1
        assert expected in capsys.readouterr().err
