"""From what was typed to values: pairs, boxes, sizes, durations. Knows text only; a UsageError says what does not fit."""

from __future__ import annotations

import re

from stimpute.errors import UsageError

_SIZES = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
_DAYS = {"min": 1 / 1440, "h": 1 / 24, "d": 1.0, "w": 7.0, "mo": 30.436875, "y": 365.2425}


def box(text: str) -> tuple[float, float, float, float]:
    """``xmin,ymin,xmax,ymax``.

    >>> box("-5,35,1,37.5")
    (-5.0, 35.0, 1.0, 37.5)
    """
    numbers = _numbers(text, "four numbers: xmin,ymin,xmax,ymax")
    if len(numbers) != 4:
        raise UsageError(f"{text!r} has {len(numbers)} numbers; four are needed: xmin,ymin,xmax,ymax")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def span(text: str) -> tuple[str, str]:
    """``FROM,TO``, either may be empty.

    >>> span("2020-01,")
    ('2020-01', '')
    """
    parts = text.split(",")
    if len(parts) != 2 or not any(parts):
        raise UsageError(f"{text!r} is not FROM,TO (ISO 8601 dates, either may be left empty)")
    return parts[0].strip(), parts[1].strip()


def bounds(text: str) -> tuple[float | None, float | None] | str | None:
    """``MIN,MAX`` (either may be empty), ``auto`` or ``none``.

    >>> bounds("0,"), bounds("auto"), bounds("none")
    ((0.0, None), 'auto', None)
    """
    if text in {"auto", "none"}:
        return None if text == "none" else text
    parts = text.split(",")
    if len(parts) != 2 or not any(part.strip() for part in parts):
        raise UsageError(f"{text!r} is not MIN,MAX, auto or none")
    try:
        low, high = (float(part) if part.strip() else None for part in parts)
    except ValueError:
        raise UsageError(f"{text!r} is not MIN,MAX, auto or none") from None
    return low, high


def size(text: str) -> int:
    """Bytes: ``500MB``, ``2GB``, ``1.5GiB``.

    >>> size("2GB"), size("1MiB")
    (2000000000, 1048576)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]I?)?B?\s*", text.upper())
    try:
        return (
            int(float(found[1]) * _SIZES[found[2] or ""])
            if found
            else _refuse(text, "a size such as 500MB or 2GB")
        )
    except ValueError:
        return _refuse(text, "a size such as 500MB or 2GB")


def days(text: str) -> float:
    """Days: ``10d``, ``36h``, ``2w``, ``3mo``, ``90min``; a plain number is days.

    >>> days("36h"), days("10")
    (1.5, 10.0)
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*(min|h|d|w|mo|y)?\s*", text)
    try:
        return (
            float(found[1]) * _DAYS[found[2] or "d"]
            if found
            else _refuse(text, "a duration such as 10d or 36h")
        )
    except ValueError:
        return float(_refuse(text, "a duration such as 10d or 36h"))


def days_or_none(text: str) -> float:
    """A duration as :func:`days` reads it, or ``none`` for any.

    >>> days_or_none("2w"), days_or_none("none")
    (14.0, inf)
    """
    return float("inf") if text.strip() == "none" else days(text)


def levels(text: str) -> tuple[float, ...]:
    """``0.05,0.5,0.95``."""
    return _numbers(text, "levels such as 0.05,0.5,0.95")


def names(text: str) -> tuple[str, ...]:
    """``linear,st``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def creation(items: list[str]) -> dict[str, str]:
    """``["COMPRESS=ZSTD"]`` as a mapping.

    >>> creation(["COMPRESS=ZSTD", "ZLEVEL=9"])
    {'COMPRESS': 'ZSTD', 'ZLEVEL': '9'}
    """
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{item!r} is not KEY=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


def whole_numbers(text: str) -> tuple[int, ...]:
    """``36,36`` or ``400x36x36``."""
    try:
        return tuple(int(part) for part in re.split(r"[x,]", text.strip()))
    except ValueError:
        raise UsageError(f"{text!r}: whole numbers such as 365,36,36") from None


def numbers(text: str) -> tuple[float, ...]:
    """``-9999,0``."""
    return _numbers(text, "numbers such as -9999 or -9999,0")


def _numbers(text: str, expected: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{text!r}: {expected}") from None


def _refuse(text: str, expected: str) -> int:
    raise UsageError(f"{text!r} is not {expected}")
