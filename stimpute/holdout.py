"""Hiding observed cells the way real gaps hide them, so that methods can be scored. Knows nothing about methods or files.

Every pattern is drawn from a seed alone: the same stack, kind, share and seed give the same cells on any machine.
No pattern takes a cell's last remaining observation in time (unless there is nothing else to hide, or only one step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, UsageError
from stimpute.protocols import Window
from stimpute.stack import Stack

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Kind = Literal["pixel", "gap", "block", "frames", "swath", "value"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_MIN_DONOR_GAP, _MAX_DONOR_GAP = 0.02, 0.95
_MIN_DONORS = 2
_FRUITLESS = 200  # patches in a row that hide nothing before a pattern gives up


def hold_out(stack: Stack, kind: Kind, share: float = 0.2, seed: int = 0) -> BoolArray:
    """Observed cells to hide from a method and to score it on.

    Parameters
    ----------
    stack : the stack as observed.
    kind : ``pixel`` random cells; ``gap`` the gaps of other frames, flipped and shifted (blobs where the stack has
        few gaps of its own); ``block`` rectangles that last some steps; ``frames`` whole frames; ``swath`` one
        diagonal strip per frame, of random width and direction; ``value`` blobs of high (or, by the seed, low) values.
    share : part of the observed cells to hide, in (0, 1). Met exactly, but by whole frames for ``frames``; less where
        keeping one observation per cell does not leave as much to hide.
    seed : of the pattern.

    Returns
    -------
    bool (time, y, x), a subset of ``stack.valid`` that leaves at least one cell observed.

    Raises
    ------
    UsageError : unknown kind, or a share outside (0, 1).
    InputError : fewer than two observations, or ``frames`` with fewer than two frames that hold any.

    >>> stack = Stack.from_array(np.arange(40.0).reshape(4, 2, 5))
    >>> int(hold_out(stack, "pixel", 0.25).sum())
    10
    """
    if kind not in KINDS:
        raise UsageError(f"no hold-out called {kind!r}; one of {', '.join(KINDS)}")
    if not 0 < share < 1:
        raise UsageError(f"the share to hide is {share}; it must lie between 0 and 1")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    hiding = _Hiding(stack.valid, share)
    if kind == "pixel":
        return hiding.highest(rng.random(stack.shape, dtype=np.float32))
    if kind == "value":
        return hiding.highest(_extremeness(stack, rng))
    if kind == "frames":
        return hiding.frames(rng)
    return hiding.patches(_PATCHES[kind](stack.valid, share, rng), rng)


RUN = 5  # empty steps in a row that are no chance
RUNS_SHARE = 1 / 3  # of the steps that hold observations, hidden in runs at most


def runs_like_empty(seen: BoolArray) -> BoolArray:
    """Steps to hide in runs as long as those that are empty: at the ends of the series where it ends empty, and in between.

    Parameters
    ----------
    seen : bool (time,), steps that hold observations.

    Returns
    -------
    bool (time,), a part of ``seen``; none where no five empty steps follow each other.

    >>> runs_like_empty(np.arange(24) >= 5).astype(int).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    >>> seen = np.ones(30, dtype=bool)
    >>> seen[9:14] = False
    >>> np.flatnonzero(runs_like_empty(seen)).tolist()
    [3, 4, 5, 19, 20, 21, 22, 23]
    """
    hidden = np.zeros_like(seen)
    at = np.flatnonzero(seen)
    room = int(RUNS_SHARE * len(at))
    if room < 1:
        return hidden
    bounds = [0, *(np.flatnonzero(np.diff(seen)) + 1).tolist(), len(seen)]
    runs = [(a, b) for a, b in pairwise(bounds) if not seen[a] and b - a >= RUN]
    ends = [(a, b) for a, b in runs if a == 0 or b == len(seen)]
    inner = np.sort([b - a for a, b in runs if a > 0 and b < len(seen)])
    kinds = len(ends) + (len(inner) > 0)
    for start, stop in ends:
        count = min(stop - start, room // kinds)
        hidden[at[:count] if start == 0 else at[len(at) - count :]] = True
    if len(inner):
        length = int(
            inner[np.searchsorted(inner.cumsum(), inner.sum() / 2)]
        )  # that half of their steps lie in
        left = room // kinds
        between = np.split(at, np.flatnonzero(np.diff(at) > RUN) + 1)
        for stretch in sorted(between, key=len, reverse=True):
            free = stretch[~hidden[stretch]]
            count = min(length, left, max(len(free) - 2, 0))
            number = max(min(left // max(count, 1), len(free) // (3 * max(count, 1))), 1)
            for part in np.array_split(free, number) if count else ():
                first = (len(part) - count) // 2
                hidden[part[first : first + count]] = True
                left -= count
    return hidden


class _Hiding:
    """The cells hidden so far, how many are still wanted, and how many observations each cell has left."""

    def __init__(self, valid: BoolArray, share: float) -> None:
        self.valid = valid
        self.hidden = np.zeros_like(valid)
        self.left = valid.sum(axis=0, dtype=np.int32)
        observed = int(self.left.sum())
        if observed < 2:
            raise InputError(
                f"{observed} observed cells: too few to hide any and keep one; give more of the stack"
            )
        spare = int(np.maximum(self.left - 1, 0).sum())
        self.keep_one = valid.shape[0] > 1 and spare > 0
        wanted = min(max(round(share * observed), 1), observed - 1)
        self.wanted = min(wanted, spare) if self.keep_one else wanted

    def highest(self, score: Float32Array) -> BoolArray:
        """Hide the cells of highest score; each cell keeps the observation of its lowest."""
        candidate = self.valid.copy()
        if self.keep_one:
            lowest = np.where(self.valid, score, np.float32(np.inf)).argmin(axis=0)
            np.put_along_axis(candidate, lowest[None], False, axis=0)
        index = np.flatnonzero(candidate)
        chosen = np.argpartition(score.ravel()[index], len(index) - self.wanted)[len(index) - self.wanted :]
        self.hidden.ravel()[index[chosen]] = True
        return self.hidden

    def frames(self, rng: np.random.Generator) -> BoolArray:
        """Hide whole frames in random order while that brings the share nearer; the last one stays."""
        counts = self.valid.sum(axis=(1, 2))
        order = rng.permutation(np.flatnonzero(counts))
        if len(order) < 2:
            raise InputError(
                f"two steps with observations are needed to hide frames, found {len(order)} of {len(counts)}; hide something else"
            )
        for i, t in enumerate(order[:-1]):
            if i > 0 and abs(self.wanted - int(counts[t])) > abs(self.wanted):
                continue
            self.wanted -= self._hide(
                (slice(t, t + 1), slice(None), slice(None)), self.valid[t : t + 1].copy(), rng
            )
            if self.wanted <= 0:
                break
        return self.hidden

    def patches(self, patches: Iterator[tuple[Window, BoolArray]], rng: np.random.Generator) -> BoolArray:
        """Hide patch after patch until the share is met; the last one is cut along a straight edge."""
        fruitless = 0
        for window, pattern in patches:
            where = window.slices
            fresh = pattern & self.valid[where] & ~self.hidden[where]
            hidden = self._hide(where, _cut(fresh, self.wanted, rng), rng)
            self.wanted -= hidden
            fruitless = 0 if hidden else fruitless + 1
            if self.wanted <= 0 or fruitless > _FRUITLESS:
                break
        return self.hidden

    def _hide(self, where: tuple[slice, slice, slice], fresh: BoolArray, rng: np.random.Generator) -> int:
        """Hide ``fresh`` in place, but for one step of every cell that would lose its last observation."""
        left = self.left[where[1:]]
        if self.keep_one:
            drained = (fresh.sum(axis=0) >= left) & fresh.any(axis=0)
            if drained.any():
                steps = np.where(fresh, rng.random(fresh.shape, dtype=np.float32), np.float32(-1)).argmax(
                    axis=0
                )
                rows, cols = np.nonzero(drained)
                fresh[steps[rows, cols], rows, cols] = False
        self.hidden[where] |= fresh
        left -= fresh.sum(axis=0, dtype=np.int32)
        return int(fresh.sum())


def _cut(fresh: BoolArray, wanted: int, rng: np.random.Generator) -> BoolArray:
    """At most ``wanted`` cells of a patch: those on one side of a line along a random axis."""
    if int(fresh.sum()) <= wanted:
        return fresh
    axis = int(rng.integers(1, 3))
    turned = np.moveaxis(fresh, axis, 0)
    kept = np.zeros_like(turned)
    kept[tuple(i[:wanted] for i in np.nonzero(turned))] = True
    return np.moveaxis(kept, 0, axis)


def _extremeness(stack: Stack, rng: np.random.Generator) -> Float32Array:
    """Standardised values, high or low by chance, plus smooth noise that makes blobs of them. (time, y, x)"""
    observed = stack.values[stack.valid]
    center, spread = float(observed.mean(dtype=np.float64)), float(observed.std(dtype=np.float64))
    sign = 1.0 if rng.random() < 0.5 else -1.0
    score = (stack.values - np.float32(center)) * np.float32(sign / spread if spread > 0 else 0.0)
    for t in range(len(score)):
        score[t] += np.float32(0.5) * _smooth_noise(stack.shape[1:], rng)
    return score


def _smooth_noise(shape: tuple[int, int], rng: np.random.Generator) -> Float32Array:
    """Gaussian noise of unit variance, smooth over about a tenth to a quarter of the longer side; edges do not wrap."""
    ny, nx = (2 * n if n > 1 else 1 for n in shape)
    sigma = max(shape) * rng.uniform(0.04, 0.1)
    ky, kx = np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)[None, :]
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (ky**2 + kx**2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((ny, nx))) * kernel, s=(ny, nx))[
        : shape[0], : shape[1]
    ]
    noise -= noise.mean()
    return np.asarray(noise / (noise.std() or 1.0), dtype=np.float32)


def _frame_window(t: int, valid: BoolArray) -> Window:
    return Window((t, t + 1), (0, valid.shape[1]), (0, valid.shape[2]))


def _frames_forever(valid: BoolArray, rng: np.random.Generator) -> Iterator[int]:
    """Frames that hold observations, shuffled, again and again."""
    frames = np.flatnonzero(valid.any(axis=(1, 2)))
    while True:
        yield from (int(t) for t in rng.permutation(frames))


def _gap_patches(
    valid: BoolArray, share: float, rng: np.random.Generator
) -> Iterator[tuple[Window, BoolArray]]:
    """Gaps of one frame laid over another, flipped and shifted by up to a quarter of the extent."""
    ever = valid.any(axis=0)
    missing = 1 - valid.sum(axis=(1, 2)) / max(int(ever.sum()), 1)
    donors = np.flatnonzero((missing >= _MIN_DONOR_GAP) & (missing <= _MAX_DONOR_GAP))
    if len(donors) < _MIN_DONORS:
        yield from _blob_patches(valid, share, rng)
        return
    for t in _frames_forever(valid, rng):
        donor = int(rng.choice(donors[donors != t]))
        yield _frame_window(t, valid), _displaced(ever & ~valid[donor], rng)[None]


def _displaced(gap: BoolArray, rng: np.random.Generator) -> BoolArray:
    """A gap mirrored and moved at random; what leaves the frame is lost, nothing enters."""
    flips, moves = rng.random(2) < 0.5, rng.uniform(-0.25, 0.25, size=2)
    for axis in (0, 1):
        n = gap.shape[axis]
        if flips[axis]:
            gap = np.flip(gap, axis)
        source = np.arange(n) - round(moves[axis] * n)
        inside = (source >= 0) & (source < n)
        shape = (-1, 1) if axis == 0 else (1, -1)
        gap = np.take(gap, np.clip(source, 0, n - 1), axis=axis) & inside.reshape(shape)
    return gap


def _blob_patches(
    valid: BoolArray, share: float, rng: np.random.Generator
) -> Iterator[tuple[Window, BoolArray]]:
    """Cloud-like blobs over 10 to 70 % of a frame."""
    for t in _frames_forever(valid, rng):
        noise = _smooth_noise(valid.shape[1:], rng)
        covered = float(np.clip(share * rng.uniform(0.5, 3), 0.1, 0.7))
        yield _frame_window(t, valid), (noise >= np.quantile(noise, 1 - covered))[None]


def _block_patches(
    valid: BoolArray, share: float, rng: np.random.Generator
) -> Iterator[tuple[Window, BoolArray]]:
    """Rectangles of an eighth to a third of each side, round an observed cell, over up to a third of the steps."""
    steps = valid.shape[0]
    for t in _frames_forever(valid, rng):
        cell = int(rng.choice(np.flatnonzero(valid[t])))
        row, col = divmod(cell, valid.shape[2])
        y = _interval(row, valid.shape[1], rng.uniform(1 / 8, 1 / 3), rng)
        x = _interval(col, valid.shape[2], rng.uniform(1 / 8, 1 / 3), rng)
        time = _interval(t, steps, int(rng.integers(1, max(min(steps // 3, 30), 1) + 1)) / steps, rng)
        window = Window(time, y, x)
        yield window, np.ones(window.shape, dtype=bool)


def _interval(index: int, n: int, fraction: float, rng: np.random.Generator) -> tuple[int, int]:
    """A range of about ``fraction * n`` that holds ``index`` and stays inside (0, n)."""
    length = min(max(round(fraction * n), 1), n)
    start = int(np.clip(index - int(rng.integers(length)), 0, n - length))
    return start, start + length


def _swath_patches(
    valid: BoolArray, share: float, rng: np.random.Generator
) -> Iterator[tuple[Window, BoolArray]]:
    """Strips that lean up to 40 degrees from the columns, as orbits do, of random width and place."""
    ny, nx = valid.shape[1:]
    rows, cols = np.mgrid[:ny, :nx].astype(np.float64)
    for t in _frames_forever(valid, rng):
        angle = np.radians(rng.uniform(5, 40) * rng.choice([-1, 1]))
        across = cols * np.cos(angle) + rows * np.sin(angle)
        low, extent = across.min(), np.ptp(across) + 1
        width = min(share * rng.uniform(0.5, 2.5), 0.6) * extent
        start = rng.uniform(low - width / 2, low + extent - width / 2)
        yield _frame_window(t, valid), ((across >= start) & (across < start + width))[None]


_PATCHES: dict[str, Callable[[BoolArray, float, np.random.Generator], Iterator[tuple[Window, BoolArray]]]] = {
    "gap": _gap_patches,
    "block": _block_patches,
    "swath": _swath_patches,
}
