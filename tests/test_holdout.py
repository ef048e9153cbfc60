"""Every pattern hides what it says, meets its share, and leaves cells their last observation."""

import numpy as np
import pytest

from stimpute.errors import InputError, UsageError
from stimpute.holdout import KINDS, hold_out
from stimpute.stack import Stack

SPATIAL = [kind for kind in KINDS if kind != "frames"]


def cloudy(shape=(12, 30, 40), seed=0):
    """A stack whose frames carry rectangular clouds and whose first five columns are never observed."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32).cumsum(axis=2)
    for t in range(shape[0]):
        y, x = rng.integers(0, shape[1] - 10), rng.integers(5, shape[2] - 12)
        values[t, y : y + 10, x : x + 12] = np.nan
    values[:, :, :5] = np.nan
    return Stack.from_array(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_share_subset_and_last_observation(kind, share):
    stack = cloudy()
    hidden = hold_out(stack, kind, share, seed=3)
    assert not (hidden & stack.gap).any()
    tolerance = 0.05 if kind == "frames" else 0.001
    assert abs(hidden.sum() / stack.valid.sum() - share) <= tolerance
    remaining = (stack.valid & ~hidden).any(axis=0)
    assert (remaining == stack.valid.any(axis=0)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_seed_decides(kind):
    stack = cloudy()
    first = hold_out(stack, kind, 0.3, seed=1)
    assert (first == hold_out(stack, kind, 0.3, seed=1)).all()
    assert (first != hold_out(stack, kind, 0.3, seed=2)).any()


@pytest.mark.parametrize("kind", SPATIAL)
@pytest.mark.parametrize("shape", [(1, 20, 30), (1, 1, 50), (1, 1, 2)])
def test_one_step(kind, shape):
    stack = Stack.from_array(np.random.default_rng(0).normal(size=shape))
    hidden = hold_out(stack, kind, 0.3)
    assert 1 <= hidden.sum() < hidden.size
    assert abs(hidden.sum() - 0.3 * hidden.size) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_cell_series(kind):
    stack = Stack.from_array(np.arange(50.0).reshape(50, 1, 1))
    assert hold_out(stack, kind, 0.2).sum() == 10


def test_frames_are_whole_and_never_all():
    stack = cloudy((6, 30, 40))
    hidden = hold_out(stack, "frames", 0.99)
    whole = [bool(hidden[t].sum() == stack.valid[t].sum()) for t in range(6)]
    assert not all(whole)
    few = hold_out(stack, "frames", 0.3)
    touched = few.any(axis=(1, 2))
    assert touched.sum() == 2
    assert (few[touched].sum(axis=(1, 2)) > 0.95 * stack.valid[touched].sum(axis=(1, 2))).all()


def test_frames_of_a_single_step_is_an_error():
    with pytest.raises(InputError, match="two"):
        hold_out(Stack.from_array(np.ones((1, 3, 3))), "frames")


def test_gaps_are_those_of_other_frames():
    values = np.ones((8, 40, 40), dtype=np.float32)
    values[::2, 10:22, 15:24] = np.nan  # every gap is a 12 x 9 rectangle
    stack = Stack.from_array(values)
    hidden = hold_out(stack, "gap", 0.01, seed=5)
    for t in range(1, 8, 2):
        rows, cols = np.nonzero(hidden[t])
        if len(rows):
            assert np.ptp(rows) < 12
            assert np.ptp(cols) < 9


def test_gap_without_own_gaps_makes_blobs():
    stack = Stack.from_array(np.zeros((5, 40, 40)))
    hidden = hold_out(stack, "gap", 0.2)
    assert hidden.sum() == round(0.2 * 8000)
    inner = hidden[:, 1:] & hidden[:, :-1]
    assert inner.sum() > 0.8 * hidden.sum()  # neighbours go together, unlike random cells (0.2)


def test_value_hides_one_tail():
    values = np.random.default_rng(0).normal(size=(10, 20, 20))
    stack = Stack.from_array(values)
    shifts = set()
    for seed in range(6):
        hidden = hold_out(stack, "value", 0.2, seed=seed)
        shifts.add(np.sign(values[hidden].mean()))
        assert abs(values[hidden].mean()) > 0.8
    assert shifts == {-1.0, 1.0}


def test_block_lasts_several_steps():
    hidden = hold_out(Stack.from_array(np.zeros((30, 20, 20))), "block", 0.1)
    runs = hidden[1:] & hidden[:-1]
    assert runs.sum() > 0.5 * hidden.sum()


def test_observed_once_everywhere_is_hidden_all_the_same():
    values = np.full((2, 4, 4), np.nan)
    values[0, :2], values[1, 2:] = 1.0, 2.0
    assert hold_out(Stack.from_array(values), "pixel", 0.25).sum() == 4


@pytest.mark.parametrize("share", [0.0, 1.0, -1, 2])
def test_bad_share(share):
    with pytest.raises(UsageError, match="between 0 and 1"):
        hold_out(cloudy(), "pixel", share)


def test_bad_kind_and_too_few():
    with pytest.raises(UsageError, match="no hold-out"):
        hold_out(cloudy(), "clouds")
    with pytest.raises(InputError, match="too few"):
        hold_out(Stack.from_array([[[1.0, np.nan]]]), "pixel")
