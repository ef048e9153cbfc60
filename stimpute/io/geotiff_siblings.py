"""The files beside a filled GeoTIFF: what was filled, how sure that is, quantiles and members. Names, values, layouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.io.geotiff_bands import HISTORY_TAG, Header, read_header
from stimpute.io.geotiff_layout import BandLayout, FileLayout
from stimpute.io.options import SinkOptions, quantile_name
from stimpute.io.packing import Packing
from stimpute.protocols import FILLED, FLAG_MEANINGS, Filled


def sibling(name: str, kind: str) -> str:
    """The name of a file's flag or uncertainty beside it.

    >>> sibling("a.v2.tif", "flag")
    'a.v2_flag.tif'
    """
    path = Path(name)
    return f"{path.stem}_{kind}{path.suffix or '.tif'}"


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
        wanted[quantile_name(level).replace("_", ".")] = filled.quantiles.get(level)
    for number, values in enumerate([] if filled.members is None else filled.members):
        wanted[f"member{number + 1:02d}"] = values
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
