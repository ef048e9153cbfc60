"""Over which distance, and which time, do values resemble each other: variograms, their fit, their effective range.

Pairs are drawn at random, bounded in number and seeded, so that the cost does not grow with the stack; small stacks use
every pair. Lags are drawn evenly up to half of the extent and, where the fitted range turns out to be a small part of
that, once more up to three times the range. Knows nothing about files or tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from stimpute.errors import UsageError, VariogramError
from stimpute.stack import Stack
from stimpute.variography.models import (
    BINS,
    KINDS,
    MIN_BINS,
    EmpiricalVariogram,
    Estimator,
    FittedVariogram,
    Kind,
    Pairs,
    empirical,
    fit,
    range_factor,
    shape,
)
from stimpute.variography.pairs import NOTHING, Residuals, SpatialPairs, TemporalPairs

__all__ = [
    "KINDS",
    "EmpiricalVariogram",
    "Estimator",
    "FittedVariogram",
    "Kind",
    "VariogramAnalysis",
    "analyse",
    "empirical",
    "fit",
    "range_factor",
    "shape",
]

_ZOOMS = 4
_MUCH_NUGGET = 0.25  # of the sill: there may be structure inside the first bin


@dataclass(frozen=True, eq=False)
class VariogramAnalysis:
    """Both variograms of a stack. A fit is None where there is none to be had; ``note`` then says why."""

    spatial: EmpiricalVariogram
    spatial_fit: FittedVariogram | None
    temporal: EmpiricalVariogram
    temporal_fit: FittedVariogram | None
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "spatial": self.spatial.to_dict(),
            "spatial_fit": self.spatial_fit.to_dict() if self.spatial_fit else None,
            "temporal": self.temporal.to_dict(),
            "temporal_fit": self.temporal_fit.to_dict() if self.temporal_fit else None,
            "note": self.note,
        }


def analyse(
    stack: Stack, *, estimator: Estimator = "cressie", max_pairs: int = 1_000_000, seed: int = 0
) -> VariogramAnalysis:
    """Spatial and temporal variogram of a stack's residuals, and the models that fit them best.

    Residuals are the values minus each cell's temporal mean and, where the stack has covariates, minus their linear
    regression. Where most cells are seen too rarely for a mean (fewer than four times), a plane is removed instead.

    Parameters
    ----------
    stack : at least two observations. Cells in gaps are never read.
    estimator : ``matheron`` (mean squared differences) or ``cressie`` (Cressie-Hawkins, robust against outliers).
    max_pairs : most pairs drawn for each empirical variogram.
    seed : of the draw.

    Returns
    -------
    Lags in km (cells on an index grid) and in days.

    Raises
    ------
    VariogramError : fewer than two observations. Whatever else prevents a fit ends in ``note``.
    UsageError : unknown estimator.
    """
    if estimator not in get_args(Estimator):
        raise UsageError(
            f"no variogram estimator called {estimator!r}; one of {', '.join(get_args(Estimator))}"
        )
    residuals = Residuals(stack, np.random.default_rng([seed, 0]))
    spatial_unit = "cells" if stack.grid.units == "cells" else "km"
    space = SpatialPairs(residuals, max_pairs, np.random.default_rng([seed, 1]))
    time = TemporalPairs(residuals, max_pairs, np.random.default_rng([seed, 2]))
    spatial, spatial_fit, spatial_note = _focus(
        space.draw, space.max_lag, space.min_lag, spatial_unit, estimator, residuals.noise_floor
    )
    temporal, temporal_fit, temporal_note = _focus(
        time.draw, time.max_lag, time.min_lag, "days", estimator, residuals.noise_floor
    )
    notes = [f"{label}: {text}" for label, text in (("space", spatial_note), ("time", temporal_note)) if text]
    return VariogramAnalysis(spatial, spatial_fit, temporal, temporal_fit, "; ".join(notes))


def _focus(
    draw: Callable[[float], Pairs],
    max_lag: float,
    min_lag: float,
    unit: str,
    estimator: Estimator,
    noise_floor: float,
) -> tuple[EmpiricalVariogram, FittedVariogram | None, str]:
    """Estimate and fit up to ``max_lag``; then again with a shorter one while the first bins hide the structure.

    They do where the range is a small part of ``max_lag``, where much of the sill is nugget, or where gamma is flat.
    """
    variogram, fitted, note = empirical(NOTHING, 1.0, unit=unit), None, "no two observations to compare"
    for _ in range(_ZOOMS + 1):
        if not max_lag > 0:
            break
        bins = int(np.clip(max_lag / min_lag, MIN_BINS, BINS)) if min_lag > 0 else BINS
        closer = empirical(draw(max_lag), max_lag, bins=bins, unit=unit, estimator=estimator)
        try:
            if len(closer.gamma) and closer.gamma.max() <= noise_floor**2:
                raise VariogramError("no variance")
            closer_fit = fit(closer)
        except VariogramError as error:
            if not len(variogram.gamma):
                variogram, note = closer, str(error)
            if fitted is not None and _nugget_share(fitted) <= _MUCH_NUGGET:
                break
            shorter = max_lag / 5
        else:
            if fitted is None or _resolves_more(closer_fit, fitted):
                variogram, fitted, note = closer, closer_fit, ""
            shorter = _shorter(fitted, max_lag)
        shorter = max(shorter, 8 * min_lag)
        if shorter > 0.9 * max_lag:
            break
        max_lag = shorter
    if fitted is not None and fitted.effective_range > 1.1 * variogram.max_lag:
        note = f"no sill within {variogram.max_lag:.4g} {unit}; the range is an extrapolation"
    return variogram, fitted, note


def _shorter(fitted: FittedVariogram, max_lag: float) -> float:
    """The lag up to which to look next; ``max_lag`` itself where this fit is as good as any."""
    if fitted.effective_range <= max_lag / 4:
        return 3 * fitted.effective_range
    return max_lag / 4 if _nugget_share(fitted) > _MUCH_NUGGET else max_lag


def _resolves_more(closer: FittedVariogram, fitted: FittedVariogram) -> bool:
    """A fit of shorter lags is the better one unless it sees as much nugget as before."""
    share = _nugget_share(fitted)
    return share <= _MUCH_NUGGET or _nugget_share(closer) < 0.5 * share


def _nugget_share(fitted: FittedVariogram) -> float:
    return fitted.nugget / fitted.sill
