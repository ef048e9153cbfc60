"""From a stack to tensors in normalised units and back, with statistics frozen on the overview. Knows no method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.stack import Stack


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the observed cells of a stack, in its units; 0 and 1 where it has none."""

    mean: float
    scale: float

    @classmethod
    def of(cls, stack: Stack) -> Normalisation:
        """The statistics of a stack (scale 1 where it is constant).

        >>> Normalisation.of(Stack.from_array([[[1.0, 3.0, float("nan")]]]))
        Normalisation(mean=2.0, scale=1.0)
        """
        seen = stack.values[stack.valid].astype(np.float64)
        if not seen.size:
            return cls(0.0, 1.0)
        mean, scale = float(seen.mean()), float(seen.std())
        return cls(mean, scale if scale > 1e-7 * abs(mean) else 1.0)

    def tensors(self, stack: Stack) -> tuple[Tensor, Tensor, Tensor]:
        """Values (1, T, H, W), 0 in the gaps, valid, and times (1, T)."""
        normal = (stack.values.astype(np.float64) - self.mean) / self.scale
        values = np.where(stack.valid, normal, 0.0).astype(np.float32)
        times = torch.from_numpy(stack.times.astype(np.float32))
        return torch.from_numpy(values)[None], torch.from_numpy(stack.valid)[None], times[None]

    def to_units(self, normal: Tensor) -> npt.NDArray[np.float32]:
        """A normalised (1, T, H, W) estimate as a (T, H, W) array in the stack's units."""
        return (normal[0].double().numpy() * self.scale + self.mean).astype(np.float32)
