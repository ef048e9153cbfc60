"""What a keyword may be: a value, or the text that the command line takes for it, read by the same parsers. Opens nothing."""

from __future__ import annotations

import inspect
import math
import operator
import os
import reprlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from stimpute import parse
from stimpute.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
Reader = Callable[[Any], Any]


def as_typed(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of the API take every option as the command line does too; None is as if left out.

    The function then raises a UsageError that names the option for a value that is none of its kind. The CPU threads that it
    computes with are its own.
    """
    parameters = inspect.signature(function).parameters.values()
    order = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> R:
        given = [value_of(name, value) for name, value in zip(order, args)]
        named = {name: value_of(name, value) for name, value in kwargs.items() if not _left_out(name, value)}
        with _threads_kept(named):
            return function(*given, *args[len(order) :], **named)

    return call


def _threads_kept(options: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Gives the caller's process its CPU threads back where an option may change them."""
    if not any(options.get(name) for name in ("threads", "dask", "resume")):
        return nullcontext()
    from stimpute.inference.devices import shared_out

    return shared_out(1)


def _left_out(name: str, value: Any) -> bool:
    return value is None and name in _READERS and name not in ("bounds", "out")


def value_of(name: str, value: Any) -> Any:
    """The value of a keyword, as a value or as text; of a name that is none of an option, what was given.

    Raises
    ------
    UsageError : it is none of its kind.

    >>> value_of("max_gap", "36h"), value_of("max_gap", 1.5), value_of("quantiles", 0.5), value_of("methods", "mean")
    (1.5, 1.5, (0.5,), ('mean',))
    """
    if value is None or name not in _READERS:
        return value
    reader, expected = _READERS[name]
    option = {"out": "OUT", "start": "--from"}.get(name, f"--{name.replace('_', '-')}")
    try:
        return reader(value)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from None
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise UsageError(f"{option} {reprlib.repr(value)}: {expected}") from None


# --- one value --------------------------------------------------------------------------------------------------------


def _number(value: Any) -> float:
    """A number that is one; truth values and NaN are none."""
    number = float(value)
    if isinstance(value, bool) or math.isnan(number):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, str):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)


def _truth(value: Any) -> bool:
    if value not in (True, False):
        raise ValueError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _path(value: Any) -> str | os.PathLike[str]:
    return value if isinstance(value, str) else _path_like(value)


def _path_like(value: Any) -> os.PathLike[str]:
    os.fspath(value)
    return value  # type: ignore[no-any-return]


# --- several ----------------------------------------------------------------------------------------------------------


def _or_text(reader: Reader, parser: Callable[[str], Any]) -> Reader:
    """Text by the command line's parser, everything else by a reader."""
    return lambda value: parser(value) if isinstance(value, str) else reader(value)


def _each(reader: Reader) -> Reader:
    """One value or several as a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        one = isinstance(value, str | os.PathLike) or not hasattr(value, "__iter__")
        return tuple(reader(item) for item in ([value] if one else value))

    return read


def _box(value: Any) -> tuple[float, ...]:
    box: tuple[float, ...] = _each(_number)(value)
    if len(box) != 4:
        raise ValueError
    return box


def _pair(reader: Reader) -> Reader:
    def read(value: Any) -> tuple[Any, Any]:
        first, second = value
        return reader(first), reader(second)

    return read


def _label(value: Any) -> str:
    return "" if value is None else str(value)


def _end(value: Any) -> float | None:
    return None if value is None else _number(value)


def _creation(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else parse.creation(list(value))


_NUMBER = (_number, "a number")
_WHOLE = (_whole, "a whole number")
_TRUTH = (_truth, "True or False")
_TEXT = (_text, "text")
_PATH = (_path, "a path")
_TEXTS = (_each(_text), "text, or several")
_DAYS = (_or_text(_number, parse.days), "days, or a duration such as 10d or 36h")
_WHOLES = (_or_text(_each(_whole), parse.whole_numbers), "whole numbers")
_NAMES = (_or_text(_each(_text), parse.names), "names such as linear,st")

_READERS: dict[str, tuple[Reader, str]] = {
    **dict.fromkeys(("min_obs", "share", "last", "minutes", "val_fraction", "worlds", "lr", "missing"), _NUMBER),
    **dict.fromkeys(
        ("threads", "tile", "overlap", "seed", "seeds", "samples", "factor", "steps", "origins", "batch", "depth", "width", "window"),
        _WHOLE,
    ),
    **dict.fromkeys(
        (
            "regular", "qc", "force", "no_wrap", "uncertainty", "overwrite", "fast", "fill_never_observed", "flags", "resume",
            "members", "conserve", "spatial_embedding", "covariates",
        ),
        _TRUTH,
    ),
    **dict.fromkeys(
        (
            "bbox_crs", "date_format", "dedupe", "method", "dtype", "of", "device", "precision", "dask", "by", "estimator", "kind",
            "task", "size", "attention",
        ),
        _TEXT,
    ),
    **dict.fromkeys(("out", "domain", "model", "plot", "archive", "truth", "start"), _PATH),
    **dict.fromkeys(("methods", "holdout"), _NAMES),
    **dict.fromkeys(("horizon", "shape"), _WHOLES),
    "var": _TEXTS,
    "covariate": (_each(_path), "a path, or several"),
    "nodata": (_or_text(_each(float), parse.numbers), "a number, or several"),
    "times": (lambda value: value if isinstance(value, str | os.PathLike) else tuple(str(v) for v in value), "dates, or a file of them"),
    "bbox": (_or_text(_box, parse.box), "four numbers: xmin,ymin,xmax,ymax"),
    "time": (_or_text(_pair(_label), parse.span), "FROM,TO (ISO 8601 dates, either may be left empty)"),
    "bounds": (_or_text(_pair(_end), parse.bounds), "MIN,MAX (None: open), auto or none"),
    "quantiles": (_or_text(_each(_number), parse.levels), "levels such as 0.05,0.5,0.95"),
    "memory": (_or_text(_whole, parse.size), "bytes, or a size such as 500MB or 2GB"),
    "max_gap": _DAYS,
    "every": _DAYS,
    "max_extrapolation": (_or_text(_number, parse.days_or_none), "days, a duration such as 10d or 36h, or none"),
    "max_distance": (lambda value: value if isinstance(value, str) else _number(value), "km, or a distance such as 50km or 3cells"),
    "adapt": (lambda value: value if isinstance(value, str) else _number(value), "minutes, such as 2, or steps, such as 300steps"),
    "co": (_or_text(_creation, lambda text: parse.creation([text])), "KEY=VALUE, or a mapping"),
}  # fmt: skip
