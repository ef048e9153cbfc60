"""Coarsen, hide, refine, score."""

from __future__ import annotations

import numpy as np
import pytest

from stimpute.diffusion.method import ClassicalRefiner
from stimpute.errors import InputError, UsageError
from stimpute.estimate import Estimate
from stimpute.evaluation.refining import (
    RefiningCase,
    coarsened,
    crps_of_members,
    evaluate_refining,
    hidden_cells,
)
from stimpute.metrics import crps_gaussian
from stimpute.stack import Stack


@pytest.fixture
def stack(gappy):
    return Stack.from_array(gappy(t=5, ny=13, nx=17, missing=0.1))


def test_block_means_are_over_known_cells_of_blocks_half_known():
    fine = Stack.from_array(
        np.array([[[1, 3, 5, 5], [np.nan, np.nan, 5, 5], [1, 1, np.nan, np.nan], [1, 1, 2, np.nan]]])
    )
    coarse, cut = coarsened(fine, 2)
    assert coarse.values.tolist() == [[[2, 5], [1, 0]]]
    assert coarse.valid.tolist() == [[[True, True], [True, False]]]
    assert cut.shape == (1, 4, 4)
    assert np.allclose(coarse.grid.x, [0.5, 2.5])


def test_what_does_not_fill_whole_blocks_is_cut_off(stack):
    coarse, cut = coarsened(stack, 4)
    assert coarse.shape == (5, 3, 4)
    assert cut.shape == (5, 12, 16)
    with pytest.raises(InputError, match="too few"):
        coarsened(stack, 8)


def test_hidden_cells_are_fixed_random_or_a_quarter():
    valid = np.ones((10, 8, 8), dtype=bool)
    fixed, quarter = (hidden_cells(valid, RefiningCase(kind, 0.4)) for kind in ("fixed", "quarter"))
    assert (fixed == fixed[0]).all()
    assert fixed[0].sum() == round(0.4 * 64)
    assert quarter[0].sum() == 16
    random = hidden_cells(valid, RefiningCase("random", 0.4))
    assert 0.3 < random.mean() < 0.5
    assert not (random == random[0]).all()
    with pytest.raises(UsageError, match="--holdout clouds"):
        RefiningCase("clouds")


def test_a_method_that_knows_the_truth_scores_zero_and_sees_no_values(stack):
    truth = coarsened(stack, 4)[1]

    class Oracle:
        name = "oracle"

        def refine(self, coarse, fine, wanted):
            assert not fine.valid.any()
            assert not coarse.values[~coarse.valid].any()
            return Estimate(truth.values, np.ones(truth.shape, np.float32))

    board = evaluate_refining(
        stack,
        "sst",
        "K",
        4,
        [("oracle", Oracle), ("classical", ClassicalRefiner)],
        [RefiningCase("random", 0.3)],
    )
    oracle, classical = board.rows
    assert oracle.scores.mae == 0
    assert oracle.scores.n == int(truth.valid.sum())
    assert 0 < classical.scores.mae < board.spread


def test_crps_of_an_ensemble_tends_to_that_of_its_distribution():
    members = np.random.default_rng(0).normal(size=(4000, 1))
    exact = float(crps_gaussian(np.array([0.3]), np.array([1.0]))[0])
    assert crps_of_members(np.array([0.3]), members)[0] == pytest.approx(exact, abs=0.02)
