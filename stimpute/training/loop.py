"""The training loop: one process or ``torchrun``, a budget, validation, keep-best, resume. Knows nothing about files of data.

The weights validated and saved are an exponential moving average.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from stimpute.errors import DivergenceError, OutputError
from stimpute.model.candidates import CANDIDATES, compute_candidates
from stimpute.model.st_transformer import STTransformer, sharpened, with_candidates
from stimpute.pretrained.checkpoint import save_checkpoint
from stimpute.pretrained.registry import load_model
from stimpute.training.ahead import Ahead
from stimpute.training.archive import Archive
from stimpute.training.feed import Feed, set_aside
from stimpute.training.interruption import uninterrupted
from stimpute.training.loss import candidate_errors, training_loss
from stimpute.training.options import (
    GROUP,
    TrainOptions,
    TrainProgress,
    TrainSummary,
    example_number,
    learning_rate,
    used,
)
from stimpute.training.parallel import Ranks, joined_ranks
from stimpute.training.state import RunState, read_state, write_state
from stimpute.training.validation import Errors, Judged, Validation, errors_of, summarise, validation_set

_DIVERGED_AFTER = 25


def run_training(
    options: TrainOptions,
    archives: Sequence[Archive] = (),
    progress: Callable[[TrainProgress], None] | None = None,
    validation: Sequence[Archive] = (),
    kind: type[Run] | None = None,
) -> TrainSummary:
    """Train, validate now and then, save the best.

    Parameters
    ----------
    options : the run.
    archives : to learn from; may be empty if the feed has worlds.
    progress : called after every step on the first rank; may raise to stop (what was saved last can be resumed;
        a KeyboardInterrupt, here or at any other moment, saves first).
    validation : archives never trained on, validated on besides the cells set aside.
    kind : the task; None: filling gaps.

    Raises
    ------
    InputError : nothing to train on, or covariates absent.
    ModelError : the start model cannot be read, a state of another run.
    DivergenceError : the training ran away; what it started from is untouched.
    OutputError : the state of an interrupted run is in the way.
    DeviceError : the device asked for is absent.
    """
    check_place(options)
    kind = kind or Run
    with joined_ranks(options.device) as ranks:
        summary: TrainSummary = kind(options, list(archives), list(validation), ranks, progress).train()
        return summary


def check_place(options: TrainOptions) -> None:
    """Refuse a model that cannot be written, and to run over an interrupted run.

    Raises
    ------
    OutputError : either of them.
    """
    if options.out.suffix != ".safetensors" or not options.out.parent.is_dir():
        raise OutputError(f"{options.out}: a model is written as .safetensors into a folder that exists")
    if options.state_path.exists() and not options.resume:
        raise OutputError(
            f"{options.state_path}: an interrupted run is in the way; --resume it, or remove that file"
        )


class Run:
    """Everything one run holds on to; ``train`` is the algorithm. What is learnt, and from what, is in the methods named *of a task*."""

    judges_start = True  # whether the weights it starts from are validated, to be kept where none are better

    def __init__(
        self,
        options: TrainOptions,
        archives: list[Archive],
        validation: list[Archive],
        ranks: Ranks,
        progress: Callable[[Any], None] | None,
    ) -> None:
        self.options, self.ranks, self.progress = options, ranks, progress
        self.archives = archives
        self.network, self.origin = self.starting_network()
        self.network.to(ranks.device).train()
        self.optimiser = make_optimiser(self.network, options)
        self.feed, self.judged = self.material_to_learn_from(validation)
        self.ready: dict[int, tuple[Any, Any]] = {}
        average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.state = RunState(average, {k: v.clone() for k, v in average.items()}, 0, 0.0, {})
        self.bad_steps = 0
        self.written = False
        self.ahead = self.made_ahead()

    # of a task

    def starting_network(self) -> tuple[Any, dict[str, str] | None]:
        """The network to train, and the name and SHA-256 of the model it comes from, if any."""
        return starting_network(self.options)

    def material_to_learn_from(self, validation: list[Archive]) -> tuple[Any, list[Any]]:
        """The feed, and what is validated on: (group, example, candidates)."""
        options, ranks, config = self.options, self.ranks, self.network.config
        aside = [
            (a, set_aside(a, options.val_fraction, options.seed))
            for a in self.archives
            if options.val_fraction
        ]
        seen = [archive.hide(cells) for archive, cells in aside] if aside else self.archives
        feed = Feed(
            seen,
            options.feed,
            seed=options.seed,
            rank=ranks.rank,
            covariates=config.covariates,
            whole_grid=config.spatial_embedding,
        )
        return feed, self.judged_on(aside, validation, feed) if ranks.first else []

    def judged_on(
        self, aside: list[tuple[Archive, Any]], validation: list[Archive], feed: Feed
    ) -> list[Judged]:
        """What is validated on, from archives with the cells set aside in them and archives never trained on."""
        options, names = self.options, self.network.config.candidates
        return validation_set(aside, validation, feed, options.val_examples, self.ranks.device, names)

    def made_ahead(self) -> Ahead | None:
        """Processes that make batches, if any are wanted."""
        config = self.network.config
        names = config.candidates if config.head == "blend" else None
        return Ahead(self.feed, names, self.options.workers) if self.options.workers else None

    def guesses(self, example: Any) -> Any:
        """The candidates of an example, or None where the network needs none."""
        config = self.network.config
        return compute_candidates(example.given, names=config.candidates) if config.head == "blend" else None

    def arguments(self, example: Any, candidates: Any) -> tuple[Any, ...]:
        """What the network is called with."""
        return example.given, candidates

    def learnt_from(self) -> dict[str, Any]:
        """The card's account of the feed."""
        options = self.feed.options
        return {"world_share": options.world_share, "shapes": [list(s) for s in options.shapes]}

    def begin(self) -> None:
        """What a new run does before its first step, and a resumed one does not."""

    def told(self, fraction: float, loss: float, rate: float, validation: Any) -> Any:
        """What the caller may show after a step."""
        return TrainProgress(self.state.step, fraction, self.state.elapsed, loss, rate, validation)

    def made(self) -> tuple[Mapping[str, Tensor], dict[str, Any], dict[str, Any]]:
        """The weights to write, their scores, and what else the card says."""
        record = self.state.record
        scores: dict[str, Any] = {k: record[k] for k in ("best", "start", "best_step") if k in record}
        return self.state.best, scores, {"covariates": getattr(self.network.config, "covariates", ())}

    def summary(self, stopped: bool, card: dict[str, Any]) -> Any:
        """What came out."""
        options, state = self.options, self.state
        start, best = (
            Validation(**state.record[k]) if k in state.record else None for k in ("start", "best")
        )
        path = options.out if self.ranks.first else None
        return TrainSummary(path, state.step, state.elapsed / 60, start, best, stopped, card)

    # of every task

    def train(self) -> Any:
        """All steps, from where the state stands to the end of the budget."""
        options, ranks, state = self.options, self.ranks, self.state
        if options.resume and options.state_path.exists():
            self.state = state = read_state(
                options.state_path, self.network, self.optimiser, self.fingerprint()
            )
        else:
            self.begin()
        ranks.share(self.network.state_dict().values())
        self.log("start" if state.step == 0 else "resume", step=state.step, ranks=ranks.size)
        try:
            stopped = self.loop()
            return self.finish(stopped)
        except KeyboardInterrupt:
            if ranks.first and self.state.step > 0 and not self.written:
                self.save_state()
            raise
        finally:
            if self.ahead is not None:
                self.ahead.close()

    def loop(self) -> bool:
        """Steps until the budget is used, or patience; returns whether it was patience."""
        options, ranks, state = self.options, self.ranks, self.state
        missed = options.val_steps is not None and state.step % options.val_steps == 0  # by an interruption
        if self.judges_start if state.step == 0 else missed:
            self.validate()
        before, started = state.elapsed, time.monotonic()
        marks = {"validated": started, "saved": started, "told": started}
        (halt,) = ranks.agree(float(self.exhausted()))
        stopped = bool(halt)
        while True:
            now = time.monotonic()
            elapsed, fraction = ranks.agree(
                before + now - started, used(options, state.step, before + now - started)
            )
            state.elapsed = elapsed
            if fraction >= 1 or stopped:
                break
            loss, lr = self.step(fraction)
            validation = None
            if self.due("validated", marks, options.val_steps, options.val_seconds):
                validation = self.validate()
                stopped = self.exhausted()
            if self.due("told", marks, None, 15.0):
                self.log("step", step=state.step, loss=loss, lr=lr)
            if self.due("saved", marks, options.save_steps, options.save_seconds):
                self.save_state()
            if self.progress is not None and ranks.first:
                self.progress(self.told(fraction, loss, lr, validation))
            (halt,) = ranks.agree(float(stopped))
            stopped = bool(halt)
        return stopped

    def step(self, fraction: float) -> tuple[float, float]:
        """One batch learnt from; returns loss and learning rate."""
        rate = learning_rate(self.options, fraction)
        example, candidates = self.example(self.state.step)
        best = None if candidates is None else candidate_errors(candidates, example).amin(dim=1)
        with self.autocast():
            prediction = self.network(*self.arguments(example, candidates))
        loss = training_loss(prediction, example, best, self.options.loss)
        self.descend(loss, rate)
        return float(loss.detach()), rate

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step of the optimiser; a step whose gradient is not finite is left out.

        Raises
        ------
        DivergenceError : it was left out many times in a row.
        """
        options, parameters = self.options, list(self.network.parameters())
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.ranks.average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        finite = bool(torch.isfinite(norm))
        self.bad_steps = 0 if finite else self.bad_steps + 1
        if self.bad_steps >= _DIVERGED_AFTER:
            raise DivergenceError(
                f"training diverged at step {self.state.step}: lower --lr (it was {options.lr})"
            )
        with uninterrupted():
            if finite:
                self.optimiser.step()
                self.update_average()
            self.state.step += 1

    def example(self, step: int) -> tuple[Any, Any]:
        """The batch of a step with its candidates, from those at hand where it is used again."""
        number = example_number(self.options.seed, step, self.options.reuse)
        if number not in self.ready:
            first = number - number % GROUP
            self.ready = {k: v for k, v in self.ready.items() if k >= first and self.options.reuse > 1}
            self.ready[number] = self.material(step, number)
        return self.ready[number]

    def material(self, step: int, number: int) -> tuple[Any, Any]:
        """A batch that is not at hand: from the workers, who then go on with what the next steps need, or made here."""
        device = self.ranks.device
        if self.ahead is None:
            made = self.feed.example(number).to(device)
            return made, self.guesses(made)
        later = range(step, step + GROUP * (self.options.reuse + 1))
        numbers = (example_number(self.options.seed, s, self.options.reuse) for s in later)
        self.ahead.ask(n for n in dict.fromkeys(numbers) if n not in self.ready)
        example, candidates = self.ahead.take(number)
        return example.to(device), candidates and candidates.to(device)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a step."""
        device = self.ranks.device.type
        wanted = self.options.precision == "bf16" or (
            self.options.precision == "auto" and device == "cuda" and torch.cuda.is_bf16_supported()
        )
        return torch.autocast(device, dtype=torch.bfloat16) if wanted else nullcontext()

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the present ones."""
        decay = min(self.options.average, (1 + self.state.step) / (10 + self.state.step))
        for name, tensor in self.network.state_dict().items():
            self.state.average[name].lerp_(tensor, 1 - decay)

    # validation

    @torch.no_grad()
    def validate(self) -> Any:
        """Judge the averaged weights on the first rank; keep them if they are the best so far."""
        record = self.state.record
        if record.get("validated") == self.state.step:
            return None
        if not self.judged:
            if self.ranks.first:
                self.state.best = {k: v.clone() for k, v in self.state.average.items()}
            return None
        result, criterion = summarise(self.errors()), self.options.criterion
        best = {k: v.clone() for k, v in self.state.average.items()}
        with uninterrupted():
            record.setdefault("start", asdict(result))
            record["validated"] = self.state.step
            if "best" not in record or getattr(result, criterion) < record["best"][criterion]:
                record.update(best=asdict(result), best_step=self.state.step, stale=0)
                self.state.best = best
            else:
                record["stale"] += 1
        self.log("validation", step=self.state.step, **asdict(result))
        return result

    def errors(self) -> list[tuple[str, Errors]]:
        """What the averaged weights get wrong on everything that is validated on, with the group of each batch."""
        self.network.eval()
        errors = []
        for name, example, candidates in self.judged:
            arguments = self.arguments(example, candidates)
            prediction = torch.func.functional_call(self.network, self.state.average, arguments)
            errors.append((name, errors_of(prediction, example, candidates)))
        self.network.train()
        return errors

    def exhausted(self) -> bool:
        """Whether patience has run out."""
        patience = self.options.patience
        return patience is not None and self.state.record.get("stale", 0) >= patience

    # bookkeeping

    def due(self, what: str, marks: dict[str, float], steps: int | None, seconds: float) -> bool:
        """Whether it is time for something, by steps or by seconds; on the first rank only."""
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
        """Everything that a resumed run needs."""
        write_state(self.options.state_path, self.network, self.optimiser, self.state, self.fingerprint())

    def log(self, event: str, **facts: Any) -> None:
        """One line of JSON into the log."""
        if self.ranks.first:
            line = json.dumps({"event": event, "elapsed": round(self.state.elapsed, 2), **facts})
            with self.options.log_path.open("a" if event != "start" else "w", encoding="utf-8") as file:
                file.write(line + "\n")

    def finish(self, stopped: bool) -> Any:
        """Write the model and say what came out."""
        options, state = self.options, self.state
        card: dict[str, Any] = {}
        if self.ranks.first:
            self.validate()
            if options.keep_state:
                self.save_state()
            weights, scores, more = self.made()
            with uninterrupted():
                card = save_checkpoint(
                    options.out, weights, self.network.config.to_dict(), training=self.described(), scores=scores,
                    storage=options.storage, **more,
                )  # fmt: skip
                if not options.keep_state:
                    options.state_path.unlink(missing_ok=True)
                self.written = True
            self.log("end", step=state.step, stopped_early=stopped, sha256=card["sha256"])
        return self.summary(stopped, card)

    def described(self) -> dict[str, Any]:
        """The card's account of the training."""
        o = self.options
        return {
            "archives": [
                {"name": a.name, "shape": list(a.shape), "missing": round(float(1 - a.valid.mean()), 3)}
                for a in self.archives
            ],
            **self.learnt_from(),
            "from": self.origin,
            "seed": o.seed,
            "steps": self.state.step,
            "minutes": round(self.state.elapsed / 60, 1),
            "processes": self.ranks.size,
            "device": self.ranks.device.type,
            "lr": o.lr,
            "reuse": o.reuse,
        }


def starting_network(options: TrainOptions) -> tuple[STTransformer, dict[str, str] | None]:
    """The network to train, and the name and SHA-256 of the model it comes from, if any."""
    if options.start is not None:
        loaded = load_model(options.start)
        network = loaded.network
        if options.all_candidates:
            network = sharpened(with_candidates(network, CANDIDATES))
        return network, {"name": loaded.name, "sha256": loaded.sha256}
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(options.seed)
        return STTransformer(options.model), None


def make_optimiser(network: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW; no decay on biases, norms, tokens and scalars."""
    matrices: list[Tensor] = [p for p in network.parameters() if p.ndim >= 2]
    others: list[Tensor] = [p for p in network.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
