"""When the frames of a world were taken: regular, irregular, bursts, years apart. Knows nothing about fields."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stimpute.synthetic.draw import Draw

DAYS_PER_YEAR = 365.2425
_REGULAR_STEPS = (1.0, 8.0, 16.0, 1 / 24, 3 / 24, 30.4369, 2.0, 5.0, 1 / 288, DAYS_PER_YEAR)
_REGULAR_ODDS = (0.3, 0.12, 0.08, 0.16, 0.06, 0.1, 0.05, 0.05, 0.05, 0.03)


@dataclass(frozen=True, eq=False)
class Calendar:
    """Times of n worlds: (n, T) float32 each.

    Parameters
    ----------
    times : days since the first frame, strictly increasing.
    year_phase, day_phase : position in the year and in the day, in [0, 1).
    step : (n,) the usual step in days (the median).
    """

    times: Tensor
    year_phase: Tensor
    day_phase: Tensor
    step: Tensor

    def of(self, who: Tensor) -> Calendar:
        """The calendars of some of the worlds (an index, with repetitions if wanted)."""
        return Calendar(self.times[who], self.year_phase[who], self.day_phase[who], self.step[who])


def sample_calendar(draw: Draw, n: int, steps: int) -> Calendar:
    """Times of n worlds of ``steps`` frames each."""
    usual = torch.tensor(_REGULAR_STEPS, device=draw.device)[draw.choose(_REGULAR_ODDS, n)]
    kind = draw.choose((0.5, 0.2, 0.15, 0.15), n)[:, None]
    ones = torch.ones(n, max(steps - 1, 0), device=draw.device)
    # several regular dates missing between two frames, as when clouded scenes were never delivered
    skipped = 1 + torch.floor(
        -torch.log1p(-draw.uniform(0, 0.999, *ones.shape)) * draw.uniform(0.2, 4.0, n, 1)
    )
    hole = draw.chance(draw.uniform(0.02, 0.25, n, 1), *ones.shape)
    bursts = torch.where(hole, 1 + torch.floor(draw.log_uniform(3.0, 120.0, *ones.shape)), ones)
    gaps = torch.where(kind == 1, skipped, torch.where(kind == 2, bursts, ones)) * usual[:, None]
    seasonal = (kind == 3) & (usual[:, None] >= 1) & (usual[:, None] < 40)
    gaps = torch.where(seasonal, _years_apart(draw, gaps), gaps)
    times = torch.cat([torch.zeros(n, 1, device=draw.device), gaps.cumsum(1)], dim=1)
    start = draw.uniform(0, DAYS_PER_YEAR, n, 1)
    hourly = usual[:, None] < 0.9
    start = torch.where(hourly, start, torch.floor(start) + draw.uniform(0, 1, n, 1))
    year_phase = torch.remainder((start + torch.remainder(times, DAYS_PER_YEAR)) / DAYS_PER_YEAR, 1.0)
    day_phase = torch.remainder(torch.remainder(start, 1.0) + torch.remainder(times, 1.0), 1.0)
    step = gaps.median(dim=1).values if steps > 1 else usual
    return Calendar(times, year_phase.clamp(0, 1 - 1e-6), day_phase.clamp(0, 1 - 1e-6), step)


def _years_apart(draw: Draw, gaps: Tensor) -> Tensor:
    """The same few dates of successive years: every few frames, a step that completes the year."""
    n, count = gaps.shape
    per_year = draw.integers(2, 8, n, 1)
    last = (torch.arange(1, count + 1, device=gaps.device)[None] % per_year) == 0
    span = gaps[:, :1] * (per_year - 1) if count else gaps
    return torch.where(last, (DAYS_PER_YEAR - span).clamp_min(1.0), gaps)
