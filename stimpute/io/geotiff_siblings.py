"""The files beside a filled GeoTIFF: what was filled, how sure that is, quantiles and members. Names, places, values, layouts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, OutputError
from stimpute.io.covariates import split_variable
from stimpute.io.geotiff_bands import HISTORY_TAG, Header, read_header
from stimpute.io.geotiff_layout import BandLayout, FileLayout
from stimpute.io.inputs import SIBLING
from stimpute.io.options import SinkOptions, quantile_name
from stimpute.io.outputs import is_folder_output
from stimpute.io.packing import Packing
from stimpute.protocols import FILLED, FLAG_MEANINGS, Filled


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
    """Refuse files whose places, or those of what will lie beside them, are taken.

    Raises
    ------
    OutputError : by what is read in this run; by anything else, without ``overwrite``.
    """
    inputs, kinds = _read(source), sibling_kinds(options)
    names = [f.name for f in files]
    for target in (final_place(out, n) for name in names for n in (name, *(sibling(name, k) for k in kinds))):
        if os.path.realpath(target) in inputs:
            raise OutputError(f"{target}: equals an input; choose another output")
        if os.path.lexists(target) and not options.overwrite:
            raise OutputError(f"{target}: already exists; --overwrite replaces it")
    left = outdated_siblings(out, source, names)
    if left and not options.overwrite:
        raise OutputError(
            f"{left[0]}: an earlier fill left it, and it would be taken for a part of this one; --overwrite removes it"
        )


def outdated_siblings(
    out: str | Path, source: Any, names: Collection[str], written: Collection[Path] = ()
) -> list[Path]:
    """What an earlier fill wrote beside files of those ``names``: neither ``written`` now, nor read, nor anybody else's."""
    folder, bases = final_place(out, "x").parent, set(names)
    kept = _read(source) | {os.path.realpath(path) for path in (*written, *(folder / n for n in bases))}
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        kind = SIBLING.search(path.stem)
        beside = kind is not None and f"{path.stem[: kind.start()]}{path.suffix}" in bases
        if beside and os.path.realpath(path) not in kept and _is_ours(path):
            found.append(path)
    return found


def _read(source: Any) -> set[str]:
    """The files that are read in this run."""
    besides = (*source.options.covariates, *([source.options.domain] if source.options.domain else []))
    return {os.path.realpath(str(p)) for p in (*source.paths, *(split_variable(b)[0] for b in besides))}


def _is_ours(path: Path) -> bool:
    try:
        return HISTORY_TAG in read_header(str(path)).tags.get("", {})
    except InputError:
        return False


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
