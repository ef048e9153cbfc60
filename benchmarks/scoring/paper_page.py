"""The page of the paper's study: tables, what they say, and the picture. Every sentence follows from figures handed in.

Knows figures, neither data nor networks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from scoring.figures import plain
from scoring.orders import Pair, factors, lowest, pairs, spread
from scoring.trained import Course, Row
from scoring.worlds import FLIPPED, HIDDEN, TURN, TWICE
from stimpute.metrics import score
from stimpute.report.canvas import ACCENT, INK, SECOND, picture
from stimpute.stack import Float32Array

FULL = "swmsa"
PARTS = ("no_space", "no_time", "no_covariates", "dynamic_only", "static_only")
ATTENTION = ("msa", "no_space", "no_time")
COVARIATES, DYNAMIC, STATIC = "no_covariates", "dynamic_only", "static_only"
BLOCK, RANDOM = "frames", "pixel"
FALLING = 0.02  # of the error, in the last third of the budget: not done learning
LISTED = 6  # pairs that a sentence names
COLOURS = {"trained": ACCENT, "pretrained": SECOND, "simple": "0.55"}


@dataclass(frozen=True)
class Errors:
    """Scores of one row on one sort of hidden cells, from one seed."""

    mae: float
    rmse: float
    mre: float
    r2: float
    n: int
    not_estimated: int
    seconds: float
    code: str = ""

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.rmse**2


def errors_of(truth: Float32Array, said: Float32Array, seconds: float, code: str = "") -> Errors:
    """All scores; R2 is 1 - sum of squared errors / sum of squares about the mean of the truth.

    >>> e = errors_of(np.float32([1, 2, 3]), np.float32([1, 2, 4]), 0.0)
    >>> round(e.mae, 3), round(e.mre, 3), round(e.r2, 3)
    (0.333, 0.167, 0.5)
    """
    s = score(truth, said)
    known = np.isfinite(said) & np.isfinite(truth)
    variance = float(truth[known].var(dtype=np.float64)) if known.any() else 0.0
    r2 = 1 - s.rmse**2 / variance if variance > 0 else math.nan
    return Errors(s.mae, s.rmse, s.mre, r2, s.n, s.not_estimated, seconds, code)


@dataclass(frozen=True)
class Findings:
    """Everything that was measured. ``errors``: study -> hidden -> row -> one per seed, in the order of ``seeds``."""

    rows: Sequence[Row]
    seeds: Sequence[int]
    budget: str
    errors: Mapping[str, Mapping[str, Mapping[str, Sequence[Errors]]]]
    courses: Mapping[str, Mapping[str, Sequence[Course]]]  # study -> row -> one per seed
    about: Mapping[str, Any]
    partial: Sequence[str] = field(default_factory=tuple)

    def label(self, name: str) -> str:
        """What a row is called."""
        return next(row.label for row in self.rows if row.name == name)

    def figures(self, study: str, hidden: str, by: str = "mae") -> dict[str, list[float]]:
        """One figure per row and seed; rows that have all seeds."""
        found = self.errors.get(study, {}).get(hidden, {})
        return {
            name: [getattr(e, by) for e in several] for name, several in found.items() if len(several) == len(self.seeds)
        }  # fmt: skip

    def published(self, table: str, hidden: str) -> dict[str, float]:
        """A column of one of the paper's tables."""
        return {row.name: row.paper[table][hidden] for row in self.rows if hidden in row.paper.get(table, {})}

    def pairs(self, study: str, hidden: str, by: str = "mae") -> list[Pair]:
        """Rows that the paper ranks, each table of the paper for itself."""
        tables = ("test", "validation") if study == "soil_moisture" else ("digits",)
        measured = self.figures(study, hidden, by)
        return [pair for table in tables for pair in pairs(self.published(table, hidden), measured)]


# --- the files --------------------------------------------------------------------------------------------------------


def write_json(path: Path, findings: Findings) -> None:
    """Every figure of the page."""
    document = {
        "about": {**findings.about, "seeds": list(findings.seeds), "budget": findings.budget, "partial": list(findings.partial)},
        "rows": [asdict(row) for row in findings.rows],
        "errors": {
            study: {
                hidden: {
                    name: [{k: plain(v) for k, v in {**vars(e), "mse": e.mse}.items()} for e in several]
                    for name, several in rows.items()
                }
                for hidden, rows in kinds.items()
            }
            for study, kinds in findings.errors.items()
        },
        "training": {
            study: {
                name: [
                    {**{k: plain(v) for k, v in vars(c).items() if k != "errors"},
                     "validation": [[round(a, 3), plain(b)] for a, b in c.errors], "still_falling": plain(c.still_falling)}
                    for c in several
                ]
                for name, several in rows.items()
            }
            for study, rows in findings.courses.items()
        },
        "order": {
            study: {hidden: [vars(p) for p in findings.pairs(study, hidden, _by(study))] for hidden in findings.errors[study]}
            for study in findings.errors
        },
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _by(study: str) -> str:
    """What the paper reports."""
    return "mse" if study == "digits" else "mae"


def write_page(path: Path, findings: Findings, picture_name: str) -> None:
    """The page."""
    parts = [_head(findings), "## What it shows\n", verdict(findings), f"![The errors]({picture_name})\n"]
    if findings.errors.get("soil_moisture"):
        parts += [
            "## Soil moisture\n",
            _soil_table(findings),
            "## What each part brings\n",
            _parts_table(findings),
        ]
    if findings.errors.get("digits"):
        parts += ["## Healing MNIST\n", _digits_table(findings)]
    if findings.courses:
        parts += ["## The training\n", _training_table(findings)]
    parts += ["## What differs from the paper\n", _differences(findings)]
    path.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def _head(findings: Findings) -> str:
    about = findings.about
    codes = {
        e.code
        for kinds in findings.errors.values()
        for rows in kinds.values()
        for s in rows.values()
        for e in s
    }
    codes |= {c.code for rows in findings.courses.values() for s in rows.values() for c in s}
    lines = [
        "# The paper's study\n",
        "The configuration of the ST-Transformer's paper (arXiv 2312.00963) and its ablations, trained from nothing on equal budgets,",
        "beside the pretrained model named below, which has never seen these stacks, and simple methods. The paper's soil moisture cannot be had",
        "here; a simulation and digits take its place, so that only the order of rows and the size of effects compare with the",
        "paper's figures, not the figures themselves. Written by:\n",
        f"```\n{about['command']}\n```\n",
        f"- Each network: {findings.budget} on {about['device']}; seeds {', '.join(map(str, findings.seeds))}"
        " (of weights, examples, gaps and hidden cells).",
        f"- Pretrained model: `{about['model']}`, sha256 `{about['sha256'][:16]}…`; training: {about['training']}.",
        f"- Software: {', '.join(f'{k} {v}' for k, v in about['versions'].items())}.",
    ]
    if len(codes - {""}) > 1:
        lines.append(
            f"- The rows come from {len(codes - {''})} states of the code: the run was interrupted and went on."
        )
    if findings.partial:
        lines.append(f"- **What was run:** {'; '.join(findings.partial)}.")
    return "\n".join(lines) + "\n"


# --- what the figures say ---------------------------------------------------------------------------------------------


def verdict(findings: Findings) -> str:
    """Paragraphs that follow from the figures alone."""
    said = [" ".join(_order(findings, study, hidden)) for study, hidden in _asked(findings)]
    said += [
        " ".join(_on_covariates(findings)),
        " ".join(_on_pretrained(findings)),
        " ".join(_on_training(findings)),
    ]
    return "\n\n".join(text for text in said if text) + "\n"


def _asked(findings: Findings) -> Iterator[tuple[str, str]]:
    for study in ("soil_moisture", "digits"):
        for hidden in findings.errors.get(study, {}):
            if findings.pairs(study, hidden, _by(study)):
                yield study, hidden


def _order(findings: Findings, study: str, hidden: str) -> Iterator[str]:
    """Whether the rows rank as the paper's do under one sort of gaps, and which part is missed most."""
    by = _by(study)
    found = findings.pairs(study, hidden, by)
    named = {n for p in found for n in (p.better, p.worse)}
    ours = {n: v for n, v in findings.figures(study, hidden, by).items() if n in named}
    test = findings.published("digits" if study == "digits" else "test", hidden)
    best = lowest(ours)
    title = f"{'Soil moisture' if study == 'soil_moisture' else 'Healing MNIST'}, {HIDDEN[study][hidden]}"
    first = min((n for n in test if n in ours), key=lambda n: test[n], default="")
    compared = ""
    if first:
        compared = ", as in the paper" if best == first else f"; in the paper {findings.label(first)} has"
    yield f"**{title}.** Of the rows that the paper has too, {findings.label(best)} has the lowest {by.upper()} ({_mean(ours[best])}){compared}."
    yield _agreement(findings, found)
    if study == "soil_moisture":
        yield from _missed_most(findings, hidden)


def _agreement(findings: Findings, found: Sequence[Pair]) -> str:
    every = "" if len(findings.seeds) == 1 else " in every seed"
    same, reverse, open_ = ([p for p in found if p.verdict == v] for v in ("same", "reversed", "undecided"))

    def listed(chosen: Sequence[Pair]) -> str:
        named = [f"{findings.label(p.better)} before {findings.label(p.worse)}" for p in chosen[:LISTED]]
        return "; ".join(named) + (f"; and {len(chosen) - LISTED} more" if len(chosen) > LISTED else "")

    text = (
        f"Of {len(found)} pairs that one table of the paper ranks, {len(same)} rank the same way here{every}"
    )
    text += f", {len(reverse)} the other way{every}" + (
        f" (the paper has {listed(reverse)})" if reverse else ""
    )
    if open_:
        text += f", and {len(open_)} differ from seed to seed ({listed(open_)})"
    return text + "."


def _missed_most(findings: Findings, hidden: str) -> Iterator[str]:
    """What is lost by other or less attention, and which ablation costs most, beside the paper."""
    figures = findings.figures("soil_moisture", hidden)
    ours, paper = factors(figures, FULL, (*ATTENTION, *PARTS)), _paper_factors(findings, hidden)
    listed = [
        ", ".join(f"{findings.label(n)} {found[n]:.2f}" for n in sorted(ATTENTION, key=found.__getitem__))
        for found in (ours, paper)
        if all(n in found for n in ATTENTION)
    ]
    if len(listed) == 2:
        yield f"Times the error of {findings.label(FULL)}: {listed[0]} (the paper: {listed[1]})."
    parts = {n: v for n, v in ours.items() if n in PARTS}
    if len(parts) < 2:
        return
    most, theirs = max(parts, key=parts.__getitem__), max(PARTS, key=lambda n: paper.get(n, 0.0))
    if parts[most] > 1:
        yield f"Of the ablations, *{findings.label(most)}* costs most here (x {parts[most]:.2f});"
    else:
        yield f"No ablation costs anything here (*{findings.label(most)}* x {parts[most]:.2f});"
    yield f"in the paper {'too' if most == theirs and parts[most] > 1 else f'*{findings.label(theirs)}* does'} (x {paper[theirs]:.2f})."


def _paper_factors(findings: Findings, hidden: str) -> dict[str, float]:
    """Each table for itself."""
    found = {}
    for table in ("test", "validation"):
        published = {k: [v] for k, v in findings.published(table, hidden).items()}
        found |= factors(published, FULL, (*ATTENTION, *PARTS))
    return found


def _on_covariates(findings: Findings) -> Iterator[str]:
    """Where they matter most."""
    kinds = (BLOCK, RANDOM)
    ours = {
        h: factors(findings.figures("soil_moisture", h), FULL, PARTS).get(COVARIATES, math.nan) for h in kinds
    }
    paper = {h: _paper_factors(findings, h).get(COVARIATES, math.nan) for h in kinds}
    if not all(math.isfinite(v) for v in (*ours.values(), *paper.values())):
        return
    names = HIDDEN["soil_moisture"]
    most, theirs = max(ours, key=ours.__getitem__), max(paper, key=paper.__getitem__)
    yield f"**Covariates.** Without them the error of {findings.label(FULL)} is {ours[BLOCK]:.2f} times as large where {names[BLOCK]} are"
    yield f"hidden and {ours[RANDOM]:.2f} times where {names[RANDOM]} are (the paper: {paper[BLOCK]:.2f} and {paper[RANDOM]:.2f}):"
    if ours[most] <= 1:
        yield f"here they brought nothing; in the paper they matter most for {names[theirs]}."
    else:
        yield f"they matter most for {names[most]}, {'as' if most == theirs else f'not for {names[theirs]} as'} in the paper."
    parts = findings.figures("soil_moisture", BLOCK)
    theirs_alone = findings.published("validation", BLOCK)
    if parts.get(DYNAMIC) and parts.get(STATIC):
        better, other = sorted((DYNAMIC, STATIC), key=lambda n: fmean(parts[n]))
        agrees = theirs_alone[better] < theirs_alone[other]
        yield f"Where {names[BLOCK]} are hidden, *{findings.label(better)}* does better ({_mean(parts[better])}) than"
        yield f"*{findings.label(other)}* ({_mean(parts[other])}), {'as' if agrees else 'other than'} in the paper."


def _on_pretrained(findings: Findings) -> Iterator[str]:
    """The pretrained model beside the best of what was trained and of what is simple."""
    kinds = {row.name: row.kind for row in findings.rows}
    told = []
    for study in findings.errors:
        for hidden in findings.errors[study]:
            figures = findings.figures(study, hidden, _by(study))
            best = {k: lowest({n: v for n, v in figures.items() if kinds[n] == k}) for k in COLOURS}
            if all(best.values()):
                own = fmean(figures[best["pretrained"]])
                trained, simple = (own / fmean(figures[best[k]]) for k in ("trained", "simple"))
                told.append(
                    f"{HIDDEN[study][hidden]} ({'soil moisture' if study == 'soil_moisture' else 'digits'}):"
                    f" {trained:.2f} of the best trained network's error ({findings.label(best['trained'])}),"
                    f" {simple:.2f} of the best simple method's ({findings.label(best['simple'])})"
                )
    if told:
        yield f"**The pretrained model, zero-shot.** {'; '.join(told)}."


def _on_training(findings: Findings) -> Iterator[str]:
    """How unequal the networks' budgets turned out, and whether they were done."""
    several = [c for rows in findings.courses.values() for s in rows.values() for c in s]
    if not several:
        return
    steps = [c.steps for c in several]
    yield f"**The budget.** On {findings.budget} the networks made between {min(steps):,} and {max(steps):,} steps"
    uneven = _uneven(findings)
    yield (
        f"({uneven} was far slower in one seed than in another: the machine was busy)." if uneven else "each."
    )
    known = [c for c in several if math.isfinite(c.still_falling)]
    if not known:
        return
    falling = [c for c in known if c.still_falling > FALLING]
    yield f"In the last third of its time the validation error of {len(falling)} of {len(known)} networks still fell by more"
    yield f"than {FALLING:.0%} (median over all: {np.median([c.still_falling for c in known]):.1%});"
    done = len(falling) <= len(known) / 2
    yield (
        "most no longer improved." if done else "more time would change the figures, and perhaps their order."
    )


def _uneven(findings: Findings) -> str:
    """Networks that made fewer than half as many steps in one seed as in another."""
    return ", ".join(
        findings.label(name)
        for rows in findings.courses.values()
        for name, several in rows.items()
        if min(c.steps for c in several) < 0.5 * max(c.steps for c in several)
    )


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(rows + ["| " + " | ".join(line) + " |" for line in lines]) + "\n"


def _mean(figures: Sequence[float], digits: int = 4) -> str:
    """Mean, and standard deviation over the seeds where there are several."""
    if not figures or not all(math.isfinite(f) for f in figures):
        return "–"
    around = f" ± {spread(figures):.{digits}f}" if len(figures) > 1 else ""
    return f"{fmean(figures):.{digits}f}{around}"


def _column(findings: Findings, study: str, hidden: str, by: str, digits: int = 4) -> dict[str, str]:
    """The figures of one column as text, the lowest (of R2 the highest) in bold."""
    figures = findings.figures(study, hidden, by)
    sign = -1 if by == "r2" else 1
    best = lowest({n: [sign * f for f in v] for n, v in figures.items() if all(map(math.isfinite, v))})
    return {n: f"**{_mean(v, digits)}**" if n == best else _mean(v, digits) for n, v in figures.items()}


def _shown(findings: Findings, study: str) -> list[Row]:
    found = findings.errors.get(study, {})
    return [row for row in findings.rows if any(row.name in rows for rows in found.values())]


def _soil_table(findings: Findings) -> str:
    head, columns = [""], []
    for hidden in (RANDOM, BLOCK):
        for by, digits in (("mae", 4), ("rmse", 4), ("mre", 3), ("r2", 3)):
            head.append(f"{HIDDEN['soil_moisture'][hidden]}: {by.upper()}" if by == "mae" else by.upper())
            columns.append(_column(findings, "soil_moisture", hidden, by, digits))
    head += [f"paper, MAE, {HIDDEN['soil_moisture'][h]}" for h in (RANDOM, BLOCK)]
    for hidden in (RANDOM, BLOCK):
        columns.append({n: f"{v:.4f}" for n, v in findings.published("test", hidden).items()})
    whole = [row for row in _shown(findings, "soil_moisture") if row.name not in PARTS]
    lines = [[row.label, *(column.get(row.name, "–") for column in columns)] for row in whole]
    return (
        "A fifth of what was observed in the second year is hidden: cells at random, or whole days. MAE and RMSE in m3 m-3, MRE ="
        "\nsum|e| / sum|y|, R2 on the hidden cells; mean ± standard deviation over the seeds; the best in bold.\n\n"
        f"{_table(head, lines)}"
    )


def _parts_table(findings: Findings) -> str:
    head, columns = [""], []
    for hidden in (RANDOM, BLOCK):
        name = HIDDEN["soil_moisture"][hidden]
        figures = findings.figures("soil_moisture", hidden)
        head += [f"{name}: MAE", "x full"]
        columns += [
            {n: _mean(v) for n, v in figures.items()},
            _ratios(factors(figures, FULL, (FULL, *PARTS))),
        ]
    for hidden in (RANDOM, BLOCK):
        published = findings.published("validation", hidden)
        head += [f"paper, {HIDDEN['soil_moisture'][hidden]}", "x full"]
        several = {n: [v] for n, v in published.items()}
        columns += [
            {n: f"{v:.4f}" for n, v in published.items()},
            _ratios(factors(several, FULL, (FULL, *PARTS))),
        ]
    shown = [row for row in _shown(findings, "soil_moisture") if row.name in (FULL, *PARTS)]
    lines = [
        [
            f"full: {row.label}" if row.name == FULL else row.label,
            *(column.get(row.name, "–") for column in columns),
        ]
        for row in shown
    ]
    note = "*x full*: times the error of the full configuration. The paper's ablations are on its validation years.\n\n"
    return note + _table(head, lines)


def _ratios(found: Mapping[str, float]) -> dict[str, str]:
    return {n: f"{v:.2f}" for n, v in found.items()}


def _digits_table(findings: Findings) -> str:
    head, columns = [""], []
    for hidden, name in HIDDEN["digits"].items():
        for by in ("mse", "mae"):
            head.append(f"{name}: {by.upper()}" if by == "mse" else by.upper())
            columns.append(_column(findings, "digits", hidden, by, 3))
    for hidden in ("random", "value"):
        head.append(f"paper, MSE, {HIDDEN['digits'][hidden]}")
        columns.append({n: f"{v:.3f}" for n, v in findings.published("digits", hidden).items()})
    lines = [
        [row.label, *(column.get(row.name, "–") for column in columns)] for row in _shown(findings, "digits")
    ]
    note = (
        "Half of the cells of each sequence are missing: at random, white cells twice as likely as black ones, or at random with a part of\n"
        "the visible cells flipped. Scored on all missing cells; black is 0, white is 1.\n\n"
    )
    return note + _table(head, lines)


def _training_table(findings: Findings) -> str:
    lines = []
    for study, rows in findings.courses.items():
        for name, several in rows.items():
            lines.append([
                "soil moisture" if study == "soil_moisture" else "digits", findings.label(name),
                f"{several[0].parameters:,}", f"{fmean(c.steps for c in several):,.0f}", f"{fmean(c.minutes for c in several):.1f}",
                _mean([min(mae for _, mae in c.errors) for c in several], 3) if all(c.errors for c in several) else "–",
                _percent([c.still_falling for c in several]),
            ])  # fmt: skip
    note = (
        "A step of one network takes longer than that of another, and the clock counts everything that ran on the machine. *Validation*:\n"
        "lowest MAE on cells that training never saw, in standard deviations; *last third*: how much it fell in the last third of the time.\n\n"
    )
    return note + _table(
        ["data", "network", "parameters", "steps", "minutes", "validation", "last third"], lines
    )


def _percent(figures: Sequence[float]) -> str:
    known = [f for f in figures if math.isfinite(f)]
    return f"{fmean(known):.1%}" if known else "–"


def _differences(findings: Findings) -> str:
    sizes = findings.about["sizes"]
    window = " x ".join(str(n) for n in findings.about["window"])
    lines = [
        f"- **Soil moisture is simulated** (`smap_like`: a water bucket under simulated weather): {sizes['side']} x {sizes['side']} cells of 1 km, two"
        f" years of {sizes['days']} days,",
        f"  {sizes['missing']:.0%} missing by orbit and failed retrievals, five covariates with a time axis and six static ones; the paper has seven"
        " years, six and nine.",
        "  The networks learn from the first year; cells are hidden in the second.",
        f"- **Examples** are windows of {window} (days x cells), {findings.about['batch']} per step (the paper: 16). Each is normalised by what is seen in"
        " it, as the package's training feed does",
        "  for every model; a fifth to four fifths of it is hidden, in seven patterns, not only in that of the evaluation. The second year is filled in"
        " such windows,",
        "  overlapping by half (the paper: a stride of 12 days), normalised by what is seen of the whole year.",
        f"- **{findings.budget}** per network. No learned embedding per cell; positions are sinusoids.",
        "- **Healing MNIST** after Krishnan et al. (2015, arXiv 1511.05121) and GP-VAE (Fortuin et al. 2020), made from the 10,000 test digits, the"
        " only ones at hand:",
        f"  {sizes['learn']} sequences of {sizes['frames']} frames to learn from, {sizes['judge']} other digits to be judged on (there: 60,000 and 10,000)."
        f" The angle walks at random by {TURN:g} degrees per",
        f"  frame and white cells are {TWICE:g} times as likely to be missing as black ones: neither is stated in the paper, both were chosen so that linear"
        " interpolation errs",
        f"  about as much as it does there. Squares are left out, as GP-VAE does; noise ({FLIPPED:.0%} of the visible cells flipped) is a column of its own."
        " One network learns",
        "  from all three sorts of gaps. *Mean* is each cell's own mean in time. L1 is minimised, MSE reported, as in the paper.",
    ]
    return "\n".join(lines) + "\n"


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(findings: Findings, path: Path) -> None:
    """A panel per sort of hidden cells: a bar per row with its spread, a dot per seed, the paper's figure as a diamond."""
    panels = [(s, h) for s in findings.errors for h in findings.errors[s] if findings.figures(s, h, _by(s))]
    panels = [p for p in panels if p[1] != "noisy"]
    most = max(len(_shown(findings, s)) for s, _ in panels)
    with picture(path, (10.5, 0.7 + (0.75 + 0.27 * most) * math.ceil(len(panels) / 2))) as figure:
        axes = np.atleast_1d(
            figure.subplots(math.ceil(len(panels) / 2), min(2, len(panels)), sharey="row")
        ).ravel()
        for ax, (study, hidden) in zip(axes, panels, strict=False):
            _bars(ax, findings, study, hidden)
        for ax in axes[len(panels) :]:
            ax.axis("off")
        marks = [axes[0].barh([0], [0], color=c, label=k) for k, c in COLOURS.items()]
        marks += axes[0].plot([], [], "D", color="white", mec=INK, label="the paper, on its own data")
        figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False)


def _bars(ax: Any, findings: Findings, study: str, hidden: str) -> None:
    by = _by(study)
    figures = findings.figures(study, hidden, by)
    rows = [row for row in _shown(findings, study) if row.name in figures]
    published = {
        n: v for t in ("validation", "test", "digits") for n, v in findings.published(t, hidden).items()
    }
    for at, row in enumerate(rows):
        several = figures[row.name]
        ax.barh(at, fmean(several), color=COLOURS[row.kind], alpha=0.8, height=0.72)
        if len(several) > 1:
            ax.errorbar(fmean(several), at, xerr=spread(several), color=INK, capsize=2.5, linewidth=1)
            ax.plot(several, [at] * len(several), "o", color=INK, markersize=2.5)
        if row.name in published:
            ax.plot(published[row.name], at, "D", color="white", mec=INK, markersize=5, zorder=4)
    ax.set_yticks(range(len(rows)), [row.label for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(left=0)
    unit = " (m³ m⁻³)" if study == "soil_moisture" else ""
    ax.set_xlabel(f"{by.upper()}{unit}")
    ax.set_title(
        f"{'Soil moisture' if study == 'soil_moisture' else 'Healing MNIST'}, hidden: {HIDDEN[study][hidden]}"
    )
