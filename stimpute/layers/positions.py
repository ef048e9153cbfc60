"""Where and when a token is, as numbers a network can use: computed, so any size works. Knows nothing about files."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoidal(position: Tensor, dim: int, min_period: float, max_period: float) -> Tensor:
    """Sines and cosines of a real-valued position at ``dim // 2`` geometrically spaced periods.

    Parameters
    ----------
    position : any shape, in any unit.
    dim : even number of features.
    min_period, max_period : the shortest and the longest period, in the unit of ``position``.

    Returns
    -------
    float32, shape ``position.shape + (dim,)``: sines first, then cosines (Vaswani et al. 2017, with real positions).

    >>> sinusoidal(torch.tensor([0.0]), 4, 1.0, 10.0).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    half = dim // 2
    span = (
        torch.linspace(0.0, 1.0, half, device=position.device)
        if half > 1
        else torch.zeros(1, device=position.device)
    )
    periods = min_period * (max_period / min_period) ** span
    angle = position.float()[..., None] * (2 * math.pi / periods)
    return torch.cat((torch.sin(angle), torch.cos(angle)), dim=-1)


def time_encoding(times: Tensor, year_phase: Tensor, day_phase: Tensor, dim: int) -> Tensor:
    """Encoding (B, T, dim) of real times: days since the middle of the window, and the phases of year and day.

    Times are encoded twice, in days and in median steps, because a stack of hours and a stack of months must both be told
    apart step by step. ``dim`` must be at least 12 and divisible by 4.
    """
    centred = times - times.mean(dim=1, keepdim=True)
    steps = centred / median_step(times)
    phases = torch.stack((year_phase, day_phase), dim=-1) * (2 * math.pi)
    part = (dim - 4) // 4 * 2
    encoded = torch.cat(
        (
            sinusoidal(centred, part, 0.5, 5000.0),
            sinusoidal(steps, dim - 4 - part, 2.0, 1000.0),
            torch.sin(phases),
            torch.cos(phases),
        ),
        dim=-1,
    )
    return encoded


def median_step(times: Tensor) -> Tensor:
    """Median distance between neighbouring steps, (B, 1), in days; 1 where there is only one step."""
    if times.shape[1] < 2:
        return torch.ones_like(times[:, :1])
    return times.diff(dim=1).median(dim=1, keepdim=True).values.clamp_min(1e-6)


def space_encoding(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Encoding (height, width, dim) of token positions, counted from the middle; half of ``dim`` for each axis."""
    y = torch.arange(height, device=device, dtype=torch.float32) - (height - 1) / 2
    x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
    part = dim // 4 * 2
    rows = sinusoidal(y, part, 4.0, 512.0)[:, None].expand(height, width, part)
    cols = sinusoidal(x, dim - part, 4.0, 512.0)[None].expand(height, width, dim - part)
    return torch.cat((rows, cols), dim=-1)


def rotary_angles(
    position: Tensor, head_dim: int, min_period: float = 3.0, max_period: float = 1000.0
) -> Tensor:
    """Angles (..., head_dim // 2) by which rotary embedding (Su et al. 2021) turns pairs of features at real positions."""
    half = head_dim // 2
    span = (
        torch.linspace(0.0, 1.0, half, device=position.device)
        if half > 1
        else torch.zeros(1, device=position.device)
    )
    return position.float()[..., None] * (2 * math.pi / (min_period * (max_period / min_period) ** span))
