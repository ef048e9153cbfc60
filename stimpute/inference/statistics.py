"""Numbers about a layer for people: what is missing and where, its variogram and the tile it implies. Fills nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stimpute.inference.familiarity import cell_km
from stimpute.inference.options import FillOptions
from stimpute.inference.plan import longest_gap
from stimpute.inference.scan import inside_domain, scan_layer
from stimpute.inference.survey import memory_budget
from stimpute.protocols import Source
from stimpute.tiling import TilePlan, plan_tiles
from stimpute.variography import VariogramAnalysis, analyse


@dataclass(frozen=True)
class LayerStatistics:
    """How much of a layer is missing, and what is observed (decoded units)."""

    name: str
    units: str
    shape: tuple[int, int, int]
    observed: int
    missing: float
    never_observed: float  # share of the cells
    missing_where_ever_observed: float
    empty_steps: int
    longest_gap_steps: int  # of the thinned layer where it is large
    least_missing_step: str
    most_missing_step: str
    minimum: float | None
    mean: float | None
    maximum: float | None
    refusals: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def layer_statistics(source: Source, index: int, memory: int | None = None) -> LayerStatistics:
    """Statistics of one layer in one pass; minimum, mean and maximum of the thinned overview where it is large."""
    layer = source.layers[index]
    scan = scan_layer(source, index, memory_budget(FillOptions(memory=memory)))
    t, ny, nx = layer.shape
    stack = scan.whole or scan.overview
    values = stack.values[stack.valid]
    observed, ever = int(scan.per_cell.sum(dtype=np.int64)), int((scan.per_cell > 0).sum())
    return LayerStatistics(
        name=layer.name, units=layer.units, shape=layer.shape, observed=observed, missing=1 - observed / (t * ny * nx),
        never_observed=1 - ever / (ny * nx), missing_where_ever_observed=1 - observed / (t * ever) if ever else 1.0,
        empty_steps=int((scan.per_step == 0).sum()), longest_gap_steps=longest_gap(stack.valid),
        least_missing_step=source.time_labels[int(scan.per_step.argmax())],
        most_missing_step=source.time_labels[int(scan.per_step.argmin())],
        minimum=float(values.min()) if values.size else None,
        mean=float(values.mean(dtype=np.float64)) if values.size else None,
        maximum=float(values.max()) if values.size else None,
        refusals=() if observed else ("nothing was observed: fill would refuse",),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class LayerVariogram:
    """A variogram and the tile it implies."""

    name: str
    units: str
    cell_km: float
    analysis: VariogramAnalysis
    tile: TilePlan

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "name": self.name,
            "units": self.units,
            "cell_km": self.cell_km,
            **self.analysis.to_dict(),
            "tile": self.tile.to_dict(),
        }


def layer_variogram(source: Source, index: int, *, matheron: bool = False, seed: int = 0) -> LayerVariogram:
    """The variogram of one layer (thinned where it is large), by Cressie and Hawkins' estimator unless ``matheron``.

    What was observed outside the source's domain does not count.

    Raises
    ------
    VariogramError : no pairs, or no variance.
    """
    layer = source.layers[index]
    scan = scan_layer(source, index, memory_budget(FillOptions()), read=inside_domain(source, index))
    analysis = analyse(
        scan.whole or scan.overview, estimator="matheron" if matheron else "cressie", seed=seed
    )
    spacing = cell_km(source.grid)
    steps = float(np.median(np.diff(source.times))) if len(source.times) > 1 else 1.0
    spatial, temporal = analysis.spatial_fit, analysis.temporal_fit
    tile = plan_tiles(
        layer.shape,
        range_cells=None if spatial is None else spatial.effective_range / spacing,
        range_steps=None if temporal is None else temporal.effective_range / steps,
    )
    return LayerVariogram(layer.name, layer.units, spacing, analysis, tile)
