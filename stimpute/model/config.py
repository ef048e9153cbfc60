"""What a network is made of. Stored with the weights; device, precision and batch size are the run's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from stimpute.errors import ModelError
from stimpute.layers.attention import AttentionKind
from stimpute.model.candidates import CANDIDATES

Head = Literal["blend", "direct"]
FIRST_CANDIDATES = CANDIDATES[:11]  # of models whose configuration does not name theirs


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of an ST-Transformer (arXiv 2312.00963 and what goes beyond it).

    Parameters
    ----------
    embed_dim, depth, num_heads, mlp_ratio : width of a token, layers, heads, widening of the MLP.
    attention : spatial attention: ``msa`` over the whole frame, ``swmsa`` two shifted windows per layer, ``sba`` a window and
        pooled windows that see across space and time (shifted in every second layer).
    window_size, shift_size : in tokens.
    patch_size : cells per token and axis.
    cell_dim : width of the embedding of one cell, before patches are joined.
    use_time, use_space : switch temporal or spatial attention off (the paper's ablations).
    join_layers : the head sees the outputs of all layers, not of the last one only.
    rotary_time : turn queries and keys of temporal attention by the real time.
    head : ``blend`` weighs classical candidates and corrects the blend; ``direct`` predicts the value itself (the paper).
    candidates : names of the estimates that a blending head weighs, of :data:`~stimpute.model.candidates.CANDIDATES`.
    covariates : names of a fixed list, all required (the paper); empty: any number, whatever they are.
    spatial_embedding : (ny, nx) of a learned embedding per cell, for a fixed grid only.

    Raises
    ------
    ModelError : values that contradict each other.
    """

    embed_dim: int = 64
    depth: int = 4
    num_heads: int = 4
    mlp_ratio: float = 2.0
    attention: AttentionKind = "sba"
    window_size: int = 4
    shift_size: int = 2
    patch_size: int = 2
    cell_dim: int = 32
    use_time: bool = True
    use_space: bool = True
    join_layers: bool = True
    rotary_time: bool = True
    head: Head = "blend"
    candidates: tuple[str, ...] = CANDIDATES
    covariates: tuple[str, ...] = ()
    spatial_embedding: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.attention not in get_args(AttentionKind) or self.head not in get_args(Head):
            raise ModelError(f"unknown attention {self.attention!r} or head {self.head!r}")
        if self.embed_dim % (2 * self.num_heads) or self.embed_dim < 16:
            raise ModelError(
                f"width {self.embed_dim} does not split into {self.num_heads} heads of even width"
            )
        if self.head == "blend" and (not self.candidates or not set(self.candidates) <= set(CANDIDATES)):
            unknown = ", ".join(sorted(set(self.candidates) - set(CANDIDATES))) or "none at all"
            raise ModelError(
                f"the model blends candidates that this version does not have ({unknown}); use the version that trained it, or train it again"
            )
        if not 0 <= self.shift_size < self.window_size:
            raise ModelError(f"shift {self.shift_size} must be smaller than the window {self.window_size}")
        if min(self.depth, self.patch_size, self.cell_dim) < 1:
            raise ModelError("depth, patch_size and cell_dim must be at least 1")

    @classmethod
    def small(cls, **changes: Any) -> ModelConfig:
        """The default: runs on a laptop's CPU."""
        return cls(**changes)

    @classmethod
    def base(cls, **changes: Any) -> ModelConfig:
        """Wider and deeper, for a GPU."""
        return cls(**{"embed_dim": 128, "depth": 6, "num_heads": 8, "cell_dim": 48, **changes})

    @classmethod
    def paper(cls, **changes: Any) -> ModelConfig:
        """The configuration of arXiv 2312.00963: width 64, 4 layers, window 4, shift 2, all layers' outputs joined."""
        return cls(
            **{
                "attention": "swmsa",
                "patch_size": 1,
                "cell_dim": 64,
                "rotary_time": False,
                "head": "direct",
                **changes,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ModelConfig:
        """The inverse of :meth:`to_dict`; an unknown field is refused, since it means another version's model."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(stored) - known)
        if unknown:
            raise ModelError(f"the model's configuration has unknown fields: {', '.join(unknown)}")
        values = {"candidates": FIRST_CANDIDATES, **stored}
        if values.get("covariates") is not None:
            values["covariates"] = tuple(values.get("covariates", ()))
        if values.get("spatial_embedding") is not None:
            ny, nx = values["spatial_embedding"]
            values["spatial_embedding"] = (int(ny), int(nx))
        try:
            values["candidates"] = tuple(values["candidates"])
            return cls(**values)
        except TypeError as error:
            raise ModelError(f"the model's configuration cannot be read: {error}") from error
