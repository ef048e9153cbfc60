"""Files that are left out of training: what is scored of them, and the weights that are trained with and without them.

Weights that are there are not trained again; a run that was killed goes on from its state.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pretrain
import torch
from torch import nn

from scoring.cases import Material
from scoring.runs import code_digest
from scoring.seen import account_of, is_of
from stimpute.errors import InputError, ModelError
from stimpute.evaluation.scoreboard import crop_to
from stimpute.inference.devices import choose_device
from stimpute.model.batch import Batch
from stimpute.model.candidates import Candidates
from stimpute.model.config import ModelConfig
from stimpute.model.method import STMethod
from stimpute.model.st_transformer import Prediction
from stimpute.pretrained.registry import LoadedModel, load_model
from stimpute.training import FeedOptions, TrainOptions, TrainProgress, read_npz, run_training

#: files that show the same quantity at the same places, and partly at the same times: left out together
KIN = (
    ("strbook_sst_anom", "pacificSST"),
    (
        "c3s_sm_combined_monthly_2018", "c3s_sm_passive_monthly_2017", "esa_cci_sm_active_daily_201606",
        "esa_cci_sm_combined_daily_201606", "esa_cci_sm_passive_daily_201606",
    ),
)  # fmt: skip
CROPS, MOST_CROPS = (
    3,
    4,
)  # of a data set: at least (from pieces of its time where it has fewer windows), at most
SHORTEST = 8  # steps of such a piece


# --- what is scored ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """A training file: its stem, its path in the data folder, and its entry in the recipe."""

    name: str
    file: str
    entry: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def gone(self) -> tuple[str, ...]:
        """The stems of all files that are left out with it, its own first.

        >>> Dataset("pacificSST", "pacificSST.nc").gone
        ('pacificSST', 'strbook_sst_anom')
        """
        kin = next((group for group in KIN if self.name in group), (self.name,))
        return (self.name, *(stem for stem in kin if stem != self.name))


def read_datasets(recipe: Path | None = None) -> dict[str, Dataset]:
    """Every file that trains, by its stem."""
    entries = tomllib.loads((recipe or pretrain.RECIPE).read_text(encoding="utf-8"))["archive"]
    found = [Dataset(Path(entry["path"]).stem, entry["path"], entry) for entry in entries]
    return {dataset.name: dataset for dataset in found}


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of one packed archive of a data set, as the file has it."""

    name: str
    archive: str
    material: Material

    @property
    def digest(self) -> str:
        """Changes with the values."""
        whole = hashlib.sha256(self.material.stack.with_nan().tobytes())
        whole.update(str(self.material.stack.shape).encode())
        return whole.hexdigest()[:12]


def crops(dataset: Dataset, data: Path, max_cells: int, wanted: int = CROPS) -> list[Crop]:
    """Crops of what is packed of a data set, each where most cells were ever observed.

    Parameters
    ----------
    max_cells : cell-steps of a crop (about; not below 32 x 32 cells).
    wanted : crops at least, from pieces of the series where fewer windows are packed and they are long enough.

    Raises
    ------
    InputError : the file cannot be read.
    """
    packed = list(pretrain.parts(data / dataset.file, dataset.entry))[:MOST_CROPS]
    pieces = -(-wanted // max(len(packed), 1))
    found = []
    for name, layer, part in packed:
        for number, piece in enumerate(in_pieces(part.shape[0], pieces)):
            stack = part.window(piece, slice(None), slice(None))
            window = crop_to(np.asarray(stack.valid.any(axis=0)), stack.shape[0], max_cells)
            inside = stack.window(*window.slices)
            material = Material(inside, replace(layer, shape=inside.shape))
            found.append(Crop(f"{name}-{number}", f"{name}.npz", material))
    return found


def in_pieces(steps: int, pieces: int) -> list[slice]:
    """A series in pieces of about equal length; as many as are not too short.

    >>> in_pieces(100, 3)
    [slice(0, 33, None), slice(33, 66, None), slice(66, 100, None)]
    >>> in_pieces(12, 3)
    [slice(0, 12, None)]
    """
    count = max(1, min(pieces, steps // SHORTEST))
    edges = [steps * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


# --- the weights ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """How a training run went.

    Parameters
    ----------
    archives : how many it was trained on.
    steps, minutes : done.
    device : that it ran on.
    code : state of the package's code when it began.
    """

    archives: int
    steps: int
    minutes: float
    device: str
    code: str


@dataclass(frozen=True)
class Plan:
    """One training run. The recipe is that of the shipped weights.

    Parameters
    ----------
    without : stems of files that are left out; none: trained with everything.
    steps, minutes : the budget, one of them.
    seed : of weights and examples.
    start : name or path of a model to go on from; None: untrained.
    shapes : (batch, time, y, x) of steps; None: the recipe's.
    """

    without: tuple[str, ...]
    steps: int | None
    minutes: float | None
    seed: int
    start: str | None = None
    shapes: tuple[tuple[int, int, int, int], ...] | None = None

    def kept(self, archives: Sequence[Path]) -> list[Path]:
        """The archives that it trains on."""
        return [path for path in archives if not any(is_of(path.name, stem) for stem in self.without)]

    def options(self, out: Path, device: str = "auto", workers: int = 0) -> TrainOptions:
        """Of the package's training loop. Nothing is set aside and nothing chosen: the averaged weights of the last step count."""
        recipe: dict[str, Any] = tomllib.loads(pretrain.RECIPE.read_text(encoding="utf-8"))["training"]
        shapes = self.shapes or tuple(tuple(shape) for shape in recipe["shapes"])
        return TrainOptions(
            out, ModelConfig.small(), start=self.start, steps=self.steps, minutes=self.minutes, seed=self.seed,
            feed=FeedOptions(world_share=recipe["world_share"], shapes=shapes), lr=recipe["lr"], reuse=recipe["reuse"],
            val_fraction=0.0, val_examples=0, resume=True, device=device, workers=workers,
        )  # fmt: skip

    def stem(self, archives: Sequence[Path]) -> str:
        """A file name that changes with anything that changes the weights but the machine and the code."""
        options = self.options(Path("-"))
        told = [
            options.model.to_dict(), asdict(options.feed), asdict(options.loss), options.lr, options.reuse, self.steps, self.minutes,
            self.seed, self.start and load_model(self.start).sha256, [path.name for path in self.kept(archives)],
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
        return f"without-{self.without[0]}.{digest}" if self.without else f"everything.{digest}"


def trained(
    plan: Plan,
    archives: Sequence[Path],
    folder: Path,
    device: str = "auto",
    workers: int = 0,
    fresh: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
) -> tuple[LoadedModel, Course]:
    """The weights of a plan, trained now if they are not there yet.

    Raises
    ------
    ModelError : the card of the weights says that they saw what was left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = plan.options(folder / f"{plan.stem(archives)}.safetensors", device, workers)
    about = options.out.with_suffix(".code.json")
    if fresh:
        for path in (options.out, options.state_path, about):
            path.unlink(missing_ok=True)
    if not options.out.exists():
        if not options.state_path.exists():
            about.write_text(json.dumps({"code": code_digest()}), encoding="utf-8")
        run_training(options, [read_npz(path) for path in plan.kept(archives)], progress)
    model = load_model(str(options.out))
    account = account_of(model)
    for stem in plan.without:
        if account.saw(stem):
            raise ModelError(f"{options.out.name}: trained without {stem}, but its card says it saw it")
    told = model.card["training"]
    code = json.loads(about.read_text(encoding="utf-8"))["code"] if about.exists() else ""
    return model, Course(len(told["archives"]), told["steps"], told["minutes"], told["device"], code)


def check_start(start: str | None, datasets: Sequence[Dataset]) -> None:
    """Nothing can be left out of a start that saw it.

    Raises
    ------
    InputError : its card says so, or does not say that it did not.
    """
    if start is None:
        return
    account = account_of(load_model(start))
    for dataset in datasets:
        for stem in dataset.gone:
            saw = account.saw(stem)
            if saw is not False:
                told = "says that it saw" if saw else "does not tell whether it saw"
                raise InputError(f"--start {start}: its card {told} {stem}, which is to be left out")


def check_archives(archives: Sequence[Path], datasets: Sequence[Dataset]) -> None:
    """What is to be left out must be there.

    Raises
    ------
    InputError : no archive of a data set.
    """
    for dataset in datasets:
        if not any(is_of(path.name, dataset.name) for path in archives):
            raise InputError(
                f"no archive of {dataset.name} among {len(archives)}: pack them (benchmarks/pretrain.py pack) and name the "
                "folder with --archives"
            )


# --- the candidates alone ---------------------------------------------------------------------------------------------


class PriorNetwork(nn.Module):
    """No network at all: the blend of candidates that every network starts from."""

    config = ModelConfig.small()

    def forward(self, batch: Batch, candidates: Candidates) -> Prediction:
        """The prior and its error as they are."""
        return Prediction(candidates.prior, 1.25 * candidates.prior_error)


def prior_method(device: str, threads: int | None = None) -> STMethod:
    """The candidates' prior, in the tiles that a network gets."""
    method = STMethod(PriorNetwork(), choose_device(device, threads))  # type: ignore[arg-type]
    method.name = "prior"
    return method


def set_threads(threads: int) -> None:
    """For training."""
    torch.set_num_threads(threads)
