"""Fields on a grid ``factor`` times finer, and back: cubic refinement whose block means are the coarse values. Batched.

A coarse cell is the mean over its block of fine cells. Cubic interpolation between block means as if they were points
loses contrast; adding the refined difference again and again gives it back (iterated back-projection, Irani and Peleg
1991), until the block means of the smooth fine field are the coarse values.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

ITERATIONS = 1  # more sharpens noise


def block_mean(fine: Tensor, factor: int) -> Tensor:
    """Means over blocks of ``factor`` x ``factor`` cells, (..., H * factor, W * factor) -> (..., H, W).

    >>> block_mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]])[None], 2).tolist()
    [[[4.0]]]
    """
    shape = fine.shape
    flat = fine.reshape(-1, 1, *shape[-2:])
    return F.avg_pool2d(flat, factor).reshape(*shape[:-2], shape[-2] // factor, shape[-1] // factor)


def known_block_mean(values: Tensor, known: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Means over what is ``known`` of every block, 0 where nothing is, and the share of it, both (..., H, W); fine ``values``, 0 where not known."""
    share = block_mean(known.to(values.dtype), factor)
    return block_mean(values, factor) / share.clamp_min(1e-9), share


def spread_blocks(coarse: Tensor, factor: int) -> Tensor:
    """Every coarse cell repeated over its block, (..., H, W) -> (..., H * factor, W * factor)."""
    return coarse.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def interpolated(coarse: Tensor, factor: int, mode: str = "bicubic") -> Tensor:
    """Bilinear or bicubic interpolation between the centres of coarse cells, (..., H, W) -> (..., H * factor, W * factor).

    No NaN in ``coarse``; beyond the outermost centres their values are (nearly) kept. The cubic is Keys' of third order
    (1981; a = -1/2), which torch uses where it is told to antialias, not its usual one (a = -3/4), which overshoots.
    """
    shape = coarse.shape
    size = (shape[-2] * factor, shape[-1] * factor)
    flat = coarse.reshape(-1, 1, *shape[-2:])
    return F.interpolate(flat, size=size, mode=mode, align_corners=False, antialias=True).reshape(
        *shape[:-2], *size
    )


def refined(coarse: Tensor, factor: int, iterations: int = ITERATIONS) -> Tensor:
    """The smooth fine field (..., H * factor, W * factor) whose block means are ``coarse`` (..., H, W), without NaN.

    Exact: what the iterations leave over (little) is spread evenly over its block.

    >>> coarse = torch.tensor([[0.0, 1.0, 4.0, 9.0]])[None]
    >>> bool(torch.allclose(block_mean(refined(coarse, 3), 3), coarse, atol=1e-5))
    True
    """
    fine = interpolated(coarse, factor)
    for _ in range(iterations):
        fine = fine + interpolated(coarse - block_mean(fine, factor), factor)
    return with_block_means(fine, coarse, factor)


def with_block_means(fine: Tensor, coarse: Tensor, factor: int) -> Tensor:
    """``fine`` shifted block by block so that its block means are ``coarse``."""
    return fine + spread_blocks(coarse - block_mean(fine, factor), factor)


def within_bounds(
    fine: Tensor, coarse: Tensor, factor: int, low: float | None, high: float | None, rounds: int = 8
) -> Tensor:
    """``fine`` inside [low, high] with block means ``coarse``, as far as these lie inside the bounds themselves.

    What clipping takes away is given to the cells of the block in proportion to the room they have left.

    >>> f = within_bounds(torch.tensor([[[-1.0, 1.0], [1.0, 3.0]]]), torch.tensor([[[1.0]]]), 2, 0.0, None)
    >>> f.min().item(), round(f.mean().item(), 5)
    (0.0, 1.0)
    """
    target = coarse.clamp(low, high) if (low, high) != (None, None) else coarse
    for _ in range(rounds):
        fine = fine.clamp(low, high) if (low, high) != (None, None) else fine
        lacking = target - block_mean(fine, factor)
        below = torch.ones_like(fine) if low is None else fine - low
        above = torch.ones_like(fine) if high is None else high - fine
        room = torch.where(spread_blocks(lacking, factor) < 0, below, above)
        share = room / spread_blocks(block_mean(room, factor).clamp_min(1e-30), factor)
        fine = fine + spread_blocks(lacking, factor) * share
    return fine.clamp(low, high) if (low, high) != (None, None) else fine


def finer_detail(coarse: Tensor) -> Tensor:
    """What a field (..., H, W) holds that the field of half its resolution does not: coarse minus its own refined pair means.

    Odd sizes are padded with their last row or column; one row or column has no detail along that axis.
    """
    shape = coarse.shape
    pad = (0, shape[-1] % 2, 0, shape[-2] % 2)
    flat = F.pad(coarse.reshape(-1, 1, *shape[-2:]), pad, mode="replicate")
    smooth = refined(block_mean(flat, 2), 2)
    return (flat - smooth)[:, 0, : shape[-2], : shape[-1]].reshape(shape)
