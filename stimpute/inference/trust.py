"""How far to trust a method on this very stack: hide some of it, predict that, fit calibrations. Knows no particular method.

Two calibrations, since distance alone does not tell them apart: cells of steps that hold observations are hidden in the
shapes of other steps' gaps, and some one by one; cells of empty steps by hiding whole steps (where the stack has empty ones), several times
where few can be hidden at once: the cells of one step err together, so that it is steps that count. Where empty steps follow each other, steps are hidden in runs as long, too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from stimpute.calibration import Calibration, distance_to_data
from stimpute.errors import InputError, StimputeWarning
from stimpute.holdout import hold_out, runs_like_empty
from stimpute.inference.options import Progress
from stimpute.inference.survey import Survey
from stimpute.protocols import Imputer, Window
from stimpute.stack import BoolArray, Float32Array, Stack

LEVEL = 0.9
SHARE = 0.1  # of the observed cells, hidden by each pattern
TILES = 2, 12  # windows, each of another tile: at least, at most
CELLS = 1_000_000  # cell-steps that as many windows hold as there are in between
WINDOW_CELLS = 350_000  # cell-steps of one at most,
WINDOW_SIDE = 96  # unless its sides in cells were shorter than that
SCATTERED = 0.05  # of them, hidden one by one, so that every step and place has its say
MIN_HELD_OUT = 30
FEWEST_STEPS = 8  # taken for the number of steps where cells of fewer were hidden
STEPS, ROUNDS = (
    8,
    4,
)  # whole steps to hide before their errors are believed; times that a tile is filled for it, at most


@dataclass(frozen=True, eq=False)
class Trust:
    """Calibrations fitted on a stack, and how the method did on the cells hidden for them.

    Parameters
    ----------
    seen, empty : for steps that hold observations, and for those that hold none; None: not fitted.
    mae : mean absolute error on the hidden cells, in the variable's units.
    coverage : share of every second hidden cell inside the 90 % interval calibrated on the others.
    error_share : mean absolute error over the mean standard error, on the hidden cells.
    spread : standard deviation of what was observed: the standard error where there is no calibration and no scale.
    """

    seen: Calibration | None = None
    empty: Calibration | None = None
    mae: float | None = None
    coverage: float | None = None
    error_share: float = float("nan")
    spread: float | None = None

    def standard_error(self, scale: Float32Array | None, stack: Stack) -> Float32Array | None:
        """The method's scale (ones where it has none), stretched so that intervals cover what they claim."""
        if self.seen is None:
            return (
                scale
                if scale is not None or self.spread is None
                else np.full(stack.shape, self.spread, np.float32)
            )
        own = np.ones(stack.shape, dtype=np.float32) if scale is None else scale
        return self.apply(own, distance_to_data(stack.valid, stack.times), _empty_steps(stack))

    def apply(self, scale: Float32Array, distance: Float32Array, empty: BoolArray) -> Float32Array:
        """Calibrated standard errors; ``empty`` says, along the first axis, which entries lie in empty steps."""
        assert self.seen is not None
        error = self.seen.apply(scale, distance)
        if self.empty is not None and empty.any():
            error[empty] = self.empty.apply(scale[empty], distance[empty])
        return error

    def expected_error(self, claimed: float, filled: int) -> float | None:
        """Mean absolute error over ``filled`` cells whose standard errors sum to ``claimed``."""
        if self.seen is None or not filled:
            return self.mae
        return claimed / filled * self.error_share


@dataclass(frozen=True, eq=False)
class Question:
    """What a method is to predict from the rest of a window of the extended grid: ``hidden``, bool (time, y, x), of its ``stack``."""

    window: Window
    stack: Stack
    hidden: BoolArray


@dataclass(frozen=True, eq=False)
class Hidden:
    """What the method said about hidden cells, in flat arrays."""

    error: Float32Array
    scale: Float32Array
    distance: Float32Array
    empty: BoolArray
    step: npt.NDArray[np.int64]  # that a cell lies in

    def __getitem__(self, chosen: slice | BoolArray) -> Hidden:
        return Hidden(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def fitted(self) -> Trust:
        """Calibrations for either sort of step, each on its own cells where they suffice, else on all."""
        fits = []
        for chosen in (self[~self.empty], self[self.empty]):
            own = chosen if chosen.error.size >= MIN_HELD_OUT else self
            fit = Calibration.fit(own.error, own.scale, own.distance, LEVEL)
            fits.append(fit.widened(widening(len(np.unique(own.step)))))
        return Trust(fits[0], fits[1])


def widening(steps: int) -> float:
    """How much wider intervals must be that rest on the errors of so few steps: Student's quantile over the normal one.

    >>> round(widening(8), 2), round(widening(1000), 2)
    (1.13, 1.0)
    """
    level = 0.5 + LEVEL / 2
    return float(stdtrit(max(steps, FEWEST_STEPS), level) / NormalDist().inv_cdf(level))


Predict = Callable[[Iterable[Question]], Iterator[Hidden]]  # in the order of the questions


def earn_trust(survey: Survey, predict: Predict, seed: int, progress: Progress | None = None) -> Trust:
    """Hide a seeded share of what is observed the way gaps hide it, have it predicted from the rest, fit the calibrations."""
    rng = np.random.default_rng([seed, survey.index])
    windows = _sampled_windows(survey, rng)
    asked: list[int] = []  # window by window

    def questions() -> Iterator[Question]:
        everywhere = _hidden_everywhere(survey, seed, len(windows)) if survey.in_memory else None
        for number, window in enumerate(windows):
            stack = survey.read(window).contiguous()
            if everywhere is None:
                patterns = hidden_patterns(stack, int(rng.integers(2**31)), len(windows))
            else:
                patterns = [hidden[window.slices] for hidden in everywhere]
            for hidden in patterns:
                if hidden.any():
                    asked.append(number)
                    yield Question(window, stack, hidden)

    parts: list[Hidden] = []
    steps = 0
    for part in predict(questions()):
        number = asked[len(parts)]
        parts.append(replace(part, step=part.step + steps))
        steps += windows[number].shape[0]
        if progress:
            progress("calibrate", number + 1, len(windows))
    held = _joined(parts)
    if held.error.size < MIN_HELD_OUT:
        warnings.warn(
            f"{survey.layer.name}: {held.error.size} cells to calibrate on are too few; the standard error is the method's own,"
            " or the spread of the observations",
            StimputeWarning, stacklevel=2,
        )  # fmt: skip
        seen = survey.overview.values[survey.overview.valid]
        spread = float(seen.std(dtype=np.float64)) if seen.size else None
        return Trust(
            mae=float(np.abs(held.error).mean(dtype=np.float64)) if held.error.size else None, spread=spread
        )
    trust = held.fitted()
    mae = float(np.abs(held.error).mean(dtype=np.float64))
    claimed = float(trust.apply(held.scale, held.distance, held.empty).mean(dtype=np.float64))
    return Trust(trust.seen, trust.empty, mae, _coverage(held), mae / claimed if claimed > 0 else 0.0)


def _hidden_everywhere(survey: Survey, seed: int, tiles: int) -> list[BoolArray]:
    """What to hide of the extended grid (time, y, x): columns that are there twice, where longitude wraps, alike."""
    t, ny, nx = survey.shape
    stack = survey.read(Window((0, t), (0, ny), (survey.margin, survey.margin + nx)))
    return [hidden[..., survey.extended_columns] for hidden in hidden_patterns(stack, seed, tiles)]


def predict_hidden(stack: Stack, hidden: BoolArray, imputer: Imputer) -> Hidden:
    """What a method says about observed cells of a stack that are hidden from it."""
    shown = stack.hide(hidden)
    estimate = imputer.impute(shown)
    scale = estimate.scale if estimate.scale is not None else np.ones_like(estimate.mean)
    where = hidden & np.isfinite(estimate.mean) & np.isfinite(scale)
    empty = np.broadcast_to(_empty_steps(shown)[:, None, None], where.shape)
    distance = distance_to_data(shown.valid, shown.times)
    return Hidden(
        (stack.values - estimate.mean)[where],
        scale[where],
        distance[where],
        empty[where],
        np.nonzero(where)[0],
    )


def _joined(parts: list[Hidden]) -> Hidden:
    none = np.empty(0, dtype=np.float32)
    parts = [*parts, Hidden(none, none, none, none.astype(bool), none.astype(np.int64))]
    return Hidden(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Hidden)))


def _empty_steps(stack: Stack) -> npt.NDArray[np.bool_]:
    return np.asarray(~stack.valid.any(axis=(1, 2)))


def _coverage(held: Hidden) -> float | None:
    """Share of every second held-out cell inside the interval calibrated on the others."""
    if held.error.size < 4 * MIN_HELD_OUT:
        return None
    rest = held[1::2]
    claimed = held[::2].fitted().apply(rest.scale, rest.distance, rest.empty)
    return float((np.abs(rest.error) <= NormalDist().inv_cdf(0.5 + LEVEL / 2) * claimed).mean())


def _sampled_windows(survey: Survey, rng: np.random.Generator) -> list[Window]:
    """What a few tiles read, drawn in proportion to what is observed in their cores; of large tiles a part."""
    if len(survey.tiles) == 1:
        return [survey.tiles[0].read]
    extended = survey.observed_per_cell[:, survey.extended_columns]
    observed = np.array([extended[tile.core.slices[1:]].sum() for tile in survey.tiles], dtype=np.float64)
    most, shape = calibration_windows(survey)
    wanted = min(most, int((observed > 0).sum()))
    picked = rng.choice(len(survey.tiles), size=wanted, replace=False, p=observed / observed.sum())
    return [_part(survey.tiles[i].read, shape, rng) for i in sorted(picked)]


def calibration_windows(survey: Survey) -> tuple[int, tuple[int, int, int]]:
    """How many windows the calibration is fitted on, and their (time, y, x): a million cell-steps, at least 2, at most 12."""
    if len(survey.tiles) == 1:
        return 1, survey.tiles[0].read.shape
    least, most = TILES
    steps, *sides = survey.tiles[0].read.shape
    side = max(WINDOW_SIDE, math.isqrt(WINDOW_CELLS // steps))
    shape = steps, min(sides[0], side), min(sides[1], side)
    return min(len(survey.tiles), max(least, min(most, round(CELLS / math.prod(shape))))), shape


def _part(window: Window, shape: tuple[int, int, int], rng: np.random.Generator) -> Window:
    """A part of a window of at most this shape, anywhere in it."""
    axes = []
    for (start, stop), length in zip((window.time, window.y, window.x), shape, strict=True):
        first = start + int(rng.integers(stop - start - length + 1)) if stop - start > length else start
        axes.append((first, min(first + length, stop)))
    return Window(*axes)


def hidden_patterns(stack: Stack, seed: int, tiles: int) -> list[BoolArray]:
    """What to hide of a stack, one fill for each: gap shapes of other steps, whole steps where some are empty.

    None where there is too little to hide; more than one where few whole steps can be hidden at once.
    """
    try:
        first = hold_out(stack, "gap", SHARE, seed) | hold_out(stack, "pixel", SCATTERED, seed)
        if not _empty_steps(stack).any():
            return [first]
        steps = _whole_steps(stack, hold_out(stack, "frames", SHARE, seed))
        each = max(int(steps.any(axis=(1, 2)).sum()) * tiles, 1)
        rounds = min(ROUNDS, -(-STEPS // each))
        more = [_whole_steps(stack, hold_out(stack, "frames", SHARE, seed + r)) for r in range(1, rounds)]
    except InputError:
        return []
    runs = stack.valid & runs_like_empty(~_empty_steps(stack))[:, None, None]
    return [first | steps, *more, *([runs] if runs.any() else [])]


def _whole_steps(stack: Stack, frames: BoolArray) -> BoolArray:
    """Hidden steps and, for every third one, the observed step after it, so that longer gaps in time occur too."""
    seen = np.flatnonzero(stack.valid.any(axis=(1, 2)))
    alone = np.flatnonzero(frames.any(axis=(1, 2)))
    after = np.searchsorted(seen, alone[::3], side="right")
    steps = np.union1d(alone, seen[after[after < len(seen)]])
    hidden = np.zeros_like(stack.valid)
    if len(steps) < len(seen):
        hidden[steps] = stack.valid[steps]
    return hidden
