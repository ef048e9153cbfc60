"""What seams are looked for on: simulated stationary fields with gaps, and parts of real files. Knows no methods."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from scoring.cases import Case, read_case
from stimpute.protocols import Layer
from stimpute.stack import BoolArray, Float32Array, Stack
from stimpute.synthetic.draw import Draw
from stimpute.synthetic.spectral import Covariance, random_field

SMOOTHNESS, MEMORY, NOISE = 1.0, 3.0, 0.15  # Matern order; days of one-day steps; noise over signal
COVER = 0.7  # spread of the cover from step to step against that within a step


@dataclass(frozen=True)
class Field:
    """A stationary Gaussian field: lengths of its correlation and of its gaps in cells, and the share that is missing."""

    length: float
    gaps: float
    missing: float

    @property
    def name(self) -> str:
        """For the page, and for what is kept.

        >>> Field(4, 2, 0.4).name
        'length 4, gaps 2, 40 %'
        """
        return f"length {self.length:g}, gaps {self.gaps:g}, {self.missing:.0%}".replace("%", " %")


#: field and gaps short and long, little and much missing
FIELDS = (
    Field(2, 2, 0.4), Field(2, 8, 0.7), Field(5, 4, 0.4), Field(5, 16, 0.7), Field(12, 4, 0.7), Field(12, 16, 0.4),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Steps and cells of the simulated fields; tiles that are compared, the last one holding everything."""

    steps: int = 12
    side: int = 144
    tiles: tuple[int, ...] = (24, 48, 96)

    @property
    def digest(self) -> str:
        """Changes with the data, not with the tiles."""
        what = [self.steps, self.side, SMOOTHNESS, MEMORY, NOISE, COVER]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


QUICK = Sizes(steps=3, side=24, tiles=(8, 16))

# fixed by rule: the 144 x 144 window of the file where most cells were ever observed; of hours the last twelve
REAL = (
    Case(
        "alboran_sst", "alboran_sst/alboranSST_small.nc", "SST", True, "AVHRR SST, Alboran Sea, daily",
        y=(57, 201), x=(157, 301),
    ),
    Case(
        "c3s_soil_moisture", "c3s_sm_monthly/c3s_sm_combined_monthly_2018.nc", "sm", False, "C3S soil moisture, monthly",
        y=(141, 285), x=(1018, 1162),
    ),
    Case(
        "goes_na", "goes_lst_fulldisk/goes16_lst_northamerica.nc", "LST", True, "GOES-16 LST, North America, hourly",
        time=(160, 172), y=(0, 144), x=(58, 202),
    ),
)  # fmt: skip
QUICK_REAL = (Case("gapfill_ndvi", "gapfill_ndvi/ndvi.nc", "ndvi", True, "MODIS NDVI, Alaska", time=(0, 4)),)


@dataclass(frozen=True, eq=False)
class Scene:
    """A stack to fill: the cells that are filled and looked at, and the truth (time, y, x) where it is known."""

    name: str
    seed: int
    digest: str
    stack: Stack
    layer: Layer
    wanted: BoolArray
    truth: Float32Array | None

    @property
    def spread(self) -> float:
        """Standard deviation of what is observed."""
        return float(self.stack.values[self.stack.valid].std(dtype=np.float64))

    def whole(self, said: Float32Array) -> Float32Array:
        """What was said at the wanted cells as a field (time, y, x), NaN elsewhere."""
        field = np.full(self.stack.shape, np.nan, dtype=np.float32)
        field[self.wanted] = said
        return field


def simulated(field: Field, sizes: Sizes, seed: int) -> Scene:
    """A field with noise under its gaps; everything that is missing is looked at."""
    number = int(hashlib.sha256(json.dumps([asdict(field), seed]).encode()).hexdigest()[:8], 16)
    draw = Draw(torch.Generator().manual_seed(number))
    times = torch.arange(sizes.steps, dtype=torch.float32)[None]
    size = (sizes.side, sizes.side)
    signal = random_field(draw, Covariance.isotropic(1, field.length, SMOOTHNESS, MEMORY), times, size)[0]
    truth = (signal + NOISE * draw.normal(*signal.shape)).numpy()
    clouds = random_field(draw, Covariance.isotropic(1, field.gaps, SMOOTHNESS), times, size)[0]
    clouds = (clouds + COVER * draw.normal(sizes.steps, 1, 1)).numpy()
    valid = clouds > np.quantile(clouds, field.missing)
    stack = Stack.from_array(truth, valid)
    layer = Layer("field", "field", {}, stack.shape, np.dtype(np.float32))
    return Scene(field.name, seed, sizes.digest, stack, layer, ~valid, truth)


def real(case: Case, data: Path) -> Scene:
    """A part of a file, as observed; the gaps of cells that were ever observed are looked at."""
    material = read_case(case, data)
    stack = material.stack
    wanted = stack.gap & stack.valid.any(axis=0)
    return Scene(case.name, 0, case.digest, stack, material.layer, wanted, None)
