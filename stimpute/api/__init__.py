"""One function per command: xarray objects or paths in, a Dataset, a summary or a table out. Knows how the rooms join.

Everything heavy is imported inside the functions, so that importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from stimpute.api.cluster import cluster_at, distributed_options
from stimpute.api.forecasting import ForecastKeywords, evaluate_forecasts, forecast
from stimpute.api.keywords import (
    FillKeywords,
    Memory,
    Progress,
    ReadKeywords,
    TrainKeywords,
    as_command,
    as_inputs,
    as_tuple,
    check_known,
    check_scored,
    check_target,
    fill_options,
    outcome,
    paths_of,
    read_besides,
    read_options,
    sink_options,
)
from stimpute.api.learning import adapt_budget, adapt_method, adapt_once, planned_adaptation, train
from stimpute.api.refining import ReconstructKeywords, evaluate_reconstruct, reconstruct
from stimpute.api.resuming import check_partial, open_partial, partial_folder
from stimpute.api.values import as_typed
from stimpute.errors import OutputError, UsageError

if TYPE_CHECKING:
    import xarray as xr

    from stimpute.api.keywords import Inputs
    from stimpute.evaluation.scoreboard import Scoreboard
    from stimpute.inference.plan import FillPlan
    from stimpute.inference.summary import FillSummary
    from stimpute.io.verify import VerifyReport
    from stimpute.protocols import Source
    from stimpute.stack import Stack
    from stimpute.synthetic.archives import SimulatedStack

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
    plot = _picture(
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
    _picture(
        options.get("plot"),
        writing.overwrite,
        [*paths_of(inputs), *read_besides(reading), *([out] if out else [])],
    )
    check_target(out, inputs, reading, writing.overwrite)
    method = _method(options)
    with io.open_source(inputs, reading) as source:
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
    picture = _picture(plot, overwrite, paths_of(as_inputs(x)))
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
def evaluate(
    x: Inputs,
    *,
    holdout: str | Sequence[str] = "gap",
    share: float = 0.2,
    methods: str | Sequence[str] | None = None,
    model: str | None = None,
    fast: bool = False,
    adapt: float | str | None = None,
    by: Any = None,
    seeds: int = 1,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    memory: Memory = None,
    plot: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ReadKeywords],
) -> list[Scoreboard]:
    """Hide observed cells, run every method without them, score what it says there: one scoreboard per layer.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object. What an earlier run filled counts as gaps.
    holdout : pattern(s): pixel, gap, block, frames, swath, value.
    share : of the observed cells that are hidden, between 0 and 1.
    methods : names; None: all, the pretrained network included.
    model : of method ``st``, by name or path.
    fast : of ``st``: scored a second time, as ``st+fast``, with fewer candidates and without the network.
    adapt : as of :func:`fill`: the network is scored a second time, as ``st+adapt``, adapted to what is not hidden.
    by : also score by ``distance`` to the nearest observation, or by gap ``length``.
    seeds : how many repetitions, with seeds ``seed``, ``seed + 1``, ...
    device, threads, memory : as of :func:`fill`.
    plot : where to draw the first layer's scores, PNG; ``overwrite`` replaces one.
    progress : called with (stage, done, total).
    options : how it is read, as of :func:`fill`.

    Returns
    -------
    list of Scoreboard : with ``rows``, one for each pattern and method; their ``scores`` in the layer's units.

    Raises
    ------
    UsageError : an option that does not fit.
    InputError : it cannot be read, or no method could be scored.
    """
    check_known(options, ReadKeywords, "evaluate")
    from stimpute import io
    from stimpute.evaluation.sample import sampled_stack
    from stimpute.evaluation.scoreboard import EvaluateOptions
    from stimpute.evaluation.scoreboard import evaluate as evaluate_stack
    from stimpute.inference.memory import StackSource
    from stimpute.inference.methods import method_names, open_method

    kinds: Any = tuple([holdout] if isinstance(holdout, str) else holdout)
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least 1")
    chosen = EvaluateOptions(kinds, share, tuple(range(seed, seed + seeds)), by, memory=memory)
    names = tuple(methods) if methods else method_names()
    for name in names:
        if name not in method_names():
            raise UsageError(f"--methods {name}: some of {', '.join(method_names())}")
    if model is not None and "st" not in names:
        raise UsageError(f"--model {model}: without method st among --methods it has no effect")
    if adapt is not None and "st" not in names:
        raise UsageError(f"--adapt {adapt}: without method st among --methods it has no effect")
    if fast and "st" not in names:
        raise UsageError("--fast: without method st among --methods it has no effect")
    budget = adapt_budget(adapt, "st")
    picture = _picture(plot, overwrite, paths_of(as_inputs(x)))

    def maker(name: str) -> Callable[[Stack], Any]:
        return lambda _: open_method(name, model if name == "st" else None, device, threads=threads)

    def adapted(shown: Stack) -> Any:
        method: Any = open_method("st", model, device, threads=threads)
        return adapt_method(StackSource(shown), method, budget or (None, 1), seed=seed, memory=memory)

    if model is not None:
        open_method(
            "st", model, device, threads=threads
        )  # a model that cannot be used is no matter of scores
    runs = [(name, maker(name)) for name in names]
    if budget is not None:
        runs.insert(names.index("st") + 1, ("st+adapt", adapted))
    if fast:
        runs.insert(
            names.index("st") + 1,
            ("st+fast", lambda _: open_method("st", None, device, threads=threads, fast=True)),
        )
    boards = []
    with io.open_source(as_inputs(x), read_options(options)) as source:
        io.read_observed_only(source)
        for index, layer in enumerate(source.layers):
            stack, notes = sampled_stack(source, index, chosen.max_cells, memory)
            board = evaluate_stack(stack, layer, runs, chosen, progress, notes)
            check_scored(board.rows)
            boards.append(board)
            if picture and index == 0:
                from stimpute.report.evaluation_picture import draw_evaluation

                draw_evaluation(board, picture)
    return boards


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


@overload
def simulate(
    out: None = None,
    *,
    kind: str = "soil-moisture",
    shape: tuple[int, int, int] | str | None = None,
    seed: int = 0,
    missing: float | None = None,
    truth: str | Path | None = None,
    covariates: bool = False,
    overwrite: bool = False,
) -> tuple[xr.Dataset, xr.Dataset]: ...


@overload
def simulate(
    out: str | Path,
    *,
    kind: str = "soil-moisture",
    shape: tuple[int, int, int] | str | None = None,
    seed: int = 0,
    missing: float | None = None,
    truth: str | Path | None = None,
    covariates: bool = False,
    overwrite: bool = False,
) -> list[Path]: ...


@as_typed
def simulate(
    out: str | Path | None = None,
    *,
    kind: str = "soil-moisture",
    shape: tuple[int, int, int] | str | None = None,
    seed: int = 0,
    missing: float | None = None,
    truth: str | Path | None = None,
    covariates: bool = False,
    overwrite: bool = False,
) -> Any:
    """A realistic gappy stack with its truth, seeded.

    Parameters
    ----------
    out : where to write (``.nc``, ``.zarr``, ``.tif``, ``-``); None returns (gappy Dataset, truth Dataset).
    kind : soil-moisture, ndvi, sst, lst or rain.
    shape : (time, y, x); None: the kind's own.
    missing : share of gaps, for soil-moisture (default 0.9).
    truth : where to write what is under the gaps.
    covariates : put what drives the simulation beside it (not in a GeoTIFF, and not of a kind that nothing drives).

    Returns
    -------
    the files written, or two Datasets where ``out`` is None.

    Raises
    ------
    StimputeError : what was wrong with which option, or with the output.
    """
    from stimpute.io.simulated import check_simulated, simulated_dataset, write_simulated

    for target in (out, truth):
        if target is not None and str(target) != "-":
            check_simulated(target, overwrite)
    if truth is not None and (out is None or str(truth) == "-" or Path(truth) == Path(out)):
        raise UsageError(f"--truth {truth}: a file of its own, beside an output")
    if covariates and Path(out or "").suffix in (".tif", ".tiff"):
        raise UsageError(
            f"--covariates: {out}, a GeoTIFF, holds one variable; leave it out, or write .nc or .zarr"
        )
    stack = _simulated(kind, seed, shape, missing)
    if covariates and not (stack.dynamic or stack.static):
        raise UsageError(f"--covariates: nothing drives --kind {kind}; leave it out")
    gappy = simulated_dataset(stack, covariates=covariates)
    if out is None:
        return gappy, simulated_dataset(stack, truth=True)
    written = []
    if str(out) == "-":
        from stimpute.io import streams

        streams.write_dataset(gappy)
    else:
        written.append(write_simulated(gappy, stack.name, out, overwrite=overwrite))
    if truth is not None:
        written.append(
            write_simulated(simulated_dataset(stack, truth=True), stack.name, truth, overwrite=overwrite)
        )
    return written


def _simulated(kind: str, seed: int, shape: Any, missing: float | None) -> SimulatedStack:
    from stimpute.synthetic.archives import STACK_KINDS, gappy_stack, smap_like

    if kind not in STACK_KINDS:
        raise UsageError(f"--kind {kind}: one of {', '.join(STACK_KINDS)}")
    if shape is not None and (len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 2):
        raise UsageError(f"--shape {shape}: time, y, x; at least 1 step and 2 x 2 cells")
    if missing is None:
        return gappy_stack(kind, seed, shape)
    if kind != "soil-moisture":
        raise UsageError(
            f"--missing {missing:g}: only for --kind soil-moisture; the gaps of {kind} are as they come"
        )
    if not 0 < missing < 1:
        raise UsageError(f"--missing {missing:g}: a share between 0 and 1")
    return smap_like(seed, shape or (365, 36, 36), missing)


def _method(options: FillKeywords) -> Any:
    from stimpute.inference.methods import open_method

    name = options.get("method", "st")
    if options.get("covariate") and name != "st":
        raise UsageError(f"--covariate: method {name} hears of none; leave them out or use --method st")
    return open_method(
        name, options.get("model"), options.get("device", "auto"),
        options.get("precision", "fp32"), options.get("threads"), options.get("fast", False),
    )  # fmt: skip


def _picture(plot: str | Path | None, overwrite: bool, others: Sequence[str | Path] = ()) -> Path | None:
    """Where to draw: a path of its own, neither read nor written otherwise."""
    if plot is None:
        return None
    from stimpute.report.canvas import check_picture

    path = check_picture(plot)
    for other in others:
        if path.resolve() == Path(other).resolve():
            raise OutputError(f"--plot {path}: is {other}; the picture needs another name")
    if path.exists() and not overwrite:
        raise OutputError(f"--plot {path}: already exists; --overwrite replaces it")
    return path


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
