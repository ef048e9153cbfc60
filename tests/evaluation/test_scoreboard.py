"""The scoreboard: what is hidden, what is scored, what is said."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from stimpute.errors import InputError, UsageError
from stimpute.estimate import Estimate
from stimpute.evaluation.forecasts import ForecastBoard, ForecastRow
from stimpute.evaluation.sample import sampled_stack
from stimpute.evaluation.scoreboard import (
    EvaluateOptions,
    Row,
    Scoreboard,
    crop_to,
    evaluate,
    frame_distance_km,
)
from stimpute.grid import Grid
from stimpute.inference.memory import StackSource
from stimpute.metrics import Scores
from stimpute.protocols import Layer, Window
from stimpute.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")


@dataclass
class Constant:
    """Says one number everywhere, and remembers what it was shown."""

    value: float
    name: str = "constant"
    sees_whole: bool = True
    shown: Stack | None = None

    def prepare(self, overview: Stack) -> Constant:
        return self

    def impute(self, stack: Stack) -> Estimate:
        self.shown = stack
        return Estimate(np.full(stack.shape, self.value, dtype=np.float32))


@dataclass
class Refusing:
    """Cannot do anything."""

    name: str = "refusing"
    sees_whole: bool = True

    def prepare(self, overview: Stack) -> Refusing:
        raise InputError("not with this stack")


def make_stack(shape: tuple[int, int, int] = (10, 20, 20), missing: float = 0.3) -> Stack:
    rng = np.random.default_rng(0)
    values = rng.normal(5, 1, shape).astype(np.float32)
    values[rng.random(shape) < missing] = np.nan
    return Stack.from_array(values)


def layer(stack: Stack) -> Layer:
    return Layer("v", "v", {}, stack.shape, np.dtype("f4"), "K")


def test_scores_are_those_of_the_hidden_cells_by_hand() -> None:
    stack, method = make_stack(), Constant(4.0)
    board = evaluate(
        stack, layer(stack), [("constant", lambda _: method)], EvaluateOptions(kinds=("pixel",), share=0.25)
    )
    assert method.shown is not None
    hidden = stack.valid & ~method.shown.valid
    assert hidden.sum() == round(0.25 * stack.valid.sum())
    assert not method.shown.values[hidden].any()
    scores = board.rows[0].scores
    assert scores is not None
    assert scores.n == hidden.sum()
    assert scores.mae == pytest.approx(float(np.abs(stack.values[hidden] - 4).mean()), rel=1e-5)
    assert scores.bias == pytest.approx(float((4 - stack.values[hidden]).mean()), rel=1e-5)
    assert 0.8 < scores.coverage < 0.97
    np.testing.assert_array_equal(np.isfinite(board.maps[0].error), hidden.any(axis=0))


def test_a_method_that_fails_is_said_and_the_others_go_on() -> None:
    stack = make_stack()
    methods = [("refusing", lambda _: Refusing()), ("constant", lambda _: Constant(5.0))]
    board = evaluate(stack, layer(stack), methods, EvaluateOptions(kinds=("gap", "frames")))
    assert [row.note for row in board.rows if row.method == "refusing"] == ["failed: not with this stack"] * 2
    assert all(row.scores is not None for row in board.rows if row.method == "constant")


def test_bins_hold_every_scored_cell() -> None:
    stack = make_stack()
    for by in ("distance", "length"):
        options = EvaluateOptions(kinds=("block",), by=by, seeds=(0, 1))  # type: ignore[arg-type]
        row = evaluate(stack, layer(stack), [("constant", lambda _: Constant(5.0))], options).rows[0]
        assert row.scores is not None
        assert sum(b.scores.n for b in row.bins) == row.scores.n


def test_ratios_are_geometric_means_against_the_best_other() -> None:
    def row(method: str, kind: str, mae: float) -> Row:
        return Row(method, kind, Scores(10, mae, mae, 0, 0, 0, 0, 0), (), 0.0, True)

    rows = (
        row("st", "a", 1.0),
        row("x", "a", 2.0),
        row("y", "a", 4.0),
        row("st", "b", 4.0),
        row("x", "b", 2.0),
    )
    board = Scoreboard("v", "", (1, 1, 1), 0, 1, 0.2, (0,), None, "", rows, Grid.from_shape(1, 1))
    assert board.ratios()["st"] == pytest.approx(math.sqrt(0.5 * 2))
    assert board.ratios()["y"] == pytest.approx(4.0)


def test_what_is_undefined_of_forecasts_is_none_in_json() -> None:
    scores = Scores(3, 1.0, 1.0, 0.0, math.nan, 0.5, math.nan, math.nan)
    rows = (ForecastRow("ar", scores, (1.0, math.nan), 0.1), ForecastRow("sba", None, (), 0.1, "failed"))
    board = ForecastBoard("v", "", (5, 1, 1), 2, (3,), rows)
    plain = json.loads(json.dumps(board.to_dict(), allow_nan=False))
    assert plain["rows"][0]["mae_by_lead"] == [1.0, None]
    assert plain["rows"][0]["scores"]["crps"] is None
    assert plain["rows"][1]["scores"] is None
    assert plain["ratios"] == {"ar": None, "sba": None}


def test_distances_are_within_the_frame_and_in_km() -> None:
    valid = np.zeros((2, 1, 4), dtype=bool)
    valid[0, 0, 0] = True
    grid = Grid("affine", (1, 4), np.arange(4) * 500.0, np.zeros(1), "length", 1e-3)
    distance = frame_distance_km(valid, grid)
    np.testing.assert_allclose(distance[0, 0], [0, 0.5, 1, 1.5])
    assert np.isinf(distance[1]).all()


def test_large_stacks_are_cropped_where_most_is_observed() -> None:
    ever = np.zeros((100, 200), dtype=bool)
    ever[60:95, 120:190] = True
    window = crop_to(ever, 10, 10 * 35 * 70)
    (y0, y1), (x0, x1) = window.y, window.x
    assert ever[y0:y1, x0:x1].mean() > 0.6
    assert np.prod(window.shape) <= 10 * 35 * 70 * 1.5
    assert crop_to(np.ones((20, 3000), dtype=bool), 10, 100_000).shape == (10, 20, 500)
    assert crop_to(np.ones((32, 32), dtype=bool), 1000, 102_400) == Window((900, 1000), (0, 32), (0, 32))


def test_the_nearest_observation_may_lie_beyond_the_seam() -> None:
    grid = Grid("affine", (3, 360), np.arange(360.0) - 179.5, np.array([1.0, 0, -1]), "degrees", wraps=True)
    valid = np.zeros((1, 3, 360), dtype=bool)
    valid[0, 1, 0] = True
    distance = frame_distance_km(valid, grid)[0, 1]
    assert distance[359] == pytest.approx(distance[1], rel=1e-9)
    assert distance.argmax() == 180


def test_the_sample_says_what_it_left_out() -> None:
    stack = make_stack((10, 60, 60))
    part, notes = sampled_stack(StackSource(stack), 0, 16_000)
    assert part.shape == (10, 40, 40)
    assert "evaluated on" in notes[0]
    whole, notes = sampled_stack(StackSource(stack), 0, 36_000)
    assert whole.shape == stack.shape
    assert notes == []


def test_the_sample_knows_nothing_from_outside_the_domain() -> None:
    stack = make_stack((10, 60, 60))
    domain = np.zeros((60, 60), dtype=bool)
    domain[30:, 30:] = True
    for cells in (12_000, 36_000):
        part, _ = sampled_stack(StackSource(stack, domain=domain), 0, cells)
        assert part.valid.sum() == stack.valid[:, domain].sum()


def test_nothing_to_hide_is_an_error() -> None:
    stack = Stack.from_array(np.where(np.arange(8).reshape(2, 2, 2) == 3, 1.0, np.nan))
    with pytest.raises(InputError, match="1 observed"):
        evaluate(stack, layer(stack), [("constant", lambda _: Constant(5.0))], EvaluateOptions())
    with pytest.raises(UsageError, match="moon"):
        EvaluateOptions(kinds=("moon",))  # type: ignore[arg-type]


def test_the_same_evaluation_twice_is_the_same() -> None:
    stack = make_stack()
    boards = [
        evaluate(stack, layer(stack), [("c", lambda _: Constant(5.0))], EvaluateOptions(seeds=(3,)))
        for _ in range(2)
    ]
    assert boards[0].to_dict() == boards[1].to_dict() | {
        "rows": [{**row.to_dict(), "seconds": boards[0].rows[0].seconds} for row in boards[1].rows]
    }
