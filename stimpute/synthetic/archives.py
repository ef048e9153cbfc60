"""Simulated archives in real units, with their truth: for the demo, `simulate`, tutorials and tests.

Where ``worlds`` draws recipes at random, these are recognisable: soil moisture, NDVI, sea and land surface
temperature, rain, with plausible values, dates, gaps and grids. Numpy out. Knows nothing about files: coordinates and
CRS are plain arrays and a code that ``io`` may write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stimpute.synthetic.calendar import DAYS_PER_YEAR, Calendar
from stimpute.synthetic.components import storms, swirl, texture
from stimpute.synthetic.draw import Draw, standardized
from stimpute.synthetic.gaps import sample_gaps
from stimpute.synthetic.spectral import Covariance, random_field

Shape = tuple[int, int, int]
Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SimulatedStack:
    """A gappy stack of one variable together with what is under its gaps.

    Parameters
    ----------
    name, long_name, standard_name, units : CF words of the variable.
    truth : float32 (time, y, x), in ``units``, finite.
    valid : bool (time, y, x), True = observed.
    times : float64 (time,) days since ``start``.
    start : ISO 8601 date and time of the first step.
    x, y : float64 cell centres, x ascending, y descending, in units of ``crs``.
    crs : "EPSG:n".
    valid_range : physical limits of the variable.
    dynamic, static : named covariates, float32 (time, y, x) and (y, x), complete.
    covariate_units : units by covariate.
    """

    name: str
    long_name: str
    standard_name: str
    units: str
    truth: Float32Array
    valid: npt.NDArray[np.bool_]
    times: npt.NDArray[np.float64]
    start: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    crs: str
    valid_range: tuple[float, float]
    dynamic: Mapping[str, Float32Array] = field(default_factory=dict)
    static: Mapping[str, Float32Array] = field(default_factory=dict)
    covariate_units: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> Float32Array:
        """What a user would get: float32 (time, y, x), NaN in the gaps."""
        return np.where(self.valid, self.truth, np.float32(np.nan))


def gappy_stack(kind: str = "soil-moisture", seed: int = 0, shape: Shape | None = None) -> SimulatedStack:
    """A realistic gappy stack with its truth.

    Parameters
    ----------
    kind : one of ``STACK_KINDS``.
    seed : the same seed gives the same stack.
    shape : (time, y, x), y and x at least 2; None takes the kind's own.

    Raises
    ------
    ValueError : unknown kind, or a grid smaller than 2 x 2.
    """
    if kind not in _MAKERS:
        raise ValueError(f"kind {kind!r}: choose one of {', '.join(STACK_KINDS)}")
    maker, usual = _MAKERS[kind]
    shape = shape or usual
    if shape[0] < 1 or min(shape[1:]) < 2:
        raise ValueError(f"shape {shape}: at least 1 step and 2 x 2 cells")
    return maker(seed, shape)


def smap_like(seed: int = 0, shape: Shape = (365, 36, 36), missing: float = 0.9) -> SimulatedStack:
    """Daily 1 km soil moisture of a 36 km square, seen by a radar on a 12-day orbit: about 90 % missing.

    A bucket of the top 5 cm: rain in, evaporation by radiation and temperature, drainage above field capacity;
    porosity, wilting point, drainage and evaporation follow clay, sand, organic carbon, slope, elevation and land cover. Eleven
    covariates drive it: five with a time axis, six without.

    Parameters
    ----------
    seed, shape : (time, y, x) daily steps, 1 km cells.
    missing : share of cells hidden, by orbit first, the rest at random.

    Returns
    -------
    SimulatedStack, values in m3 m-3 within 0.02 to 0.5.
    """
    draw = Draw(torch.Generator().manual_seed(seed))
    calendar = _regular(shape[0], 1.0, start_day=0.0)
    static = _ground(draw, shape[1:])
    weather = _weather(draw, calendar, static["elevation"], shape[1:])
    truth = _soil_water(draw, weather, static)
    coarse = truth.mean(dim=(1, 2)) + 0.01 * draw.normal(shape[0])
    dynamic = {"soil_moisture_36km": coarse[:, None, None].expand(shape), **weather}
    x, y = _centres(shape, 1000.0, 600_000.0, 3_400_000.0)
    return SimulatedStack(
        "soil_moisture", "surface soil moisture", "volume_fraction_of_condensed_water_in_soil", "m3 m-3",
        _numpy(truth), _orbit(draw, shape, missing).numpy(), _times(calendar), "2020-01-01T06:00:00", x, y,
        "EPSG:32614", (0.02, 0.5), {k: _numpy(v) for k, v in dynamic.items()}, {k: _numpy(v) for k, v in static.items()},
        {
            "soil_moisture_36km": "m3 m-3", "precipitation": "mm day-1", "radiation": "W m-2", "tmin": "degC",
            "tmax": "degC", "clay": "1", "sand": "1", "organic_carbon": "1", "elevation": "m", "slope": "degree",
            "land_cover": "1",
        },
    )  # fmt: skip


def _ground(draw: Draw, size: tuple[int, int]) -> dict[str, Tensor]:
    """Static maps of a landscape, each (y, x)."""
    elevation = 300 + 60 * _map(draw, size, 12.0, 1.5)
    dy, dx = torch.gradient(elevation)
    slope = torch.rad2deg(torch.atan(torch.hypot(dx, dy) / 1000.0))
    soil = _map(draw, size, 6.0, 0.7) - 0.3 * standardized(elevation[None])[0]
    clay = torch.sigmoid(0.8 * soil - 1.0) * 0.6
    sand = (0.85 - 1.1 * clay + 0.06 * _map(draw, size, 5.0, 0.5)).clamp(0.05, 0.9)
    carbon = 0.012 * torch.exp(0.4 * _map(draw, size, 4.0, 0.5))
    cover = _map(draw, size, 4.0, 1.0)
    ranks = torch.bucketize(cover, torch.quantile(cover, torch.tensor([0.3, 0.6, 0.85])))
    return {
        "clay": clay, "sand": sand, "organic_carbon": carbon, "elevation": elevation, "slope": slope,
        "land_cover": ranks.float(),
    }  # fmt: skip


def _weather(draw: Draw, calendar: Calendar, elevation: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Daily rain (mm), radiation (W m-2), lowest and highest temperature (degC), each (time, y, x)."""
    steps = calendar.times.shape[1]
    summer = -torch.cos(2 * math.pi * calendar.year_phase[0])[:, None, None]
    spell = _series(draw, calendar, 4.0)[:, None, None]
    wet = (spell + 0.7 * draw.normal(steps, 1, 1)) > 0.9
    showers = random_field(
        draw, Covariance.isotropic(1, 0.5 * max(size), 1.0, memory=0.2), calendar.times, size
    )[0]
    rain = wet * torch.exp(1.6 + 0.9 * showers + 0.5 * draw.normal(steps, 1, 1)) * (showers > -0.8)
    radiation = (220 + 90 * summer) * (1 - 0.45 * wet.float()) * (1 + 0.06 * draw.normal(steps, 1, 1))
    lapse = -0.0065 * (elevation - elevation.mean())
    air = 18 + 10 * summer - 2.5 * spell + lapse
    spread = 6 + 0.015 * radiation + 0.6 * draw.normal(steps, 1, 1)
    return {
        "precipitation": rain, "radiation": radiation.expand(steps, *size), "tmin": air - spread / 2, "tmax": air + spread / 2,
    }  # fmt: skip


def _soil_water(draw: Draw, weather: Mapping[str, Tensor], static: Mapping[str, Tensor]) -> Tensor:
    """The bucket, day by day, (time, y, x) m3 m-3."""
    clay, sand, carbon = static["clay"], static["sand"], static["organic_carbon"]
    wilting = 0.03 + 0.25 * clay + 1.0 * carbon
    capacity = wilting + 0.10 + 0.16 * clay + 2.0 * carbon
    porosity = (0.52 - 0.13 * sand + 1.5 * carbon).clamp(0.35, 0.55)
    leaves = torch.tensor([0.7, 0.9, 1.15, 1.4])[static["land_cover"].long()]
    runoff = torch.exp(-static["slope"] / 8)
    depth = 50.0  # mm
    demand = 0.010 * weather["radiation"] * (0.3 + 0.03 * weather["tmax"].clamp_min(0))
    water, days = 0.5 * (wilting + capacity), []
    for rain, thirst in zip(weather["precipitation"], demand):
        water = torch.minimum(water + 0.75 * runoff * rain / depth, porosity)
        drained = (water - capacity).clamp_min(0) * (0.25 + 0.5 * sand)
        plenty = ((water - 0.6 * wilting) / (capacity - 0.6 * wilting)).clamp(0, 1)
        water = water - drained - leaves * thirst * plenty / depth
        days.append(water)
    seen = torch.stack(days)
    return (seen + 0.008 * draw.normal(*seen.shape)).clamp(0.02, 0.5)


def _orbit(draw: Draw, shape: Shape, missing: float) -> Tensor:
    """Observed cells (time, y, x): a few passes per 12-day cycle, each with its own edge, and failed retrievals."""
    steps, height, width = shape
    passes = max(1, round(12 * (1 - missing) * 2.0))
    days = torch.randperm(12, generator=draw.generator)[:passes]
    y, x = torch.meshgrid(torch.linspace(-0.5, 0.5, height), torch.linspace(-0.5, 0.5, width), indexing="ij")
    # how far outside the swath a cell is, if anything flew that day: the first to be added where cells are wanting
    outside = 2.0 + draw.uniform(0, 1, *shape)
    edges = draw.uniform(-0.25, 0.45, passes)
    edges[0] = 0.75  # one pass sees it all
    for i, day in enumerate(days.tolist()):
        tilt = 0.2 if i % 2 else -0.2
        side = 1.0 if i % 3 else -1.0
        across = side * (x * math.cos(tilt) + y * math.sin(tilt))
        frames = torch.arange(day, max(day, steps), 12)
        shift = edges[i] + 0.05 * draw.normal(len(frames), 1, 1)
        flown = draw.chance(0.9, len(frames), 1, 1)
        outside[frames] = torch.where(flown, across - shift, outside[frames])
    failed = draw.uniform(0, 1, *shape)
    order = torch.where(outside < 0, failed - 1, outside)
    rank = order.flatten().argsort().argsort()
    return (rank < round((1 - missing) * rank.numel())).reshape(shape)


def _ndvi(seed: int, shape: Shape) -> SimulatedStack:
    """Phenology by parcel, 8 days apart, under clouds."""
    draw = Draw(torch.Generator().manual_seed(seed))
    calendar = _regular(shape[0], 8.0, start_day=0.0)
    parcels = (
        texture(draw, 1, 3, shape[1:], classes=1.0)[0] + 0.6 * texture(draw, 1, 3, shape[1:], classes=1.0)[0]
    )
    detail = texture(draw, 1, 1, shape[1:], classes=0.0)[0, 0]
    peak = 0.55 + 0.08 * parcels[0]
    greenness = torch.exp(3.5 * torch.cos(2 * math.pi * (calendar.year_phase[0][:, None, None] - peak)) - 3.5)
    weather = random_field(draw, Covariance.isotropic(1, 20.0, 1.5, memory=40.0), calendar.times, shape[1:])[
        0
    ]
    truth = 0.25 + 0.05 * parcels[1] + 0.05 * detail + (0.42 + 0.1 * parcels[2]) * greenness + 0.03 * weather
    truth = (truth + 0.015 * draw.normal(*shape)).clamp(-0.1, 0.95)
    x, y = _centres(shape, 1000.0, 500_000.0, 5_400_000.0)
    return SimulatedStack(
        "ndvi", "normalized difference vegetation index", "normalized_difference_vegetation_index", "1", _numpy(truth),
        _clouded(draw, calendar, shape, 0.45), _times(calendar), "2020-01-01T10:30:00", x, y, "EPSG:32633", (-0.2, 1.0),
    )  # fmt: skip


def _sst(seed: int, shape: Shape) -> SimulatedStack:
    """Eddies and a front in a sea with a coast, daily, under clouds."""
    draw = Draw(torch.Generator().manual_seed(seed))
    calendar = _regular(shape[0], 1.0, start_day=120.0)
    eddies = standardized(swirl(draw, calendar, shape[1:], memory=15.0).field)[0]
    gradient = torch.linspace(-1, 1, shape[1])[:, None].expand(shape[1:])
    season = -torch.cos(2 * math.pi * (calendar.year_phase[0] - 0.1))[:, None, None]
    truth = (
        18 + 3.5 * season + 1.2 * gradient + 0.9 * eddies + 0.3 * _series(draw, calendar, 5.0)[:, None, None]
    )
    truth = truth + 0.08 * draw.normal(*shape)
    land = _map(draw, shape[1:], 0.4 * max(shape[1:]), 1.5) + 1.5 * gradient > 1.6
    x, y = _centres(shape, 0.02, -5.0, 36.9)
    return SimulatedStack(
        "sst", "sea surface temperature", "sea_surface_temperature", "degC", _numpy(truth),
        _clouded(draw, calendar, shape, 0.6) & ~land.numpy(), _times(calendar), "2021-05-01T00:00:00", x, y, "EPSG:4326", (-2.0, 40.0),
    )  # fmt: skip


def _lst(seed: int, shape: Shape) -> SimulatedStack:
    """Hourly land surface temperature: the sun's path by land cover and height, moving clouds."""
    draw = Draw(torch.Generator().manual_seed(seed))
    calendar = _regular(shape[0], 1 / 24, start_day=200.0)
    height = texture(draw, 1, 1, shape[1:], classes=0.0)[0, 0]
    cover = texture(draw, 1, 1, shape[1:], classes=1.0)[0, 0]
    sun = torch.cos(2 * math.pi * (calendar.day_phase[0][:, None, None] - 0.54 - 0.008 * cover))
    warm = torch.where(sun > -0.2, sun + 0.2, 0.15 * (sun + 0.2))
    weather = random_field(draw, Covariance.isotropic(1, 25.0, 1.5, memory=0.5), calendar.times, shape[1:])[0]
    truth = 292 - 3 * height + (13 + 3.5 * cover) * warm + 1.5 * weather + 0.4 * draw.normal(*shape)
    x, y = _centres(shape, 0.02, 10.0, 46.0)
    return SimulatedStack(
        "lst", "land surface temperature", "surface_temperature", "K", _numpy(truth),
        _clouded(draw, calendar, shape, 0.45), _times(calendar), "2021-07-20T00:00:00", x, y, "EPSG:4326", (220.0, 345.0),
        static={"elevation": _numpy(600 + 250 * height)}, covariate_units={"elevation": "m"},
    )  # fmt: skip


def _rain(seed: int, shape: Shape) -> SimulatedStack:
    """Half-hourly showers on the move, seen in swaths."""
    draw = Draw(torch.Generator().manual_seed(seed))
    calendar = _regular(shape[0], 1 / 48, start_day=150.0)
    cells = storms(draw, calendar, shape[1:]).field[0]
    truth = torch.expm1(1.3 * (cells - 0.6).clamp(0, 4)) * 1.5
    valid = sample_gaps(draw.generator, 1, shape, "swaths", 0.5)[0].numpy()
    x, y = _centres(shape, 2000.0, 4_300_000.0, 3_200_000.0)
    return SimulatedStack(
        "rain_rate", "rainfall rate", "rainfall_rate", "mm h-1", _numpy(truth), valid, _times(calendar), "2021-06-01T00:00:00",
        x, y, "EPSG:3035", (0.0, 300.0),
    )  # fmt: skip


_MAKERS: dict[str, tuple[Callable[[int, Shape], SimulatedStack], Shape]] = {
    "soil-moisture": (smap_like, (365, 36, 36)),
    "ndvi": (_ndvi, (46, 64, 64)),
    "sst": (_sst, (60, 80, 100)),
    "lst": (_lst, (96, 64, 64)),
    "rain": (_rain, (48, 64, 64)),
}
STACK_KINDS = tuple(_MAKERS)


def _regular(steps: int, step: float, start_day: float) -> Calendar:
    """One world's regular calendar, starting at midnight of a day of the year."""
    times = torch.arange(steps, dtype=torch.float32)[None] * step
    year = torch.remainder((times + start_day) / DAYS_PER_YEAR, 1.0)
    return Calendar(times, year, torch.remainder(times, 1.0), torch.tensor([step]))


def _times(calendar: Calendar) -> npt.NDArray[np.float64]:
    step = float(calendar.step[0])
    days: npt.NDArray[np.float64] = np.arange(calendar.times.shape[1], dtype=np.float64)
    return days / round(1 / step) if step < 1 else days * step


def _map(draw: Draw, size: tuple[int, int], len_scale: float, smoothness: float) -> Tensor:
    """One static random field (y, x)."""
    return random_field(draw, Covariance.isotropic(1, len_scale, smoothness), torch.zeros(1, 1), size)[0, 0]


def _series(draw: Draw, calendar: Calendar, memory: float) -> Tensor:
    """One random time series (time,) of unit scale."""
    return random_field(draw, Covariance.isotropic(1, 1.0, memory=memory), calendar.times, (1, 1))[0, :, 0, 0]


def _clouded(draw: Draw, calendar: Calendar, shape: Shape, cover: float) -> npt.NDArray[np.bool_]:
    valid: npt.NDArray[Any] = sample_gaps(draw.generator, 1, shape, "clouds", cover, times=calendar.times)[
        0
    ].numpy()
    return valid


def _centres(
    shape: Shape, cell: float, left: float, top: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Cell centres (x ascending, y descending) from the upper left corner."""
    x: npt.NDArray[np.float64] = left + (np.arange(shape[2], dtype=np.float64) + 0.5) * cell
    y: npt.NDArray[np.float64] = top - (np.arange(shape[1], dtype=np.float64) + 0.5) * cell
    return x, y


def _numpy(x: Tensor) -> Float32Array:
    array: Float32Array = x.contiguous().numpy().astype(np.float32)
    return array
