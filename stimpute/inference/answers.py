"""What one tile says, who computes it, and in which order the answers come: the plan's, however they were computed.

Knows protocols only; neither files nor networks nor clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np

from stimpute.estimate import Estimate
from stimpute.inference.at_once import at_once
from stimpute.inference.memory import Read
from stimpute.inference.options import Progress
from stimpute.inference.scan import joined
from stimpute.inference.survey import Survey
from stimpute.inference.trust import Hidden, Question, Trust, predict_hidden
from stimpute.protocols import Imputer
from stimpute.stack import BoolArray, Float32Array, Stack
from stimpute.tiling import Tile


@dataclass(frozen=True, eq=False)
class Answer:
    """What one tile says, in the variable's units: mean (NaN: nothing), standard error, what was observed. (time, y, x)"""

    mean: Float32Array
    scale: Float32Array | None
    valid: BoolArray


Prepare = Callable[[], Imputer]


class Executor(Protocol):
    """Who computes."""

    def answers(
        self, survey: Survey, prepare: Prepare, trust: Trust, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        """What the tiles of these numbers say, in any order."""
        ...

    def predictions(
        self, survey: Survey, imputer: Imputer, questions: Iterable[Question]
    ) -> Iterator[Hidden]:
        """What the method says about hidden cells, in the order of the questions."""
        ...


class Kept(Protocol):
    """Results of one layer that outlive the moment: its calibration, and the answers of tiles by number."""

    trust: Trust | None

    def keep_trust(self, trust: Trust) -> None:
        """Remember the calibration."""
        ...

    def __contains__(self, number: object) -> bool: ...

    def keep(self, number: int, answer: Answer) -> None:
        """Remember what a tile says."""
        ...

    def take(self, number: int) -> Answer:
        """What a tile said; asked for once in a run."""
        ...


@dataclass(eq=False)
class KeptInMemory:
    """Answers that wait for their turn, and nothing longer."""

    trust: Trust | None = None
    _answers: dict[int, Answer] = field(default_factory=dict)

    def keep_trust(self, trust: Trust) -> None:
        """Nothing is kept beyond the run."""

    def __contains__(self, number: object) -> bool:
        return number in self._answers

    def keep(self, number: int, answer: Answer) -> None:
        """Until it is taken."""
        self._answers[number] = answer

    def take(self, number: int) -> Answer:
        """And forget it."""
        return self._answers.pop(number)


def in_order(
    survey: Survey, prepare: Prepare, trust: Trust, kept: Kept, executor: Executor
) -> Iterator[Answer]:
    """The answers of all tiles of a layer in the plan's order: those kept from before, the others computed and kept."""
    count = len(survey.tiles)
    missing = [number for number in range(count) if number not in kept]
    computed = executor.answers(survey, prepare, trust, missing)
    for number in range(count):
        while number not in kept:
            done, answer = next(computed)
            kept.keep(done, answer)
            if done == number and done in kept:
                break
        yield kept.take(number)


def keep_all(
    survey: Survey, prepare: Prepare, trust: Trust, kept: Kept, executor: Executor, progress: Progress | None
) -> None:
    """Compute and keep the answers of all tiles that are not kept yet."""
    count = len(survey.tiles)
    missing = [number for number in range(count) if number not in kept]
    computed = executor.answers(survey, prepare, trust, missing)
    for done, (number, answer) in enumerate(computed, start=count - len(missing) + 1):
        kept.keep(number, answer)
        if progress:
            progress("fill", done, count)


class LocalExecutor:
    """Computes in this process, ``survey.workers`` tiles at once; files are read in the calling thread.

    Where there is a single tile, it is computed beside what it is calibrated on, and waits until it is asked for.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, Estimate] = {}  # by layer

    def answers(
        self, survey: Survey, prepare: Prepare, trust: Trust, numbers: Sequence[int]
    ) -> Iterator[tuple[int, Answer]]:
        """What tiles say, in the order of ``numbers``."""
        waiting = self._waiting.pop(survey.index, None)
        if waiting is not None:
            stack = survey.read(survey.tiles[0].read).contiguous()
            return iter([(number, _calibrated(stack, waiting, trust, slice(None))) for number in numbers])
        fillable = survey.fillable[:, survey.extended_columns]

        def asked() -> Iterator[tuple[int, Stack, Imputer | None]]:
            for number in numbers:
                tile = survey.tiles[number]
                stack, gaps = _ask(survey.read, fillable[tile.core.slices[1:]], tile)
                yield number, stack, prepare() if gaps else None

        def answer(asked_for: tuple[int, Stack, Imputer | None]) -> tuple[int, Answer]:
            number, stack, imputer = asked_for
            return number, _answer(stack, imputer, trust, _own(survey.tiles[number]))

        return at_once(answer, asked(), survey.workers)

    def predictions(
        self, survey: Survey, imputer: Imputer, questions: Iterable[Question]
    ) -> Iterator[Hidden]:
        """What the method says about hidden cells."""

        def tasks() -> Iterator[Callable[[], Hidden | Estimate]]:
            if len(survey.tiles) == 1 and survey.workers > 1:
                stack, gaps = _ask(survey.read, survey.fillable[:, survey.extended_columns], survey.tiles[0])
                if gaps:
                    yield partial(imputer.impute, stack)
            for question in questions:
                yield partial(predict_hidden, question.stack, question.hidden, imputer)

        for found in at_once(lambda task: task(), tasks(), survey.workers):
            if isinstance(found, Hidden):
                yield found
            else:
                self._waiting[survey.index] = found


def answer_tile(read: Read, fillable: BoolArray, prepare: Prepare, trust: Trust, tile: Tile) -> Answer:
    """Read a tile and impute it, unless nothing in its core may be filled.

    Parameters
    ----------
    read : of the extended grid.
    fillable : bool (y, x) of the tile's core.
    """
    stack, gaps = _ask(read, fillable, tile)
    return _answer(stack, prepare() if gaps else None, trust, _own(tile))


def _own(tile: Tile) -> slice:
    """The steps of the tile's window among those that are looked at."""
    return slice(len(tile.before), len(tile.before) + tile.read.shape[0])


def _ask(read: Read, fillable: BoolArray, tile: Tile) -> tuple[Stack, bool]:
    """What a tile looks at, and whether anything in its core is to be filled."""
    stack = read(tile.read).contiguous()
    gaps = bool((fillable & ~stack.valid[tile.core.within(tile.read)]).any())
    if not gaps or not (tile.before or tile.after):
        return stack, gaps
    before, after = (
        [read(replace(tile.read, time=run)) for run in _spells(side)] for side in (tile.before, tile.after)
    )
    return joined([*before, stack, *after]), gaps


def _spells(steps: tuple[int, ...]) -> list[tuple[int, int]]:
    """Steps as ranges that are read at once.

    >>> _spells((3, 4, 5, 9))
    [(3, 6), (9, 10)]
    """
    parts = np.split(np.asarray(steps, dtype=np.intp), np.flatnonzero(np.diff(steps) > 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)]


def _answer(stack: Stack, imputer: Imputer | None, trust: Trust, own: slice) -> Answer:
    if imputer is None:
        return Answer(np.full(stack.shape, np.nan, dtype=np.float32), None, stack.valid)
    return _calibrated(stack, imputer.impute(stack), trust, own)


def _calibrated(stack: Stack, estimate: Estimate, trust: Trust, own: slice) -> Answer:
    scale = trust.standard_error(estimate.scale, stack)
    return Answer(estimate.mean[own], None if scale is None else scale[own], stack.valid[own])
