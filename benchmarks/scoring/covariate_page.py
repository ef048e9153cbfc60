"""The page on covariates: how the error changes with them, tables, what they say, the picture. Every sentence follows from figures.

Knows figures, neither data nor methods.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from scoring.command import head, table
from scoring.covariate_worlds import ASKED, BLOCK, HIDDEN, MISSING, ORBIT, PARTS, VARIANTS, Name
from scoring.figures import plain
from scoring.pages import About
from stimpute.report.canvas import ACCENT, INK, SECOND, picture

NONE, OWN, IRRELEVANT, BOTH = "none", "own", "irrelevant", "own+irrelevant"
FALL, RISE = (
    -0.30,
    0.02,
)  # bars: change of the error with the true drivers, and with irrelevant covariates, at most
TITLES = {
    "soil_moisture": "simulated soil moisture",
    "worlds": "simulated worlds",
    "real": "real files",
}
GAPS = {ORBIT: "orbit gaps", BLOCK: "block gaps"}


@dataclass(frozen=True)
class Entry:
    """One stack filled with one variant of its covariates."""

    mae: float
    rmse: float
    n: int
    seconds: float
    code: str = ""


@dataclass(frozen=True)
class Row:
    """One stack under one set of gaps, with every variant that was run. ``spread``: standard deviation of what is observed."""

    name: Name
    spread: float
    entries: Mapping[str, Entry]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """With all variants of its part."""
        return set(self.entries) >= set(ASKED[self.name.part])

    def change(self, variant: str, against: str = NONE) -> float:
        """Relative change of the MAE.

        >>> entries = {"none": Entry(2.0, 2.0, 1, 0.0), "own": Entry(1.0, 1.0, 1, 0.0)}
        >>> Row(Name("real", "a", "gap", 0), 1.0, entries).change("own")
        -0.5
        """
        return self.entries[variant].mae / self.entries[against].mae - 1


@dataclass(frozen=True)
class Findings:
    """Everything that was measured."""

    rows: Sequence[Row]
    about: About
    sizes: Mapping[str, int]

    def of(self, part: str, gaps: str | None = None, stack: str | None = None) -> list[Row]:
        """The complete rows of a part, or of one sort of gaps or one stack of it."""
        return [
            r
            for r in self.rows
            if r.complete
            and r.name.part == part
            and gaps in (None, r.name.gaps)
            and stack in (None, r.name.stack)
        ]


@dataclass(frozen=True)
class Changes:
    """Changes over seeds or worlds: median, least and most."""

    middle: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, changes: Sequence[float]) -> Changes:
        """NaN of nothing.

        >>> Changes.of([0.1, -0.2, 0.0])
        Changes(middle=0.0, low=-0.2, high=0.1, n=3)
        """
        if not changes:
            return cls(math.nan, math.nan, math.nan, 0)
        return cls(median(changes), min(changes), max(changes), len(changes))

    def __str__(self) -> str:
        if not self.n:
            return "–"
        around = f" ({self.low:+.1%} to {self.high:+.1%})" if self.n > 1 else ""
        return f"{self.middle:+.1%}{around}"


@dataclass(frozen=True)
class Bar:
    """One of the two bars on one part: the median change must not lie above ``most``."""

    where: str
    what: str
    changes: Changes
    most: float
    above: int  # seeds or worlds whose own change lies above the bar

    @property
    def met(self) -> bool:
        """By the median."""
        return self.changes.middle <= self.most


def bars(findings: Findings) -> list[Bar]:
    """Both bars wherever they can be asked."""
    found = []
    for gaps, title in GAPS.items():
        rows = findings.of("soil_moisture", gaps)
        where = f"{TITLES['soil_moisture']}, {title}"
        found += [
            _bar(where, "its eleven drivers", rows, OWN, FALL),
            _bar(where, VARIANTS[IRRELEVANT], rows, IRRELEVANT, RISE),
        ]
    found.append(_bar(TITLES["worlds"], VARIANTS[IRRELEVANT], findings.of("worlds"), IRRELEVANT, RISE))
    for stack in _stacks(findings, "real"):
        rows = findings.of("real", stack=stack)
        found.append(_bar(f"real file {stack}", VARIANTS[IRRELEVANT], rows, IRRELEVANT, RISE))
    return [bar for bar in found if bar.changes.n]


def _bar(where: str, what: str, rows: Sequence[Row], variant: str, most: float) -> Bar:
    changes = [r.change(variant) for r in rows]
    return Bar(where, what, Changes.of(changes), most, sum(c > most for c in changes))


def _stacks(findings: Findings, part: str) -> list[str]:
    return list(dict.fromkeys(r.name.stack for r in findings.of(part)))


# --- the files --------------------------------------------------------------------------------------------------------


def write_json(path: Path, findings: Findings) -> None:
    """Every figure of the page."""
    document = {
        "about": {**asdict(findings.about), "sizes": dict(findings.sizes)},
        "bars": [{**_plain(asdict(b)), "met": b.met} for b in bars(findings)],
        "rows": [
            {
                **asdict(row.name), "spread": plain(row.spread), **row.about,
                "variants": {v: _plain(asdict(e)) for v, e in row.entries.items()},
            }
            for row in findings.rows
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _plain(v) if isinstance(v, Mapping) else plain(v) for k, v in values.items()}


def write_page(path: Path, findings: Findings, picture_name: str) -> None:
    """The page."""
    what = [
        "What the shipped model gains from covariates that drive a stack, and what it loses to covariates that have nothing to do with it.",
        "It has never seen these stacks or these covariates and is told nothing about which matter.",
    ]
    codes = [e.code for row in findings.rows for e in row.entries.values()]
    parts = [
        head("Covariates", what, findings.about, codes), "## What it shows\n", verdict(findings),
        _bar_table(findings), f"![Change of the error]({picture_name})\n",
    ]  # fmt: skip
    makers = {"soil_moisture": _soil_table, "worlds": _worlds_table, "real": _real_table}
    for part in PARTS:
        if findings.of(part):
            title = TITLES[part]
            parts += [f"## {title[0].upper()}{title[1:]}\n", makers[part](findings)]
    parts += ["## How it is measured\n", _method(findings)]
    path.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def verdict(findings: Findings) -> str:
    """Paragraphs that follow from the figures alone."""
    said = [" ".join(_said_of_bars(findings)), *_said_of_parts(findings), " ".join(_said_of_worlds(findings))]
    return "\n\n".join(text for text in said if text) + "\n"


def _said_of_bars(findings: Findings) -> Iterator[str]:
    found = bars(findings)
    for most, wanted in (
        (FALL, f"with its true drivers is to fall by at least {-FALL:.0%}"),
        (RISE, f"with five irrelevant covariates is to rise by at most {RISE:.0%}"),
    ):
        chosen = [b for b in found if b.most == most]
        missed = [b for b in chosen if not b.met]
        if missed:
            listed = "; ".join(f"{b.where}: {b.changes.middle:+.1%}" for b in missed)
            yield f"The error {wanted}: **missed in {len(missed)} of {len(chosen)}** ({listed})."
        elif chosen:
            yield f"The error {wanted}: met in {len(chosen)} of {len(chosen)}."


def _said_of_parts(findings: Findings) -> Iterator[str]:
    """Which sort of drivers matters, and whether irrelevant ones spoil them."""
    told = []
    for gaps, title in GAPS.items():
        rows = findings.of("soil_moisture", gaps)
        if not rows:
            continue
        dynamic, static = (Changes.of([r.change(v) for r in rows]) for v in ("dynamic", "static"))
        spoiled = Changes.of([r.change(BOTH, OWN) for r in rows])
        more = "time-varying" if dynamic.middle < static.middle else "static"
        told.append(
            f"{title}: the {more} ones bring most (time-varying {dynamic}, static {static}); five irrelevant ones beside the"
            f" eleven change the error by {spoiled}"
        )
    if told:
        yield f"**Which drivers.** {'; '.join(told)}."


def _said_of_worlds(findings: Findings) -> Iterator[str]:
    rows = findings.of("worlds")
    if not rows:
        return
    own = [r.change(OWN) for r in rows]
    harmed = [r for r in rows if r.change(OWN) > RISE]
    worse = [r for r in rows if r.change(IRRELEVANT) > RISE]
    yield f"**Worlds.** Their own covariates, some of which inform, change the error by {Changes.of(own)}. Of {len(rows)} worlds the"
    yield f"error rises by more than {RISE:.0%} in {len(harmed)} with their own covariates and in {len(worse)} with five irrelevant ones."


# --- tables -----------------------------------------------------------------------------------------------------------


def _bar_table(findings: Findings) -> str:
    lines = [
        [
            b.where,
            b.what,
            str(b.changes),
            f"at most {b.most:+.0%}",
            "met" if b.met else "**missed**",
            f"{b.above} of {b.changes.n}",
        ]
        for b in bars(findings)
    ]
    columns = ["stack", "covariates", "change of MAE, median (least to most)", "bar", "", "above the bar"]
    return table(columns, lines)


def _soil_table(findings: Findings) -> str:
    columns, cells = ["covariates"], {v: [VARIANTS[v]] for v in ASKED["soil_moisture"]}
    for gaps, title in GAPS.items():
        rows = findings.of("soil_moisture", gaps)
        if not rows:
            continue
        columns += [f"{title}: MAE", "RMSE", "change of MAE (least to most)"]
        for variant, line in cells.items():
            mean = [fmean(getattr(r.entries[variant], by) for r in rows) for by in ("mae", "rmse")]
            changes = "" if variant == NONE else str(Changes.of([r.change(variant) for r in rows]))
            line += [f"{mean[0]:.4f}", f"{mean[1]:.4f}", changes]
    seeds = sorted({r.name.seed for r in findings.of("soil_moisture")})
    note = (
        f"MAE and RMSE in m3 m-3 over all missing cells, mean of {len(seeds)} seeds; the change against no covariates is the median\n"
        "over the seeds.\n\n"
    )
    return note + table(columns, list(cells.values()))


def _worlds_table(findings: Findings) -> str:
    lines = []
    for row in findings.of("worlds"):
        first = row.entries[NONE]
        lines.append([
            str(row.name.seed), f"{row.about['missing']:.0%}", f"{row.about['informative']} of {row.about['own']}",
            f"{first.mae / row.spread:.3f}", *(f"{row.change(v):+.1%}" for v in (OWN, IRRELEVANT, BOTH)),
        ])  # fmt: skip
    note = "*Inform*: covariates built from what drives the world, of those given. Noise that nothing could tell is part of the error.\n\n"
    columns = ["world", "missing", "inform", "MAE / sd without", *(VARIANTS[v] for v in (OWN, IRRELEVANT, BOTH))]  # fmt: skip
    return note + table(columns, lines)


def _real_table(findings: Findings) -> str:
    lines = []
    for stack in _stacks(findings, "real"):
        rows = findings.of("real", stack=stack)
        errors = [fmean(r.entries[v].mae / r.spread for r in rows) for v in (NONE, IRRELEVANT)]
        changes = Changes.of([r.change(IRRELEVANT) for r in rows])
        lines.append([stack, str(len(rows)), *(f"{e:.4f}" for e in errors), str(changes)])
    columns = ["file", "seeds", "MAE / sd without", f"MAE / sd, {VARIANTS[IRRELEVANT]}", "change (least to most)"]  # fmt: skip
    return table(columns, lines)


def _method(findings: Findings) -> str:
    sizes = findings.sizes
    lines = [
        f"- **Soil moisture** is simulated (`smap_like`, what `stimpute simulate` makes): {sizes['days']} days of {sizes['side']} x {sizes['side']} cells,"
        f" {MISSING[ORBIT]:.0%} missing by orbit, or",
        f"  {MISSING[BLOCK]:.0%} missing in boxes and balls of space and time. Eleven covariates drive it: five with a time axis, six without.",
        f"- **Worlds** are what networks are pretrained on, of other seeds ({sizes['steps']} x {sizes['world_side']} x {sizes['world_side']}): the first that have a"
        " covariate which informs.",
        f"- **Real files** have no covariates of their own; {HIDDEN:.0%} of the observed cells are hidden in the shapes of other steps' gaps.",
        "- **Irrelevant covariates** are random fields from another seed, three in space and time and two in space, of about the effective",
        "  ranges of what is observed of the stack.",
        "- Every stack goes through the engine behind `stimpute fill`. A bar is judged by the median over seeds (or worlds).",
    ]
    return "\n".join(lines) + "\n"


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(findings: Findings, path: Path) -> None:
    """Change of the error, a dot per seed or world, the median as a line: a panel per part."""
    panels = [
        (
            f"{TITLES['soil_moisture']}, {title}",
            findings.of("soil_moisture", gaps),
            ASKED["soil_moisture"][1:],
        )
        for gaps, title in GAPS.items()
    ]
    panels.append((TITLES["worlds"], findings.of("worlds"), ASKED["worlds"][1:]))
    panels += [(s, findings.of("real", stack=s), ASKED["real"][1:]) for s in _stacks(findings, "real")]
    panels = [p for p in panels if p[1]]
    heights = [0.9 + 0.33 * len(variants) for _, _, variants in panels]
    with picture(path, (8.5, sum(heights) + 0.4)) as figure:
        axes = np.atleast_1d(figure.subplots(len(panels), 1, height_ratios=heights, sharex=True))
        for ax, (title, rows, variants) in zip(axes, panels, strict=True):
            _dots(ax, rows, variants)
            ax.set_title(title)
        axes[-1].set_xlabel("change of the mean absolute error against no covariates (%)")


def _dots(ax: Any, rows: Sequence[Row], variants: Sequence[str]) -> None:
    ax.axvline(0, color=INK, linewidth=0.8)
    for at, variant in enumerate(variants):
        changes = np.array([100 * r.change(variant) for r in rows])
        colour = SECOND if variant == IRRELEVANT else ACCENT
        jitter = np.linspace(-0.22, 0.22, len(changes)) if len(changes) > 1 else np.zeros(1)
        ax.plot(changes, at + jitter, "o", color=colour, markersize=4, alpha=0.6, mew=0)
        ax.plot([np.median(changes)] * 2, [at - 0.34, at + 0.34], color=colour, linewidth=2.2)
        most = {OWN: FALL, IRRELEVANT: RISE}.get(variant)
        if most is not None and not (variant == OWN and rows[0].name.part == "worlds"):
            ax.plot([100 * most] * 2, [at - 0.42, at + 0.42], color=INK, linewidth=1, linestyle=":")
    ax.set_yticks(range(len(variants)), [VARIANTS[v] for v in variants])
    ax.set_ylim(len(variants) - 0.45, -0.55)
