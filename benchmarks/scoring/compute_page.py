"""The page on error against compute: tables, what they say, what the next run should buy, the picture. Every sentence follows from figures.

Knows figures, neither data nor networks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator, NullFormatter

from scoring.command import table
from scoring.compute_figures import (
    ALIKE,
    ARCHIVES,
    MIXES,
    ON,
    SIZES,
    WORLDS,
    Curve,
    Effect,
    against,
    at_equal_compute,
    by_mix,
    by_size,
    by_steps,
)
from scoring.figures import plain
from scoring.leave_out_figures import Ratio
from scoring.pages import About
from stimpute.report.canvas import ACCENT, INK, SECOND, picture

MIX = {"half": "half simulated worlds", "worlds": "simulated worlds only"}
PLACE = {ARCHIVES: "real archives", WORLDS: "unseen worlds"}
GAIN = 0.9  # part of the error that the extrapolation asks for


@dataclass(frozen=True)
class Findings:
    """The runs that are done, how many archives there were, how it was run."""

    curves: Sequence[Curve]
    archives: int
    about: About

    @property
    def longest(self) -> list[Curve]:
        """The runs at the largest budget."""
        return [c for c in self.curves if c.steps == max(c.steps for c in self.curves)]


# --- what it shows ----------------------------------------------------------------------------------------------------


def verdict(findings: Findings) -> str:
    """In sentences."""
    told = [*_about_gain(findings), *_about_steps(findings), *_about_size(findings), *_about_mix(findings), *_about_cost(findings)]  # fmt: skip
    return "\n".join(f"- {sentence}" for sentence in told) + "\n"


def _about_gain(findings: Findings) -> list[str]:
    told = []
    for on in ON:
        ends = [(c, against(c, c.prior, on)) for c in findings.longest]
        ends = [(c, e) for c, e in ends if math.isfinite(e.value)]
        if not ends:
            continue
        curve, best = min(ends, key=lambda pair: pair[1].value)
        certain = sum(e.helps for _, e in ends)
        told.append(
            f"On {PLACE[on]}, {certain} of {_count(len(ends), 'run')} of {curve.steps:,} steps err less than the prior for certain,"
            f" {sum(e.harms for _, e in ends)} more. Lowest: {curve.size} on {MIX[curve.mix]}, {best.ratio} of the prior's error."
        )
    return told


def _about_steps(findings: Findings) -> list[str]:
    if len({c.steps for c in findings.curves}) < 2:
        return ["One budget only: what more steps buy was not measured."]
    return [
        f"More steps, {PLACE[on]}: a doubling of compute {_changes(effect)} (mean of all sizes and mixes)."
        for on, effect in _measured(lambda on: by_steps(findings.curves, on))
    ]


def _about_size(findings: Findings) -> list[str]:
    told = [
        f"A larger network, {PLACE[on]}: base in place of small at equal steps {_changes(whole)}; per doubling of compute the factor is"
        f" {by_size(findings.curves, on).ratio}."
        for on, whole in _measured(lambda on: by_size(findings.curves, on, per_doubling=False))
    ]
    pair = at_equal_compute(findings.curves)
    if pair is None:
        told.append(f"No small and base runs have operations within a factor of {ALIKE:g}.")
        return told
    small, base = pair
    where = [
        f"{PLACE[on]} {effect.ratio}, {_better(effect, 'base', 'small')}"
        for on, effect in _measured(lambda on: against(base, small.end.errors, on))
    ]
    told.append(
        f"At about equal compute ({MIX[base.mix]}: base {base.steps:,} steps, {_tera(base.end.flop)}; small {small.steps:,} steps,"
        f" {_tera(small.end.flop)} TFLOP), error of base / small: {'; '.join(where)}."
    )
    return told


def _about_mix(findings: Findings) -> list[str]:
    return [
        f"Real data, {PLACE[on]}: half archives in place of worlds only, at equal steps, {_changes(effect)}."
        for on, effect in _measured(lambda on: by_mix(findings.curves, on))
    ]


def _about_cost(findings: Findings) -> list[str]:
    told = []
    for size in SIZES:
        several = [c.end for c in findings.curves if c.size == size]
        network, batches = sum(p.network_seconds for p in several), sum(p.batch_seconds for p in several)
        if several and network + batches > 0:
            flop, steps = sum(p.flop for p in several), sum(p.steps for p in several)
            told.append(
                f"A step of {size} is {flop / steps / 1e9:.1f} GFLOP and {network / steps:.2f} CPU seconds of the network, and"
                f" {batches / steps:.2f} CPU seconds of examples and candidates: {batches / (network + batches):.0%} of the whole."
            )
    return told


def _measured(effect_on: Callable[[str], Effect]) -> list[tuple[str, Effect]]:
    """An effect on archives and on worlds, where there is one."""
    return [(on, effect) for on in ON if math.isfinite((effect := effect_on(on)).value)]


def _changes(effect: Effect) -> str:
    """What a factor does to the error.

    >>> import numpy as np
    >>> _changes(Effect(0.9, np.array([0.88, 0.92])))
    'lowers the error by 10.0 % (0.900 (0.881-0.919))'
    >>> _changes(Effect(1.1, np.array([1.05, 1.15])))[:29], _changes(Effect(1.1, np.array([0.9, 1.2])))[:9]
    ('raises the error by 10.0 % (1', 'changes n')
    """
    ratio: Ratio = effect.ratio
    if effect.helps:
        return f"lowers the error by {100 * (1 - ratio.value):.1f} % ({ratio})"
    if effect.harms:
        return f"raises the error by {100 * (ratio.value - 1):.1f} % ({ratio})"
    return f"changes nothing for certain ({ratio})"


def _better(effect: Effect, first: str, second: str) -> str:
    if effect.helps or effect.harms:
        return f"{first if effect.helps else second} is better"
    return "undecided"


# --- what to buy ------------------------------------------------------------------------------------------------------


def advice(findings: Findings) -> str:
    """What the next run should buy, in sentences."""
    told = [sentence for on in ON for sentence in _purchase(findings, on)]
    told.append(
        "All of this is one seed and short runs: the ranges know the chance in the examples validated on, not the chance in training."
    )
    return "\n".join(f"- {sentence}" for sentence in told) + "\n"


def _purchase(findings: Findings, on: str) -> list[str]:
    steps, size, mix = by_steps(findings.curves, on), by_size(findings.curves, on), by_mix(findings.curves, on)  # fmt: skip
    bought = {"more steps": steps, "a larger network": size}
    certain = sorted((e.value, name) for name, e in bought.items() if e.helps)
    told = []
    if not certain:
        measured = [name for name, e in bought.items() if math.isfinite(e.value)]
        if measured:
            told.append(
                f"**{PLACE[on].capitalize()}:** neither of what compute bought here helps for certain ({', '.join(measured)}): these budgets say nothing about which to buy."
                if len(measured) > 1
                else f"**{PLACE[on].capitalize()}:** {measured[0]} did not help for certain; the other was not measured."
            )
    else:
        told.append(f"**{PLACE[on].capitalize()}:** {_preference(certain, bought)}")
    if mix.helps:
        told.append(
            f"{PLACE[on].capitalize()}: real data costs no operations and helps: keep it, and more of it is worth a try."
        )
    elif mix.harms:
        told.append(
            f"{PLACE[on].capitalize()}: the runs on worlds only are better: more real data is not what is lacking there."
        )
    if steps.helps:
        factor = 2 ** (math.log(GAIN) / math.log(steps.value))
        told.append(
            f"{PLACE[on].capitalize()}: if the slope of the steps went on, which nothing here shows, {100 * (1 - GAIN):.0f} % less error would take"
            f" {_times(factor)} the compute of the longest run."
        )
    return told


def _preference(certain: Sequence[tuple[float, str]], bought: dict[str, Effect]) -> str:
    """Which of the purchases that help is the better one."""
    first = certain[0][1]
    other = next(name for name in bought if name != first)
    between = bought[first].over(bought[other])
    share = f"{100 * (1 - certain[0][0]):.1f} % less error per doubling of compute"
    if not math.isfinite(bought[other].value):
        return f"{first} bought {share}; {other} was not measured."
    if between.helps:
        return (
            f"buy {first}: {share}, more than {other} for certain (ratio of the two factors {between.ratio})."
        )
    return (
        f"{first} bought {share}; whether {other} buys less is undecided (ratio of the two factors"
        f" {between.ratio})."
    )


def _times(factor: float) -> str:
    return f"{factor:,.0f} times" if factor < 1e4 else "more than 10,000 times"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _tera(flop: float) -> str:
    return f"{flop / 1e12:.3g}"


# --- the files --------------------------------------------------------------------------------------------------------


def write_json(path: Path, findings: Findings) -> None:
    """Every figure of the page."""
    about = {k: v for k, v in asdict(findings.about).items() if k not in ("figures", "model", "sha256", "training")}  # fmt: skip
    document = {
        "about": about,
        "archives": findings.archives,
        "runs": [
            {
                "size": c.size, "mix": c.mix, "steps": c.steps, "seed": c.seed, "parameters": c.parameters, "examples": len(c.groups),
                "points": [
                    {
                        "steps": p.steps, "flop": p.flop, "network_seconds": plain(p.network_seconds),
                        "batch_seconds": plain(p.batch_seconds),
                        "vs_prior": {on: _ratio(against(c, c.prior, on, p)) for on in ON},
                        "vs_best": {on: _ratio(against(c, c.best, on, p)) for on in ON},
                    }
                    for p in c.points
                ],
            }
            for c in findings.curves
        ],
        "per_doubling_by_steps": {on: _ratio(by_steps(findings.curves, on)) for on in ON},
        "per_doubling_by_size": {on: _ratio(by_size(findings.curves, on)) for on in ON},
        "base_over_small": {on: _ratio(by_size(findings.curves, on, per_doubling=False)) for on in ON},
        "half_over_worlds": {on: _ratio(by_mix(findings.curves, on)) for on in ON},
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _ratio(effect: Effect) -> dict[str, Any]:
    return {k: plain(v) for k, v in asdict(effect.ratio).items()}


def write_page(path: Path, findings: Findings, picture_name: str) -> None:
    """The page."""
    about = findings.about
    states = len({c.code for c in findings.curves} - {""})
    parts = [
        "# Error against compute\n",
        "What should the next training run buy: more steps, a larger network, or more real data? The recipe of the shipped weights, trained from",
        "nothing in two sizes and on two data mixes, once for each budget of steps.\n",
        f"Written by:\n\n```\n{about.command}\n```\n",
        f"- Seed {', '.join(map(str, about.seeds))}. Software: {', '.join(f'{k} {v}' for k, v in about.versions.items())}.",
        *([f"- The runs come from {states} states of the code."] if states > 1 else []),
        *([f"- **What was run:** {about.partial}."] if about.partial else []),
        "\n## What it shows\n", verdict(findings), "## What the next run should buy\n", advice(findings),
        f"![Error relative to the prior against operations of the network]({picture_name})\n",
        "## The runs\n", _run_table(findings), "## Slopes\n", _slope_table(findings), "## Along the runs\n", _point_table(findings),
        "## How it is measured\n", _method(findings),
    ]  # fmt: skip
    path.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def _run_table(findings: Findings) -> str:
    lines = [
        [
            c.size, MIX[c.mix], f"{c.steps:,}", f"{c.parameters:,}", _tera(c.end.flop), f"{c.end.network_seconds:.0f}",
            f"{c.end.batch_seconds:.0f}", *(str(against(c, c.prior, on).ratio) for on in ON), *(str(against(c, c.best, on).ratio) for on in ON),
        ]
        for c in _sorted(findings.curves)
    ]  # fmt: skip
    columns = ["size", "mix", "steps", "parameters", "TFLOP", "CPU s, network", "CPU s, batches",
               "vs prior, archives", "vs prior, worlds", "vs best, archives", "vs best, worlds"]  # fmt: skip
    legend = (
        "Each line is a run of its own, its learning rate at the floor at the end. *vs prior*: error / error of the blend of candidates that the\n"
        "network starts from; *vs best*: / error of the candidate that is best for each example, chosen with the truth in hand; with 95 % ranges.\n"
    )
    return f"{legend}\n{table(columns, lines)}"


def _slope_table(findings: Findings) -> str:
    chosen = [(s, m, [c for c in findings.curves if (c.size, c.mix) == (s, m)]) for m in MIXES for s in SIZES]
    lines = [
        [size, MIX[mix], " to ".join(_tera(f) for f in (min(flops), max(flops))), *(str(by_steps(several, on).ratio) for on in ON)]
        for size, mix, several in chosen
        if len(flops := [c.end.flop for c in several]) > 1
    ]  # fmt: skip
    if not lines:
        return "No size and mix has two budgets.\n"
    lines.append(["all", "", "", *(str(by_steps(findings.curves, on).ratio) for on in ON)])
    columns = ["size", "mix", "TFLOP", "factor per doubling, archives", "factor per doubling, worlds"]
    return f"Error of the ends of runs, fitted over log operations: the factor on the error for each doubling.\n\n{table(columns, lines)}"


def _point_table(findings: Findings) -> str:
    lines = [
        [c.size, MIX[c.mix], f"{c.steps:,}", f"{p.steps:,}", _tera(p.flop), *(str(against(c, c.prior, on, p).ratio) for on in ON)]
        for c in _sorted(findings.curves)
        for p in c.points
    ]  # fmt: skip
    columns = ["size", "mix", "budget", "step", "TFLOP", "vs prior, archives", "vs prior, worlds"]
    legend = (
        "The learning rate is half a cosine over the budget: before the end of a run it is still high, so points along a run are no ends of\n"
        "shorter runs. Slopes are fitted to ends only.\n"
    )
    return f"{legend}\n{table(columns, lines)}"


def _sorted(curves: Sequence[Curve]) -> list[Curve]:
    return sorted(curves, key=lambda c: (MIXES.index(c.mix), SIZES.index(c.size), c.steps))


def _method(findings: Findings) -> str:
    one = findings.curves[0]
    worlds = sum(name == WORLDS for name in one.groups)
    return (
        "- The recipe is `benchmarks/pretrain.toml`, in which a batch is used again after others. Sizes see the same batches of a mix in the\n"
        "  same order; shorter runs see the first of them. The moving average of the weights is judged, at the end, not at its best.\n"
        f"- Judged are the same {_count(len(one.groups) - worlds, 'window')} of {_count(findings.archives, 'archive')} (cells set aside from training) and"
        f" {_count(worlds, 'world')} from seeds of their own.\n"
        "  Half archives means that other cells of the same archives were trained on; worlds only has seen but shapes of their gaps. What having seen\n"
        "  a file is worth is measured [apart](leave_out.md).\n"
        "- Operations are those of the network's matrix products, forward and backward, as torch counts them for every batch drawn; candidates are\n"
        "  not in them. CPU seconds are of this process; those of batches (examples and candidates) were measured when a batch was first made and are\n"
        "  counted for every run that uses it. Validation is not counted.\n"
        "- Ratios are geometric means over examples, with a 95 % range from a bootstrap over files (worlds one by one), paired between runs.\n"
        "  *For certain*: the range excludes 1.\n"
    )  # fmt: skip


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(findings: Findings, path: Path) -> None:
    """Error / the prior's over operations: ends with ranges, points along the runs faint."""
    colours, styles = dict(zip(SIZES, (ACCENT, SECOND), strict=True)), dict(zip(MIXES, ("-", "--"), strict=True))  # fmt: skip
    with picture(path, (10.0, 4.2)) as figure:
        axes = figure.subplots(1, 2)
        for axis, on in zip(axes, ON, strict=True):
            for mix in MIXES:
                for size in SIZES:
                    several = [c for c in _sorted(findings.curves) if (c.size, c.mix) == (size, mix)]
                    _line(axis, several, on, colours[size], styles[mix])
            axis.axhline(1, color=INK, linewidth=0.8, linestyle=":")
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.set_xlabel("TFLOP of the network, forward and backward")
            axis.set_title(f"On {PLACE[on]}")
            axis.grid(color="0.92", linewidth=0.6)
            axis.set_axisbelow(True)
        axes[0].set_ylabel("error / error of the prior (dotted)")
        axes[0].legend(frameon=False, fontsize=8)


def _line(axis: Any, several: Sequence[Curve], on: str, colour: str, style: str) -> None:
    if not several:
        return
    face = colour if style == "-" else "white"
    x = [c.end.flop / 1e12 for c in several]
    ratios = [against(c, c.prior, on).ratio for c in several]
    label = f"{several[0].size}, {MIX[several[0].mix]}"
    axis.plot(x, [r.value for r in ratios], style, color=colour, marker="o", markersize=6, mfc=face, label=label, zorder=3)  # fmt: skip
    shift = 1.02 if style == "-" else 0.98
    for at, r in zip(x, ratios, strict=True):
        axis.plot([at * shift] * 2, [r.low, r.high], color=colour, linewidth=0.9, alpha=0.6)
    for curve in several:
        along = [p for p in curve.points[:-1] if p.flop]
        axis.plot([p.flop / 1e12 for p in along], [against(curve, curve.prior, on, p).value for p in along], ".", color=colour, alpha=0.4)  # fmt: skip
