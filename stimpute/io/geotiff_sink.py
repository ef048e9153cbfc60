"""Filled stacks as GeoTIFF or COG files. Windows are staged uncompressed and laid out once, on commit.

So a compressed block is written exactly once, whatever the order of the windows, and the bytes do not depend on it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as RasterWindow

from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.io.atomic import AtomicTarget, commit_all
from stimpute.io.geotiff_bands import GDAL_CACHE_MB, HISTORY_TAG, environment, open_raster
from stimpute.io.geotiff_layout import BandLayout, FileLayout, is_folder_output
from stimpute.io.geotiff_staging import StagedArray
from stimpute.io.layout import history_line
from stimpute.io.options import SinkOptions
from stimpute.io.packing import Packing
from stimpute.protocols import FILLED, FLAG_MEANINGS, OBSERVED, Filled, Window

Array = npt.NDArray[Any]
_CHUNK_BYTES = 64 * 2**20
_UNWRITTEN = 255


class GeoTiffSink:
    """Writes one stack as GeoTIFF. See :class:`stimpute.protocols.Sink`.

    Parameters
    ----------
    out : a file, or a folder (no suffix, trailing slash) for one file per input.
    source : a GeoTIFF source, or what :func:`stimpute.io.convert.as_geotiff` makes of another one.

    Raises
    ------
    OutputError : an output exists without ``overwrite``, equals an input, or cannot be created.
    """

    def __init__(self, out: str | Path, source: Any, options: SinkOptions | None = None) -> None:
        self.out, self.source = Path(out), source
        self.options = options or SinkOptions()
        self.files: tuple[FileLayout, ...] = source.layouts(out, self.options)
        self._bands = {(b.layer, b.step): b for f in self.files for b in f.bands}
        self._folder: AtomicTarget | None = None
        self._targets: list[AtomicTarget] = []
        self._refuse_inputs()
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
        """Lay the files out, record ``history``, give them their names.

        Raises
        ------
        OutputError : the disk is full, or the files cannot be named.
        """
        for layer, described in enumerate(self.source.layers):
            if self._written[layer] != int(np.prod(described.shape, dtype=np.int64)):
                raise AssertionError(
                    f"{described.name}: {self._written[layer]} cells written of {described.shape}"
                )
        try:
            paths = [p for f in self.files for p in self._lay_out(f, history)]
            if self._folder is not None:
                self._folder.commit()
            else:
                commit_all(self._targets)
        except (OSError, RasterioError) as error:
            self.abort()
            raise OutputError(f"{self.out}: cannot be written: {error}") from error
        except BaseException:
            self.abort()
            raise
        self._remove_staging()
        self._targets, self._folder = [], None
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
        wanted: dict[str, Array | None] = {}
        if self.options.uncertainty:
            wanted["stderr"] = filled.standard_error
        for level in self.options.quantiles:
            wanted[quantile_name(level)] = filled.quantiles.get(level)
        for number, values in enumerate([] if filled.members is None else filled.members):
            wanted[f"member{number + 1:02d}"] = values
        gap = filled.flag != FILLED
        for name, values in wanted.items():
            if values is not None:
                if (name, layer) not in self._staged:
                    self._stage(name, layer, self.source.layers[layer].shape, np.float32)
                self._staged[name, layer].write(window, np.where(gap, np.float32(np.nan), values))

    # ---------------------------------------------------------------------------------------------------- places

    def _refuse_inputs(self) -> None:
        inputs = {os.path.realpath(str(p)) for p in self.source.paths}
        for layout in self.files:
            target = self._final(layout.name)
            if os.path.realpath(target) in inputs:
                raise OutputError(f"{target}: equals an input; choose another output")
            if target.exists() and not self.options.overwrite:
                raise OutputError(f"{target}: already exists; --overwrite replaces it")

    def _final(self, name: str) -> Path:
        return self.out / name if is_folder_output(self.out) else self.out.with_name(name)

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
        final = self._final(name)
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
                self._write_file(path, _sibling_layout(layout, name, self.source, history), name)
                self._take_side_file(path, final)
                yield final

    def _take_side_file(self, path: Path, final: Path) -> None:
        """GDAL writes what TIFF cannot hold (a rotated pole, say) into ``.aux.xml``: it gets its final name too."""
        side = _side_file(path)
        if self._folder is None and side.exists():
            target = AtomicTarget(_side_file(final), overwrite=True, staging=self.options.staging)
            self._targets.append(target)
            os.replace(side, target.path)

    def _any_unfilled(self, layout: FileLayout) -> bool:
        flags = ((b.layer, b.step) for b in layout.bands)
        return any(
            bool((self._staged["flag", n].read(w) > FILLED).any())
            for n, step in flags
            for w in _strips(step, layout.shape, 1)
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
                raise OutputError(
                    f"{layout.name}: cells stay unfilled, but {layout.dtype} has no nodata here; declare one with --nodata, "
                    "or choose --dtype float32"
                )
            message = (
                f"{layout.name}: the input declares no nodata; unfilled cells hold {nodata:g}, now declared"
            )
            warnings.warn(message, StimputeWarning, stacklevel=2)
        return replace(layout, tags=tags, nodata=nodata)

    def _write_file(self, path: Path, layout: FileLayout, name: str) -> None:
        if not layout.cog:
            self._write_tiff(path, layout, name)
            self._prove(path, layout, name)
            return
        plain = self._staging / f"cog-{path.name}"
        interim: dict[str, Any] = {"interleave": "band", "bigtiff": "IF_SAFER"}
        if min(layout.shape) >= 512:
            interim |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
        self._write_tiff(plain, replace(layout, profile=interim, overviews=()), name)
        path.unlink(missing_ok=True)
        with rasterio.Env(GDAL_CACHEMAX=_cache_mb(512 * 512 * len(layout.bands) * layout.dtype.itemsize)):
            copy_raster(plain, path, driver="COG", **cog_options(layout.profile, layout.dtype))
        plain.unlink()
        self._prove(path, layout, name)

    def _prove(self, path: Path, layout: FileLayout, name: str) -> None:
        """Read the file back and compare: GDAL keeps silent about writes that fail while a file is closed.

        Raises
        ------
        OutputError : the file does not hold what was to be written.
        """
        problem = f"{self.out}: {layout.name} was not written completely; is the disk full?"
        try:
            with environment(), open_raster(str(path)) as written:
                rows = int(written.block_shapes[0][0])
                for bands, window in _chunks(layout, rows):
                    cells = written.read([i + 1 for i in bands], window=window)
                    if cells.tobytes() != self._chunk(layout, bands, window, name).tobytes():
                        raise OutputError(problem)
                lost_crs = bool(layout.crs) and not layout.gcps and not written.crs
                if lost_crs or HISTORY_TAG not in written.tags():
                    raise OutputError(problem)
        except (InputError, RasterioError) as error:
            raise OutputError(problem) from error

    def _write_tiff(self, path: Path, layout: FileLayout, name: str) -> None:
        alpha = layout.cover == "alpha" and name == "values"
        ny, nx = layout.shape
        place = {"transform": layout.transform} if layout.transform is not None else {}
        profile = {k: v for k, v in layout.profile.items() if v is not None}
        if not layout.colormap and all(
            b.color in (ColorInterp.undefined, ColorInterp.gray) for b in layout.bands
        ):
            profile.setdefault("photometric", "minisblack")  # or GDAL takes three or four bytes for a picture
        block = int(profile.get("blockxsize") or nx) * int(profile.get("blockysize") or 1) * len(layout.bands)
        settings = {
            "GDAL_CACHEMAX": _cache_mb(block * layout.dtype.itemsize),
            "GDAL_TIFF_INTERNAL_MASK": True,
        }
        with rasterio.Env(**settings), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                width=nx,
                height=ny,
                count=len(layout.bands) + alpha,
                dtype=layout.dtype,
                crs=layout.crs,
                nodata=layout.nodata,
                **place,
                **profile,
            ) as target:
                _describe_file(target, layout, alpha)
                for band, window in _chunks(layout, int(profile.get("blockysize") or 1)):
                    self._write_chunk(target, layout, band, window, name)
                if name == "values":
                    self._write_cover(target, layout)
                for index, planned in enumerate(layout.bands, start=1):
                    self._describe_band(target, index, planned, name)
                if layout.overviews:
                    target.build_overviews(list(layout.overviews), _resampling(layout, name))
                    target.update_tags(ns="rio_overview", resampling=_resampling(layout, name).name)

    def _write_chunk(
        self, target: Any, layout: FileLayout, bands: Sequence[int], window: RasterWindow, name: str
    ) -> None:
        target.write(self._chunk(layout, bands, window, name), [i + 1 for i in bands], window=window)

    def _chunk(self, layout: FileLayout, bands: Sequence[int], window: RasterWindow, name: str) -> Array:
        """Staged numbers (band, y, x) of a window of a file, in its dtype."""
        rows, columns = (slice(*w) for w in window.toranges())
        cells = np.empty(
            (len(bands), rows.stop - rows.start, columns.stop - columns.start), dtype=layout.dtype
        )
        for k, index in enumerate(bands):
            band = layout.bands[index]
            part = Window((band.step, band.step + 1), (rows.start, rows.stop), (columns.start, columns.stop))
            cells[k] = self._staged[name, band.layer].read(part)[0]
        return cells

    def _write_cover(self, target: Any, layout: FileLayout) -> None:
        """The coverage of the input's kind: a cell is covered if any step of it holds a value."""
        if layout.cover == "none":
            return
        for window in _strips(0, layout.shape, 1):
            covered = np.zeros(window.shape[1:], dtype=bool)
            for band in layout.bands:
                part = Window((band.step, band.step + 1), window.y, window.x)
                covered |= self._staged["flag", band.layer].read(part)[0] <= FILLED
            place = RasterWindow(0, window.y[0], layout.shape[1], window.y[1] - window.y[0])
            if layout.cover == "dataset":
                target.write_mask(covered, window=place)
            else:
                opaque = np.where(covered, _opaque(layout.dtype), 0).astype(layout.dtype)
                target.write(opaque, len(layout.bands) + 1, window=place)

    def _describe_band(self, target: Any, index: int, band: BandLayout, name: str) -> None:
        if band.description:
            target.set_band_description(index, band.description)
        if band.units:
            target.set_band_unit(index, band.units)
        changed = name == "values" and bool(
            any(
                (self._staged["flag", band.layer].read(w) != OBSERVED).any()
                for w in _strips(band.step, target.shape, 1)
            )
        )
        for space, tags in (band.tags or {}).items():
            kept = {k: v for k, v in tags.items() if not (changed and k.startswith("STATISTICS_"))}
            if kept:
                target.update_tags(index, ns=space or None, **kept)


def quantile_name(level: float) -> str:
    """The suffix of a quantile's file.

    >>> quantile_name(0.05), quantile_name(0.975)
    ('q05', 'q97.5')
    """
    whole, _, rest = f"{100 * level:.6g}".partition(".")
    return f"q{whole:0>2}" + (f".{rest}" if rest else "")


def sibling(name: str, kind: str) -> str:
    """The name of a file's flag or uncertainty beside it.

    >>> sibling("a.v2.tif", "flag")
    'a.v2_flag.tif'
    """
    path = Path(name)
    return f"{path.stem}_{kind}{path.suffix or '.tif'}"


def _side_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.aux.xml")


def gap_number(packing: Packing) -> float | int | None:
    """The stored number of a cell without a value: the nodata, NaN for floats without one, None for integers without."""
    if packing.fill is not None:
        return packing.fill
    return float("nan") if packing.dtype.kind == "f" else None


def cog_options(profile: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Creation options of a GeoTIFF in the words of the COG driver."""
    compress = str(profile.get("compress") or "deflate").upper()
    options: dict[str, Any] = {"COMPRESS": compress, "BIGTIFF": profile.get("bigtiff", "IF_SAFER")}
    if compress in ("DEFLATE", "LZW", "ZSTD"):
        options["PREDICTOR"] = {"2": "STANDARD", "3": "FLOATING_POINT"}.get(
            str(profile.get("predictor")), "NO"
        )
    size = profile.get("blocksize") or profile.get("blockxsize")
    if size and int(size) >= 128 and int(size) % 16 == 0:
        options["BLOCKSIZE"] = int(size)
    known = {
        "tiled",
        "blockxsize",
        "blockysize",
        "interleave",
        "photometric",
        "compress",
        "predictor",
        "bigtiff",
        "blocksize",
    }
    return options | {k.upper(): v for k, v in profile.items() if k not in known}


def _kept(stored: Array, band: BandLayout, name: str) -> Array:
    """Observed cells in the output's type: the same numbers, unless --dtype asks for others."""
    packing = band.packing
    if band.source_packing is not None:
        values, _ = band.source_packing.decode64(stored.astype(band.source_packing.dtype))
        return packing.recode(values, name)
    same = stored.astype(packing.dtype)
    if packing.fill is not None and not packing.observed(same).all():
        raise OutputError(
            f"{name}: an observed cell holds {packing.fill:g}, the nodata of another band of the merged file; write one "
            "file per input instead (OUT/), or choose --dtype float32"
        )
    return same


def _describe_file(target: Any, layout: FileLayout, alpha: bool) -> None:
    """Everything that belongs to the file and must stand before its blocks are written."""
    for space, tags in layout.tags.items():
        if tags:
            target.update_tags(ns=space or None, **tags)
    if layout.gcps:
        target.gcps = (list(layout.gcps), layout.gcps_crs)
    target.scales = [b.packing.scale for b in layout.bands] + [1.0] * alpha
    target.offsets = [b.packing.offset for b in layout.bands] + [0.0] * alpha
    if any(b.color != ColorInterp.undefined for b in layout.bands) or alpha:
        colors = [ColorInterp.undefined if b.color == ColorInterp.palette else b.color for b in layout.bands]
        target.colorinterp = colors + [ColorInterp.alpha] * alpha
    if layout.colormap:
        target.write_colormap(1, dict(layout.colormap))


def _sibling_layout(layout: FileLayout, name: str, source: Any, history: str) -> FileLayout:
    """The flag or uncertainty file of a file: same cells, same bands, its own type."""
    flag = name == "flag"
    dtype = np.dtype(np.uint8 if flag else np.float32)
    packing = Packing(dtype, dtype)
    labels = source.time_labels
    units = "" if flag else (source.layers[0].units or "")
    bands = tuple(
        BandLayout(step=b.step, layer=b.layer, packing=packing, description=labels[b.step], units=units)
        for b in layout.bands
    )
    meaning = {
        "flag_values": ",".join(str(i) for i in range(len(FLAG_MEANINGS))),
        "flag_meanings": " ".join(FLAG_MEANINGS),
        "standard_name": "status_flag",
    }
    about = (
        meaning
        if flag
        else {"long_name": f"{name} of the filled cells" if name != "stderr" else "standard error"}
    )
    keys = ("tiled", "blockxsize", "blockysize", "interleave", "bigtiff")
    profile = {k: v for k, v in layout.profile.items() if k in keys} | {"compress": "deflate"}
    if layout.cog and max(layout.shape) <= 128:
        profile["blockxsize"] = 128
    area = {k: v for k, v in layout.tags.get("", {}).items() if k == "AREA_OR_POINT"}
    return replace(
        layout,
        bands=bands,
        dtype=dtype,
        nodata=None if flag else float("nan"),
        profile=profile,
        tags={"": {**area, **about, HISTORY_TAG: history}},
        cover="none",
        colormap=None,
    )


def _chunks(layout: FileLayout, block_rows: int) -> Iterator[tuple[Sequence[int], RasterWindow]]:
    """Bands and windows to write at once: block rows of all bands if they are interleaved by pixel, else of one."""
    ny, nx = layout.shape
    count = len(layout.bands)
    together = layout.profile.get("interleave") == "pixel" and count > 1
    groups: list[Sequence[int]] = [range(count)] if together else [(i,) for i in range(count)]
    across = _across(layout, block_rows, len(groups[0]))
    rows = max(
        block_rows,
        _CHUNK_BYTES // (across * len(groups[0]) * layout.dtype.itemsize) // block_rows * block_rows,
    )
    for group in groups:
        for top in range(0, ny, rows):
            for left in range(0, nx, across):
                yield group, RasterWindow(left, top, min(across, nx - left), min(rows, ny - top))


def _across(layout: FileLayout, block_rows: int, bands: int) -> int:
    """How many columns to write at once: all, or as many tiles as fit."""
    nx = layout.shape[1]
    tile = int(layout.profile.get("blockxsize") or nx) if layout.profile.get("tiled") else nx
    fitting = _CHUNK_BYTES // (block_rows * bands * layout.dtype.itemsize)
    return nx if fitting >= nx else max(tile, fitting // tile * tile)


def _strips(step: int, shape: tuple[int, int], itemsize: int) -> Iterator[Window]:
    """Full-width windows of one step that fit in memory."""
    ny, nx = shape
    rows = max(1, _CHUNK_BYTES // (nx * itemsize))
    for top in range(0, ny, rows):
        yield Window((step, step + 1), (top, min(top + rows, ny)), (0, nx))


def _cache_mb(block_bytes: int) -> int:
    """A block cache that holds a row of pixel-interleaved blocks, so that no block is compressed twice."""
    chosen = os.environ.get("GDAL_CACHEMAX", "")
    if chosen.isdigit():
        return int(chosen)
    return min(max(GDAL_CACHE_MB, 2 * block_bytes // 2**20 + 1), 2048)


def _resampling(layout: FileLayout, name: str) -> Resampling:
    known = Resampling.__members__.get(layout.overview_resampling.lower(), Resampling.nearest)
    return Resampling.nearest if name == "flag" else known


def _opaque(dtype: np.dtype[Any]) -> float | int:
    return 255 if dtype.kind == "f" else int(min(np.iinfo(dtype).max, 65535))
