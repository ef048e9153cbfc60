"""Pictures: that they are drawn for every kind of grid, that what they choose to show is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stimpute.errors import OutputError, UsageError
from stimpute.evaluation.scoreboard import ErrorMap, Row, Scoreboard
from stimpute.grid import Grid
from stimpute.metrics import BinScores, Scores
from stimpute.protocols import FILLED, OBSERVED
from stimpute.report import evaluation_picture, fill_picture, variogram_picture
from stimpute.report.canvas import axis_labels, check_picture, draw_map, picture, spread
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


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that a picture is made of, in the order they are drawn."""
    drawn: list[Figure] = []

    @contextmanager
    def recorded(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
        with picture(path, size) as figure:
            drawn.append(figure)
            yield figure

    for module in (fill_picture, evaluation_picture, variogram_picture):
        monkeypatch.setattr(module, "picture", recorded)
    return drawn


def named(figure: Figure) -> dict[str, Axes]:
    return {str(ax.get_label()): ax for ax in figure.axes}


@pytest.mark.parametrize(
    ("grid", "labels", "corner"),
    [
        (DEGREES, ("longitude (°)", "latitude (°)"), (7 + 1 / 15, 45 + 0.5 / 11)),
        (METRES, ("x (km)", "y (km)"), (15.5, 0.5)),
        (SWATH, ("column", "row"), (15.5, -0.5)),
        (Grid.from_shape(12, 16), ("column", "row"), (15.5, -0.5)),
    ],
)
def test_a_fill_is_drawn_on_every_kind_of_grid(
    tmp_path: Path, figures: list[Figure], grid: Grid, labels: tuple[str, str], corner: tuple[float, float]
) -> None:
    stack = filled_stack(grid)
    draw_fill(stack, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 20_000
    axes = named(figures[0])
    titles = {name: axes[name].get_title(loc="left") for name in ("before", "after", "error")}
    assert titles == {
        "before": "observed, 2020-01-05",
        "after": "filled (linear)",
        "error": "standard error of filled cells",
    }
    for name in titles:
        assert (axes[name].get_xlabel(), axes[name].get_ylabel()) == labels
        assert (axes[name].get_xlim()[1], axes[name].get_ylim()[1]) == pytest.approx(corner)
    for name, shown in (("before", stack.before), ("after", stack.after), ("error", stack.standard_error)):
        (image,) = axes[name].images or axes[name].collections
        assert np.array_equal(
            np.ma.filled(image.get_array(), np.nan).ravel(), shown[4].ravel(), equal_nan=True
        )
    bars = [ax.get_ylabel() for ax in figures[0].axes if ax.get_label() == "<colorbar>"]
    assert bars == ["v (K)", "v (K)"]


def test_a_series_shows_what_was_observed_what_was_filled_and_the_interval(
    tmp_path: Path, figures: list[Figure]
) -> None:
    stack = filled_stack(DEGREES)
    draw_fill(stack, tmp_path / "p.png")
    row, col = worst_cell(stack)
    ax = named(figures[0])["series"]
    lines = {str(line.get_label()): line for line in ax.lines}
    assert np.array_equal(lines["filled"].get_ydata(), stack.after[:, row, col])
    assert np.array_equal(lines["observed"].get_ydata(), stack.before[:, row, col], equal_nan=True)
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    gap = np.isnan(stack.before[:, row, col])
    assert edges.max() == pytest.approx((stack.after[:, row, col] + np.where(gap, 0.5 * 1.645, 0.0)).max())
    assert ax.get_xlabel() == ""
    assert np.array_equal(ax.convert_xunits(lines["filled"].get_xdata()), 18262 + np.arange(6.0))
    assert (
        ax.get_title(loc="left") == f"the cell with the longest gap (row {row}, column {col}, circled above)"
    )


@pytest.mark.parametrize(
    "labels",
    [
        [f"2000-02-{d}" for d in range(25, 31)],  # of 360 days a year
        [str(n) for n in range(6)],  # no dates
        [str(n) for n in range(1850, 1856)],
        ["-2.5", "-1.5", "-0.5", "1e-05", "1.5", "2.5"],
    ],
)
def test_what_numpy_has_no_dates_for_is_drawn_by_the_day(
    tmp_path: Path, figures: list[Figure], labels: list[str]
) -> None:
    draw_fill(filled_stack(DEGREES, labels), tmp_path / "p.png")
    axes = named(figures[0])
    assert axes["before"].get_title(loc="left") == f"observed, {labels[4]}"
    assert axes["series"].get_xlabel() == "days since the first step"
    assert axes["series"].lines[0].get_xdata().tolist() == [0, 1, 2, 3, 4, 5]


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
def test_an_evaluation_is_drawn(
    tmp_path: Path, figures: list[Figure], kinds: tuple[str, ...], bins: bool
) -> None:
    scored = board(kinds, bins)
    draw_evaluation(scored, tmp_path / "e.png")
    assert (tmp_path / "e.png").stat().st_size > 20_000
    top, bottom = figures[0].subfigs
    errors = top.axes[0]
    if len(kinds) == 1:
        assert [bar.get_width() for bar in errors.patches] == pytest.approx([0.3, 0.2, 0.1])
        assert [text.get_text() for text in errors.get_yticklabels()] == ["mean", "linear", "st"]
        assert errors.get_xlabel() == "mean absolute error (K)"
    else:
        shown = np.ma.filled(errors.images[0].get_array(), np.nan)
        assert shown == pytest.approx(
            np.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [np.nan, np.nan]]), nan_ok=True
        )
        assert [text.get_text() for text in errors.get_xticklabels()] == list(kinds)
        assert [text.get_text() for text in errors.get_yticklabels()] == ["st", "linear", "mean", "kriging"]
    assert any("distance" in ax.get_xlabel() for ax in top.axes) == bins
    if bins:
        lines = next(ax for ax in top.axes if "distance" in ax.get_xlabel()).lines
        assert {str(line.get_label()): list(line.get_ydata()) for line in lines} == {
            method: pytest.approx([0.1, 2.1]) for method in ("st", "linear", "mean")
        }
    maps = [ax for ax in bottom.axes if ax.axison and ax.get_label() != "<colorbar>"]
    assert {ax.get_title(loc="left") for ax in maps} == {"st", "linear"}
    assert all(ax.get_xlabel() == "longitude (°)" for ax in maps)


def test_a_variogram_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    values = np.random.default_rng(0).normal(size=(8, 20, 20)).cumsum(axis=1).cumsum(axis=2)
    analysis = analyse(Stack.from_array(values), max_pairs=20_000)
    draw_variogram(analysis, "v", "K", tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 10_000
    space, time, space_pairs, time_pairs = figures[0].axes
    assert [ax.get_title(loc="left") for ax in (space, time)] == ["v in space", "v in time"]
    assert [ax.get_xlabel() for ax in (space_pairs, time_pairs)] == ["lag (cells)", "lag (days)"]
    assert space.get_ylabel() == "semivariance (K)²"
    for curve, counts, empirical in (
        (space, space_pairs, analysis.spatial),
        (time, time_pairs, analysis.temporal),
    ):
        assert np.array_equal(curve.lines[0].get_ydata(), empirical.gamma)
        assert [bar.get_height() for bar in counts.patches] == list(empirical.pairs)
    assert analysis.spatial_fit is not None
    assert np.allclose(space.lines[1].get_ydata(), analysis.spatial_fit.evaluate(space.lines[1].get_xdata()))


@pytest.mark.filterwarnings("error")
def test_a_variogram_without_a_lag_says_so(tmp_path: Path, figures: list[Figure]) -> None:
    values = np.full((2, 2, 2), np.nan)
    values[0, 0, 0], values[1, 1, 1] = 1, 2
    draw_variogram(analyse(Stack.from_array(values)), "v", "K", tmp_path / "v.png")
    curve, counts = figures[0].axes
    assert [text.get_text() for text in curve.texts] == ["no two observations to compare"]
    assert len(counts.patches) == 0


def test_what_cannot_be_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png"):
        check_picture(tmp_path / "p.doc")
    with pytest.raises(OutputError, match="nowhere"):
        check_picture(tmp_path / "nowhere" / "p.png")
