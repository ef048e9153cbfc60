"""What stored numbers mean, and the cell-by-cell comparison of two blocks of them. Knows attributes and arrays, no files."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.io.verify.report import Ledger
from stimpute.protocols import FILLED, OBSERVED, OUTSIDE_DOMAIN, REFUSED

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]
BLOCK_CELLS = 4_000_000


@dataclass(frozen=True)
class Encoding:
    """How a stored number is to be read.

    Parameters
    ----------
    dtype : stored dtype, native byte order (after ``_Unsigned``).
    scale, offset : decoded = stored * scale + offset.
    fills : stored numbers that mean "nothing here"; NaN and ±Inf always do.
    low, high : stored or decoded limits (``limits_decoded``) outside of which a number is not an observation.
    """

    dtype: np.dtype[Any]
    scale: float = 1.0
    offset: float = 0.0
    fills: tuple[float | int, ...] = ()
    low: float | None = None
    high: float | None = None
    limits_decoded: bool = False

    @classmethod
    def from_cf(
        cls,
        dtype: np.dtype[Any],
        attributes: Mapping[str, Any],
        extra: Iterable[float] = (),
        netcdf: bool = True,
    ) -> Encoding:
        """From a variable's own attributes (``_FillValue``, ``missing_value``, ``valid_*``, packing, ``_Unsigned``).

        In NetCDF files that declare no fill at all, the library's default fill means "never written".
        """
        native = np.dtype(dtype).newbyteorder("=")
        sign = {("true", "i"): "u", ("false", "u"): "i"}.get(
            (str(attributes.get("_Unsigned", "")).lower(), native.kind)
        )
        stored = np.dtype(f"{sign}{native.itemsize}") if sign else native
        unsigned = sign == "u"
        declared = [
            *_numbers(attributes.get("_FillValue"), native),
            *_numbers(attributes.get("missing_value"), native),
        ]
        fills = [_as_stored(number, native, stored) for number in (*declared, *extra)]
        if netcdf and not fills and stored.itemsize > 1:
            fills += [default] if (default := default_fills().get(stored.str[1:])) is not None else []
        low, high, like = _limits(attributes)
        packed = "scale_factor" in attributes or "add_offset" in attributes
        decoded = packed and native.kind in "iu" and like == "f"
        if unsigned and not decoded:
            low, high = (None if v is None else _as_stored(v, native, stored) for v in (low, high))
        return cls(
            dtype=stored,
            scale=float(attributes.get("scale_factor", 1.0)),
            offset=float(attributes.get("add_offset", 0.0)),
            fills=tuple(dict.fromkeys(fills)),
            low=low,
            high=high,
            limits_decoded=decoded,
        )

    def with_fills(self, extra: Iterable[float]) -> Encoding:
        """The same, with further stored numbers that mean "nothing here"."""
        return replace(self, fills=tuple(dict.fromkeys((*self.fills, *extra))))

    def same_numbers(self, other: Encoding) -> bool:
        """True where equal stored numbers mean equal values."""
        return (self.dtype, self.scale, self.offset) == (other.dtype, other.scale, other.offset)

    def stored(self, raw: Array) -> Array:
        """Native byte order, unsigned where declared; the bits stay."""
        native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
        return native.view(self.dtype) if native.dtype != self.dtype and native.dtype.kind in "iu" else native

    def observed(self, stored: Array) -> Bool:
        """True where the number is an observation."""
        seen = np.isfinite(stored) if stored.dtype.kind in "fc" else np.ones(stored.shape, dtype=bool)
        for fill in self.fills:
            if stored.dtype.kind == "f":
                seen &= stored != np.asarray(fill).astype(stored.dtype)
            elif float(fill).is_integer():
                seen &= stored != int(fill)
        compared = self.decode(stored) if self.limits_decoded else stored
        if self.low is not None:
            seen &= ~(compared < self.low)
        if self.high is not None:
            seen &= ~(compared > self.high)
        return seen

    def decode(self, stored: Array) -> npt.NDArray[np.float64]:
        """Values in float64."""
        return np.asarray(stored, dtype=np.float64) * self.scale + self.offset

    def values(self, raw: Array) -> npt.NDArray[np.float64]:
        """Values in float64 of numbers as they were read, NaN where there is no observation."""
        stored = self.stored(raw)
        return np.where(self.observed(stored), self.decode(stored), np.nan)

    def resolution(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Half of the smallest step this encoding can tell apart, near each value."""
        if self.dtype.kind in "iu":
            return np.full(values.shape, abs(self.scale) / 2 * (1 + 1e-6))
        return np.abs(values) * float(np.finfo(self.dtype).eps) + float(np.finfo(self.dtype).tiny)


@dataclass(frozen=True)
class Rules:
    """How to read both sides of a layer, and whether ``--qc`` may have turned observed cells into gaps."""

    layer: str
    before: Encoding
    after: Encoding
    may_discard: bool = False


def compare(
    ledger: Ledger,
    rules: Rules,
    before: Array,
    after: Array,
    flag: Array | None,
    place: Callable[[tuple[int, ...]], str],
    valid: tuple[Bool, Bool] | None = None,
    altered: Bool | np.bool_ = np.False_,
    errors: Array | None = None,
) -> None:
    """Compare one block of a filled variable, cell by cell, and count it.

    ``place(index)`` names a cell of the block. ``flag`` holds the output's own claim, or None. ``valid``: what the
    container knows beside the numbers (a side file, an alpha band), for input and output. ``altered`` (broadcast to the block): cells that an option of the run
    changed by intention; they are counted and not judged. ``errors``: the standard errors beside the values, in decoded values.
    """
    old, new = rules.before.stored(before), rules.after.stored(after)
    seen, present = rules.before.observed(old), rules.after.observed(new)
    if valid is not None:
        seen, present = seen & valid[0], present & valid[1]
    judged = ~np.broadcast_to(altered, seen.shape)
    if rules.may_discard and flag is not None:
        judged &= ~(seen & (flag != OBSERVED))
    kept = seen & judged
    changed = kept & ~_equal(rules, old, new)

    def name(kind: str, where: Bool) -> None:
        if where.any():
            index = tuple(int(i) for i in np.argwhere(where)[0])
            numbers = f"stored {old[index]!s} became {new[index]!s}"
            flagged = "" if flag is None else f", flag {int(flag[index])}"
            ledger.differ_cells(rules.layer, kind, int(where.sum()), f"{place(index)}: {numbers}{flagged}")

    name("observed, and changed", changed)
    name("observed, and read as missing from the output", kept & ~present & ~changed)
    there = seen if flag is None else seen | (flag == OBSERVED)  # of a mean of steps, in another one of these
    ledger.count(rules.layer, observed=int(kept.sum()), altered=int((there & ~judged).sum()))
    if errors is not None:
        filled = ~seen & present if flag is None else flag == FILLED
        name("filled, with a negative standard error", filled & (errors < 0))
    if flag is None:
        ledger.count(rules.layer, filled=int((~seen & present).sum()), refused=int((~seen & ~present).sum()))
        return
    name("flagged observed, but missing from the input", (flag == OBSERVED) & ~seen & judged)
    name("observed, but flagged otherwise", (flag != OBSERVED) & kept)
    name("flagged filled, but hold no value", (flag == FILLED) & ~present)
    name("flagged refused or outside the domain, but hold a value", (flag >= REFUSED) & present & ~kept)
    count_flag(ledger, rules.layer, flag)


def count_flag(ledger: Ledger, layer: str, flag: Array) -> None:
    """Add the filled, refused and outside cells that a flag claims."""
    counts = np.bincount(flag.ravel().astype(np.int64), minlength=OUTSIDE_DOMAIN + 1)
    ledger.count(layer, filled=counts[FILLED], refused=counts[REFUSED], outside_domain=counts[OUTSIDE_DOMAIN])


def default_fills() -> Mapping[str, float]:
    """What the netCDF library writes where nothing was written, by dtype ("f4", "i2", ...)."""
    import netCDF4

    return {k: v for k, v in netCDF4.default_fillvals.items() if not isinstance(v, str)}


def same_bits(a: Array, b: Array) -> Bool:
    """True where two arrays of one dtype hold identical bits (NaN equals the same NaN, -0 differs from 0).

    >>> same_bits(np.array([0.0, np.nan]), np.array([-0.0, np.nan])).tolist()
    [False, True]
    """
    if a.dtype.kind == "O":  # text, or ragged cells
        equal = [np.array_equal(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True)]
        return np.array(equal, dtype=bool).reshape(a.shape)
    if a.dtype.kind in "UTSV":
        return np.asarray(a == b)
    width = a.dtype.itemsize
    if width in (1, 2, 4, 8):
        view = f"u{width}"
        return np.asarray(np.ascontiguousarray(a).view(view) == np.ascontiguousarray(b).view(view))
    split = (*a.shape, width)
    x, y = (np.ascontiguousarray(v).view(np.uint8).reshape(split) for v in (a, b))
    return np.asarray((x == y).all(axis=-1))


def blocks(
    shape: Sequence[int], chunks: Sequence[int] | None = None, cells: int = BLOCK_CELLS
) -> Iterator[tuple[slice, ...]]:
    """Slices that cover ``shape`` exactly once, whole chunks at a time, at most ``cells`` cells (or one chunk) each.

    >>> [s for s in blocks((4, 3), (2, 3), cells=6)]
    [(slice(0, 2, None), slice(0, 3, None)), (slice(2, 4, None), slice(0, 3, None))]
    """
    if 0 in shape:
        return
    size = [max(1, min(c, n)) for c, n in zip(chunks or [1] * len(shape), shape, strict=True)]
    for d in reversed(range(len(shape))):
        size[d] = min(shape[d], size[d] * max(1, cells // prod(size)))
    starts = [range(0, n, step) for n, step in zip(shape, size, strict=True)]
    for corner in product(*starts):
        yield tuple(slice(a, min(a + step, n)) for a, step, n in zip(corner, size, shape, strict=True))


def _equal(rules: Rules, old: Array, new: Array) -> Bool:
    if rules.before.same_numbers(rules.after):
        return same_bits(old, new)
    a, b = rules.before.decode(old), rules.after.decode(new)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.abs(a - b) <= np.maximum(rules.before.resolution(a), rules.after.resolution(a)))


def _numbers(attribute: Any, dtype: np.dtype[Any]) -> list[Any]:
    """The numbers of a fill attribute; Zarr v3 stores float fills as base64 of a little-endian double."""
    if attribute is None:
        return []
    if isinstance(attribute, str):
        if dtype.kind != "f":
            return []
        try:
            return [float(attribute)]
        except ValueError:
            return [struct.unpack("<d", base64.standard_b64decode(attribute))[0]]
    return list(np.atleast_1d(attribute).tolist())


def _as_stored(number: Any, native: np.dtype[Any], stored: np.dtype[Any]) -> Any:
    """A fill given in the signed dtype, read as unsigned where ``_Unsigned`` says so."""
    if native == stored or stored.kind == "i" or number >= 0:
        return number
    return int(number) % (1 << (8 * stored.itemsize))


def _limits(attributes: Mapping[str, Any]) -> tuple[Any, Any, str]:
    low, high = attributes.get("valid_min"), attributes.get("valid_max")
    if "valid_range" in attributes and np.size(attributes["valid_range"]) == 2:
        low, high = np.asarray(attributes["valid_range"]).tolist()
        like = np.asarray(attributes["valid_range"])
    else:
        like = np.asarray(low if low is not None else high if high is not None else 0)
    scalars = [None if v is None or isinstance(v, str) else np.asarray(v).item() for v in (low, high)]
    return scalars[0], scalars[1], like.dtype.kind
