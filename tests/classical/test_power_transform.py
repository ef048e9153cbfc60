"""Yeo-Johnson against scipy, and back again."""

import pytest
import torch
from scipy import stats

from stimpute.classical.power_transform import POWERS, PowerTransform


@pytest.mark.parametrize("power", POWERS)
def test_is_scipys_and_goes_back(power: float) -> None:
    values = torch.linspace(-4, 6, 101, dtype=torch.float64)
    transform = PowerTransform(power, center=1.0, unit=2.0, gain=0.0)
    expected = stats.yeojohnson((values.numpy() - 1) / 2, lmbda=power)
    found = transform.forward(values)
    torch.testing.assert_close(found, torch.from_numpy(expected))
    torch.testing.assert_close(transform.backward(found), values)


@pytest.mark.parametrize(("skew", "power"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 2.0)])
def test_finds_which_tail_is_long(skew: float, power: float) -> None:
    normal = torch.randn(20_000, generator=torch.Generator().manual_seed(3))
    values = normal if skew == 0 else skew * torch.exp(normal)
    found = PowerTransform.fit(values)
    assert abs(found.power - power) <= 0.25
    assert found.gain < 0.01 if skew == 0 else found.gain > 0.3


@pytest.mark.parametrize("values", [[], [2.0], [2.0, 2.0, 2.0], [0.0] * 99 + [5.0]])
def test_values_that_hardly_differ_stay_finite(values: list[float]) -> None:
    given = torch.tensor(values)
    transform = PowerTransform.fit(given)
    back = transform.backward(transform.forward(given))
    torch.testing.assert_close(back, given)


@pytest.mark.parametrize("power", POWERS)
def test_far_outside_of_what_was_seen_it_stays_finite_and_rising(power: float) -> None:
    far = torch.tensor([-50.0, -5.0, 0.0, 5.0, 50.0])
    back = PowerTransform(power, 0.0, 1.0, 1.0).backward(far)
    assert torch.isfinite(back).all()
    assert (back.diff() > 0).all()
