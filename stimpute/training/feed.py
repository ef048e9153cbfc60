"""What a training step sees: simulated worlds and crops of archives, with a part hidden. Knows nothing about networks.

Stateless: the examples of step ``s`` on rank ``r`` derive from ``(seed, s, r)`` alone, so that a killed run goes on with
exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.errors import InputError
from stimpute.model.batch import Batch
from stimpute.synthetic import sample_gaps, sample_worlds
from stimpute.training.archive import Archive
from stimpute.training.crops import Crop, augmented, cut
from stimpute.training.remask import blob, pixel, remask, transplant

Augment = Literal["none", "all"]
Shape4 = tuple[int, int, int, int]

#: (B, T, H, W) of a step's batch: about equal work, very unequal proportions
SHAPES: tuple[Shape4, ...] = (
    (8, 16, 32, 32),
    (8, 10, 40, 40),
    (4, 24, 36, 36),
    (2, 48, 32, 32),
    (8, 24, 24, 24),
    (8, 1, 48, 48),
    (12, 4, 40, 40),
    (2, 12, 64, 64),
    (4, 72, 16, 16),
    (8, 365, 4, 4),
)
_PADDED = 2  # an archive may be this many times smaller than the window; the rest is gap


@dataclass(frozen=True)
class FeedOptions:
    """How examples are drawn.

    Parameters
    ----------
    shapes : (B, T, H, W), one is drawn for every step.
    world_share : part of the examples that are simulated; 1 without archives, 0 for archives only.
    hide : smallest and largest part of an archive's observed cells that is hidden.
    augment : ``all``: flips, turns, changes of sign, time, cadence and marginal, every crop in its own units; ``none``: crops
        only, in units of their archive as a fill of it has them.
    drop_covariates : probability that an example comes without its covariates (free models only).
    """

    shapes: tuple[Shape4, ...] = SHAPES
    world_share: float = 0.5
    hide: tuple[float, float] = (0.1, 0.8)
    augment: Augment = "all"
    drop_covariates: float = 0.3

    def __post_init__(self) -> None:
        if not self.shapes or any(len(s) != 4 or min(s) < 1 for s in self.shapes):
            raise ValueError(f"shapes {self.shapes}: expected (batch, time, y, x), each at least 1")
        if not (0 <= self.world_share <= 1 and 0 < self.hide[0] <= self.hide[1] < 1):
            raise ValueError(f"world_share {self.world_share}, hide {self.hide}: out of range")


@dataclass(frozen=True, eq=False)
class Example:
    """A batch as the network sees it, and what it should have said.

    Parameters
    ----------
    given : normalised per sample by what is visible, or as a part of a larger stack (:func:`in_larger_stacks`).
    target : (B, T, H, W) in the same units; meaningful where ``wanted``.
    wanted : (B, T, H, W) bool, the cells that count; disjoint from ``given.valid``.
    """

    given: Batch
    target: Tensor
    wanted: Tensor

    @classmethod
    def from_truth(cls, seen: Batch, truth: Tensor, wanted: Tensor) -> Example:
        """Normalise ``seen`` by itself, and the truth with it."""
        given, center, scale = seen.renormalised()
        target = (truth - center.view(-1, 1, 1, 1)) / scale.view(-1, 1, 1, 1)
        return cls(given, torch.where(wanted, target, target.new_zeros(())), wanted)

    def to(self, device: torch.device | str) -> Example:
        """All tensors on ``device``."""
        return Example(self.given.to(device), self.target.to(device), self.wanted.to(device))


class Feed:
    """Examples for training.

    Parameters
    ----------
    archives : to crop from; may be empty.
    options : how.
    seed, rank : with the step's number, the only source of randomness.
    covariates : names in the order the model fixed them; empty: whatever an archive has.
    whole_grid : the model has an embedding per cell: no crops in space, no turns.

    Raises
    ------
    InputError : no archives and no worlds, a required covariate absent, archives of another grid.
    """

    def __init__(
        self,
        archives: Sequence[Archive],
        options: FeedOptions = FeedOptions(),
        *,
        seed: int = 0,
        rank: int = 0,
        covariates: tuple[str, ...] = (),
        whole_grid: tuple[int, int] | None = None,
    ) -> None:
        share = options.world_share if archives or not options.world_share else 1.0
        if covariates or whole_grid:
            share = 0.0
        if not archives and share == 0:
            raise InputError(
                "nothing to train on: give archives, or --worlds for a model without fixed covariates or grid"
            )
        for archive in archives:
            absent = [n for n in covariates if n not in archive.dynamic and n not in archive.static]
            if absent:
                raise InputError(f"{archive.name}: the covariates {', '.join(absent)} are absent")
            if whole_grid and archive.shape[1:] != whole_grid:
                raise InputError(
                    f"{archive.name}: grid {archive.shape[1:]}, the spatial embedding is for {whole_grid}"
                )
        shapes = whole_grid_shapes(options.shapes, whole_grid) if whole_grid else options.shapes
        if share == 0:
            shapes = worthwhile(shapes, archives)
        self.standardised = options.augment == "none"
        self.archives = [a.standardised() for a in archives] if self.standardised else list(archives)
        self.options = replace(options, world_share=share, shapes=shapes)
        self.seed, self.rank = seed, rank
        self.covariates, self.whole_grid = covariates, whole_grid

    def shape(self, step: int) -> Shape4:
        """(B, T, H, W) of a step, the same on every rank."""
        lot = np.random.default_rng([self.seed, step, 0x5A])
        return self.options.shapes[int(lot.integers(len(self.options.shapes)))]

    def example(self, step: int) -> Example:
        """The batch of one step."""
        generator = np.random.default_rng([self.seed, step, self.rank, 0xFEED])
        b, *window = self.shape(step)
        t, ny, nx = window
        simulated = int((generator.random(b) < self.options.world_share).sum())
        parts = []
        if simulated:
            donors = [self._donor(generator, (t, ny, nx)) for _ in range(simulated)]
            parts.append(worlds_example(torch_generator(generator), (t, ny, nx), donors))
        if b > simulated:
            crops = [self._crop(generator, (t, ny, nx)) for _ in range(b - simulated)]
            parts.append(crops_example(crops, self.covariates, self.standardised))
        joined = parts[0] if len(parts) == 1 else _joined(parts)
        if not self.covariates and generator.random() < self.options.drop_covariates:
            joined = replace(joined, given=without_covariates(joined.given))
        return in_larger_stacks(joined, generator) if self.options.augment == "all" else joined

    def _crop(self, generator: np.random.Generator, window: tuple[int, int, int]) -> Crop:
        archive = self._choose(generator, window)
        options = self.options
        whole = self.whole_grid is not None
        crop = cut(archive, generator, window, strides=options.augment == "all" and not whole)
        if options.augment == "all":
            crop = augmented(crop, generator, turns=not whole)
        donor = None if whole else self._donor(generator, window)
        valid = np.isfinite(crop.values)
        low, high = options.hide
        if valid.mean() > 0.7 and options.augment == "all":  # hardly any gaps of its own: far more can go
            high = max(high, 0.95)
        hidden = remask(np.nan_to_num(crop.values), valid, generator, (low, high), donor)
        return replace(crop, given=valid & ~hidden, wanted=hidden)

    def _donor(
        self, generator: np.random.Generator, window: tuple[int, int, int]
    ) -> npt.NDArray[np.bool_] | None:
        """What some archive observed in some window, now and then: real gap shapes for worlds and other archives."""
        if len(self.archives) < 2 or generator.random() < 0.65:
            return None
        valid = np.isfinite(cut(self._choose(generator, window), generator, window, strides=False).values)
        return valid if 0.03 < valid.mean() < 0.97 else None

    def _choose(self, generator: np.random.Generator, window: tuple[int, int, int]) -> Archive:
        fits = [
            a for a in self.archives if all(_PADDED * n >= m for n, m in zip(a.shape, window, strict=True))
        ]
        fits = fits or self.archives
        weight = (
            np.array([np.prod(np.minimum(a.shape, [4 * m for m in window])) for a in fits], dtype=float)
            ** 0.25
        )
        return fits[int(generator.choice(len(fits), p=weight / weight.sum()))]


def scaled_shapes(batch: int, shapes: Sequence[Shape4] = SHAPES) -> tuple[Shape4, ...]:
    """The shapes with ``batch`` examples in the first one, and in proportion in the others.

    >>> scaled_shapes(4, [(8, 16, 32, 32), (2, 48, 32, 32)])
    ((4, 16, 32, 32), (1, 48, 32, 32))
    """
    return tuple((max(1, round(b * batch / shapes[0][0])), *rest) for b, *rest in shapes)  # type: ignore[misc]


def whole_grid_shapes(shapes: Sequence[Shape4], grid: tuple[int, int]) -> tuple[Shape4, ...]:
    """Shapes with about as many cells over the whole of a grid: fewer examples, and fewer steps where one would be too large.

    >>> whole_grid_shapes([(8, 16, 32, 32), (8, 365, 4, 4)], (36, 36))
    ((6, 16, 36, 36), (1, 36, 36, 36))
    """
    made = []
    for b, t, h, w in shapes:
        steps = max(1, b * t * h * w // (grid[0] * grid[1]))
        made.append((max(1, steps // t), min(t, steps), *grid))
    return tuple(dict.fromkeys(made))


def filled(archive: Archive, shape: Shape4) -> float:
    """The part of a window of this shape that the archive can fill, in (0, 1]."""
    return float(np.prod([min(1.0, n / m) for n, m in zip(archive.shape, shape[1:], strict=True)]))


def worthwhile(shapes: Sequence[Shape4], archives: Sequence[Archive]) -> tuple[Shape4, ...]:
    """The shapes that some archive fills, if not wholly then at least half as well as any other shape."""
    share = [max(filled(a, s) for a in archives) for s in shapes]
    return tuple(s for s, part in zip(shapes, share, strict=True) if part >= 0.5 * max(share))


def torch_generator(generator: np.random.Generator) -> torch.Generator:
    """A torch generator on the CPU, seeded by the next draw of a numpy one."""
    return torch.Generator().manual_seed(int(generator.integers(2**63 - 1)))


def worlds_example(
    generator: torch.Generator,
    window: tuple[int, int, int],
    observed: Sequence[npt.NDArray[np.bool_] | None],
) -> Example:
    """Simulated worlds, one per entry of ``observed``: the cells seen in it, or None for simulated gaps.

    Every cell inside the world's domain that the gaps hide is wanted.
    """
    count = len(observed)
    worlds = sample_worlds(generator, count, window)
    valid = sample_gaps(generator, count, window, truth=worlds.truth, times=worlds.times)
    for i, real in enumerate(observed):
        if real is not None:
            valid[i] = torch.from_numpy(np.ascontiguousarray(real))
    domain = worlds.domain[:, None]
    valid, wanted = valid & domain, ~valid & domain
    seen = Batch(
        torch.where(valid, worlds.truth, worlds.truth.new_zeros(())), valid, worlds.times, worlds.year_phase,
        worlds.day_phase, worlds.dynamic, worlds.dynamic_valid, worlds.static, worlds.static_valid,
    )  # fmt: skip
    return Example.from_truth(seen, worlds.truth, wanted)


def crops_example(
    crops: Sequence[Crop], covariates: tuple[str, ...] = (), standardised: bool = False
) -> Example:
    """Crops of equal shape as one example; covariates in the order given, or by name.

    Values and covariates of each crop get mean 0 and variance 1, unless they are of archives already ``standardised``.
    """
    dynamic_names = _order([set(c.dynamic) for c in crops], covariates)
    static_names = _order([set(c.static) for c in crops], covariates)
    truth = torch.from_numpy(np.stack([np.nan_to_num(c.values) for c in crops]))
    valid = torch.from_numpy(np.stack([c.given for c in crops]))
    wanted = torch.from_numpy(np.stack([c.wanted for c in crops]))
    dynamic, dynamic_valid = _covariates(
        [c.dynamic for c in crops], dynamic_names, truth.shape[1:], standardised
    )
    static, static_valid = _covariates([c.static for c in crops], static_names, truth.shape[2:], standardised)
    seen = Batch(
        torch.where(valid, truth, truth.new_zeros(())),
        valid,
        torch.from_numpy(np.stack([c.times - c.times[0] for c in crops]).astype(np.float32)),
        torch.from_numpy(np.stack([c.year_phase for c in crops]).astype(np.float32)),
        torch.from_numpy(np.stack([c.day_phase for c in crops]).astype(np.float32)),
        dynamic, dynamic_valid, static, static_valid,
    )  # fmt: skip
    if standardised:
        return Example(seen, torch.where(wanted, truth, truth.new_zeros(())), wanted)
    return Example.from_truth(seen, truth, wanted)


def without_covariates(batch: Batch) -> Batch:
    """The same batch with C = S = 0."""
    return replace(
        batch,
        dynamic=batch.dynamic[:, :0],
        dynamic_valid=batch.dynamic_valid[:, :0],
        static=batch.static[:, :0],
        static_valid=batch.static_valid[:, :0],
    )


def in_larger_stacks(
    example: Example, generator: np.random.Generator, share: float = 0.4, smallest: float = 0.1
) -> Example:
    """Some samples as they look inside a stack that varies more than they do: a fill normalises stacks, not tiles.

    ``share`` of them are shrunk, by at most ``smallest``, and moved so that the stack around them would have unit variance.
    """
    count = len(example.target)
    shrunk = generator.random(count) < share
    scale = np.where(shrunk, np.exp(generator.uniform(np.log(smallest), 0, count)), 1.0)
    offset = generator.normal(size=count) * np.sqrt(1 - scale**2)
    s, o = (torch.from_numpy(x.astype(np.float32)).view(-1, 1, 1, 1) for x in (scale, offset))

    def moved(values: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, values * s + o, values.new_zeros(()))

    given = replace(example.given, values=moved(example.given.values, example.given.valid))
    return replace(example, given=given, target=moved(example.target, example.wanted))


def _order(present: list[set[str]], fixed: tuple[str, ...]) -> list[str]:
    names = set().union(*present)
    return [n for n in fixed if n in names] if fixed else sorted(names)


def _covariates(
    held: Sequence[dict[str, npt.NDArray[np.float32]]],
    names: list[str],
    shape: Sequence[int],
    standardised: bool,
) -> tuple[Tensor, Tensor]:
    """(B, names, *shape), 0 where unknown, and what is known; standardised unless they already are."""
    values = np.zeros((len(held), len(names), *shape), dtype=np.float32)
    known = np.zeros(values.shape, dtype=bool)
    for i, arrays in enumerate(held):
        for j, name in enumerate(names):
            if name in arrays and (seen := np.isfinite(arrays[name])).any():
                array = arrays[name].astype(np.float64)
                center, spread = (0.0, 1.0) if standardised else (array[seen].mean(), array[seen].std())
                known[i, j] = seen
                values[i, j][seen] = (array[seen] - center) / (spread if spread > 0 else 1.0)
    return torch.from_numpy(values), torch.from_numpy(known)


def _joined(parts: Sequence[Example]) -> Example:
    """Examples of equal shape as one batch; covariate channels padded with unknown ones."""
    channels = max(p.given.dynamic.shape[1] for p in parts), max(p.given.static.shape[1] for p in parts)

    def wide(name: str, count: int) -> Tensor:
        tensors = [getattr(p.given, name) for p in parts]
        return torch.cat(
            [torch.cat((x, x.new_zeros(len(x), count - x.shape[1], *x.shape[2:])), 1) for x in tensors]
        )

    plain = {
        n: torch.cat([getattr(p.given, n) for p in parts])
        for n in ("values", "valid", "times", "year_phase", "day_phase")
    }
    given = Batch(
        **plain,
        dynamic=wide("dynamic", channels[0]),
        dynamic_valid=wide("dynamic_valid", channels[0]),
        static=wide("static", channels[1]),
        static_valid=wide("static_valid", channels[1]),
    )
    return Example(given, torch.cat([p.target for p in parts]), torch.cat([p.wanted for p in parts]))


def set_aside(archive: Archive, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Observed cells (t, y, x) that training never sees and validation asks for: shapes of the archive's own gaps, and clouds."""
    generator = np.random.default_rng([seed, 0xA51DE])
    valid = archive.valid
    hidden = transplant(valid, generator, share / 2) & valid
    hidden |= blob(valid.shape, generator, share / 2) & valid
    surplus = hidden & (hidden.sum() > 2 * share * valid.sum()) & pixel(valid.shape, generator, 0.5)
    return np.asarray(hidden & ~surplus)


def validation_example(
    archive: Archive,
    aside: npt.NDArray[np.bool_],
    generator: np.random.Generator,
    shape: Shape4,
    covariates: tuple[str, ...] = (),
    standardised: bool = False,
) -> Example:
    """Windows of an archive at random: its cells set aside are wanted, all other observed ones given."""
    b, t, ny, nx = shape
    archive = archive.standardised() if standardised else archive
    crops = [cut(archive, generator, (t, ny, nx), strides=False, aside=aside) for _ in range(b)]
    given = [replace(c, given=np.isfinite(c.values) & ~c.wanted) for c in crops]
    return crops_example(given, covariates, standardised)
