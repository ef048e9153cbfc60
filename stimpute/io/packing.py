"""Stored numbers to values and back: scale, offset, every kind of fill. Knows one variable's attributes, no files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, OutputError, StimputeWarning

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]

_TABLE_PAYS = 1 << 17  # cells from which on looking decoded values up is faster than computing them

# netCDF's default fills; bytes have none
DEFAULT_FILLS: dict[str, float] = {
    "i2": -32767,
    "u2": 65535,
    "i4": -2147483647,
    "u4": 4294967295,
    "i8": -9223372036854775806,
    "u8": 18446744073709551614,
    "f4": 9.969209968386869e36,
    "f8": 9.969209968386869e36,
}


@dataclass(frozen=True)
class Packing:
    """How one variable's values are stored.

    value = stored * scale + offset, computed in float64. A cell is observed if its stored number is none of
    ``nodata``, is finite, and lies inside the valid limits.

    Parameters
    ----------
    dtype : of the stored numbers, after ``_Unsigned`` was applied.
    stored_dtype : of the bytes in the file (differs from ``dtype`` only under ``_Unsigned``).
    scale, offset : as above.
    nodata : stored numbers that mean "missing".
    fill : the stored number to write into gaps, or None if the file declares none.
    stored_limits, value_limits : (lowest, highest) valid, compared with stored numbers / decoded values.
    undeclared_fill : a default fill that counts as missing, with a warning, because nothing was declared.
    """

    dtype: np.dtype[Any]
    stored_dtype: np.dtype[Any]
    scale: float = 1.0
    offset: float = 0.0
    nodata: tuple[float | int, ...] = ()
    fill: float | int | None = None
    stored_limits: tuple[float | None, float | None] = (None, None)
    value_limits: tuple[float | None, float | None] = (None, None)
    undeclared_fill: float | None = None

    @property
    def packed(self) -> bool:
        """Whether stored numbers differ from values."""
        return (self.scale, self.offset) != (1.0, 0.0)

    def same_as(self, other: Packing) -> bool:
        """Equal, NaN fills included."""
        return repr(self) == repr(other)

    @property
    def decoded_limits(self) -> tuple[float | None, float | None]:
        """The valid range in decoded units, in ascending order."""
        ends = [None if e is None else float(e) * self.scale + self.offset for e in self.stored_limits]
        low, high = (ends[1], ends[0]) if self.scale < 0 else (ends[0], ends[1])
        return (
            low if self.value_limits[0] is None else self.value_limits[0],
            high if self.value_limits[1] is None else self.value_limits[1],
        )

    def as_read(self, stored: Array) -> Array:
        """Stored bytes seen as the numbers they mean (``_Unsigned``)."""
        if self.dtype == self.stored_dtype:
            return stored
        return stored.astype(self.stored_dtype, copy=False).view(self.dtype)

    def as_stored(self, number: float | int) -> Array:
        """A number, 0-D, in the bytes of the file (see :meth:`as_read`)."""
        return np.asarray(number).astype(self.dtype).view(self.stored_dtype)

    def observed(self, stored: Array) -> BoolArray:
        """True where a stored number is an observation."""
        numbers = self.as_read(stored)
        missing = np.zeros(numbers.shape, dtype=bool)
        if numbers.dtype.kind == "f":
            missing |= ~np.isfinite(numbers)
        codes = self.nodata if self.undeclared_fill is None else (*self.nodata, self.undeclared_fill)
        for code in codes:
            missing |= equals(numbers, code)
        missing |= _outside(numbers, self.stored_limits)
        if self.value_limits != (None, None):
            with np.errstate(all="ignore"):
                missing |= _outside(numbers.astype(np.float64) * self.scale + self.offset, self.value_limits)
        return ~missing

    def refuse_beyond(self, stored: Array, label: str) -> None:
        """Refuse observations that single precision cannot hold: as gaps they would be filled over.

        Raises
        ------
        InputError : naming ``label`` and the number.
        """
        if stored.dtype != np.float64:
            return
        beyond = (np.abs(stored) > np.finfo(np.float32).max) & self.observed(stored)
        if beyond.any():
            raise InputError(
                f"{label} holds {stored[beyond][0]:g}, beyond the largest number in single precision, in which gaps are "
                "computed; if it means no data, say so with --nodata, else bring the values to another unit"
            )

    def decode(self, stored: Array) -> tuple[npt.NDArray[np.float32], BoolArray]:
        """Values (float32, 0 in gaps) and where they are observed.

        Observed numbers too large for float32 count as gaps.
        """
        if self.dtype.kind in "iu" and self.dtype.itemsize <= 2 and stored.size > _TABLE_PAYS:
            bits = np.ascontiguousarray(stored, dtype=self.stored_dtype).view(f"u{self.dtype.itemsize}")
            return self._table[0][bits], self._table[1][bits]
        return self._computed(stored)

    @cached_property
    def _table(self) -> tuple[npt.NDArray[np.float32], BoolArray]:
        """Value and validity of every stored number of a short integer type, by its bits."""
        bits = np.arange(1 << (8 * self.dtype.itemsize), dtype=f"u{self.dtype.itemsize}")
        return self._computed(bits.view(self.stored_dtype))

    def _computed(self, stored: Array) -> tuple[npt.NDArray[np.float32], BoolArray]:
        values, valid = self.decode64(stored)
        with np.errstate(over="ignore"):
            out = values.astype(np.float32)
        overflow = ~np.isfinite(out)
        if overflow.any():
            out[overflow], valid = 0, valid & ~overflow
        return out, valid

    def decode64(self, stored: Array) -> tuple[npt.NDArray[np.float64], BoolArray]:
        """Values in float64 (0 in gaps) and where they are observed."""
        valid = self.observed(stored)
        numbers = np.where(valid, self.as_read(stored), self.dtype.type(0)).astype(np.float64)
        if self.packed:
            numbers = np.where(valid, numbers * self.scale + self.offset, 0.0)
        return numbers, valid

    def encode(self, values: npt.ArrayLike, name: str = "", kind: str = "filled") -> Array:
        """Stored numbers of filled values (or of others, which ``kind`` names); never a number that reads as missing.

        Raises
        ------
        OutputError : a value that the type cannot hold.
        """
        numbers = np.asarray(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise OutputError(f"{name}: a {kind} value is not finite")
        if self.packed:
            numbers = (numbers - self.offset) / self.scale
        if self.dtype.kind in "iu":
            numbers = np.rint(numbers)
        self._refuse_overflow(numbers, name, kind)
        stored = self._stored(numbers)
        stored = self._inside_limits(stored, name)
        stored = self._away_from_nodata(stored)
        return stored if self.dtype == self.stored_dtype else stored.view(self.stored_dtype)

    def recode(self, values: npt.ArrayLike, name: str = "", source: npt.DTypeLike = np.float64) -> Array:
        """Stored numbers of observed values that come from another type (``--dtype``), ``source``.

        Raises
        ------
        OutputError : an observed value would change: rounded to a whole number, cut to a limit, moved off the nodata.
        """
        if self.dtype.kind == "f":
            exact = np.asarray(values, dtype=np.float64)
            stored = self.encode(values, name, "observed")
            self._refuse_rounding(exact, stored.astype(np.float64), name)
            return stored
        exact = (np.asarray(values, dtype=np.float64) - self.offset) / self.scale
        rounding = self._rounding(exact, np.dtype(source))
        self._refuse_change(exact, np.rint(exact), rounding, name)
        stored = self.encode(values, name, "observed")
        self._refuse_change(exact, self.as_read(stored).astype(np.float64), rounding, name)
        return stored

    def _rounding(self, exact: Array, source: np.dtype[Any]) -> npt.NDArray[np.float64]:
        """How far stored numbers may be off the whole ones that they stand for, by the arithmetic that led to them.

        Negative where double precision does not tell whole numbers apart.
        """
        size = np.abs(exact)
        last_place = np.spacing(size.astype(source)) if source.kind == "f" else 0.0
        shifted = 8 * np.finfo(np.float64).eps * abs(self.offset / self.scale)
        rounding = np.minimum(1e-12 * size + last_place + shifted, 1e-4)
        return np.where((source.kind != "f") & (size >= 2.0**53), -1.0, rounding)

    def _refuse_change(self, exact: Array, kept: Array, rounding: Array, name: str) -> None:
        changed = np.abs(kept - exact) > rounding
        if changed.any():
            was, becomes = (float(x[changed].flat[0]) * self.scale + self.offset for x in (exact, kept))
            raise OutputError(
                f"{name}: the observed value {was:.15g} would become {becomes:.15g} as {self.dtype}; "
                "choose a type that holds what was observed, such as --dtype float32"
            )

    def _refuse_rounding(self, exact: Array, kept: Array, name: str) -> None:
        """Single precision is what the user asks for with float32; half precision is more than rounding."""
        changed = np.abs(kept - exact) > 1.2e-7 * np.abs(exact) + float(np.finfo(np.float32).tiny)
        if changed.any():
            was, becomes = (float(x[changed].flat[0]) for x in (exact, kept))
            raise OutputError(
                f"{name}: the observed value {was:.8g} would become {becomes:.8g} as {self.dtype}; "
                "choose a type that holds what was observed, such as --dtype float32"
            )

    def _stored(self, numbers: Array) -> Array:
        if self.dtype.itemsize == 8 and self.dtype.kind in "iu":  # 2**63 - 1 is no float64
            info = np.iinfo(self.dtype)
            numbers = np.clip(numbers, float(info.min), np.nextafter(float(info.max), 0))
        return numbers.astype(self.dtype)

    def _refuse_overflow(self, numbers: Array, name: str, kind: str) -> None:
        low, high = type_limits(self.dtype)
        beyond = (numbers < low) | (numbers > high)
        if beyond.any():
            worst = float(numbers[beyond].flat[0])
            value, limit = (
                worst * self.scale + self.offset,
                (low if worst < low else high) * self.scale + self.offset,
            )
            packing = f" with scale {self.scale:g} and offset {self.offset:g}" if self.packed else ""
            raise OutputError(
                f"{name}: the {kind} value {value:g} is beyond {limit:g}, the limit of {self.dtype}{packing}; "
                "choose a wider type with --dtype (e.g. --dtype float32)"
                + (", or limit the values with --bounds" if kind == "filled" else "")
            )

    def _inside_limits(self, stored: Array, name: str) -> Array:
        low, high = self._limits_as_stored()
        beyond = _outside(stored, (low, high))
        if not beyond.any():
            return stored
        warnings.warn(
            f"{name}: {int(beyond.sum())} filled values lie outside the declared valid range "
            f"{self.decoded_limits} and were set to its ends (--bounds auto keeps the method inside)",
            StimputeWarning,
            stacklevel=2,
        )
        return np.clip(stored, low, high).astype(self.dtype)

    def _limits_as_stored(self) -> tuple[Any, Any]:
        """The tightest valid limits in stored numbers, inside the type."""
        low, high = self.stored_limits
        ends = [None if v is None else (v - self.offset) / self.scale for v in self.value_limits]
        value_low, value_high = (ends[1], ends[0]) if self.scale < 0 else (ends[0], ends[1])
        integer = self.dtype.kind in "iu"
        lows = [
            x
            for x in (low, np.ceil(value_low) if integer and value_low is not None else value_low)
            if x is not None
        ]
        highs = [
            x
            for x in (high, np.floor(value_high) if integer and value_high is not None else value_high)
            if x is not None
        ]
        return max(lows, default=None), min(highs, default=None)

    def _away_from_nodata(self, stored: Array) -> Array:
        """Move a stored number that would read as missing to its nearest neighbour that does not."""
        for _ in range(len(self.nodata) + 1):
            clash = ~self.observed(
                stored if self.dtype == self.stored_dtype else stored.view(self.stored_dtype)
            )
            if not clash.any():
                break
            low, high = type_limits(self.dtype)
            upward = stored < (self._middle() if self._middle() is not None else 0)
            if self.dtype.kind in "iu":
                step = np.where(upward & (stored < high) | (stored <= low), 1, -1).astype(np.int64)
                moved = (stored.astype(np.int64) + step).astype(self.dtype)
            else:
                moved = np.nextafter(stored, self.dtype.type(np.inf))
            stored = np.where(clash, moved, stored)
        return stored

    def _middle(self) -> float | None:
        low, high = self._limits_as_stored()
        return None if low is None or high is None else (float(low) + float(high)) / 2

    def with_dtype(self, dtype: str) -> Packing:
        """The same values in another stored type: floats unpacked, integers with the same scale and offset. Its own type changes nothing.

        Raises
        ------
        OutputError : an unknown or unusable type.
        """
        try:
            wanted = np.dtype(dtype).newbyteorder("=")
        except TypeError as error:
            raise OutputError(f"--dtype {dtype}: no such type") from error
        if wanted.kind not in "iuf":
            raise OutputError(f"--dtype {dtype}: a number type is needed, such as float32 or int16")
        if wanted == self.dtype == self.stored_dtype:
            return self
        low, high = type_limits(wanted)
        if wanted.kind == "f":
            keep = (
                self.fill
                if self.fill is not None and not self.packed and low <= self.fill <= high
                else np.nan
            )
            return Packing(
                wanted, wanted, nodata=(float(keep),), fill=float(keep), value_limits=self.decoded_limits
            )
        kept = self.fill is not None and low <= self.fill <= high
        fill = int(self.fill if kept and self.fill is not None else nodata_candidates(wanted)[0])
        return replace(
            self, dtype=wanted, stored_dtype=wanted, nodata=(fill,), fill=fill, undeclared_fill=None,
            stored_limits=(None, None), value_limits=self.decoded_limits,
        )  # fmt: skip


def shared_packing(packings: Sequence[Packing]) -> Packing:
    """A packing that the observed values of all can be given in: the first, where integers differ in nothing but the codes that
    mean missing; else floats without limits, double ones where numbers are packed or wide.
    """
    first = packings[0]
    if all(p.same_as(first) for p in packings):
        return first
    same = {
        (p.dtype, p.stored_dtype, float(p.scale), float(p.offset), p.stored_limits, p.value_limits)
        for p in packings
    }
    if len(same) == 1 and first.dtype.kind in "iu":
        return first
    wide = any(p.packed or p.dtype.itemsize > (4 if p.dtype.kind == "f" else 2) for p in packings)
    dtype = np.dtype(np.float64 if wide else np.float32)
    return Packing(dtype, dtype, nodata=(float("nan"),), fill=float("nan"))


def equals(numbers: Array, code: float | int) -> BoolArray:
    """Where stored numbers equal a nodata code that may have been written with another precision.

    >>> equals(np.array([-3.4028235e38, 1], dtype="f4"), -3.4e38).tolist()
    [True, False]
    """
    if code != code:  # NaN
        return np.isnan(numbers) if numbers.dtype.kind == "f" else np.zeros(numbers.shape, dtype=bool)
    if numbers.dtype.kind != "f":
        low, high = type_limits(numbers.dtype)
        if code != int(code) or not low <= code <= high:
            return np.zeros(numbers.shape, dtype=bool)
        return np.asarray(numbers == numbers.dtype.type(int(code)))
    with np.errstate(over="ignore"):
        same = numbers == numbers.dtype.type(code)
    if abs(code) > 1e10:
        tolerance = 2e-3 if abs(code) > 1e37 else 1e-6
        with np.errstate(invalid="ignore", over="ignore"):
            same |= np.abs(numbers.astype(np.float64) - code) <= tolerance * abs(code)
    return np.asarray(same)


def nodata_candidates(dtype: np.dtype[Any]) -> Array:
    """Numbers of an integer type that may come to mean a gap, 1-D, best first: netCDF's default, then those next to an end.

    >>> nodata_candidates(np.dtype("i2"))[:3].tolist(), nodata_candidates(np.dtype("u1"))[:2].tolist()
    ([-32767, -32768, -32766], [255, 254])
    """
    low, high = type_limits(dtype)
    ends = range(int(high), int(high) - 256, -1) if dtype.kind == "u" else range(int(low), int(low) + 256)
    default = [int(DEFAULT_FILLS[code])] if (code := dtype.str[1:]) in DEFAULT_FILLS else []
    return np.array(list(dict.fromkeys([*default, *ends])), dtype=dtype)


def unused_number(candidates: Array, held: Iterable[Array]) -> int | None:
    """The first of ``candidates`` that none of the arrays ``held`` holds; None where there is none.

    >>> unused_number(np.array([255, 254]), [np.array([1, 255]), np.array([2])])
    254
    """
    free = candidates
    for numbers in held:
        free = free[~np.isin(free, numbers)]
    return int(free[0]) if free.size else None


def type_limits(dtype: np.dtype[Any]) -> tuple[float | int, float | int]:
    """Lowest and highest number of a type."""
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return float(np.finfo(dtype).min), float(np.finfo(dtype).max)


def _outside(numbers: Array, limits: tuple[float | None, float | None]) -> BoolArray:
    out = np.zeros(numbers.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        if limits[0] is not None:
            out |= numbers < limits[0]
        if limits[1] is not None:
            out |= numbers > limits[1]
    return out
