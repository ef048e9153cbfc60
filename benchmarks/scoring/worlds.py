"""The two data sets of the paper's study, made here: soil moisture in two years, and Healing MNIST. Knows no methods.

A *question* is one stack with gaps, the cells to be scored and the truth there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import rotate

from stimpute.errors import InputError
from stimpute.grid import Grid
from stimpute.holdout import hold_out
from stimpute.protocols import Layer
from stimpute.stack import BoolArray, Float32Array, Stack
from stimpute.synthetic import smap_like

Which = Literal["all", "dynamic", "static", "none"]
Study = Literal["soil_moisture", "digits"]
#: what is hidden of a study, as the page calls it
HIDDEN: dict[str, dict[str, str]] = {
    "soil_moisture": {"pixel": "random cells", "frames": "whole days"},
    "digits": {"random": "random", "value": "value-dependent", "noisy": "random, noisy"},
}
SHARE = 0.2  # of the observed soil moisture that is hidden (the paper's)
MISSING = 0.5  # of the digits' cells (the paper's)
# Not stated in the paper; chosen so that linear interpolation errs about as much as it does there.
TWICE = 2.0  # how much likelier a white cell is missing than a black one, in value-dependent gaps
TURN = 20.0  # standard deviation of the turn from frame to frame, degrees
FLIPPED = 0.1  # of the visible cells of a noisy sequence
DIGITS_FILE = "graph_mnist/t10k-images-idx3-ubyte.gz"


@dataclass(frozen=True)
class Sizes:
    """How large the study is.

    Parameters
    ----------
    days, side : of a year, and cells of 1 km of the square. Two such years: one to learn from, one to be judged on.
    missing : share of the soil moisture that no orbit sees.
    learn, check, judge : sequences of digits to train on, to validate on, to be judged on, each of other digits. ``check`` is also
        the number of windows of soil moisture that are validated on.
    frames : of a sequence.
    """

    days: int = 365
    side: int = 36
    missing: float = 0.95
    learn: int = 600
    check: int = 16
    judge: int = 60
    frames: int = 10

    @property
    def digest(self) -> str:
        """Changes with the data."""
        what = [asdict(self), SHARE, MISSING, TWICE, TURN, FLIPPED]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


QUICK = Sizes(days=24, side=12, missing=0.8, learn=6, check=2, judge=2, frames=3)


@dataclass(frozen=True, eq=False)
class Question:
    """A stack with gaps, the cells (time, y, x) to be scored, and the truth there, in the order of ``wanted``."""

    stack: Stack
    wanted: BoolArray
    truth: Float32Array


# --- soil moisture ----------------------------------------------------------------------------------------------------


@cache
def soil_moisture(sizes: Sizes) -> tuple[Stack, Stack]:
    """The year to learn from and the year to be judged on, as observed, with eleven covariates."""
    world = smap_like(0, (2 * sizes.days, sizes.side, sizes.side), sizes.missing)
    grid = Grid("affine", world.truth.shape[1:], world.x, world.y, "length", km_per_unit=0.001)
    whole = Stack.from_array(
        world.values, times=world.times, grid=grid, dynamic=world.dynamic, static=world.static
    )
    everywhere = slice(None)
    first, second = (slice(i * sizes.days, (i + 1) * sizes.days) for i in range(2))
    return whole.window(first, everywhere, everywhere), whole.window(second, everywhere, everywhere)


def layer_of(stack: Stack) -> Layer:
    """What a file would say of the variable."""
    standard_name = "volume_fraction_of_condensed_water_in_soil"
    return Layer(
        "soil_moisture", "soil_moisture", {}, stack.shape, np.dtype(np.float32), "m3 m-3", standard_name=standard_name
    )  # fmt: skip


def with_covariates(stack: Stack, which: Which) -> Stack:
    """The stack with all, only the time-varying, only the static, or none of its covariates."""
    dynamic = stack.dynamic if which in {"all", "dynamic"} else {}
    static = stack.static if which in {"all", "static"} else {}
    return replace(stack, dynamic=dynamic, static=static)


def soil_question(sizes: Sizes, hidden: str, seed: int) -> Question:
    """A fifth of what was observed in the second year, hidden."""
    year = soil_moisture(sizes)[1]
    held_out = hold_out(year, hidden, SHARE, seed)
    return Question(year.hide(held_out), held_out, year.values[held_out])


# --- Healing MNIST ----------------------------------------------------------------------------------------------------


@cache
def read_digits(path: Path) -> npt.NDArray[np.uint8]:
    """The images (n, 28, 28) of an IDX file.

    Raises
    ------
    InputError : absent, or not such a file.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    magic, count, rows, columns = (int.from_bytes(raw[i : i + 4], "big") for i in range(0, 16, 4))
    if magic != 0x803 or len(raw) != 16 + count * rows * columns:
        raise InputError(f"{path}: no IDX file of images")
    return np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(count, rows, columns)


def turned(image: npt.NDArray[np.uint8], frames: int, rng: np.random.Generator) -> Float32Array:
    """A digit on a random walk of its angle, black (0) and white (1), (frames, 28, 28)."""
    angles = np.cumsum(rng.normal(0, TURN, frames))
    several = [rotate(image.astype(np.float32), angle, reshape=False, order=1) > 127 for angle in angles]
    return np.stack(several).astype(np.float32)


def chance_of_gap(frames: Float32Array, hidden: str) -> Float32Array:
    """The probability of every cell to be missing; half of all cells either way.

    >>> white = np.zeros((1, 2, 2), dtype=np.float32); white[0, 0, 0] = 1
    >>> chance_of_gap(white, "value").ravel().astype(float).round(2).tolist(), float(chance_of_gap(white, "value").mean())
    ([0.8, 0.4, 0.4, 0.4], 0.5)
    """
    weight = np.where(frames > 0, TWICE, 1.0) if hidden == "value" else np.ones(frames.shape)
    return np.asarray(MISSING * weight / weight.mean(), dtype=np.float32)


def sequence(image: npt.NDArray[np.uint8], sizes: Sizes, hidden: str, rng: np.random.Generator) -> Question:
    """One digit, turning, with gaps; where ``noisy`` a part of what is visible is flipped, the truth is not."""
    truth = turned(image, sizes.frames, rng)
    wanted = rng.random(truth.shape) < chance_of_gap(truth, hidden)
    shown = truth.copy()
    if hidden == "noisy":
        flipped = rng.random(truth.shape) < FLIPPED
        shown[flipped] = 1 - shown[flipped]
    return Question(Stack.from_array(shown, ~wanted), wanted, truth[wanted])


def digit_questions(images: npt.NDArray[np.uint8], sizes: Sizes, hidden: str, seed: int) -> list[Question]:
    """The sequences to be judged on."""
    rng = np.random.default_rng([seed, 2, list(HIDDEN["digits"]).index(hidden)])
    return [sequence(image, sizes, hidden, rng) for image in images[-sizes.judge :]]


def digit_lessons(images: npt.NDArray[np.uint8], sizes: Sizes, seed: int) -> tuple[list[Stack], list[Stack]]:
    """Sequences to train on, and others to validate on, the kinds of gaps in turn; other digits than those judged on."""
    rng = np.random.default_rng([seed, 1])
    kinds: Sequence[str] = list(HIDDEN["digits"])
    made = [
        sequence(image, sizes, kinds[i % len(kinds)], rng).stack
        for i, image in enumerate(images[: sizes.learn + sizes.check])
    ]
    return made[: sizes.learn], made[sizes.learn :]
