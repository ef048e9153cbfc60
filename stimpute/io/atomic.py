"""A file or folder that appears under its final name only when it is finished. Knows nothing about formats.

The unfinished thing lies beside its target under a hidden name with the same suffix (or in a folder made for such),
created exclusively; ``commit`` flushes it to the disk and renames it, ``abort`` removes it. What it takes the place of lies aside
for that moment, and comes back should the moment be disturbed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Literal

from stimpute.errors import OutputError

_ASIDE = re.compile(r"\.(?P<stem>.+)\.stimpute-[0-9a-f]{8}(?P<suffix>.*)\.old")


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
        return commit_all([self])[0]

    def abort(self) -> None:
        """Remove the unfinished thing; harmless after ``commit``."""
        _remove(self.path)

    def _refuse_existing(self) -> None:
        if os.path.lexists(self.target) and not self.overwrite:
            raise OutputError(f"{self.target}: already exists; --overwrite replaces it")

    def _keep_mode(self) -> None:
        """What takes the place of another file or folder is as private as that one was."""
        if self.target.is_symlink() or not self.target.exists() or self.target.is_dir() != self.path.is_dir():
            return
        mode = stat.S_IMODE(self.target.stat().st_mode)
        self.path.chmod(mode | stat.S_IRWXU if self.path.is_dir() else mode)

    @property
    def _aside(self) -> Path:
        """Where what was there waits until the new thing has its name."""
        return self.target.with_name(f"{self.path.name}.old")

    def _swap(self, reversible: bool) -> None:
        """Give the final name; a single file needs nothing aside, since it takes another one's place in one step."""
        if self.target.is_dir() and not self.target.is_symlink():
            os.replace(self.target, self._aside)  # a folder that is not empty cannot be renamed onto
        elif reversible and self.target.exists():
            with suppress(OSError):  # a file system without links
                os.link(self.target, self._aside, follow_symlinks=False)
        os.replace(self.path, self.target)

    def _swap_back(self, stood: bool) -> None:
        """As it was, wherever :meth:`_swap` was disturbed; ``stood``: something was there."""
        kept = os.path.lexists(self._aside)
        with suppress(OSError):
            if not os.path.lexists(self.path) and (kept or not stood):
                os.replace(self.target, self.path)
            if kept and os.path.lexists(self.target):  # linked, and not replaced yet
                self._aside.unlink()
            elif kept:
                os.replace(self._aside, self.target)


def commit_all(targets: Sequence[AtomicTarget]) -> tuple[Path, ...]:
    """Commit targets that belong together: every one is flushed before the first is renamed, and all get their names, or none."""
    begun: list[tuple[AtomicTarget, bool]] = []
    target = targets[0] if targets else None
    try:
        for target in targets:
            target._refuse_existing()
            flush(target.path)
            target._keep_mode()
        for target in targets:
            begun.append((target, os.path.lexists(target.target)))
            target._swap(reversible=len(targets) > 1)
        for folder in {target.target.parent for target in targets}:
            _sync(folder)
    except BaseException as error:
        for each, stood in reversed(begun):
            each._swap_back(stood)
        for each in targets:
            each.abort()
        if isinstance(error, OSError) and target is not None:
            raise OutputError(f"{target.target}: cannot be written: {error.strerror or error}") from error
        raise
    places = {target.target for target in targets}
    try:
        _forget_replaced(places)
    except BaseException:  # interrupted: the outputs have their names, what they replaced still goes
        _forget_replaced(places)
        raise
    return tuple(target.target for target in targets)


def unfinished(target: Path) -> list[Path]:
    """What lies unfinished beside a target: of runs that were killed outright, or of one that writes it now. Nothing tells which."""
    suffix = f"({re.escape(target.suffix)})?" if target.suffix else ""
    ours = re.compile(rf"\.{re.escape(target.stem)}\.stimpute-[0-9a-z_]{{8}}{suffix}")
    return sorted(target.with_name(name) for name in os.listdir(target.parent) if ours.fullmatch(name))


def _forget_replaced(places: Set[Path]) -> None:
    """Remove what lies aside, also since runs that were killed on the way."""
    for folder in {place.parent for place in places}:
        for name in os.listdir(folder):
            aside = _ASIDE.fullmatch(name)
            if aside is not None and folder / (aside["stem"] + aside["suffix"]) in places:
                with suppress(OSError):  # the outputs have their names all the same
                    _remove(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
