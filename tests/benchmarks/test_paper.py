"""The paper's study: its data, its arithmetic, what it says of figures, and that it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import paper
from scoring import orders, paper_page, trained, worlds
from scoring.paper_page import Errors, Findings

ABOUT = {
    "command": "python benchmarks/paper.py", "model": "m", "sha256": "0" * 64, "training": "none", "device": "a CPU",
    "versions": {"torch": "0"}, "sizes": dataclasses.asdict(worlds.Sizes()), "window": [72, 12, 12], "batch": 1,
}  # fmt: skip


def errors(mae: float) -> Errors:
    return Errors(mae, 1.2 * mae, mae, 0.5, 100, 0, 1.0, "code")


def findings(soil: dict[str, dict[str, list[float]]], courses: dict[str, list[trained.Course]] | None = None) -> Findings:  # fmt: skip
    seeds = range(len(next(iter(next(iter(soil.values())).values()))))
    scored = {h: {n: [errors(v) for v in several] for n, several in rows.items()} for h, rows in soil.items()}
    return Findings(
        paper.read_rows(),
        tuple(seeds),
        10.0,
        {"soil_moisture": scored},
        {"soil_moisture": courses or {}},
        ABOUT,
    )


def as_in_the_paper() -> dict[str, dict[str, list[float]]]:
    """The paper's own figures as if they had been measured, ablations scaled to the full row of the test table."""
    found: dict[str, dict[str, list[float]]] = {}
    rows = paper.read_rows()
    full = next(row for row in rows if row.name == paper_page.FULL)
    for hidden in worlds.HIDDEN["soil_moisture"]:
        scale = full.paper["test"][hidden] / full.paper["validation"][hidden]
        found[hidden] = {
            row.name: [row.paper["test"][hidden] if "test" in row.paper else scale * row.paper["validation"][hidden]] * 2
            for row in rows
            if {"test", "validation"} & set(row.paper)
        }  # fmt: skip
    return found


# --- the table --------------------------------------------------------------------------------------------------------


def test_rows_are_named_once_and_build_the_papers_configuration() -> None:
    rows = paper.read_rows()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        if row.kind == "trained":
            plan = trained.Plan("soil_moisture", row, 0, trained.Budget(10.0), worlds.Sizes())
            options = plan.options(Path("m.safetensors"), ("clay",) * (row.covariates != "none"), "cpu")
            assert (options.model.head, options.model.embed_dim, options.model.depth) == ("direct", 64, 4)
            assert options.feed.shapes == ((1, 72, 12, 12),)
    assert {row.name for row in rows if row.kind == "trained"} >= {paper_page.FULL, *paper_page.PARTS}


def test_whatever_changes_a_model_changes_its_name() -> None:
    row = next(row for row in paper.read_rows() if row.name == "swmsa")
    plan = trained.Plan("soil_moisture", row, 0, trained.Budget(10.0), worlds.Sizes())
    others = (
        dataclasses.replace(plan, budget=trained.Budget(5.0)),
        dataclasses.replace(plan, budget=trained.Budget(10, "steps")),
        dataclasses.replace(plan, seed=1),
        dataclasses.replace(plan, batch=4),
        dataclasses.replace(plan, study="digits"),
        dataclasses.replace(plan, sizes=worlds.QUICK),
        dataclasses.replace(plan, row=dataclasses.replace(row, covariates="static")),
        dataclasses.replace(plan, row=dataclasses.replace(row, model={"use_time": False})),
    )
    assert len({plan.stem, *(p.stem for p in others)}) == len(others) + 1


# --- the data ---------------------------------------------------------------------------------------------------------


def test_the_years_are_apart_and_most_of_them_is_missing() -> None:
    sizes = worlds.Sizes(days=48, side=16)
    first, second = worlds.soil_moisture(sizes)
    assert first.shape == second.shape == (48, 16, 16)
    assert second.times[0] == first.times[-1] + 1
    assert first.gap.mean() + second.gap.mean() == pytest.approx(2 * 0.95, abs=0.01)
    assert (len(first.dynamic), len(first.static)) == (5, 6)
    assert not {*worlds.with_covariates(first, "static").dynamic}
    assert not {*worlds.with_covariates(first, "dynamic").static}


@pytest.mark.parametrize("hidden", worlds.HIDDEN["soil_moisture"])
def test_hidden_soil_moisture_is_gone_from_the_stack_and_kept_as_truth(hidden: str) -> None:
    sizes = worlds.QUICK
    year, asked = worlds.soil_moisture(sizes)[1], worlds.soil_question(sizes, hidden, 0)
    assert not (asked.stack.valid & asked.wanted).any()
    np.testing.assert_array_equal(asked.truth, year.values[asked.wanted])
    if hidden == "frames":
        days = asked.wanted.any(axis=(1, 2))
        assert not asked.stack.valid[days].any()


def test_digits_turn_and_half_of_them_is_missing() -> None:
    image = np.zeros((28, 28), dtype=np.uint8)
    image[6:22, 12:16] = 255
    rng = np.random.default_rng(0)
    for hidden in worlds.HIDDEN["digits"]:
        asked = [worlds.sequence(image, worlds.Sizes(), hidden, rng) for _ in range(5)]
        stacks = [q.stack for q in asked]
        assert np.mean([s.gap.mean() for s in stacks]) == pytest.approx(worlds.MISSING, abs=0.01)
        assert set(np.unique(stacks[0].values)) == {0.0, 1.0}
        white = np.mean([q.truth.mean() for q in asked])
        everywhere = np.mean([worlds.turned(image, 10, rng).mean() for _ in range(5)])
        assert white / everywhere == pytest.approx(1.8 if hidden == "value" else 1.0, abs=0.15)


def test_noise_is_on_what_is_visible_and_not_in_the_truth() -> None:
    image = np.zeros((28, 28), dtype=np.uint8)  # black: whatever is white is noise
    asked = worlds.sequence(image, worlds.Sizes(), "noisy", np.random.default_rng(0))
    assert not asked.truth.any()
    assert asked.stack.values[asked.stack.valid].mean() == pytest.approx(worlds.FLIPPED, abs=0.01)


def test_sequences_to_learn_from_are_of_other_digits_than_those_judged() -> None:
    sizes = worlds.Sizes(learn=3, check=2, judge=2, frames=2)
    images = np.zeros((7, 28, 28), dtype=np.uint8)
    images[-2:, 8:20, 8:20] = 255  # the last ones judge
    learn, check = worlds.digit_lessons(images, sizes, 0)
    assert (len(learn), len(check)) == (3, 2)
    assert max(s.values.max() for s in (learn[0], learn[1], check[0])) == 0  # none of these is noisy
    assert all(q.truth.any() for q in worlds.digit_questions(images, sizes, "random", 0))


# --- what is said of the figures --------------------------------------------------------------------------------------


def test_r2_is_one_for_the_truth_and_nought_for_its_mean() -> None:
    truth = np.arange(10, dtype=np.float32)
    assert paper_page.errors_of(truth, truth, 0.0).r2 == 1
    assert paper_page.errors_of(truth, np.full(10, 4.5, np.float32), 0.0).r2 == pytest.approx(0)


def test_figures_like_the_papers_are_said_to_be() -> None:
    found = findings(as_in_the_paper())
    text = paper_page.verdict(found)
    assert text.count("as in the paper.") == 4  # the best row twice, where covariates matter, which of them
    assert "the other way in every seed (" not in text
    assert text.count(", 0 the other way") == 2
    assert "*no covariates* costs most here (x 1.81); in the paper too (x 1.81)" in text
    assert "differ from seed" not in text


def test_figures_the_other_way_round_are_said_to_be() -> None:
    turned = {h: {n: [0.05 - v for v in several] for n, several in rows.items()} for h, rows in as_in_the_paper().items()}  # fmt: skip
    text = paper_page.verdict(findings(turned))
    assert ", 0 rank the same way" not in paper_page.verdict(findings(as_in_the_paper()))
    assert text.count(", 0 rank the same way here in every seed") == 2
    assert "has the lowest MAE" in text
    assert "; in the paper ST (SW-MSA) has." in text
    assert "here they brought nothing" in text
    assert "other than in the paper" in text


def test_what_differs_between_seeds_is_not_decided() -> None:
    figures = {h: {"swmsa": [0.02, 0.03], "msa": [0.025, 0.025]} for h in ("pixel", "frames")}
    found = findings(figures)
    assert [p.verdict for p in found.pairs("soil_moisture", "pixel")] == ["undecided"]
    assert "1 differ from seed to seed (ST (SW-MSA) before ST (MSA))" in paper_page.verdict(found)


def test_a_row_that_lacks_a_seed_is_left_out() -> None:
    found = findings({"pixel": {"swmsa": [0.02, 0.03], "msa": [0.025]}})
    assert set(found.figures("soil_moisture", "pixel")) == {"swmsa"}


def test_networks_that_still_improve_are_counted() -> None:
    def course(last: float) -> trained.Course:
        return trained.Course(90, 9.0, 1000, ((0.0, 2.0), (5.0, 1.0), (9.0, last)), "code")

    figures = {"pixel": {"swmsa": [0.02], "msa": [0.03]}}
    text = paper_page.verdict(findings(figures, {"swmsa": [course(0.8)], "msa": [course(1.1)]}))
    assert "of 1 of 2 networks still fell" in text
    assert "between 90 and 90 steps each" in text
    assert course(1.1).still_falling == 0
    assert "more time would" in paper_page.verdict(findings(figures, {"swmsa": [course(0.8)]}))


def test_a_busy_machine_is_noticed() -> None:
    courses = [trained.Course(steps, 9.0, 1000, (), "code") for steps in (90, 20)]
    text = paper_page.verdict(
        findings({"pixel": {"swmsa": [0.02, 0.02], "msa": [0.03, 0.03]}}, {"swmsa": courses})
    )
    assert "between 20 and 90 steps (ST (SW-MSA) was far slower in one seed than in another" in text


def test_factors_are_of_means() -> None:
    assert orders.factors({"a": [1.0, 3.0], "b": [3.0, 3.0]}, "a", ["b"]) == {"b": 1.5}
    assert orders.factors({"b": [3.0]}, "a", ["b"]) == {}


# --- the command ------------------------------------------------------------------------------------------------------


def run(tmp_path: Path, *more: str) -> int:
    folders = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    return paper.main(["--quick", *folders, *more])


def test_the_command_writes_its_page_and_goes_on_from_what_is_kept(tmp_path: Path, capsys) -> None:
    chosen = ("--studies", "soil_moisture", "--rows", "swmsa,no_covariates,st,mean")
    assert run(tmp_path, *chosen) == 0
    assert capsys.readouterr().out.count("MAE 0.") == 8
    page = (tmp_path / "out" / "paper.md").read_text()
    document = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert (tmp_path / "out" / "paper.png").stat().st_size > 5000
    assert "the figures mean nothing" in page
    assert str(tmp_path) not in page
    assert len(document["errors"]["soil_moisture"]["pixel"]) == 4
    assert document["training"]["soil_moisture"]["swmsa"][0]["steps"] >= 1
    assert run(tmp_path, *chosen, "--page-only") == 0
    assert "MAE 0.0" not in capsys.readouterr().out.split("**")[0]
    assert json.loads((tmp_path / "out" / "paper.json").read_text())["errors"] == document["errors"]


def test_digits_are_trained_on_and_judged(tmp_path: Path, shared_data: Path) -> None:
    assert run(tmp_path, "--studies", "digits", "--rows", "swmsa,linear", "--data", str(shared_data)) == 0
    document = json.loads((tmp_path / "out" / "paper.json").read_text())
    assert set(document["errors"]["digits"]) == set(worlds.HIDDEN["digits"])
    assert [p["better"] for p in document["order"]["digits"]["random"]] == ["swmsa"]


def test_without_digits_the_rest_is_run_and_the_page_says_so(tmp_path: Path) -> None:
    assert run(tmp_path, "--rows", "mean", "--data", str(tmp_path)) == 0
    assert "no Healing MNIST" in (tmp_path / "out" / "paper.md").read_text()


def test_a_killed_training_goes_on_from_its_state(tmp_path: Path, monkeypatch) -> None:
    row = next(row for row in paper.read_rows() if row.name == "no_space")
    plan = trained.Plan("soil_moisture", row, 0, trained.Budget(5, "steps"), worlds.QUICK)

    def killed(line: str) -> None:
        raise KeyboardInterrupt

    original = trained.Plan.options
    often = lambda *given: dataclasses.replace(original(*given), save_steps=1, val_steps=2)  # noqa: E731
    monkeypatch.setattr(trained.Plan, "options", often)
    with pytest.raises(KeyboardInterrupt):
        trained.trained(plan, tmp_path, "cpu", say=killed)
    states = list(tmp_path.glob("*.stimpute-training"))
    assert len(states) == 1
    _, course = trained.trained(plan, tmp_path, "cpu", say=lambda line: None)
    assert not states[0].exists()
    assert course.steps == 5
    log = (tmp_path / f"{plan.stem}.log.jsonl").read_text()
    assert '"event": "resume"' in log


def test_a_row_that_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch, capsys) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("did not converge")

    chosen = ("--studies", "soil_moisture", "--rows", "mean,linear")
    with monkeypatch.context() as patched:
        original = paper._answer
        patched.setattr(paper, "_answer", lambda *g: fails() if g[-1].method == "linear" else original(*g))
        assert run(tmp_path, *chosen) == 0
    assert "did not converge" in (tmp_path / "out" / "paper.md").read_text()
    assert run(tmp_path, *chosen) == 0
    assert "did not converge" not in (tmp_path / "out" / "paper.md").read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        ("--rows", "atlantis"),
        ("--studies", "atlantis"),
        ("--minutes", "0"),
        ("--steps", "0"),
        ("--batch", "0"),
    ],
)
def test_what_cannot_be_run_is_named(tmp_path: Path, wrong: tuple[str, str], capsys) -> None:
    assert run(tmp_path, *wrong) == 1
    assert wrong[1] in capsys.readouterr().err
