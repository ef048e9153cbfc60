"""Which gaps are too far from any observation to be filled, in days, kilometres and cells. Knows neither files nor methods.

``--max-gap``, ``--max-distance``, and, without being asked, what lies past a cell's first or last observation by more than
the temporal range with nothing observed nearby either.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from stimpute.errors import UsageError
from stimpute.grid import Grid
from stimpute.protocols import Window
from stimpute.stack import BoolArray

if TYPE_CHECKING:
    from stimpute.inference.options import FillOptions
    from stimpute.inference.survey import Survey

FEW_STEPS = 5  # below, a temporal range means nothing
_ROWS_OF_ONE_WIDTH = 64  # on a grid in degrees, whose cells grow narrower towards the poles
_UNITS = {"km": ("km", 1.0), "m": ("km", 1e-3), "cells": ("cells", 1.0), "cell": ("cells", 1.0)}


@dataclass(frozen=True)
class Distance:
    """A distance in km or in cells, both > 0.

    >>> Distance.of("500m"), Distance.of("3cells"), Distance.of(50)
    (Distance(value=0.5, unit='km'), Distance(value=3.0, unit='cells'), Distance(value=50.0, unit='km'))
    """

    value: float
    unit: Literal["km", "cells"]

    @classmethod
    def of(cls, text: str | float) -> Distance:
        """From ``50km``, ``500m``, ``3cells``; a plain number is km.

        Raises
        ------
        UsageError : it is none of these, or not longer than 0.
        """
        found = re.fullmatch(r"\s*(\d*\.?\d+)\s*([a-z]*)\s*", str(text))
        if found is None or (found[2] or "km") not in _UNITS or not 0 < float(found[1]) < math.inf:
            raise UsageError(f"--max-distance {text}: a distance such as 50km, 500m or 3cells")
        unit, factor = _UNITS[found[2] or "km"]
        return cls(float(found[1]) * factor, "km" if unit == "km" else "cells")


def refused_gaps(
    survey: Survey, window: Window, valid: BoolArray, options: FillOptions
) -> Mapping[str, BoolArray]:
    """Cell-steps of a window of whole rows that must stay gaps, by reason. Each (time, y, x).

    Parameters
    ----------
    valid : what was observed in the window (time, y, x): all columns of the layer, and under ``--max-gap`` all steps.

    Raises
    ------
    UsageError : kilometres, on a grid that knows only cells.
    """
    found: dict[str, BoolArray] = {}
    if options.max_gap_days is not None:
        found["longer than --max-gap"] = gap_days(valid, survey.times) > options.max_gap_days
    if options.max_distance is not None:
        if options.max_distance.unit == "km" and survey.grid.units == "cells":
            raise UsageError(
                f"--max-distance {options.max_distance.value:g} km: {survey.layer.name} has no coordinates to measure km by;"
                " give it in cells, such as 3cells"
            )
        found["beyond --max-distance"] = ~_near(survey, window, options.max_distance, ~valid)
    limit = extrapolation_limit(survey, options)
    if math.isfinite(limit):
        first, last = (steps[window.slices[1]] for steps in survey.first_and_last)
        days = past_days(survey.times[first], survey.times[last], survey.times[window.slices[0]])
        past = (days > limit) & ~valid & (first >= 0)  # never observed cells have a rule of their own
        if past.any() and survey.range_km is not None:
            unit: Literal["km", "cells"] = "cells" if survey.grid.units == "cells" else "km"
            past &= ~_near(survey, window, Distance(survey.range_km, unit), past)
        found["past the first or last observation"] = past
    return found


def count_reasons(
    survey: Survey, window: Window, refused: BoolArray, reasons: Mapping[str, BoolArray]
) -> dict[str, int]:
    """How many of the refused cell-steps (time, y, x) of a window had which reason; each is counted once, the first that holds."""
    rows = window.slices[1]
    never = (survey.observed_per_cell[rows] == 0) & ~survey.fillable[rows]
    rarely = ~survey.fillable[rows] & ~never
    left = refused.copy()
    counts: dict[str, int] = {}
    for reason, where in {"never observed": never, "below --min-obs": rarely, **reasons}.items():
        hit = left & where
        counts[reason] = int(hit.sum())
        left &= ~hit
    counts["without an estimate"] = int(left.sum())
    return {reason: number for reason, number in counts.items() if number}


def extrapolation_limit(survey: Survey, options: FillOptions) -> float:
    """Days past a cell's first or last observation that are filled: as asked for, else the temporal range, at least a step.

    Infinite with fewer than five steps, where no temporal range could be fitted, and for who fills even what was never
    observed.
    """
    if options.max_extrapolation_days is not None:
        return options.max_extrapolation_days
    if options.fill_never_observed or survey.shape[0] < FEW_STEPS or survey.range_days is None:
        return math.inf
    return max(survey.range_days, float(np.median(np.diff(survey.times))))


def gap_days(valid: BoolArray, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Length in days of the gap every cell-step lies in, from the observation before to the one after. (time, y, x)

    A gap open at one end counts from its observation to the end of the series; 0 where observed, inf where the cell
    was never observed.

    >>> gap_days(np.array([True, False, False, True, False])[:, None, None], np.arange(5.0)).ravel().tolist()
    [0.0, 3.0, 3.0, 0.0, 1.0]
    """
    at = np.where(valid, times[:, None, None], np.nan)
    before = np.fmax.accumulate(at, axis=0)
    after = np.flip(np.fmin.accumulate(np.flip(at, 0), axis=0), 0)
    length = np.where(np.isnan(after), times[-1], after) - np.where(np.isnan(before), times[0], before)
    length[np.broadcast_to(~valid.any(axis=0), valid.shape)] = np.inf
    length[valid] = 0.0
    return np.asarray(length)


def past_days(
    first: npt.NDArray[np.float64], last: npt.NDArray[np.float64], times: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Days that every cell-step lies before its cell's first, or after its last observation; 0 between. (time, y, x)

    Parameters
    ----------
    first, last : days of a cell's first and last observation (y, x); inf and -inf where there is none.
    times : days of the steps (time,).

    >>> past_days(np.array([[1.0]]), np.array([[3.0]]), np.arange(6.0)).ravel().tolist()
    [1.0, 0.0, 0.0, 0.0, 1.0, 2.0]
    """
    at = times[:, None, None]
    return np.asarray(np.maximum(np.maximum(first - at, at - last), 0.0))


def _near(survey: Survey, window: Window, distance: Distance, wanted: BoolArray) -> BoolArray:
    """Which of the ``wanted`` cell-steps have an observation of the same step within a distance. (time, y, x)

    Rows beyond the window are read as far as the distance reaches, step by step, so that memory stays bounded.
    """
    near = np.zeros(wanted.shape, dtype=bool)
    top, bottom = window.y
    block = _ROWS_OF_ONE_WIDTH if survey.grid.units == "degrees" and distance.unit == "km" else bottom - top
    for start in range(top, bottom, block):
        rows = (start, min(start + block, bottom))
        part = slice(rows[0] - top, rows[1] - top)
        near[:, part] = _near_rows(survey, Window(window.time, rows, window.x), distance, wanted[:, part])
    return near


def _near_rows(survey: Survey, window: Window, distance: Distance, wanted: BoolArray) -> BoolArray:
    rows = window.y
    grid, nx = survey.grid, survey.shape[2]
    height, width = _cell_size(grid, (rows[0] + rows[1]) // 2, distance.unit)
    reach = math.ceil(distance.value / height)
    read = max(0, rows[0] - reach), min(survey.shape[1], rows[1] + reach)
    around = min(math.ceil(distance.value / width), nx // 2) if grid.wraps else 0
    near = np.zeros(wanted.shape, dtype=bool)
    for step in np.flatnonzero(wanted.any(axis=(1, 2))):
        at = int(step)
        day = window.time[0] + at
        seen = survey.read(Window((day, day + 1), read, (survey.margin, survey.margin + nx))).valid[0]
        if not seen.any():
            continue
        padded = np.concatenate([seen[:, nx - around :], seen, seen[:, :around]], axis=1)
        nearest = distance_transform_edt(
            ~padded, sampling=(height, width), return_distances=False, return_indices=True
        )
        y, x = np.nonzero(wanted[at])
        to_y, to_x = nearest[:, y + rows[0] - read[0], x + around]
        if distance.unit == "cells":
            away = np.hypot(to_y - (y + rows[0] - read[0]), to_x - (x + around))
        else:
            away = grid.distance_km(y + rows[0], x, to_y + read[0], (to_x - around) % nx)
        near[at, y, x] = away <= distance.value * (1 + 1e-9)
    return near


def _cell_size(grid: Grid, row: int, unit: str) -> tuple[float, float]:
    """Height and width of a cell in the middle of a row; km or cells."""
    if unit == "cells":
        return 1.0, 1.0
    nx = grid.shape[1]
    first, second = max(0, nx // 2 - 1), nx // 2
    height = grid.spacing_km()[0]
    width = float(grid.distance_km(row, first, row, second)) if nx > 1 else 0.0
    return _positive(height), _positive(width)


def _positive(size: float) -> float:
    return size if np.isfinite(size) and size > 1e-6 else 1.0
