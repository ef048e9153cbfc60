"""Series of cells from patterns that all share."""

import torch

from stimpute.classical.temporal_patterns import regress_on_patterns


def low_rank(
    steps: int = 20, side: int = 8, rank: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    series = torch.randn(1, steps, rank, generator=generator)
    maps = torch.randn(1, rank, side * side, generator=generator)
    return (series @ maps).reshape(1, steps, side, side) / rank**0.5, generator


def test_a_cell_seen_half_of_the_time_follows_the_patterns() -> None:
    truth, generator = low_rank()
    valid = torch.rand(truth.shape, generator=generator) < 0.5
    rough = torch.where(valid, truth, 0.7 * truth)  # filled too weakly
    found = regress_on_patterns(truth, valid, rough, count=2)
    gap = ~valid
    assert (found - truth)[gap].abs().mean() < 0.5 * (rough - truth)[gap].abs().mean()


def test_never_reads_a_gap() -> None:
    truth, generator = low_rank(seed=1)
    valid = torch.rand(truth.shape, generator=generator) < 0.6
    filled = torch.where(valid, truth, 0.0)
    soiled = torch.where(valid, truth, 1e6)
    torch.testing.assert_close(
        regress_on_patterns(soiled, valid, filled), regress_on_patterns(truth, valid, filled)
    )


def test_no_observations_no_change() -> None:
    truth, _ = low_rank(seed=2)
    nothing = torch.zeros_like(truth, dtype=torch.bool)
    found = regress_on_patterns(truth, nothing, truth, count=19)
    torch.testing.assert_close(found, truth, atol=1e-3, rtol=1e-3)


def test_few_steps_are_left_as_they_are() -> None:
    filled = torch.randn(2, 3, 4, 4)
    assert regress_on_patterns(filled, torch.ones_like(filled, dtype=torch.bool), filled) is filled


def test_constant_stacks_and_single_cells_stay_finite() -> None:
    for shape in ((1, 12, 5, 5), (2, 40, 1, 1)):
        flat = torch.full(shape, 3.0)
        valid = torch.zeros(shape, dtype=torch.bool)
        valid[:, ::2] = True
        assert torch.isfinite(regress_on_patterns(flat, valid, flat)).all()
