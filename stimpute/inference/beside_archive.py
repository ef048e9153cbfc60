"""Any refiner, told by a fine archive of the same place: it completes and refines what the archive does not explain. Knows no files."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stimpute.classical.fine_climate import LEAST_STEPS, FineClimate
from stimpute.classical.refinement import block_mean, within_bounds
from stimpute.errors import InputError, StimputeWarning
from stimpute.estimate import Estimate, Float32Array
from stimpute.protocols import Refiner, Refining
from stimpute.stack import Stack


class BesideArchive:
    """A refiner of departures from what an archive expects.

    Parameters
    ----------
    refiner : completes and refines the departures.
    archive : fine, on the grid of what is refined; other times, gaps allowed.
    """

    def __init__(self, refiner: Refiner, archive: Stack) -> None:
        self.refiner, self.archive = refiner, archive
        self.name = refiner.name
        self.model_name = getattr(refiner, "model_name", None)
        self.sha256 = getattr(refiner, "sha256", None)

    def refine(self, coarse: Stack, fine: Stack, wanted: Refining) -> Estimate:
        """As of ``refiner``, on top of the archive's background; without it where the archive explains nothing of the stack.

        Raises
        ------
        InputError : too few steps, or nothing observed.
        """
        expected = self._background(coarse, wanted.factor)
        apart = np.where(coarse.valid, coarse.values - block_mean(expected, wanted.factor).numpy(), 0).astype(
            np.float32
        )
        if apart[coarse.valid].std() >= coarse.values[coarse.valid].std():
            warnings.warn(
                "--archive: it explains nothing of what was observed (another variable, or other units?) and is not used",
                StimputeWarning,
                stacklevel=2,
            )
            return self.refiner.refine(coarse, fine, wanted)
        said = self.refiner.refine(replace(coarse, values=apart), fine, replace(wanted, bounds=(None, None)))
        if said.members is None:
            return Estimate(_inside(torch.from_numpy(said.mean) + expected, wanted), said.scale)
        members = _inside(torch.from_numpy(said.members) + expected, wanted)
        mean = members.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Estimate(mean, said.scale, members=members)

    def _background(self, coarse: Stack, factor: int) -> Tensor:
        a = self.archive
        if a.shape[0] < LEAST_STEPS or not a.valid.any():
            raise InputError(
                f"--archive: {a.shape[0]} steps with {int(a.valid.sum())} observed cells; at least {LEAST_STEPS} steps are needed"
            )
        center = float(a.values[a.valid].mean(dtype=np.float64))  # so that float32 has digits left

        def around(stack: Stack) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            values = np.where(stack.valid, stack.values - center, 0).astype(np.float32)
            arrays = (values, stack.valid, stack.year_phase, stack.day_phase)
            return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]

        found = FineClimate.fit(*around(a), torch.from_numpy(a.times), factor)
        return found.background(*around(coarse)) + center


def _inside(field: Tensor, wanted: Refining) -> Float32Array:
    """Within the bounds, block means kept."""
    low, high = wanted.bounds
    if (low, high) != (None, None):
        field = within_bounds(field, block_mean(field, wanted.factor), wanted.factor, low, high)
    return field.numpy().astype(np.float32)
