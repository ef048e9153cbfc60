"""Filling a stack of any size with any method: tile by tile, blended, calibrated, refused where it should be.

Observed values never pass through here on their way to the output: the sink copies them from the source. Knows
protocols only; neither files nor networks.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import NormalDist

import numpy as np

from stimpute import __version__
from stimpute.inference.options import Bounds, FillOptions, Progress
from stimpute.inference.refusal import count_reasons, refused_gaps
from stimpute.inference.summary import FillSummary, LayerSummary
from stimpute.inference.survey import Survey, survey_layer
from stimpute.inference.trust import Trust, earn_trust
from stimpute.protocols import (
    FILLED,
    OBSERVED,
    OUTSIDE_DOMAIN,
    REFUSED,
    Filled,
    Imputer,
    Layer,
    Method,
    Sink,
    Source,
    Window,
)
from stimpute.stack import BoolArray, Float32Array, Stack
from stimpute.tiling import blend_weights

STANDARD_NAME_BOUNDS: dict[str, Bounds] = {
    "normalized_difference_vegetation_index": (-1.0, 1.0),
    "volume_fraction_of_condensed_water_in_soil": (0.0, 1.0),
    "soil_moisture_content": (0.0, None),
    "mass_content_of_water_in_soil": (0.0, None),
    "mass_concentration_of_chlorophyll_in_sea_water": (0.0, None),
    "mass_concentration_of_chlorophyll_a_in_sea_water": (0.0, None),
    "area_fraction": (0.0, None),
    "cloud_area_fraction": (0.0, None),
    "sea_ice_area_fraction": (0.0, None),
    "relative_humidity": (0.0, None),
    "air_temperature": (0.0, None),
    "wind_speed": (0.0, None),
    "leaf_area_index": (0.0, None),
    "surface_albedo": (0.0, None),
}
_NEVER_NEGATIVE = ("precipitation", "rainfall", "snowfall", "lwe_thickness", "aerosol_optical")


@dataclass(frozen=True, eq=False)
class Answer:
    """What one tile says, in the variable's units: mean (NaN: nothing), standard error, what was observed. (time, y, x)"""

    mean: Float32Array
    scale: Float32Array | None
    valid: BoolArray


def fill_source(
    source: Source,
    sink: Sink,
    method: Method,
    options: FillOptions,
    progress: Progress | None = None,
    command: str = "",
) -> FillSummary:
    """Fill every layer of ``source`` into ``sink`` and commit it.

    Parameters
    ----------
    command : what the user typed, for the output's ``history``.

    Raises
    ------
    InputError : a layer without any observation.
    OutputError : the sink cannot hold a value, or cannot be written.
    """
    started = time.perf_counter()
    layers = []
    for index in range(len(source.layers)):
        survey = survey_layer(source, index, method, options, progress)
        layers.append(_fill_layer(survey, sink, method, options, progress))
    outputs = sink.commit(_history(method, options, command))
    seconds = time.perf_counter() - started
    cells = sum(int(np.prod(layer.shape)) for layer in source.layers)
    return FillSummary(
        method=method.name, model=getattr(method, "model_name", None), model_sha256=getattr(method, "sha256", None),
        seed=options.seed, layers=tuple(layers), seconds=round(seconds, 3),
        cell_steps_per_second=round(cells / max(seconds, 1e-9)), outputs=tuple(str(path) for path in outputs),
        adaptation=getattr(method, "adaptation", None),
    )  # fmt: skip


def _fill_layer(
    survey: Survey, sink: Sink, method: Method, options: FillOptions, progress: Progress | None
) -> LayerSummary:
    counts = np.zeros(4, dtype=np.int64)
    clipped, claimed = 0, 0.0
    reasons: Counter[str] = Counter()
    bounds = resolve_bounds(survey.layer, options)
    gaps = bool(survey.observed < survey.cells - survey.shape[0] * int(survey.outside.sum()))
    if gaps:
        imputer = method.prepare(survey.overview)
        trust = earn_trust(survey, imputer, options.seed, progress) if options.uncertainty else Trust()
        trust = _widened(trust, method)
        bands = _bands(survey, imputer, trust, progress)
    else:
        trust = Trust()
        bands = _untouched(survey)
    for window, answer in bands:
        filled, changed = _filled(survey, window, answer, bounds, options, reasons)
        sink.write(window, filled, survey.index)
        counts += np.bincount(filled.flag.ravel(), minlength=4)
        clipped += changed
        claimed += (
            0.0
            if filled.standard_error is None
            else float(np.nansum(filled.standard_error, dtype=np.float64))
        )
    notes = survey.notes if gaps else (*survey.notes, f"{survey.layer.name}: no gaps; copied")
    return LayerSummary(
        name=survey.layer.name, units=survey.layer.units, observed=int(counts[OBSERVED]), filled=int(counts[FILLED]),
        refused=int(counts[REFUSED]), outside_domain=int(counts[OUTSIDE_DOMAIN]), clipped=clipped,
        expected_error=trust.expected_error(claimed, int(counts[FILLED])), coverage=trust.coverage, whole=survey.plan is None, tiles=len(survey.tiles),
        tile={} if survey.plan is None else survey.plan.to_dict(), range_km=survey.range_km,
        range_days=survey.range_days, notes=notes, refusals=dict(reasons),
    )  # fmt: skip


def _widened(trust: Trust, method: Method) -> Trust:
    """What was hidden to calibrate on is what an adapted model was trained on: it errs more elsewhere, by a measured factor."""
    adaptation = getattr(method, "adaptation", None)
    if adaptation is None:
        return trust
    seen, empty = (
        None if fit is None else fit.widened(adaptation.optimism) for fit in (trust.seen, trust.empty)
    )
    mae = None if trust.mae is None else trust.mae * adaptation.optimism
    return replace(trust, seen=seen, empty=empty, mae=mae)


# --- tiles, blended into bands --------------------------------------------------------------------------------------


class _Band:
    """Sums of weight, weight x mean, weight x standard error over the rows still open. Rows leave at the top."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._steps, _, self._columns = shape
        self.top = 0
        self._rows: dict[str, Float32Array] = {
            k: np.zeros((shape[0], 0, shape[2]), np.float32) for k in ("weight", "mean", "scale")
        }
        self._valid = np.zeros((shape[0], 0, shape[2]), dtype=bool)

    def add(self, window: Window, weight: Float32Array, answer: Answer) -> None:
        """Blend one tile in; where it says NaN it has no vote."""
        self._grow(window.y[1])
        t, y, x = window.time, (window.y[0] - self.top, window.y[1] - self.top), window.x
        where = Window(t, y, x).slices
        said = np.isfinite(answer.mean)
        vote = np.where(said, weight, np.float32(0))
        self._rows["weight"][where] += vote
        self._rows["mean"][where] += vote * np.where(said, answer.mean, np.float32(0))
        if answer.scale is not None:
            self._rows["scale"][where] += vote * np.nan_to_num(answer.scale)
        self._valid[where] = answer.valid

    def _grow(self, bottom: int) -> None:
        missing = bottom - self.top - self._valid.shape[1]
        if missing > 0:
            more = (self._steps, missing, self._columns)
            self._rows = {
                k: np.concatenate([v, np.zeros(more, np.float32)], axis=1) for k, v in self._rows.items()
            }
            self._valid = np.concatenate([self._valid, np.zeros(more, dtype=bool)], axis=1)

    def finish(self, bottom: int, scaled: bool) -> tuple[tuple[int, int], Answer]:
        """Take out the rows above ``bottom``, weighted sums divided by weights."""
        rows, count = (self.top, bottom), bottom - self.top
        weight = self._rows["weight"][:, :count]
        divisor = np.where(weight > 0, weight, np.float32(np.nan))
        answer = Answer(
            np.asarray(self._rows["mean"][:, :count] / divisor, np.float32),
            np.asarray(self._rows["scale"][:, :count] / divisor, np.float32) if scaled else None,
            self._valid[:, :count],
        )
        self._rows = {k: v[:, count:] for k, v in self._rows.items()}
        self._valid = self._valid[:, count:]
        self.top = bottom
        return rows, answer


def _bands(
    survey: Survey, imputer: Imputer, trust: Trust, progress: Progress | None
) -> Iterator[tuple[Window, Answer]]:
    """Impute tile after tile; yield the rows that no later tile touches (all at once where memory allows)."""
    shape = survey.extended
    fillable = survey.fillable[:, survey.extended_columns]
    band = _Band(shape)
    scaled = False
    for number, tile in enumerate(survey.tiles):
        stack = survey.read(tile.read)
        wanted = fillable[tile.core.slices[1:]] & ~stack.valid[_inside(tile.core, tile.read)]
        answer = _answer(stack, imputer, trust) if wanted.any() else _nothing(stack)
        scaled |= answer.scale is not None
        band.add(tile.read, blend_weights(tile, shape), answer)
        if progress:
            progress("fill", number + 1, len(survey.tiles))
        last = number + 1 == len(survey.tiles)
        open_from = shape[1] if last else survey.tiles[number + 1].read.y[0]
        if last or (not survey.in_memory and open_from > band.top):
            yield _own_columns(survey, *band.finish(open_from, scaled))


def _inside(window: Window, outer: Window) -> tuple[slice, slice, slice]:
    """Slices of a window within another one's array."""
    pairs = zip((window.time, window.y, window.x), (outer.time, outer.y, outer.x), strict=True)
    t, y, x = (slice(start - origin, stop - origin) for (start, stop), (origin, _) in pairs)
    return t, y, x


def _answer(stack: Stack, imputer: Imputer, trust: Trust) -> Answer:
    estimate = imputer.impute(stack)
    return Answer(estimate.mean, trust.standard_error(estimate.scale, stack), stack.valid)


def _nothing(stack: Stack) -> Answer:
    """For a tile in which nothing may be filled."""
    return Answer(np.full(stack.shape, np.nan, dtype=np.float32), None, stack.valid)


def _own_columns(survey: Survey, rows: tuple[int, int], answer: Answer) -> tuple[Window, Answer]:
    """Cut off the columns that were added on either side of a grid that wraps."""
    t, _, nx = survey.shape
    own = slice(survey.margin, survey.margin + nx)
    scale = None if answer.scale is None else answer.scale[..., own]
    return Window((0, t), rows, (0, nx)), Answer(answer.mean[..., own], scale, answer.valid[..., own])


def _untouched(survey: Survey) -> Iterator[tuple[Window, Answer]]:
    """A layer without gaps, tile core by tile core."""
    rows = sorted({tile.core.y for tile in survey.tiles})
    for y in rows:
        window = Window((0, survey.shape[0]), y, (0, survey.shape[2]))
        extended = Window(window.time, y, (survey.margin, survey.margin + survey.shape[2]))
        stack = survey.read(extended)
        yield window, Answer(stack.values, None, stack.valid)


# --- flags, bounds, quantiles ---------------------------------------------------------------------------------------


def _filled(
    survey: Survey,
    window: Window,
    answer: Answer,
    bounds: Bounds,
    options: FillOptions,
    reasons: Counter[str],
) -> tuple[Filled, int]:
    """Decide cell by cell; returns what goes to the sink and how many filled values were clipped; adds to ``reasons``."""
    rows = window.slices[1]
    allowed = survey.fillable[rows][None] & np.isfinite(answer.mean) & ~answer.valid
    refused = refused_gaps(survey, window, answer.valid, options)
    for gaps in refused.values():
        allowed &= ~gaps
    flag = np.full(window.shape, REFUSED, dtype=np.uint8)
    flag[np.broadcast_to(survey.outside[rows][None], flag.shape)] = OUTSIDE_DOMAIN
    flag[allowed] = FILLED
    flag[answer.valid] = OBSERVED
    reasons.update(count_reasons(survey, window, flag == REFUSED, refused))
    low, high = bounds
    values = np.clip(answer.mean, low, high) if (low, high) != (None, None) else answer.mean
    clipped = int(((values != answer.mean) & allowed).sum())
    error = None if answer.scale is None else np.where(allowed, answer.scale, np.float32(np.nan))
    quantiles = {}
    if error is not None:
        for level in options.quantiles:
            quantile = values + np.float32(NormalDist().inv_cdf(level)) * error
            quantiles[level] = np.asarray(
                np.clip(quantile, low, high) if (low, high) != (None, None) else quantile, np.float32
            )
    return Filled(
        np.asarray(np.where(allowed, values, np.float32(np.nan)), np.float32), flag, error, quantiles
    ), clipped


def resolve_bounds(layer: Layer, options: FillOptions) -> Bounds:
    """(low, high) that filled values of a layer are clipped into; None leaves a side open."""
    if options.bounds is None:
        return None, None
    if options.bounds != "auto":
        return options.bounds
    low, high = layer.valid_range
    known = STANDARD_NAME_BOUNDS.get(layer.standard_name, (None, None))
    if any(word in layer.standard_name for word in _NEVER_NEGATIVE):
        known = (0.0, None)
    return known[0] if low is None else low, known[1] if high is None else high


def _history(method: Method, options: FillOptions, command: str) -> str:
    """One line for ``history``: when, what, by which version, with which weights and seed."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    model = getattr(method, "model_name", None)
    weights = f", model {model} sha256 {getattr(method, 'sha256', '')}" if model else ""
    adaptation = getattr(method, "adaptation", None)
    if adaptation is not None:
        weights += f", {adaptation.sentence}, {adaptation.start} sha256 {adaptation.start_sha256}"
    return f"{when}: {command or 'stimpute.fill'} (stimpute {__version__}, method {method.name}{weights}, seed {options.seed})"
