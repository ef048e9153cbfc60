"""What a method believes about every cell: mean and scale, optional quantiles and members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Estimate:
    """The answer of an imputer for one stack, in the variable's units.

    Parameters
    ----------
    mean : float32 (time, y, x); NaN where the method cannot say anything. Observed cells hold the method's own
        estimate too (useful for diagnosis); the engine never writes it over an observation.
    scale : float32 (time, y, x) or None: one standard error of the mean, > 0, before calibration.
    quantiles : level in (0, 1) -> float32 (time, y, x).
    members : float32 (member, time, y, x) or None.
    covariates_help : whether covariates entered the answer; None where there were none, or nobody looked.

    Raises
    ------
    ValueError : shapes that do not fit.
    """

    mean: Float32Array
    scale: Float32Array | None = None
    quantiles: Mapping[float, Float32Array] = field(default_factory=dict)
    members: Float32Array | None = None
    covariates_help: bool | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 3:
            raise ValueError(f"an estimate is (time, y, x), got shape {self.mean.shape}")
        for label, array in (("scale", self.scale), *self.quantiles.items()):
            if array is not None and array.shape != self.mean.shape:
                raise ValueError(f"{label}: shape {array.shape} for a mean of {self.mean.shape}")
        if self.members is not None and self.members.shape[1:] != self.mean.shape:
            raise ValueError(f"members of shape {self.members.shape} for a mean of {self.mean.shape}")
