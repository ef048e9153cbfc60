"""The paper's configuration, trained with the package's own loop, kept on disk, and used as the paper uses it: in windows.

A model that is there is not trained again; a run that was killed goes on from its state.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from scoring import worlds
from scoring.deep import STEPS as WINDOW_STEPS
from scoring.deep import TILE, Tiles
from scoring.runs import code_digest
from stimpute.estimate import Estimate
from stimpute.inference.devices import choose_device
from stimpute.model.config import ModelConfig
from stimpute.model.method import STMethod
from stimpute.pretrained.registry import LoadedModel, load_model
from stimpute.protocols import Imputer
from stimpute.stack import Stack
from stimpute.training import Archive, FeedOptions, LossOptions, TrainOptions, TrainProgress, run_training

#: Adam, cosine from 1e-3 to 1e-4, L1, a fifth to four fifths hidden: the paper's.
LR, LR_FLOOR, HIDE = 1e-3, 0.1, (0.2, 0.8)
VALIDATIONS, CHECKED = 4, 4  # during a run; examples validated on per minute of budget: a few percent of it


@dataclass(frozen=True)
class Row:
    """One row of paper.toml."""

    name: str
    label: str
    kind: str
    studies: tuple[str, ...]
    covariates: worlds.Which
    model: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """Of one network: minutes of the clock, or steps (the same on any machine, whatever else runs there)."""

    amount: float
    unit: Literal["minutes", "steps"] = "minutes"

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the training loop is told: the budget, when to validate and when to save."""
        if self.unit == "steps":
            return {
                "steps": int(self.amount),
                "val_steps": max(1, int(self.amount) // VALIDATIONS),
                "save_seconds": 20.0,
            }
        seconds = 60 * self.amount
        return {
            "minutes": self.amount,
            "val_seconds": seconds / VALIDATIONS,
            "save_seconds": min(20.0, seconds / 2),
        }


@dataclass(frozen=True)
class Plan:
    """What to train, on what, and for how long."""

    study: worlds.Study
    row: Row
    seed: int
    budget: Budget
    sizes: worlds.Sizes
    batch: int = 1
    digits: Path | None = None  # the file of images

    @property
    def window(self) -> tuple[int, int, int]:
        """Steps and cells of an example: the paper's 72 days of 12 x 12 km, or a whole sequence of frames."""
        if self.study == "digits":
            return self.sizes.frames, 28, 28
        return min(WINDOW_STEPS, self.sizes.days), min(TILE, self.sizes.side), min(TILE, self.sizes.side)

    @property
    def checked(self) -> int:
        """Examples that it is validated on."""
        few = round(CHECKED * self.budget.amount) if self.budget.unit == "minutes" else self.sizes.check
        return max(2, min(self.sizes.check, few))

    def options(self, out: Path, covariates: tuple[str, ...], device: str) -> TrainOptions:
        """Of the package's training loop."""
        return TrainOptions(
            out=out, model=ModelConfig.paper(covariates=covariates, **self.row.model), seed=self.seed,
            feed=FeedOptions(((self.batch, *self.window),), world_share=0.0, hide=HIDE, augment="none", drop_covariates=0.0),
            loss=LossOptions(scale_weight=0.0, relative=False), lr=LR, lr_floor=LR_FLOOR, weight_decay=0.0,
            val_fraction=0.06 if self.study == "soil_moisture" else 0.0, val_examples=self.checked,
            resume=True, device=device, **self.budget.settings,
        )  # fmt: skip

    def material(self) -> tuple[list[Archive], list[Archive]]:
        """To learn from, and to validate on."""
        if self.study == "digits":
            assert self.digits is not None
            images = worlds.read_digits(self.digits)
            learn, check = worlds.digit_lessons(images, self.sizes, self.seed)
            lessons = [Archive.from_stack("learn", s) for s in learn]
            return lessons, [Archive.from_stack("check", s) for s in check[: self.checked]]
        year = worlds.with_covariates(worlds.soil_moisture(self.sizes)[0], self.row.covariates)
        return [Archive.from_stack("year", year)], []

    @property
    def stem(self) -> str:
        """A file name that changes with anything that changes the model but the machine and the code."""
        names = ("model", "feed", "loss", "lr", "lr_floor", "weight_decay", "val_fraction", "val_examples")
        options = self.options(Path("-"), (), "cpu")
        told = [
            {n: _plain(getattr(options, n)) for n in names},
            self.row.covariates,
            asdict(self.budget),
            self.sizes.digest,
        ]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.study}.{self.row.name}.{self.seed}.{digest}"


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


@dataclass(frozen=True)
class Course:
    """How a training run went.

    Parameters
    ----------
    steps, minutes : done.
    parameters : of the network.
    errors : (minutes, validation MAE in standard deviations) at each validation.
    code : state of the package's code when it began.
    """

    steps: int
    minutes: float
    parameters: int
    errors: tuple[tuple[float, float], ...]
    code: str

    @property
    def still_falling(self) -> float:
        """By what part the lowest validation error fell in the last third of the budget; NaN if it cannot be told.

        >>> Course(9, 9.0, 1, ((0.0, 4.0), (3.0, 2.0), (6.0, 1.0), (9.0, 0.9)), "").still_falling
        0.1
        """
        before = [mae for at, mae in self.errors if at <= self.minutes * 2 / 3]
        if not before or len(before) == len(self.errors):
            return float("nan")
        return round(1 - min(mae for _, mae in self.errors) / min(before), 6)


def trained(
    plan: Plan, folder: Path, device: str, fresh: bool = False, say: Callable[[str], None] = print
) -> tuple[LoadedModel, Course]:
    """The model of a plan, trained now if it is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{plan.stem}.safetensors"
    about = out.with_suffix(".code.json")
    if fresh:
        for path in (out, about, Path(f"{out}.stimpute-training")):
            path.unlink(missing_ok=True)
    if not out.exists():
        archives, check = plan.material()
        names = tuple(sorted({n for a in archives for n in (*a.dynamic, *a.static)}))
        if not Path(f"{out}.stimpute-training").exists():
            about.write_text(json.dumps({"code": code_digest()}), encoding="utf-8")

        def progress(now: TrainProgress) -> None:
            if now.validation is not None:
                say(
                    f"  {plan.stem}: step {now.step}, {now.elapsed / 60:.1f} min, validation {now.validation.mae:.3f} sd"
                )

        run_training(plan.options(out, names, device), archives, progress, check)
    model = load_model(str(out))
    return model, _course(model, out, about)


def _course(model: LoadedModel, out: Path, about: Path) -> Course:
    """From the log beside the model."""
    lines = [
        json.loads(line) for line in out.with_suffix(".log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    errors = {e["step"]: (e["elapsed"] / 60, e["mae"]) for e in lines if e["event"] == "validation"}
    training = model.card["training"]
    code = json.loads(about.read_text(encoding="utf-8"))["code"] if about.exists() else ""
    return Course(
        training["steps"], max([training["minutes"], *(at for at, _ in errors.values())]),
        sum(p.numel() for p in model.network.parameters()), tuple(errors.values()), code,
    )  # fmt: skip


class InWindows(STMethod):
    """A network as the paper uses it: windows of 72 days of 12 x 12 cells, the mean where they overlap.

    Normalised by what is seen of the whole stack, as `stimpute fill` does: a window with this little in it has too
    uncertain a mean.
    """

    sees_whole = True

    def __init__(self, model: LoadedModel, device: str) -> None:
        super().__init__(model.network, choose_device(device, _threads()))
        self.name = model.name

    def prepare(self, overview: Stack) -> WindowImputer:  # type: ignore[override]
        """Freeze the normalisation."""
        return WindowImputer(super().prepare(overview))


@dataclass(frozen=True)
class WindowImputer:
    """Fills window by window."""

    imputer: Imputer

    def impute(self, stack: Stack) -> Estimate:
        """The mean over the windows that a cell lies in."""
        tiles = Tiles.of(stack.shape)
        said = []
        for corner in tiles.corners:
            t, y, x = (slice(start, start + n) for start, n in zip(corner, tiles.size, strict=True))
            said.append(self.imputer.impute(stack.window(t, y, x)).mean)
        return Estimate(tiles.join(np.stack(said)))


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def set_threads() -> None:
    """As many as the environment says, for training too."""
    torch.set_num_threads(_threads())
