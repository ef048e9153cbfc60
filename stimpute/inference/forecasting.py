"""Forecasting a source into a sink: read the last steps, say the next, write them. Knows protocols only."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stimpute import __version__
from stimpute.errors import InputError, UsageError
from stimpute.forecasting.series import closed_up
from stimpute.inference.engine import resolve_bounds
from stimpute.inference.options import Bounds, FillOptions, Progress
from stimpute.inference.survey import memory_budget
from stimpute.protocols import FILLED, OUTSIDE_DOMAIN, REFUSED, Filled, Forecaster, Sink, Source, Window
from stimpute.stack import BoolArray

BYTES = 40  # of a cell-step looked back on, at the peak
LEAST = 64  # slots looked back on, whatever the memory


class Ahead(Protocol):
    """The steps to come, as `io` finds them (:class:`stimpute.io.future.Future`)."""

    @property
    def slots(self) -> npt.NDArray[np.int64]: ...
    @property
    def stamps(self) -> tuple[str, ...]: ...
    @property
    def step_days(self) -> float: ...


@dataclass(frozen=True)
class ForecastOptions:
    """How to forecast.

    Parameters
    ----------
    quantiles : levels in (0, 1) written beside the mean.
    bounds : clips forecasts; ``auto``: valid_range, standard_name.
    memory : bytes for arrays; None: a quarter of what is free. Bounds how far is looked back.
    """

    quantiles: tuple[float, ...] = ()
    bounds: Any = "auto"
    memory: int | None = None


@dataclass(frozen=True)
class ForecastLayer:
    """What happened to one layer; errors in the variable's units, expected from earlier origins."""

    name: str
    units: str
    cells: int  # ever observed among the steps looked back on
    refused: int
    looked_back: int
    clipped: int
    expected_error: tuple[float, ...]  # by lead time
    used: str  # who spoke: the network, or the blend where it was better at earlier origins


@dataclass(frozen=True)
class ForecastSummary:
    """What a forecast did."""

    method: str
    model: str | None
    model_sha256: str | None
    steps: int
    first: str
    last: str
    layers: tuple[ForecastLayer, ...]
    seconds: float
    outputs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def forecast_source(
    source: Source,
    ahead: Ahead,
    sink: Sink,
    forecaster: Forecaster,
    options: ForecastOptions = ForecastOptions(),
    progress: Progress | None = None,
    command: str = "",
) -> ForecastSummary:
    """Forecast every layer of ``source`` into ``sink`` and commit it.

    Raises
    ------
    InputError : a layer without any observation, or too short.
    OutputError : the sink cannot hold a value, or cannot be written.
    """
    started = time.perf_counter()
    layers = []
    for index in range(len(source.layers)):
        if progress:
            progress("forecast", index, len(source.layers))
        layers.append(_forecast_layer(source, index, ahead, sink, forecaster, options))
    model, digest = getattr(forecaster, "model_name", None), getattr(forecaster, "sha256", None)
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    weights = f", model {model} sha256 {digest}" if model else ""
    spoke = ", ".join(dict.fromkeys(layer.used for layer in layers))
    line = f"{when}: {command or 'stimpute.forecast'} (stimpute {__version__}, method {spoke}{weights if spoke != 'blend' else ''})"
    outputs = sink.commit(line)
    return ForecastSummary(
        forecaster.name, model, digest, len(ahead.stamps), ahead.stamps[0], ahead.stamps[-1], tuple(layers),
        round(time.perf_counter() - started, 3), tuple(str(p) for p in outputs),
    )  # fmt: skip


def _forecast_layer(
    source: Source, index: int, ahead: Ahead, sink: Sink, forecaster: Forecaster, options: ForecastOptions
) -> ForecastLayer:
    layer, steps = source.layers[index], len(ahead.stamps)
    _, ny, nx = layer.shape
    back = max(LEAST, memory_budget(FillOptions(memory=options.memory)) // (BYTES * ny * nx))
    closed = closed_up(ahead.slots, ahead.step_days)  # what long holes take up is not memory
    first = int(np.searchsorted(closed, -back, side="right"))
    past = source.read(Window((first, layer.shape[0]), (0, ny), (0, nx)), index)
    domain: BoolArray | None = getattr(source, "domain", None)
    if domain is not None:
        past = past.hide(np.broadcast_to(~domain, past.shape))
    try:
        said = forecaster.forecast(past, steps, ahead.slots[first:], ahead.step_days)
    except InputError as error:
        raise InputError(
            f"{source.paths[0] if source.paths else 'the stack'}: {layer.name}: {error}"
        ) from error
    known = np.isfinite(said.mean)
    flag = np.where(known, np.uint8(FILLED), np.uint8(REFUSED))
    if domain is not None:
        flag[:, ~domain] = OUTSIDE_DOMAIN
    bounds = resolve_bounds(layer, FillOptions(bounds=options.bounds))
    values = _clipped(said.mean, bounds)
    quantiles = {}
    if said.scale is not None:
        for level in options.quantiles:
            quantiles[level] = _clipped(
                said.mean + np.float32(NormalDist().inv_cdf(level)) * said.scale, bounds
            )
    sink.write(Window((0, steps), (0, ny), (0, nx)), Filled(values, flag, said.scale, quantiles), index)
    expected = (
        () if said.scale is None else tuple(_mean(frame) * 0.8 for frame in said.scale)
    )  # |error| of a normal
    cells = int(known[0].sum())
    return ForecastLayer(
        layer.name, layer.units, cells, ny * nx - cells, int(-closed[first]) + 1,
        int((values != said.mean)[known].sum()), expected, getattr(forecaster, "used", forecaster.name),
    )  # fmt: skip


def _clipped(values: npt.NDArray[np.float32], bounds: Bounds) -> npt.NDArray[np.float32]:
    if bounds == (None, None):
        return values
    return np.asarray(np.clip(values, *bounds), dtype=np.float32)


def _mean(frame: npt.NDArray[np.float32]) -> float:
    return float(f"{np.nanmean(frame):.6g}")


def check_steps(steps: int) -> None:
    """Refuse a horizon that is none.

    Raises
    ------
    UsageError : no whole number, or fewer than one step.
    """
    if not hasattr(steps, "__index__") or steps < 1:
        raise UsageError(f"--steps {steps}: a whole number, at least 1")


__all__ = ["Ahead", "ForecastLayer", "ForecastOptions", "ForecastSummary", "check_steps", "forecast_source"]
