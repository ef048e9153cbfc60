"""What an archive expects of a coarse stack."""

from __future__ import annotations

import math

import pytest
import torch

from stimpute.classical.fine_climate import FineClimate
from stimpute.classical.refinement import block_mean

HOURS = torch.arange(72, dtype=torch.float64) / 24


def place(seed: int = 0, h: int = 8, w: int = 12):
    """Static detail, a daily cycle that differs by cell, and one pattern that comes and goes."""
    lot = torch.Generator().manual_seed(seed)
    ground, amplitude, pattern = torch.randn(3, h, w, generator=lot)
    return ground, amplitude, pattern


def fields(times, scores):
    ground, amplitude, pattern = place()
    day = torch.cos(2 * math.pi * times.float())[:, None, None]
    return ground + amplitude * day + scores[:, None, None] * pattern


def fitted(values, valid=None, times=HOURS):
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else valid
    return FineClimate.fit(torch.where(valid, values, 0.0), valid, times / 365, times % 1, times, 2)


def asked(climate, values, times=HOURS, shown=None):
    coarse = block_mean(values, 2)
    shown = torch.ones_like(coarse, dtype=torch.bool) if shown is None else shown
    return climate.background(torch.where(shown, coarse, 0.0), shown, times / 365, times % 1)


def test_cycle_and_patterns_of_the_archive_are_found_again_under_blocks_half_of_which_are_hidden():
    lot = torch.Generator().manual_seed(1)
    climate = fitted(fields(HOURS, torch.randn(72, generator=lot)))
    later = HOURS[:24] + 10
    truth = fields(later, torch.randn(24, generator=lot))
    shown = torch.rand(24, 4, 6, generator=lot) < 0.5
    said = asked(climate, truth, later, shown)
    assert len(climate.patterns) > 0
    assert (said - truth).abs().mean() < 0.15 * truth.abs().mean()


def test_detail_that_the_halves_of_an_archive_do_not_share_is_not_believed():
    noise = torch.randn(8, 8, 12, generator=torch.Generator().manual_seed(2))
    climate = fitted(noise, times=HOURS[:8])
    inside = climate.cycle[0] - block_mean(climate.cycle[0], 2).repeat_interleave(2, 0).repeat_interleave(
        2, 1
    )
    mean = noise.mean(dim=0)
    raw = mean - block_mean(mean, 2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert inside.std() < 0.7 * raw.std()


def test_gaps_of_the_archive_are_never_read():
    values = fields(HOURS, torch.zeros(72))
    valid = torch.rand(values.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    valid[:, 3, 4] = False  # never observed at all
    one, two = (fitted(torch.where(valid, values, x), valid) for x in (0.0, 0.0))
    assert torch.equal(one.cycle, two.cycle)
    said = asked(one, values)
    assert torch.isfinite(said).all()
    ever = torch.ones(8, 12, dtype=torch.bool)
    ever[3, 4] = False
    assert (said - values)[:, ever].abs().mean() < 0.25 * values.abs().mean()


def test_a_short_archive_is_refused():
    with pytest.raises(ValueError, match="3 steps"):
        fitted(torch.randn(3, 4, 4), times=HOURS[:3])
