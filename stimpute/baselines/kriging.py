"""Local ordinary kriging in space and time as a method: residuals from each cell's mean, the nearest observations only.

The variogram is estimated and fitted on the overview by :mod:`stimpute.variogram`. Each system holds a fixed number of
neighbours, and the systems are solved in batches: PyKrige's own moving window needs the matrix of all observations at
once and a Python loop over the cells; the tests hold this one to it. Chilès and Delfiner (2012), Geostatistics, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from stimpute.classical.convolution import normalized
from stimpute.errors import VariogramError
from stimpute.estimate import Estimate
from stimpute.grid import Grid
from stimpute.stack import Stack
from stimpute.variogram import FittedVariogram, analyse

Float64Array = npt.NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0088
_BATCH = 20_000  # systems solved at a time
_LEAST_NUGGET = 1e-3  # of the sill, so that no system is singular
_MEAN_STEPS = 2.0  # observations beyond the first at which a cell's own mean counts half
_USUAL_CELLS, _USUAL_STEPS = 8.0, 3.0  # effective range taken where none can be fitted
_TABLE = 4096


@dataclass(frozen=True)
class SpaceTimeModel:
    """A variogram of the distance ``hypot(space, time * km_per_day)``, in the units of the stack squared.

    >>> model = SpaceTimeModel(FittedVariogram.of("spherical", 0.0, 1.0, 10.0), km_per_day=2.0)
    >>> model.gamma(np.array([0.0, 5.0, 99.0])).round(4).tolist()
    [0.0, 0.6875, 1.0]
    """

    variogram: FittedVariogram
    km_per_day: float

    def gamma(self, distance: Float64Array) -> Float64Array:
        """Semivariance, 0 at distance 0; read from a table (1e-6 of the sill) up to four effective ranges."""
        reach = 4 * self.variogram.effective_range
        lags = reach * np.linspace(0, 1, _TABLE)[1:] ** 2
        values = self.variogram.evaluate(lags)
        far = np.interp(distance, np.r_[0.0, lags], np.r_[self.variogram.nugget, values])
        return np.where(distance > 0, far, 0.0)


@dataclass(frozen=True)
class KrigingMethod:
    """Ordinary kriging from the ``neighbours`` nearest observations in space and time."""

    neighbours: int = 16
    seed: int = 0
    name = "kriging"
    sees_whole = False

    def prepare(self, overview: Stack) -> KrigingImputer:
        """Freeze the mean of the stack and the fitted variogram (a usual one where none can be fitted)."""
        seen = overview.values[overview.valid].astype(np.float64)
        mean = float(seen.mean()) if seen.size else 0.0
        return KrigingImputer(mean, fit_model(overview, self.seed), self.neighbours)


def fit_model(stack: Stack, seed: int = 0) -> SpaceTimeModel:
    """The variogram in space, with the time that is worth as much distance; each usual where it cannot be fitted."""
    try:
        analysis = analyse(stack, seed=seed)
        space, time = analysis.spatial_fit, analysis.temporal_fit
    except VariogramError:
        space = time = None
    range_days = time.effective_range if time else _USUAL_STEPS * _median_step(stack)
    if space is None:
        cell = max(stack.grid.spacing_km()) or 1.0
        sill = time.sill if time else _variance(stack)
        space = FittedVariogram.of("exponential", 0.1 * sill, sill, _USUAL_CELLS * cell / 3)
    nugget = max(space.nugget, _LEAST_NUGGET * space.sill)
    steady = FittedVariogram.of(
        space.kind, nugget, space.sill, space.len_scale, space.nu, space.weighted_error
    )
    return SpaceTimeModel(steady, steady.effective_range / range_days)


@dataclass(frozen=True)
class KrigingImputer:
    """`KrigingMethod` for one stack."""

    mean: float
    model: SpaceTimeModel
    neighbours: int

    def impute(self, stack: Stack) -> Estimate:
        """Kriged mean and standard error in the gaps; observed cells keep their value and the nugget's error."""
        drift = _drift(stack, self.mean)
        mean = np.broadcast_to(drift, stack.values.shape).copy()
        scale = np.full(stack.values.shape, np.sqrt(self.model.variogram.sill))
        places = _places(stack.grid, stack.times, self.model.km_per_day)
        seen = np.flatnonzero(stack.valid)
        gaps = np.flatnonzero(~stack.valid)
        if seen.size:
            residual = (stack.values - drift).ravel()[seen]
            kriged, error = krige(
                places(seen), residual, places(gaps), self.model.gamma, min(self.neighbours, seen.size)
            )
            mean.ravel()[gaps] += kriged
            scale.ravel()[gaps] = error
        mean.ravel()[seen] = stack.values.ravel()[seen]
        scale.ravel()[seen] = np.sqrt(self.model.variogram.nugget)
        return Estimate(mean.astype(np.float32), scale.astype(np.float32))


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
    gamma : semivariance at distances >= 0, 0 at 0.
    neighbours : at most n.

    Returns
    -------
    mean, standard error : (m,).
    """
    tree = cKDTree(known)
    mean, error = np.empty(len(wanted)), np.empty(len(wanted))
    for start in range(0, len(wanted), _BATCH):
        part = slice(start, start + _BATCH)
        distance, index = tree.query(wanted[part], k=range(1, neighbours + 1))
        near = known[index]
        system = np.ones((len(near), neighbours + 1, neighbours + 1))
        system[:, :-1, :-1] = gamma(_distances(near))
        system[:, -1, -1] = 0.0
        right = np.ones((len(near), neighbours + 1, 1))
        right[:, :-1, 0] = gamma(distance)
        weights = np.linalg.solve(system, right)
        mean[part] = (weights[:, :-1, 0] * values[index]).sum(axis=1)
        variance = (weights * right).sum(axis=(1, 2))
        error[part] = np.sqrt(np.maximum(variance, 0.0))
    return mean, error


def _distances(places: Float64Array) -> Float64Array:
    """Distances (m, k, k) among the k places of each of m groups (m, k, d)."""
    apart = places[:, :, None, :] - places[:, None, :, :]
    return np.asarray(np.sqrt(np.einsum("mijd,mijd->mij", apart, apart)))


def _places(
    grid: Grid, times: Float64Array, km_per_day: float
) -> Callable[[npt.NDArray[np.intp]], Float64Array]:
    """A function from flat (time, y, x) indices to coordinates in km: time, then x and y or, for degrees, x, y, z on the sphere."""
    ny, nx = grid.shape
    x, y = grid.coordinates(*np.divmod(np.arange(ny * nx), nx))
    if grid.units == "degrees":
        lon, lat = np.radians(x), np.radians(y)
        ground = EARTH_RADIUS_KM * np.stack(
            (np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), axis=1
        )
    else:
        ground = np.stack((x, y), axis=1) * grid.km_per_unit

    def at(cells: npt.NDArray[np.intp]) -> Float64Array:
        step, cell = np.divmod(cells, ny * nx)
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
