"""The sampler against a Gaussian whose exact answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from stimpute.diffusion.schedule import alpha_sigma, data_of, noised, sample_dpm

MEAN, SPREAD = 0.7, 0.4


def exact(seen: torch.Tensor, time: float) -> torch.Tensor:
    """Expectation of N(MEAN, SPREAD^2) data under the noise: the perfect network."""
    a, s = math.cos(time * math.pi / 2), math.sin(time * math.pi / 2)
    return MEAN + a * SPREAD**2 / (a**2 * SPREAD**2 + s**2) * (seen - a * MEAN)


@pytest.mark.parametrize(("steps", "tolerance"), [(16, 0.03), (25, 0.01)])
def test_the_sampler_carries_each_noise_where_the_exact_flow_does(steps, tolerance):
    noise = torch.linspace(-2.5, 2.5, 51, dtype=torch.float64)
    exactly = MEAN + SPREAD * noise  # the probability flow of a Gaussian is affine
    apart = (sample_dpm(exact, noise, steps) - exactly).abs().max()
    assert apart < tolerance
    assert (sample_dpm(exact, noise, 4 * steps) - exactly).abs().max() < 0.3 * apart  # second order


def test_mean_and_spread_of_the_samples():
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    drawn = sample_dpm(exact, noise, 20)
    assert abs(float(drawn.mean()) - MEAN) < 0.01
    assert abs(float(drawn.std()) - SPREAD) < 0.02


def test_velocity_and_data_say_the_same():
    data, noise = torch.randn(2, 5, 3).unbind(0)
    time = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    seen, velocity = noised(data, noise, time)
    assert torch.allclose(data_of(seen, velocity, time), data, atol=1e-6)
    alpha, sigma = alpha_sigma(time)
    assert torch.allclose(alpha**2 + sigma**2, torch.ones(5))


def test_zero_velocity_gives_back_the_noise():
    """What an untrained network does: data of nothing but unit noise."""
    noise = torch.randn(100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def nothing(seen: torch.Tensor, time: float) -> torch.Tensor:
        return math.cos(time * math.pi / 2) * seen

    assert (sample_dpm(nothing, noise, 20) - noise).abs().max() < 0.05
