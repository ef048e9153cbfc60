"""What the engine does differently for an adapted model: wider standard errors, and it says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.options import FillOptions
from stimpute.inference.summary import Adaptation, FillSummary
from stimpute.stack import Stack
from tests.inference.test_engine import Plane, gappy

pytestmark = pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")

KEPT = Adaptation("st-small", "abc", True, 2.0, 300, 240, False, 0.4, 0.3, 1.5, 1, 1000)


def filled(stack: Stack, adaptation: Adaptation | None) -> tuple[ArraySink, FillSummary]:
    method = Plane()
    method.adaptation = adaptation  # type: ignore[attr-defined]
    sink = ArraySink(stack.shape)
    return sink, fill_source(StackSource(stack), sink, method, FillOptions())


def test_standard_errors_are_as_much_wider_as_the_model_is_optimistic() -> None:
    stack = gappy((8, 30, 30), noise=1.0)
    plain, summary = filled(stack, None)
    wide, told = filled(stack, KEPT)
    np.testing.assert_array_equal(wide.values, plain.values)
    np.testing.assert_allclose(wide.standard_error, 1.5 * plain.standard_error, rtol=1e-5)
    assert told.layers[0].expected_error == pytest.approx(1.5 * summary.layers[0].expected_error)
    assert (summary.adaptation, told.adaptation) == (None, KEPT)
    assert told.to_dict()["adaptation"]["steps"] == 300
    assert KEPT.sentence in str(wide.history)
    assert "abc" in str(wide.history)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "st-small adapted, 300 steps in 2 min: error on the cells set aside 0.4000 -> 0.3000 sd; standard errors widened by 50.0%"),
        ({"optimism": 1.0, "stopped_early": True}, "in 2 min, stopped early: error on the cells set aside 0.4000 -> 0.3000 sd"),
        ({"kept": False}, "st-small not adapted: 300 steps in 2 min brought nothing on the cells set aside (error 0.4000 sd)"),
        ({"error_before": None, "error_after": None}, "st-small not adapted: too few observed cells to set some aside"),
    ],
)  # fmt: skip
def test_it_is_told_in_one_line(changes: dict[str, object], words: str) -> None:
    sentence = replace(KEPT, **changes).sentence  # type: ignore[arg-type]
    assert sentence.endswith(words)
