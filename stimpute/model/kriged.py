"""The candidates that krige: values, what a fit leaves over, anomalies, values made about normal. Views of one stack, all at once."""

from __future__ import annotations

import torch
from torch import Tensor

from stimpute.classical import convolution, gridded_kriging, power_transform
from stimpute.model.batch import Batch

EVENNESS = 0.15  # decision 17
CLIMATE_CELLS, CLIMATE_FLOOR = 1.5, 0.25
SKEWED = 0.1  # nats that a power transform must gain on each value before it pays to krige what it gives


def krige(views: list[Batch], targets: list[Tensor]) -> list[Tensor]:
    """Kriging of a target for each view from what it observed, under the covariance of the first."""
    first = views[0]
    valids = [view.valid for view in views]
    return gridded_kriging.krige(
        targets, valids, first.times, first.year_phase, first.day_phase, evenness=EVENNESS
    )


def krige_rest(views: list[Batch], fitted: list[Tensor]) -> list[Tensor]:
    """What was fitted to each view, plus kriging of what that leaves over."""
    rest = krige(views, [v.values - f for v, f in zip(views, fitted, strict=True)])
    return [f + r for f, r in zip(fitted, rest, strict=True)]


def krige_anomalies(views: list[Batch]) -> list[Tensor]:
    """Kriging of what is unusual for each cell, in units of how much is usual there."""
    usual = [local_climate(v) for v in views]
    unusual = krige(views, [(v.values - m) / s for v, (m, s) in zip(views, usual, strict=True)])
    return [m + s * z for (m, s), z in zip(usual, unusual, strict=True)]


def krige_transformed(views: list[Batch], kriged: list[Tensor]) -> list[Tensor]:
    """Kriging of values made about normal, back in their units; ``kriged`` itself of samples that are not skewed."""
    first = views[0]
    found = [field.clone() for field in kriged]
    for b in range(len(first.values)):
        transform = power_transform.PowerTransform.fit(first.values[b][first.valid[b]])
        if transform.gain < SKEWED:
            continue
        alone = [view.sample(b) for view in views]
        answers = krige(alone, [transform.forward(view.values) for view in alone])
        for field, one in zip(found, answers, strict=True):
            field[b] = transform.backward(one)[0]
    return found


def local_climate(batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time around each cell, (B, T, H, W), smooth in space; finite and > 0 everywhere."""
    mean, _ = convolution.normalized(batch.values, batch.valid, CLIMATE_CELLS, torch.inf)
    apart = torch.where(batch.valid, batch.values - mean, batch.values.new_zeros(()))
    variance, _ = convolution.normalized(apart.square(), batch.valid, CLIMATE_CELLS, torch.inf)
    count = batch.valid.flatten(1).sum(dim=1).clamp_min(1)
    overall = (apart.square().flatten(1).sum(dim=1) / count).sqrt().clamp_min(1e-3).view(-1, 1, 1, 1)
    return mean, torch.maximum(variance.clamp_min(0).sqrt(), CLIMATE_FLOOR * overall)
