"""Writes a stack as Zarr, v2 or v3, into a folder or a zip file: chunks, codecs and fill values as they were."""

from __future__ import annotations

import base64
import math
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from stimpute.errors import OutputError, StimputeWarning, UsageError
from stimpute.io.atomic import AtomicTarget
from stimpute.io.cf_source import CFSource
from stimpute.io.layout import Layout, OutVariable, history_line, layout_of
from stimpute.io.layout_copies import slabs
from stimpute.io.layout_windows import arranged, chunk_of, contents, placements
from stimpute.io.options import SinkOptions
from stimpute.io.raw import holds_text
from stimpute.protocols import Filled, Window

_CHUNK_CELLS = 1 << 20


class ZarrSink:
    """One Zarr store, finished under a temporary name.

    Raises
    ------
    OutputError : it cannot be written.
    """

    def __init__(self, out: str | Path, source: CFSource, options: SinkOptions) -> None:
        self.source, self.options = source, options
        self.layout: Layout = layout_of(source, options)
        self.version = _version(source, options)
        self._zipped = Path(out).suffix.lower() == ".zip"
        self._target = AtomicTarget(
            out,
            kind="file" if self._zipped else "folder",
            overwrite=options.overwrite,
            staging=options.staging,
        )
        self._folder = self._target
        try:
            if self._zipped:
                self._folder = AtomicTarget(
                    f"{out}.unzipped", kind="folder", overwrite=True, staging=options.staging
                )
            with _storage_errors(self._target.target):
                self._root = zarr.open_group(str(self._folder.path), mode="w", zarr_format=self.version)
                self._arrays = self._define()
                self._copy()
        except BaseException:
            self.abort()
            raise

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window: observed numbers from the source, filled ones packed, gaps as they were."""
        for variable, data in contents(self.source, self.layout, window, filled, layer):
            with _storage_errors(self._target.target):
                for steps, key, transpose in placements(self.source, variable, window, layer):
                    self._arrays[variable.name][key] = arranged(data, steps, transpose)

    def chunk(self, layer: int) -> tuple[int, int, int]:
        """(time, y, x) that are best written at once."""
        variable = self.layout.of(self.source.layers[layer].variable, "filled")[0]
        array = self._arrays[variable.name]
        return chunk_of(self.source, variable, array.shards or array.chunks)

    def commit(self, history: str) -> tuple[Path, ...]:
        """Finish it, give it its name."""
        return (self.finish(history).commit(),)

    def finish(self, history: str) -> AtomicTarget:
        """Append ``history``, consolidate, close; all but the name."""
        altered = list(self.source.alterations)
        if self.options.dtype is not None:
            altered.append(f"stored as {self.options.dtype}")
        with _storage_errors(self._target.target):
            before = str(self.source.files[0].attrs.get("history", ""))
            self._root.attrs["history"] = history_line(before, history, altered)
            if self._consolidated():
                zarr.consolidate_metadata(self._root.store, zarr_format=self.version)
            if self._zipped:
                _zip(self._folder.path, self._target.path)
                self._folder.abort()
        return self._target

    def abort(self) -> None:
        """Remove what was written; harmless after ``commit``."""
        self._folder.abort()
        self._target.abort()

    def __enter__(self) -> ZarrSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    def _consolidated(self) -> bool:
        if self.source.format != "Zarr":
            return True
        return self.source.files[0].native.metadata.consolidated_metadata is not None

    def _define(self) -> dict[str, Any]:
        for name, attrs in self.layout.groups.items():
            group = self._root.require_group(name) if name else self._root
            group.attrs.put(_json(attrs))
        kept = [v for v in self.layout.variables if self._can_hold(v)]
        lost = [v.name for v in self.layout.variables if v not in kept]
        if lost:
            warnings.warn(
                f"{self.source.paths[0]}: {', '.join(lost)} hold values of types that Zarr does not know; left out",
                StimputeWarning,
                stacklevel=3,
            )
        return {v.name: self._create(v) for v in kept}

    def _can_hold(self, variable: OutVariable) -> bool:
        """Numbers and text."""
        return variable.dtype.kind in "iufbcSU" or holds_text(self.source.files[0].variables[variable.of])

    def _create(self, variable: OutVariable) -> Any:
        settings = self._settings(variable)
        dtype: Any = str if variable.dtype.kind == "O" else variable.dtype
        if dtype is str:  # filters are those of text
            kept = ("chunks", "chunk_key_encoding", "compressors", "order", "fill_value")
            settings = {"fill_value": "", **{k: v for k, v in settings.items() if k in kept}}
        dims = [d.rpartition("/")[2] for d in variable.dims]
        attrs = _json({k: v for k, v in variable.attrs.items() if k != "_FillValue"})
        declared = variable.attrs.get("_FillValue")
        if self.version == 2:
            attrs["_ARRAY_DIMENSIONS"] = dims
        else:
            settings["dimension_names"] = dims
            if declared is not None:
                attrs["_FillValue"] = _encoded_fill(declared, variable.dtype)
        stated = (
            self.version == 2 and variable.role == "filled" and declared is not None
        )  # v2 has no other place for it
        if stated or "fill_value" not in settings:
            settings["fill_value"] = _fill(declared, variable.dtype) if self.version == 2 else None
        parent, _, short = variable.name.rpartition("/")
        group = self._root.require_group(parent) if parent else self._root
        return group.create_array(
            short, shape=variable.shape, dtype=dtype, attributes=attrs, overwrite=True, **settings
        )

    def _settings(self, variable: OutVariable) -> dict[str, Any]:
        """Chunks and codecs: those of the array it is, or stands beside; else moderate chunks and the default codec."""
        native = self.source.files[0].native
        same = self.source.format == "Zarr" and self.version == native.metadata.zarr_format
        array = native.get(variable.of) if same else None  # none: a variable that the input does not have
        if array is None:
            chunks = variable.storage.get("chunksizes") or _chunks(variable.shape)
            return {"chunks": tuple(max(1, min(c, n)) for c, n in zip(chunks, variable.shape))}
        settings: dict[str, Any] = {"chunks": array.chunks, "compressors": array.compressors}
        if array.metadata.zarr_format == 2:
            separator = array.metadata.dimension_separator
            settings["chunk_key_encoding"] = {"name": "v2", "separator": separator}
            settings["order"] = array.order
        else:
            settings["shards"] = array.shards
            settings["chunk_key_encoding"] = array.metadata.chunk_key_encoding
        numbers = array.dtype.kind in "iufbcSU"
        if not numbers:
            settings["fill_value"] = array.fill_value
        if (
            numbers
            and variable.dtype == np.dtype(array.dtype).newbyteorder("=")
            and variable.role
            in (
                "copied",
                "filled",
            )
        ):
            settings["filters"], settings["fill_value"] = array.filters, array.fill_value
            if array.metadata.zarr_format == 3:
                settings["serializer"] = array.serializer
        return settings

    def _copy(self) -> None:
        for variable in self.layout.variables:
            if variable.role == "copied" and variable.name in self._arrays and 0 not in variable.shape:
                for key, data in slabs(self.source, variable):
                    self._arrays[variable.name][key if key else ...] = data


def _version(source: CFSource, options: SinkOptions) -> int:
    version = int(source.files[0].variant[1:]) if source.format == "Zarr" else 2
    for key, value in options.creation.items():
        if key.lower() not in ("zarr_format", "format") or value.upper() not in (
            "2",
            "3",
            "V2",
            "V3",
            "ZARR_V2",
            "ZARR_V3",
        ):
            raise UsageError(f"--co {key}={value}: Zarr output knows ZARR_FORMAT=2|3")
        version = int(value[-1])
    return version


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """About a million cells, whole maps first."""
    out: list[int] = []
    room = _CHUNK_CELLS
    for n in reversed(shape):
        out.append(max(1, min(n, room)))
        room //= out[-1]
    return tuple(reversed(out))


def _fill(declared: Any, dtype: np.dtype[Any]) -> Any:
    if declared is None or dtype.kind not in "iuf":
        return None
    number = np.asarray(declared).ravel()[0]
    return dtype.type(number) if dtype.kind == "f" or np.isfinite(number) else None


def _encoded_fill(declared: Any, dtype: np.dtype[Any]) -> Any:
    """As xarray writes it into v3 attributes: floats as base64 of a double."""
    number = np.asarray(declared).ravel()[0]
    if dtype.kind == "f":
        return base64.standard_b64encode(struct.pack("<d", float(number))).decode()
    return int(number) if np.isfinite(number) else None


def _json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _plain(v) for k, v in attrs.items() if v is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for inner in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(inner, inner.relative_to(folder).as_posix())


@contextmanager
def _storage_errors(target: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)
            yield
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error}); is the disk full?") from error
