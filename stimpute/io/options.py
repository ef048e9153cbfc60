"""What the user may say about reading and writing: two frozen values. Knows no formats and opens nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from stimpute.errors import UsageError

Dedupe = Literal["first", "last", "mean"]
OutputFormat = Literal["NetCDF", "NetCDF3", "Zarr", "GeoTIFF", "COG"]
_ISO_DATE = re.compile(
    r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])([T ]([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d+)?)?)?Z?)?)?)?"
)
_DTYPES = re.compile(r"[<>=]?(u?int(8|16|32|64)|float(16|32|64)|[iu][1248]|f[248])")


@dataclass(frozen=True)
class ReadOptions:
    """How inputs are to be read.

    Parameters
    ----------
    variables : names of the variables to fill; empty: the only candidate; ``("all",)``: every candidate.
    bbox : (xmin, ymin, xmax, ymax), in the grid's coordinates or in ``bbox_crs``. xmin > xmax crosses the antimeridian.
    bbox_crs : anything pyproj understands, e.g. ``"EPSG:4326"``.
    time : first and last time kept, ISO 8601, either may be empty; both inclusive ("2020-01" means the whole month).
    covariates : ``PATH`` or ``PATH:VAR``.
    nodata : further stored numbers that mean "no data".
    date_format : ``strptime`` format of the dates in file or band names.
    times : ISO 8601 labels of the steps, instead of those in the file.
    dedupe : what to do with steps of equal time; None: refuse them.
    regular : insert the steps missing from a regular series, as gaps.
    domain : ``PATH[:VAR]`` of a domain (non-zero inside), e.g. land and sea.
    qc : mark outliers as gaps.
    force : read palette or categorical rasters too.
    wrap : longitude that spans 360 degrees wraps around.
    beside : read beside a stack (a covariate, a domain): fields without time count as well, and ``PATH:VAR`` chooses.

    Raises
    ------
    UsageError : a value that no file could make right.
    """

    variables: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    bbox_crs: str | None = None
    time: tuple[str, str] | None = None
    covariates: tuple[str, ...] = ()
    nodata: tuple[float, ...] = ()
    date_format: str | None = None
    times: tuple[str, ...] | None = None
    dedupe: Dedupe | None = None
    regular: bool = False
    domain: str | None = None
    qc: bool = False
    force: bool = False
    wrap: bool = True
    beside: bool = False

    def __post_init__(self) -> None:
        if self.bbox is not None and not self.bbox[1] < self.bbox[3]:
            raise UsageError(
                f"--bbox {self.bbox}: ymin must be smaller than ymax (order: xmin,ymin,xmax,ymax)"
            )
        if self.bbox_crs is not None and self.bbox is None:
            raise UsageError(f"--bbox-crs {self.bbox_crs} needs --bbox")
        for label in self.time or ():
            if label.strip() and not _ISO_DATE.fullmatch(label.strip()):
                raise UsageError(
                    f"--time {label}: no date; expected ISO 8601, e.g. 2020-01 or 2020-01-31T12:00"
                )
        if self.dedupe is not None and self.dedupe not in get_args(Dedupe):
            raise UsageError(f"--dedupe {self.dedupe}: one of {', '.join(get_args(Dedupe))}")


def quantile_name(level: float) -> str:
    """What follows the name of a variable in that of its quantile: per cent.

    >>> quantile_name(0.5), quantile_name(0.025)
    ('q50', 'q02_5')
    """
    whole, _, rest = f"{100 * level:.6g}".partition(".")
    return f"q{whole:0>2}" + (f"_{rest}" if rest else "")


@dataclass(frozen=True)
class SinkOptions:
    """How the output is to be written.

    Parameters
    ----------
    format : None: the suffix of the output decides, or the input's format.
    flags, uncertainty : write ``NAME_fill_flag`` / ``NAME_standard_error``.
    quantiles : levels in (0, 1) written as ``NAME_qLEVEL``.
    members : how many members of an ensemble are written, as ``NAME_members``; 0: none.
    dtype : stored dtype of the filled variable instead of the input's (a declared alteration).
    creation : format-specific creation options (``--co K=V``).
    overwrite : replace an existing output.
    made : what the new values are, in words for attributes.
    staging : folder, on the output's file system, in which unfinished files lie; None: hidden beside their targets.

    Raises
    ------
    UsageError : an unknown format, a level outside (0, 1).
    """

    format: OutputFormat | None = None
    flags: bool = True
    uncertainty: bool = True
    quantiles: tuple[float, ...] = ()
    members: int = 0
    dtype: str | None = None
    creation: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False
    made: Literal["filled", "forecast"] = "filled"
    staging: Path | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in get_args(OutputFormat):
            raise UsageError(f"--of {self.format}: one of {', '.join(get_args(OutputFormat))}")
        if self.dtype is not None and not _DTYPES.fullmatch(self.dtype):
            raise UsageError(f"--dtype {self.dtype}: a number type is needed, such as float32 or int16")
        for level in self.quantiles:
            if not 0 < level < 1:
                raise UsageError(f"--quantiles {level}: levels lie between 0 and 1")
        names = [quantile_name(level) for level in self.quantiles]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise UsageError(
                f"--quantiles {','.join(f'{q:g}' for q in self.quantiles)}: two levels would be written as NAME_{twice}; leave one out"
            )
        object.__setattr__(self, "creation", MappingProxyType(dict(self.creation)))
