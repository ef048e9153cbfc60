"""The page on what each candidate is worth: tables, what they say, the picture. Every sentence follows from figures.

Knows figures, neither data nor candidates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scoring.candidate_figures import (
    BEST,
    FAST,
    NETWORK,
    PRIOR,
    Row,
    against_prior,
    alone,
    better,
    candidates_of,
    settings_of,
    without,
)
from scoring.command import head, table
from scoring.compute_figures import NOISE, Effect, file_of
from scoring.figures import plain
from scoring.pages import About
from stimpute.report.canvas import ACCENT, INK, SECOND, picture

WORTH, NOTHING, HARM = "costs", "nothing", "harms"  # what leaving a candidate out does
FEW = 8  # files, below which a range from drawing files again is not to be trusted
COLOURS = {WORTH: ACCENT, NOTHING: "0.7", HARM: SECOND}


@dataclass(frozen=True)
class Findings:
    """Everything that was measured.

    Parameters
    ----------
    rows : those with errors.
    share : of the observed cells that is hidden.
    cells : cell-steps of a crop, at most.
    seen : files that the network saw in training, by its card.
    about : how it was run.
    """

    rows: Sequence[Row]
    share: float
    cells: int
    seen: frozenset[str]
    about: About

    @property
    def files(self) -> set[str]:
        """That the archives were packed from."""
        return {file_of(row.archive) for row in self.rows}

    @property
    def candidates(self) -> list[str]:
        """In their order."""
        return candidates_of(self.rows)

    @property
    def settings(self) -> list[float]:
        """Shares of steps taken away."""
        return settings_of(self.rows)

    def within(self, empty: float, kind: str | None = None) -> list[Row]:
        """The rows of a setting, of one pattern."""
        return [r for r in self.rows if r.empty == empty and kind in (None, r.kind)]


def setting(empty: float) -> str:
    """In words.

    >>> setting(0.0), setting(0.4)
    ('as they are', 'with 40 % of the steps taken away')
    """
    return f"with {100 * empty:g} % of the steps taken away" if empty else "as they are"


def title(variant: str, model: str) -> str:
    """A variant in words."""
    words = {PRIOR: "the prior", BEST: "best candidate of each row, the truth in hand", FAST: "prior of `--fast`", NETWORK: f"network `{model}`"}  # fmt: skip
    return words.get(variant, variant)


def kind_of(effect: Effect) -> str:
    """What leaving a candidate out does for certain.

    >>> import numpy as np
    >>> [kind_of(Effect(v, np.array([v - 0.01, v + 0.01]))) for v in (1.02, 1.0, 0.98)]
    ['costs', 'nothing', 'harms']
    """
    return WORTH if effect.harms else HARM if effect.helps else NOTHING


# --- what it shows ----------------------------------------------------------------------------------------------------


def verdict(findings: Findings) -> str:
    """In sentences."""
    told = [*_about_all(findings), *_about_each(findings), *_about_others(findings)]
    return "\n".join(f"- {sentence}" for sentence in told) + "\n"


def _about_all(findings: Findings) -> list[str]:
    files = len(findings.files)
    told = [f"{_count(files, 'file')} only: too few for ranges that mean much."] if files < FEW else []
    for empty in findings.settings:
        rows = findings.within(empty)
        found: dict[str, list[str]] = {WORTH: [], NOTHING: [], HARM: []}
        for name in findings.candidates:
            found[kind_of(against_prior(rows, without(name)))].append(name)
        several = _count(len(findings.candidates), "candidate")
        named = f" ({', '.join(found[HARM])})" if found[HARM] else ""
        told.append(
            f"Stacks {setting(empty)} ({_count(len(rows), 'row')} of {_count(len({r.archive for r in rows}), 'archive')}): for certain, leaving it out"
            f" costs for {len(found[WORTH])} of {several}, lowers the error for {len(found[HARM])}{named}; for {len(found[NOTHING])} neither."
        )
    return told


def _about_each(findings: Findings) -> list[str]:
    told = []
    for name in _by_worth(findings):
        effects = [(empty, against_prior(findings.within(empty), without(name))) for empty in findings.settings]  # fmt: skip
        parts = "; ".join(f"{_changes(effect)} {setting(empty)}" for empty, effect in effects)
        again = sum(name in row.doubles for row in findings.rows)
        same = (
            f" In {again} of {_count(len(findings.rows), 'row')} another candidate says exactly the same: leaving it out changes but weights there."
            if again
            else ""
        )
        told.append(f"`{name}`, left out, {parts}.{same}")
    return told


def _changes(effect: Effect) -> str:
    """What leaving a candidate out does to the error.

    >>> import numpy as np
    >>> _changes(Effect(1.02, np.array([1.01, 1.03])))
    'costs 2.0 % (1.020 (1.010-1.030))'
    >>> _changes(Effect(0.99, np.array([0.98, 0.995])))[:39], _changes(Effect(1.0))
    ('lowers the error by 1.0 %: it does harm', 'changes nothing for certain (1.000)')
    """
    certain = {
        WORTH: f"costs {_percent(effect.value - 1)}",
        NOTHING: "changes nothing for certain",
        HARM: f"lowers the error by {_percent(1 - effect.value)}: it does harm",
    }
    return f"{certain[kind_of(effect)]} ({effect.ratio})"


def _percent(share: float) -> str:
    """In words, none of them 0.0 %.

    >>> _percent(0.0123), _percent(0.0003)
    ('1.2 %', 'less than 0.1 %')
    """
    return f"{100 * share:.1f} %" if share >= 5e-4 else "less than 0.1 %"


def _about_others(findings: Findings) -> list[str]:
    told, seen = [], len(findings.seen & findings.files)
    for empty in findings.settings:
        ratios = {v: against_prior(findings.within(empty), v).ratio for v in (BEST, FAST, NETWORK)}
        told.append(
            f"Stacks {setting(empty)}, error / error of the prior: {ratios[BEST]} for the best candidate of each row, chosen with the truth in"
            f" hand; {ratios[FAST]} for the prior of `--fast`; {ratios[NETWORK]} for the network, which saw {seen} of {_count(len(findings.files), 'file')} in training."
        )
    return told


def _by_worth(findings: Findings) -> list[str]:
    """The candidates, the one that costs most to leave out of the first setting first."""
    rows = findings.within(findings.settings[0])
    return sorted(findings.candidates, key=lambda name: -against_prior(rows, without(name)).value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- the files --------------------------------------------------------------------------------------------------------


def write_json(path: Path, findings: Findings) -> None:
    """Every figure of the page."""
    about = {k: v for k, v in asdict(findings.about).items() if k != "figures"}
    document = {
        "about": {**about, "share_hidden": findings.share, "noise": NOISE},
        "settings": [
            {"empty": empty, "rows": len(findings.within(empty)), "over_prior": _over_prior(findings, empty)}
            for empty in findings.settings
        ],
        "rows": [{k: _rounded(v) for k, v in row.to_json().items()} for row in findings.rows],
    }
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _over_prior(findings: Findings, empty: float) -> dict[str, Any]:
    rows = findings.within(empty)
    return {
        variant: {
            **{k: plain(v) for k, v in asdict(against_prior(rows, variant).ratio).items()},
            "better": plain(better(rows, variant)),
            "by_kind": {k: plain(against_prior(findings.within(empty, k), variant).value) for k in _kinds(rows)},
        }
        for variant in _variants(findings)
    }  # fmt: skip


def _rounded(value: Any) -> Any:
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else plain(value)


def write_page(path: Path, findings: Findings, picture_name: str) -> None:
    """The page."""
    what = [
        "Every fill starts from a blend of classical estimates, weighted by what each gets wrong on an internal hold-out",
        "([decision 13](../decisions/0013-error-by-proximity.md)). What is each of them worth? Crops of the files that train, never of those that judge, are",
        "filled by the blend of all candidates, the *prior*, and by the blends of all but one.\n",
    ]  # fmt: skip
    tables = [
        part
        for empty in findings.settings
        for part in (f"## Stacks {setting(empty)}\n", _variant_table(findings, empty))
    ]
    parts = [
        head("What each candidate is worth", what, findings.about, [r.code for r in findings.rows]),
        "## What it shows\n", verdict(findings), f"![Error of the prior without each candidate / error of the prior]({picture_name})\n",
        *tables, "## The crops\n", _crop_table(findings), "## How it is measured\n", _method(findings),
    ]  # fmt: skip
    path.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


def _variants(findings: Findings) -> list[str]:
    names = findings.candidates
    return [PRIOR, BEST, FAST, NETWORK, *map(without, names), *map(alone, names)]


def _kinds(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(r.kind for r in rows))


def _variant_table(findings: Findings, empty: float) -> str:
    rows = findings.within(empty)
    kinds = _kinds(rows)
    lines = [
        [
            title(variant, findings.about.model), str(against_prior(rows, variant).ratio),
            *(_n(against_prior(findings.within(empty, kind), variant).value) for kind in kinds), f"{better(rows, variant):.0%}",
        ]
        for variant in _variants(findings)
    ]  # fmt: skip
    legend = f"MAE / MAE of the prior, geometric mean over {_count(len(rows), 'row')} with its 95 % range, and by what was hidden; share of rows that are better.\n"
    return f"{legend}\n{table(['variant', 'all rows (95 %)', *kinds, 'rows better'], lines)}"


def _n(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"


def _crop_table(findings: Findings) -> str:
    first = {(r.archive, r.empty): r for r in reversed(findings.rows)}
    names = list(dict.fromkeys(r.archive for r in findings.rows))
    lines = []
    for name in names:
        several = [first.get((name, empty)) for empty in findings.settings]
        one = next(row for row in several if row)
        shape = " x ".join(map(str, one.shape))
        missing = [f"{row.missing:.0%}" if row else "–" for row in several]
        lines.append([name, shape, "of other archives" if one.laid else "its own", *missing])
    columns = ["archive", "steps x rows x columns", "gaps", *(f"missing, {setting(empty)}" for empty in findings.settings)]  # fmt: skip
    return table(columns, lines)


def _method(findings: Findings) -> str:
    rows = findings.rows
    seconds = sum(row.seconds for row in rows) / len(rows)
    return (
        f"- From each of {_count(len({r.archive for r in rows}), 'packed archive')} of {_count(len(findings.files), 'file')} one window"
        f" of at most {findings.cells:,} cell-steps, of some drawn at random the one of which most is observed.\n"
        "  Where hardly any cell is missing that was ever observed, each frame gets the gap of a frame of an archive whose gaps move.\n"
        f"- {findings.share:.0%} of the observed cells are hidden and scored; *frames* hides whole steps. Steps that are taken away are not scored.\n"
        "- All candidates are computed once for each view; every blend is made of these, with weights of its own. *Alone*: this candidate and nothing\n"
        "  else. *Best candidate of each row*: the one with the lowest error, which nobody can know. The network is given the candidates that its\n"
        "  configuration names. Archives have no covariates: regression on them is but a stand-in here.\n"
        f"- MAE is in standard deviations of what was given; ratios are of MAE + {NOISE:g}, so that errors of rounding say nothing. Their 95 % range is from a\n"
        "  bootstrap over files (archives of one file are drawn together), paired between variants. *For certain*: the range excludes 1.\n"
        f"- A row took {seconds:.1f} CPU seconds in the mean.\n"
    )  # fmt: skip


# --- the picture ------------------------------------------------------------------------------------------------------


def draw(findings: Findings, path: Path) -> None:
    """A bar for each candidate: error of the prior without it / error of the prior, with the range, setting by setting."""
    names = _by_worth(findings)[::-1]
    settings = findings.settings
    with picture(path, (4.2 + 3.4 * len(settings), 1.4 + 0.26 * len(names))) as figure:
        axes = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
        for axis, empty in zip(axes, settings, strict=True):
            rows = findings.within(empty)
            effects = [against_prior(rows, without(name)) for name in names]
            widths = [e.value - 1 for e in effects]
            axis.barh(range(len(names)), widths, left=1, height=0.66, color=[COLOURS[kind_of(e)] for e in effects])  # fmt: skip
            for y, effect in enumerate(effects):
                axis.plot([effect.ratio.low, effect.ratio.high], [y, y], color=INK, linewidth=1.2)
            axis.axvline(1, color=INK, linewidth=0.8)
            axis.set_xlabel("MAE without it / MAE of the prior, 95 % range")
            axis.set_title(f"Stacks {setting(empty)}")
            axis.grid(axis="x", color="0.92", linewidth=0.6)
            axis.set_axisbelow(True)
        axes[0].set_yticks(range(len(names)), names)
