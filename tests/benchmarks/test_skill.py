"""The benchmark's own arithmetic, its peers and its memory; not what it measures."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import skill
from scoring import cases, figures, pages, peers, runs, seen

from stimpute.holdout import KINDS, hold_out
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.pretrained.checkpoint import save_checkpoint
from stimpute.pretrained.registry import LoadedModel, load_model
from stimpute.protocols import Layer
from stimpute.stack import Stack


def material(stack: Stack) -> cases.Material:
    return cases.Material(stack, Layer("v", "v", {}, stack.shape, np.dtype(np.float32)))


def trial(stack: Stack, kind: str = "pixel") -> cases.Trial:
    return cases.Trial(kind, 0, hold_out(stack, kind, 0.2, 0))


def key(method: str, model: str = "-") -> runs.Key:
    return runs.Key("case", "digest", "pixel", 0, method, model)


CASE = cases.Case("case", "file.nc", "v", True, "made up")


def said(stack: Stack, trial: cases.Trial, method: str, error: float, scale: float = 1.0) -> runs.Result:
    truth = stack.values[trial.held_out]
    mean = truth + np.where(np.arange(truth.size) % 2, error, -error).astype(np.float32)
    return runs.Result(key(method), mean, np.full_like(truth, scale), 1.0, True)


def test_table_names_each_case_once_and_only_known_patterns() -> None:
    table = cases.read_table()
    assert len({case.name for case in table}) == len(table)
    assert all(set(case.kinds) <= set(KINDS) for case in table)
    assert {case.file for case in table if case.judges}.isdisjoint(
        {case.file for case in table if not case.judges}
    )
    assert set(skill.QUICK) <= {case.name for case in table}


def test_digest_changes_with_the_window_only() -> None:
    moved = dataclasses.replace(CASE, y=(0, 5))
    assert moved.digest != CASE.digest
    assert dataclasses.replace(CASE, about="said otherwise").digest == CASE.digest


def test_every_case_is_in_the_files_and_bounded(shared_data: Path) -> None:
    for case in cases.read_table():
        stack = cases.read_case(case, shared_data).stack
        assert 0 < stack.values.size <= 255_000, case.name
        assert stack.valid.any(), case.name


def test_published_fills_have_the_errors_known_of_them(shared_data: Path) -> None:
    stack, trials, answers = (lambda m, t, a: (m.stack, t, a))(*cases.read_published(shared_data))
    assert stack.shape == (28, 109, 62)
    assert [t.kind for t in trials][:2] == ["04 %", "06 %"]
    truth = stack.values[trials[0].held_out]
    assert math.isclose(np.abs(answers["04 %", "ssgp"] - truth).mean(), 0.417, abs_tol=0.001)


def test_ratio_uses_the_best_other_and_its_interval_holds_it(gappy) -> None:
    stack = Stack.from_array(gappy(t=8, ny=40, nx=40))
    hidden = trial(stack)
    results = {
        "st": [said(stack, hidden, "st", 0.1)],
        "mean": [said(stack, hidden, "mean", 0.4)],
        "linear": [said(stack, hidden, "linear", 0.2)],
    }
    row = figures.make_row(CASE, material(stack), "pixel", [hidden], results)
    assert row.best_other("st")[0] == "linear"
    assert row.ratio("st") == pytest.approx(0.5, rel=1e-4)
    assert row.ratio("linear") == pytest.approx(2.0, rel=1e-4)
    assert row.interval[0] <= row.ratio("st") + 1e-4
    assert row.interval[1] >= row.ratio("st") - 1e-4
    summary = figures.summarise([row], "mean")
    assert summary is not None
    assert summary.won == 0
    assert summary.ratio == pytest.approx(4, rel=1e-4)
    assert row.entries["st"].levels[figures.LEVELS.index(0.9)] == 1.0


def test_a_method_that_says_nothing_somewhere_is_not_compared(gappy) -> None:
    stack = Stack.from_array(gappy(t=8, ny=20, nx=20))
    hidden = trial(stack)
    silent = said(stack, hidden, "mean", 0.0)
    silent.mean[: silent.mean.size // 2] = np.nan
    results = {
        "st": [said(stack, hidden, "st", 0.1)],
        "mean": [silent],
        "linear": [said(stack, hidden, "linear", 0.2)],
    }
    row = figures.make_row(CASE, material(stack), "pixel", [hidden], results)
    assert row.best_other("st")[0] == "linear"
    assert math.isnan(row.ratio("mean"))


def test_bootstrap_widens_when_errors_come_in_blocks() -> None:
    rng = np.random.default_rng(0)
    block = np.repeat(rng.gamma(1.0, size=50), 40)
    own, other = block * rng.random(2000), np.ones(2000)
    low, high = figures.ratio_interval(own, other, np.repeat(np.arange(50), 40))
    alone = figures.ratio_interval(own, other, np.arange(2000))
    assert high - low > 2 * (alone[1] - alone[0])


def test_a_single_cell_is_drawn_in_spells() -> None:
    assert len(np.unique(figures.clusters(np.ones((64, 1, 1), dtype=bool), 0))) == 4


def test_gdal_peer_says_what_the_program_says(tmp_path: Path, gappy) -> None:
    program = shutil.which("gdal_fillnodata.py") or shutil.which("gdal_fillnodata")
    if program is None:
        pytest.skip("gdal_fillnodata is not installed")
    frame = gappy(t=1, ny=30, nx=40, missing=0.0)[0]
    frame[5:20, 8:25] = np.nan
    with rasterio.open(tmp_path / "gaps.tif", "w", driver="GTiff", height=30, width=40, count=1, dtype="float32", nodata=-9999, transform=rasterio.Affine(10, 0, 0, 0, -10, 0)) as file:  # fmt: skip
        file.write(np.nan_to_num(frame, nan=-9999), 1)
    subprocess.run(
        [program, "-q", "-md", "100", tmp_path / "gaps.tif", tmp_path / "full.tif"],
        check=True,
        capture_output=True,
    )
    with rasterio.open(tmp_path / "full.tif") as file:
        expected = file.read(1)
    stack = Stack.from_array(frame[None])
    answer = peers.GdalFillnodata().prepare(stack).impute(stack).mean[0]
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_results_are_kept_and_a_torn_one_counts_as_none(tmp_path: Path, gappy) -> None:
    stack = Stack.from_array(gappy())
    store, hidden = runs.Store(tmp_path), trial(stack)
    assert store.load(key("linear")) is None
    result = runs.run(material(stack), hidden, key("linear"), lambda: peers.open_peer("linear", None))
    store.save(result)
    again = store.load(key("linear"))
    assert again is not None
    np.testing.assert_array_equal(again.mean, result.mean)
    assert np.isfinite(again.mean).all()
    (tmp_path / f"{key('linear').stem}.npz").write_bytes(b"PK")
    assert store.load(key("linear")) is None


def test_another_model_is_another_result() -> None:
    assert key("st", "aaaa").stem != key("st", "bbbb").stem


def test_the_command_writes_its_page_and_goes_on_from_its_store(
    tmp_path: Path, shared_data: Path, capsys
) -> None:
    command = ["--cases", "gapfill_ndvi,landsat_cell", "--kinds", "gap,value", "--methods", "mean,linear,gdal-fillnodata",
               "--data", str(shared_data), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]  # fmt: skip
    assert skill.main(command) == 0
    first = capsys.readouterr().out
    assert skill.main(command) == 0
    second = capsys.readouterr().out
    assert first.count("MAE 0.") > second.count("MAE 0.")
    document = json.loads((tmp_path / "out" / "skill.json").read_text())
    assert {row["kind"] for row in document["rows"]} == {"gap", "value"}
    assert "gapfill_ndvi" in (tmp_path / "out" / "skill.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "skill.md").read_text()
    for name in ("skill_heat.png", "skill_maps.png", "skill_calibration.png"):
        assert (tmp_path / "out" / name).stat().st_size > 5000


def test_an_unknown_case_is_named(capsys) -> None:
    assert skill.main(["--cases", "atlantis"]) == 1
    assert "atlantis" in capsys.readouterr().err


# --- what the weights saw ---------------------------------------------------------------------------------------------

FLAGGED = [
    cases.Case("spared", "lst/goes16.nc", "v", False, ""),
    cases.Case("kept", "sst/alboran.nc", "v", True, ""),
]


def judged(account: seen.Account) -> list[tuple[bool, bool]]:
    return [(case.judges, case.spared) for case in seen.marked(FLAGGED, account)]


def test_a_card_that_tells_decides_which_cases_judge() -> None:
    assert judged(seen.Account(("goes16-LST-0.npz",), True)) == [(False, False), (True, False)]
    assert judged(seen.Account(("alboran-SST-0.npz",), True)) == [(True, True), (False, False)]
    assert judged(seen.Account((), True)) == [(True, True), (True, False)]


def test_a_card_that_does_not_tell_leaves_it_to_the_table() -> None:
    assert judged(seen.Account(("goes_sa_0.npz",), False)) == [(False, False), (True, False)]
    assert judged(seen.Account(("alboran-SST-0.npz",), False)) == [(False, False), (False, False)]


def model(folder: Path, name: str, training: dict[str, object]) -> LoadedModel:
    """Weights with a card of this training in a folder."""
    network = STTransformer(ModelConfig(embed_dim=16, depth=1, num_heads=2, cell_dim=8))
    path = folder / f"{name}.safetensors"
    save_checkpoint(path, network.state_dict(), network.config.to_dict(), training=training, scores={})
    return load_model(str(path))


def archives(*names: str) -> list[dict[str, object]]:
    return [{"name": name, "shape": [1, 1, 1]} for name in names]


def test_an_account_is_complete_only_where_every_archive_is_of_a_known_file(tmp_path: Path) -> None:
    packed, older = "era5_t2m_uk_201903-t2m-0.npz", "goes_sa_0.npz"
    assert seen.account_of(model(tmp_path, "packed", {"archives": archives(packed)})).complete
    assert not seen.account_of(model(tmp_path, "older", {"archives": archives(packed, older)})).complete
    assert not seen.account_of(model(tmp_path, "silent", {"steps": 3})).complete
    worlds = seen.account_of(model(tmp_path, "worlds", {"archives": [], "world_share": 1.0}))
    assert (worlds.complete, worlds.saw("era5_t2m_uk_201903.nc")) == (True, False)


def test_weights_saw_what_those_saw_that_they_come_from(tmp_path: Path) -> None:
    first = model(tmp_path, "first", {"archives": archives("era5_t2m_uk_201903-t2m-0.npz"), "from": None})
    origin = {"name": "first", "sha256": first.sha256}
    second = model(tmp_path, "second", {"archives": archives("pacificSST-sst-0.npz"), "from": origin})
    assert seen.account_of(second).saw("x/era5_t2m_uk_201903.nc") is True
    assert seen.account_of(second).saw("x/mcd43a4_slovenia.nc") is False
    first.path.unlink()
    assert seen.account_of(second).saw("x/era5_t2m_uk_201903.nc") is None
    assert "from is not at hand" in seen.account_of(second).told


def test_what_the_shipped_model_saw_follows_the_table_or_its_card() -> None:
    shipped = load_model()
    table = cases.read_table()
    found = {case.name: case for case in seen.marked(table, seen.account_of(shipped))}
    names = seen.archive_names(shipped.card["training"])
    assert names
    for (
        case
    ) in table:  # no file that only judges is on the card; one that trains may have been left out of it
        if case.judges:
            assert found[case.name].judges, case.name
            assert not any(seen.is_of(name, Path(case.file).stem) for name in names)


def test_the_page_says_which_cases_judge_though_their_files_train(tmp_path: Path, gappy) -> None:
    stack = Stack.from_array(gappy(t=8, ny=20, nx=20))
    hidden = trial(stack)
    results = {"st": [said(stack, hidden, "st", 0.1)], "mean": [said(stack, hidden, "mean", 0.4)]}
    several = [
        dataclasses.replace(CASE, name="only", judges=True),
        dataclasses.replace(CASE, name="left_out", judges=True, spared=True),
        dataclasses.replace(CASE, name="trained", judges=False),
    ]
    rows = [figures.make_row(case, material(stack), "pixel", [hidden], results) for case in several]
    about = pages.About("m", "0" * 64, "some", (0,), "command", {}, seen="the model's card")
    pages.write_page(tmp_path / "page.md", about, rows, [], several)
    pages.write_json(tmp_path / "page.json", about, rows, [], several)
    page = (tmp_path / "page.md").read_text()
    assert "never saw: 2 cases, 1 of them of files that train (‡), 2 rows" in page
    assert "saw in training (†): 1 cases, 1 rows" in page
    assert "| left_out ‡ |" in page
    assert "| trained † |" in page
    assert "‡ a file that trains, but these weights never saw it" in page
    document = json.loads((tmp_path / "page.json").read_text())
    assert [row["judges"] for row in document["rows"]] == [True, True, False]
    assert document["summary"]["judging"]["st"]["rows"] == 2


def test_marks_do_not_make_kept_results_others() -> None:
    assert dataclasses.replace(CASE, judges=False, spared=True).digest == CASE.digest


def test_what_is_kept_of_our_method_is_forgotten_when_its_code_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {name: peers.identity(name, None) for name in (peers.HERO, peers.FAST, "linear")}
    monkeypatch.setattr(peers, "code_digest", lambda *rooms: "another")
    after = {name: peers.identity(name, None) for name in before}
    assert [name for name in before if before[name] == after[name]] == ["linear"]
