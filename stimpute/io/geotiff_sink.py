"""Filled stacks as GeoTIFF or COG files: windows are staged uncompressed, and laid out as named files once, on commit.

So a compressed block is written exactly once, whatever the order of the windows, and the bytes do not depend on it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.errors import RasterioError

from stimpute.errors import OutputError, StimputeWarning
from stimpute.io.atomic import AtomicTarget, commit_all
from stimpute.io.files_read import files_read
from stimpute.io.geotiff_bands import HISTORY_TAG
from stimpute.io.geotiff_file import write_file
from stimpute.io.geotiff_layout import BandLayout, FileLayout
from stimpute.io.geotiff_siblings import (
    SIDE_SUFFIX,
    final_place,
    left_beside,
    read_along,
    refuse_taken,
    sibling,
    sibling_layout,
    sibling_values,
)
from stimpute.io.geotiff_staging import StagedArray, strips
from stimpute.io.layout import history_line
from stimpute.io.options import SinkOptions
from stimpute.io.outputs import is_folder_output
from stimpute.io.packing import Packing, nodata_candidates, unused_number
from stimpute.protocols import FILLED, OBSERVED, Filled, Window

Array = npt.NDArray[Any]

_WHOLE = 1 << 53  # beyond it a nodata, kept in double precision, is another number when it is read back


class GeoTiffSink:
    """Writes one stack as GeoTIFF. See :class:`stimpute.protocols.Sink`.

    Parameters
    ----------
    out : a file, or a folder (no suffix, trailing slash) for one file per input.
    source : a GeoTIFF source, or what :func:`stimpute.io.cf_as_geotiff.as_geotiff` makes of another one.

    Raises
    ------
    OutputError : an output exists without ``overwrite``, equals an input, or cannot be created.
    """

    def __init__(self, out: str | Path, source: Any, options: SinkOptions | None = None) -> None:
        self.out, self.source = Path(out), source
        self._named = out  # with its slash, if it ends in one
        self.options = options or SinkOptions()
        self.files: tuple[FileLayout, ...] = source.layouts(out, self.options)
        self._bands = {(b.layer, b.step): b for f in self.files for b in f.bands}
        self._folder: AtomicTarget | None = None
        self._targets: list[AtomicTarget] = []
        refuse_taken(out, source, self.files, self.options)
        if self.options.flags:
            self._name_earlier_flags()
        parent = self.out.parent if self.out.parent.name or not self.out.is_dir() else self.out
        self._staging = self._make_staging(parent)
        self._staged: dict[tuple[str, int], StagedArray] = {}
        self._written = [0] * len(source.layers)
        try:
            if is_folder_output(out) and not self.out.exists():
                self._folder = AtomicTarget(
                    self.out,
                    kind="folder",
                    overwrite=self.options.overwrite,
                    staging=self.options.staging,
                )
            for layer, described in enumerate(source.layers):
                dtype = np.result_type(*{b.packing.dtype for (n, _), b in self._bands.items() if n == layer})
                self._stage("values", layer, described.shape, dtype)
                self._stage("flag", layer, described.shape, np.uint8)
        except BaseException:
            self.abort()
            raise

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window: observed cells from the source, filled ones packed, the others nodata.

        Raises
        ------
        OutputError : a filled value that the type cannot hold; a full disk.
        """
        stored = self.source.read_stored(window, layer)
        values = self._staged["values", layer]
        out = np.empty(window.shape, dtype=values.dtype)
        for k, step in enumerate(range(*window.time)):
            out[k] = self._packed(self._bands[layer, step], stored[k], filled.values[k], filled.flag[k], step)
        values.write(window, out)
        self._staged["flag", layer].write(window, filled.flag)
        self._write_siblings(window, filled, layer)
        self._written[layer] += out.size

    def chunk(self, layer: int) -> tuple[int, int, int]:
        """(time, y, x) that are best written at once."""
        return 1, 1, int(self.source.layers[layer].shape[2])  # staged uncompressed, laid out on commit

    def commit(self, history: str) -> tuple[Path, ...]:
        """Lay the files out, record ``history``, give them their names, remove what lay beside them and speaks of others.

        What cannot be removed then is named by a warning: the files are in place.

        Raises
        ------
        OutputError : the disk is full, or the files cannot be named.
        """
        for layer, described in enumerate(self.source.layers):
            if self._written[layer] != int(np.prod(described.shape, dtype=np.int64)):
                raise AssertionError(
                    f"{described.name}: {self._written[layer]} cells written of {described.shape}"
                )
        outdated: list[Path] = []
        try:
            paths = [p for f in self.files for p in self._lay_out(f, history)]
            if self._folder is not None:
                self._folder.commit()
            else:
                outdated = self._outdated(paths)
                commit_all(self._targets)
        except (OSError, RasterioError) as error:
            self.abort()
            raise OutputError(f"{self.out}: cannot be written: {error}") from error
        except BaseException:
            self.abort()
            raise
        self._remove_staging()
        self._targets, self._folder = [], None
        _remove(outdated)
        return tuple(paths)

    def abort(self) -> None:
        """Remove everything that was written."""
        for target in (*self._targets, *([self._folder] if self._folder else ())):
            target.abort()
            _side_file(target.path).unlink(missing_ok=True)
        self._targets, self._folder = [], None
        self._remove_staging()

    def __enter__(self) -> GeoTiffSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    # ---------------------------------------------------------------------------------------------------- windows

    def _packed(self, band: BandLayout, stored: Array, values: Array, flag: Array, step: int) -> Array:
        """The stored numbers (y, x) of one step of a window."""
        packing = band.packing
        observed, filled = flag == OBSERVED, flag == FILLED
        name = f"{self.out} ({self.source.time_labels[step]})"
        number = gap_number(packing)
        out = stored.astype(packing.dtype) if number is None else np.full(stored.shape, number, packing.dtype)
        out[observed] = _kept(stored[observed], band, name)
        out[filled] = packing.encode(values[filled], name)
        return out

    def _write_siblings(self, window: Window, filled: Filled, layer: int) -> None:
        for name, values in sibling_values(filled, self.options):
            if (name, layer) not in self._staged:
                self._stage(name, layer, self.source.layers[layer].shape, np.float32)
            self._staged[name, layer].write(window, values)

    # ---------------------------------------------------------------------------------------------------- places

    def _name_earlier_flags(self) -> None:
        """Say so where an input was filled before: its flag lies beside it, and does not travel on."""
        paths = [Path(str(p)) for p in self.source.paths]
        flags = [p.with_name(sibling(p.name, "flag")) for p in paths]
        marked = next((f for f in flags if f.is_file()), None)
        if marked is not None:
            warnings.warn(
                f"{marked}: marks values that an earlier run filled; they are taken as observed, and lose their mark; fill the original instead",
                StimputeWarning,
                stacklevel=4,
            )

    def _make_staging(self, parent: Path) -> Path:
        try:
            return Path(
                tempfile.mkdtemp(prefix=f".{self.out.stem}.stimpute-", dir=self.options.staging or parent)
            )
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written: {error.strerror or error}") from error

    def _stage(self, name: str, layer: int, shape: tuple[int, int, int], dtype: npt.DTypeLike) -> None:
        try:
            staged = StagedArray(self._staging / f"{name}-{layer}", shape, dtype)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written: {error.strerror or error}") from error
        self._staged[name, layer] = staged

    def _remove_staging(self) -> None:
        for staged in self._staged.values():
            staged.close()
        shutil.rmtree(self._staging, ignore_errors=True)

    def _place(self, name: str) -> tuple[Path, Path]:
        """Where to write a file now, and what it will be called."""
        final = final_place(self._named, name)
        if self._folder is not None:
            return self._folder.path / name, final
        target = AtomicTarget(final, overwrite=self.options.overwrite, staging=self.options.staging)
        self._targets.append(target)
        return target.path, final

    # ---------------------------------------------------------------------------------------------------- files

    def _lay_out(self, layout: FileLayout, history: str) -> Iterator[Path]:
        """Write one file and its siblings; yields their final names."""
        unfilled = self._any_unfilled(layout)
        path, final = self._place(layout.name)
        self._write_file(path, self._described(layout, history, unfilled), "values")
        self._take_side_file(path, final)
        yield final
        names = [n for n in dict.fromkeys(n for n, _ in self._staged) if n != "values"]
        for name in names:
            if name != "flag" or self.options.flags:
                path, final = self._place(sibling(layout.name, name))
                self._write_file(path, sibling_layout(layout, name, self.source, history), name)
                self._take_side_file(path, final)
                yield final

    def _write_file(self, path: Path, layout: FileLayout, name: str) -> None:
        write_file(path, layout, self._staged, name, folder=self._staging, out=self.out)

    def _take_side_file(self, path: Path, final: Path) -> None:
        """GDAL writes what TIFF cannot hold (a rotated pole, say) into ``.aux.xml``: it gets its final name too."""
        side = _side_file(path)
        if self._folder is None and side.exists():
            target = AtomicTarget(_side_file(final), overwrite=True, staging=self.options.staging)
            self._targets.append(target)
            os.replace(side, target.path)

    def _outdated(self, written: list[Path]) -> list[Path]:
        """What would be read as if it belonged to the new files: siblings of an earlier fill, and what GDAL reads with any file."""
        read = files_read(self.source)
        left, _ = left_beside(self._named, read, [f.name for f in self.files], written)
        new = {target.target for target in self._targets}
        beside = [side for path in (*written, *left) for side in read_along(path) if side not in new]
        found = [side for side in beside if os.path.lexists(side) and os.path.realpath(side) not in read]
        return [*left, *found]

    def _any_unfilled(self, layout: FileLayout) -> bool:
        flags = ((b.layer, b.step) for b in layout.bands)
        return any(
            bool((self._staged["flag", n].read(w) > FILLED).any())
            for n, step in flags
            for w in strips(step, layout.shape, 1)
        )

    def _described(self, layout: FileLayout, history: str, unfilled: bool) -> FileLayout:
        """The layout with its history, and with a nodata if cells are left that need one."""
        before = layout.tags.get("", {}).get(HISTORY_TAG)
        altered = [
            *self.source.alterations,
            *([f"stored as {self.options.dtype}"] if self.options.dtype else []),
        ]
        lines = history_line(before or "", history, altered)
        tags = {**layout.tags, "": {**layout.tags.get("", {}), HISTORY_TAG: lines}}
        nodata = layout.nodata
        if nodata is None and unfilled and layout.cover == "none":
            nodata = gap_number(layout.bands[0].packing)
            if nodata is None:
                nodata = self._mark_unfilled(layout)
            message = f"{layout.name}: the input declares no nodata; unfilled cells hold {nodata:.10g}, now declared"
            warnings.warn(message, StimputeWarning, stacklevel=2)
        return replace(layout, tags=tags, nodata=nodata)

    def _mark_unfilled(self, layout: FileLayout) -> int:
        """Give the unfilled cells of a file of whole numbers one that no other cell of it holds, and return that.

        Raises
        ------
        OutputError : none is left.
        """
        free = nodata_candidates(layout.dtype)
        free = free[[abs(int(n)) <= _WHOLE for n in free]]
        windows = [(b.layer, w) for b in layout.bands for w in strips(b.step, layout.shape, 8)]
        number = unused_number(
            free, (values[flag <= FILLED] for values, flag in map(self._staged_in, windows))
        )
        if number is None:
            raise OutputError(
                f"{layout.name}: cells stay unfilled, and no number of {layout.dtype} is left that could mark them; choose another "
                "type with --dtype (e.g. --dtype float32), or say with --nodata which number is no observation"
            )
        for layer, window in windows:
            values, flag = self._staged_in((layer, window))
            values[flag > FILLED] = number
            self._staged["values", layer].write(window, values)
        return number

    def _staged_in(self, place: tuple[int, Window]) -> tuple[Array, Array]:
        """Values and flags of a layer in a window."""
        layer, window = place
        return self._staged["values", layer].read(window), self._staged["flag", layer].read(window)


def _side_file(path: Path) -> Path:
    return path.with_name(path.name + SIDE_SUFFIX)


def _remove(paths: list[Path]) -> None:
    """Remove files; a warning names each that cannot be."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(
                f"{path}: cannot be removed ({error.strerror or error}), and may be taken for a part of the output beside it; remove it by hand",
                StimputeWarning,
                stacklevel=3,
            )


def gap_number(packing: Packing) -> float | int | None:
    """The stored number of a cell without a value: the nodata, NaN for floats without one, None for integers without (found on commit)."""
    if packing.fill is not None:
        return packing.fill
    return float("nan") if packing.dtype.kind == "f" else None


def _kept(stored: Array, band: BandLayout, name: str) -> Array:
    """Observed cells in the output's type: the same numbers, unless --dtype asks for others."""
    packing = band.packing
    if band.source_packing is not None:
        values, _ = band.source_packing.decode64(stored.astype(band.source_packing.dtype))
        return packing.recode(values, name, band.source_packing.dtype)
    same = stored.astype(packing.dtype)
    if packing.fill is not None and not packing.observed(same).all():
        raise OutputError(
            f"{name}: an observed cell holds {packing.fill:g}, the nodata of another band of the merged file; write one "
            "file per input instead (OUT/), or choose --dtype float32"
        )
    return same
