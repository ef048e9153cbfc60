"""GeoTIFF (and any raster GDAL reads) against GeoTIFF: georeferencing, tags, bands and every stored number, through rasterio alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.io.dates import detect_dates
from stimpute.io.verify.cells import Encoding, Rules, compare
from stimpute.io.verify.declared import Declared
from stimpute.io.verify.report import Ledger

Array = npt.NDArray[Any]
BLOCK_CELLS = 4_000_000
HISTORY_TAGS = ("STIMPUTE_HISTORY", "history", "HISTORY")
TAGS_NOT_COMPARED = {*HISTORY_TAGS, "AREA_OR_POINT"}
SNAP = 1e-9


@dataclass(frozen=True)
class Plane:
    """One band of one raster, the unit of comparison. ``encoding``: what its stored numbers mean."""

    file: Any
    band: int
    label: str
    encoding: Encoding

    @classmethod
    def all_of(cls, file: Any, label: str = "") -> list[Plane]:
        """Every band of a raster but the one of its alpha (asked for once: GDAL answers for all bands at a time)."""
        described = zip(file.dtypes, file.nodatavals, file.scales, file.offsets, strict=True)
        alpha = _alpha_band(file)
        return [
            cls(
                file,
                band,
                f"{label}band {band}",
                Encoding(np.dtype(dtype), scale, offset, () if code is None else (code,)),
            )
            for band, (dtype, code, scale, offset) in enumerate(described, start=1)
            if band != alpha
        ]

    def whole(self) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Stored numbers, and True where GDAL's own validity (nodata, side file, alpha) lets them count."""
        stored, valid = _read([self], (0, self.file.height), (0, self.file.width))
        return stored[0], valid[0]


def open_raster(path: str | Path, stack: ExitStack) -> Any:
    """A raster, closed with ``stack``.

    Raises
    ------
    InputError : it cannot be opened.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return stack.enter_context(rasterio.open(path))
    except RasterioIOError as error:
        raise InputError(
            f"{path}: cannot be read as a raster ({error}); is it truncated or damaged?"
        ) from error


def history_of(file: Any) -> str:
    """What stimpute wrote about its run."""
    tags = file.tags()
    return "\n".join(tags[name] for name in HISTORY_TAGS if name in tags)


def compare_rasters(ledger: Ledger, source: Path, out: Path, *, nodata: Sequence[float]) -> None:
    """One raster against its filled twin, band by band."""
    with ExitStack() as stack:
        before, after = open_raster(source, stack), open_raster(out, stack)
        declared = Declared.from_history(history_of(after), history_of(before))
        _georeferencing(ledger, before, after, out.name, declared)
        _tags(ledger, f"{out.name}, tag ", before.tags(), after.tags())
        kept = _kept_bands(before, after) if declared.window else list(range(before.count))
        if len(kept) != after.count:
            ledger.differ(f"{out.name}: {before.count} bands became {after.count}")
            return
        _layout(ledger, before, after, out.name, declared)
        compare_cover(ledger, out.name, [before], after)
        beside = flag_file(out, stack), error_file(out, after, stack)
        _bands(ledger, before, after, out.name, declared, kept)
        planes, twins = ({p.band: p for p in Plane.all_of(file)} for file in (before, after))
        places = [(k + 1, band) for band, k in enumerate(kept, start=1)]
        pairs = [(planes[old], twins[new]) for old, new in places if old in planes and new in twins]
        compare_planes(ledger, out.name, pairs, beside, nodata, declared)


def _kept_bands(before: Any, after: Any) -> list[int]:
    """Which bands (from 0) of the input a part in time still holds, by their names, and its alpha; all where there are as many."""
    if before.count == after.count:
        return list(range(before.count))
    names = list(before.descriptions)
    kept = [names.index(name) for name in after.descriptions if name is not None and name in names]
    alpha = _alpha_band(before)
    return [*kept, alpha - 1] if alpha else kept


def band_dates(planes: Sequence[Plane]) -> list[str]:
    """The date of every band: of its file's name where files have one band each, else of its own; empty where none is found."""
    several = len({id(plane.file) for plane in planes}) < len(planes)
    names = [
        str(plane.file.descriptions[plane.band - 1] or "") if several else Path(plane.file.name).name
        for plane in planes
    ]
    try:
        return [moment.isoformat() for moment in detect_dates(names).instants]
    except InputError:
        return []


def compare_merged(ledger: Ledger, sources: Sequence[Path], out: Path, *, nodata: Sequence[float]) -> None:
    """Many dated rasters against one raster with a band for each (and each of their bands), in the order of their dates."""
    with ExitStack() as stack:
        after = open_raster(out, stack)
        files = [open_raster(path, stack) for path in sources]
        parts = [Plane.all_of(file) for file in files]
        planes = [plane for part in parts for plane in part]
        declared = Declared.from_history(history_of(after), history_of(files[0]))
        ledger.note(
            f"{len(files)} files were merged into {out.name}: names and tags of the parts are not compared"
        )
        _georeferencing(ledger, files[0], after, out.name, declared)
        compare_cover(ledger, out.name, files, after)
        beside = flag_file(out, stack), error_file(out, after, stack)
        twins = Plane.all_of(after)
        if declared.window:
            left, dates = set(described(after)), band_dates(planes)
            gone = {id(p) for p, date in zip(planes, dates, strict=False) if left and date not in left}
            parts = [[p for p in part if id(p) not in gone] for part in parts]
            planes = [p for part in parts for p in part]
        places = iter(_bands_of(ledger, planes, len(twins)))
        for part in parts:
            pairs = [(plane, twins[place]) for plane, place in zip(part, places, strict=False)]
            compare_planes(ledger, out.name, pairs, beside, nodata, declared)


def _bands_of(ledger: Ledger, planes: Sequence[Plane], count: int) -> list[int]:
    """Which of ``count`` bands (from 0) of the output each input plane became: in the order of the dates in their names, else of the files."""
    if len(planes) != count:
        ledger.differ(f"{len(planes)} input bands, {count} bands in the output")
    dates = band_dates(planes)
    if not dates:
        return list(range(min(len(planes), count)))
    order = sorted(range(len(planes)), key=lambda k: (dates[k], k))
    return [place for place in map(order.index, range(len(planes))) if place < count]


def described(file: Any) -> list[str]:
    """Dates in the names of a raster's bands, its alpha aside; empty where there are none."""
    names = [str(name or "") for name in file.descriptions]
    alpha = _alpha_band(file)
    try:
        return [
            moment.isoformat() for moment in detect_dates(names[: alpha - 1] if alpha else names).instants
        ]
    except InputError:
        return []


def compare_planes(
    ledger: Ledger,
    layer: str,
    pairs: Sequence[tuple[Plane, Plane]],
    beside: tuple[Any, Any],
    nodata: Sequence[float],
    declared: Declared,
) -> None:
    """Bands of one file against their twins in another, in slabs of rows; only the part that both cover.

    ``beside``: the files of the flags and of the standard errors, each or None.
    """
    if not pairs:
        return
    before, after = pairs[0][0].file, pairs[0][1].file
    down, right = _offset(before, after)
    codes = (*nodata, *declared.nodata)
    columns = (0, after.width)
    for rows in _slabs(after, len(pairs)):
        source_rows, source_columns = (rows[0] + down, rows[1] + down), (right, right + after.width)
        if source_rows[1] > before.height or source_columns[1] > before.width or min(down, right) < 0:
            ledger.differ(f"{layer}: the output reaches beyond {before.name}")
            return
        a, a_valid = _read([p for p, _ in pairs], source_rows, source_columns)
        b, b_valid = _read([p for _, p in pairs], rows, columns)
        claimed, errors = (
            None
            if file is None
            else file.read([min(p.band, file.count) for _, p in pairs], window=(rows, columns))
            for file in beside
        )
        for k, (old, new) in enumerate(pairs):
            rules = Rules(
                layer, old.encoding.with_fills(codes), new.encoding.with_fills(codes), may_discard=declared.qc
            )

            def place(cell: tuple[int, ...], first: int = rows[0], label: str = new.label) -> str:
                return f"{label}, row {first + cell[0]}, column {cell[1]}"

            one, error = (None if cells is None else cells[k] for cells in (claimed, errors))
            compare(ledger, rules, a[k], b[k], one, place, valid=(a_valid[k], b_valid[k]), errors=error)


def _read(
    planes: Sequence[Plane], rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Stored numbers (band, row, column) of bands of one file, and where GDAL's own validity lets them count.

    All bands at once: files interleaved by pixel would be decompressed once per band otherwise.
    """
    from rasterio.enums import MaskFlags
    from rasterio.errors import NodataShadowWarning

    file, bands, window = planes[0].file, [plane.band for plane in planes], (rows, columns)
    stored, alpha = file.read(bands, window=window), _alpha_band(file)
    if not alpha and MaskFlags.alpha in file.mask_flag_enums[0]:  # GDAL's alpha, which holds a step
        return stored, np.ones(stored.shape, dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NodataShadowWarning)
        valid = file.read_masks(bands, window=window) != 0
    if alpha:  # GDAL takes only bytes and 16-bit numbers for alpha by itself
        valid &= file.read(alpha, window=window) != 0
    return stored, valid


def _slabs(file: Any, bands: int) -> Iterator[tuple[int, int]]:
    height = file.block_shapes[0][0]
    step = max(1, BLOCK_CELLS // max(1, file.width * bands) // height) * height
    for start in range(0, file.height, step):
        yield start, min(start + step, file.height)


def _offset(before: Any, after: Any) -> tuple[int, int]:
    """Row and column of the output's first cell in the input."""
    inverse, x, y = ~before.transform, after.transform.c, after.transform.f
    column, row = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    return round(row), round(column)


def flag_file(out: Path, stack: ExitStack) -> Any:
    """The flags beside a raster, or None."""
    path = out.with_name(f"{out.stem}_flag{out.suffix}")
    return open_raster(path, stack) if path.exists() else None


def error_file(out: Path, after: Any, stack: ExitStack) -> Any:
    """The standard errors beside a raster, band for band and cell for cell, or None."""
    path = out.with_name(f"{out.stem}_stderr{out.suffix}")
    errors = open_raster(path, stack) if path.exists() else None
    fits = errors is not None and errors.shape == after.shape and errors.count == len(Plane.all_of(after))
    return errors if fits else None


def compare_cover(ledger: Ledger, name: str, sources: Sequence[Any], after: Any) -> None:
    """A mask beside the numbers must be that of an input: GDAL and its users believe it rather than nodata."""
    masked = any(_is_masked(file) for file in sources)
    if _is_masked(after) != masked and (len(sources) == 1 or not masked):
        ledger.differ(f"{name}, mask beside the numbers: {masked} became {not masked}")


def _is_masked(file: Any) -> bool:
    from rasterio.enums import MaskFlags

    flags = file.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _alpha_band(file: Any) -> int:
    """The last band where it is an alpha, else 0. Bands that all have names are steps, whatever colours a library gave them."""
    from rasterio.enums import ColorInterp

    marked = file.count > 1 and file.colorinterp[-1] is ColorInterp.alpha
    return file.count if marked and not all(file.descriptions) else 0


def _georeferencing(ledger: Ledger, before: Any, after: Any, name: str, declared: Declared) -> None:
    ledger.expect(f"{name}, CRS", _wkt(before), _wkt(after))
    if declared.window:
        same = np.allclose(tuple(before.transform)[:2], tuple(after.transform)[:2], rtol=SNAP)
        row, column = _offset(before, after)
        if (row, column, before.shape) != (0, 0, after.shape):
            ledger.note(f"{name}: the output starts at row {row}, column {column} of the input (--bbox)")
        if not same:
            ledger.differ(
                f"{name}, transform: {tuple(before.transform)[:6]} became {tuple(after.transform)[:6]}"
            )
        return
    ledger.expect(f"{name}, size", (before.height, before.width), (after.height, after.width))
    ledger.expect(f"{name}, transform", tuple(before.transform)[:6], tuple(after.transform)[:6])
    ledger.expect(f"{name}, GCPs", len(before.gcps[0]), len(after.gcps[0]))


def _wkt(file: Any) -> str | None:
    return file.crs.to_wkt() if file.crs else None


def _layout(ledger: Ledger, before: Any, after: Any, name: str, declared: Declared) -> None:
    if before.driver != after.driver:
        ledger.note(f"{name}: {before.driver} became {after.driver}")
        return
    for what in ("compression", "interleaving", "photometric"):
        single = what == "interleaving" and declared.window and after.count == 1
        old, new = (getattr(file, what, None) for file in (before, after))
        ledger.expect(f"{name}, {what}", old, new, declared.format or single)
    ledger.expect(
        f"{name}, blocks", before.block_shapes, after.block_shapes,
        declared.format or declared.window or declared.dtype,
    )  # fmt: skip
    had = [bool(file.overviews(1)) for file in (before, after)]
    ledger.expect(f"{name}, overviews present", had[0], had[1], declared.format or declared.window)


def _bands(
    ledger: Ledger, before: Any, after: Any, name: str, declared: Declared, kept: Sequence[int]
) -> None:
    """What is said about each band: dtype, nodata, packing, description, tags.

    Another driver may know less: GeoTIFF holds one nodata for all bands.
    """
    converted = before.driver != after.driver
    for attribute in ("dtypes", "nodatavals", "scales", "offsets", "descriptions", "units", "colorinterp"):
        pairs = zip([getattr(before, attribute)[k] for k in kept], getattr(after, attribute), strict=True)
        for band, (old, new) in enumerate(pairs, start=1):
            what = f"{name}, band {band}, {attribute.removesuffix('s').removesuffix('val')}"
            if attribute == "descriptions" and old is None and _is_date(new):
                ledger.note(f"{what}: {new}, which was in the file's name")
            elif attribute != "nodatavals":
                plain = attribute == "colorinterp" and {old.name, new.name} == {"undefined", "gray"}
                stored = attribute in ("dtypes", "scales", "offsets")
                changed = declared.dtype if stored else converted and attribute == "colorinterp"
                may_change = plain or changed  # no colour, said in two ways
                ledger.expect(what, old, new, may_change)
            elif old is None and new is not None:
                ledger.note(f"{what}: {new} is declared now")
            elif not (_is_nan(old) and _is_nan(new)):
                ledger.expect(what, old, new, declared.dtype or converted)
    for band, place in enumerate(kept, start=1):
        _tags(ledger, f"{name}, band {band}, tag ", before.tags(place + 1), after.tags(band))


def _is_date(text: str | None) -> bool:
    try:
        return text is not None and bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def _is_nan(nodata: float | None) -> bool:
    return nodata is not None and bool(np.isnan(nodata))


def _tags(ledger: Ledger, what: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    for key, value in before.items():
        if key in TAGS_NOT_COMPARED or key.startswith("STATISTICS_"):
            continue
        if key not in after:
            ledger.differ(f"{what}{key}: absent from the output")
        else:
            ledger.expect(f"{what}{key}", value, after[key])
    for key, value in after.items():
        if key not in before and key not in TAGS_NOT_COMPARED and not key.startswith("STATISTICS_"):
            ledger.note(f"{what}{key}: only in the output ({value!r})")
