"""Hiding observed cells again, so that there is a truth to learn from: seven patterns, mixed. Knows nothing about values' units.

Every pattern gives a candidate for what to hide, over the whole window, of about the share asked for. Numpy, seeded by a
passed generator; the measured counterpart for scores is `holdout`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

PATTERNS = ("transplant", "blob", "pixel", "block", "frames", "swath", "value")
_WEIGHTS = np.array([0.34, 0.20, 0.12, 0.10, 0.10, 0.08, 0.06])
MIN_GIVEN = 12


def remask(
    values: Float32Array,
    valid: BoolArray,
    generator: np.random.Generator,
    share: tuple[float, float],
    donor: BoolArray | None = None,
) -> BoolArray:
    """Observed cells to hide, (t, y, x) bool, a subset of ``valid``.

    Parameters
    ----------
    values : (t, y, x), read for the value-dependent pattern only.
    valid : (t, y, x), True = observed.
    share : smallest and largest part of the observed cells to aim at.
    donor : valid cells of another archive of the same shape, whose gaps may be laid over this one.

    At least one cell is hidden and ``MIN_GIVEN`` (or half of all observed, if fewer) stay visible.
    """
    count = int(valid.sum())
    wanted = generator.uniform(*share)
    hidden = _pattern(values, valid, generator, wanted, donor)
    if generator.random() < 0.25:
        hidden |= _pattern(values, valid, generator, 0.5 * wanted, donor)
    hidden &= valid
    at_least, at_most = max(1, count // 50), max(count - max(MIN_GIVEN, count // 50), count // 2)
    if hidden.sum() < at_least:
        hidden |= valid & (generator.random(valid.shape) < 0.3)
    surplus = int(hidden.sum()) - at_most
    if surplus > 0:
        hidden.ravel()[generator.choice(np.flatnonzero(hidden), surplus, replace=False)] = False
    if not hidden.any() and count > 1:
        hidden.ravel()[generator.choice(np.flatnonzero(valid))] = True
    return hidden


def _pattern(
    values: Float32Array,
    valid: BoolArray,
    generator: np.random.Generator,
    share: float,
    donor: BoolArray | None,
) -> BoolArray:
    kind = str(generator.choice(PATTERNS, p=_WEIGHTS))
    if kind == "transplant":
        return transplant(valid, generator, share, donor)
    if kind == "value":
        return value_dependent(values, valid, generator, share)
    shape = valid.shape
    return {"blob": blob, "pixel": pixel, "block": block, "frames": frames, "swath": swath}[kind](
        shape, generator, share
    )


def transplant(
    valid: BoolArray, generator: np.random.Generator, share: float, donor: BoolArray | None = None
) -> BoolArray:
    """Gaps of other frames (of this window, or of the donor) laid over frames until about ``share`` of the cells is hidden."""
    own_has_gaps = 0.02 < valid.mean() < 0.98
    source = valid if donor is None or (own_has_gaps and generator.random() < 0.7) else donor
    gaps = ~source & source.any(axis=0)  # what is never observed (sea, a static mask) is no gap shape
    if not gaps.any():
        return blob(valid.shape, generator, share)
    steps = len(valid)
    hidden = gaps[(np.arange(steps) + generator.integers(1, max(steps, 2))) % steps] & valid
    if generator.random() < 0.5:  # frames in another order than the weather's
        hidden = gaps[generator.permutation(steps)] & valid
    count = max(int(valid.sum()), 1)
    chosen = np.zeros(steps, dtype=bool)
    reached = 0
    for frame in generator.permutation(steps):
        if reached >= share * count:
            break
        chosen[frame] = True
        reached += int(hidden[frame].sum())
    return np.asarray(hidden & chosen[:, None, None])


def pixel(shape: tuple[int, ...], generator: np.random.Generator, share: float) -> BoolArray:
    """Single cells."""
    return generator.random(shape) < share


def frames(shape: tuple[int, ...], generator: np.random.Generator, share: float) -> BoolArray:
    """Whole frames, alone or in runs."""
    steps = shape[0]
    run = int(generator.integers(1, max(2, steps // 4 + 1))) if generator.random() < 0.4 else 1
    starts = generator.random(steps) < 1 - (1 - min(share, 0.95)) ** (1 / run)
    lost = np.convolve(starts, np.ones(run))[:steps] > 0
    if lost.all():
        lost[generator.integers(steps)] = False
    return np.broadcast_to(lost[:, None, None], shape).copy()


def block(shape: tuple[int, ...], generator: np.random.Generator, share: float) -> BoolArray:
    """Boxes in space, lasting a while."""
    hidden = np.zeros(shape, dtype=bool)
    t, ny, nx = shape
    for _ in range(200):
        if hidden.mean() >= share:
            break
        length = int(generator.integers(1, max(2, t // 2 + 1)))
        h, w = (int(generator.integers(max(1, n // 8), max(2, n // 2 + 1))) for n in (ny, nx))
        i, j, k = (int(generator.integers(0, n - m + 1)) for n, m in ((t, length), (ny, h), (nx, w)))
        hidden[i : i + length, j : j + h, k : k + w] = True
    return hidden


def swath(shape: tuple[int, ...], generator: np.random.Generator, share: float) -> BoolArray:
    """What an orbit leaves out: a slanted band per frame, drifting from frame to frame."""
    t, ny, nx = shape
    slope = generator.uniform(-0.6, 0.6)
    period = generator.uniform(0.7, 2.5) * max(nx, 4)
    drift = generator.uniform(0, 1) * period if generator.random() < 0.7 else 0.0
    phase = np.arange(t)[:, None, None] * drift + generator.uniform(0, period)
    across = (np.arange(nx) + slope * np.arange(ny)[:, None] + phase) % period
    return np.asarray(across < share * period)


def blob(shape: tuple[int, ...], generator: np.random.Generator, share: float) -> BoolArray:
    """Clouds: the lower ranks of a smooth random field, each frame with its own cover around ``share``."""
    field = smooth_noise(shape, generator)
    ranks = field.reshape(shape[0], -1).argsort(axis=1).argsort(axis=1).reshape(shape) / max(
        shape[1] * shape[2], 1
    )
    spread = generator.uniform(0, 3)
    logit = np.log(share / (1 - min(share, 0.98))) + spread * generator.standard_normal(shape[0])
    return np.asarray(ranks < (1 / (1 + np.exp(-logit)))[:, None, None])


def value_dependent(
    values: Float32Array, valid: BoolArray, generator: np.random.Generator, share: float
) -> BoolArray:
    """High (or low) values are likelier to be missing, in patches."""
    seen = values[valid]
    if not seen.size or seen.std() == 0:
        return pixel(valid.shape, generator, share)
    standard = np.where(valid, (values - seen.mean()) / seen.std(), 0)
    lot = generator.choice([-1.0, 1.0]) * standard + generator.uniform(0.3, 2) * smooth_noise(
        valid.shape, generator
    )
    return np.asarray(lot < np.quantile(lot[valid], share))


def smooth_noise(shape: tuple[int, ...], generator: np.random.Generator) -> Float32Array:
    """Random field of unit variance (about), bilinear between random knots a few cells apart, with some roughness."""
    t, ny, nx = shape
    step = generator.uniform(2, max(3.0, min(ny, nx) / 2))
    across = _knots(ny, step)
    along = _knots(nx, step)
    last = generator.uniform(1, 4) if generator.random() < 0.5 else 0.5
    in_time = _knots(t, last)
    noise = generator.standard_normal((in_time.shape[1], across.shape[1], along.shape[1])).astype(np.float32)
    smooth = np.einsum("ta,yb,xc,abc->tyx", in_time, across, along, noise, optimize=True)
    rough = generator.standard_normal(shape).astype(np.float32)
    return np.asarray(smooth + generator.uniform(0, 0.4) * rough, dtype=np.float32)


def _knots(n: int, step: float) -> Float32Array:
    """Linear interpolation from knots ``step`` apart to ``n`` cells, (n, knots)."""
    if step <= 1:
        return np.eye(n, dtype=np.float32)
    at = np.arange(n) / step
    knots = np.arange(int(at[-1]) + 2)
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - knots)), dtype=np.float32)
