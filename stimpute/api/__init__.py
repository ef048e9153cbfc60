"""One function per command: xarray objects or paths in, a Dataset, a summary or a table out. Knows how the rooms join.

Everything heavy is imported inside the functions, so that importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from stimpute.api.cluster import cluster_at, distributed_options
from stimpute.api.forecasting import ForecastKeywords, evaluate_forecasts, forecast
from stimpute.api.judging import evaluate
from stimpute.api.keywords import (
    FillKeywords,
    Progress,
    ReadKeywords,
    TrainKeywords,
    as_command,
    as_inputs,
    as_tuple,
    check_known,
    check_picture,
    check_target,
    fill_options,
    outcome,
    paths_of,
    read_besides,
    read_options,
    sink_options,
)
from stimpute.api.learning import adapt_budget, adapt_once, planned_adaptation, train
from stimpute.api.refining import ReconstructKeywords, evaluate_reconstruct, reconstruct
from stimpute.api.resuming import check_partial, open_partial, partial_folder
from stimpute.api.simulating import simulate
from stimpute.api.values import as_typed
from stimpute.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

    from stimpute.api.keywords import Inputs
    from stimpute.inference.plan import FillPlan
    from stimpute.inference.summary import FillSummary
    from stimpute.io.verify import VerifyReport
    from stimpute.protocols import Source

__all__ = [
    "FillKeywords", "ForecastKeywords", "ReadKeywords", "ReconstructKeywords", "TrainKeywords", "evaluate",
    "evaluate_forecasts", "evaluate_reconstruct", "fill", "forecast", "info", "models", "plan", "reconstruct", "simulate", "train", "variogram",
    "verify",
]  # fmt: skip


@overload
def fill(
    x: Inputs,
    out: None = None,
    *,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[FillKeywords],
) -> xr.Dataset: ...


@overload
def fill(
    x: Inputs,
    out: str | Path,
    *,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[FillKeywords],
) -> FillSummary: ...


@as_typed
def fill(
    x: Inputs,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[FillKeywords],
) -> Any:
    """Fill the gaps of a stack.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object.
    out : where to write; None returns the filled Dataset (with ``NAME_fill_flag`` and ``NAME_standard_error``).
    progress : called with (stage, done, total).
    command : recorded in ``history``.
    options : as on the command line, with ``_`` for ``-``, each a value or the command line's own text:

        - what: ``var``, ``bbox``, ``bbox_crs``, ``time``, ``covariate``
        - reading: ``nodata``, ``date_format``, ``times``, ``dedupe``, ``regular``, ``domain``, ``qc``, ``force``, ``no_wrap``
        - method: ``method``, ``model``, ``fast``, ``adapt`` (minutes, or ``"300steps"``)
        - refusal: ``fill_never_observed``, ``max_gap`` and ``max_extrapolation`` (days, or ``"36h"``; ``math.inf`` or ``"none"``:
          any), ``max_distance`` (km, or ``"500m"``, ``"3cells"``), ``min_obs``
        - result: ``uncertainty``, ``quantiles``, ``flags``, ``plot``, ``bounds``, ``dtype``, ``of``, ``co`` (a mapping)
        - run: ``device``, ``precision``, ``threads``, ``tile``, ``overlap``, ``memory`` (bytes, or ``"2GB"``), ``dask``,
          ``resume`` (goes on from ``OUT.stimpute-partial``), ``overwrite``, ``seed``

    Returns
    -------
    xarray.Dataset where ``out`` is None, else a :class:`~stimpute.inference.summary.FillSummary`.

    Raises
    ------
    StimputeError : what was wrong, in which file, what to do.
    """
    check_known(options, FillKeywords, "fill")
    command = command or as_command("stimpute.fill", options)
    from stimpute import io
    from stimpute.inference.engine import fill_source
    from stimpute.inference.memory import RecordingSink

    run, writing, reading = fill_options(options), sink_options(options), read_options(options)
    budget = adapt_budget(options.get("adapt"), options.get("method", "st"), options.get("fast", False))
    inputs = as_inputs(x)
    plot = check_picture(
        options.get("plot"),
        writing.overwrite,
        [*paths_of(inputs), *read_besides(reading), *([out] if out else [])],
    )
    folder = partial_folder(out, inputs)
    if check_partial(folder, options):  # killed while the output was named: what lies there may be ours
        writing = replace(writing, overwrite=True)
    check_target(out, inputs, reading, writing.overwrite)
    dask = options.get("dask")
    method = _method(options if dask is None else distributed_options(dask, options))
    with ExitStack() as rooms:
        source = rooms.enter_context(io.open_source(inputs, reading))
        partial = None
        if folder is not None:
            partial = open_partial(folder, source, method, run, reading, writing, options, command)
            rooms.enter_context(partial)
            run = replace(run, memory=partial.settings["memory"])
            command, writing = partial.settings["command"], replace(writing, staging=partial.staging)
        executor = None if dask is None else rooms.enter_context(cluster_at(dask, source, inputs, reading))
        sink = io.create_sink(out, source, writing)
        recorder = RecordingSink(sink, source) if plot else sink
        with recorder:
            if budget is not None:
                method = adapt_once(
                    source, method, budget, partial, seed=run.seed, memory=options.get("memory"), progress=progress
                )  # fmt: skip
            summary = fill_source(
                source, recorder, method, run, progress, command, partial=partial, executor=executor
            )
        if isinstance(recorder, RecordingSink) and plot is not None:
            _draw_fill(recorder, source, summary, plot)
    return outcome(out, sink, summary)


@as_typed
def plan(
    x: Inputs,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[FillKeywords],
) -> FillPlan:
    """What :func:`fill` would do (``fill --dry-run``): checks, gaps, variogram, tiles, memory, disk, time. Writes nothing.

    Parameters
    ----------
    x, out, options : of :func:`fill`.
    progress : called with (stage, done, total).

    Returns
    -------
    FillPlan : one :class:`~stimpute.inference.plan.LayerPlan` for each layer in ``layers``; ``lines()`` is its text.

    Raises
    ------
    StimputeError : what :func:`fill` would refuse.
    """
    check_known(options, FillKeywords, "plan")
    from stimpute import io
    from stimpute.inference.plan import plan_fill

    run, writing, reading = fill_options(options), sink_options(options), read_options(options)
    budget = adapt_budget(options.get("adapt"), options.get("method", "st"), options.get("fast", False))
    inputs = as_inputs(x)
    check_picture(
        options.get("plot"),
        writing.overwrite,
        [*paths_of(inputs), *read_besides(reading), *([out] if out else [])],
    )
    check_target(out, inputs, reading, writing.overwrite)
    method = _method(options)
    with io.open_source(inputs, reading) as source:
        io.check_siblings(out, source, writing)
        staged = io.output_format(out, source, writing) in ("GeoTIFF", "COG")
        planned = plan_fill(source, method, run, io.describe(source), progress, copies=1 + staged)
        if budget is None:
            return planned
        return replace(planned, adaptation=planned_adaptation(source, budget, run.seed, run.memory))


@as_typed
def info(x: Inputs, **options: Unpack[ReadKeywords]) -> dict[str, Any]:
    """What is in a stack: format, layers, CRS, time axis, and per layer how much is missing and where.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object.
    options : how it is read, as of :func:`fill`. Without ``var`` every variable that could be filled is described.

    Returns
    -------
    dict : plain values, as ``info --json`` prints them: ``format``, ``paths``, ``layers``, ``shape``, ``grid``, ``crs``, ``time``,
        ``warnings``, ``notes``; and ``statistics``, one dict for each layer.

    Raises
    ------
    InputError : it cannot be read.
    """
    check_known(options, ReadKeywords, "info")
    from stimpute import io
    from stimpute.inference.statistics import layer_statistics

    chosen = "var" in options
    if not chosen:
        options["var"] = "all"
    with io.open_source(as_inputs(x), read_options(options)) as source:
        described = io.describe(source)
        names = dict.fromkeys(layer.variable for layer in source.layers)
        if not chosen and len(names) > 1:
            described["notes"].append(
                f"several variables ({', '.join(names)}): fill needs --var NAME, or --var all"
            )
        statistics = [layer_statistics(source, index).to_dict() for index in range(len(source.layers))]
    return {**described, "statistics": statistics}


@as_typed
def variogram(
    x: Inputs,
    *,
    plot: str | Path | None = None,
    estimator: str = "cressie",
    seed: int = 0,
    overwrite: bool = False,
    **options: Unpack[ReadKeywords],
) -> list[dict[str, Any]]:
    """Spatial and temporal variogram of every layer, their fits, and the tile they imply.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object.
    plot : where to draw the first layer's, PNG.
    estimator : of the semivariance, ``cressie`` (robust) or ``matheron``.
    seed : of the pairs that are drawn.
    overwrite : replace an existing picture.
    options : how it is read, as of :func:`fill`.

    Returns
    -------
    list of dict : one for each layer, as ``variogram --json`` prints them.

    Raises
    ------
    InputError : it cannot be read.
    VariogramError : no pairs, or no variance.
    """
    check_known(options, ReadKeywords, "variogram")
    from stimpute import io
    from stimpute.inference.statistics import layer_variogram

    if estimator not in ("cressie", "matheron"):
        raise UsageError(f"--estimator {estimator}: cressie or matheron")
    picture = check_picture(plot, overwrite, paths_of(as_inputs(x)))
    found = []
    with io.open_source(as_inputs(x), read_options(options)) as source:
        io.read_observed_only(source)
        for index, layer in enumerate(source.layers):
            result = layer_variogram(source, index, matheron=estimator == "matheron", seed=seed)
            if picture and index == 0:
                from stimpute.report.variogram_picture import draw_variogram

                draw_variogram(result.analysis, layer.name, layer.units, picture)
            found.append(result.to_dict())
    return found


@as_typed
def verify(
    x: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    nodata: float | str | Sequence[float] = (),
    var: str | Sequence[str] = (),
) -> VerifyReport:
    """Compare a filled output with what it was made from: observed cells, CRS, times, attributes; count what was filled.

    Parameters
    ----------
    x : the inputs of the fill, one path or several.
    out : its output.
    nodata : further stored numbers that mean "no data" (those given to :func:`fill` are found in ``history``).
    var : the variables that were filled; none: those with a fill flag beside them.

    Returns
    -------
    VerifyReport : ``identical`` where nothing differs; else ``differences`` says what does. ``layers`` has the counts.

    Raises
    ------
    InputError : one of them cannot be read.
    """
    from stimpute.io.inputs import expand_inputs
    from stimpute.io.verify import verify as compare

    return compare(expand_inputs(as_inputs(x)), out, nodata=as_tuple(nodata), variables=as_tuple(var))


@as_typed
def models(name: str | Path | None = None) -> list[dict[str, Any]]:
    """The cards of the shipped models, or of one model.

    Parameters
    ----------
    name : of a shipped model, or the path of any; None: all that are shipped.

    Returns
    -------
    list of dict : the cards, each with the ``path`` of its model.

    Raises
    ------
    ModelError : no such model, or no model.
    """
    from stimpute.pretrained.checkpoint import read_card
    from stimpute.pretrained.registry import find_model, list_models

    if name is not None:
        path = find_model(name)
        return [{"path": str(path), **read_card(path)}]
    return [{"path": str(entry.path), **entry.card, "name": entry.name} for entry in list_models()]


def _method(options: FillKeywords) -> Any:
    from stimpute.inference.methods import open_method

    name = options.get("method", "st")
    if options.get("covariate") and name != "st":
        raise UsageError(f"--covariate: method {name} hears of none; leave them out or use --method st")
    return open_method(
        name, options.get("model"), options.get("device", "auto"),
        options.get("precision", "fp32"), options.get("threads"), options.get("fast", False),
    )  # fmt: skip


def _draw_fill(recorder: Any, source: Source, summary: FillSummary, path: Path) -> None:
    from stimpute.report.fill_picture import FilledStack, draw_fill

    layer = source.layers[0]
    draw_fill(
        FilledStack(
            layer.name, layer.units, recorder.grid, source.times, source.time_labels, recorder.before, recorder.after,
            recorder.standard_error, recorder.flag, summary.model or summary.method,
        ),
        path,
    )  # fmt: skip
