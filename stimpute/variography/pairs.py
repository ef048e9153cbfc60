"""Pairs of observed cells, drawn at random and bounded in number, and the residuals they compare. Knows no models."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from stimpute.errors import VariogramError
from stimpute.stack import Stack
from stimpute.variography.models import BoolArray, Float64Array, Pairs

IntArray = npt.NDArray[np.intp]

_MIN_OBSERVATIONS = 4  # per cell, for a temporal mean worth removing
_DRAW_ROUNDS = 12
_FRAME_CELLS = 20_000_000  # cells of the frames that pairs are drawn from
NOTHING: Pairs = (np.empty(0), np.empty(0))


class Residuals:
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


class _Drawn(ABC):
    """Pairs of observed cells: every one where there are few, else drawn until there are enough."""

    residuals: Residuals
    rng: np.random.Generator
    max_pairs: int
    max_lag: float
    min_lag: float
    every: bool

    def draw(self, max_lag: float) -> Pairs:
        """Lags (km or days) and differences of residuals."""
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

    @abstractmethod
    def _all(self) -> tuple[IntArray, ...]: ...

    @abstractmethod
    def _some(self, max_lag: float, count: int) -> tuple[IntArray, ...]: ...

    @abstractmethod
    def _measure(self, *pairs: IntArray) -> Pairs: ...


class SpatialPairs(_Drawn):
    """Pairs of cells of one frame."""

    def __init__(self, residuals: Residuals, max_pairs: int, rng: np.random.Generator) -> None:
        self.residuals, self.max_pairs, self.rng = residuals, max_pairs, rng
        self.grid = residuals.stack.grid
        self.spacing = self.grid.spacing_km()
        positive = [s for s in self.spacing if s > 0]
        self.min_lag = min(positive, default=0.0) if self.grid.kind != "points" else 0.0
        self.max_lag = self._extent() / 2
        per_frame = residuals.valid.sum(axis=(1, 2), dtype=np.int64)
        self.every = int((per_frame * (per_frame - 1) // 2).sum()) <= max_pairs

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

    def _measure(self, *pairs: IntArray) -> Pairs:
        f, rows0, cols0, rows1, cols1 = pairs
        both = self.residuals.valid[f, rows1, cols1] & ((rows0 != rows1) | (cols0 != cols1))
        f, rows0, cols0, rows1, cols1 = (a[both] for a in (f, rows0, cols0, rows1, cols1))
        t = self.residuals.frames[f]
        difference = self.residuals.at(t, rows0, cols0) - self.residuals.at(t, rows1, cols1)
        return self.grid.distance_km(rows0, cols0, rows1, cols1), difference


class TemporalPairs(_Drawn):
    """Pairs of steps of one cell."""

    def __init__(self, residuals: Residuals, max_pairs: int, rng: np.random.Generator) -> None:
        self.residuals, self.max_pairs, self.rng = residuals, max_pairs, rng
        self.times = residuals.stack.times[residuals.frames]
        enough = residuals.by_cell and len(self.times) >= _MIN_OBSERVATIONS
        self.max_lag = float(np.ptp(self.times)) / 2 if enough else 0.0
        self.min_lag = float(np.median(np.diff(self.times))) if enough else 0.0
        per_cell = residuals.valid.sum(axis=0, dtype=np.int64)
        possible = len(self.times) ** 2 * per_cell.size // 2
        self.every = possible <= 20 * max_pairs and int((per_cell * (per_cell - 1) // 2).sum()) <= max_pairs

    def _some(self, max_lag: float, count: int) -> tuple[IntArray, ...]:
        f, rows, cols = self.residuals.place(self.rng.choice(self.residuals.anchors, max(count, 1000)))
        sign = self.rng.choice([-1.0, 1.0], len(f))
        wanted = self.times[f] + sign * self.rng.uniform(0, max_lag, len(f))
        return f, self._nearest(wanted), rows, cols

    def _all(self) -> tuple[IntArray, ...]:
        first, second = np.triu_indices(len(self.times), 1)
        pair, rows, cols = np.nonzero(self.residuals.valid[first] & self.residuals.valid[second])
        return first[pair], second[pair], rows, cols

    def _measure(self, *pairs: IntArray) -> Pairs:
        f, g, rows, cols = pairs
        both = self.residuals.valid[g, rows, cols] & (f != g)
        f, g, rows, cols = f[both], g[both], rows[both], cols[both]
        frames = self.residuals.frames
        difference = self.residuals.at(frames[f], rows, cols) - self.residuals.at(frames[g], rows, cols)
        return np.abs(self.times[g] - self.times[f]), difference

    def _nearest(self, wanted: Float64Array) -> IntArray:
        after = np.clip(np.searchsorted(self.times, wanted), 1, len(self.times) - 1)
        return after - (wanted - self.times[after - 1] < self.times[after] - wanted)
