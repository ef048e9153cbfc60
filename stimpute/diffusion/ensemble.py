"""Ensembles of fine fields, and how far their spread is to be believed. Knows no files."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.diffusion.network import Conditions, DiffRecon
from stimpute.diffusion.noise import Noise

LEVEL, LEVEL_Z = 0.9, 1.6448536269514722
MAX_CELLS = 50_000  # coarse cell-steps sampled at once, of one member at least
_WIDEST, _NARROWEST = 4.0, 0.25


@torch.no_grad()
def draw_ensemble(
    network: DiffRecon,
    given: Conditions,
    samples: int,
    noise: Noise,
    conserve: bool = True,
    steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Members in pairs of opposite noise, so that the mean needs few of them.

    Their mean moves the guess by ``network.share`` of the way; ``network.widening`` stretches the deviations from the mean.

    Returns
    -------
    completed coarse fields (samples, B, T, H, W) and fine fields (samples, B, T, H * factor, W * factor).
    """
    shape = given.batch.shape
    device = given.batch.values.device
    at_once = max(1, MAX_CELLS // math.prod(shape))
    guesses = network.start(given, conserve)
    coarse, fine = (guess.new_empty((samples, *guess.shape)) for guess in guesses)
    for start in range(0, samples, at_once):
        members = range(start, min(start + at_once, samples))
        pairs = sorted({member // 2 for member in members})
        drawn = noise.fields(pairs, shape, 1 + network.config.details)
        signed = [drawn[member // 2 - pairs[0]] * (1 - 2 * (member % 2)) for member in members]
        ordered = torch.stack(signed, dim=1).flatten(0, 1).to(device)  # examples first
        found = network.sample(
            given.repeated(len(members)), (ordered[..., 0], ordered[..., 1:]), conserve, steps
        )
        for all_of_them, field in zip((coarse, fine), found, strict=True):
            some = field.view(shape[0], len(members), *field.shape[1:])
            all_of_them[start : start + len(members)] = some.transpose(0, 1)
    for all_of_them, guess in zip((coarse, fine), guesses, strict=True):
        _settle(all_of_them, guess, network)
    return coarse, fine


def _settle(members: Tensor, guess: Tensor, network: DiffRecon) -> None:
    """Bring the mean of members between the guess and where it is, and stretch their deviations; in place."""
    mean = members.mean(dim=0)
    share, widening = (x.to(members.device) for x in (network.share, network.widening))
    members.sub_(mean).mul_(widening).add_(guess + share * (mean - guess))


def widening_for(ensembles: list[Tensor], truths: list[Tensor]) -> tuple[float, float]:
    """The factor on the spread with which 90 % intervals cover 90 %, and how much they cover without it.

    Parameters
    ----------
    ensembles : members (samples, ...); truths : (...) of the same shape, NaN where unknown.

    >>> draws = torch.randn(64, 4000, generator=torch.Generator().manual_seed(0))
    >>> truth = 2 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    >>> 1.8 < widening_for([draws], [truth])[0] < 2.2
    True
    """
    ratios = []
    for members, truth in zip(ensembles, truths, strict=True):
        spread = members.std(dim=0)
        ratio = (truth - members.mean(dim=0)).abs() / (LEVEL_Z * spread.clamp_min(1e-9))
        ratios.append(ratio[(spread > 1e-6) & torch.isfinite(ratio)].cpu().numpy())
    together = np.concatenate(ratios) if ratios else np.zeros(0)
    if not together.size:
        return 1.0, float("nan")
    return factor_of(together), float((together <= 1).mean())


def factor_of(missed: npt.NDArray[np.floating]) -> float:
    """The factor with which 90 % intervals hold 90 %, from errors over half of an interval (n,); at most a factor of four.

    >>> factor_of(np.linspace(0, 2, 11))
    1.8
    """
    return float(np.clip(np.quantile(missed, LEVEL), _NARROWEST, _WIDEST))
