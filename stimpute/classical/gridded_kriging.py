"""Kriging of whole space-time grids: every gap from every observed cell at once, under a covariance fitted to the stack.

A stack without gaps is filtered mode by mode; gaps are dealt with by conjugate gradients on the penalised least squares
problem. Stopped early it is smoother, never wild. Long series are done in overlapping spells. Steps without any observation are
left out of the system and follow from the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stimpute.classical import kriging_solver as solver
from stimpute.classical.stack_covariance import Covariance, fit_covariance
from stimpute.classical.wave_classes import WaveClasses

_OVERLAP = 0.25  # of two spells
_LONG, _WORK = 192, 800  # steps of a spell; the same times the side of the grid in cells, for tiny grids


def krige(
    targets: Sequence[Tensor],
    valids: Sequence[Tensor],
    times: Tensor,
    year_phase: Tensor,
    day_phase: Tensor,
    *,
    evenness: float = 0.5,
    iterations: int = 400,
) -> list[Tensor]:
    """Simple kriging of every cell from all observed cells of its stack, around their mean, under one covariance fitted to the first target.

    Parameters
    ----------
    targets : fields (B, T, H, W), of about the same covariance; gaps may hold anything.
    valids : for each of them, bool (B, T, H, W), True = observed; the covariance is fitted to the first.
    times, year_phase, day_phase : (B, T), days and positions in the year and the day.
    evenness : from 0, the few parts that fit the semi-variances best, to 1, a bit of everything that fits.
    iterations : of the conjugate gradients, at most.

    Returns
    -------
    One field (B, T, H, W) for each target, without NaN.
    """
    results = [torch.empty_like(target) for target in targets]
    steps, height, width = targets[0].shape[1:]
    for b in range(len(times)):
        moments = [_moments(target[b], valid[b]) for target, valid in zip(targets, valids, strict=True)]
        scale = moments[0][1]
        seen = torch.stack([valid[b] for valid in valids])
        shown = torch.stack(
            [(target[b] - c) / scale for target, (c, _) in zip(targets, moments, strict=True)]
        )
        shown = torch.where(seen, shown, shown.new_zeros(()))
        answer = torch.zeros_like(shown)
        weight = shown.new_zeros(steps, 1, 1)
        filled = seen.flatten(2).any(dim=2).any(dim=0).nonzero()[:, 0]
        for first, last in windows(len(filled), height, width) if len(filled) else ():
            start = 0 if first == 0 else int(filled[first])
            stop = steps if last == len(filled) else int(filled[last - 1]) + 1
            part, inside = slice(start, stop), filled[first:last] - start
            covariance = fit_covariance(
                shown[0, part],
                seen[0, part],
                inside,
                times[b, part],
                year_phase[b, part],
                day_phase[b, part],
                evenness,
            )
            taper = _taper(start, stop, steps).to(weight)
            weight[part] += taper
            if covariance is not None:
                answer[:, part] += taper * _solved(shown[:, part], seen[:, part], covariance, iterations)
        for result, field, (center, _) in zip(results, answer, moments, strict=True):
            result[b] = field / weight.clamp_min(1e-6) * scale + center
    return results


def _solved(shown: Tensor, seen: Tensor, covariance: Covariance, iterations: int) -> Tensor:
    """The kriged fields (K, T, H, W), from what was observed at the covariance's ``filled`` steps."""
    waves, filled = WaveClasses.of(covariance, shown.dtype), covariance.filled
    found = solver.solve(shown[:, filled], seen[:, filled], covariance.nugget, waves, iterations)
    return waves.fields(found, everywhere=True)


def windows(steps: int, height: int, width: int) -> list[tuple[int, int]]:
    """Spells (start, stop) of observed steps, of equal length, as few as work allows; they overlap by a quarter and cover all.

    >>> windows(10, 48, 48), windows(400, 80, 80)
    ([(0, 10)], [(0, 160), (120, 280), (240, 400)])
    """
    longest = max(_LONG, _WORK // math.isqrt(height * width))
    count, length = 1, steps
    while length > longest:
        count += 1
        length = math.ceil(steps / (count - (count - 1) * _OVERLAP))
    starts = (round(i * (steps - length) / max(count - 1, 1)) for i in range(count))
    return [(start, start + length) for start in starts]


def _taper(start: int, stop: int, steps: int) -> Tensor:
    """Weights (stop - start, 1, 1) of a spell, falling towards the ends it shares with others."""
    at = torch.arange(stop - start, dtype=torch.float32)
    ramp = max((stop - start) // 4, 1)
    weight = torch.ones_like(at)
    if start > 0:
        weight = torch.minimum(weight, (at + 1) / ramp)
    if stop < steps:
        weight = torch.minimum(weight, (stop - start - at) / ramp)
    return weight.clamp_min(1e-3)[:, None, None]


def _moments(values: Tensor, valid: Tensor) -> tuple[float, float]:
    seen = values[valid].double()
    if not len(seen):
        return 0.0, 1.0
    center = float(seen.mean())
    spread = float((seen - center).square().mean().sqrt())
    return center, spread if spread > 1e-6 * (1 + abs(center)) else 1.0
