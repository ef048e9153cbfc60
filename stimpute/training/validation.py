"""How good a network is on what it never saw, beside what it starts from. Knows nothing about training.

Judged are cells set aside in the training archives, archives never trained on, and worlds from seeds of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.layers.prediction import Prediction
from stimpute.model.candidates import CANDIDATES, Candidates, compute_candidates
from stimpute.model.st_transformer import STTransformer
from stimpute.training.archive import Archive
from stimpute.training.feed import Example, Feed, FeedOptions, Shape4, filled, validation_example
from stimpute.training.loss import candidate_errors, per_example

_SEED = 0x7A11D
_LEAST = 8  # wanted cells of an example that counts
_MANY = 8  # from this many archives on, two windows of each are enough

Aside = npt.NDArray[np.bool_]
Judged = tuple[str, Example, Candidates]


@dataclass(frozen=True)
class Validation:
    """How good a network is on examples it never saw; ratios are geometric means over examples, below 1 is better.

    Parameters
    ----------
    vs_best : error over that of the best candidate of each example, chosen with the truth in hand. What training keeps the best of.
    vs_linear, vs_prior : over linear interpolation in time, over the blend that the network starts from.
    mae : in standard deviations of what is observed.
    coverage : share of wanted cells within 1.645 scales (0.9 would be right).
    examples : how many.
    groups : ``vs_best`` by origin.
    """

    vs_best: float
    vs_linear: float
    vs_prior: float
    mae: float
    coverage: float
    examples: int
    groups: dict[str, float]


@dataclass(frozen=True, eq=False)
class Errors:
    """Per example (B,): errors of the network, the best candidate, linear, the prior; coverage; whether it counts."""

    network: Tensor
    best: Tensor
    linear: Tensor
    prior: Tensor
    coverage: Tensor
    counts: Tensor


@torch.no_grad()
def errors_of(prediction: Prediction, example: Any, candidates: Any) -> Errors:
    """What a prediction gets wrong beside what the candidates do (of either task; the ``linear`` one is named so in both)."""
    each = candidate_errors(candidates, example)
    residual = (prediction.mean - example.target).abs()
    return Errors(
        per_example(residual, example.wanted),
        each.amin(dim=1),
        each[:, candidates.names.index("linear")],
        per_example((candidates.prior - example.target).abs(), example.wanted),
        per_example((residual <= 1.645 * prediction.scale).float(), example.wanted),
        countable(example),
    )


def countable(example: Any) -> Tensor:
    """Which examples of a batch are asked for enough cells to count, (B,) bool."""
    wanted: Tensor = example.wanted
    return wanted.flatten(1).sum(dim=1) >= _LEAST


def summarise(errors: list[tuple[str, Errors]]) -> Validation:
    """One validation from the errors of all its batches, each with the name of its group."""

    def joined(quantity: str, group: str | None = None) -> Tensor:
        chosen = [getattr(e, quantity)[e.counts].double() for name, e in errors if group in (None, name)]
        return torch.cat(chosen)

    network, best = joined("network"), joined("best")
    names = sorted({name for name, e in errors if bool(e.counts.any())})
    return Validation(
        vs_best=_ratio(network, best),
        vs_linear=_ratio(network, joined("linear")),
        vs_prior=_ratio(network, joined("prior")),
        mae=round(float(network.mean()), 6),
        coverage=round(float(joined("coverage").mean()), 6),
        examples=len(network),
        groups={name: _ratio(joined("network", name), joined("best", name)) for name in names},
    )


@torch.no_grad()
def judge(network: STTransformer, judged: Sequence[Judged]) -> Validation:
    """A network, in the mode it is in, on examples of :func:`validation_set`."""
    errors = [(n, errors_of(network(e.given, c), e, c)) for n, e, c in judged]
    return summarise(errors)


def _ratio(error: Tensor, reference: Tensor, noise: float = 2e-3) -> float:
    return round(float(torch.exp(((error + noise).log() - (reference + noise).log()).mean())), 6)


def validation_set(
    archives: Sequence[tuple[Archive, Aside]],
    unseen: Sequence[Archive],
    feed: Feed,
    count: int,
    device: torch.device,
    names: tuple[str, ...] = CANDIDATES,
) -> list[Judged]:
    """Fixed examples with their group's name and their candidates.

    Parameters
    ----------
    archives : whole, each with the cells set aside in it; every one is asked at least once.
    unseen : archives never trained on.
    feed : the training's, for its shapes, covariates and whether it has worlds.
    count : batches of each origin (``archives`` gives more where there are more archives).
    device : where they are judged.
    names : of the candidates.
    """
    generator = np.random.default_rng([feed.seed, _SEED])
    examples = [
        *_aside_examples(archives, feed, count, generator),
        *_unseen_examples(unseen, feed, count, generator),
    ]
    if feed.options.world_share:
        worlds = Feed([], FeedOptions(feed.options.shapes), seed=_SEED)
        examples += [("worlds", worlds.example(i)) for i in range(count)]
    moved = [(name, example.to(device)) for name, example in examples if bool(countable(example).any())]
    return [(name, example, compute_candidates(example.given, names=names)) for name, example in moved]


def _aside_examples(
    archives: Sequence[tuple[Archive, Aside]], feed: Feed, count: int, generator: np.random.Generator
) -> Iterator[tuple[str, Example]]:
    asked = [pair for pair in archives if pair[1].any()]
    if not asked:
        return
    extra = [asked[int(i)] for i in generator.integers(len(asked), size=count - 1)]
    for archive, cells in (*asked, *extra):
        b, *window = fitting_shape(archive, feed.options.shapes, generator)
        shape = (2 if len(asked) > _MANY else min(b, 4), window[0], window[1], window[2])
        example = validation_example(archive, cells, generator, shape, feed.covariates, feed.standardised)
        yield archive.name, example


def _unseen_examples(
    unseen: Sequence[Archive], feed: Feed, count: int, generator: np.random.Generator
) -> Iterator[tuple[str, Example]]:
    for i in range(max(count, len(unseen)) if unseen else 0):
        archive = unseen[i % len(unseen)]
        shape = fitting_shape(archive, feed.options.shapes, generator)
        plain = FeedOptions((shape,), world_share=0.0, hide=(0.1, 0.6), augment="none", drop_covariates=0.0)
        alone = Feed([archive], plain, seed=_SEED, covariates=feed.covariates, whole_grid=feed.whole_grid)
        yield archive.name, alone.example(i)


def fitting_shape(archive: Archive, shapes: Sequence[Shape4], generator: np.random.Generator) -> Shape4:
    """One of the shapes that the archive fills, or the one that it fills best."""
    share = [filled(archive, s) for s in shapes]
    full = [s for s, part in zip(shapes, share, strict=True) if part == max(share)]
    return full[int(generator.integers(len(full)))]
