"""Local ordinary kriging in space and time as a method: residuals from each cell's mean, the nearest observations only.

The variogram is estimated and fitted on the overview by :mod:`stimpute.variography`. Each system holds a fixed number of
neighbours, and the systems are solved in batches: PyKrige's own moving window needs the matrix of all observations at
once and a Python loop over the cells; the tests hold this one to it. Chilès and Delfiner (2012), Geostatistics, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from stimpute.classical.convolution import normalized
from stimpute.errors import VariogramError
from stimpute.estimate import Estimate
from stimpute.grid import EARTH_KM, Grid
from stimpute.stack import Stack
from stimpute.variography import EmpiricalVariogram, FittedVariogram, analyse

Float64Array = npt.NDArray[np.float64]

_BATCH = 20_000  # systems solved at a time
_LEAST_NUGGET = 1e-3  # of the sill, so that no system is singular
_MEAN_STEPS = 2.0  # observations beyond the first at which a cell's own mean counts half
_USUAL_CELLS, _USUAL_STEPS = 8.0, 3.0  # effective range taken where none can be fitted
_TABLE = 4096
_SAMPLE = 1000  # observed cells on which the standard errors are checked


@dataclass(frozen=True)
class SpaceTimeModel:
    """A metric variogram, plus what whole frames differ by: ``joint(hypot(space, k * time)) + zonal(k * time)``.

    In the units of the stack squared; ``k`` is ``km_per_day``. Chilès and Delfiner (2012), section 2.5.2.

    >>> flat = FittedVariogram.of("spherical", 0.0, 0.0, 10.0)
    >>> model = SpaceTimeModel(FittedVariogram.of("spherical", 0.0, 1.0, 10.0), flat, km_per_day=2.0)
    >>> model.gamma(np.array([[0.0, 0.0], [3.0, 4.0], [99.0, 0.0]])).round(4).tolist()
    [0.0, 0.6875, 1.0]
    """

    joint: FittedVariogram
    zonal: FittedVariogram
    km_per_day: float

    @property
    def sill(self) -> float:
        """Of both parts together."""
        return self.joint.sill + self.zonal.sill

    def scaled(self, factor: float) -> SpaceTimeModel:
        """The same shape with all semivariances times ``factor``."""
        joint, zonal = (
            replace(part, nugget=factor * part.nugget, sill=factor * part.sill)
            for part in (self.joint, self.zonal)
        )
        return SpaceTimeModel(joint, zonal, self.km_per_day)

    def gamma(self, apart: Float64Array) -> Float64Array:
        """Semivariance at differences (..., d) in km, the first along time; 0 where there is none."""
        distance = np.sqrt(np.einsum("...d,...d->...", apart, apart))
        return _read_off(self.joint, distance) + _read_off(self.zonal, np.abs(apart[..., 0]))


def _read_off(variogram: FittedVariogram, distance: Float64Array) -> Float64Array:
    """The variogram at distances >= 0 from a table, linear in the square root, up to four effective ranges; 0 at 0.

    Off by at most 1e-5 of the sill. Bessel functions by the billion would take hours.
    """
    reach = 4 * variogram.effective_range
    table = variogram.evaluate(reach * np.linspace(1e-6, 1, _TABLE) ** 2)
    position = np.minimum(np.sqrt(distance / reach), 1.0) * (_TABLE - 1)
    below = np.minimum(position.astype(np.intp), _TABLE - 2)
    share = position - below
    return np.where(distance > 0, table[below] * (1 - share) + table[below + 1] * share, 0.0)


@dataclass(frozen=True)
class KrigingMethod:
    """Ordinary kriging from the ``neighbours`` nearest observations in space and time."""

    neighbours: int = 16
    seed: int = 0
    name = "kriging"
    sees_whole = False

    def prepare(self, overview: Stack) -> KrigingImputer:
        """Freeze the mean of the stack and the fitted variogram (a usual one where none can be fitted).

        The variogram is scaled so that the standard errors are right on a sample of observed cells, kriged from the others:
        that changes no weight, and makes good what the fit pooled over lags and frames.
        """
        seen = overview.values[overview.valid].astype(np.float64)
        mean = float(seen.mean()) if seen.size else 0.0
        first = KrigingImputer(mean, fit_model(overview, self.seed), self.neighbours)
        return replace(first, model=first.model.scaled(self._reduced_variance(first, overview)))

    def _reduced_variance(self, imputer: KrigingImputer, stack: Stack) -> float:
        """Mean square of error over standard error on at most ``_SAMPLE`` hidden cells; 1 if it cannot be had."""
        seen = np.flatnonzero(stack.valid & _placed(_ground(stack.grid)).reshape(stack.grid.shape))
        count = min(_SAMPLE, seen.size // 10)
        if not count:
            return 1.0
        hidden = np.random.default_rng(self.seed).choice(seen, count, replace=False)
        shown = stack.hide(np.isin(np.arange(stack.valid.size), hidden).reshape(stack.shape))
        mean, error = imputer.at(shown, hidden)
        ratio = float(np.mean(((mean - stack.values.ravel()[hidden]) / error) ** 2))
        return min(max(ratio, 1e-3), 1e3)


def fit_model(stack: Stack, seed: int = 0) -> SpaceTimeModel:
    """The variogram in space, the time that is worth as much distance, and by how much time varies more than space."""
    space, time = _fitted(stack, seed)
    nugget = max(space.nugget, _LEAST_NUGGET * space.sill)
    joint = FittedVariogram.of(
        space.kind, nugget, space.sill, space.len_scale, space.nu, space.weighted_error
    )
    km_per_day = joint.effective_range / time.effective_range
    excess = max(time.sill - space.sill, 0.0)
    zonal = FittedVariogram.of(
        time.kind, excess * time.nugget / time.sill, excess, time.len_scale * km_per_day, time.nu
    )
    return SpaceTimeModel(joint, zonal, km_per_day)


def _fitted(stack: Stack, seed: int) -> tuple[FittedVariogram, FittedVariogram]:
    """Fitted variograms in space and in time; where there is none to be had, a usual range and the mean semivariance."""
    cell, step, variance = max(stack.grid.spacing_km()) or 1.0, _median_step(stack), _variance(stack)
    try:
        analysis = analyse(stack, seed=seed)
    except VariogramError:
        return _usual(_USUAL_CELLS * cell, variance), _usual(_USUAL_STEPS * step, variance)
    space = analysis.spatial_fit or _usual(_USUAL_CELLS * cell, _level(analysis.spatial, variance))
    time = analysis.temporal_fit or _usual(_USUAL_STEPS * step, _level(analysis.temporal, space.sill))
    return space, time


def _usual(effective_range: float, sill: float) -> FittedVariogram:
    return FittedVariogram.of("exponential", 0.1 * sill, sill, effective_range / 3)


def _level(empirical: EmpiricalVariogram, otherwise: float) -> float:
    """Mean semivariance over all pairs."""
    level = float(np.average(empirical.gamma, weights=empirical.pairs)) if len(empirical.pairs) else otherwise
    return level if level > 0 else otherwise


@dataclass(frozen=True)
class KrigingImputer:
    """`KrigingMethod` for one stack."""

    mean: float
    model: SpaceTimeModel
    neighbours: int

    def impute(self, stack: Stack) -> Estimate:
        """Kriged mean and standard error in the gaps; observed cells keep their value and the nugget's error."""
        gaps = np.flatnonzero(~stack.valid)
        mean = stack.values.copy()
        scale = np.full(stack.shape, np.sqrt(self.model.joint.nugget), dtype=np.float32)
        mean.ravel()[gaps], scale.ravel()[gaps] = self.at(stack, gaps)
        return Estimate(mean, scale)

    def at(self, stack: Stack, cells: npt.NDArray[np.intp]) -> tuple[Float64Array, Float64Array]:
        """Mean and standard error at flat (time, y, x) indices, none of them observed; NaN at cells without coordinates."""
        drift, ground = _drift(stack, self.mean), _ground(stack.grid)
        placed = _placed(ground)
        known = placed[cells % len(ground)]
        mean = np.where(known, drift.ravel()[cells % len(ground)], np.nan)
        error = np.where(known, np.sqrt(self.model.sill), np.nan)
        seen = np.flatnonzero(stack.valid & placed.reshape(drift.shape))
        if not seen.size:
            return mean, error
        seen = _distinct(seen, ground)
        residual = (stack.values - drift).ravel()[seen]
        places = _places(ground, stack.times, self.model.km_per_day)
        kriged, error[known] = krige(
            places(seen), residual, places(cells[known]), self.model.gamma, min(self.neighbours, seen.size)
        )
        mean[known] += kriged
        return mean, error


def krige(
    known: Float64Array,
    values: Float64Array,
    wanted: Float64Array,
    gamma: Callable[[Float64Array], Float64Array],
    neighbours: int,
) -> tuple[Float64Array, Float64Array]:
    """Ordinary kriging of each wanted place from its nearest known ones.

    Parameters
    ----------
    known, wanted : coordinates (n, d) and (m, d); distances between them are Euclidean.
    values : (n,).
    gamma : semivariance at differences (..., d), 0 at 0.
    neighbours : at most n.

    Returns
    -------
    mean, standard error : (m,).
    """
    tree = cKDTree(known)
    one, other = np.triu_indices(neighbours, k=1)
    mean, error = np.empty(len(wanted)), np.empty(len(wanted))
    for start in range(0, len(wanted), _BATCH):
        part = slice(start, start + _BATCH)
        _, index = tree.query(wanted[part], k=range(1, neighbours + 1))
        near = known[index]
        system = np.ones((len(near), neighbours + 1, neighbours + 1))
        system[:, one, other] = system[:, other, one] = gamma(near[:, one] - near[:, other])
        system[:, range(neighbours + 1), range(neighbours + 1)] = 0.0
        right = np.ones((len(near), neighbours + 1, 1))
        right[:, :-1, 0] = gamma(wanted[part, None] - near)
        weights = np.linalg.solve(system, right)
        mean[part] = (weights[:, :-1, 0] * values[index]).sum(axis=1)
        variance = (weights * right).sum(axis=(1, 2))
        error[part] = np.sqrt(np.maximum(variance, 0.0))
    return mean, error


def _ground(grid: Grid) -> Float64Array:
    """Coordinates in km of every cell (y * x, 2 or 3): x and y or, for degrees, x, y, z on the sphere."""
    ny, nx = grid.shape
    x, y = grid.coordinates(*np.divmod(np.arange(ny * nx), nx))
    if grid.units != "degrees":
        return np.stack((x, y), axis=1) * grid.km_per_unit
    lon, lat = np.radians(x), np.radians(y)
    return np.asarray(
        EARTH_KM * np.stack((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), axis=1)
    )


def _placed(ground: Float64Array) -> npt.NDArray[np.bool_]:
    """Which cells (y * x,) have coordinates."""
    return np.asarray(np.isfinite(ground).all(axis=1))


def _distinct(cells: npt.NDArray[np.intp], ground: Float64Array) -> npt.NDArray[np.intp]:
    """Flat (time, y, x) indices, one of those at the same time and place (a pole, columns repeated beyond 360 degrees).

    Equal places would make the kriging system singular.
    """
    step, cell = np.divmod(cells, len(ground))
    _, place = np.unique(np.round(ground, 6), axis=0, return_inverse=True)
    _, first = np.unique(step * len(ground) + place.ravel()[cell], return_index=True)
    return cells[np.sort(first)]


def _places(
    ground: Float64Array, times: Float64Array, km_per_day: float
) -> Callable[[npt.NDArray[np.intp]], Float64Array]:
    """A function from flat (time, y, x) indices to coordinates in km: time, then those on the ground."""

    def at(cells: npt.NDArray[np.intp]) -> Float64Array:
        step, cell = np.divmod(cells, len(ground))
        return np.concatenate((times[step, None] * km_per_day, ground[cell]), axis=1)

    return at


def _drift(stack: Stack, mean: float) -> Float64Array:
    """What kriging departs from: each cell's mean over time as far as it is known, else ``mean``; (y, x)."""
    count = stack.valid.sum(axis=0)
    beyond = np.maximum(count - 1.0, 0.0)
    own = stack.values.sum(axis=0, dtype=np.float64) / np.maximum(count, 1)
    known = mean + (own - mean) * beyond / (beyond + _MEAN_STEPS)
    near, _ = normalized(
        torch.from_numpy(np.where(count > 0, known - mean, 0.0))[None, None],
        torch.from_numpy(count > 0)[None, None],
        sigma_cells=3.0,
        sigma_steps=0.0,
    )
    return np.where(count > 0, known, mean + near[0, 0].numpy())


def _median_step(stack: Stack) -> float:
    return float(np.median(np.diff(stack.times))) if len(stack.times) > 1 else 1.0


def _variance(stack: Stack) -> float:
    seen = stack.values[stack.valid].astype(np.float64)
    return float(seen.var()) if seen.size and seen.var() > 0 else 1.0
