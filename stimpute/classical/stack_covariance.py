"""A covariance between all cells and steps of a stack, fitted to the stack itself.

It is nested: a sum of products of a spatial and a temporal part, each from a small dictionary (Matern functions of several
ranges, as long along y as along x or stretched along one of them, "the same everywhere", "the same at all times", cycles of the
year and the day), with weights >= 0 that fit the stack's own semi-variances (Cressie 1993, weighted least squares). In the
cosine basis the spatial parts are diagonal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls
from torch import Tensor

LAGS = (0, 1, 2, 3, 4, 6, 9, 13, 19, 28)  # cells, along y and along x
STEPS = (0.1, 1.3, 2.5, 4.5, 8.5, 16.5, 32.0, 64.0, 128.0)  # edges of the bins of time, in median steps
PHASES = (0.06, 0.15, 0.3)  # and of the distance in phase, where there is a cycle
STRETCHES = (0.4, 1.0, 2.5)  # length along x over length along y
NUGGET_FLOOR = 1e-3  # of the total variance
LASTS = 2 / 3  # of what differs between observed steps, where empty steps lie between them
_DIRECTED = 0.4  # weight of what one direction says against both together: noisier
_UPDATES, _SPREAD = 50, 0.02
_MIN_PAIRS, _MIN_CELLS = 20, 8
_YEAR = 365.2425

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Covariance:
    """Of one stack, with its S observed steps: ``sum_j spectrum_j (H, W) x between_j (T, S)``, plus a nugget.

    Parameters
    ----------
    spectra : (J, H, W) float64, of the spatial parts in the cosine basis.
    between : (J, T, S) float64, of the temporal part that goes with each.
    filled : (S,) int64, which of the T steps are observed.
    nugget : variance of what no neighbour knows, > 0.
    """

    spectra: Tensor
    between: Tensor
    filled: Tensor
    nugget: float

    @property
    def among(self) -> Tensor:
        """(J, S, S) float64: ``between`` the observed steps."""
        return self.between[:, self.filled]


def fit_covariance(
    values: Tensor,
    valid: Tensor,
    filled: Tensor,
    times: Tensor,
    year_phase: Tensor,
    day_phase: Tensor,
    evenness: float = 0.5,
) -> Covariance | None:
    """Weights of the dictionary that fit the semi-variances of one stack (T, H, W) of unit variance; None: too few cells.

    ``filled`` are the indices of the steps that hold observations; the covariance is between these and all steps. ``evenness`` as in
    :func:`krige`.
    """
    _, height, width = values.shape
    if int(valid.sum()) < _MIN_CELLS:
        return None
    values, valid = values[filled], valid[filled]
    known = filled.cpu().numpy()
    days, *phases = (x.double().cpu().numpy() for x in (times, year_phase, day_phase))
    between = temporal_parts(days, phases[0], phases[1], known)
    spatial = spatial_parts(height, width)
    whole = np.stack(list(between.values()))
    bins, apart = _bins(days[known], phases[0][known], phases[1][known], between)
    rows, gammas, weights = _equations(values, valid, spatial, whole[:, known], bins, apart)
    shares = _shares(rows * weights[:, None], gammas * weights, evenness)
    return _assemble(shares, spatial, whole, filled, height, width)


def _equations(
    values: Tensor,
    valid: Tensor,
    parts: list[SpatialPart],
    between: Float64Array,
    bins: npt.NDArray[np.int64],
    apart: Float64Array,
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """What the shares of the parts, and the nugget, should satisfy: coefficients (n, J + 1), semi-variances (n,), weights (n,).

    One for each lag and bin of time, from all pairs of cells, and with less weight for each direction.
    """
    rows, gammas, weights = [], [], []
    for lag in LAGS:
        directions = semi_variances(values, valid, lag)
        near = [np.array([part.at(*step) for part in parts]) for _, _, step in directions]
        for index in np.unique(bins):
            chosen = bins == index
            if lag == 0:
                chosen = chosen & ~np.eye(len(bins), dtype=bool)
            pairs = [count[chosen] for _, count, _ in directions]
            numbers = [float(n.sum()) for n in pairs]
            if (number := sum(numbers)) < _MIN_PAIRS:
                continue
            shared = [between[:, chosen] @ n for n in pairs]
            row = [n - np.outer(c, s).ravel() for n, c, s in zip(numbers, near, shared, strict=True)]
            total = [float(sums[chosen].sum()) for sums, _, _ in directions]
            steps_apart = sum(float(apart[chosen] @ n) for n in pairs) / number
            gamma = sum(total) / number
            weight = number**0.15 / max(gamma, 1e-4) / (1 + 0.1 * lag + 0.1 * steps_apart)
            rows.append(np.append(sum(row) / number, 1.0))
            gammas.append(gamma)
            weights.append(weight)
            if len(directions) < 2:
                continue
            for one, halves, n in zip(row, total, numbers, strict=True):
                if n >= _MIN_PAIRS:
                    rows.append(np.append(one / n, 1.0))
                    gammas.append(halves / n)
                    weights.append(_DIRECTED * weight)
    rows.append(np.ones(len(parts) * len(between) + 1))  # all of the variance
    gammas.append(1.0)
    weights.append(float(np.median(weights)) if weights else 1.0)
    return np.array(rows), np.array(gammas), np.array(weights) / np.median(weights)


def _shares(rows: Float64Array, gammas: Float64Array, evenness: float) -> Float64Array:
    """Weights >= 0 of the parts, least squares: ``evenness`` of the early solution, the rest of the exact one.

    The exact solution (non-negative least squares) holds a few parts only. The early one is that of multiplicative updates (ISRA,
    Daube-Witherspoon and Muehllehner 1986), begun with all parts alike and stopped: no part that fits is left out, and a small
    share spread over all keeps possible what the semi-variances cannot tell.
    """
    size = rows.shape[1]
    found, _ = nnls(
        np.vstack([rows, 1e-3 * np.eye(size)]), np.append(gammas, np.zeros(size)), maxiter=100 * size
    )
    squares, wanted = rows.T @ rows, np.maximum(rows.T @ gammas, 0)
    early = np.full(size, gammas.max() / size)
    for _ in range(_UPDATES):
        early *= wanted / np.maximum(squares @ early, 1e-12)
    spread = _SPREAD * early.sum() / (size - 1)
    early *= 1 - _SPREAD
    early[:-1] += spread
    return np.asarray(evenness * early + (1 - evenness) * found)


def _assemble(
    shares: Float64Array,
    spatial: list[SpatialPart],
    between: Float64Array,
    filled: Tensor,
    height: int,
    width: int,
) -> Covariance:
    device = filled.device
    table = shares[:-1].reshape(len(spatial), len(between))
    spectra, parts = [], []
    for part, row in zip(spatial, table, strict=True):
        if row.sum() <= 1e-6:
            continue
        spectra.append(spatial_spectrum(part, height, width).to(device))
        parts.append(torch.from_numpy(np.tensordot(row, between, axes=1)).to(device))
    nugget = max(float(shares[-1]), NUGGET_FLOOR * float(shares.sum()))
    if not parts:
        empty = torch.zeros(1, height, width, dtype=torch.float64, device=device)
        nothing = torch.zeros(1, *between.shape[1:], dtype=torch.float64, device=device)
        return Covariance(empty, nothing, filled, nugget)
    return Covariance(torch.stack(spectra), torch.stack(parts), filled, nugget)


def temporal_parts(
    days: Float64Array, year_phase: Float64Array, day_phase: Float64Array, filled: npt.NDArray[np.int64]
) -> dict[str, Float64Array]:
    """Correlations of all steps with the ``filled`` ones (T, S), positive semi-definite between these; ranges as these lie."""
    steps = len(days)
    if len(filled) == 1:
        return {"always": np.ones((steps, 1))}
    known = days[filled]
    apart = np.abs(days[:, None] - known)
    step, span = float(np.median(np.diff(known))), float(known[-1] - known[0])
    parts = {"white": _white(apart, step, filled)}
    for length in (1.5, 4.0, 12.0, 40.0, 150.0):
        if length * step < 3 * span:
            parts[f"rough {length:g}"] = np.exp(-apart / (length * step))
    for length in (2.0, 5.0, 15.0, 50.0):
        if length * step < 2 * span:
            parts[f"smooth {length:g}"] = _smooth(apart / (length * step))
    parts["always"] = np.ones(apart.shape)
    for name, phase, period, longest in (("year", year_phase, _YEAR, 200.0), ("day", day_phase, 1.0, 0.45)):
        if span > 1.2 * period and step < longest:
            cycle = np.exp(-2 * np.sin(np.pi * (phase[:, None] - phase[filled])) ** 2 / 0.7**2)
            parts[name] = cycle
            parts[f"changing {name}"] = cycle * np.exp(-apart / ((2 if name == "year" else 3) * period))
    return parts


def _white(apart: Float64Array, step: float, filled: npt.NDArray[np.int64]) -> Float64Array:
    """Correlation (T, S) of what differs from one observed step to the next: none between these, some with empty steps nearer than they are.

    No pair of observed steps tells how long it lasts. It is taken for noise, or, ``LASTS`` of it, for what dies out linearly within a time
    that is as likely to be any part of ``step``: the mean of ``max(0, 1 - apart / range)`` over such ranges.
    """
    white = (np.arange(len(apart))[:, None] == filled).astype(np.float64)
    near = np.clip(apart / step, 1e-9, 1)
    shared = LASTS * (1 - near + near * np.log(near))
    shared /= np.maximum(shared.sum(axis=1, keepdims=True), 1)
    return np.where(white.any(axis=1, keepdims=True), white, shared)


@dataclass(frozen=True)
class SpatialPart:
    """A correlation between cells.

    Parameters
    ----------
    kind : Matern functions at both ends, of order 1/2 (rough) and infinity (bell), and of infinite range (everywhere).
    length : in cells, geometric mean of those along y and x.
    stretch : length along x over length along y.
    """

    kind: str
    length: float
    stretch: float = 1.0

    def at(self, y: float, x: float) -> float:
        """The correlation of cells so many rows and columns apart."""
        return float(self.of(np.array(y, dtype=float), np.array(x, dtype=float)))

    def of(self, y: Float64Array, x: Float64Array) -> Float64Array:
        """The correlation at distances in cells, broadcast."""
        distance = np.hypot(y * math.sqrt(self.stretch), x / math.sqrt(self.stretch)) / self.length
        return np.asarray(np.exp(-distance) if self.kind == "rough" else np.exp(-0.5 * distance**2))


def spatial_parts(height: int, width: int) -> list[SpatialPart]:
    """Spatial parts as long as the grid can tell apart; grids of one row or column have no stretched ones."""
    largest = max(height, width)
    stretches = STRETCHES if min(height, width) > 1 else (1.0,)
    lengths = [("rough", length) for length in (1.0, 2.5, 6.0, 15.0, 40.0, 100.0) if length < 2 * largest]
    lengths += [("bell", length) for length in (2.0, 5.0, 12.0) if length < largest]
    parts = [SpatialPart(kind, length, stretch) for kind, length in lengths for stretch in stretches]
    return [*parts, SpatialPart("everywhere", math.inf)]


def _smooth(distance: Float64Array) -> Float64Array:
    """Matern function of order 5/2."""
    z = math.sqrt(5) * distance
    return np.asarray((1 + z + z * z / 3) * np.exp(-z))


@lru_cache(maxsize=256)
def spatial_spectrum(part: SpatialPart, height: int, width: int) -> Tensor:
    """Eigenvalues (height, width), float64, of a spatial part with mirrored edges in the cosine basis.

    Between cells far from the edges it is the part itself; near them the mirror adds to it, up to four times in corners.
    """
    if part.kind == "everywhere":
        same = torch.zeros(height, width, dtype=torch.float64)
        same[0, 0] = height * width
        return same
    rows, columns = 4 * height, 4 * width
    y = np.minimum(np.arange(rows), rows - np.arange(rows))
    x = np.minimum(np.arange(columns), columns - np.arange(columns))
    field = part.of(y[:, None], x[None])
    spectrum = np.fft.fft2(field).real.clip(min=0)[0 : 2 * height : 2, 0 : 2 * width : 2]
    return torch.from_numpy(np.ascontiguousarray(spectrum))


Lagged = tuple[Float64Array, Float64Array, tuple[int, int]]


def semi_variances(values: Tensor, valid: Tensor, lag: int) -> list[Lagged]:
    """Sums of half squared differences between steps at a spatial lag, and pairs, each (T, T), with the lag in rows and columns.

    Once along y and once along x, where the grid is long enough for the lag; once altogether for lag 0.
    """
    _, height, width = values.shape
    found: list[Lagged] = []
    for along, size in ((1, height), (2, width)):
        if lag > 0.6 * size or (lag == 0 and along == 2):
            continue
        ends = (slice(0, size - lag), slice(lag, size))
        (a, b), (m, n) = (
            [field.narrow(along, e.start, e.stop - e.start).flatten(1) for e in ends]
            for field in (values, valid.to(values.dtype))
        )
        pairs = m @ n.mT
        halves = ((a * a * m) @ n.mT + m @ (b * b * n).mT) / 2 - (a * m) @ (b * n).mT
        total, count = ((both + both.mT).double().cpu().numpy() for both in (halves, pairs))
        found.append((total, count, (lag, 0) if along == 1 else (0, lag)))
    return found


def _bins(
    days: Float64Array, year_phase: Float64Array, day_phase: Float64Array, between: dict[str, Float64Array]
) -> tuple[npt.NDArray[np.int64], Float64Array]:
    """Number of the bin of every pair of steps, and how many median steps lie between them, each (T, T)."""
    step = float(np.median(np.diff(days))) if len(days) > 1 else 1.0
    apart = np.abs(days[:, None] - days[None]) / step
    bins = np.digitize(apart, STEPS)
    if "year" in between or "day" in between:
        phase = year_phase if "year" in between else day_phase
        distance = np.abs((phase[:, None] - phase[None] + 0.5) % 1 - 0.5)
        bins = bins * (len(PHASES) + 1) + np.digitize(distance, PHASES)
    return bins, apart
