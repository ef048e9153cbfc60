"""Tokens from cells: gaps are never read, patches are an inverse pair, sets of covariates have no order."""

import torch

from stimpute.layers.embeddings import MaskedMLP, SetCovariates, from_patches, to_patches
from stimpute.layers.positions import sinusoidal, space_encoding, time_encoding


def test_masked_mlp_never_reads_a_gap() -> None:
    torch.manual_seed(0)
    embed = MaskedMLP(1, 8)
    valid = torch.tensor([True, False, True])
    first = embed(torch.tensor([[1.0], [5.0], [2.0]]), valid)
    second = embed(torch.tensor([[1.0], [float("nan")], [2.0]]), valid)
    assert torch.equal(first, second)
    assert torch.equal(first[1], embed.mask_token)


def test_patches_are_an_inverse_pair_for_any_size() -> None:
    cells = torch.randn(2, 3, 5, 7, 4, generator=torch.Generator().manual_seed(0))
    for patch in (1, 2, 3, 4):
        assert torch.equal(from_patches(to_patches(cells, patch), patch, 5, 7), cells)


def test_order_of_covariates_does_not_matter() -> None:
    torch.manual_seed(0)
    embed = SetCovariates(2, 8)
    values, valid, relation = (
        torch.randn(2, 3, 4, 4, 5),
        torch.rand(2, 3, 4, 4, 5) > 0.3,
        torch.randn(2, 5, 2),
    )
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = embed(values[..., order], valid[..., order], relation[:, order])
    assert torch.allclose(embed(values, valid, relation), shuffled, atol=1e-6)


def test_encodings_have_their_shapes_and_tell_steps_apart() -> None:
    times = torch.tensor([[0.0, 1 / 24, 2 / 24, 30.0]])
    phases = times / 365.2425 % 1
    encoded = time_encoding(times, phases, times % 1, 64)
    assert encoded.shape == (1, 4, 64)
    assert torch.pdist(encoded[0]).min() > 0.1
    assert space_encoding(5, 9, 64, times.device).shape == (5, 9, 64)
    assert sinusoidal(times, 2, 1.0, 10.0).shape == (1, 4, 2)
