"""`stimpute reconstruct`: parse, call :func:`stimpute.api.reconstruct`, print the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stimpute.cli import console
from stimpute.cli import options as o

if TYPE_CHECKING:
    from stimpute.inference.reconstruct import ReconstructSummary

EPILOG = "Example: stimpute reconstruct sm_36km.nc sm_9km.nc --factor 4 --covariate elevation_9km.tif"


def reconstruct(
    context: typer.Context,
    paths: o.InputsAndOutput,
    factor: Annotated[
        int, o.option("--factor", panel=o.METHOD, metavar="K", help="Fine cells per coarse cell and axis.")
    ],
    var: o.Var = None,
    bbox: o.BBox = None,
    bbox_crs: o.BBoxCRS = None,
    time: o.Time = None,
    covariate: Annotated[
        list[str] | None,
        o.option(
            "--covariate",
            panel=o.WHAT,
            metavar="PATH[:VAR]",
            help="A covariate, read on the fine grid; repeatable.",
        ),
    ] = None,
    nodata: o.NoData = None,
    date_format: o.DateFormat = None,
    times: o.Times = None,
    dedupe: o.Dedupe = None,
    regular: o.Regular = False,
    domain: o.Domain = None,
    qc: o.QC = False,
    force: o.Force = False,
    method: Annotated[
        str,
        o.option(
            "--method", panel=o.METHOD, metavar="diffrecon|st|classical", help="How to complete and refine."
        ),
    ] = "diffrecon",
    model: Annotated[
        str | None,
        o.option(
            "--model",
            panel=o.METHOD,
            metavar="NAME|PATH",
            help="Model of method diffrecon, made for the factor.",
        ),
    ] = None,
    archive: Annotated[
        str | None,
        o.option(
            "--archive",
            panel=o.METHOD,
            metavar="PATH[:VAR]",
            help="Fine archive of the same variable and place, other times: what it shows inside the cells is used.",
        ),
    ] = None,
    samples: Annotated[
        int, o.option("--samples", panel=o.METHOD, metavar="N", help="Members of the ensemble.")
    ] = 8,
    conserve: Annotated[
        bool,
        o.option("--conserve/--no-conserve", panel=o.METHOD, help="Block means equal what was observed."),
    ] = True,
    fill_never_observed: o.FillNeverObserved = False,
    members: Annotated[
        bool, o.option("--members", panel=o.RESULT, help="Write every member of the ensemble.")
    ] = False,
    uncertainty: o.Uncertainty = True,
    quantiles: o.Quantiles = None,
    flags: o.Flags = True,
    bounds: o.Bounds = "auto",
    dtype: o.DType = None,
    of: o.Format = None,
    co: o.Creation = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    memory: o.Memory = None,
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Complete a sparse coarse stack and refine it: every cell of a grid K times finer, with its spread.

    The fine grid keeps CRS, outer corners, orientation and times. Blocks that were never observed stay gaps unless
    --fill-never-observed.
    """
    if len(paths) < 2:
        raise typer.BadParameter(
            "an input and an output are needed: stimpute reconstruct IN... OUT --factor K"
        )
    *inputs, out = paths
    out = o.output(out)
    if json and out == "-":
        raise typer.BadParameter("--json and the output cannot both go to stdout")
    from stimpute import api

    read = o.reading(
        var=var, bbox=bbox, bbox_crs=bbox_crs, time=time, covariate=covariate, nodata=nodata, date_format=date_format,
        times=times, dedupe=dedupe, regular=regular, domain=domain, qc=qc, force=force,
    )  # fmt: skip
    options = {
        "method": method, "model": model, "archive": archive, "samples": samples, "members": members, "conserve": conserve,
        "quantiles": quantiles or (), "uncertainty": uncertainty, "flags": flags, "bounds": bounds,
        "fill_never_observed": fill_never_observed, "dtype": dtype, "of": of, "co": co,
        "device": device, "threads": threads, "memory": memory, "overwrite": overwrite, "seed": seed,
    }  # fmt: skip
    with console.progress() as progress:
        summary = api.reconstruct(
            inputs, out, factor=factor, progress=progress, command=o.recorded(context), **read, **options
        )
    if json:
        console.write_json(summary)
    _print(summary)
    return 0


def _print(summary: ReconstructSummary) -> None:
    for layer in summary.layers:
        (_, ny, nx), (t, fy, fx) = layer.coarse_shape, layer.shape
        error = (
            ""
            if layer.standard_error is None
            else f"; standard error {layer.standard_error:.3g} {layer.units}".rstrip()
        )
        observed = layer.observed / (t * ny * nx)
        outside = f", {layer.outside_domain:,} outside the domain" if layer.outside_domain else ""
        console.say(
            f"{layer.name}: {t} x {ny} x {nx} ({observed:.0%} observed) -> {t} x {fy} x {fx}: {layer.estimated:,} cell-steps estimated,"
            f" {layer.refused:,} refused{outside}{error}"
        )
    model = f" ({summary.model})" if summary.model else ""
    where = ", ".join(summary.outputs) or "stdout"
    console.say(f"{summary.method}{model}: {summary.seconds:.1f} s -> {where}")
