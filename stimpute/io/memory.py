"""xarray objects in memory as raw files. Dates are encoded to numbers; everything else is taken as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from stimpute.io.raw import Array, Key, RawFile, RawVariable


def open_memory(data: xr.Dataset | xr.DataArray, path: str = "<memory>") -> RawFile:
    """A dataset, decoded or raw, as a raw file. Nothing is copied; dask arrays stay lazy.

    Encodings are ignored: what counts is what the arrays hold. Attributes (``_FillValue``, ``scale_factor``, ...) count,
    so that a dataset opened with ``decode_cf=False`` means what its file means.
    """
    dataset = as_dataset(data)
    variables = {
        str(name): _raw_variable(str(name), variable) for name, variable in dataset.variables.items()
    }
    return RawFile(
        path=path,
        format="memory",
        variant="xarray",
        dims={str(k): int(v) for k, v in dataset.sizes.items()},
        variables=variables,
        groups={"": dict(dataset.attrs)},
        native=dataset,
        unlimited=frozenset(str(d) for d in dataset.encoding.get("unlimited_dims", ()) if d in dataset.sizes),
    )


def as_dataset(data: xr.Dataset | xr.DataArray) -> xr.Dataset:
    """A dataset of one variable for a DataArray."""
    if isinstance(data, xr.DataArray):
        return data.to_dataset(name=data.name if data.name is not None else "data")
    return data


def _raw_variable(name: str, variable: Any) -> RawVariable:
    coded = _encoded_dates(variable)

    def load(key: Key) -> Array:
        return np.asarray(coded[key].values if key else coded.values)

    attrs = dict(coded.attrs)
    if "coordinates" not in attrs and "coordinates" in variable.encoding:
        attrs["coordinates"] = variable.encoding["coordinates"]
    for key in ("grid_mapping", "bounds", "ancillary_variables"):
        if key in variable.encoding:
            attrs.setdefault(key, variable.encoding[key])
    return RawVariable(
        name=name,
        dims=tuple(str(d) for d in coded.dims),
        shape=tuple(coded.shape),
        dtype=coded.dtype.newbyteorder("="),
        attrs=attrs,
        load=load,
        storage={},
    )


def _encoded_dates(variable: Any) -> Any:
    """Dates and time differences as numbers with units; other variables unchanged."""
    plain = xr.Variable(variable.dims, variable._data, variable.attrs)  # without encoding, without loading
    is_date = variable.dtype.kind in "mM" or (
        variable.dtype == object and variable.size > 0 and hasattr(variable.values.flat[0], "calendar")
    )
    return xr.conventions.encode_cf_variable(plain) if is_date else plain
