"""From the answers of tiles to windows of the output: in one piece, or block by block from tiles kept on disk.

However it is cut, every cell sums the same answers with the same weights in the same order: the output is the same to the
last bit. Knows no methods and no files but the kept tiles.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stimpute.inference.answers import Answer
from stimpute.inference.finished_tiles import LayerFolder
from stimpute.inference.options import Progress
from stimpute.inference.survey import Survey
from stimpute.protocols import Window
from stimpute.stack import Float32Array
from stimpute.tiling import blend_weights

BLOCK_BYTES = 80  # per cell-step of a block: sums, decision, packing, what the sink copies
Shape3 = tuple[int, int, int]


class Blend:
    """Sums of weight, weight x mean, weight x standard error over a window of the extended grid."""

    def __init__(self, window: Window) -> None:
        self.window, self._scaled = window, False
        self._weight, self._mean, self._scale = (np.zeros(window.shape, np.float32) for _ in range(3))
        self._valid = np.zeros(window.shape, dtype=bool)

    def add(self, place: Window, weight: Float32Array, answer: Answer) -> None:
        """Blend in what a tile says about ``place``, a part of the window; where it says NaN it has no vote."""
        where = place.within(self.window)
        said = np.isfinite(answer.mean)
        vote = np.where(said, weight, np.float32(0))
        self._weight[where] += vote
        self._mean[where] += vote * np.where(said, answer.mean, np.float32(0))
        if answer.scale is not None:
            self._scaled = True
            self._scale[where] += vote * np.nan_to_num(answer.scale)
        self._valid[where] = answer.valid

    def result(self) -> Answer:
        """Weighted sums divided by weights; the sums are given up."""
        divisor = np.where(self._weight > 0, self._weight, np.float32(np.nan))
        mean = np.divide(self._mean, divisor, out=self._mean)
        scale = np.divide(self._scale, divisor, out=self._scale) if self._scaled else None
        return Answer(mean, scale, self._valid)


def in_one_piece(
    survey: Survey, answers: Iterator[Answer], progress: Progress | None
) -> Iterator[tuple[Window, Answer]]:
    """Blend all tiles of a layer in memory."""
    blend = Blend(Window.whole(survey.extended))
    for number, (tile, answer) in enumerate(zip(survey.tiles, answers, strict=True)):
        blend.add(tile.read, blend_weights(tile, survey.extended), answer)
        if progress:
            progress("fill", number + 1, len(survey.tiles))
    t, ny, nx = survey.shape
    own = slice(survey.margin, survey.margin + nx)
    whole = blend.result()
    scale = None if whole.scale is None else whole.scale[..., own]
    yield Window.whole((t, ny, nx)), Answer(whole.mean[..., own], scale, whole.valid[..., own])


def in_blocks(
    survey: Survey,
    kept: LayerFolder,
    chunk: Shape3,
    budget: int,
    whole_series: bool,
    progress: Progress | None,
) -> Iterator[tuple[Window, Answer]]:
    """Blend block after block from tiles that are all kept.

    Parameters
    ----------
    chunk : (time, y, x) that the sink writes at a time.
    budget : bytes for the arrays of one block.
    whole_series : a block must hold every step.
    """
    blocks = list(write_windows(survey.shape, chunk, budget // BLOCK_BYTES, whole_series))
    bounds = np.array(
        [[*tile.read.time, *tile.read.y, *tile.read.x] for tile in survey.tiles], dtype=np.int64
    )
    for done, own in enumerate(blocks):
        wide = Window(own.time, own.y, (own.x[0] + survey.margin, own.x[1] + survey.margin))
        yield own, _blended(survey, kept, wide, bounds)
        if progress:
            progress("write", done + 1, len(blocks))


def _blended(survey: Survey, kept: LayerFolder, window: Window, bounds: npt.NDArray[np.int64]) -> Answer:
    blend = Blend(window)
    low = np.array([window.time[0], window.y[0], window.x[0]])
    high = np.array([window.time[1], window.y[1], window.x[1]])
    touching = np.flatnonzero(((bounds[:, ::2] < high) & (bounds[:, 1::2] > low)).all(axis=1))
    for number in touching.tolist():
        tile = survey.tiles[number]
        place = tile.read.common(window)
        steps = slice(place.time[0] - tile.read.time[0], place.time[1] - tile.read.time[0])
        answer = kept.steps(number, steps)
        _, rows, columns = place.within(tile.read)
        scale = None if answer.scale is None else answer.scale[:, rows, columns]
        part = Answer(answer.mean[:, rows, columns], scale, answer.valid[:, rows, columns])
        blend.add(place, blend_weights(tile, survey.extended, place), part)
    return blend.result()


def write_windows(shape: Shape3, chunk: Shape3, cells: int, whole_series: bool = False) -> Iterator[Window]:
    """Windows of whole rows, at most ``cells`` cell-steps where a row has no more: whole chunks where they fit.

    Rows of chunks are joined along y, then time; a row of chunks larger than ``cells`` is halved along time, then cut along y.
    ``whole_series`` takes every step at once, whatever the chunks.

    >>> [w.shape for w in write_windows((4, 6, 10), (1, 6, 10), 130)]
    [(2, 6, 10), (2, 6, 10)]
    >>> [w.shape for w in write_windows((4, 6, 10), (4, 6, 5), 130)]
    [(2, 6, 10), (2, 6, 10)]
    >>> [w.shape for w in write_windows((4, 3, 10), (1, 3, 10), 40, whole_series=True)]
    [(4, 1, 10), (4, 1, 10), (4, 1, 10)]
    """
    steps, rows, columns = shape
    time, y = (steps, 1) if whole_series else (min(chunk[0], steps), min(chunk[1], rows))
    while time > 1 and not whole_series and time * y * columns > cells:
        time = -(-time // 2)
    y = max(1, min(y, cells // (time * columns)))
    y = min(rows, y * max(1, cells // (time * y * columns)))
    time = min(steps, time * max(1, cells // (time * y * columns)))
    for start in range(0, steps, time):
        for top in range(0, rows, y):
            yield Window((start, min(start + time, steps)), (top, min(top + y, rows)), (0, columns))
