"""Where reading, forecasting and writing meet: what comes after a stack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from stimpute.api.keywords import (
    Memory,
    Progress,
    ReadKeywords,
    WriteKeywords,
    as_command,
    as_inputs,
    check_known,
    check_scored,
    check_target,
    outcome,
    read_options,
    sink_options,
)
from stimpute.api.values import as_typed
from stimpute.errors import UsageError
from stimpute.forecasting.names import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import xarray as xr

    from stimpute.api.keywords import Inputs
    from stimpute.evaluation.forecasts import ForecastBoard
    from stimpute.inference.forecasting import ForecastSummary
    from stimpute.protocols import Forecaster


class ForecastKeywords(WriteKeywords, total=False):
    """How a stack is forecast and written; the command line's options of the same names."""

    every: float | str | None


@overload
def forecast(
    x: Inputs,
    out: None = None,
    *,
    steps: int = 14,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[ForecastKeywords],
) -> xr.Dataset: ...


@overload
def forecast(
    x: Inputs,
    out: str | Path,
    *,
    steps: int = 14,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[ForecastKeywords],
) -> ForecastSummary: ...


@as_typed
def forecast(
    x: Inputs,
    out: str | Path | None = None,
    *,
    steps: int = 14,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[ForecastKeywords],
) -> Any:
    """Say the next steps of a stack; gaps in it are left out, never filled.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object.
    out : where to write; None returns the Dataset to come (with ``NAME_standard_error``).
    steps : how many, at the stack's own cadence.
    progress : called with (stage, done, total).
    command : recorded in ``history``.
    options : as on the command line, with ``_`` for ``-``, each a value or the command line's own text: how it is read and written as of
        :func:`stimpute.fill`; ``method``, ``model``, and ``every`` (days between steps, where they are irregular).

    Returns
    -------
    xarray.Dataset where ``out`` is None, else a :class:`~stimpute.inference.forecasting.ForecastSummary`.

    Raises
    ------
    StimputeError : what was wrong, in which file, what to do.
    """
    check_known(options, ForecastKeywords, "forecast")
    _check_alone(options)
    command = command or as_command("stimpute.forecast", {"steps": steps, **options})
    from dataclasses import replace

    from stimpute import io
    from stimpute.inference.forecasting import ForecastOptions, check_steps, forecast_source

    check_steps(steps)
    every: Any = options.get("every")
    if every is not None and not every > 0:
        raise UsageError(f"--every {every}: a number of days, more than 0")
    writing = replace(sink_options(options), flags=False, made="forecast")
    reading = read_options(options)
    inputs = as_inputs(x)
    check_target(out, inputs, reading, writing.overwrite)
    bounds: Any = options.get("bounds", "auto")
    run = ForecastOptions(tuple(writing.quantiles), bounds, options.get("memory"))
    forecaster = open_forecaster(
        options.get("method", "sba"),
        options.get("model"),
        options.get("device", "auto"),
        options.get("threads"),
    )
    if not getattr(forecaster, "gives_spread", True):
        if writing.quantiles:
            raise UsageError(
                f"--quantiles: method {forecaster.name} says nothing about its error; leave them out"
            )
        writing = replace(writing, uncertainty=False)
    with io.open_source(inputs, reading) as source:
        io.warn_of_filled(source)
        future, ahead = io.open_future(source, steps, every)
        if writing.format is None and io.output_format(out, source, writing) in ("GeoTIFF", "COG"):
            writing = replace(writing, format="GeoTIFF")
        with io.create_sink(out, future, writing) as sink:
            summary = forecast_source(source, ahead, sink, forecaster, run, progress, command)
    return outcome(out, sink, summary)


@as_typed
def evaluate_forecasts(
    x: Inputs,
    *,
    steps: int = 14,
    origins: int = 8,
    last: float = 0.3,
    methods: str | Sequence[str] | None = None,
    model: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    memory: Memory = None,
    progress: Progress | None = None,
    **options: Unpack[ReadKeywords],
) -> list[ForecastBoard]:
    """Forecast from several origins in the last part of a stack with every method, score what came next: a board per layer.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object. What an earlier run filled counts as gaps.
    steps : how many are forecast from each origin.
    origins, last : how many origins, spread over which part of the series (a share).
    methods : names; None: the network, the blend it starts from, and the baselines.
    model : of method ``sba``, by name or path.
    device, threads, memory : as of :func:`stimpute.fill`.
    progress : called with (stage, done, total).
    options : how it is read, as of :func:`stimpute.fill`.

    Returns
    -------
    list of ForecastBoard : with ``rows``, one for each method; their ``scores`` in the layer's units.

    Raises
    ------
    UsageError : an option that does not fit.
    InputError : it cannot be read, is too short, or no method could be scored.
    """
    check_known(options, ReadKeywords, "evaluate")
    _check_alone(options)
    from stimpute import io
    from stimpute.evaluation.forecasts import BASELINES, ForecastEvaluation
    from stimpute.evaluation.forecasts import evaluate_forecasts as evaluate_stack
    from stimpute.evaluation.sample import sampled_stack
    from stimpute.evaluation.scoreboard import MAX_CELLS

    chosen = ForecastEvaluation(steps, origins, last)
    names = tuple(methods) if methods else ("sba", "blend", *BASELINES)
    for name in names:
        if name not in METHODS:
            raise UsageError(f"--methods {name}: some of {', '.join(METHODS)}")
    if model is not None and "sba" not in names:
        raise UsageError(f"--model {model}: without method sba among --methods it has no effect")

    if model is not None:
        open_forecaster("sba", model, device, threads)  # a model that cannot be used is no matter of scores

    def maker(name: str) -> Callable[[], Forecaster]:
        return lambda: open_forecaster(name, model if name == "sba" else None, device, threads)

    boards = []
    with io.open_source(as_inputs(x), read_options(options)) as source:
        io.read_observed_only(source)
        for index, layer in enumerate(source.layers):
            stack, notes = sampled_stack(source, index, MAX_CELLS, memory)
            board = evaluate_stack(stack, layer, [(n, maker(n)) for n in names], chosen, progress, notes)
            check_scored(board.rows)
            boards.append(board)
    return boards


def _check_alone(options: ReadKeywords) -> None:
    if options.get("covariate"):
        raise UsageError("--covariate: no forecaster hears of any; leave it out")


def open_forecaster(
    method: str = "sba", model: str | Path | None = None, device: str = "auto", threads: int | None = None
) -> Forecaster:
    """A forecaster by name.

    Raises
    ------
    UsageError : an unknown method, or a model for a method that has none.
    ModelError, DeviceError : the model or the device cannot be used.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method}: one of {', '.join(METHODS)}")
    if model is not None and method != "sba":
        raise UsageError(
            f"--model {model}: method {method} has no model; leave --model out or use --method sba"
        )
    from stimpute.inference.forecasters import named_forecaster

    return named_forecaster(method, model, device, threads)
