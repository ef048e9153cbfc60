"""Every method on the same hidden observations of one stack, through the same engine that `fill` runs. Knows no files."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from stimpute.errors import InputError, StimputeError, StimputeWarning, UsageError
from stimpute.grid import Grid
from stimpute.holdout import KINDS, Kind, hold_out
from stimpute.inference.engine import fill_source
from stimpute.inference.familiarity import cell_km
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.options import FillOptions, Progress
from stimpute.inference.refusal import gap_days
from stimpute.inference.summary import FillSummary
from stimpute.metrics import BinScores, Scores, by_bins, score
from stimpute.protocols import FILLED, Layer, Method, Window
from stimpute.stack import BoolArray, Float32Array, Stack

By = Literal["distance", "length"]
MAX_CELLS = 2_000_000
KRIGING_CELLS = 300_000
DISTANCE_EDGES = (0.0, 1.5, 3.5, 7.5, 15.5, 31.5, math.inf)  # cells
LENGTH_EDGES = (0.0, 2.5, 4.5, 8.5, 16.5, 32.5, math.inf)  # steps, observation to observation


@dataclass(frozen=True)
class EvaluateOptions:
    """What to hide and how to score.

    Parameters
    ----------
    kinds : hold-out patterns, each a case of its own.
    share : of the observed cells, hidden.
    seeds : each a repetition with other cells hidden; scores are over the cells of all.
    by : also score by distance to the nearest observation of the same step (``distance``), or by the length of the
        gap the cell lies in (``length``).
    max_cells : larger stacks are cropped to this many cell-steps (the table says so).
    memory : as in `fill`.

    Raises
    ------
    UsageError : an unknown pattern, a share outside (0, 1).
    """

    kinds: tuple[Kind, ...] = ("gap",)
    share: float = 0.2
    seeds: tuple[int, ...] = (0,)
    by: By | None = None
    max_cells: int = MAX_CELLS
    memory: int | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise UsageError(f"--holdout {kind}: one of {', '.join(KINDS)}")
        if not self.kinds or not self.seeds:
            raise UsageError("nothing to evaluate: at least one --holdout and one of --seeds")
        if not 0 < self.share < 1:
            raise UsageError(f"--share {self.share:g}: between 0 and 1")
        if self.by not in (None, "distance", "length"):
            raise UsageError(f"--by {self.by}: distance or length")


@dataclass(frozen=True)
class Row:
    """One method on one case. ``scores`` is None where it was skipped or failed; ``note`` says why, or how it was adapted."""

    method: str
    kind: str
    scores: Scores | None
    bins: tuple[BinScores, ...]
    seconds: float
    whole: bool
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        bins = [{"lower": b.lower, "upper": b.upper, **b.scores.to_dict()} for b in self.bins]
        scores = None if self.scores is None else self.scores.to_dict()
        return {**vars(self), "scores": scores, "bins": bins}


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """Mean absolute error of one method over the steps, where anything was hidden. (y, x), NaN elsewhere."""

    method: str
    kind: str
    error: Float32Array


@dataclass(frozen=True, eq=False)
class Scoreboard:
    """All methods on all cases of one stack."""

    name: str
    units: str
    shape: tuple[int, int, int]
    missing: float
    spread: float  # standard deviation of the observed cells
    share: float
    seeds: tuple[int, ...]
    by: By | None
    bin_unit: str
    rows: tuple[Row, ...]
    grid: Grid
    maps: tuple[ErrorMap, ...] = ()
    notes: tuple[str, ...] = ()

    def ratios(self) -> dict[str, float]:
        """Geometric mean over the cases of MAE / lowest MAE of the other methods, per method.

        Variants of one method (``st`` and ``st+adapt``) are not compared with each other. Methods without any case where they and another one were scored are left out.
        """
        logs: dict[str, list[float]] = {}
        for kind in dict.fromkeys(row.kind for row in self.rows):
            mae = {r.method: r.scores.mae for r in self.rows if r.kind == kind and r.scores and r.scores.n}
            for method, own in mae.items():
                best = min(
                    (v for other, v in mae.items() if _family(other) != _family(method)), default=math.nan
                )
                if own > 0 and best > 0:
                    logs.setdefault(method, []).append(math.log(own / best))
        return {method: math.exp(sum(values) / len(values)) for method, values in logs.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (without the maps)."""
        plain = {k: v for k, v in vars(self).items() if k not in {"maps", "grid"}}
        return {**plain, "rows": [row.to_dict() for row in self.rows], "ratio_to_best_other": self.ratios()}


def evaluate(
    stack: Stack,
    layer: Layer,
    methods: Sequence[tuple[str, Callable[[Stack], Method]]],
    options: EvaluateOptions,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> Scoreboard:
    """Hide observed cells, run every method without them, score what they say there.

    Parameters
    ----------
    stack : what was observed, in memory.
    layer : its name, units and valid range.
    methods : names, and how to make each for the stack that it will see.
    notes : carried into the scoreboard.

    Raises
    ------
    InputError : fewer than two observations, so nothing can be hidden.
    """
    if stack.valid.sum() < 2:
        raise InputError(
            f"{layer.name}: {int(stack.valid.sum())} observed values; nothing can be hidden and scored"
        )
    rows, maps, heard = [], [], list(notes)
    total = len(options.kinds) * len(methods)
    for kind in options.kinds:
        hidden = _hidden(stack, kind, options, heard)
        for name, make in methods:
            if hidden:
                row, error_map, said = _run(stack, layer, name, make, kind, hidden, options)
                rows.append(row)
                maps += [error_map] if error_map else []
                heard += [text for text in said if text not in heard]
            if progress:
                progress("evaluate", len(rows), total)
    if not rows:
        raise InputError("; ".join(heard) or f"{layer.name}: nothing could be hidden")
    observed = stack.values[stack.valid]
    return Scoreboard(
        name=layer.name, units=layer.units, shape=stack.shape, missing=1 - observed.size / stack.values.size,
        spread=float(observed.std(dtype=np.float64)), share=options.share, seeds=options.seeds, by=options.by,
        bin_unit={None: "", "distance": "cells" if stack.grid.units == "cells" else "km", "length": "days"}[options.by],
        rows=tuple(rows), grid=stack.grid, maps=tuple(maps), notes=tuple(heard),
    )  # fmt: skip


def _family(method: str) -> str:
    return method.partition("+")[0]


def _hidden(stack: Stack, kind: Kind, options: EvaluateOptions, heard: list[str]) -> list[BoolArray]:
    try:
        return [hold_out(stack, kind, options.share, seed) for seed in options.seeds]
    except InputError as error:
        heard.append(f"{kind}: {error}")
        return []


def _run(
    stack: Stack,
    layer: Layer,
    name: str,
    make: Callable[[Stack], Method],
    kind: str,
    hidden: list[BoolArray],
    options: EvaluateOptions,
) -> tuple[Row, ErrorMap | None, list[str]]:
    """One method on one case: over all repetitions, the cells that were hidden."""
    if name == "kriging" and stack.values.size > KRIGING_CELLS:
        note = (
            f"skipped: {stack.values.size:,} cell-steps are more than the {KRIGING_CELLS:,} kriging is run on"
        )
        return Row(name, kind, None, (), 0.0, False, note), None, []
    started = time.perf_counter()
    parts, said, whole, notes = [], [], True, []
    try:
        for held_out, seed in zip(hidden, options.seeds, strict=True):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", StimputeWarning)
                shown = stack.hide(held_out)
                sink, summary = _fill_in_memory(shown, layer, make(shown), options, seed)
            whole = summary.layers[0].whole
            notes += [summary.adaptation.sentence] if summary.adaptation else []
            said += [str(w.message) for w in caught if issubclass(w.category, StimputeWarning)]
            parts.append(_Answered(stack, held_out, sink, options.by))
    except StimputeError as error:
        return Row(name, kind, None, (), time.perf_counter() - started, whole, f"failed: {error}"), None, said
    seconds = (time.perf_counter() - started) / len(hidden)
    truth, mean, scale, variable = (
        np.concatenate([getattr(p, k) for p in parts]) for k in ("truth", "mean", "scale", "variable")
    )
    bins = tuple(by_bins(truth, mean, scale, variable, _edges(stack, options.by))) if options.by else ()
    return (
        Row(name, kind, score(truth, mean, scale), bins, seconds, whole, "; ".join(notes)),
        _error_map(name, kind, parts),
        said,
    )


def _fill_in_memory(
    shown: Stack, layer: Layer, method: Method, options: EvaluateOptions, seed: int
) -> tuple[ArraySink, FillSummary]:
    """The engine's own path, from a stack in memory into arrays; every gap is filled."""
    source = StackSource(shown, layer.name)
    source.layers = (replace(layer, shape=shown.shape),)
    sink = ArraySink(shown.shape)
    run = FillOptions(fill_never_observed=True, memory=options.memory, seed=seed)
    return sink, fill_source(source, sink, method, run)


class _Answered:
    """What one repetition says where cells were hidden."""

    def __init__(self, stack: Stack, held_out: BoolArray, sink: ArraySink, by: By | None) -> None:
        self.held_out = held_out
        self.truth = stack.values[held_out]
        said = (sink.flag == FILLED)[held_out]
        self.mean = np.where(said, sink.values[held_out], np.float32(np.nan))
        self.scale = sink.standard_error[held_out]
        shown = stack.valid & ~held_out
        if by == "distance":
            self.variable = frame_distance_km(shown, stack.grid)[held_out]
        elif by == "length":
            self.variable = gap_days(shown, stack.times)[held_out]
        else:
            self.variable = np.zeros(self.truth.shape)


def _error_map(method: str, kind: str, parts: list[_Answered]) -> ErrorMap:
    shape = parts[0].held_out.shape[1:]
    total, count = np.zeros(shape), np.zeros(shape)
    for part in parts:
        error = np.zeros(part.held_out.shape, dtype=np.float32)
        error[part.held_out] = np.nan_to_num(np.abs(part.mean - part.truth))
        total += error.sum(axis=0)
        count += part.held_out.sum(axis=0)
    return ErrorMap(
        method, kind, np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
    )


def _edges(stack: Stack, by: By | None) -> list[float]:
    """Edges of the bins, in km (or cells) or days."""
    if by == "distance":
        unit, edges = cell_km(stack.grid), DISTANCE_EDGES
    else:
        unit, edges = float(np.median(np.diff(stack.times))) if len(stack.times) > 1 else 1.0, LENGTH_EDGES
    return [edge * unit for edge in edges]


def frame_distance_km(valid: BoolArray, grid: Grid) -> npt.NDArray[np.float64]:
    """Distance of every cell to the nearest observed one of its own step, in km; inf where the step is empty. (time, y, x)

    With the grid's typical spacing, around the globe where it wraps.

    >>> frame_distance_km(np.array([[[True, False, False]]]), Grid.from_shape(1, 3)).ravel().tolist()
    [0.0, 1.0, 2.0]
    """
    dy, dx = (spacing if spacing > 0 else 1.0 for spacing in grid.spacing_km())
    distance, nx = np.full(valid.shape, np.inf), valid.shape[2]
    half = nx // 2 if grid.wraps else 0
    for step, frame in enumerate(valid):
        if frame.any():
            around = np.pad(frame, ((0, 0), (half, half)), mode="wrap")
            distance[step] = distance_transform_edt(~around, sampling=(dy, dx))[:, half : half + nx]
    return distance


def crop_to(ever_observed: BoolArray, steps: int, max_cells: int) -> Window:
    """The part of a stack of ``steps`` x ``ever_observed.shape`` with the most ever-observed cells, of about ``max_cells``.

    Space is cut before time, and not below 32 x 32 cells; of long series the last steps are kept.

    >>> crop_to(np.ones((10, 10), dtype=bool), 5, 1000)
    Window(time=(0, 5), y=(0, 10), x=(0, 10))
    """
    ny, nx = ever_observed.shape
    if steps * ny * nx <= max_cells:
        return Window((0, steps), (0, ny), (0, nx))
    side = max(32, math.isqrt(max_cells // steps))
    height = min(ny, max(side, max_cells // steps // nx if nx < side else side))
    width = min(nx, max(side, max_cells // steps // ny if ny < side else side))
    sums = np.pad(ever_observed.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = (int(i) for i in np.unravel_index(int(inside.argmax()), inside.shape))
    kept = min(steps, max(1, max_cells // (height * width)))
    return Window((steps - kept, steps), (top, top + height), (left, left + width))
