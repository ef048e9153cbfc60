"""Seeded random numbers in the shapes the simulator needs. Knows nothing about fields.

Every draw comes from one ``torch.Generator`` and lives on its device, so that one seed gives one world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """A generator with the distributions of the simulator.

    Examples
    --------
    >>> draw = Draw(torch.Generator().manual_seed(1))
    >>> bool(((draw.log_uniform(1.0, 10.0, 100) - 5.5).abs() <= 4.5).all())
    True
    """

    generator: torch.Generator

    @property
    def device(self) -> torch.device:
        """Where the generator, and so every sample, lives."""
        return self.generator.device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32."""
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform float32 in [low, high)."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator, device=self.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in the logarithm, float32 in [low, high)."""
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))

    def chance(self, probability: float | Tensor, *shape: int) -> Tensor:
        """Bool, True with the given probability."""
        return torch.rand(*shape, generator=self.generator, device=self.device) < probability

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 in [low, high]."""
        return torch.randint(low, high + 1, shape, generator=self.generator, device=self.device)

    def choose(self, weights: Sequence[float], n: int) -> Tensor:
        """n indices into ``weights``, drawn in proportion to them."""
        odds = torch.tensor(weights, dtype=torch.float32, device=self.device)
        return torch.multinomial(odds, n, replacement=True, generator=self.generator)


def as_field(x: Tensor, dims: int = 4) -> Tensor:
    """(n,) -> (n, 1, ..., 1), to multiply fields of ``dims`` dimensions."""
    return x.reshape(-1, *([1] * (dims - 1)))


def standardized(x: Tensor) -> Tensor:
    """Zero mean and unit standard deviation over everything but the first axis; constants become zero."""
    dims = tuple(range(1, x.dim()))
    centered = x - x.mean(dim=dims, keepdim=True)
    scale = centered.square().mean(dim=dims, keepdim=True).sqrt()
    return centered / torch.where(scale > 1e-6, scale, torch.ones_like(scale))
