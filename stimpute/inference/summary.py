"""What a run did, as frozen values that dump to JSON. Knows nothing but numbers and names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerSummary:
    """What happened to one layer: counts are cell-steps, errors are in the variable's units."""

    name: str
    units: str
    observed: int
    filled: int
    refused: int
    outside_domain: int
    clipped: int
    expected_error: (
        float | None
    )  # mean absolute error over the filled cells, from those hidden for calibration
    coverage: (
        float | None
    )  # share of those inside the calibrated 90 % interval, scored on cells not fitted on
    whole: bool  # one tile: the method saw the whole stack
    tiles: int
    tile: dict[str, Any]
    range_km: float | None
    range_days: float | None
    notes: tuple[str, ...] = ()
    refusals: dict[str, int] = field(
        default_factory=dict
    )  # why, and how many cell-steps; their sum is ``refused``
    covariates_helped: float | None = (
        None  # share of the tiles asked; None without covariates, or on a cluster
    )


@dataclass(frozen=True)
class Adaptation:
    """How a model was specialised to the stack before it filled it.

    Parameters
    ----------
    start, start_sha256 : the model it started from.
    kept : False: the adapted weights were not better on the cells set aside, and the start filled.
    minutes, steps : of training; 0 where too few cells were observed to set some aside.
    best_step : the step whose weights filled; 0 is the start.
    stopped_early : it stopped getting better before the budget was used.
    error_before, error_after : mean absolute error on the cells set aside, of the start and of the weights that filled, in
        standard deviations of what is observed around them. None: too few cells.
    optimism : how many times larger the errors of the adapted weights are, compared with those of the start, on the cells set
        aside than on cells trained on; standard errors are widened by it.
    windows, cells : what was learnt from: windows of the stack, cell-steps in them.
    diverged : the training ran away; the start filled.
    """

    start: str
    start_sha256: str
    kept: bool
    minutes: float
    steps: int
    best_step: int
    stopped_early: bool
    error_before: float | None
    error_after: float | None
    optimism: float
    windows: int
    cells: int
    diverged: bool = False

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        if self.diverged:
            return f"{self.start} not adapted: the training diverged"
        if self.error_before is None or self.error_after is None:
            return f"{self.start} not adapted: too few observed cells to set some aside"
        spent = (
            f"{self.steps} steps in {self.minutes:.3g} min{', stopped early' if self.stopped_early else ''}"
        )
        if not self.kept:
            return f"{self.start} not adapted: {spent} brought nothing on the cells set aside (error {self.error_before:.4f} sd)"
        wider = f"; standard errors widened by {self.optimism - 1:.1%}" if self.optimism > 1 else ""
        return (
            f"{self.start} adapted, {spent}: error on the cells set aside"
            f" {self.error_before:.4f} -> {self.error_after:.4f} sd{wider}"
        )


@dataclass(frozen=True)
class FillSummary:
    """What a fill did.

    ``method_seconds`` were spent in the method, calibration included, the others on reading, surveying, blending and writing; None where
    other processes computed.
    """

    method: str
    model: str | None
    model_sha256: str | None
    seed: int
    layers: tuple[LayerSummary, ...]
    seconds: float
    cell_steps_per_second: float
    outputs: tuple[str, ...] = ()
    adaptation: Adaptation | None = None
    method_seconds: float | None = None

    @property
    def gaps_left(self) -> int:
        """Cell-steps that are still gaps inside the domain."""
        return sum(layer.refused for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "gaps_left": self.gaps_left}
