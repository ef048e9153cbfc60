"""Worlds to learn from: batches of simulated space-time stacks with their covariates, each drawn from its own recipe.

A world is a weighted sum of components (random fields, low-rank patterns, static detail, cycles, rain and
dry-down, fronts, trends), sometimes modulated by a static map, sent through a marginal transform (none,
log-normal, bounded, zero-inflated, quantised), brought to unit scale, with a random offset and noise. Covariates are built from the very components
(or not at all, when they are meant to mislead). Knows nothing about gaps, networks, files or units.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from stimpute.synthetic.calendar import Calendar, sample_calendar
from stimpute.synthetic.components import (
    Component,
    cycle,
    front,
    gaussian,
    low_rank,
    noise,
    rain_and_drydown,
    sample_covariance,
    scene,
    storms,
    swirl,
    timeless,
    trend,
)
from stimpute.synthetic.covariates import dynamic_covariates, static_covariates
from stimpute.synthetic.draw import Draw, as_field, standardized
from stimpute.synthetic.spectral import random_field

# what a world may be made of, how often, and whether it changes with time
_COMPONENTS = (
    (gaussian, 0.5, True),
    (gaussian, 0.35, True),
    (low_rank, 0.5, True),
    (scene, 0.55, False),
    (cycle, 0.4, True),
    (rain_and_drydown, 0.2, True),
    (storms, 0.1, True),
    (swirl, 0.12, True),
    (front, 0.1, True),
    (trend, 0.2, False),
)
_STORMS = [make is storms for make, _, _ in _COMPONENTS].index(True)
MARGINALS = ("identity", "exponential", "bounded", "zero-inflated", "quantised")
_MARGINAL_ODDS = (0.5, 0.15, 0.13, 0.14, 0.08)


@dataclass(frozen=True, eq=False)
class WorldBatch:
    """B complete worlds with covariates, on one device.

    Parameters
    ----------
    truth : float32 (B, T, H, W), finite, roughly unit scale around a random offset; noise included.
    times : float32 (B, T) days since the first frame, strictly increasing.
    year_phase, day_phase : float32 (B, T) in [0, 1).
    dynamic : float32 (B, C, T, H, W), 0 where unknown; C is the largest number that a world of the batch has.
    dynamic_valid : bool, same shape; a world with fewer covariates has channels without a single valid cell.
    static, static_valid : (B, S, H, W), likewise.
    domain : bool (B, H, W); False where nothing is ever observed (sea in a land product, land in a sea product).
    dynamic_informative, static_informative : bool (B, C) and (B, S): built from what drives the world.
    marginal : int64 (B,), index into ``MARGINALS``.
    """

    truth: Tensor
    times: Tensor
    year_phase: Tensor
    day_phase: Tensor
    dynamic: Tensor
    dynamic_valid: Tensor
    static: Tensor
    static_valid: Tensor
    domain: Tensor
    dynamic_informative: Tensor
    static_informative: Tensor
    marginal: Tensor

    def __post_init__(self) -> None:
        b, t, h, w = self.truth.shape
        if self.times.shape != (b, t) or self.domain.shape != (b, h, w):
            raise ValueError(
                f"truth {tuple(self.truth.shape)}, times {tuple(self.times.shape)}, domain {tuple(self.domain.shape)}"
            )

    def to(self, device: torch.device | str) -> WorldBatch:
        """The same worlds elsewhere."""
        return WorldBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def sample_worlds(
    generator: torch.Generator, batch: int, shape: tuple[int, int, int], *, covariates: bool = True
) -> WorldBatch:
    """Draw ``batch`` worlds of ``shape`` (T, H, W) on the generator's device.

    Parameters
    ----------
    generator : the only source of randomness; the same state gives the same worlds (on one kind of device).
    batch : number of worlds.
    shape : (T, H, W), each at least 1.
    covariates : draw up to six per world (up to four dynamic, up to three static); else C = S = 0.

    Raises
    ------
    ValueError : a size below 1.
    """
    if batch < 1 or min(shape) < 1:
        raise ValueError(f"batch {batch}, shape {shape}: every size must be at least 1")
    draw = Draw(generator)
    calendar = sample_calendar(draw, batch, shape[0])
    size = shape[1:]
    marginal = draw.choose(_MARGINAL_ODDS, batch)
    rainy = (marginal == MARGINALS.index("zero-inflated")) & draw.chance(0.75, batch)
    weights = _sample_weights(draw, batch, rainy)
    parts = _sample_parts(draw, calendar, size, weights)
    signal = standardized(_modulated(draw, _weighed(parts, weights), parts))
    zeros = marginal == MARGINALS.index("zero-inflated")
    noisy = _noise_level(draw, batch) * torch.where(rainy, 0.1, torch.where(zeros, 0.4, 1.0))
    measured = signal + as_field(noisy) * noise(draw, calendar, size)
    truth = _scaled(draw, _observable(draw, measured, marginal), marginal)
    dynamic, dynamic_valid, from_world = dynamic_covariates(
        draw, calendar, signal, parts, weights, wanted=covariates
    )
    static, static_valid, from_ground = static_covariates(draw, parts, weights, wanted=covariates)
    return WorldBatch(
        truth, calendar.times, calendar.year_phase, calendar.day_phase, dynamic, dynamic_valid, static, static_valid,
        _sample_domain(draw, batch, size), from_world, from_ground, marginal,
    )  # fmt: skip


def _sample_weights(draw: Draw, batch: int, rainy: Tensor) -> Tensor:
    """How much of each component enters each world, (B, parts), 0 where it does not; rainy worlds are mostly storms."""
    odds = torch.tensor([often for _, often, _ in _COMPONENTS], device=draw.device)
    moves = torch.tensor([moving for _, _, moving in _COMPONENTS], device=draw.device)
    used = draw.chance(odds.expand(batch, -1), batch, len(_COMPONENTS))
    used[:, _STORMS] |= rainy
    used[:, 0] |= ~(used & moves).any(1)
    weights = used * torch.exp(draw.normal(batch, len(_COMPONENTS)) * 0.8)
    calm = torch.where(rainy[:, None], 0.25, 1.0).expand_as(weights).clone()
    calm[:, _STORMS] = torch.where(rainy, 2.0, 1.0)
    return weights * calm


def _sample_parts(draw: Draw, calendar: Calendar, size: tuple[int, int], weights: Tensor) -> list[Component]:
    """Every component for the worlds that use it, zeros for the others."""
    batch, steps = calendar.times.shape
    parts = []
    for i, (make, _, _) in enumerate(_COMPONENTS):
        who = (weights[:, i] > 0).nonzero().squeeze(1)
        whole = torch.zeros(batch, steps, *size, device=draw.device)
        part = Component(whole, whole, whole[:, 0])
        if len(who):
            made = make(draw, calendar.of(who), size)
            part = Component(
                whole.index_copy(0, who, _centred(made.field)),
                whole.index_copy(0, who, standardized(made.driver)),
                whole[:, 0].index_copy(0, who, standardized(made.texture)),
            )
        parts.append(part)
    return parts


def _weighed(parts: list[Component], weights: Tensor) -> Tensor:
    """The weighted sum of the components."""
    total = torch.zeros_like(parts[0].field)
    for i, part in enumerate(parts):
        total = total + as_field(weights[:, i]) * part.field
    return total


def _centred(field: Tensor) -> Tensor:
    """Zero mean; unit scale unless the field is nearly flat inside the tile (a range far wider than it)."""
    centred = field - field.mean(dim=(1, 2, 3), keepdim=True)
    scale = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return centred / scale.clamp_min(0.3)


def _modulated(draw: Draw, signal: Tensor, parts: list[Component]) -> Tensor:
    """Sometimes the amplitude follows a static map (dry ground swings more than wet ground)."""
    batch = signal.shape[0]
    ground = standardized(torch.stack([part.texture for part in parts]).sum(0))
    strength = draw.chance(0.25, batch) * draw.normal(batch) * 0.5
    return signal * torch.exp(as_field(strength) * ground[:, None].clamp(-2, 2))


def _observable(draw: Draw, measured: Tensor, marginal: Tensor) -> Tensor:
    """The marginal transform: what an instrument would deliver."""
    batch = measured.shape[0]
    steep = as_field(draw.uniform(0.4, 1.3, batch))
    threshold = as_field(draw.uniform(-0.5, 1.3, batch))
    excess = functional.relu(measured - threshold)
    quantum = as_field(draw.log_uniform(0.05, 0.5, batch))
    forms = (
        measured,
        torch.exp((steep * measured).clamp(-8, 8)),
        torch.sigmoid(2 * steep * measured + threshold),
        torch.where(as_field(draw.chance(0.5, batch)), excess, torch.expm1(excess.clamp_max(6.0) * steep)),
        torch.round(measured / quantum) * quantum,
    )
    truth = measured
    for i, form in enumerate(forms):
        truth = torch.where(as_field(marginal == i), form, truth)
    return truth


def _scaled(draw: Draw, truth: Tensor, marginal: Tensor) -> Tensor:
    """Unit scale, give or take, around a random offset; some worlds upside down (never the zero-inflated)."""
    batch = truth.shape[0]
    upside_down = draw.chance(0.15, batch) & (marginal != MARGINALS.index("zero-inflated"))
    scale = draw.log_uniform(0.6, 1.6, batch) * torch.where(upside_down, -1.0, 1.0)
    return standardized(truth) * as_field(scale) + as_field(draw.normal(batch) * 0.5)


def _noise_level(draw: Draw, batch: int) -> Tensor:
    """Noise over signal (B,): none, usual, strong, dominant."""
    kind = draw.choose((0.2, 0.5, 0.22, 0.08), batch)
    level = torch.where(kind == 1, draw.log_uniform(0.02, 0.3, batch), draw.log_uniform(0.3, 1.0, batch))
    level = torch.where(kind == 3, draw.log_uniform(1.0, 3.0, batch), level)
    return torch.where(kind == 0, torch.zeros_like(level), level)


def _sample_domain(draw: Draw, batch: int, size: tuple[int, int]) -> Tensor:
    """Cells that are ever observed: everything, or all but what lies beyond a coast."""
    still = timeless(draw, batch)
    covariance = replace(
        sample_covariance(draw, still, size, moving=False),
        len_scale=draw.log_uniform(3.0, 2.0 * max(size), batch),
    )
    height = random_field(draw, covariance, still.times, size)[:, 0].flatten(1)
    share = draw.uniform(0.02, 0.7, batch, 1)
    level = height.sort(dim=1).values.gather(1, (share * (height.shape[1] - 1)).long())
    return ((height >= level) | ~draw.chance(0.25, batch, 1)).reshape(batch, *size)
