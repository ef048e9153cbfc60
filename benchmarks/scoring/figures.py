"""From what methods say to figures: scores per case, ratios, a paired bootstrap, coverage at every level. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from scoring.cases import Case, Material, Trial
from scoring.peers import FAST, HERO
from scoring.runs import Result
from stimpute.metrics import Scores, central_z, score
from stimpute.stack import BoolArray, Float32Array

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
ENOUGH = 0.999  # of the hidden cells a method must estimate to be compared
BLOCK, SERIES = 16, 16  # cells, and steps where a stack is a single cell, that are drawn together
DRAWS, RANGE = 2000, (2.5, 97.5)
SPELLS = {"narrow": (0.87, 0.93), "wide": (0.80, 0.97)}
Float64Array = npt.NDArray[np.float64]

OURS = (HERO, FAST)


@dataclass(frozen=True)
class Entry:
    """One method on one row. ``mae`` and ``crps`` are in standard deviations of the stack."""

    method: str
    mae: float = math.nan
    crps: float = math.nan
    coverage: float = math.nan
    r: float = math.nan
    bias: float = math.nan
    n: int = 0
    not_estimated: int = 0
    levels: tuple[float, ...] = ()  # actual coverage at LEVELS
    seconds: float = math.nan
    whole: bool = True
    note: str = ""
    code: str = ""

    @property
    def comparable(self) -> bool:
        """Scored, on practically all cells that were hidden."""
        return self.n > 0 and self.n >= ENOUGH * (self.n + self.not_estimated)


@dataclass(frozen=True)
class Row:
    """All methods on one case and one pattern."""

    case: str
    kind: str
    judges: bool
    spread: float
    shape: tuple[int, int, int]
    missing: float
    hidden: int
    entries: Mapping[str, Entry]
    interval: tuple[float, float] = (math.nan, math.nan)  # of the hero's ratio, 95 %
    spared: bool = False  # a file that trains, but the weights never saw it

    def best_other(self, method: str, by: str = "mae") -> tuple[str, float]:
        """Name and figure of the best of the other methods; ('', NaN) if there is none."""
        left_out = OURS if method in OURS else (method, FAST)  # a faster setting of ours is no other method
        others = {m: getattr(e, by) for m, e in self.entries.items() if m not in left_out and e.comparable}
        others = {m: v for m, v in others.items() if v > 0}
        name = min(others, key=others.__getitem__, default="")
        return name, others.get(name, math.nan)

    def ratio(self, method: str, by: str = "mae") -> float:
        """The method's figure / that of the best other one; NaN where either is missing."""
        entry = self.entries.get(method)
        if entry is None or not entry.comparable:
            return math.nan
        return getattr(entry, by) / self.best_other(method, by)[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        name, _ = self.best_other(HERO)
        return {
            **{k: v for k, v in vars(self).items() if k not in {"entries", "interval"}},
            "ratio": plain(self.ratio(HERO)), "ratio_95": [plain(v) for v in self.interval], "best_other": name,
            "methods": {m: {k: plain(v) for k, v in vars(e).items()} for m, e in self.entries.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """One method over many rows."""

    method: str
    rows: int
    ratio: float  # geometric mean of MAE / best other
    won: float  # share of rows with a ratio of at most 1
    worst: float
    worst_at: str
    crps_ratio: float
    coverage: float  # median
    narrow: float  # share of rows whose 90 % intervals cover 87-93 %
    wide: float  # ... 80-97 %
    seconds: float
    extra: Mapping[str, Any] = field(default_factory=dict)


def make_row(
    case: Case,
    material: Material,
    kind: str,
    trials: Sequence[Trial],
    results: Mapping[str, Sequence[Result]],
) -> Row:
    """Scores of every method over the hidden cells of all seeds. ``results``: per method, one per trial, in order."""
    truth = np.concatenate([material.stack.values[t.held_out] for t in trials])
    entries = {method: _entry(method, truth, several, material.spread) for method, several in results.items()}
    row = Row(
        case.name, kind, case.judges, material.spread, material.stack.shape, float(material.stack.gap.mean()), len(truth), entries,
        spared=case.spared,
    )  # fmt: skip
    other, _ = row.best_other(HERO)
    if not other or not math.isfinite(row.ratio(HERO)):
        return row
    errors = [
        np.abs(np.concatenate([r.mean for r in results[m]]).astype(np.float64) - truth) for m in (HERO, other)
    ]
    groups = np.concatenate([clusters(t.held_out, i) for i, t in enumerate(trials)])
    return Row(**{**vars(row), "interval": ratio_interval(errors[0], errors[1], groups)})


def _entry(method: str, truth: Float32Array, results: Sequence[Result], spread: float) -> Entry:
    notes = "; ".join(dict.fromkeys(r.note for r in results if r.note))
    if not results or not all(r.done for r in results):
        return Entry(method, note=notes or "not run")
    mean = np.concatenate([r.mean for r in results])
    scale = np.concatenate([r.scale for r in results])
    s: Scores = score(truth, mean, scale if np.isfinite(scale).any() else None)
    unit = spread if spread > 0 else math.nan
    return Entry(
        method, s.mae / unit, s.crps / unit, s.coverage, s.r, s.bias / unit, s.n, s.not_estimated,
        coverages(truth, mean, scale), float(np.mean([r.seconds for r in results])), all(r.whole for r in results), notes,
        results[0].code,
    )  # fmt: skip


def coverages(truth: Float32Array, mean: Float32Array, scale: Float32Array) -> tuple[float, ...]:
    """Share of the truth inside the central Gaussian interval of each of LEVELS; empty without a scale."""
    known = np.isfinite(mean) & np.isfinite(scale) & (scale >= 0)
    if not known.any():
        return ()
    error, spread = np.abs(mean - truth)[known], scale[known]
    return tuple(float((error <= central_z(level) * spread).mean()) for level in LEVELS)


def clusters(held_out: BoolArray, origin: int) -> npt.NDArray[np.int64]:
    """A number per held-out cell, the same for cells whose errors belong together: blocks of 16 x 16 cells of one step.

    >>> len(np.unique(clusters(np.ones((2, 17, 16), dtype=bool), 0)))
    4
    """
    steps, rows, columns = np.nonzero(held_out)
    if held_out.shape[1] * held_out.shape[2] == 1:
        steps = steps // SERIES
    per_row, per_step = -(-held_out.shape[2] // BLOCK), -(-held_out.shape[1] // BLOCK)
    block = (steps * per_step + rows // BLOCK) * per_row + columns // BLOCK
    return np.asarray(block + origin * (held_out.shape[0] * per_step * per_row), dtype=np.int64)


def ratio_interval(
    own: Float64Array, other: Float64Array, groups: npt.NDArray[np.int64], seed: int = 0
) -> tuple[float, float]:
    """95 % range of sum(own) / sum(other) when the groups are drawn again with replacement, the same for both.

    >>> ratio_interval(np.full(40, 1.0), np.full(40, 2.0), np.arange(40))
    (0.5, 0.5)
    """
    drawn = ratio_draws(own, other, groups, seed)
    if not drawn.size:
        return math.nan, math.nan
    low, high = np.percentile(drawn, RANGE)
    return float(low), float(high)


def ratio_draws(
    own: Float64Array, other: Float64Array, groups: npt.NDArray[np.int64], seed: int = 0
) -> Float64Array:
    """sum(own) / sum(other) of every draw of :func:`ratio_interval`; empty with fewer than two groups."""
    both = np.isfinite(own) & np.isfinite(other)
    _, index = np.unique(groups[both], return_inverse=True)
    if not both.any() or index.max() < 1:
        return np.empty(0)
    sums = np.stack([np.bincount(index, weights=error[both]) for error in (own, other)])
    n = sums.shape[1]
    rng = np.random.default_rng(seed)
    drawn = np.stack([sums @ rng.multinomial(n, np.full(n, 1 / n)) for _ in range(DRAWS)])
    return np.asarray(drawn[:, 0] / drawn[:, 1], dtype=np.float64)


def summarise(rows: Sequence[Row], method: str) -> Summary | None:
    """The method over the rows in which it and another one were scored; None without any."""
    ratios = {f"{r.case} {r.kind}": r.ratio(method) for r in rows}
    ratios = {k: v for k, v in ratios.items() if math.isfinite(v) and v > 0}
    if not ratios:
        return None
    crps = [v for v in (r.ratio(method, "crps") for r in rows) if math.isfinite(v) and v > 0]
    entries = [r.entries[method] for r in rows if method in r.entries and r.entries[method].n]
    covered = np.array([e.coverage for e in entries if math.isfinite(e.coverage)])
    worst = max(ratios, key=ratios.__getitem__)
    within = {
        k: float(((covered >= a) & (covered <= b)).mean()) if covered.size else math.nan
        for k, (a, b) in SPELLS.items()
    }
    return Summary(
        method, len(ratios), geometric_mean(ratios.values()), sum(v <= 1 for v in ratios.values()) / len(ratios),
        ratios[worst], worst, geometric_mean(crps), float(np.median(covered)) if covered.size else math.nan,
        within["narrow"], within["wide"], float(sum(e.seconds for e in entries)),
    )  # fmt: skip


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean(log)); NaN of nothing.

    >>> round(geometric_mean([0.5, 2.0]), 12)
    1.0
    """
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def plain(value: Any) -> Any:
    """A value that JSON knows: no NaN, no tuples of numpy."""
    if isinstance(value, float):
        return None if not math.isfinite(value) else round(value, 6)
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    return value
