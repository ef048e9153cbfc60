"""Guesses and network as a :class:`~stimpute.protocols.Forecaster`: stacks in, estimates out. Knows nothing about files or checkpoints."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from stimpute.errors import InputError
from stimpute.estimate import Estimate
from stimpute.forecasting.graph import Graph, divisions_of, evenly_spread, graph_of, laplacian_positions
from stimpute.forecasting.guesses import Guesses, Known, Sample, make_guesses, origins
from stimpute.forecasting.intervals import Missed, calibrated, mean_error, spatial_freedom
from stimpute.forecasting.names import GUESSES
from stimpute.forecasting.network import SBATransformer, Surroundings
from stimpute.forecasting.series import NOTHING_OBSERVED, History, closed_up, even_slots, regular
from stimpute.layers.prediction import Prediction
from stimpute.stack import Stack

LEAST_STEPS = 8
CALIBRATED = 8  # earlier origins that the scale is calibrated on
ASKED_ALONE = 3  # the same for a guess alone
ALL_ASKED = 2048  # nodes; of larger graphs earlier origins are asked at some
SOME_ASKED = 1024  # at least


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

        The scale is calibrated by lead time on the errors made at earlier origins of the same stack, and the wider the fewer
        they are. Where the network was worse than the blend there, the blend is what is said.

        Raises
        ------
        InputError : nothing observed, or too few steps.
        """
        history, graph = history_of(past, slots, step, steps)
        history, center, unit = history.to(self.device).normalised()
        around = self._surroundings(graph)
        known: Known = {}
        sample = sample_of(graph, self.device)
        guesses = make_guesses(history, steps, known=known, sample=sample)
        voices = [around] if around is None or self.always else [around, None]
        missed = self._missed(history, steps, voices, known, sample)
        self.used, chosen = self.name, missed[0]
        if len(voices) > 1 and mean_error(missed[1]) <= mean_error(missed[0]):
            around, self.used, chosen = None, "blend", missed[1]
        prediction = self._say(history, guesses, around)
        mean = prediction.mean[0, :, 0].double().cpu().numpy() * float(unit) + center[0].cpu().numpy()
        freedom = spatial_freedom(guesses.anomalies[0].cpu().numpy(), history.valid[0].cpu().numpy())
        asked = None if sample is None else sample.nodes.cpu().numpy()
        scale = calibrated(chosen, prediction.scale[0, :, 0].cpu().numpy(), freedom, asked) * np.float32(unit)
        return Estimate(on_grid(mean, graph, past), on_grid(scale, graph, past))

    def _surroundings(self, graph: Graph) -> Surroundings | None:
        if self.network is None:
            return None
        if self._around is None or not self._around[0].same_as(graph):
            self._around = graph, surroundings(graph, self.network, self.device)
        return self._around[1]

    def _say(
        self, history: History, guesses: Guesses, around: Surroundings | None, sample: Sample | None = None
    ) -> Prediction:
        if self.network is None or around is None:
            return Prediction(guesses.prior, 1.25 * guesses.prior_error)
        said: Prediction = self.network(history, guesses, around, sample)
        return said

    def _missed(
        self, history: History, steps: int, voices: list[Surroundings | None], done: Known, sample: Sample | None
    ) -> list[list[Missed]]:  # fmt: skip
        """What network (with surroundings) and blend (None) missed at earlier origins, at the nodes of the sample."""
        missed: list[list[Missed]] = [[] for _ in voices]
        asked = len(origins(history, steps))
        for back in origins(history, steps, CALIBRATED, nearer=True):
            earlier = history.earlier(back)
            start = earlier.values.shape[1]
            truth, known = (t[0, start : start + steps] for t in (history.values, history.valid))
            if sample is not None:
                truth, known = truth[:, sample.nodes], known[:, sample.nodes]
            guesses = make_guesses(earlier, steps, known=done, back=back, sample=sample)
            alike = len(origins(earlier, steps)) >= asked
            for voice, of_voice in zip(voices, missed, strict=True):
                said = self._say(earlier, guesses, voice, sample)
                error = torch.full_like(said.mean[0, :, 0], torch.nan)
                error[: len(truth)] = torch.where(known, said.mean[0, : len(truth), 0] - truth, torch.nan)
                scale = said.scale[0, :, 0].cpu().numpy() if alike else None
                of_voice.append(Missed(back, error.cpu().numpy(), scale))
        return missed


class GuessForecaster:
    """One of the guesses alone, to be beaten: ``persistence``, ``last cycle``, ..."""

    def __init__(self, name: str) -> None:
        if name not in GUESSES:
            raise ValueError(f"no guess is called {name}")
        self.name = name

    @torch.no_grad()
    def forecast(
        self, past: Stack, steps: int, slots: npt.NDArray[np.int64] | None = None, step: float | None = None
    ) -> Estimate:
        """Mean, and a scale from the errors at earlier origins."""
        history, graph = history_of(past, slots, step, steps)
        history, center, unit = history.normalised()
        sample = sample_of(graph, "cpu")
        guesses, number = make_guesses(history, steps, ASKED_ALONE, sample=sample), GUESSES.index(self.name)
        mean = guesses.estimates[0, number, :, 0].double().numpy() * float(unit) + center[0].numpy()
        scale = 1.25 * guesses.log_error[0, number, :, 0].exp().numpy() * float(unit)
        return Estimate(on_grid(mean, graph, past), on_grid(scale, graph, past))


def sample_of(graph: Graph, device: torch.device | str) -> Sample | None:
    """The nodes that earlier origins are asked at, where not all are."""
    if len(graph) <= ALL_ASKED:
        return None
    return Sample(*(torch.from_numpy(a).to(device) for a in evenly_spread(graph, SOME_ASKED)))


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
        raise InputError(NOTHING_OBSERVED)
    slots = closed_up(slots, step)  # what lies in long holes is no past to go on from
    span = int(-slots.min()) + 1
    needed = max(LEAST_STEPS, steps)
    if span < needed:
        raise InputError(
            f"{span} steps are too few to forecast {steps}: at least {needed} are needed; give a longer series or lower --steps"
        )
    graph = graph_of(past.grid, np.asarray(past.valid.any(axis=0)))
    values = past.values.reshape(len(slots), -1)[:, graph.cells]
    valid = past.valid.reshape(len(slots), -1)[:, graph.cells]
    return regular(values, valid, slots, step, float(past.year_phase[-1]), float(past.day_phase[-1])), graph


def on_grid(values: npt.NDArray[np.floating], graph: Graph, past: Stack) -> npt.NDArray[np.float32]:
    """(steps, N) to (steps, y, x), NaN where there is no node."""
    ny, nx = past.grid.shape
    out = np.full((len(values), ny * nx), np.nan, dtype=np.float32)
    out[:, graph.cells] = values
    return out.reshape(-1, ny, nx)
