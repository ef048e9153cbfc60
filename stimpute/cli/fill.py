"""`stimpute fill`: parse, call :func:`stimpute.api.fill`, print the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stimpute.cli import console, parse
from stimpute.cli import options as o

if TYPE_CHECKING:
    from stimpute.inference.plan import FillPlan
    from stimpute.inference.summary import FillSummary

EPILOG = "Example: stimpute fill sm.nc sm_filled.nc"


def fill(
    context: typer.Context,
    paths: o.InputsAndOutput,
    var: o.Var = None,
    bbox: o.BBox = None,
    bbox_crs: o.BBoxCRS = None,
    time: o.Time = None,
    covariate: o.Covariate = None,
    nodata: o.NoData = None,
    date_format: o.DateFormat = None,
    times: o.Times = None,
    dedupe: o.Dedupe = None,
    regular: o.Regular = False,
    domain: o.Domain = None,
    qc: o.QC = False,
    force: o.Force = False,
    no_wrap: o.NoWrap = False,
    method: Annotated[
        str, o.option("--method", panel=o.METHOD, metavar=o.METHODS, help="How to fill.")
    ] = "st",
    model: o.Model = None,
    fast: o.Fast = False,
    adapt: o.Adapt = None,
    fill_never_observed: o.FillNeverObserved = False,
    max_gap: Annotated[
        Any,
        o.option(
            "--max-gap",
            panel=o.REFUSAL,
            parser=parse.days,
            metavar="10d",
            help="Refuse longer gaps (min, h, d, w, mo, y).",
        ),
    ] = None,
    max_distance: Annotated[
        str | None,
        o.option(
            "--max-distance",
            panel=o.REFUSAL,
            metavar="50km",
            help="Refuse cells farther from all observations of their step (km, m, cells).",
        ),
    ] = None,
    max_extrapolation: Annotated[
        Any,
        o.option(
            "--max-extrapolation",
            panel=o.REFUSAL,
            parser=parse.days_or_none,
            metavar="10d|none",
            help="Fill no farther past a cell's first or last observation (default: the temporal range).",
        ),
    ] = None,
    min_obs: Annotated[
        float | None,
        o.option("--min-obs", panel=o.REFUSAL, metavar="SHARE", help="Refuse cells observed in fewer steps."),
    ] = None,
    strict: Annotated[bool, o.option("--strict", panel=o.REFUSAL, help="Exit 3 if gaps remain.")] = False,
    uncertainty: o.Uncertainty = True,
    quantiles: o.Quantiles = None,
    flags: o.Flags = True,
    plot: o.Plot = None,
    bounds: o.Bounds = "auto",
    dtype: o.DType = None,
    of: o.Format = None,
    co: o.Creation = None,
    device: o.Device = "auto",
    precision: Annotated[
        str, o.option("--precision", panel=o.RUN, metavar="fp32|bf16", help="Precision of the network.")
    ] = "fp32",
    threads: o.Threads = None,
    tile: Annotated[
        int | None,
        o.option("--tile", panel=o.RUN, metavar="CELLS", help="Tile size, if not the variogram's."),
    ] = None,
    overlap: Annotated[
        int | None, o.option("--overlap", panel=o.RUN, metavar="CELLS", help="Halo round each tile.")
    ] = None,
    memory: o.Memory = None,
    dask: Annotated[
        str | None,
        o.option(
            "--dask",
            panel=o.RUN,
            metavar="local:N|ADDRESS",
            help="Tiles on N processes here, or on the Dask scheduler at tcp://host:port.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        o.option("--resume", panel=o.RUN, help="Go on from OUT.stimpute-partial, left by an interruption."),
    ] = False,
    overwrite: o.Overwrite = False,
    dry_run: Annotated[
        bool, o.option("--dry-run", panel=o.RUN, help="Print the plan, write nothing.")
    ] = False,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Fill the gaps of a stack; what was observed is copied untouched.

    Several inputs are one stack: an OUT with a suffix is the merged stack, an OUT that is a folder gets one file per
    input. Cells that were never observed stay gaps unless --fill-never-observed.
    """
    if len(paths) < 2:
        raise typer.BadParameter("an input and an output are needed: stimpute fill IN... OUT")
    *inputs, out = paths
    out = o.output(out)
    if json and out == "-":
        raise typer.BadParameter("--json and the output cannot both go to stdout")
    from stimpute import api

    read = o.reading(
        var=var, bbox=bbox, bbox_crs=bbox_crs, time=time, covariate=covariate, nodata=nodata, date_format=date_format,
        times=times, dedupe=dedupe, regular=regular, domain=domain, qc=qc, force=force, no_wrap=no_wrap,
    )  # fmt: skip
    options = {
        "method": method, "model": model, "fast": fast, "adapt": adapt, "fill_never_observed": fill_never_observed, "max_gap": max_gap,
        "max_distance": max_distance, "max_extrapolation": max_extrapolation,
        "min_obs": min_obs, "uncertainty": uncertainty, "quantiles": quantiles or (), "flags": flags, "plot": plot,
        "bounds": bounds, "dtype": dtype, "of": of, "co": co, "device": device,
        "precision": precision, "threads": threads, "tile": tile, "overlap": overlap, "memory": memory,
        "dask": dask, "resume": resume, "overwrite": overwrite, "seed": seed,
    }  # fmt: skip
    with console.progress() as progress:
        if dry_run:
            plan = api.plan(inputs, out, **read, **options)
            _print_plan(plan, json)
            return 0
        summary = api.fill(inputs, out, progress=progress, command=o.recorded(context), **read, **options)
    if json:
        console.write_json(summary)
    _print_summary(summary)
    return 3 if strict and summary.gaps_left else 0


def _print_summary(summary: FillSummary) -> None:
    for layer in summary.layers:
        cells = layer.observed + layer.filled + layer.refused + layer.outside_domain
        error = (
            ""
            if layer.expected_error is None
            else f"; expected error {layer.expected_error:.3g} {layer.units}".rstrip()
        )
        outside = f", {layer.outside_domain:,} outside the domain" if layer.outside_domain else ""
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in layer.refusals.items())
        why = f" ({reasons})" if reasons else ""
        clipped = f" ({layer.clipped:,} clipped into bounds)" if layer.clipped else ""
        console.say(
            f"{layer.name}: {cells:,} cell-steps: {layer.observed:,} observed, {layer.filled:,} filled{clipped},"
            f" {layer.refused:,} refused{why}{outside}{error}"
        )
        if layer.covariates_helped is not None:
            console.say(f"{layer.name}: {_on_covariates(layer.covariates_helped)}")
        if not layer.filled and not layer.refused:
            console.say(f"{layer.name}: no gaps; copied")
    shown = (
        summary.outputs
        if len(summary.outputs) <= 3
        else (summary.outputs[0], f"... ({len(summary.outputs)} files)")
    )
    where = ", ".join(shown) or "stdout"
    if summary.adaptation is not None:
        console.say(summary.adaptation.sentence)
    model = f" ({summary.model})" if summary.model else ""
    console.say(
        f"{summary.method}{model}: {summary.seconds:.1f} s, {summary.cell_steps_per_second:,.0f} cell-steps/s -> {where}"
    )


def _on_covariates(share: float) -> str:
    """What came of the covariates.

    >>> _on_covariates(0.25)
    'the covariates helped in 25% of the tiles, and were left out of the others'
    """
    if share == 0:
        return "the covariates did not help where cells were hidden to see, so it is filled without them"
    if share == 1:
        return "the covariates helped"
    return f"the covariates helped in {share:.0%} of the tiles, and were left out of the others"


def _print_plan(plan: FillPlan, json: bool) -> None:
    if json:
        console.write_json(plan)
        return
    for line in plan.lines():
        console.write_text(line)
