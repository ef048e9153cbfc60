"""Every forecaster at the same origins of one stack, scored by lead time on what came next. Knows no files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeError, UsageError
from stimpute.forecasting.series import even_slots
from stimpute.inference.options import Progress
from stimpute.metrics import Scores, score
from stimpute.protocols import Forecaster, Layer
from stimpute.stack import Stack

BASELINES = ("persistence", "last-cycle", "dlinear", "ar")


@dataclass(frozen=True)
class ForecastEvaluation:
    """Where to start from.

    Parameters
    ----------
    steps : ahead.
    origins : how many, evenly spread over the last part.
    last : that part of the series.

    Raises
    ------
    UsageError : none, or a part outside (0, 1).
    """

    steps: int = 14
    origins: int = 8
    last: float = 0.3

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"--steps {self.steps}: at least 1")
        if self.origins < 1:
            raise UsageError(f"--origins {self.origins}: at least 1")
        if not 0 < self.last < 1:
            raise UsageError(f"--last {self.last:g}: a part between 0 and 1")


@dataclass(frozen=True)
class ForecastRow:
    """One method: scores over all origins and steps, error by lead time; None where it failed, and why."""

    method: str
    scores: Scores | None
    mae_by_lead: tuple[float, ...]
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class ForecastBoard:
    """All methods on one layer."""

    name: str
    units: str
    shape: tuple[int, int, int]
    steps: int
    origins: tuple[int, ...]  # steps of the stack after which a forecast began
    rows: tuple[ForecastRow, ...]
    notes: tuple[str, ...] = ()

    def ratio(self, method: str) -> float:
        """Error of a method over that of the best baseline; NaN where one is missing."""
        errors = {r.method: r.scores.mae for r in self.rows if r.scores is not None and r.scores.n}
        known = [errors[b] for b in BASELINES if b in errors and b != method]
        return errors[method] / min(known) if method in errors and known and min(known) > 0 else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for what is undefined."""
        rows = [
            {
                **asdict(row),
                "scores": row.scores.to_dict() if row.scores else None,
                "mae_by_lead": [_defined(mae) for mae in row.mae_by_lead],
            }
            for row in self.rows
        ]
        return {
            **asdict(self),
            "rows": rows,
            "ratios": {row.method: _defined(self.ratio(row.method)) for row in self.rows},
        }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def origins_of(times: npt.NDArray[np.float64], options: ForecastEvaluation) -> tuple[int, ...]:
    """Steps after which a forecast begins: evenly spread over the last part, each with something known to come.

    >>> origins_of(np.arange(100.0), ForecastEvaluation(steps=10, origins=3))
    (69, 79, 89)
    """
    slots, _ = even_slots(times)
    first = max(round(len(times) * (1 - options.last)) - 1, 0)
    possible = [o for o in range(first, len(times) - 1) if _followed(slots, o, options.steps)]
    if not possible:
        raise InputError(
            f"{len(times)} steps leave no {options.steps} to come after an origin in the last {options.last:.0%}; lower --steps or raise --last"
        )
    chosen = np.linspace(0, len(possible) - 1, min(options.origins, len(possible))).round().astype(int)
    return tuple(possible[i] for i in dict.fromkeys(chosen.tolist()))


def _followed(slots: npt.NDArray[np.int64], origin: int, steps: int) -> bool:
    """Whether at least half of the steps to come are stored, up to the last of them."""
    ahead = slots[origin + 1 :] - slots[origin]
    return bool(slots[-1] - slots[origin] >= steps and (ahead <= steps).sum() >= steps / 2)


def evaluate_forecasts(
    stack: Stack,
    layer: Layer,
    methods: Sequence[tuple[str, Callable[[], Forecaster]]],
    options: ForecastEvaluation = ForecastEvaluation(),
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> ForecastBoard:
    """Forecast from every origin with every method; what comes after an origin is never shown to any.

    Raises
    ------
    InputError : no origin with enough to come.
    """
    chosen = origins_of(stack.times, options)
    slots, step = even_slots(stack.times)
    rows = []
    for number, (name, make) in enumerate(methods):
        if progress:
            progress("evaluate", number, len(methods))
        rows.append(_row(name, make, stack, chosen, slots, step, options.steps))
    return ForecastBoard(
        layer.name, layer.units, stack.shape, options.steps, chosen, tuple(rows), tuple(notes)
    )


def _row(
    name: str, make: Callable[[], Forecaster], stack: Stack, chosen: Sequence[int], slots: npt.NDArray[np.int64], step: float, steps: int
) -> ForecastRow:  # fmt: skip
    started = time.perf_counter()
    truths, means, scales = [], [], []
    try:
        forecaster = make()
        for origin in chosen:
            past = stack.window(slice(0, origin + 1), slice(None), slice(None))
            said = forecaster.forecast(past, steps, slots[: origin + 1] - slots[origin], step)
            truths.append(_to_come(stack, slots, origin, steps))
            means.append(said.mean)
            scales.append(said.scale if said.scale is not None else np.full_like(said.mean, np.nan))
    except StimputeError as error:
        return ForecastRow(name, None, (), round(time.perf_counter() - started, 2), str(error))
    truth, mean, scale = (np.stack(a) for a in (truths, means, scales))
    by_lead = tuple(score(truth[:, h], mean[:, h]).mae for h in range(steps))
    known = None if not np.isfinite(scale).any() else scale
    return ForecastRow(name, score(truth, mean, known), by_lead, round(time.perf_counter() - started, 2))


def _to_come(stack: Stack, slots: npt.NDArray[np.int64], origin: int, steps: int) -> npt.NDArray[np.float32]:
    """What was observed in the steps after an origin, NaN where nothing was, at cells ever observed before. (steps, y, x)"""
    truth = np.full((steps, *stack.shape[1:]), np.nan, dtype=np.float32)
    ever = stack.valid[: origin + 1].any(axis=0)
    for at in range(origin + 1, stack.shape[0]):
        place = int(slots[at] - slots[origin]) - 1
        if place >= steps:
            break
        truth[place] = np.where(stack.valid[at] & ever, stack.values[at], np.float32(np.nan))
    return truth
