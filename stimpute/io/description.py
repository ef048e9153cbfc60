"""What a source holds, as plain values for JSON: the facts behind ``stimpute info``. Reads no data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyproj

from stimpute.grid import Grid


def describe(source: Any) -> dict[str, Any]:
    """Format, layers, grid, CRS, time axis, storage of any source."""
    return {
        "format": source.format,
        "paths": [str(p) for p in source.paths],
        "layers": [_layer(source, number) for number in range(len(source.layers))],
        "shape": dict(zip(("time", "y", "x"), source.layers[0].shape)),
        "grid": _grid(source.grid),
        "crs": _crs(source.grid.crs_wkt),
        "time": _time(source),
        "covariates": [c.name for c in getattr(source, "covariates", ())],
        "domain_share": _share(getattr(source, "domain", None)),
        "warnings": list(getattr(source, "warnings", ())),
        "notes": list(getattr(source, "notes", ())),
    }


def _layer(source: Any, number: int) -> dict[str, Any]:
    layer = source.layers[number]
    described: dict[str, Any] = {
        "name": layer.name,
        "variable": layer.variable,
        "index": dict(layer.index),
        "shape": list(layer.shape),
        "dtype": str(layer.dtype),
        "units": layer.units,
        "long_name": layer.long_name,
        "standard_name": layer.standard_name,
        "valid_range": [_number(v) for v in layer.valid_range],
    }
    packing = source.packing(number) if hasattr(source, "packing") else None
    if packing is not None and hasattr(packing, "nodata"):
        described |= {
            "scale_factor": _number(packing.scale),
            "add_offset": _number(packing.offset),
            "nodata": [_number(v) for v in packing.nodata],
        }
    return described


def _grid(grid: Grid) -> dict[str, Any]:
    dy, dx = grid.spacing_km()
    finite = np.isfinite(grid.x).any() and np.isfinite(grid.y).any()
    return {
        "kind": grid.kind,
        "units": grid.units,
        "shape": list(grid.shape),
        "x": [_number(np.nanmin(grid.x)), _number(np.nanmax(grid.x))] if finite else None,
        "y": [_number(np.nanmin(grid.y)), _number(np.nanmax(grid.y))] if finite else None,
        "cell": [_number(_step(grid.x)), _number(_step(grid.y.T))] if grid.kind != "points" else None,
        "cell_km": None if grid.units == "cells" else [round(dx, 6), round(dy, 6)],
        "wraps": grid.wraps,
    }


def _step(values: Any) -> float:
    if values.shape[-1] < 2:
        return 0.0
    return float(np.nanmedian(np.abs(np.diff(values, axis=-1))))


def _crs(wkt: str | None) -> dict[str, Any] | None:
    if wkt is None:
        return None
    try:
        crs = pyproj.CRS.from_user_input(wkt)
    except pyproj.exceptions.CRSError:
        return {"name": None, "epsg": None, "wkt": wkt}
    return {"name": crs.name, "epsg": crs.to_epsg(), "wkt": wkt}


def _time(source: Any) -> dict[str, Any]:
    gaps = np.diff(source.times)
    step = float(np.median(gaps)) if gaps.size else None
    irregular = bool(gaps.size and gaps.max() - gaps.min() > 1e-6 + 0.01 * float(np.median(gaps)))
    return {
        "steps": len(source.time_labels),
        "first": source.time_labels[0],
        "last": source.time_labels[-1],
        "calendar": source.calendar,
        "median_step_days": step,
        "longest_step_days": float(gaps.max()) if gaps.size else None,
        "irregular": irregular,
    }


def _share(domain: Any) -> float | None:
    return None if domain is None else float(np.mean(domain))


def _number(value: Any) -> float | int | str | None:
    """A number JSON can hold; NaN and infinities as text."""
    if value is None:
        return None
    plain = value.item() if isinstance(value, np.generic) else value
    return str(plain) if isinstance(plain, float) and not np.isfinite(plain) else plain
