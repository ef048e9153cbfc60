"""A packing from the attributes that declare it: CF's, and the habits around them. Reads no data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stimpute.errors import InputError, StimputeWarning
from stimpute.io.packing import DEFAULT_FILLS, Packing, type_limits


def packing_of(
    attrs: Mapping[str, Any],
    dtype: np.dtype[Any],
    *,
    label: str,
    nodata: Sequence[float] = (),
    netcdf: bool = False,
) -> Packing:
    """Read a variable's packing from its attributes.

    Parameters
    ----------
    label : file and variable, for messages.
    nodata : further codes given by the user.
    netcdf : netCDF's default fills count as missing where nothing else is declared.

    Raises
    ------
    InputError : a nodata code the type cannot hold.
    """
    seen = _seen_dtype(attrs, dtype)
    scale, offset = _number(attrs, "scale_factor", 1.0), _number(attrs, "add_offset", 0.0)
    if scale == 0:
        raise InputError(f"{label}: scale_factor is 0; the stored numbers cannot be decoded")
    declared = _declared(attrs, seen, dtype)
    codes = tuple(c for c in declared if _holds(seen, c))
    for code in declared:
        if code not in codes and code == code:
            message = f"{label}: nodata {code:g} lies outside {seen}"
            if not codes and not nodata:
                raise InputError(f"{message}; say what marks a gap with --nodata")
            warnings.warn(f"{message} and is ignored", StimputeWarning, stacklevel=2)
    for code in nodata:
        if not _holds(seen, code) and code == code:
            raise InputError(f"{label}: --nodata {code:g} lies outside {seen}")
    given = tuple(_as(seen, c) for c in nodata if _holds(seen, c))
    stored_limits, value_limits = _limits(attrs, seen, scale, offset)
    default = DEFAULT_FILLS.get(seen.str[1:]) if netcdf and not declared and not nodata else None
    return Packing(
        dtype=seen,
        stored_dtype=dtype,
        scale=scale,
        offset=offset,
        nodata=tuple(dict.fromkeys((*codes, *given))),
        fill=next(iter((*codes, *given)), None),
        stored_limits=stored_limits,
        value_limits=value_limits,
        undeclared_fill=default,
    )


def _seen_dtype(attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    unsigned = str(attrs.get("_Unsigned", "")).lower()
    if unsigned == "true" and dtype.kind == "i":
        return np.dtype(f"u{dtype.itemsize}")
    if unsigned == "false" and dtype.kind == "u":
        return np.dtype(f"i{dtype.itemsize}")
    return dtype


def _number(attrs: Mapping[str, Any], key: str, default: float) -> float:
    try:
        value = float(np.asarray(attrs.get(key, default)).ravel()[0])
    except (TypeError, ValueError, IndexError):
        return default
    return value if np.isfinite(value) else default


def _numbers(attrs: Mapping[str, Any], key: str) -> list[Any]:
    if key not in attrs:
        return []
    try:
        array = np.asarray(attrs[key])
        return list(array.ravel() if array.dtype.kind in "iuf" else array.astype(np.float64).ravel())
    except (TypeError, ValueError):
        return []


def _declared(attrs: Mapping[str, Any], seen: np.dtype[Any], dtype: np.dtype[Any]) -> tuple[float | int, ...]:
    codes = [c for key in ("_FillValue", "missing_value") for c in _numbers(attrs, key)]
    if seen != dtype:  # a signed fill declared for bytes that are read as unsigned, or the reverse
        codes = [
            np.asarray(c).astype(dtype).view(seen)[()] if np.dtype(type(c)).kind == dtype.kind else c
            for c in codes
        ]
    return tuple(dict.fromkeys(_as(seen, c) for c in codes))


def _holds(dtype: np.dtype[Any], code: Any) -> bool:
    if dtype.kind == "f":
        return True
    if code != code or np.isinf(code) or code != int(code):
        return False
    low, high = type_limits(dtype)
    return bool(low <= code <= high)


def _as(dtype: np.dtype[Any], code: Any) -> float | int:
    if dtype.kind in "iu" and _holds(dtype, code):
        return int(code)
    return float(code)


def _limits(
    attrs: Mapping[str, Any], dtype: np.dtype[Any], scale: float, offset: float
) -> tuple[tuple[float | None, float | None], tuple[float | None, float | None]]:
    """valid_range and its kin. In stored numbers, unless an integer variable declares them as floats (then in values)."""
    pair = _numbers(attrs, "valid_range")
    low = pair[0] if len(pair) == 2 else next(iter(_numbers(attrs, "valid_min")), None)
    high = pair[1] if len(pair) == 2 else next(iter(_numbers(attrs, "valid_max")), None)
    decoded = (scale, offset) != (1.0, 0.0) and dtype.kind in "iu"
    decoded = decoded and any(np.asarray(x).dtype.kind == "f" for x in (low, high) if x is not None)
    plain = (None if low is None else _limit(dtype, low), None if high is None else _limit(dtype, high))
    return ((None, None), plain) if decoded else (plain, (None, None))


def _limit(dtype: np.dtype[Any], value: Any) -> float | int | None:
    array = np.asarray(value)
    if dtype.kind == "u" and array.dtype.kind == "i" and array.dtype.itemsize == dtype.itemsize and array < 0:
        return int(array.view(dtype))  # a signed attribute beside unsigned data
    number = float(array)
    if number != number:
        return None
    return int(number) if dtype.kind in "iu" and number == int(number) else number
