"""The benchmark of seams: its measure, its fields, what it says of figures, and that it goes on where it stopped."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import seams
from scoring import borders, seam_fields, seam_page
from scoring.pages import About
from scoring.seam_page import Cut, Findings, Result

from stimpute.metrics import seam_ratio

ABOUT = About("m", "0" * 64, "none", (0,), "python benchmarks/seams.py", {"torch": "0"})
CUTS = (Cut(24), Cut(48), Cut(None), Cut(24, 0))
LINES = ([24, 48, 72], [24, 48, 72])


def noise(seed: int, shape: tuple[int, int, int] = (6, 96, 96), jump: float = 0.0) -> np.ndarray:
    """White noise, higher by ``jump`` in every second tile of 24 cells."""
    field = np.random.default_rng(seed).normal(size=shape)
    rows, columns = np.indices(shape[1:]) // 24
    return (field + jump * ((rows + columns) % 2)).astype(np.float32)


def result(method: str = "st", seed: int = 0, jump: float = 0.0, apart: float = 0.001) -> Result:
    """A simulated scene whose tiled fill errs by ``jump`` more in every second tile, and is ``apart`` from the uncut one."""
    steps = {name: borders.steps_of(noise(seed, jump=jump), LINES) for name in ("24", "48")}
    steps["24, no halo"] = borders.steps_of(noise(seed, jump=3.0), LINES)
    control = {name: borders.steps_of(noise(seed), LINES) for name in steps}
    cuts = ["24", "48", "whole"]
    pairs = {(a, b): (apart, 4 * apart) for i, a in enumerate(cuts) for b in cuts[i + 1 :]}
    mae = dict.fromkeys([*cuts, "24, no halo"], 0.3)
    return Result("field", seed, method, True, mae, steps, control, pairs, codes=("a",))


def findings(*results: Result) -> Findings:
    return Findings(results, CUTS, ABOUT, {"steps": 6, "side": 96, "tiles": [24, 48]})


# --- the measure ------------------------------------------------------------------------------------------------------


def test_one_field_reads_what_the_package_measures() -> None:
    error = noise(0, jump=0.5)
    error[np.random.default_rng(1).random(error.shape) < 0.3] = np.nan
    found = borders.seam([borders.steps_of(error, LINES)])
    assert found.ratio == pytest.approx(seam_ratio(error, LINES), rel=1e-9)
    assert found.low < found.ratio < found.high


def test_a_seam_is_told_from_none_and_fields_of_other_scale_count_alike() -> None:
    smooth = borders.seam([borders.steps_of(noise(i) * 10**i, LINES) for i in range(3)])
    stepped = borders.seam([borders.steps_of(noise(i, jump=1.0) * 10**i, LINES) for i in range(3)])
    assert smooth.high < 1.05
    assert smooth.low < 1 < smooth.high
    assert stepped.low > 1.05
    assert stepped.pairs == 3 * 6 * 2 * 3 * 96


def test_the_same_blocks_are_drawn_for_a_field_and_its_control() -> None:
    fields = [borders.steps_of(noise(i), LINES) for i in range(2)]
    same = borders.excess(fields, fields)
    assert (same.ratio, same.low, same.high) == (1.0, 1.0, 1.0)
    over = borders.excess([borders.steps_of(noise(i, jump=0.7), LINES) for i in range(2)], fields)
    assert over.high - over.low < 0.5 * (borders.seam(fields).high - borders.seam(fields).low) + 0.05
    assert over.low > 1


def test_without_borders_there_is_no_measure() -> None:
    assert math.isnan(borders.seam([borders.steps_of(noise(0), ([], []))]).ratio)
    assert borders.seam([]).pairs == 0
    assert borders.border_lines((4, 40, 40), {}) == ([], [])


def test_borders_are_those_of_the_engines_tiles() -> None:
    tile = {"core": 24, "halo": 6, "time_core": 4, "time_halo": 0, "bound_by": "user"}
    assert borders.border_lines((4, 100, 60), tile) == ([28, 50, 72], [30])


def test_agreement_leaves_out_what_one_of_both_does_not_know() -> None:
    a, b = np.float32([0, 0, 0, np.nan]), np.float32([0, 1, 2, 3])
    assert borders.agreement(a, b, 1.0) == (1.0, pytest.approx(1.98))
    assert all(math.isnan(v) for v in borders.agreement(a[:0], b[:0], 1.0))


# --- the fields -------------------------------------------------------------------------------------------------------


def test_fields_are_stationary_gappy_and_seeded() -> None:
    sizes = seam_fields.Sizes(steps=6, side=64)
    for field in seam_fields.FIELDS[:3]:
        scene, again = (seam_fields.simulated(field, sizes, 0) for _ in range(2))
        np.testing.assert_array_equal(scene.truth, again.truth)
        assert scene.stack.gap.mean() == pytest.approx(field.missing, abs=0.01)
        assert not np.array_equal(scene.truth, seam_fields.simulated(field, sizes, 1).truth)
        whole = scene.whole(scene.truth[scene.wanted])
        np.testing.assert_array_equal(np.isfinite(whole), scene.wanted)
    assert len({f.name for f in seam_fields.FIELDS}) == len(seam_fields.FIELDS)


def test_real_windows_lie_in_their_files(shared_data: Path) -> None:
    for case in (*seam_fields.REAL, *seam_fields.QUICK_REAL):
        scene = seam_fields.real(case, shared_data)
        assert scene.wanted.any(), case.name
        assert not (scene.wanted & scene.stack.valid).any()
        assert scene.stack.shape[1:] == (144, 144) or case in seam_fields.QUICK_REAL


# --- what it says -----------------------------------------------------------------------------------------------------


def test_a_good_fill_meets_the_bars(tmp_path: Path) -> None:
    found = findings(*(result(seed=i) for i in range(4)), result("linear"))
    text = seam_page.verdict(found)
    assert "is to be at most 1.05: met" in text
    assert "fewer than the 100,000 wanted" in text
    assert "no halo read" in text
    assert ": it tells." in text
    assert "The median: met everywhere; the 99th percentile: met everywhere" in text
    seam_page.write_json(tmp_path / "s.json", found)
    assert json.loads((tmp_path / "s.json").read_text())["seams"]["st"]["all"]["seam"]["pairs"] > 0


def test_a_seam_and_fills_that_differ_are_told() -> None:
    text = seam_page.verdict(findings(*(result(seed=i, jump=1.0, apart=0.03) for i in range(4))))
    assert "is to be at most 1.05: **missed**" in text
    assert "By tile the bound is passed for 24, 48" in text
    assert text.count("**missed on 1 of 1 stacks**") == 2
    assert "median 3.0%, 99th percentile 12.0%" in text


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_its_page_and_goes_on_from_what_is_kept(
    tmp_path: Path, shared_data: Path, capsys
) -> None:
    command = ["--quick", "--device", "cpu", "--data", str(shared_data),
               "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]  # fmt: skip
    assert seams.main(command) == 0
    assert capsys.readouterr().out.count(" tiles ") == 2 * (4 + 3)
    torn = next((tmp_path / "cache").glob("*.json"))
    torn.write_text("{")
    assert seams.main(command) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if " seed 0 " in line]) == 1
    written = (tmp_path / "out" / "seams.md").read_text()
    document = json.loads((tmp_path / "out" / "seams.json").read_text())
    assert (tmp_path / "out" / "seams.png").stat().st_size > 5000
    assert "the figures mean nothing" in written
    assert str(tmp_path) not in written
    assert {s["scene"] for s in document["scenes"] if s["simulated"]} == {
        f.name for f in seam_fields.FIELDS[:1]
    }
    linear = [s for s in document["scenes"] if s["method"] == "linear" and s["simulated"]]
    assert all(s["tiles"]["8"]["core"] == 8 for s in linear)


def test_linear_alone_can_be_measured(tmp_path: Path, capsys) -> None:
    command = ["--quick", "--scenes", "fields", "--methods", "linear",
               "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]  # fmt: skip
    assert seams.main(command) == 0
    assert "linear only" in (tmp_path / "out" / "seams.md").read_text()


@pytest.mark.parametrize(
    "wrong", [("--scenes", "atlantis"), ("--methods", "atlantis"), ("--model", "atlantis")]
)
def test_what_cannot_be_run_is_named(wrong: tuple[str, str], capsys) -> None:
    assert seams.main(["--quick", *wrong]) == 1
    assert wrong[1] in capsys.readouterr().err
