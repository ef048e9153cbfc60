"""How long a NetCDF-3 file must be to hold what its header declares.

The library reads zeros where a classic file was cut short, and zeros look like observations; so the length is checked before
anything is read. Format: the NetCDF classic format specification (CDF-1, -2 and -5), by Unidata and Northwestern University.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_MOST = 1 << 20  # entries of a list, dimensions of a variable
_HEADER_BYTES = 1 << 26


@dataclass(frozen=True)
class _Variable:
    begin: int
    size: int  # of one record, or of the whole
    record: bool


def declared_bytes(path: str | Path) -> int:
    """Length in bytes that the header of a NetCDF-3 file asks for.

    Raises
    ------
    ValueError : the header is damaged or cut.
    """
    with open(path, "rb") as file:
        return _declared(_Header(file))


def is_classic(path: str | Path) -> bool:
    """Whether a file is of the NetCDF-3 family."""
    try:
        with open(path, "rb") as file:
            return file.read(4) in (b"CDF\x01", b"CDF\x02", b"CDF\x05")
    except OSError:
        return False


def missing_bytes(path: str | Path) -> int:
    """How many bytes a NetCDF-3 file lacks; 0 for a whole one.

    Raises
    ------
    ValueError : see :func:`declared_bytes`.
    """
    return max(0, declared_bytes(path) - os.path.getsize(path))


class _Header:
    """Reads the numbers of a header one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.version = file.read(4)[3]
        self._count_bytes = 8 if self.version == 5 else 4

    def bytes(self, number: int) -> bytes:
        """So many bytes, or the header is cut."""
        if number > _HEADER_BYTES or self._file.tell() > _HEADER_BYTES:
            raise ValueError("its header declares more than a header can hold")
        found = self._file.read(number)
        if len(found) != number:
            raise ValueError("its header is cut short")
        return found

    def number(self, size: int) -> int:
        """A big-endian number."""
        return int.from_bytes(self.bytes(size), "big")

    def count(self) -> int:
        """A count: four bytes, eight in CDF-5."""
        return self.number(self._count_bytes)

    def skip_name(self) -> None:
        """A name, padded to four bytes."""
        self.bytes(_padded(self.count()))

    def entries(self, tag: int) -> Iterator[int]:
        """As many turns as a list has entries."""
        found, count = self.number(4), self.count()
        if found not in (0, tag) or count > _MOST or (found == 0 and count):
            raise ValueError("its header holds no such list")
        yield from range(count)

    def skip_attributes(self) -> None:
        """A list of attributes."""
        for _ in self.entries(0x0C):
            self.skip_name()
            self.bytes(_padded(_width(self.number(4)) * self.count()))


def _declared(header: _Header) -> int:
    records = header.count()
    lengths = []
    for _ in header.entries(0x0A):
        header.skip_name()
        lengths.append(header.count())
    header.skip_attributes()
    variables = [_variable(header, lengths) for _ in header.entries(0x0B)]
    if records == 2 ** (64 if header.version == 5 else 32) - 1:  # being streamed: as many as there are
        records = 0
    recorded = [v for v in variables if v.record]
    step = sum(_padded(v.size) for v in recorded) if len(recorded) > 1 else sum(v.size for v in recorded)
    ends = [v.begin + v.size for v in variables if not v.record]
    ends += [v.begin + (records - 1) * step + v.size for v in recorded if records]
    return max(ends, default=0)


def _variable(header: _Header, lengths: list[int]) -> _Variable:
    header.skip_name()
    rank = header.count()
    if rank > _MOST:
        raise ValueError("a variable has more dimensions than it can have")
    places = [header.count() for _ in range(rank)]
    if any(place >= len(lengths) for place in places):
        raise ValueError("a variable lies on a dimension that is not there")
    header.skip_attributes()
    width = _width(header.number(4))
    header.count()
    begin = header.number(4 if header.version == 1 else 8)
    record = bool(places) and lengths[places[0]] == 0
    return _Variable(begin, width * math.prod(lengths[p] for p in places[int(record) :]), record)


def _width(kind: int) -> int:
    if kind not in _BYTES:
        raise ValueError(f"type {kind} does not exist")
    return _BYTES[kind]


def _padded(number: int) -> int:
    return -(-number // 4) * 4
