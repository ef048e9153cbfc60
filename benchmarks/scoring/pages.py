"""The page of a benchmark in Markdown and all its figures in JSON. Knows figures, neither methods nor files of data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scoring.cases import SHARE, Case, mark, marks
from scoring.figures import LEVELS, Row, Summary, plain, summarise
from scoring.peers import FAST, HERO


@dataclass(frozen=True)
class About:
    """What a page says about its run."""

    model: str
    sha256: str
    training: str
    seeds: tuple[int, ...]
    command: str
    versions: Mapping[str, str]
    partial: str = ""  # what was left out, in words
    figures: Sequence[str] = ()
    seen: str = ""  # where it is known from which files the weights saw


def write_json(
    path: Path, about: About, rows: Sequence[Row], published: Sequence[Row], cases: Sequence[Case]
) -> None:
    """Every figure of the page, and more."""
    methods = methods_of(rows)
    plain_about = {k: v for k, v in asdict(about).items() if k != "figures"}
    document = {
        "about": {**plain_about, "share_hidden": SHARE, "coverage_levels": LEVELS},
        "cases": [asdict(case) for case in cases],
        "summary": {
            name: {m: _summary(summarise(chosen, m)) for m in methods}
            for name, chosen in {
                "judging": [r for r in rows if r.judges],
                "trained": [r for r in rows if not r.judges],
                "published_frame": list(published),
            }.items()
        },
        "rows": [r.to_dict() for r in rows],
        "published_frame": [r.to_dict() for r in published],
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _summary(summary: Summary | None) -> dict[str, Any] | None:
    return None if summary is None else {k: plain(v) for k, v in vars(summary).items() if k != "extra"}


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Every method that occurs, the hero first."""
    found = list(dict.fromkeys(m for r in rows for m in r.entries))
    return sorted(found, key=lambda m: m != HERO)


def write_page(
    path: Path,
    about: About,
    rows: Sequence[Row],
    published: Sequence[Row],
    cases: Sequence[Case],
    title: str = "Skill",
) -> None:
    """The page."""
    judging, trained = [r for r in rows if r.judges], [r for r in rows if not r.judges]
    parts = [_head(about, rows, cases, title)]
    if judging:
        parts += ["## Over all cases\n", _summary_table(judging, "Files that the weights never saw")]
    if trained:
        parts.append(_summary_table(trained, "Files that the weights saw in training (†)"))
    if rows:
        parts += [_verdict(judging), _pictures(about), "## Case by case\n", _legend(rows), _row_table(rows)]
    if published:
        parts += ["## The published fills of one frame\n", _published(published)]
    if rows:
        parts += ["## The cases\n", _case_table(cases, rows)]
    parts.append(_notes([*rows, *published]))
    path.write_text("\n".join(part for part in parts if part).rstrip() + "\n", encoding="utf-8")


def _head(about: About, rows: Sequence[Row], cases: Sequence[Case], title: str) -> str:
    codes = {e.code for r in rows for e in r.entries.values() if e.code}
    lines = [
        f"# {title}\n",
        "Observed cells of public stacks are hidden the way gaps hide them, every method fills the stack through the engine",
        "that `stimpute fill` runs, and what it says is compared with what was hidden. Written by:\n",
        f"```\n{about.command}\n```\n",
        f"- Model: `{about.model}`, sha256 `{about.sha256[:16]}…`; training: {about.training}.",
        f"- {len(rows)} rows: {len(cases)} cases, {SHARE:.0%} of the observed cells hidden, seed {', '.join(map(str, about.seeds))};"
        " windows and files in `benchmarks/cases.toml`, fixed before any score was looked at.",
        f"- Software: {', '.join(f'{k} {v}' for k, v in about.versions.items())}; one thread.",
    ]
    if about.seen:
        lines.append(f"- Which files the weights saw: by {about.seen}.")
    if len(codes) > 1:
        lines.append(
            f"- The rows come from {len(codes)} states of the code: the run was interrupted and went on."
        )
    if about.partial:
        lines.append(f"- **What was run:** {about.partial}.")
    return "\n".join(lines) + "\n"


def _summary_table(rows: Sequence[Row], title: str) -> str:
    found = [s for s in (summarise(rows, m) for m in methods_of(rows)) if s]
    if not found:
        return ""
    spared = {r.case for r in rows if r.spared}
    note = f", {len(spared)} of them of files that train (‡)" if spared else ""
    lines = [
        f"{title}: {len({r.case for r in rows})} cases{note}, {len(rows)} rows.\n",
        "| method | MAE / best other (geometric mean) | rows <= 1.0 | worst | CRPS / best other | 90 % interval covers (median) | 87-93 % | 80-97 % | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    if FAST in {s.method for s in found}:
        lines.insert(
            1,
            f"`{FAST}` is `fill --fast`: a setting of {HERO}, and as such none of the others that either is compared with.\n",
        )
    best = min(s.ratio for s in found)
    for s in found:
        ratio = f"**{s.ratio:.3f}**" if s.ratio == best else f"{s.ratio:.3f}"
        lines.append(
            f"| {s.method} | {ratio} | {s.won:.0%} of {s.rows} | {s.worst:.2f} ({s.worst_at}) | {_n(s.crps_ratio, 3)}"
            f" | {_n(s.coverage, 3)} | {_p(s.narrow)} | {_p(s.wide)} | {s.seconds:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def _verdict(rows: Sequence[Row]) -> str:
    """What the paired bootstrap allows to say."""
    tested = [r for r in rows if math.isfinite(r.interval[0])]
    if not tested:
        return ""
    better = [r for r in tested if r.interval[1] < 1]
    worse = [r for r in tested if r.interval[0] > 1]
    above = [r for r in tested if r.interval[0] > 1.05]
    lines = [
        f"Paired bootstrap of MAE({HERO}) / MAE(best other), hidden cells drawn in blocks of 16 x 16 of one step: the 95 % range lies"
        f" below 1 in {len(better)} of {len(tested)} rows, above 1 in {len(worse)}, above 1.05 in {len(above)}"
        + (f" ({', '.join(f'{r.case} {r.kind}' for r in above)})." if above else ".")
    ]
    return "\n".join(lines) + "\n"


def _pictures(about: About) -> str:
    titles = {
        "skill_heat.png": "Error of every method on every case, and the ratio to the best other by pattern",
        "skill_maps.png": "Where the methods err, on two cases",
        "skill_calibration.png": "Nominal and actual coverage",
    }
    return "\n".join(f"![{titles[name]}]({name})\n" for name in about.figures if name in titles)


def _legend(rows: Sequence[Row]) -> str:
    text = (
        "MAE of every method in standard deviations of the observed cells; the lowest in bold. *Ratio*: MAE of st / best other\n"
        "method of the row, with its 95 % range. *Cover*: share of the truth inside st's 90 % interval. *CRPS*: of st, in standard\n"
        "deviations, and of the best other. *s*: seconds of st. A method in brackets said nothing on more than 0.1 % of the hidden\n"
        "cells and is not compared; – was not run (see the notes)."
    )
    return " ".join([text, *(f"{said}." for said in marks(rows))]) + "\n"


def _row_table(rows: Sequence[Row]) -> str:
    methods = methods_of(rows)
    head = ["case", "hidden by", *methods, "ratio", "cover", "CRPS", "s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{row.case}{mark(row)}", row.kind, *_maes(row, methods), *_hero_cells(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _maes(row: Row, methods: Sequence[str]) -> list[str]:
    lowest = min((e.mae for e in row.entries.values() if e.comparable), default=math.nan)
    cells = []
    for method in methods:
        entry = row.entries.get(method)
        if entry is None or not entry.n:
            cells.append("–")
        elif not entry.comparable:
            cells.append(f"({entry.mae:.3f})")
        else:
            cells.append(f"**{entry.mae:.3f}**" if entry.mae == lowest else f"{entry.mae:.3f}")
    return cells


def _hero_cells(row: Row) -> list[str]:
    entry = row.entries.get(HERO)
    if entry is None or not entry.n:
        return ["–"] * 4
    low, high = row.interval
    span = f" ({low:.2f}-{high:.2f})" if math.isfinite(low) else ""
    return [
        f"{_n(row.ratio(HERO))}{span}",
        _n(entry.coverage),
        f"{_n(entry.crps, 3)} / {_n(row.best_other(HERO, 'crps')[1], 3)}",
        f"{entry.seconds:.1f}",
    ]


def _published(rows: Sequence[Row]) -> str:
    methods = methods_of(rows)
    lines = [
        "MODIS LST of St Petersburg, 2019-06-05 (the whole frame is known), under the eight cloud shapes of the SSGP-toolbox's own",
        "comparison: MAE in K at the hidden cells. The columns marked *published* are that comparison's stored outputs, the others",
        "fill the same stack of 28 frames with the target frame clouded."
        + ("" if all(row.judges for row in rows) else " The weights saw the file in training (†).")
        + "\n",
        "| clouded | " + " | ".join(methods) + f" | {HERO} / best other (95 %) |",
        "|" + "---|" * (len(methods) + 2),
    ]
    for row in rows:
        lowest = min((e.mae for e in row.entries.values() if e.comparable), default=math.nan)
        cells = []
        for m in methods:
            entry = row.entries.get(m)
            if entry is None or not entry.n:
                cells.append("–")
                continue
            text = f"{entry.mae * row.spread:.3f}"
            if not entry.comparable:
                text = f"({text})"
            cells.append(f"**{text}**" if entry.mae == lowest else text)
        cells.append(_hero_cells(row)[0])
        lines.append(f"| {row.kind} | " + " | ".join(cells) + " |")
    means = [summarise(rows, m) for m in methods]
    ratios = " | ".join("–" if s is None else f"{s.ratio:.2f}" for s in means)
    lines.append(f"| MAE / best other, geometric mean | {ratios} | |")
    return "\n".join(lines) + "\n"


def _case_table(cases: Sequence[Case], rows: Sequence[Row]) -> str:
    shapes = {r.case: (r.shape, r.missing, r.spread) for r in rows}
    lines = ["| case | what | file | steps x rows x columns | missing | sd |", "|---|---|---|---|---|---|"]
    for case in cases:
        if case.name in shapes:
            (t, ny, nx), missing, spread = shapes[case.name]
            lines.append(
                f"| {case.name}{mark(case)} | {case.about} | {case.file}:{case.variable} | {t} x {ny} x {nx} | {missing:.0%} | {spread:.3g} |"
            )
    return "\n".join(lines) + "\n"


def _notes(rows: Sequence[Row]) -> str:
    notes: dict[str, list[str]] = {}
    for row in rows:
        for entry in row.entries.values():
            if entry.note:
                notes.setdefault(f"{entry.method}: {entry.note}", []).append(f"{row.case} {row.kind}")
    if not notes:
        return ""
    lines = [f"- {note} ({', '.join(where)})" for note, where in notes.items()]
    return "## Not run\n\n" + "\n".join(lines) + "\n"


def _n(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _p(value: float) -> str:
    return f"{value:.0%}" if math.isfinite(value) else "–"
