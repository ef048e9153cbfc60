"""Empirical variograms and the models that fit them: spherical, exponential, Gaussian, Matern. Numbers only.

Sources: Matheron (1963), Principles of geostatistics; Cressie and Hawkins (1980), Robust estimation of the variogram I;
Cressie (1985), Fitting variogram models by weighted least squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import gamma as gamma_function
from scipy.special import kv

from stimpute.errors import UsageError, VariogramError

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Estimator = Literal["matheron", "cressie"]
Kind = Literal["spherical", "exponential", "gaussian", "matern"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Pairs = tuple[Float64Array, Float64Array]  # lag, difference of residuals

BINS = 20
MIN_BINS = 3  # for a fit
_REACHED = 0.95  # part of the partial sill at the effective range
_MATERN_NU = (0.3, 0.75, 1.0, 1.5, 2.5)  # 0.5 is the exponential, infinity the Gaussian
_MIN_PAIRS = 20  # per bin, for a fit
_MIN_EXPLAINED = 0.3  # of the weighted variation of gamma, or there is no structure to speak of
_MIN_RISE = 0.05  # of the largest gamma, within the lags, likewise


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
    if len(lag) < MIN_BINS:
        raise VariogramError(f"too few pairs: {len(lag)} lags with {_MIN_PAIRS} pairs, {MIN_BINS} are needed")
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
