"""Windows, masks and attention: exact against brute force, whatever the input's size."""

import pytest
import torch
from torch import Tensor

from stimpute.layers.attention import (
    BalancedAttention,
    MultiHeadAttention,
    SpatialAttention,
    TemporalAttention,
    WindowAttention,
    Windows,
    pool_steps,
    window_partition,
    window_reverse,
)

SIZES = [(4, 4), (5, 7), (1, 1), (2, 9), (8, 3)]


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_partition_and_reverse_are_inverse() -> None:
    x = tokens(2, 3, 8, 12, 5)
    assert torch.equal(window_reverse(window_partition(x, 4), 4), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_windows_cut_and_join_any_size(size: tuple[int, int], shift: int) -> None:
    x = tokens(1, 2, *size, 3)
    windows = Windows(*size, 4, shift, x.device)
    assert torch.equal(windows.join(windows.cut(x)), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
def test_window_attention_is_attention_among_the_cells_of_each_window(
    size: tuple[int, int], shift: int
) -> None:
    torch.manual_seed(0)
    layer, x = WindowAttention(16, 2, 4, shift), tokens(1, 2, *size, 16)
    got = layer(x)
    first = (4 - shift) % 4
    for row in range(size[0]):
        for col in range(size[1]):
            rows = [r for r in range(size[0]) if (r + first) // 4 == (row + first) // 4]
            cols = [c for c in range(size[1]) if (c + first) // 4 == (col + first) // 4]
            part = x[0][:, rows][:, :, cols]
            alone = layer.attention(part.reshape(2, -1, 16)).view_as(part)
            here = alone[:, rows.index(row), cols.index(col)]
            assert torch.allclose(got[0, :, row, col], here, atol=1e-5)


def test_no_edge_wraps() -> None:
    torch.manual_seed(0)
    layer, x = WindowAttention(16, 2, 4, 2), tokens(1, 1, 8, 8, 16)
    changed = x.clone()
    changed[:, :, :, -1] += 10.0
    assert torch.equal(layer(x)[:, :, :, 0], layer(changed)[:, :, :, 0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
def test_padding_never_bleeds_into_balanced_attention(size: tuple[int, int], shift: int) -> None:
    torch.manual_seed(0)
    layer, x = BalancedAttention(16, 2, 4, shift), tokens(1, 3, *size, 16)
    windows = Windows(*size, 4, shift, x.device)
    cut = windows.cut(x)
    means = windows.mean(cut)
    if windows.real is not None:
        noisy = torch.where(windows.real[None, None, ..., None], cut, torch.full_like(cut, 1e3))
        assert torch.equal(windows.mean(noisy * windows.real[None, None, ..., None]), means)
    assert torch.isfinite(layer(x)).all()


def test_balanced_attention_sees_beyond_its_window_and_its_frame() -> None:
    torch.manual_seed(0)
    layer, x = BalancedAttention(16, 2, 4, 0), tokens(1, 3, 8, 8, 16)
    changed = x.clone()
    changed[0, 2, 7, 7] += 1.0
    moved = (layer(changed) - layer(x)).abs().amax(dim=-1)
    assert moved[0, 0, 0, 0] > 1e-6
    assert WindowAttention(16, 2, 4, 0)(x).shape == x.shape


def test_pooling_of_steps_keeps_the_length_when_steps_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stimpute.layers.attention.MAX_POOLED_TOKENS", 8)
    torch.manual_seed(0)
    layer, x = BalancedAttention(16, 2, 4, 0), tokens(1, 7, 8, 8, 16)
    assert layer(x, torch.arange(7.0)[None]).shape == x.shape
    assert pool_steps(tokens(1, 7, 2), 4).shape == (1, 2, 2)


@pytest.mark.parametrize("kind", [TemporalAttention, SpatialAttention])
def test_fused_equals_plain(kind: type) -> None:
    torch.manual_seed(0)
    layer, x = kind(16, 2), tokens(2, 5, 6, 4, 16)
    fused = layer(x)
    layer.attention.fused = False
    difference = (layer(x) - fused).abs().max().item()
    assert difference < 1e-5, f"largest difference {difference}"


def test_rotation_depends_on_time_differences_only() -> None:
    torch.manual_seed(0)
    layer, x = TemporalAttention(16, 2), tokens(1, 5, 2, 2, 16)
    times = torch.tensor([[0.0, 1.0, 2.5, 7.0, 40.0]])
    assert torch.allclose(layer(x, times), layer(x, times + 300.0), atol=1e-4)
    assert not torch.allclose(layer(x, times), layer(x, times * 2), atol=1e-3)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads"):
        MultiHeadAttention(10, 4)
