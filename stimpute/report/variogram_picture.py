"""The picture of a variogram: points sized by their pair counts, the fitted model, the effective range. Draws only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from stimpute.report.canvas import ACCENT, INK, NOTHING, SECOND, picture
from stimpute.variography import EmpiricalVariogram, FittedVariogram, VariogramAnalysis


def draw_variogram(analysis: VariogramAnalysis, name: str, units: str, path: str | Path) -> None:
    """Spatial and, where there is one, temporal semivariogram side by side, pair counts beneath; an empty panel where there is none.

    Raises
    ------
    UsageError, OutputError : the path cannot be a picture, or cannot be written.
    """
    sides: list[tuple[str, EmpiricalVariogram, FittedVariogram | None]] = []
    if len(analysis.spatial.lag):
        sides.append(("in space", analysis.spatial, analysis.spatial_fit))
    if len(analysis.temporal.lag):
        sides.append(("in time", analysis.temporal, analysis.temporal_fit))
    sides = sides or [("in space", analysis.spatial, None)]
    with picture(path, (5.8 * len(sides), 4.6)) as figure:
        axes: Any = figure.subplots(2, len(sides), squeeze=False, height_ratios=[3.2, 1], sharex="col")
        for column, (where, empirical, fitted) in enumerate(sides):
            _curve(axes[0, column], empirical, fitted, f"{name} {where}", units)
            _counts(axes[1, column], empirical)


def _curve(
    ax: Axes, empirical: EmpiricalVariogram, fitted: FittedVariogram | None, title: str, units: str
) -> None:
    ax.plot(empirical.lag, empirical.gamma, "o", color=ACCENT, markersize=4, label="empirical")
    if fitted is not None:
        lag = np.linspace(0, float(np.max(empirical.lag)), 200)[1:]
        ax.plot(
            lag,
            fitted.evaluate(lag),
            color=SECOND,
            label=f"{fitted.kind}: nugget {fitted.nugget:.3g}, sill {fitted.sill:.3g}",
        )
        if fitted.effective_range <= lag[-1] * 1.5:
            ax.axvline(fitted.effective_range, color=INK, linestyle=":", linewidth=1)
            text = f" range {fitted.effective_range:.3g} {empirical.unit} "
            side = "right" if fitted.effective_range > 0.6 * lag[-1] else "left"
            ax.text(
                fitted.effective_range, 0.02, text, transform=ax.get_xaxis_transform(), color=INK, ha=side
            )
    if not len(empirical.lag):
        ax.text(0.5, 0.5, "no two observations to compare", transform=ax.transAxes, color=INK, ha="center")
    ax.set_ylim(bottom=0)
    ax.set_ylabel(f"semivariance ({units})²" if units else "semivariance")
    ax.set_title(title)
    ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.08))


def _counts(ax: Axes, empirical: EmpiricalVariogram) -> None:
    lag = np.asarray(empirical.lag)
    width = 0.8 * float(np.min(np.diff(lag))) if len(lag) > 1 else 0.8
    ax.bar(lag, empirical.pairs, width=width, color=NOTHING, edgecolor=INK, linewidth=0.5)
    ax.set_ylabel("pairs")
    ax.set_xlabel(f"lag ({empirical.unit})")
