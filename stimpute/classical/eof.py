"""Truncated EOFs of the (space x time) matrix, iterated over its gaps: DINEOF.

Beckers, J.-M. and Rixen, M. (2003), J. Atmos. Ocean. Tech. 20, 1839-1856. Knows nothing about coordinates; time only where it
carries empty frames over from their neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stimpute.classical.mean import observed, overall_mean
from stimpute.classical.temporal import linear

_RIDGE = 1e-13  # of the largest entry of a Gram matrix


def dineof(
    values: Tensor,
    valid: Tensor,
    ranks: tuple[int, ...] = (1, 2, 4, 8),
    *,
    iterations: int = 10,
    times: Tensor | None = None,
) -> Tensor:
    """Replace the gaps by the reconstruction from the leading EOFs, repeatedly, at increasing rank.

    The mean of all observed cells is taken off first and added back. Each rank starts from the state of the one
    before. Frames without any observation get no EOF amplitude of their own: theirs is linear in time between the others.

    Parameters
    ----------
    values : (B, T, H, W); gaps may hold anything.
    valid : bool (B, T, H, W), True = observed.
    ranks : increasing numbers of EOFs; those above min(T, H * W) count as that.
    iterations : per rank.
    times : (B, T) days; steps if None.

    Returns
    -------
    (B, K, T, H, W), the reconstruction at each rank (at observed cells too), without NaN.
    """
    center = overall_mean(values, valid)
    seen = valid.flatten(2)
    shown = observed(values - center, valid).flatten(2)
    empty = ~seen.any(dim=2, keepdim=True)
    matrix = shown
    states = []
    for rank in ranks:
        for _ in range(iterations):
            matrix = torch.where(seen, shown, truncate(matrix, rank))
        states.append(truncate(matrix, rank))
    result = torch.stack(states, dim=1).reshape(len(values), len(ranks), *values.shape[1:]) + center[:, None]
    return carry_over_empty(result, empty, times)


def truncate(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of each (B, T, N) matrix by ``rank`` singular vectors, via the smaller Gram matrix.

    The eigenproblem is solved in float64.
    """
    tall = matrix.shape[1] > matrix.shape[2]
    wide = matrix.mT if tall else matrix
    gram = (wide @ wide.mT).to(torch.float64)
    # LAPACK may fail to converge where many rows are zero (empty frames): a ridge far below any pattern's energy helps
    gram.diagonal(dim1=-2, dim2=-1).add_(_RIDGE * gram.abs().amax(dim=(-2, -1))[..., None])
    _, vectors = torch.linalg.eigh(gram)
    leading = vectors[..., -rank:].to(matrix.dtype)
    low: Tensor = leading @ (leading.mT @ wide)
    return low.mT if tall else low


def carry_over_empty(states: Tensor, empty: Tensor, times: Tensor | None) -> Tensor:
    """Empty frames (B, T, 1) of (B, K, T, H, W) become linear in time between the others."""
    batch, count, steps = states.shape[:3]
    along = torch.arange(steps, device=states.device).expand(batch, steps) if times is None else times
    filled, _, _ = linear(
        states.flatten(0, 1),
        ~empty[:, None, :, :, None].expand(states.shape).flatten(0, 1),
        along.to(states.dtype).repeat_interleave(count, dim=0),
    )
    return torch.where(filled.isfinite(), filled, states.flatten(0, 1)).reshape(states.shape)
