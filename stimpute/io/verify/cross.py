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
from stimpute.io.verify.cells import Encoding, Rules, compare
from stimpute.io.verify.cf import ERROR_SUFFIX, FLAG_SUFFIX, encoding_of
from stimpute.io.verify.declared import Declared
from stimpute.io.verify.mapping import positions
from stimpute.io.verify.rasters import (
    Plane,
    band_dates,
    compare_cover,
    described,
    error_file,
    flag_file,
    history_of,
    open_raster,
)
from stimpute.io.verify.raw import Array, RawArray, RawFile, open_raw
from stimpute.io.verify.report import Ledger

Indices = npt.NDArray[np.intp]
SNAP = 1e-6  # of the extent of an axis


@dataclass(frozen=True)
class CfStack:
    """One (time, y, x) variable of a NetCDF or Zarr file, step by step in the order of time; levels of length one do not count."""

    file: RawFile
    array: RawArray
    along: int | None  # the axis of time; None: a single step
    order: Indices
    labels: tuple[str, ...]  # sorted, as ISO 8601
    y: npt.NDArray[np.float64] | None
    x: npt.NDArray[np.float64] | None

    @classmethod
    def choose(cls, file: RawFile, variables: Sequence[str]) -> CfStack:
        """The variable named, or the only one that may have been filled (the one with a flag, where there is one).

        Raises
        ------
        InputError : none, several, or one on more than three dimensions.
        """
        names = list(variables) or [n for n in file.arrays if n + FLAG_SUFFIX in file.arrays] or _stacks(file)
        if len(names) != 1 or names[0] not in file.arrays:
            raise InputError(
                f"{file.path}: one (time, y, x) variable is needed, found {names}; name it with --var"
            )
        array = file.arrays[names[0]]
        long = [axis for axis, n in enumerate(array.shape[:-2]) if n > 1]
        if len(array.shape) < 2 or len(long) > 1:
            raise InputError(
                f"{file.path}: {names[0]} lies on {len(array.shape)} dimensions ({', '.join(array.dims)}), which no single raster holds"
            )
        dated = [k for k, dim in enumerate(array.dims[:-2]) if _is_time(file.arrays.get(dim))]
        along = next(iter(long or dated), None)
        axis = None if along is None else file.arrays.get(array.dims[along])
        steps = positions(axis) if axis is not None else np.arange(1 if along is None else array.shape[along])
        order = np.argsort(steps, kind="stable")
        y, x = (_axis(file, array.dims[k], array.shape[k]) for k in (-2, -1))
        return cls(file, array, along, order, tuple(str(s) for s in steps[order]), y, x)

    def read(self, step: int) -> Array:
        """Stored numbers (y, x) of one step."""
        return self._step(self.array, step)

    def flag(self, step: int) -> Array | None:
        """The flag of one step, where there is one."""
        array = self.file.arrays.get(self.array.name + FLAG_SUFFIX)
        return None if array is None else self._step(array, step)

    def errors(self, step: int) -> Array | None:
        """The standard errors of one step, decoded, where there are any."""
        array = self.file.arrays.get(self.array.name + ERROR_SUFFIX)
        if array is None or array.dims != self.array.dims:
            return None
        return encoding_of(self.file, array).values(self._step(array, step))

    def encoding(self, nodata: Sequence[float]) -> Encoding:
        """What the stored numbers mean."""
        return encoding_of(self.file, self.array, nodata)

    def _step(self, array: RawArray, step: int) -> Array:
        at = int(self.order[step])
        index = tuple(
            slice(at, at + 1) if axis == self.along else slice(0, n) for axis, n in enumerate(array.shape)
        )
        return array.read(index).reshape(array.shape[-2:])


def _stacks(file: RawFile) -> list[str]:
    """Variables that may have been filled: those along time where there are any, else of three dimensions, else maps."""
    numbers = [n for n, a in file.arrays.items() if a.dtype != "string" and np.dtype(a.dtype).kind in "iuf"]
    maps = [n for n in numbers if len(file.arrays[n].shape) >= 2 and not n.endswith(("_bnds", "_bounds"))]
    single = [n for n in maps if sum(length > 1 for length in file.arrays[n].shape[:-2]) <= 1]
    dated = [n for n in single if any(_is_time(file.arrays.get(d)) for d in file.arrays[n].dims[:-2])]
    return dated or [n for n in single if len(file.arrays[n].shape) >= 3] or single


def _is_time(axis: RawArray | None) -> bool:
    return axis is not None and " since " in str(axis.attributes.get("units", ""))


def _axis(file: RawFile, dim: str, size: int) -> npt.NDArray[np.float64] | None:
    array = file.arrays.get(dim)
    return None if array is None else array.read((slice(0, size),)).astype(np.float64)


def rasters_to_cf(
    ledger: Ledger, sources: Sequence[Path], out: Path, *, nodata: Sequence[float], variables: Sequence[str]
) -> None:
    """Dated rasters against the NetCDF or Zarr stack made of them."""
    with ExitStack() as stack, open_raw(out) as file:
        cf = CfStack.choose(file, variables)
        planes, dates = _dated([open_raster(path, stack) for path in sources])
        declared = Declared.from_history(file.history)
        codes = (*nodata, *declared.nodata)
        if declared.window and dates:
            kept = [k for k, date in enumerate(dates) if date in set(cf.labels)]
            planes, dates = [planes[k] for k in kept], [dates[k] for k in kept]
        _expect_steps(ledger, out.name, len(planes), cf, dates)
        places = _places(planes[0].file, cf, into_cf=True) if planes else None
        _tell(ledger, out.name, places)
        for step, plane in enumerate(planes[: len(cf.order)]):
            a, a_valid = plane.whole()
            b, claimed = cf.read(step), cf.flag(step)
            if places is not None:
                a, a_valid = (field[np.ix_(*places)] for field in (a, a_valid))
            if a.shape != b.shape:
                ledger.differ(f"{out.name}: {a.shape} cells in {plane.label}, {b.shape} in the output")
                return
            rules = Rules(
                cf.array.name, plane.encoding.with_fills(codes), cf.encoding(()), may_discard=declared.qc
            )
            everywhere = np.ones(b.shape, dtype=bool)
            compare(
                ledger, rules, a, b, claimed, _place(plane.label),
                valid=(a_valid, everywhere), errors=cf.errors(step),
            )  # fmt: skip


def cf_to_raster(
    ledger: Ledger, source: Path, out: Path, *, nodata: Sequence[float], variables: Sequence[str]
) -> None:
    """A NetCDF or Zarr stack against the raster made of it, one band per step."""
    with ExitStack() as stack, open_raw(source) as file:
        raster = open_raster(out, stack)
        planes, dates = _dated([raster], of_files=False)
        declared = Declared.from_history(history_of(raster), file.history)
        cf = CfStack.choose(file, variables or declared.var)
        flags, spread = flag_file(out, stack), error_file(out, raster, stack)
        compare_cover(ledger, out.name, [], raster)
        steps = list(range(len(cf.order)))
        if declared.window and dates:
            steps = [k for k, label in enumerate(cf.labels) if label in set(dates)]
        _expect_steps(ledger, out.name, len(planes), cf, (), len(steps))
        places = _places(raster, cf, into_cf=False)
        _tell(ledger, out.name, places)
        old = cf.encoding((*nodata, *declared.nodata))
        for step, plane in zip(steps, planes, strict=False):
            a = cf.read(step)
            b, b_valid = plane.whole()
            if places is not None:
                a = a[np.ix_(*places)]
            if a.shape != b.shape:
                ledger.differ(f"{out.name}: {a.shape} cells in the input, {b.shape} in {plane.label}")
                return
            claimed = None if flags is None else flags.read(min(plane.band, flags.count))
            rules = Rules(cf.array.name, old, plane.encoding, may_discard=declared.qc)
            everywhere = np.ones(a.shape, dtype=bool)
            errors = None if spread is None else spread.read(plane.band)
            compare(
                ledger, rules, a, b, claimed, _place(plane.label), valid=(everywhere, b_valid), errors=errors
            )


def _expect_steps(
    ledger: Ledger, name: str, bands: int, cf: CfStack, dates: Sequence[str], steps: int | None = None
) -> None:
    """Steps and dates must agree."""
    ledger.note(
        f"{name}: another format than the input, so decoded values are compared; tags and layout are not"
    )
    wanted = len(cf.order) if steps is None else steps
    if wanted != bands:
        ledger.differ(f"{name}: {bands} bands, {wanted} time steps")
    for mine, theirs in zip(cf.labels, dates, strict=False):
        if theirs and mine != theirs:
            ledger.differ(f"{name}: a step of {theirs} became {mine}")


def _places(raster: Any, cf: CfStack, *, into_cf: bool) -> tuple[Indices, Indices] | None:
    """For every row and column of the output its place in the input, by coordinates; None where these do not tell."""
    transform = raster.transform
    if cf.y is None or cf.x is None or transform.b or transform.d:
        return None
    ys = transform.f + transform.e * (np.arange(raster.height) + 0.5)
    xs = transform.c + transform.a * (np.arange(raster.width) + 0.5)
    pairs = ((ys, cf.y), (xs, cf.x)) if into_cf else ((cf.y, ys), (cf.x, xs))
    found = [_found(before, after) for before, after in pairs]
    if found[0] is None or found[1] is None:
        return None
    return found[0], found[1]


def _found(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Indices | None:
    """Where every coordinate lies among those of the input; None if one is not there.

    >>> _found(np.array([0.0, 1, 2, 3]), np.array([2.0, 1.0]))
    array([2, 1])
    """
    order = np.argsort(before, kind="stable")
    ordered = before[order]
    right = np.clip(np.searchsorted(ordered, after), 1, max(len(ordered) - 1, 1))
    pair = np.stack([right - 1, np.minimum(right, len(ordered) - 1)])
    apart = np.abs(ordered[pair] - after)
    close = SNAP * max(float(np.ptp(before)), 1e-12 + 1e-6 * float(np.abs(before).max()))
    nearest = order[np.take_along_axis(pair, apart.argmin(axis=0)[None], axis=0)[0]]
    return nearest if bool((apart.min(axis=0) <= close).all()) else None


def _tell(ledger: Ledger, name: str, places: tuple[Indices, Indices] | None) -> None:
    if places is None:
        ledger.note(
            f"{name}: coordinates are absent or in other units, rows and columns are compared in file order"
        )


def _dated(files: Sequence[Any], *, of_files: bool = True) -> tuple[list[Plane], list[str]]:
    """Every band of every file with its date, in the order of dates (of files, where no date is found).

    ``of_files``: dates are those in the names of files, but for a single one of several bands.
    """
    planes = [
        plane
        for file in files
        for plane in Plane.all_of(file, f"{Path(file.name).name}, " if of_files else "")
    ]
    if of_files:
        dates = band_dates(planes)
    else:
        dates = described(files[0])
    if not dates:
        return planes, []
    order = sorted(range(len(planes)), key=lambda k: (dates[k], k))
    return [planes[k] for k in order], [dates[k] for k in order]


def _place(label: str) -> Any:
    return lambda cell: f"{label}, row {cell[0]}, column {cell[1]}"
