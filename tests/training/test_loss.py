"""The loss counts what is wanted and nothing else; every example weighs the same; scores are right where known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from stimpute.metrics import crps_gaussian
from stimpute.model.batch import Batch
from stimpute.model.candidates import compute_candidates
from stimpute.model.st_transformer import Prediction
from stimpute.training.feed import Example
from stimpute.training.loss import (
    LossOptions,
    candidate_errors,
    gaussian_crps,
    training_loss,
)
from stimpute.training.validation import errors_of, summarise


def example(seed: int = 0, batch: int = 3) -> Example:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(batch, 4, 6, 6, generator=generator).cumsum(dim=1)
    valid = torch.rand(truth.shape, generator=generator) < 0.6
    return Example.from_truth(Batch.plain(truth, valid), truth, ~valid)


def answer(mean: torch.Tensor, scale: float = 1.0) -> Prediction:
    return Prediction(mean, torch.full_like(mean, scale))


def test_only_wanted_cells_count() -> None:
    one = example()
    mean = torch.zeros_like(one.target)
    elsewhere = torch.where(one.wanted, mean, torch.full_like(mean, 1e6))
    assert float(training_loss(answer(mean), one, None)) == float(training_loss(answer(elsewhere), one, None))


def test_gradient_is_zero_elsewhere_and_of_the_mean_that_of_the_absolute_error() -> None:
    one = example()
    mean = torch.zeros_like(one.target).requires_grad_()
    training_loss(answer(mean), one, None, LossOptions(scale_weight=5.0)).backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert bool((mean.grad[~one.wanted] == 0).all())
    count = one.wanted.flatten(1).sum(1).view(-1, 1, 1, 1)
    expected = -one.target.sign() / count / 3
    assert torch.allclose(mean.grad[one.wanted], expected.expand_as(mean)[one.wanted])


def test_every_example_weighs_the_same() -> None:
    one = example()
    few = one.wanted.clone()
    few[0] = False
    few[0, 0, 0, 0] = True
    unit = replace(one, target=torch.ones_like(one.target), wanted=few)
    mean = torch.ones_like(one.target)
    mean[0] = 4.0  # one cell of one example is wrong by 3
    assert float(training_loss(answer(mean), unit, None, LossOptions(0.0))) == pytest.approx(1.0)


def test_an_example_without_wanted_cells_counts_nothing() -> None:
    one = example()
    wanted = one.wanted.clone()
    wanted[1:] = False
    mean = torch.zeros_like(one.target)
    alone = Example(one.given, one.target, one.wanted)
    expected = (one.target[0].abs() * one.wanted[0]).sum() / one.wanted[0].sum()
    found = training_loss(answer(mean), replace(alone, wanted=wanted), None, LossOptions(0.0))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_relative_loss_of_the_best_candidate_is_one() -> None:
    one = example(batch=1)
    candidates = compute_candidates(one.given)
    each = candidate_errors(candidates, one)
    best = candidates.estimates[:, int(each[0].argmin())]
    loss = training_loss(answer(best), one, each.amin(dim=1), LossOptions(0.0))
    assert float(loss) == pytest.approx(1.0, rel=1e-5)


def test_crps_of_a_normal() -> None:
    # far off, it is the absolute error less scale / sqrt(pi); for a shrinking scale, the absolute error
    assert float(gaussian_crps(torch.tensor(50.0), torch.tensor(2.0))) == pytest.approx(
        50 - 2 / math.sqrt(math.pi), rel=1e-5
    )
    assert float(gaussian_crps(torch.tensor(-0.7), torch.tensor(1e-4))) == pytest.approx(0.7, rel=1e-3)


def test_crps_of_torch_is_that_of_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    residual = 5 * torch.randn(10_000, generator=generator, dtype=torch.float64)
    scale = torch.rand(10_000, generator=generator, dtype=torch.float64) + 0.01
    apart = gaussian_crps(residual, scale).numpy() - crps_gaussian(residual.numpy(), scale.numpy())
    assert abs(apart).max() < 1e-12, f"largest difference {abs(apart).max()}"


def test_crps_is_least_at_the_true_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    residual = 2.5 * torch.randn(200_000, generator=generator)
    scales = torch.tensor([1.5, 2.0, 2.5, 3.0, 4.0])
    scores = [float(gaussian_crps(residual, s).mean()) for s in scales]
    assert scores.index(min(scores)) == 2


def test_validation_of_the_truth_and_of_the_prior() -> None:
    one = example()
    candidates = compute_candidates(one.given)
    perfect = summarise([("a", errors_of(answer(one.target), one, candidates))])
    assert perfect.mae == 0
    assert perfect.coverage == 1
    assert perfect.vs_best < 0.05
    prior = summarise(
        [
            ("a", errors_of(answer(candidates.prior), one, candidates)),
            ("b", errors_of(answer(one.target), one, candidates)),
        ]
    )
    assert prior.groups["b"] == perfect.groups["a"]
    assert prior.examples == 6
    alone = summarise([("a", errors_of(answer(candidates.prior), one, candidates))])
    assert alone.vs_prior == pytest.approx(1.0)
