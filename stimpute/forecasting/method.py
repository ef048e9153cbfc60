"""Guesses and network as a :class:`~stimpute.protocols.Forecaster`: stacks in, estimates out. Knows nothing about files or checkpoints."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from stimpute.calibration import Calibration
from stimpute.errors import InputError
from stimpute.estimate import Estimate
from stimpute.forecasting.graph import Graph, divisions_of, graph_of, laplacian_positions
from stimpute.forecasting.guesses import GUESSES, Guesses, Known, make_guesses, origins
from stimpute.forecasting.network import SBATransformer, Surroundings
from stimpute.forecasting.series import History, closed_up, even_slots, regular
from stimpute.layers.prediction import Prediction
from stimpute.stack import Stack

LEAST_STEPS = 8
CALIBRATED = 8  # earlier origins that the scale is calibrated on
ASKED_ALONE = 3  # the same for a guess alone


class SBAForecaster:
    """The SBATransformer behind the common interface; without a network, the blend of the guesses alone.

    Parameters
    ----------
    network : with its weights, or None.
    device : where it runs.
    always : let the network speak even where it was worse than the blend at earlier origins.

    Attributes
    ----------
    used : after a forecast, who made it: ``sba`` or ``blend``.
    """

    def __init__(
        self,
        network: SBATransformer | None = None,
        device: str | torch.device = "cpu",
        *,
        always: bool = False,
    ) -> None:
        self.name = self.used = "blend" if network is None else "sba"
        self.always = always
        self.device = torch.device(device)
        self.network = None if network is None else network.to(self.device).eval()
        self._around: tuple[Graph, Surroundings] | None = None

    @torch.no_grad()
    def forecast(
        self, past: Stack, steps: int, slots: npt.NDArray[np.int64] | None = None, step: float | None = None
    ) -> Estimate:
        """Mean and standard error of the next ``steps`` steps; NaN where nothing was observed among those looked back on.

        The scale is calibrated on the errors made at earlier origins of the same stack, by lead time. Where the network was worse
        than the blend there, the blend is what is said.

        Raises
        ------
        InputError : nothing observed, or too few steps.
        """
        history, graph = history_of(past, slots, step, steps)
        history, center, unit = history.to(self.device).normalised()
        around = self._surroundings(graph)
        known: Known = {}
        guesses = make_guesses(history, steps, known=known)
        calibration, error = self._calibration(history, steps, around, known)
        self.used = self.name
        if around is not None and not self.always:
            of_blend, blend_error = self._calibration(history, steps, None, known)
            if blend_error <= error:
                around, calibration, self.used = None, of_blend, "blend"
        prediction = self._say(history, guesses, around)
        leads = np.broadcast_to(np.arange(1.0, steps + 1)[:, None], (steps, len(graph)))
        mean = prediction.mean[0, :, 0].double().cpu().numpy() * float(unit) + center[0].cpu().numpy()
        scale = calibration.apply(prediction.scale[0, :, 0].cpu().numpy(), leads) * float(unit)
        return Estimate(on_grid(mean, graph, past), on_grid(scale, graph, past))

    def _surroundings(self, graph: Graph) -> Surroundings | None:
        if self.network is None:
            return None
        if self._around is None or not np.array_equal(self._around[0].cells, graph.cells):
            self._around = graph, surroundings(graph, self.network, self.device)
        return self._around[1]

    def _say(self, history: History, guesses: Guesses, around: Surroundings | None) -> Prediction:
        if self.network is None or around is None:
            return Prediction(guesses.prior, 1.25 * guesses.prior_error)
        said: Prediction = self.network(history, guesses, around)
        return said

    def _calibration(
        self, history: History, steps: int, around: Surroundings | None, done: Known
    ) -> tuple[Calibration, float]:
        """At earlier origins: factors of the scale, and the mean absolute error."""
        errors, scales, leads = [], [], []
        for back in origins(history, steps, CALIBRATED):
            earlier = history.earlier(back)
            start = earlier.values.shape[1]
            truth, known = (
                t[0, start : start + steps].cpu().numpy() for t in (history.values, history.valid)
            )
            said = self._say(earlier, make_guesses(earlier, steps, known=done, back=back), around)
            errors.append((said.mean[0, :, 0].cpu().numpy() - truth)[known])
            scales.append(said.scale[0, :, 0].cpu().numpy()[known])
            leads.append(np.broadcast_to(np.arange(1.0, steps + 1)[:, None], known.shape)[known])
        if not errors:
            return Calibration(np.zeros(1), np.ones(1), 0.0, 0.9, 0), 0.0
        error = np.concatenate(errors)
        fitted = Calibration.fit(error, np.concatenate(scales), np.concatenate(leads))
        return fitted, float(np.abs(error).mean()) if len(error) else 0.0


class GuessForecaster:
    """One of the guesses alone, to be beaten: ``persistence``, ``last cycle``, ..."""

    def __init__(self, name: str) -> None:
        self.name = name

    @torch.no_grad()
    def forecast(
        self, past: Stack, steps: int, slots: npt.NDArray[np.int64] | None = None, step: float | None = None
    ) -> Estimate:
        """Mean, and a scale from the errors at earlier origins."""
        history, graph = history_of(past, slots, step, steps)
        history, center, unit = history.normalised()
        guesses, number = make_guesses(history, steps, ASKED_ALONE), GUESSES.index(self.name)
        mean = guesses.estimates[0, number, :, 0].double().numpy() * float(unit) + center[0].numpy()
        scale = 1.25 * guesses.log_error[0, number, :, 0].exp().numpy() * float(unit)
        return Estimate(on_grid(mean, graph, past), on_grid(scale, graph, past))


def surroundings(graph: Graph, network: SBATransformer, device: torch.device) -> Surroundings:
    """What a network is told about a graph."""
    divisions = divisions_of(graph, network.config.sides, device)
    return Surroundings(divisions, laplacian_positions(graph, network.config.positions).to(device))


def history_of(
    past: Stack, slots: npt.NDArray[np.int64] | None, step: float | None, steps: int
) -> tuple[History, Graph]:
    """The regular past of the nodes of a stack, and their graph.

    Raises
    ------
    InputError : nothing observed, or too few steps.
    """
    if slots is None or step is None:
        slots, step = even_slots(past.times)
    if not past.valid.any():
        raise InputError("nothing observed in the steps before the forecast; there is nothing to go on from")
    span = int(-slots.min()) + 1
    needed = max(LEAST_STEPS, steps)
    if span < needed:
        raise InputError(
            f"{span} steps are too few to forecast {steps}: at least {needed} are needed; give a longer series or lower --steps"
        )
    graph = graph_of(past.grid, np.asarray(past.valid.any(axis=0)))
    values = past.values.reshape(len(slots), -1)[:, graph.cells]
    valid = past.valid.reshape(len(slots), -1)[:, graph.cells]
    return regular(
        values, valid, closed_up(slots, step), step, float(past.year_phase[-1]), float(past.day_phase[-1])
    ), graph


def on_grid(values: npt.NDArray[np.floating], graph: Graph, past: Stack) -> npt.NDArray[np.float32]:
    """(steps, N) to (steps, y, x), NaN where there is no node."""
    ny, nx = past.grid.shape
    out = np.full((len(values), ny * nx), np.nan, dtype=np.float32)
    out[:, graph.cells] = values
    return out.reshape(-1, ny, nx)
