"""What a fill would do, without doing it: gaps, variogram, tiles and their reason, memory, disk, time. Writes nothing."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stimpute.calibration import distance_to_data
from stimpute.inference.at_once import at_once
from stimpute.inference.options import FillOptions, Progress
from stimpute.inference.refusal import count_reasons, extrapolation_limit, refused_gaps
from stimpute.inference.survey import Survey, survey_layer
from stimpute.inference.trust import calibration_windows, hidden_patterns
from stimpute.io.room import available_bytes
from stimpute.protocols import Method, Source, Window
from stimpute.stack import Stack

OUTPUT_BYTES = (
    5  # per cell-step besides the variable itself: float32 standard error and a byte of flag, uncompressed
)
WRITE_SECONDS = 1.2e-7  # per cell-step: keeping, blending, deciding, packing and writing, uncompressed
COUNTED_CELLS = 2**21  # cell-steps looked at once, while gaps are counted
BASE_BYTES = 400 * 2**20  # the interpreter with its libraries


@dataclass(frozen=True)
class LayerPlan:
    """What would happen to one layer. Bytes are uncompressed; ``expected_seconds`` comes from timing one tile."""

    name: str
    units: str
    shape: tuple[int, int, int]
    missing: float
    never_observed: float
    empty_steps: int
    longest_gap_steps: int
    fillable_gaps: int
    refusals: Mapping[str, int]  # gaps that stay, by reason
    counted: bool  # False: fewer than fillable_gaps would be filled, since not every reason was looked at
    range_km: float | None
    range_days: float | None
    whole: bool
    tiles: int
    tile: Mapping[str, Any]
    reason: str
    memory_bytes: int
    disk_bytes: int
    expected_seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FillPlan:
    """The plan of a fill over all layers."""

    method: str
    inputs: Mapping[str, Any]
    layers: tuple[LayerPlan, ...]
    available_bytes: int
    adaptation: str = ""  # what would be done to the model first

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self), "layers": [vars(layer) for layer in self.layers]}

    def lines(self) -> list[str]:
        """The plan as text."""
        time_axis = self.inputs.get("time", {})
        crs = self.inputs.get("crs") or {}
        text = [f"format: {self.inputs.get('format', '')}", f"crs: {crs.get('name') or 'none'}"]
        for layer in self.inputs.get("layers", ()):
            codes = ", ".join(str(code) for code in layer.get("nodata", ()))
            text.append(f"nodata of {layer.get('name', '')}: {codes or 'none'}")
        if time_axis:
            text.append(
                "time: "
                + ", ".join(f"{k} {v}" for k, v in time_axis.items() if not isinstance(v, list | dict))
            )
        for layer in self.layers:
            text += _layer_lines(layer)
        if self.adaptation:
            text.append(f"adapt: {self.adaptation}")
        text.append(f"method: {self.method}; memory available: {self.available_bytes / 2**30:.1f} GiB")
        return text


_REASONS = {
    "whole": "the method sees the whole stack at once",
    "range": "from the effective range",
    "fallback": "no range could be fitted: the fallback",
    "min_tile": "the smallest the model takes",
    "max_tile": "the largest worth its memory",
    "budget": "what memory allows",
    "user": "as asked with --tile",
    "extent": "the stack is smaller than one tile",
}


def _layer_lines(layer: LayerPlan) -> list[str]:
    t, ny, nx = layer.shape
    reach = "none fitted" if layer.range_km is None else f"{layer.range_km:.4g} km"
    lasting = "none fitted" if layer.range_days is None else f"{layer.range_days:.4g} days"
    tile = layer.tile
    tiling = (
        "one tile" if layer.whole
        else f"{layer.tiles} tiles of {tile['core']} + 2 x {tile['halo']} cells, {tile['time_core']} + 2 x {tile['time_halo']} steps"
    )  # fmt: skip
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in layer.refusals.items())
    why = f" ({reasons})" if reasons else ""
    refused = f"{sum(layer.refusals.values()):,} refused{why}"
    if layer.counted:
        filled = f"{layer.fillable_gaps:,} gaps would be filled, {refused}"
    else:
        filled = f"at most {layer.fillable_gaps:,} gaps would be filled, at least {refused}: memory does not hold the layer to count those too far from observations"
    return [
        f"{layer.name}: {t} steps x {ny} x {nx} cells, {layer.missing:.1%} missing"
        f" ({layer.never_observed:.1%} of the cells never observed, {layer.empty_steps} steps empty, longest gap {layer.longest_gap_steps} steps)",
        f"  {filled}",
        f"  effective range: {reach} in space, {lasting} in time",
        f"  {tiling} ({layer.reason})",
        f"  memory {layer.memory_bytes / 2**20:,.0f} MiB, disk at most {layer.disk_bytes / 2**20:,.0f} MiB,"
        f" time about {layer.expected_seconds:,.0f} s",
        *(f"  note: {note}" for note in layer.notes),
    ]


def plan_fill(
    source: Source,
    method: Method,
    options: FillOptions,
    inputs: Mapping[str, Any],
    progress: Progress | None = None,
    *,
    copies: int = 1,
) -> FillPlan:
    """Survey every layer and time one tile of each.

    Parameters
    ----------
    inputs : what `io` says about the input (time axis, nodata found, CRS); goes into the plan as it is.
    copies : how many times the output lies on the disk while it is written (2 where it is staged first).

    Raises
    ------
    InputError : a layer without any observation.
    """
    layers = []
    for index in range(len(source.layers)):
        started = time.perf_counter()
        survey = survey_layer(source, index, method, options, progress)
        layers.append(_layer_plan(survey, method, options, time.perf_counter() - started, copies))
    return FillPlan(method.name, inputs, tuple(layers), available_bytes())


def _layer_plan(
    survey: Survey, method: Method, options: FillOptions, surveyed: float, copies: int
) -> LayerPlan:
    fillable_gaps, refusals, counted = _count_gaps(survey, options)
    plan = survey.plan
    seconds = surveyed + _expected_seconds(survey, method, options)
    return LayerPlan(
        name=survey.layer.name, units=survey.layer.units, shape=survey.shape,
        missing=1 - survey.observed / survey.cells, never_observed=float((survey.observed_per_cell == 0).mean()),
        empty_steps=int((survey.observed_per_step == 0).sum()), longest_gap_steps=longest_gap(survey.overview.valid),
        fillable_gaps=fillable_gaps, refusals=refusals, counted=counted, range_km=survey.range_km, range_days=survey.range_days,
        whole=plan is None, tiles=len(survey.tiles), tile={} if plan is None else plan.to_dict(),
        reason=_REASONS["whole" if plan is None else plan.bound_by], memory_bytes=BASE_BYTES + survey.peak_bytes,
        disk_bytes=copies * survey.cells * (survey.layer.dtype.itemsize + OUTPUT_BYTES) + _tile_bytes(survey),
        expected_seconds=seconds,
        notes=survey.notes,
    )  # fmt: skip


def _count_gaps(survey: Survey, options: FillOptions) -> tuple[int, dict[str, int], bool]:
    """Gaps that would be filled, those refused by reason, and whether these are all: decided as the fill decides.

    A layer that memory does not hold is not read again: only what its counts per cell tell is known.
    """
    t, ny, nx = survey.shape
    if not survey.in_memory:
        missing, never = t - survey.observed_per_cell, survey.observed_per_cell == 0
        left = ~survey.fillable & ~survey.outside
        refusals = Counter(
            {
                "never observed": int(missing[left & never].sum()),
                "below --min-obs": int(missing[left & ~never].sum()),
            }
        )
        limits = options.max_gap_days, options.max_distance, extrapolation_limit(survey, options)
        return int(missing[survey.fillable].sum()), dict(+refusals), limits == (None, None, math.inf)
    rows = max(1, COUNTED_CELLS // (t * nx))
    fillable, refusals = 0, Counter()
    for top in range(0, ny, rows):
        y = (top, min(top + rows, ny))
        window = Window((0, t), y, (0, nx))
        valid = survey.read(Window((0, t), y, (survey.margin, survey.margin + nx))).valid
        reasons = refused_gaps(survey, window, valid, options)
        allowed = survey.fillable[slice(*y)] & ~valid
        for gaps in reasons.values():
            allowed &= ~gaps
        refused = ~valid & ~allowed & ~survey.outside[slice(*y)]
        refusals.update(count_reasons(survey, window, refused, reasons))
        fillable += int(allowed.sum())
    return fillable, dict(refusals), True


def _tile_bytes(survey: Survey) -> int:
    """Of the finished tiles that are kept until the output has its name: mean and standard error of gaps, a bit for each cell."""
    if len(survey.tiles) == 1:
        return 0
    read = sum(math.prod(tile.read.shape) for tile in survey.tiles)
    return int(read * (8 * (1 - survey.observed / survey.cells) + 1 / 8))


def _expected_seconds(survey: Survey, method: Method, options: FillOptions) -> float:
    """Time a window of one tile (of many), or the thinned overview (for the whole), and scale up by cells; calibration included."""
    imputer = method.prepare(survey.overview)
    count, shape = calibration_windows(survey)
    tile = survey.tiles[len(survey.tiles) // 2].read
    y, x = ((start, start + length) for (start, _), length in zip((tile.y, tile.x), shape[1:], strict=True))
    started = time.perf_counter()
    sample = survey.overview if survey.plan is None else survey.read(Window(tile.time, y, x))

    def compute(stack: Stack) -> None:
        if options.uncertainty:
            distance_to_data(stack.valid, stack.times)
        imputer.impute(stack)

    list(
        at_once(compute, [sample] * survey.workers, survey.workers)
    )  # side by side as in a fill, each slower than alone
    once = (time.perf_counter() - started) / survey.workers
    total = sum(math.prod(tile.read.shape) for tile in survey.tiles)
    if options.uncertainty:
        total += count * math.prod(shape) * len(hidden_patterns(sample, options.seed, count))
    return once * total / math.prod(sample.shape) + survey.cells * WRITE_SECONDS


def longest_gap(valid: np.ndarray[Any, np.dtype[np.bool_]]) -> int:
    """Most steps in a row without an observation, over the cells that were ever observed.

    >>> longest_gap(np.array([True, False, False, True])[:, None, None])
    2
    """
    longest = run = np.zeros(valid.shape[1:], dtype=np.int64)
    for step in valid:
        run = np.where(step, 0, run + 1)
        longest = np.maximum(longest, run)
    ever = valid.any(axis=0)
    return int(longest[ever].max()) if ever.any() else 0
