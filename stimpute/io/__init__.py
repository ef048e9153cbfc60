"""Both ends of the corridor: :func:`open_source` and :func:`create_sink`. Every format library is loaded on first use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimpute.errors import InputError, OutputError, StimputeWarning
from stimpute.io.inputs import TIFF_SUFFIXES
from stimpute.io.object_store import is_address
from stimpute.io.options import OutputFormat, ReadOptions, SinkOptions
from stimpute.io.outputs import check_output, check_spared, is_folder_output
from stimpute.protocols import Sink, Source

if TYPE_CHECKING:
    import xarray as xr

    from stimpute.io.covariates import ArchiveOn
    from stimpute.io.folder_sink import FileSink

__all__ = [
    "ReadOptions",
    "SinkOptions",
    "archive_on",
    "check_output",
    "check_siblings",
    "check_spared",
    "create_sink",
    "describe",
    "is_address",
    "is_folder_output",
    "open_future",
    "open_source",
    "output_format",
    "read_observed_only",
    "refine",
    "warn_of_filled",
]

_SUFFIXES: dict[str, OutputFormat] = {
    ".nc": "NetCDF",
    ".nc4": "NetCDF",
    ".cdf": "NetCDF",
    ".netcdf": "NetCDF",
    ".zarr": "Zarr",
    ".zip": "Zarr",
    **dict.fromkeys(TIFF_SUFFIXES, "GeoTIFF"),
}
_STREAMED = {"NetCDF": ".nc", "NetCDF3": ".nc", "Zarr": ".zarr.zip", "GeoTIFF": ".tif", "COG": ".tif"}


def open_source(
    inputs: Sequence[str | Path] | str | Path | xr.Dataset | xr.DataArray, options: ReadOptions | None = None
) -> Any:
    """Open one stack.

    Parameters
    ----------
    inputs : paths (files, folders, globs, ``@list.txt``, URLs) that together are one stack, or an xarray object.

    Returns
    -------
    Source : with ``read_stored``, ``domain`` and ``warnings`` besides the protocol.

    Raises
    ------
    InputError : see each format.
    """
    options = options if options is not None else ReadOptions()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StimputeWarning)
        source = _open(inputs, options)
        try:
            _complete(source, options)
        except BaseException:
            source.close()
            raise
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    source.warnings = tuple(str(w.message) for w in caught if issubclass(w.category, StimputeWarning))
    return source


def _complete(source: Any, options: ReadOptions) -> None:
    """Covariates, the domain, and a look for fills that nothing declares."""
    if options.covariates or options.domain is not None:
        from stimpute.io.covariates import attach

        attach(source, options, lambda path, reading: _open([path], reading))
    if options.qc:
        from stimpute.io.screening import screen

        screen(source)
    if source.format == "GeoTIFF":
        return
    from stimpute.io.domain import domain_in_file
    from stimpute.io.suspicion import refuse_undeclared_nodata

    refuse_undeclared_nodata(source)
    if source.domain is None:
        source.domain = domain_in_file(source)


def _open(inputs: Any, options: ReadOptions) -> Any:
    if not isinstance(inputs, str | Path | Sequence):
        from stimpute.io.memory import open_memory

        return _cf_source([open_memory(inputs)], options)
    listed = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    if any(str(item) == "-" for item in listed):
        from stimpute.io.streams import with_stdin

        return with_stdin(listed, lambda spooled: _open_paths(spooled, options))
    return _open_paths(listed, options)


def _open_paths(inputs: Sequence[str | Path], options: ReadOptions) -> Any:
    from stimpute.io.inputs import expand_inputs, kind_of

    paths = expand_inputs(inputs)
    kinds = [kind_of(p) for p in paths]
    if len(set(kinds)) > 1:
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        raise InputError(
            f"{paths[0]} is {kinds[0]}, {paths[other]} is {kinds[other]}: they cannot be one stack"
        )
    if kinds[0] == "GeoTIFF":
        from stimpute.io.geotiff import open_geotiff

        return open_geotiff(paths, options)
    return _cf_source(_raw_files(paths, kinds[0]), options)


def _raw_files(paths: Sequence[str], kind: str) -> list[Any]:
    if kind == "Zarr":
        from stimpute.io.zarr_store import open_zarr as opened
    else:
        from stimpute.io.netcdf import open_netcdf as opened
    files = []
    try:
        for path in paths:
            files.append(opened(path))
    except InputError:
        for file in files:
            file.close()
        raise
    return files


def _cf_source(files: Sequence[Any], options: ReadOptions) -> Any:
    from stimpute.io.cf_source import CFSource

    try:
        return CFSource(files, options)
    except Exception:
        for file in files:
            file.close()
        raise


def refine(source: Any, factor: int, covariates: Sequence[str] = (), *, even: bool = False) -> Any:
    """The stack's grid cut ``factor`` times finer, as a source of nothing but gaps, to read fine covariates on and write to.

    Parameters
    ----------
    source : opened; it must stay open as long as the result is used.
    factor : fine cells per coarse cell and axis.
    covariates : ``PATH[:VAR]``, read on the fine grid.
    even : evenly spaced rows even at the poles, as in a raster; GeoTIFFs stay so in any case.

    Raises
    ------
    InputError : a covariate that cannot be read or does not fit.
    """
    from stimpute.io.covariates import attach
    from stimpute.io.refined import refine_source

    fine = refine_source(_as_cf(source), factor, even=even or source.format == "GeoTIFF")
    fine.paths = source.paths
    if covariates:
        attach(fine, ReadOptions(covariates=tuple(covariates)), lambda path, reading: _open([path], reading))
    return fine


ARCHIVE_STEPS = 400


def archive_on(fine: Any, text: str, most: int = ARCHIVE_STEPS) -> ArchiveOn:
    """A fine archive of the same place, ``PATH[:VAR]``, open, on the grid of ``fine`` with steps of its own, ``most`` of them.

    Its paths join what is read besides the inputs of ``fine``.

    Raises
    ------
    InputError : a file or variable that is not there, or that does not fit.
    """
    from stimpute.io import covariates

    archive = covariates.ArchiveOn(fine, text, lambda path, reading: _open([path], reading), most)
    fine.besides = (*fine.besides, *map(str, archive.paths))
    return archive


def output_format(out: str | Path | None, source: Source, options: SinkOptions) -> OutputFormat:
    """The format of the output: as asked for, else by its suffix, else that of the input (NetCDF for xarray objects)."""
    if options.format is not None:
        return options.format
    if out is not None and str(out) != "-" and (found := _SUFFIXES.get(Path(out).suffix.lower())) is not None:
        return found
    return "NetCDF" if source.format == "memory" else source.format  # type: ignore[return-value]


def create_sink(out: str | Path | None, source: Any, options: SinkOptions | None = None) -> Sink:
    """The sink for an output; in memory (``.dataset`` after ``commit``) where ``out`` is None.

    Raises
    ------
    OutputError : see :func:`check_output`.
    """
    options = options if options is not None else SinkOptions()
    if out is None:
        from stimpute.io.memory_sink import MemorySink

        return MemorySink(_as_cf(source), options)
    wanted = output_format(out, source, options)
    if str(out) == "-":
        from stimpute.io.streams import StreamSink

        return StreamSink(lambda path: create_sink(path, source, options), _STREAMED[wanted])
    if is_address(out):
        from stimpute.io.object_store import UploadSink

        inner = replace(options, format=wanted, overwrite=True, staging=None)
        return UploadSink(
            str(out), lambda path: create_sink(path, source, inner), options.staging, options.overwrite
        )
    check_output(out, source.paths, options.overwrite)
    _refuse_read(out, source)
    _warn_of_unfinished(Path(out))
    if wanted in ("GeoTIFF", "COG"):
        from stimpute.io.geotiff import GeoTiffSink

        return GeoTiffSink(out, _as_geotiff(source), options)
    if is_folder_output(out, wanted):
        from stimpute.io.folder_sink import FolderSink

        suffix = None if wanted.startswith(source.format) else _STREAMED[wanted].removesuffix(".zip")
        return FolderSink(
            out,
            _as_cf(source, one_each=True),
            lambda path, part: _file_sink(path, part, options, wanted),
            suffix=suffix,
            overwrite=options.overwrite,
            staging=options.staging,
        )
    return _file_sink(out, _as_cf(source), options, wanted)


def _refuse_read(out: str | Path, source: Any) -> None:
    from stimpute.io.files_read import files_read

    if os.path.realpath(out) in files_read(source):
        raise OutputError(f"{out}: is read in this run; the output needs another name")


def _warn_of_unfinished(out: Path) -> None:
    from stimpute.io.atomic import unfinished

    left = unfinished(out)
    if left:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        _tell(
            f"{out}: {left[0]}{more} is the unfinished output of a run that was killed, or of one that still runs; remove it if none does"
        )


def _file_sink(out: str | Path, source: Any, options: SinkOptions, wanted: OutputFormat) -> FileSink:
    if wanted == "Zarr":
        from stimpute.io.zarr_sink import ZarrSink

        return ZarrSink(out, source, options)
    from stimpute.io.netcdf_sink import NetCDFSink

    return NetCDFSink(out, source, options)


def _as_cf(source: Any, *, one_each: bool = False) -> Any:
    if source.format != "GeoTIFF":
        return source
    from stimpute.io.geotiff_as_cf import as_cf, as_cf_files

    return as_cf_files(source) if one_each and len(source.headers) > 1 else as_cf(source)


def _as_geotiff(source: Any) -> Any:
    if source.format == "GeoTIFF":
        return source
    from stimpute.io.cf_as_geotiff import as_geotiff

    return as_geotiff(source)


def open_future(source: Any, steps: int, every: float | None = None) -> tuple[Any, Any]:
    """What comes after a source: the stack to be forecast, as a source of nothing but gaps, and its steps.

    Raises
    ------
    InputError : a single step, or times so uneven that nothing says when the next one is.
    """
    from stimpute.io.future import future_of, future_source

    cf = _as_cf(source)
    ahead = future_of(cf, steps, every)
    future = future_source(cf, ahead)
    if source.format == "GeoTIFF" and len(source.headers) > 1:
        from stimpute.io.geotiff_layout import name_of_step

        names = tuple(name_of_step(source, label) for label in future.time_labels)
        future.step_names = names if len(set(names)) == len(names) else ()
    return future, ahead


def read_observed_only(source: Any) -> None:
    """Read what an earlier run filled as gaps, with a warning: nobody is to be scored on, or to learn from, what another method said."""
    marks = _earlier_marks(source)
    if marks:
        source.observed_only = True
        _tell(f"{marks} marks values that an earlier run filled; they count as gaps here")
    unmarked = source.filled_unmarked() if source.format == "GeoTIFF" else None
    if unmarked:
        _tell(
            f"{unmarked}: filled by an earlier run, and no flag beside it says where; all of it counts as observed"
        )


def warn_of_filled(source: Any) -> None:
    """Say so where an earlier run filled what is about to be taken as observed."""
    marks = _earlier_marks(source)
    unmarked = source.filled_unmarked() if source.format == "GeoTIFF" else None
    if marks:
        _tell(f"{marks} marks values that an earlier run filled; they are taken as observed")
    elif unmarked:
        _tell(f"{unmarked}: filled by an earlier run; all of it is taken as observed")


def _earlier_marks(source: Any) -> str:
    """The flags that an earlier run left, for messages; empty without any."""
    if source.format == "GeoTIFF":
        flags = dict.fromkeys(band.path for band in source.flags.values())
        more = f" (and {len(flags) - 1} more)" if len(flags) > 1 else ""
        return f"{next(iter(flags))}{more}" if flags else ""
    names = [f"{name}_fill_flag" for name in source.variables if source.is_fill_flag(f"{name}_fill_flag")]
    return f"{source.paths[0]}: {', '.join(names)}" if names else ""


def _tell(text: str) -> None:
    warnings.warn(text, StimputeWarning, stacklevel=4)


def check_siblings(out: str | Path | None, source: Any, options: SinkOptions) -> None:
    """Refuse, without writing, a GeoTIFF output for what lies beside it already, as :func:`create_sink` does.

    Raises
    ------
    OutputError : a flag or an uncertainty of the same name, and no ``overwrite``; several layers for one file.
    """
    written = out is not None and str(out) != "-" and not is_address(out)
    if out is None or not written or output_format(out, source, options) not in ("GeoTIFF", "COG"):
        return
    from stimpute.io.geotiff_siblings import refuse_taken

    view = _as_geotiff(source)
    refuse_taken(out, view, view.layouts(out, options), options)


def describe(source: Any) -> dict[str, Any]:
    """What a source holds, ready for JSON."""
    from stimpute.io.description import describe as described

    return described(source)
