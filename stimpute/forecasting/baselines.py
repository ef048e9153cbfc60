"""The methods a forecast must beat, per cell: an autoregression, and DLinear (Zeng et al. 2023). Knows no networks.

The maps themselves are those that the guesses hold, see :mod:`stimpute.forecasting.cell_maps`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from stimpute.estimate import Estimate
from stimpute.forecasting.cell_maps import in_parts
from stimpute.forecasting.method import history_of, on_grid
from stimpute.stack import Stack


class CellForecaster:
    """A linear model of each cell: ``ar`` iterates one step of ``LAGS`` lags, ``dlinear`` maps trend and remainder to all steps."""

    gives_spread = False

    def __init__(self, name: str) -> None:
        if name not in ("ar", "dlinear"):
            raise ValueError(f"no cell forecaster is called {name}")
        self.name = name

    @torch.no_grad()
    def forecast(
        self, past: Stack, steps: int, slots: npt.NDArray[np.int64] | None = None, step: float | None = None
    ) -> Estimate:
        """Mean of the next steps; no scale."""
        history, graph = history_of(past, slots, step, steps)
        history, center, unit = history.normalised()
        said = in_parts(self.name, history.values[0], history.valid[0], steps)
        mean = said.double().numpy() * float(unit) + center[0].numpy()
        return Estimate(on_grid(mean, graph, past))
