"""The command line: one thin file per command, each parses, calls one function of :mod:`stimpute.api`, prints.

Importing it loads neither numpy nor torch nor any geodata library: ``stimpute --help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import typer

from stimpute.cli import (
    console,
    evaluate,
    fill,
    forecast,
    info,
    models,
    reconstruct,
    simulate,
    train,
    variogram,
    verify,
)
from stimpute.cli import options as o
from stimpute.errors import InputError, StimputeError

INTERRUPTED, HUNG_UP = 130, 129
# Names of our own threads begin so. One that still runs at the end is not waited for: a library goes round in circles in a damaged
# file (unloading it would crash), or nobody wants a tile's answer any more.
OWN_THREADS = "stimpute-"
_SPINS = "3000"  # the default, 300000, is no faster on free cores and many times slower beside a busy process

app = typer.Typer(
    name="stimpute",
    help="Fill the gaps in satellite image time series: georeferenced, pretrained, with error bars.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: stimpute fill sm.nc sm_filled.nc",
)


@app.callback()
def _stimpute(version: o.Version = False) -> None:
    try:
        os.getcwd()
    except OSError:  # libraries that are looked for in it end the process
        here = os.environ.get("PWD", ".")
        raise InputError(f"{here}: the working folder does not exist any more; cd to one that does") from None


app.command(epilog=fill.EPILOG)(fill.fill)
app.command(epilog=forecast.EPILOG)(forecast.forecast)
app.command(epilog=info.EPILOG)(info.info)
app.command(epilog=reconstruct.EPILOG)(reconstruct.reconstruct)
app.command(epilog=variogram.EPILOG)(variogram.variogram)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=verify.EPILOG)(verify.verify)
app.command(epilog=models.EPILOG)(models.models)
app.command(epilog=simulate.EPILOG)(simulate.simulate)


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP: leave as after Ctrl-C, with everything unfinished removed."""


_received: list[int] = []  # signals; Typer swallows the exception


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Errors are one line on stderr, a traceback only under -v."""
    given = [str(item) for item in (sys.argv[1:] if arguments is None else arguments)]
    console.talk.quiet, console.talk.verbose, console.talk.arguments = False, False, tuple(given)
    console.show_warnings()
    _received.clear()
    code = _run(given)
    try:
        sys.stdout.flush()
    except OSError as error:
        console.hush(sys.stdout)
        if code == 0 and not isinstance(error, BrokenPipeError):
            console.complain(f"standard output cannot be written: {error.strerror}")
        return code or 1
    return code


def _run(given: Sequence[str]) -> int:
    try:
        with console.quiet_libraries():
            command = typer.main.get_command(app)  # app() itself would put a hook of its own on failures
            code = command(args=given, prog_name="stimpute", standalone_mode=False)
        if code == INTERRUPTED:  # how Typer reports a KeyboardInterrupt
            return _interrupted()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        console.hush(sys.stdout)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:
        return _failed(error)


def _interrupted() -> int:
    console.complain("terminated" if _received else "interrupted")
    return HUNG_UP if _received and _received[-1] != signal.SIGTERM else INTERRUPTED


def _failed(error: Exception) -> int:
    console.detail(traceback.format_exc())
    if isinstance(error, StimputeError):
        console.complain(str(error))
        return error.exit_code
    if hasattr(error, "format_message"):  # the parser's own errors: the command line alone is wrong
        console.complain(f"{error.format_message()} (stimpute --help)")
        return 2
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        console.complain("out of memory; lower --memory or --tile")
    elif isinstance(error, OSError):
        console.complain(
            f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        )
    else:
        console.complain(
            f"internal error: {type(error).__name__}: {error} (-v shows where; please report it)"
        )
    return 1


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    _received.append(signum)
    raise Terminated


def _catch_signals() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:  # under nohup it is ignored
        signal.signal(hang_up, _terminate)


def _open_streams() -> None:
    """Something in the place of standard streams that were closed (``2>&-``): an output file must not get the number of stderr.

    Reading finds nothing, complaints are lost, writing data is an error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names and units in an encoding without them


def _wait_briefly() -> None:
    """Let a thread that waits for others give up its core soon (GNU OpenMP, which must know before torch loads it).

    Many short computations wait for each other's threads; where another process holds a core, waiting would burn the rest.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def main() -> NoReturn:
    """The console script."""
    _open_streams()
    _wait_briefly()
    _catch_signals()
    code = run()
    if any(thread.name.startswith(OWN_THREADS) for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
