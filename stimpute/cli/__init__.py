"""The command line: one thin file per command, each parses, calls one function of :mod:`stimpute.api`, prints.

Importing it loads neither numpy nor torch nor any geodata library: ``stimpute --help`` answers at once.
"""

from __future__ import annotations

import errno
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
from stimpute.errors import StimputeError

INTERRUPTED = 130
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
    pass


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
    """SIGTERM: leave as after Ctrl-C, with everything unfinished removed."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code. Errors are one line on stderr, a traceback only under -v."""
    given = [str(item) for item in (sys.argv[1:] if arguments is None else arguments)]
    console.talk.quiet, console.talk.verbose, console.talk.arguments = False, False, tuple(given)
    console.show_warnings()
    try:
        with console.quiet_libraries():
            command = typer.main.get_command(app)  # app() itself would put a hook of its own on failures
            code = command(args=given, prog_name="stimpute", standalone_mode=False)
        if code == INTERRUPTED:  # how Typer reports a KeyboardInterrupt
            console.complain("interrupted")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, typer.Abort) as error:
        console.complain("terminated" if isinstance(error, Terminated) else "interrupted")
        return INTERRUPTED
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    if console.talk.verbose:
        traceback.print_exc()
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
    raise Terminated


def _wait_briefly() -> None:
    """Let a thread that waits for others give up its core soon (GNU OpenMP, which must know before torch loads it).

    Many short computations wait for each other's threads; where another process holds a core, waiting would burn the rest.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def main() -> NoReturn:
    """The console script."""
    _wait_briefly()
    signal.signal(signal.SIGTERM, _terminate)
    code = run()
    if any(thread.name.startswith(OWN_THREADS) for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
