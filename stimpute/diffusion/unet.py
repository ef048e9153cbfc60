"""The noise predictor: a small U-Net over space whose blocks also look along time. Knows nothing about what it denoises."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from stimpute.layers.positions import sinusoidal

_TIME_FEATURES = 32


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (N, C, H, W): no statistics over space, so that no size is in the weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        result: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return result


class Block(nn.Module):
    """Convolution in space, convolution along time, both residual; the noise level scales and shifts."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.second_norm = ChannelNorm(channels), ChannelNorm(channels)
        self.level = nn.Linear(_TIME_FEATURES, 2 * channels)
        self.space = nn.Conv2d(channels, channels, 3, padding=1)
        self.steps = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, level: Tensor, steps: int) -> Tensor:
        """``x`` (B * T, C, H, W), ``level`` (B, features), T ``steps``."""
        n, c, h, w = x.shape
        scale, shift = self.level(level).repeat_interleave(steps, dim=0)[..., None, None].chunk(2, dim=1)
        x = x + self.space(F.gelu(self.norm(x) * (1 + scale) + shift))
        y = F.gelu(self.second_norm(x))
        rows = y.view(n // steps, steps, c, h * w).permute(0, 3, 2, 1).reshape(-1, c, steps)
        along = self.steps(rows).view(n // steps, h * w, c, steps).permute(0, 3, 2, 1).reshape(n, c, h, w)
        result: Tensor = x + self.mix(y + along)
        return result


class UNet(nn.Module):
    """Velocity (B, T, H, W, outputs) from what is seen of the data and a condition; further features join at the bottleneck, and at
    full resolution where ``everywhere``."""

    def __init__(
        self, outputs: int, condition: int, joined: int, width: int, everywhere: bool = False
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(outputs + condition, width, 3, padding=1)
        self.first, self.last = Block(width), Block(width)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.join = nn.Conv2d(joined, 2 * width, 1) if joined else None
        self.bottom = nn.ModuleList((Block(2 * width), Block(2 * width)))
        self.beside = nn.Conv2d(joined, width, 1) if joined and everywhere else None
        self.up = nn.Conv2d(2 * width, width, 1)
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.leave = nn.Conv2d(width, outputs, 1)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, seen: Tensor, condition: Tensor, joined: Tensor | None, time: Tensor) -> Tensor:
        """``seen`` (B, T, H, W, outputs), ``condition`` and ``joined`` (B, T, H, W, C), ``time`` (B,) in [0, 1]."""
        b, t, h, w, _ = seen.shape
        level = sinusoidal(time, _TIME_FEATURES, 0.1, 4.0)
        x = self.enter(_images(torch.cat((seen, condition), dim=-1)))
        if self.beside is not None and joined is not None:
            x = x + self.beside(_images(joined))
        x = skip = self.first(x, level, t)
        x = self.down(_even(x))
        if self.join is not None and joined is not None:
            x = x + self.join(F.avg_pool2d(_even(_images(joined)), 2))
        for block in self.bottom:
            x = block(x, level, t)
        x = F.interpolate(self.up(x), scale_factor=2, mode="nearest")[..., :h, :w]
        x = self.last(self.merge(torch.cat((x, skip), dim=1)), level, t)
        result: Tensor = self.leave(x).view(b, t, -1, h, w).movedim(2, -1)
        return result


def _images(x: Tensor) -> Tensor:
    """(B, T, H, W, C) -> (B * T, C, H, W)."""
    return x.flatten(0, 1).movedim(-1, 1)


def _even(x: Tensor) -> Tensor:
    """The last row and column repeated where there is an odd number."""
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
