"""Spline smoothing of the whole volume in the cosine basis (Garcia 2010, Wang et al. 2012) as a method."""

from __future__ import annotations

from dataclasses import dataclass

from stimpute.baselines.normalisation import Normalisation
from stimpute.classical.spline import dct_pls
from stimpute.estimate import Estimate
from stimpute.stack import Stack


@dataclass(frozen=True)
class DctPlsMethod:
    """DCT-PLS with the smoothness annealed over ``iterations`` steps."""

    iterations: int = 100
    name = "dct-pls"
    sees_whole = True
    bytes_per_cell = 64

    def prepare(self, overview: Stack) -> DctPlsImputer:
        """Freeze the mean of the stack."""
        return DctPlsImputer(Normalisation.of(overview), self.iterations)


@dataclass(frozen=True)
class DctPlsImputer:
    """`DctPlsMethod` for one stack."""

    normalisation: Normalisation
    iterations: int

    def impute(self, stack: Stack) -> Estimate:
        """The smoothed volume; no scale."""
        values, valid, _ = self.normalisation.tensors(stack)
        smooth = dct_pls(values, valid, iterations=self.iterations)
        return Estimate(self.normalisation.to_units(smooth[:, -1]))
