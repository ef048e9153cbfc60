"""A bounding box as index ranges of a grid, across the antimeridian too. Reads no data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyproj

from stimpute.errors import InputError, UsageError
from stimpute.grid import Grid

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.intp]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Selection:
    """Which rows and columns of the file are kept, in which order, and the grid they make.

    ``rolled`` is True where the columns were brought into another order (a box across the seam of the longitudes); the
    grid's ``x`` then runs on beyond 180 or 360 degrees.
    """

    rows: IndexArray
    cols: IndexArray
    grid: Grid
    rolled: bool = False


def select(grid: Grid, bbox: Box | None, bbox_crs: str | None = None, *, label: str) -> Selection:
    """The cells whose centres lie inside a box (xmin, ymin, xmax, ymax).

    Raises
    ------
    InputError : nothing lies inside, or the grid has no coordinates.
    UsageError : an unknown ``bbox_crs``.
    """
    ny, nx = grid.shape
    rows, cols = np.arange(ny), np.arange(nx)
    if bbox is None:
        return Selection(rows, cols, grid)
    if grid.units == "cells":
        raise InputError(f"{label}: --bbox needs coordinates, and this grid has none")
    box = bbox if bbox_crs is None else _into_grid_crs(grid, bbox, bbox_crs, label)
    if grid.kind == "curvilinear":
        inside = _inside_x(grid, grid.x, box) & (grid.y >= box[1]) & (grid.y <= box[3])
        rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if rows.size == 0:
            raise _nothing(grid, bbox, label)
        y, x = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
        return Selection(np.arange(y.start, y.stop), np.arange(x.start, x.stop), grid.window(y, x))
    if grid.kind == "points":
        cols = np.flatnonzero(_inside_x(grid, grid.x, box) & (grid.y >= box[1]) & (grid.y <= box[3]))
        if cols.size == 0:
            raise _nothing(grid, bbox, label)
        kept = Grid(
            "points", (1, cols.size), grid.x[cols], grid.y[cols], grid.units, grid.km_per_unit, grid.crs_wkt
        )
        return Selection(rows, cols, kept)
    rows = np.flatnonzero((grid.y >= box[1]) & (grid.y <= box[3]))
    cols = np.flatnonzero(_inside_x(grid, grid.x, box))
    if rows.size == 0 or cols.size == 0:
        raise _nothing(grid, bbox, label)
    y = slice(int(rows[0]), int(rows[-1]) + 1)
    if int(cols[-1]) - int(cols[0]) + 1 == cols.size:
        return Selection(rows, cols, grid.window(y, slice(int(cols[0]), int(cols[-1]) + 1)))
    return _rolled(grid, y, rows, cols)


def _inside_x(grid: Grid, x: FloatArray, box: Box) -> npt.NDArray[np.bool_]:
    if grid.units == "degrees":
        width = (box[2] - box[0]) % 360 if box[2] - box[0] < 360 else 360.0
        grain = 1e-9
        return np.asarray((x - box[0] + grain) % 360 <= width + 2 * grain)
    if box[0] >= box[2]:
        raise UsageError(
            f"--bbox {box}: xmin must be smaller than xmax (only longitudes may cross the antimeridian)"
        )
    return np.asarray((x >= box[0]) & (x <= box[2]))


def _rolled(grid: Grid, y: slice, rows: IndexArray, cols: IndexArray) -> Selection:
    """Columns in two pieces, joined over the seam: the piece at the end of the file first."""
    split = int(np.argmax(np.diff(cols))) + 1
    order = np.concatenate([cols[split:], cols[:split]])
    x = grid.x[order].copy()
    ascending = x[1] > x[0] if cols.size - split > 1 else grid.x[1] > grid.x[0]
    x[cols.size - split :] += 360.0 if ascending else -360.0
    kept = Grid("affine" if grid.kind == "affine" else "rectilinear", (rows.size, cols.size), x, grid.y[y], "degrees",
                grid.km_per_unit, grid.crs_wkt)  # fmt: skip
    return Selection(rows, order, kept, rolled=True)


def _into_grid_crs(grid: Grid, bbox: Box, bbox_crs: str, label: str) -> Box:
    try:
        given = pyproj.CRS.from_user_input(bbox_crs)
    except pyproj.exceptions.CRSError as error:
        raise UsageError(f"--bbox-crs {bbox_crs}: not a CRS; expected e.g. EPSG:4326") from error
    if grid.kind == "curvilinear" or grid.crs_wkt is None:
        target = pyproj.CRS.from_epsg(4326)
        if grid.units != "degrees":
            raise InputError(
                f"{label}: it states no CRS, so --bbox-crs cannot be used; give --bbox in its own coordinates"
            )
    else:
        target = pyproj.CRS.from_user_input(grid.crs_wkt)
    if given == target or (given.is_geographic and target.is_geographic):
        return bbox
    if bbox[0] >= bbox[2]:
        raise UsageError(
            f"--bbox {bbox} across the antimeridian cannot be turned into a projected CRS; use two boxes"
        )
    transform = pyproj.Transformer.from_crs(given, target, always_xy=True)
    box = transform.transform_bounds(*bbox, densify_pts=21)
    if not np.isfinite(box).all():
        raise InputError(f"{label}: --bbox {bbox} in {bbox_crs} lies outside the area its CRS can show")
    unit = grid_units_in_crs(grid, target)
    return tuple(float(v) / unit for v in box)  # type: ignore[return-value]


def grid_units_in_crs(grid: Grid, crs: pyproj.CRS) -> float:
    """CRS units in one coordinate unit of the grid (scan angles of a geostationary view, kilometres, ...)."""
    if grid.units != "length" or not crs.axis_info:
        return 1.0
    factor = grid.km_per_unit * 1000 / float(crs.axis_info[0].unit_conversion_factor)
    return factor if abs(factor - 1) > 1e-9 else 1.0


def _nothing(grid: Grid, bbox: Box, label: str) -> InputError:
    x, y = grid.x, grid.y
    return InputError(
        f"{label}: no cell inside --bbox {','.join(f'{v:g}' for v in bbox)}; the grid reaches from "
        f"x {np.nanmin(x):g} to {np.nanmax(x):g}, y {np.nanmin(y):g} to {np.nanmax(y):g}"
    )
