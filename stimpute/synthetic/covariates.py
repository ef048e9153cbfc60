"""Covariates of simulated worlds: built from what drives the world, then bent, lagged, coarsened and spoiled; or unrelated.

Knows nothing about how a world is put together beyond its components and their weights.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from stimpute.synthetic.calendar import Calendar
from stimpute.synthetic.components import Component, sample_covariance, texture
from stimpute.synthetic.draw import Draw, as_field, standardized
from stimpute.synthetic.spectral import random_field


def dynamic_covariates(
    draw: Draw, calendar: Calendar, signal: Tensor, parts: list[Component], weights: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Covariates with a time axis: (B, C, T, H, W), their validity, and whether they inform."""
    batch, steps, height, width = signal.shape
    count = _how_many(draw, batch, (0.45, 0.2, 0.15, 0.12, 0.08), wanted)
    most = int(count.max())
    if most == 0:
        empty = torch.zeros(batch, 0, steps, height, width, device=draw.device)
        return empty, empty.bool(), torch.zeros(batch, 0, dtype=torch.bool, device=draw.device)
    drivers = torch.stack([signal, *(part.driver for part in parts)], dim=1)
    share = torch.cat([torch.ones(batch, 1, device=draw.device), weights], dim=1)
    pick = (
        share[:, None]
        * draw.chance(0.3, batch, most, share.shape[1])
        * draw.normal(batch, most, share.shape[1])
    )
    informed = torch.einsum("bck,bkthw->bcthw", pick, drivers).flatten(0, 1)
    n = batch * most
    informative = draw.chance(0.7, n) & (pick.flatten(0, 1).abs().sum(1) > 0)
    raw = standardized(_misled(draw, calendar, informed, ~informative))
    seen = _coarsened(draw, _lagged(draw, _bent(draw, raw)))
    spoil = as_field(draw.chance(0.6, n) * draw.log_uniform(0.03, 1.5, n))
    seen = standardized(seen + spoil * draw.normal(n, steps, height, width))
    valid = torch.arange(most, device=draw.device) < count[:, None]
    known = valid.flatten()[:, None, None, None] & _mostly_known(draw, n, steps, (height, width))
    shaped = (batch, most, steps, height, width)
    return (seen * known).reshape(shaped), known.reshape(shaped), (informative.reshape(batch, most) & valid)


def static_covariates(
    draw: Draw, parts: list[Component], weights: Tensor, *, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Covariates without a time axis: (B, S, H, W), their validity, and whether they inform."""
    batch, height, width = parts[0].texture.shape
    count = _how_many(draw, batch, (0.5, 0.2, 0.18, 0.12), wanted)
    most = int(count.max())
    if most == 0:
        empty = torch.zeros(batch, 0, height, width, device=draw.device)
        return empty, empty.bool(), torch.zeros(batch, 0, dtype=torch.bool, device=draw.device)
    ground = torch.stack([part.texture for part in parts], dim=1)
    present = weights * (ground.abs().amax(dim=(2, 3)) > 0)
    pick = present[:, None] * draw.chance(0.5, batch, most, len(parts)) * draw.normal(batch, most, len(parts))
    informed = torch.einsum("bsk,bkhw->bshw", pick, ground).flatten(0, 1)[:, None]
    n = batch * most
    informative = draw.chance(0.75, n) & (pick.flatten(0, 1).abs().sum(1) > 0)
    raw = standardized(torch.where(as_field(informative), informed, texture(draw, n, 1, (height, width))))
    seen = _coarsened(draw, _bent(draw, raw))
    spoil = as_field(draw.chance(0.5, n) * draw.log_uniform(0.03, 1.0, n))
    seen = standardized(seen + spoil * draw.normal(*seen.shape))[:, 0].reshape(batch, most, height, width)
    valid = torch.arange(most, device=draw.device) < count[:, None]
    known = valid[:, :, None, None].expand(seen.shape)
    return seen * known, known.contiguous(), informative.reshape(batch, most) & valid


def _misled(draw: Draw, calendar: Calendar, informed: Tensor, irrelevant: Tensor) -> Tensor:
    """Some covariates have nothing to do with the world: fields of their own take their place."""
    who = irrelevant.nonzero().squeeze(1)
    if not len(who):
        return informed
    per_world = informed.shape[0] // calendar.times.shape[0]
    own = calendar.of(torch.div(who, per_world, rounding_mode="floor"))
    size = (informed.shape[2], informed.shape[3])
    return informed.index_copy(
        0, who, random_field(draw, sample_covariance(draw, own, size), own.times, size)
    )


def _how_many(draw: Draw, batch: int, odds: tuple[float, ...], wanted: bool) -> Tensor:
    count = draw.choose(odds, batch)
    return count if wanted else torch.zeros_like(count)


def _bent(draw: Draw, x: Tensor) -> Tensor:
    """Nonlinear views of a driver: as it is, saturating, skewed, squared, upside down."""
    kind = as_field(draw.choose((0.5, 0.15, 0.15, 0.05, 0.15), x.shape[0]))
    out = torch.where(kind == 1, torch.tanh(1.5 * x), x)
    out = torch.where(kind == 2, torch.exp(0.8 * x.clamp(-4, 4)), out)
    out = torch.where(kind == 3, x.square(), out)
    return torch.where(kind == 4, -x, out)


def _lagged(draw: Draw, x: Tensor) -> Tensor:
    """Some covariates run a few steps ahead of, or behind, what they drive."""
    n, steps = x.shape[:2]
    lag = torch.where(
        draw.chance(0.25, n), draw.integers(-3, 3, n), torch.zeros(n, dtype=torch.int64, device=x.device)
    )
    index = (torch.arange(steps, device=x.device) - lag[:, None]).clamp(0, steps - 1)
    return torch.gather(x, 1, index[:, :, None, None].expand(x.shape))


def _coarsened(draw: Draw, x: Tensor) -> Tensor:
    """Some covariates come on a coarser grid (up to one value for the whole tile), as blocks or interpolated."""
    n, _, height, width = x.shape
    kind = as_field(draw.choose((0.6, 0.12, 0.12, 0.08, 0.08), n))
    out = x
    for i, factor in enumerate((4, 8, 16), start=1):
        coarse = functional.adaptive_avg_pool2d(x, (max(1, height // factor), max(1, width // factor)))
        mode = "bilinear" if i == 2 else "nearest"
        out = torch.where(kind == i, functional.interpolate(coarse, size=(height, width), mode=mode), out)
    return torch.where(kind == 4, x.mean(dim=(2, 3), keepdim=True), out)


def _mostly_known(draw: Draw, n: int, steps: int, size: tuple[int, int]) -> Tensor:
    """Validity of covariates (n, T, H, W): complete, with absent frames, or with absent cells."""
    kind = as_field(draw.choose((0.7, 0.15, 0.15), n))
    frames = draw.chance(draw.uniform(0.5, 0.95, n, 1), n, steps)[:, :, None, None]
    cells = draw.chance(as_field(draw.uniform(0.3, 0.95, n)), n, steps, *size)
    return (kind == 0) | ((kind == 1) & frames) | ((kind == 2) & cells)
