"""Linear maps of a cell's own past to its next steps: an autoregression, and DLinear (Zeng et al. 2023). Knows no networks.

Each cell is fitted alone, by ridge regression; gaps count as the cell's mean among the inputs and are left out of the targets.
"""

from __future__ import annotations

import torch
from torch import Tensor

LAGS = 24
WINDOW, KERNEL = 48, 25
RIDGE = 0.01
CELLS = 512  # solved together
LARGEST = 1.5  # times what a cell ever was: what a map may say


def in_parts(say: str, values: Tensor, valid: Tensor, steps: int) -> Tensor:
    """``ar`` or ``dlinear`` of all nodes, (C, N) -> (steps, N), bounded."""
    one = {"ar": autoregression, "dlinear": dlinear}[say]
    parts = zip(torch.split(values.T, CELLS), torch.split(valid.T, CELLS), strict=True)
    return bounded(torch.cat([one(v, k, steps) for v, k in parts]).T, values)


def bounded(said: Tensor, values: Tensor) -> Tensor:
    """An ill-posed map may run away, the series hardly: (steps, N) within ``LARGEST`` times what each of (C, N) ever was."""
    largest = LARGEST * values.abs().amax(dim=0)
    return torch.maximum(torch.minimum(said, largest), -largest)


def autoregression(values: Tensor, valid: Tensor, steps: int) -> Tensor:
    """(N, steps) from (N, C): x(t) = sum of a(k) x(t - k), a fitted per row, iterated."""
    lags = min(LAGS, max(1, values.shape[1] // 4))
    rows = values.unfold(1, lags + 1, 1)
    x, y, known = rows[..., :-1], rows[..., -1:], valid[:, lags:, None]
    weights = _ridge(x, y, known, torch.eye(lags, device=values.device))[..., 0]
    recent = values[:, -lags:]
    said = []
    for _ in range(steps):
        following = (recent * weights).sum(dim=1, keepdim=True).clamp(-20, 20)
        said.append(following)
        recent = torch.cat((recent[:, 1:], following), dim=1)
    return torch.cat(said, dim=1)


def dlinear(values: Tensor, valid: Tensor, steps: int) -> Tensor:
    """(N, steps) from (N, C): moving average and remainder of the last ``WINDOW`` values, each mapped linearly to every step.

    Both are linear in the window, so that the two maps under one ridge are one map of the window under another: with D for
    the decomposition, ``|W|^2`` for W D becomes ``tr M (D^T D)^-1 M^T``.
    """
    window = min(WINDOW, max(2, (values.shape[1] - steps) // 3))
    if values.shape[1] < window + steps:  # nothing to fit on: the mean
        return values.new_zeros(len(values), steps)
    rows = values.unfold(1, window + steps, 1)
    known = valid.unfold(1, window + steps, 1)[..., window:]
    trend = moving_average(window).to(values)
    rest = torch.eye(window, device=values.device) - trend
    weights = _ridge(rows[..., :window], rows[..., window:], known, trend.T @ trend + rest.T @ rest, 2)
    return torch.einsum("nl,nlh->nh", values[:, -window:], weights)


def moving_average(window: int) -> Tensor:
    """The matrix (window, window) that smooths a window, edges repeated.

    >>> moving_average(3)[0].tolist()
    [0.6666666865348816, 0.3333333432674408, 0.0]
    """
    half = min(KERNEL, window) // 2
    at = (torch.arange(window)[:, None] + torch.arange(-half, half + 1)).clamp(0, window - 1)
    smooth = torch.zeros(window, window)
    return smooth.scatter_add_(1, at, torch.full(at.shape, 1 / (2 * half + 1)))


def _ridge(x: Tensor, y: Tensor, known: Tensor, prior: Tensor, copies: int = 1) -> Tensor:
    """(N, L, H): per row, weights of x (N, W, L) for y (N, W, H) under the prior covariance ``prior`` (L, L).

    A window counts by the part of its targets that is known. ``copies``: of every input that the penalty counts.
    """
    weighted = (x * known.float().mean(dim=-1, keepdim=True)).transpose(1, 2)
    gram = weighted @ x
    spread = torch.einsum("nij,ji->n", gram, prior) / (copies * x.shape[-1])
    strength = RIDGE * spread + 1e-4
    penalty = torch.linalg.inv(prior)
    answer: Tensor = torch.linalg.solve(gram + strength[:, None, None] * penalty, weighted @ (y * known))
    return answer
