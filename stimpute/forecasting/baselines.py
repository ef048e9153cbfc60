"""The methods a forecast must beat, per cell: an autoregression, and DLinear (Zeng et al. 2023). Knows no networks.

Each cell is fitted alone, by ridge regression on its own past; gaps count as the cell's mean among the inputs and are left out
of the targets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.estimate import Estimate
from stimpute.forecasting.method import history_of, on_grid
from stimpute.stack import Stack

LAGS = 24
WINDOW, KERNEL = 48, 25
RIDGE = 0.01
CELLS = 512  # solved together


class CellForecaster:
    """A linear model of each cell: ``ar`` iterates one step of ``LAGS`` lags, ``dlinear`` maps trend and remainder to all steps."""

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
        values, valid = history.values[0].T, history.valid[0].T  # N, C
        say = autoregression if self.name == "ar" else dlinear
        said = torch.cat(
            [
                say(v, k, steps)
                for v, k in zip(torch.split(values, CELLS), torch.split(valid, CELLS), strict=True)
            ]
        )
        mean = said.T.double().numpy() * float(unit) + center[0].numpy()
        return Estimate(on_grid(mean, graph, past))


def autoregression(values: Tensor, valid: Tensor, steps: int) -> Tensor:
    """(N, steps) from (N, C): x(t) = sum of a(k) x(t - k), a fitted per row, iterated."""
    lags = min(LAGS, max(1, values.shape[1] // 4))
    rows = values.unfold(1, lags + 1, 1)
    x, y, known = rows[..., :-1], rows[..., -1:], valid[:, lags:, None]
    weights = _ridge(x, y, known)[..., 0]
    recent = values[:, -lags:]
    said = []
    for _ in range(steps):
        following = (recent * weights).sum(dim=1, keepdim=True).clamp(-20, 20)
        said.append(following)
        recent = torch.cat((recent[:, 1:], following), dim=1)
    return torch.cat(said, dim=1)


def dlinear(values: Tensor, valid: Tensor, steps: int) -> Tensor:
    """(N, steps) from (N, C): moving average and remainder of the last ``WINDOW`` values, each mapped linearly to every step."""
    window = min(WINDOW, max(2, (values.shape[1] - steps) // 3))
    rows = values.unfold(1, window + steps, 1)
    known = valid.unfold(1, window + steps, 1)[..., window:]
    weights = _ridge(_decomposed(rows[..., :window]), rows[..., window:], known)
    return torch.einsum("nl,nlh->nh", _decomposed(values[:, None, -window:])[:, 0], weights)


def _decomposed(windows: Tensor) -> Tensor:
    """(N, W, L) -> (N, W, 2 L): the moving average (edges repeated), and the rest."""
    n, w, length = windows.shape
    half = min(KERNEL, length) // 2
    padded = torch.nn.functional.pad(windows.reshape(n * w, 1, length), (half, half), mode="replicate")
    trend = torch.nn.functional.avg_pool1d(padded, 2 * half + 1, stride=1).view(n, w, length)
    return torch.cat((trend, windows - trend), dim=-1)


def _ridge(x: Tensor, y: Tensor, known: Tensor) -> Tensor:
    """(N, L, H): per row, weights of x (N, W, L) for y (N, W, H); a window counts by the part of its targets that is known."""
    weight = known.float().mean(dim=-1, keepdim=True)
    weighted = (x * weight).transpose(1, 2)
    gram = weighted @ x
    strength = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-4
    gram = gram + strength[:, None, None] * torch.eye(x.shape[-1])
    answer: Tensor = torch.linalg.solve(gram, weighted @ (y * known))
    return answer
