"""Filling a stack of any size with any method: tile by tile, blended, calibrated, refused where it should be.

Observed values never pass through here on their way to the output: the sink copies them from the source. Knows
protocols only; neither formats nor networks.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from stimpute import __version__
from stimpute.inference.answers import (
    Answer,
    Executor,
    Kept,
    KeptInMemory,
    LocalExecutor,
    Prepare,
    in_order,
    keep_all,
)
from stimpute.inference.assembly import in_blocks, in_one_piece
from stimpute.inference.bounds import resolve_bounds
from stimpute.inference.finished_tiles import LayerFolder
from stimpute.inference.options import Bounds, FillOptions, Progress
from stimpute.inference.partial import Partial
from stimpute.inference.refusal import count_reasons, refused_gaps
from stimpute.inference.summary import FillSummary, LayerSummary
from stimpute.inference.survey import Survey, memory_budget, survey_layer
from stimpute.inference.trust import Trust, earn_trust
from stimpute.inference.watch import Watch, Watched
from stimpute.io.fingerprint import fingerprints, refuse_changed
from stimpute.protocols import (
    FILLED,
    OBSERVED,
    OUTSIDE_DOMAIN,
    REFUSED,
    Filled,
    Imputer,
    Method,
    Sink,
    Source,
    Window,
)


def fill_source(
    source: Source,
    sink: Sink,
    method: Method,
    options: FillOptions,
    progress: Progress | None = None,
    command: str = "",
    *,
    partial: Partial | None = None,
    executor: Executor | None = None,
) -> FillSummary:
    """Fill every layer of ``source`` into ``sink`` and commit it.

    Parameters
    ----------
    command : what the user typed, for the output's ``history``.
    partial : where finished tiles are kept, and found again after an interruption.
    executor : who computes the tiles; None: this process.

    Raises
    ------
    InputError : a layer without any observation; an input that was changed meanwhile.
    OutputError : the sink cannot hold a value, or cannot be written.
    """
    started = time.perf_counter()
    read = (*source.paths, *getattr(source, "besides", ()))
    inputs = fingerprints(read) if partial is None else {}  # a folder of tiles knows them
    layers, run = [], _Run(sink, executor or LocalExecutor(), progress)
    with tempfile.TemporaryDirectory(prefix="stimpute-") as scratch:
        for index in range(len(source.layers)):
            survey = survey_layer(source, index, method, options, progress)
            if partial is not None:
                kept = partial.layer(survey, len(source.layers))
            else:
                kept = KeptInMemory() if survey.in_memory else LayerFolder(Path(scratch, str(index)), survey)
            layers.append(_fill_layer(survey, method, options, kept, run))
    if partial is not None:
        partial.naming()
    else:
        refuse_changed(inputs)
    outputs = sink.commit(_history(method, options, command))
    seconds = time.perf_counter() - started
    cells = sum(int(np.prod(layer.shape)) for layer in source.layers)
    return FillSummary(
        method=method.name, model=getattr(method, "model_name", None), model_sha256=getattr(method, "sha256", None),
        seed=options.seed, layers=tuple(layers), seconds=round(seconds, 3),
        method_seconds=round(run.watch.seconds, 3) if isinstance(run.executor, LocalExecutor) else None,
        cell_steps_per_second=round(cells / max(seconds, 1e-9)), outputs=tuple(str(path) for path in outputs),
        adaptation=getattr(method, "adaptation", None),
    )  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """What all layers of a run share."""

    sink: Sink
    executor: Executor
    progress: Progress | None
    watch: Watch = field(default_factory=Watch)


def _fill_layer(survey: Survey, method: Method, options: FillOptions, kept: Kept, run: _Run) -> LayerSummary:
    counts = np.zeros(4, dtype=np.int64)
    run.watch.helped = run.watch.told = 0
    clipped, claimed = 0, 0.0
    reasons: Counter[str] = Counter()
    bounds, kept_inside = resolve_bounds(survey.layer, options, survey.overview.values[survey.overview.valid])
    gaps = bool((survey.observed_per_cell < survey.shape[0])[~survey.outside].any())
    if gaps and survey.constant is not None:
        trust = Trust()
        blocks = _all_the_same(survey, survey.constant, options)
    elif gaps:
        prepare = cache(lambda: _prepared(survey, method, run))
        trust = kept.trust or _trust(survey, prepare(), method, options, run)
        kept.keep_trust(trust)
        blocks = _blended(survey, prepare, trust, kept, options, run)
    else:
        trust = Trust()
        blocks = _untouched(survey)
    for window, answer in blocks:
        filled, changed = _filled(survey, window, answer, bounds, options, reasons)
        run.sink.write(window, filled, survey.index)
        counts += np.bincount(filled.flag.ravel(), minlength=4)
        clipped += changed
        claimed += (
            0.0
            if filled.standard_error is None
            else float(np.nansum(filled.standard_error, dtype=np.float64))
        )
    notes = survey.notes if gaps else (*survey.notes, f"{survey.layer.name}: no gaps; copied")
    notes = (*notes, kept_inside) if clipped and kept_inside else notes
    return LayerSummary(
        name=survey.layer.name, units=survey.layer.units, observed=int(counts[OBSERVED]), filled=int(counts[FILLED]),
        refused=int(counts[REFUSED]), outside_domain=int(counts[OUTSIDE_DOMAIN]), clipped=clipped,
        expected_error=trust.expected_error(claimed, int(counts[FILLED])), coverage=trust.coverage, whole=survey.plan is None, tiles=len(survey.tiles),
        tile={} if survey.plan is None else survey.plan.to_dict(), range_km=survey.range_km,
        range_days=survey.range_days, notes=notes, refusals=dict(reasons),
        covariates_helped=run.watch.helped / run.watch.told if run.watch.told else None,
    )  # fmt: skip


def _prepared(survey: Survey, method: Method, run: _Run) -> Imputer:
    """The method for a layer, its time taken where it stays in this process."""
    imputer = run.watch.timed(method.prepare, survey.overview)
    return Watched(imputer, run.watch) if isinstance(run.executor, LocalExecutor) else imputer


def _trust(survey: Survey, imputer: Imputer, method: Method, options: FillOptions, run: _Run) -> Trust:
    if not options.uncertainty:
        return Trust()
    trust = earn_trust(
        survey,
        lambda questions: run.executor.predictions(survey, imputer, questions),
        options.seed,
        run.progress,
    )
    return _widened(trust, method)


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


def _blended(
    survey: Survey, prepare: Prepare, trust: Trust, kept: Kept, options: FillOptions, run: _Run
) -> Iterator[tuple[Window, Answer]]:
    """What the tiles say, blended: in memory, or block by block from the disk where memory does not hold the layer."""
    if isinstance(kept, LayerFolder) and not survey.in_memory:
        keep_all(survey, prepare, trust, kept, run.executor, run.progress)
        preferred = getattr(run.sink, "chunk", None)
        chunk = (1, 1, survey.shape[2]) if preferred is None else preferred(survey.index)
        yield from in_blocks(survey, kept, chunk, memory_budget(options), options.max_gap_days is not None, run.progress)  # fmt: skip
        return
    yield from in_one_piece(survey, in_order(survey, prepare, trust, kept, run.executor), run.progress)


def _untouched(survey: Survey) -> Iterator[tuple[Window, Answer]]:
    """What was observed, NaN elsewhere, tile core by tile core."""
    rows = sorted({tile.core.y for tile in survey.tiles})
    for y in rows:
        window = Window((0, survey.shape[0]), y, (0, survey.shape[2]))
        extended = Window(window.time, y, (survey.margin, survey.margin + survey.shape[2]))
        stack = survey.read(extended)
        yield window, Answer(stack.with_nan(), None, stack.valid)


def _all_the_same(survey: Survey, value: float, options: FillOptions) -> Iterator[tuple[Window, Answer]]:
    """A layer of one value: no method can know better. A single observation says nothing about the error."""
    for window, answer in _untouched(survey):
        mean = np.where(answer.valid, answer.mean, np.float32(value))
        error = np.full_like(mean, 0.0 if survey.observed > 1 else np.nan) if options.uncertainty else None
        yield window, Answer(mean, error, answer.valid)


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


def _history(method: Method, options: FillOptions, command: str) -> str:
    """One line for ``history``: when, what, by which version, with which weights and seed."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    model = getattr(method, "model_name", None)
    weights = f", model {model} sha256 {getattr(method, 'sha256', '')}" if model else ""
    if getattr(method, "fast", False):
        weights += ", fast"
    adaptation = getattr(method, "adaptation", None)
    if adaptation is not None:
        weights += f", {adaptation.sentence}, {adaptation.start} sha256 {adaptation.start_sha256}"
    return f"{when}: {command or 'stimpute.fill'} (stimpute {__version__}, method {method.name}{weights}, seed {options.seed})"
