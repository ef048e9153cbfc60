"""The domain a file itself states: a static mask of land or sea beside the data, if the data agree with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stimpute.io.cf_source import CFSource
from stimpute.io.raw import RawVariable
from stimpute.protocols import Window

_NAMES = ("mask", "lsm", "land_sea", "landsea", "land_mask", "sea_mask", "domain")
_STANDARD_NAMES = ("land_binary_mask", "sea_binary_mask")
_FRAMES = 8
_STRAY = 0.01  # share of observed cells on the wrong side that a coarse mask may have


def domain_in_file(source: CFSource) -> npt.NDArray[np.bool_] | None:
    """True inside the domain; None where the file has no binary (y, x) mask, or the data lie on both sides of it.

    Which of its two values is the inside is told by the observations: a few steps spread over the stack are read.
    """
    if len(source.files) != 1:
        return None
    for variable in source.files[0].variables.values():
        field = _binary(source, variable)
        if field is not None:
            return _inside(source, field)
    return None


def _binary(source: CFSource, variable: RawVariable) -> npt.NDArray[np.bool_] | None:
    axes = source.axes[0][source.variables[0]]
    named = variable.short.lower().startswith(_NAMES) or variable.text("standard_name") in _STANDARD_NAMES
    if not named or set(variable.dims) != {axes.y, axes.x} or variable.dtype.kind not in "iufb":
        return None
    stored = variable.read_at({axes.y: source.selection.rows, axes.x: source.selection.cols})
    values = np.unique(stored)
    if len(values) != 2 or not set(values.tolist()) <= {0, 1}:
        return None
    field: npt.NDArray[np.bool_] = np.asarray(stored != 0)
    return field if variable.dims == (axes.y, axes.x) else field.T


def _inside(source: CFSource, field: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
    steps, ny, nx = source.layers[0].shape
    seen = np.zeros((ny, nx), dtype=bool)
    for step in np.unique(np.linspace(0, steps - 1, min(steps, _FRAMES)).astype(int)):
        seen |= source.read(Window((int(step), int(step) + 1), (0, ny), (0, nx))).valid[0]
    on, off = int((seen & field).sum()), int((seen & ~field).sum())
    if off < _STRAY * on:
        return field | seen
    if on < _STRAY * off:
        return ~field | seen
    return None
