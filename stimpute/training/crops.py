"""Windows of archives, cut at random and varied: what is learnt from one archive must hold for its mirror image. Numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stimpute.training.archive import Archive

_NOTHING: npt.NDArray[np.bool_] = np.zeros((0, 0, 0), dtype=bool)
_TRIES = 6


@dataclass(frozen=True, eq=False)
class Crop:
    """A window of an archive, numpy, in the archive's units: NaN in gaps, ``given`` visible, ``wanted`` hidden."""

    values: npt.NDArray[np.float32]
    times: npt.NDArray[np.float64]
    year_phase: npt.NDArray[np.float64]
    day_phase: npt.NDArray[np.float64]
    dynamic: dict[str, npt.NDArray[np.float32]]
    static: dict[str, npt.NDArray[np.float32]]
    given: npt.NDArray[np.bool_]
    wanted: npt.NDArray[np.bool_]

    def each(self, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]) -> Crop:
        """The same change to values and covariates (of the last two axes)."""
        return replace(
            self,
            values=change(self.values),
            dynamic={k: change(v) for k, v in self.dynamic.items()},
            static={k: change(v) for k, v in self.static.items()},
        )


def cut(
    archive: Archive,
    generator: np.random.Generator,
    window: tuple[int, int, int],
    *,
    strides: bool,
    aside: npt.NDArray[np.bool_] | None = None,
) -> Crop:
    """A window at random, the best of a few by what is observed in it; padded with gaps where the archive is smaller.

    With ``aside`` (t, y, x), windows that hold more of these cells are preferred, and they are the crop's ``wanted``.
    """
    best: Crop | None = None
    most = -1
    for _ in range(_TRIES):
        axes = [_axis(generator, n, m, strides) for n, m in zip(archive.shape, window, strict=True)]
        crop = _taken(archive, axes, aside)
        seen = int(np.isfinite(crop.values).sum() if aside is None else crop.wanted.sum())
        if seen > most:
            most, best = seen, crop
        if aside is None and seen >= 0.1 * np.prod(window):
            break
    assert best is not None
    return _padded(best, generator, window)


def _axis(generator: np.random.Generator, size: int, wanted: int, strides: bool) -> npt.NDArray[np.intp]:
    """Indices of at most ``wanted`` neighbours, or of every second, third ... where there is room."""
    widest = max(1, min(4, size // wanted)) if strides else 1
    step = int(generator.integers(1, widest + 1)) if generator.random() < 0.35 else 1
    count = min(wanted, -(-size // step))
    first = int(generator.integers(0, size - (count - 1) * step))
    return first + step * np.arange(count)


def _taken(archive: Archive, axes: list[npt.NDArray[np.intp]], aside: npt.NDArray[np.bool_] | None) -> Crop:
    t, ys, xs = axes
    cells = np.ix_(t, ys, xs)
    return Crop(
        archive.values[cells],
        archive.times[t],
        archive.year_phase[t],
        archive.day_phase[t],
        {k: v[cells] for k, v in archive.dynamic.items()},
        {k: v[np.ix_(ys, xs)] for k, v in archive.static.items()},
        _NOTHING,
        _NOTHING if aside is None else aside[cells],
    )


def _padded(crop: Crop, generator: np.random.Generator, window: tuple[int, int, int]) -> Crop:
    missing = [m - n for n, m in zip(crop.values.shape, window, strict=True)]
    if not any(missing):
        return crop
    before = [int(generator.integers(0, m + 1)) for m in missing]
    around = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    times = crop.times
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    index = np.arange(window[0]) - before[0]
    extended = np.interp(index, np.arange(len(times)), times) + step * (
        np.minimum(index, 0) + np.maximum(index - (len(times) - 1), 0)
    )
    shift = extended - np.interp(index, np.arange(len(times)), times)
    nearest = np.clip(index, 0, len(times) - 1)
    return Crop(
        np.pad(crop.values, around, constant_values=np.nan),
        extended,
        (crop.year_phase[nearest] + shift / 365.2425) % 1,
        (crop.day_phase[nearest] + shift) % 1,
        {k: np.pad(v, around, constant_values=np.nan) for k, v in crop.dynamic.items()},
        {k: np.pad(v, around[1:], constant_values=np.nan) for k, v in crop.static.items()},
        _NOTHING,
        np.pad(crop.wanted, around) if crop.wanted.size else _NOTHING,
    )


def augmented(crop: Crop, generator: np.random.Generator, *, turns: bool = True) -> Crop:
    """Flips, quarter turns (of square windows), time reversed, sign, dates, cadence and marginal changed, at random."""
    lot = generator.random(8)
    if turns and lot[0] < 0.5:
        crop = crop.each(lambda a: a[..., ::-1])
    if turns and lot[1] < 0.5:
        crop = crop.each(lambda a: a[..., ::-1, :])
    if turns and lot[2] < 0.5 and crop.values.shape[1] == crop.values.shape[2]:
        crop = crop.each(lambda a: np.swapaxes(a, -1, -2))
    if lot[3] < 0.3:
        crop = _reversed(crop)
    if lot[4] < 0.3:
        crop = replace(crop, values=-crop.values)
    if lot[5] < 0.25:
        offset, pace = generator.uniform(), float(np.exp(generator.uniform(-1.5, 1.5)))
        times = crop.times * pace
        crop = replace(crop, times=times, year_phase=(times / 365.2425 + offset) % 1, day_phase=times % 1)
    if lot[6] < 0.25:
        crop = replace(
            crop, values=_bent(crop.values, float(generator.uniform(0.3, 1.5)), bool(lot[7] < 0.5))
        )
    return crop


def _reversed(crop: Crop) -> Crop:
    return replace(
        crop,
        values=crop.values[::-1],
        times=crop.times[-1] - crop.times[::-1],
        year_phase=-crop.year_phase[::-1] % 1,
        day_phase=-crop.day_phase[::-1] % 1,
        dynamic={k: v[::-1] for k, v in crop.dynamic.items()},
    )


def _bent(values: npt.NDArray[np.float32], strength: float, compress: bool) -> npt.NDArray[np.float32]:
    """Another marginal distribution by a monotone map of the standardised values."""
    seen = values[np.isfinite(values)]
    if not seen.size or seen.std() == 0:
        return values
    z = np.clip((values - seen.mean()) / seen.std(), -6, 6)
    bent = np.arcsinh(3 * strength * z) if compress else np.sinh(strength * z)
    return np.asarray(bent, dtype=np.float32)
