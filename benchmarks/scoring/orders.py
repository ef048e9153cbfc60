"""Does one table rank its rows as another one does? Pure arithmetic on figures; knows no methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["same", "reversed", "undecided"]


@dataclass(frozen=True)
class Pair:
    """Two rows of which a published table ranks ``better`` before ``worse``, and what the figures measured here say."""

    better: str
    worse: str
    verdict: Verdict


def pairs(published: Mapping[str, float], measured: Mapping[str, Sequence[float]]) -> list[Pair]:
    """Every pair of rows that both tables hold; published ties are left out.

    Measured rows agree (or disagree) where they do in every seed; seed is compared with seed.

    >>> found = pairs({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": [5, 5], "b": [6, 4], "c": [4, 4.5]})
    >>> [(p.better, p.worse, p.verdict) for p in found]
    [('a', 'b', 'undecided'), ('a', 'c', 'reversed'), ('b', 'c', 'undecided')]
    """
    both = sorted((name for name in published if measured.get(name)), key=lambda name: published[name])
    return [
        Pair(a, b, verdict(measured[a], measured[b])) for a, b in combinations(both, 2) if published[a] < published[b]
    ]  # fmt: skip


def verdict(better: Sequence[float], worse: Sequence[float]) -> Verdict:
    """Whether the first row is lower in every seed, higher in every seed, or now one and now the other.

    >>> verdict([1.0, 2.0], [1.5, 2.5]), verdict([2.0], [1.0]), verdict([1.0, 1.0], [1.0, 2.0])
    ('same', 'reversed', 'undecided')
    """
    differences = [b - a for a, b in zip(better, worse, strict=True)]
    if all(d > 0 for d in differences):
        return "same"
    return "reversed" if all(d < 0 for d in differences) else "undecided"


def lowest(figures: Mapping[str, Sequence[float]]) -> str:
    """The row with the lowest mean; '' of nothing.

    >>> lowest({"a": [1.0, 3.0], "b": [1.5, 1.5]})
    'b'
    """
    return min((n for n in figures if figures[n]), key=lambda n: fmean(figures[n]), default="")


def factors(figures: Mapping[str, Sequence[float]], whole: str, parts: Iterable[str]) -> dict[str, float]:
    """How many times larger the mean of each part's row is than that of the whole's.

    >>> factors({"full": [1.0, 3.0], "less": [4.0, 4.0]}, "full", ["less", "absent"])
    {'less': 2.0}
    """
    if not figures.get(whole):
        return {}
    return {p: fmean(figures[p]) / fmean(figures[whole]) for p in parts if figures.get(p)}


def spread(figures: Sequence[float]) -> float:
    """Standard deviation over the seeds; NaN of one.

    >>> round(spread([1.0, 3.0]), 3)
    1.414
    """
    return stdev(figures) if len(figures) > 1 else math.nan
