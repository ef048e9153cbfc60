"""A file or folder that appears under its final name only when it is finished. Knows nothing about formats.

The unfinished thing lies beside its target under a hidden name with the same suffix (or in a folder made for such),
created exclusively; ``commit``
flushes it to the disk and renames it, ``abort`` removes it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from stimpute.errors import OutputError


class AtomicTarget:
    """One file or folder on its way to its final name.

    Parameters
    ----------
    target : the final name.
    kind : ``"file"`` or ``"folder"``; an empty one is created at :attr:`path`.
    overwrite : whether ``commit`` may replace what is there.
    staging : folder, on the same file system, for the unfinished thing; None: beside the target.

    Attributes
    ----------
    path : where to write until ``commit``.

    Raises
    ------
    OutputError : the folder of the target is absent or not writable, or the target exists without ``overwrite``.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        kind: Literal["file", "folder"] = "file",
        overwrite: bool = False,
        staging: Path | None = None,
    ) -> None:
        self.target = Path(target)
        if kind == "folder" and self.target.is_symlink():  # what is linked to is replaced, not the link
            self.target = self.target.resolve()
        self.overwrite = overwrite
        self._refuse_existing()
        name = f".{self.target.stem}.stimpute-{secrets.token_hex(4)}{self.target.suffix}"
        self.path = (staging if staging is not None else self.target.parent) / name
        try:
            if kind == "folder":
                self.path.mkdir()
            else:
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise OutputError(f"{self.target}: cannot be written: {error.strerror or error}") from error

    def commit(self) -> Path:
        """Flush, rename to the final name, return it."""
        try:
            self._refuse_existing()
            flush(self.path)
            self._keep_mode()
            self._replace()
            _sync(self.target.parent)
        except OSError as error:
            self.abort()
            raise OutputError(f"{self.target}: cannot be written: {error.strerror or error}") from error
        except OutputError:
            self.abort()
            raise
        return self.target

    def abort(self) -> None:
        """Remove the unfinished thing; harmless after ``commit``."""
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
        if self.target.exists() and not self.overwrite:
            raise OutputError(f"{self.target}: already exists; --overwrite replaces it")

    def _keep_mode(self) -> None:
        """A file that takes another one's place is as private as that one was."""
        if self.target.is_file() and self.path.is_file() and not self.target.is_symlink():
            self.path.chmod(stat.S_IMODE(self.target.stat().st_mode))

    def _replace(self) -> None:
        if not self.target.is_dir() or self.target.is_symlink():
            os.replace(self.path, self.target)
            return
        aside = self.target.with_name(
            f"{self.path.name}.old"
        )  # a folder that is not empty cannot be renamed onto
        os.replace(self.target, aside)
        try:
            os.replace(self.path, self.target)
        except OSError:
            os.replace(aside, self.target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def commit_all(targets: Sequence[AtomicTarget]) -> tuple[Path, ...]:
    """Commit several targets that belong together: every one is flushed before the first is renamed."""
    for target in targets:
        flush(target.path)
    return tuple(target.commit() for target in targets)


def flush(path: Path) -> None:
    """Force a file, or every file of a folder, to the disk."""
    if path.is_dir():
        for inner in path.rglob("*"):
            if inner.is_file():
                _sync(inner)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
