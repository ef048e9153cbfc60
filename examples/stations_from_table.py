"""A table of station readings and the distances between stations become a NetCDF that stimpute can forecast.

    python examples/stations_from_table.py los_speed.csv los_adj.csv los_speed.nc
    stimpute forecast los_speed.nc next_hour.nc --steps 12

The table has one column per station and one row every five minutes, readings of 0 are missing (METR-LA, as T-GCN ships one week
of it). The matrix holds closeness by road, ``exp(-(d / s)^2)``, 0 beyond a threshold. Positions are recovered from it: shortest
paths along roads, then classical multidimensional scaling to a plane, in units of ``s``. The week starts on the Thursday that the
file's source names, 2012-03-01.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.sparse.csgraph import connected_components, shortest_path

FIRST, EVERY = "2012-03-01", "5min"


def positions(closeness: np.ndarray) -> np.ndarray:
    """(N, 2) from closeness (N, N): shortest paths, doubly centred, the two leading eigenvectors."""
    both = np.maximum(closeness, closeness.T)
    distance = np.where(both > 0, np.sqrt(np.maximum(-np.log(np.clip(both, 1e-12, 1.0)), 1e-6)), 0.0)
    along = shortest_path(distance, directed=False)
    along[~np.isfinite(along)] = (
        along[np.isfinite(along)].max() * 1.5
    )  # parts of the network without a road between
    square = along**2
    centred = -0.5 * (square - square.mean(axis=0) - square.mean(axis=1, keepdims=True) + square.mean())
    values, vectors = np.linalg.eigh(centred)
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))


def stations(table: Path, matrix: Path) -> xr.Dataset:
    """The dataset: speed (time, station), x and y (station)."""
    speed = np.loadtxt(table, delimiter=",", skiprows=1, dtype=np.float32)
    names = np.loadtxt(table, delimiter=",", max_rows=1, dtype=str)
    closeness = np.loadtxt(matrix, delimiter=",")
    at = positions(closeness)
    count = connected_components(closeness > 0, directed=False)[0]
    print(
        f"{len(speed)} steps, {len(names)} stations in {count} connected part(s), {np.mean(speed == 0):.1%} missing"
    )
    times = np.arange(len(speed)) * np.timedelta64(5, "m") + np.datetime64(f"{FIRST}T00:00:00", "ns")
    fields = {
        "speed": (("time", "station"), np.where(speed > 0, speed, np.nan), {"long_name": "traffic speed", "units": "mph", "coordinates": "x y"}),
        "x": ("station", at[:, 1], {"standard_name": "projection_x_coordinate", "units": "km"}),
        "y": ("station", at[:, 0], {"standard_name": "projection_y_coordinate", "units": "km"}),
    }  # fmt: skip
    coords = {"time": times, "station": ("station", names.astype(np.int64), {"cf_role": "timeseries_id"})}
    return xr.Dataset(fields, coords, {"Conventions": "CF-1.8", "featureType": "timeSeries"})


def main() -> None:
    """Parse, convert, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("matrix", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    encoding = {"speed": {"zlib": True, "_FillValue": np.float32(np.nan)}}
    stations(given.table, given.matrix).to_netcdf(given.out, encoding=encoding)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
