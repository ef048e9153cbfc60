"""The pictures of a benchmark: heat map, maps of error, coverage. Draws only, in the look of the package's own pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.ticker import MaxNLocator

from scoring.cases import mark, marks
from scoring.figures import LEVELS, Row, geometric_mean
from scoring.peers import HERO
from stimpute.grid import Grid
from stimpute.report.canvas import ERRORS, INK, NOTHING, OTHERS, SECOND, draw_map, picture, spread
from stimpute.stack import Float32Array

KIND_ORDER = ("pixel", "gap", "block", "frames", "swath", "value")


@dataclass(frozen=True, eq=False)
class ErrorMaps:
    """Mean absolute error over the steps, (y, x) per method, in standard deviations of the stack."""

    case: str
    kind: str
    grid: Grid
    maps: dict[str, Float32Array]
    mae: dict[str, float]


def draw_heat(rows: Sequence[Row], methods: Sequence[str], path: Path) -> None:
    """Left: case x method, MAE / sd, geometric mean over the patterns. Right: case x pattern, the hero's ratio."""
    cases = list(dict.fromkeys(r.case for r in rows))
    kinds = [k for k in KIND_ORDER if any(r.kind == k for r in rows)]
    labels = list(dict.fromkeys(f"{r.case}{mark(r)}" for r in rows))
    by_method = np.full((len(cases), len(methods)), np.nan)
    ratio = np.full((len(cases), len(kinds)), np.nan)
    for i, case in enumerate(cases):
        own = [r for r in rows if r.case == case]
        for j, method in enumerate(methods):
            values = [r.entries[method].mae for r in own if method in r.entries and r.entries[method].n]
            by_method[i, j] = geometric_mean([v for v in values if v > 0])
        for r in own:
            ratio[i, kinds.index(r.kind)] = r.ratio(HERO)
    width = 2.6 + 0.82 * (len(methods) + len(kinds))
    with picture(path, (max(width, 6.5), 1.9 + 0.36 * len(cases))) as figure:
        axes = figure.subplots(1, 2, width_ratios=[len(methods), max(len(kinds), 2)], sharey=True)
        image = _cells(
            axes[0], by_method, {"cmap": ERRORS, "vmin": 0, "vmax": max(1.0, float(np.nanmax(by_method)))}
        )
        axes[0].set_title("MAE / standard deviation")
        axes[0].set_xticks(range(len(methods)), methods, rotation=35, ha="right")
        axes[0].set_yticks(range(len(cases)), labels)
        figure.colorbar(image, ax=axes[0], shrink=0.8)
        norm = TwoSlopeNorm(1.0, 0.5, 1.5)
        image = _cells(axes[1], ratio, {"cmap": "RdBu_r", "norm": norm})
        axes[1].set_title(f"MAE of {HERO} / best other")
        axes[1].set_xticks(range(len(kinds)), kinds, rotation=35, ha="right")
        axes[1].tick_params(left=False)
        figure.colorbar(image, ax=axes[1], shrink=0.8, extend="both")
        if said := marks(rows):
            figure.supxlabel("; ".join(said), fontsize=8, x=0.01, ha="left")


def _cells(ax: Any, values: Any, colours: dict[str, Any]) -> Any:
    """Coloured cells with their numbers, legible on any colour."""
    image = ax.imshow(np.ma.masked_invalid(values), aspect="auto", **colours)
    ax.set_facecolor(NOTHING)
    for spine in ax.spines.values():
        spine.set_visible(False)
    for (i, j), value in np.ndenumerate(values):
        if math.isnan(value):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(
            j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
        )
    return image


def draw_error_maps(boards: Sequence[ErrorMaps], path: Path) -> None:
    """One row of maps per case, the same colours within a case."""
    columns = max(len(b.maps) for b in boards)
    with picture(path, (2.2 * columns + 1.2, 3.3 * len(boards))) as figure:
        parts: Any = figure.subfigures(len(boards), 1, squeeze=False)
        for board, part in zip(boards, parts[:, 0], strict=True):
            axes = part.subplots(1, columns, squeeze=False)[0]
            limits = (0.0, spread(*board.maps.values())[1])
            image = None
            for ax, (method, error) in zip(axes, board.maps.items(), strict=False):
                above = f"{board.case}, hidden by '{board.kind}'\n" if ax is axes[0] else ""
                title = f"{above}{method}  {board.mae[method]:.2f}"
                image = draw_map(ax, error, board.grid, title, ERRORS, limits)
                ax.xaxis.set_major_locator(MaxNLocator(2))
                if ax is not axes[0]:
                    ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
            for ax in axes[len(board.maps) :]:
                ax.axis("off")
            part.colorbar(image, ax=list(axes), label="|error| / sd", shrink=0.75)


def draw_calibration(rows: Sequence[Row], methods: Sequence[str], path: Path) -> None:
    """Nominal against actual coverage: the median over the rows of each method, the hero with its middle 80 %."""
    curves = {
        m: np.array([r.entries[m].levels for r in rows if m in r.entries and r.entries[m].levels])
        for m in methods
    }
    colours = dict(zip([m for m in methods if m != HERO], OTHERS, strict=False))
    with picture(path, (9.5, 4.4)) as figure:
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        for method, several in curves.items():
            if not len(several):
                continue
            hero = method == HERO
            style = (
                {"color": SECOND, "linewidth": 2.2, "zorder": 3}
                if hero
                else {"color": colours.get(method, INK), "linewidth": 1}
            )
            left.plot(LEVELS, np.median(several, axis=0), marker="o", markersize=3, label=method, **style)
            if hero:
                low, high = np.percentile(several, (10, 90), axis=0)
                left.fill_between(LEVELS, low, high, color=SECOND, alpha=0.15, linewidth=0)
        left.set_xlabel("nominal coverage")
        left.set_ylabel("actual coverage, median over the cases")
        left.set_title("Intervals after the engine's calibration")
        left.legend(frameon=False)
        _ninety(right, rows, methods)


def _ninety(ax: Any, rows: Sequence[Row], methods: Sequence[str]) -> None:
    """Coverage of the 90 % interval, a dot per row."""
    shown = [
        m for m in methods if any(m in r.entries and math.isfinite(r.entries[m].coverage) for r in rows)
    ][::-1]
    ax.axvspan(0.87, 0.93, color="0.85", linewidth=0)
    ax.axvline(0.9, color=INK, linewidth=0.8, linestyle=":")
    for i, method in enumerate(shown):
        covered = [r.entries[method].coverage for r in rows if method in r.entries]
        jitter = np.linspace(-0.25, 0.25, len(covered)) if len(covered) > 1 else np.zeros(len(covered))
        colour = SECOND if method == HERO else mpl.colors.to_hex(INK)
        ax.plot(covered, i + jitter, linestyle="", marker="o", markersize=3.5, alpha=0.7, color=colour, mew=0)
    ax.set_yticks(range(len(shown)), shown)
    ax.set_xlabel("actual coverage of the 90 % interval")
    ax.set_title("Every case (grey: 87-93 %)")
