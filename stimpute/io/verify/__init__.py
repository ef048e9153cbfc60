"""Proof that a filled stack still holds what was observed: inputs and output compared cell by cell, as they are stored.

Reads with netCDF4, zarr and rasterio directly and decides for itself what counts as observed, so that it shares no
mistake with the code that wrote the output. Works slab by slab; files of any size fit. Knows nothing about methods.
"""

from __future__ import annotations

import glob
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from stimpute.errors import InputError
from stimpute.io.inputs import RASTER_SUFFIXES, expand_inputs, is_remote, kind_of, without_siblings
from stimpute.io.verify.cf import compare_files
from stimpute.io.verify.cross import cf_to_raster, rasters_to_cf
from stimpute.io.verify.declared import Declared
from stimpute.io.verify.rasters import compare_merged, compare_rasters, history_of, open_raster
from stimpute.io.verify.raw import open_raw
from stimpute.io.verify.report import LayerCount, Ledger, VerifyReport
from stimpute.io.zarr_layout import is_zarr

_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError)

__all__ = ["LayerCount", "VerifyReport", "verify"]


def verify(
    inputs: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    nodata: Sequence[float] = (),
    variables: Sequence[str] = (),
) -> VerifyReport:
    """Compare ``inputs`` with the output that ``fill`` made of them.

    Parameters
    ----------
    inputs : files, folders, globs or ``@lists``, in any order.
    out : the output: a file, a Zarr store, or a folder with one file per input.
    nodata : further stored numbers that mean "no data" (those given to ``fill`` are found in ``history``).
    variables : the variables that were filled; by default, and for ``all``, those with a ``fill_flag`` beside them.

    Returns
    -------
    VerifyReport : ``identical`` is True where every observed cell holds the same bits (the same value, where format or
        dtype changed on request) and metadata are unchanged; ``differences`` names what is not.

    Raises
    ------
    InputError : a file that cannot be read, or two that cannot be compared.
    """
    variables = () if "all" in variables else variables
    listed = expand_inputs([inputs] if isinstance(inputs, str | Path) else inputs)
    for item in (*listed, str(out)):
        if "://" in item:
            raise InputError(f"{item}: bits are compared on the disk only; copy it there first")
    sources = [Path(p) for p in without_siblings([inner for path in listed for inner in _members(path)])]
    target = Path(out)
    if not target.exists() and not is_remote(str(target)):
        raise InputError(f"{target}: no such file")
    ledger = Ledger()
    for part, whole in _pairs(ledger, sources, target):
        try:
            _compare(ledger, part, whole, nodata, variables)
        except Exception as error:
            if not isinstance(error, _DAMAGE) and not type(error).__module__.startswith("rasterio"):
                raise
            raise InputError(
                f"{part[0]} and {whole} cannot be compared ({error}); is one of them damaged?"
            ) from error
    return ledger.report(sources, target)


def _members(path: str) -> list[str]:
    """The rasters inside a zip archive; anything else is itself."""
    if is_remote(path) or not zipfile.is_zipfile(path) or is_zarr(path):
        return [path]
    names = sorted(zipfile.ZipFile(path).namelist())
    hidden = [name for name in names if Path(name).name.startswith(".")]
    inside = [n for n in names if n.lower().endswith(RASTER_SUFFIXES) and n not in hidden]
    return [f"/vsizip/{{{Path(path).resolve()}}}/{name}" for name in inside] or [path]


def _pairs(ledger: Ledger, sources: list[Path], target: Path) -> list[tuple[list[Path], Path]]:
    """Inputs and the output they went into: one to one in a folder, all together otherwise."""
    if not target.is_dir() or is_zarr(target):
        return [(sources, target)]
    pairs, absent = [], []
    for path in sources:
        twin = target / path.name
        found = (
            twin if twin.exists() else next(iter(sorted(target.glob(f"{glob.escape(path.stem)}.*"))), None)
        )
        if found is None:
            absent.append(path.name)
        else:
            pairs.append(([path], found))
    left_out = bool(pairs) and bool(absent) and Declared.from_history(_history(pairs[0][1])).window
    for name in absent:
        if left_out:
            ledger.note(f"{name}: left out by --time")
        else:
            ledger.differ(f"{name}: no such file in {target}")
    return pairs


def _history(path: Path) -> str:
    """What stimpute wrote into an output."""
    if _is_cf(path):
        with open_raw(path) as file:
            return file.history
    with ExitStack() as stack:
        return history_of(open_raster(path, stack))


def _compare(
    ledger: Ledger, sources: list[Path], out: Path, nodata: Sequence[float], variables: Sequence[str]
) -> None:
    kinds = {_is_cf(path) for path in sources}
    if len(kinds) > 1:
        raise InputError(f"{sources[0]} and its companions are of different formats")
    from_cf, to_cf = kinds.pop(), _is_cf(out)
    if from_cf and to_cf:
        compare_files(ledger, sources, out, nodata=nodata, variables=variables)
    elif to_cf:
        rasters_to_cf(ledger, sources, out, nodata=nodata, variables=variables)
    elif not from_cf and len(sources) == 1:
        compare_rasters(ledger, sources[0], out, nodata=nodata)
    elif not from_cf:
        compare_merged(ledger, sources, out, nodata=nodata)
    elif len(sources) == 1:
        cf_to_raster(ledger, sources[0], out, nodata=nodata, variables=variables)
    else:
        raise InputError(
            f"{out}: several NetCDF or Zarr files against one raster cannot be compared; merge them first"
        )


def _is_cf(path: Path) -> bool:
    return kind_of(str(path)) in ("NetCDF", "Zarr")
