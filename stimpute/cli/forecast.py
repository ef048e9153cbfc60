"""`stimpute forecast`: parse, call :func:`stimpute.api.forecast`, print the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stimpute.cli import console, parse
from stimpute.cli import options as o
from stimpute.forecasting.names import METHODS

if TYPE_CHECKING:
    from stimpute.inference.forecasting import ForecastSummary

EPILOG = "Example: stimpute forecast sst.nc next_two_weeks.nc --steps 14"


def forecast(
    context: typer.Context,
    paths: o.InputsAndOutput,
    steps: Annotated[
        int,
        o.option("--steps", panel=o.WHAT, metavar="N", help="Steps to forecast, at the stack's own cadence."),
    ] = 14,
    var: o.Var = None,
    bbox: o.BBox = None,
    bbox_crs: o.BBoxCRS = None,
    time: o.Time = None,
    nodata: o.NoData = None,
    date_format: o.DateFormat = None,
    times: o.Times = None,
    dedupe: o.Dedupe = None,
    domain: o.Domain = None,
    qc: o.QC = False,
    force: o.Force = False,
    no_wrap: o.NoWrap = False,
    every: Annotated[
        Any,
        o.option(
            "--every",
            panel=o.READING,
            parser=parse.days,
            metavar="1d",
            help="Distance of the steps (min, h, d, w, mo: calendar months), where they are irregular.",
        ),
    ] = None,
    method: Annotated[
        str,
        o.option(
            "--method",
            panel=o.METHOD,
            metavar="|".join(METHODS),
            help="The network, the blend it starts from, or one guess alone.",
        ),
    ] = "sba",
    model: Annotated[
        str | None,
        o.option("--model", panel=o.METHOD, metavar="NAME|PATH", help="Forecasting model of method sba."),
    ] = None,
    uncertainty: o.Uncertainty = True,
    quantiles: o.Quantiles = None,
    bounds: o.Bounds = "auto",
    dtype: o.DType = None,
    of: o.Format = None,
    co: o.Creation = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    memory: o.Memory = None,
    overwrite: o.Overwrite = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Forecast the next steps of a stack or of stations; gaps in it are allowed.

    The output goes on where the input ends: same grid, CRS, attributes, packing and calendar, later times. Cells never
    observed among the steps looked back on stay nodata.
    """
    if len(paths) < 2:
        raise typer.BadParameter("an input and an output are needed: stimpute forecast IN... OUT")
    *inputs, out = paths
    out = o.output(out)
    if json and out == "-":
        raise typer.BadParameter("--json and the output cannot both go to stdout")
    from stimpute import api

    read = o.reading(
        var=var, bbox=bbox, bbox_crs=bbox_crs, time=time, nodata=nodata, date_format=date_format, times=times, dedupe=dedupe,
        domain=domain, qc=qc, force=force, no_wrap=no_wrap,
    )  # fmt: skip
    options = {
        "method": method, "model": model, "every": every, "uncertainty": uncertainty, "quantiles": quantiles or (),
        "bounds": bounds, "dtype": dtype, "of": of, "co": co, "device": device,
        "threads": threads, "memory": memory, "overwrite": overwrite,
    }  # fmt: skip
    with console.progress() as progress:
        summary = api.forecast(
            inputs, out, steps=steps, progress=progress, command=o.recorded(context), **read, **options
        )
    if json:
        console.write_json(summary)
    _print(summary)
    return 0


def _print(summary: ForecastSummary) -> None:
    console.say(f"{summary.steps} steps, {summary.first} to {summary.last}")
    for layer in summary.layers:
        error = ""
        if layer.expected_error:
            first, last = layer.expected_error[0], layer.expected_error[-1]
            error = f"; expected error {first:.3g} at the first step, {last:.3g} at the last {layer.units}".rstrip()
        clipped = f" ({layer.clipped:,} values clipped into bounds)" if layer.clipped else ""
        outside = f", {layer.outside_domain:,} outside the domain" if layer.outside_domain else ""
        console.say(
            f"{layer.name}: {layer.cells:,} cells forecast{clipped}, {layer.refused:,} never observed in the"
            f" {layer.looked_back} steps looked back on{outside}{error}"
        )
    if summary.method == "sba" and any(layer.used == "blend" for layer in summary.layers):
        console.say(
            "the network was no better than the blend of its guesses at earlier origins: the blend spoke"
        )
    model = f" ({summary.model})" if summary.model else ""
    where = ", ".join(summary.outputs) or "stdout"
    console.say(f"{summary.method}{model}: {summary.seconds:.1f} s -> {where}")
