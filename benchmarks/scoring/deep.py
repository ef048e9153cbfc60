"""PyPOTS's imputers behind the package's interface: trained on the stack itself, in tiles of 12 x 12 cells as features.

The only place that knows PyPOTS, which is imported when a network is made. Knows no cases and no scores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.estimate import Estimate
from stimpute.holdout import hold_out
from stimpute.stack import Stack

NAMES = ("saits", "imputeformer", "csdi")
TILE = 12  # cells; 144 features
STEPS = 72  # of a window at most; the next one begins half a window later
VALIDATION_SHARE = 0.1
# Samples of an epoch, with repetition: a stack has few, and CSDI's validation costs fifty times a training step.
EPOCH = 128
PATIENCE = 10  # epochs without a lower validation error
SAMPLES = 20  # draws of CSDI: their median (as in its paper) and spread
Float32Array = npt.NDArray[np.float32]
Corner = tuple[int, int, int]  # first step, row and column of a sample


@dataclass(frozen=True)
class DeepMethod:
    """One of NAMES, trained when prepared: `minutes` on hidden observed cells of the stack, or until they stop improving."""

    name: str
    minutes: float = 30.0
    seed: int = 0
    sees_whole: bool = True
    bytes_per_cell: int = 512

    def prepare(self, overview: Stack) -> DeepImputer:
        """Train on the stack's own observed cells; a tenth of them, hidden the way its gaps hide, says when to stop."""
        from pypots.utils.random import set_random_seed

        set_random_seed(self.seed)
        observed = overview.values[overview.valid].astype(np.float64)
        center, spread = float(observed.mean()), float(observed.std()) or 1.0
        hidden = _validation(overview, self.seed)
        tiles = Tiles.of(overview.shape)
        shown = tiles.cut(_normalised(overview.hide(hidden), center, spread))
        whole = tiles.cut(_normalised(overview, center, spread))
        # PyPOTS scores the cells of X_ori that X lacks; samples without any observation teach nothing
        kept = np.isfinite(shown).any(axis=(1, 2))
        again = max(1, EPOCH // int(kept.sum()))
        train, check = {"X": np.tile(shown[kept], (again, 1, 1))}, {"X": shown[kept], "X_ori": whole[kept]}
        return DeepImputer(_trained(self.name, tiles, train, check, self.minutes), tiles, center, spread)


@dataclass(frozen=True)
class DeepImputer:
    """A trained network with the tiling and the normalisation it was trained in."""

    network: Any
    tiles: Tiles
    center: float
    spread: float

    def impute(self, stack: Stack) -> Estimate:
        """The mean over the tiles a cell lies in; a scale where the network draws samples (CSDI)."""
        cut = self.tiles.cut(_normalised(stack, self.center, self.spread))
        sampling = {"n_sampling_times": SAMPLES} if hasattr(self.network, "n_diffusion_steps") else {}
        said = np.asarray(self.network.impute({"X": cut}, **sampling), dtype=np.float32)
        if said.ndim == 3:
            return Estimate(self.tiles.join(said) * self.spread + self.center)
        mean, scale = self.tiles.join(np.median(said, axis=1)), self.tiles.join(said.std(axis=1))
        return Estimate(mean * self.spread + self.center, np.maximum(scale, 1e-3) * self.spread)


@dataclass(frozen=True)
class Tiles:
    """Where the samples lie in a stack: the last ones of each axis end at its edge, so that all are full."""

    shape: tuple[int, int, int]
    size: tuple[int, int, int]
    corners: tuple[Corner, ...]

    @classmethod
    def of(cls, shape: tuple[int, int, int]) -> Tiles:
        """Tiles of 12 x 12 cells and windows of 72 steps, or of what there is.

        >>> len(Tiles.of((72, 32, 32)).corners), Tiles.of((10, 32, 8)).size
        (9, (10, 12, 8))
        """
        size = (min(STEPS, shape[0]), min(TILE, shape[1]), min(TILE, shape[2]))
        strides = (max(size[0] // 2, 1), size[1], size[2])
        axes = [list(_starts(*three)) for three in zip(shape, size, strides, strict=True)]
        return cls(shape, size, tuple((t, y, x) for t in axes[0] for y in axes[1] for x in axes[2]))

    @property
    def features(self) -> int:
        """Cells of a tile."""
        return self.size[1] * self.size[2]

    def cut(self, values: Float32Array) -> Float32Array:
        """(time, y, x) -> (samples, steps, features)."""
        return np.stack([values[self._slices(c)].reshape(self.size[0], -1) for c in self.corners])

    def join(self, samples: Float32Array) -> Float32Array:
        """(samples, steps, features) -> (time, y, x); the mean where samples overlap. The inverse of `cut`."""
        total, count = np.zeros(self.shape, dtype=np.float64), np.zeros(self.shape)
        for corner, sample in zip(self.corners, samples, strict=True):
            total[self._slices(corner)] += sample.reshape(self.size)
            count[self._slices(corner)] += 1
        return (total / count).astype(np.float32)

    def _slices(self, corner: Corner) -> tuple[slice, slice, slice]:
        t, y, x = (slice(start, start + length) for start, length in zip(corner, self.size, strict=True))
        return t, y, x


def _starts(length: int, size: int, stride: int) -> Iterator[int]:
    """First indices of windows that cover an axis.

    >>> list(_starts(32, 12, 12)), list(_starts(12, 12, 12))
    ([0, 12, 20], [0])
    """
    yield from range(0, length - size, stride)
    yield length - size


def _normalised(stack: Stack, center: float, spread: float) -> Float32Array:
    return np.asarray((stack.with_nan() - center) / spread, dtype=np.float32)


def _validation(stack: Stack, seed: int) -> npt.NDArray[np.bool_]:
    try:
        return hold_out(stack, "gap", VALIDATION_SHARE, seed + 1000)
    except InputError:
        return hold_out(stack, "pixel", VALIDATION_SHARE, seed + 1000)


def _trained(name: str, tiles: Tiles, train: dict[str, Any], check: dict[str, Any], minutes: float) -> Any:
    """A network after as many epochs as fit into ``minutes``, by the time of a first one; PyPOTS has no clock."""
    started = time.perf_counter()
    make_network(name, tiles, epochs=1).fit(train, check)
    each = time.perf_counter() - started
    epochs = max(1, math.floor(60 * minutes / each) - 1)
    network = make_network(name, tiles, epochs=epochs)
    network.fit(train, check)
    return network


def make_network(name: str, tiles: Tiles, epochs: int) -> Any:
    """A network of the size its paper (SAITS, ImputeFormer, CSDI) gives for data of this many features."""
    from pypots import imputation

    common: dict[str, Any] = {
        "n_steps": tiles.size[0], "n_features": tiles.features, "batch_size": 8, "epochs": epochs,
        "patience": min(PATIENCE, epochs), "saving_path": None, "verbose": False,
    }  # fmt: skip
    if name == "saits":
        return imputation.SAITS(
            n_layers=2, d_model=256, n_heads=4, d_k=64, d_v=64, d_ffn=128, dropout=0.1, **common
        )
    if name == "imputeformer":
        return imputation.ImputeFormer(
            n_layers=3, d_input_embed=32, d_learnable_embed=96, d_proj=8, d_ffn=256, n_temporal_heads=4, dropout=0.1, **common
        )  # fmt: skip
    if name == "csdi":
        return imputation.CSDI(
            n_layers=4, n_heads=8, n_channels=64, d_time_embedding=128, d_feature_embedding=16, d_diffusion_embedding=128,
            n_diffusion_steps=50, **common,
        )  # fmt: skip
    raise ValueError(f"{name}: one of {', '.join(NAMES)}")
