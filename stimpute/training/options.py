"""What a training run is asked for, what it reports, and its schedule as pure functions. Knows nothing about networks at work.

The learning rate follows the part of the budget that is used: steps where ``steps`` is given (then a run resumed is the same run,
bit for bit on one machine), elapsed time where only ``minutes`` is (then it depends on the machine's mood).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from stimpute.model.config import ModelConfig
from stimpute.pretrained.checkpoint import Storage
from stimpute.training.feed import FeedOptions
from stimpute.training.loss import LossOptions
from stimpute.training.validation import Validation

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class TrainOptions:
    """A training run.

    Parameters
    ----------
    out : the model to write (``.safetensors``; its card and ``.log.jsonl`` beside it).
    model : the architecture, of the task's config; ignored with ``start``.
    start : name or path of a model to go on from. The result is never worse than it on validation.
    all_candidates : a start that knows fewer candidates learns to weigh all, and begins as sharp as the prior.
    steps, minutes : the budget, set-up apart; at least one. With both, whichever ends first.
    seed : of weights, examples, validation.
    feed, loss : how examples are drawn, how errors are weighed.
    lr, lr_floor, warmup : highest rate; the last one as a part of it; part of the budget to reach the highest.
    weight_decay, clip, average : of AdamW; largest gradient norm; decay of the moving average of weights.
    reuse : steps made of each batch of examples (its candidates cost more than a step); they are interleaved with others.
    val_fraction : part of each archive's observed cells that training never sees; where 0, nothing is set aside.
    val_examples : batches validated on.
    val_seconds, val_steps : how often; steps take precedence.
    patience : validations without progress before it stops early; None: never.
    criterion : the error of which the lowest is kept; ``mae`` suits a single stack, ``vs_best`` many of unlike difficulty.
    save_seconds, save_steps : how often the state is written.
    resume : go on from the state of an interrupted run, if there is one.
    keep_state : leave the state behind at the end, so that the run may be prolonged.
    device, precision : ``bf16`` for the network (never the candidates); ``auto``: on CUDA.
    storage : dtype of the weights' file.
    workers : further processes that make batches ahead, on the CPU; the result is the same with any number of them.
    """

    out: Path
    model: Any = field(default_factory=ModelConfig.small)
    start: str | Path | None = None
    all_candidates: bool = False
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    feed: Any = field(default_factory=FeedOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    lr: float = 1e-3
    lr_floor: float = 0.05
    warmup: float = 0.03
    weight_decay: float = 0.02
    clip: float = 1.0
    average: float = 0.999
    reuse: int = 1
    val_fraction: float = 0.06
    val_examples: int = 12
    val_seconds: float = 120.0
    val_steps: int | None = None
    patience: int | None = None
    criterion: Literal["vs_best", "mae"] = "vs_best"
    save_seconds: float = 60.0
    save_steps: int | None = None
    resume: bool = False
    keep_state: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    storage: Storage = "float16"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a budget is needed: steps, minutes or both")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ValueError(f"budget of {self.steps} steps, {self.minutes} minutes: must be positive")
        if not self.lr > 0:
            raise ValueError(f"lr {self.lr}: must be positive")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision {self.precision}: one of {', '.join(get_args(Precision))}")
        if not 0 <= self.val_fraction < 0.5:
            raise ValueError(f"val_fraction {self.val_fraction}: from 0 to below 0.5")
        if self.reuse < 1 or not 0 <= self.warmup < 1:
            raise ValueError(f"reuse {self.reuse}, warmup {self.warmup}: out of range")

    @property
    def state_path(self) -> Path:
        """Where an interrupted run waits."""
        return self.out.with_name(f"{self.out.name}.stimpute-training")

    @property
    def log_path(self) -> Path:
        """One JSON object per line."""
        return self.out.with_suffix(".log.jsonl")


@dataclass(frozen=True)
class TrainProgress:
    """What the caller may show after a step (first rank only)."""

    step: int
    fraction: float
    elapsed: float
    loss: float
    lr: float
    validation: Validation | None


@dataclass(frozen=True)
class TrainSummary:
    """What came out.

    Parameters
    ----------
    path : the model, or None on ranks that write nothing.
    steps, minutes : done, over all resumptions.
    start, best : validation of the first and of the saved weights; None where there was nothing to validate on.
    stopped_early : patience ran out before the budget.
    card : as written.
    """

    path: Path | None
    steps: int
    minutes: float
    start: Validation | None
    best: Validation | None
    stopped_early: bool
    card: dict[str, Any]


GROUP = 8  # batches kept at hand while they are reused


def example_number(seed: int, step: int, reuse: int) -> int:
    """Which batch of examples a step takes: each ``reuse`` times, in groups, in another order every time.

    >>> [example_number(0, s, 1) for s in range(4)]
    [0, 1, 2, 3]
    >>> sorted(example_number(0, s, 3) for s in range(24)) == sorted(3 * list(range(8)))
    True
    """
    if reuse == 1:
        return step
    group, within = divmod(step, GROUP * reuse)
    turn, place = divmod(within, GROUP)
    order = np.random.default_rng([seed, group, turn]).permutation(GROUP)
    return group * GROUP + int(order[place])


def used(options: TrainOptions, step: int, elapsed: float) -> float:
    """The part of the budget that is used."""
    parts = [0.0]
    if options.steps is not None:
        parts.append(step / options.steps)
    if options.minutes is not None:
        parts.append(elapsed / (60 * options.minutes))
    return max(parts)


def learning_rate(options: TrainOptions, fraction: float) -> float:
    """Linear warm-up, then half a cosine down to the floor.

    >>> o = TrainOptions(Path("m.safetensors"), steps=10, lr=1.0, lr_floor=0.1, warmup=0.1)
    >>> [round(learning_rate(o, f), 3) for f in (0.05, 0.1, 0.55, 1.0)]
    [0.5, 1.0, 0.55, 0.1]
    """
    if fraction < options.warmup:
        return options.lr * max(fraction / options.warmup, 0.02)
    along = min((fraction - options.warmup) / (1 - options.warmup), 1.0)
    return options.lr * (options.lr_floor + (1 - options.lr_floor) * 0.5 * (1 + math.cos(math.pi * along)))
