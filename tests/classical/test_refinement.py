"""Finer fields whose block means are the coarse ones."""

from __future__ import annotations

import pytest
import torch

from stimpute.classical.refinement import (
    block_mean,
    finer_detail,
    interpolated,
    refined,
    spread_blocks,
    within_bounds,
)


def wave(ny: int, nx: int) -> torch.Tensor:
    """A smooth field (ny, nx) of a few waves."""
    y, x = torch.meshgrid(torch.arange(ny) / ny, torch.arange(nx) / nx, indexing="ij")
    return torch.sin(7 * x + 2 * y) + torch.cos(9 * y - 3 * x)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_block_means_of_the_refined_field_are_the_coarse_values(factor):
    coarse = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block_mean(refined(coarse, factor), factor), coarse, atol=1e-5)


def test_a_smooth_field_comes_back_better_than_by_cubic_interpolation_alone():
    truth = wave(48, 48)
    coarse = block_mean(truth, 4)
    ours, cubic = ((f(coarse, 4) - truth)[8:-8, 8:-8].abs().mean() for f in (refined, interpolated))
    assert ours < 0.5 * cubic


def test_gradients_reach_the_coarse_field():
    coarse = torch.randn(1, 1, 3, 3, requires_grad=True)
    refined(coarse, 2).square().sum().backward()
    assert bool((coarse.grad.abs() > 0).all())


def test_bounds_and_block_means_hold_together():
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(4, 6, 6, generator=generator)
    rough = spread_blocks(coarse, 3) + torch.randn(4, 18, 18, generator=generator)
    kept = within_bounds(rough, coarse, 3, 0.0, 1.0)
    assert kept.min() >= 0
    assert kept.max() <= 1
    assert torch.allclose(block_mean(kept, 3), coarse, atol=1e-3)


def test_detail_is_what_half_the_resolution_does_not_hold():
    assert finer_detail(torch.full((1, 1, 5, 4), 3.0)).abs().max() < 1e-5
    board = (torch.arange(6)[:, None] + torch.arange(6)[None]) % 2 * 2.0 - 1
    assert torch.allclose(finer_detail(board[None, None])[0, 0], board, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1)])
def test_single_rows_and_columns(shape):
    coarse = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(block_mean(refined(coarse, 2), 2), coarse, atol=1e-5)
    assert finer_detail(coarse).shape == coarse.shape
