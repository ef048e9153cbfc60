"""Candidates start from what covariates say where that helps on the internal hold-out, and know nothing of them elsewhere."""

from dataclasses import replace

import pytest
import torch

from stimpute.model.batch import Batch
from stimpute.model.candidates import CANDIDATES, REGRESSED, REGRESSED_KRIGED, Candidates, compute_candidates
from stimpute.model.drift import Drift, is_less, like_most_gaps
from stimpute.model.drift import missed as missed_by
from stimpute.model.inner_hold_out import hidden_by_turns

FIELDS = ("estimates", "log_error", "prior", "prior_error", "features")


def driven(samples: int = 1, seed: int = 0) -> tuple[Batch, torch.Tensor]:
    """A stack that follows a rough covariate, with a tenth of noise, and its truth."""
    generator = torch.Generator().manual_seed(seed)
    driver = torch.randn(samples, 1, 12, 12, 12, generator=generator)
    truth = driver[:, 0].sin() + 0.1 * torch.randn(driver[:, 0].shape, generator=generator)
    valid = torch.rand(truth.shape, generator=generator) < 0.5
    batch = Batch.plain(torch.where(valid, truth, 0.0), valid)
    return replace(batch, dynamic=driver, dynamic_valid=torch.ones_like(driver, dtype=torch.bool)), truth


def unrelated(batch: Batch, sample: int = 0) -> Batch:
    dynamic = batch.dynamic.clone()
    dynamic[sample] = torch.randn(dynamic[sample].shape, generator=torch.Generator().manual_seed(99))
    return replace(batch, dynamic=dynamic)


def without(batch: Batch) -> Batch:
    return replace(batch, dynamic=batch.dynamic[:, :0], dynamic_valid=batch.dynamic_valid[:, :0])


def missed(found: Candidates, batch: Batch, truth: torch.Tensor, name: str) -> float:
    return float((found.estimates[:, CANDIDATES.index(name)] - truth)[~batch.valid].abs().mean())


@pytest.mark.parametrize("fast", [False, True])
def test_all_candidates_but_kriging_start_from_covariates_that_help(fast: bool) -> None:
    batch, truth = driven()
    found, bare = compute_candidates(batch, fast), compute_candidates(without(batch), fast)
    assert torch.equal(found.estimates[:, 5], bare.estimates[:, 5])
    assert CANDIDATES[5] == "kriging"
    for name in set(CANDIDATES) - {"kriging"}:
        assert missed(found, batch, truth, name) < 0.6 * missed(bare, batch, truth, name), name
    error = (found.prior - truth)[~batch.valid].abs().mean()
    assert error < 0.4 * (bare.prior - truth)[~batch.valid].abs().mean()


@pytest.mark.parametrize("fast", [False, True])
def test_it_is_told_which_samples_covariates_help(fast: bool) -> None:
    batch, _ = driven(samples=2)
    found = compute_candidates(unrelated(batch, sample=1), fast)
    assert found.covariates_help is not None
    assert found.covariates_help.tolist() == [True, False]
    assert compute_candidates(batch, fast, names=("kriging", "spline")).covariates_help is None
    helped = compute_candidates(without(batch), fast).covariates_help
    assert helped is not None
    assert not helped.any()


def test_the_regression_stands_alone_and_with_kriging() -> None:
    batch, _ = driven()
    found = compute_candidates(batch)
    alone, kriged = (found.estimates[:, CANDIDATES.index(name)] for name in (REGRESSED, REGRESSED_KRIGED))
    drawn = compute_candidates(batch, names=(REGRESSED,)).estimates[:, 0]
    torch.testing.assert_close(alone, drawn)
    assert not torch.equal(alone, kriged)


def test_covariates_that_do_not_help_change_nothing() -> None:
    batch, _ = driven()
    found, bare = compute_candidates(unrelated(batch)), compute_candidates(without(batch))
    for field in FIELDS:
        assert torch.equal(getattr(found, field), getattr(bare, field)), field


def test_a_sample_does_not_depend_on_what_helps_its_neighbour() -> None:
    batch = unrelated(driven(samples=2)[0], sample=1)
    both = compute_candidates(batch)
    for number in (0, 1):
        alone = compute_candidates(batch.sample(number))
        for field in FIELDS:
            torch.testing.assert_close(getattr(both, field)[number : number + 1], getattr(alone, field))


def test_what_is_left_over_is_what_the_kriged_regression_adds() -> None:
    said, kriged = [torch.full((2, 1, 1, 1), 3.0)], [torch.full((2, 1, 1, 1), 3.5)]
    drift = Drift(said, kriged, torch.tensor([True, False]))
    assert drift.start(0).flatten().tolist() == [3.0, 0.0]
    assert drift.rest([torch.full((2, 1, 1, 1), 9.0)])[0].flatten().tolist() == [0.5, 9.0]


def test_errors_must_fall_clearly_and_everywhere() -> None:
    before = torch.rand(3200, generator=torch.Generator().manual_seed(4)) + 0.5
    by_part = before.view(16, 200)
    assert is_less(0.9 * before, before)
    assert not is_less(0.99 * before, before)
    in_few = torch.where(torch.arange(16)[:, None] < 3, 0.2 * by_part, 1.02 * by_part).flatten()
    assert in_few.sum() < 0.9 * before.sum()
    assert not is_less(in_few, before)
    assert not is_less(0.5 * before[:15], before[:15])


@pytest.mark.parametrize("seed", [3, 7, 22])
def test_few_cells_are_not_misled(seed: int) -> None:
    """Smooth noise beside a small smooth stack: by chance the hidden cells as a whole follow it, by more than ``HELPS``."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(3, 6, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, (12, 12), mode="bicubic")
    truth, noise = smooth[:1] + 0.5 * torch.randn(1, 6, 12, 12, generator=generator), smooth[None, 1:]
    valid = torch.rand(truth.shape, generator=generator) < 0.3
    batch = Batch.plain(torch.where(valid, truth, 0.0), valid)
    misled = replace(batch, dynamic=noise, dynamic_valid=torch.ones_like(noise, dtype=torch.bool))
    assert torch.equal(compute_candidates(misled).prior, compute_candidates(batch).prior)


def test_covariates_that_go_missing_with_the_values_are_judged_without_them() -> None:
    """Bands under the same clouds: where values are wanted, covariates are not there, although they are where some are hidden."""
    batch, _ = driven()
    clouded = replace(batch, dynamic_valid=batch.valid[:, None].clone())
    found, bare = compute_candidates(clouded), compute_candidates(without(batch))
    for field in FIELDS:
        assert torch.equal(getattr(found, field), getattr(bare, field)), field


def test_whole_frames_judge_where_most_gaps_lie_in_empty_ones() -> None:
    valid = torch.rand(2, 40, 10, 10, generator=torch.Generator().manual_seed(5)) < 0.8
    valid[0, :2] = False  # 200 gaps of about 960
    valid[1, ::2] = False  # 2000 of about 2400
    hidden = hidden_by_turns(valid)
    asked = like_most_gaps(valid, hidden)
    assert torch.equal(asked[0][0], hidden[0][0])
    assert not asked[0][1].any()
    for before, after in zip(hidden[1:], asked[1:], strict=True):
        assert not after[0].any()
        assert torch.equal(after[1], before[1])
        assert before[1].any()


def test_errors_are_those_of_the_view_that_was_asked() -> None:
    values, none = torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3, dtype=torch.bool)
    first, second = none.clone(), none.clone()
    first[..., 0], second[..., 1:] = True, True
    said = [torch.full_like(values, -2.0), torch.full_like(values, 3.0)]
    assert missed_by(said, values, [first, second]).flatten().tolist() == [2.0, 3.0, 3.0]


def test_empty_frames_hear_of_covariates_that_observed_ones_do_not_need() -> None:
    """Every frame has a level of its own, which frames that hold observations tell themselves."""
    generator = torch.Generator().manual_seed(5)
    level = torch.randn(1, 40, 1, 1, generator=generator)
    truth = level + 0.05 * torch.randn(1, 40, 10, 10, generator=generator)
    valid = torch.rand(truth.shape, generator=generator) < 0.8
    valid[:, torch.randperm(40, generator=generator)[:25]] = False
    driver = (level + 0.1 * torch.randn(1, 40, 1, 1, generator=generator)).expand_as(truth)[:, None]
    batch = Batch.plain(torch.where(valid, truth, 0.0), valid)
    told = replace(batch, dynamic=driver, dynamic_valid=torch.ones_like(driver, dtype=torch.bool))
    error, without_it = ((compute_candidates(b).prior - truth)[~valid].abs().mean() for b in (told, batch))
    assert error < 0.4 * without_it
