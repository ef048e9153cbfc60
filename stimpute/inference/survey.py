"""Looking over one layer before filling it: one pass by windows for counts, statistics, variogram, tiles and refusals.

Bounded in memory whatever the file's size. Knows protocols and geostatistics; neither files nor any particular method.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from stimpute.errors import InputError, StimputeWarning, VariogramError
from stimpute.grid import Grid
from stimpute.inference.familiarity import cell_km, remark, traits
from stimpute.inference.level_shift import level_shift
from stimpute.inference.memory import BandReader, Read, wrapped
from stimpute.inference.options import FillOptions, Progress
from stimpute.inference.scan import (
    ENGINE_BYTES,
    FirstAndLast,
    Scan,
    scan_layer,
    where,
)
from stimpute.io.room import available_bytes
from stimpute.protocols import Layer, Method, Source, Window
from stimpute.stack import BoolArray, Stack
from stimpute.tiling import FALLBACK_RANGE_CELLS, Tile, TilePlan, plan_tiles, tiles, with_context
from stimpute.variography import VariogramAnalysis, analyse

WHOLE_BYTES, TILE_BYTES = 120, 1600  # per cell-step inside a method that does not say: classical, network
COVARIATE_BYTES = 45  # per cell-step and covariate
MAP_BYTES, OVERVIEW_BYTES = 28, 24  # per cell of the grid, per cell-step of the overview
BAND_SHARE, BAND_BYTES = (
    4,
    16,
)  # share of the memory for rows of tiles read at once, bytes per cell-step of them
_GRAINS = 20  # of single precision at the largest value, that the standard deviation must be worth
FEW_STEPS = 5
MAX_HALO, NETWORK_HALO, MANY_STEPS = 16, 8, 6  # cells, of networks where there are many steps (decision 4)


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known about a layer before any of it is filled.

    ``read`` takes windows of the *extended* grid, ``margin`` columns wider on both sides where longitude wraps;
    ``shape`` is the layer's own, ``tiles`` lie on the extended one.
    """

    index: int
    layer: Layer
    shape: tuple[int, int, int]
    read: Read
    margin: int
    in_memory: bool
    overview: Stack
    observed_per_cell: npt.NDArray[np.int32]
    observed_per_step: npt.NDArray[np.int64]
    first_and_last: FirstAndLast
    times: npt.NDArray[np.float64]  # days, of every step
    grid: Grid
    fillable: BoolArray  # (y, x): may be filled
    outside: BoolArray  # (y, x): outside the domain
    variogram: VariogramAnalysis | None
    range_km: float | None
    range_days: float | None
    plan: TilePlan | None  # None: the method sees the whole layer at once
    tiles: tuple[Tile, ...]
    bytes_per_cell: int
    budget: int  # bytes
    notes: tuple[str, ...]
    workers: int = 1  # tiles to compute at once, in threads of one process
    constant: float | None = None  # the one value that is observed everywhere; None: there are several

    @property
    def observed(self) -> int:
        """Observed cell-steps."""
        return int(self.observed_per_cell.sum(dtype=np.int64))

    @property
    def cells(self) -> int:
        """Cell-steps of the layer."""
        return math.prod(self.shape)

    @property
    def extended(self) -> tuple[int, int, int]:
        """Shape of the grid the tiles lie on."""
        t, ny, nx = self.shape
        return t, ny, nx + 2 * self.margin

    @property
    def extended_columns(self) -> npt.NDArray[np.intp]:
        """Column of the layer behind each column of the extended grid."""
        nx = self.shape[2]
        return np.arange(-self.margin, nx + self.margin) % nx

    @property
    def peak_bytes(self) -> int:
        """Estimate of the largest amount of memory the arrays of this layer take at once."""
        tile = self.workers * max(tile.looked_at for tile in self.tiles) * self.bytes_per_cell
        _, ny, nx = self.shape
        always = ny * nx * MAP_BYTES + self.overview.values.size * OVERVIEW_BYTES
        if self.in_memory:
            return always + tile + math.prod(self.extended) * ENGINE_BYTES
        reading = max(self.budget, ny * nx * ENGINE_BYTES)
        return always + min(max(tile + self.budget // BAND_SHARE, reading), tile + self.cells * ENGINE_BYTES)


def memory_budget(options: FillOptions) -> int:
    """Bytes the arrays of a run may take: what was asked for, else a quarter of what is free."""
    if options.memory is not None:
        return options.memory
    return max(available_bytes() // 4, 2**28)


def survey_layer(
    source: Source, index: int, method: Method, options: FillOptions, progress: Progress | None = None
) -> Survey:
    """Read a layer once by windows and decide how it will be filled.

    Raises
    ------
    InputError : nothing at all was observed.
    """
    layer = source.layers[index]
    budget = memory_budget(options)
    scan = scan_layer(source, index, budget, progress)
    if not scan.per_cell.any():
        raise InputError(
            f"{where(source, layer)}: no observed value at all, so there is nothing to fill from"
        )
    notes = _remarks(layer, scan) + _jump(source, layer, scan)
    if scan.constant is not None and scan.per_cell.sum() < math.prod(layer.shape):
        notes.append(f"{layer.name}: every observed value is {scan.constant:g}, and so is every filled one")
    complete = bool((scan.per_cell == layer.shape[0]).all())
    variogram, failed = (None, "") if complete else _variogram(scan.whole or scan.overview, options.seed)
    range_km, range_days = _ranges(variogram)
    if not complete:
        notes += remark(layer.name, traits(scan.per_cell, layer.shape[0], variogram, source.grid), method)
    if not complete and (failed or range_km is None):
        notes.append(failed or f"{layer.name}: no spatial range could be fitted; tiles of the fallback size")
    fillable, outside, refusal = _fillable(source, layer, scan, _reach(variogram, range_km), options)
    notes += refusal
    read = (
        scan.read
        if scan.whole is not None
        else BandReader(scan.read, layer.shape[2], budget // BAND_SHARE // BAND_BYTES)
    )
    survey = Survey(
        index=index, layer=layer, shape=layer.shape, read=read, margin=0, in_memory=scan.whole is not None,
        overview=scan.overview, observed_per_cell=scan.per_cell, observed_per_step=scan.per_step, first_and_last=scan.first_and_last,
        times=source.times, grid=source.grid, fillable=fillable, outside=outside, variogram=variogram, range_km=range_km, range_days=range_days,
        plan=None, tiles=(), bytes_per_cell=_bytes_per_cell(method, scan.overview), budget=budget, notes=tuple(notes), constant=scan.constant,
    )  # fmt: skip
    for note in notes:
        warnings.warn(note, StimputeWarning, stacklevel=2)
    return _with_tiles(survey, source, method, options, budget)


def _bytes_per_cell(method: Method, overview: Stack) -> int:
    """Of arrays inside a method at its peak, per cell-step."""
    own = getattr(method, "bytes_per_cell", TILE_BYTES if hasattr(method, "multiple") else WHOLE_BYTES)
    return int(own) + COVARIATE_BYTES * (len(overview.dynamic) + len(overview.static))


def _remarks(layer: Layer, scan: Scan) -> list[str]:
    notes = []
    if layer.shape[0] == 1:
        notes.append(f"{layer.name}: a single time step; filled from space alone")
    empty = int((scan.per_step == 0).sum())
    if empty and layer.shape[0] > 1:
        notes.append(
            f"{layer.name}: {empty} of {layer.shape[0]} time steps hold no observation; filled from the others"
        )
    if int((scan.per_cell > 0).sum()) == 1 and scan.per_cell.size > 1:
        notes.append(f"{layer.name}: only one cell was ever observed")
    notes += _coarse_numbers(layer, scan.overview, scan.constant is not None)
    covariates = {**scan.overview.dynamic, **scan.overview.static}
    for name in (n for n, field in covariates.items() if not np.isfinite(field).any()):
        notes.append(f"{layer.name}: covariate {name} holds no value here, so it has no effect")
    return notes


def _coarse_numbers(layer: Layer, overview: Stack, constant: bool) -> list[str]:
    """Of values that are so large against their spread that single precision tells few of them apart."""
    seen = overview.values[overview.valid]
    if seen.size < 2:
        return []
    grain = float(np.spacing(np.abs(seen).max()))
    spread = float(seen.std(dtype=np.float64))
    if spread >= _GRAINS * grain or constant:
        return []
    return [
        f"{layer.name}: values of about {seen[0]:.3g} vary by {spread:.2g} only, and single precision, in which gaps are computed, "
        f"tells no less than {grain:.2g} apart; subtract a constant first"
    ]


def _jump(source: Source, layer: Layer, scan: Scan) -> list[str]:
    """The warning of a sensor step: another offset, calibration or product version from one date on."""
    found = level_shift(scan.overview)
    if found is None:
        return []
    step = int(np.searchsorted(source.times, scan.overview.times[found[0]]))
    return [
        f"{where(source, layer)} jumps by {found[1]:+.4g} {layer.units}".rstrip()
        + f" at {source.time_labels[step]} and stays there; another offset or sensor? Bring both parts to one scale first"
    ]


def _variogram(stack: Stack, seed: int) -> tuple[VariogramAnalysis | None, str]:
    try:
        return analyse(stack, seed=seed), ""
    except VariogramError as error:
        return None, f"no variogram ({error}); tiles of the fallback size, {FALLBACK_RANGE_CELLS:g} cells"


def _ranges(variogram: VariogramAnalysis | None) -> tuple[float | None, float | None]:
    if variogram is None:
        return None, None
    fits = (variogram.spatial_fit, variogram.temporal_fit)
    ranges = [
        fit.effective_range if fit is not None and math.isfinite(fit.effective_range) else None
        for fit in fits
    ]
    return ranges[0], ranges[1]


def _reach(variogram: VariogramAnalysis | None, range_km: float | None) -> float | None:
    """How far space alone may be trusted: the range, but never beyond the largest lag that was compared."""
    if variogram is None or range_km is None:
        return range_km
    return min(range_km, variogram.spatial.max_lag)


def _fillable(
    source: Source, layer: Layer, scan: Scan, reach_km: float | None, options: FillOptions
) -> tuple[BoolArray, BoolArray, list[str]]:
    """Which cells may be filled, which lie outside the domain, and what the user should know about it."""
    notes: list[str] = []
    ever = scan.per_cell > 0
    domain = getattr(source, "domain", None)
    outside = np.zeros(ever.shape, dtype=bool) if domain is None else ~np.asarray(domain, dtype=bool)
    fillable = ever.copy()
    if options.fill_never_observed:
        fillable[:] = True
    elif layer.shape[0] < FEW_STEPS and not ever.all():
        reach = reach_km if reach_km is not None else FALLBACK_RANGE_CELLS * cell_km(source.grid)
        fillable |= _distance_to_cells_km(source, ever) <= reach
        unit = "cells" if source.grid.units == "cells" else "km"
        notes.append(
            f"{layer.name}: with {layer.shape[0]} steps, cells farther than {reach:.4g} {unit} (effective range) from an"
            f" observation are refused: {int((~fillable & ~outside).sum())} of {fillable.size}; --fill-never-observed fills them"
        )
    if options.min_obs is not None:
        fillable &= scan.per_cell >= options.min_obs * layer.shape[0]
    return fillable & ~outside, outside, notes


def _distance_to_cells_km(source: Source, cells: BoolArray) -> npt.NDArray[np.float64]:
    """Distance of every cell to the nearest of ``cells``, with the grid's typical spacing (both directions of a wrap)."""
    dy, dx = (s if s > 0 else 1.0 for s in source.grid.spacing_km())
    half = cells.shape[1] // 2 if source.grid.wraps else 0
    around = np.concatenate([cells[:, cells.shape[1] - half :], cells, cells[:, :half]], axis=1)
    distance = distance_transform_edt(~around, sampling=(dy, dx))
    return np.asarray(distance[:, half : half + cells.shape[1]])


def _with_tiles(survey: Survey, source: Source, method: Method, options: FillOptions, budget: int) -> Survey:
    """Lay the tiles: one, where the method wants the whole and memory allows it."""
    spacing = cell_km(source.grid)
    range_cells = None if survey.range_km is None else survey.range_km / spacing
    steps = float(np.median(np.diff(source.times))) if len(source.times) > 1 else 1.0
    range_steps = None if survey.range_days is None else survey.range_days / steps
    windowed = (
        hasattr(method, "multiple") and not method.sees_whole
    )  # networks: made for tiles of whole windows
    wants_whole = options.tile is None and not windowed
    reach = math.ceil(FALLBACK_RANGE_CELLS if range_cells is None else range_cells)
    margin = min(reach, survey.shape[2] // 8) if source.grid.wraps else 0
    if wants_whole and survey.cells * (survey.bytes_per_cell + ENGINE_BYTES) <= budget:
        whole = replace(survey, **_margin(survey, margin))
        everything = Window.whole(whole.extended)
        return replace(whole, tiles=(Tile(everything, everything, (0, 0, 0)),))
    if wants_whole:
        note = f"{survey.layer.name}: {method.name} would see the whole stack, but memory ({budget / 2**30:.3g} GiB) allows tiles only"
        warnings.warn(note, StimputeWarning, stacklevel=2)
        survey = replace(survey, notes=(*survey.notes, note))
    limits = {
        name: getattr(method, name) for name in ("min_tile", "max_steps", "multiple") if hasattr(method, name)
    }
    if hasattr(method, "largest_tile"):
        limits["max_tile"] = method.largest_tile(survey.shape[0])
        if survey.shape[0] < MANY_STEPS:
            limits["min_tile"] = limits["max_tile"]
    widest = NETWORK_HALO if windowed and survey.shape[0] >= MANY_STEPS else MAX_HALO
    overlap = options.overlap if options.overlap is not None or reach < 2 * widest else widest
    plan = plan_tiles(
        survey.shape, range_cells=range_cells, range_steps=range_steps, tile=options.tile, overlap=overlap,
        cells_budget=_tile_cells(survey, budget), **limits,
    )  # fmt: skip
    survey = replace(
        survey, **_margin(survey, min(plan.core, survey.shape[2] // 4) if margin else 0), plan=plan
    )
    laid = sorted(tiles(survey.extended, plan), key=_order)
    if windowed:
        laid = [with_context(tile, survey.observed_per_step > 0) for tile in laid]
    survey = replace(survey, tiles=tuple(laid))
    if not getattr(method, "threadable", False):
        return survey
    return replace(survey, workers=_workers(survey, budget, options.uncertainty))


def _workers(survey: Survey, budget: int, calibrated: bool) -> int:
    """Tiles to compute at once: one for each CPU thread, as far as there are tiles and memory for them.

    A single tile is computed beside the same tile as it is ``calibrated`` on.
    """
    from stimpute.inference.devices import thread_count

    room = _tile_cells(survey, budget) // max(tile.looked_at for tile in survey.tiles)
    return max(1, min(thread_count(), max(len(survey.tiles), 1 + calibrated), room))


def _tile_cells(survey: Survey, budget: int) -> int:
    """Most cell-steps a tile may hold: what the engine's own arrays leave of the budget."""
    own = survey.cells * ENGINE_BYTES if survey.in_memory else budget // 2
    return max(1, (budget - own) // survey.bytes_per_cell)


def _margin(survey: Survey, margin: int) -> dict[str, Any]:
    return {
        "margin": margin,
        "read": wrapped(survey.read, survey.shape[2], margin) if margin else survey.read,
    }


def _order(tile: Tile) -> tuple[int, int, int]:
    return tile.core.y[0], tile.core.x[0], tile.core.time[0]
