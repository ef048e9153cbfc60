"""The orthonormal cosine basis as a matrix: transforms of any size on any device, as products."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def cosines(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal DCT-II (frequency, position); its transpose is the inverse."""
    k = torch.arange(size, dtype=torch.float64)
    matrix: Tensor = torch.cos(torch.pi / size * (k[None, :] + 0.5) * k[:, None]) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix.to(device=device, dtype=dtype)
