"""Training a DiffRecon network in one command: each diffusion apart, then both together; resumable. Knows no files of data.

Schedule, optimiser, state, budget and checkpoints are those of the other training runs. The weights judged and saved are an
exponential moving average; kept are those with the lowest error of the expected fine field.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stimpute.diffusion.config import TASK, DiffReconConfig
from stimpute.diffusion.ensemble import draw_ensemble, widening_for
from stimpute.diffusion.guess import no_guess
from stimpute.diffusion.network import DiffRecon
from stimpute.diffusion.noise import Noise
from stimpute.errors import ModelError, OutputError
from stimpute.pretrained.checkpoint import save_checkpoint
from stimpute.pretrained.registry import load_model, load_reconstructor
from stimpute.training.archive import Archive
from stimpute.training.diffusion_loss import Stage, judge, measure_spreads, stage_loss
from stimpute.training.interruption import uninterrupted
from stimpute.training.loop import make_optimiser
from stimpute.training.options import TrainOptions, learning_rate, used
from stimpute.training.pairs import SHAPES, PairFeed, Pairs
from stimpute.training.state import RunState, read_state, write_state

_VALIDATION_FROM = 1_000_000  # numbers of batches that are never trained on
_BAD_STEPS = 25
_CALIBRATION_SAMPLES = 8


@dataclass(frozen=True)
class DiffusionTraining(TrainOptions):
    """A run; of what :class:`~stimpute.training.options.TrainOptions` says, ``model``, ``feed`` and ``loss`` play no part.

    Parameters
    ----------
    network : the architecture; with ``start`` only its factor counts.
    pool : how many batches are made; they are seen again and again, each time with other noise, flipped at random. None: a
        quarter of the steps, at least 8, at most 256 (which it is where only minutes are given).
    world_share : part of the batches that are simulated worlds, where there are archives.
    apart : part of the budget for each diffusion apart; the rest is for both together.
    joint : False: in the rest, too, each is trained for itself, Diffusion-F on the true coarse field (for comparison).
    shapes : (batch, time, coarse y, coarse x) of the batches, in turn.
    """

    network: DiffReconConfig = field(default_factory=DiffReconConfig)
    pool: int | None = None
    world_share: float = 1.0
    apart: float = 0.3
    joint: bool = True
    shapes: tuple[tuple[int, int, int, int], ...] = SHAPES
    val_examples: int = 8
    lr: float = 1.5e-3
    average: float = 0.99

    @property
    def batches(self) -> int:
        """How many batches are made."""
        if self.pool is not None:
            return self.pool
        return 256 if self.steps is None else min(max(self.steps // 4, 8), 256)


@dataclass(frozen=True)
class DiffusionProgress:
    """What the caller may show after a step. ``validation`` holds errors divided by those of the guess."""

    step: int
    fraction: float
    elapsed: float
    loss: float
    stage: Stage
    validation: dict[str, float] | None


@dataclass(frozen=True)
class DiffusionSummary:
    """What came out. ``best`` holds errors of the expected field divided by those of the guess."""

    path: Path
    steps: int
    minutes: float
    best: dict[str, float]
    card: dict[str, Any]


def train_diffusion(
    options: DiffusionTraining,
    archives: Sequence[Archive] = (),
    progress: Callable[[DiffusionProgress], None] | None = None,
    feed: PairFeed | None = None,
) -> DiffusionSummary:
    """Train, judge now and then, save the best with its card.

    ``feed`` gives the batches in place of one made from ``options`` and ``archives``, so that several runs may share them.

    Raises
    ------
    InputError : nothing to train on, archives too small.
    ModelError : the start model cannot be read, a state of another run, a run that diverges.
    OutputError : the state of an interrupted run is in the way.
    """
    if options.state_path.exists() and not options.resume:
        raise OutputError(
            f"{options.state_path}: an interrupted run is in the way; --resume it, or remove that file"
        )
    return _Run(options, list(archives), progress, feed).train()


def stage_at(options: DiffusionTraining, fraction: float) -> Stage:
    """Which diffusion a step trains, by the part of the budget that is used.

    >>> o = DiffusionTraining(Path("m.safetensors"), steps=10, apart=0.3)
    >>> [stage_at(o, f) for f in (0.0, 0.4, 0.7)]
    ['coarse', 'fine', 'joint']
    """
    if options.network.stages == 1:
        return "single"
    if fraction < options.apart:
        return "coarse"
    if fraction < 2 * options.apart:
        return "fine"
    return "joint" if options.joint else "both"


class _Run:
    """Everything one run holds on to; ``train`` is the algorithm."""

    def __init__(
        self,
        options: DiffusionTraining,
        archives: list[Archive],
        progress: Callable[[DiffusionProgress], None] | None,
        feed: PairFeed | None = None,
    ) -> None:
        self.options, self.archives, self.progress = options, archives, progress
        self.device = torch.device("cpu" if options.device == "auto" else options.device)
        self.filler = load_model()
        self.feed = feed or PairFeed(
            archives, options.network.factor, world_share=options.world_share, seed=options.seed, shapes=options.shapes,
            filler=self.filler.network,
        )  # fmt: skip
        self.network, self.origin = starting_network(options)
        self.network.to(self.device)
        self.optimiser = make_optimiser(self.network, options)
        self.pool: dict[int, Pairs] = {}
        self.judged = [self.made(_VALIDATION_FROM + i).to(self.device) for i in range(options.val_examples)]
        average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.state = RunState(average, {k: v.clone() for k, v in average.items()}, 0, 0.0, {})

    def train(self) -> DiffusionSummary:
        options = self.options
        if options.resume and options.state_path.exists():
            self.state = read_state(options.state_path, self.network, self.optimiser, self.fingerprint())
        else:
            measure_spreads(self.network, self.judged)
            for name in ("coarse_spread", "detail_spread"):
                self.state.average[name].copy_(getattr(self.network, name))
        self.log("start" if self.state.step == 0 else "resume", step=self.state.step)
        try:
            self.loop()
            return self.finish()
        except KeyboardInterrupt:
            if self.state.step > 0:
                self.save_state()
            raise

    def loop(self) -> None:
        """Steps until the budget is used."""
        state, options = self.state, self.options
        before, started = state.elapsed, time.monotonic()
        saved = validated = started
        bad = 0
        while True:
            now = time.monotonic()
            state.elapsed = before + now - started
            fraction = used(options, state.step, state.elapsed)
            if fraction >= 1:
                return
            stage = stage_at(options, fraction)
            loss, finite = self.step(stage, learning_rate(options, fraction))
            bad = 0 if finite else bad + 1
            if bad >= _BAD_STEPS:
                raise ModelError(f"training diverged at step {state.step}: lower --lr (it was {options.lr})")
            validation = None
            if self.due(options.val_steps, now - validated, options.val_seconds):
                validated = now
                validation = self.validate(stage)
            if self.due(options.save_steps, now - saved, options.save_seconds):
                saved = now
                self.save_state()
            if self.progress is not None:
                self.progress(DiffusionProgress(state.step, fraction, state.elapsed, loss, stage, validation))

    def due(self, steps: int | None, seconds: float, after: float) -> bool:
        return self.state.step % steps == 0 if steps is not None else seconds >= after

    def step(self, stage: Stage, rate: float) -> tuple[float, bool]:
        """One step of the optimiser; a step whose gradient is not finite is left out."""
        state, options = self.state, self.options
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + state.step)
        loss = stage_loss(self.network, self.pairs(state.step), stage, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), options.clip)
        finite = bool(torch.isfinite(norm))
        with uninterrupted():
            if finite:
                self.optimiser.step()
                decay = min(options.average, (1 + state.step) / (10 + state.step))
                with torch.no_grad():
                    for name, tensor in self.network.state_dict().items():
                        state.average[name].lerp_(tensor, 1 - decay)
            state.step += 1
        return float(loss.detach()), finite

    def made(self, number: int) -> Pairs:
        """A batch of the feed, with the guess that the network starts from."""
        pairs = self.feed.pairs(number)
        return replace(pairs, guess=no_guess(pairs.batch)) if self.network.config.start == "mean" else pairs

    def pairs(self, step: int) -> Pairs:
        """The batch of a step: the pool in another order every time round, flipped at random."""
        turn, place = divmod(step, self.options.batches)
        order = np.random.default_rng([self.options.seed, turn]).permutation(self.options.batches)
        number = int(order[place]) if turn else place
        if number not in self.pool:
            self.pool[number] = self.made(number)
        return self.pool[number].turned(np.random.default_rng([self.options.seed, step, 7])).to(self.device)

    @torch.no_grad()
    def validate(self, stage: Stage) -> dict[str, float]:
        """Judge the averaged weights; keep them if the expected fine field is the best so far."""
        record, kept = (
            self.state.record,
            {k: v.detach().clone() for k, v in self.network.state_dict().items()},
        )
        self.network.load_state_dict(self.state.average)
        self.network.eval()
        result = judge(self.network, self.judged)
        self.network.load_state_dict(kept)
        with uninterrupted():
            if "best" not in record or result["fine"] < record["best"]["fine"]:
                record.update(best=result, best_step=self.state.step)
                self.state.best = {k: v.clone() for k, v in self.state.average.items()}
        self.log("validation", step=self.state.step, stage=stage, **result)
        return result

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; the budget may grow."""
        o = self.options
        return {
            "model": self.network.config.to_dict(), "start": self.origin, "seed": o.seed,
            "world_share": o.world_share, "apart": o.apart, "joint": o.joint, "shapes": [list(s) for s in o.shapes],
            "optimiser": [o.lr, o.lr_floor, o.warmup, o.weight_decay, o.clip, o.average],
            "archives": [[a.name, list(a.shape)] for a in self.archives],
        }  # fmt: skip

    def save_state(self) -> None:
        write_state(self.options.state_path, self.network, self.optimiser, self.state, self.fingerprint())

    def log(self, event: str, **facts: Any) -> None:
        line = json.dumps({"event": event, "elapsed": round(self.state.elapsed, 2), **facts})
        with self.options.log_path.open("a" if event != "start" else "w", encoding="utf-8") as file:
            file.write(line + "\n")

    def finish(self) -> DiffusionSummary:
        """Judge a last time, calibrate the spread, write the model."""
        options, state = self.options, self.state
        self.validate("joint")
        self.network.load_state_dict(state.best)
        self.network.eval()
        coverage = self.calibrate()
        with uninterrupted():
            card = save_checkpoint(
                options.out, self.network.state_dict(), self.network.config.to_dict(), training=self.described(),
                scores={"best": state.record["best"], "best_step": state.record["best_step"], **coverage},
                storage=options.storage, extra={"task": TASK},
            )  # fmt: skip
            options.state_path.unlink(missing_ok=True)
        self.log("end", step=state.step, sha256=card["sha256"])
        return DiffusionSummary(options.out, state.step, state.elapsed / 60, state.record["best"], card)

    @torch.no_grad()
    def calibrate(self) -> dict[str, float]:
        """Stretch the ensemble so that 90 % intervals cover 90 % of what was judged."""
        noise = Noise(self.options.seed)
        self.network.widening.fill_(1.0)
        self.network.share.fill_(self.state.record["best"]["share"])
        truths: list[Tensor] = []
        ensembles: list[Tensor] = []
        for pairs in self.judged:
            given = self.network.conditions(pairs.batch, pairs.guess, pairs.covariates)
            _, members = draw_ensemble(self.network, given, _CALIBRATION_SAMPLES, noise)
            truths.append(pairs.fine)
            ensembles.append(members)
        widening, coverage = widening_for(ensembles, truths)
        self.network.widening.fill_(widening)
        return {"widening": widening, "coverage_before": coverage}

    def described(self) -> dict[str, Any]:
        """The card's account of the training."""
        o = self.options
        return {
            "archives": [{"name": a.name, "shape": list(a.shape)} for a in self.archives],
            "world_share": self.feed.world_share, "from": self.origin, "filler": {"name": self.filler.name, "sha256": self.filler.sha256}, "seed": o.seed, "steps": self.state.step,
            "minutes": round(self.state.elapsed / 60, 1), "device": self.device.type, "lr": o.lr, "pool": o.batches,
            "joint": o.joint, "shapes": [list(s) for s in o.shapes],
        }  # fmt: skip


def starting_network(options: DiffusionTraining) -> tuple[DiffRecon, dict[str, str] | None]:
    """The network to train, and the name and SHA-256 of the model it comes from, if any.

    A model for another factor lends all weights of the same shape: its Diffusion-C, above all.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(options.seed)
        network = DiffRecon(options.network)
    if options.start is None:
        return network, None
    loaded = load_reconstructor(options.start)
    if loaded.config.factor == options.network.factor:
        return loaded.network, {"name": loaded.name, "sha256": loaded.sha256}
    own = network.state_dict()
    lent = {k: v for k, v in loaded.network.state_dict().items() if k in own and own[k].shape == v.shape}
    network.load_state_dict({**own, **lent})
    return network, {"name": loaded.name, "sha256": loaded.sha256}
