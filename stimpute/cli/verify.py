"""`stimpute verify`: parse, call :func:`stimpute.api.verify`, print what it found; exit 1 on any difference."""

from __future__ import annotations

from typing import Annotated

import typer

from stimpute.cli import console, parse
from stimpute.cli import options as o

EPILOG = "Example: stimpute verify sm.nc sm_filled.nc"


def verify(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... OUT", callback=parse.named, help="The inputs of a fill, then its output."
        ),
    ],
    var: o.Var = None,
    nodata: o.NoData = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Prove that observed cells, CRS, times and attributes are unchanged; count what was filled and refused."""
    if len(paths) < 2:
        raise typer.BadParameter("an input and an output are needed: stimpute verify IN... OUT")
    from stimpute import api

    *inputs, out = paths
    report = api.verify(inputs, out, var=var or (), nodata=nodata or ())
    if json:
        console.write_json(report)
        return 0 if report.identical else 1
    for layer in report.layers:
        outside = f", {layer.outside_domain:,} outside the domain" if layer.outside_domain else ""
        altered = f", {layer.altered:,} altered as declared" if layer.altered else ""
        console.write_text(
            f"{layer.name}: {layer.observed:,} observed, {layer.filled:,} filled, {layer.refused:,} refused{outside}{altered}"
        )
    for note in report.notes:
        console.write_text(f"note: {note}")
    for difference in report.differences:
        console.complain(difference)
    if report.identical:
        console.write_text(f"{out}: every observed cell and all metadata are as in the input")
    return 0 if report.identical else 1
