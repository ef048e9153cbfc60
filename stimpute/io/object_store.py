"""Outputs at addresses (``s3://bucket/filled.zarr``): finished on the disk first, then uploaded. Knows fsspec, no formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from stimpute.errors import OutputError, StimputeError, UploadError
from stimpute.io.delivery import DeliveringSink
from stimpute.io.zarr_layout import ROOT_DOCUMENTS
from stimpute.protocols import Sink

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def is_address(out: object) -> bool:
    """Whether an output is named by an address with a scheme, rather than by a path.

    >>> is_address("s3://bucket/a.zarr"), is_address("a.zarr"), is_address(None)
    (True, False, False)
    """
    return isinstance(out, str) and "://" in out


def local_name(address: str) -> str:
    """The last part of an address: the name of what lies on the disk until it is uploaded.

    Raises
    ------
    OutputError : there is none.
    """
    name = PurePosixPath(address.partition("://")[2]).name
    if not name:
        raise OutputError(f"{address}: names a bucket or folder; add the name of the output")
    return name


def check_address(address: str, overwrite: bool) -> None:
    """Refuse an address before anything is computed.

    Raises
    ------
    OutputError : nothing is installed that can write there, it does not answer, or something is there without ``overwrite``.
    """
    local_name(address)
    store, path = _store(address)
    if not overwrite and _tried(address, lambda: store.exists(path)):
        raise OutputError(f"{address}: already exists; --overwrite replaces it")


class UploadSink(DeliveringSink):
    """A sink whose finished file or folder goes to an address.

    A file takes the place of what was there when it has arrived. A folder that was there is removed first, and the root documents of a
    Zarr store come last: nobody opens half a store.

    Parameters
    ----------
    address : with a scheme that fsspec knows.
    make : creates the sink for a path on the disk.
    staging : folder for the finished thing until it is uploaded; None: one for temporary files.

    Raises
    ------
    OutputError : see :func:`check_address`.
    UploadError : by ``commit``, where the finished output does not arrive.
    """

    def __init__(
        self, address: str, make: Callable[[Path], Sink], staging: Path | None, overwrite: bool
    ) -> None:
        check_address(address, overwrite)
        self.address = address
        super().__init__(make, local_name(address), staging)

    def deliver(self, path: Path) -> tuple[str, ...]:
        """Upload it; an error keeps what it was made of for another try."""
        try:
            store, there = _store(self.address)
            _tried(self.address, lambda: _upload(path, store, there))
        except OutputError as error:
            raise UploadError(str(error)) from error
        return (self.address,)


def _upload(local: Path, store: AbstractFileSystem, path: str) -> None:
    if store.isdir(path):
        store.rm(path, recursive=True)  # a file is replaced by the one that comes, no sooner
    files = [local] if local.is_file() else sorted(p for p in local.rglob("*") if p.is_file())
    last = [p for p in files if p.parent == local and p.name in ROOT_DOCUMENTS]
    for batch in ([p for p in files if p not in last], last):
        there = [path if p == local else f"{path}/{p.relative_to(local).as_posix()}" for p in batch]
        if batch:
            store.put([str(p) for p in batch], there)


def _store(address: str) -> tuple[AbstractFileSystem, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise OutputError(f"{address}: needs fsspec; pip install fsspec s3fs (or gcsfs, adlfs)") from error
    found: tuple[AbstractFileSystem, str] = _tried(address, lambda: url_to_fs(address))
    return found


def _tried(address: str, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except (StimputeError, MemoryError):
        raise
    except Exception as error:  # whatever a store's library raises: no network, no rights, no such bucket
        raise OutputError(f"{address}: cannot be written ({error})") from error
