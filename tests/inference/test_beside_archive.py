"""Refining beside a fine archive of the same place."""

from __future__ import annotations

import numpy as np
import pytest

from stimpute.diffusion.method import ClassicalRefiner
from stimpute.errors import InputError, StimputeWarning
from stimpute.estimate import Estimate
from stimpute.inference.beside_archive import BesideArchive
from stimpute.protocols import Refining
from stimpute.stack import Stack


def place(steps: int, first: int = 0, seed: int = 0):
    ground = np.random.default_rng(9).normal(size=(12, 16))
    level = np.random.default_rng(seed).normal(size=(steps, 1, 1))
    days = np.arange(first, first + steps, dtype=float)
    return Stack.from_array((280 + 3 * ground + level).astype("f4"), times=days)


def coarse_of(fine: Stack, hidden: float = 0.4) -> Stack:
    t, ny, nx = fine.shape
    values = fine.values.reshape(t, ny // 2, 2, nx // 2, 2).mean(axis=(2, 4))
    values[np.random.default_rng(1).random(values.shape) < hidden] = np.nan
    return Stack.from_array(values)


def gaps(fine: Stack) -> Stack:
    return fine.hide(np.ones(fine.shape, dtype=bool))


def test_the_archives_detail_comes_out_and_block_means_stay():
    truth = place(6, 50, 2)
    coarse = coarse_of(truth)
    alone = ClassicalRefiner().refine(coarse, gaps(truth), Refining(2))
    told = BesideArchive(ClassicalRefiner(), place(20)).refine(coarse, gaps(truth), Refining(2))
    error = [np.abs(e.mean - truth.values).mean() for e in (alone, told)]
    assert error[1] < 0.2 * error[0]
    means = told.mean.reshape(6, 6, 2, 8, 2).mean(axis=(2, 4))
    assert np.abs(means - coarse.values)[coarse.valid].max() < 1e-2


def test_bounds_hold():
    truth = place(6, 50, 2)
    wanted = Refining(2, bounds=(None, 281.0))
    told = BesideArchive(ClassicalRefiner(), place(20)).refine(coarse_of(truth), gaps(truth), wanted)
    assert told.mean.max() <= 281.0


def test_an_archive_of_something_else_is_said_and_not_used():
    truth = place(6, 50, 2)
    coarse = coarse_of(truth)
    noise = Stack.from_array((1e4 * np.random.default_rng(5).normal(size=(20, 12, 16))).astype("f4"))
    with pytest.warns(StimputeWarning, match="explains nothing"):
        told = BesideArchive(ClassicalRefiner(), noise).refine(coarse, gaps(truth), Refining(2))
    alone = ClassicalRefiner().refine(coarse, gaps(truth), Refining(2))
    np.testing.assert_array_equal(told.mean, alone.mean)


def test_too_few_steps_are_refused():
    truth = place(6)
    with pytest.raises(InputError, match="at least 4"):
        BesideArchive(ClassicalRefiner(), place(2)).refine(coarse_of(truth), gaps(truth), Refining(2))


class Doubtful(ClassicalRefiner):
    """Says the same as the classical one, with ``doubt`` times its standard errors, and four members."""

    doubt = 1.0

    def refine(self, coarse: Stack, fine: Stack, wanted: Refining) -> Estimate:
        said = super().refine(coarse, fine, wanted)
        scale = self.doubt * said.scale
        apart = np.array([-1.5, -0.5, 0.5, 1.5], dtype="f4")[:, None, None, None]
        return Estimate(said.mean, scale, members=said.mean + apart * scale)


def noisy(steps: int, first: int, seed: int) -> Stack:
    calm = place(steps, first, seed)
    noise = np.random.default_rng(seed + 100).normal(scale=0.3, size=calm.shape)
    return Stack.from_array((calm.values + noise).astype("f4"), times=calm.times)


@pytest.mark.parametrize("doubt", [0.5, 1.0, 2.0])
def test_spread_is_judged_on_the_archive(doubt):
    truth, refiner = noisy(8, 100, 3), Doubtful()
    refiner.doubt = doubt
    told = BesideArchive(refiner, noisy(60, 0, 4)).refine(coarse_of(truth), gaps(truth), Refining(2))
    inside = np.abs(told.mean - truth.values) <= 1.645 * told.scale
    assert 0.84 < inside.mean() < 0.95
    spread = told.members.std(axis=0) / told.scale
    np.testing.assert_allclose(spread, np.std([-1.5, -0.5, 0.5, 1.5]), rtol=1e-3)


def test_a_short_archive_leaves_the_spread_as_it_is():
    truth = noisy(8, 100, 3)
    coarse, short = coarse_of(truth), noisy(20, 0, 4)
    scale = [
        BesideArchive(r, short).refine(coarse, gaps(truth), Refining(2)).scale
        for r in (ClassicalRefiner(), Doubtful())
    ]
    np.testing.assert_array_equal(*scale)


def test_an_archive_seen_in_its_middle_only_leaves_the_spread_as_it_is():
    truth = noisy(8, 100, 3)
    archive = noisy(60, 0, 4)
    unseen = np.ones(archive.shape, dtype=bool)
    unseen[29:31] = False
    told = BesideArchive(ClassicalRefiner(), archive.hide(unseen)).refine(
        coarse_of(truth), gaps(truth), Refining(2)
    )
    assert np.isfinite(told.scale).all()
    assert told.scale.dtype == np.float32


def test_where_nothing_was_observed_the_archive_says_what_is_usual():
    truth, archive = noisy(8, 100, 3), noisy(60, 0, 4)
    coarse = coarse_of(truth)
    nothing = coarse.hide(np.ones(coarse.shape, dtype=bool))
    mean, spread = BesideArchive(ClassicalRefiner(), archive).unseen(nothing, Refining(2))
    assert mean.shape == spread.shape == truth.shape
    ground = archive.values.mean(axis=0)
    assert np.abs(mean - ground).mean() < 0.2
    np.testing.assert_allclose(spread, np.broadcast_to(archive.values.std(axis=0), spread.shape), rtol=0.1)
    unseen = archive.hide(np.ones(archive.shape, dtype=bool))
    assert BesideArchive(ClassicalRefiner(), unseen).unseen(nothing, Refining(2)) is None
