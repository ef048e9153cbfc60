"""`stimpute simulate`: parse, call :func:`stimpute.api.simulate`, say what was written."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from stimpute.cli import console, parse
from stimpute.cli import options as o

EPILOG = "Example: stimpute simulate sm.nc --truth truth.nc"


def simulate(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Output: .nc, .zarr, .tif, or - for stdout.")],
    kind: Annotated[
        str,
        o.option(
            "--kind", panel=o.WHAT, metavar="soil-moisture|ndvi|sst|lst|rain", help="What it looks like."
        ),
    ] = "soil-moisture",
    shape: Annotated[
        Any,
        o.option(
            "--shape", panel=o.WHAT, parser=parse.whole_numbers, metavar="T,Y,X", help="Steps, rows, columns."
        ),
    ] = None,
    missing: Annotated[
        float | None,
        o.option(
            "--missing", panel=o.WHAT, metavar="SHARE", help="Share of gaps (soil-moisture; default 0.9)."
        ),
    ] = None,
    truth: Annotated[
        str | None, o.option("--truth", panel=o.RESULT, metavar="PATH", help="Write the complete stack here.")
    ] = None,
    covariates: Annotated[
        bool, o.option("--covariates", panel=o.RESULT, help="Put what drives it beside it.")
    ] = False,
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """A realistic gappy stack with its truth, seeded: for tutorials, tests, the demo."""
    from stimpute import api

    written = api.simulate(
        o.output(out),
        kind=kind,
        shape=shape,
        seed=seed,
        missing=missing,
        truth=truth,
        covariates=covariates,
        overwrite=overwrite,
    )
    for path in written:
        console.say(f"wrote {path}")
    return 0
