"""Forecasting a source into a sink: read the last steps, say the next, write them. Knows protocols only."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stimpute import __version__
from stimpute.errors import InputError, StimputeWarning, UsageError
from stimpute.forecasting.series import LEAST as USUAL
from stimpute.forecasting.series import MOST, NOTHING_OBSERVED, closed_up
from stimpute.inference.bounds import resolve_bounds
from stimpute.inference.options import Bounds, FillOptions, Progress
from stimpute.inference.pieces import Fields, blended_windows, cut_layer
from stimpute.inference.scan import OVERVIEW_CELLS, inside_domain, where
from stimpute.inference.survey import memory_budget
from stimpute.protocols import FILLED, OUTSIDE_DOMAIN, REFUSED, Filled, Forecaster, Sink, Source, Window
from stimpute.stack import BoolArray, Float32Array

PAST_BYTES = 150  # at the peak, of a cell-step looked back on;
AHEAD_BYTES, NODE_BYTES = 450, 4000  # of one to come, and of a cell
LEAST, HORIZONS = 64, 3  # slots looked back on, whatever the memory; and times as many as are to come
_BLOCK_BYTES = 60  # per cell-step to come of a window that is put together
LEAST_CELLS = 32**2  # of a piece, before fewer steps are looked back on


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
    bounds : clips forecasts; ``auto``: valid_range, standard_name, what was observed.
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
    refused: int  # never observed among them
    outside_domain: int
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
    return _Layer(source, index, ahead, sink, forecaster, options).written()


@dataclass(frozen=True)
class _Layer:
    """One layer on its way ahead."""

    source: Source
    index: int
    ahead: Ahead
    sink: Sink
    forecaster: Forecaster
    options: ForecastOptions
    spoke: set[str] = field(default_factory=set)
    seen: list[Float32Array] = field(default_factory=list)  # observed values, some of every piece

    def written(self) -> ForecastLayer:
        """Forecast and write it, in pieces where memory does not hold it.

        Raises
        ------
        InputError : without any observation, or too short.
        """
        layer, steps = self.source.layers[self.index], len(self.ahead.stamps)
        _, ny, nx = layer.shape
        domain: BoolArray | None = getattr(self.source, "domain", None)
        budget = memory_budget(FillOptions(memory=self.options.memory))
        closed = closed_up(self.ahead.slots, self.ahead.step_days)  # what long holes take up is not memory
        back = _looked_back(min(int(-closed[0]) + 1, MOST), steps, ny * nx, budget)
        if back < min(int(-closed[0]) + 1, USUAL):
            warnings.warn(
                f"{layer.name}: memory allows to look back on {back} of {int(-closed[0]) + 1} steps only; raise --memory",
                StimputeWarning, stacklevel=2,
            )  # fmt: skip
        first = int(np.searchsorted(closed, -back, side="right"))
        per_cell = PAST_BYTES * back + AHEAD_BYTES * steps + NODE_BYTES
        grid = self.source.grid
        cells = ny * nx if grid.kind == "points" else budget // per_cell
        cut = cut_layer((steps, ny, nx), grid.wraps and cells < ny * nx, cells * steps, whole_series=True)
        read = cut.around(inside_domain(self.source, self.index))

        def say(window: Window) -> Fields:
            past = read(replace(window, time=(first, layer.shape[0])))
            observed = past.values[past.valid]
            self.seen.append(observed[:: 1 + observed.size * len(cut.pieces) // OVERVIEW_CELLS].copy())
            if len(cut.pieces) > 1 and not observed.size:
                return {"mean": np.full(window.shape, np.nan, dtype=np.float32)}
            try:
                said = self.forecaster.forecast(past, steps, self.ahead.slots[first:], self.ahead.step_days)
            except InputError as error:
                raise self._refusal(str(error)) from error
            self.spoke.add(getattr(self.forecaster, "used", self.forecaster.name))
            return {"mean": said.mean} if said.scale is None else {"mean": said.mean, "scale": said.scale}

        clipped, known = 0, np.zeros((ny, nx), dtype=bool)
        expected, scaled = np.zeros(steps), False
        chunk = getattr(self.sink, "chunk", lambda _: (steps, ny, nx))(self.index)
        for window, fields in blended_windows(cut, say, chunk, budget // 2 // _BLOCK_BYTES):
            mean, scale = fields["mean"], fields.get("scale")
            there = np.isfinite(mean)
            flag = np.where(there, np.uint8(FILLED), np.uint8(REFUSED))
            times, rows, _ = window.slices
            if domain is not None:
                flag[:, ~domain[rows]] = OUTSIDE_DOMAIN
            values = _clipped(mean, self._bounds)
            quantiles = {}
            if scale is not None:
                for level in self.options.quantiles:
                    quantiles[level] = _clipped(
                        mean + np.float32(NormalDist().inv_cdf(level)) * scale, self._bounds
                    )
                scaled = True
                expected[times] += np.nansum(scale, axis=(1, 2), dtype=np.float64)
            self.sink.write(window, Filled(values, flag, scale, quantiles), self.index)
            clipped += int((values != mean)[there].sum())
            known[rows] |= there[0]
        if not known.any():
            raise self._refusal(NOTHING_OBSERVED)
        count = int(known.sum())
        outside = 0 if domain is None else int((~domain).sum())
        errors = (
            tuple(float(f"{0.8 * total / count:.6g}") for total in expected) if scaled else ()
        )  # |error| of a normal
        return ForecastLayer(
            layer.name, layer.units, count, ny * nx - count - outside, outside, int(-closed[first]) + 1, clipped, errors,
            ", ".join(sorted(self.spoke)),
        )  # fmt: skip

    def _refusal(self, words: str) -> InputError:
        return InputError(f"{where(self.source, self.source.layers[self.index])}: {words}")

    @cached_property
    def _bounds(self) -> Bounds:
        """What forecasts are clipped into, once every piece has been looked back on."""
        layer, options = self.source.layers[self.index], FillOptions(bounds=self.options.bounds)
        return resolve_bounds(layer, options, np.concatenate(self.seen))[0]


def _looked_back(wanted: int, steps: int, cells: int, budget: int) -> int:
    """Slots looked back on: as many as are of use, fewer where memory would not hold pieces of some size.

    >>> _looked_back(800, 14, 10_000, 2**31), _looked_back(800, 14, 10**6, 2**26), _looked_back(800, 14, 10**6, 2**20)
    (800, 368, 64)
    >>> _looked_back(800, 365, 10**6, 2**20)
    800
    """
    held = budget // min(cells, LEAST_CELLS)
    return min(wanted, max(LEAST, HORIZONS * steps, (held - AHEAD_BYTES * steps - NODE_BYTES) // PAST_BYTES))


def _clipped(values: npt.NDArray[np.float32], bounds: Bounds) -> npt.NDArray[np.float32]:
    if bounds == (None, None):
        return values
    return np.asarray(np.clip(values, *bounds), dtype=np.float32)


def check_steps(steps: int) -> None:
    """Refuse a horizon that is none.

    Raises
    ------
    UsageError : no whole number, or fewer than one step.
    """
    if not hasattr(steps, "__index__") or steps < 1:
        raise UsageError(f"--steps {steps}: a whole number, at least 1")


__all__ = ["Ahead", "ForecastLayer", "ForecastOptions", "ForecastSummary", "check_steps", "forecast_source"]
