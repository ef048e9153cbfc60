"""From keywords, the command line's options of the same names, to the rooms' own options. Loads nothing heavy."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from stimpute.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    import xarray as xr

    from stimpute.inference.options import FillOptions
    from stimpute.io import ReadOptions, SinkOptions

    Inputs = str | Path | Sequence[str | Path] | xr.Dataset | xr.DataArray

Progress = Callable[[str, int, int], None]
Memory = Any  # bytes, or a size such as "2GB"

_REPEATED = ("var", "covariate", "nodata", "co")
_NONE = (("bounds", None), ("max_extrapolation", math.inf))  # what none stands for


def as_command(function: str, options: Mapping[str, Any]) -> str:
    """A call as the command line would have it, for ``history``: what was asked for can be read there, and proven by ``verify``.

    >>> as_command("stimpute.fill", {"time": ("2020-01", "2020-02"), "flags": False, "var": ["a", "b"], "force": None})
    'stimpute.fill --time 2020-01,2020-02 --no-flags --var a --var b'
    """
    words = [function]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name == "times" and not isinstance(value, str | Path):  # labels are the output's own
            continue
        if (name, value) in _NONE:
            value = "none"
        elif value is None:
            continue
        if isinstance(value, bool):
            words += [option] if value else [f"--no-{option.removeprefix('--').removeprefix('no-')}"]
            continue
        if isinstance(value, Mapping):
            value = [f"{key}={one}" for key, one in value.items()]
        if isinstance(value, str | Path) or not isinstance(value, Iterable):
            value = [value]
        texts = ["" if one is None else str(one) for one in value]
        words += (
            [w for text in texts for w in (option, text)] if name in _REPEATED else [option, ",".join(texts)]
        )
    return shlex.join(words)


def check_scored(rows: Sequence[Any]) -> None:
    """Refuse a table in which no method has a score.

    Parameters
    ----------
    rows : with ``method``, ``scores`` (None where the method failed) and ``note`` (why).

    Raises
    ------
    InputError : what the first method said.
    """
    if rows and all(row.scores is None for row in rows):
        first = rows[0]
        raise InputError(f"no method could be scored; {first.method}: {first.note.removeprefix('failed: ')}")


class ReadKeywords(TypedDict, total=False):
    """How inputs are read; the command line's options of the same names."""

    var: str | Sequence[str]
    bbox: tuple[float, float, float, float] | str | None
    bbox_crs: str | None
    time: tuple[str, str] | str | None
    covariate: str | Sequence[str]
    nodata: float | str | Sequence[float]
    date_format: str | None
    times: str | Path | Sequence[str] | None
    dedupe: Literal["first", "last", "mean"] | None
    regular: bool
    domain: str | None
    qc: bool
    force: bool
    no_wrap: bool


class WriteKeywords(ReadKeywords, total=False):
    """How an answer is computed and written, whatever is asked; the command line's options of the same names."""

    method: str
    model: str | None
    uncertainty: bool
    quantiles: float | str | Sequence[float]
    bounds: tuple[float | None, float | None] | str | None
    dtype: str | None
    of: Literal["NetCDF", "NetCDF3", "Zarr", "GeoTIFF", "COG"] | None
    co: Mapping[str, str] | Sequence[str] | str
    device: str
    threads: int | None
    memory: Memory
    overwrite: bool


class FillKeywords(WriteKeywords, total=False):
    """How a stack is filled and written; the command line's options of the same names."""

    fast: bool
    adapt: float | str | None
    fill_never_observed: bool
    max_gap: float | str | None
    max_distance: float | str | None
    max_extrapolation: float | str | None
    min_obs: float | None
    flags: bool
    plot: str | Path | None
    precision: Literal["fp32", "bf16"]
    tile: int | None
    overlap: int | None
    dask: str | None
    resume: bool
    seed: int


class TrainKeywords(ReadKeywords, total=False):
    """How a model is trained; the command line's options of the same names."""

    val_fraction: float
    minutes: float | None
    steps: int | None
    size: Literal["small", "base", "paper"]
    attention: Literal["msa", "swmsa", "sba"] | None
    window: int | None
    depth: int | None
    width: int | None
    spatial_embedding: bool
    batch: int | None
    lr: float | None
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    threads: int | None
    seed: int
    start: str | Path | None
    resume: bool
    worlds: float | None
    overwrite: bool
    task: Literal["fill", "reconstruct", "forecast"]
    factor: int | None
    horizon: int | str | Sequence[int] | None


def check_known(options: Mapping[str, Any], keywords: Any, function: str) -> None:
    """A keyword that no option has is an error, as Python's own would be."""
    unknown = sorted(set(options) - set(keywords.__annotations__) - set(ReadKeywords.__annotations__))
    if unknown:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


def given_of(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Which of some options have another value than their default.

    >>> given_of({"window": 0, "size": "small"}, {"window": None, "depth": None, "size": "small"})
    ['window']
    """
    return [name for name, default in defaults.items() if options.get(name, default) != default]


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One value or several as a tuple; nothing is an empty one."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Path | int | float) else tuple(value)


def as_inputs(x: Any) -> Any:
    """Paths as a list; an xarray object as it is.

    Raises
    ------
    UsageError : it is neither.
    """
    if isinstance(x, str | os.PathLike):
        return [_as_path(x)]
    if isinstance(x, list | tuple):
        if not x:
            raise UsageError("no input given; give a path, several, or an xarray object")
        return [_as_path(item) for item in x]
    return _as_xarray(x)


def _as_path(item: Any) -> Any:
    """A path, an address, or ``-``; one of several may be an xarray object."""
    if not isinstance(item, str | os.PathLike):
        return _as_xarray(item)
    return item if isinstance(item, str) and (item == "-" or _is_address(item)) else Path(item)


def _as_xarray(x: Any) -> Any:
    if not hasattr(x, "dims"):  # of both kinds of xarray objects
        kind = type(x).__name__
        raise UsageError(f"input of type {kind}: give a path, several, or an xarray object with coordinates")
    return x


def _is_address(text: str) -> bool:
    return "://" in text or text.startswith(("/vsi", "@"))


def paths_of(inputs: Any) -> list[Any]:
    """The inputs that are paths or addresses; none where an xarray object came."""
    return inputs if isinstance(inputs, list) else []


def read_options(options: Mapping[str, Any]) -> ReadOptions:
    """How `io` reads."""
    from stimpute.io import ReadOptions

    return ReadOptions(
        variables=as_tuple(options.get("var")), bbox=options.get("bbox"), bbox_crs=options.get("bbox_crs"),
        time=options.get("time"), covariates=as_tuple(options.get("covariate")), nodata=as_tuple(options.get("nodata")),
        date_format=options.get("date_format"), times=_times(options.get("times")), dedupe=options.get("dedupe"),
        regular=options.get("regular", False), domain=options.get("domain"), qc=options.get("qc", False),
        force=options.get("force", False), wrap=not options.get("no_wrap", False),
    )  # fmt: skip


def _times(times: Any) -> tuple[str, ...] | None:
    """Labels as given, or one per line (or comma) of a text file."""
    if times is None:
        return None
    if isinstance(times, str | Path):
        path = Path(times)
        if not path.is_file() and (path.suffix in (".txt", ".csv", ".dat", ".lst") or os.sep in str(times)):
            raise InputError(f"--times {times}: no such file")
        text = str(times) if not path.is_file() else path.read_text(encoding="utf-8")
        labels = tuple(
            label
            for line in text.splitlines()
            for label in (part.strip() for part in line.split(","))
            if label
        )
        if not labels:
            raise InputError(f"{times}: no time labels in it")
        return labels
    return tuple(str(label) for label in times)


def sink_options(options: Mapping[str, Any]) -> SinkOptions:
    """How `io` writes.

    Raises
    ------
    UsageError : quantiles without the uncertainty.
    """
    from stimpute.io import SinkOptions

    if options.get("quantiles") and not options.get("uncertainty", True):
        raise UsageError("--quantiles need the uncertainty; leave out --no-uncertainty")
    return SinkOptions(
        format=options.get("of"), flags=options.get("flags", True), uncertainty=options.get("uncertainty", True),
        quantiles=tuple(options.get("quantiles", ())), dtype=options.get("dtype"), creation=options.get("co", {}),
        overwrite=options.get("overwrite", False),
    )  # fmt: skip


def fill_options(options: Mapping[str, Any]) -> FillOptions:
    """How the engine fills."""
    from stimpute.inference.options import FillOptions
    from stimpute.inference.refusal import Distance

    distance = options.get("max_distance")
    quantiles, uncertainty = tuple(options.get("quantiles", ())), options.get("uncertainty", True)
    return FillOptions(
        tile=options.get("tile"), overlap=options.get("overlap"), memory=options.get("memory"),
        bounds=options.get("bounds", "auto"), quantiles=quantiles, uncertainty=uncertainty,
        fill_never_observed=options.get("fill_never_observed", False), max_gap_days=options.get("max_gap"),
        max_distance=None if distance is None else Distance.of(distance),
        max_extrapolation_days=options.get("max_extrapolation"), min_obs=options.get("min_obs"), seed=options.get("seed", 0),
    )  # fmt: skip


def read_besides(reading: ReadOptions) -> list[str]:
    """What is read besides the inputs."""
    return [*reading.covariates, *([reading.domain] if reading.domain else [])]


def check_target(
    out: str | Path | None, inputs: Any, reading: ReadOptions, overwrite: bool, besides: Sequence[str] = ()
) -> None:
    """Refuse an output that is there already, that cannot be written, or that would replace what is read.

    Parameters
    ----------
    besides : further paths that are read.
    """
    if out is None:
        return
    from stimpute import io

    io.check_output(out, paths_of(inputs), overwrite)
    io.check_spared(out, [*read_besides(reading), *besides])


def outcome(out: str | Path | None, sink: Any, summary: Any) -> Any:
    """What a caller gets: the Dataset where nothing was written, else the summary."""
    return sink.dataset if out is None else summary


def check_picture(plot: str | Path | None, overwrite: bool, others: Sequence[str | Path] = ()) -> Path | None:
    """Where to draw: a path of its own, neither read nor written otherwise."""
    if plot is None:
        return None
    from stimpute.report import canvas

    path = canvas.check_picture(plot)
    for other in others:
        if path.resolve() == Path(other).resolve():
            raise OutputError(f"--plot {path}: is {other}; the picture needs another name")
    if path.exists() and not overwrite:
        raise OutputError(f"--plot {path}: already exists; --overwrite replaces it")
    return path
