"""NetCDF 3 and 4 files as raw files. Knows the netCDF library, nothing about CF."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from stimpute.errors import InputError
from stimpute.io.classic_size import is_classic, missing_bytes
from stimpute.io.patience import opened_in_time
from stimpute.io.raw import Array, Key, RawFile, RawVariable

LOCK = threading.RLock()  # the HDF5 library below is not safe in threads


def open_netcdf(path: str | Path) -> RawFile:
    """Open a NetCDF (or plain HDF5) file.

    Raises
    ------
    InputError : the file cannot be opened: absent, truncated, not NetCDF.
    """
    _refuse_cut(path)
    try:
        with LOCK:
            dataset = opened_in_time(path, lambda: netCDF4.Dataset(str(path), "r"))
            dataset.set_auto_maskandscale(False)
            dataset.set_auto_chartostring(False)
            raw = _raw_file(path, dataset)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (MemoryError, InputError):
        raise
    except Exception as error:  # whatever the library makes of damaged metadata
        if "://" in str(path):
            raise InputError(
                f"{path}: cannot be read as NetCDF from there ({error}); download it first (only OPeNDAP servers are read in place)"
            ) from error
        raise InputError(
            f"{path}: cannot be read as NetCDF ({error}); is it truncated or damaged?"
        ) from error
    if not raw.variables:
        raw.close()
        raise InputError(f"{path}: holds no variables at all; is it truncated or damaged?")
    return raw


def _refuse_cut(path: str | Path) -> None:
    """The library itself reads zeros where a classic file ends too early."""
    if not is_classic(path):
        return
    try:
        missing = missing_bytes(path)
    except ValueError as error:
        raise InputError(
            f"{path}: cannot be read as NetCDF ({error}); is it truncated or damaged?"
        ) from error
    if missing:
        raise InputError(
            f"{path}: {missing:,} bytes shorter than its header declares; is it truncated or damaged?"
        )


def _raw_file(path: str | Path, dataset: Any) -> RawFile:
    groups, variables, dims, unlimited = {}, {}, {}, set()
    for group in _groups(dataset):
        groups[_name(group.path, "")] = {k: group.getncattr(k) for k in group.ncattrs()}
        for dim in group.dimensions.values():
            dims[_name(group.path, dim.name)] = len(dim)
            if dim.isunlimited():
                unlimited.add(_name(group.path, dim.name))
        for variable in group.variables.values():
            name = _name(group.path, variable.name)
            variables[name] = _raw_variable(path, name, variable)
    return RawFile(
        path=path,
        format="NetCDF",
        variant=str(dataset.data_model),
        dims=dims,
        variables=variables,
        groups=groups,
        native=dataset,
        unlimited=frozenset(unlimited),
        close=lambda: _close(dataset),
    )


def _close(dataset: Any) -> None:
    with LOCK:
        if dataset.isopen():
            dataset.close()


def _groups(dataset: Any) -> Iterator[Any]:
    yield dataset
    for inner in dataset.groups.values():
        yield from _groups(inner)


def _name(group_path: str, name: str) -> str:
    return f"{group_path.strip('/')}/{name}".strip("/")


def _size(path: str | Path) -> int:
    """Length of a local file; 0 for anything else."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _raw_variable(path: str | Path, name: str, variable: Any) -> RawVariable:
    size = _size(path)

    def load(key: Key) -> Array:
        try:
            with LOCK:
                stored = np.asarray(variable[key] if key else variable[...])
        except MemoryError:
            raise
        except Exception as error:
            raise InputError(
                f"{path}: {name} cannot be read ({error}); is the file truncated or damaged?"
            ) from error
        if _size(path) < size:  # the library would go on with zeros
            raise InputError(f"{path}: became shorter while it was read; it must stay as it is")
        return stored

    plain = isinstance(variable.datatype, np.dtype)
    return RawVariable(
        name=name,
        dims=tuple(_name(d.group().path, d.name) for d in variable.get_dims()),
        shape=tuple(variable.shape),
        dtype=np.dtype(variable.dtype).newbyteorder("=") if plain else np.dtype(object),
        attrs={k: variable.getncattr(k) for k in variable.ncattrs()},
        load=load,
        storage=_storage(variable) if plain else {},
        label=str(path),
    )


def _storage(variable: Any) -> dict[str, Any]:
    """The layout of a NetCDF-4 variable in the words of ``createVariable``; empty for NetCDF-3."""
    filters = variable.filters()
    if filters is None:
        return {}
    storage: dict[str, Any] = {"endian": variable.endian()}
    chunks = variable.chunking()
    if chunks == "contiguous" or chunks is None:
        storage["contiguous"] = variable.ndim > 0
        return storage
    storage["chunksizes"] = tuple(chunks)
    storage["shuffle"], storage["fletcher32"] = bool(filters["shuffle"]), bool(filters["fletcher32"])
    for codec in ("zlib", "zstd", "bzip2"):
        if filters.get(codec):
            storage |= {"compression": codec, "complevel": int(filters["complevel"])}
    if filters.get("szip"):
        coding = filters["szip"]
        storage |= {
            "compression": "szip",
            "szip_coding": coding["coding"],
            "szip_pixels_per_block": int(coding["pixels_per_block"]),
        }
    if filters.get("blosc"):
        blosc = filters["blosc"]
        storage |= {
            "compression": blosc["compressor"],
            "blosc_shuffle": int(blosc["shuffle"]),
            "complevel": int(filters["complevel"]),
        }
    return storage
