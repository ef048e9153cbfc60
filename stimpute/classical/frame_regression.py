"""Regression of each frame on the other frames: what a place looked like at other times says how it looks now.

What each frame has beyond the mean of the others is regressed, over its observed cells, on the other (gap-filled) frames
and on smooth functions of the coordinates; the fit is evaluated everywhere, and believed as far as the observed cells speak
for the place. Related to SSGP (Sarafanov et al. 2020, Remote Sens. 12, 3865), which regresses cell on cell. Knows nothing
about how the gaps were filled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stimpute.classical.convolution import normalized

_FEW_CELLS = 8  # fewer observed cells than this in a frame do not place a fit
_MAX_BLOCK = 16_000_000  # numbers held at a time
_SPREAD_FLOOR = 0.1  # of the unit variance of a frame
_NEARNESS_BONUS = 0.02  # of a squared correlation


def regress_frames(
    values: Tensor,
    valid: Tensor,
    filled: Tensor,
    coords: Tensor | None = None,
    *,
    ridge: tuple[float, float] = (0.1, 10.0),
    leverage: float = 0.3,
    max_predictors: int = 32,
) -> Tensor:
    """Ridge regression of each frame on the others and on coordinates, trained on its observed cells.

    What is regressed is the difference from the mean of the other frames: a frame of which a few cells are seen, all of them unusual, is
    expected to look like the others, not like these cells.

    Parameters
    ----------
    values : (B, T, H, W); gaps may hold anything.
    valid : bool (B, T, H, W), True = observed.
    filled : (B, T, H, W) without NaN, made from the observed cells only (EOFs, or linear in time); read only in the gaps.
    coords : (P, H, W) or (B, P, H, W) further predictors; if None x, y, x^2, xy, y^2.
    ridge : penalty on the standardised frames, and on the coordinates, in units of cells per predictor: with n observed cells
        and P predictors the fit is shrunk as by ``ridge * P`` further cells on which nothing was seen. Coordinates extrapolate: they
        are held tighter.
    leverage : a fit whose error variance at a place is so many times that of an observation counts half there, the filled
        frame the other half; one of a third as much counts nine tenths.
    max_predictors : frames taken into each regression: those most correlated with the frame where it was observed,
        among equals the nearest ones.

    Returns
    -------
    (B, T, H, W), without NaN; the filled frame itself where a frame has no observation, and drawn towards it where a
    frame has only a handful of observed cells, or cells unlike the place.
    """
    batch, steps, height, width = values.shape
    ground = _coordinates(values) if coords is None else coords.to(values.dtype)
    if ground.ndim == 3:
        ground = ground.expand(batch, -1, -1, -1)
    ground = _standardised(ground.flatten(2))
    complete = torch.where(valid, values, filled).flatten(2)
    usual = (complete.sum(dim=1, keepdim=True) - complete) / max(steps - 1, 1)
    frames = _standardised(complete)
    weight = valid.flatten(2).to(values.dtype)
    target = (complete - usual) * weight
    chosen = _choose(frames, target, weight, min(steps - 1, max_predictors))
    fitted, spread = torch.empty_like(target), torch.empty_like(target)
    width_of_one = batch * (chosen.shape[-1] + ground.shape[1]) * height * width
    block = max(1, _MAX_BLOCK // width_of_one)
    rows = torch.arange(batch, device=values.device)[:, None, None]
    counts = torch.tensor((chosen.shape[-1], ground.shape[1]), device=values.device)
    penalty = counts.sum() * torch.tensor(ridge, dtype=torch.float64, device=values.device).repeat_interleave(
        counts
    )
    for start in range(0, steps, block):
        part = slice(start, start + block)
        others = frames[rows, chosen[:, part]]
        places = ground[:, None].expand(-1, others.shape[1], -1, -1)
        predictors = torch.cat((others, places), dim=2)
        fitted[:, part], spread[:, part] = _ridge(predictors, target[:, part], weight[:, part], penalty)
    cells = weight.sum(dim=2, keepdim=True)
    believed = (cells / _FEW_CELLS).clamp(max=1).square() / (1 + (spread / leverage).square())
    return torch.lerp(filled.flatten(2), usual + fitted, believed).reshape(values.shape)


def with_residual(
    fitted: Tensor,
    values: Tensor,
    valid: Tensor,
    *,
    sigma_cells: tuple[float, ...] = (6.0, 2.0, 0.8),
    weight: float = 0.05,
) -> Tensor:
    """``fitted`` plus the local average of what it misses at the observed cells of the same frame, (B, T, H, W).

    Successive corrections (Cressman 1959): from wide to narrow, a normalised convolution of the residual is added, which fades
    to zero away from observations; ``weight`` is the density at which half of the residual is believed.
    """
    for sigma in sigma_cells:
        residual, density = normalized(values - fitted, valid, sigma, 0.0)
        fitted = fitted + residual * density / (density + weight)
    return fitted


def _ridge(predictors: Tensor, target: Tensor, weight: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
    """Fit (B, t, N) targets on (B, t, P, N) predictors, each with its ``penalty`` (P,) float64, and an unpenalised constant.

    Returns the fit everywhere, and its variance in units of that of an observation's error, each (B, t, N).
    """
    count = weight.sum(dim=2, keepdim=True).clamp(min=1)
    level = (target * weight).sum(dim=2, keepdim=True) / count
    center = (predictors @ weight[..., None]) / count[..., None]
    apart = predictors - center
    seen = apart * weight[:, :, None]
    gram = (seen @ apart.mT).to(torch.float64)
    moment = (seen @ (target - level)[..., None]).to(torch.float64)
    factor = torch.linalg.cholesky(gram + torch.diag(penalty))
    slope: Tensor = torch.cholesky_solve(moment, factor).to(target.dtype)
    identity = torch.eye(len(penalty), dtype=torch.float64, device=gram.device)
    root = torch.linalg.solve_triangular(factor, identity.expand_as(gram), upper=False).to(target.dtype)
    return level + (slope.mT @ apart)[:, :, 0], (root @ apart).square_().sum(dim=2) + 1 / count


def _choose(frames: Tensor, target: Tensor, weight: Tensor, count: int) -> Tensor:
    """Index (B, T, count) of the other frames most correlated with each frame over its observed cells.

    Frames that hardly vary there count little, and a bonus for nearness decides where the correlations do not.
    """
    steps = torch.arange(frames.shape[1], dtype=frames.dtype, device=frames.device)
    if count == len(steps) - 1:
        return _all_others(len(steps), frames.device).expand(len(frames), -1, -1)
    cells = weight.sum(dim=2, keepdim=True).clamp(min=1)
    anomaly = (target - (target * weight).sum(dim=2, keepdim=True) / cells) * weight
    energy = anomaly.square().sum(dim=2, keepdim=True)
    varies = energy > 1e-10 * target.square().sum(dim=2, keepdim=True)
    mean = (weight @ frames.mT) / cells
    spread = ((weight @ frames.square().mT) / cells - mean.square()).clamp(min=0) + _SPREAD_FLOOR
    correlation = (anomaly @ frames.mT).square() / (spread * cells * energy.where(varies, 1.0))
    nearness = 1 / (1 + (steps[:, None] - steps[None, :]).abs())
    score = correlation.where(varies, 0.0) + _NEARNESS_BONUS * nearness
    score.diagonal(dim1=1, dim2=2).fill_(-1.0)
    return score.topk(count, dim=2).indices


def _all_others(steps: int, device: torch.device) -> Tensor:
    """For each of ``steps`` frames the indices of the others, (steps, steps - 1)."""
    others = torch.arange(steps - 1, device=device).expand(steps, -1)
    return others + (others >= torch.arange(steps, device=device)[:, None])


def _standardised(rows: Tensor) -> Tensor:
    """Each row of (B, P, N) with mean 0 and variance 1 (0 where it is constant)."""
    apart = rows - rows.mean(dim=2, keepdim=True)
    spread = apart.square().mean(dim=2, keepdim=True).sqrt()
    floor = 1e-6 * rows.abs().amax(dim=2, keepdim=True)
    return torch.where(spread > floor, apart / spread.where(spread > floor, 1.0), 0.0)


def _coordinates(values: Tensor) -> Tensor:
    """x, y, x^2, xy, y^2 with x and y in [-1, 1], as (5, H, W)."""
    height, width = values.shape[2:]
    y = torch.linspace(-1, 1, height, dtype=values.dtype, device=values.device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, dtype=values.dtype, device=values.device)[None, :].expand(height, width)
    return torch.stack((x, y, x * x, x * y, y * y))
