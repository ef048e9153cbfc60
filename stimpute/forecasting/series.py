"""The past as a regular series that ends at the origin: one slot per step, gaps where nothing was stored. Knows no files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

DAY, YEAR = 1.0, 365.2425
CYCLES = 6  # of the longest cycle that are looked back on
NOTHING_OBSERVED = "nothing observed in the steps before the forecast; there is nothing to go on from"
LEAST, MOST = 800, 2400  # slots looked back on, whatever the cycle
HOLE = 72  # slots that a hole in the series is shortened to, by whole cycles


@dataclass(frozen=True, eq=False)
class History:
    """Regular pasts of B samples over N nodes; the last slot is the origin.

    Parameters
    ----------
    values : float32 (B, C, N), 0 where not ``valid``.
    valid : bool (B, C, N).
    period : slots of the cycle, one for each sample; 0 where there is none.
    phases : float32 (B, 2), position of the origin in the year and in the day, in [0, 1).
    step : float32 (B,), days between slots.
    """

    values: Tensor
    valid: Tensor
    period: tuple[int, ...]
    phases: Tensor
    step: Tensor

    def __post_init__(self) -> None:
        b = self.values.shape[0]
        if self.valid.shape != self.values.shape or len(self.period) != b or self.phases.shape != (b, 2):
            raise ValueError(
                f"values {tuple(self.values.shape)}, valid {tuple(self.valid.shape)}, {len(self.period)} periods"
            )

    def to(self, device: torch.device | str) -> History:
        """All tensors on ``device``."""
        return History(
            self.values.to(device),
            self.valid.to(device),
            self.period,
            self.phases.to(device),
            self.step.to(device),
        )

    def earlier(self, steps: int) -> History:
        """The same past, ``steps`` slots ago."""
        back = torch.stack((self.step * steps / YEAR, self.step * steps / DAY), dim=1)
        return replace(
            self,
            values=self.values[:, :-steps],
            valid=self.valid[:, :-steps],
            phases=(self.phases - back) % 1,
        )

    def normalised(self) -> tuple[History, Tensor, Tensor]:
        """Every node around its own mean, in units of the spread within nodes; the means (B, N) and the unit (B,).

        Nodes never observed have the mean of all.
        """
        count = self.valid.sum(dim=1)
        total = self.values.double().sum(dim=1)
        overall = total.sum(dim=1) / count.sum(dim=1).clamp_min(1)
        center = torch.where(count > 0, total / count.clamp_min(1), overall[:, None])
        apart = torch.where(self.valid, self.values - center[:, None], 0.0)
        scale = (apart.square().sum(dim=(1, 2)) / count.sum(dim=1).clamp_min(1)).sqrt()
        level = center.abs().amax(dim=1)
        scale = torch.where(scale > 1e-6 * level.clamp_min(1e-30), scale, torch.ones_like(scale))
        values = (apart / scale[:, None, None]).float()
        return replace(self, values=values), center, scale


def cycle(step: float, slots: int) -> int:
    """Slots of the cycle that a series of ``slots`` steps ``step`` days apart shows: a day or a year; 0 for none.

    >>> cycle(1 / 24, 240), cycle(30.44, 120), cycle(1.0, 200), cycle(1 / 24, 30), cycle(365.0, 100)
    (24, 12, 0, 0, 0)
    """
    for length in (DAY, YEAR):
        period = round(length / step)
        if period >= 3 and slots >= 1.5 * period and abs(period * step / length - 1) < 0.1:
            return period
    return 0


def slots_back(step: float, span: int) -> int:
    """Slots worth looking back on, of ``span`` that there are.

    >>> slots_back(1 / 24, 744), slots_back(1 / 288, 2016), slots_back(1.0, 100)
    (744, 1728, 100)
    """
    period = cycle(step, span)
    return min(span, MOST, max(LEAST, CYCLES * period))


def closed_up(slots: npt.NDArray[np.int64], step: float) -> npt.NDArray[np.int64]:
    """Places of steps with long holes shortened by whole cycles, so that what lies before a hole is still looked back on.

    Parameters
    ----------
    slots : (time,), increasing.
    step : days between slots.

    >>> closed_up(np.array([-1000, -999, -1, 0]), 1 / 24).tolist()
    [-88, -87, -1, 0]
    """
    apart = np.diff(slots)
    period = cycle(step, int(slots[-1] - slots[0]) + 1)
    excess = np.maximum(apart - HOLE, 0)
    shorter = apart - (excess // period * period if period else excess)
    closed: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(shorter)]) - shorter.sum() + slots[-1]
    return closed


def regular(
    values: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    slots: npt.NDArray[np.int64],
    step: float,
    year_phase: float = 0.0,
    day_phase: float = 0.0,
    count: int | None = None,
) -> History:
    """One sample from stored steps.

    Parameters
    ----------
    values, valid : (time, N).
    slots : (time,), place of each step, 0 the origin, negative before; of several in one slot the last observed counts.
    step : days between slots.
    year_phase, day_phase : of the origin.
    count : slots looked back on; None: :func:`slots_back`.
    """
    if count is None:
        count = slots_back(step, int(-slots.min()) + 1)
    kept = np.flatnonzero(slots > -count)
    dense = np.zeros((count, values.shape[1]), dtype=np.float32)
    seen = np.zeros(dense.shape, dtype=bool)
    for i in kept:
        at = int(slots[i]) + count - 1
        dense[at] = np.where(valid[i], values[i], dense[at])
        seen[at] |= valid[i]
    return History(
        torch.from_numpy(dense)[None],
        torch.from_numpy(seen)[None],
        (cycle(step, count),),
        torch.tensor([[year_phase % 1, day_phase % 1]], dtype=torch.float32),
        torch.tensor([step], dtype=torch.float32),
    )


def even_slots(times: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], float]:
    """Places of steps known by their distance only, and the median distance in days.

    >>> even_slots(np.array([0.0, 31.0, 59.0, 120.0]))[0].tolist()
    [-4, -3, -2, 0]
    """
    if len(times) < 2:
        return np.zeros(len(times), dtype=np.int64), 1.0
    apart = np.diff(times)
    step = float(np.median(apart))
    counts = np.maximum(np.rint(apart / step), 1).astype(np.int64)
    return np.concatenate([[0], np.cumsum(counts)]) - counts.sum(), step


def target_phases(history: History, steps: int) -> Tensor:
    """Sines and cosines of year and day at each step to come, (B, steps, 4)."""
    ahead = torch.arange(1, steps + 1, device=history.step.device, dtype=torch.float32)
    moved = history.step[:, None] * ahead
    year = history.phases[:, :1] + moved / YEAR
    day = history.phases[:, 1:] + moved / DAY
    angle = torch.stack((year, day), dim=-1) * (2 * math.pi)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
