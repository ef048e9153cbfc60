"""A file as it is stored: named variables with dimensions, attributes and stored numbers, read lazily.

One shape for NetCDF, Zarr and xarray objects, so that everything behind it (CF interpretation, sinks) is written once.
Names are full paths inside the file: ``"sst"``, or ``"group/sst"``. Knows nothing about CF: no scaling, no fills.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.io.room import refuse_absurd

Array = npt.NDArray[Any]
Key = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class RawVariable:
    """One stored array, not yet read.

    Parameters
    ----------
    name : full path in the file.
    dims : full paths of its dimensions.
    shape, dtype : as stored; ``dtype`` is ``object`` for strings and other things that are no numbers.
    attrs : as stored, numbers in their stored types.
    storage : how it is laid out (chunks, compression, byte order), in words of its own format.
    load : reads a tuple of slices, one per dimension.
    label : the file it lies in, for messages.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attrs: Mapping[str, Any]
    load: Callable[[Key], Array]
    storage: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def group(self) -> str:
        """The group it lies in; empty at the root."""
        return self.name.rpartition("/")[0]

    @property
    def short(self) -> str:
        """Its name without the group."""
        return self.name.rpartition("/")[2]

    def text(self, attribute: str) -> str:
        """An attribute as stripped text; empty if absent."""
        return str(self.attrs.get(attribute, "")).strip()

    def read(self, key: Key | None = None) -> Array:
        """Stored numbers inside slices (everything by default).

        Raises
        ------
        InputError : they, or one chunk of them, need more memory than is free; or the file is damaged.
        """
        wanted = key if key is not None else (slice(None),) * len(self.shape)
        cells = math.prod(len(range(*part.indices(n))) for part, n in zip(wanted, self.shape))
        chunk = math.prod(self.storage.get("chunksizes", ())) if cells else 0
        refuse_absurd(
            max(cells, chunk) * max(self.dtype.itemsize, 1),
            f"{self.label}: {self.name} ({' x '.join(map(str, self.shape))}"
            + (f", in chunks of {' x '.join(map(str, self.storage['chunksizes']))})" if chunk > 1 else ")"),
            "is the file damaged? If not, take a part of it with --bbox or --time",
        )
        return np.asarray(self.load(wanted))

    def read_at(self, at: Mapping[str, Array]) -> Array:
        """Stored numbers at given indices of some dimensions (all of the others), whatever their order.

        Indices are read run by run, so that a window costs a window.
        """
        runs = [
            list(stretches(at[d])) if d in at else [(slice(0, n), slice(0, n))]
            for d, n in zip(self.dims, self.shape)
        ]
        if all(len(r) == 1 for r in runs):
            return self.read(tuple(r[0][0] for r in runs))
        out = np.empty(
            [len(at[d]) if d in at else n for d, n in zip(self.dims, self.shape)], dtype=self.dtype
        )
        for pieces in product(*runs):
            out[tuple(p[1] for p in pieces)] = self.read(tuple(p[0] for p in pieces))
        return out


def stretches(indices: Array) -> Iterator[tuple[slice, slice]]:
    """Consecutive stretches of an index array: (slice in the file, slice in the result).

    >>> [(a.start, a.stop) for a, _ in stretches(np.array([3, 4, 5, 0, 1]))]
    [(3, 6), (0, 2)]
    """
    index = np.asarray(indices, dtype=np.intp)
    if index.size == 0:
        yield slice(0, 0), slice(0, 0)
        return
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 2) != 1)
    for a, b in zip(starts, [*starts[1:], len(index)]):
        yield slice(int(index[a]), int(index[b - 1]) + 1), slice(int(a), int(b))


def holds_text(variable: RawVariable) -> bool:
    """Whether a variable that holds no numbers holds text, not compounds or ragged cells; an empty one does."""
    if variable.dtype.kind != "O":
        return variable.dtype.kind in "SU"
    first = np.asarray(variable.read(tuple(slice(0, 1) for _ in variable.shape))).ravel()
    return not first.size or isinstance(first[0], str)


@dataclass(eq=False)
class RawFile:
    """A whole file, opened.

    Parameters
    ----------
    path : where it came from, for messages.
    format : ``"NetCDF"``, ``"Zarr"`` or ``"memory"``; ``variant`` says which kind (``"NETCDF3_CLASSIC"``, ``"v2"``).
    dims : length of every dimension; those in ``unlimited`` may grow.
    groups : attributes of every group; the root is ``""``.
    native : the library's own handle.
    """

    path: Path | str
    format: str
    variant: str
    dims: Mapping[str, int]
    variables: Mapping[str, RawVariable]
    groups: Mapping[str, Mapping[str, Any]]
    native: Any
    unlimited: frozenset[str] = frozenset()
    close: Callable[[], None] = lambda: None

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Global attributes."""
        return self.groups.get("", {})

    def find(self, name: str, near: str = "") -> RawVariable | None:
        """A variable by the name another one (in group ``near``) calls it: the nearest enclosing group wins."""
        if name.startswith("/"):
            return self.variables.get(name[1:])
        group = near
        while True:
            found = self.variables.get(f"{group}/{name}" if group else name)
            if found is not None or not group:
                return found
            group = group.rpartition("/")[0]

    def coordinate(self, dim: str) -> RawVariable | None:
        """The coordinate variable of a dimension (1-D, same name), if there is one."""
        variable = self.variables.get(dim)
        return variable if variable is not None and variable.dims == (dim,) else None
