"""NetCDF and Zarr files as they are stored: nothing decoded, nothing masked. Through netCDF4 and zarr alone, never through xarray."""

from __future__ import annotations

import base64
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.io.patience import opened_in_time
from stimpute.io.zarr_layout import ROOT_DOCUMENTS, is_zarr

Array = npt.NDArray[Any]
Index = tuple[slice | npt.NDArray[np.intp], ...]


@dataclass(frozen=True)
class RawArray:
    """A variable as it is stored: nothing decoded."""

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str  # byte order included
    attributes: Mapping[str, Any]
    chunks: tuple[int, ...] | None
    layout: Mapping[str, Any]  # chunking, compression, filters, as comparable values
    read: Callable[[Index], Array]


@dataclass(frozen=True)
class RawFile:
    """A file as it is stored; variables of groups are named ``group/variable``."""

    path: Path
    kind: str
    attributes: Mapping[str, Mapping[str, Any]]  # group -> attributes
    dimensions: Mapping[str, tuple[int, bool]]  # name -> (size, unlimited)
    arrays: Mapping[str, RawArray]

    @property
    def is_netcdf(self) -> bool:
        """NetCDF, not Zarr."""
        return self.kind.startswith("NetCDF")

    @property
    def history(self) -> str:
        """The history of the root."""
        return str(self.attributes.get("", {}).get("history", ""))


def open_raw(path: Path) -> AbstractContextManager[RawFile]:
    """A NetCDF or Zarr file; closed when the context ends.

    Raises
    ------
    InputError : it cannot be opened.
    """
    return _open_zarr(path) if is_zarr(path) else _open_netcdf(path)


@contextmanager
def _open_netcdf(path: Path) -> Iterator[RawFile]:
    import netCDF4

    try:
        file = opened_in_time(path, lambda: netCDF4.Dataset(path))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: cannot be read as NetCDF ({error}); is it truncated or damaged?"
        ) from error
    with file:
        file.set_auto_maskandscale(False)
        file.set_auto_chartostring(False)
        arrays: dict[str, RawArray] = {}
        attributes: dict[str, Mapping[str, Any]] = {}
        dimensions: dict[str, tuple[int, bool]] = {}
        for prefix, group in _walk(file):
            attributes[prefix] = {name: group.getncattr(name) for name in group.ncattrs()}
            dimensions |= {prefix + n: (d.size, d.isunlimited()) for n, d in group.dimensions.items()}
            arrays |= {prefix + n: _netcdf_array(prefix, v) for n, v in group.variables.items()}
        yield RawFile(path, f"NetCDF ({file.data_model})", attributes, dimensions, arrays)


def _walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    yield prefix, group
    for name, child in group.groups.items():
        yield from _walk(child, f"{prefix}{name}/")


def _netcdf_array(prefix: str, variable: Any) -> RawArray:
    chunking = variable.chunking()
    chunks = tuple(chunking) if isinstance(chunking, list) else None
    filters = {k: v for k, v in (variable.filters() or {}).items() if v}
    layout = {"chunks": chunks, **filters}
    dtype = np.dtype(variable.dtype).str if variable.dtype is not str else "string"
    attributes = {name: variable.getncattr(name) for name in variable.ncattrs()}

    def read(index: Index) -> Array:
        return (
            np.asarray(variable[_sorted(index, variable.ndim)])[_unsort(index, variable.name)]
            if variable.ndim
            else np.asarray(variable[...])
        )

    return RawArray(
        prefix + variable.name,
        tuple(variable.dimensions),
        tuple(variable.shape),
        dtype,
        attributes,
        chunks,
        layout,
        read,
    )


def _sorted(index: Index, ndim: int) -> Any:
    """netCDF4 takes sorted index lists only."""
    return tuple(i if isinstance(i, slice) else np.unique(i) for i in index) if ndim else ...


def _unsort(index: Index, name: str) -> Any:
    """Puts what :func:`_sorted` read into the order asked for."""
    if all(isinstance(i, slice) for i in index):
        return ...
    lengths = [slice(None) if isinstance(i, slice) else np.unique(i, return_inverse=True)[1] for i in index]
    if sum(not isinstance(i, slice) for i in lengths) > 1:
        raise InputError(f"{name}: more than one of its dimensions is in another order; compare parts of it")
    return tuple(lengths)


@contextmanager
def _open_zarr(path: Path) -> Iterator[RawFile]:
    import warnings

    import zarr

    zipped = path.is_file()
    try:
        store: Any = zarr.storage.ZipStore(path, mode="r") if zipped else path
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
            root = zarr.open_group(
                store, mode="r", use_consolidated=False, path=_root_in_zip(path) if zipped else ""
            )
            members = dict(root.members(max_depth=None))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Zarr ({error}); is it damaged?") from error
    arrays: dict[str, RawArray] = {}
    attributes: dict[str, Mapping[str, Any]] = {"": dict(root.attrs)}
    dimensions: dict[str, tuple[int, bool]] = {}
    for name, member in members.items():
        if isinstance(member, zarr.Group):
            attributes[f"{name}/"] = dict(member.attrs)
            continue
        arrays[name] = _zarr_array(name, member)
        prefix = name.rpartition("/")[0]
        for dim, size in zip(arrays[name].dims, arrays[name].shape, strict=True):
            dimensions[f"{prefix}/{dim}" if prefix else dim] = (size, False)
    try:
        yield RawFile(path, f"Zarr (v{root.metadata.zarr_format})", attributes, dimensions, arrays)
    finally:
        if zipped:
            store.close()


def _decoded_fill(text: str, dtype: np.dtype[Any]) -> Any:
    """A float fill value of a Zarr v3 attribute, which holds the base64 of a little-endian double; other text as it is."""
    try:
        return dtype.type(struct.unpack("<d", base64.b64decode(text, validate=True))[0])
    except (ValueError, struct.error):
        return text


def _root_in_zip(path: Path) -> str:
    """The shallowest folder of a zip file that holds Zarr metadata."""
    with zipfile.ZipFile(path) as archive:
        folders = [
            name.rpartition("/")[0]
            for name in archive.namelist()
            if name.rpartition("/")[2] in ROOT_DOCUMENTS
        ]
    return min(folders, key=len)


def _zarr_array(name: str, array: Any) -> RawArray:
    metadata = array.metadata
    attributes = dict(array.attrs)
    named = getattr(metadata, "dimension_names", None) or attributes.pop("_ARRAY_DIMENSIONS", None)
    attributes.pop("_ARRAY_DIMENSIONS", None)
    short = name.rpartition("/")[2]
    dims = tuple(n or f"{short}_dim_{i}" for i, n in enumerate(named or [None] * array.ndim))
    fill = attributes.get("_FillValue")
    if fill is None and array.fill_value not in (
        None,
        0,
        "",
        b"",
    ):  # 0 says how a missing chunk reads, no more
        attributes["_FillValue"] = np.asarray(array.fill_value)[()]
    elif isinstance(fill, str) and np.dtype(array.dtype).kind == "f":
        attributes["_FillValue"] = _decoded_fill(fill, np.dtype(array.dtype))
    described = metadata.to_dict()
    layout = {
        "chunks": array.chunks,
        "shards": array.shards,
        **{
            k: repr(described[k])
            for k in ("compressor", "filters", "codecs", "order", "fill_value")
            if k in described
        },
    }

    def read(index: Index) -> Array:
        data = np.asarray(array.oindex[index]) if array.ndim else np.asarray(array[...])
        return data if data.dtype.kind != "T" else data.astype(object)

    dtype = np.dtype(array.dtype)
    return RawArray(
        name,
        dims,
        tuple(array.shape),
        "string" if dtype.kind in "OT" else dtype.str,
        attributes,
        array.chunks,
        layout,
        read,
    )
