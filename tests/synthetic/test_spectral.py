"""Random fields have the covariance they were asked for, in space, in time, and on the move."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stimpute.synthetic.draw import Draw
from stimpute.synthetic.spectral import Covariance, random_field, temporal_factor


@pytest.fixture
def draw() -> Draw:
    return Draw(torch.Generator().manual_seed(11))


def independent_days(n: int, steps: int) -> Tensor:
    return torch.arange(steps, dtype=torch.float32).expand(n, steps)


def gamma(field: Tensor, lag: int, axis: int) -> float:
    """Matheron's semivariance at one lag along one axis."""
    length = field.shape[axis]
    step = field.narrow(axis, lag, length - lag) - field.narrow(axis, 0, length - lag)
    return float(step.square().mean() / 2)


@pytest.mark.parametrize("len_scale", [1.5, 5.0, 12.0, 60.0])
@pytest.mark.parametrize("size", [(32, 32), (20, 41)])
def test_exponential_variogram_from_one_cell_to_twice_the_tile(draw, len_scale, size):
    field = random_field(draw, Covariance.isotropic(4, len_scale), independent_days(4, 200), size)
    assert field.shape == (4, 200, *size)
    tolerance = 0.06 if len_scale < 10 else 0.2  # waves longer than the domain are few
    for axis in (2, 3):
        for lag in (1, 3, 8, 16):
            expected = 1 - math.exp(-lag / len_scale)
            assert gamma(field, lag, axis) == pytest.approx(expected, rel=tolerance, abs=0.01), (axis, lag)


def test_matern_three_halves_variogram(draw):
    field = random_field(
        draw, Covariance.isotropic(4, 6.0, smoothness=1.5), independent_days(4, 200), (32, 32)
    )
    for lag in (1, 4, 10, 20):
        r = math.sqrt(3) * lag / 6.0
        assert gamma(field, lag, 3) == pytest.approx(1 - (1 + r) * math.exp(-r), rel=0.08, abs=0.01)


def test_anisotropy_stretches_along_its_angle(draw):
    plain = Covariance.isotropic(2, 4.0)
    along_x = replace(plain, ratio=torch.full((2,), 9.0))
    field = random_field(draw, along_x, independent_days(2, 200), (32, 32))
    assert gamma(field, 3, 3) == pytest.approx(1 - math.exp(-3 / 12), rel=0.15)
    assert gamma(field, 3, 2) == pytest.approx(1 - math.exp(-9 / 4), rel=0.15)
    along_y = replace(along_x, angle=torch.full((2,), math.pi / 2))
    field = random_field(draw, along_y, independent_days(2, 200), (32, 32))
    assert gamma(field, 3, 2) < gamma(field, 3, 3) / 2


def test_memory_over_uneven_times(draw):
    times = torch.tensor([0.0, 1.0, 5.0, 105.0]).expand(60, 4)
    field = random_field(draw, Covariance.isotropic(60, 2.0, memory=4.0), times, (24, 24))
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 3)):
        expected = math.exp(-float(times[0, j] - times[0, i]) / 4.0)
        assert float((field[:, i] * field[:, j]).mean()) == pytest.approx(expected, abs=0.06)


def test_dispersed_fields_forget_detail_first(draw):
    covariance = replace(Covariance.isotropic(60, 6.0, memory=10.0), dispersion=torch.full((60,), 1.0))
    field = random_field(draw, covariance, torch.tensor([0.0, 3.0]).expand(60, 2), (32, 32))
    detail = field - torch.nn.functional.avg_pool2d(field, 9, 1, 4, count_include_pad=False)
    smooth = field - detail

    def kept(x: Tensor) -> float:
        return float((x[:, 0] * x[:, 1]).mean() / x.square().mean())

    assert kept(detail) < 0.6 * kept(smooth)


def test_velocity_carries_the_field(draw):
    covariance = replace(
        Covariance.isotropic(8, 4.0, memory=1e6), velocity=torch.tensor([2.0, -1.0]).expand(8, 2)
    )
    field = random_field(draw, covariance, independent_days(8, 3), (32, 32))
    there, here = field[:, 2, 4:, :-2], field[:, 0, :-4, 2:]  # two days later: 4 cells down, 2 to the left
    assert float((there * here).mean() / (here.square().mean())) > 0.98
    assert float((field[:, 2] - field[:, 0]).square().mean()) > 0.1


def test_no_wrap_around(draw):
    field = random_field(draw, Covariance.isotropic(4, 3.0), independent_days(4, 300), (24, 24))
    assert abs(float((field[..., 0] * field[..., -1]).mean())) < 0.03


def test_temporal_factor_reproduces_the_correlation():
    times = torch.tensor([[0.0, 1.0, 4.0]]).expand(3, 3)
    factor = temporal_factor(times, torch.tensor([2.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    correlation = factor @ factor.transpose(1, 2)
    assert float(correlation[0, 0, 2]) == pytest.approx(math.exp(-2), abs=1e-4)
    r = math.sqrt(3) * 0.5
    assert float(correlation[1, 0, 1]) == pytest.approx((1 + r) * math.exp(-r), abs=1e-4)
    assert torch.allclose(correlation[2], torch.eye(3), atol=1e-4)
