"""From one grid to another: where the cells of a window lie in the other grid, and what is there. Knows no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyproj

from stimpute.errors import InputError
from stimpute.grid import EARTH_KM, Grid
from stimpute.io.cf_select import grid_units_in_crs

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Positions:
    """Fractional rows and columns in another grid, (y, x) of the window; NaN outside it."""

    rows: FloatArray
    cols: FloatArray

    def box(self, margin: int, shape: tuple[int, int]) -> tuple[slice, slice] | None:
        """The rows and columns of the other grid that are needed; None if nothing of it is."""
        inside = np.isfinite(self.rows) & np.isfinite(self.cols)
        if not inside.any():
            return None
        return _range(self.rows[inside], margin, shape[0]), _range(self.cols[inside], margin, shape[1])


def _range(values: FloatArray, margin: int, length: int) -> slice:
    return slice(max(0, int(values.min()) - margin), min(length, int(np.ceil(values.max())) + margin + 1))


def positions(target: Grid, other: Grid, y: slice, x: slice, *, label: str) -> Positions:
    """Where the cells of a window of ``target`` lie in ``other``.

    Raises
    ------
    InputError : one of the grids has no coordinates, or only one of them a CRS.
    """
    if "cells" in (target.units, other.units):
        if target.shape != other.shape:
            raise InputError(
                f"{label}: {other.shape[0]} x {other.shape[1]} cells without coordinates do not fit a grid of "
                f"{target.shape[0]} x {target.shape[1]}"
            )
        rows, cols = np.meshgrid(
            np.arange(*y.indices(target.shape[0])), np.arange(*x.indices(target.shape[1])), indexing="ij"
        )
        return Positions(rows.astype(np.float64), cols.astype(np.float64))
    xs, ys = _coordinates(target.window(y, x))
    xs, ys = _transformed(xs, ys, target, other, label)
    if other.kind == "curvilinear":
        return _nearest(xs, ys, other)
    if other.units == "degrees":
        first = float(min(other.x[0], other.x[-1]))
        half = (
            0.5 * _cell(other.x) if np.ptp(other.x) < 360 * (1 - 1e-6) else 0.0
        )  # a meridian that is repeated has no seam
        xs = (xs - first + half) % 360 + first - half
    return Positions(_fractional(ys, other.y), _fractional(xs, other.x, wraps=other.wraps))


def _coordinates(grid: Grid) -> tuple[FloatArray, FloatArray]:
    if grid.kind == "curvilinear":
        return grid.x, grid.y
    if grid.kind == "points":
        return grid.x[np.newaxis], grid.y[np.newaxis]
    xs, ys = np.meshgrid(grid.x, grid.y)
    return xs, ys


def _transformed(
    xs: FloatArray, ys: FloatArray, target: Grid, other: Grid, label: str
) -> tuple[FloatArray, FloatArray]:
    """Coordinates of ``target`` in the CRS and units of ``other``."""
    ours, theirs = _crs(target, label), _crs(other, label)
    if (ours is None) != (theirs is None):
        raise InputError(
            f"{label}: {'the stack' if ours is None else 'it'} states no CRS, so the two grids cannot be matched;"
            " write it into the file (gdal_edit.py -a_srs, or a grid_mapping)"
        )
    if ours is None or theirs is None or ours == theirs:
        factor = target.km_per_unit / other.km_per_unit if target.units == other.units == "length" else 1.0
        return xs * factor, ys * factor
    if ours.is_geographic and theirs.is_geographic:
        return xs, ys
    into = grid_units_in_crs(target, ours)
    transform = pyproj.Transformer.from_crs(ours, theirs, always_xy=True)
    x, y = transform.transform(xs * into, ys * into)
    out = grid_units_in_crs(other, theirs)
    good = np.isfinite(x) & np.isfinite(y)
    return np.where(good, x, np.nan) / out, np.where(good, y, np.nan) / out


def _crs(grid: Grid, label: str) -> pyproj.CRS | None:
    if grid.kind == "curvilinear" or (grid.crs_wkt is None and grid.units == "degrees"):
        return pyproj.CRS.from_epsg(4326)
    if grid.crs_wkt is None:
        return None
    try:
        return pyproj.CRS.from_user_input(grid.crs_wkt)
    except pyproj.exceptions.CRSError as error:
        raise InputError(f"{label}: the CRS cannot be understood ({error})") from error


def _cell(axis: FloatArray) -> float:
    return float(np.median(np.abs(np.diff(axis)))) if axis.size > 1 else 1.0


def _fractional(values: FloatArray, axis: FloatArray, *, wraps: bool = False) -> FloatArray:
    """Index of values along a monotonic axis; NaN more than half a cell outside it, unless it ``wraps``."""
    if axis.size == 1:
        return np.where(np.isfinite(values), 0.0, np.nan)
    ascending = axis[-1] > axis[0]
    ordered = axis if ascending else axis[::-1]
    index = np.interp(values, ordered, np.arange(axis.size, dtype=np.float64))
    half = 0.5 * _cell(axis) * (1 + 1e-6)
    outside = (values < ordered[0] - half) | (values > ordered[-1] + half) | ~np.isfinite(values)
    if wraps:  # on between the last and the first, as fractions of a step beyond them
        outside, step = ~np.isfinite(values), _cell(axis)
        index = index + np.minimum(values - ordered[0], 0) / step + np.maximum(values - ordered[-1], 0) / step
    index = np.where(outside, np.nan, index)
    return index if ascending else axis.size - 1 - index


def _nearest(xs: FloatArray, ys: FloatArray, other: Grid) -> Positions:
    """The nearest cell of a curvilinear grid, if it is not further than its cells are wide."""
    from scipy.spatial import cKDTree

    usable = np.isfinite(other.x) & np.isfinite(other.y)
    tree = cKDTree(_on_sphere(other.x[usable], other.y[usable]))
    reach = 1.5 * max(other.spacing_km()) / EARTH_KM
    asked = np.isfinite(xs) & np.isfinite(ys)
    distance, found = tree.query(
        _on_sphere(np.where(asked, xs, 0), np.where(asked, ys, 0)), distance_upper_bound=reach
    )
    rows, cols = np.nonzero(usable)
    hit = np.isfinite(distance) & asked
    safe = np.where(hit, found, 0)
    return Positions(np.where(hit, rows[safe], np.nan), np.where(hit, cols[safe], np.nan))


def _on_sphere(lon: FloatArray, lat: FloatArray) -> FloatArray:
    lam, phi = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def sample(
    fields: npt.NDArray[np.float32], rows: FloatArray, cols: FloatArray, *, nearest: bool, coarsening: float
) -> npt.NDArray[np.float32]:
    """Values of (time, y, x) fields at fractional rows and columns.

    Parameters
    ----------
    fields : NaN where unknown.
    rows, cols : (y, x) of the result, in indices of ``fields``; NaN gives NaN.
    nearest : categories are not averaged.
    coarsening : how many of the fields' cells one cell of the result is wide; above 2 their mean is taken.

    Returns
    -------
    float32 (time, y, x); where only some of the neighbours are known, these count.

    >>> sample(np.array([[[0, 2], [4, np.nan]]], "f4"), np.array([[0.5]]), np.array([[0.0]]), nearest=False, coarsening=1)
    array([[[2.]]], dtype=float32)
    """
    known = np.isfinite(rows) & np.isfinite(cols)
    r, c = np.where(known, rows, 0), np.where(known, cols, 0)
    if nearest:
        ri = np.clip(np.rint(r).astype(np.intp), 0, fields.shape[1] - 1)
        ci = np.clip(np.rint(c).astype(np.intp), 0, fields.shape[2] - 1)
        out = fields[:, ri, ci]
    elif coarsening > 2:
        out = _box_mean(fields, r, c, coarsening)
    else:
        out = _bilinear(fields, r, c)
    return np.where(known, out, np.float32(np.nan)).astype(np.float32)


def _bilinear(fields: npt.NDArray[np.float32], r: FloatArray, c: FloatArray) -> npt.NDArray[np.float32]:
    r0 = np.clip(np.floor(r).astype(np.intp), 0, fields.shape[1] - 1)
    c0 = np.clip(np.floor(c).astype(np.intp), 0, fields.shape[2] - 1)
    r1, c1 = np.minimum(r0 + 1, fields.shape[1] - 1), np.minimum(c0 + 1, fields.shape[2] - 1)
    fr, fc = np.clip(r - r0, 0, 1), np.clip(c - c0, 0, 1)
    total = np.zeros((fields.shape[0], *r.shape))
    weight = np.zeros_like(total)
    for rows, cols, w in (
        (r0, c0, (1 - fr) * (1 - fc)),
        (r0, c1, (1 - fr) * fc),
        (r1, c0, fr * (1 - fc)),
        (r1, c1, fr * fc),
    ):
        values = fields[:, rows, cols]
        good = np.isfinite(values)
        total += np.where(good, values, 0) * w
        weight += good * w
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 1e-6).astype(np.float32)


def _box_mean(
    fields: npt.NDArray[np.float32], r: FloatArray, c: FloatArray, width: float
) -> npt.NDArray[np.float32]:
    """Mean of the known cells within half a target cell, by summed areas."""
    good = np.isfinite(fields)
    sums = _summed(np.where(good, fields, 0).astype(np.float64))
    counts = _summed(good.astype(np.float64))
    half = width / 2
    top = np.clip(np.rint(r - half + 0.5).astype(np.intp), 0, fields.shape[1] - 1)
    left = np.clip(np.rint(c - half + 0.5).astype(np.intp), 0, fields.shape[2] - 1)
    bottom = np.clip(np.rint(r + half + 0.5).astype(np.intp), top + 1, fields.shape[1])
    right = np.clip(np.rint(c + half + 0.5).astype(np.intp), left + 1, fields.shape[2])

    def area(table: FloatArray) -> FloatArray:
        return np.asarray(
            table[:, bottom, right] - table[:, top, right] - table[:, bottom, left] + table[:, top, left]
        )

    total, count = area(sums), area(counts)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0.5).astype(np.float32)


def _summed(fields: FloatArray) -> FloatArray:
    table = np.zeros((fields.shape[0], fields.shape[1] + 1, fields.shape[2] + 1))
    table[:, 1:, 1:] = fields.cumsum(axis=1).cumsum(axis=2)
    return table
