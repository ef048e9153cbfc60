"""Stacks as tensors: normalised, batched, on a device. Knows nothing about files or networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.stack import BoolArray, Float32Array, Stack


@dataclass(frozen=True, eq=False)
class Batch:
    """Equal-shaped stacks in normalised units.

    Parameters
    ----------
    values : (B, T, H, W) float32; set to 0 in gaps.
    valid : (B, T, H, W) bool.
    times : (B, T) float32 days.
    year_phase, day_phase : (B, T) float32 in [0, 1).
    dynamic, dynamic_valid : (B, C, T, H, W) covariates, 0 where unknown; C may be 0.
    static, static_valid : (B, S, H, W); S may be 0.
    """

    values: Tensor
    valid: Tensor
    times: Tensor
    year_phase: Tensor
    day_phase: Tensor
    dynamic: Tensor
    dynamic_valid: Tensor
    static: Tensor
    static_valid: Tensor

    def __post_init__(self) -> None:
        """Whatever stood in a gap is gone: nothing downstream can read it."""
        object.__setattr__(self, "values", torch.where(self.valid, self.values, self.values.new_zeros(())))

    @classmethod
    def from_stacks(
        cls,
        stacks: Sequence[Stack],
        center: float,
        scale: float,
        covariates: Mapping[str, tuple[float, float]] | None = None,
    ) -> Batch:
        """Stack equal shapes; values become ``(value - center) / scale``, covariates likewise.

        ``covariates`` holds (center, scale) by name, of the whole stack, and gives their order; by default
        :func:`covariate_moments` of the first stack.
        """
        moments = covariate_moments(stacks[0]) if covariates is None else covariates
        dynamic = [_standardised(s.dynamic, moments, s.shape) for s in stacks]
        static = [_standardised(s.static, moments, s.shape[1:]) for s in stacks]
        values = [
            np.where(s.valid, (s.values - np.float32(center)) / np.float32(scale), np.float32(0))
            for s in stacks
        ]
        return cls(
            values=_tensor(values),
            valid=torch.from_numpy(np.stack([s.valid for s in stacks])),
            times=_tensor([s.times - s.times[0] for s in stacks]),
            year_phase=_tensor([s.year_phase for s in stacks]),
            day_phase=_tensor([s.day_phase for s in stacks]),
            dynamic=_tensor([d[0] for d in dynamic]),
            dynamic_valid=torch.from_numpy(np.stack([d[1] for d in dynamic])),
            static=_tensor([d[0] for d in static]),
            static_valid=torch.from_numpy(np.stack([d[1] for d in static])),
        )

    @classmethod
    def plain(cls, values: Tensor, valid: Tensor, times: Tensor | None = None) -> Batch:
        """A batch without covariates; daily steps from 1 January unless ``times`` (B, T) says otherwise."""
        b, t, h, w = values.shape
        days = (
            torch.arange(t, device=values.device, dtype=torch.float32).expand(b, t)
            if times is None
            else times
        )
        none = values.new_zeros(b, 0, t, h, w)
        return cls(
            values=values,
            valid=valid,
            times=days,
            year_phase=days / 365.2425 % 1,
            day_phase=days % 1,
            dynamic=none,
            dynamic_valid=none.bool(),
            static=none[:, :, 0],
            static_valid=none[:, :, 0].bool(),
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, T, H, W)."""
        b, t, h, w = self.values.shape
        return b, t, h, w

    def sample(self, number: int) -> Batch:
        """One sample alone, as a batch of one."""
        return Batch(**{f.name: getattr(self, f.name)[number : number + 1] for f in fields(self)})

    def hide(self, held_out: Tensor) -> Batch:
        """The same batch with the observed cells of ``held_out`` (B, T, H, W) turned into gaps."""
        return replace(self, valid=self.valid & ~held_out)

    def renormalised(self) -> tuple[Batch, Tensor, Tensor]:
        """Each sample to zero mean and unit variance over its observed cells; returns the batch, centers and scales (B,)."""
        center, scale = observed_moments(self.values, self.valid)
        values = (self.values - center.view(-1, 1, 1, 1)) / scale.view(-1, 1, 1, 1)
        return replace(self, values=values), center, scale

    def to(self, device: torch.device | str) -> Batch:
        """All tensors on ``device``."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def observed_moments(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B,) of the observed cells of each sample; 0 and 1 where there are none or no variance."""
    weight = valid.flatten(1).double()
    flat = values.flatten(1).double()
    count = weight.sum(dim=1).clamp_min(1)
    center = (flat * weight).sum(dim=1) / count
    variance = ((flat - center[:, None]) ** 2 * weight).sum(dim=1) / count
    scale = variance.sqrt()
    scale = torch.where(scale > 1e-12 * (1 + center.abs()), scale, torch.ones_like(scale))
    return center.float(), scale.float()


def _tensor(arrays: Sequence[npt.NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays).astype(np.float32))


def covariate_moments(stack: Stack) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every covariate, sorted by name; (0, 1) where nothing is known."""
    moments = {}
    for name, array in sorted({**stack.dynamic, **stack.static}.items()):
        seen = array[np.isfinite(array)].astype(np.float64)
        moments[name] = (float(seen.mean()), float(seen.std()) or 1.0) if seen.size else (0.0, 1.0)
    return moments


def _standardised(
    arrays: Mapping[str, Float32Array], moments: Mapping[str, tuple[float, float]], shape: tuple[int, ...]
) -> tuple[Float32Array, BoolArray]:
    chosen = [name for name in moments if name in arrays]
    values = np.zeros((len(chosen), *shape), dtype=np.float32)
    known = np.zeros(values.shape, dtype=bool)
    for i, name in enumerate(chosen):
        center, scale = moments[name]
        known[i] = np.isfinite(arrays[name])
        values[i][known[i]] = (arrays[name][known[i]] - np.float32(center)) / np.float32(scale)
    return values, known
