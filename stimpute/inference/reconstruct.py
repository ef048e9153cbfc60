"""Completing and refining a stack with any refiner, layer by layer, into a sink on the finer grid. Knows protocols only."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stimpute import __version__
from stimpute.errors import InputError, UsageError
from stimpute.estimate import Estimate
from stimpute.inference.engine import resolve_bounds
from stimpute.inference.options import Bounds, FillOptions, Progress
from stimpute.inference.refusal import refused_gaps
from stimpute.inference.survey import Survey, memory_budget, survey_layer
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

_BYTES = 64  # per fine cell-step, besides 12 for every member
LARGEST_FACTOR = 32


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
    InputError : a layer without any observation, or one that does not fit into memory.
    OutputError : the sink cannot hold a value, or cannot be written.
    """
    started = time.perf_counter()
    layers = []
    for index in range(len(source.layers)):
        _refuse_large(source, index, options)
        survey = _surveyed(source, index, refiner, options, progress)
        layers.append(_layer(survey, source, fine, sink, refiner, options))
        if progress:
            progress("reconstruct", index + 1, len(source.layers))
    outputs = sink.commit(_history(refiner, options, command))
    return ReconstructSummary(
        method=refiner.name, model=getattr(refiner, "model_name", None), model_sha256=getattr(refiner, "sha256", None),
        factor=options.factor, samples=options.samples, conserve=options.conserve, seed=options.seed, layers=tuple(layers),
        seconds=round(time.perf_counter() - started, 3), outputs=tuple(str(path) for path in outputs),
    )  # fmt: skip


def _surveyed(
    source: Source, index: int, refiner: Refiner, options: ReconstructOptions, progress: Progress | None
) -> Survey:
    """What `fill` would find out about the layer; what it would say about tiles is kept back: there are none here."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        survey = survey_layer(source, index, _Surveyed(refiner.name), options.fill, progress)
    notes = tuple(note for note in survey.notes if "tiles of the fallback size" not in note)
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


def _refuse_large(source: Source, index: int, options: ReconstructOptions) -> None:
    cells = math.prod(source.layers[index].shape) * options.factor**2
    needed, budget = cells * (_BYTES + 12 * options.samples), memory_budget(options.fill)
    if needed > budget:
        name = (
            f"{source.paths[0]}: {source.layers[index].name}" if source.paths else source.layers[index].name
        )
        raise InputError(
            f"{name}: {cells:,} fine cell-steps in {options.samples} members need about {needed / 2**30:.2g} GiB, {budget / 2**30:.2g} GiB "
            "are allowed; raise --memory, lower --samples, or take a part with --bbox or --time"
        )


def _layer(
    survey: Survey, source: Source, fine: Source, sink: Sink, refiner: Refiner, options: ReconstructOptions
) -> LayerReconstruction:
    k = options.factor
    t, ny, nx = survey.shape
    coarse = source.read(Window.whole(survey.shape), survey.index)
    window = Window.whole((t, ny * k, nx * k))
    bounds = resolve_bounds(survey.layer, options.fill)
    wanted = Refining(k, options.samples, options.conserve, bounds, options.seed)
    estimate = _constant(survey, wanted) or refiner.refine(coarse, fine.read(window, survey.index), wanted)
    flag = _blocks(_coarse_flag(survey, coarse.valid, options), k)
    sink.write(window, _filled(estimate, flag, options, bounds), survey.index)
    counts = np.bincount(flag.ravel(), minlength=4)
    error = None if estimate.scale is None else float(estimate.scale[flag == FILLED].mean(dtype=np.float64))
    return LayerReconstruction(
        survey.layer.name, survey.layer.units, survey.shape, window.shape, survey.observed, int(counts[FILLED]),
        int(counts[REFUSED]), int(counts[OUTSIDE_DOMAIN]), error, survey.notes,
    )  # fmt: skip


def _constant(survey: Survey, wanted: Refining) -> Estimate | None:
    """The one value that a layer holds, everywhere and without doubt; None where it holds several."""
    if survey.constant is None:
        return None
    t, ny, nx = survey.shape
    field = np.full((t, ny * wanted.factor, nx * wanted.factor), survey.constant, dtype=np.float32)
    return Estimate(
        field, np.zeros_like(field), members=np.broadcast_to(field, (wanted.samples, *field.shape))
    )


def _coarse_flag(
    survey: Survey, valid: npt.NDArray[np.bool_], options: ReconstructOptions
) -> npt.NDArray[np.uint8]:
    """Which blocks are estimated (time, y, x): by the rules of `fill`, and wherever something was observed."""
    flag = np.full(survey.shape, REFUSED, dtype=np.uint8)
    flag[:, survey.outside] = OUTSIDE_DOMAIN
    flag[:, survey.fillable] = FILLED
    for refused in refused_gaps(survey, Window.whole(survey.shape), valid, options.fill).values():
        flag[refused & (flag == FILLED)] = REFUSED
    flag[valid] = FILLED
    return flag


def _blocks(cells: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    return np.repeat(np.repeat(cells, factor, axis=1), factor, axis=2)


def _filled(
    estimate: Estimate, flag: npt.NDArray[np.uint8], options: ReconstructOptions, bounds: Bounds
) -> Filled:
    """Values, spread, quantiles (of the members where there are any, else of a Gaussian) and members."""
    estimated = flag == FILLED

    def kept(values: npt.NDArray[Any], ends: Bounds = bounds) -> npt.NDArray[np.float32]:
        inside = np.clip(values, *ends) if ends != (None, None) else values  # rounding may have left them
        return np.where(estimated, inside, np.float32(np.nan)).astype(np.float32)

    quantiles = {}
    for level in options.quantiles:
        if estimate.members is not None:
            quantiles[level] = kept(np.quantile(estimate.members, level, axis=0))
        elif estimate.scale is not None:
            values = estimate.mean + np.float32(NormalDist().inv_cdf(level)) * estimate.scale
            quantiles[level] = kept(values)
    members = None
    if options.members:
        if estimate.members is None:
            raise UsageError("--members: this method has no members; leave --members out")
        members = np.stack([kept(member) for member in estimate.members])
    scale = None if estimate.scale is None else kept(estimate.scale, (None, None))
    return Filled(kept(estimate.mean), flag, scale, quantiles, members)


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
