"""What a run of `fill` may be told, as frozen values. Knows neither files nor methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stimpute.errors import UsageError
from stimpute.inference.refusal import Distance

Bounds = tuple[float | None, float | None]
Progress = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True)
class FillOptions:
    """How a stack is to be filled.

    Parameters
    ----------
    tile, overlap : core and halo of a tile in cells; None: from the variogram's effective range.
    memory : bytes the run may use for arrays; None: a quarter of what is free.
    bounds : filled values are clipped into (low, high), either open. ``"auto"``: the variable's ``valid_range``, else
        what its ``standard_name`` allows (no negative rain, NDVI in -1..1). None: never clipped.
    quantiles : levels in (0, 1) to estimate besides mean and standard error.
    uncertainty : False skips the calibration and the standard error.
    fill_never_observed : fill cells without any observation too; then nothing is too far past an observation either.
    max_gap_days : gaps longer than this, from observation to observation of the cell, are refused.
    max_distance : cells farther than this from every observation of the same step are refused.
    max_extrapolation_days : how far past a cell's first or last observation is filled; None: the temporal range of the
        variogram, at least one step, and farther where an observation of the same step lies within the spatial range.
    min_obs : cells observed in a smaller share of the steps are refused.
    seed : of everything sampled.

    Raises
    ------
    UsageError : a value that no file could make right.
    """

    tile: int | None = None
    overlap: int | None = None
    memory: int | None = None
    bounds: Bounds | Literal["auto"] | None = "auto"
    quantiles: tuple[float, ...] = ()
    uncertainty: bool = True
    fill_never_observed: bool = False
    max_gap_days: float | None = None
    max_distance: Distance | None = None
    max_extrapolation_days: float | None = None
    min_obs: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tile is not None and self.tile < 1:
            raise UsageError(f"--tile {self.tile}: at least 1 cell")
        if self.overlap is not None and self.overlap < 0:
            raise UsageError(f"--overlap {self.overlap}: 0 cells or more")
        if self.memory is not None and self.memory < 10**6:
            raise UsageError(f"--memory {self.memory} bytes: at least 1MB")
        if self.min_obs is not None and not 0 <= self.min_obs <= 1:
            raise UsageError(f"--min-obs {self.min_obs}: a share between 0 and 1")
        if self.max_gap_days is not None and self.max_gap_days <= 0:
            raise UsageError(f"--max-gap {self.max_gap_days:g} d: longer than 0")
        if self.max_extrapolation_days is not None and not self.max_extrapolation_days >= 0:
            raise UsageError(f"--max-extrapolation {self.max_extrapolation_days:g} d: 0 or longer, or none")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: 0 or more")
        if isinstance(self.bounds, tuple):
            low, high = self.bounds
            if low is not None and high is not None and not low < high:
                raise UsageError(f"--bounds {low:g},{high:g}: the first must be smaller")
        for level in self.quantiles:
            if not 0 < level < 1:
                raise UsageError(f"--quantiles {level:g}: levels lie between 0 and 1")
