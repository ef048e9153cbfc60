"""ST-PointFormer: every point in space and time a token, attention over all of them, whatever is missing (arXiv 2410.05323)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from stimpute.diffusion.config import DiffReconConfig
from stimpute.layers.attention import MultiHeadAttention, Windows
from stimpute.layers.embeddings import MaskedMLP, perceptron
from stimpute.layers.positions import space_encoding, time_encoding

_EXCLUDED = -1e9
_RATES = (0.15, 1.5)  # by which attention falls off, in powers of e
_PAIRS = 1 << 26  # biases held at once


class PointFormer(nn.Module):
    """Value, position, time and features of each point, summed; only observed points are attended to.

    Where there are more points than ``block_tokens`` they attend inside space-time blocks, shifted by half in every
    second layer.
    """

    def __init__(self, config: DiffReconConfig, features: int) -> None:
        super().__init__()
        dim = config.token_dim
        self.block_tokens = config.block_tokens
        self.value = MaskedMLP(1, dim)
        self.features = perceptron(features, dim, dim)
        self.space, self.time = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dim = dim
        self.layers = nn.ModuleList(
            PointLayer(dim, config.num_heads, config.nearness) for _ in range(config.point_depth)
        )

    def forward(
        self,
        values: Tensor,
        valid: Tensor,
        features: Tensor,
        times: Tensor,
        year_phase: Tensor,
        day_phase: Tensor,
    ) -> Tensor:
        """``values``, ``valid`` (B, T, H, W), ``features`` (B, T, H, W, F), times (B, T) -> (B, T, H, W, token_dim)."""
        _, t, h, w = values.shape
        where = self.space(space_encoding(h, w, self.dim, values.device))
        when = self.time(time_encoding(times, year_phase, day_phase, self.dim))[:, :, None, None]
        tokens: Tensor = self.value(values[..., None], valid) + self.features(features) + where + when
        steps, side = block_shape(t, h, w, self.block_tokens)
        for number, layer in enumerate(self.layers):
            tokens = layer(tokens, valid, steps, side, number % 2 == 1)
        return tokens


class PointLayer(nn.Module):
    """Attention inside blocks, then a perceptron, both residual."""

    def __init__(self, dim: int, num_heads: int, nearness: bool = False) -> None:
        super().__init__()
        self.near = nn.Parameter(_rates(num_heads)) if nearness else None
        self.before, self.after = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, num_heads)
        self.mlp = perceptron(dim, 2 * dim, dim)

    def forward(self, tokens: Tensor, valid: Tensor, steps: int, side: int, shifted: bool) -> Tensor:
        """Tokens (B, T, H, W, C); blocks of ``steps`` x ``side`` x ``side``."""
        _, t, h, w, _ = tokens.shape
        shift = side // 2 if shifted and max(h, w) > side else 0
        windows = Windows(h, w, side, shift, tokens.device)
        cut = windows.cut(self.before(tokens))
        real = windows.cut(valid[..., None].to(tokens.dtype))[..., 0] > 0
        first = steps // 2 if shifted and t > steps else 0
        edges = [0, *range(first or steps, t, steps), t]
        parts = [self._block(cut[:, a:b], real[:, a:b]) for a, b in pairwise(edges)]
        tokens = tokens + windows.join(torch.cat(parts, dim=1))
        result: Tensor = tokens + self.mlp(self.after(tokens))
        return result

    def _block(self, cut: Tensor, real: Tensor) -> Tensor:
        """(B, T, rows, cols, cells, C) -> the same shape, each block attending to its observed points."""
        b, t, rows, cols, cells, c = cut.shape
        sequences = cut.permute(0, 2, 3, 1, 4, 5).reshape(b * rows * cols, t * cells, c)
        seen = real.permute(0, 2, 3, 1, 4).reshape(b * rows * cols, 1, 1, t * cells)
        bias = torch.zeros(seen.shape, device=cut.device, dtype=cut.dtype).masked_fill(~seen, _EXCLUDED)
        mixed = self._mixed(sequences, bias, t, math.isqrt(cells))
        mixed = mixed * seen.any(dim=-1, keepdim=True)[:, 0].to(mixed)  # nothing observed: nothing said
        result: Tensor = mixed.view(b, rows, cols, t, cells, c).permute(0, 3, 1, 2, 4, 5)
        return result

    def _mixed(self, sequences: Tensor, bias: Tensor, steps: int, side: int) -> Tensor:
        """Attention of sequences (N, steps * side * side, C), a few at once where every pair has a bias of its own."""
        if self.near is None:
            mixed: Tensor = self.attention(sequences, bias)
            return mixed
        apart = -(self.near.exp()[:, :, None, None] * _distances(steps, side, bias)).sum(dim=1)  # heads, L, L
        few = max(1, _PAIRS // apart.numel())
        parts = zip(torch.split(sequences, few), torch.split(bias, few), strict=True)
        return torch.cat([self.attention(some, apart + hidden) for some, hidden in parts])


def _rates(heads: int) -> Tensor:
    """(heads, 2): logs of how much attention falls off per cell and per step; from wide in space and short in time to the reverse."""
    falling = torch.linspace(math.log(_RATES[0]), math.log(_RATES[1]), heads)
    return torch.stack((falling, falling.flip(0)), dim=1)


def _distances(steps: int, side: int, like: Tensor) -> Tensor:
    """(2, L, L): cells and steps between the points of a block, L = steps * side * side."""
    ranges = (torch.arange(n, device=like.device, dtype=like.dtype) for n in (steps, side, side))
    when, y, x = (axis.flatten() for axis in torch.meshgrid(*ranges, indexing="ij"))
    cells = torch.hypot(y[:, None] - y, x[:, None] - x)
    return torch.stack((cells, (when[:, None] - when).abs()))


def block_shape(steps: int, height: int, width: int, tokens: int) -> tuple[int, int]:
    """Steps and side of the blocks that a (T, H, W) stack is cut into: all of it, if it is small; else about as long as wide.

    >>> block_shape(8, 10, 10, 1024), block_shape(400, 40, 40, 1024), block_shape(400, 4, 4, 1024)
    ((8, 10), (10, 10), (64, 4))
    """
    longest = max(height, width)
    if steps * longest**2 <= tokens:
        return steps, longest
    side = min(longest, max(2, math.floor(tokens ** (1 / 3))))
    return max(1, min(steps, tokens // side**2)), side
