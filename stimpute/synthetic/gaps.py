"""Gaps as satellites leave them: clouds, swaths, tracks, stripes, lost frames, hidden values, coasts, seasons.

Every kind ranks the cells of a frame (or of the stack) by how soon they go missing and then hides the requested
share, so that the share is met whatever the shape. Covers vary from frame to frame as real clouds do: many frames
nearly covered, others nearly clear. Knows nothing about what the values mean; only the kind "values" looks at them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from stimpute.synthetic.calendar import Calendar
from stimpute.synthetic.components import sample_covariance
from stimpute.synthetic.draw import Draw, as_field
from stimpute.synthetic.spectral import random_field

GAP_KINDS = (
    "clouds",
    "swaths",
    "tracks",
    "stripes",
    "cells",
    "frames",
    "values",
    "coast",
    "blocks",
    "season",
    "mixture",
)
_ODDS = (0.26, 0.13, 0.05, 0.06, 0.1, 0.08, 0.05, 0.03, 0.06, 0.04, 0.14)
LEAST_SHARE, MOST_SHARE = 0.02, 0.98
# where a kind usually hides less, or more, than anything from 2 to 98 %
_USUAL_SHARES = {
    "swaths": (0.1, 0.96),
    "tracks": (0.85, 0.98),
    "stripes": (0.05, 0.5),
    "values": (0.05, 0.8),
    "coast": (0.05, 0.85),
}

Shape = tuple[int, int, int]


def sample_gaps(
    generator: torch.Generator,
    batch: int,
    shape: Shape,
    kind: str | None = None,
    fraction: float | None = None,
    truth: Tensor | None = None,
    times: Tensor | None = None,
    domain: Tensor | None = None,
) -> Tensor:
    """Draw which cells are observed.

    Parameters
    ----------
    generator : the only source of randomness; the result lives on its device.
    batch, shape : number of stacks and their (T, H, W).
    kind : one of ``GAP_KINDS``; None draws one per stack ("values" only where ``truth`` is given).
    fraction : share of cells to hide, 0.02 to 0.98, met within a few per cent (tracks hide at least 0.7, stripes at most 0.7); None draws one per stack.
    truth : float (B, T, H, W), needed by the kind "values" (high or low values hide).
    times : float (B, T) days; cloud fields of close frames resemble each other. None: daily frames.
    domain : bool (B, H, W); nothing is observed outside it. None: everywhere.

    Returns
    -------
    valid : bool (B, T, H, W), True = observed; every stack keeps at least 2 % of its cells (of its domain) and loses
        at least 2 %.

    Raises
    ------
    ValueError : unknown kind, fraction out of range, "values" without ``truth``.
    """
    if kind is not None and kind not in GAP_KINDS:
        raise ValueError(f"kind {kind!r}: choose one of {', '.join(GAP_KINDS)}")
    if kind == "values" and truth is None:
        raise ValueError("kind 'values' hides high or low values: give truth")
    if fraction is not None and not LEAST_SHARE <= fraction <= MOST_SHARE:
        raise ValueError(f"fraction {fraction}: choose {LEAST_SHARE} to {MOST_SHARE}")
    draw = Draw(generator)
    days = _daily(draw, batch, shape[0]) if times is None else times.to(draw.device)
    odds = [p if truth is not None or k != "values" else 0.0 for k, p in zip(GAP_KINDS, _ODDS)]
    kinds = (
        draw.choose(odds, batch)
        if kind is None
        else torch.full((batch,), GAP_KINDS.index(kind), device=draw.device)
    )
    share = torch.full((batch,), fraction or 0.0, device=draw.device)
    if fraction is None:
        usual = torch.tensor(
            [_USUAL_SHARES.get(k, (LEAST_SHARE, MOST_SHARE)) for k in GAP_KINDS], device=draw.device
        )[kinds]
        share = usual[:, 0] + draw.uniform(0, 1, batch) * (usual[:, 1] - usual[:, 0])
    valid = torch.ones(batch, *shape, dtype=torch.bool, device=draw.device)
    for index, name in enumerate(GAP_KINDS):
        who = (kinds == index).nonzero().squeeze(1)
        if len(who):
            part = None if truth is None else truth.to(draw.device)[who]
            valid[who] = ~_hide(draw, name, shape, share[who], days[who], part)
    inside = torch.ones_like(valid) if domain is None else domain.to(draw.device)[:, None].expand(valid.shape)
    return _within_bounds(draw, valid & inside, inside)


def _hide(draw: Draw, kind: str, shape: Shape, share: Tensor, times: Tensor, truth: Tensor | None) -> Tensor:
    if kind == "mixture":
        return _mixture(draw, shape, share, times)
    if kind == "values":
        assert truth is not None
        return _values(draw, shape, share, truth)
    return _SHAPES[kind](draw, shape, share, times)


def _clouds(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Thresholded moving random fields: ragged or smooth, broken or closed."""
    n = len(share)
    calendar = _calendar(times)
    covariance = sample_covariance(draw, calendar, shape[1:])
    covariance = replace(
        covariance,
        len_scale=draw.log_uniform(1.5, 1.5 * max(shape[1:]), n),
        smoothness=draw.uniform(0.3, 1.5, n),
        memory=draw.log_uniform(0.02, 1.0, n),  # days: hourly frames share their clouds, daily ones hardly do
        memory_smoothness=torch.zeros(n, device=draw.device),
    )
    score = random_field(draw, covariance, times, shape[1:])
    # mountains and coasts gather clouds
    usual = random_field(
        draw, replace(covariance, velocity=torch.zeros_like(covariance.velocity)), times[:, :1], shape[1:]
    )
    score = score + as_field(draw.chance(0.35, n) * draw.uniform(0.2, 1.2, n)) * usual
    fine = as_field(draw.uniform(0, 0.5, n)) * draw.normal(*score.shape)
    broken = as_field(draw.chance(0.3, n))
    return _hide_by_frame(
        score + torch.where(broken, fine, torch.zeros_like(fine)), _covers(draw, share, times)
    )


def _swaths(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Bands along an orbit's ground track, shifted from pass to pass; ascending and descending passes cross."""
    n, steps = len(share), shape[0]
    across = _across_track(draw, shape, share)
    period = as_field(draw.log_uniform(0.8, 5.0, n)) * max(shape[1:])
    drift = draw.uniform(0, 1, n, 1) * torch.arange(steps, device=draw.device) + draw.uniform(0, 1, n, 1)
    jitter = draw.normal(n, steps) * draw.uniform(0, 0.3, n, 1)
    place = torch.remainder(
        across / period + as_field((drift + jitter).flatten(), 3).reshape(n, steps, 1, 1), 1.0
    )
    ragged = as_field(draw.chance(0.3, n) * 0.03) * draw.normal(*place.shape)
    hidden = _threshold(place + ragged, share)
    return hidden | (
        _threshold(draw.uniform(0, 1, *place.shape), draw.uniform(0, 0.15, n)) & as_field(draw.chance(0.3, n))
    )


def _tracks(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Only thin lines are observed, as by an altimeter or a lidar."""
    n, steps = len(share), shape[0]
    across = _across_track(draw, shape, share)
    spacing = as_field(draw.log_uniform(0.4, 2.0, n)) * max(shape[1:])
    shift = draw.uniform(0, 1, n, steps, 1, 1)
    distance = (torch.remainder(across / spacing + shift, 1.0) - 0.5).abs()
    return _threshold(-distance, share.clamp_min(0.7), largest=False)


def _stripes(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Parallel missing lines: scan-line failures, wider to one side, or dropped rows and columns."""
    n, steps = len(share), shape[0]
    across = _across_track(draw, shape, share)
    period = as_field(draw.uniform(4, max(6.0, 0.6 * max(shape[1:])), n))
    shift = draw.uniform(0, 1, n, steps, 1, 1) * as_field(draw.chance(0.8, n))
    wave = (torch.remainder(across / period + shift, 1.0) - 0.5).abs() * 2
    wedge = torch.linspace(0, 1, shape[2], device=draw.device) * as_field(draw.uniform(0, 0.8, n))
    return _threshold(wave + wedge, share.clamp_max(0.7))


def _cells(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Independent cells; the share is the same in all frames or differs between them."""
    n = len(share)
    covers = torch.where(
        draw.chance(0.5, n, 1), _covers(draw, share, times), share[:, None].expand(n, shape[0])
    )
    return _hide_by_frame(draw.normal(n, *shape), covers)


def _frames(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Whole frames, alone or in runs, or all but every k-th; a single frame loses a block instead."""
    n, steps = len(share), shape[0]
    if steps == 1:
        return _blocks(draw, shape, share, times)
    runs = draw.log_uniform(0.2, max(1.0, steps / 4), n)
    lag = (torch.arange(steps, device=draw.device)[:, None] - torch.arange(steps, device=draw.device)).abs()
    kernel = torch.exp(-(lag / runs[:, None, None]))
    score = torch.einsum("nts,ns->nt", kernel, draw.normal(n, steps))
    every = (
        torch.arange(steps, device=draw.device) * 1.0 % torch.round(1 / (1 - share)).clamp(2, steps)[:, None]
    )
    score = torch.where(draw.chance(0.3, n, 1), every, score)
    hidden = _threshold(score[:, :, None, None] + 1e-4 * draw.normal(n, steps, 1, 1), share)
    return hidden.expand(n, *shape)


def _values(draw: Draw, shape: Shape, share: Tensor, truth: Tensor) -> Tensor:
    """High (or low) values hide, more or less strictly, over the stack or within each frame."""
    n = len(share)
    sign = torch.where(draw.chance(0.5, n), 1.0, -1.0)
    scale = (
        truth.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        if truth[0].numel() > 1
        else torch.ones_like(truth)
    )
    score = as_field(sign) * (truth - truth.mean(dim=(1, 2, 3), keepdim=True)) / scale
    score = score + as_field(draw.log_uniform(0.05, 0.7, n)) * draw.normal(n, *shape)
    return _threshold(score, share)


def _coast(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """A part of the map is never observed; a few cells elsewhere are missing too."""
    n = len(share)
    still = _calendar(torch.zeros(n, 1, device=draw.device))
    covariance = sample_covariance(draw, still, shape[1:], moving=False)
    covariance = replace(covariance, len_scale=draw.log_uniform(4.0, 2.0 * max(shape[1:]), n))
    height = random_field(draw, covariance, still.times, shape[1:])
    never = _threshold(height, 0.9 * share)
    return never | _threshold(draw.normal(n, *shape), 0.1 * share)


def _blocks(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Boxes and balls cut out of space and time."""
    n, count = len(share), 6
    axes = []
    for length in shape:
        place = torch.arange(length, device=draw.device)
        centre = draw.uniform(-0.1, 1.1, n, count, 1) * length
        reach = draw.log_uniform(0.1, 0.8, n, count, 1) * length
        axes.append((place - centre).abs() / reach.clamp_min(0.5))
    t, y, x = axes[0][..., None, None], axes[1][:, :, None, :, None], axes[2][:, :, None, None, :]
    boxes = torch.maximum(torch.maximum(t, y), x).amin(dim=1)
    balls = (t.square() + y.square() + x.square()).sqrt().amin(dim=1)
    return _threshold(-torch.where(as_field(draw.chance(0.5, n)), boxes, balls), share)


def _season(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Snow or polar night: a part of the map disappears for a part of the window, every period."""
    n = len(share)
    still = _calendar(torch.zeros(n, 1, device=draw.device))
    covariance = replace(
        sample_covariance(draw, still, shape[1:], moving=False),
        len_scale=draw.log_uniform(4.0, 2.0 * max(shape[1:]), n),
    )
    ground = random_field(draw, covariance, still.times, shape[1:])
    period = draw.uniform(0.5, 2.0, n, 1) * shape[0]
    phase = 2 * math.pi * (torch.arange(shape[0], device=draw.device) / period + draw.uniform(0, 1, n, 1))
    winter = as_field(draw.uniform(0.7, 3.0, n)) * torch.cos(phase)[:, :, None, None]
    return _threshold(ground + winter + 0.1 * draw.normal(n, *shape), share)


def _mixture(draw: Draw, shape: Shape, share: Tensor, times: Tensor) -> Tensor:
    """Two or three kinds on top of each other, together about the share."""
    n = len(share)
    names = list(_SHAPES)
    first, second, third = (draw.choose([1.0] * len(names), n) for _ in range(3))
    split = draw.uniform(0.15, 0.85, n)
    hidden = torch.zeros(n, *shape, dtype=torch.bool, device=draw.device)
    few = 0.1 * draw.chance(0.4, n) * share
    # observed shares multiply
    left = torch.log1p(-share)
    for chosen, part in (
        (first, 1 - torch.exp(left * split)),
        (second, 1 - torch.exp(left * (1 - split))),
        (third, few),
    ):
        for index, name in enumerate(names):
            who = ((chosen == index) & (part > 0)).nonzero().squeeze(1)
            if len(who):
                hidden[who] |= _SHAPES[name](draw, shape, part[who], times[who])
    return hidden


_SHAPES: dict[str, Callable[[Draw, Shape, Tensor, Tensor], Tensor]] = {
    "clouds": _clouds,
    "swaths": _swaths,
    "tracks": _tracks,
    "stripes": _stripes,
    "cells": _cells,
    "frames": _frames,
    "coast": _coast,
    "blocks": _blocks,
    "season": _season,
}


def _covers(draw: Draw, share: Tensor, times: Tensor) -> Tensor:
    """Cloud cover of every frame (n, T) with mean ``share``: from even to U-shaped, and with weather that lasts."""
    n, steps = times.shape
    weather = torch.empty(n, steps, device=draw.device)
    lasting, white = draw.uniform(0, 0.8, n), draw.normal(n, steps)
    for t in range(steps):
        weather[:, t] = (
            white[:, t]
            if t == 0
            else lasting * weather[:, t - 1] + (1 - lasting.square()).sqrt() * white[:, t]
        )
    contrast = draw.log_uniform(0.3, 6.0, n)[:, None]
    low, high = torch.full_like(share, -40.0), torch.full_like(share, 40.0)
    for _ in range(30):  # bisection for the offset whose covers average to the share
        middle = (low + high) / 2
        short = _clip_cover(weather * contrast + middle[:, None]).mean(1) < share
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return _clip_cover(weather * contrast + high[:, None])


def _clip_cover(score: Tensor) -> Tensor:
    """Normal score to cover; the last per cent at each end are wholly clear or wholly covered."""
    probability: Tensor = torch.special.ndtr(score)
    return ((probability - 0.02) / 0.96).clamp(0, 1)


def _hide_by_frame(score: Tensor, covers: Tensor) -> Tensor:
    """Hide the highest scores of each frame up to its cover."""
    n, steps, height, width = score.shape
    return _threshold(score.reshape(n * steps, 1, height, width), covers.flatten()).reshape(score.shape)


def _threshold(score: Tensor, share: Tensor, *, largest: bool = True) -> Tensor:
    """Hide the share of cells with the largest scores (or the smallest) of each stack."""
    flat = (score if largest else -score).flatten(1)
    count = torch.round(share * flat.shape[1]).long()
    ranked = flat.sort(dim=1, descending=True).values
    level = ranked.gather(1, (count - 1).clamp(0, flat.shape[1] - 1)[:, None])
    return ((flat >= level) & (count > 0)[:, None]).reshape(score.shape)


def _across_track(draw: Draw, shape: Shape, share: Tensor) -> Tensor:
    """Distance in cells across a track whose inclination is that of the stack's ascending or descending passes (n, T, H, W)."""
    n, steps, height, width = len(share), *shape
    tilt = draw.uniform(0.05, 0.6, n, 1) * torch.where(
        draw.chance(draw.choose((0.5, 0.5), n)[:, None] * 0.5, n, steps), -1.0, 1.0
    )
    tilt = torch.where(draw.chance(0.15, n, 1), torch.zeros_like(tilt), tilt)
    tilt = (tilt + math.pi / 2 * draw.chance(0.2, n, 1))[:, :, None, None]
    y, x = torch.arange(height, device=draw.device)[:, None], torch.arange(width, device=draw.device)
    return torch.cos(tilt) * x + torch.sin(tilt) * y


def _daily(draw: Draw, batch: int, steps: int) -> Tensor:
    return torch.arange(steps, device=draw.device, dtype=torch.float32).expand(batch, steps)


def _calendar(times: Tensor) -> Calendar:
    """A calendar with nothing but times."""
    step = times.diff(dim=1).median(dim=1).values if times.shape[1] > 1 else torch.ones_like(times[:, 0])
    return Calendar(times, torch.zeros_like(times), torch.zeros_like(times), step.clamp_min(1e-3))


def _within_bounds(draw: Draw, valid: Tensor, inside: Tensor) -> Tensor:
    """Flip random cells of the domain until 2 to 98 % of it are missing, and at least one cell is seen."""
    flat, allowed = valid.flatten(1), inside.flatten(1)
    least = torch.ceil(LEAST_SHARE * allowed.sum(1)).long().clamp_min(1)
    order = draw.uniform(0, 1, *flat.shape)
    show = (least - flat.sum(1)).clamp_min(0)
    hide = (least - (allowed & ~flat).sum(1)).clamp_min(0)
    if not bool((show + hide).any()):
        return valid
    gap_rank = (order + 2 * flat + 4 * ~allowed).argsort(dim=1).argsort(dim=1)
    seen_rank = (order + 2 * ~flat).argsort(dim=1).argsort(dim=1)
    flat = (flat | (gap_rank < show[:, None])) & ~(flat & (seen_rank < hide[:, None]))
    return flat.reshape(valid.shape)
