"""Whether a stack is like what a model was trained on: three numbers of the survey against the ranges seen in training.

Knows surveys and what a model's card says; how the ranges came about is told by ``benchmarks/pretrain.py seen``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stimpute.grid import Grid

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from stimpute.variography import VariogramAnalysis

GAPS, RANGE, NOISE = "gap_share", "range_cells", "noise_share"
_WORDS = {
    GAPS: ("share of gaps", "{:.1%}"),
    RANGE: ("spatial range in cells", "{:.3g}"),
    NOISE: ("share of noise in the variance", "{:.0%}"),
}
_TWO_SIDED = (RANGE,)  # fewer gaps and less noise than in training are no reason to doubt


def cell_km(grid: Grid) -> float:
    """Typical distance in km (cells on an index grid) between neighbouring cells; 1 where there is one cell only."""
    spacing = [s for s in grid.spacing_km() if s > 0]
    return math.prod(spacing) ** (1 / len(spacing)) if spacing else 1.0


def traits(
    observed_per_cell: npt.NDArray[np.integer], steps: int, variogram: VariogramAnalysis | None, grid: Grid
) -> dict[str, float]:
    """What a stack is like; what cannot be said of it is left out.

    Parameters
    ----------
    observed_per_cell : (y, x), steps in which a cell was observed.
    variogram : in the units of the grid.

    Returns
    -------
    ``gap_share``: gaps among the cells that were ever observed; ``range_cells``: effective range of the spatial variogram;
    ``noise_share``: its nugget over its sill.
    """
    ever = observed_per_cell > 0
    found = {}
    if ever.any():
        found[GAPS] = 1.0 - float(observed_per_cell[ever].mean()) / steps
    fit = variogram.spatial_fit if variogram is not None else None
    if fit is not None and math.isfinite(fit.effective_range) and fit.sill > 0:
        found[RANGE] = fit.effective_range / cell_km(grid)
        found[NOISE] = fit.nugget / fit.sill
    return found


def unfamiliar(found: Mapping[str, float], seen: Mapping[str, Any]) -> list[str]:
    """What lies outside of the ranges seen in training, in words: name, value, range.

    >>> seen = {"gap_share": [0.05, 0.5, 0.95], "range_cells": [1.5, 8.0, 60.0], "noise_share": [0.0, 0.1, 0.6]}
    >>> unfamiliar({"gap_share": 0.999, "range_cells": 0.5, "noise_share": 0.2}, seen)
    ['share of gaps 99.9%, seen 5.0% to 95.0%', 'spatial range in cells 0.5, seen 1.5 to 60']
    >>> unfamiliar({"gap_share": 0.01, "noise_share": 0.0}, seen)
    []
    """
    told = []
    for name, (words, form) in _WORDS.items():
        limits: Sequence[float] | None = seen.get(name)
        if name not in found or not limits:
            continue
        low, high = float(limits[0]), float(limits[-1])
        if found[name] > high or (name in _TWO_SIDED and found[name] < low):
            value, *ends = (form.format(number) for number in (found[name], low, high))
            told.append(f"{words} {value}, seen {ends[0]} to {ends[1]}")
    return told


def remark(layer: str, found: Mapping[str, float], method: object) -> list[str]:
    """The warning for a method whose card tells what it has seen; none for others, or once it was adapted to the stack."""
    seen = getattr(method, "seen", None)
    if not isinstance(seen, Mapping) or getattr(method, "adaptation", None) is not None:
        return []
    told = unfamiliar(found, seen)
    if not told:
        return []
    model = getattr(method, "model_name", "the model")
    return [
        f"{layer}: unlike what {model} was trained on ({'; '.join(told)}); see how well it does with stimpute evaluate, or let it"
        " learn from this very stack with --adapt"
    ]
