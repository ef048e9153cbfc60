"""A part of a layer that is small enough to evaluate on, always the same one. Knows sources, not methods."""

from __future__ import annotations

import math

from stimpute.evaluation.scoreboard import crop_to
from stimpute.inference.options import FillOptions
from stimpute.inference.scan import inside_domain, scan_layer
from stimpute.inference.survey import memory_budget
from stimpute.protocols import Source
from stimpute.stack import Stack


def sampled_stack(
    source: Source, index: int, max_cells: int, memory: int | None = None
) -> tuple[Stack, list[str]]:
    """The layer in memory, cropped to about ``max_cells`` cell-steps where most was ever observed; what was done, in words.

    Nothing is observed outside the source's domain.
    """
    layer = source.layers[index]
    budget = memory_budget(FillOptions(memory=memory))
    scan = scan_layer(source, index, budget, read=inside_domain(source, index))
    window = crop_to(scan.per_cell > 0, layer.shape[0], max_cells)
    stack = scan.read(window)
    if math.prod(window.shape) == math.prod(layer.shape):
        return stack, []
    (t0, t1), (y0, y1), (x0, x1) = window.time, window.y, window.x
    note = f"{layer.name}: evaluated on steps {t0}:{t1}, rows {y0}:{y1}, columns {x0}:{x1} of {layer.shape} (the full stack is larger than {max_cells:,} cell-steps)"
    return stack, [note]
