"""A layer of any size that is refined or forecast: in pieces where memory does not hold it, blended where these overlap.

What pieces say lies on the disk until all have spoken. Weights are the same for all fine cells of a coarse one, so that a blend has the
block means that its pieces agree upon. Knows no files but the kept pieces.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stimpute.errors import OutputError
from stimpute.inference.assembly import Shape3, write_windows
from stimpute.inference.memory import Read, wrapped
from stimpute.protocols import Window
from stimpute.stack import Float32Array
from stimpute.tiling import Tile, blend_weights, plan_tiles, tiles

HALO = 12  # cells over which pieces blend, and that a layer which goes around is extended by
LEAST_SIDE = 32  # cells along a piece; a longer series is cut in time first
LEAST_STEPS = 16  # of a piece in time
_TIME_REACH = 12.0  # steps, twice the halo in time

Fields = dict[str, Float32Array]
"""What is said about cells, by name, each (time, y, x)."""


@dataclass(frozen=True)
class Cut:
    """How a layer is cut: pieces on its grid extended by ``margin`` columns on either side.

    Parameters
    ----------
    shape : (time, y, x) of the layer.
    margin : columns; 0 where the last column is not the first one's neighbour.
    """

    shape: Shape3
    margin: int
    pieces: tuple[Tile, ...]

    @property
    def extended(self) -> Shape3:
        """Shape of the grid that the pieces lie on."""
        t, ny, nx = self.shape
        return t, ny, nx + 2 * self.margin

    def around(self, read: Read, factor: int = 1) -> Read:
        """Windows of the extended grid, from those of the layer on cells ``factor`` times finer."""
        return wrapped(read, self.shape[2] * factor, self.margin * factor) if self.margin else read


def cut_layer(shape: Shape3, wraps: bool, cells: int, *, whole_series: bool = False) -> Cut:
    """The fewest pieces of at most ``cells`` cell-steps each, their halos included (but for the smallest of pieces).

    ``whole_series``: not cut in time.

    >>> len(cut_layer((10, 100, 100), False, 100_000).pieces), len(cut_layer((10, 100, 100), False, 40_000).pieces)
    (1, 4)
    """
    steps, ny, nx = shape
    margin = min(HALO, nx // 4) if wraps else 0
    extended = (steps, ny, nx + 2 * margin)
    least = min(LEAST_SIDE, ny) * min(LEAST_SIDE, extended[2])
    longest = steps if whole_series else max(cells // least, LEAST_STEPS)
    side = max(ny, extended[2])
    plan = plan_tiles(
        extended, range_cells=None, range_steps=_TIME_REACH, min_tile=side, max_tile=side, max_steps=longest,
        overlap=HALO, cells_budget=max(cells, min(longest, LEAST_STEPS) * least),
    )  # fmt: skip
    return Cut(shape, margin, tuple(tiles(extended, plan)))


def blended_windows(
    cut: Cut,
    say: Callable[[Window], Fields],
    chunk: Shape3,
    cells: int,
    factor: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[Window, Fields]]:
    """What is said about every cell of a layer, by windows of whole rows.

    Parameters
    ----------
    say : what is said of a window of the extended grid; the names come in the same order for all windows, the last may be absent.
    chunk : (time, y, x) that is best written at a time.
    cells : most cell-steps of a window that is put together from several pieces.
    factor : cells of the fields per cell of the cut and axis.
    progress : called with (done, pieces).

    Returns
    -------
    windows of the layer, and the fields of their cells, ``factor`` times finer.
    """
    if len(cut.pieces) == 1:
        own = slice(cut.margin * factor, (cut.margin + cut.shape[2]) * factor)
        whole = say(cut.pieces[0].read)
        yield Window.whole(cut.shape), {name: field[..., own] for name, field in whole.items()}
        if progress:
            progress(1, 1)
        return
    with ExitStack() as scratch:
        folder = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="stimpute-")))
        names: dict[str, None] = {}
        for number, piece in enumerate(cut.pieces):
            fields = say(piece.read)
            names |= dict.fromkeys(fields)
            for which, field in enumerate(fields.values()):
                _keep(folder, number, which, field)
            if progress:
                progress(number + 1, len(cut.pieces))
        for window in write_windows(cut.shape, chunk, max(cells, 1)):
            wide = replace(window, x=(cut.margin, cut.margin + cut.shape[2]))
            yield (
                window,
                {name: _blended(cut, folder, which, wide, factor) for which, name in enumerate(names)},
            )


def finer(window: Window, factor: int) -> Window:
    """The same window on the grid whose cells are ``factor`` times finer."""
    y, x = (tuple(edge * factor for edge in edges) for edges in (window.y, window.x))
    return Window(window.time, y, x)  # type: ignore[arg-type]


def _file(folder: Path, number: int, which: int) -> Path:
    return folder / f"{number}-{which}.npy"


def _keep(folder: Path, number: int, which: int, field: Float32Array) -> None:
    try:
        np.save(_file(folder, number, which), field)
    except OSError as error:
        raise OutputError(
            f"{folder}: what pieces say cannot be kept there ({error.strerror}); is the disk full? TMPDIR names another folder"
        ) from error


def _blended(cut: Cut, folder: Path, which: int, window: Window, factor: int) -> Float32Array:
    """One field in a window of the extended grid; where a piece says NaN it has no vote."""
    fine = finer(window, factor)
    total, weights = (np.zeros(fine.shape, dtype=np.float32) for _ in range(2))
    for number, piece in enumerate(cut.pieces):
        place = piece.read.common(window)
        path = _file(folder, number, which)
        if min(place.shape) <= 0 or not path.exists():
            continue
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
        part = kept[finer(place, factor).within(finer(piece.read, factor))]
        vote = _spread(blend_weights(piece, cut.extended, place), factor) * np.isfinite(part)
        where = finer(place, factor).within(fine)
        weights[where] += vote
        total[where] += vote * np.where(vote > 0, part, np.float32(0))
    divisor = np.where(weights > 0, weights, np.float32(np.nan))
    return np.asarray(np.divide(total, divisor, out=total))


def _spread(cells: npt.NDArray[np.float32], factor: int) -> Float32Array:
    return np.repeat(np.repeat(cells, factor, axis=1), factor, axis=2)
