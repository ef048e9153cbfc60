"""One format against another, in decoded values: dated rasters against a NetCDF or Zarr stack, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.io.dates import detect_dates
from stimpute.io.verify.cells import Encoding, Rules, compare
from stimpute.io.verify.cf import FLAG_SUFFIX, positions
from stimpute.io.verify.declared import Declared
from stimpute.io.verify.rasters import Plane, flag_file, history_of, open_raster
from stimpute.io.verify.raw import Array, RawArray, RawFile, open_raw
from stimpute.io.verify.report import Ledger


@dataclass(frozen=True)
class CfStack:
    """One (time, y, x) variable of a NetCDF or Zarr file, step by step in the order of time."""

    file: RawFile
    array: RawArray
    order: npt.NDArray[np.intp]
    labels: tuple[str, ...]  # sorted, as ISO 8601
    y: npt.NDArray[np.float64] | None

    @classmethod
    def choose(cls, file: RawFile, variables: Sequence[str]) -> CfStack:
        """The variable named, or the only one with three dimensions (the one with a flag, where there is one).

        Raises
        ------
        InputError : none, several, or more than three dimensions.
        """
        names = list(variables) or [n for n in file.arrays if n + FLAG_SUFFIX in file.arrays] or _stacks(file)
        if len(names) != 1 or names[0] not in file.arrays or len(file.arrays[names[0]].shape) != 3:
            raise InputError(
                f"{file.path}: one (time, y, x) variable is needed, found {names}; name it with --var"
            )
        array = file.arrays[names[0]]
        axis = file.arrays.get(array.dims[0])
        steps = positions(axis) if axis is not None else np.arange(array.shape[0])
        order = np.argsort(steps, kind="stable")
        rows = file.arrays.get(array.dims[1])
        y = rows.read((slice(0, array.shape[1]),)).astype(np.float64) if rows is not None else None
        return cls(file, array, order, tuple(str(s) for s in steps[order]), y)

    def read(self, step: int, flip: bool) -> Array:
        """Stored numbers (y, x) of one step."""
        return _step(self.array, int(self.order[step]), flip)

    def flag(self, step: int, flip: bool) -> Array | None:
        """The flag of one step, where there is one."""
        array = self.file.arrays.get(self.array.name + FLAG_SUFFIX)
        return None if array is None else _step(array, int(self.order[step]), flip)

    def encoding(self, nodata: Sequence[float]) -> Encoding:
        """What the stored numbers mean."""
        return Encoding.from_cf(
            np.dtype(self.array.dtype), self.array.attributes, nodata, self.file.is_netcdf
        )


def _step(array: RawArray, step: int, flip: bool) -> Array:
    block = array.read((slice(step, step + 1), slice(0, array.shape[1]), slice(0, array.shape[2])))
    return block[0, ::-1] if flip else block[0]


def _stacks(file: RawFile) -> list[str]:
    return [n for n, a in file.arrays.items() if len(a.shape) == 3 and np.dtype(a.dtype).kind in "iuf"]


def rasters_to_cf(
    ledger: Ledger, sources: Sequence[Path], out: Path, *, nodata: Sequence[float], variables: Sequence[str]
) -> None:
    """Dated rasters against the NetCDF or Zarr stack made of them."""
    with ExitStack() as stack, open_raw(out) as file:
        cf = CfStack.choose(file, variables)
        planes, dates = _dated([open_raster(path, stack) for path in sources])
        declared = Declared.from_history(file.history)
        codes = (*nodata, *declared.nodata)
        flip = _prepare(ledger, cf, planes, dates, out.name)
        for step, plane in enumerate(planes[: len(cf.order)]):
            a, a_valid = plane.whole()
            if a.shape != cf.array.shape[1:]:
                ledger.differ(
                    f"{out.name}: {a.shape} cells in {plane.label}, {cf.array.shape[1:]} in the output"
                )
                return
            b, claimed = cf.read(step, flip), cf.flag(step, flip)
            rules = Rules(
                cf.array.name, plane.encoding.with_fills(codes), cf.encoding(()), may_discard=declared.qc
            )
            everywhere = np.ones(b.shape, dtype=bool)
            compare(ledger, rules, a, b, claimed, _place(plane.label), valid=(a_valid, everywhere))


def cf_to_raster(
    ledger: Ledger, source: Path, out: Path, *, nodata: Sequence[float], variables: Sequence[str]
) -> None:
    """A NetCDF or Zarr stack against the raster made of it, one band per step."""
    with ExitStack() as stack, open_raw(source) as file:
        raster = open_raster(out, stack)
        planes = Plane.all_of(raster)
        declared = Declared.from_history(history_of(raster), file.history)
        cf = CfStack.choose(file, variables or declared.var)
        flags = flag_file(out, stack)
        flip = _prepare(ledger, cf, planes, (), out.name)
        old = cf.encoding((*nodata, *declared.nodata))
        for step, plane in enumerate(planes[: len(cf.order)]):
            a = cf.read(step, flip)
            b, b_valid = plane.whole()
            if a.shape != b.shape:
                ledger.differ(f"{out.name}: {a.shape} cells in the input, {b.shape} in {plane.label}")
                return
            claimed = None if flags is None else flags.read(min(plane.band, flags.count))
            rules = Rules(cf.array.name, old, plane.encoding, may_discard=declared.qc)
            everywhere = np.ones(a.shape, dtype=bool)
            compare(ledger, rules, a, b, claimed, _place(plane.label), valid=(everywhere, b_valid))


def _prepare(ledger: Ledger, cf: CfStack, planes: Sequence[Plane], dates: Sequence[str], name: str) -> bool:
    """Steps, dates and rows must agree; True where one side runs south to north."""
    ledger.note(
        f"{name}: another format than the input, so decoded values are compared; tags and layout are not"
    )
    if len(cf.order) != len(planes):
        ledger.differ(f"{name}: {len(planes)} bands, {len(cf.order)} time steps")
    for mine, theirs in zip(cf.labels, dates, strict=False):
        if theirs and mine != theirs:
            ledger.differ(f"{name}: a step of {theirs} became {mine}")
    if cf.y is None or cf.y.size < 2 or planes[0].file.height != cf.y.size:
        return False
    transform = planes[0].file.transform
    rows = transform.f + transform.e * (np.arange(cf.y.size) + 0.5)
    close = 1e-6 * abs(float(np.ptp(cf.y)))
    if np.allclose(rows, cf.y, rtol=0, atol=close):
        return False
    if np.allclose(rows, cf.y[::-1], rtol=0, atol=close):
        return True
    ledger.note(f"{name}: row coordinates are in other units, rows are compared in file order")
    return False


def _dated(files: Sequence[Any]) -> tuple[list[Plane], list[str]]:
    """Every band of every file with its date, in the order of dates (of files, where no date is found)."""
    planes = [plane for file in files for plane in Plane.all_of(file, f"{Path(file.name).name}, ")]
    names = [Path(p.file.name).name for p in planes]
    if len(files) == 1 and len(planes) > 1:
        names = [str(text or "") for text in files[0].descriptions]
    try:
        dates = [moment.isoformat() for moment in detect_dates(names).instants]
    except InputError:
        return planes, []
    order = sorted(range(len(planes)), key=lambda k: (dates[k], k))
    return [planes[k] for k in order], [dates[k] for k in order]


def _place(label: str) -> Any:
    return lambda cell: f"{label}, row {cell[0]}, column {cell[1]}"
