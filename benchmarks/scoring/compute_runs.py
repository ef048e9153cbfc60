"""Training runs that count what they cost: operations of the network, CPU seconds, and the errors at every validation.

Batches with their candidates are the same for all sizes and budgets of a mix, and what is validated on is the same for all runs:
both are made once and kept on disk. A run that was killed goes on from its state, one that is done is not repeated.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pretrain
import safetensors
import safetensors.torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scoring.compute_figures import MIXES, SIZES, Curve, Point
from scoring.runs import code_digest
from stimpute.model.batch import Batch
from stimpute.model.candidates import Candidates
from stimpute.model.config import ModelConfig
from stimpute.training import FeedOptions, TrainOptions, TrainProgress, read_npz, run_training
from stimpute.training.archive import Archive
from stimpute.training.feed import Example, Feed
from stimpute.training.loop import Run
from stimpute.training.validation import Errors, Judged

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Plan:
    """One training run: the recipe of the shipped weights, from nothing, but for size, mix and budget.

    Parameters
    ----------
    size, mix : one of ``SIZES``, one of ``MIXES``.
    steps : the budget; the learning rate follows the part of it that is used.
    every : steps between validations.
    seed : of weights, examples and validation.
    shapes, examples : (batch, time, y, x) of steps, batches validated on; None: the recipe's.
    """

    size: str
    mix: str
    steps: int
    every: int
    seed: int
    shapes: tuple[Shape, ...] | None = None
    examples: int | None = None

    @cached_property
    def model(self) -> ModelConfig:
        """The architecture."""
        return {"small": ModelConfig.small, "base": ModelConfig.base}[self.size]()

    def options(self, out: Path) -> TrainOptions:
        """Of the package's training loop."""
        recipe: dict[str, Any] = tomllib.loads(pretrain.RECIPE.read_text(encoding="utf-8"))["training"]
        shapes = self.shapes or tuple(tuple(shape) for shape in recipe["shapes"])
        share = 1.0 if self.mix == "worlds" else recipe["world_share"]
        return TrainOptions(
            out, self.model, steps=self.steps, seed=self.seed, feed=FeedOptions(world_share=share, shapes=shapes), lr=recipe["lr"],
            reuse=recipe["reuse"], val_steps=self.every, val_examples=self.examples or recipe["val_examples"], resume=True, device="cpu",
        )  # fmt: skip

    def stem(self, archives: Sequence[Path]) -> str:
        """A file name that changes with anything that changes the result but the machine and the code."""
        o = self.options(Path("-"))
        told = [
            o.model.to_dict(), asdict(o.feed), asdict(o.loss), o.lr, o.reuse, o.steps, o.seed, o.val_steps, o.val_examples,
            o.val_fraction, [path.name for path in archives],
        ]  # fmt: skip
        return f"{self.size}.{self.mix}.{self.steps}.{_digest(told)}"


def plans(
    budgets: Sequence[int],
    seed: int,
    points: int,
    shapes: tuple[Shape, ...] | None = None,
    examples: int | None = None,
) -> list[Plan]:
    """Every size and mix at every budget, cheap ones first; the longest run is validated ``points`` times, shorter ones as often per step.

    >>> [(p.size, p.mix, p.steps, p.every) for p in plans((4, 16), 0, 4)][3:6]
    [('base', 'worlds', 4, 4), ('small', 'half', 16, 4), ('base', 'half', 16, 4)]
    """
    every = max(1, max(budgets) // points)
    return [
        Plan(size, mix, steps, every, seed, shapes, examples)
        for steps in sorted(set(budgets))
        for mix in MIXES
        for size in SIZES
    ]


def kept(plan: Plan, archives: Sequence[Path], folder: Path) -> Curve | None:
    """A run that is done; None if it is not."""
    path = folder / f"{plan.stem(archives)}.json"
    return Curve.from_json(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def trained(
    plan: Plan, archives: Sequence[Path], folder: Path, fresh: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
) -> Curve:  # fmt: skip
    """How a run went, trained now if it is not kept.

    Raises
    ------
    StimputeError : what :func:`stimpute.training.run_training` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / f"{plan.stem(archives)}.json"
    options = plan.options(folder / "models" / f"{plan.stem(archives)}.safetensors")
    options.out.parent.mkdir(exist_ok=True)
    if fresh:
        for path in (result, options.out, options.state_path):
            path.unlink(missing_ok=True)
    found = kept(plan, archives, folder)
    if found is not None:
        return found

    class Here(CountedRun):
        target = result
        about = plan

    run_training(options, [read_npz(path) for path in archives], progress, kind=Here)
    found = kept(plan, archives, folder)
    if found is None:
        raise RuntimeError(f"{result} was not written")
    return found


# --- the run ----------------------------------------------------------------------------------------------------------


class CountedRun(Run):
    """A run of the package's loop that keeps an account in its state, so that the account survives a kill.

    ``target`` is the file of the result, ``about`` the plan.
    """

    target: Path
    about: Plan
    material_seconds = 0.0  # of the step at work, in making or reading its batch

    @cached_property
    def counter(self) -> Operations:
        """Counts what the network does."""
        return Operations(self.network)

    @property
    def account(self) -> dict[str, Any]:
        """What was spent so far, over all resumptions, and the validations."""
        nothing = {"flop": 0, "network_seconds": 0.0, "batches": {}, "points": [], "code": code_digest()}
        return self.state.record.setdefault("account", nothing)

    def material(self, step: int, number: int) -> tuple[Example, Candidates]:
        """A batch, from the disk where some run of this mix made it before; what making it cost is counted all the same."""
        began = time.process_time()
        what = [asdict(self.feed.options), self.feed.seed, self.rules()]
        path = self.target.parent / "batches" / f"{_digest(what)}-{number}.safetensors"
        made = load_batch(path)
        if made is None:
            started = time.process_time()
            example = self.feed.example(number)
            candidates = self.guesses(example)
            made = example, candidates, time.process_time() - started
            save_batch(path, *made)
        self.account["batches"][str(number)] = made[2]
        self.material_seconds = time.process_time() - began
        return made[0], made[1]

    def rules(self) -> list[Any]:
        """What, besides the feed's own options, a batch depends on."""
        archives = [[a.name, list(a.shape)] for a in self.archives]
        return [archives, self.options.val_fraction, code_digest()]

    def step(self, fraction: float) -> tuple[float, float]:
        """One step, with its cost."""
        self.material_seconds = 0.0
        began = time.process_time()
        result = super().step(fraction)
        self.account["network_seconds"] += time.process_time() - began - self.material_seconds
        example, candidates = self.example(self.state.step - 1)
        self.account["flop"] += self.counter.of_step(example.given, candidates)
        return result

    def judged_on(self, aside: list[Any], validation: list[Archive], feed: Feed) -> list[Judged]:
        """What is validated on, from the disk where some run made it before: it does not depend on size or mix."""
        what = [self.options.feed.shapes, self.options.seed, self.options.val_examples, self.rules()]
        folder = self.target.parent / "judged" / _digest(what)
        if not (folder / "groups.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            judged = super().judged_on(aside, validation, feed)
            for number, (_, example, candidates) in enumerate(judged):
                save_batch(folder / f"{number}.safetensors", example, candidates, 0.0)
            _write(folder / "groups.json", json.dumps([name for name, _, _ in judged]))
            return judged
        names = json.loads((folder / "groups.json").read_text(encoding="utf-8"))
        loaded = [load_batch(folder / f"{number}.safetensors") for number in range(len(names))]
        return [(name, made[0], made[1]) for name, made in zip(names, loaded, strict=True) if made]

    def errors(self) -> list[tuple[str, Errors]]:
        """Also puts a point on the curve."""
        errors = super().errors()
        told = self.account
        if self.state.step == 0:
            told["prior"], told["best"], told["groups"] = (
                _counted(errors, "prior"),
                _counted(errors, "best"),
                [name for name, e in errors for _ in range(int(e.counts.sum()))],
            )
        batch_seconds = sum(told["batches"].values())
        point = Point(self.state.step, told["flop"], told["network_seconds"], batch_seconds, _counted(errors, "network"))  # fmt: skip
        told["points"] = [p for p in told["points"] if p["steps"] < self.state.step] + [asdict(point)]
        return errors

    def finish(self, stopped: bool) -> Any:
        """The result first: it makes the run count as done."""
        self.validate()
        told = {k: self.account[k] for k in ("prior", "best", "groups", "points", "code")}
        count = sum(p.numel() for p in self.network.parameters())
        plan = self.about
        facts = {
            "size": plan.size,
            "mix": plan.mix,
            "steps": plan.steps,
            "parameters": count,
            "seed": plan.seed,
            **told,
        }
        _write(self.target, json.dumps(facts))
        return super().finish(stopped)


def _counted(errors: list[tuple[str, Errors]], quantity: str) -> list[float]:
    return [round(float(x), 7) for _, e in errors for x in getattr(e, quantity)[e.counts]]


class Operations:
    """Floating point operations of a network's forward and backward pass: matrix products, as torch counts them.

    Counts are kept for all networks of one config: counting takes about as long as a step.
    """

    known: ClassVar[dict[tuple[Any, ...], int]] = {}

    def __init__(self, network: Any) -> None:
        self.network = copy.deepcopy(network).to("meta")
        self.config = json.dumps(network.config.to_dict(), sort_keys=True)

    def of_step(self, given: Batch, candidates: Candidates) -> int:
        """Of one step on a batch; only its shape matters."""
        shape = (self.config, *given.values.shape, given.dynamic.shape[1], given.static.shape[1])
        if shape not in self.known:
            batch, guesses = given.to("meta"), candidates.to("meta")
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                prediction = self.network(batch, guesses)
                (prediction.mean.sum() + prediction.scale.sum()).backward()
            self.known[shape] = int(counter.get_total_flops())
        return self.known[shape]


# --- on disk ----------------------------------------------------------------------------------------------------------


def save_batch(path: Path, example: Example, candidates: Candidates, seconds: float) -> None:
    """A batch with its candidates and what making it cost, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"given": example.given, "candidates": candidates}
    held = {f"{p}/{f.name}": getattr(part, f.name) for p, part in parts.items() for f in fields(part)}
    held |= {"target": example.target, "wanted": example.wanted}
    whole = {name: tensor.contiguous() for name, tensor in held.items() if name != "candidates/names"}
    partial = path.with_suffix(f".{os.getpid()}.partial")
    about = {"seconds": repr(seconds), "names": json.dumps(candidates.names)}
    safetensors.torch.save_file(whole, partial, about)
    partial.replace(path)


def load_batch(path: Path) -> tuple[Example, Candidates, float] | None:
    """What :func:`save_batch` wrote; None if there is nothing."""
    if not path.exists():
        return None
    with safetensors.safe_open(path, framework="pt") as file:
        seconds, names = float(file.metadata()["seconds"]), tuple(json.loads(file.metadata()["names"]))
        held: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)

    def part(prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)}

    example = Example(Batch(**part("given/")), held["target"], held["wanted"])
    return example, Candidates(**part("candidates/"), names=names), seconds


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
