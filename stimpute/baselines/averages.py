"""The plainest methods: the temporal mean of each cell, and linear interpolation in time. See no space."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stimpute.baselines.normalisation import Normalisation
from stimpute.classical.mean import observed, overall_mean, temporal_mean
from stimpute.classical.temporal import linear_filled
from stimpute.estimate import Estimate
from stimpute.stack import Stack

_PRIOR_STEPS = 3.0  # observations for which the spread of the whole stack stands in a cell's own


class MeanMethod:
    """Every cell's mean over time; the mean of all observed cells where it was never observed."""

    name = "mean"
    sees_whole = False

    def prepare(self, overview: Stack) -> MeanImputer:
        """Freeze the mean and spread of the stack."""
        return MeanImputer(Normalisation.of(overview))


@dataclass(frozen=True)
class MeanImputer:
    """`MeanMethod` for one stack. The scale is the cell's spread over time, drawn towards that of the stack."""

    normalisation: Normalisation

    def impute(self, stack: Stack) -> Estimate:
        """Mean and scale, the same at every step."""
        values, valid, _ = self.normalisation.tensors(stack)
        mean = temporal_mean(values, valid)
        mean = torch.where(mean.isfinite(), mean, overall_mean(values, valid))
        departure = observed(values - mean, valid).square().sum(dim=1, keepdim=True)
        scale = ((departure + _PRIOR_STEPS) / (valid.sum(dim=1, keepdim=True) + _PRIOR_STEPS)).sqrt()
        units = (scale * self.normalisation.scale)[0].expand(valid.shape[1:])
        return Estimate(self.normalisation.to_units(mean.expand(valid.shape)), units.contiguous().numpy())


class LinearMethod:
    """Linear interpolation in real time, constant beyond the first and last observation of each cell."""

    name = "linear"
    sees_whole = False

    def prepare(self, overview: Stack) -> LinearImputer:
        """Freeze the mean of the stack."""
        return LinearImputer(Normalisation.of(overview))


@dataclass(frozen=True)
class LinearImputer:
    """`LinearMethod` for one stack. Cells never observed take the mean of the others at each step."""

    normalisation: Normalisation

    def impute(self, stack: Stack) -> Estimate:
        """The interpolated mean; no scale."""
        return Estimate(self.normalisation.to_units(linear_filled(*self.normalisation.tensors(stack))))
