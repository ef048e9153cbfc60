"""How the shipped weights are made: pack the training files, then train, resumable at any moment.

    python benchmarks/pretrain.py pack ../shared/data runs/archives
    python benchmarks/pretrain.py train runs/archives -o runs/st-small.safetensors --minutes 80
    python benchmarks/pretrain.py seen runs/archives stimpute/pretrained/st-small.safetensors

Training needs torch and numpy only, so the packed archives may travel to another machine. Without archives it runs on simulated
worlds alone. `pretrain.toml` says which files train; the files that only judge (docs/decisions/0014) are not in it. `--without` leaves
more out, by the beginnings of their archives' names; the weights' card lists what was trained on. `seen` surveys the training
examples, and the archives as wholes, with the survey that `fill` makes of a stack, and writes the 1 %, 50 % and 99 % quantiles beside
the weights, whichever they are at the time: `fill` warns outside of them.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stimpute.errors import InputError, StimputeError

if TYPE_CHECKING:
    from stimpute.protocols import Layer
    from stimpute.stack import Stack
    from stimpute.training import Archive
    from stimpute.training.feed import Feed

RECIPE = Path(__file__).with_suffix(".toml")
MAX_BYTES = 8e6  # of one archive in float32
MAX_STEPS = 400
MAX_WINDOWS = 3


def main(given: Sequence[str] | None = None) -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="training files -> .npz archives")
    packing.add_argument("data", type=Path)
    packing.add_argument("out", type=Path)
    packing.set_defaults(run=lambda a: pack(a.data, a.out))
    training = commands.add_parser("train", help="archives and simulated worlds -> weights and card")
    training.add_argument("archives", type=Path, nargs="?")
    training.add_argument("-o", "--out", type=Path, required=True)
    training.add_argument(
        "--minutes", type=float, required=True, help="the whole budget, interrupted runs included"
    )
    training.add_argument(
        "--without", type=_names, default=(), metavar="NAME[,NAME]", help="leave out archives whose file name starts so"
    )  # fmt: skip
    training.add_argument("--size", choices=("small", "base"), default="small")
    training.add_argument("--start", help="name or path of a model to go on from")
    training.add_argument("--lr", type=float, help="learning rate at its highest (default: the recipe's)")
    training.add_argument("--device", default="auto")
    training.add_argument("--threads", type=int, default=1)
    training.add_argument("--workers", type=int, default=0, help="further processes that make batches ahead")
    training.set_defaults(run=train)
    seeing = commands.add_parser(
        "seen", help="survey of the training examples -> NAME.seen.json beside weights"
    )
    seeing.add_argument("archives", type=Path, nargs="?")
    seeing.add_argument("weights", type=Path)
    seeing.add_argument("--steps", type=int, default=150, help="of training, surveyed example by example")
    seeing.set_defaults(run=write_seen)
    arguments = parser.parse_args(given)
    try:
        arguments.run(arguments)
    except StimputeError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return 1
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def pack(data: Path, out: Path) -> None:
    """Write windows of every training file as `.npz`: values with NaN in gaps, times, phases."""
    out.mkdir(parents=True, exist_ok=True)
    for entry in tomllib.loads(RECIPE.read_text())["archive"]:
        path = data / entry["path"]
        if not path.exists():
            print(f"absent: {path}")
            continue
        for name, _, part in parts(path, entry):
            np.savez_compressed(
                out / f"{name}.npz", values=part.with_nan(), times=part.times,
                year_phase=part.year_phase, day_phase=part.day_phase,
            )  # fmt: skip
            print(f"{name}: {part.shape}, {1 - part.valid.mean():.0%} missing")


def parts(path: Path, entry: dict[str, Any]) -> Iterator[tuple[str, Layer, Stack]]:
    """The windows of one training file that are packed: name of the archive, the file's layer, the window in memory."""
    from stimpute.io import ReadOptions, open_source
    from stimpute.protocols import Window

    months = [f"{1900 + m // 12}-{m % 12 + 1:02}-15" for m in range(entry.get("months", 0))]
    options = ReadOptions(tuple(entry["variables"]), force=True, times=tuple(months) or None)
    with open_source([path], options) as source:
        for index, layer in enumerate(source.layers):
            if any(layer.index.values()):  # the first level or member only
                continue
            stack = source.read(Window.whole(layer.shape), index)
            for number, (steps, rows, columns) in enumerate(windows(stack.valid)):
                yield f"{path.stem}-{layer.variable}-{number}", layer, stack.window(steps, rows, columns)


def windows(valid: np.ndarray) -> Iterator[tuple[slice, slice, slice]]:
    """The whole where it is small, else up to three windows of space where most is observed, each with its own steps."""
    t, ny, nx = valid.shape
    if valid.size * 4 <= MAX_BYTES:
        yield slice(None), slice(None), slice(None)
        return
    steps = min(t, MAX_STEPS)
    side = int(np.sqrt(MAX_BYTES / 4 / steps))
    h, w = min(ny, side), min(nx, side)
    observed = valid[:: max(t // 20, 1)].mean(axis=0)
    total = np.pad(observed.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    used = np.zeros((ny, nx), dtype=bool)
    for number in range(MAX_WINDOWS):
        places = [
            (total[i + h, j + w] - total[i, j + w] - total[i + h, j] + total[i, j], i, j)
            for i in range(0, ny - h + 1, max(h // 4, 1))
            for j in range(0, nx - w + 1, max(w // 4, 1))
            if used[i : i + h, j : j + w].mean() <= 0.3
        ]
        best, i, j = max(places, default=(0.0, 0, 0))
        if best < 0.02 * h * w:
            return
        used[i : i + h, j : j + w] = True
        first = (t - steps) * number // MAX_WINDOWS
        yield slice(first, first + steps), slice(i, i + h), slice(j, j + w)


def archive_paths(folder: Path | None, without: Sequence[str] = ()) -> list[Path]:
    """The archives of a folder, but those whose file name starts with one of ``without``.

    Raises
    ------
    InputError : no archive's name starts so.
    """
    paths = sorted(folder.glob("*.npz")) if folder else []
    for name in without:
        if not any(path.name.startswith(name) for path in paths):
            raise InputError(
                f"--without {name}: the file name of none of the {len(paths)} archives starts so"
            )
    return [path for path in paths if not path.name.startswith(tuple(without))]


def train(arguments: argparse.Namespace) -> None:
    """Half simulated worlds, half crops of the archives, until the budget is used; call again to go on."""
    import torch

    from stimpute.model.config import ModelConfig
    from stimpute.training import FeedOptions, TrainOptions, TrainProgress, read_npz, run_training

    torch.set_num_threads(arguments.threads)
    recipe: dict[str, Any] = tomllib.loads(RECIPE.read_text())["training"]
    archives = [read_npz(path) for path in archive_paths(arguments.archives, arguments.without)]

    def say(state: TrainProgress) -> None:
        if state.validation is not None:
            checked = state.validation
            print(
                f"{state.step:6d} {state.elapsed / 60:6.1f} min  vs_best {checked.vs_best:.4f}  vs_linear {checked.vs_linear:.4f}"
                f"  vs_prior {checked.vs_prior:.4f}  coverage {checked.coverage:.3f}",
                flush=True,
            )

    options = TrainOptions(
        arguments.out,
        ModelConfig.base() if arguments.size == "base" else ModelConfig.small(),
        start=arguments.start,
        all_candidates=True,
        minutes=arguments.minutes,
        feed=FeedOptions(world_share=recipe["world_share"], shapes=tuple(tuple(s) for s in recipe["shapes"])),
        lr=recipe["lr"] if arguments.lr is None else arguments.lr,
        reuse=recipe["reuse"],
        seed=recipe["seed"],
        val_seconds=recipe["val_seconds"],
        val_examples=recipe["val_examples"],
        save_seconds=120,
        resume=True,
        keep_state=True,
        device=arguments.device,
        workers=arguments.workers,
    )
    print(run_training(options, archives, say))


def write_seen(arguments: argparse.Namespace) -> None:
    """Quantiles of gaps, range and noise over what training sees."""
    import json

    from stimpute.pretrained.checkpoint import seen_path
    from stimpute.training import FeedOptions, read_npz
    from stimpute.training.feed import Feed

    recipe: dict[str, Any] = tomllib.loads(RECIPE.read_text())["training"]
    archives = [read_npz(path) for path in archive_paths(arguments.archives)]
    feed = Feed(
        archives,
        FeedOptions(world_share=recipe["world_share"], shapes=tuple(tuple(s) for s in recipe["shapes"])),
        seed=recipe["seed"],
    )
    found: dict[str, list[float]] = {}
    count = 0
    for stack in examined(feed, archives, arguments.steps):
        count += 1
        for name, value in surveyed(stack).items():
            found.setdefault(name, []).append(value)
    ranges = {
        name: [round(float(q), 4) for q in np.quantile(values, (0.01, 0.5, 0.99))]
        for name, values in sorted(found.items())
    }
    told = {"quantiles": [0.01, 0.5, 0.99], "ranges": ranges, "examples": count, "archives": len(archives)}
    seen_path(arguments.weights).write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told))


def examined(feed: Feed, archives: Sequence[Archive], steps: int) -> Iterator[Stack]:
    """What the network is given in some training steps, and the archives as wholes, on index grids."""
    from stimpute.stack import Stack

    for step in range(steps):
        given = feed.example(step).given
        for values, valid, times in zip(given.values.numpy(), given.valid.numpy(), given.times.numpy()):
            if valid.sum() > 1:
                yield Stack.from_array(np.where(valid, values, np.nan), times=times.astype(np.float64))
    for archive in archives:
        yield Stack.from_array(archive.values, times=archive.times)


def surveyed(stack: Stack) -> dict[str, float]:
    """The traits that the survey of a fill finds in a stack."""
    from stimpute.errors import VariogramError
    from stimpute.inference.familiarity import traits
    from stimpute.variography import analyse

    try:
        variogram = analyse(stack, max_pairs=200_000)
    except VariogramError:
        variogram = None
    return traits(stack.valid.sum(axis=0), stack.shape[0], variogram, stack.grid)


if __name__ == "__main__":
    sys.exit(main())
