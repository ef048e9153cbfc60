"""Noise schedule and sampler of a diffusion on unit-variance data. Knows nothing about what is diffused.

Variance-preserving with the cosine schedule (Nichol and Dhariwal 2021): at time t in [0, 1] the data x0 are seen as
``cos(pi t / 2) x0 + sin(pi t / 2) noise``. The network predicts the velocity ``alpha noise - sigma x0`` (Salimans and Ho
2022), from which noise and data both follow at every t; zero is the right answer for data that are nothing but unit noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

LATEST, EARLIEST = 0.999, 0.01  # times between which the solver goes; the last step ends at the data
Predict = Callable[[Tensor, float], Tensor]


def alpha_sigma(time: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of data and noise; their squares sum to 1.

    >>> [round(float(x), 3) for x in alpha_sigma(torch.tensor(0.5))]
    [0.707, 0.707]
    """
    return torch.cos(time * (math.pi / 2)), torch.sin(time * (math.pi / 2))


def noised(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """What the network sees at ``time`` (B,), and the velocity that it should say."""
    alpha, sigma = (w.view(-1, *([1] * (data.ndim - 1))) for w in alpha_sigma(time))
    return alpha * data + sigma * noise, alpha * noise - sigma * data


def data_of(seen: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """The data (B, ...) that a velocity stands for at ``time`` (B,)."""
    alpha, sigma = (w.view(-1, *([1] * (seen.ndim - 1))) for w in alpha_sigma(time))
    return alpha * seen - sigma * velocity


def solver_times(steps: int) -> list[float]:
    """Times from noise to data, ``steps + 1`` of them, even in the angle; the last is 0.

    >>> [round(t, 2) for t in solver_times(2)]
    [1.0, 0.5, 0.0]
    """
    return [LATEST + (EARLIEST - LATEST) * i / steps for i in range(steps)] + [0.0]


def sample_dpm(predict_data: Predict, noise: Tensor, steps: int) -> Tensor:
    """DPM-Solver++ (2M), second order at one prediction a step (Lu et al. 2022, algorithm 2). The same noise gives the same sample.

    Parameters
    ----------
    predict_data : (what is seen, time) -> the data expected.
    noise : standard normal, of the shape of the data.
    """
    times = solver_times(steps)
    seen, before, h_before = noise, None, 0.0
    for i, (now, then) in enumerate(pairwise(times)):
        (a, s), (a1, s1) = _weights(now), _weights(then)
        data = predict_data(seen, now)
        if then == 0.0:
            return data
        h = math.log(a1 / s1) - math.log(a / s)
        direction = data
        if before is not None and i > 0:
            ratio = h_before / h
            direction = (1 + 1 / (2 * ratio)) * data - 1 / (2 * ratio) * before
        seen = s1 / s * seen - a1 * math.expm1(-h) * direction
        before, h_before = data, h
    return seen


def _weights(time: float) -> tuple[float, float]:
    return math.cos(time * math.pi / 2), math.sin(time * math.pi / 2)
