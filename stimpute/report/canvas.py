"""What all pictures share: a figure without a display, maps with georeferenced axes, one look. Knows grids, not methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stimpute.errors import OutputError, UsageError
from stimpute.grid import Grid

VALUES, ERRORS, NOTHING = "viridis", "cividis", "0.88"  # colour-blind safe; gaps light grey
NARROW = 0.6  # width over height of a map below which the labels of its x axis would overlap
INK, ACCENT, SECOND = "0.2", "#0072b2", "#d55e00"  # Okabe-Ito blue and vermilion
OTHERS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # the rest of that palette
_STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "figure.dpi": 110,
    "savefig.dpi": 130,
}
SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


def check_picture(path: str | Path) -> Path:
    """The path of a picture, if it can be one.

    Raises
    ------
    UsageError : a suffix that names no picture format.
    OutputError : its folder does not exist.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: a picture ends in {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise OutputError(f"--plot {path}: no folder {target.parent}; create it first")
    return target


@contextmanager
def picture(path: str | Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of ``size`` inches that is saved to ``path`` on leaving."""
    target = check_picture(path)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(target)
        except OSError as error:
            raise OutputError(f"{target}: {error.strerror or error}") from error


def axis_labels(grid: Grid) -> tuple[str, str]:
    """Labels of the x and y axes of a map."""
    if grid.kind in {"curvilinear", "points"} or grid.units == "cells":
        return "column", "row"
    if grid.units == "degrees":
        return "longitude (°)", "latitude (°)"
    return "x (km)", "y (km)"


def draw_map(
    ax: Axes,
    field: npt.NDArray[np.floating[Any]],
    grid: Grid,
    title: str,
    cmap: str,
    limits: tuple[float, float],
) -> Any:
    """A (y, x) field, NaN in grey, with coordinates on the axes; returns what a colour bar is made from."""
    colours = mpl.colormaps[cmap].with_extremes(bad=NOTHING)
    shown = np.ma.masked_invalid(field)
    if axis_labels(grid)[0] == "column":
        image: Any = ax.imshow(
            shown, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto"
        )
    else:
        factor = grid.km_per_unit if grid.units == "length" else 1.0
        x, y = _edges(grid.x * factor), _edges(grid.y * factor)
        image = ax.pcolormesh(x, y, shown, cmap=colours, vmin=limits[0], vmax=limits[1], rasterized=True)
        ax.set_facecolor(NOTHING)
        ax.set_aspect(_aspect(grid, x, y))
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    if _narrow(ax):
        ax.tick_params(axis="x", rotation=45)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.set_title(title)
    ax.set_xlabel(axis_labels(grid)[0])
    ax.set_ylabel(axis_labels(grid)[1])
    return image


def _narrow(ax: Axes) -> bool:
    """Whether a map is so much higher than wide that the labels of its x axis would overlap."""
    aspect = ax.get_aspect()
    return aspect != "auto" and bool(np.ptp(ax.get_xlim()) < NARROW * float(aspect) * np.ptp(ax.get_ylim()))


def _edges(centres: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cell edges halfway between the centres.

    >>> _edges(np.array([0.0, 1.0, 2.0])).tolist()
    [-0.5, 0.5, 1.5, 2.5]
    """
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _aspect(grid: Grid, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Any:
    """True to scale, unless that would leave a sliver."""
    stretch = 1 / max(np.cos(np.radians(np.mean(y))), 0.1) if grid.units == "degrees" else 1.0
    ratio = abs(np.ptp(y) * stretch / np.ptp(x))
    return float(stretch) if 0.2 < ratio < 5 else "auto"


def spread(*fields: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Colour limits: 1st and 99th percentile of what is known in all fields, never equal."""
    known = np.concatenate([field[np.isfinite(field)].ravel() for field in fields])
    if not known.size:
        return 0.0, 1.0
    low, high = (float(q) for q in np.percentile(known, (1, 99)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
