"""The parsers of :mod:`stimpute.parse` for Typer, which says which option it was that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import typer

from stimpute import parse
from stimpute.errors import UsageError

Text = TypeVar("Text")
Value = TypeVar("Value")


def _for_typer(parser: Callable[[Text], Value]) -> Callable[[Text], Value]:
    @wraps(parser)
    def parsed(text: Text) -> Value:
        try:
            return parser(text)
        except UsageError as error:
            raise typer.BadParameter(str(error)) from None

    return parsed


box = _for_typer(parse.box)
span = _for_typer(parse.span)
size = _for_typer(parse.size)
days = _for_typer(parse.days)
days_or_none = _for_typer(parse.days_or_none)
levels = _for_typer(parse.levels)
names = _for_typer(parse.names)
whole_numbers = _for_typer(parse.whole_numbers)


def named(paths: list[str] | None) -> list[str] | None:
    """Paths as they are typed; an empty one would mean the current folder to everybody else.

    >>> named(["a.nc", "-"])
    ['a.nc', '-']
    """
    if paths and "" in paths:
        raise typer.BadParameter("an empty name; is a variable of the shell unset?")
    return paths
