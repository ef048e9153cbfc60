"""Stacks whose covariates drive them, or have nothing to do with them: simulated soil moisture, simulated worlds, real files.

A *question* is a stack with gaps and its covariates, the cells to be scored and the truth there. Knows no methods.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from scoring.cases import Case, read_case
from scoring.worlds import layer_of
from stimpute.errors import VariogramError
from stimpute.grid import Grid
from stimpute.holdout import hold_out
from stimpute.protocols import Layer
from stimpute.stack import BoolArray, Float32Array, Stack
from stimpute.synthetic import WorldBatch, sample_gaps, sample_worlds, smap_like
from stimpute.synthetic.draw import Draw
from stimpute.synthetic.spectral import Covariance, random_field
from stimpute.variography import analyse

Part = Literal["soil_moisture", "worlds", "real"]
PARTS: tuple[Part, ...] = ("soil_moisture", "worlds", "real")
#: covariates that a stack is filled with, as the page calls them
VARIANTS = {
    "none": "none",
    "own": "all of its own",
    "dynamic": "its time-varying ones",
    "static": "its static ones",
    "irrelevant": "five irrelevant ones",
    "own+irrelevant": "its own and five irrelevant ones",
}
ASKED: dict[Part, tuple[str, ...]] = {
    "soil_moisture": tuple(VARIANTS),
    "worlds": ("none", "own", "irrelevant", "own+irrelevant"),
    "real": ("none", "irrelevant"),
}
IRRELEVANT_DYNAMIC, IRRELEVANT_STATIC = 3, 2
SMOOTHNESS = 1.0
FEW_CELLS, FEW_STEPS = 6.0, 5.0  # range of irrelevant covariates where the stack's own cannot be told
ORBIT, BLOCK = "orbit", "block"
MISSING = {ORBIT: 0.9, BLOCK: 0.6}
HIDDEN = 0.2  # of the observed cells of a real file
# fixed by rule: the whole file; the 64 x 64 window of the file where most cells were ever observed
REAL = (
    Case("gapfill_ndvi", "gapfill_ndvi/ndvi.nc", "ndvi", True, "MODIS NDVI, Alaska, 4 dates x 4 years"),
    Case(
        "alboran_sst", "alboran_sst/alboranSST_small.nc", "SST", True, "AVHRR SST, Alboran Sea, daily, all sea",
        y=(63, 127), x=(155, 219),
    ),
)  # fmt: skip
_UNRELATED = 77_000  # seeds of irrelevant covariates start here: no stack has them


@dataclass(frozen=True)
class Sizes:
    """How large the stacks are: days and cells of the soil moisture, steps and cells of the worlds, how many worlds."""

    days: int = 180
    side: int = 36
    steps: int = 48
    world_side: int = 32
    worlds: int = 12


QUICK = Sizes(days=16, side=12, steps=6, world_side=10, worlds=1)


@dataclass(frozen=True)
class Name:
    """Which question: part, stack, what made the gaps, seed."""

    part: Part
    stack: str
    gaps: str
    seed: int


@dataclass(frozen=True, eq=False)
class Question:
    """A stack with gaps and its own covariates, the cells (time, y, x) to be scored, the truth there, in the order of ``wanted``."""

    stack: Stack
    layer: Layer
    wanted: BoolArray
    truth: Float32Array
    about: Mapping[str, float | int | str] = field(default_factory=dict)


def digest(name: Name, sizes: Sizes) -> str:
    """Changes with the data of a question, and with the irrelevant covariates beside it."""
    what: object = (sizes.days, sizes.side, MISSING)
    if name.part == "worlds":
        what = (sizes.steps, sizes.world_side)
    if name.part == "real":
        what = (next(c.digest for c in REAL if c.name == name.stack), HIDDEN)
    fixed = [what, IRRELEVANT_DYNAMIC, IRRELEVANT_STATIC, SMOOTHNESS]
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:12]


def ask(name: Name, sizes: Sizes, data: Path) -> Question:
    """The question of a name."""
    if name.part == "soil_moisture":
        return soil_question(sizes, name.gaps, name.seed)
    if name.part == "worlds":
        return world_question(sizes, name.seed)
    return real_question(next(c for c in REAL if c.name == name.stack), data, name.seed)


def soil_question(sizes: Sizes, gaps: str, seed: int) -> Question:
    """Daily soil moisture with its eleven drivers: 90 % missing by orbit, or boxes and balls cut out of it."""
    shape = (sizes.days, sizes.side, sizes.side)
    world = smap_like(seed, shape, MISSING[ORBIT])
    valid = world.valid
    if gaps == BLOCK:
        generator = torch.Generator().manual_seed(seed)
        valid = sample_gaps(generator, 1, shape, "blocks", MISSING[BLOCK])[0].numpy()
    grid = Grid("affine", shape[1:], world.x, world.y, "length", km_per_unit=0.001)
    stack = Stack.from_array(
        world.truth, valid, times=world.times, grid=grid, dynamic=world.dynamic, static=world.static
    )
    return Question(
        stack, layer_of(stack), ~valid, world.truth[~valid], {"own": len(stack.dynamic) + len(stack.static)}
    )


@cache
def informed_worlds(sizes: Sizes) -> tuple[int, ...]:
    """The first seeds whose world has a covariate that was built from what drives it."""
    found, seed = [], 0
    while len(found) < sizes.worlds:
        world = _world(sizes, seed)
        if bool(world.dynamic_informative.any() | world.static_informative.any()):
            found.append(seed)
        seed += 1
    return tuple(found)


def _world(sizes: Sizes, seed: int) -> WorldBatch:
    shape = (sizes.steps, sizes.world_side, sizes.world_side)
    return sample_worlds(torch.Generator().manual_seed(seed), 1, shape)


def world_question(sizes: Sizes, seed: int) -> Question:
    """A world of the simulator as networks are trained on, under gaps of a kind and share drawn with it."""
    world = _world(sizes, seed)
    generator = torch.Generator().manual_seed(seed)
    valid = sample_gaps(
        generator, 1, tuple(world.truth.shape[1:]), truth=world.truth, times=world.times, domain=world.domain
    )[0].numpy()
    known = {
        k: torch.where(getattr(world, f"{k}_valid"), getattr(world, k), torch.nan)[0].numpy()
        for k in ("dynamic", "static")
    }
    own = {
        k: {f"{k} {i}": v for i, v in enumerate(values) if np.isfinite(v).any()}
        for k, values in known.items()
    }
    truth = world.truth[0].numpy()
    stack = Stack.from_array(
        truth, valid, times=world.times[0].double().numpy(), year_phase=world.year_phase[0].numpy(),
        day_phase=world.day_phase[0].numpy(), dynamic=own["dynamic"], static=own["static"],
    )  # fmt: skip
    wanted = ~valid & world.domain[0].numpy()[None]
    informative = int(world.dynamic_informative.sum() + world.static_informative.sum())
    about = {"own": len(own["dynamic"]) + len(own["static"]), "informative": informative}
    layer = Layer("world", "world", {}, stack.shape, np.dtype(np.float32))
    return Question(stack, layer, wanted, truth[wanted], about)


def real_question(case: Case, data: Path, seed: int) -> Question:
    """A fifth of the observed cells of a real file, hidden in the shapes of its gaps; it has no covariates of its own."""
    material = read_case(case, data)
    held_out = hold_out(material.stack, "gap", HIDDEN, seed)
    return Question(
        material.stack.hide(held_out), material.layer, held_out, material.stack.values[held_out], {"own": 0}
    )


# --- which covariates -------------------------------------------------------------------------------------------------


def with_covariates(stack: Stack, variant: str, seed: int) -> Stack:
    """The stack with the covariates of a variant."""
    own = variant.startswith("own")
    dynamic = dict(stack.dynamic) if own or variant == "dynamic" else {}
    static = dict(stack.static) if own or variant == "static" else {}
    if variant.endswith("irrelevant"):
        more_dynamic, more_static = irrelevant(stack, seed)
        dynamic, static = dynamic | more_dynamic, static | more_static
    return replace(stack, dynamic=dynamic, static=static)


def irrelevant(stack: Stack, seed: int) -> tuple[dict[str, Float32Array], dict[str, Float32Array]]:
    """Smooth random fields, three in space and time and two in space, of about the stack's own ranges; from another seed."""
    cells, days = ranges(stack)
    draw = Draw(torch.Generator().manual_seed(_UNRELATED + seed))
    times = torch.from_numpy(stack.times).float()[None]
    size = stack.shape[1:]

    def fields(n: int, times: torch.Tensor) -> Float32Array:
        covariance = Covariance.isotropic(n, cells / 3, SMOOTHNESS, memory=days / 3)
        return random_field(draw, covariance, times.expand(n, -1), size).numpy()

    moving = fields(IRRELEVANT_DYNAMIC, times)
    still = fields(IRRELEVANT_STATIC, times[:, :1])[:, 0]
    return {f"irrelevant {i}": v for i, v in enumerate(moving)}, {
        f"irrelevant static {i}": v for i, v in enumerate(still)
    }


def ranges(stack: Stack) -> tuple[float, float]:
    """Effective range of what is observed, in cells and in days, within the stack's extent."""
    fits: tuple = (None, None)
    try:
        found = analyse(replace(stack, grid=Grid.from_shape(*stack.shape[1:])), seed=0)
        fits = (found.spatial_fit, found.temporal_fit)
    except VariogramError:
        pass
    step = float(np.median(np.diff(stack.times))) if len(stack.times) > 1 else 1.0
    usual = (FEW_CELLS, FEW_STEPS * step)
    most = (float(max(stack.shape[1:])), float(np.ptp(stack.times)) or 1.0)
    known = [
        fit.effective_range if fit is not None and math.isfinite(fit.effective_range) else otherwise
        for fit, otherwise in zip(fits, usual, strict=True)
    ]
    return min(known[0], most[0]), min(known[1], most[1])
