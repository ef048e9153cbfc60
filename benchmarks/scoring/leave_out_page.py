"""The page on files left out of training: tables, what they say, the picture. Every sentence follows from figures.

Knows figures, neither data nor methods.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scoring.command import head, table
from scoring.figures import plain
from scoring.leave_out_figures import (
    AGAINST,
    BEST,
    MARGIN,
    NEVER,
    PRIOR,
    SAW,
    SHIPPED,
    Ratio,
    Row,
    kept,
    pooled,
    scatter,
    seen_against_prior,
    within,
)
from scoring.left_out import Course
from scoring.pages import About
from stimpute.report.canvas import ACCENT, INK, OTHERS, SECOND, picture

TITLES = {
    "goes16_lst_southamerica_tropics": "GOES-16 LST, South America",
    "mcd43a4_slovenia": "MCD43 reflectance, Slovenia",
    "c3s_sm_combined_monthly_2018": "C3S soil moisture",
    "strbook_sst_anom": "SST anomalies, Pacific (STRbook)",
}
EVERYTHING = "nothing"  # what the run that saw all files was trained without


@dataclass(frozen=True)
class Cut:
    """A crop that was scored: its name, data set, shape and missing share."""

    name: str
    dataset: str
    shape: tuple[int, int, int]
    missing: float


@dataclass(frozen=True)
class Findings:
    """Everything that was measured.

    Parameters
    ----------
    rows : per data set and pattern.
    courses : how each run went, by the data set that it was trained without, or ``EVERYTHING``.
    gone : stems of the files that were left out with each data set, its own first.
    shipped_saw : whether the shipped weights saw each data set; None where their card does not tell.
    start : name of the weights that all runs began with, '' if untrained.
    """

    rows: Sequence[Row]
    courses: Mapping[str, Course]
    gone: Mapping[str, tuple[str, ...]]
    shipped_saw: Mapping[str, bool | None]
    shipped_steps: int | None
    cuts: Sequence[Cut]
    about: About
    budget: str
    start: str
    share: float
    codes: Sequence[str]


def title(dataset: str) -> str:
    """In words, where there are any."""
    return TITLES.get(dataset, dataset)


# --- what it shows ----------------------------------------------------------------------------------------------------


def verdict(findings: Findings) -> str:
    """In sentences."""
    rows = [r for r in findings.rows if math.isfinite(r.ratio(SAW).value)]
    if not rows:
        return "No row has both weights that saw a file and weights that never did.\n"
    told = [*_about_seeing(rows), *_about_chance(rows), *_about_gain(rows), *_about_shipped(findings)]
    return "\n".join(f"- {sentence}" for sentence in told) + "\n"


def _about_seeing(rows: Sequence[Row]) -> list[str]:
    whole = pooled(rows, SAW)
    ranges = [r.ratio(SAW) for r in rows]
    above = [r for r, ratio in zip(rows, ranges, strict=True) if ratio.low > 1]
    below = sum(ratio.high < 1 for ratio in ranges)
    return [
        f"**{_conclusion(whole, seen_against_prior(rows))}** MAE of weights that never saw a file / MAE of weights that did: {whole} as the geometric mean over"
        f" {_count(len(rows), 'row')}.",
        f"The 95 % range of a single row lies above 1 in {len(above)} of {len(rows)}, below 1 in {below}."
        + (f" Above: {', '.join(f'{title(r.dataset)} by {r.kind} {r.ratio(SAW)}' for r in above)}." if above else ""),
    ]  # fmt: skip


def _conclusion(ratio: Ratio, gain: Ratio) -> str:
    """What never / saw, and saw / prior, allow to say.

    >>> gain = Ratio(0.9, 0.88, 0.92)
    >>> _conclusion(Ratio(1.0, 0.99, 1.02), gain)
    'In the mean over all rows the error without having seen the file is at most 2.0 % larger.'
    >>> _conclusion(Ratio(1.2, 1.1, 1.3), gain), _conclusion(Ratio(1.0, 0.9, 1.1), gain)
    ('Having seen a file helps.', 'It is undecided whether having seen a file helps.')
    >>> _conclusion(Ratio(1.0, 0.99, 1.02), Ratio(1.0, 0.99, 1.01))
    'This budget gains nothing certain on the prior: there is no skill here that having seen a file could explain.'
    """
    if not gain.high < 1:
        return "This budget gains nothing certain on the prior: there is no skill here that having seen a file could explain."
    if ratio.high < 1:
        return "Having seen a file does not help."
    if ratio.high <= MARGIN:
        return f"In the mean over all rows the error without having seen the file is at most {100 * (ratio.high - 1):.1f} % larger."
    return (
        "Having seen a file helps." if ratio.low > 1 else "It is undecided whether having seen a file helps."
    )


def _about_chance(rows: Sequence[Row]) -> list[str]:
    """Training is a matter of chance too: weights that all saw a file differ."""
    spread = scatter(rows)
    if not math.isfinite(spread):
        return []
    inside, of = within(rows)
    return [
        f"Training again on other examples changes the error as well: weights that all saw a file, but were trained without another one,"
        f" differ by {100 * spread:.1f} % (standard deviation). In {inside} of {of} rows the weights that never saw the file err no more than"
        " the worst of those that did."
    ]  # fmt: skip


def _about_gain(rows: Sequence[Row]) -> list[str]:
    """Whether there is any skill to be explained."""
    told = []
    saw, never, part = seen_against_prior(rows), pooled(rows, PRIOR), kept(rows)
    if math.isfinite(saw.value):
        rest = (
            f", {100 * part.value:.0f} % of the gain ({100 * part.low:.0f}-{100 * part.high:.0f})"
            if math.isfinite(part.value)
            else ""
        )
        told.append(
            f"Against the candidates' prior alone, weights that saw the file change the error by {100 * (saw.value - 1):+.1f} % ({saw} of the"
            f" prior's), weights that never saw it by {100 * (never.value - 1):+.1f} % ({never}){rest}."
        )
    best = [r for r in rows if math.isfinite(r.ratio(BEST).value)]
    if best:
        won = sum(r.ratio(BEST).value <= 1 for r in best)
        told.append(
            f"Weights that never saw the file err no more than the best other method in {won} of {_count(len(best), 'row')}:"
            f" {pooled(best, BEST)} of its error."
        )
    return told


def _about_shipped(findings: Findings) -> list[str]:
    rows = [r for r in findings.rows if math.isfinite(r.ratio(SHIPPED).value)]
    if not rows:
        return []
    words = {True: "they saw", False: "they never saw", None: "by the recipe they saw"}
    split: dict[str, list[str]] = {}
    for dataset in dict.fromkeys(r.dataset for r in rows):
        split.setdefault(words[findings.shipped_saw.get(dataset)], []).append(title(dataset))
    told = "; ".join(f"{how} {', '.join(names)}" for how, names in split.items())
    steps = f"{findings.shipped_steps:,} steps; " if findings.shipped_steps else ""
    return [
        f"Beside the weights that were shipped when this was run ({steps}{told}), weights that never saw the file have {pooled(rows, SHIPPED)} of their error."
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- the files --------------------------------------------------------------------------------------------------------


def write_json(path: Path, findings: Findings) -> None:
    """Every figure of the page."""
    about = {k: v for k, v in asdict(findings.about).items() if k != "figures"}
    document = {
        "about": {**about, "budget": findings.budget, "start": findings.start, "share_hidden": findings.share},
        "runs": {name: asdict(course) for name, course in findings.courses.items()},
        "left_out": {name: list(gone) for name, gone in findings.gone.items()},
        "shipped_saw": dict(findings.shipped_saw),
        "overall": {against: _ratio(pooled(findings.rows, against)) for against in AGAINST},
        "saw_over_prior": _ratio(seen_against_prior(findings.rows)),
        "gain_kept": _ratio(kept(findings.rows)),
        "scatter": plain(scatter(findings.rows)),
        "rows": [
            {
                "dataset": r.dataset, "kind": r.kind, "hidden": r.hidden, "best_other": r.best,
                "mae": {name: plain(value) for name, value in r.mae.items()},
                "never_over": {against: _ratio(r.ratio(against)) for against in AGAINST},
            }
            for r in findings.rows
        ],
        "crops": [asdict(cut) for cut in findings.cuts],
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _ratio(ratio: Ratio) -> dict[str, Any]:
    return {k: plain(v) for k, v in asdict(ratio).items()}


def write_page(path: Path, findings: Findings, picture_name: str) -> None:
    """The page."""
    what = [
        "Does the pretrained network owe its skill to having seen the very files it is scored on? From the same start, with the same seed",
        f"and the same budget ({findings.budget}), it is trained once with every training file and once without"
        f" {'each of ' if len(findings.gone) > 1 else ''}{_count(len(findings.gone), 'data set')};",
        "all weights then fill the same crops of the file that was left out, with the same cells hidden.\n",
    ]  # fmt: skip
    parts = [
        head("Files left out of training", what, findings.about, findings.codes), "## What it shows\n", verdict(findings),
        f"![Errors of weights that saw a file and of weights that did not]({picture_name})\n",
        "## Row by row\n", _row_table(findings), "## The runs\n", _run_table(findings), "## The crops\n", _crop_table(findings),
        "## How it is measured\n", _method(findings),
    ]  # fmt: skip
    path.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def _row_table(findings: Findings) -> str:
    columns = [
        "data set", "hidden by", "never saw it", "saw it", "saw it, other runs", "shipped then", "prior alone", "best other",
        "never / saw (95 %)", "never / prior (95 %)", "never / best other (95 %)",
    ]  # fmt: skip
    lines = []
    for row in findings.rows:
        others = f"{min(row.others):.4f}-{max(row.others):.4f}" if row.others else "–"
        best = f"{row.error(BEST):.4f} ({row.best})" if row.best else "–"
        lines.append(
            [title(row.dataset), row.kind, *(_n(row.error(name)) for name in (NEVER, SAW)), others,
             *(_n(row.error(name)) for name in (SHIPPED, PRIOR)), best, *(str(row.ratio(a)) for a in (SAW, PRIOR, BEST))]
        )  # fmt: skip
    lines.append(
        ["all (geometric mean)", *[""] * 7, *(str(pooled(findings.rows, a)) for a in (SAW, PRIOR, BEST))]
    )
    legend = (
        "MAE at the hidden cells in standard deviations of the crop. *Saw it, other runs*: least and most of the weights that saw this data\n"
        "set and were trained without another one. *Best other*: the lowest of mean, linear, dct-pls and dineof.\n"
    )
    return f"{legend}\n{table(columns, lines)}"


def _n(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _run_table(findings: Findings) -> str:
    lines = [
        [
            "nothing" if name == EVERYTHING else ", ".join(findings.gone[name]),
            str(c.archives), f"{c.steps:,}", f"{c.minutes:.1f}", c.device,
        ]
        for name, c in findings.courses.items()
    ]  # fmt: skip
    columns = ["trained without", "archives", "steps", "minutes", "device"]
    start = f"the weights `{findings.start}`" if findings.start else "untrained weights"
    states = {c.code for c in findings.courses.values()} - {""}
    mixed = (
        f" They were trained with {len(states)} states of the code, which makes them differ too."
        if len(states) > 1
        else ""
    )
    return f"All begin with {start}; the moving average of the weights after the last step counts, nothing is chosen.{mixed}\n\n{table(columns, lines)}"


def _crop_table(findings: Findings) -> str:
    lines = [[cut.name, " x ".join(map(str, cut.shape)), f"{cut.missing:.0%}"] for cut in findings.cuts]
    return table(["crop", "steps x rows x columns", "missing"], lines)


def _method(findings: Findings) -> str:
    kin = [f"{title(name)} with {', '.join(gone[1:])}" for name, gone in findings.gone.items() if gone[1:]]
    together = (
        f"\n- Files that show the same quantity at the same places are left out together: {'; '.join(kin)}."
        if kin
        else ""
    )
    return (
        "- The recipe is that of the shipped weights (`benchmarks/pretrain.toml`): half simulated worlds, half crops of archives. No cells are set\n"
        "  aside: weights that saw a file were shown all of it, the cells hidden here included.\n"
        f"- Crops lie inside what is packed for training. {findings.share:.0%} of their observed cells are hidden and filled through the engine that\n"
        "  `stimpute fill` runs; *prior alone* is the blend of classical candidates that every network starts from.\n"
        "- Ratios have a 95 % range from a paired bootstrap over blocks of 16 x 16 cells of one step. It knows the chance in what was hidden, not\n"
        "  the chance in training; the runs that left out another data set show that."
        f"{together}\n"
    )  # fmt: skip


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(findings: Findings, path: Path) -> None:
    """Left: error of all weights and of the prior against the best other method. Right: never saw / saw with its range."""
    rows = [r for r in findings.rows if math.isfinite(r.error(NEVER))]
    at = np.arange(len(rows))[::-1]
    with picture(path, (10.5, 1.9 + 0.34 * max(len(rows), 2))) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        _errors(left, rows, at)
        for y, row in zip(at, rows, strict=True):
            ratio = row.ratio(SAW)
            if math.isfinite(ratio.low):
                right.plot([ratio.low, ratio.high], [y, y], color=SECOND, linewidth=1.4)
            right.plot(ratio.value, y, marker="o", markersize=6, color=SECOND)
        right.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        right.set_xlabel("MAE, never saw / saw, with its 95 % range")
        right.set_title("What having seen the file is worth")
        left.set_yticks(at, [f"{title(r.dataset)}, {r.kind}" for r in rows])
        for axis in (left, right):
            axis.set_ylim(-0.7, len(rows) - 0.3)
            axis.grid(axis="y", color="0.92", linewidth=0.6)
            axis.set_axisbelow(True)


def _errors(axis: Any, rows: Sequence[Row], at: Any) -> None:
    styles = {
        PRIOR: ("the candidates' prior alone", {"marker": "|", "color": INK, "markersize": 11, "mew": 1.6}),
        SHIPPED: ("shipped", {"marker": "D", "color": OTHERS[1], "markersize": 5}),
        SAW: ("saw the file", {"marker": "o", "color": ACCENT, "markersize": 7}),
        NEVER: ("never saw the file", {"marker": "o", "color": SECOND, "markersize": 7, "mfc": "none", "mew": 1.8}),
    }  # fmt: skip
    known = [r.error(BEST) if math.isfinite(r.error(BEST)) else 1.0 for r in rows]
    for row, unit, y in zip(rows, known, at, strict=True):
        axis.plot(
            np.array(row.others) / unit, [y] * len(row.others), ".", color=ACCENT, alpha=0.5, markersize=5
        )
    for name, (label, style) in styles.items():
        values = [r.error(name) / unit for r, unit in zip(rows, known, strict=True)]
        axis.plot(values, at, linestyle="", label=label, **style)
    axis.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axis.set_xlabel("MAE / MAE of the best other method (dots: saw it, other runs)")
    axis.set_title("Errors on the file that was left out")
    axis.legend(frameon=False, fontsize=8, loc="best")
