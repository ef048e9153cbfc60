"""The things a world is made of: random fields, patterns, cycles, rain and dry-down, fronts, trends, noise.

Each function makes one component for a batch of n worlds at their own real times, roughly of zero mean and unit
scale, and says what drives it, so that covariates can be made that truly inform. Knows nothing about how
components are weighed, or about gaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from stimpute.synthetic.calendar import Calendar
from stimpute.synthetic.draw import Draw, as_field, standardized
from stimpute.synthetic.spectral import Covariance, random_field, temporal_factor

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Component:
    """One ingredient of n worlds.

    Parameters
    ----------
    field : (n, T, H, W).
    driver : (n, T, H, W) what a dynamic covariate would see of it (rain for dry-down; else the field itself).
    texture : (n, H, W) what a static covariate would see of it; zeros where there is nothing static.
    """

    field: Tensor
    driver: Tensor
    texture: Tensor


def sample_covariance(draw: Draw, calendar: Calendar, size: Size, *, moving: bool = True) -> Covariance:
    """Random covariances: ranges from a cell to twice the tile, memories from none to longer than the window."""
    n = calendar.times.shape[0]
    extent = float(max(size))
    window = (calendar.times[:, -1] - calendar.times[:, 0]).clamp_min(calendar.step)
    memory = (
        calendar.step
        * draw.log_uniform(0.3, 1.0, n)
        * (5 * window / calendar.step).pow(draw.uniform(0, 1, n))
    )
    memory = torch.where(draw.chance(0.12, n), torch.zeros_like(memory), memory)
    carried = draw.chance(0.3 if moving else 0.0, n)[:, None]
    speed = draw.normal(n, 2) * (draw.log_uniform(0.05, 2.0, n) / calendar.step)[:, None]
    return Covariance(
        len_scale=draw.log_uniform(0.7, 1.2 * extent, n),
        smoothness=torch.tensor([0.3, 0.5, 1.0, 1.5, 2.5, 6.0], device=draw.device)[
            draw.choose((1, 2, 2, 2, 1.5, 1), n)
        ],
        ratio=torch.where(
            draw.chance(0.4, n), draw.log_uniform(1.0, 6.0, n), torch.ones(n, device=draw.device)
        ),
        angle=draw.uniform(0, math.pi, n),
        memory=memory,
        memory_smoothness=draw.integers(0, 2, n).float(),
        dispersion=torch.where(
            draw.chance(0.4, n), draw.uniform(0.3, 1.5, n), torch.zeros(n, device=draw.device)
        ),
        velocity=torch.where(carried, speed, torch.zeros_like(speed)),
    )


def timeless(draw: Draw, n: int) -> Calendar:
    """A calendar for things without time."""
    zero = torch.zeros(n, 1, device=draw.device)
    return Calendar(zero, zero, zero, torch.ones(n, device=draw.device))


def texture(draw: Draw, n: int, count: int, size: Size, *, classes: float = 0.25) -> Tensor:
    """Static maps (n, count, H, W): random fields, ridges, rivers, class maps, parcels; standardised.

    ``classes`` is the share of maps with flat patches and sharp borders.
    """
    still = timeless(draw, n)
    covariance = replace(
        sample_covariance(draw, still, size, moving=False), memory=torch.zeros(n, device=draw.device)
    )
    frames = torch.arange(count, device=draw.device, dtype=torch.float32).expand(n, count)
    smooth = random_field(draw, covariance, frames, size)
    rivers = 0.3 * smooth - 2 * torch.exp(-smooth.abs() / as_field(draw.log_uniform(0.03, 0.2, n)))
    thresholds = torch.sort(draw.normal(n, 3), dim=1).values
    banded = torch.gather(draw.normal(n, count, 4), 2, _band(smooth, thresholds).flatten(2)).reshape(
        smooth.shape
    )
    plain = 1 - classes
    odds = (0.7 * plain, 0.18 * plain, 0.12 * plain, 0.5 * classes, 0.5 * classes)
    kind = as_field(draw.choose(odds, n))
    maps = smooth
    for i, other in enumerate((-smooth.abs(), rivers, banded, _voronoi(draw, n, count, size)), start=1):
        maps = torch.where(kind == i, other, maps)
    return _standardized_maps(maps)


def gaussian(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """A random field in space and time."""
    field = random_field(draw, sample_covariance(draw, calendar, size), calendar.times, size)
    return Component(field, field, torch.zeros_like(field[:, 0]))


def low_rank(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """A few spatial patterns, each with its own time series: the world of EOFs."""
    n, rank = calendar.times.shape[0], 6
    patterns = texture(draw, n, rank, size)
    used = torch.arange(rank, device=draw.device) < draw.integers(1, rank, n, 1)
    weight = used * torch.pow(draw.uniform(0.4, 1.0, n, 1), torch.arange(rank, device=draw.device))
    field = torch.einsum("nr,nrt,nrhw->nthw", weight, _series(draw, calendar, rank), patterns)
    return Component(field, field, (weight[:, :, None, None] * patterns).sum(1))


def scene(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """Detail that all frames share, under a light (gain and offset) that may change from frame to frame."""
    n, steps = calendar.times.shape
    maps = texture(draw, n, 2, size, classes=0.4)
    mixed = maps[:, 0] + as_field(draw.uniform(0, 1, n), 3) * maps[:, 1]
    lit = draw.chance(0.4, n, 1)
    gain = torch.exp(lit * draw.uniform(0.05, 0.6, n, 1) * draw.normal(n, steps))
    offset = lit * draw.uniform(0, 1.0, n, 1) * draw.normal(n, steps)
    field = gain[:, :, None, None] * mixed[:, None] + offset[:, :, None, None]
    return Component(field, field - mixed[:, None], mixed)


def storms(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """Showers on the move: fields carried by the wind whose small cells die sooner than the large ones."""
    n = calendar.times.shape[0]
    covariance = replace(
        sample_covariance(draw, calendar, size),
        len_scale=draw.log_uniform(2.0, 0.8 * max(3.0, *size), n),
        smoothness=draw.uniform(0.7, 2.5, n),
        memory=calendar.step * draw.log_uniform(1.0, 30.0, n),
        dispersion=draw.uniform(0.3, 1.2, n),
        velocity=draw.normal(n, 2) * (draw.log_uniform(0.1, 4.0, n) / calendar.step)[:, None],
    )
    field = random_field(draw, covariance, calendar.times, size)
    return Component(field, field, torch.zeros_like(field[:, 0]))


def swirl(draw: Draw, calendar: Calendar, size: Size, memory: float | None = None) -> Component:
    """Filaments and eddies: a smooth field stirred by slowly changing displacements (``memory`` days; None: random)."""
    n, steps = calendar.times.shape
    extent = float(max(size))
    flow = replace(
        sample_covariance(draw, calendar, size),
        len_scale=draw.log_uniform(0.1, 0.5, n) * extent,
        smoothness=draw.uniform(1.5, 3.0, n),
    )
    if memory is not None:
        flow = replace(flow, memory=torch.full((n,), memory, device=draw.device))
    tracer = replace(
        flow, len_scale=flow.len_scale * draw.uniform(0.7, 3.0, n), velocity=torch.zeros_like(flow.velocity)
    )
    reach = as_field(draw.uniform(0.1, 0.5, n) * flow.len_scale / extent * 2)
    shift = [reach * random_field(draw, flow, calendar.times, size) for _ in range(2)]
    y = torch.linspace(-1, 1, size[0], device=draw.device)[:, None] + shift[0]
    x = torch.linspace(-1, 1, size[1], device=draw.device) + shift[1]
    calm = random_field(draw, tracer, calendar.times, size).flatten(0, 1)[:, None]
    places = torch.stack([x, y], dim=-1).flatten(0, 1)
    stirred = functional.grid_sample(calm, places, padding_mode="reflection", align_corners=True)
    field = stirred.reshape(n, steps, *size)
    return Component(field, field, torch.zeros_like(field[:, 0]))


def cycle(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """Seasonal or diurnal cycle with amplitude and phase that vary over the map, tied to the real dates."""
    n = calendar.times.shape[0]
    maps = texture(draw, n, 2, size, classes=0.3)
    amplitude = 1 + as_field(draw.uniform(0, 0.8, n), 3) * maps[:, 0]
    lag = as_field(draw.uniform(0, 1, n), 3) + as_field(draw.uniform(0, 0.12, n), 3) * maps[:, 1]
    diurnal = (calendar.step < 0.3) & draw.chance(0.85, n)
    phase = torch.where(diurnal[:, None], calendar.day_phase, calendar.year_phase)
    angle = 2 * math.pi * (phase[:, :, None, None] - lag[:, None])
    second = as_field(draw.uniform(-0.5, 0.5, n))
    field = amplitude[:, None] * (torch.cos(angle) + second * torch.cos(2 * angle))
    # a growing season: flat, then a peak
    peaked = torch.exp(3 * torch.cos(angle) - 3) * amplitude[:, None] * 2
    field = torch.where(as_field(draw.chance(0.35, n)), peaked, field)
    return Component(field, field, amplitude)


def rain_and_drydown(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """Showers that wet the ground and an exponential dry-down, response and memory set by a static texture."""
    n, steps = calendar.times.shape
    covariance = sample_covariance(draw, calendar, size)
    covariance = replace(
        covariance,
        memory=torch.zeros(n, device=draw.device),
        len_scale=draw.log_uniform(3, 3.0 * max(size), n),
    )
    storms = torch.exp(
        random_field(draw, covariance, calendar.times, size) * as_field(draw.uniform(0.3, 1.2, n))
    )
    rain = (
        storms
        * draw.chance(draw.uniform(0.08, 0.5, n, 1), n, steps)[:, :, None, None]
        * draw.log_uniform(0.3, 3.0, n, steps)[:, :, None, None]
    )
    soil = texture(draw, n, 1, size, classes=0.4)[:, 0]
    days = as_field(calendar.step * draw.log_uniform(1.0, 25.0, n), 3) * torch.exp(0.5 * soil)
    response = torch.exp(as_field(draw.normal(n) * 0.5, 3) * soil)
    wet, states = torch.zeros_like(soil), []
    for t in range(steps):
        elapsed = calendar.times[:, t] - calendar.times[:, max(t - 1, 0)]
        wet = wet * torch.exp(-as_field(elapsed, 3) / days) + response * rain[:, t]
        wet = 3 * torch.tanh(wet / 3)  # the ground saturates
        states.append(wet)
    return Component(torch.stack(states, dim=1), rain, soil)


def front(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """A wavy step edge that crosses the tile."""
    n = calendar.times.shape[0]
    extent = float(max(size))
    angle = draw.uniform(0, 2 * math.pi, n)
    y = torch.linspace(-0.5, 0.5, size[0], device=draw.device)[:, None] * size[0]
    x = torch.linspace(-0.5, 0.5, size[1], device=draw.device) * size[1]
    across = as_field(torch.cos(angle), 3) * x + as_field(torch.sin(angle), 3) * y
    window = (calendar.times[:, -1:] - calendar.times[:, :1]).clamp_min(1e-3)
    progress = (calendar.times - calendar.times[:, :1]) / window - draw.uniform(0, 1, n, 1)
    position = progress * extent * draw.uniform(-2.0, 2.0, n, 1)
    covariance = replace(sample_covariance(draw, calendar, size), len_scale=draw.log_uniform(3.0, extent, n))
    wave = random_field(draw, covariance, calendar.times, size) * as_field(draw.uniform(0, 0.25, n)) * extent
    width = as_field(draw.log_uniform(0.3, 4.0, n))
    field = torch.tanh((across[:, None] - position[:, :, None, None] + wave) / width)
    return Component(field, field, torch.zeros_like(field[:, 0]))


def trend(draw: Draw, calendar: Calendar, size: Size) -> Component:
    """A slow drift, here up and there down; sometimes a break instead of a slope."""
    n = calendar.times.shape[0]
    pattern = texture(draw, n, 1, size)[:, 0] + as_field(draw.normal(n), 3)
    window = (calendar.times[:, -1:] - calendar.times[:, :1]).clamp_min(1e-3)
    ramp = (calendar.times - calendar.times[:, :1]) / window - draw.uniform(0, 1, n, 1)
    ramp = torch.where(draw.chance(0.3, n, 1), torch.sign(ramp), 2 * ramp)
    field = ramp[:, :, None, None] * pattern[:, None]
    return Component(field, field, pattern)


def noise(draw: Draw, calendar: Calendar, size: Size) -> Tensor:
    """What nobody can predict, unit scale: per-cell noise, spikes, per-frame offsets and stripes, (n, T, H, W)."""
    n, steps = calendar.times.shape
    cells = draw.normal(n, steps, *size)
    spiky = draw.chance(0.2, n)
    spikes = draw.chance(0.01, n, steps, *size) * draw.normal(n, steps, *size) * 6
    cells = cells + as_field(spiky) * spikes
    offsets = as_field(draw.chance(0.25, n) * draw.uniform(0.1, 1.0, n)) * draw.normal(n, steps, 1, 1)
    striped = as_field(draw.chance(0.15, n) * draw.uniform(0.1, 1.0, n))
    upright = as_field(draw.chance(0.5, n))
    stripes = torch.where(upright, draw.normal(n, steps, 1, size[1]), draw.normal(n, steps, size[0], 1))
    return cells + offsets + striped * stripes


def _standardized_maps(maps: Tensor) -> Tensor:
    """Every (H, W) map to zero mean and unit scale."""
    n, count = maps.shape[:2]
    return standardized(maps.flatten(0, 1)).reshape(n, count, *maps.shape[2:])


def _band(smooth: Tensor, thresholds: Tensor) -> Tensor:
    """Index of the class (0..len) that each value falls into, by the thresholds of its world."""
    return (smooth[..., None] > thresholds[:, None, None, None, :]).sum(-1)


def _voronoi(draw: Draw, n: int, count: int, size: Size) -> Tensor:
    """Fields, parishes, catchments: every cell takes the level of the nearest of up to 24 seeds."""
    seeds = 24
    y, x = draw.uniform(-0.2, 1.2, n, seeds) * size[0], draw.uniform(-0.2, 1.2, n, seeds) * size[1]
    rows, columns = torch.arange(size[0], device=draw.device), torch.arange(size[1], device=draw.device)
    distance = (rows[:, None, None] - y[:, None, None]).square() + (
        columns[:, None] - x[:, None, None]
    ).square()
    unused = torch.arange(seeds, device=draw.device) >= draw.integers(3, seeds, n, 1)
    nearest = (distance + 1e9 * unused[:, None, None]).argmin(-1)
    levels = draw.normal(n, count, seeds)
    return torch.gather(levels, 2, nearest.flatten(1)[:, None].expand(n, count, -1)).reshape(n, count, *size)


def _series(draw: Draw, calendar: Calendar, rank: int) -> Tensor:
    """Time series (n, rank, T) of unit scale: white, remembering, periodic, or abrupt."""
    n, steps = calendar.times.shape
    window = (calendar.times[:, -1] - calendar.times[:, 0]).clamp_min(calendar.step)
    memory = calendar.step * (3 * window / calendar.step).pow(draw.uniform(0, 1, n))
    factor = temporal_factor(calendar.times, memory, draw.integers(0, 2, n).float())
    white = draw.normal(n, rank, steps)
    remembering = torch.einsum("nts,nrs->nrt", factor, white)
    period = calendar.step * draw.log_uniform(2.5, 60.0, n)
    annual = draw.chance(0.5, n)[:, None]
    turns = torch.where(annual, calendar.year_phase, calendar.times / period[:, None])
    periodic = math.sqrt(2) * torch.cos(2 * math.pi * (turns[:, None] + draw.uniform(0, 1, n, rank, 1)))
    kind = draw.choose((0.35, 0.35, 0.2, 0.1), n * rank).reshape(n, rank, 1)
    series = torch.where(kind == 0, white, torch.where(kind == 1, remembering, periodic))
    return torch.where(kind == 3, torch.sign(remembering), series)
