"""The picture of a fill: a gappy step before and after, its standard error, and the series at the worst gap. Draws only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from stimpute.grid import Grid
from stimpute.protocols import FILLED
from stimpute.report.canvas import ACCENT, ERRORS, INK, SECOND, VALUES, draw_map, picture, spread

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FilledStack:
    """What was observed and what came out, thinned to what a picture can show. Arrays (time, y, x), NaN where nothing."""

    name: str
    units: str
    grid: Grid
    times: npt.NDArray[np.float64]
    labels: Sequence[str]
    before: Float32Array
    after: Float32Array
    standard_error: Float32Array
    flag: npt.NDArray[np.uint8]
    method: str = ""


def worst_step(stack: FilledStack) -> int:
    """The step with most filled cells among those that still show a tenth of what the fullest shows (else the fullest)."""
    filled = (stack.flag == FILLED).sum(axis=(1, 2))
    seen = np.isfinite(stack.before).sum(axis=(1, 2))
    return int(np.argmax(np.where(seen >= 0.1 * seen.max(), filled, -1)))


def worst_cell(stack: FilledStack) -> tuple[int, int]:
    """The cell whose longest run of filled steps is longest, among those observed at least twice (if any)."""
    longest = run = np.zeros(stack.flag.shape[1:], dtype=np.int64)
    for step in stack.flag:
        run = np.where(step == FILLED, run + 1, 0)
        longest = np.maximum(longest, run)
    seen = np.isfinite(stack.before).sum(axis=0)
    enough = seen >= min(2, int(seen.max()))
    row, col = np.unravel_index(int(np.argmax(np.where(enough, longest, -1))), longest.shape)
    return int(row), int(col)


def draw_fill(stack: FilledStack, path: str | Path) -> None:
    """Before, after, standard error (maps of one step) and a series with its 90 % interval.

    Raises
    ------
    UsageError, OutputError : the path cannot be a picture, or cannot be written.
    """
    step, cell = worst_step(stack), worst_cell(stack)
    label = f"{stack.name} ({stack.units})" if stack.units else stack.name
    before, after, error = stack.before[step], stack.after[step], stack.standard_error[step]
    tall = stack.before.shape[1] / stack.before.shape[2]
    with picture(path, (12, 3.4 + 3.2 * min(max(tall, 0.5), 1.2))) as figure:
        axes: dict[str, Axes] = figure.subplot_mosaic(
            [["before", "after", "error"], ["series"] * 3], height_ratios=[1.6, 1]
        )
        limits = spread(before, after)
        draw_map(axes["before"], before, stack.grid, f"observed, {stack.labels[step]}", VALUES, limits)
        image = draw_map(axes["after"], after, stack.grid, f"filled ({stack.method})", VALUES, limits)
        figure.colorbar(image, ax=[axes["before"], axes["after"]], label=label, shrink=0.9)
        top = spread(error)[1] if np.isfinite(error).any() else 1.0
        image = draw_map(
            axes["error"], error, stack.grid, "standard error of filled cells", ERRORS, (0.0, top)
        )
        figure.colorbar(image, ax=axes["error"], label=label, shrink=0.9)
        for name in ("before", "after", "error"):
            _mark(axes[name], stack.grid, cell)
        _draw_series(axes["series"], stack, cell, step, label)


def _mark(ax: Axes, grid: Grid, cell: tuple[int, int]) -> None:
    factor = grid.km_per_unit if grid.units == "length" else 1.0
    if grid.kind in {"curvilinear", "points"} or grid.units == "cells":
        x, y = float(cell[1]), float(cell[0])
    else:
        x, y = float(grid.x[cell[1]]) * factor, float(grid.y[cell[0]]) * factor
    ax.plot(
        x, y, marker="o", markersize=7, markerfacecolor="none", markeredgecolor=SECOND, markeredgewidth=1.5
    )


def _draw_series(ax: Axes, stack: FilledStack, cell: tuple[int, int], step: int, label: str) -> None:
    row, col = cell
    days = _dates(stack)
    before, after = stack.before[:, row, col], stack.after[:, row, col]
    error = np.nan_to_num(stack.standard_error[:, row, col]) * np.float32(1.645)
    ax.fill_between(
        days, after - error, after + error, color=ACCENT, alpha=0.2, linewidth=0, label="90 % interval"
    )
    ax.plot(days, after, color=ACCENT, linewidth=1.2, label="filled")
    ax.plot(days, before, "o", color=INK, markersize=3, label="observed")
    ax.axvline(days[step], color=SECOND, linewidth=0.8, linestyle=":", label="the step above")
    ax.set_title(f"the cell with the longest gap (row {row}, column {col}, circled above)")
    ax.set_xlabel("days since the first step" if days is stack.times else "")
    ax.set_ylabel(label)
    ax.legend(frameon=False, ncols=4, loc="upper left", bbox_to_anchor=(0.0, -0.12))


def _dates(stack: FilledStack) -> npt.NDArray[np.float64]:
    """Dates where the labels are ones that numpy reads, else days."""
    if not all("-" in label[1:] for label in stack.labels):  # numbers, that numpy would read as years
        return stack.times
    try:
        return np.array(
            [np.datetime64(text.removesuffix("Z")) for text in stack.labels], dtype="datetime64[s]"
        )
    except ValueError:
        return stack.times
