"""How far off each candidate is to be expected, from what it got wrong on cells and on whole frames that were hidden.

Beside observations by the proximity of data and by what it missed nearby; in empty frames by hidden ones as far from others. Knows
nothing about how estimates were made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stimpute.classical import convolution
from stimpute.model.batch import Batch
from stimpute.model.inner_hold_out import reach

KNOTS = 8
ERROR_FLOOR = 2e-3
ALIKE = 0.75  # octaves of distance that make a difference between frames without observation
ANY_FRAMES = 3.0  # of those most alike, that all together are worth
FRAME_CELLS = 30.0  # cells of which the mean over all frames is worth, beside a frame's own


def proximity(densities: tuple[Tensor, ...]) -> Tensor:
    """How much was observed near each cell, from 0 (nothing at all) to 1 (everything), (B, T, H, W); logarithmic."""
    near, far = (1 + density.clamp(1e-4, 1).log10() / 4 for density in densities[:2])
    return (near + far) / 2


def local_error(error: Tensor, held_out: Tensor, there: Tensor, here: Tensor, pseudo: float = 0.05) -> Tensor:
    """Mean absolute error to expect of each candidate at every cell, from the cells that were held out.

    The mean error as a function of the proximity of data, times how much worse or better than that the candidate is nearby.

    Parameters
    ----------
    error : (B, K, T, H, W); read only where ``held_out``.
    held_out : (B, T, H, W) bool.
    there, here : (B, T, H, W), :func:`proximity` with the held-out cells hidden, and as things are.
    pseudo : weight, in units of density, of "neither worse nor better" in the local factor.

    Returns
    -------
    (B, K, T, H, W), at least ``ERROR_FLOOR``.
    """
    hidden = held_out[:, None].expand_as(error)
    hidden_error = torch.where(hidden, error, error.new_zeros(()))
    curve = error_by_proximity(hidden_error, held_out, there)
    usual_there = follow(curve, there)
    nearby, density = convolution.normalized_many(hidden_error / usual_there, held_out, 5.0, 1.5)
    density = density[:, None]
    factor = (density * nearby + pseudo) / (density + pseudo)
    return (follow(curve, here) * factor).clamp_min(ERROR_FLOOR)


def error_by_proximity(hidden_error: Tensor, held_out: Tensor, there: Tensor) -> Tensor:
    """Mean error of each candidate at ``KNOTS`` levels of proximity, (B, K, KNOTS), drawn towards its overall mean.

    One imaginary cell with an error of one standard deviation stands for "nothing hidden, nothing known".
    """
    weight = hats(there).flatten(1, 3) * held_out.flatten(1)[..., None]
    total = torch.einsum("bkn,bnj->bkj", hidden_error.flatten(2), weight)
    count = weight.sum(dim=1)[:, None]
    overall = (total.sum(dim=2, keepdim=True) + 1) / (count.sum(dim=2, keepdim=True) + 1)
    return (total + 20 * overall) / (count + 20)


def follow(curve: Tensor, where: Tensor) -> Tensor:
    """The curve (B, K, KNOTS) at each cell's proximity (B, T, H, W): (B, K, T, H, W)."""
    return torch.einsum("bkj,bthwj->bkthw", curve, hats(where))


def hats(where: Tensor) -> Tensor:
    """Weights (..., KNOTS) of linear interpolation between evenly spaced knots on [0, 1]."""
    knots = torch.linspace(0, 1, KNOTS, device=where.device)
    return (1 - (where.clamp(0, 1)[..., None] - knots).abs() * (KNOTS - 1)).clamp_min(0)


@dataclass(frozen=True, eq=False)
class FramesAsked:
    """What candidates said (B, K, T, H, W) of whole frames while these were hidden, ``hidden`` (B, T, H, W)."""

    batch: Batch
    said: Tensor
    hidden: Tensor

    @property
    def cells(self) -> Tensor:
        """How many of each frame were hidden (B, T)."""
        return self.hidden.flatten(2).sum(dim=2)

    @property
    def reach(self) -> Tensor:
        """How far they were from a frame that was shown (B, T, 2), as of :func:`~stimpute.model.inner_hold_out.reach`."""
        return reach(self.batch.valid & ~self.hidden, self.batch.times)

    def missed(self, weight: Tensor | None = None) -> Tensor:
        """Sums of absolute errors over the hidden cells of each frame, (B, K, T); of the candidates blended by ``weight`` (B, K, T, 1, 1), (B, 1, T)."""
        said = self.said if weight is None else (weight * self.said).sum(dim=1, keepdim=True)
        error = (said - self.batch.values[:, None]).abs()
        return torch.where(self.hidden[:, None], error, error.new_zeros(())).flatten(3).sum(dim=3)


def alike(wanted: Tensor, asked: Tensor, cells: Tensor, runs: Tensor) -> Tensor:
    """How much frames (B, N, 2) say about others (B, Q, 2): weights (B, Q, N), the largest for those most alike of which ``cells`` (B, N) were hidden.

    Where there are no ``runs`` (B, 1, 1), one says as much as another.

    By their distances from the frames that were shown on either side (:func:`~stimpute.model.inner_hold_out.reach`); all of them together
    weigh as much as ``ANY_FRAMES`` of those most alike, since few may be.
    """
    log_weight = -0.5 * ((wanted[:, :, None] - asked[:, None]) / ALIKE).square().sum(dim=3)
    log_weight = log_weight.masked_fill((cells == 0)[:, None], -torch.inf)
    weight = (log_weight - log_weight.amax(dim=2, keepdim=True)).exp().nan_to_num()
    asked_about = (cells > 0).to(weight.dtype)[:, None]
    weight = weight + ANY_FRAMES * asked_about / asked_about.sum(dim=2, keepdim=True).clamp_min(1)
    return torch.where(runs, weight, asked_about)


def farther(wanted: Tensor, asked: Tensor, weight: Tensor) -> Tensor:
    """How much farther frames (B, Q, 2) are from those around them than others (B, N, 2) with ``weight`` (B, Q, N), in octaves (B, 1, Q).

    Frames of which every second is empty are nearer to those around them than any that can be hidden. What counts is the distance within
    which a random walk that is known on both sides strays as far as one that is known on one.
    """
    here, there = (-(2**-away).sum(dim=2).log2() for away in (wanted, asked))
    share = weight / weight.sum(dim=2, keepdim=True).clamp_min(1e-12)
    return (here - (share * there[:, None]).sum(dim=2))[:, None]


def frame_error(missed: Tensor, cells: Tensor, otherwise: Tensor, weight: Tensor) -> Tensor:
    """Error to expect (B, K, Q) of frames that are hidden wholly, drawn towards ``otherwise`` by a cell's weight.

    How candidates compare follows from the geometric mean of their errors over the frames asked about, each with its weight and that of its cells, so that a
    frame that none can foresee does not decide; the errors of frames of a few cells are drawn towards the mean over all. How large
    they are follows from that mean.

    Parameters
    ----------
    missed : (B, K, N), sums of absolute errors over the hidden cells of each frame asked about.
    cells : (B, N), how many these were.
    otherwise : (B, K).
    weight : (B, Q, N), how much each frame asked about says of each that is wanted.
    """
    count = cells[:, None].to(missed.dtype)
    overall = missed.sum(dim=2, keepdim=True) / count.sum(dim=2, keepdim=True).clamp_min(1)
    of_frame = (missed + FRAME_CELLS * overall) / (count + FRAME_CELLS)
    errors = torch.cat((of_frame, otherwise[..., None]), dim=2).clamp_min(ERROR_FLOOR)
    share = weight * count
    share = torch.cat((share, torch.ones_like(share[..., :1])), dim=2)
    share = share / share.sum(dim=2, keepdim=True)
    typical = torch.einsum("bqn,bkn->bkq", share, errors.log()).exp()
    mean = torch.einsum("bqn,bkn->bkq", share, errors)
    return typical * (mean / typical).median(dim=1, keepdim=True).values
