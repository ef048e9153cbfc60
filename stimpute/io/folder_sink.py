"""One output file per input file, in a folder: every window of the merged stack is dealt out to the files it lies in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stimpute.errors import OutputError
from stimpute.io.atomic import AtomicTarget, commit_all
from stimpute.io.cf_source import CFSource
from stimpute.protocols import Filled, Sink, Window


class FileSink(Sink, Protocol):
    """The sink of one file, which can be finished before it is named."""

    def finish(self, history: str) -> AtomicTarget:
        """All but the name."""


def file_names(paths: Sequence[str | Path], suffix: str | None = None) -> list[str]:
    """The names of the outputs: those of the inputs, with another suffix if the format changes.

    Raises
    ------
    OutputError : two inputs of the same name.
    """
    names = [Path(p).name if suffix is None else Path(p).stem + suffix for p in paths]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise OutputError(
                f"{paths[names.index(name)]} and {paths[number]} would both become {name} in one folder"
            )
    return names


class FolderSink:
    """A folder of files.

    Parameters
    ----------
    out : the folder; created if it does not exist.
    make : creates the sink of one file: (path, its part of the source).

    Raises
    ------
    OutputError : steps were merged or inserted, so that they belong to no single file.
    """

    def __init__(
        self,
        out: str | Path,
        source: CFSource,
        make: Callable[[Path, CFSource], FileSink],
        *,
        suffix: str | None = None,
        overwrite: bool = False,
        staging: Path | None = None,
    ) -> None:
        if any(len(places) != 1 for places in source.steps.places):
            raise OutputError(
                f"{out}: --dedupe and --regular change the steps; name one output file instead of a folder"
            )
        self.source = source
        self.out = Path(out)
        self._folder = (
            None
            if self.out.is_dir()
            else AtomicTarget(self.out, kind="folder", overwrite=overwrite, staging=staging)
        )
        self._rank = _ranks(source)
        self._sinks: dict[int, FileSink] = {}
        self._names = file_names([f.path for f in source.files], suffix)
        home = self._folder.path if self._folder is not None else self.out
        try:
            for number in sorted({places[0][0] for places in source.steps.places}):
                self._sinks[number] = make(home / self._names[number], source.part(number))
        except BaseException:
            self.abort()
            raise

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window of the merged stack."""
        files = np.array([self.source.steps.places[t][0][0] for t in range(*window.time)])
        for number, sink in self._sinks.items():
            here = np.flatnonzero(files == number)
            if here.size:
                first = self._rank[window.time[0] + int(here[0])]
                part = Window((first, first + here.size), window.y, window.x)
                sink.write(part, _steps(filled, here), layer)

    def chunk(self, layer: int) -> tuple[int, int, int]:
        """(time, y, x) that are best written at once."""
        each: Any = next(iter(self._sinks.values()))
        return each.chunk(layer)  # type: ignore[no-any-return]

    def commit(self, history: str) -> tuple[Path, ...]:
        """Finish every file before the first gets its name, then the folder."""
        commit_all([sink.finish(history) for sink in self._sinks.values()])
        if self._folder is not None:
            self._folder.commit()
        return tuple(self.out / self._names[number] for number in self._sinks)

    def abort(self) -> None:
        """Remove what was written; harmless after ``commit``."""
        for sink in self._sinks.values():
            sink.abort()
        if self._folder is not None:
            self._folder.abort()

    def __enter__(self) -> FolderSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()


def _ranks(source: CFSource) -> list[int]:
    """For every step of the stack, its place among the steps of its own file."""
    seen: dict[int, int] = {}
    ranks = []
    for places in source.steps.places:
        file = places[0][0]
        ranks.append(seen.get(file, 0))
        seen[file] = ranks[-1] + 1
    return ranks


def _steps(filled: Filled, here: npt.NDArray[np.intp]) -> Filled:
    return replace(
        filled,
        values=filled.values[here],
        flag=filled.flag[here],
        standard_error=None if filled.standard_error is None else filled.standard_error[here],
        quantiles={level: values[here] for level, values in filled.quantiles.items()},
        members=None if filled.members is None else filled.members[:, here],
    )
