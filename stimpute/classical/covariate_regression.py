"""Regression on covariates, pooled over all observed cells of a stack. Knows nothing about space and time but them."""

from __future__ import annotations

import torch
from torch import Tensor

from stimpute.classical.mean import observed, overall_mean, temporal_mean


def regress_covariates(
    values: Tensor,
    valid: Tensor,
    dynamic: Tensor,
    dynamic_valid: Tensor,
    static: Tensor,
    static_valid: Tensor,
    *,
    anomalies: bool = False,
    ridge: float = 1.0,
) -> Tensor | None:
    """Ridge regression of the values on covariates and their squares, with a constant.

    Parameters
    ----------
    values, valid : (B, T, H, W); gaps may hold anything.
    dynamic, dynamic_valid : (B, C, T, H, W); unknown covariates may hold anything and count as their mean.
    static, static_valid : (B, S, H, W), likewise.
    anomalies : take the temporal mean of each cell off the values (and of the covariates over the same steps) first and
        add it back; cells never observed then get the plain regression.
    ridge : penalty on the standardised predictors, in cells.

    Returns
    -------
    (B, T, H, W), or None where there is no covariate at all. NaN where none of the covariates is known.
    """
    if dynamic.shape[1] + static.shape[1] == 0:
        return None
    steps = values.shape[1]
    known = torch.cat((dynamic_valid, static_valid[:, :, None].expand(-1, -1, steps, -1, -1)), dim=1)
    raw = torch.cat((dynamic, static[:, :, None].expand(-1, -1, steps, -1, -1)), dim=1)
    fields = _standardised(raw, known)
    fields = torch.cat((fields, _standardised(fields.square(), known)), dim=1)
    fitted = _fit(values, valid, fields, ridge)
    if anomalies:
        fitted = _fit_anomalies(values, valid, fields, ridge, fitted)
    return fitted.where(known.any(dim=1), torch.nan)


def _fit(values: Tensor, valid: Tensor, fields: Tensor, ridge: float) -> Tensor:
    """Ridge of (B, T, H, W) values on (B, P, T, H, W) fields, evaluated everywhere."""
    weight = valid.flatten(1).to(values.dtype)[:, None]
    predictors = fields.flatten(2)
    level = overall_mean(values, valid)
    target = observed(values - level, valid).flatten(1)[..., None]
    count = weight.sum(dim=2, keepdim=True).clamp(min=1)
    apart = predictors - (predictors * weight).sum(dim=2, keepdim=True) / count
    seen = apart * weight
    gram = (seen @ apart.mT).to(torch.float64)
    penalty = ridge * torch.eye(gram.shape[-1], dtype=torch.float64, device=gram.device)
    slope: Tensor = torch.linalg.solve(gram + penalty, (seen @ target).to(torch.float64)).to(values.dtype)
    return level + (slope.mT @ apart).reshape(values.shape)


def _fit_anomalies(values: Tensor, valid: Tensor, fields: Tensor, ridge: float, plain: Tensor) -> Tensor:
    """Regression of the departures from each cell's temporal mean; ``plain`` where a cell was never observed."""
    level = temporal_mean(values, valid)
    ever = valid.any(dim=1, keepdim=True)
    count = valid.sum(dim=1)[:, None, None].clamp(min=1)
    means = observed(fields, valid[:, None].expand_as(fields)).sum(dim=2, keepdim=True) / count
    change = _fit(values - level.nan_to_num(), valid, fields - means, ridge)
    return torch.where(ever, level.nan_to_num() + change, plain)


def _standardised(fields: Tensor, known: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the known cells of each (B, P, ...) field; 0 where unknown or constant."""
    axes = tuple(range(2, fields.ndim))
    count = known.sum(dim=axes, keepdim=True).clamp(min=1)
    mean = observed(fields, known).sum(dim=axes, keepdim=True, dtype=torch.float64) / count
    apart = observed(fields - mean.to(fields.dtype), known)
    spread = (apart.square().sum(dim=axes, keepdim=True) / count).sqrt()
    varies = spread > 1e-6 * mean.abs()
    return torch.where(varies, apart / spread.where(varies, 1.0), 0.0)
