"""Where the cells of a stack are: a frozen value with distances in km. Knows no files and no CRS library.

`io` decides what the coordinates mean (degrees, a projected length, or plain indices) and hands over
kilometres per coordinate unit; the CRS itself is carried along as an opaque WKT string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
GridKind = Literal["affine", "rectilinear", "curvilinear", "points"]
Units = Literal["degrees", "length", "cells"]

EARTH_KM = 6371.0  # radius of the sphere where a sphere will do
_WGS84_A_KM = 6378.137
_WGS84_F = 1 / 298.257223563


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of a stack.

    Parameters
    ----------
    kind : how the cells lie. ``affine``: evenly spaced 1-D ``x`` and ``y``; ``rectilinear``: uneven 1-D;
        ``curvilinear``: 2-D ``x`` and ``y`` of shape (y, x); ``points``: 1-D ``x`` and ``y`` of equal length,
        seen as a raster of one row.
    shape : (ny, nx).
    x, y : coordinates of the cell centres, in degrees (longitude, latitude), a projected length, or indices.
    units : what ``x`` and ``y`` are measured in.
    km_per_unit : kilometres in one coordinate unit; 1.0 for ``degrees`` (not used) and for ``cells``, where
        "km" then reads "cells".
    crs_wkt : the CRS as the file states it, or None. Opaque.
    wraps : True where longitude spans 360 degrees, so that the first and last column are neighbours.

    Raises
    ------
    ValueError : shapes that contradict each other.
    """

    kind: GridKind
    shape: tuple[int, int]
    x: FloatArray
    y: FloatArray
    units: Units
    km_per_unit: float = 1.0
    crs_wkt: str | None = None
    wraps: bool = False

    def __post_init__(self) -> None:
        ny, nx = self.shape
        expected = {
            "affine": ((nx,), (ny,)),
            "rectilinear": ((nx,), (ny,)),
            "curvilinear": ((ny, nx), (ny, nx)),
            "points": ((nx,), (nx,)),
        }[self.kind]
        if (self.x.shape, self.y.shape) != expected:
            raise ValueError(
                f"{self.kind} grid of shape {self.shape} with x {self.x.shape}, y {self.y.shape}"
            )
        if self.kind == "points" and ny != 1:
            raise ValueError(f"a grid of points has one row, not {ny}")

    @classmethod
    def from_shape(cls, ny: int, nx: int, cell: float = 1.0) -> Grid:
        """A grid in index space (``cell`` units apart), for arrays that come without coordinates."""
        x, y = (np.arange(n, dtype=np.float64) * np.float64(cell) for n in (nx, ny))
        return cls("affine", (ny, nx), x, y, "cells")

    def coordinates(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """x and y of cells given by row and column indices (any equal shape)."""
        r, c = np.asarray(rows, dtype=np.intp), np.asarray(cols, dtype=np.intp)
        if self.kind == "curvilinear":
            return self.x[r, c], self.y[r, c]
        if self.kind == "points":
            return self.x[c], self.y[c]
        return self.x[c], self.y[r]

    def distance_km(
        self, rows0: npt.ArrayLike, cols0: npt.ArrayLike, rows1: npt.ArrayLike, cols1: npt.ArrayLike
    ) -> FloatArray:
        """Distance in km between pairs of cells (in cells where ``units`` is ``cells``)."""
        x0, y0 = self.coordinates(rows0, cols0)
        x1, y1 = self.coordinates(rows1, cols1)
        if self.units == "degrees":
            return geodesic_km(x0, y0, x1, y1)
        return np.asarray(np.hypot(x1 - x0, y1 - y0) * self.km_per_unit)

    def spacing_km(self) -> tuple[float, float]:
        """Median distance in km between neighbouring rows, and between neighbouring columns (0 if there is only one)."""
        ny, nx = self.shape
        rows, cols = np.arange(ny), np.arange(nx)
        mid_row, mid_col = np.full(max(nx - 1, 0), ny // 2), np.full(max(ny - 1, 0), nx // 2)
        down = self.distance_km(rows[:-1], mid_col, rows[1:], mid_col)
        across = self.distance_km(mid_row, cols[:-1], mid_row, cols[1:])
        return _median(down), _median(across)

    def window(self, y: slice, x: slice) -> Grid:
        """The part of the grid inside two half-open index ranges."""
        ny, nx = len(range(*y.indices(self.shape[0]))), len(range(*x.indices(self.shape[1])))
        if self.kind == "curvilinear":
            gx, gy = self.x[y, x], self.y[y, x]
        elif self.kind == "points":
            gx, gy = self.x[x], self.y[x]
        else:
            gx, gy = self.x[x], self.y[y]
        wraps = self.wraps and nx == self.shape[1]
        return Grid(self.kind, (ny, nx), gx, gy, self.units, self.km_per_unit, self.crs_wkt, wraps)

    def coarsen(self, step: int) -> Grid:
        """Every ``step``-th cell, starting in the middle of the first block."""
        first = (step - 1) // 2
        return self.window(
            slice(min(first, self.shape[0] - 1), None, step), slice(min(first, self.shape[1] - 1), None, step)
        )


def _median(distances: FloatArray) -> float:
    finite = distances[np.isfinite(distances)]
    return float(np.median(finite)) if finite.size else 0.0


def geodesic_km(
    lon0: npt.ArrayLike, lat0: npt.ArrayLike, lon1: npt.ArrayLike, lat1: npt.ArrayLike
) -> FloatArray:
    """Distance in km on the WGS84 ellipsoid between points in degrees (Andoyer-Lambert: within 0.001 % up to 100 km, 0.1 % anywhere).

    Nearly antipodal pairs fall back to the sphere. NaN in, NaN out.

    >>> round(float(geodesic_km(0, 0, 1, 0)), 2), round(float(geodesic_km(0, 89, 0, 90)), 2)
    (111.32, 111.69)
    """
    a, f = _WGS84_A_KM, _WGS84_F
    lam = np.radians(np.asarray(lon1, dtype=np.float64) - np.asarray(lon0, dtype=np.float64))
    # reduced latitudes
    b0 = np.arctan((1 - f) * np.tan(np.radians(np.asarray(lat0, dtype=np.float64))))
    b1 = np.arctan((1 - f) * np.tan(np.radians(np.asarray(lat1, dtype=np.float64))))
    h = np.sin((b1 - b0) / 2) ** 2 + np.cos(b0) * np.cos(b1) * np.sin(lam / 2) ** 2
    sigma = 2 * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0)))
    p, q = (b0 + b1) / 2, (b1 - b0) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        x = (sigma - np.sin(sigma)) * (np.sin(p) * np.cos(q) / np.cos(sigma / 2)) ** 2
        y = (sigma + np.sin(sigma)) * (np.cos(p) * np.sin(q) / np.sin(sigma / 2)) ** 2
        lambert = a * (sigma - f / 2 * (x + y))
    usable = np.isfinite(lambert) & (sigma < 3.1)
    return np.asarray(np.where(usable, lambert, a * (1 - f / 3) * sigma))
