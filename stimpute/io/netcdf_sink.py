"""Writes a stack as NetCDF: the input's structure anew, its unrelated variables copied, the filled ones by windows."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from stimpute.errors import OutputError, StimputeWarning, UsageError
from stimpute.io.atomic import AtomicTarget
from stimpute.io.cf_source import CFSource
from stimpute.io.layout import Layout, OutVariable, history_line, layout_of
from stimpute.io.layout_copies import slabs
from stimpute.io.layout_windows import arranged, chunk_of, contents, placements
from stimpute.io.netcdf import LOCK
from stimpute.io.options import SinkOptions
from stimpute.protocols import Filled, Window

_CLASSIC_TYPES = ("i1", "i2", "i4", "f4", "f8", "S1")
_GDAL_FORMATS = {
    "NC": "NETCDF3_CLASSIC",
    "NC2": "NETCDF3_64BIT_OFFSET",
    "NC4": "NETCDF4",
    "NC4C": "NETCDF4_CLASSIC",
    "CDF5": "NETCDF3_64BIT_DATA",
}
_NETCDF_VARIANTS = tuple(_GDAL_FORMATS.values())
_CODECS = {"deflate": "zlib", "zlib": "zlib", "zstd": "zstd", "none": None}
_PAD = 2000  # blanks kept free for the history, so that a classic file need not be moved to hold it
_LATER = "FillValue_"  # same length as _FillValue


class NetCDFSink:
    """One NetCDF file, finished under a temporary name.

    Raises
    ------
    OutputError : it cannot be written, or the format cannot hold a type.
    """

    def __init__(self, out: str | Path, source: CFSource, options: SinkOptions) -> None:
        self.source, self.options = source, options
        self.layout: Layout = layout_of(source, options)
        if options.format == "NetCDF3":
            self.layout = _in_classic_types(source, self.layout)
        self.variant, self.defaults = _variant(source, self.layout, options)
        if self.variant != "NETCDF4" and (group := next((n for n in self.layout.groups if n), None)):
            raise OutputError(
                f"{out}: {self.variant} knows no groups ({group} in {source.paths[0]}); write NetCDF or Zarr"
            )
        if self.variant.startswith("NETCDF3"):
            _refuse_full_disk(self.layout, Path(out))
        self._later: list[tuple[Any, Any]] = []
        self._target = AtomicTarget(out, overwrite=options.overwrite, staging=options.staging)
        self._dataset: Any = None
        try:
            with _disk_errors(self._target.target), LOCK:
                self._dataset = netCDF4.Dataset(str(self._target.path), "w", format=self.variant)  # type: ignore[arg-type]
                self._define()
                self._copy()
        except BaseException:
            self.abort()
            raise

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window: observed numbers from the source, filled ones packed, gaps as they were."""
        for variable, data in contents(self.source, self.layout, window, filled, layer):
            with _disk_errors(self._target.target), LOCK:
                target = self._variable(variable.name)
                for steps, key, transpose in placements(self.source, variable, window, layer):
                    target[key] = arranged(data, steps, transpose)

    def chunk(self, layer: int) -> tuple[int, int, int]:
        """(time, y, x) that are best written at once."""
        variable = self.layout.of(self.source.layers[layer].variable, "filled")[0]
        chunks = self._variable(variable.name).chunking()
        return chunk_of(self.source, variable, chunks if isinstance(chunks, list | tuple) else None)

    def commit(self, history: str) -> tuple[Path, ...]:
        """Finish it, give it its name."""
        return (self.finish(history).commit(),)

    def finish(self, history: str) -> AtomicTarget:
        """Append ``history``, flush, close; all but the name."""
        altered = list(self.source.alterations)
        if self.options.dtype is not None:
            altered.append(f"stored as {self.options.dtype}")
        with _disk_errors(self._target.target), LOCK:
            before = str(self.source.files[0].attrs.get("history", ""))
            self._dataset.setncattr("history", history_line(before, history, altered))
            self._set_mismatched_fills()
            self._dataset.sync()  # what cannot be written fails here, not in closing
            self._dataset.close()
        return self._target

    def abort(self) -> None:
        """Remove what was written; harmless after ``commit``."""
        if self._dataset is not None and self._dataset.isopen():
            with LOCK:  # a full disk fails here again; after `close`, which would say so, the destructor closes again and crashes
                self._dataset._close(False)
        self._target.abort()

    def __enter__(self) -> NetCDFSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    # -- structure ----------------------------------------------------------------------------------------------

    def _define(self) -> None:
        """Dimensions, variables and attributes, all before the first number (classic files ask for it)."""
        for name, attrs in self.layout.groups.items():
            group = self._dataset.createGroup(name) if name else self._dataset
            for key, value in attrs.items():
                if key != "history" or name:
                    _set_attribute(group, key, value, self.variant)
        old = str(self.layout.groups.get("", {}).get("history", ""))
        self._dataset.setncattr("history", old + " " * _PAD)
        for name, length in self.layout.dims.items():
            group, short = self._place(name)
            group.createDimension(short, None if name in self.layout.unlimited else length)
        for variable in self.layout.variables:
            self._define_variable(variable)

    def _define_variable(self, variable: OutVariable) -> None:
        group, short = self._place(variable.name)
        dims = tuple(d.rpartition("/")[2] for d in variable.dims)
        datatype = self._datatype(group, variable)
        if datatype is None:
            return
        attrs = dict(variable.attrs)
        fill = attrs.pop("_FillValue", None)
        if (
            fill is None
            and variable.role == "filled"
            and self.source.format == "memory"
            and variable.dtype.kind == "f"
        ):
            fill = variable.dtype.type(np.nan)  # in memory NaN needs no declaration
        if fill is not None and variable.dtype == np.float16:
            fill = np.asarray(fill).astype(np.float32)[()]
        fits = fill is not None and np.asarray(fill).dtype == datatype and np.asarray(fill).size >= 1
        if (
            fits and np.asarray(fill).size > 1
        ):  # as HDF-EOS has it; the library takes one, CF several as missing_value
            attrs.setdefault("missing_value", fill)
        storage = self._storage(variable)
        if storage.get("endian") == "big" and isinstance(datatype, np.dtype):
            datatype = datatype.newbyteorder(">")
        created = group.createVariable(
            short, datatype, dims, fill_value=np.asarray(fill).ravel()[0] if fits else None, **storage
        )
        created.set_auto_maskandscale(False)
        created.set_auto_chartostring(False)
        for key, value in attrs.items():
            _set_attribute(created, key, value, self.variant)
        if fill is not None and not fits:
            self._define_mismatched_fill(created, fill)

    def _define_mismatched_fill(self, created: Any, fill: Any) -> None:
        """A ``_FillValue`` of another type than its variable: classic files may hold one, but not while data are written."""
        if self.variant.startswith("NETCDF3"):
            _set_attribute(created, _LATER, fill, self.variant)
            self._later.append((created, fill))
        elif np.asarray(fill).dtype.kind in "iuf" and "missing_value" not in created.ncattrs():
            _set_attribute(created, "missing_value", fill, self.variant)
        else:
            warnings.warn(
                f"{self.source.paths[0]}: {created.name}: _FillValue {fill} does not fit {created.dtype}; left out",
                StimputeWarning,
                stacklevel=2,
            )

    def _set_mismatched_fills(self) -> None:
        self._dataset.sync()
        for created, _ in self._later:
            created.renameAttribute(_LATER, "_FillValue")

    def _datatype(self, group: Any, variable: OutVariable) -> Any:
        """The type to create a variable with; user-defined types are created anew. None: it cannot be written."""
        if variable.dtype.kind in "iuf":
            return (
                variable.dtype if variable.dtype != np.float16 else np.dtype(np.float32)
            )  # NetCDF has no halves
        if variable.dtype.kind == "S" and variable.dtype.itemsize == 1:
            return "S1"
        native = self._native(variable)
        if self.variant == "NETCDF4" and native is not None and not isinstance(native.datatype, np.dtype):
            return _user_type(group, native)
        if variable.dtype.kind in "OUS" and self.variant == "NETCDF4":
            return str
        if variable.dtype.kind == "b":
            return np.dtype("i1")
        warnings.warn(
            f"{self.source.paths[0]}: {variable.name} ({variable.dtype}) cannot be stored as {self.variant}; left out",
            StimputeWarning,
            stacklevel=2,
        )
        return None

    def _storage(self, variable: OutVariable) -> dict[str, Any]:
        if self.variant.startswith("NETCDF3"):
            return {}
        storage = dict(variable.storage)
        if variable.role != "copied" or not self._same_format():
            storage |= self.defaults
        if variable.dims and storage.get("chunksizes"):
            lengths = [
                None if d in self.layout.unlimited else n for d, n in zip(variable.dims, variable.shape)
            ]
            storage["chunksizes"] = [
                c if n is None else max(1, min(c, n)) for c, n in zip(storage["chunksizes"], lengths)
            ]
            storage.pop("contiguous", None)
        if not variable.dims or variable.dtype.kind not in "iuf":
            storage = {k: v for k, v in storage.items() if k in ("endian", "chunksizes") and variable.dims}
        if storage.get("compression") or any(d in self.layout.unlimited for d in variable.dims):
            storage.pop("contiguous", None)
        return storage

    def _same_format(self) -> bool:
        return self.source.format == "NetCDF"

    def _native(self, variable: OutVariable) -> Any:
        if variable.role != "copied" or not self._same_format() or variable.dtype.kind == "f":
            return None  # numbers that the source holds in memory (the times of a forecast) have no native either
        return self.source.files[0].native[variable.name]

    # -- data ---------------------------------------------------------------------------------------------------

    def _copy(self) -> None:
        for variable in self.layout.variables:
            if variable.role != "copied":
                cache = min(128 << 20, max(16 << 20, 4 * _chunk_bytes(self._variable(variable.name))))
                if not self.variant.startswith("NETCDF3"):
                    self._variable(variable.name).set_var_chunk_cache(size=cache)
                continue
            target = self._variable(variable.name)
            if target is None or 0 in variable.shape:
                continue
            native = self._native(variable)
            numbers = native is not None and isinstance(
                native.datatype, netCDF4.EnumType | netCDF4.CompoundType
            )
            for key, data in slabs(self.source, variable):
                target[key if key else ...] = data.astype(native.datatype.dtype) if numbers else data

    def _variable(self, name: str) -> Any:
        group, short = self._place(name)
        return group.variables.get(short)

    def _place(self, name: str) -> tuple[Any, str]:
        path, _, short = name.rpartition("/")
        return (self._dataset.createGroup(path) if path else self._dataset), short


def _chunk_bytes(variable: Any) -> int:
    chunks = variable.chunking()
    if not isinstance(chunks, list | tuple):
        return 0
    return int(np.prod(chunks, dtype=np.int64)) * int(variable.dtype.itemsize)


def _user_type(group: Any, native: Any) -> Any:
    """An enum, compound or variable-length type of the input, created in the output."""
    kind = native.datatype
    if kind is str:
        return str
    if kind.name in group.enumtypes | group.cmptypes | group.vltypes:
        return (group.enumtypes | group.cmptypes | group.vltypes)[kind.name]
    if isinstance(kind, netCDF4.EnumType):
        return group.createEnumType(kind.dtype, kind.name, kind.enum_dict)
    if isinstance(kind, netCDF4.CompoundType):
        return group.createCompoundType(kind.dtype, kind.name)
    return group.createVLType(kind.dtype, kind.name)


def _variant(source: CFSource, layout: Layout, options: SinkOptions) -> tuple[str, dict[str, Any]]:
    """The NetCDF variant to write, and storage settings for new variables."""
    wanted, defaults = _creation(options.creation)
    if wanted is None:
        wanted = source.files[0].variant if source.format == "NetCDF" else "NETCDF4"
        if options.format == "NetCDF3" and not wanted.startswith("NETCDF3"):
            wanted = "NETCDF3_CLASSIC"
        elif options.format == "NetCDF" and wanted.startswith("NETCDF3"):
            wanted = "NETCDF4"
    if source.format != "NetCDF" and not defaults:
        defaults = {"compression": "zlib", "complevel": 4, "shuffle": True}
    if wanted in ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET"):
        wanted = _roomy_classic(layout, wanted)
    return wanted, {} if wanted.startswith("NETCDF3") else defaults


def _in_classic_types(source: CFSource, layout: Layout) -> Layout:
    """Copied integers that NetCDF-3 does not know, in the smallest type it knows that holds every one of their numbers."""
    changed = []
    for variable in layout.variables:
        if variable.dtype.kind not in "iu" or variable.dtype.str[1:] in _CLASSIC_TYPES:
            changed.append(variable)
            continue
        fitting = None if variable.role == "filled" else _classic_type(source, variable)
        if fitting is None:
            advice = "; --dtype chooses a smaller one" if variable.role == "filled" else ""
            warnings.warn(
                f"{source.paths[0]}: {variable.name} is {variable.dtype}, which only NetCDF-3's 64-bit data variant (CDF5)"
                f" holds, and few programs read{advice}",
                StimputeWarning,
                stacklevel=2,
            )
        changed.append(variable if fitting is None else replace(variable, dtype=fitting))
    return replace(layout, variables=tuple(changed))


def _classic_type(source: CFSource, variable: OutVariable) -> np.dtype[Any] | None:
    if variable.role != "copied":
        return None
    low, high = 0, 0
    for _, data in slabs(source, variable):
        if data.size:
            low, high = min(low, int(data.min())), max(high, int(data.max()))
    for dtype in (np.dtype("i2"), np.dtype("i4")):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    return np.dtype("f8") if low >= -(2**53) and high <= 2**53 else None


def _roomy_classic(layout: Layout, wanted: str) -> str:
    """The smallest classic variant that holds the types and sizes."""
    types = {v.dtype.str.lstrip("<>|=") for v in layout.variables if v.dtype.kind in "iufS"}
    if types - set(_CLASSIC_TYPES):
        return "NETCDF3_64BIT_DATA"
    sizes = [int(np.prod(v.shape, dtype=np.int64)) * v.dtype.itemsize for v in layout.variables]
    if max(sizes, default=0) >= 1 << 32:
        return "NETCDF3_64BIT_DATA"
    return "NETCDF3_64BIT_OFFSET" if sum(sizes) >= (1 << 31) - (1 << 20) else wanted


def _refuse_full_disk(layout: Layout, out: Path) -> None:
    """The size of a classic file is known before it is written, and the library does badly on a disk too small for it.

    Raises
    ------
    OutputError : less is free.
    """
    needed = sum(
        int(np.prod(v.shape, dtype=np.int64)) * v.dtype.itemsize
        for v in layout.variables
        if v.dtype.kind in "iufS"
    )
    with suppress(OSError):  # no such folder: said when the file is created
        free = shutil.disk_usage(out.parent).free
        if needed > free:
            raise OutputError(
                f"{out}: takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; another disk, or --of NetCDF, which compresses"
            )


def _creation(creation: Mapping[str, str]) -> tuple[str | None, dict[str, Any]]:
    """``--co`` in GDAL's words (FORMAT, COMPRESS, ZLEVEL) or netCDF's (compression, complevel, shuffle)."""
    variant: str | None = None
    storage: dict[str, Any] = {}
    for key, value in creation.items():
        name = key.lower()
        if name == "format" and (value.upper() in _GDAL_FORMATS or value.upper() in _NETCDF_VARIANTS):
            variant = _GDAL_FORMATS.get(value.upper(), value.upper())
        elif name in ("compress", "compression") and value.lower() in _CODECS:
            storage["compression"] = _CODECS[value.lower()]
        elif name in ("zlevel", "complevel") and value in map(str, range(10)):
            storage |= {"complevel": int(value), "compression": storage.get("compression", "zlib")}
        elif name == "shuffle":
            storage["shuffle"] = value.lower() in ("yes", "true", "1", "on")
        else:
            raise UsageError(
                f"--co {key}={value}: NetCDF output knows FORMAT={'|'.join(_GDAL_FORMATS)}, "
                "COMPRESS=DEFLATE|zstd|none, ZLEVEL=0..9, SHUFFLE=yes|no"
            )
    return variant, storage


def _set_attribute(owner: Any, key: str, value: Any, variant: str) -> None:
    """One attribute in a type the variant can hold."""
    if value is None or key in ("_NCProperties", "_Netcdf4Dimid", "_Netcdf4Coordinates"):
        return
    if isinstance(value, dict):
        value = json.dumps(value)
    if isinstance(value, bool | np.bool_):
        value = np.int8(value)
    classic = variant != "NETCDF4"
    if isinstance(value, list | tuple) and any(isinstance(v, str) for v in value):
        value = ", ".join(map(str, value)) if classic else [str(v) for v in value]
    elif not isinstance(value, str | bytes):
        value = _numeric(value, classic and variant != "NETCDF3_64BIT_DATA")
    owner.setncattr(key, value)


def _numeric(value: Any, classic: bool) -> Any:
    array = np.asarray(value)
    if (
        isinstance(value, int | list)
        and array.dtype.kind == "i"
        and array.size
        and np.abs(array).max() < 2**31
    ):
        array = array.astype(np.int32)
    if classic and array.dtype.kind in "iu" and array.dtype.str[1:] not in _CLASSIC_TYPES:
        small = array.size == 0 or (array.min() >= -(2**31) and array.max() < 2**31)
        array = array.astype(np.int32 if small else np.float64)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype.kind not in "iufSU":
        return str(value)
    return array if array.ndim else array[()]


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """The library's failures while writing, as one of our errors."""
    try:
        yield
    except (OSError, RuntimeError, AttributeError) as error:  # the last: of a name that no attribute may have
        named = isinstance(error, AttributeError) or "illegal characters" in str(error)
        full = isinstance(error, OSError) or "HDF error" in str(error)
        advice = "; --of Zarr writes such names" if named else "; is the disk full?" if full else ""
        raise OutputError(f"{target}: cannot be written ({error}){advice}") from error
