"""What training minimises. Knows nothing about where examples come from.

The mean is judged by its absolute error, the scale by the continuous ranked probability score (Gneiting & Raftery 2007,
eq. 5) of the residuals as they stand. Every example of a batch weighs the same; relative to the best classical
candidate, so that what nobody can predict does not drown what can be improved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stimpute.layers.prediction import Prediction


@dataclass(frozen=True)
class LossOptions:
    """How errors are weighed.

    Parameters
    ----------
    scale_weight : weight of the score of the scale against the error of the mean.
    relative : divide each example's loss by the error of its best candidate.
    floor : smallest such error, in standard deviations of the example: below it is noise of rounding.
    """

    scale_weight: float = 0.3
    relative: bool = True
    floor: float = 0.03


def training_loss(
    prediction: Prediction,
    example: Any,
    best: Tensor | None,
    options: LossOptions = LossOptions(),
) -> Tensor:
    """The scalar to minimise.

    Parameters
    ----------
    prediction : (B, T, H, W) mean and scale.
    example : its ``wanted`` cells count, no others; an example without any counts nothing.
    best : (B,) error of the best candidate (:func:`candidate_errors`), or None: nothing is divided.
    """
    residual = torch.where(example.wanted, prediction.mean - example.target, prediction.mean.new_zeros(()))
    error = per_example(residual.abs(), example.wanted)
    score = per_example(gaussian_crps(residual.detach(), prediction.scale), example.wanted)
    loss = error + options.scale_weight * score
    if options.relative and best is not None:
        loss = loss / best.clamp_min(options.floor)
    counted = example.wanted.flatten(1).any(dim=1)
    result: Tensor = torch.where(counted, loss, loss.new_zeros(())).sum() / counted.sum().clamp_min(1)
    return result


def gaussian_crps(residual: Tensor, scale: Tensor) -> Tensor:
    """CRPS of a normal distribution, elementwise, in the units of ``residual`` (mean minus truth).

    >>> round(float(gaussian_crps(torch.tensor(0.0), torch.tensor(1.0))), 4)  # (sqrt(2) - 1) / sqrt(pi)
    0.2337
    """
    z = residual / scale
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return scale * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def per_example(quantity: Tensor, wanted: Tensor) -> Tensor:
    """Mean over the wanted cells of each example, (B,); 0 where there are none."""
    kept = torch.where(wanted, quantity, quantity.new_zeros(()))
    return kept.flatten(1).sum(dim=1) / wanted.flatten(1).sum(dim=1).clamp_min(1)


@torch.no_grad()
def candidate_errors(candidates: Any, example: Any) -> Tensor:
    """Mean absolute error of every candidate (or guess of a forecast) at the wanted cells, (B, K)."""
    errors = [
        per_example((candidates.estimates[:, k] - example.target).abs(), example.wanted)
        for k in range(candidates.estimates.shape[1])
    ]
    return torch.stack(errors, dim=1)
