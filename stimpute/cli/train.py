"""`stimpute train`: parse, call :func:`stimpute.api.train`, show how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stimpute.cli import console, parse
from stimpute.cli import options as o

if TYPE_CHECKING:
    from stimpute.training.diffusion_loop import DiffusionProgress, DiffusionSummary
    from stimpute.training.options import TrainProgress, TrainSummary
    from stimpute.training.validation import Validation

EPILOG = "Example: stimpute train archive.nc -o my.safetensors --from st-small --minutes 10"
NETWORK = "Network"


def train(
    out: Annotated[
        str,
        o.option("--out", "-o", panel=o.RESULT, metavar="MODEL", help="The model to write (.safetensors)."),
    ],
    archives: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARCHIVE...",
            callback=parse.named,
            help="Files to learn from; .npz too. None with --worlds 1.",
        ),
    ] = None,
    var: o.Var = None,
    covariate: o.Covariate = None,
    time: o.Time = None,
    bbox: o.BBox = None,
    bbox_crs: o.BBoxCRS = None,
    nodata: o.NoData = None,
    date_format: o.DateFormat = None,
    times: o.Times = None,
    dedupe: o.Dedupe = None,
    force: o.Force = False,
    horizon: Annotated[
        Any,
        o.option(
            "--horizon",
            panel=o.METHOD,
            parser=parse.whole_numbers,
            metavar="N,...",
            help="Steps ahead to learn (task forecast; default 6,14,24).",
        ),
    ] = None,
    val_fraction: Annotated[
        float | None,
        o.option(
            "--val-fraction",
            panel=o.METHOD,
            metavar="SHARE",
            help="Observed cells set aside to validate on (default 0.06; forecast 0.1: the last steps; not for reconstruct).",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        o.option("--minutes", panel=o.METHOD, metavar="N", help="Budget (default 10, unless --steps)."),
    ] = None,
    steps: Annotated[
        int | None, o.option("--steps", panel=o.METHOD, metavar="N", help="Budget in steps.")
    ] = None,
    worlds: Annotated[
        float | None,
        o.option(
            "--worlds",
            panel=o.METHOD,
            metavar="SHARE",
            help="Share of simulated worlds among the examples (default 0 with archives, 1 without).",
        ),
    ] = None,
    start: Annotated[
        str | None, o.option("--from", panel=o.METHOD, metavar="NAME|PATH", help="Model to go on from.")
    ] = None,
    resume: Annotated[bool, o.option("--resume", panel=o.RUN, help="Go on with an interrupted run.")] = False,
    task: Annotated[
        str,
        o.option("--task", panel=NETWORK, metavar="fill|reconstruct|forecast", help="What the model is for."),
    ] = "fill",
    factor: Annotated[
        int | None,
        o.option(
            "--factor", panel=NETWORK, metavar="K", help="Fine cells per coarse cell and axis (reconstruct)."
        ),
    ] = None,
    size: Annotated[
        str, o.option("--size", panel=NETWORK, metavar="small|base|paper", help="Size of a new network.")
    ] = "small",
    attention: Annotated[
        str | None,
        o.option(
            "--attention",
            panel=NETWORK,
            metavar="msa|swmsa|sba",
            help="Spatial attention (default sba; size paper: swmsa; task fill).",
        ),
    ] = None,
    window: Annotated[
        int | None,
        o.option(
            "--window",
            panel=NETWORK,
            metavar="TOKENS",
            help="Side of an attention window (default 4; task fill).",
        ),
    ] = None,
    depth: Annotated[
        int | None,
        o.option(
            "--depth",
            panel=NETWORK,
            metavar="N",
            help="Layers (default 4, size base 6; forecast 3; not for reconstruct).",
        ),
    ] = None,
    width: Annotated[
        int | None,
        o.option(
            "--width",
            panel=NETWORK,
            metavar="N",
            help="Width of a token (default 64; size base 128, of a forecaster 96; reconstruct: channels, 24).",
        ),
    ] = None,
    spatial_embedding: Annotated[
        bool,
        o.option("--spatial-embedding", panel=NETWORK, help="Learn an embedding per cell (fixes the grid)."),
    ] = False,
    batch: Annotated[
        int | None,
        o.option(
            "--batch",
            panel=o.RUN,
            metavar="N",
            help="Examples per step (default 2 to 12 by their shape; forecast 4 origins; reconstruct 2 to 4).",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        o.option(
            "--lr",
            panel=o.RUN,
            metavar="RATE",
            help="Highest learning rate (default 0.001; reconstruct 0.0015).",
        ),
    ] = None,
    device: o.Device = "auto",
    precision: Annotated[
        str, o.option("--precision", panel=o.RUN, metavar="auto|fp32|bf16", help="Precision of the network.")
    ] = "auto",
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Specialise or train a model on local archives, on simulated worlds, or on both.

    Interrupted, it leaves its state beside the model; --resume goes on from there.
    """
    from stimpute import api

    read = o.reading(
        var=var, covariate=covariate, time=time, bbox=bbox, bbox_crs=bbox_crs, nodata=nodata, date_format=date_format,
        times=times, dedupe=dedupe, force=force, val_fraction=val_fraction, minutes=minutes, steps=steps, worlds=worlds,
        start=start, attention=attention, window=window, depth=depth, width=width, batch=batch, lr=lr, threads=threads,
        factor=factor, horizon=horizon,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "resume": resume, "size": size, "spatial_embedding": spatial_embedding, "device": device, "precision": precision,
        "overwrite": overwrite, "seed": seed, "task": task,
    }  # fmt: skip
    with console.progress() as bar:
        try:
            summary = api.train(archives or [], out, progress=_Reporter(bar), **read, **settings)
        except KeyboardInterrupt:
            _print_left_behind(out)
            raise
    if json:
        facts = ("path", "steps", "minutes", "stopped_early", "card")
        console.write_json({name: getattr(summary, name) for name in facts if hasattr(summary, name)})
    _print(summary)
    return 0


def _judged(validation: Validation) -> str:
    return (
        f"error / best candidate {validation.vs_best:.3f}, / linear {validation.vs_linear:.3f},"
        f" MAE {validation.mae:.3f} sd, coverage {validation.coverage:.2f}"
    )


class _Reporter:
    """A bar where there is a terminal, and a line for every validation."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def __call__(self, now: TrainProgress | DiffusionProgress) -> None:
        if self._bar:
            self._bar("train", int(1000 * now.fraction), 1000)
        if isinstance(now.validation, dict):
            stage = getattr(now, "stage", "")
            console.say(
                f"step {now.step}, {now.elapsed / 60:.1f} min ({stage}): loss {now.loss:.4f}, {_against(now.validation)}"
            )
        elif now.validation is not None:
            console.say(
                f"step {now.step}, {now.elapsed / 60:.1f} min: loss {now.loss:.4f}, {_judged(now.validation)}"
            )


def _print_left_behind(out: str) -> None:
    state = Path(f"{out}.stimpute-training")
    if state.exists():
        console.say(f"the state of the run is in {state}; the same command with --resume goes on from there")


def _against(errors: dict[str, float]) -> str:
    return "error / that of the classical guess: " + ", ".join(f"{k} {v:.3f}" for k, v in errors.items())


def _print(summary: TrainSummary | DiffusionSummary) -> None:
    early = ", stopped early" if getattr(summary, "stopped_early", False) else ""
    console.say(f"{summary.steps} steps, {summary.minutes:.1f} min{early}")
    if isinstance(summary.best, dict):
        console.say(f"validation of the best:  {_against(summary.best)}")
    elif summary.start is not None and summary.best is not None:
        console.say(f"validation at the start: {_judged(summary.start)}")
        console.say(f"validation of the best:  {_judged(summary.best)}")
    if summary.path is not None:
        console.say(f"wrote {summary.path}")
