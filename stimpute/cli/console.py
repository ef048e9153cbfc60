"""What the user sees while a command runs: progress, warnings and the summary on stderr, data on stdout. Knows no methods."""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from stimpute.errors import OutputError, StimputeWarning

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.table import Table


@dataclass
class Talk:
    """What was typed, and how much a command says: -q, -v."""

    quiet: bool = False
    verbose: bool = False
    arguments: tuple[str, ...] = ()


talk = Talk()


def say(text: str) -> None:
    """One line on stderr, unless -q."""
    if not talk.quiet:
        _tell(text)


def complain(text: str) -> None:
    """The one line of an error."""
    _tell(f"stimpute: error: {' '.join(text.split())}")


def detail(text: str) -> None:
    """One line on stderr under -v."""
    if talk.verbose:
        _tell(text)


def _tell(text: str) -> None:
    """One line on stderr. Nobody can be told where that is full or gone: the run goes on."""
    try:
        print(text, file=sys.stderr)  # noqa: T201
    except OSError:
        hush(sys.stderr)


def hush(stream: TextIO) -> None:
    """Send what a stream still holds, and all that follows, nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()


def write_json(value: Any) -> None:
    """JSON on stdout, in any encoding; what is not finite becomes null."""
    write_text(json.dumps(_plain(value), indent=2, allow_nan=False))


def write_text(text: str) -> None:
    """Data on stdout.

    Raises
    ------
    OutputError : it is full.
    """
    try:
        print(text)  # noqa: T201
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror}") from error


def write_table(table: Table) -> None:
    """A rich table on stdout; as wide as it needs to be where stdout is no terminal."""
    stdout().print(table)


def stdout() -> Console:
    """A rich console on stdout."""
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def show_warnings() -> None:
    """Print our warnings as ``warning: ...``; others only under -v."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        if issubclass(category, StimputeWarning):
            _tell(f"warning: {' '.join(str(message).split())}")
        else:
            detail(f"warning: {category.__name__}: {message} ({filename}:{lineno})")

    warnings.showwarning = show
    warnings.simplefilter("always", StimputeWarning)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Tracebacks of libraries that go on regardless, only under -v.

    GDAL's messages about a damaged file need not be UTF-8, which rasterio's logger cannot say; zarr reads in parallel, and of several
    failures raises one.
    """

    def unraisable(arguments: Any) -> None:
        detail(f"{type(arguments.exc_value).__name__}: {arguments.exc_value} (in {arguments.object!r})")

    hooks, logger = (sys.unraisablehook, sys.excepthook), logging.getLogger("asyncio")
    sys.unraisablehook = unraisable
    sys.excepthook = lambda *unheard: (
        None
    )  # Cython says it twice, once through here; our own errors do not pass this way
    logger.addFilter(_verbose)
    try:
        yield
    finally:
        sys.unraisablehook, sys.excepthook = hooks
        gc.collect(1)  # what fails unheard says so when it is thrown away
        logger.removeFilter(_verbose)


def _verbose(record: object) -> bool:
    return talk.verbose


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar on stderr where that is a terminal (and not -q); None otherwise."""
    if talk.quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show
