"""DiffRecon: Diffusion-C completes the coarse field, Diffusion-F adds what is inside the blocks (arXiv 2410.05323).

Both diffuse the residual to a good guess, in units of its own expected size, so that an untrained network is the guess with
a spread of about its error. Both work on the coarse cells: what is inside a block is its cosine coefficients but
the mean, so that block means stay what the completed coarse field says, by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stimpute.classical.cosine import cosines
from stimpute.classical.refinement import spread_blocks
from stimpute.diffusion.config import DiffReconConfig
from stimpute.diffusion.guess import CoarseGuess, FineGuess, fine_guess
from stimpute.diffusion.pattern_net import PatternNet
from stimpute.diffusion.point_former import PointFormer
from stimpute.diffusion.schedule import data_of, sample_dpm
from stimpute.diffusion.unet import UNet
from stimpute.layers.embeddings import from_patches, to_patches
from stimpute.model.batch import Batch
from stimpute.model.candidates import FEATURES

_PHASES = 4
_COARSE_CONDITION = 5 + _PHASES + len(FEATURES)
_FINE_CONDITION = 5 + _PHASES  # besides two sets of coefficients and the patterns
LIMIT = 4.0  # of a residual in units of its expected size


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the networks are told about a batch, computed once for all steps of a sampler.

    Parameters
    ----------
    batch : coarse, in normalised units.
    guess : of the coarse field.
    covariates : (B, C, T or 1, H * factor, W * factor), standardised; C may be 0.
    coarse : (B, T, H, W, channels).
    points : (B, T, H, W, token_dim) of ST-PointFormer, or None.
    """

    batch: Batch
    guess: CoarseGuess
    covariates: Tensor
    coarse: Tensor
    points: Tensor | None

    def repeated(self, times: int) -> Conditions:
        """The same for an ensemble: every sample ``times`` times in a row."""

        def more(x: Tensor) -> Tensor:
            return x.repeat_interleave(times, dim=0)

        batch = Batch(**{k: more(v) for k, v in vars(self.batch).items()})
        guess = CoarseGuess(**{k: more(v) for k, v in vars(self.guess).items()})
        points = None if self.points is None else more(self.points)
        return Conditions(batch, guess, more(self.covariates), more(self.coarse), points)


class DiffRecon(nn.Module):
    """Both diffusions (of one stage: a single one, straight to the fine field, for comparison).

    ``detail_spread`` (factor^2 - 1,) and ``coarse_spread`` (1,) hold the usual size of the residuals, ``widening`` (1,) the
    factor by which deviations from the ensemble's mean are stretched so that its intervals cover what they should, ``share`` (1,)
    how far the ensemble's mean moves the guess: 0 leaves it, 1 replaces it.
    """

    detail_spread: Tensor
    coarse_spread: Tensor
    widening: Tensor
    share: Tensor

    def __init__(self, config: DiffReconConfig) -> None:
        super().__init__()
        self.config = config
        joined = config.token_dim if config.point_depth else 0
        self.points = PointFormer(config, 2 + len(FEATURES)) if config.point_depth else None
        if config.stages == 2:
            self.coarse = UNet(1, _COARSE_CONDITION, joined, config.width, config.everywhere)
        details = config.details + (config.stages == 1)
        self.pattern = PatternNet(config)
        self.fine = UNet(
            details, _FINE_CONDITION + 2 * config.details + config.pattern_dim, joined, config.width, config.everywhere
        )  # fmt: skip
        self.register_buffer("detail_spread", torch.ones(config.details))
        self.register_buffer("coarse_spread", torch.ones(1))
        self.register_buffer("widening", torch.ones(1))
        self.register_buffer("share", torch.ones(1))

    # what the networks see

    def conditions(self, batch: Batch, guess: CoarseGuess, covariates: Tensor) -> Conditions:
        """Everything that does not depend on the noise."""
        features = guess.features.movedim(1, -1)
        seen = torch.stack((guess.prior, guess.scale.log()), dim=-1)
        points = None
        if self.points is not None:
            points = self.points(
                batch.values, batch.valid, torch.cat((seen, features), dim=-1), batch.times, batch.year_phase, batch.day_phase
            )  # fmt: skip
        parts = torch.stack((batch.values, batch.valid.float(), guess.features[:, 0]), dim=-1)
        return Conditions(
            batch, guess, covariates, torch.cat((seen, parts, _phases(batch), features), dim=-1), points
        )

    def coarse_velocity(self, given: Conditions, seen: Tensor, time: Tensor) -> Tensor:
        """Velocity (B, T, H, W) of the coarse residual."""
        velocity: Tensor = self.coarse(seen[..., None], given.coarse, given.points, time)[..., 0]
        return velocity

    def fine_velocity(
        self,
        given: Conditions,
        completed: Tensor,
        fine: FineGuess,
        patterns: Tensor,
        seen: Tensor,
        time: Tensor,
    ) -> Tensor:
        """Velocity (B, T, H, W, details) of the coefficients inside the blocks."""
        unsure = torch.where(given.batch.valid, torch.zeros_like(completed), given.guess.scale)
        parts = torch.stack(
            (completed, given.batch.valid.float(), unsure, fine.scale.log(), fine.detail / fine.scale), dim=-1
        )
        usual = fine.scale[..., None] * self.detail_spread
        inside = [
            (self.coefficients(field) / usual).clamp(-LIMIT, LIMIT) for field in (fine.field, fine.drawn)
        ]
        condition = torch.cat((parts, _phases(given.batch), *inside, patterns), dim=-1)
        joined = given.points if self.points is not None else None
        velocity: Tensor = self.fine(seen, condition, joined, time)
        return velocity

    # between fields and residuals

    def coefficients(self, field: Tensor) -> Tensor:
        """Cosine coefficients of every block but its mean, (B, T, H * k, W * k) -> (B, T, H, W, k * k - 1)."""
        k = self.config.factor
        blocks = to_patches(field[..., None], k)
        return blocks @ _basis(k, blocks).T

    def inside(self, coefficients: Tensor) -> Tensor:
        """The field (B, T, H * k, W * k) of given coefficients: zero mean in every block."""
        k = self.config.factor
        _, _, h, w, _ = coefficients.shape
        return from_patches(coefficients @ _basis(k, coefficients), k, h * k, w * k)[..., 0]

    def coarse_target(self, guess: CoarseGuess, truth: Tensor) -> Tensor:
        """The residual that Diffusion-C learns: 0 where observed."""
        residual = (truth - guess.prior) / (guess.scale * self.coarse_spread)
        return torch.where(guess.valid, residual.new_zeros(()), residual.clamp(-LIMIT, LIMIT))

    def fine_target(self, fine: FineGuess, truth: Tensor) -> Tensor:
        """The residual that Diffusion-F learns."""
        apart = self.coefficients(truth - fine.field)
        return (apart / (fine.scale[..., None] * self.detail_spread)).clamp(-LIMIT, LIMIT)

    def completed(self, guess: CoarseGuess, residual: Tensor, conserve: bool = True) -> Tensor:
        """The coarse field that a residual stands for."""
        return guess.completed(self.coarse_spread * residual, conserve)

    def fine_field(self, fine: FineGuess, residual: Tensor) -> Tensor:
        """The fine field that a residual stands for."""
        return fine.field + self.inside(residual * fine.scale[..., None] * self.detail_spread)

    def guessed(self, given: Conditions, completed: Tensor) -> FineGuess:
        """The refined field before Diffusion-F."""
        return fine_guess(completed, given.batch.valid, given.covariates, self.config.factor)

    def start(self, given: Conditions, conserve: bool = True) -> tuple[Tensor, Tensor]:
        """The guess itself: completed coarse field and fine field."""
        completed = self.completed(given.guess, torch.zeros_like(given.guess.prior), conserve)
        return completed, self.guessed(given, completed).field

    # sampling

    @torch.no_grad()
    def sample(
        self, given: Conditions, noise: tuple[Tensor, Tensor], conserve: bool = True, steps: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """One completed coarse field and one fine field for each sample of a batch of conditions.

        Parameters
        ----------
        noise : (B, T, H, W) and (B, T, H, W, details), standard normal.
        """
        steps = steps or self.config.steps
        if self.config.stages == 1:
            return self._sample_at_once(given, noise, conserve, steps)
        known = given.batch.valid

        def coarse_data(seen: Tensor, time: float) -> Tensor:
            when = seen.new_full((len(seen),), time)
            data = data_of(seen, self.coarse_velocity(given, seen, when), when)
            return torch.where(known, data.new_zeros(()), data.clamp(-LIMIT, LIMIT))

        completed = self.completed(given.guess, sample_dpm(coarse_data, noise[0], steps), conserve)
        return completed, self.sample_fine(given, completed, noise[1], steps)

    def _sample_at_once(
        self, given: Conditions, noise: tuple[Tensor, Tensor], conserve: bool, steps: int
    ) -> tuple[Tensor, Tensor]:
        """The single diffusion: the mean of a block is one more coefficient."""
        start = self.completed(given.guess, torch.zeros_like(noise[0]), conserve)
        whole = self._fine_sample(given, start, torch.cat((noise[0][..., None], noise[1]), dim=-1), steps)
        residual = torch.where(given.batch.valid, noise[0].new_zeros(()), whole[..., 0])
        completed = self.completed(given.guess, residual, conserve)
        field = self.fine_field(self.guessed(given, start), whole[..., 1:])
        return completed, field + spread_blocks(completed - start, self.config.factor)

    @torch.no_grad()
    def sample_fine(self, given: Conditions, completed: Tensor, noise: Tensor, steps: int) -> Tensor:
        """A fine field for each completed coarse one."""
        residual = self._fine_sample(given, completed, noise, steps)
        return self.fine_field(self.guessed(given, completed), residual)

    def _fine_sample(self, given: Conditions, completed: Tensor, noise: Tensor, steps: int) -> Tensor:
        """Coefficients (B, T, H, W, details) of one sample."""
        fine = self.guessed(given, completed)
        patterns = self.pattern(completed)

        def fine_data(seen: Tensor, time: float) -> Tensor:
            when = seen.new_full((len(seen),), time)
            velocity = self.fine_velocity(given, completed, fine, patterns, seen, when)
            return data_of(seen, velocity, when).clamp(-LIMIT, LIMIT)

        return sample_dpm(fine_data, noise, steps)


def _phases(batch: Batch) -> Tensor:
    """Sines and cosines of the phases of year and day, (B, T, H, W, 4)."""
    angles = torch.stack((batch.year_phase, batch.day_phase), dim=-1) * (2 * torch.pi)
    both = torch.cat((angles.sin(), angles.cos()), dim=-1)[:, :, None, None]
    return both.expand(*batch.shape, _PHASES)


def _basis(factor: int, like: Tensor) -> Tensor:
    """Orthonormal cosine patterns of a block but the constant, (k * k - 1, k * k)."""
    one = cosines(factor, like.dtype, like.device)
    return torch.einsum("ai,bj->abij", one, one).reshape(factor**2, factor**2)[1:]
