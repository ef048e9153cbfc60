"""Means over time and over everything, gaps ignored. Knows nothing about files, models or units.

All tensors are batched: ``values`` float (B, T, H, W), ``valid`` bool of the same shape, True = observed; what
``values`` holds in gaps is never read.
"""

from __future__ import annotations

import torch
from torch import Tensor


def observed(values: Tensor, valid: Tensor) -> Tensor:
    """``values`` with 0 in the gaps, whatever stood there (also NaN)."""
    return torch.where(valid, values, torch.zeros((), dtype=values.dtype, device=values.device))


def overall_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of all observed cells of each stack, (B, 1, 1, 1); 0 where a stack has none. Summed in float64."""
    total = observed(values, valid).sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    count = valid.sum(dim=(1, 2, 3), keepdim=True)
    return (total / count.clamp(min=1)).to(values.dtype)


def temporal_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over time of every cell, (B, 1, H, W); NaN where a cell was never observed.

    >>> values = torch.tensor([1.0, 3.0, 9.0]).reshape(1, 3, 1, 1)
    >>> temporal_mean(values, values < 5).item()
    2.0
    """
    count = valid.sum(dim=1, keepdim=True)
    return observed(values, valid).sum(dim=1, keepdim=True) / count.where(count > 0, torch.nan)
