"""`stimpute info`: parse, call :func:`stimpute.api.info`, print."""

from __future__ import annotations

from typing import Any

from stimpute.cli import console
from stimpute.cli import options as o

EPILOG = "Example: stimpute info sm.nc"


def info(
    paths: o.Inputs,
    var: o.Var = None,
    bbox: o.BBox = None,
    bbox_crs: o.BBoxCRS = None,
    time: o.Time = None,
    nodata: o.NoData = None,
    date_format: o.DateFormat = None,
    times: o.Times = None,
    dedupe: o.Dedupe = None,
    regular: o.Regular = False,
    domain: o.Domain = None,
    qc: o.QC = False,
    force: o.Force = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """What is in a stack: variables, CRS, time axis, how much is missing and where, why a fill would refuse."""
    from stimpute import api

    read = o.reading(
        var=var, bbox=bbox, bbox_crs=bbox_crs, time=time, nodata=nodata, date_format=date_format, times=times,
        dedupe=dedupe, regular=regular, domain=domain, qc=qc, force=force,
    )  # fmt: skip
    found = api.info(paths, **read)
    if json:
        console.write_json(found)
        return 0
    _print(found)
    return 0


def _print(found: dict[str, Any]) -> None:
    statistics = found.pop("statistics")
    for key, value in found.items():
        if key not in {"warnings", "shape"}:  # warnings went to stderr, shapes come with each layer
            _print_entry(key, value, 0)
    for layer in statistics:
        t, ny, nx = layer["shape"]
        console.write_text(f"{layer['name']}:")
        console.write_text(f"  shape: {t} steps x {ny} x {nx} cells")
        console.write_text(
            f"  missing: {layer['missing']:.1%} ({layer['missing_where_ever_observed']:.1%} where ever observed;"
            f" {layer['never_observed']:.1%} of the cells never observed)"
        )
        console.write_text(
            f"  empty steps: {layer['empty_steps']}; longest gap: {layer['longest_gap_steps']} steps"
        )
        console.write_text(
            f"  least missing: {layer['least_missing_step']}; most missing: {layer['most_missing_step']}"
        )
        if layer["mean"] is not None:
            console.write_text(
                f"  values: {layer['minimum']:.6g} .. {layer['maximum']:.6g}, mean {layer['mean']:.6g} {layer['units']}".rstrip()
            )
        for refusal in layer["refusals"]:
            console.write_text(f"  {refusal}")


def _print_entry(key: str, value: Any, depth: int) -> None:
    indent = "  " * depth
    if key == "wkt":  # long; in --json
        return
    if isinstance(value, dict):
        console.write_text(f"{indent}{key}:")
        for name, entry in value.items():
            _print_entry(name, entry, depth + 1)
    elif isinstance(value, list | tuple) and any(isinstance(entry, dict) for entry in value):
        console.write_text(f"{indent}{key}:")
        for entry in value:
            console.write_text(
                f"{indent}  - "
                + ", ".join(f"{k} {v}" for k, v in entry.items() if v not in (None, "", {}, [], [None, None]))
            )
    elif isinstance(value, list | tuple) and not value:
        return
    elif isinstance(value, list | tuple):
        text = ", ".join(str(entry) for entry in value)
        console.write_text(f"{indent}{key}: {text}")
    elif value not in (None, ""):
        console.write_text(f"{indent}{key}: {value}")
