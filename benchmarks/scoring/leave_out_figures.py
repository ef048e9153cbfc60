"""Errors on files that weights saw or did not see, and their ratios with a paired bootstrap. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import numpy.typing as npt

from scoring.cases import Material, Trial
from scoring.figures import ENOUGH, RANGE, clusters, geometric_mean, ratio_draws
from scoring.runs import Result

NEVER, SAW, SHIPPED, PRIOR, BEST = "never", "saw", "shipped", "prior", "best other"
AGAINST = (SAW, SHIPPED, PRIOR, BEST)
OTHER_RUN = "saw, without "  # and the data set that another run was trained without
MARGIN = 1.05  # a ratio up to which nothing much is owed to having seen a file
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """MAE of one method / MAE of another, with its 95 % range."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "–"
        around = f" ({self.low:.3f}-{self.high:.3f})" if math.isfinite(self.low) else ""
        return f"{self.value:.3f}{around}"


@dataclass(frozen=True, eq=False)
class Row:
    """One data set under one pattern, over all its crops.

    Parameters
    ----------
    hidden : cells.
    mae : per method, in standard deviations of each crop. ``NEVER`` and ``SAW`` are the weights trained without and with the data
        set, ``OTHER_RUN`` those trained without another one (they saw it), ``SHIPPED`` and ``PRIOR`` what they say; others by name.
    best : name of the best of the other methods.
    draws : per element of ``AGAINST``, the ratio MAE of ``NEVER`` / its MAE in every draw.
    """

    dataset: str
    kind: str
    hidden: int
    mae: Mapping[str, float]
    best: str
    draws: Mapping[str, Float64Array] = field(default_factory=dict)

    @property
    def others(self) -> list[float]:
        """MAE of weights that saw the data set and were trained without another one."""
        return [v for name, v in self.mae.items() if name.startswith(OTHER_RUN)]

    @property
    def sightings(self) -> list[float]:
        """MAE of all weights that saw the data set."""
        return [v for v in (self.mae.get(SAW, math.nan), *self.others) if math.isfinite(v)]

    def error(self, name: str) -> float:
        """MAE of a method or of ``BEST``."""
        return self.mae.get(self.best if name == BEST else name, math.nan)

    def ratio(self, against: str) -> Ratio:
        """MAE of the weights that never saw the data set / that of another."""
        value = self.error(NEVER) / self.error(against)
        drawn = self.draws.get(against, np.empty(0))
        if not drawn.size:
            return Ratio(value)
        low, high = np.percentile(drawn, RANGE)
        return Ratio(value, float(low), float(high))


@dataclass(frozen=True, eq=False)
class Asked:
    """What was hidden in one crop."""

    material: Material
    trial: Trial


def make_row(
    dataset: str, kind: str, asked: Sequence[Asked], answers: Mapping[str, Sequence[Result]], seed: int = 0
) -> Row:
    """Errors over all crops. ``answers``: per method, one result per entry of ``asked``, in order; ``seed`` of the bootstrap.

    A method that failed somewhere, or says nothing on more than 0.1 % of the hidden cells, has no error.
    """
    errors = {name: _errors(asked, several) for name, several in answers.items()}
    mae = {name: float(np.nanmean(e)) for name, e in errors.items() if _comparable(e)}
    plain = {n: v for n, v in mae.items() if n not in {NEVER, SAW, SHIPPED, PRIOR} and not n.startswith(OTHER_RUN)}  # fmt: skip
    best = min(plain, key=plain.__getitem__, default="")
    groups = _groups(asked)
    compared = {a: best if a == BEST else a for a in AGAINST}
    draws = {
        against: ratio_draws(errors[NEVER], errors[name], groups, seed)
        for against, name in compared.items()
        if name in mae and NEVER in mae
    }
    return Row(dataset, kind, len(groups), mae, best, draws)


def _errors(asked: Sequence[Asked], results: Sequence[Result]) -> Float64Array:
    """|said - truth| in standard deviations of the crop, of all hidden cells; empty where a run failed."""
    if not results or not all(r.done for r in results):
        return np.empty(0)
    each = []
    for one, result in zip(asked, results, strict=True):
        truth = one.material.stack.values[one.trial.held_out].astype(np.float64)
        each.append(np.abs(result.mean - truth) / (one.material.spread or math.nan))
    return np.concatenate(each)


def _comparable(errors: Float64Array) -> bool:
    return errors.size > 0 and float(np.isfinite(errors).mean()) >= ENOUGH


def _groups(asked: Sequence[Asked]) -> npt.NDArray[np.int64]:
    """A number per hidden cell, the same for cells of one block of one step of one crop."""
    parts, first = [], 0
    for one in asked:
        part = clusters(one.trial.held_out, 0) + first
        first = int(part.max(initial=first)) + 1
        parts.append(part)
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def pooled(rows: Sequence[Row], against: str) -> Ratio:
    """Geometric mean over rows of the ratio, its range from the rows' draws (independent of each other).

    >>> rows = [Row("a", k, 9, {NEVER: m, SAW: 1.0}, "", {SAW: np.full(9, m)}) for k, m in (("gap", 2.0), ("pixel", 0.5))]
    >>> pooled(rows, SAW)
    Ratio(value=1.0, low=1.0, high=1.0)
    """
    known = [r for r in rows if math.isfinite(r.ratio(against).value)]
    if not known:
        return Ratio()
    value = geometric_mean([r.ratio(against).value for r in known])
    drawn = [r.draws[against] for r in known if r.draws.get(against, np.empty(0)).size]
    if len(drawn) < len(known):
        return Ratio(value)
    low, high = np.percentile(np.exp(np.mean(np.log(drawn), axis=0)), RANGE)
    return Ratio(value, float(low), float(high))


def seen_against_prior(rows: Sequence[Row]) -> Ratio:
    """Geometric mean over rows of MAE of the weights that saw the data set / MAE of the prior: the skill there is to explain."""
    known = [r for r in rows if math.isfinite(r.error(SAW) / r.error(PRIOR))]
    value = geometric_mean([r.error(SAW) / r.error(PRIOR) for r in known])
    drawn = _log_draws(known)
    if drawn is None:
        return Ratio(value)
    low, high = np.percentile(np.exp(drawn[1]), RANGE)
    return Ratio(value, float(low), float(high))


def kept(rows: Sequence[Row]) -> Ratio:
    """The part of the gain on the prior that weights keep which never saw the data set: log(never / prior) / log(saw / prior).

    NaN where weights that saw it gain nothing certain.

    >>> draws = {SAW: np.full(9, 0.9 / 0.81), PRIOR: np.full(9, 0.9)}
    >>> kept([Row("a", "gap", 9, {NEVER: 0.9, SAW: 0.81, PRIOR: 1.0}, "", draws)])
    Ratio(value=0.5, low=0.5, high=0.5)
    """
    if not seen_against_prior(rows).high < 1:
        return Ratio()
    known = [r for r in rows if math.isfinite(r.error(NEVER) / r.error(PRIOR))]
    never = geometric_mean([r.error(NEVER) / r.error(PRIOR) for r in known])
    drawn = _log_draws(known)
    if drawn is None or not never > 0:
        return Ratio()
    low, high = np.percentile(drawn[0] / drawn[1], RANGE)
    value = math.log(never) / math.log(seen_against_prior(rows).value)
    return Ratio(*(round(float(v), 9) for v in (value, low, high)))


def _log_draws(rows: Sequence[Row]) -> tuple[Float64Array, Float64Array] | None:
    """Mean over rows of log(never / prior) and of log(saw / prior) in every draw, the same draw for both."""
    if not rows or not all(r.draws.get(a, np.empty(0)).size for r in rows for a in (SAW, PRIOR)):
        return None
    never = np.mean([np.log(r.draws[PRIOR]) for r in rows], axis=0)
    return never, never - np.mean([np.log(r.draws[SAW]) for r in rows], axis=0)


def scatter(rows: Sequence[Row]) -> float:
    """How much weights that all saw a data set differ: relative standard deviation of their MAE, the root mean square over rows.

    NaN where only one saw it.

    >>> row = Row("a", "gap", 9, {SAW: 1.0, OTHER_RUN + "b": 1.1, NEVER: 2.0}, "")
    >>> round(scatter([row]), 3)
    0.067
    """
    variances = []
    for row in rows:
        if len(row.sightings) > 1:
            relative = np.array(row.sightings) / fmean(row.sightings)
            variances.append(float(relative.var(ddof=1)))
    return math.sqrt(fmean(variances)) if variances else math.nan


def within(rows: Sequence[Row]) -> tuple[int, int]:
    """In how many rows the weights that never saw the data set err no more than the worst that did, and of how many rows."""
    known = [r for r in rows if len(r.sightings) > 1 and math.isfinite(r.error(NEVER))]
    return sum(r.error(NEVER) <= max(r.sightings) for r in known), len(known)
