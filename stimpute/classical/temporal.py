"""Linear interpolation in time, cell by cell, with the distance to the neighbours. Knows nothing about space."""

from __future__ import annotations

import torch
from torch import Tensor

from stimpute.classical.mean import observed, overall_mean


def linear(values: Tensor, valid: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Piecewise linear in real time between the nearest observed steps of each cell, constant beyond the ends.

    Parameters
    ----------
    values : (B, T, H, W); gaps may hold anything.
    valid : bool (B, T, H, W), True = observed.
    times : (B, T), days, increasing.

    Returns
    -------
    estimate : (B, T, H, W); observed cells keep their value; NaN where a cell was never observed.
    days_to_previous, days_to_next : (B, T, H, W), >= 0, 0 at observed cells; inf where there is no such step.

    >>> values = torch.tensor([0.0, 7.0, 4.0, 7.0]).reshape(1, 4, 1, 1)
    >>> valid = torch.tensor([True, False, True, False]).reshape(1, 4, 1, 1)
    >>> estimate, before, after = linear(values, valid, torch.tensor([[0.0, 3.0, 4.0, 6.0]]))
    >>> estimate.flatten().tolist(), before.flatten().tolist(), after.flatten().tolist()
    ([0.0, 3.0, 4.0, 4.0], [0.0, 3.0, 0.0, 2.0], [0.0, 1.0, 0.0, inf])
    """
    shown = observed(values, valid)
    now = times.to(values.dtype)[:, :, None, None]
    before, value_before = _last_observed(shown, valid, now)
    after, value_after = (a.flip(1) for a in _last_observed(shown.flip(1), valid.flip(1), -now.flip(1)))
    span = before + after
    inside = span.isfinite()
    share = torch.where(inside & (span > 0), before / span.where(span > 0, 1.0), 0.0)
    between = value_before + (value_after - value_before).where(inside, 0.0) * share
    estimate = torch.where(before.isfinite(), between, value_after)
    return estimate.where(before.isfinite() | after.isfinite(), torch.nan), before, after


def _last_observed(values: Tensor, valid: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Time since the last observed step (inf where none) and its value, marching forward along ``now``."""
    steps = torch.arange(values.shape[1], device=values.device)[None, :, None, None]
    last = torch.where(valid, steps, -1).cummax(dim=1).values
    found = last >= 0
    index = last.clamp(min=0)
    elapsed = now - now.expand_as(values).gather(1, index)
    return elapsed.where(found, torch.inf), values.gather(1, index)


def linear_filled(values: Tensor, valid: Tensor, times: Tensor) -> Tensor:
    """`linear`, with cells that were never observed taking the mean of the others at that step. No NaN; (B, T, H, W)."""
    estimate, _, _ = linear(values, valid, times)
    known = estimate.isfinite()
    share = known.sum(dim=(2, 3), keepdim=True)
    level = observed(estimate, known).sum(dim=(2, 3), keepdim=True) / share.clamp(min=1)
    return estimate.where(known, level.where(share > 0, overall_mean(values, valid)))
