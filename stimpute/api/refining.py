"""Where a coarse stack becomes a complete fine one: open, refine, write."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from stimpute.api.keywords import (
    Memory,
    Progress,
    ReadKeywords,
    WriteKeywords,
    as_command,
    as_inputs,
    check_known,
    check_scored,
    check_target,
    outcome,
    read_options,
    sink_options,
)
from stimpute.api.values import as_typed
from stimpute.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr

    from stimpute.api.keywords import Inputs
    from stimpute.evaluation.refining import RefiningBoard
    from stimpute.inference.reconstruct import ReconstructSummary
    from stimpute.protocols import Refiner


SAMPLES = 8


class ReconstructKeywords(WriteKeywords, total=False):
    """How a stack is completed, refined and written; the command line's options of the same names."""

    archive: str | Path | None
    samples: int
    members: bool
    conserve: bool
    flags: bool
    fill_never_observed: bool
    seed: int


@overload
def reconstruct(
    x: Inputs,
    out: None = None,
    *,
    factor: int,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[ReconstructKeywords],
) -> xr.Dataset: ...


@overload
def reconstruct(
    x: Inputs,
    out: str | Path,
    *,
    factor: int,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[ReconstructKeywords],
) -> ReconstructSummary: ...


@as_typed
def reconstruct(
    x: Inputs,
    out: str | Path | None = None,
    *,
    factor: int,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[ReconstructKeywords],
) -> Any:
    """Complete a sparse coarse stack and refine it onto a grid ``factor`` times finer.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object.
    out : where to write; None returns the Dataset.
    factor : fine cells per coarse cell and axis.
    progress : called with (stage, done, total).
    command : recorded in ``history``.
    options : as on the command line, with ``_`` for ``-``, each a value or the command line's own text: how it is read and written as of
        :func:`stimpute.fill`; ``method``, ``model``, ``archive`` (``PATH[:VAR]``), ``samples``, ``members``, ``conserve``, ``seed``.

    Returns
    -------
    xarray.Dataset where ``out`` is None, else a :class:`~stimpute.inference.reconstruct.ReconstructSummary`.

    Raises
    ------
    StimputeError : what was wrong, in which file, what to do.
    """
    check_known(options, ReconstructKeywords, "reconstruct")
    command = command or as_command("stimpute.reconstruct", {"factor": factor, **options})
    from dataclasses import replace

    from stimpute import io
    from stimpute.inference.methods import open_refiner
    from stimpute.inference.reconstruct import reconstruct_source

    given, reading = _run_options(factor, options), read_options(options)
    writing = replace(sink_options(options), members=given.samples if given.members else 0)
    inputs = as_inputs(x)
    archive = options.get("archive")
    check_target(out, inputs, reading, writing.overwrite, () if archive is None else (str(archive),))
    refiner: Refiner = open_refiner(
        options.get("method", "diffrecon"), options.get("model"), factor, options.get("device", "auto"), options.get("threads")
    )  # fmt: skip
    coarse_reading = replace(reading, covariates=())
    with io.open_source(inputs, coarse_reading) as source, ExitStack() as opened:
        if out is not None:
            writing = replace(writing, format=io.output_format(out, source, writing))
        raster = writing.format in ("GeoTIFF", "COG")
        fine = io.refine(source, factor, reading.covariates, even=raster)
        if archive is not None:
            refiner = _beside(refiner, fine, str(archive), opened)
        if out is not None and not (raster and len(fine.layers) > 1):
            _refuse_folder(out, writing.format)
        with io.create_sink(out, fine, writing) as sink:
            summary = reconstruct_source(source, fine, sink, refiner, given, progress, command)
    return outcome(out, sink, summary)


def _beside(refiner: Refiner, fine: Any, archive: str, opened: ExitStack) -> Refiner:
    """The refiner told by a fine archive of the only layer."""
    from stimpute import io
    from stimpute.inference.beside_archive import BesideArchive

    if len(fine.layers) > 1:
        names = ", ".join(layer.name for layer in fine.layers)
        raise UsageError(
            f"--archive {archive}: tells of one layer, the input has several ({names}); choose one with --var"
        )
    return BesideArchive(refiner, opened.enter_context(io.archive_on(fine, archive)))


def _run_options(factor: int, options: Mapping[str, Any]) -> Any:
    from stimpute.inference.reconstruct import ReconstructOptions

    quantiles = tuple(options.get("quantiles", ()))
    return ReconstructOptions(
        factor, options.get("samples", SAMPLES), options.get("members", False), options.get("conserve", True), quantiles,
        options.get("bounds", "auto"), options.get("fill_never_observed", False), options.get("memory"), options.get("seed", 0),
    )  # fmt: skip


def _refuse_folder(out: str | Path, wanted: str | None) -> None:
    from stimpute.io import is_folder_output

    if str(out) != "-" and is_folder_output(out, wanted):
        raise OutputError(
            f"{out}: reconstruct writes one file; give it a name with a suffix (.nc, .zarr, .tif)"
        )


@as_typed
def evaluate_reconstruct(
    x: Inputs,
    *,
    factor: int,
    holdout: str | Sequence[str] = ("random",),
    share: float = 0.4,
    methods: str | Sequence[str] | None = None,
    model: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    memory: Memory = None,
    progress: Progress | None = None,
    **options: Unpack[ReadKeywords],
) -> list[RefiningBoard]:
    """Coarsen a stack by ``factor``, hide coarse cells, complete and refine, score on the stack: one board per layer.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object. What an earlier run filled counts as gaps.
    factor : fine cells per coarse cell and axis.
    holdout : ``fixed``, ``random`` cells or one ``quarter`` of the area, each a case of its own.
    share : of the coarse cells hidden (not for a quarter).
    methods : of ``diffrecon``, ``st``, ``classical``, and a filling method with ``+bilinear`` or ``+cubic``; None: the usual ones.
    model : of method ``diffrecon``, by name or path.
    samples : members of the ensemble.
    seed : of what is hidden, and of the noise.
    device, threads, memory : as of :func:`stimpute.fill`.
    progress : called with (stage, done, total).
    options : how it is read, as of :func:`stimpute.fill`.

    Returns
    -------
    list of RefiningBoard : with ``rows``, one for each case and method; their ``scores`` in the layer's units, over all fine cells.

    Raises
    ------
    UsageError : an option that does not fit.
    InputError : it cannot be read, or no method could be scored.
    """
    check_known(options, ReadKeywords, "evaluate")
    from stimpute import io
    from stimpute.evaluation.refining import RefiningCase, evaluate_refining
    from stimpute.evaluation.sample import sampled_stack
    from stimpute.evaluation.scoreboard import EvaluateOptions
    from stimpute.inference.reconstruct import ReconstructOptions

    ReconstructOptions(factor, samples)
    cases = [RefiningCase(kind, share if kind != "quarter" else 0.25) for kind in holdout]  # type: ignore[arg-type]
    names = tuple(methods) if methods else REFINING_METHODS
    if model is not None and "diffrecon" not in names:
        raise UsageError(f"--model {model}: without diffrecon among --methods it has no effect")
    runs = [(name, refiner_maker(name, factor, model, device, threads)) for name in names]
    if model is not None:
        dict(runs)["diffrecon"]()  # a model that cannot be used is no matter of scores
    boards = []
    with io.open_source(as_inputs(x), read_options(options)) as source:
        io.read_observed_only(source)
        for index, layer in enumerate(source.layers):
            stack, _ = sampled_stack(source, index, EvaluateOptions().max_cells, memory)
            board = evaluate_refining(
                stack, layer.name, layer.units, factor, runs, cases, samples=samples, seed=seed, progress=progress
            )  # fmt: skip
            check_scored(board.rows)
            boards.append(board)
    return boards


REFINING_METHODS = ("linear+bilinear", "linear+cubic", "kriging+cubic", "st+cubic", "st", "diffrecon")


def refiner_maker(
    name: str, factor: int, model: str | None = None, device: str = "auto", threads: int | None = None
) -> Callable[[], Refiner]:
    """What opens a refiner by the name that ``evaluate --task reconstruct --methods`` takes.

    Raises
    ------
    UsageError : no method is called that.
    """
    from stimpute.inference.interpolation import FillThenInterpolate
    from stimpute.inference.methods import REFINERS, method_names, open_method, open_refiner

    if name in REFINERS:
        return lambda: open_refiner(name, model if name == "diffrecon" else None, factor, device, threads)
    filling, plus, mode = name.partition("+")
    if filling not in method_names() or not plus or mode not in ("bilinear", "cubic"):
        raise UsageError(
            f"--methods {name}: {', '.join(REFINERS)}, or a method of fill with +bilinear or +cubic, such as kriging+cubic"
        )
    return lambda: FillThenInterpolate(
        name,
        open_method(filling, device=device, threads=threads),
        "bicubic" if mode == "cubic" else "bilinear",
    )
