"""Specialising a model to the stack it is about to fill: bounded windows of it, a small budget, kept only if better.

What holds for this stack alone is wanted here: crops are not varied, and no simulated worlds are mixed in (both were tried). Knows
sources by their protocol only. The adapted weights lie in a temporary folder until they are read back.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from stimpute.errors import DivergenceError, ModelError
from stimpute.pretrained.registry import LoadedModel, load_model
from stimpute.protocols import Source, Window
from stimpute.training.archive import Archive
from stimpute.training.feed import Feed, FeedOptions, Shape4, set_aside
from stimpute.training.loop import run_training
from stimpute.training.options import Precision, TrainOptions, TrainProgress, TrainSummary
from stimpute.training.validation import judge, validation_set

#: (B, T, H, W) of a step: small, so that a short budget holds many
SHAPES: tuple[Shape4, ...] = (
    (2, 16, 32, 32), (1, 24, 40, 40), (1, 36, 32, 32), (1, 64, 24, 24), (1, 120, 16, 16),
)  # fmt: skip
CELLS = 2**23  # cell-steps to learn from at most
WINDOWS, STEPS, SIDE = 8, 400, 48  # of a larger layer: so many, of at most so many steps, at least so wide
MIN_SEEN = 200  # observed cells that make a window worth its place
MIN_ASIDE = 60  # cells set aside: with fewer, nobody could tell whether it helped
NOISE = 2e-3  # standard deviations that no comparison hangs on
EXAMPLES = 6  # batches asked for cells set aside
MOST = 8  # examples of a step
HIDE = (0.05, 0.35)  # part of what is observed: gaps hardly larger than the stack's own
LOOKS = 10  # times the set-aside cells are asked in the course of a budget


@dataclass(frozen=True)
class AdaptOptions:
    """How long and how to adapt.

    Parameters
    ----------
    minutes, steps : the budget, set-up apart; steps are reproducible.
    seed : of windows, cells set aside and examples.
    device, precision : as in training.
    lr : highest learning rate; it is annealed over the budget.
    shapes : of the batches, each cut to what the archives can fill.
    reuse : steps made of each batch of examples.
    aside : part of the observed cells that is never trained on.
    patience : looks at the set-aside cells without progress before it stops early.
    """

    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "fp32"
    lr: float = 5e-4
    shapes: tuple[Shape4, ...] = SHAPES
    reuse: int = 4
    aside: float = 0.06
    patience: int = 6


@dataclass(frozen=True, eq=False)
class Adapted:
    """The model to fill with, and how it came about.

    Parameters
    ----------
    model : adapted, or where it started if that was better.
    kept : whether it is the adapted one.
    summary : of the training; None where too few cells could be set aside and nothing was done, or where it diverged.
    optimism : error on cells set aside over error on cells trained on, of ``model`` over that of the start; at least 1.
    """

    model: LoadedModel
    kept: bool
    summary: TrainSummary | None
    optimism: float = 1.0
    diverged: bool = False


def adapt(
    start: LoadedModel,
    archives: Sequence[Archive],
    options: AdaptOptions,
    progress: Callable[[TrainProgress], None] | None = None,
) -> Adapted:
    """Train on ``archives`` from ``start`` on; what comes out is never worse on the cells set aside than ``start``.

    Raises
    ------
    ModelError : the model needs covariates that an archive does not have.
    InputError : the model is for a grid of another size.
    """
    for archive in archives:
        absent = [n for n in start.config.covariates if n not in archive.dynamic and n not in archive.static]
        if absent:
            raise ModelError(
                f"the model needs the covariates {', '.join(absent)}: give them with --covariate PATH:VAR"
            )
    if sum(int(set_aside(a, options.aside, options.seed).sum()) for a in archives) < MIN_ASIDE:
        return Adapted(start, False, None)
    with tempfile.TemporaryDirectory(prefix="stimpute-adapt-") as folder:
        out = Path(folder) / f"{start.path.stem}-adapted.safetensors"
        try:
            summary = run_training(training_options(start, archives, out, options), archives, progress)
        except DivergenceError:
            return Adapted(start, False, None, diverged=True)
        if summary.start is None or summary.best is None or not summary.best.mae < summary.start.mae:
            return Adapted(start, False, summary)
        adapted = load_model(out)
    gain = _gain(summary.start.mae, summary.best.mae)
    return Adapted(
        adapted, True, summary, max(1.0, gain / gain_where_trained(start, adapted, archives, options))
    )


def training_options(
    start: LoadedModel, archives: Sequence[Archive], out: Path, options: AdaptOptions
) -> TrainOptions:
    """The run that adapts ``start``."""
    by_steps = options.steps is not None
    shapes = fitted_shapes(options.shapes, archives)
    return TrainOptions(
        out, start=start.path, minutes=options.minutes, steps=options.steps, seed=options.seed,
        feed=FeedOptions(shapes, 0.0, HIDE, augment="none", drop_covariates=0.0), lr=options.lr, reuse=options.reuse,
        val_fraction=options.aside, val_examples=EXAMPLES, patience=options.patience, criterion="mae",
        val_steps=max(1, (options.steps or 0) // LOOKS) if by_steps else None,
        val_seconds=60 * (options.minutes or math.inf) / LOOKS, save_seconds=math.inf,
        device=options.device, precision=options.precision, storage="float32",
    )  # fmt: skip


def gain_where_trained(
    start: LoadedModel, adapted: LoadedModel, archives: Sequence[Archive], options: AdaptOptions
) -> float:
    """Error of the adapted model over that of the start, on observed cells that the one was trained on and the other never saw."""
    device = torch.device(options.device)
    seen = [a.hide(set_aside(a, options.aside, options.seed)) for a in archives]
    asked = [(a, set_aside(a, options.aside, options.seed + 1)) for a in seen]
    feed = Feed(
        seen, FeedOptions(fitted_shapes(options.shapes, archives), world_share=0.0), seed=options.seed + 1,
        covariates=start.config.covariates, whole_grid=start.config.spatial_embedding,
    )  # fmt: skip
    judged = validation_set(asked, [], feed, EXAMPLES, device, start.config.candidates)
    if not judged:
        return 1.0
    before, after = (judge(m.network.to(device), judged).mae for m in (start, adapted))
    return _gain(before, after)


def _gain(before: float, after: float) -> float:
    """Error after over error before, rounding noise apart."""
    return (after + NOISE) / (before + NOISE)


def fitted_shapes(shapes: Sequence[Shape4], archives: Sequence[Archive]) -> tuple[Shape4, ...]:
    """The shapes cut to the largest extent of any archive, with more examples where each became smaller.

    >>> stack = Archive.from_array("stack", np.zeros((16, 21, 21)))
    >>> fitted_shapes([(2, 16, 32, 32), (1, 120, 16, 16)], [stack])
    ((4, 16, 21, 21), (7, 16, 16, 16))
    """
    widest = [max(extents) for extents in zip(*(a.shape for a in archives), strict=True)]
    made: list[Shape4] = []
    for b, t, h, w in shapes:
        cut = min(t, widest[0]), min(h, widest[1]), min(w, widest[2])
        made.append((min(MOST, b * t * h * w // math.prod(cut)), *cut))
    return tuple(dict.fromkeys(made))


def read_archives(source: Source, cells: int = CELLS, seed: int = 0) -> list[Archive]:
    """What a source has to learn from, covariates included: every layer whole, or windows of it, about ``cells`` cell-steps each.

    Windows are disjoint (what is set aside in one is not seen in another), drawn at random, and hold observations.
    """
    archives = []
    for index, layer in enumerate(source.layers):
        windows = layer_windows(source, index, cells, seed)
        if len(windows) == 1:
            archives.append(Archive.from_stack(layer.name, source.read(windows[0], index)))
        else:
            archives += _observed(source, index, windows)
    return archives


def layer_windows(source: Source, index: int, cells: int, seed: int = 0) -> list[Window]:
    """:func:`adaptation_windows` of a layer; fewer cells where covariates change with time, which take memory too."""
    covariates = len(source.read(Window((0, 1), (0, 1), (0, 1)), index).dynamic)
    return adaptation_windows(source.layers[index].shape, 2 * cells // (2 + covariates), seed)


def adaptation_windows(shape: tuple[int, int, int], cells: int, seed: int = 0) -> list[Window]:
    """The whole where it has at most ``cells`` cell-steps, else all the blocks it can be cut into, in random order.

    >>> adaptation_windows((10, 20, 30), 6000)
    [Window(time=(0, 10), y=(0, 20), x=(0, 30))]
    >>> len(adaptation_windows((10, 200, 300), 80_000))  # 10 x 50 x 50
    24
    """
    if math.prod(shape) <= cells:
        return [Window.whole(shape)]
    t, ny, nx = shape
    steps = -(-t // -(-t // STEPS))
    side = max(SIDE, math.isqrt(cells // (WINDOWS * steps)))
    edges = [_edges(n, m) for n, m in ((t, steps), (ny, side), (nx, side))]
    blocks = [Window(a, b, c) for a in edges[0] for b in edges[1] for c in edges[2]]
    order = np.random.default_rng([seed, 0xADA97]).permutation(len(blocks))
    return [blocks[i] for i in order]


def _edges(size: int, block: int) -> list[tuple[int, int]]:
    """Half-open ranges of nearly equal length, about ``block`` each, that cover ``size``."""
    count = max(1, round(size / block))
    cuts = [size * i // count for i in range(count + 1)]
    return list(pairwise(cuts))


def _observed(source: Source, index: int, windows: list[Window]) -> Iterator[Archive]:
    """The first windows that hold enough to learn from; if none does, the first that holds anything."""
    name, found, scant = source.layers[index].name, 0, None
    for number, window in enumerate(windows):
        if found == WINDOWS or (number >= 4 * WINDOWS and (found or scant)):
            break
        stack = source.read(window, index)
        seen = int(stack.valid.sum())
        if seen >= max(MIN_SEEN, stack.valid.size // 100):
            found += 1
            yield Archive.from_stack(f"{name} {found}", stack)
        elif seen and scant is None:
            scant = stack
    if not found and scant is not None:
        yield Archive.from_stack(name, scant)
