"""Error against compute: what steps, size and mix change, with a bootstrap over what is validated on. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scoring.figures import RANGE
from scoring.leave_out_figures import Ratio

SIZES, MIXES = ("small", "base"), ("half", "worlds")
ARCHIVES, WORLDS = "archives", "worlds"  # what is validated on
ON = (ARCHIVES, WORLDS)
NOISE = 2e-3  # as in training's own validation: below it an error is rounding
DRAWS, SEED = 2000, 0
ALIKE = 1.6  # two runs within this factor of operations count as of equal compute
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One validation.

    Parameters
    ----------
    steps, flop : done by then; operations of the network, forward and backward.
    network_seconds, batch_seconds : CPU, by then: steps of the network; making examples and their candidates.
    errors : mean absolute error of each example, in its standard deviations.
    """

    steps: int
    flop: int
    network_seconds: float
    batch_seconds: float
    errors: list[float]


@dataclass(frozen=True)
class Curve:
    """One training run.

    Parameters
    ----------
    size, mix, steps, seed : what was run.
    parameters : of the network.
    prior, best : errors of each example: of the blend that the network starts from, of its best candidate.
    groups : of each example, the archive it is from or ``worlds``.
    points : in the order of steps; the last is the end of the budget.
    code : state of the package's code when it began.
    """

    size: str
    mix: str
    steps: int
    seed: int
    parameters: int
    prior: list[float]
    best: list[float]
    groups: list[str]
    points: list[Point]
    code: str = ""

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Curve:
        """From what a run wrote."""
        return cls(**{**told, "points": [Point(**p) for p in told["points"]]})

    @property
    def end(self) -> Point:
        """Where the budget was used."""
        return self.points[-1]


# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Effect:
    """A factor on the error, geometric mean over examples, with the factor in every draw of the bootstrap."""

    value: float = math.nan
    drawn: Float64Array | None = None

    @property
    def ratio(self) -> Ratio:
        """With its 95 % range."""
        if self.drawn is None:
            return Ratio(self.value)
        low, high = np.percentile(self.drawn, RANGE)
        return Ratio(self.value, float(low), float(high))

    @property
    def helps(self) -> bool:
        """For certain: the whole range is below 1."""
        return bool(self.ratio.high < 1)

    @property
    def harms(self) -> bool:
        """For certain: the whole range is above 1."""
        return bool(self.ratio.low > 1)

    def over(self, other: Effect) -> Effect:
        """This factor / another one, draw by draw."""
        if self.drawn is None or other.drawn is None:
            return Effect()
        return Effect(self.value / other.value, self.drawn / other.drawn)


def combined(curve: Curve, parts: Iterable[tuple[Sequence[float], float]], on: str) -> Effect:
    """The product of errors to given powers, geometric mean over the examples of one kind.

    ``curve`` tells the groups. Drawn are files (worlds: one by one), since examples of one file are alike.
    """
    chosen = np.array([(name == WORLDS) == (on == WORLDS) for name in curve.groups])
    total = np.zeros(int(chosen.sum()))
    for errors, weight in parts:
        total += weight * np.log(np.asarray(errors, dtype=np.float64)[chosen] + NOISE)
    names = [name for name, here in zip(curve.groups, chosen, strict=True) if here]
    return drawn_again(
        total, [f"{name} {i}" if name == WORLDS else file_of(name) for i, name in enumerate(names)]
    )


def drawn_again(logs: Float64Array, groups: Sequence[str]) -> Effect:
    """The geometric mean of factors given by their logarithms, and that of every draw of whole groups with replacement.

    No draws from a single group; NaN of nothing.

    >>> print(drawn_again(np.log([2.0, 2.0, 0.5]), ["a", "a", "b"]).ratio)
    1.260 (0.500-2.000)
    """
    if not logs.size:
        return Effect()
    _, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, logs), np.bincount(index)
    several = len(counts)
    weights = np.random.default_rng(SEED).multinomial(several, np.full(several, 1 / several), size=DRAWS)
    drawn = np.exp((weights @ sums) / (weights @ counts)) if several > 1 else None
    return Effect(float(np.exp(logs.mean())), drawn)


def file_of(archive: str) -> str:
    """The file that an archive was packed from.

    >>> file_of("mcd43a4_slovenia-band1-0.npz")
    'mcd43a4_slovenia'
    """
    return archive.removesuffix(".npz").rsplit("-", 2)[0]


def against(curve: Curve, reference: Sequence[float], on: str, point: Point | None = None) -> Effect:
    """The error at a point (the end) of a run / a reference's."""
    return combined(curve, [((point or curve.end).errors, 1.0), (reference, -1.0)], on)


def by_steps(curves: Sequence[Curve], on: str) -> Effect:
    """Factor per doubling of compute where it is spent on steps: least squares through the ends of runs of each size and mix.

    NaN where no size and mix has two budgets.
    """
    lines = [line for line in _lines(curves) if len(line) > 1]
    parts = []
    for line in lines:
        x = np.log2([c.end.flop for c in line])
        slopes = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        parts += [(c.end.errors, float(w) / len(lines)) for c, w in zip(line, slopes, strict=True)]
    return combined(lines[0][0], parts, on) if lines else Effect()


def by_size(curves: Sequence[Curve], on: str, per_doubling: bool = True) -> Effect:
    """Factor of base against small at equal steps, at the largest budget of each mix; per doubling of compute or as it is."""
    pairs = _pairs(curves, "size", SIZES)
    parts = []
    for small, base in pairs:
        doublings = math.log2(base.end.flop / small.end.flop) if per_doubling else 1.0
        weight = 1 / (doublings * len(pairs))
        parts += [(base.end.errors, weight), (small.end.errors, -weight)]
    return combined(pairs[0][0], parts, on) if pairs else Effect()


def by_mix(curves: Sequence[Curve], on: str) -> Effect:
    """Factor of half archives against worlds only, at equal steps and size, at the largest budget of each size."""
    pairs = _pairs(curves, "mix", MIXES)
    parts = []
    for half, worlds in pairs:
        parts += [(half.end.errors, 1 / len(pairs)), (worlds.end.errors, -1 / len(pairs))]
    return combined(pairs[0][0], parts, on) if pairs else Effect()


def at_equal_compute(curves: Sequence[Curve]) -> tuple[Curve, Curve] | None:
    """A small and a base run of one mix whose operations are alike, the ones with most of them; None if there are none."""
    pairs = [
        (small, base)
        for small in curves
        for base in curves
        if (small.size, base.size) == SIZES and small.mix == base.mix
        and max(small.end.flop, base.end.flop) <= ALIKE * min(small.end.flop, base.end.flop)
    ]  # fmt: skip
    return max(pairs, key=lambda pair: pair[0].end.flop + pair[1].end.flop, default=None)


def _lines(curves: Sequence[Curve]) -> list[list[Curve]]:
    found = [
        sorted((c for c in curves if (c.size, c.mix) == (s, m)), key=lambda c: c.steps)
        for m in MIXES
        for s in SIZES
    ]
    return [line for line in found if line]


def _pairs(curves: Sequence[Curve], what: str, values: tuple[str, str]) -> list[tuple[Curve, Curve]]:
    """Runs that differ in one thing only, at the largest budget that both have."""
    other = "mix" if what == "size" else "size"
    found: dict[str, tuple[Curve, Curve]] = {}
    for first in sorted(curves, key=lambda c: c.steps):
        for second in curves:
            same = getattr(first, other) == getattr(second, other) and first.steps == second.steps
            if same and (getattr(first, what), getattr(second, what)) == values:
                found[getattr(first, other)] = (first, second)
    return list(found.values())
