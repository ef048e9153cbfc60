"""`stimpute variogram`: parse, call :func:`stimpute.api.variogram`, print the table."""

from __future__ import annotations

from typing import Annotated, Any

from stimpute.cli import console
from stimpute.cli import options as o

EPILOG = "Example: stimpute variogram sm.nc --plot variogram.png"


def variogram(
    paths: o.Input,
    var: o.Var = None,
    bbox: o.BBox = None,
    bbox_crs: o.BBoxCRS = None,
    time: o.Time = None,
    covariate: o.Covariate = None,
    nodata: o.NoData = None,
    date_format: o.DateFormat = None,
    times: o.Times = None,
    dedupe: o.Dedupe = None,
    domain: o.Domain = None,
    force: o.Force = False,
    estimator: Annotated[
        str,
        o.option("--estimator", panel=o.METHOD, metavar="cressie|matheron", help="Semivariance estimator."),
    ] = "cressie",
    plot: o.Plot = None,
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Spatial and temporal variogram, the fitted range, and the tile it implies for a method without limits of its own.

    The network has such limits: fill --dry-run says which tile a fill would use.
    """
    from stimpute import api

    read = o.reading(
        var=var, bbox=bbox, bbox_crs=bbox_crs, time=time, covariate=covariate, nodata=nodata, date_format=date_format,
        times=times, dedupe=dedupe, domain=domain, force=force,
    )  # fmt: skip
    found = api.variogram(paths, plot=plot, estimator=estimator, seed=seed, overwrite=overwrite, **read)
    if json:
        console.write_json(found if len(found) > 1 else found[0])
        return 0
    for layer in found:
        _print(layer)
    return 0


def _print(layer: dict[str, Any]) -> None:
    from rich.table import Table

    for side in ("spatial", "temporal"):
        empirical, fitted = layer.get(side), layer.get(f"{side}_fit")
        if not empirical or not len(empirical["lag"]):
            continue
        unit = empirical["unit"]
        console.write_text(f"{layer['name']}: {side} semivariogram")
        table = Table()
        for column in (f"lag ({unit})", "semivariance", "pairs"):
            table.add_column(column, justify="right")
        for lag, gamma, pairs in zip(empirical["lag"], empirical["gamma"], empirical["pairs"], strict=True):
            table.add_row(f"{lag:.4g}", f"{gamma:.4g}", f"{pairs:,.0f}")
        console.write_table(table)
        if fitted:
            console.write_text(
                f"{side} fit: {fitted['kind']}, nugget {fitted['nugget']:.4g}, sill {fitted['sill']:.4g},"
                f" effective range {fitted['effective_range']:.4g} {unit}"
            )
    tile = layer["tile"]
    console.write_text(
        f"tile: {tile['core']} + 2 x {tile['halo']} cells of {layer['cell_km']:.4g} km,"
        f" {tile['time_core']} + 2 x {tile['time_halo']} steps (bound by {tile['bound_by']})"
    )
    if layer.get("note"):
        console.write_text(f"note: {layer['note']}")
