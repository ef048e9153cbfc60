"""The usual way to a finer grid: fill with any method, then interpolate. What refiners are compared with."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch

from stimpute.classical.convolution import normalized
from stimpute.classical.refinement import interpolated
from stimpute.errors import StimputeWarning
from stimpute.estimate import Estimate
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.options import FillOptions
from stimpute.protocols import Method, Refining
from stimpute.stack import Stack


class FillThenInterpolate:
    """Any filling method on the coarse stack, then interpolation between the centres of the blocks: the usual way.

    Where the method leaves gaps (it knows no neighbours), a wide normalised convolution fills them.
    """

    def __init__(self, name: str, method: Method, mode: Literal["bilinear", "bicubic"]) -> None:
        self.name, self.method, self.mode = name, method, mode

    def bytes_per_cell(self, wanted: Refining, steps: int) -> int:
        """At the peak, per coarse cell-step."""
        return 300 + 16 * wanted.factor**2

    def refine(self, coarse: Stack, fine: Stack, wanted: Refining) -> Estimate:
        """The mean alone; ``wanted.conserve`` plays no part."""
        sink = ArraySink(coarse.shape)
        options = FillOptions(uncertainty=False, fill_never_observed=True, bounds=None, seed=wanted.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StimputeWarning)
            fill_source(StackSource(coarse), sink, self.method, options)
        filled = np.where(coarse.valid, coarse.values, sink.values)
        gap = ~np.isfinite(filled)
        if gap.any():
            far, _ = normalized(
                torch.from_numpy(coarse.values)[None], torch.from_numpy(coarse.valid)[None], 4.0, 2.0
            )
            filled = np.where(gap, far[0].numpy(), filled)
        field = interpolated(torch.from_numpy(filled.astype(np.float32)), wanted.factor, self.mode)
        return Estimate(field.numpy())
