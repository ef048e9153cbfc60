"""The files beside a filled GeoTIFF: what was filled, how sure that is, quantiles and members. Names, places, values, layouts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.io.files_read import files_read
from stimpute.io.geotiff_bands import HISTORY_TAG, Header, read_header
from stimpute.io.geotiff_layout import BandLayout, FileLayout
from stimpute.io.inputs import SIBLING
from stimpute.io.options import SinkOptions, quantile_name
from stimpute.io.outputs import is_folder_output
from stimpute.io.packing import Packing
from stimpute.protocols import FILLED, FLAG_MEANINGS, Filled

SIDE_SUFFIX = ".aux.xml"  # after a file's name: where GDAL writes what TIFF cannot hold


def sibling(name: str, kind: str) -> str:
    """The name of a file's flag or uncertainty beside it.

    >>> sibling("a.v2.tif", "flag")
    'a.v2_flag.tif'
    """
    path = Path(name)
    return f"{path.stem}_{kind}{path.suffix or '.tif'}"


def sibling_kinds(options: SinkOptions) -> tuple[str, ...]:
    """What is to lie beside a file, as far as the method says it.

    >>> sibling_kinds(SinkOptions(quantiles=(0.025,), members=2))
    ('flag', 'stderr', 'q02.5', 'member01', 'member02')
    """
    told = [kind for kind, wanted in (("flag", options.flags), ("stderr", options.uncertainty)) if wanted]
    return (*told, *map(_of_quantile, options.quantiles), *map(_of_member, range(options.members)))


def final_place(out: str | Path, name: str) -> Path:
    """Where a file of an output will lie."""
    return Path(out) / name if is_folder_output(out) else Path(out).with_name(name)


def refuse_taken(out: str | Path, source: Any, files: Sequence[FileLayout], options: SinkOptions) -> None:
    """Refuse files whose places, or those of what will lie beside them, are taken; name what stays beside them all the same.

    Raises
    ------
    OutputError : by what is read in this run; by anything else, without ``overwrite``.
    """
    read, kinds, names = files_read(source), sibling_kinds(options), [f.name for f in files]
    targets = [final_place(out, n) for name in names for n in (name, *(sibling(name, k) for k in kinds))]
    for target in targets:
        if os.path.realpath(target) in read:
            raise OutputError(f"{target}: equals an input; choose another output")
        if os.path.lexists(target) and not options.overwrite:
            raise OutputError(f"{target}: already exists; --overwrite replaces it")
        _refuse_beside(target, read, options.overwrite)
    outdated, kept = left_beside(out, read, names, targets)
    if outdated and not options.overwrite:
        raise OutputError(
            f"{outdated[0]}: an earlier fill left it, and it would be taken for a part of this one; --overwrite removes it"
        )
    for path in kept:
        why = "is read in this run" if os.path.realpath(path) in read else "may be an output of its own"
        warnings.warn(
            f"{path}: {why} and stays, though its name makes it a part of what is written beside it; choose another output to keep them apart",
            StimputeWarning,
            stacklevel=5,
        )


def _refuse_beside(target: Path, read: Collection[str], overwrite: bool) -> None:
    for side in read_along(target):
        if os.path.realpath(side) in read:
            raise OutputError(
                f"{side}: is read in this run, and would be taken for a part of {target}; choose another output"
            )
        if os.path.lexists(side) and not overwrite:
            raise OutputError(
                f"{side}: already exists, and would be taken for a part of {target}; --overwrite removes it"
            )


def left_beside(
    out: str | Path, read: Collection[str], names: Collection[str], written: Collection[Path]
) -> tuple[list[Path], list[Path]]:
    """What stimpute wrote earlier under the name of a sibling of files of those ``names``, apart from ``written``.

    Parameters
    ----------
    read : real paths of what is read in this run.

    Returns
    -------
    outdated, kept : siblings that nobody reads, which may go; what is read, or may be no sibling.
    """
    folder, bases = final_place(out, "x").parent, set(names)
    ours = {os.path.realpath(path) for path in (*written, *(folder / n for n in bases))}
    outdated: list[Path] = []
    kept: list[Path] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        kind = SIBLING.search(path.stem)
        beside = kind is not None and f"{path.stem[: kind.start()]}{path.suffix}" in bases
        if kind is None or not beside or os.path.realpath(path) in ours:
            continue
        header = _filled_header(path)
        if header is not None:
            may_go = os.path.realpath(path) not in read and _is_sibling(header, kind[1])
            (outdated if may_go else kept).append(path)
    return outdated, kept


def read_along(path: Path) -> tuple[Path, ...]:
    """The places of what GDAL reads together with a file."""
    return tuple(path.with_name(path.name + end) for end in (SIDE_SUFFIX, ".ovr", ".msk"))


def _filled_header(path: Path) -> Header | None:
    """What a file says of itself, if stimpute wrote it."""
    try:
        header = read_header(str(path))
    except InputError:
        return None
    return header if HISTORY_TAG in header.tags.get("", {}) else None


def _is_sibling(header: Header, kind: str) -> bool:
    """Whether a file that stimpute wrote is certainly a flag or an uncertainty, and no stack that was filled.

    A sibling holds what is said about its kind and nothing else, and the one run that wrote it, which names another output. A stack keeps
    the tags it came with, and a filled sibling the history that it had before.
    """
    tags = header.tags.get("", {})
    about, dtype, nodata = _about(kind), _dtype(kind), _nodata(kind)
    told = {key: text for key, text in tags.items() if key not in ("AREA_OR_POINT", HISTORY_TAG)}
    history = tags[HISTORY_TAG].strip()
    one_run = "\n" not in history and header.name not in history
    as_written = all(b.dtype == dtype and repr(b.declared) == repr(nodata) for b in header.bands)
    return told == about and one_run and as_written


def _of_quantile(level: float) -> str:
    return quantile_name(level).replace("_", ".")


def _of_member(number: int) -> str:
    return f"member{number + 1:02d}"


def flag_beside(header: Header) -> Header | None:
    """The flag that ``fill`` left beside a file, band by band; None where there is none, or on a server.

    Raises
    ------
    InputError : it is there and cannot be read.
    """
    path = Path(header.path)
    beside = path.with_name(sibling(path.name, "flag"))
    if "://" in header.path or not beside.is_file():
        return None
    flag = read_header(str(beside))
    ours = flag.tags.get("", {}).get("flag_meanings") == " ".join(FLAG_MEANINGS)
    same = (flag.height, flag.width, len(flag.bands)) == (header.height, header.width, len(header.bands))
    return flag if ours and same else None


def sibling_values(filled: Filled, options: SinkOptions) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Kind by kind the uncertainty of a window: float32 (time, y, x), NaN where nothing was filled."""
    wanted: dict[str, npt.NDArray[Any] | None] = {}
    if options.uncertainty:
        wanted["stderr"] = filled.standard_error
    for level in options.quantiles:
        wanted[_of_quantile(level)] = filled.quantiles.get(level)
    for number, values in enumerate([] if filled.members is None else filled.members):
        wanted[_of_member(number)] = values
    gap = filled.flag != FILLED
    for name, values in wanted.items():
        if values is not None:
            yield name, np.where(gap, np.float32(np.nan), values)


def sibling_layout(layout: FileLayout, name: str, source: Any, history: str) -> FileLayout:
    """The flag or uncertainty file of a file: same cells, same bands, its own type."""
    dtype = _dtype(name)
    packing = Packing(dtype, dtype)
    labels = source.time_labels
    units = "" if name == "flag" else (source.layers[0].units or "")
    bands = tuple(
        BandLayout(step=b.step, layer=b.layer, packing=packing, description=labels[b.step], units=units)
        for b in layout.bands
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
        nodata=_nodata(name),
        profile=profile,
        tags={"": {**area, **_about(name), HISTORY_TAG: history}},
        cover="none",
        colormap=None,
    )


def _about(kind: str) -> dict[str, str]:
    """The tags by which a sibling says what it holds."""
    if kind == "flag":
        return {
            "flag_values": ",".join(str(i) for i in range(len(FLAG_MEANINGS))),
            "flag_meanings": " ".join(FLAG_MEANINGS),
            "standard_name": "status_flag",
        }
    return {"long_name": "standard error" if kind == "stderr" else f"{kind} of the filled cells"}


def _dtype(kind: str) -> np.dtype[Any]:
    return np.dtype(np.uint8 if kind == "flag" else np.float32)


def _nodata(kind: str) -> float | None:
    return None if kind == "flag" else float("nan")
