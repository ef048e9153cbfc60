"""Training a DiffRecon network in one command: each diffusion apart, then both together; resumable. Knows no files of data.

Loop, schedule, optimiser, state, budget and checkpoints are those of the other training runs. The weights judged and saved are an
exponential moving average; kept are those with the lowest error of the expected fine field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
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
from stimpute.pretrained.registry import load_model, load_reconstructor
from stimpute.training.archive import Archive
from stimpute.training.diffusion_loss import Stage, judge, measure_spreads, stage_loss
from stimpute.training.interruption import uninterrupted
from stimpute.training.loop import Run, check_place
from stimpute.training.options import TrainOptions, learning_rate, used
from stimpute.training.pairs import SHAPES, PairFeed, Pairs
from stimpute.training.parallel import Ranks

_VALIDATION_FROM = 1_000_000  # numbers of batches that are never trained on
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
    ModelError : the start model cannot be read, a state of another run.
    DivergenceError : the training ran away; what it started from is untouched.
    OutputError : the state of an interrupted run is in the way.
    """
    check_place(options)
    summary: DiffusionSummary = _Run(options, list(archives), progress, feed).train()
    return summary


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


class _Run(Run):
    """The training loop with the two diffusions to learn, in one process."""

    options: DiffusionTraining
    judges_start = False  # what the guess says is what errors are divided by

    def __init__(
        self,
        options: DiffusionTraining,
        archives: list[Archive],
        progress: Callable[[DiffusionProgress], None] | None,
        feed: PairFeed | None = None,
    ) -> None:
        self.filler = load_model()
        self.given = feed
        self.pool: dict[int, Pairs] = {}
        device = torch.device("cpu" if options.device == "auto" else options.device)
        super().__init__(options, archives, [], Ranks(0, 1, device), progress)

    def starting_network(self) -> tuple[Any, dict[str, str] | None]:
        """A new network, or the one to go on from."""
        return starting_network(self.options)

    def material_to_learn_from(self, validation: list[Archive]) -> tuple[Any, list[Any]]:
        """The feed, and batches of it that are never trained on."""
        options = self.options
        feed = self.given or PairFeed(
            self.archives, options.network.factor, world_share=options.world_share, seed=options.seed, shapes=options.shapes,
            filler=self.filler.network,
        )  # fmt: skip
        numbers = range(_VALIDATION_FROM, _VALIDATION_FROM + options.val_examples)
        return feed, [self.batch(feed, number).to(self.ranks.device) for number in numbers]

    def made_ahead(self) -> None:
        """Batches are made as they are needed."""
        return

    def begin(self) -> None:
        """Measure the residuals of what it is judged on."""
        measure_spreads(self.network, self.judged)
        for name in ("coarse_spread", "detail_spread"):
            self.state.average[name].copy_(getattr(self.network, name))

    def step(self, fraction: float) -> tuple[float, float]:
        """One batch learnt from; returns loss and learning rate."""
        step, options = self.state.step, self.options
        rate = learning_rate(options, fraction)
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        loss = stage_loss(self.network, self.pairs(step), stage_at(options, fraction), generator)
        self.descend(loss, rate)
        return float(loss.detach()), rate

    def told(self, fraction: float, loss: float, rate: float, validation: Any) -> DiffusionProgress:
        """What the caller may show after a step."""
        stage = stage_at(self.options, fraction)
        return DiffusionProgress(self.state.step, fraction, self.state.elapsed, loss, stage, validation)

    def batch(self, feed: PairFeed, number: int) -> Pairs:
        """A batch of the feed, with the guess that the network starts from."""
        pairs = feed.pairs(number)
        return replace(pairs, guess=no_guess(pairs.batch)) if self.network.config.start == "mean" else pairs

    def pairs(self, step: int) -> Pairs:
        """The batch of a step: the pool in another order every time round, flipped at random."""
        turn, place = divmod(step, self.options.batches)
        order = np.random.default_rng([self.options.seed, turn]).permutation(self.options.batches)
        number = int(order[place]) if turn else place
        if number not in self.pool:
            self.pool[number] = self.batch(self.feed, number)
        turned = self.pool[number].turned(np.random.default_rng([self.options.seed, step, 7]))
        return turned.to(self.ranks.device)

    def network_with(self, weights: Mapping[str, Tensor]) -> DiffRecon:
        """A copy of the network that speaks with some weights; the one that is trained is not touched."""
        network: DiffRecon = deepcopy(self.network)
        network.load_state_dict(weights)
        return network.eval()

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """Judge the averaged weights; keep them if the expected fine field is the best so far."""
        state, record = self.state, self.state.record
        if record.get("validated") == state.step:
            return None
        result = judge(self.network_with(state.average), self.judged)
        best = {k: v.clone() for k, v in state.average.items()}
        with uninterrupted():
            record["validated"] = state.step
            if "best" not in record or result["fine"] < record["best"]["fine"]:
                record.update(best=result, best_step=state.step)
                state.best = best
        stage = stage_at(self.options, used(self.options, state.step, state.elapsed))
        self.log("validation", step=state.step, stage=stage, **result)
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

    def made(self) -> tuple[Mapping[str, Tensor], dict[str, Any], dict[str, Any]]:
        """The best weights, with a spread that covers what it claims."""
        record, network = self.state.record, self.network_with(self.state.best)
        coverage = self.calibrate(network)
        scores = {"best": record["best"], "best_step": record["best_step"], **coverage}
        return network.state_dict(), scores, {"extra": {"task": TASK}}

    @torch.no_grad()
    def calibrate(self, network: DiffRecon) -> dict[str, float]:
        """Stretch the ensemble so that 90 % intervals cover 90 % of what was judged."""
        noise = Noise(self.options.seed)
        network.widening.fill_(1.0)
        network.share.fill_(self.state.record["best"]["share"])
        truths: list[Tensor] = []
        ensembles: list[Tensor] = []
        for pairs in self.judged:
            given = network.conditions(pairs.batch, pairs.guess, pairs.covariates)
            _, members = draw_ensemble(network, given, _CALIBRATION_SAMPLES, noise)
            truths.append(pairs.fine)
            ensembles.append(members)
        widening, coverage = widening_for(ensembles, truths)
        network.widening.fill_(widening)
        return {"widening": widening, "coverage_before": coverage}

    def summary(self, stopped: bool, card: dict[str, Any]) -> DiffusionSummary:
        """What came out."""
        state = self.state
        return DiffusionSummary(self.options.out, state.step, state.elapsed / 60, state.record["best"], card)

    def described(self) -> dict[str, Any]:
        """The card's account of the training."""
        o = self.options
        return {
            "archives": [{"name": a.name, "shape": list(a.shape)} for a in self.archives],
            "world_share": self.feed.world_share, "from": self.origin, "filler": {"name": self.filler.name, "sha256": self.filler.sha256}, "seed": o.seed, "steps": self.state.step,
            "minutes": round(self.state.elapsed / 60, 1), "device": self.ranks.device.type, "lr": o.lr, "pool": o.batches,
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
