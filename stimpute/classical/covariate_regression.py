"""Regression on covariates and on what they were lately, pooled over all observed cells of a stack.

A ridge on covariates, their squares and random waves of them (Rahimi and Recht 2007, Random features for large-scale
kernel machines), whose penalty is chosen by leaving out spells of time. Knows nothing else about space and time but the covariates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stimpute.classical.convolution import normalized
from stimpute.classical.mean import observed, overall_mean
from stimpute.classical.temporal import linear

PAST = 3.0, 10.0  # steps over which what covariates that change were is remembered
WAVES = 256
PENALTIES = 0.1, 1.0, 10.0, 100.0, 1e3, 1e4  # on columns of about unit variance, in cells
FOLDS = 5
ROWS = 20_000  # observed cells that are fitted on, at most
CELLS = 16_384  # evaluated at once
RELEVANCE = 0.1, 3.0  # of an input to waves beside the others', at least and at most
NEAR_CELLS, NEAR_STEPS = 4.0, 2.0  # reach of what completes covariates in space,
NEARLY_NOTHING = 1e-3  # and density from which it does
FEWEST = 2 * FOLDS  # cells from which a penalty can be chosen


def regress_covariates(
    values: Tensor,
    valid: Tensor,
    dynamic: Tensor,
    dynamic_valid: Tensor,
    static: Tensor,
    static_valid: Tensor,
    times: Tensor,
) -> Tensor | None:
    """What covariates say of the values everywhere.

    Parameters
    ----------
    values, valid : (B, T, H, W); gaps may hold anything.
    dynamic, dynamic_valid : (B, C, T, H, W); unknown covariates may hold anything. They are interpolated in time, then in space; where nothing
        is near they count as their mean.
    static, static_valid : (B, S, H, W), likewise, in space alone.
    times : (B, T) in days, increasing.

    Returns
    -------
    (B, T, H, W), finite, or None where there is no covariate at all.
    """
    if dynamic.shape[1] + static.shape[1] == 0:
        return None
    moving, still = _standardised(dynamic, dynamic_valid), _standardised(static, static_valid)
    level = overall_mean(values, valid)
    fitted = []
    for b in range(len(values)):
        now = _completed(moving[b], dynamic_valid[b], times[b])
        before = [recent_mean(now, times[b], steps) for steps in PAST] if len(times[b]) > 1 else []
        fixed = _completed(still[b][:, None], static_valid[b][:, None], times[b][:1])
        inputs = _Inputs(torch.cat((now, *before)).flatten(1), fixed.flatten(1))
        fitted.append(_regress(observed(values[b] - level[b], valid[b]), valid[b], inputs) + level[b])
    return torch.stack(fitted)


def _completed(fields: Tensor, known: Tensor, times: Tensor) -> Tensor:
    """Standardised fields (C, T, H, W), 0 where they are unknown, with what lies around them there: in time, else in space."""
    gappy = (~known.flatten(1).all(dim=1)).nonzero()[:, 0].tolist()
    completed = fields.clone() if gappy else fields
    for number in gappy:
        field, there = fields[number][None], known[number][None]
        between, _, _ = linear(field, there, times[None])
        around, density = normalized(field, there, NEAR_CELLS, NEAR_STEPS)
        around = torch.where(density > NEARLY_NOTHING, around, around.new_zeros(()))
        completed[number] = torch.where(torch.isfinite(between), between, around)[0]
    return completed


def recent_mean(fields: Tensor, times: Tensor, steps: float) -> Tensor:
    """Mean of fields (C, T, ...) up to each time (T,), weights falling to 1 / e within so many median steps; of the past alone.

    >>> recent_mean(torch.tensor([[0.0, 0.0, 9.0]]), torch.arange(3.0), 1e9).tolist()
    [[0.0, 0.0, 3.0]]
    """
    apart = times.diff()
    lasting = torch.exp(-apart / (steps * apart.median().clamp_min(1e-6)))
    mean, weight = fields[:, 0], 1.0
    means = [mean]
    for t in range(1, len(times)):
        kept = float(lasting[t - 1]) * weight
        weight = kept + 1
        mean = mean * (kept / weight) + fields[:, t] / weight
        means.append(mean)
    return torch.stack(means, dim=1)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Standardised fields, looked up cell by cell: ``moving`` (C, T x H x W), ``still`` (S, H x W)."""

    moving: Tensor
    still: Tensor

    def rows(self, cells: Tensor) -> Tensor:
        """(n, C + S) at flat indices of (T, H, W)."""
        still = self.still[:, cells % self.still.shape[1]]
        return torch.cat((self.moving[:, cells], still)).T


@dataclass(frozen=True, eq=False)
class _Design:
    """Columns of the regression from inputs: these, their squares, waves of them. Inputs stay in the range that was seen."""

    lowest: Tensor
    highest: Tensor
    directions: Tensor
    phases: Tensor

    @classmethod
    def of(cls, rows: Tensor, target: Tensor) -> _Design:
        """Waves turn more along inputs to which a linear regression gives more."""
        inputs = rows.shape[1]
        generator = torch.Generator().manual_seed(20231200963)
        directions = torch.randn(inputs, WAVES, generator=generator) / inputs**0.5
        phases = 2 * torch.pi * torch.rand(WAVES, generator=generator)
        slope = _solve(*_moments(*_centred(rows, target)), 10.0).abs()
        usual = slope.square().mean().sqrt().clamp_min(1e-9)
        relevance = (slope / usual).clamp(*RELEVANCE).to(rows)
        return cls(
            rows.amin(dim=0),
            rows.amax(dim=0),
            relevance[:, None] * directions.to(rows),
            phases.to(rows),
        )

    def columns(self, rows: Tensor) -> Tensor:
        """(n, P) of (n, inputs); the waves come last."""
        inside = torch.minimum(torch.maximum(rows, self.lowest), self.highest)
        waves = torch.cos(inside @ self.directions + self.phases) * 2**0.5
        return torch.cat((inside, inside.square(), waves), dim=1)


def _regress(values: Tensor, valid: Tensor, inputs: _Inputs) -> Tensor:
    """Ridge of the observed values (T, H, W), whose mean is 0, on the columns of inputs, evaluated everywhere."""
    cells = valid.flatten().nonzero()[:, 0]
    if len(cells) < FEWEST:
        return torch.zeros_like(values)
    if len(cells) > ROWS:
        generator = torch.Generator().manual_seed(20231200963)
        some = torch.randperm(len(cells), generator=generator)[:ROWS].sort().values
        cells = cells[some.to(cells.device)]
    rows, target = inputs.rows(cells), values.flatten()[cells]
    design = _Design.of(rows, target)
    columns = design.columns(rows)
    slope = _chosen(columns, target, _left_out(cells, values.shape)).to(values)
    constant = target.mean() - columns.mean(dim=0) @ slope
    everywhere = torch.arange(values.numel(), device=values.device)
    fitted = [design.columns(inputs.rows(part)) @ slope + constant for part in torch.split(everywhere, CELLS)]
    return torch.cat(fitted).view(values.shape)


def _left_out(cells: Tensor, shape: torch.Size) -> Tensor:
    """Number (n,) of the fold in which each of the observed cells (flat indices, rising) is left out: spells of time, or strips of few steps."""
    steps, height, width = shape
    number = torch.arange(len(cells))
    if steps < FOLDS:
        along = cells // width % height if height >= width else cells % width
        number = along.cpu().argsort(stable=True).argsort()
    return number * FOLDS // len(cells)


def _chosen(columns: Tensor, target: Tensor, fold: Tensor) -> Tensor:
    """Slopes (P,) under the penalty, and with or without waves, that err least on the folds left out; float64, on the CPU."""
    center, level = (x.cpu().mean(dim=0, dtype=torch.float64) for x in (columns, target))

    def part(k: int) -> tuple[Tensor, Tensor]:
        cells = (fold == k).to(columns.device)
        return columns[cells].cpu().double() - center, target[cells].cpu().double() - level

    own = [_moments(*part(k)) for k in range(FOLDS)]
    gram, product = (torch.stack(moments).sum(dim=0) for moments in zip(*own, strict=True))
    missed = torch.zeros(2, len(PENALTIES), dtype=torch.float64)
    counts = columns.shape[1] - WAVES, columns.shape[1]
    for k, (own_gram, own_product) in enumerate(own):
        x, y = part(k)
        for row, count in enumerate(counts):
            roots, vectors = torch.linalg.eigh((gram - own_gram)[:count, :count])
            turned = vectors.T @ (product - own_product)[:count]
            slopes = [turned / (roots.clamp_min(0) + penalty) for penalty in PENALTIES]
            said = x[:, :count] @ (vectors @ torch.stack(slopes, dim=1))
            missed[row] += (said - y[:, None]).abs().sum(dim=0)
    row, column = divmod(int(missed.argmin()), len(PENALTIES))
    slope = torch.zeros(counts[1], dtype=torch.float64)
    slope[: counts[row]] = _solve(
        gram[: counts[row], : counts[row]], product[: counts[row]], PENALTIES[column]
    )
    return slope


def _centred(columns: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    x, y = columns.cpu().double(), target.cpu().double()
    return x - x.mean(dim=0), y - y.mean()


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.T @ x, x.T @ y


def _solve(gram: Tensor, product: Tensor, penalty: float) -> Tensor:
    slope: Tensor = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), product)
    return slope


def _standardised(fields: Tensor, known: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the known cells of each (B, P, ...) field; 0 where unknown or constant."""
    axes = tuple(range(2, fields.ndim))
    count = known.sum(dim=axes, keepdim=True).clamp(min=1)
    mean = observed(fields, known).sum(dim=axes, keepdim=True, dtype=torch.float64) / count
    apart = observed(fields - mean.to(fields.dtype), known)
    spread = (apart.square().sum(dim=axes, keepdim=True) / count).sqrt()
    varies = spread > 1e-6 * mean.abs()
    return torch.where(varies, apart / spread.where(varies, 1.0), 0.0)
