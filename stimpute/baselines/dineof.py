"""DINEOF as a method: EOFs iterated over the gaps, their number chosen on held-out cells of the overview.

Beckers and Rixen (2003), J. Atmos. Ocean. Tech. 20, 1839-1856; cloud-shaped cross-validation as in Alvera-Azcárate et al. (2005),
Ocean Modelling 9, 325-346.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stimpute.baselines.normalisation import Normalisation
from stimpute.classical.eof import dineof
from stimpute.errors import InputError
from stimpute.estimate import Estimate
from stimpute.holdout import hold_out
from stimpute.stack import Stack


@dataclass(frozen=True)
class DineofMethod:
    """DINEOF with at most ``max_modes`` EOFs, ``iterations`` per mode, ``share`` of the cells held out to choose.

    The iteration is stopped early on purpose: in large gaps amplitudes keep growing long after the patterns have settled.
    """

    max_modes: int = 10
    iterations: int = 20
    share: float = 0.03
    seed: int = 0
    name = "dineof"
    sees_whole = True
    bytes_per_cell = 64

    def prepare(self, overview: Stack) -> DineofImputer:
        """Freeze the mean of the stack and the number of modes."""
        errors = self.cross_validate(overview)
        modes = int(np.argmin(errors)) + 1 if errors else 1
        return DineofImputer(Normalisation.of(overview), modes, self.iterations)

    def cross_validate(self, stack: Stack) -> list[float]:
        """RMS error on the held-out cells with 1, 2, ... modes, in the stack's units; empty if nothing can be held out."""
        limit = min(self.max_modes, len(stack.times) - 1, stack.grid.shape[0] * stack.grid.shape[1])
        if limit < 1:
            return []
        try:
            held_out = hold_out(stack, "gap", self.share, self.seed)
        except InputError:
            return []
        normalisation = Normalisation.of(stack)
        values, valid, times = normalisation.tensors(stack.hide(held_out))
        path = dineof(values, valid, tuple(range(1, limit + 1)), iterations=self.iterations, times=times)
        truth = stack.values[held_out].astype(np.float64)
        missed = (normalisation.to_units(state)[held_out] - truth for state in path.unbind(dim=1))
        return [float(np.sqrt(np.mean(error**2))) for error in missed]


@dataclass(frozen=True)
class DineofImputer:
    """`DineofMethod` for one stack."""

    normalisation: Normalisation
    modes: int
    iterations: int

    def impute(self, stack: Stack) -> Estimate:
        """The reconstruction from the chosen number of EOFs; no scale."""
        values, valid, times = self.normalisation.tensors(stack)
        modes = min(self.modes, len(stack.times), values.shape[2] * values.shape[3])
        path = dineof(values, valid, tuple(range(1, modes + 1)), iterations=self.iterations, times=times)
        return Estimate(self.normalisation.to_units(path[:, -1]))
