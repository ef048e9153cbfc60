"""Where the cells of a raster file lie: its grid, and whether two files share one.

Knows rasterio's headers; reads no values.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.transform import Affine

from stimpute.errors import InputError, StimputeWarning
from stimpute.grid import Grid, GridKind
from stimpute.io.geotiff_bands import Header

FloatArray = npt.NDArray[np.float64]

SAME_CELLS = 1e-6  # largest difference between two transforms, in cells, that is called none
NEARLY_SAME_CELLS = 1e-2  # the same, with a warning


def check_same_grid(first: Header, other: Header) -> None:
    """Refuse a file whose cells are not those of the first.

    Raises
    ------
    InputError : another size, CRS or transform; names both files.
    """
    both = f"{first.path} and {other.path}"
    if (first.height, first.width) != (other.height, other.width):
        raise InputError(
            f"{both} differ in size: {first.width} x {first.height} and {other.width} x {other.height} cells; "
            "bring them to one grid first, e.g. with gdalwarp -te -tr"
        )
    if first.crs != other.crs and wkt_of(first.crs) != wkt_of(other.crs):
        raise InputError(
            f"{both} differ in CRS: {_crs_name(first.crs)} and {_crs_name(other.crs)}; reproject one with gdalwarp -t_srs"
        )
    shift = transform_difference(first.transform, other.transform, (first.height, first.width))
    if shift > NEARLY_SAME_CELLS:
        raise InputError(
            f"{both} do not share a grid: their cells lie {shift:.3g} cells apart; bring them to one grid first, e.g. "
            "with gdalwarp -te -tr"
        )
    if shift > SAME_CELLS:
        warnings.warn(
            f"{both}: their cells lie {shift:.2g} cells apart and are taken as the same",
            StimputeWarning,
            stacklevel=2,
        )


def transform_difference(a: Affine, b: Affine, shape: tuple[int, int]) -> float:
    """The largest distance, in cells of ``a``, between the corners of two rasters of one shape.

    >>> transform_difference(Affine(10, 0, 0, 0, -10, 0), Affine(10, 0, 5, 0, -10, 0), (4, 4))
    0.5
    """
    ny, nx = shape
    linear = np.array([[a.a, a.b], [a.d, a.e]], dtype=np.float64)
    corners = np.array([[0, 0], [nx, 0], [0, ny], [nx, ny]], dtype=np.float64).T
    change = np.array([[b.a - a.a, b.b - a.b], [b.d - a.d, b.e - a.e]])
    offset = np.array([[b.c - a.c], [b.f - a.f]])
    return float(np.abs(np.linalg.solve(linear, change @ corners + offset)).max())


def grid_of(header: Header, *, wrap: bool = True) -> Grid:
    """The grid of a whole file.

    A rotated or sheared transform gives a curvilinear grid of its own coordinates. Without a CRS, or with ground
    control points instead of a transform, distances count in cells, with a warning.
    """
    shape = (header.height, header.width)
    rows, columns = np.arange(shape[0], dtype=np.float64), np.arange(shape[1], dtype=np.float64)
    wkt = wkt_of(header.crs) or None
    km = _km_per_unit(header)
    if km is None:
        return Grid("affine", shape, columns, rows, "cells", 1.0, wkt)
    x, y = cell_centres(header.transform, rows, columns)
    kind: GridKind = "affine" if x.ndim == 1 else "curvilinear"
    if km:
        return Grid(kind, shape, x, y, "length", km, wkt)
    cell = abs(header.transform.a)
    spans = x.ndim == 1 and header.width > 3 and abs(cell * header.width - 360) < 0.5 * cell
    return Grid(kind, shape, x, y, "degrees", 1.0, wkt, wrap and spans)


def moved(transform: Affine, row: int, column: int) -> Affine:
    """The transform of a raster whose first cell is another one of this raster.

    >>> moved(Affine(10, 0, 100, 0, -10, 40), 2, 1)
    Affine(10.0, 0.0, 110.0,
           0.0, -10.0, 20.0)
    """
    t = transform
    return Affine(t.a, t.b, t.c + t.a * column + t.b * row, t.d, t.e, t.f + t.d * column + t.e * row)


def cell_centres(transform: Affine, rows: FloatArray, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    """x and y of cell centres: 1-D for a north-up (or south-up) transform, 2-D (y, x) for a rotated one.

    >>> cell_centres(Affine(10, 0, 0, 0, -10, 40), np.array([0.0]), np.array([0.0, 1.0]))
    (array([ 5., 15.]), array([35.]))
    """
    t = transform
    if t.b == 0 and t.d == 0:
        return t.c + (columns + 0.5) * t.a, t.f + (rows + 0.5) * t.e
    column, row = np.meshgrid(columns + 0.5, rows + 0.5)
    return t.c + column * t.a + row * t.b, t.f + column * t.d + row * t.e


def _km_per_unit(header: Header) -> float | None:
    """Kilometres in one coordinate unit; 0 for degrees; None where coordinates mean nothing (with a warning)."""
    if header.gcps:
        _warn(header, "located by ground control points only (they are kept); distances are counted in cells")
        return None
    if not header.crs:
        _warn(header, "no CRS; distances are counted in cells (set one with gdal_edit -a_srs)")
        return None
    if header.crs.is_geographic:
        return 0.0
    try:
        factor = float(header.crs.linear_units_factor[1])
    except CRSError:
        factor = 0.0
    if factor <= 0:
        _warn(header, f"the CRS {_crs_name(header.crs)} has no length unit; distances are counted in cells")
        return None
    return factor / 1000


def _crs_name(crs: CRS | None) -> str:
    if not crs:
        return "none"
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt()).split('"')[1]


def wkt_of(crs: CRS | None) -> str:
    """Its WKT as the file states it; empty for none."""
    return str(crs.to_wkt()) if crs else ""


def _warn(header: Header, text: str) -> None:
    warnings.warn(f"{header.path}: {text}", StimputeWarning, stacklevel=3)
