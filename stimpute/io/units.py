"""Units of variables, compared whatever their spelling. Converts nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNIT = re.compile(
    r"([A-Za-z%\u00b0]+)(?:\^|\*\*)?([-+]?\d+)?|(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)|(/)|(\s+|[.*])"
)
_SAME_UNIT = {
    "degreesc": "degC", "degreec": "degC", "celsius": "degC", "degreescelsius": "degC", "degreecelsius": "degC", "degc": "degC",
    "kelvin": "K", "degk": "K", "degreesk": "K", "percent": "%", "meter": "m", "metre": "m", "meters": "m", "metres": "m",
}  # fmt: skip


def units_as_powers(text: str) -> Mapping[str, float] | str:
    """Units as powers of their symbols, so that spellings of one thing are equal; the text itself where it cannot be read.

    >>> units_as_powers("m3 m-3") == units_as_powers("m3/m3"), units_as_powers("mW m-2") == units_as_powers("MW m-2")
    (True, False)
    >>> units_as_powers("degrees_C") == units_as_powers("degC"), units_as_powers("1.0") == units_as_powers("1")
    (True, True)
    """
    whole = _SAME_UNIT.get(re.sub(r"[\s_]+", "", text).lower())
    if whole is not None:
        return {"": 1.0, whole: 1.0}
    powers: dict[str, float] = {"": 1.0}
    at, sign = 0, 1
    while at < len(text):
        found = _UNIT.match(text, at)
        if found is None:
            return text
        at = found.end()
        symbol, power, number, slash, _ = found.groups()
        if slash:
            sign = -1
        elif number:
            powers[""] *= float(number) ** sign
            sign = 1
        elif symbol:
            name = _SAME_UNIT.get(symbol.lower(), symbol)
            powers[name] = powers.get(name, 0.0) + sign * float(power or 1)
            sign = 1
    return powers
