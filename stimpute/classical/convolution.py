"""Normalised convolution: Gaussian averages of what was observed, with its density. Edges never wrap.

Knutsson and Westin (1993). Separable: one matrix product per axis, so that any size and any device will do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stimpute.classical.mean import observed, overall_mean

_PRIOR_DENSITY = 1e-5  # where the density falls to about this, the estimate leans on the mean of the stack

_BLOCK = 24
_NEGLIGIBLE = 1e-7  # of a kernel's weights, which sum to one


def normalized(
    values: Tensor, valid: Tensor, sigma_cells: float, sigma_steps: float, times: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gaussian-weighted mean of the observed cells around every cell, the cell itself included.

    Parameters
    ----------
    values : (B, T, H, W); gaps may hold anything.
    valid : bool (B, T, H, W), True = observed.
    sigma_cells : standard deviation of the kernel along y and x, in cells; 0 keeps cells apart.
    sigma_steps : the same along time, in steps; 0 keeps frames apart, inf averages over all of them.
    times : (B, T) days. Where given, time distances are real ones, in units of the median step.

    Returns
    -------
    estimate : (B, T, H, W), without NaN. Where nothing was observed within reach it tends to the mean of the stack
        (0 if the stack is empty).
    density : (B, T, H, W), share of the kernel's weight (within the volume) that fell on observed cells, in [0, 1].

    >>> values = torch.tensor([[[[2.0, 0.0, 4.0]]]])
    >>> estimate, density = normalized(values, values > 0, sigma_cells=1.0, sigma_steps=0.0)
    >>> round(estimate[0, 0, 0, 1].item(), 3), round(density[0, 0, 0, 1].item(), 3)
    (3.0, 0.548)
    """
    kernels = _kernels(values, sigma_cells, sigma_steps, times, values.dtype)
    center = overall_mean(values, valid)
    mass = _blur(valid.to(values.dtype), kernels)
    total = _blur(observed(values - center, valid), kernels)
    return center + total / (mass + _PRIOR_DENSITY), mass.clamp(0.0, 1.0)


def normalized_many(
    values: Tensor, valid: Tensor, sigma_cells: float, sigma_steps: float
) -> tuple[Tensor, Tensor]:
    """:func:`normalized` of several fields (B, K, T, H, W) observed at the same cells (B, T, H, W); one density for all."""
    kernels = _kernels(valid, sigma_cells, sigma_steps, None, values.dtype)
    flat, seen = values.flatten(0, 1), valid[:, None].expand(values.shape).flatten(0, 1)
    center = overall_mean(flat, seen)
    mass = _blur(valid.to(values.dtype), kernels)
    total = _blur(observed(flat - center, seen), kernels).view(values.shape)
    return center.view(*values.shape[:2], 1, 1, 1) + total / (mass[:, None] + _PRIOR_DENSITY), mass.clamp(
        0.0, 1.0
    )


def _kernels(
    values: Tensor, sigma_cells: float, sigma_steps: float, times: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Row-normalised Gaussian matrices along time (1 or B, T, T), y and x; None where the axis is left alone."""
    _, steps, height, width = values.shape
    if times is None:
        along = torch.arange(steps, dtype=torch.float64, device=values.device)[None]
    else:
        along = times.to(torch.float64)
        if steps > 1:
            along = along / along.diff(dim=1).median(dim=1, keepdim=True).values
    y = torch.arange(height, dtype=torch.float64, device=values.device)
    x = torch.arange(width, dtype=torch.float64, device=values.device)
    return (
        _gaussian(along, sigma_steps, dtype),
        _gaussian(y, sigma_cells, dtype),
        _gaussian(x, sigma_cells, dtype),
    )


def _gaussian(position: Tensor, sigma: float, dtype: torch.dtype) -> Tensor | None:
    if sigma == 0 or position.shape[-1] == 1:
        return None
    distance = (position[..., :, None] - position[..., None, :]) / sigma
    return torch.softmax(-0.5 * distance.square(), dim=-1).to(dtype)


def _blur(field: Tensor, kernels: tuple[Tensor | None, Tensor | None, Tensor | None]) -> Tensor:
    time, y, x = kernels
    if time is not None:
        field = _banded_product(time, field.flatten(2)).reshape(field.shape)
    if y is not None:
        field = _banded_product(y, field)
    if x is not None:
        field = field @ x.mT
    return field


def _banded_product(kernel: Tensor, field: Tensor) -> Tensor:
    """``kernel @ field`` in blocks of rows, each over the columns where its weights are not negligible."""
    size = kernel.shape[-1]
    if size <= 2 * _BLOCK:
        return kernel @ field
    blocks = []
    for start in range(0, size, _BLOCK):
        rows = kernel[..., start : start + _BLOCK, :]
        reached = torch.nonzero((rows > _NEGLIGIBLE).flatten(0, -2).any(dim=0))
        first, last = int(reached[0]), int(reached[-1]) + 1
        blocks.append(rows[..., first:last] @ field[..., first:last, :])
    return torch.cat(blocks, dim=-2)
