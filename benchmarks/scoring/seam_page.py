"""The page on seams: what borders of tiles leave in a fill, and how much a fill depends on them. Every sentence follows from figures.

Knows figures and a few maps, neither data nor methods.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from scoring.borders import LEVELS, RANGE, Seam, Steps, excess, seam
from scoring.command import head, table
from scoring.figures import plain
from scoring.pages import About
from stimpute.grid import Grid
from stimpute.report.canvas import ACCENT, INK, OTHERS, SECOND, draw_map, picture
from stimpute.stack import Float32Array

HERO, SIMPLE = "st", "linear"
WHOLE = "whole"
SEAM, MEDIAN, TAIL = (
    1.05,
    0.01,
    0.05,
)  # bars: upper bound of the measure; median and 99th percentile of |difference| / sd
PAIRS = 100_000  # across borders, for the measure to count


@dataclass(frozen=True)
class Cut:
    """How a stack was cut: the core of a tile in cells, None for one tile; ``halo`` None for the engine's own."""

    tile: int | None
    halo: int | None = None

    @property
    def name(self) -> str:
        """For the page, and for what is kept.

        >>> Cut(24, 0).name, Cut(None).name
        ('24, no halo', 'whole')
        """
        if self.tile is None:
            return WHOLE
        return f"{self.tile}" if self.halo is None else f"{self.tile}, no halo"


@dataclass(frozen=True, eq=False)
class Result:
    """One scene filled by one method in all its cuts.

    Parameters
    ----------
    mae : by cut, in standard deviations of what is observed; empty where the truth is not known.
    steps, control : by cut, steps of fill minus truth at the cut's borders; of the uncut fill at the same borders.
    agreement : by pair of cuts, median and 99th percentile of |difference| in standard deviations.
    """

    scene: str
    seed: int
    method: str
    simulated: bool
    mae: Mapping[str, float]
    steps: Mapping[str, Steps]
    control: Mapping[str, Steps]
    agreement: Mapping[tuple[str, str], tuple[float, ...]]
    tiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Maps:
    """Differences (y, x) of one step of one scene from the uncut fill, by cut, in standard deviations, and the cuts' borders."""

    title: str
    grid: Grid
    fields: Mapping[str, Float32Array]
    borders: Mapping[str, tuple[list[int], list[int]]]


@dataclass(frozen=True)
class Findings:
    """Everything that was measured."""

    results: Sequence[Result]
    cuts: Sequence[Cut]  # with the engine's halo, small to large, one tile last
    about: About
    sizes: Mapping[str, Any]
    maps: Maps | None = None

    @property
    def names(self) -> list[str]:
        """Of the cuts that a user would ask for."""
        return [c.name for c in self.cuts if c.halo is None]

    @property
    def bare(self) -> str:
        """The cut that has no halo, so that it must show."""
        return next((c.name for c in self.cuts if c.halo is not None), "")

    def of(self, method: str, simulated: bool | None = None) -> list[Result]:
        """Results of a method, on simulated fields, on real files, or on both."""
        return [r for r in self.results if r.method == method and simulated in (None, r.simulated)]

    def seam(self, method: str, cuts: Sequence[str]) -> Seam:
        """The measure over all simulated fields and some cuts."""
        return seam([r.steps[c] for r in self.of(method, True) for c in cuts if c in r.steps])

    def control(self, method: str, cuts: Sequence[str]) -> Seam:
        """The measure of the uncut fill at the same borders: what it reads where there is no seam."""
        return seam([r.control[c] for r in self.of(method, True) for c in cuts if c in r.control])

    def excess(self, method: str, cuts: Sequence[str]) -> Seam:
        """The measure over its control."""
        both = [
            (r.steps[c], r.control[c])
            for r in self.of(method, True)
            for c in cuts
            if c in r.steps and c in r.control
        ]
        return excess([s for s, _ in both], [c for _, c in both])

    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of cuts that are held against each other."""
        return list(combinations(self.names, 2))


# --- the files --------------------------------------------------------------------------------------------------------


def write_json(path: Path, findings: Findings) -> None:
    """Every figure of the page."""
    tiled = findings.names[:-1]
    methods = list(dict.fromkeys(r.method for r in findings.results))
    document = {
        "about": {**asdict(findings.about), "sizes": dict(findings.sizes)},
        "bars": {"seam_upper": SEAM, "median": MEDIAN, "percentile_99": TAIL},
        "seams": {
            m: {
                cut: {
                    "seam": _plain(findings.seam(m, chosen)), "uncut": _plain(findings.control(m, chosen)),
                    "over_uncut": _plain(findings.excess(m, chosen)),
                }
                for cut, chosen in {**{c: [c] for c in (*tiled, findings.bare) if c}, "all": tiled}.items()
            }
            for m in methods
        },
        "scenes": [
            {
                "scene": r.scene, "seed": r.seed, "method": r.method, "simulated": r.simulated,
                "mae": {k: plain(v) for k, v in r.mae.items()}, "seconds": {k: plain(v) for k, v in r.seconds.items()},
                "tiles": {k: dict(v) for k, v in r.tiles.items()},
                "seam": {k: plain(seam([v]).ratio) for k, v in r.steps.items()},
                "agreement": {f"{a} / {b}": [plain(v) for v in values] for (a, b), values in r.agreement.items()},
            }
            for r in findings.results
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _plain(found: Seam) -> dict[str, Any]:
    return {k: plain(v) for k, v in asdict(found).items()}


def write_page(path: Path, findings: Findings, picture_name: str) -> None:
    """The page."""
    what = [
        "A stack is filled tile by tile. Here the same stacks are filled in tiles of several sizes and in one piece: is a border of",
        "tiles seen in the fill, and does the fill depend on where the borders are?",
    ]
    codes = [c for r in findings.results for c in r.codes]
    parts = [
        head("Seams", what, findings.about, codes), "## What it shows\n", verdict(findings), f"![Seams and differences]({picture_name})\n",
    ]  # fmt: skip
    if findings.of(HERO, True):
        parts += ["## Steps across borders\n", _seam_table(findings)]
    if findings.of(HERO):
        parts += ["## Agreement between tiles\n", _agreement_table(findings)]
    if findings.of(HERO, True):
        parts += ["## Error by tile\n", _error_table(findings)]
    parts += ["## How it is measured\n", _method(findings)]
    path.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def verdict(findings: Findings) -> str:
    """Paragraphs that follow from the figures alone."""
    said = [
        " ".join(_said_of_seams(findings)),
        " ".join(_said_of_controls(findings)),
        " ".join(_said_of_agreement(findings)),
    ]
    return "\n\n".join(text for text in said if text) + "\n"


def _said_of_seams(findings: Findings) -> Iterator[str]:
    tiled = findings.names[:-1]
    every = findings.seam(HERO, tiled)
    if not every.pairs:
        return
    enough = "" if every.pairs >= PAIRS else f", **fewer than the {PAIRS:,} wanted**"
    yield f"**Seams.** Over simulated fields the steps of {HERO}'s error across borders are {_range(every)} times those inside"
    yield f"({every.pairs:,} pairs{enough}); the upper bound is to be at most {SEAM:.2f}: {_met(every.high <= SEAM)}."
    above = [c for c in tiled if findings.seam(HERO, [c]).high > SEAM]
    if above:
        yield f"By tile the bound is passed for {', '.join(above)}."


def _said_of_controls(findings: Findings) -> Iterator[str]:
    tiled = findings.names[:-1]
    control = findings.control(HERO, tiled)
    if not control.pairs:
        return
    over = findings.excess(HERO, tiled)
    yield f"**Can the measure tell?** At the same places it reads {_range(control)} for the fill in one piece, which has no borders;"
    yield f"the tiled fill over that is {_range(over)}."
    bare = findings.seam(HERO, [findings.bare])
    if bare.pairs:
        told = "it tells" if bare.low > 1 and bare.low > over.high else "**it does not tell them apart**"
        yield f"Tiles of {findings.bare} read {_range(bare)}: {told}."
    simple = findings.seam(SIMPLE, tiled)
    if simple.pairs:
        yield f"{SIMPLE.capitalize()}, which sees one cell at a time, reads {_range(simple)}."


def _said_of_agreement(findings: Findings) -> Iterator[str]:
    results = findings.of(HERO)
    scenes = list(dict.fromkeys(r.scene for r in results))
    worst = {s: _worst([r for r in results if r.scene == s], findings.pairs()) for s in scenes}
    worst = {s: w for s, w in worst.items() if all(math.isfinite(v) for v in w)}
    if not worst:
        return
    medians = [s for s, w in worst.items() if w[0] >= MEDIAN]
    tails = [s for s, w in worst.items() if w[1] >= TAIL]
    yield f"**Agreement.** Between any two tile sizes half of the filled cells are to differ by less than {MEDIAN:.0%} of the input's standard"
    yield f"deviation, and 99 % by less than {TAIL:.0%}. The median: {_count(medians, worst)}; the 99th percentile: {_count(tails, worst)}."
    at = max(worst, key=lambda s: worst[s][1])
    yield f"Worst: {at}, median {worst[at][0]:.1%}, 99th percentile {worst[at][1]:.1%}."


def _worst(results: Sequence[Result], pairs: Sequence[tuple[str, str]]) -> tuple[float, ...]:
    """Of all pairs of cuts, each the mean over the seeds."""
    found = [_mean_agreement(results, pair) for pair in pairs]
    found = [f for f in found if all(math.isfinite(v) for v in f)]
    return tuple(max(f[i] for f in found) for i in range(len(LEVELS))) if found else (math.nan,) * len(LEVELS)


def _mean_agreement(results: Sequence[Result], pair: tuple[str, str]) -> tuple[float, ...]:
    known = [r.agreement[pair] for r in results if pair in r.agreement]
    if not known:
        return (math.nan,) * len(LEVELS)
    return tuple(fmean(v[i] for v in known) for i in range(len(LEVELS)))


def _count(missed: Sequence[str], every: Mapping[str, Any]) -> str:
    return "met everywhere" if not missed else f"**missed on {len(missed)} of {len(every)} stacks**"


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def _range(found: Seam) -> str:
    return f"{found.ratio:.3f} ({found.low:.3f}-{found.high:.3f})" if found.pairs else "–"


# --- tables -----------------------------------------------------------------------------------------------------------


def _seam_table(findings: Findings) -> str:
    tiled = findings.names[:-1]
    lines = []
    for method in dict.fromkeys(r.method for r in findings.of(HERO, True) + findings.of(SIMPLE, True)):
        chosen = {**{c: [c] for c in tiled}, **({"all of these": tiled} if method == HERO else {})}
        if method == HERO and findings.bare:
            chosen[findings.bare] = [findings.bare]
        for title, cuts in chosen.items():
            found = findings.seam(method, cuts)
            lines.append([
                method, title, f"{found.pairs:,}", _range(found), _range(findings.control(method, cuts)),
                _range(findings.excess(method, cuts)),
            ])  # fmt: skip
    columns = ["method", "tile (cells)", "pairs across borders", "steps across / inside", "uncut fill, same places", "over the uncut"]  # fmt: skip
    return table(columns, lines)


def _agreement_table(findings: Findings) -> str:
    pairs = findings.pairs()
    lines = []
    for scene in dict.fromkeys(r.scene for r in findings.of(HERO)):
        results = [r for r in findings.of(HERO) if r.scene == scene]
        cells = [_mean_agreement(results, pair) for pair in pairs]
        lines.append([scene, *("–" if math.isnan(m) else f"{_over(m, MEDIAN)} / {_over(t, TAIL)}" for m, t in cells)])  # fmt: skip
    note = (
        f"Median / 99th percentile of |difference| over the filled cells, in per cent of the standard deviation of what is observed; in bold\n"
        f"what is not below {MEDIAN:.0%} and {TAIL:.0%}. Mean over the seeds.\n\n"
    )
    return note + table(["stack", *(f"{a} and {b}" for a, b in pairs)], lines)


def _over(value: float, bar: float) -> str:
    text = f"{100 * value:.2f}"
    return f"**{text}**" if value >= bar else text


def _error_table(findings: Findings) -> str:
    names = [*findings.names, *([findings.bare] if findings.bare else [])]
    lines = []
    for scene in dict.fromkeys(r.scene for r in findings.of(HERO, True)):
        results = [r for r in findings.of(HERO, True) if r.scene == scene]
        errors = [[r.mae[n] for r in results if n in r.mae] for n in names]
        simple = [r.mae[WHOLE] for r in findings.of(SIMPLE, True) if r.scene == scene and WHOLE in r.mae]
        lines.append([scene, *(f"{fmean(e):.4f}" if e else "–" for e in (*errors, simple))])
    note = "MAE over all missing cells, in standard deviations of what is observed. Mean over the seeds.\n\n"
    return note + table(["field", *(f"{HERO}, {n}" for n in names), f"{SIMPLE}, {WHOLE}"], lines)


def _method(findings: Findings) -> str:
    sizes = findings.sizes
    level = f"{RANGE[1] - RANGE[0]:.0f} %"
    lines = [
        f"- **Fields** are Gaussian and stationary, {sizes['steps']} daily steps of {sizes['side']} x {sizes['side']} cells with a little noise. *Length* is that of their",
        "  correlation in cells, *gaps* that of the clouds over them; the share that is missing differs from step to step.",
        "- **The measure** (decision 4) is mean |step across a border| / mean |step inside| of fill minus truth, over pairs of neighbours that",
        f"  are both filled, every field in units of its own steps inside. Ranges are {level}, from drawing blocks of the maps again, all steps at once.",
        "- **Tiles** are what `--tile` asks for (the core); the halo is the engine's own, except where it says none.",
        "- **Real files** are windows of 144 x 144 cells with the gaps they come with; cells never observed are not filled.",
        "- Everything goes through the engine behind `stimpute fill`.",
    ]
    return "\n".join(lines) + "\n"


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(findings: Findings, path: Path) -> None:
    """Above: maps of the difference from the fill in one piece. Below: the measure, and the differences of all stacks."""
    with picture(path, (11, 7.2 if findings.maps else 4)) as figure:
        parts: Any = figure.subfigures(2 if findings.maps else 1, 1, squeeze=False)
        if findings.maps:
            _draw_maps(parts[0, 0], findings.maps)
        drawn = (
            [_draw_agreement]
            if not any(r.steps for r in findings.results)
            else [_draw_seams, _draw_agreement]
        )
        axes = parts[-1, 0].subplots(1, len(drawn), squeeze=False)[0]
        for draw_one, ax in zip(drawn, axes, strict=True):
            draw_one(ax, findings)


def _draw_maps(part: Any, maps: Maps) -> None:
    axes = part.subplots(1, len(maps.fields), squeeze=False)[0]
    known = np.concatenate([f[np.isfinite(f)].ravel() for f in maps.fields.values()])
    most = float(np.percentile(np.abs(known), 99)) if known.size else 1.0
    most = most if most > 0 else 1.0
    image = None
    for ax, (name, difference) in zip(axes, maps.fields.items(), strict=True):
        image = draw_map(ax, difference, maps.grid, f"tiles of {name}", "RdBu_r", (-most, most))
        rows, columns = maps.borders[name]
        for row in rows:
            ax.axhline(row - 0.5, color=INK, linewidth=0.4)
        for column in columns:
            ax.axvline(column - 0.5, color=INK, linewidth=0.4)
        if ax is not axes[0]:
            ax.set(ylabel="", yticks=[])
    part.suptitle(maps.title, fontsize=10, x=0.01, ha="left")
    part.colorbar(image, ax=list(axes), label="difference / sd", shrink=0.8)


def _draw_seams(ax: Any, findings: Findings) -> None:
    tiled = findings.names[:-1]
    bars = [(f"{HERO}, tiles of {c}", findings.seam(HERO, [c]), ACCENT) for c in tiled]
    bars += [(f"{HERO}, all of these", findings.seam(HERO, tiled), ACCENT)]
    bars += [(f"{HERO}, uncut, same places", findings.control(HERO, tiled), "0.5")]
    bars += [(f"{SIMPLE}, all of these", findings.seam(SIMPLE, tiled), "0.5")]
    bars += [(f"{HERO}, {findings.bare}", findings.seam(HERO, [findings.bare]), SECOND)]
    bars = [b for b in bars if b[1].pairs]
    for at, (_, found, colour) in enumerate(bars):
        ax.plot([found.low, found.high], [at, at], color=colour, linewidth=2)
        ax.plot(found.ratio, at, "o", color=colour, markersize=5)
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.axvline(SEAM, color=INK, linewidth=1, linestyle=":")
    ax.set_yticks(range(len(bars)), [name for name, _, _ in bars])
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.set_xlabel("steps of the error across borders / inside")
    ax.set_title("Seams (dotted: the bar)")


def _draw_agreement(ax: Any, findings: Findings) -> None:
    """Median and 99th percentile of every stack against the uncut fill, by tile."""
    tiled = findings.names[:-1]
    every = findings.of(HERO) or list(findings.results)
    scenes = list(dict.fromkeys(r.scene for r in every))
    for index, cut in enumerate(tiled):
        colour = OTHERS[index % len(OTHERS)]
        for at, scene in enumerate(scenes):
            results = [r for r in every if r.scene == scene]
            middle, tail = (100 * v for v in _mean_agreement(results, (cut, WHOLE)))
            place = at + 0.22 * (index - (len(tiled) - 1) / 2)
            label = f"tiles of {cut}" if at == 0 else None
            ax.plot([middle, tail], [place, place], color=colour, linewidth=1.2, alpha=0.7)
            ax.plot(middle, place, "o", color=colour, markersize=4, label=label)
            ax.plot(tail, place, "|", color=colour, markersize=8, mew=2)
    for bar in (MEDIAN, TAIL):
        ax.axvline(100 * bar, color=INK, linewidth=1, linestyle=":")
    ax.set_xscale("log")
    ax.set_yticks(range(len(scenes)), scenes)
    ax.set_ylim(len(scenes) - 0.5, -0.5)
    ax.set_xlabel("|difference| from the fill in one piece (% of sd)")
    ax.set_title("Agreement: median to 99th percentile")
    ax.legend(frameon=False, fontsize=8)
