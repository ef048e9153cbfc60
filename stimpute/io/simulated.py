"""Writing a simulated stack and its truth as files. Knows nothing about how the stack was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr
from pyproj import CRS

from stimpute.errors import OutputError, UsageError
from stimpute.io.atomic import AtomicTarget

SUFFIXES = (".nc", ".zarr", ".tif", ".tiff")


class Simulated(Protocol):
    """What is written: numpy arrays (time, y, x) and CF words (see ``SimulatedStack``)."""

    @property
    def name(self) -> str: ...
    @property
    def long_name(self) -> str: ...
    @property
    def standard_name(self) -> str: ...
    @property
    def units(self) -> str: ...
    @property
    def truth(self) -> npt.NDArray[np.float32]: ...
    @property
    def values(self) -> npt.NDArray[np.float32]: ...
    @property
    def times(self) -> npt.NDArray[np.float64]: ...
    @property
    def start(self) -> str: ...
    @property
    def x(self) -> npt.NDArray[np.float64]: ...
    @property
    def y(self) -> npt.NDArray[np.float64]: ...
    @property
    def crs(self) -> str: ...
    @property
    def valid_range(self) -> tuple[float, float]: ...
    @property
    def dynamic(self) -> Mapping[str, npt.NDArray[np.float32]]: ...
    @property
    def static(self) -> Mapping[str, npt.NDArray[np.float32]]: ...
    @property
    def covariate_units(self) -> Mapping[str, str]: ...


def simulated_dataset(stack: Simulated, *, truth: bool = False, covariates: bool = False) -> xr.Dataset:
    """A CF dataset of the gappy stack (NaN in the gaps), or of its truth; covariates beside it if asked for."""
    crs = CRS.from_user_input(stack.crs)
    y, x = ("lat", "lon") if crs.is_geographic else ("y", "x")
    values = stack.truth if truth else stack.values
    words = {"long_name": stack.long_name, "units": stack.units, "grid_mapping": "crs"}
    if stack.standard_name:
        words["standard_name"] = stack.standard_name
    bounds = np.asarray(stack.valid_range, dtype=np.float32)
    dataset = xr.Dataset(
        {stack.name: (("time", y, x), values, {**words, "valid_range": bounds}), "crs": ((), np.int32(0), crs.to_cf())},
        coords={
            "time": ("time", stack.times, {"standard_name": "time", "units": f"days since {stack.start.replace('T', ' ')}", "calendar": "standard"}),
            y: (y, stack.y, _axis(crs, "y")),
            x: (x, stack.x, _axis(crs, "x")),
        },
        attrs={"Conventions": "CF-1.8", "title": f"simulated {stack.long_name}{', complete' if truth else ''}"},
    )  # fmt: skip
    if covariates:
        for name, array in {**stack.dynamic, **stack.static}.items():
            dims = ("time", y, x)[-array.ndim :]
            dataset[name] = (
                dims,
                array,
                {"units": stack.covariate_units.get(name, "1"), "grid_mapping": "crs"},
            )
    return dataset


def _axis(crs: CRS, axis: str) -> dict[str, str]:
    if crs.is_geographic:
        name, units = ("latitude", "degrees_north") if axis == "y" else ("longitude", "degrees_east")
        return {"standard_name": name, "units": units, "axis": axis.upper()}
    return {"standard_name": f"projection_{axis}_coordinate", "units": "m", "axis": axis.upper()}


def check_simulated(out: str | Path, overwrite: bool) -> None:
    """Refuse a name that cannot be written, before anything is computed.

    Raises
    ------
    UsageError : an unknown suffix.
    OutputError : it exists, or its folder does not.
    """
    target = Path(out)
    if target.suffix not in SUFFIXES:
        raise UsageError(f"{out}: a simulated stack ends in {', '.join(SUFFIXES)}")
    if target.exists() and not overwrite:
        raise OutputError(f"{out}: already exists; --overwrite replaces it")
    if not target.parent.is_dir():
        raise OutputError(f"{out}: no folder {target.parent}; create it first")


def write_simulated(dataset: xr.Dataset, name: str, out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a dataset of :func:`simulated_dataset` as NetCDF, Zarr or multi-band GeoTIFF (dates in the band names).

    Raises
    ------
    UsageError, OutputError : the name cannot be written.
    """
    check_simulated(out, overwrite)
    suffix = Path(out).suffix
    target = AtomicTarget(out, kind="folder" if suffix == ".zarr" else "file", overwrite=overwrite)
    try:
        if suffix in {".tif", ".tiff"}:
            _write_geotiff(dataset, name, target.path)
        elif suffix == ".zarr":
            dataset.to_zarr(
                target.path, mode="w", zarr_format=2, encoding=_encoding(dataset, "zarr"), consolidated=True
            )
        else:
            dataset.to_netcdf(target.path, encoding=_encoding(dataset, "netcdf"), engine="netcdf4")
    except BaseException:
        target.abort()
        raise
    return target.commit()


def _encoding(dataset: xr.Dataset, kind: str) -> dict[str, Any]:
    packing = {"zlib": True, "complevel": 4, "shuffle": True} if kind == "netcdf" else {}
    fields = (v for v in dataset.data_vars if dataset[v].ndim >= 2)
    none = {str(name): {"_FillValue": None} for name in dataset.coords}
    return {**none, **{str(v): {"_FillValue": np.float32("nan"), **packing} for v in fields}}


def _write_geotiff(dataset: xr.Dataset, name: str, path: Path) -> None:
    import rasterio
    from rasterio.transform import from_origin

    array = dataset[name]
    y, x = (dataset[dim].to_numpy() for dim in array.dims[1:])
    dx, dy = abs(x[1] - x[0]), abs(y[1] - y[0])
    labels = xr.decode_cf(dataset[["time"]])["time"].dt.strftime("%Y-%m-%dT%H:%M:%S").to_numpy()
    profile = {
        "driver": "GTiff", "count": len(labels), "height": len(y), "width": len(x), "dtype": "float32", "nodata": np.nan,
        "crs": CRS.from_cf(dataset["crs"].attrs).to_wkt(), "transform": from_origin(x[0] - dx / 2, y[0] + dy / 2, dx, dy),
        "compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(array.to_numpy())
        file.descriptions = tuple(str(label) for label in labels)
        file.units = (str(array.attrs["units"]),) * len(labels)
