"""Integers that look like "no data" though nothing declares them. Looks at numbers only; asks rather than guesses."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.io.packing import type_limits
from stimpute.protocols import Window

_USUAL = frozenset(
    (-32768, -32767, -28672, -9999, -3000, -999, -99, 32767, 65535, 65534, 255, 254, 253, 252, 251, 250, 249)
)
_SHARE = 0.005
_FRAMES, _SIDE = 8, 512


def suspicious_number(numbers: npt.NDArray[Any]) -> int | None:
    """A lowest or highest number that stands apart from the others and comes often: probably a fill. None: nothing odd.

    >>> suspicious_number(np.array([-9999] * 5 + list(range(100, 900)), dtype="i2"))
    -9999
    >>> suspicious_number(np.arange(1000) % 200) is None
    True
    """
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) < 3:
        return None
    wide = values.astype(np.float64)
    for end, neighbour, rest in ((0, 1, wide[1:]), (-1, -2, wide[:-1])):
        often = counts[end] >= max(3, _SHARE * numbers.size)
        apart = abs(wide[end] - wide[neighbour])
        span = rest[-1] - rest[0]
        usual = int(values[end]) in _USUAL or int(values[end]) in type_limits(numbers.dtype)
        if often and (apart > 0.5 * span + 1 or (usual and apart > 0.02 * span + 1)):
            return int(values[end])
    return None


def refuse_undeclared_nodata(source: Any) -> None:
    """Sample integer layers that declare no nodata at all.

    Raises
    ------
    InputError : a number looks like a fill; asks for ``--nodata``.
    """
    asked: set[str] = set()
    for number, layer in enumerate(source.layers):
        packing = source.packing(number)
        declared = (
            packing.nodata or packing.stored_limits != (None, None) or packing.value_limits != (None, None)
        )
        if packing.dtype.kind not in "iu" or declared or source.options.nodata or layer.variable in asked:
            continue
        asked.add(layer.variable)
        sample = _sample(source, number)
        odd = suspicious_number(sample) if sample.size else None
        if odd is not None:
            share = float((sample == odd).mean())
            raise InputError(
                f"{source.paths[0]}: {layer.variable} declares no nodata, but {share:.1%} of its cells are {odd}, far from "
                f"all others; if they are gaps say --nodata {odd}, if not --nodata nan"
            )


def _sample(source: Any, number: int) -> npt.NDArray[Any]:
    """The observations of a few frames spread over the stack, each a block of bounded size that moves over the grid."""
    steps, ny, nx = source.layers[number].shape
    height, width = min(ny, _SIDE), min(nx, _SIDE)
    chosen = np.unique(np.linspace(0, steps - 1, min(steps, _FRAMES)).astype(int))
    blocks = []
    for i, step in enumerate(chosen):
        share = i / max(len(chosen) - 1, 1)
        top, left = int(share * (ny - height)), int(share * (nx - width))
        window = Window((int(step), int(step) + 1), (top, top + height), (left, left + width))
        blocks.append(source.observed_numbers(window, number))
    return np.concatenate(blocks)
