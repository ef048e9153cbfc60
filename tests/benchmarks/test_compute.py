"""Error against compute: the account of a run, batches kept on disk, the arithmetic, what the page says, and a tiny run."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import compute
from scoring import compute_page, compute_runs
from scoring.compute_figures import (
    ARCHIVES,
    WORLDS,
    Curve,
    Effect,
    Point,
    against,
    at_equal_compute,
    by_mix,
    by_size,
    by_steps,
    file_of,
)
from scoring.compute_page import Findings
from scoring.compute_runs import Operations, Plan
from scoring.pages import About

from stimpute.model.candidates import compute_candidates
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.training import FeedOptions
from stimpute.training.feed import Feed

NAMES = [f"file{i // 2}-v-{i % 2}.npz" for i in range(12)] + [WORLDS] * 12
FLOP = {"small": 10**9, "base": 5 * 10**9}  # of a step


def curve(size: str, mix: str, steps: int, error: Callable[[np.ndarray], np.ndarray] | float) -> Curve:
    """A run whose prior's error is known; ``error``: a factor on it, or what makes the errors of it."""
    prior = np.random.default_rng(0).uniform(0.2, 0.6, len(NAMES))
    made = error(prior) if callable(error) else (prior + 2e-3) * error - 2e-3
    points = [
        Point(0, 0, 0.0, 0.0, prior.tolist()),
        Point(steps, FLOP[size] * steps, 1.0, 2.0, made.tolist()),
    ]
    return Curve(size, mix, steps, 1, 100, prior.tolist(), prior.tolist(), NAMES, points, "code")


def grid(error: Callable[[str, str, int], float], budgets: tuple[int, ...] = (32, 128)) -> list[Curve]:
    return [
        curve(s, m, n, error(s, m, n)) for n in budgets for m in ("half", "worlds") for s in ("small", "base")
    ]


def findings(curves: list[Curve]) -> Findings:
    return Findings(curves, 12, About("m", "0" * 64, "some", (1,), "command", {"torch": "2"}))


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def test_a_power_law_is_found_again() -> None:
    curves = grid(lambda size, mix, steps: (FLOP[size] * steps / 1e9) ** -0.05)
    for on in (ARCHIVES, WORLDS):
        assert by_steps(curves, on).value == pytest.approx(2**-0.05, rel=1e-6)
        assert by_size(curves, on).value == pytest.approx(2**-0.05, rel=1e-6)
        assert by_size(curves, on, per_doubling=False).value == pytest.approx(5**-0.05, rel=1e-6)
        assert by_mix(curves, on).value == pytest.approx(1, rel=1e-6)


def test_three_budgets_are_fitted_by_least_squares() -> None:
    errors = {16: 0.9, 64: 0.85, 256: 0.6}
    curves = [curve("small", "half", n, e) for n, e in errors.items()]
    slope = np.polyfit([4, 6, 8], np.log(list(errors.values())), 1)[0]
    assert by_steps(curves, WORLDS).value == pytest.approx(math.exp(slope), rel=1e-6)
    assert math.isnan(by_steps(curves[:1], WORLDS).value)


def test_effects_compare_the_largest_common_budget() -> None:
    curves = grid(lambda size, mix, steps: {"half": 0.8, "worlds": 0.9}[mix] if steps == 128 else 1.0)
    assert by_mix(curves[:-1], ARCHIVES).value == pytest.approx(
        math.sqrt(0.8 / 0.9), rel=1e-6
    )  # base: 32 steps
    assert by_mix(curves, ARCHIVES).value == pytest.approx(0.8 / 0.9, rel=1e-6)
    small, base = at_equal_compute(curves) or pytest.fail("none")
    assert (small.steps, base.steps, small.mix) == (128, 32, base.mix)
    assert at_equal_compute(curves[4:]) is None


def test_archives_and_worlds_are_told_apart_and_files_drawn_whole() -> None:
    def error(prior: np.ndarray) -> np.ndarray:
        archive = np.array([name != WORLDS for name in NAMES])
        return np.where(archive, 0.5, 2.0) * (prior + 2e-3) - 2e-3

    run = curve("small", "half", 8, error)
    assert against(run, run.prior, ARCHIVES).ratio.value == pytest.approx(0.5)
    assert against(run, run.prior, WORLDS).ratio.value == pytest.approx(2.0)
    assert len({file_of(name) for name in NAMES if name != WORLDS}) == 6
    one = dataclasses.replace(run, groups=["file0-v-0.npz"] * 12 + [WORLDS] * 12)
    assert math.isnan(against(one, one.prior, ARCHIVES).ratio.low)  # one file has no range
    assert math.isfinite(against(one, one.prior, WORLDS).ratio.low)


# --- what the page says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda s, m, n: n**-0.1, "buy more steps"),
        (lambda s, m, n: 0.8 if s == "base" else 1.0, "buy a larger network"),
        (lambda s, m, n: (FLOP[s] * n / 1e9) ** -0.05, "undecided"),
        (lambda s, m, n: 1.0 + 0.01 * n, "neither of what compute bought"),
        (lambda s, m, n: 0.9 if m == "half" else 1.0, "real data costs no operations and helps"),
        (lambda s, m, n: 1.1 if m == "half" else 1.0, "more real data is not what is lacking"),
    ],
)
def test_the_advice_follows_from_the_figures(error: Callable[[str, str, int], float], expected: str) -> None:
    def noisy(size: str, mix: str, steps: int) -> Callable[[np.ndarray], np.ndarray]:
        lot = np.random.default_rng([len(size), len(mix), steps]).normal(1, 1e-3, len(NAMES))
        return lambda prior: (prior + 2e-3) * error(size, mix, steps) * lot - 2e-3

    curves = [curve(c.size, c.mix, c.steps, noisy(c.size, c.mix, c.steps)) for c in grid(lambda *_: 1.0)]
    assert expected in compute_page.advice(findings(curves))


def test_the_extrapolation_is_the_slope_and_called_one() -> None:
    lot = np.random.default_rng(0).normal(1, 1e-3, len(NAMES))
    curves = grid(lambda s, m, n: lambda prior: (prior + 2e-3) * n**-0.1 * lot - 2e-3)  # type: ignore[arg-type,return-value]
    told = compute_page.advice(findings(curves))
    assert f"which nothing here shows, 10 % less error would take {0.9**-10:,.0f} times" in told


def test_one_budget_has_no_slope_and_says_so() -> None:
    found = findings(grid(lambda *_: 0.9, (8,)))
    assert "One budget only" in compute_page.verdict(found)
    assert "a larger network" in compute_page.advice(found)


def test_the_page_holds_every_run(tmp_path: Path) -> None:
    found = findings(grid(lambda s, m, n: n**-0.1))
    compute_page.write_page(tmp_path / "p.md", found, "p.png")
    compute_page.write_json(tmp_path / "p.json", found)
    compute_page.draw(found, tmp_path / "p.png")
    page = (tmp_path / "p.md").read_text()
    assert page.count("| base | half simulated worlds | 128 | 100 | 0.64 |") == 1
    assert "67% of the whole" in page
    document = json.loads((tmp_path / "p.json").read_text())
    assert len(document["runs"]) == 8
    assert document["runs"][0]["points"][-1]["vs_prior"]["archives"]["value"] == pytest.approx(32**-0.1, abs=1e-5)  # fmt: skip
    assert (tmp_path / "p.png").stat().st_size > 5000


def test_a_factor_that_may_be_one_is_undecided() -> None:
    effect = Effect(0.99, np.array([0.9, 1.1]))
    assert not effect.helps
    assert not effect.harms
    assert math.isnan(effect.over(Effect()).value)


# --- the runs ---------------------------------------------------------------------------------------------------------


def test_operations_are_of_matrix_products_forward_and_backward() -> None:
    class Linear(torch.nn.Module):
        config = ModelConfig(cell_dim=24)  # of no other network here

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(6, 5, bias=False)

        def forward(self, batch, candidates):  # type: ignore[no-untyped-def]
            mean = self.layer(batch.values)
            return type("Prediction", (), {"mean": mean, "scale": mean.detach()})

    example = Feed([], FeedOptions(shapes=((2, 3, 4, 6),)), seed=0).example(0)
    candidates = compute_candidates(example.given)
    rows = 2 * 3 * 4
    assert Operations(Linear()).of_step(example.given, candidates) == 2 * (2 * rows * 6 * 5)
    nets = [STTransformer(ModelConfig(embed_dim=16, depth=d, num_heads=2, cell_dim=8)) for d in (1, 2)]
    one, two = (Operations(net).of_step(example.given, candidates) for net in nets)
    assert 1.2 * one < two < 2 * one


def test_a_batch_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    example = Feed([], FeedOptions(shapes=((2, 3, 6, 6),)), seed=3).example(0)
    candidates = compute_candidates(example.given)
    compute_runs.save_batch(tmp_path / "b.safetensors", example, candidates, 1.5)
    again, guesses, seconds = compute_runs.load_batch(tmp_path / "b.safetensors") or pytest.fail("absent")
    assert seconds == 1.5
    for one, other in ((example.given, again.given), (candidates, guesses)):
        for field in dataclasses.fields(one):
            if field.name == "names":
                assert candidates.names == guesses.names
                continue
            torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=0, atol=0)
    torch.testing.assert_close(example.target, again.target, rtol=0, atol=0)
    assert compute_runs.load_batch(tmp_path / "none.safetensors") is None


@pytest.fixture
def archives(tmp_path: Path, gappy) -> list[Path]:
    for seed in range(3):
        np.savez(tmp_path / f"file{seed}-v-0.npz", values=gappy(t=6, ny=14, nx=14, seed=seed))
    return sorted(tmp_path.glob("*.npz"))


def test_a_killed_run_goes_on_to_the_same_account(tmp_path: Path, archives: list[Path]) -> None:
    plan = Plan("small", "half", 4, 2, 1, ((1, 4, 8, 8), (2, 3, 8, 8)), 2)
    whole = compute_runs.trained(plan, archives, tmp_path / "whole")

    def stop(state: object) -> None:
        if getattr(state, "step", 0) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_runs.trained(plan, archives, tmp_path / "parts", progress=stop)  # type: ignore[arg-type]
    assert compute_runs.kept(plan, archives, tmp_path / "parts") is None
    parts = compute_runs.trained(plan, archives, tmp_path / "parts")
    assert [p.steps for p in parts.points] == [0, 2, 4]
    assert [p.flop for p in parts.points] == [p.flop for p in whole.points]
    assert [p.errors for p in parts.points] == [p.errors for p in whole.points]
    assert parts.groups == whole.groups
    assert {file_of(name) for name in whole.groups} == {"file0", "file1", "file2", WORLDS}
    assert whole.points[0].flop == 0 < whole.points[1].flop < whole.end.flop


def test_whatever_changes_a_run_changes_its_name(archives: list[Path]) -> None:
    plan = Plan("small", "half", 4, 2, 1)
    changes = ({"size": "base"}, {"mix": "worlds"}, {"steps": 5}, {"every": 1}, {"seed": 2}, {"examples": 3}, {"shapes": ((1, 4, 8, 8),)})  # fmt: skip
    others = [dataclasses.replace(plan, **change) for change in changes]
    stems = [p.stem(archives) for p in (plan, *others)] + [plan.stem(archives[1:])]
    assert len(set(stems)) == len(stems)
    assert plan.options(Path("-")).feed.world_share == 0.5
    assert others[1].options(Path("-")).feed.world_share == 1.0


def test_a_tiny_run_writes_the_page_and_is_not_repeated(tmp_path: Path, archives: list[Path]) -> None:
    command = ["--quick", "--archives", str(tmp_path), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]  # fmt: skip
    assert compute.main([*command, "--page-only"]) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compute, "QUICK_SHAPES", ((1, 4, 8, 8),))
        patch.setattr(compute, "QUICK_ARCHIVES", 1)
        assert compute.main(command) == 0
        runs = sorted((tmp_path / "cache").glob("*.json"))
        written = [path.stat().st_mtime_ns for path in runs]
        assert compute.main(command) == 0
        assert [path.stat().st_mtime_ns for path in runs] == written
        runs[0].unlink()
        assert compute.main([*command, "--page-only"]) == 0
    assert len(runs) == 8
    curves = [Curve.from_json(json.loads(path.read_text())) for path in runs[1:]]
    sizes = (STTransformer(config) for config in (ModelConfig.small(), ModelConfig.base()))
    assert {c.parameters for c in curves} == {sum(p.numel() for p in net.parameters()) for net in sizes}
    page = (tmp_path / "out" / "compute.md").read_text()
    assert "without base on half simulated worlds for 1 steps" in page
    assert "the figures mean nothing" in page
    assert str(tmp_path) not in page


def test_bad_budgets_and_no_archives_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compute.main(["--archives", str(tmp_path)]) == 1
    assert "pack" in capsys.readouterr().err
    assert compute.main(["--steps", "0,4", "--archives", str(tmp_path)]) == 1
    assert "at least 1" in capsys.readouterr().err
