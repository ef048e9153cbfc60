"""Over which distance, and which time, do values resemble each other: variograms, their fit, their effective range.

Pairs are drawn at random, bounded in number and seeded, so that the cost does not grow with the stack; small stacks use
every pair. Lags are drawn evenly up to half of the extent and, where the fitted range turns out to be a small part of
that, once more up to three times the range. Knows nothing about files or tiles.

Sources: Matheron (1963), Principles of geostatistics; Cressie and Hawkins (1980), Robust estimation of the variogram I;
Cressie (1985), Fitting variogram models by weighted least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gamma as gamma_function
from scipy.special import kv

from stimpute.errors import UsageError, VariogramError
from stimpute.stack import Stack

Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
Estimator = Literal["matheron", "cressie"]
Kind = Literal["spherical", "exponential", "gaussian", "matern"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Pairs = tuple[Float64Array, Float64Array]  # lag, difference of residuals

BINS = 20
_REACHED = 0.95  # part of the partial sill at the effective range
_MATERN_NU = (0.3, 0.75, 1.0, 1.5, 2.5)  # 0.5 is the exponential, infinity the Gaussian
_MIN_PAIRS, _MIN_BINS = 20, 3  # per bin, and bins, for a fit
_MIN_EXPLAINED = 0.3  # of the weighted variation of gamma, or there is no structure to speak of
_MIN_RISE = 0.05  # of the largest gamma, within the lags, likewise
_MIN_OBSERVATIONS = 4  # per cell, for a temporal mean worth removing
_DRAW_ROUNDS = 12
_ZOOMS = 4
_MUCH_NUGGET = 0.25  # of the sill: there may be structure inside the first bin
_FRAME_CELLS = 20_000_000  # cells of the frames that pairs are drawn from


@dataclass(frozen=True, eq=False)
class EmpiricalVariogram:
    """Semivariance by lag: ``lag`` (mean of the bin, ``unit``), ``gamma`` (variable's units squared), ``pairs``; all (bins,).

    Bins without pairs are left out; there may be no bins at all.
    """

    lag: Float64Array
    gamma: Float64Array
    pairs: npt.NDArray[np.int64]
    unit: str
    max_lag: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        lists = {k: getattr(self, k).tolist() for k in ("lag", "gamma", "pairs")}
        return {**lists, "unit": self.unit, "max_lag": self.max_lag}


@dataclass(frozen=True)
class FittedVariogram:
    """A model: ``nugget + (sill - nugget) * shape(lag / len_scale)``.

    ``effective_range``: where 95 % of the partial sill is reached (spherical: the range itself), in the unit of the lags.
    ``weighted_error``: root mean square of the relative misfit, weighted by pairs. ``nu``: smoothness, Matérn only.

    >>> FittedVariogram.of("spherical", 0.0, 1.0, 10.0).evaluate([5.0, 10.0, 20.0]).tolist()
    [0.6875, 1.0, 1.0]
    """

    kind: Kind
    nugget: float
    sill: float
    len_scale: float
    effective_range: float
    weighted_error: float
    nu: float | None = None

    @classmethod
    def of(
        cls,
        kind: Kind,
        nugget: float,
        sill: float,
        len_scale: float,
        nu: float | None = None,
        weighted_error: float = 0.0,
    ) -> FittedVariogram:
        """A model from its parameters; the effective range follows from them."""
        return cls(kind, nugget, sill, len_scale, len_scale * range_factor(kind, nu), weighted_error, nu)

    def evaluate(self, lag: npt.ArrayLike) -> Float64Array:
        """Semivariance at lags > 0 (the nugget included), in the variable's units squared."""
        h = np.asarray(lag, dtype=np.float64) / self.len_scale
        return np.asarray(self.nugget + (self.sill - self.nugget) * shape(self.kind, h, self.nu))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "kind": self.kind,
            "nugget": self.nugget,
            "sill": self.sill,
            "len_scale": self.len_scale,
            "effective_range": self.effective_range,
            "weighted_error": self.weighted_error,
            "nu": self.nu,
        }


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
    residuals = _Residuals(stack, np.random.default_rng([seed, 0]))
    spatial_unit = "cells" if stack.grid.units == "cells" else "km"
    space = _SpatialPairs(residuals, max_pairs, np.random.default_rng([seed, 1]))
    time = _TemporalPairs(residuals, max_pairs, np.random.default_rng([seed, 2]))
    spatial, spatial_fit, spatial_note = _focus(
        space.draw, space.max_lag, space.min_lag, spatial_unit, estimator, residuals.noise_floor
    )
    temporal, temporal_fit, temporal_note = _focus(
        time.draw, time.max_lag, time.min_lag, "days", estimator, residuals.noise_floor
    )
    notes = [f"{label}: {text}" for label, text in (("space", spatial_note), ("time", temporal_note)) if text]
    return VariogramAnalysis(spatial, spatial_fit, temporal, temporal_fit, "; ".join(notes))


# --- estimators -----------------------------------------------------------------------------------------------------


def empirical(
    pairs: Pairs, max_lag: float, *, bins: int = BINS, unit: str = "km", estimator: Estimator = "cressie"
) -> EmpiricalVariogram:
    """Semivariance in ``bins`` equal bins of (0, max_lag], from lags and differences (pairs,).

    Matheron: ``sum d^2 / 2N``. Cressie-Hawkins: ``(sum |d|^0.5 / N)^4 / 2(0.457 + 0.494/N + 0.045/N^2)``.

    >>> e = empirical((np.array([1.0, 1.0, 3.0]), np.array([2.0, 4.0, 1.0])), 4.0, bins=2, estimator="matheron")
    >>> e.lag.tolist(), e.gamma.tolist(), e.pairs.tolist()
    ([1.0, 3.0], [5.0, 0.5], [2, 1])
    """
    lag, difference = pairs
    inside = (lag > 0) & (lag <= max_lag)
    lag, difference = lag[inside], np.abs(difference[inside])
    index = (
        np.minimum((lag * (bins / max_lag)).astype(np.intp), bins - 1) if len(lag) else np.empty(0, np.intp)
    )
    count = np.bincount(index, minlength=bins)
    some = count > 0
    n = count[some].astype(np.float64)
    power = np.sqrt(difference) if estimator == "cressie" else np.square(difference)
    mean = np.bincount(index, power, minlength=bins)[some] / n
    gamma = mean**4 / (0.457 + 0.494 / n + 0.045 / n**2) / 2 if estimator == "cressie" else mean / 2
    mean_lag = np.bincount(index, lag, minlength=bins)[some] / n
    return EmpiricalVariogram(mean_lag, gamma, count[some].astype(np.int64), unit, float(max_lag))


# --- models ---------------------------------------------------------------------------------------------------------


def shape(kind: Kind, h: npt.ArrayLike, nu: float | None = None) -> Float64Array:
    """Variogram of unit sill and length at lags ``h`` >= 0.

    spherical ``1.5 h - 0.5 h^3`` up to h = 1; exponential ``1 - exp(-h)``; gaussian ``1 - exp(-h^2)``; matern
    ``1 - 2^(1-nu) / Gamma(nu) (sqrt(2 nu) h)^nu K_nu(sqrt(2 nu) h)``.

    Raises
    ------
    UsageError : unknown kind, or ``matern`` without ``nu``.
    """
    h = np.asarray(h, dtype=np.float64)
    if kind == "spherical":
        u = np.minimum(h, 1.0)
        return np.asarray(1.5 * u - 0.5 * u**3)
    if kind == "exponential":
        return np.asarray(-np.expm1(-h))
    if kind == "gaussian":
        return np.asarray(-np.expm1(-(h**2)))
    if kind == "matern" and nu is not None:
        z = np.sqrt(2 * nu) * np.clip(h, 1e-10, 1e6)
        bessel = np.where(z < 600, kv(nu, np.minimum(z, 600)), 0.0)
        return np.asarray(np.where(h > 1e-10, 1 - 2 ** (1 - nu) / gamma_function(nu) * z**nu * bessel, 0.0))
    raise UsageError(f"no variogram model {kind!r} (nu {nu}); one of {', '.join(KINDS)}")


def range_factor(kind: Kind, nu: float | None = None) -> float:
    """Effective range / len_scale: where 95 % of the partial sill is reached (1 for the spherical model).

    >>> [round(range_factor(kind), 3) for kind in ("spherical", "exponential", "gaussian")]
    [1.0, 2.996, 1.731]
    """
    if kind == "spherical":
        return 1.0
    return float(brentq(lambda h: float(shape(kind, h, nu)) - _REACHED, 1e-3, 50.0))


def fit(variogram: EmpiricalVariogram, kinds: Sequence[Kind] = KINDS) -> FittedVariogram:
    """The model with nugget that fits best, by least squares weighted with pairs / gamma^2 (Cressie 1985).

    For each length the best nugget and partial sill (both >= 0) are known in closed form, so the search runs over
    one number and cannot end in a poor local minimum.

    Raises
    ------
    VariogramError : fewer than three bins of twenty pairs, no variance, or no rise with the lag (pure nugget).
    """
    enough = variogram.pairs >= _MIN_PAIRS
    lag, gamma, pairs = variogram.lag[enough], variogram.gamma[enough], variogram.pairs[enough]
    if len(lag) < _MIN_BINS:
        raise VariogramError(
            f"too few pairs: {len(lag)} lags with {_MIN_PAIRS} pairs, {_MIN_BINS} are needed"
        )
    if gamma.max() <= 0:
        raise VariogramError("no variance")
    weight = pairs / np.maximum(gamma, 0.05 * gamma.max()) ** 2
    weight /= weight.sum()
    problem = _Problem(lag, gamma, weight, longest=2 * variogram.max_lag)
    choices = [(kind, nu) for kind in kinds for nu in (_MATERN_NU if kind == "matern" else (None,))]
    fits = [problem.best(kind, nu) for kind, nu in choices]
    best = min(fits, key=lambda f: f.weighted_error)
    unexplained = best.weighted_error**2 / max(problem.flat_error**2, 1e-300)
    rise = float(best.evaluate(lag[-1])) - best.nugget
    if rise < _MIN_RISE * gamma.max() or 1 - unexplained < _MIN_EXPLAINED:
        raise VariogramError("pure nugget: gamma does not rise with the lag")
    return best


@dataclass(frozen=True, eq=False)
class _Problem:
    """Points to fit and their weights, which sum to one."""

    lag: Float64Array
    gamma: Float64Array
    weight: Float64Array
    longest: float  # effective range at most

    @property
    def scale(self) -> float:
        """Turns weighted misfits into relative ones."""
        return float(1 / (self.weight * self.gamma**2).sum())

    @property
    def flat_error(self) -> float:
        """Relative error of the best constant."""
        return float(
            np.sqrt(self.scale * (self.weight * (self.gamma - (self.weight * self.gamma).sum()) ** 2).sum())
        )

    def linear(self, curve: Float64Array) -> tuple[float, float, float]:
        """Nugget and partial sill >= 0 that bring ``nugget + partial * curve`` nearest, and the relative error."""
        w, g = self.weight, self.gamma
        mean_g, mean_c = float((w * g).sum()), float((w * curve).sum())
        cc = float((w * (curve - mean_c) ** 2).sum())
        partial = float((w * (curve - mean_c) * (g - mean_g)).sum()) / cc if cc > 1e-15 else 0.0
        nugget = mean_g - partial * mean_c
        if partial < 0:
            nugget, partial = mean_g, 0.0
        elif nugget < 0:
            nugget, partial = 0.0, float((w * curve * g).sum() / (w * curve**2).sum())
        misfit = float((w * (g - nugget - partial * curve) ** 2).sum())
        return nugget, partial, float(np.sqrt(self.scale * misfit))

    def best(self, kind: Kind, nu: float | None) -> FittedVariogram:
        """One kind of model: a coarse search over lengths, then a fine one round the best."""
        factor = range_factor(kind, nu)
        low, high = np.log(0.5 * self.lag[0] / factor), np.log(self.longest / factor)

        def error(log_length: float) -> float:
            return self.linear(shape(kind, self.lag / np.exp(log_length), nu))[2]

        grid = np.linspace(low, max(high, low + 0.1), 40)
        coarse = int(np.argmin([error(x) for x in grid]))
        bounds = (grid[max(coarse - 1, 0)], grid[min(coarse + 1, len(grid) - 1)])
        fine = float(minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x)
        length = float(np.exp(min(fine, grid[coarse], key=error)))
        nugget, partial, misfit = self.linear(shape(kind, self.lag / length, nu))
        return FittedVariogram.of(kind, nugget, nugget + partial, length, nu, misfit)


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
    variogram, fitted, note = empirical(_NOTHING, 1.0, unit=unit), None, "no two observations to compare"
    for _ in range(_ZOOMS + 1):
        if not max_lag > 0:
            break
        bins = int(np.clip(max_lag / min_lag, _MIN_BINS, BINS)) if min_lag > 0 else BINS
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


_NOTHING: Pairs = (np.empty(0), np.empty(0))


# --- residuals and pairs --------------------------------------------------------------------------------------------


class _Residuals:
    """Values minus what is known without neighbours, computed only where asked."""

    def __init__(self, stack: Stack, rng: np.random.Generator) -> None:
        self.stack = stack
        counts = stack.valid.sum(axis=0, dtype=np.int32)
        observed = int(counts.sum())
        if observed < 2:
            raise VariogramError(f"{observed} observations: no pair to compare")
        often = counts >= _MIN_OBSERVATIONS
        self.by_cell = bool(often.any()) and int(often.sum()) >= 0.3 * int((counts > 0).sum())
        self.usable: BoolArray = often if self.by_cell else counts > 0
        total = stack.values.sum(axis=0, dtype=np.float64)
        center = float(total.sum()) / observed
        self.mean: Float64Array = np.where(self.by_cell, total / np.maximum(counts, 1), center)
        self.noise_floor = 1e-6 * float(np.sqrt(_mean_square(stack.values, observed)))
        self.frames = self._choose_frames(rng)
        self.valid = stack.valid[self.frames] & self.usable
        self.anchors = np.flatnonzero(self.valid)
        self.baselines = [self._baseline(a) for a in (*stack.dynamic.values(), *stack.static.values())]
        self.coefficients = self._regress(rng)

    def at(self, t: IntArray, rows: IntArray, cols: IntArray) -> Float64Array:
        """Residuals of observed cells, float64 (pairs,)."""
        residual = self.stack.values[t, rows, cols].astype(np.float64) - self.mean[rows, cols]
        if len(self.coefficients):
            residual -= self._design(t, rows, cols) @ self.coefficients
        return residual

    def place(self, anchors: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """(index into ``frames``, row, column) of flat indices into ``valid``."""
        f, rows, cols = np.unravel_index(anchors, self.valid.shape)
        return f, rows, cols

    def _choose_frames(self, rng: np.random.Generator) -> IntArray:
        """Frames that hold usable observations; a random part of them where all are too many."""
        frames = np.flatnonzero((self.stack.valid & self.usable).any(axis=(1, 2)))
        most = max(_FRAME_CELLS // self.usable.size, 1)
        return np.sort(rng.choice(frames, most, replace=False)) if len(frames) > most else frames

    def _baseline(self, covariate: npt.NDArray[np.float32]) -> Float64Array:
        """What a covariate is counted from, (y, x): its cell's temporal mean as for the values, or its overall mean."""
        if covariate.ndim == 3 and self.by_cell:
            return _cell_means(covariate, self.stack.valid)
        known = np.isfinite(covariate)
        mean = covariate.sum(where=known, dtype=np.float64) / max(int(known.sum()), 1)
        return np.full(self.usable.shape, mean)

    def _design(self, t: IntArray, rows: IntArray, cols: IntArray) -> Float64Array:
        """Terms (pairs, terms): one, covariates (0 where unknown) and, where cells have no mean of their own, a plane."""
        ny, nx = self.usable.shape
        fields = (*self.stack.dynamic.values(), *self.stack.static.values())
        terms = [np.ones(len(rows))]
        for field, baseline in zip(fields, self.baselines, strict=True):
            values = field[t, rows, cols] if field.ndim == 3 else field[rows, cols]
            terms.append(np.nan_to_num(values - baseline[rows, cols]))
        if not self.by_cell:
            terms += [rows / ny - 0.5, cols / nx - 0.5]
        return np.stack(terms, axis=1)

    def _regress(self, rng: np.random.Generator) -> Float64Array:
        """Least-squares coefficients of the terms, from a sample; none where there is nothing to regress on."""
        if self.by_cell and not self.baselines:
            return np.empty(0)
        f, rows, cols = self.place(rng.choice(self.anchors, min(len(self.anchors), 100_000), replace=False))
        t = self.frames[f]
        design = self._design(t, rows, cols)
        if len(design) < 10 * design.shape[1]:
            return np.empty(0)
        size = np.maximum(np.abs(design).max(axis=0), 1e-300)
        target = self.stack.values[t, rows, cols].astype(np.float64) - self.mean[rows, cols]
        return np.asarray(np.linalg.lstsq(design / size, target, rcond=1e-8)[0] / size)


def _cell_means(covariate: npt.NDArray[np.float32], valid: BoolArray) -> Float64Array:
    """Mean over the observed steps at which the covariate is known, step by step; 0 where there is none."""
    total, count = np.zeros(valid.shape[1:]), np.zeros(valid.shape[1:])
    for frame, observed in zip(covariate, valid, strict=True):
        known = observed & np.isfinite(frame)
        total[known] += frame[known]
        count += known
    return total / np.maximum(count, 1)


def _mean_square(values: npt.NDArray[np.float32], observed: int) -> float:
    """Mean square of the observed values (gaps hold 0), frame by frame in float64."""
    return sum(float(np.square(frame, dtype=np.float64).sum()) for frame in values) / observed


class _SpatialPairs:
    """Pairs of cells of one frame."""

    def __init__(self, residuals: _Residuals, max_pairs: int, rng: np.random.Generator) -> None:
        self.residuals, self.max_pairs, self.rng = residuals, max_pairs, rng
        self.grid = residuals.stack.grid
        self.spacing = self.grid.spacing_km()
        positive = [s for s in self.spacing if s > 0]
        self.min_lag = min(positive, default=0.0) if self.grid.kind != "points" else 0.0
        self.max_lag = self._extent() / 2
        per_frame = residuals.valid.sum(axis=(1, 2), dtype=np.int64)
        self.every = int((per_frame * (per_frame - 1) // 2).sum()) <= max_pairs

    def draw(self, max_lag: float) -> Pairs:
        """Lags in km and differences of residuals."""
        if self.every:
            return self._measure(*self._all())
        gathered: list[Pairs] = []
        found = 0
        for _ in range(_DRAW_ROUNDS):
            lag, difference = self._measure(*self._some(max_lag, self.max_pairs - found))
            near = (lag > 0) & (lag <= max_lag)
            gathered.append((lag[near], difference[near]))
            found += int(near.sum())
            if found >= 0.98 * self.max_pairs:
                break
        return np.concatenate([p[0] for p in gathered]), np.concatenate([p[1] for p in gathered])

    def _extent(self) -> float:
        """Longest distance among a sample of usable cells, km."""
        cells = np.flatnonzero(self.residuals.usable)
        cells = self.rng.choice(cells, min(len(cells), 400), replace=False)
        rows, cols = np.divmod(cells, self.grid.shape[1])
        distance = self.grid.distance_km(rows[:, None], cols[:, None], rows[None], cols[None])
        return float(np.nanmax(distance, initial=0.0))

    def _all(self) -> tuple[IntArray, ...]:
        parts = []
        for i, frame in enumerate(self.residuals.valid):
            cells = np.flatnonzero(frame)
            first, second = np.triu_indices(len(cells), 1)
            parts.append((np.full(len(first), i), cells[first], cells[second]))
        f, first, second = (np.concatenate([p[k] for p in parts]) for k in range(3))
        return (f, *np.divmod(first, self.grid.shape[1]), *np.divmod(second, self.grid.shape[1]))

    def _some(self, max_lag: float, count: int) -> tuple[IntArray, ...]:
        """Random observed cells and a partner in a random direction at an even lag (any other, for points)."""
        f, rows, cols = self.residuals.place(self.rng.choice(self.residuals.anchors, max(count, 1000)))
        ny, nx = self.grid.shape
        if self.grid.kind == "points":
            return f, rows, cols, rows, self.rng.integers(nx, size=len(cols))
        down, across = self._steps(self.rng.uniform(0, max_lag, len(rows)))
        rows1, cols1 = rows + down, cols + across
        if self.grid.wraps:
            cols1 %= nx
        inside = (rows1 >= 0) & (rows1 < ny) & (cols1 >= 0) & (cols1 < nx)
        return f[inside], rows[inside], cols[inside], rows1[inside], cols1[inside]

    def _steps(self, lag: Float64Array) -> tuple[IntArray, IntArray]:
        """Rows and columns to go for a lag in km, in random directions."""
        dy, dx = self.spacing
        angle = self.rng.uniform(0, 2 * np.pi, len(lag))
        if dy == 0 or dx == 0:
            angle = np.round(angle / np.pi) * np.pi + (np.pi / 2 if dx == 0 else 0)
        down = np.rint(lag * np.sin(angle) / dy) if dy > 0 else np.zeros(len(lag))
        across = np.rint(lag * np.cos(angle) / dx) if dx > 0 else np.zeros(len(lag))
        return down.astype(np.intp), across.astype(np.intp)

    def _measure(
        self, f: IntArray, rows0: IntArray, cols0: IntArray, rows1: IntArray, cols1: IntArray
    ) -> Pairs:
        both = self.residuals.valid[f, rows1, cols1] & ((rows0 != rows1) | (cols0 != cols1))
        f, rows0, cols0, rows1, cols1 = (a[both] for a in (f, rows0, cols0, rows1, cols1))
        t = self.residuals.frames[f]
        difference = self.residuals.at(t, rows0, cols0) - self.residuals.at(t, rows1, cols1)
        return self.grid.distance_km(rows0, cols0, rows1, cols1), difference


class _TemporalPairs:
    """Pairs of steps of one cell."""

    def __init__(self, residuals: _Residuals, max_pairs: int, rng: np.random.Generator) -> None:
        self.residuals, self.max_pairs, self.rng = residuals, max_pairs, rng
        self.times = residuals.stack.times[residuals.frames]
        enough = residuals.by_cell and len(self.times) >= _MIN_OBSERVATIONS
        self.max_lag = float(np.ptp(self.times)) / 2 if enough else 0.0
        self.min_lag = float(np.median(np.diff(self.times))) if enough else 0.0
        per_cell = residuals.valid.sum(axis=0, dtype=np.int64)
        possible = len(self.times) ** 2 * per_cell.size // 2
        self.every = possible <= 20 * max_pairs and int((per_cell * (per_cell - 1) // 2).sum()) <= max_pairs

    def draw(self, max_lag: float) -> Pairs:
        """Lags in days and differences of residuals."""
        if self.every:
            return self._measure(*self._all())
        gathered: list[Pairs] = []
        found = 0
        for _ in range(_DRAW_ROUNDS):
            lag, difference = self._some(max_lag, self.max_pairs - found)
            gathered.append((lag, difference))
            found += len(lag)
            if found >= 0.98 * self.max_pairs:
                break
        return np.concatenate([p[0] for p in gathered]), np.concatenate([p[1] for p in gathered])

    def _some(self, max_lag: float, count: int) -> Pairs:
        f, rows, cols = self.residuals.place(self.rng.choice(self.residuals.anchors, max(count, 1000)))
        sign = self.rng.choice([-1.0, 1.0], len(f))
        wanted = self.times[f] + sign * self.rng.uniform(0, max_lag, len(f))
        g = self._nearest(wanted)
        lag, difference = self._measure(f, g, rows, cols)
        near = (lag > 0) & (lag <= max_lag)
        return lag[near], difference[near]

    def _all(self) -> tuple[IntArray, ...]:
        first, second = np.triu_indices(len(self.times), 1)
        pair, rows, cols = np.nonzero(self.residuals.valid[first] & self.residuals.valid[second])
        return first[pair], second[pair], rows, cols

    def _measure(self, f: IntArray, g: IntArray, rows: IntArray, cols: IntArray) -> Pairs:
        both = self.residuals.valid[g, rows, cols] & (f != g)
        f, g, rows, cols = f[both], g[both], rows[both], cols[both]
        frames = self.residuals.frames
        difference = self.residuals.at(frames[f], rows, cols) - self.residuals.at(frames[g], rows, cols)
        return np.abs(self.times[g] - self.times[f]), difference

    def _nearest(self, wanted: Float64Array) -> IntArray:
        after = np.clip(np.searchsorted(self.times, wanted), 1, len(self.times) - 1)
        return after - (wanted - self.times[after - 1] < self.times[after] - wanted)
