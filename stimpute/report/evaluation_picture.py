"""The picture of an evaluation: errors of every method on every case, and where the methods err. Draws only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from stimpute.grid import Grid
from stimpute.metrics import BinScores, Scores
from stimpute.report.canvas import ACCENT, ERRORS, INK, NOTHING, OTHERS, SECOND, draw_map, picture, spread

MAX_MAPS = 6


class Row(Protocol):
    """One method on one case."""

    @property
    def method(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def scores(self) -> Scores | None: ...
    @property
    def bins(self) -> Sequence[BinScores]: ...


class ErrorMap(Protocol):
    """Mean absolute error of one method on one case, (y, x)."""

    @property
    def method(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def error(self) -> npt.NDArray[np.float32]: ...


class Scoreboard(Protocol):
    """What is drawn."""

    @property
    def name(self) -> str: ...
    @property
    def units(self) -> str: ...
    @property
    def spread(self) -> float: ...
    @property
    def by(self) -> str | None: ...
    @property
    def bin_unit(self) -> str: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def maps(self) -> Sequence[ErrorMap]: ...


def draw_evaluation(board: Scoreboard, path: str | Path) -> None:
    """Bars (one case) or a heat map (several) of the error, error by bin if there are any, maps of the first case.

    Raises
    ------
    UsageError, OutputError : the path cannot be a picture, or cannot be written.
    """
    kinds = list(dict.fromkeys(row.kind for row in board.rows))
    maps = sorted((m for m in board.maps if m.kind == kinds[0]), key=lambda m: float(np.nanmean(m.error)))[
        :MAX_MAPS
    ]
    binned = any(row.bins for row in board.rows)
    ny, nx = board.grid.shape
    columns = 6 if ny > 1.5 * nx else 3
    map_rows = math.ceil(len(maps) / columns)
    with picture(path, (12, 3.6 + 3.0 * map_rows)) as figure:
        parts: Any = figure.subfigures(2, 1, height_ratios=[3.6, max(3.0 * map_rows, 0.01)])
        top, bottom = parts
        axes = top.subplots(1, 2 if binned else 1, squeeze=False)[0]
        if len(kinds) > 1:
            _heat_map(axes[0], board, kinds)
        else:
            _bars(axes[0], board)
        if binned:
            _lines(axes[1], board, kinds[0])
        if maps:
            _maps(bottom.subplots(map_rows, columns, squeeze=False).ravel(), board, maps)


def _unit(board: Scoreboard) -> str:
    return f" ({board.units})" if board.units else ""


def _bars(ax: Axes, board: Scoreboard) -> None:
    scored = sorted(((r.scores.mae, r.method) for r in board.rows if r.scores and r.scores.n), reverse=True)
    names = [name for _, name in scored]
    ax.barh(
        names,
        [mae for mae, _ in scored],
        color=[SECOND if name == "st" else ACCENT for name in names],
        height=0.65,
    )
    for position, (mae, _) in enumerate(scored):
        ax.text(mae, position, f" {mae:.3g}", va="center", color=INK)
    ax.set_xlabel(f"mean absolute error{_unit(board)}")
    ax.set_title(f"{board.name}, hidden by '{board.rows[0].kind}' (spread of the data {board.spread:.3g})")
    ax.margins(x=0.12)


def _heat_map(ax: Axes, board: Scoreboard, kinds: list[str]) -> None:
    methods = list(dict.fromkeys(row.method for row in board.rows))
    mae = np.full((len(methods), len(kinds)), np.nan)
    for row in board.rows:
        if row.scores and row.scores.n:
            mae[methods.index(row.method), kinds.index(row.kind)] = (
                row.scores.mae / board.spread if board.spread else 0.0
            )
    image = ax.imshow(np.ma.masked_invalid(mae), cmap=ERRORS, aspect="auto", vmin=0)
    ax.set_facecolor(NOTHING)
    middle = np.nanmax(mae) / 2
    for (i, j), value in np.ndenumerate(mae):
        text = "–" if math.isnan(value) else f"{value:.2f}"
        ax.text(j, i, text, ha="center", va="center", color="white" if not value > middle else "black")
    ax.set_xticks(range(len(kinds)), kinds)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_title(f"{board.name}: mean absolute error / standard deviation of the data")
    ax.figure.colorbar(image, ax=ax, shrink=0.9)


def _lines(ax: Axes, board: Scoreboard, kind: str) -> None:
    by = "distance to the nearest observation" if board.by == "distance" else "length of the gap"
    rows = [row for row in board.rows if row.kind == kind and row.bins]
    used = [i for i in range(len(rows[0].bins)) if any(row.bins[i].scores.n for row in rows)]
    edges = [(rows[0].bins[i].lower, rows[0].bins[i].upper) for i in used]
    labels = [f"{low:.3g}–{high:.3g}" if math.isfinite(high) else f"≥ {low:.3g}" for low, high in edges]
    others = iter(OTHERS)
    for row, marker in zip(rows, "osD^vP*X<>", strict=False):
        best = row.method == "st"
        style: dict[str, Any] = {
            "color": SECOND if best else next(others, INK),
            "linewidth": 2.0 if best else 1.0,
        }
        scores = [row.bins[i].scores for i in used]
        mae = [s.mae if s.n else math.nan for s in scores]
        ax.plot(range(len(mae)), mae, marker=marker, markersize=4, label=row.method, **style)
    ax.set_xticks(range(len(labels)), labels)
    ax.set_xlabel(f"{by} ({board.bin_unit})")
    ax.set_ylabel(f"mean absolute error{_unit(board)}")
    ax.legend(frameon=False)


def _maps(axes: npt.NDArray[np.object_], board: Scoreboard, maps: Sequence[ErrorMap]) -> None:
    limits = (0.0, spread(*(m.error for m in maps[:3]))[1])  # the best three; worse ones saturate
    image = None
    for ax, error_map in zip(axes, maps, strict=False):
        image = draw_map(ax, error_map.error, board.grid, error_map.method, ERRORS, limits)
    for ax in axes[len(maps) :]:
        ax.axis("off")
    axes[0].figure.colorbar(image, ax=list(axes), label=f"mean absolute error{_unit(board)}", shrink=0.8)
