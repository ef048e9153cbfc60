"""What a run did, as frozen values that dump to JSON. Knows nothing but numbers and names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class FillSummary:
    """What a fill did."""

    method: str
    model: str | None
    model_sha256: str | None
    seed: int
    layers: tuple[LayerSummary, ...]
    seconds: float
    cell_steps_per_second: float
    outputs: tuple[str, ...] = ()

    @property
    def gaps_left(self) -> int:
        """Cell-steps that are still gaps inside the domain."""
        return sum(layer.refused for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "gaps_left": self.gaps_left}
