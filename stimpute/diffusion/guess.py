"""The good guess that diffusion starts from, and the scale of what it misses: coarse, then fine.

Coarse: what the network that fills gaps says, with its error; without one, the blend of classical candidates that it starts from. Fine: the cubic field whose block means are the
completed coarse values, plus what covariates draw into the blocks. How large the rest is inside a block is judged by
what the coarse field itself holds beyond half its resolution, and how that grew from the octave before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from stimpute.classical.refinement import block_mean, finer_detail, refined
from stimpute.model.batch import Batch
from stimpute.model.candidates import CANDIDATES, FEATURES, compute_candidates
from stimpute.model.st_transformer import STTransformer

MAE_TO_SD = math.sqrt(math.pi / 2)  # of a Gaussian
SCALE_FLOOR = 2e-3  # standard deviations of the stack
_WINDOW = 5  # cells, of the local scale
_GROWTH, _USUAL_GROWTH = (0.05, 4.0), 0.5  # of the variance from octave to octave
_GAP_WEIGHT = 0.05  # of a completed cell against an observed one


@dataclass(frozen=True, eq=False)
class CoarseGuess:
    """The completed coarse field before the network, in normalised units.

    Parameters
    ----------
    observed : (B, T, H, W), 0 in gaps; ``valid`` says where.
    prior : (B, T, H, W), an estimate of every cell.
    scale : (B, T, H, W), standard error of ``prior``, > 0.
    features : (B, F, T, H, W) of the candidates.
    """

    observed: Tensor
    valid: Tensor
    prior: Tensor
    scale: Tensor
    features: Tensor

    def completed(self, residual: Tensor, conserve: bool = True) -> Tensor:
        """The field with ``residual`` (in units of ``scale``) on top of the prior; observed cells as observed."""
        field = self.prior + self.scale * residual
        return torch.where(self.valid, self.observed if conserve else self.prior, field)


@dataclass(frozen=True, eq=False)
class FineGuess:
    """The refined field before the network.

    Parameters
    ----------
    field : (B, T, H * factor, W * factor), block means equal to the completed coarse field.
    drawn : same shape, the part of it that covariates draw; zero where there are none.
    detail : (B, T, H, W), what the coarse field holds beyond half its resolution.
    scale : (B, T, H, W), how large the rest is inside a block, > 0, without gradient.
    """

    field: Tensor
    drawn: Tensor
    detail: Tensor
    scale: Tensor


@torch.no_grad()
def coarse_guess(batch: Batch, filler: STTransformer | None = None) -> CoarseGuess:
    """What ``filler`` says of a batch in normalised units; without it, the blend of candidates."""
    names = CANDIDATES if filler is None else filler.config.candidates
    found = compute_candidates(batch, names=names)
    if filler is None:
        prior, scale = found.prior, found.prior_error * MAE_TO_SD
    else:
        said = filler(batch, found if filler.config.head == "blend" else None)
        prior, scale = said.mean, said.scale
    return CoarseGuess(batch.values, batch.valid, prior, scale.clamp_min(SCALE_FLOOR), found.features)


def no_guess(batch: Batch) -> CoarseGuess:
    """Nothing but the mean of what is observed, and its spread: no candidate, no feature of one."""
    b, t, h, w = batch.shape
    empty = torch.zeros_like(batch.values)
    features = batch.values.new_zeros(b, len(FEATURES), t, h, w)
    return CoarseGuess(batch.values, batch.valid, empty, torch.ones_like(empty), features)


def fine_guess(completed: Tensor, valid: Tensor, fine_covariates: Tensor, factor: int) -> FineGuess:
    """Refine a completed coarse field; gradients pass through ``field``.

    Parameters
    ----------
    completed : (B, T, H, W) without NaN.
    valid : (B, T, H, W) bool: observed, not completed.
    fine_covariates : (B, C, T or 1, H * factor, W * factor), standardised, 0 where unknown; C may be 0.
    """
    detail = finer_detail(completed)
    weight = valid.to(completed) + _GAP_WEIGHT
    drawn = torch.zeros_like(completed).repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    rest = detail
    if fine_covariates.shape[1]:
        means = block_mean(fine_covariates, factor)
        inside = fine_covariates - refined(means, factor)
        shares, explained = regress_details(detail.detach(), finer_detail(means), weight, math.log2(factor))
        drawn = torch.einsum("bc,bcthw->bthw", shares, inside.expand(-1, -1, completed.shape[1], -1, -1))
        rest = detail - explained
    scale = local_scale(rest.detach(), weight) * octaves(completed.detach(), rest.detach(), weight, factor)
    return FineGuess(refined(completed, factor) + drawn, drawn, detail, scale.clamp_min(SCALE_FLOOR))


def regress_details(
    detail: Tensor, details: Tensor, weight: Tensor, halvings: float = 1.0
) -> tuple[Tensor, Tensor]:
    """How the detail of the covariates shows in that of the field: coefficients (B, C), and the detail they explain (B, T, H, W).

    Weighted ridge regression. The coefficients are multiplied by R squared (adjusted, with as many degrees of freedom as
    a frame has cells) once for every halving of the cell that they are carried down: what a covariate does not share with the field
    where both are seen, it shares less where only one is.

    Parameters
    ----------
    detail, weight : (B, T, H, W).
    details : (B, C, T or 1, H, W).
    """
    x = details.expand(-1, -1, detail.shape[1], -1, -1).flatten(2).double()
    y, w = detail.flatten(1).double(), weight.flatten(1).double()
    gram = torch.einsum("bcn,bdn,bn->bcd", x, x, w)
    ridge = 1e-2 * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-9)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    shares = torch.linalg.solve(
        gram + ridge[:, None, None] * eye, torch.einsum("bcn,bn,bn->bc", x, y, w)[..., None]
    )[..., 0]
    explained = torch.einsum("bc,bcn->bn", shares, x)
    total = (w * y.square()).sum(dim=1).clamp_min(1e-12)
    r2 = 1 - (w * (y - explained).square()).sum(dim=1) / total
    cells = detail.shape[-1] * detail.shape[-2]
    adjusted = 1 - (1 - r2) * (cells - 1) / max(cells - x.shape[1] - 1, 1)
    trust = adjusted.clamp(0, 1).pow(halvings)[:, None]
    return (trust * shares).float(), (trust * explained).view_as(detail).float()


def octaves(completed: Tensor, rest: Tensor, weight: Tensor, factor: int) -> Tensor:
    """How much larger than the last octave all octaves inside a block are together, (B, 1, 1, 1).

    If the variance grew by a factor g from the octave before to the last one, it is taken to go on so: g + g^2 + ..., one
    term for every halving. White noise (g = 4) is met exactly.

    Parameters
    ----------
    completed, rest, weight : (B, T, H, W), the coarse field, its last octave, the weight of cells.
    """
    growth = completed.new_full((len(completed), 1, 1, 1), _USUAL_GROWTH)
    if min(completed.shape[-2:]) >= 4:
        even = (..., slice(0, completed.shape[-2] // 2 * 2), slice(0, completed.shape[-1] // 2 * 2))
        before, share = finer_detail(block_mean(completed[even], 2)), block_mean(weight[even], 2)
        last, earlier = (
            (w * d.square()).sum((1, 2, 3), keepdim=True) / w.sum((1, 2, 3), keepdim=True)
            for d, w in ((rest, weight), (before, share))
        )
        growth = (last / earlier.clamp_min(1e-12)).clamp(*_GROWTH)
    return growth_sum(growth, math.log2(factor)).sqrt()


def growth_sum(growth: Tensor, halvings: float) -> Tensor:
    """``g + g^2 + ... + g^n``, for real n too.

    >>> growth_sum(torch.tensor([4.0, 1.0]), 2).tolist()
    [20.0, 2.0]
    """
    near_one = (growth - 1).abs() < 1e-3
    safe = torch.where(near_one, growth + 2e-3, growth)
    return torch.where(near_one, torch.full_like(growth, halvings), safe * (safe**halvings - 1) / (safe - 1))


def local_scale(detail: Tensor, weight: Tensor) -> Tensor:
    """Root mean square of a detail: around each cell, of its series, and overall, in equal parts (B, T, H, W)."""
    b, t, h, w = detail.shape

    def around(field: Tensor) -> Tensor:
        pooled = F.avg_pool2d(
            field.reshape(b * t, 1, h, w), _WINDOW, 1, _WINDOW // 2, count_include_pad=False
        )
        return pooled.view(b, t, h, w)

    square, mass = around(weight * detail.square()), around(weight)
    parts = [square / mass]
    for dims in ((1,), (1, 2, 3)):
        parts.append((square.sum(dims, keepdim=True) / mass.sum(dims, keepdim=True)).expand_as(square))
    return torch.stack(parts).mean(dim=0).sqrt().clamp_min(SCALE_FLOOR)
