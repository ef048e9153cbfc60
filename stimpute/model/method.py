"""A network as a :class:`~stimpute.protocols.Method`: stacks in, estimates out. Knows nothing about files or checkpoints."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from stimpute.errors import ModelError, StimputeWarning
from stimpute.estimate import Estimate
from stimpute.layers.prediction import Prediction
from stimpute.model.batch import Batch, covariate_moments, observed_moments
from stimpute.model.candidates import compute_candidates
from stimpute.model.st_transformer import STTransformer
from stimpute.stack import Stack

Precision = Literal["fp32", "bf16"]
_SPREAD = math.sqrt(math.pi / 2)  # standard deviation over mean absolute error, of a normal distribution
TILE_SIDES = 96, 512  # cells, of the largest tile: at least, at most
TILE_CELLS = 1_100_000  # cell-steps that it holds in between


class STMethod:
    """The ST-Transformer behind the common interface.

    Parameters
    ----------
    network : with its weights.
    device : where it runs.
    precision : ``bf16`` runs the network (not the candidates) in bfloat16.
    fast : without the network, from fewer candidates (:func:`predict`).
    """

    name = "st"
    sees_whole = False
    min_tile, max_steps = 48, 365  # of a read, halo included
    bytes_per_cell = 1600  # at the peak, candidates included

    def __init__(
        self,
        network: STTransformer,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        fast: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.precision = precision
        self.fast = fast
        self._on_cpu: STTransformer | None = None  # for what does not fit on the device
        self.multiple = network.config.patch_size * network.config.window_size
        self.threadable = self.device.type == "cpu"  # several tiles at once, in threads

    @staticmethod
    def largest_tile(steps: int) -> int:
        """Cells along a side of the largest tile worth its memory.

        The larger a tile, the less is wasted on halos; it takes no longer per cell.

        >>> STMethod.largest_tile(31), STMethod.largest_tile(365)
        (184, 96)
        """
        return max(TILE_SIDES[0], min(TILE_SIDES[1], math.isqrt(TILE_CELLS // steps) // 8 * 8))

    def prepare(self, overview: Stack) -> STImputer:
        """Freeze the stack's normalisation: mean and standard deviation of its observed cells and of its covariates.

        Raises
        ------
        ModelError : the model needs covariates that the stack does not have, or was made for a grid of another size.
        """
        config = self.network.config
        present = {*overview.dynamic, *overview.static}
        missing = [name for name in config.covariates if name not in present]
        if missing:
            raise ModelError(
                f"the model needs the covariates {', '.join(missing)}: give them with --covariate PATH:VAR"
            )
        moments = covariate_moments(overview)
        if config.covariates:
            moments = {name: moments[name] for name in config.covariates}
        values, valid = torch.from_numpy(overview.values)[None], torch.from_numpy(overview.valid)[None]
        center, scale = observed_moments(values, valid)
        return STImputer(self, float(center), float(scale), moments)

    def predict(self, batch: Batch) -> Prediction:
        """The network on a batch; where the accelerator's memory is too small for it, on the CPU, with a warning.

        Raises
        ------
        MemoryError : the memory of the machine itself is too small.
        """
        try:
            return predict(self.network, batch.to(self.device), self.precision, self.fast)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.device.type == "cpu":
                raise MemoryError(str(error).splitlines()[0]) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._on_cpu is None:
            warnings.warn(
                f"{self.device} has too little free memory for a tile; computed on the CPU (a smaller --tile would fit)",
                StimputeWarning,
                stacklevel=2,
            )
            self._on_cpu = copy.deepcopy(self.network).to("cpu").eval()
        return predict(self._on_cpu, batch.to("cpu"), self.precision, self.fast)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: CUDA's and MPS's own errors, or torch's and Python's for the CPU.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not match"))
    (True, False)
    """
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)


@dataclass(frozen=True)
class STImputer:
    """A network with the normalisation of one stack."""

    method: STMethod
    center: float
    scale: float
    covariates: Mapping[str, tuple[float, float]]

    def impute(self, stack: Stack) -> Estimate:
        """Mean and standard error of every cell of a stack, in its units."""
        batch = Batch.from_stacks([stack], self.center, self.scale, self.covariates)
        prediction = self.method.predict(batch)
        mean = prediction.mean[0].double().cpu().numpy() * self.scale + self.center
        scale = prediction.scale[0].double().cpu().numpy() * self.scale
        helped = prediction.covariates_help if self.covariates else None
        told = None if helped is None else bool(helped[0])
        return Estimate(mean.astype(np.float32), scale.astype(np.float32), covariates_help=told)


@torch.no_grad()
def predict(
    network: STTransformer, batch: Batch, precision: Precision = "fp32", fast: bool = False
) -> Prediction:
    """Candidates and network on one batch in normalised units, without gradients.

    ``fast``: fewer candidates, blended by what they miss on the internal hold-out; the network is left out.
    """
    config = network.config
    candidates = compute_candidates(batch, fast, config.candidates) if config.head == "blend" else None
    if fast and candidates is not None:
        return Prediction(candidates.prior, candidates.prior_error * _SPREAD, candidates.covariates_help)
    with torch.autocast(batch.values.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        prediction: Prediction = network(batch, candidates)
    return (
        prediction if candidates is None else replace(prediction, covariates_help=candidates.covariates_help)
    )
