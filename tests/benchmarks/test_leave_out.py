"""Files left out of training: which archives go, what is scored, the arithmetic, what the page says, and a tiny run."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import leave_out
from scoring import cases, leave_out_page, left_out
from scoring.leave_out_figures import (
    BEST,
    NEVER,
    OTHER_RUN,
    PRIOR,
    SAW,
    SHIPPED,
    Asked,
    Row,
    kept,
    make_row,
    pooled,
    seen_against_prior,
    within,
)
from scoring.leave_out_page import EVERYTHING, Cut, Findings
from scoring.pages import About
from scoring.runs import Key, Result

from stimpute.errors import InputError, ModelError
from stimpute.holdout import hold_out
from stimpute.model.batch import Batch
from stimpute.model.candidates import compute_candidates
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.pretrained.checkpoint import save_checkpoint
from stimpute.protocols import Layer
from stimpute.stack import Stack

ARCHIVES = [Path(f"{name}.npz") for name in (
    "strbook_sst_anom-v-0", "pacificSST-sst-0", "mcd43a4_slovenia-band1-0", "mcd43a4_slovenia-band2-0", "era5_t2m_uk_201903-t2m-0",
)]  # fmt: skip
PLAN = left_out.Plan((), 4, None, 1)


# --- what is left out -------------------------------------------------------------------------------------------------


def test_a_data_set_goes_with_the_files_that_show_the_same() -> None:
    sets = left_out.read_datasets()
    assert set(leave_out.DATASETS) <= set(sets)
    assert all(stem in sets for group in left_out.KIN for stem in group)
    plan = dataclasses.replace(PLAN, without=sets["strbook_sst_anom"].gone)
    assert [path.stem for path in plan.kept(ARCHIVES)] == [path.stem for path in ARCHIVES[2:]]
    bands = dataclasses.replace(PLAN, without=sets["mcd43a4_slovenia"].gone)
    assert [path.stem for path in bands.kept(ARCHIVES)] == [ARCHIVES[i].stem for i in (0, 1, 4)]
    assert PLAN.kept(ARCHIVES) == ARCHIVES


def test_whatever_changes_the_weights_changes_their_name() -> None:
    others = (
        dataclasses.replace(PLAN, steps=5),
        dataclasses.replace(PLAN, steps=None, minutes=1.0),
        dataclasses.replace(PLAN, seed=2),
        dataclasses.replace(PLAN, start="st-small"),
        dataclasses.replace(PLAN, shapes=((1, 4, 12, 12),)),
        dataclasses.replace(PLAN, without=("pacificSST",)),
    )
    stems = [plan.stem(ARCHIVES) for plan in (PLAN, *others)] + [PLAN.stem(ARCHIVES[1:])]
    assert len(set(stems)) == len(stems)


def test_what_is_left_out_must_be_there_and_a_start_must_not_have_seen_it(tmp_path: Path) -> None:
    sets = left_out.read_datasets()
    with pytest.raises(InputError, match="ostia_monthly"):
        left_out.check_archives(ARCHIVES, [sets["ostia_monthly"]])
    left_out.check_archives(ARCHIVES, [sets["mcd43a4_slovenia"]])
    left_out.check_start(None, list(sets.values()))
    start = tmp_path / "start.safetensors"
    network = STTransformer(ModelConfig(embed_dim=16, depth=1, num_heads=2, cell_dim=8))
    training = {"archives": [{"name": "pacificSST-sst-0.npz"}], "from": None}
    save_checkpoint(start, network.state_dict(), network.config.to_dict(), training=training, scores={})
    left_out.check_start(str(start), [sets["mcd43a4_slovenia"]])
    with pytest.raises(InputError, match="its card says that it saw pacificSST"):
        left_out.check_start(str(start), [sets["strbook_sst_anom"]])


# --- what is scored ---------------------------------------------------------------------------------------------------


def test_crops_lie_in_what_is_packed(tmp_path: Path, gappy, write_netcdf: Callable[..., Path]) -> None:
    values = gappy(t=30, ny=40, nx=36, missing=0.1)
    values[:, :4] = np.nan
    path = write_netcdf(values, "mcd43a4_slovenia.nc", variable="band1")
    dataset = left_out.Dataset("mcd43a4_slovenia", path.name, {"variables": ["band1"]})
    found = left_out.crops(dataset, path.parent, 32 * 32 * 5)
    assert [crop.material.stack.shape for crop in found] == [(5, 32, 32)] * 3
    assert [crop.archive for crop in found] == ["mcd43a4_slovenia-band1-0.npz"] * 3
    assert len({crop.digest for crop in found}) == 3
    assert found[0].material.layer.shape == (5, 32, 32)
    np.testing.assert_array_equal(found[1].material.stack.with_nan()[-1].shape, (32, 32))
    assert np.isin(np.nan_to_num(found[2].material.stack.with_nan()[-1]), np.nan_to_num(values[29])).all()


def test_the_prior_is_what_networks_start_from(gappy) -> None:
    stack = Stack.from_array(gappy(t=6, ny=16, nx=16))
    imputer = left_out.prior_method("cpu").prepare(stack)
    batch = Batch.from_stacks([stack], imputer.center, imputer.scale, {})
    expected = compute_candidates(batch).prior[0].double().numpy() * imputer.scale + imputer.center
    np.testing.assert_allclose(imputer.impute(stack).mean, expected, rtol=1e-5)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def asked(gappy, seed: int, **shape: int) -> Asked:
    stack = Stack.from_array(gappy(seed=seed, **shape))
    material = cases.Material(stack, Layer("v", "v", {}, stack.shape, np.dtype(np.float32)))
    return Asked(material, cases.Trial("pixel", 0, hold_out(stack, "pixel", 0.2, 0)))


def said(one: Asked, error: float, silent: bool = False) -> Result:
    """Errors of ``error`` standard deviations, about."""
    truth = one.material.stack.values[one.trial.held_out]
    lot = np.random.default_rng(0).uniform(0.9, 1.1, truth.size)
    mean = (truth + error * one.material.spread * lot).astype(np.float32)
    mean[: truth.size // 2 if silent else 0] = np.nan
    return Result(Key("c", "d", "pixel", 0, "m", "-"), mean, np.full_like(mean, np.nan), 1.0, True)


def test_a_row_pools_crops_of_any_shape_in_their_own_units(gappy) -> None:
    several = [asked(gappy, 0, t=8, ny=40, nx=40), asked(gappy, 1, t=5, ny=20, nx=50)]
    errors = {NEVER: 0.11, SAW: 0.1, f"{OTHER_RUN}b": 0.105, PRIOR: 0.2, "mean": 0.4, "linear": 0.22}
    answers = {name: [said(one, error) for one in several] for name, error in errors.items()}
    answers["dineof"] = [said(one, 0.01, silent=True) for one in several]
    row = make_row("a", "pixel", several, answers)
    assert row.hidden == sum(int(one.trial.held_out.sum()) for one in several)
    for name, error in errors.items():
        assert row.mae[name] == pytest.approx(error, rel=0.02)
    assert row.best == "linear"  # dineof says nothing about half of the cells
    ratio = row.ratio(SAW)
    assert ratio.value == pytest.approx(1.1, rel=1e-3)
    assert ratio.low <= ratio.value + 1e-6
    assert ratio.high >= ratio.value - 1e-6
    assert row.ratio(BEST).value == pytest.approx(0.5, rel=1e-3)
    assert math.isnan(row.ratio(SHIPPED).value)
    assert row.others == [row.mae[f"{OTHER_RUN}b"]]
    assert within([row]) == (0, 1)
    assert seen_against_prior([row]).value == pytest.approx(0.5, rel=1e-3)
    assert kept([row]).value == pytest.approx(math.log(0.55) / math.log(0.5), rel=1e-3)


def test_a_failed_run_is_no_error_of_zero(gappy) -> None:
    one = asked(gappy, 0)
    nothing = Result(Key("c", "d", "pixel", 0, "m", "-"), np.empty(0), np.empty(0), 0.0, True, "failed")
    row = make_row("a", "pixel", [one], {NEVER: [said(one, 0.1)], SAW: [nothing]})
    assert SAW not in row.mae
    assert math.isnan(row.ratio(SAW).value)
    assert str(row.ratio(SAW)) == "–"


# --- what the page says -----------------------------------------------------------------------------------------------


def findings(never: float, saw: float, spread: float = 0.001) -> Findings:
    """Two data sets, three patterns; the prior's error is 1, with draws around what is said."""
    rng = np.random.default_rng(0)
    rows = []
    for name, other in (("mcd43a4_slovenia", "x"), ("strbook_sst_anom", "y")):
        for kind in ("gap", "pixel", "frames"):
            mae = {
                NEVER: never,
                SAW: saw,
                f"{OTHER_RUN}{other}": saw * 1.02,
                SHIPPED: 0.8,
                PRIOR: 1.0,
                "linear": 1.1,
            }
            lot = {a: np.exp(spread * rng.standard_normal(2000)) for a in (SAW, SHIPPED, PRIOR, BEST)}
            values = {SAW: saw, SHIPPED: 0.8, PRIOR: 1.0, BEST: 1.1}
            rows.append(
                Row(name, kind, 50, mae, "linear", {a: never / v * lot[a] for a, v in values.items()})
            )
    course = left_out.Course(3, 400, 10.0, "cpu", "code")
    gone = {name: left_out.read_datasets()[name].gone for name in ("mcd43a4_slovenia", "strbook_sst_anom")}
    return Findings(
        rows, {EVERYTHING: course, **dict.fromkeys(gone, course)}, gone, {"mcd43a4_slovenia": False, "strbook_sst_anom": None},
        2000, [Cut("c-0", "mcd43a4_slovenia", (5, 32, 32), 0.1)], About("m", "0" * 64, "some", (1,), "command", {}), "400 steps each",
        "", 0.2, ["code"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("never", "saw", "spread", "expected"),
    [
        (0.905, 0.9, 0.001, "at most 0.6 % larger"),
        (0.99, 0.9, 0.001, "**Having seen a file helps.**"),
        (0.88, 0.9, 0.001, "Having seen a file does not help"),
        (0.6, 0.6, 0.2, "undecided"),
        (1.0, 1.01, 0.001, "no skill here"),
    ],
)
def test_the_verdict_follows_from_the_figures(never: float, saw: float, spread: float, expected: str) -> None:
    assert expected in leave_out_page.verdict(findings(never, saw, spread))


def test_the_page_holds_every_row_and_no_claim_of_its_own(tmp_path: Path) -> None:
    found = findings(0.95, 0.9)
    leave_out_page.write_page(tmp_path / "p.md", found, "p.png")
    leave_out_page.write_json(tmp_path / "p.json", found)
    leave_out_page.draw(found, tmp_path / "p.png")
    page = (tmp_path / "p.md").read_text()
    assert page.count("| MCD43 reflectance, Slovenia | ") == 3
    assert "| strbook_sst_anom, pacificSST | 3 | 400 |" in page
    assert "49 % of the gain" in page
    assert "they never saw MCD43 reflectance, Slovenia; by the recipe they saw SST anomalies" in page
    document = json.loads((tmp_path / "p.json").read_text())
    assert document["overall"][SAW]["value"] == pytest.approx(pooled(found.rows, SAW).value, abs=1e-6)
    assert len(document["rows"]) == 6
    assert (tmp_path / "p.png").stat().st_size > 5000


# --- a tiny run -------------------------------------------------------------------------------------------------------


def test_a_tiny_run_trains_with_and_without_and_is_not_repeated(
    tmp_path: Path, gappy, write_netcdf: Callable[..., Path]
) -> None:
    packed, data = tmp_path / "archives", tmp_path / "data"
    packed.mkdir()
    files = {"mcd43_slovenia/mcd43a4_slovenia": "band1", "complete_fields/pacificSST": "sst"}
    for seed, (name, variable) in enumerate({**files, "complete_fields/era5_t2m_uk_201903": "t2m"}.items()):
        values = gappy(t=6, ny=14, nx=14, seed=seed)
        np.savez(packed / f"{Path(name).name}-{variable}-0.npz", values=values)
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        write_netcdf(values, f"{seed}.nc", variable=variable).rename(data / f"{name}.nc")
    sets = left_out.read_datasets()
    sets["mcd43a4_slovenia"] = dataclasses.replace(sets["mcd43a4_slovenia"], entry={"variables": ["band1"]})
    command = ["--quick", "--datasets", "mcd43a4_slovenia,pacificSST", "--archives", str(packed), "--data", str(data),
               "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--device", "cpu", "--max-cells", "1200"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(left_out, "read_datasets", lambda: sets)
        assert leave_out.main(command) == 0
        weights = sorted((tmp_path / "cache" / "models").glob("*.safetensors"))
        written = [path.stat().st_mtime_ns for path in weights]
        assert leave_out.main(command) == 0
    names = ["everything", "without-mcd43a4_slovenia", "without-pacificSST"]
    assert [path.name.split(".")[0] for path in weights] == names
    assert [path.stat().st_mtime_ns for path in weights] == written
    cards = [json.loads(path.with_suffix(".json").read_text())["training"] for path in weights]
    assert [len(card["archives"]) for card in cards] == [3, 2, 2]
    assert [card["steps"] for card in cards] == [2, 2, 2]
    document = json.loads((tmp_path / "out" / "leave_out.json").read_text())
    first, second = document["rows"]
    common = {NEVER, SAW, SHIPPED, PRIOR, *leave_out.PEERS}
    assert set(first["mae"]) == {*common, f"{OTHER_RUN}pacificSST"}
    assert set(second["mae"]) == {*common, f"{OTHER_RUN}mcd43a4_slovenia"}
    assert document["scatter"] is not None
    page = (tmp_path / "out" / "leave_out.md").read_text()
    assert "the figures mean nothing" in page
    assert str(tmp_path) not in page
    assert (tmp_path / "out" / "leave_out.png").exists()


def test_weights_whose_card_contradicts_the_plan_are_refused(tmp_path: Path, gappy) -> None:
    path = tmp_path / "mcd43a4_slovenia-band1-0.npz"
    np.savez(path, values=gappy(t=6, ny=14, nx=14))
    other = tmp_path / "pacificSST-sst-0.npz"
    np.savez(other, values=gappy(t=6, ny=14, nx=14))
    plan = left_out.Plan(("mcd43a4_slovenia",), 1, None, 1, shapes=((1, 3, 8, 8),))
    model, course = left_out.trained(plan, [path, other], tmp_path / "models", "cpu")
    assert (course.archives, course.steps, bool(course.code)) == (1, 1, True)
    card = model.path.with_suffix(".json")
    card.write_text(card.read_text().replace(other.name, path.name))
    with pytest.raises(ModelError, match="its card says it saw it"):
        left_out.trained(plan, [path, other], tmp_path / "models", "cpu")


def test_unknown_data_sets_and_double_budgets_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert leave_out.main(["--datasets", "atlantis", "--archives", str(tmp_path)]) == 1
    assert "atlantis" in capsys.readouterr().err
    assert leave_out.main(["--steps", "3", "--minutes", "1"]) == 1
    assert "--minutes" in capsys.readouterr().err
    assert leave_out.main(["--archives", str(tmp_path)]) == 1
    assert "pack" in capsys.readouterr().err
