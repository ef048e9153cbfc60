"""Arrays on disk that are written window by window in any order and read back in another. Knows no raster format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import OutputError
from stimpute.protocols import Window

PIECE_BYTES = 64 * 2**20


class StagedArray:
    """An uncompressed (time, y, x) array in one temporary file.

    Written and read without a memory map: a full disk is then an error, not a signal, and what was read takes no memory.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: npt.DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.ftruncate(self._descriptor, int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize)

    def write(self, window: Window, values: npt.NDArray[Any]) -> None:
        """Store a window.

        Raises
        ------
        OutputError : the disk is full.
        """
        block = np.ascontiguousarray(values, dtype=self.dtype)
        _, ny, nx = self.shape
        whole_rows = window.x == (0, nx)
        try:
            for t, frame in enumerate(block, start=window.time[0]):
                if whole_rows:
                    self._put(frame, (t * ny + window.y[0]) * nx)
                else:
                    for y, row in enumerate(frame, start=window.y[0]):
                        self._put(row, (t * ny + y) * nx + window.x[0])
        except OSError as error:
            raise OutputError(f"{self.path.parent}: cannot be written: {error.strerror or error}") from error

    def read(self, window: Window) -> npt.NDArray[Any]:
        """A copy of a window."""
        out = np.empty(window.shape, dtype=self.dtype)
        _, ny, nx = self.shape
        whole_rows = window.x == (0, nx)
        for t, frame in enumerate(out, start=window.time[0]):
            if whole_rows:
                self._get(frame, (t * ny + window.y[0]) * nx)
            else:
                for y, row in enumerate(frame, start=window.y[0]):
                    self._get(row, (t * ny + y) * nx + window.x[0])
        return out

    def close(self) -> None:
        """Release the file (it stays)."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, cells: npt.NDArray[Any], at: int) -> None:
        data, offset = cells.reshape(-1).view(np.uint8).data, at * self.dtype.itemsize
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written

    def _get(self, cells: npt.NDArray[Any], at: int) -> None:
        data, offset = cells.reshape(-1).view(np.uint8).data, at * self.dtype.itemsize
        while data:
            count = os.preadv(self._descriptor, [data], offset)
            if not count:
                raise OutputError(f"{self.path.parent}: staged data are cut short; is the disk full?")
            data, offset = data[count:], offset + count


Staged = Mapping[tuple[str, int], StagedArray]  # (what it holds, layer) -> array


def strips(step: int, shape: tuple[int, int], itemsize: int) -> Iterator[Window]:
    """Full-width windows of one step that fit in memory."""
    ny, nx = shape
    rows = max(1, PIECE_BYTES // (nx * itemsize))
    for top in range(0, ny, rows):
        yield Window((step, step + 1), (top, min(top + rows, ny)), (0, nx))
