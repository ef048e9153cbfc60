"""What a DiffRecon network learns from: coarse stacks with gaps, the fine truth under them, the guess between. Knows no files.

The truth is a simulated world, or a crop of an archive as fine as it comes; its block means are the coarse stack, hidden in
the shapes of real gaps, at random, at fixed cells, or over a quarter of the area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimpute.classical.refinement import block_mean
from stimpute.diffusion.guess import CoarseGuess, coarse_guess
from stimpute.errors import InputError
from stimpute.model.batch import Batch
from stimpute.model.st_transformer import STTransformer
from stimpute.synthetic import sample_gaps, sample_worlds
from stimpute.training.archive import Archive
from stimpute.training.crops import augmented, cut
from stimpute.training.feed import Example, crops_example, torch_generator

SHAPES = ((4, 12, 8, 8), (4, 8, 10, 10), (3, 16, 8, 8), (2, 12, 12, 12))  # batch, time, coarse y, coarse x
_REAL, _RANDOM, _FIXED = 0.55, 0.2, 0.15  # odds of gap shapes; the rest lose a quarter of the area
_CROP_FILLED = 0.3  # of a crop of an archive must be known


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of coarse stacks and what is under them, normalised by what is observed of each.

    Parameters
    ----------
    batch : coarse (B, T, H, W), with block means of the covariates.
    guess : of the coarse field.
    covariates : (B, C, T or 1, H * factor, W * factor), standardised.
    coarse, fine : truth (B, T, H, W) and (B, T, H * factor, W * factor), without NaN.
    known : (B, T, H, W) bool, blocks whose truth is known all over.
    """

    batch: Batch
    guess: CoarseGuess
    covariates: Tensor
    coarse: Tensor
    fine: Tensor
    known: Tensor

    def to(self, device: torch.device | str) -> Pairs:
        """All tensors on ``device``."""
        moved: Pairs = _each(self, lambda x: x.to(device))
        return moved

    def turned(self, generator: np.random.Generator) -> Pairs:
        """Flipped up-down and left-right at random: other examples at no cost."""
        dims = [dim for dim, lot in zip((-2, -1), generator.random(2), strict=True) if lot < 0.5]
        flipped: Pairs = _each(self, lambda x: x.flip(dims) if x.ndim >= 4 else x)
        return flipped


def _each(value: Any, change: Any) -> Any:
    """A frozen dataclass of tensors, and of others like it, with ``change`` applied to each tensor."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: _each(getattr(value, f.name), change) for f in fields(value)})
    return change(value)


def make_pairs(
    fine: Batch, known: Tensor, valid: Tensor, factor: int, filler: STTransformer | None = None
) -> Pairs:
    """From a fine truth to what a network is given and what it should say.

    Parameters
    ----------
    fine : (B, T, H * factor, W * factor), everything valid or set to some number; covariates in normalised units.
    known : (B, T, H, W) bool, blocks whose truth counts.
    valid : (B, T, H, W) bool, blocks that are shown; the others are gaps.
    filler : the network that the guess of the coarse field is taken from, if any.
    """
    coarse = block_mean(fine.values, factor)
    shown = replace(
        fine,
        values=coarse,
        valid=valid & known,
        dynamic=_means(fine.dynamic, factor),
        dynamic_valid=_means(fine.dynamic_valid.float(), factor) > 0.5,
        static=_means(fine.static, factor),
        static_valid=_means(fine.static_valid.float(), factor) > 0.5,
    )
    batch, center, scale = shown.renormalised()
    coarse, whole = ((x - center.view(-1, 1, 1, 1)) / scale.view(-1, 1, 1, 1) for x in (coarse, fine.values))
    t = coarse.shape[1]
    still = fine.static[:, :, None]
    moving = fine.dynamic.shape[1] > 0
    covariates = torch.cat((fine.dynamic, still.expand(-1, -1, t, -1, -1)), 1) if moving else still
    return Pairs(batch, coarse_guess(batch, filler), covariates, coarse, whole, known)


def _means(field: Tensor, factor: int) -> Tensor:
    return block_mean(field, factor) if field.shape[1] else field[..., ::factor, ::factor]


class PairFeed:
    """Batches of pairs by number: the same number gives the same batch.

    Parameters
    ----------
    archives : to crop from; may be empty.
    factor : fine cells per coarse cell and axis.
    world_share : part of the batches that are simulated worlds.
    seed : with the number, the only source of randomness.
    filler : the network that the guess of the coarse field is taken from, if any.

    Raises
    ------
    InputError : an archive smaller than two blocks, or none and no worlds.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        factor: int,
        *,
        world_share: float = 1.0,
        seed: int = 0,
        shapes: Sequence[tuple[int, int, int, int]] = SHAPES,
        filler: STTransformer | None = None,
    ) -> None:
        if not archives and world_share == 0:
            raise InputError("nothing to train on: give archives, or --worlds")
        for archive in archives:
            if min(archive.shape[1:]) < 2 * factor:
                raise InputError(
                    f"{archive.name}: {archive.shape[1]} x {archive.shape[2]} cells are too few to be coarsened by {factor}"
                )
        self.archives, self.factor, self.seed = list(archives), factor, seed
        self.world_share = world_share if archives else 1.0
        self.shapes = tuple(shapes)
        self.filler = filler

    def pairs(self, number: int) -> Pairs:
        """The batch of a number."""
        lot = np.random.default_rng([self.seed, number, 0x9A125])
        b, t, h, w = self.shapes[number % len(self.shapes)]
        generator = torch_generator(lot)
        if lot.random() < self.world_share:
            fine = world_batch(generator, b, (t, h * self.factor, w * self.factor))
            known = torch.ones(b, t, h, w, dtype=torch.bool)
        else:
            fine, known = self._crops(lot, (b, t, h, w))
        coarse = block_mean(fine.values, self.factor)
        shown = coarse_gaps(generator, lot, coarse, fine.times)
        return make_pairs(fine, known, shown, self.factor, self.filler)

    def _crops(self, lot: np.random.Generator, shape: tuple[int, int, int, int]) -> tuple[Batch, Tensor]:
        """Crops of archives; blocks with a gap of their own are not known, and smooth."""
        b, t, h, w = shape
        k = self.factor
        crops = []
        for _ in range(20 * b):
            archive = self.archives[int(lot.integers(len(self.archives)))]
            crop = augmented(cut(archive, lot, (t, h * k, w * k), strides=False), lot)
            if np.isfinite(crop.values).mean() > _CROP_FILLED:
                crops.append(replace(crop, given=np.isfinite(crop.values), wanted=~np.isfinite(crop.values)))
            if len(crops) == b:
                break
        if not crops and all(
            a.shape[0] < t or min(a.shape[1:]) < h * k or min(a.shape[1:]) < w * k for a in self.archives
        ):
            raise InputError(
                f"every archive is smaller than the crops that are trained on, {t} steps of {h * k} x {w * k} cells; "
                "take a larger archive or a smaller --factor"
            )
        if not crops:
            raise InputError(
                "the archives have too many gaps of their own to be coarsened: no crop is a third full"
            )
        crops += [crops[i % len(crops)] for i in range(b - len(crops))]
        example: Example = crops_example(crops)
        known = block_mean(example.given.valid.float(), k) > 1 - 1e-6
        return example.given, known


def world_batch(generator: torch.Generator, count: int, shape: tuple[int, int, int]) -> Batch:
    """Complete simulated worlds with their covariates."""
    worlds = sample_worlds(generator, count, shape)
    return Batch(
        worlds.truth, torch.ones_like(worlds.truth, dtype=torch.bool), worlds.times, worlds.year_phase, worlds.day_phase,
        worlds.dynamic, worlds.dynamic_valid, worlds.static, worlds.static_valid,
    )  # fmt: skip


def coarse_gaps(
    generator: torch.Generator, lot: np.random.Generator, coarse: Tensor, times: Tensor
) -> Tensor:
    """Which coarse cells are shown (B, T, H, W): the gap shapes of satellites, or those of the paper."""
    b, t, h, w = coarse.shape
    valid = sample_gaps(generator, b, (t, h, w), truth=coarse, times=times)
    for i in range(b):
        kind, share = lot.random(), lot.uniform(0.15, 0.85)
        if kind < _REAL:
            continue
        if kind < _REAL + _RANDOM:
            shown = hide_random((t, h, w), share, lot)
        elif kind < _REAL + _RANDOM + _FIXED:
            shown = hide_fixed((t, h, w), share, lot)
        else:
            shown = hide_quarter((t, h, w), lot)
        valid[i] = torch.from_numpy(shown)
    return valid


def hide_random(shape: tuple[int, int, int], share: float, lot: np.random.Generator) -> np.ndarray[Any, Any]:
    """Cells shown (t, y, x) bool where each is hidden with probability ``share``."""
    return lot.random(shape) >= share


def hide_fixed(shape: tuple[int, int, int], share: float, lot: np.random.Generator) -> np.ndarray[Any, Any]:
    """Cells shown where the same part of the cells is hidden at all steps; at least one stays."""
    hidden = lot.permutation(shape[1] * shape[2]) < min(
        round(share * shape[1] * shape[2]), shape[1] * shape[2] - 1
    )
    return np.broadcast_to(~hidden.reshape(shape[1:]), shape).copy()


def hide_quarter(shape: tuple[int, int, int], lot: np.random.Generator) -> np.ndarray[Any, Any]:
    """Cells shown where one quarter of the area is hidden at all steps."""
    shown = np.ones(shape, dtype=bool)
    y, x = (int(lot.integers(2)) * (n - n // 2) for n in shape[1:])
    shown[:, y : y + max(shape[1] // 2, 1), x : x + max(shape[2] // 2, 1)] = False
    return shown if shown.any() else np.ones(shape, dtype=bool)
