"""Ensembles of fine fields, and how far their spread is to be believed. Knows no files."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.diffusion.network import Conditions, DiffRecon

LEVEL, LEVEL_Z = 0.9, 1.6448536269514722
MAX_CELLS = 400_000  # coarse cell-steps sampled at once
_WIDEST, _NARROWEST = 4.0, 0.25


@torch.no_grad()
def draw_ensemble(
    network: DiffRecon,
    given: Conditions,
    samples: int,
    generator: torch.Generator,
    conserve: bool = True,
    steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Members in pairs of opposite noise, so that the mean needs few of them.

    Their mean moves the guess by ``network.share`` of the way; ``network.widening`` stretches the deviations from the mean.

    Returns
    -------
    completed coarse fields (samples, B, T, H, W) and fine fields (samples, B, T, H * factor, W * factor).
    """
    b, t, h, w = given.batch.shape
    details = network.config.details
    device = given.batch.values.device
    at_once = max(1, MAX_CELLS // (b * t * h * w) // 2) * 2
    coarse: list[Tensor] = []
    fine: list[Tensor] = []
    for start in range(0, samples, at_once):
        count = min(at_once, samples - start)
        half = -(-count // 2)
        drawn = (torch.randn(half, b, t, h, w, *tail, generator=generator) for tail in ((), (details,)))
        noise = [torch.stack((z, -z), dim=1).flatten(0, 1)[:count].to(device) for z in drawn]
        repeated = given.repeated(count)
        ordered = [z.transpose(0, 1).reshape(b * count, *z.shape[2:]) for z in noise]
        found = network.sample(repeated, (ordered[0], ordered[1]), conserve, steps)
        for parts, field in zip((coarse, fine), found, strict=True):
            parts.append(field.view(b, count, *field.shape[1:]).transpose(0, 1))
    drawn_around = zip((coarse, fine), network.start(given, conserve), strict=True)
    return tuple(_settled(torch.cat(parts), guess, network) for parts, guess in drawn_around)  # type: ignore[return-value]


def _settled(members: Tensor, guess: Tensor, network: DiffRecon) -> Tensor:
    """Members around a mean between the guess and their own, their deviations stretched."""
    mean = members.mean(dim=0, keepdim=True)
    share, widening = (x.to(members.device) for x in (network.share, network.widening))
    return guess + share * (mean - guess) + widening * (members - mean)


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
