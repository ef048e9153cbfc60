"""Intervals from few earlier origins: a scale that means the same, errors in common, few of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimpute.forecasting.guesses import origins
from stimpute.forecasting.intervals import Missed, calibrated, mean_error, spatial_freedom, widening
from stimpute.forecasting.method import SBAForecaster
from stimpute.forecasting.series import History
from stimpute.stack import Stack

Z = 1.6449


def history(length: int, period: int = 0) -> History:
    shape = (1, length, 2)
    return History(
        torch.zeros(shape), torch.ones(shape, dtype=torch.bool), (period,), torch.zeros(1, 2), torch.ones(1)
    )


def test_nine_tenths_of_what_a_few_common_errors_bring_are_held():
    """Frames whose cells all err alike: the honest interval of few is Student's t, one from thousands of cells is far too narrow."""
    rng = np.random.default_rng(0)
    held, naive = [], []
    for _ in range(400):
        frames = rng.normal(size=(4, 1, 1)) * np.ones((4, 1, 50), "f4")
        missed = [Missed(i + 1, frames[i].astype("f4")) for i in range(3)]
        new = np.abs(frames[3])
        for freedom, kept in ((1.0, held), (1e6, naive)):
            kept.append(new <= Z * calibrated(missed, np.ones((1, 50), "f4"), freedom))
    assert 0.85 < np.mean(held) < 0.95
    assert np.mean(naive) < 0.8


def test_a_scale_that_meant_something_else_is_not_heard():
    """An earlier origin that had nothing to learn its error from said 10; today's scale says 1, and both missed by about 1."""
    error = np.random.default_rng(1).normal(size=(2, 3000)).astype("f4")
    today = np.ones_like(error)
    held = calibrated([Missed(2, error)], today, 1e6)
    assert held == pytest.approx(today, rel=0.05)
    assert calibrated([Missed(2, error, 10 * today)], today, 1e6) == pytest.approx(today / 10, rel=0.05)


def test_without_earlier_origins_the_scale_stays():
    scale = np.full((3, 4), 2.0, "f4")
    assert calibrated([], scale, 5.0) is scale
    assert calibrated([Missed(1, np.full((3, 4), np.nan, "f4"))], scale, 5.0) is scale


def test_the_fewer_independent_origins_the_wider_and_never_narrower_than_a_normal():
    few, more = widening([12], 12, 2.0), widening([12 * i for i in range(1, 9)], 12, 2.0)
    assert (few > more).all()
    assert (more > 1).all()
    nearer = widening([3, 6, 9, 12], 12, 2.0)
    assert nearer[-1] == pytest.approx(few[-1])  # four forecasts of the same twelve steps are one
    assert (np.diff(nearer) >= 0).all()


def test_the_freedom_of_a_field_is_that_of_its_patterns_whatever_is_missing():
    rng = np.random.default_rng(2)
    waves = np.linalg.qr(rng.normal(size=(60, 4)))[0]
    field = (rng.normal(size=(4000, 4)) @ waves.T).astype("f4")
    whole = np.ones(field.shape, bool)
    assert spatial_freedom(field, whole) == pytest.approx(4, rel=0.1)
    known = rng.random(field.shape) > 0.4
    assert spatial_freedom(np.where(known, field, 0), known) == pytest.approx(4, rel=0.1)
    assert spatial_freedom(np.zeros((5, 3), "f4"), np.ones((5, 3), bool)) == 1.0


def test_mean_error_leaves_out_what_is_not_known():
    assert mean_error([Missed(1, np.array([[1.0, np.nan], [-3.0, np.nan]], "f4"))]) == 2.0
    assert mean_error([]) == 0.0


def test_where_few_origins_fit_they_come_closer_together():
    assert origins(history(38, 12), 12) == [12]
    closer = origins(history(38, 12), 12, 8, nearer=True)
    assert len(closer) > 5
    assert max(closer) <= 38 - 18
    assert origins(history(400), 6, 8, nearer=True) == origins(history(400), 6)
    assert origins(history(20), 11, nearer=True) == []  # not one origin after which all steps are known


def test_intervals_of_short_series_hold_about_what_they_claim():
    """Three years of a few persistent patterns with a cycle: one earlier origin. Of a scale of another meaning they held half."""
    inside = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = np.zeros((56, 3))
        for t in range(1, 56):
            x[t] = 0.9 * x[t - 1] + 0.44 * rng.normal(size=3)
        month = np.arange(56)
        field = x @ rng.normal(size=(3, 30)) + 2 * np.cos(month * np.pi / 6)[:, None]
        field += 0.2 * rng.normal(size=field.shape)
        stack = Stack.from_array(field.reshape(56, 5, 6).astype("f4"), times=30.44 * month)
        for origin in (36, 40):
            past = stack.window(slice(0, origin), slice(None), slice(None))
            said = SBAForecaster().forecast(past, 12)
            inside.append(np.abs(stack.values[origin : origin + 12] - said.mean) <= Z * said.scale)
    assert 0.82 < np.mean(inside) < 0.98
