"""Completing and refining a stack of any size with any refiner, layer by layer, into a sink on the finer grid. Knows protocols only."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stimpute import __version__
from stimpute.errors import UsageError
from stimpute.estimate import Estimate
from stimpute.inference.assembly import Shape3, write_windows
from stimpute.inference.bounds import resolve_bounds
from stimpute.inference.options import Bounds, FillOptions, Progress
from stimpute.inference.pieces import Fields, blended_windows, cut_layer, finer
from stimpute.inference.refusal import refused_gaps
from stimpute.inference.survey import COVARIATE_BYTES, Survey, memory_budget, survey_layer
from stimpute.protocols import (
    FILLED,
    OUTSIDE_DOMAIN,
    REFUSED,
    Filled,
    Refiner,
    Refining,
    Sink,
    Source,
    Window,
)
from stimpute.stack import Stack

LARGEST_FACTOR = 32
_FIELD_BYTES = 8  # of every field, per fine cell-step of a window;
_BLOCK_BYTES = 40  # of what is decided and written


@dataclass(frozen=True)
class ReconstructOptions:
    """How a stack is completed and refined.

    Parameters
    ----------
    factor : fine cells per coarse cell and axis.
    samples : members of the ensemble that mean, standard error and quantiles are taken from.
    members : hand the members on to the sink too.
    conserve : block means of the fine field are the coarse observations.
    quantiles : levels in (0, 1).
    bounds, fill_never_observed, memory, seed : as in :class:`~stimpute.inference.options.FillOptions`.

    Raises
    ------
    UsageError : a value that no file could make right.
    """

    factor: int
    samples: int = 8
    members: bool = False
    conserve: bool = True
    quantiles: tuple[float, ...] = ()
    bounds: Bounds | Literal["auto"] | None = "auto"
    fill_never_observed: bool = False
    memory: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.factor <= LARGEST_FACTOR:
            raise UsageError(f"--factor {self.factor}: 2 to {LARGEST_FACTOR}")
        if not 2 <= self.samples <= 1000:
            raise UsageError(f"--samples {self.samples}: 2 to 1000")
        self.fill  # noqa: B018 (checks the rest)

    @property
    def fill(self) -> FillOptions:
        """The same for a survey of the coarse layer."""
        return FillOptions(
            memory=self.memory, bounds=self.bounds, quantiles=self.quantiles,
            fill_never_observed=self.fill_never_observed, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class LayerReconstruction:
    """What happened to one layer; counts are cell-steps, the error is in the variable's units."""

    name: str
    units: str
    coarse_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    observed: int  # coarse
    estimated: int  # fine, as the next two
    refused: int
    outside_domain: int
    standard_error: float | None  # mean of the estimated cells
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReconstructSummary:
    """What a reconstruction did."""

    method: str
    model: str | None
    model_sha256: str | None
    factor: int
    samples: int
    conserve: bool
    seed: int
    layers: tuple[LayerReconstruction, ...]
    seconds: float
    outputs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def reconstruct_source(
    source: Source,
    fine: Source,
    sink: Sink,
    refiner: Refiner,
    options: ReconstructOptions,
    progress: Progress | None = None,
    command: str = "",
) -> ReconstructSummary:
    """Complete every layer of ``source``, refine it onto ``fine`` (its grid cut finer), write it into ``sink``, commit.

    Raises
    ------
    InputError : a layer without any observation.
    OutputError : the sink cannot hold a value, or cannot be written.
    """
    started = time.perf_counter()
    layers = []
    for index in range(len(source.layers)):
        survey = _surveyed(source, index, refiner, options, progress)
        layers.append(_Layer(survey, source, fine, sink, refiner, options, progress).written())
    outputs = sink.commit(_history(refiner, options, command))
    return ReconstructSummary(
        method=refiner.name, model=getattr(refiner, "model_name", None), model_sha256=getattr(refiner, "sha256", None),
        factor=options.factor, samples=options.samples, conserve=options.conserve, seed=options.seed, layers=tuple(layers),
        seconds=round(time.perf_counter() - started, 3), outputs=tuple(str(path) for path in outputs),
    )  # fmt: skip


_OF_TILES = ("tiles of the fallback size", "allows tiles only")


def _surveyed(
    source: Source, index: int, refiner: Refiner, options: ReconstructOptions, progress: Progress | None
) -> Survey:
    """What `fill` would find out about the layer; what it would say about tiles is kept back: there are none here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        survey = survey_layer(source, index, _Surveyed(refiner.name), options.fill, progress)
    notes = tuple(note for note in survey.notes if not any(words in note for words in _OF_TILES))
    for warning in caught:
        if str(warning.message) not in survey.notes or str(warning.message) in notes:
            warnings.warn(warning.message, warning.category, stacklevel=3)
    return replace(survey, notes=notes)


class _Surveyed:
    """What a survey wants to know of a method: it sees the whole layer."""

    sees_whole = True
    bytes_per_cell = 1

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, overview: Any) -> Any:
        """Never called by a survey."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Layer:
    """One layer on its way to the finer grid."""

    survey: Survey
    source: Source
    fine: Source
    sink: Sink
    refiner: Refiner
    options: ReconstructOptions
    progress: Progress | None

    def written(self) -> LayerReconstruction:
        survey, options, k = self.survey, self.options, self.options.factor
        bounds, _ = resolve_bounds(survey.layer, options.fill, survey.overview.values[survey.overview.valid])
        counts, claimed = np.zeros(4, dtype=np.int64), 0.0
        for window, fields in self._windows(bounds):
            valid = self._read(window).valid
            flag = _blocks(_coarse_flag(survey, window, valid, options), k)
            filled = _filled(fields, flag, bounds)
            self.sink.write(finer(window, k), filled, survey.index)
            counts += np.bincount(flag.ravel(), minlength=4)
            if filled.standard_error is not None:
                claimed += float(np.nansum(filled.standard_error, dtype=np.float64))
        estimated = int(counts[FILLED])
        t, ny, nx = survey.shape
        return LayerReconstruction(
            survey.layer.name, survey.layer.units, survey.shape, (t, ny * k, nx * k), survey.observed, estimated,
            int(counts[REFUSED]), int(counts[OUTSIDE_DOMAIN]), claimed / estimated if estimated else None, survey.notes,
        )  # fmt: skip

    def _read(self, window: Window) -> Stack:
        return self.source.read(window, self.survey.index)

    def _windows(self, bounds: Bounds) -> Iterator[tuple[Window, Fields]]:
        survey, options, k = self.survey, self.options, self.options.factor
        wanted = Refining(k, options.samples, options.conserve, bounds, options.seed)
        fields = 2 + len(options.quantiles) + options.samples * options.members
        per_fine = fields * _FIELD_BYTES + _BLOCK_BYTES
        budget = memory_budget(options.fill)
        chunk = self._chunk()
        cells = max(budget // 2 // per_fine // k**2, 1)
        if survey.constant is not None:
            for window in write_windows(survey.shape, chunk, cells):
                yield window, _said(_constant(finer(window, k).shape, survey.constant, wanted), options)
            return
        covariates = len(survey.overview.dynamic) + len(survey.overview.static)
        per_cell = (
            self.refiner.bytes_per_cell(wanted, survey.shape[0])
            + (per_fine + COVARIATE_BYTES * covariates) * k**2
        )
        cut = cut_layer(survey.shape, survey.grid.wraps, budget // per_cell)

        read_coarse = cut.around(self._read)
        read_fine = cut.around(lambda window: self.fine.read(window, survey.index), k)

        def say(window: Window) -> Fields:
            origin = window.time[0], window.y[0], window.x[0] - cut.margin
            here = replace(wanted, origin=origin, columns=survey.shape[2] if cut.margin else None)
            coarse, fine = read_coarse(window).contiguous(), read_fine(finer(window, k))
            if coarse.valid.any():
                return _said(self.refiner.refine(coarse, fine, here), options)
            unseen = getattr(self.refiner, "unseen", None)
            told = None if unseen is None else unseen(coarse, here)
            if told is None:
                return _said(_usual(survey.overview, coarse.times, fine, here), options)
            mean, spread = told
            return _said(_around(mean, spread, here), options)

        def done(pieces: int, of: int) -> None:
            if self.progress:
                self.progress("reconstruct", pieces, of)

        yield from blended_windows(cut, say, chunk, cells, k, done)

    def _chunk(self) -> Shape3:
        """Coarse cells that the sink writes at a time."""
        preferred = getattr(self.sink, "chunk", None)
        if preferred is None:
            return 1, 1, self.survey.shape[2]
        t, y, x = preferred(self.survey.index)
        return t, max(y // self.options.factor, 1), max(x // self.options.factor, 1)


def _constant(shape: Shape3, value: float, wanted: Refining) -> Estimate:
    """The one value that a layer holds, everywhere and without doubt."""
    field = np.full(shape, value, dtype=np.float32)
    return Estimate(
        field, np.zeros_like(field), members=np.broadcast_to(field, (wanted.samples, *field.shape))
    )


def _usual(overview: Stack, times: npt.NDArray[np.float64], fine: Stack, wanted: Refining) -> Estimate:
    """Where a piece holds no observation at all: the mean of what is observed of the layer at each step, and how that varies."""
    seen = overview.valid.any(axis=(1, 2))
    means = np.array(
        [overview.values[t][overview.valid[t]].mean(dtype=np.float64) for t in np.flatnonzero(seen)]
    )
    spread = np.sqrt(
        np.mean([overview.values[t][overview.valid[t]].var(dtype=np.float64) for t in np.flatnonzero(seen)])
    )
    level = np.interp(times, overview.times[seen], means)[:, None, None]
    mean = np.broadcast_to(level, fine.shape).astype(np.float32)
    return _around(mean, np.full(fine.shape, spread, dtype=np.float32), wanted)


def _around(mean: npt.NDArray[np.float32], spread: npt.NDArray[np.float32], wanted: Refining) -> Estimate:
    """A Gaussian, with members at even quantiles of it."""
    levels = (np.arange(wanted.samples) + 0.5) / wanted.samples
    return Estimate(
        mean, spread, members=np.stack([mean + np.float32(NormalDist().inv_cdf(p)) * spread for p in levels])
    )


def _coarse_flag(
    survey: Survey, window: Window, valid: npt.NDArray[np.bool_], options: ReconstructOptions
) -> npt.NDArray[np.uint8]:
    """Which blocks of a window of whole rows are estimated (time, y, x): by the rules of `fill`, and wherever something was observed."""
    rows = window.slices[1]
    flag = np.full(window.shape, REFUSED, dtype=np.uint8)
    flag[:, survey.outside[rows]] = OUTSIDE_DOMAIN
    flag[:, survey.fillable[rows]] = FILLED
    for refused in refused_gaps(survey, window, valid, options.fill).values():
        flag[refused & (flag == FILLED)] = REFUSED
    flag[valid] = FILLED
    return flag


def _blocks(cells: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    return np.repeat(np.repeat(cells, factor, axis=1), factor, axis=2)


_MEMBER = "member"


def _said(estimate: Estimate, options: ReconstructOptions) -> Fields:
    """Mean, spread, quantiles (of the members where there are any, else of a Gaussian) and members, by name."""
    fields = {"mean": estimate.mean}
    if estimate.scale is not None:
        fields["scale"] = estimate.scale
    for level in options.quantiles:
        if estimate.members is not None:
            fields[repr(level)] = np.quantile(estimate.members, level, axis=0)
        elif estimate.scale is not None:
            fields[repr(level)] = estimate.mean + np.float32(NormalDist().inv_cdf(level)) * estimate.scale
    if options.members:
        if estimate.members is None:
            raise UsageError("--members: this method has no members; leave --members out")
        fields |= {f"{_MEMBER}{number}": member for number, member in enumerate(estimate.members)}
    return fields


def _filled(fields: Fields, flag: npt.NDArray[np.uint8], bounds: Bounds) -> Filled:
    """What is said, inside the bounds, where it is wanted."""
    estimated = flag == FILLED

    def kept(values: npt.NDArray[Any], ends: Bounds = bounds) -> npt.NDArray[np.float32]:
        clipped = np.clip(values, *ends) if ends != (None, None) else values  # rounding may have left them
        return np.where(estimated, clipped, np.float32(np.nan)).astype(np.float32, copy=False)

    scale = kept(fields["scale"], (None, None)) if "scale" in fields else None
    members = [kept(field) for name, field in fields.items() if name.startswith(_MEMBER)]
    levels = [name for name in fields if name not in ("mean", "scale") and not name.startswith(_MEMBER)]
    quantiles = {float(name): kept(fields[name]) for name in levels}
    return Filled(kept(fields["mean"]), flag, scale, quantiles, np.stack(members) if members else None)


def _history(refiner: Refiner, options: ReconstructOptions, command: str) -> str:
    """One line for ``history``: when, what, by which version, with which weights and seed."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    model = getattr(refiner, "model_name", None)
    archive = ", beside a fine archive" if getattr(refiner, "archive", None) is not None else ""
    weights = f", model {model} sha256 {getattr(refiner, 'sha256', '')}" if model else ""
    conserved = "block means conserved" if options.conserve else "block means not conserved"
    return (
        f"{when}: {command or 'stimpute.reconstruct'} (stimpute {__version__}, completed and refined by a factor of {options.factor}, "
        f"method {refiner.name}{weights}{archive}, {options.samples} samples, {conserved}, seed {options.seed})"
    )
