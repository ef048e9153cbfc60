"""Pictures: that they are drawn for every kind of grid, that what they choose to show is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from stimpute.errors import OutputError, UsageError
from stimpute.evaluation.scoreboard import ErrorMap, Row, Scoreboard
from stimpute.grid import Grid
from stimpute.metrics import BinScores, Scores
from stimpute.protocols import FILLED, OBSERVED
from stimpute.report.canvas import axis_labels, check_picture, draw_map, spread
from stimpute.report.evaluation_picture import draw_evaluation
from stimpute.report.fill_picture import FilledStack, draw_fill, worst_cell, worst_step
from stimpute.report.variogram_picture import draw_variogram
from stimpute.stack import Stack
from stimpute.variography import analyse

DEGREES = Grid("affine", (12, 16), np.linspace(5, 7, 16), np.linspace(45, 44, 12), "degrees")
METRES = Grid("affine", (12, 16), np.arange(16) * 1000.0, np.arange(12) * -1000.0, "length", 1e-3)
SWATH = Grid("curvilinear", (12, 16), *np.meshgrid(np.arange(16.0), np.arange(12.0)), "degrees")


def filled_stack(grid: Grid, labels: list[str] | None = None) -> FilledStack:
    rng = np.random.default_rng(0)
    after = rng.normal(size=(6, 12, 16)).astype(np.float32)
    gap = rng.random(after.shape) < 0.3
    gap[4, :, :10] = True
    gap[1:5, 7, 3] = True
    gap[0, 7, 3] = gap[5, 7, 3] = False
    before = np.where(gap, np.nan, after).astype(np.float32)
    flag = np.where(gap, FILLED, OBSERVED).astype(np.uint8)
    error = np.where(gap, 0.5, np.nan).astype(np.float32)
    days = labels or [f"2020-01-0{d}" for d in range(1, 7)]
    return FilledStack("v", "K", grid, np.arange(6.0), days, before, after, error, flag, "linear")


@pytest.mark.parametrize("grid", [DEGREES, METRES, SWATH, Grid.from_shape(12, 16)])
def test_a_fill_is_drawn_on_every_kind_of_grid(tmp_path: Path, grid: Grid) -> None:
    draw_fill(filled_stack(grid), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 20_000


def test_dates_of_other_calendars_do_not_stop_a_picture(tmp_path: Path) -> None:
    draw_fill(filled_stack(DEGREES, [f"2000-02-{d}" for d in range(25, 31)]), tmp_path / "p.png")


def test_the_worst_step_and_cell_are_shown() -> None:
    stack = filled_stack(DEGREES)
    assert worst_step(stack) == 4
    row, col = worst_cell(stack)
    runs = "".join("x" if f == FILLED else " " for f in stack.flag[:, row, col]).split()
    assert max(len(r) for r in runs) >= 4


def test_maps_are_georeferenced_and_gaps_are_grey() -> None:
    ax = Figure().subplots()
    draw_map(ax, np.full((12, 16), np.nan), DEGREES, "t", "viridis", (0, 1))
    assert ax.get_xlim() == pytest.approx((5 - 1 / 15, 7 + 1 / 15))
    assert ax.get_ylim() == pytest.approx((44 - 0.5 / 11, 45 + 0.5 / 11))
    assert axis_labels(DEGREES) == ("longitude (°)", "latitude (°)")
    assert axis_labels(METRES) == ("x (km)", "y (km)")
    assert axis_labels(SWATH) == ("column", "row")


def test_limits_are_never_equal() -> None:
    assert spread(np.array([3.0, np.nan])) == (2.5, 3.5)
    assert spread(np.array([np.nan])) == (0.0, 1.0)


def board(kinds: tuple[str, ...], bins: bool) -> Scoreboard:
    def scores(mae: float) -> Scores:
        return Scores(10, mae, mae, 0.0, 0.1, 0.9, 0.9, mae)

    cut = (
        tuple(BinScores(low, high, scores(0.1 + low)) for low, high in ((0.0, 2.0), (2.0, float("inf"))))
        if bins
        else ()
    )
    rows = [
        Row(m, k, scores(0.1 * (i + 1)), cut, 1.0, True)
        for k in kinds
        for i, m in enumerate(("st", "linear", "mean"))
    ]
    rows.append(Row("kriging", kinds[0], None, (), 0.0, False, "skipped: too large"))
    maps = tuple(
        ErrorMap(m, k, np.random.default_rng(0).random((12, 16)).astype(np.float32))
        for k in kinds
        for m in ("st", "linear")
    )
    return Scoreboard(
        "v",
        "K",
        (6, 12, 16),
        0.4,
        1.0,
        0.2,
        (0,),
        "distance" if bins else None,
        "km",
        tuple(rows),
        DEGREES,
        maps,
    )


@pytest.mark.parametrize(("kinds", "bins"), [(("gap",), False), (("gap",), True), (("gap", "frames"), True)])
def test_an_evaluation_is_drawn(tmp_path: Path, kinds: tuple[str, ...], bins: bool) -> None:
    draw_evaluation(board(kinds, bins), tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 20_000


def test_a_variogram_is_drawn(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 20, 20)).cumsum(axis=1).cumsum(axis=2)
    draw_variogram(analyse(Stack.from_array(values), max_pairs=20_000), "v", "K", tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 10_000


def test_what_cannot_be_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png"):
        check_picture(tmp_path / "p.doc")
    with pytest.raises(OutputError, match="nowhere"):
        check_picture(tmp_path / "nowhere" / "p.png")
