"""White noise that belongs to places: pieces of a stack that overlap share it there, and whoever asks again gets it again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_TOGETHER = 64  # columns drawn at once


@dataclass(frozen=True)
class Noise:
    """Standard normal numbers by seed, number of the field, example, step, row and column.

    Parameters
    ----------
    seed : of all fields, >= 0.
    origin : step, row and column, in its layer, of the first cell of what is asked for.
    columns : of a layer whose last column is the first one's neighbour; ``origin`` may lie before the first one.

    >>> whole = Noise(7).fields([0, 3], (1, 2, 3, 90), 3)
    >>> part = Noise(7, (1, 0, 60)).fields([3], (1, 1, 3, 20), 3)
    >>> bool((whole[1:, :, 1:, :, 60:80] == part).all())
    True
    """

    seed: int
    origin: tuple[int, int, int] = (0, 0, 0)
    columns: int | None = None

    def fields(self, numbers: list[int], shape: tuple[int, int, int, int], channels: int) -> Tensor:
        """The fields of these numbers, (number, B, T, H, W, channels); ``shape`` is (B, T, H, W)."""
        batch, steps, rows, width = shape
        t0, y0, x0 = self.origin
        columns = np.arange(x0, x0 + width)
        if self.columns is not None:
            columns %= self.columns
        out = np.empty((len(numbers), *shape, channels), dtype=np.float32)
        blocks, within = columns // _TOGETHER, columns % _TOGETHER
        for block in np.unique(blocks):
            here = np.flatnonzero(blocks == block)
            for number, b, t, y in np.ndindex(len(numbers), batch, steps, rows):
                place = (
                    int(block) << 40,
                    y0 + y,
                    t0 + t,
                    numbers[number],
                )  # a draw counts up in the first word
                bits = np.random.Philox(key=(b << 64) + self.seed, counter=np.array(place, dtype=np.uint64))
                drawn = np.random.Generator(bits).standard_normal((_TOGETHER, channels), dtype=np.float32)
                out[number, b, t, y, here] = drawn[within[here]]
        return torch.from_numpy(out)
