"""Principal components with gaps: what they recover, what they leave alone, and how they compare with iterated EOFs."""

import pytest
import torch

from stimpute.classical import variational_pca as module
from stimpute.classical.eof import dineof
from stimpute.classical.variational_pca import variational_pca


def low_rank(rank, noise=0.1, missing=0.5, shape=(40, 24, 24)):
    """Patterns without any order in time or space, (1, T, H, W), and wide gaps (1, T, H, W)."""
    generator = torch.Generator().manual_seed(0)
    steps, height, width = shape
    truth = torch.randn(steps, rank, generator=generator) @ torch.randn(
        rank, height * width, generator=generator
    )
    truth = truth.reshape(1, *shape) / rank**0.5
    coarse = torch.rand(1, steps, height // 4, width // 4, generator=generator)
    valid = torch.nn.functional.interpolate(coarse, size=(height, width)) > missing
    return truth, truth + noise * torch.randn(truth.shape, generator=generator), valid


def missed(estimate, truth, valid):
    return float((estimate - truth)[~valid].abs().mean() / truth.std())


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_patterns_in_noise_are_recovered_whatever_the_number_of_components(rank):
    truth, values, valid = low_rank(rank)
    asked = [missed(variational_pca(values, valid, count=count), truth, valid) for count in (rank, 8)]
    assert max(asked) < 0.06
    assert asked[1] < 1.1 * asked[0], "components that the observations do not ask for vanish"


def test_wide_gaps_are_filled_better_than_by_iterated_eofs_of_the_right_number():
    truth, values, valid = low_rank(4, missing=0.7)
    best = min(
        missed(state, truth, valid) for state in dineof(values, valid, (1, 2, 3, 4), iterations=20).unbind(1)
    )
    assert missed(variational_pca(values, valid), truth, valid) < 0.8 * best


def test_without_gaps_the_leading_components_come_out():
    _, values, _ = low_rank(3, noise=0.02)
    everything = torch.ones_like(values, dtype=torch.bool)
    apart = (values - values.mean()).flatten(2)[0].double()
    u, s, v = torch.linalg.svd(apart, full_matrices=False)
    expected = (u[:, :3] * s[:3]) @ v[:3] + values.mean().double()
    found = variational_pca(values, everything).flatten(2)[0].double()
    assert float((found - expected).abs().max()) < 0.02 * float(values.std())


def test_noise_is_left_to_the_mean():
    generator = torch.Generator().manual_seed(3)
    values = 5 + torch.randn(1, 30, 20, 20, generator=generator)
    valid = torch.rand(values.shape, generator=generator) > 0.6
    filled = variational_pca(values, valid)
    assert float((filled - values[valid].mean()).square().mean().sqrt()) < 0.3 * float(values.std())


def test_empty_frames_are_linear_in_time_between_their_neighbours():
    _, values, valid = low_rank(2, noise=0.01)
    valid[:, [3, 4]] = False
    times = torch.arange(40.0)[None].clone()
    times[:, 5:] += 1.0
    filled = variational_pca(values, valid, times=times)[0]
    torch.testing.assert_close(filled[3], torch.lerp(filled[2], filled[5], 0.25))
    torch.testing.assert_close(filled[4], torch.lerp(filled[2], filled[5], 0.5))


def test_large_frames_settle_on_a_part_of_their_cells(monkeypatch):
    truth, values, valid = low_rank(3, missing=0.6)
    whole = variational_pca(values, valid)
    monkeypatch.setattr(module, "_MANY", 200)
    thinned = variational_pca(values, valid)
    assert not torch.equal(thinned, whole)
    assert missed(thinned, truth, valid) < 1.1 * missed(whole, truth, valid)
