"""What a forecasting network is made of. Stored with the weights; the horizon, device and batch are the run's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from stimpute.errors import ModelError
from stimpute.forecasting.names import GUESSES

TASK = "forecast"
FIRST_GUESSES = 12  # that models know whose file does not say how many


@dataclass(frozen=True)
class ForecastConfig:
    """The architecture of an SBATransformer.

    Parameters
    ----------
    embed_dim, num_heads, mlp_ratio : width of a token (one per node), heads, widening of the MLP.
    history : steps before the origin that a token sees as they are; what is older comes in through the guesses.
    sides : one block each: parts of about ``side ** 2`` nodes, windows of that side where the grid is full.
    positions : Laplacian eigenvectors that say where a node is.
    guesses : how many of the guesses, the first ones, the network knows; it leaves the weights of later ones as they are.
    task : tells the weights from those of other tasks.

    Raises
    ------
    ModelError : values that contradict each other, or another task.
    """

    embed_dim: int = 64
    num_heads: int = 4
    mlp_ratio: float = 2.0
    history: int = 48
    sides: tuple[int, ...] = (4, 8, 16)
    positions: int = 8
    guesses: int = len(GUESSES)
    task: str = TASK

    def __post_init__(self) -> None:
        if self.task != TASK:
            raise ModelError(f"a model of task {self.task!r} cannot forecast")
        if self.embed_dim % (2 * self.num_heads) or self.embed_dim < 16:
            raise ModelError(
                f"width {self.embed_dim} does not split into {self.num_heads} heads of even width"
            )
        if self.history < 1 or not self.sides or min(self.sides) < 2 or self.positions < 1:
            raise ModelError("history and positions must be at least 1, sides at least 2")
        if not 1 <= self.guesses <= len(GUESSES):
            raise ModelError(f"the model knows {self.guesses} guesses, this version makes {len(GUESSES)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ForecastConfig:
        """The inverse of :meth:`to_dict`; an unknown field is refused, since it means another version's model."""
        if stored.get("task") != TASK:
            raise ModelError(
                "the model was made to fill gaps, not to forecast; leave --model out, or train one with --task forecast"
            )
        unknown = sorted(set(stored) - {f.name for f in fields(cls)})
        if unknown:
            raise ModelError(f"the model's configuration has unknown fields: {', '.join(unknown)}")
        try:
            return cls(
                **{"guesses": FIRST_GUESSES, **stored, "sides": tuple(int(s) for s in stored["sides"])}
            )
        except (TypeError, KeyError) as error:
            raise ModelError(f"the model's configuration cannot be read: {error}") from error
