"""Any refiner, told by a fine archive of the same place: it completes and refines what the archive does not explain. Knows no files.

How far its spread is to be believed is judged on stretches of the archive, coarsened and hidden like the stack.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.classical.fine_climate import JUDGED, LEAST_FOR_PATTERNS, LEAST_STEPS, FineClimate
from stimpute.classical.refinement import block_mean, known_block_mean, within_bounds
from stimpute.diffusion.ensemble import LEVEL_Z, factor_of
from stimpute.errors import InputError, StimputeWarning
from stimpute.estimate import Estimate, Float32Array
from stimpute.grid import Grid
from stimpute.inference.memory import wrapped
from stimpute.protocols import Refiner, Refining, Window
from stimpute.stack import BoolArray, Stack

STRETCHES, LONGEST = 3, 18  # of the archive that are judged, their steps together
LEAST_CELLS = 200  # of a kind, to have a factor of their own
KNOWN_SHARE = 0.5  # of a block's cells, from which it has a mean


_ARCHIVE_BYTES = 40  # per fine cell-step of the archive


class FineArchive(Protocol):
    """A stack on the fine grid that is read part by part; (time, y, x)."""

    shape: tuple[int, int, int]

    def read(self, window: Window) -> Stack:
        """One window."""
        ...


class BesideArchive:
    """A refiner of departures from what an archive expects.

    Parameters
    ----------
    refiner : completes and refines the departures.
    archive : fine, on the grid of what is refined; other times, gaps allowed. Where it is no stack, it is read part by part.
    """

    def __init__(self, refiner: Refiner, archive: Stack | FineArchive) -> None:
        self.refiner, self.archive = refiner, archive
        self.name = refiner.name
        self.model_name = getattr(refiner, "model_name", None)
        self.sha256 = getattr(refiner, "sha256", None)
        self._warned = False

    def bytes_per_cell(self, wanted: Refining, steps: int) -> int:
        """At the peak, per coarse cell-step."""
        of_archive = _ARCHIVE_BYTES * self.archive.shape[0] * wanted.factor**2 // steps
        return self.refiner.bytes_per_cell(wanted, steps) + of_archive

    def refine(self, coarse: Stack, fine: Stack, wanted: Refining) -> Estimate:
        """As of ``refiner``, on top of the archive's background; without it where the archive explains nothing of the stack.

        Raises
        ------
        InputError : too few steps, or nothing observed.
        """
        archive = self._of(coarse, wanted)
        if not archive.valid.any() and archive.shape != self.archive.shape:  # of a piece
            return self.refiner.refine(coarse, fine, wanted)
        expected = _background(archive, coarse, wanted.factor)
        apart = _apart(coarse, expected, wanted.factor)
        if apart.values[coarse.valid].std() >= coarse.values[coarse.valid].std():
            self._warn(
                "it explains nothing of what was observed (another variable, or other units?) and is not used"
            )
            return self.refiner.refine(coarse, fine, wanted)
        freely = replace(wanted, bounds=(None, None))
        said = self.refiner.refine(apart, fine, freely)
        widening = _fine(coarse.valid, wanted.factor, *self._widening(archive, coarse, fine, freely))
        scale = None if said.scale is None else said.scale * widening
        if said.members is None:
            return Estimate(_inside(torch.from_numpy(said.mean) + expected, wanted), scale)
        spread_out = said.mean + widening * (said.members - said.mean)
        members = _inside(torch.from_numpy(spread_out) + expected, wanted)
        mean = members.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Estimate(mean, scale, members=members)

    def unseen(self, coarse: Stack, wanted: Refining) -> tuple[Float32Array, Float32Array] | None:
        """Mean and spread of every fine cell where nothing of ``coarse`` was observed: what the archive shows at such times; None: nothing.

        Raises
        ------
        InputError : too few steps.
        """
        archive = self._of(coarse, wanted)
        if not archive.valid.any():
            return None
        background = _fitted(archive, wanted.factor)
        expected = background(coarse).numpy().astype(np.float32)
        usual = background(_blank(archive, wanted.factor)).numpy()
        rest = np.where(archive.valid, archive.values - usual, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # cells that the archive never saw
            spread = np.nanstd(rest, axis=0)
        spread = np.where(np.isfinite(spread), spread, np.nanstd(rest)).astype(np.float32)
        return expected, np.broadcast_to(spread, expected.shape).copy()

    def _of(self, coarse: Stack, wanted: Refining) -> Stack:
        """The archive where the coarse stack lies."""
        if isinstance(self.archive, Stack):
            return self.archive
        steps, k = self.archive.shape[0], wanted.factor
        _, y0, x0 = wanted.origin
        _, ny, nx = coarse.shape
        rows, columns = (y0 * k, (y0 + ny) * k), (x0 * k, (x0 + nx) * k)
        if wanted.columns is None:
            return self.archive.read(Window((0, steps), rows, columns))
        around = wanted.columns * k
        start, stop = columns
        return wrapped(self.archive.read, around, around)(
            Window((0, steps), rows, (start + around, stop + around))
        )

    def _warn(self, words: str) -> None:
        """Once, however many pieces there are."""
        if not self._warned:
            warnings.warn(f"--archive: {words}", StimputeWarning, stacklevel=3)
        self._warned = True

    def _widening(self, archive: Stack, coarse: Stack, fine: Stack, wanted: Refining) -> tuple[float, float]:
        """Factors on the spread with which 90 % intervals hold 90 %: in coarse cells that are observed, and in others.

        From stretches of the archive, refined beside the rest of it under the gaps of the stack; covariates that change are left out.
        """
        left_out, asked = _judged(archive.shape[0], min(coarse.shape[0], LONGEST))
        if (~left_out).sum() < LEAST_FOR_PATTERNS:
            return 1.0, 1.0
        told, last = _steps(archive, ~left_out), _steps(archive, asked)
        known = torch.from_numpy(last.valid)
        means, shares = (
            t.numpy() for t in known_block_mean(torch.from_numpy(last.values), known, wanted.factor)
        )
        shown = coarse.valid[np.arange(len(asked)) % len(coarse.valid)] & (shares >= KNOWN_SHARE)
        if not shown.any() or not told.valid.any():
            return 1.0, 1.0
        times = (last.times, coarse.grid, last.year_phase, last.day_phase)
        judged = Stack(np.where(shown, means, 0).astype(np.float32), shown, *times)
        expected = _background(told, judged, wanted.factor)
        blank = replace(
            fine, values=np.zeros_like(last.values), valid=np.zeros_like(last.valid), times=last.times, year_phase=last.year_phase,
            day_phase=last.day_phase, dynamic={},
        )  # fmt: skip
        said = self.refiner.refine(_apart(judged, expected, wanted.factor), blank, wanted)
        if said.scale is None:
            return 1.0, 1.0
        missed = np.abs(last.values - said.mean - expected.numpy()) / (LEVEL_Z * np.maximum(said.scale, 1e-9))
        observed = shown.repeat(wanted.factor, axis=1).repeat(wanted.factor, axis=2)
        overall = factor_of(missed[last.valid])
        kinds = (missed[last.valid & kind] for kind in (observed, ~observed))
        seen, unseen = (factor_of(kind) if kind.size >= LEAST_CELLS else overall for kind in kinds)
        return seen, unseen


def _blank(archive: Stack, factor: int) -> Stack:
    """A coarse stack at the times of an archive of which nothing was observed."""
    t, ny, nx = archive.shape
    nothing = np.zeros((t, ny // factor, nx // factor), dtype=np.float32)
    grid = Grid.from_shape(ny // factor, nx // factor)
    return Stack(nothing, nothing > 0, archive.times, grid, archive.year_phase, archive.day_phase)


def _judged(steps: int, most: int) -> tuple[BoolArray, npt.NDArray[np.int64]]:
    """Steps of an archive that are left out, in stretches over all of it, and ``most`` of them in their middles.

    >>> left_out, asked = _judged(48, 6)
    >>> np.flatnonzero(left_out).tolist(), asked.tolist()
    ([6, 7, 8, 9, 22, 23, 24, 25, 38, 39, 40, 41], [7, 8, 23, 24, 39, 40])
    """
    width = round(JUDGED * steps) // STRETCHES
    left_out, asked = np.zeros(steps, dtype=bool), []
    for number in range(STRETCHES):
        middle = (2 * number + 1) * steps // (2 * STRETCHES)
        left_out[middle - width // 2 : middle - width // 2 + width] = True
        count = min(width, max(most // STRETCHES, 1))
        asked.append(np.arange(middle - count // 2, middle - count // 2 + count))
    return left_out, np.concatenate(asked)


def _steps(stack: Stack, which: npt.NDArray[Any]) -> Stack:
    """Some steps of a stack, without covariates that change."""
    return replace(
        stack, values=stack.values[which], valid=stack.valid[which], times=stack.times[which],
        year_phase=stack.year_phase[which], day_phase=stack.day_phase[which], dynamic={},
    )  # fmt: skip


def _fine(coarse: BoolArray, factor: int, there: float, elsewhere: float) -> Float32Array:
    """What holds in coarse cells that are marked, and in the others, for every fine cell."""
    chosen = np.where(coarse, np.float32(there), np.float32(elsewhere))
    return chosen.repeat(factor, axis=1).repeat(factor, axis=2)


def _apart(coarse: Stack, expected: Tensor, factor: int) -> Stack:
    """The coarse stack less the block means of what is expected."""
    rest = np.where(coarse.valid, coarse.values - block_mean(expected, factor).numpy(), 0)
    return replace(coarse, values=rest.astype(np.float32))


def _background(archive: Stack, coarse: Stack, factor: int) -> Tensor:
    """What an archive expects of a coarse stack, on the fine grid."""
    return _fitted(archive, factor)(coarse)


def _fitted(archive: Stack, factor: int) -> Callable[[Stack], Tensor]:
    """What an archive expects of any coarse stack of its place."""
    if archive.shape[0] < LEAST_STEPS or not archive.valid.any():
        raise InputError(
            f"--archive: {archive.shape[0]} steps with {int(archive.valid.sum())} observed cells; at least {LEAST_STEPS} steps are needed"
        )
    center = float(archive.values[archive.valid].mean(dtype=np.float64))  # so that float32 has digits left

    def around(stack: Stack) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values = np.where(stack.valid, stack.values - center, 0).astype(np.float32)
        arrays = (values, stack.valid, stack.year_phase, stack.day_phase)
        return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]

    found = FineClimate.fit(*around(archive), torch.from_numpy(archive.times), factor)
    return lambda coarse: found.background(*around(coarse)) + center


def _inside(field: Tensor, wanted: Refining) -> Float32Array:
    """Within the bounds, block means kept."""
    low, high = wanted.bounds
    if (low, high) != (None, None):
        field = within_bounds(field, block_mean(field, wanted.factor), wanted.factor, low, high)
    return field.numpy().astype(np.float32)
