"""Where the positions of one dimension of an input are in the output."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stimpute.io.verify.raw import Array, Index, RawArray

Positions = npt.NDArray[np.intp]
NOWHERE, DROPPED = -1, -2  # not in the output; or left out by --dedupe


@dataclass(frozen=True)
class Mapping1D:
    """Where the positions of one input dimension stand in the output: ``out[k]`` of input position ``k``, negative for nowhere."""

    out: Positions
    altered: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def slices(self, part: slice) -> tuple[Positions, slice | Positions]:
        """Input positions (relative to ``part``) that exist in the output, and where: a slice wherever possible."""
        out = self.out[part]
        kept = np.flatnonzero(out >= 0)
        places = out[kept]
        if places.size and bool((np.diff(places) == 1).all()):
            return kept, slice(int(places[0]), int(places[-1]) + 1)
        return kept, places


@dataclass(frozen=True)
class Part:
    """A block of an input variable, where it stands in the output, and which of its positions exist there."""

    dims: tuple[str, ...]
    block: tuple[slice, ...]
    where: Index
    inside: tuple[Positions, ...]
    altered: npt.NDArray[np.bool_]  # by --dedupe; broadcasts to the part

    def cut(self, array: RawArray) -> Array:
        """The stored numbers of the input that exist in the output."""
        stored = array.read(self.block)
        return stored[np.ix_(*self.inside)] if stored.ndim else stored

    def place(self, cell: tuple[int, ...]) -> str:
        """A cell of the part in words: its indices in the input."""
        indices = (b.start + i[c] for b, i, c in zip(self.block, self.inside, cell, strict=True))
        return ", ".join(f"{dim}={index}" for dim, index in zip(self.dims, indices, strict=True))


def positions(array: RawArray) -> Array:
    """The coordinate in comparable numbers: times as microseconds in their own calendar, the rest as it is stored."""
    stored = array.read((slice(0, array.shape[0]),))
    units = array.attributes.get("units")
    if not isinstance(units, str) or " since " not in units or stored.dtype.kind not in "iuf":
        return stored
    import cftime

    try:
        dates = cftime.num2date(stored, units, str(array.attributes.get("calendar", "standard")))
    except (ValueError, OverflowError, TypeError):
        return stored
    return np.array([None if date is None else date.isoformat() for date in np.ravel(dates)], dtype=str)
