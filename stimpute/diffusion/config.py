"""What a DiffRecon network is made of. Stored with the weights; samples, device and seed are the run's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from stimpute.errors import ModelError

TASK = "reconstruct"
CoarseStart = Literal["filled", "mean"]


@dataclass(frozen=True)
class DiffReconConfig:
    """The architecture (arXiv 2410.05323, with the sizes that it leaves open).

    Parameters
    ----------
    factor : fine cells per coarse cell and axis.
    width : channels of the U-Nets at full (coarse) resolution; twice as many at the bottleneck.
    token_dim, num_heads, point_depth : of ST-PointFormer; ``point_depth`` 0 leaves it out (the paper's ablation).
    nearness : its heads prefer what is near, each at its own learned rate in space and in time.
    everywhere : its features join the U-Nets at full resolution too, not at the bottleneck alone.
    block_tokens : tokens that attend to each other at most; more are cut into blocks, shifted in every second layer.
    pattern_dim, periods, kernels : of T-PatternNet: channels, how many periods, sizes of the 2-D kernels.
    steps : of the sampler.
    stages : 2; 1 is a single diffusion straight to the fine field (for comparison).
    start : where Diffusion-C starts from: what the network of `fill` says, or, as in the paper, nothing but the mean of what is
        observed (for comparison).

    Raises
    ------
    ModelError : values that contradict each other.
    """

    factor: int = 4
    width: int = 24
    token_dim: int = 32
    num_heads: int = 4
    point_depth: int = 2
    nearness: bool = True
    everywhere: bool = True
    block_tokens: int = 1024
    pattern_dim: int = 16
    periods: int = 3
    kernels: tuple[int, ...] = (1, 3, 5)
    steps: int = 6
    stages: int = 2
    start: CoarseStart = "filled"

    def __post_init__(self) -> None:
        if self.factor < 2 or self.stages not in (1, 2):
            raise ModelError(f"factor {self.factor}, {self.stages} stages: at least 2, and 1 or 2")
        if self.start not in get_args(CoarseStart):
            raise ModelError(f"start {self.start!r}: one of {', '.join(get_args(CoarseStart))}")
        if self.token_dim % (2 * self.num_heads) or self.token_dim < 16 or self.token_dim % 4:
            raise ModelError(
                f"token_dim {self.token_dim} does not split into {self.num_heads} heads of even width"
            )
        if min(self.width, self.pattern_dim, self.periods, self.steps) < 1 or any(
            k % 2 == 0 for k in self.kernels
        ):
            raise ModelError("width, pattern_dim, periods and steps must be at least 1, kernels odd")

    @property
    def details(self) -> int:
        """Coefficients inside a block: all but its mean."""
        return self.factor**2 - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> DiffReconConfig:
        """The inverse of :meth:`to_dict`; an unknown field is refused, since it means another kind of model."""
        unknown = sorted(set(stored) - {f.name for f in fields(cls)})
        if unknown:
            raise ModelError(f"not a model for reconstruct: unknown fields {', '.join(unknown)}")
        values = {
            "nearness": False,
            "everywhere": False,
            **stored,
        }  # what models had before there was a choice
        if "kernels" in values:
            values["kernels"] = tuple(values["kernels"])
        try:
            return cls(**values)
        except TypeError as error:
            raise ModelError(f"the model's configuration cannot be read: {error}") from error
