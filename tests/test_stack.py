"""A stack checks itself once, and hiding leaves nothing to read."""

import numpy as np
import pytest

from stimpute.grid import Grid
from stimpute.stack import Stack

NAN = float("nan")


def small(**changes):
    parts = {
        "values": np.array([[[1.0, 0.0]], [[3.0, 4.0]]], dtype=np.float32),
        "valid": np.array([[[True, False]], [[True, True]]]),
        "times": np.array([0.0, 2.5]),
        "grid": Grid.from_shape(1, 2),
        "year_phase": np.zeros(2),
        "day_phase": np.zeros(2),
    }
    return Stack(**{**parts, **changes})


def test_a_good_one():
    stack = small(static={"dem": np.zeros((1, 2), np.float32)})
    assert stack.shape == (2, 1, 2)
    assert stack.gap.tolist() == [[[False, True]], [[False, False]]]
    np.testing.assert_array_equal(stack.with_nan(), [[[1, NAN]], [[3, 4]]])
    with pytest.raises(TypeError):
        stack.static["dem"] = 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"values": np.zeros((2, 1, 2))}, "float32"),
        ({"valid": np.ones((2, 1, 2), np.uint8), "values": np.zeros((2, 1, 2), np.float32)}, "bool"),
        ({"valid": np.ones((2, 2, 1), bool)}, "valid"),
        ({"grid": Grid.from_shape(2, 2)}, "grid"),
        ({"times": np.array([0.0])}, "times"),
        ({"times": np.array([1.0, 1.0])}, "increase"),
        ({"times": np.array([1.0, NAN])}, "increase"),
        ({"values": np.array([[[1, 0]], [[np.inf, 4]]], np.float32)}, "finite"),
        ({"values": np.ones((2, 1, 2), np.float32)}, "gap holds"),
        ({"dynamic": {"rain": np.zeros((1, 1, 2), np.float32)}}, "rain"),
        ({"static": {"dem": np.zeros((2, 2), np.float32)}}, "dem"),
    ],
)
def test_what_does_not_fit(changes, said):
    with pytest.raises(ValueError, match=said):
        small(**changes)


def test_hidden_cells_hold_nothing():
    stack = small()
    hidden = stack.hide(np.array([[[True, True]], [[False, False]]]))
    assert hidden.values.tolist() == [[[0, 0]], [[3, 4]]]
    assert hidden.valid.tolist() == [[[False, False]], [[True, True]]]
    assert stack.values[0, 0, 0] == 1


def test_windows_keep_their_time_origin():
    stack = Stack.from_array(
        np.arange(24.0).reshape(2, 3, 4),
        times=[0, 7],
        dynamic={"rain": np.arange(24.0).reshape(2, 3, 4)},
        static={"dem": np.arange(12.0).reshape(3, 4)},
    )
    part = stack.window(slice(1, 2), slice(1, 3), slice(0, 2))
    assert part.times.tolist() == [7]
    assert part.values.tolist() == part.dynamic["rain"].tolist() == [[[16, 17], [20, 21]]]
    assert part.static["dem"].tolist() == [[4, 5], [8, 9]]
    assert part.grid.y.tolist() == [1, 2]


def test_from_array_takes_nan_inf_and_a_given_validity_as_gaps():
    stack = Stack.from_array([[[1.0, NAN, np.inf, 4.0]]], valid=[[[True, True, True, False]]])
    assert stack.valid.tolist() == [[[True, False, False, False]]]
    assert stack.values.tolist() == [[[1, 0, 0, 0]]]


def test_phases_default_to_a_year_that_starts_with_the_stack():
    stack = Stack.from_array(np.zeros((2, 1, 1)), times=[0, 0.25 + 365.2425 / 2])
    assert stack.year_phase.tolist() == pytest.approx([0, 0.5 + 0.25 / 365.2425])
    assert stack.day_phase.tolist() == pytest.approx([0, (0.25 + 365.2425 / 2) % 1])
