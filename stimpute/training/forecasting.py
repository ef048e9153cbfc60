"""Training of forecasts: origins in worlds and archives, what came before and what came next. Knows nothing about files.

Stateless like the feed of gaps: the examples of step ``s`` on rank ``r`` derive from ``(seed, s, r)`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.errors import InputError
from stimpute.forecasting.config import ForecastConfig
from stimpute.forecasting.graph import divisions_of, graph_of, laplacian_positions
from stimpute.forecasting.guesses import Guesses, make_guesses
from stimpute.forecasting.method import LEAST_STEPS
from stimpute.forecasting.network import SBATransformer, Surroundings
from stimpute.forecasting.series import History, closed_up, cycle, even_slots, regular, slots_back
from stimpute.grid import Grid
from stimpute.pretrained.registry import load_forecaster
from stimpute.synthetic import sample_gaps, sample_worlds
from stimpute.training.archive import Archive
from stimpute.training.feed import torch_generator
from stimpute.training.loop import Run, run_training
from stimpute.training.options import TrainOptions, TrainProgress, TrainSummary
from stimpute.training.validation import countable

_VALIDATION = 0xF0E
CONTEXT = (400, 1000)  # slots that training looks back on: at least where there are as many, at most
_TRIES = 8
ASKED = 3  # earlier origins that guesses are weighed by: fewer than in a forecast, since every example pays for them


@dataclass(frozen=True)
class ForecastFeedOptions:
    """How examples are drawn.

    Parameters
    ----------
    horizons : steps ahead; one is drawn for every step.
    batch : origins of an example; they share their nodes.
    side : of the crop of a raster, in cells; stations come ``side ** 2`` at most.
    world_share : part of the examples that are simulated.
    hide : largest part of what is observed before the origin that is hidden in archives.
    """

    horizons: tuple[int, ...] = (6, 14, 24)
    batch: int = 4
    side: int = 16
    world_share: float = 0.5
    hide: float = 0.3

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) < 1 or self.batch < 1 or self.side < 2:
            raise ValueError(f"horizons {self.horizons}, batch {self.batch}, side {self.side}: out of range")
        if not (0 <= self.world_share <= 1 and 0 <= self.hide < 1):
            raise ValueError(f"world_share {self.world_share}, hide {self.hide}: out of range")


@dataclass(frozen=True, eq=False)
class ForecastExample:
    """A batch of origins as the network sees it, and what came next.

    Parameters
    ----------
    given : normalised by itself.
    target : (B, H, 1, N) in the same units; meaningful where ``wanted``.
    wanted : (B, H, 1, N) bool, the cells that count.
    around : the graph.
    """

    given: History
    target: Tensor
    wanted: Tensor
    around: Surroundings

    @classmethod
    def from_truth(cls, past: History, truth: Tensor, known: Tensor, around: Surroundings) -> ForecastExample:
        """Normalise the past by itself, and ``truth`` (B, H, N) with it. Nodes without a past are not asked for."""
        given, center, scale = past.normalised()
        target = ((truth - center[:, None]) / scale[:, None, None]).float()
        wanted = known & past.valid.any(dim=1, keepdim=True)
        return cls(given, torch.where(wanted, target, 0.0)[:, :, None], wanted[:, :, None], around)

    def to(self, device: torch.device | str) -> ForecastExample:
        """All tensors on ``device``; the graph stays where it was made."""
        return replace(
            self, given=self.given.to(device), target=self.target.to(device), wanted=self.wanted.to(device)
        )


class ForecastFeed:
    """Examples for training.

    Parameters
    ----------
    archives : to draw origins from; may be empty.
    options : how.
    config : of the network, whose parts and positions the examples carry.
    seed, rank : with the step's number, the only source of randomness.
    first : per archive, the first step that may be wanted (0: any).

    Raises
    ------
    InputError : nothing to train on, or archives too short.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        options: ForecastFeedOptions,
        config: ForecastConfig,
        *,
        seed: int = 0,
        rank: int = 0,
        first: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        share = options.world_share if archives else 1.0
        if not archives and not options.world_share:
            raise InputError("nothing to train on: give archives, or --worlds for simulated worlds")
        least = LEAST_STEPS + min(options.horizons)
        for archive in archives:
            if archive.shape[0] < least:
                raise InputError(
                    f"{archive.name}: {archive.shape[0]} steps are too few to learn forecasts from; at least {least}"
                )
        self.archives, self.config = list(archives), config
        self.options = replace(options, world_share=share)
        self.first = list(first) or [0] * len(self.archives)
        self.seed, self.rank, self.device = seed, rank, torch.device(device)

    def example(self, step: int) -> ForecastExample:
        """The batch of one step."""
        lot = np.random.default_rng([self.seed, step, 0x5A])
        horizon = int(lot.choice(self.options.horizons))
        generator = np.random.default_rng([self.seed, step, self.rank, 0xF0])
        if generator.random() < self.options.world_share:
            return self.worlds(generator, horizon)
        weight = np.array([a.values.size for a in self.archives], dtype=float) ** 0.25
        return self.origins(int(generator.choice(len(weight), p=weight / weight.sum())), generator, horizon)

    def worlds(self, generator: np.random.Generator, horizon: int) -> ForecastExample:
        """Simulated worlds with simulated gaps before the origin, everything wanted after it."""
        b, side = self.options.batch, self.options.side
        count = int(generator.choice((40, 96, 160)))
        shape = (count + horizon, side, side)
        random = torch_generator(generator)
        drawn = sample_worlds(random, b, shape, covariates=False)
        valid = sample_gaps(random, b, shape, truth=drawn.truth, times=drawn.times)
        whole = torch.from_numpy(generator.random(b) < 0.35)
        valid = (valid | whole[:, None, None, None]).flatten(2)
        truth = drawn.truth.flatten(2)
        step = drawn.times.double().diff(dim=1).median(dim=1).values.clamp_min(1e-4)
        phases = torch.stack((drawn.year_phase[:, count - 1], drawn.day_phase[:, count - 1]), dim=1)
        past = History(
            torch.where(valid, truth, 0.0)[:, :count], valid[:, :count], tuple(cycle(float(s), count) for s in step), phases, step.float()
        )  # fmt: skip
        around = self.around(Grid.from_shape(side, side), np.ones((side, side), dtype=bool))
        return ForecastExample.from_truth(past, truth[:, count:], torch.ones_like(valid[:, count:]), around)

    def origins(
        self, number: int, generator: np.random.Generator, horizon: int, hide: bool = True
    ) -> ForecastExample:
        """Several origins in one crop of an archive, the best of a few by what is observed after them."""
        best: tuple[int, Any] = (-1, None)
        for _ in range(_TRIES):
            made = self._origins(self.archives[number], self.first[number], generator, horizon, hide)
            wanted = int(made[2].sum())
            if wanted > best[0]:
                best = wanted, made
            if wanted >= 0.1 * made[2].numel():
                break
        past, truth, known, around = best[1]
        return ForecastExample.from_truth(past, truth, known, around)

    def _origins(
        self, archive: Archive, first: int, generator: np.random.Generator, horizon: int, hide: bool
    ) -> tuple[History, Tensor, Tensor, Surroundings]:
        cells, grid, ever = self._crop(archive, generator)
        slots, step = even_slots(archive.times)
        span = int(-slots.min()) + 1
        count = min(slots_back(step, span), max(CONTEXT[0], 3 * cycle(step, span)), CONTEXT[1], span - 1)
        values = archive.values.reshape(archive.shape[0], -1)[:, cells]
        valid = np.isfinite(values)
        latest = archive.shape[0] - 2
        earliest = min(max(first - 1, LEAST_STEPS, archive.shape[0] // 8), latest)
        pasts, truths, knowns = [], [], []
        sign = generator.choice((-1.0, 1.0)) if hide else 1.0
        for at in generator.integers(earliest, latest + 1, size=self.options.batch):
            origin = int(at)
            shown = valid[: origin + 1]
            if hide and self.options.hide and generator.random() < 0.6:
                shown = shown & (generator.random(shown.shape) >= generator.uniform(0, self.options.hide))
            past_slots = closed_up(slots[: origin + 1] - slots[origin], step)
            near = past_slots > -count
            pasts.append(
                regular(
                    np.where(shown, sign * values[: origin + 1], 0).astype(np.float32)[near],
                    shown[near],
                    past_slots[near],
                    step,
                    float(archive.year_phase[origin]),
                    float(archive.day_phase[origin]),
                    count,
                )
            )
            truth, known = np.zeros((horizon, len(cells)), np.float32), np.zeros((horizon, len(cells)), bool)
            later = np.flatnonzero((slots > slots[origin]) & (slots <= slots[origin] + horizon))
            places = slots[later] - slots[origin] - 1
            truth[places], known[places] = np.where(valid[later], sign * values[later], 0), valid[later]
            truths.append(torch.from_numpy(truth))
            knowns.append(torch.from_numpy(known))
        joined = History(
            torch.cat([p.values for p in pasts]), torch.cat([p.valid for p in pasts]), (cycle(step, count),) * len(pasts),
            torch.cat([p.phases for p in pasts]), torch.cat([p.step for p in pasts]),
        )  # fmt: skip
        return joined, torch.stack(truths), torch.stack(knowns), self.around(grid, ever)

    def _crop(
        self, archive: Archive, generator: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], Grid, npt.NDArray[np.bool_]]:
        """Flat numbers of the ever-observed cells of a crop, in the order of its graph; its grid; which cells they are."""
        ever = np.asarray(np.isfinite(archive.values).any(axis=0), dtype=bool)
        ny, nx = ever.shape
        grid = archive.grid or Grid.from_shape(ny, nx)
        number = np.arange(ny * nx).reshape(ny, nx)
        if grid.kind == "points":
            most = self.options.side**2
            kept = ever.copy()
            if int(ever.sum()) > most:
                there = np.flatnonzero(ever[0])
                middle = int(generator.choice(there))
                apart = np.hypot(grid.x[there] - grid.x[middle], grid.y[there] - grid.y[middle])
                kept[:] = False
                kept[0, there[np.argsort(apart, kind="stable")[:most]]] = True
            return number.ravel()[graph_of(grid, kept).cells], grid, kept
        rows, cols = np.nonzero(ever)
        chosen = int(generator.integers(len(rows)))
        side = self.options.side
        top, left = (
            int(np.clip(at - generator.integers(side), 0, max(n - side, 0)))
            for at, n in ((rows[chosen], ny), (cols[chosen], nx))
        )
        y, x = slice(top, top + side), slice(left, left + side)
        kept = ever[y, x]
        return number[y, x][kept], Grid.from_shape(*kept.shape), kept

    def around(self, grid: Grid, ever: npt.NDArray[np.bool_]) -> Surroundings:
        """Parts and positions for the network that is trained."""
        graph = graph_of(grid, ever)
        positions = laplacian_positions(graph, self.config.positions).to(self.device)
        return Surroundings(divisions_of(graph, self.config.sides, self.device), positions)


class ForecastRun(Run):
    """The training loop with forecasts to learn."""

    def starting_network(self) -> tuple[Any, dict[str, str] | None]:
        """A new SBATransformer, or the one to go on from."""
        if self.options.start is not None:
            loaded = load_forecaster(self.options.start)
            return loaded.network, {"name": loaded.name, "sha256": loaded.sha256}
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.options.seed)
            return SBATransformer(self.options.model), None

    def material_to_learn_from(self, validation: list[Archive]) -> tuple[Any, list[Any]]:
        """Origins before the last part of every archive to learn from, that part (and other worlds) to validate on."""
        options, config, ranks = self.options, self.network.config, self.ranks
        cuts = [
            a.shape[0] - max(round(options.val_fraction * a.shape[0]), 1 if options.val_fraction else 0)
            for a in self.archives
        ]
        learnt = [before(a, cut) for a, cut in zip(self.archives, cuts)]
        feed = ForecastFeed(
            learnt, options.feed, config, seed=options.seed, rank=ranks.rank, device=ranks.device
        )
        if not ranks.first:
            return feed, []
        wanted: list[tuple[str, ForecastExample]] = []
        generator = np.random.default_rng([options.seed, _VALIDATION])
        for group, first in ((self.archives, cuts), (validation, [0] * len(validation))):
            if not group or (group is self.archives and not options.val_fraction):
                continue
            asked = ForecastFeed(
                group, replace(options.feed, world_share=0.0), config, first=first, device=ranks.device
            )
            for i in range(max(options.val_examples, len(group))):
                number = i % len(group)
                horizon = options.feed.horizons[i // len(group) % len(options.feed.horizons)]
                wanted.append((group[number].name, asked.origins(number, generator, horizon, hide=False)))
        if feed.options.world_share:
            worlds = ForecastFeed([], options.feed, config, seed=_VALIDATION, device=ranks.device)
            wanted += [("worlds", worlds.example(i)) for i in range(options.val_examples)]
        moved = [
            (name, example.to(ranks.device)) for name, example in wanted if bool(countable(example).any())
        ]
        return feed, [(name, example, self.guesses(example)) for name, example in moved]

    def made_ahead(self) -> None:
        """Examples are made as they are needed."""
        return

    def guesses(self, example: Any) -> Guesses:
        """The guesses of a batch of origins."""
        return make_guesses(example.given, example.target.shape[1], ASKED)

    def arguments(self, example: Any, candidates: Any) -> tuple[Any, ...]:
        """History, guesses, graph."""
        return example.given, candidates, example.around

    def learnt_from(self) -> dict[str, Any]:
        """The card's account of the feed."""
        options = self.feed.options
        return {
            "world_share": options.world_share, "horizons": list(options.horizons), "batch": options.batch, "side": options.side,
        }  # fmt: skip


def before(archive: Archive, steps: int) -> Archive:
    """The first steps of an archive."""
    return replace(
        archive, values=archive.values[:steps], times=archive.times[:steps], year_phase=archive.year_phase[:steps],
        day_phase=archive.day_phase[:steps], dynamic={}, static={},
    )  # fmt: skip


def train_forecaster(
    options: TrainOptions,
    archives: Sequence[Archive] = (),
    progress: Callable[[TrainProgress], None] | None = None,
    validation: Sequence[Archive] = (),
) -> TrainSummary:
    """:func:`~stimpute.training.loop.run_training` for forecasts; ``options.feed`` is a :class:`ForecastFeedOptions`."""
    return run_training(options, archives, progress, validation, kind=ForecastRun)
