"""Standard input and output as files: formats that need seeking are spooled. Knows magic numbers, no formats."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from stimpute.errors import InputError, OutputError, UsageError
from stimpute.io.delivery import DeliveringSink
from stimpute.protocols import Sink

if TYPE_CHECKING:
    import xarray as xr

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"CDF\x01", ".nc"),
    (b"CDF\x02", ".nc"),
    (b"CDF\x05", ".nc"),
    (b"\x89HDF", ".nc"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"II+\x00", ".tif"),
    (b"MM\x00+", ".tif"),
    (b"PK\x03\x04", ".zarr.zip"),
)


@contextmanager
def spooled(stream: IO[bytes], folder: str | Path | None = None) -> Iterator[Path]:
    """The bytes of a stream as a temporary file with the suffix of its format, removed afterwards.

    Raises
    ------
    UsageError : the stream is a terminal.
    InputError : nothing came, or nothing known.
    """
    if stream.isatty():
        raise UsageError(
            "-: standard input is a terminal; pipe a NetCDF or GeoTIFF file into it, or name a file"
        )
    head = stream.read(8)
    if not head:
        raise InputError("-: nothing came through standard input")
    suffix = next((s for magic, s in _MAGIC if head.startswith(magic)), None)
    if suffix is None:
        raise InputError(
            f"-: standard input is no NetCDF, GeoTIFF or zipped Zarr file (it starts with {head!r}); @- reads a list of inputs"
        )
    with tempfile.TemporaryDirectory(prefix="stimpute-", dir=folder) as place:
        path = Path(place) / f"stdin{suffix}"
        with path.open("wb") as file:
            file.write(head)
            shutil.copyfileobj(stream, file, 1 << 20)
        yield path


def refuse_terminal(stream: IO[bytes]) -> None:
    """Raise before anything is computed if a binary file would be shown on a terminal.

    Raises
    ------
    UsageError : it would.
    """
    if stream.isatty():
        raise UsageError(
            "-: standard output is a terminal; redirect it into a file or a pipe, or name an output"
        )


def copy_out(path: str | Path, stream: IO[bytes]) -> None:
    """A finished file onto a stream.

    Raises
    ------
    UsageError : the stream is a terminal.
    OutputError : a folder (a Zarr store) cannot be streamed; the stream leads to a full disk.
    """
    refuse_terminal(stream)
    if Path(path).is_dir():
        raise OutputError(
            f"{path}: a folder cannot go through standard output; write .zarr.zip, NetCDF or GeoTIFF"
        )
    try:
        with Path(path).open("rb") as file:
            shutil.copyfileobj(file, stream, 1 << 20)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"-: standard output cannot be written: {error.strerror}") from error


class StreamSink(DeliveringSink):
    """A sink whose finished file goes to standard output.

    Parameters
    ----------
    make : creates the sink for a path in a temporary folder.
    suffix : of that path.

    Raises
    ------
    UsageError : standard output is a terminal.
    """

    def __init__(self, make: Callable[[Path], Sink], suffix: str) -> None:
        refuse_terminal(sys.stdout.buffer)
        super().__init__(make, f"stdout{suffix}")

    def deliver(self, path: Path) -> tuple[str, ...]:
        """Stream it; no files remain."""
        copy_out(path, sys.stdout.buffer)
        return ()


def write_dataset(dataset: xr.Dataset) -> None:
    """A small dataset as NetCDF on standard output.

    Raises
    ------
    UsageError : standard output is a terminal.
    """
    refuse_terminal(sys.stdout.buffer)
    with tempfile.TemporaryDirectory(prefix="stimpute-") as place:
        path = Path(place) / "stdout.nc"
        dataset.to_netcdf(path, engine="netcdf4")
        copy_out(path, sys.stdout.buffer)


def with_stdin(paths: list[Any], opened: Callable[[list[Any]], Any]) -> Any:
    """Open paths of which one is ``-``: standard input is spooled, and removed when the source is closed."""
    spool = spooled(sys.stdin.buffer)
    path = spool.__enter__()
    try:
        source = opened([path if str(p) == "-" else p for p in paths])
    except BaseException:
        spool.__exit__(None, None, None)
        raise
    close = source.close

    def close_and_remove() -> None:
        close()
        spool.__exit__(None, None, None)

    source.close = close_and_remove
    return source
