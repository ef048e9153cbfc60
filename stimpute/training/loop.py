"""The training loop: one process or ``torchrun``, a budget, validation, keep-best, resume. Knows nothing about files of data.

The learning rate follows the part of the budget that is used: steps where ``steps`` is given (then a run resumed is the same run,
bit for bit on one machine), elapsed time where only ``minutes`` is (then it depends on the machine's mood). The weights validated and
saved are an exponential moving average.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stimpute.errors import ModelError, OutputError
from stimpute.model.candidates import Candidates, compute_candidates
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.pretrained.checkpoint import Storage, save_checkpoint
from stimpute.pretrained.registry import load_model
from stimpute.training.archive import Archive
from stimpute.training.feed import Example, Feed, FeedOptions, filled, set_aside, validation_example
from stimpute.training.loss import (
    LossOptions,
    Validation,
    candidate_errors,
    errors_of,
    summarise,
    training_loss,
)
from stimpute.training.parallel import Ranks, joined_ranks
from stimpute.training.state import RunState, read_state, write_state

Precision = Literal["auto", "fp32", "bf16"]
_VALIDATION_SEED = 0x7A11D
_DIVERGED_AFTER = 25


@dataclass(frozen=True)
class TrainOptions:
    """A training run.

    Parameters
    ----------
    out : the model to write (``.safetensors``; its card and ``.log.jsonl`` beside it).
    model : the architecture; ignored with ``start``.
    start : name or path of a model to go on from. The result is never worse than it on validation.
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
    save_seconds, save_steps : how often the state is written.
    resume : go on from the state of an interrupted run, if there is one.
    keep_state : leave the state behind at the end, so that the run may be prolonged.
    device, precision : ``bf16`` for the network (never the candidates); ``auto``: on CUDA.
    storage : dtype of the weights' file.
    """

    out: Path
    model: ModelConfig = field(default_factory=ModelConfig.small)
    start: str | Path | None = None
    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    feed: FeedOptions = field(default_factory=FeedOptions)
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
    save_seconds: float = 60.0
    save_steps: int | None = None
    resume: bool = False
    keep_state: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    storage: Storage = "float16"

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a budget is needed: steps, minutes or both")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and self.minutes <= 0):
            raise ValueError(f"budget of {self.steps} steps, {self.minutes} minutes: must be positive")
        if self.reuse < 1 or not 0 <= self.val_fraction < 0.5 or not 0 <= self.warmup < 1:
            raise ValueError(
                f"reuse {self.reuse}, val_fraction {self.val_fraction}, warmup {self.warmup}: out of range"
            )

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


def run_training(
    options: TrainOptions,
    archives: Sequence[Archive] = (),
    progress: Callable[[TrainProgress], None] | None = None,
    validation: Sequence[Archive] = (),
) -> TrainSummary:
    """Train, validate now and then, save the best.

    Parameters
    ----------
    options : the run.
    archives : to learn from; may be empty if the feed has worlds.
    progress : called after every step on the first rank; may raise to stop (what was saved last can be resumed).
    validation : archives never trained on, validated on besides the cells set aside.

    Raises
    ------
    InputError : nothing to train on, or covariates absent.
    ModelError : the start model cannot be read, a state of another run, a run that diverges.
    OutputError : the state of an interrupted run is in the way.
    DeviceError : the device asked for is absent.
    """
    if options.out.suffix != ".safetensors" or not options.out.parent.is_dir():
        raise OutputError(f"{options.out}: a model is written as .safetensors into a folder that exists")
    if options.state_path.exists() and not options.resume:
        raise OutputError(
            f"{options.state_path}: an interrupted run is in the way; --resume it, or remove that file"
        )
    with joined_ranks(options.device) as ranks:
        return _Run(options, list(archives), list(validation), ranks, progress).train()


class _Run:
    """Everything one run holds on to; ``train`` is the algorithm."""

    def __init__(
        self,
        options: TrainOptions,
        archives: list[Archive],
        validation: list[Archive],
        ranks: Ranks,
        progress: Callable[[TrainProgress], None] | None,
    ) -> None:
        self.options, self.ranks, self.progress = options, ranks, progress
        self.archives = archives
        self.network, self.origin = starting_network(options)
        self.network.to(ranks.device).train()
        self.optimiser = make_optimiser(self.network, options)
        config = self.network.config
        aside = [
            set_aside(a, options.val_fraction, options.seed) if options.val_fraction else None
            for a in archives
        ]
        seen = [a if hidden is None else a.hide(hidden) for a, hidden in zip(archives, aside, strict=True)]
        self.feed = Feed(
            seen,
            options.feed,
            seed=options.seed,
            rank=ranks.rank,
            covariates=config.covariates,
            whole_grid=config.spatial_embedding,
        )
        self.judged = self._validation_set(aside, validation) if ranks.first else []
        self.ready: dict[int, tuple[Example, Candidates | None]] = {}
        average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.state = RunState(average, {k: v.clone() for k, v in average.items()}, 0, 0.0, {})
        self.bad_steps = 0

    def train(self) -> TrainSummary:
        options, ranks, state = self.options, self.ranks, self.state
        if options.resume and options.state_path.exists():
            self.state = state = read_state(
                options.state_path, self.network, self.optimiser, self.fingerprint()
            )
        ranks.share(self.network.state_dict().values())
        self.log("start" if state.step == 0 else "resume", step=state.step, ranks=ranks.size)
        if state.step == 0:
            self.validate()
        before, started = state.elapsed, time.monotonic()
        marks = {"validated": started, "saved": started, "told": started}
        stopped = False
        while True:
            now = time.monotonic()
            elapsed, fraction = ranks.agree(
                before + now - started, used(options, state.step, before + now - started)
            )
            state.elapsed = elapsed
            if fraction >= 1 or stopped:
                break
            loss, lr = self.step(fraction)
            state.step += 1
            validation = None
            if self.due("validated", marks, options.val_steps, options.val_seconds):
                validation = self.validate()
                stopped = self.exhausted()
            if self.due("told", marks, None, 15.0):
                self.log("step", step=state.step, loss=loss, lr=lr)
            if self.due("saved", marks, options.save_steps, options.save_seconds):
                self.save_state()
            if self.progress is not None and ranks.first:
                self.progress(TrainProgress(state.step, fraction, elapsed, loss, lr, validation))
            (halt,) = ranks.agree(float(stopped))
            stopped = bool(halt)
        return self.finish(stopped)

    def step(self, fraction: float) -> tuple[float, float]:
        """One step of the optimiser; returns loss and learning rate. A step whose gradient is not finite is left out."""
        options, parameters = self.options, list(self.network.parameters())
        rate = learning_rate(options, fraction)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        example, candidates = self.example(self.state.step)
        best = None if candidates is None else candidate_errors(candidates, example).amin(dim=1)
        self.optimiser.zero_grad(set_to_none=True)
        with self.autocast():
            prediction = self.network(example.given, candidates)
        loss = training_loss(prediction, example, best, options.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            self.update_average()
            self.bad_steps = 0
        else:
            self.bad_steps += 1
            if self.bad_steps >= _DIVERGED_AFTER:
                raise ModelError(
                    f"training diverged at step {self.state.step}: lower --lr (it was {options.lr})"
                )
        return float(loss.detach()), rate

    def example(self, step: int) -> tuple[Example, Candidates | None]:
        """The batch of a step with its candidates, from those at hand where it is used again."""
        number = example_number(self.options.seed, step, self.options.reuse)
        if number not in self.ready:
            first = number - number % _GROUP
            self.ready = {k: v for k, v in self.ready.items() if k >= first and self.options.reuse > 1}
            example = self.feed.example(number).to(self.ranks.device)
            self.ready[number] = example, self.candidates(example)
        return self.ready[number]

    def candidates(self, example: Example) -> Candidates | None:
        return compute_candidates(example.given) if self.network.config.head == "blend" else None

    def autocast(self) -> AbstractContextManager[Any]:
        device = self.ranks.device.type
        wanted = self.options.precision == "bf16" or (
            self.options.precision == "auto" and device == "cuda" and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(device, dtype=torch.bfloat16) if wanted else nullcontext()

    @torch.no_grad()
    def update_average(self) -> None:
        decay = min(self.options.average, (1 + self.state.step) / (10 + self.state.step))
        for name, tensor in self.network.state_dict().items():
            self.state.average[name].lerp_(tensor, 1 - decay)

    # validation

    def _validation_set(
        self, aside: Sequence[np.ndarray | None], unseen: Sequence[Archive]
    ) -> list[tuple[str, Example, Candidates]]:
        """Fixed examples: cells set aside, archives never trained on, worlds from seeds of their own."""
        options, feed = self.options, self.feed
        examples: list[tuple[str, Example]] = []
        generator = np.random.default_rng([options.seed, _VALIDATION_SEED])
        hidden = [(a, h) for a, h in zip(self.archives, aside, strict=True) if h is not None and h.any()]
        worlds = (
            Feed([], FeedOptions(feed.options.shapes), seed=_VALIDATION_SEED)
            if feed.options.world_share
            else None
        )
        for i in range(options.val_examples):
            if hidden:
                for archive, cells in hidden if i == 0 else [hidden[int(generator.integers(len(hidden)))]]:
                    shape = fitting_shape(archive, feed.options.shapes, generator)
                    small = (2 if len(hidden) > 8 else min(shape[0], 4), *shape[1:])
                    examples.append(
                        (archive.name, validation_example(archive, cells, generator, small, feed.covariates))
                    )
            if unseen:
                archive = unseen[i % len(unseen)]
                plain = FeedOptions(
                    (fitting_shape(archive, feed.options.shapes, generator),), 0.0, (0.1, 0.6), "none", 0.0
                )
                alone = Feed(
                    [archive],
                    plain,
                    seed=_VALIDATION_SEED,
                    covariates=feed.covariates,
                    whole_grid=feed.whole_grid,
                )
                examples.append((archive.name, alone.example(i)))
            if worlds is not None:
                examples.append(("worlds", worlds.example(i)))
        moved = [(name, example.to(self.ranks.device)) for name, example in examples]
        return [(name, example, compute_candidates(example.given)) for name, example in moved]

    @torch.no_grad()
    def validate(self) -> Validation | None:
        """Judge the averaged weights on the first rank; keep them if they are the best so far."""
        if self.state.record.get("validated") == self.state.step:
            return None
        self.state.record["validated"] = self.state.step
        if not self.judged:
            if self.ranks.first:
                self.state.best = {k: v.clone() for k, v in self.state.average.items()}
            return None
        self.network.eval()
        errors = []
        for name, example, candidates in self.judged:
            arguments = (example.given, candidates)
            prediction = torch.func.functional_call(self.network, self.state.average, arguments)
            errors.append((name, errors_of(prediction, example, candidates)))
        self.network.train()
        result = summarise(errors)
        record = self.state.record
        record.setdefault("start", asdict(result))
        if "best" not in record or result.vs_best < record["best"]["vs_best"]:
            record.update(best=asdict(result), best_step=self.state.step, stale=0)
            self.state.best = {k: v.clone() for k, v in self.state.average.items()}
        else:
            record["stale"] += 1
        self.log("validation", step=self.state.step, **asdict(result))
        return result

    def exhausted(self) -> bool:
        patience = self.options.patience
        return patience is not None and self.state.record.get("stale", 0) >= patience

    # bookkeeping

    def due(self, what: str, marks: dict[str, float], steps: int | None, seconds: float) -> bool:
        if not self.ranks.first:
            return False
        if steps is not None:
            return self.state.step % steps == 0
        if time.monotonic() - marks[what] < seconds:
            return False
        marks[what] = time.monotonic()
        return True

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; the budget may grow."""
        o = self.options
        return {
            "model": self.network.config.to_dict(),
            "start": self.origin,
            "seed": o.seed,
            "feed": asdict(o.feed),
            "loss": asdict(o.loss),
            "optimiser": [o.lr, o.lr_floor, o.warmup, o.weight_decay, o.clip, o.average, o.reuse],
            "val_fraction": o.val_fraction,
            "archives": [[a.name, list(a.shape)] for a in self.archives],
            "ranks": self.ranks.size,
        }

    def save_state(self) -> None:
        write_state(self.options.state_path, self.network, self.optimiser, self.state, self.fingerprint())

    def log(self, event: str, **facts: Any) -> None:
        if self.ranks.first:
            line = json.dumps({"event": event, "elapsed": round(self.state.elapsed, 2), **facts})
            with self.options.log_path.open("a" if event != "start" else "w", encoding="utf-8") as file:
                file.write(line + "\n")

    def finish(self, stopped: bool) -> TrainSummary:
        options, state = self.options, self.state
        card: dict[str, Any] = {}
        if self.ranks.first:
            self.validate()
            if options.keep_state:
                self.save_state()
            card = save_checkpoint(
                options.out,
                state.best,
                self.network.config.to_dict(),
                training=self.described(),
                scores={k: state.record[k] for k in ("best", "start", "best_step") if k in state.record},
                covariates=self.network.config.covariates,
                storage=options.storage,
            )
            if not options.keep_state:
                options.state_path.unlink(missing_ok=True)
            self.log("end", step=state.step, stopped_early=stopped, sha256=card["sha256"])
        start, best = (
            Validation(**state.record[k]) if k in state.record else None for k in ("start", "best")
        )
        path = options.out if self.ranks.first else None
        return TrainSummary(path, state.step, state.elapsed / 60, start, best, stopped, card)

    def described(self) -> dict[str, Any]:
        """The card's account of the training."""
        o = self.options
        return {
            "archives": [
                {"name": a.name, "shape": list(a.shape), "missing": round(float(1 - a.valid.mean()), 3)}
                for a in self.archives
            ],
            "world_share": self.feed.options.world_share,
            "from": self.origin,
            "seed": o.seed,
            "steps": self.state.step,
            "minutes": round(self.state.elapsed / 60, 1),
            "processes": self.ranks.size,
            "device": self.ranks.device.type,
            "lr": o.lr,
            "reuse": o.reuse,
            "shapes": [list(s) for s in self.feed.options.shapes],
        }


_GROUP = 8  # batches kept at hand while they are reused


def example_number(seed: int, step: int, reuse: int) -> int:
    """Which batch of examples a step takes: each ``reuse`` times, in groups, in another order every time.

    >>> [example_number(0, s, 1) for s in range(4)]
    [0, 1, 2, 3]
    >>> sorted(example_number(0, s, 3) for s in range(24)) == sorted(3 * list(range(8)))
    True
    """
    if reuse == 1:
        return step
    group, within = divmod(step, _GROUP * reuse)
    turn, place = divmod(within, _GROUP)
    order = np.random.default_rng([seed, group, turn]).permutation(_GROUP)
    return group * _GROUP + int(order[place])


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


def starting_network(options: TrainOptions) -> tuple[STTransformer, dict[str, str] | None]:
    """The network to train, and the name and SHA-256 of the model it comes from, if any."""
    if options.start is not None:
        loaded = load_model(options.start)
        return loaded.network, {"name": loaded.name, "sha256": loaded.sha256}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(options.seed)
        return STTransformer(options.model), None


def make_optimiser(network: STTransformer, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW; no decay on biases, norms, tokens and scalars."""
    matrices: list[Tensor] = [p for p in network.parameters() if p.ndim >= 2]
    others: list[Tensor] = [p for p in network.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))


def fitting_shape(
    archive: Archive, shapes: Sequence[tuple[int, int, int, int]], generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """One of the shapes that the archive fills, or the one that it fills best."""
    share = [filled(archive, s) for s in shapes]
    full = [s for s, part in zip(shapes, share, strict=True) if part == max(share)]
    return full[int(generator.integers(len(full)))]
