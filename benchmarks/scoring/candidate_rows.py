"""Crops of training archives, what is hidden of them, and the errors of the candidates' prior there, kept on disk row by row.

Each row estimates all candidates once for each view; every variant of the prior is blended from these.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoring.candidate_figures import FAST, NETWORK, PRIOR, Row, alone, without
from scoring.cases import SHARE
from scoring.runs import code_digest
from stimpute.errors import InputError
from stimpute.holdout import Kind, hold_out
from stimpute.model.batch import Batch, observed_moments
from stimpute.model.candidates import CANDIDATES, Estimated, blend, estimate_candidates
from stimpute.model.inner_hold_out import hidden_by_turns
from stimpute.pretrained.registry import LoadedModel
from stimpute.stack import BoolArray, Stack
from stimpute.training import read_npz
from stimpute.training.archive import Archive

CELLS, STEPS, SIDE, DRAWS = 50_000, (12, 24, 40), 64, 30  # of a crop: at most; one of; at most; best of
COMPLETE = 0.9  # observed share of the cells ever observed, above which a crop gets gaps laid over it
LENDS, MOVING = (
    (0.2, 0.8),
    0.05,
)  # missing share of an archive that lends gaps; of its cells ever observed, at least
GAP, TRIES = (0.05, 0.9), 20  # share of a frame that a gap laid over it covers; draws for it
SHORTEST = 8  # steps of a crop of which some are taken away
SEED = 0  # of what is hidden


# --- crops ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of an archive; ``laid``: gaps of other archives lie over it."""

    archive: str
    stack: Stack
    laid: bool = False

    @cached_property
    def digest(self) -> str:
        """Changes with the values and the gaps."""
        whole = hashlib.sha256(self.stack.with_nan().tobytes())
        whole.update(str(self.stack.shape).encode())
        return whole.hexdigest()[:12]


def crops(paths: Sequence[Path], cells: int = CELLS) -> list[Crop]:
    """One crop of each archive, those with hardly any gaps under gaps of archives that have them; always the same of the same archives.

    Raises
    ------
    InputError : an archive cannot be read.
    """
    cuts, donors = [], []
    for path in paths:
        archive = read_npz(path)
        cuts.append(Crop(archive.name, cut(archive, cells)))
        if lends(archive.valid):
            donors.append(archive.valid.any(axis=0) & ~archive.valid)
    return [under_gaps(crop, donors) for crop in cuts]


def cut(archive: Archive, cells: int) -> Stack:
    """A window of at most ``cells`` cell-steps: of some drawn at random the one of which most is observed."""
    draw, valid = generator("crop", archive.name), archive.valid
    t, ny, nx = archive.shape
    steps = min(t, int(draw.choice([n for n in STEPS if n <= t] or [t])), cells)
    side = min(SIDE, math.isqrt(cells // steps))
    sizes = steps, min(side, ny), min(side, nx)
    windows = [window(draw, archive.shape, sizes) for _ in range(DRAWS)]
    time, y, x = max(windows, key=lambda w: int(valid[w].sum()))
    return Stack.from_array(
        archive.values[time, y, x], times=archive.times[time], year_phase=archive.year_phase[time], day_phase=archive.day_phase[time]
    )  # fmt: skip


def window(
    draw: np.random.Generator, shape: Sequence[int], sizes: Sequence[int]
) -> tuple[slice, slice, slice]:
    """A window of these sizes somewhere inside."""
    first = [int(draw.integers(n - m + 1)) for n, m in zip(shape, sizes, strict=True)]
    time, y, x = (slice(i, i + m) for i, m in zip(first, sizes, strict=True))
    return time, y, x


def lends(valid: BoolArray) -> bool:
    """Whether an archive has gaps of its own that move: neither few nor nearly all, and not only cells that are never observed.

    >>> land = np.arange(8).reshape(1, 2, 4) < 4
    >>> clouds = np.arange(24).reshape(3, 2, 4) % 5 > 0
    >>> lends(np.repeat(land, 3, axis=0)), lends(clouds & land), lends(clouds | True)
    (False, True, False)
    """
    ever = valid.any(axis=0)
    if not ever.any():
        return False
    return bool(LENDS[0] <= 1 - valid.mean() <= LENDS[1] and 1 - valid[:, ever].mean() >= MOVING)


def under_gaps(crop: Crop, donors: Sequence[BoolArray]) -> Crop:
    """The crop, with a gap of a donor over each frame where hardly any of its cells ever observed is missing.

    Parameters
    ----------
    donors : bool (time, y, x), True in the gaps of an archive; smaller ones than the crop lend none.
    """
    valid = crop.stack.valid
    steps, *sides = crop.stack.shape
    wide = [d for d in donors if d.shape[1] >= sides[0] and d.shape[2] >= sides[1]]
    ever = valid.any(axis=0)
    if not wide or not ever.any() or valid[:, ever].mean() <= COMPLETE:
        return crop
    draw = generator("gaps", crop.archive)
    gaps = np.stack([frame_gap(draw, wide, sides) for _ in range(steps)])
    return Crop(crop.archive, crop.stack.hide(gaps), laid=True)


def frame_gap(draw: np.random.Generator, donors: Sequence[BoolArray], sides: Sequence[int]) -> BoolArray:
    """A part (y, x) of one frame of a donor that is neither nearly whole nor nearly all gap; no gap where none is found."""
    for _ in range(TRIES):
        donor = donors[int(draw.integers(len(donors)))]
        gap = donor[window(draw, donor.shape, (1, *sides))][0]
        if GAP[0] <= gap.mean() <= GAP[1]:
            return gap
    return np.zeros(tuple(sides), dtype=bool)


def without_steps(stack: Stack, share: float, draw: np.random.Generator) -> Stack:
    """The stack with nothing observed at a share of its steps, drawn at random."""
    steps = stack.shape[0]
    gone = np.zeros(stack.shape, dtype=bool)
    gone[draw.permutation(steps)[: round(share * steps)]] = True
    return stack.hide(gone)


def generator(*what: str) -> np.random.Generator:
    """Seeded by words."""
    return np.random.default_rng(list(hashlib.sha256("/".join(what).encode()).digest()))


# --- one row ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Question:
    """A crop, with a share of its steps taken away, under one pattern."""

    crop: Crop
    kind: Kind
    empty: float = 0.0

    @cached_property
    def stack(self) -> Stack:
        """Before cells are hidden."""
        whole = self.crop.stack
        return without_steps(whole, self.empty, generator("steps", self.crop.archive)) if self.empty else whole  # fmt: skip

    def stem(self, model: LoadedModel) -> str:
        """A file name that changes with anything that changes the row."""
        what = f"{self.kind}.{self.empty:g}.{self.crop.digest}.{code_digest()}.{model.sha256[:12]}"
        return f"{self.crop.archive.removesuffix('.npz')}.{what}"


def questions(cuts: Sequence[Crop], kinds: Sequence[Kind], shares: Sequence[float]) -> list[Question]:
    """Every crop in every setting and pattern; no steps are taken away from short ones."""
    return [
        Question(crop, kind, share)
        for crop in cuts
        for share in shares
        for kind in kinds
        if not share or crop.stack.shape[0] >= SHORTEST
    ]


def measure(asked: Question, model: LoadedModel) -> Row:
    """Hide, estimate, blend in every variant, look at what was hidden. Without errors where the pattern cannot be had."""
    stack = asked.stack
    facts: dict[str, Any] = {
        "archive": asked.crop.archive, "kind": asked.kind, "empty": asked.empty, "shape": stack.shape,
        "missing": float(stack.gap.mean()), "laid": asked.crop.laid, "code": code_digest(),
    }  # fmt: skip
    try:
        hidden = hold_out(stack, asked.kind, SHARE, SEED)
    except InputError:
        return Row(**facts)
    began = time.process_time()
    batch, truth = given(stack, hidden)
    fields, doubles = variants(batch, model)
    mae = {name: float(np.abs(field[hidden] - truth).mean()) for name, field in fields.items()}
    return Row(**facts, hidden=int(hidden.sum()), mae=mae, doubles=doubles, seconds=time.process_time() - began)  # fmt: skip


def given(stack: Stack, hidden: BoolArray) -> tuple[Batch, Any]:
    """What is left as a batch with mean 0 and variance 1, as a fill normalises it, and the hidden values in the same units."""
    left = stack.hide(hidden)
    moments = observed_moments(torch.from_numpy(left.values)[None], torch.from_numpy(left.valid)[None])
    center, scale = (float(moment) for moment in moments)
    truth = (stack.values[hidden].astype(np.float64) - center) / scale
    return Batch.from_stacks([left], center, scale), truth


@torch.no_grad()
def variants(batch: Batch, model: LoadedModel) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What every variant says, (time, y, x) each; and the candidates that say exactly what another one says."""
    hidden = hidden_by_turns(batch.valid)
    views = estimate_candidates(batch, hidden)
    estimates = views[0][0]
    found: dict[str, Tensor] = {PRIOR: blend(batch, views, hidden).prior}
    for number, name in enumerate(CANDIDATES):
        others = tuple(other for other in CANDIDATES if other != name)
        found[without(name)] = blend(batch, only(views, others), hidden, others).prior
        found[alone(name)] = estimates[:, number]
    found[FAST] = blend(batch, estimate_candidates(batch, hidden, fast=True), hidden).prior
    heard = model.config.candidates
    found[NETWORK] = model.network(batch, blend(batch, only(views, heard), hidden, heard)).mean
    doubles = tuple(
        name
        for k, name in enumerate(CANDIDATES)
        if any(torch.equal(estimates[:, k], estimates[:, j]) for j in range(len(CANDIDATES)) if j != k)
    )
    return {name: field[0].numpy() for name, field in found.items()}, doubles


def only(views: Sequence[Estimated], names: Sequence[str]) -> list[Estimated]:
    """The same views with the estimates of some candidates only."""
    kept = [CANDIDATES.index(name) for name in names]
    return [(estimates[:, kept], densities) for estimates, densities in views]


# --- on disk ----------------------------------------------------------------------------------------------------------


def kept(asked: Question, model: LoadedModel, folder: Path) -> Row | None:
    """A row that was measured before; None if there is none. A file cut short counts as none."""
    try:
        return Row.from_json(json.loads((folder / f"{asked.stem(model)}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measured(asked: Question, model: LoadedModel, folder: Path, fresh: bool = False) -> Row:
    """A row, measured now if it is not kept."""
    found = None if fresh else kept(asked, model, folder)
    if found is None:
        found = measure(asked, model)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{asked.stem(model)}.{os.getpid()}.partial"
        partial.write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
        partial.replace(folder / f"{asked.stem(model)}.json")
    return found
