"""Sinks that finish an output in a folder of their own and then deliver it elsewhere. Knows no formats, and no places."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from stimpute.protocols import Filled, Sink, Window


class DeliveringSink(ABC):
    """A sink whose finished output lies in a temporary folder until :meth:`deliver` has taken it away.

    Parameters
    ----------
    make : creates the sink for a path in that folder.
    name : of the output there.
    staging : where the folder is made; None: among temporary files.
    """

    def __init__(self, make: Callable[[Path], Sink], name: str, staging: Path | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="stimpute-", dir=staging))
        self._path = self._folder / name
        try:
            self._sink = make(self._path)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @abstractmethod
    def deliver(self, path: Path) -> tuple[str, ...]:
        """Take the finished output away; returns where it is now."""

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window."""
        self._sink.write(window, filled, layer)

    def chunk(self, layer: int) -> tuple[int, int, int]:
        """(time, y, x) that are best written at once."""
        preferred: Any = self._sink
        return preferred.chunk(layer)  # type: ignore[no-any-return]

    def commit(self, history: str) -> tuple[str, ...]:
        """Finish, deliver, remove the folder."""
        self._sink.commit(history)
        places = self.deliver(self._path)
        shutil.rmtree(self._folder, ignore_errors=True)
        return places

    def abort(self) -> None:
        """Remove what was written; harmless after ``commit``."""
        self._sink.abort()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()
