"""Completing and refining behind the common interface: stacks in, an estimate on the finer grid out. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimpute.classical.refinement import interpolated, known_block_mean, spread_blocks, within_bounds
from stimpute.diffusion.ensemble import draw_ensemble
from stimpute.diffusion.guess import coarse_guess, fine_guess, no_guess
from stimpute.diffusion.network import DiffRecon
from stimpute.diffusion.noise import Noise
from stimpute.errors import ModelError
from stimpute.estimate import Estimate
from stimpute.model.batch import Batch, covariate_moments, observed_moments
from stimpute.model.st_transformer import STTransformer
from stimpute.protocols import Refining
from stimpute.stack import Float32Array, Stack

_DETAIL = 0.7  # of the scale of half the resolution: what a block holds on average of the simulated worlds


@dataclass(frozen=True, eq=False)
class Prepared:
    """A pair of stacks in normalised units: coarse batch, covariates on the fine grid, what brings numbers back."""

    batch: Batch
    fine_covariates: Tensor
    center: float
    scale: float

    @classmethod
    def from_stacks(cls, coarse: Stack, fine: Stack, factor: int, device: torch.device) -> Prepared:
        """Normalise by what is observed; coarse covariates are the block means of the fine ones."""
        values, valid = torch.from_numpy(coarse.values)[None], torch.from_numpy(coarse.valid)[None]
        center, scale = (float(v) for v in observed_moments(values, valid))
        moments = covariate_moments(fine)
        whole = Batch.from_stacks([fine], 0.0, 1.0, moments)
        batch = Batch.from_stacks([_with_covariates(coarse, fine, factor)], center, scale, moments)
        t = coarse.shape[0]
        still = (
            whole.static[:, :, None].expand(-1, -1, t, -1, -1)
            if whole.dynamic.shape[1]
            else whole.static[:, :, None]
        )
        covariates = torch.cat((whole.dynamic, still), dim=1) if whole.dynamic.shape[1] else still
        return cls(batch.to(device), covariates.to(device), center, scale)

    def back(self, field: Tensor) -> Tensor:
        """Values in the stack's units, float64."""
        return field.double() * self.scale + self.center

    def bounds(self, wanted: Refining) -> tuple[float | None, float | None]:
        """The bounds in normalised units."""
        low, high = ((None if b is None else (b - self.center) / self.scale) for b in wanted.bounds)
        return low, high


def _with_covariates(coarse: Stack, fine: Stack, factor: int) -> Stack:
    return Stack(
        coarse.values, coarse.valid, coarse.times, coarse.grid, coarse.year_phase, coarse.day_phase,
        dynamic=_coarsened(fine.dynamic, factor), static=_coarsened(fine.static, factor),
    )  # fmt: skip


def _coarsened(arrays: Mapping[str, Float32Array], factor: int) -> dict[str, Float32Array]:
    """Block means over what is known, NaN where nothing is."""
    out = {}
    for name, array in arrays.items():
        known = torch.from_numpy(np.isfinite(array))
        mean, share = known_block_mean(torch.from_numpy(np.nan_to_num(array)), known, factor)
        out[name] = torch.where(share > 0, mean, torch.nan).numpy()
    return out


_COARSE_BYTES, _FINE_BYTES = 1500, 52  # of a guess, per coarse cell-step and per fine one
_SAMPLED_BYTES = 1700  # besides, of the networks, per coarse cell-step
_MOMENT_BYTES, _MEMBER_BYTES = 28, 6  # of mean and variance, and of every member, per fine cell-step


class ClassicalRefiner:
    """The guess itself: the completed coarse field, then the cubic field with its block means. No members.

    Parameters
    ----------
    filler : the network that completes; None: the blend of classical candidates.
    """

    def __init__(self, filler: STTransformer | None = None, name: str = "classical") -> None:
        self.filler, self.name = filler, name

    def bytes_per_cell(self, wanted: Refining, steps: int) -> int:
        """At the peak, per coarse cell-step."""
        return _COARSE_BYTES + _FINE_BYTES * wanted.factor**2

    def refine(self, coarse: Stack, fine: Stack, wanted: Refining) -> Estimate:
        """Mean and standard error of every fine cell."""
        given = Prepared.from_stacks(coarse, fine, wanted.factor, torch.device("cpu"))
        guess = coarse_guess(given.batch, self.filler)
        completed = guess.completed(torch.zeros_like(guess.prior), wanted.conserve)
        fine_field = fine_guess(completed, guess.valid, given.fine_covariates, wanted.factor)
        field = bounded(fine_field.field, completed, given, wanted)
        missing = torch.where(guess.valid, guess.scale.new_zeros(()), guess.scale)
        variance = interpolated(missing, wanted.factor, "bilinear").square()
        variance = variance + spread_blocks((_DETAIL * fine_field.scale).square(), wanted.factor)
        return Estimate(_array(given.back(field[0])), _array(variance.sqrt()[0].double() * given.scale))


class DiffReconRefiner:
    """The two diffusions behind the common interface.

    Parameters
    ----------
    network : with its weights.
    device : where it runs.
    filler : the network whose answer the coarse cells start from; None: the blend of classical candidates.
    """

    name = "diffrecon"

    def __init__(
        self,
        network: DiffRecon,
        device: str | torch.device = "cpu",
        filler: STTransformer | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.filler = None if filler is None else filler.to(self.device).eval()

    def bytes_per_cell(self, wanted: Refining, steps: int) -> int:
        """At the peak, per coarse cell-step."""
        fine = (_FINE_BYTES + _MOMENT_BYTES + _MEMBER_BYTES * wanted.samples) * wanted.factor**2
        return _COARSE_BYTES + _SAMPLED_BYTES + fine

    def refine(self, coarse: Stack, fine: Stack, wanted: Refining) -> Estimate:
        """Mean, standard error and members of every fine cell, from an ensemble.

        Raises
        ------
        ModelError : the network was made for another factor.
        """
        made_for = self.network.config.factor
        if wanted.factor != made_for:
            raise ModelError(
                f"the model refines by {made_for}, --factor says {wanted.factor}; choose another --model"
            )
        given = Prepared.from_stacks(coarse, fine, wanted.factor, self.device)
        noise = Noise(wanted.seed, wanted.origin, wanted.columns)
        with torch.no_grad():
            plain = self.network.config.start == "mean"
            guess = no_guess(given.batch) if plain else coarse_guess(given.batch, self.filler)
            conditions = self.network.conditions(given.batch, guess, given.fine_covariates)
            completed, members = draw_ensemble(
                self.network, conditions, wanted.samples, noise, wanted.conserve
            )
            members = members[:, 0]
            for member, coarse_field in zip(members, completed[:, 0], strict=True):
                member.copy_(given.back(bounded(member, coarse_field, given, wanted)))
            mean = members.mean(dim=0, dtype=torch.float64)
            variance = torch.zeros_like(mean)
            for member in members:
                variance += (member - mean).square() / (wanted.samples - 1)
        return Estimate(_array(mean), _array(variance.sqrt()), members=_array(members))


def bounded(field: Tensor, completed: Tensor, given: Prepared, wanted: Refining) -> Tensor:
    """The field inside the bounds, its block means kept."""
    low, high = given.bounds(wanted)
    if low is None and high is None:
        return field
    return within_bounds(field, completed, wanted.factor, low, high)


def _array(field: Tensor) -> Any:
    return field.cpu().numpy().astype(np.float32, copy=False)
