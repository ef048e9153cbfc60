"""Normalised convolution against sums written out."""

import numpy as np
import torch

from stimpute.classical.convolution import normalized, normalized_many


def test_equals_the_weighted_mean_written_out():
    rng = np.random.default_rng(0)
    field, seen = rng.normal(size=(5, 6, 7)).astype(np.float32), rng.random((5, 6, 7)) > 0.4
    estimate, density = normalized(torch.from_numpy(field)[None], torch.from_numpy(seen)[None], 1.3, 0.8)
    t, y, x = np.meshgrid(*(np.arange(n) for n in field.shape), indexing="ij")
    for cell in [(0, 0, 0), (2, 3, 4), (4, 5, 6)]:
        distance = ((t - cell[0]) / 0.8) ** 2 + ((y - cell[1]) / 1.3) ** 2 + ((x - cell[2]) / 1.3) ** 2
        weight = np.exp(-distance / 2)
        assert np.isclose(estimate[0][cell], (weight * field)[seen].sum() / weight[seen].sum(), atol=1e-3)
        assert np.isclose(density[0][cell], weight[seen].sum() / weight.sum(), atol=1e-5)


def test_zero_width_keeps_frames_and_cells_apart():
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    estimate, _ = normalized(values, torch.ones_like(values, dtype=torch.bool), 0.0, 0.0)
    torch.testing.assert_close(estimate, values, atol=1e-3, rtol=0)


def test_infinite_width_in_time_averages_over_it():
    values = torch.randn(1, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    estimate, _ = normalized(values, torch.ones_like(values, dtype=torch.bool), 0.0, float("inf"))
    torch.testing.assert_close(estimate, values.mean(1, keepdim=True).expand_as(values), atol=1e-4, rtol=0)


def test_real_times_weigh_by_distance():
    values = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    valid = torch.tensor([True, False, True]).reshape(1, 3, 1, 1)
    even, _ = normalized(values, valid, 0.0, 1.0, torch.tensor([[0.0, 1.0, 2.0]]))
    near_last, _ = normalized(values, valid, 0.0, 1.0, torch.tensor([[0.0, 3.0, 4.0]]))
    assert abs(even[0, 1, 0, 0].item() - 0.5) < 1e-4 < near_last[0, 1, 0, 0].item() - 0.5


def test_far_from_data_it_is_the_mean_of_the_stack():
    values = torch.zeros(1, 1, 1, 60)
    values[..., 0] = 5.0
    valid = values > 0
    estimate, density = normalized(values, valid, 1.0, 0.0)
    assert abs(estimate[0, 0, 0, -1].item() - 5.0) < 1e-5
    assert density[0, 0, 0, -1].item() < 1e-6


def test_many_fields_with_one_density_equal_one_by_one_and_long_axes_equal_a_dense_product():
    generator = torch.Generator().manual_seed(3)
    fields = torch.randn(2, 3, 70, 9, 60, generator=generator)
    valid = torch.rand(2, 70, 9, 60, generator=generator) < 0.3
    many, density = normalized_many(fields, valid, 5.0, 1.5)
    time = torch.softmax(-0.5 * ((torch.arange(70.0)[:, None] - torch.arange(70.0)) / 1.5) ** 2, dim=-1)
    x = torch.softmax(-0.5 * ((torch.arange(60.0)[:, None] - torch.arange(60.0)) / 5.0) ** 2, dim=-1)
    y = torch.softmax(-0.5 * ((torch.arange(9.0)[:, None] - torch.arange(9.0)) / 5.0) ** 2, dim=-1)
    dense = torch.einsum("ts,yi,xj,bsij->btyx", time, y, x, valid.float())
    assert (density - dense).abs().max() < 1e-5
    for k in range(3):
        one, own_density = normalized(fields[:, k], valid, 5.0, 1.5)
        assert torch.equal(many[:, k], one)
        assert torch.equal(density, own_density)
