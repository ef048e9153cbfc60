"""What every network says: a mean and its standard error. Knows nothing about who says it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """Mean and scale (one standard error, > 0) of every cell, each (B, T, H, W), in normalised units.

    ``covariates_help``: (B,) bool, whether covariates entered the answer; None where there were none, or nobody looked.
    """

    mean: Tensor
    scale: Tensor
    covariates_help: Tensor | None = None
