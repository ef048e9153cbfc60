"""Linear interpolation in time and the means, against numpy."""

import numpy as np
import torch

from stimpute.classical.mean import overall_mean, temporal_mean
from stimpute.classical.temporal import linear, linear_filled


def gappy(shape, share=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    valid = torch.rand(shape, generator=generator) > share
    times = torch.rand(shape[:2], generator=generator).add(0.1).cumsum(1)
    return values, valid, times


def test_linear_is_numpy_interp_in_uneven_time():
    values, valid, times = gappy((2, 9, 3, 4))
    estimate, _, _ = linear(values, valid, times)
    for b, y, x in np.ndindex(2, 3, 4):
        seen = valid[b, :, y, x].numpy()
        if not seen.any():
            assert estimate[b, :, y, x].isnan().all()
            continue
        series, when = values[b, :, y, x].numpy(), times[b].numpy()
        expected = np.interp(when, when[seen], series[seen])
        np.testing.assert_allclose(estimate[b, :, y, x].numpy(), expected, atol=1e-5)


def test_distances_to_neighbours():
    valid = torch.tensor([False, True, False, False, True]).reshape(1, 5, 1, 1)
    times = torch.tensor([[0.0, 1.0, 3.0, 4.0, 8.0]])
    _, before, after = linear(torch.ones(1, 5, 1, 1), valid, times)
    inf = float("inf")
    assert before.flatten().tolist() == [inf, 0, 2, 3, 0]
    assert after.flatten().tolist() == [1, 0, 5, 4, 0]


def test_observed_cells_keep_their_value_exactly():
    values, valid, times = gappy((1, 7, 5, 5))
    assert torch.equal(linear(values, valid, times)[0][valid], values[valid])


def test_never_observed_cells_take_the_mean_of_the_step():
    values = torch.tensor([[[[1.0, 3.0, 0.0]], [[2.0, 6.0, 0.0]]]])
    valid = torch.tensor([[[[True, True, False]]]]).expand(1, 2, 1, 3)
    filled = linear_filled(values, valid, torch.tensor([[0.0, 1.0]]))
    assert filled[0, :, 0, 2].tolist() == [2.0, 4.0]
    assert not linear_filled(values, torch.zeros_like(valid), torch.tensor([[0.0, 1.0]])).any()


def test_means_are_nanmeans():
    values, valid, _ = gappy((2, 4, 3, 5), share=0.7)
    nan = np.where(valid, values, np.nan).astype(np.float64)
    valid[0, 2] = False
    nan[0, 2] = np.nan
    count = valid.numpy().sum(axis=1, keepdims=True)
    expected = np.where(count > 0, np.nansum(nan, axis=1, keepdims=True) / np.maximum(count, 1), np.nan)
    np.testing.assert_allclose(temporal_mean(values, valid).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(overall_mean(values, valid).flatten(), np.nanmean(nan, (1, 2, 3)), atol=1e-6)
