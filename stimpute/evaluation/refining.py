"""Every way of completing and refining on the same coarsened, hidden stack, scored against what it was. Knows no files.

A stack is coarsened by block means, coarse cells are hidden (at fixed places, at random, or one quarter of the area), every
method gives the fine field back, and all fine cells that are known are scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeError, UsageError
from stimpute.grid import Grid
from stimpute.inference.options import Progress
from stimpute.metrics import Scores, score
from stimpute.protocols import Refiner, Refining
from stimpute.stack import BoolArray, Float32Array, Stack

Hiding = Literal["fixed", "random", "quarter"]
HIDINGS: tuple[Hiding, ...] = get_args(Hiding)
KNOWN_SHARE = 0.5  # of a block's cells, for its mean to count as observed


@dataclass(frozen=True)
class RefiningCase:
    """What is hidden of the coarse cells: which, and how much (a quarter is a quarter)."""

    hiding: Hiding
    share: float = 0.25

    def __post_init__(self) -> None:
        if self.hiding not in HIDINGS:
            raise UsageError(f"--holdout {self.hiding}: with --task reconstruct one of {', '.join(HIDINGS)}")
        if not 0 < self.share < 1:
            raise UsageError(f"--share {self.share:g}: between 0 and 1")

    @property
    def label(self) -> str:
        """In words: ``random 40 %``."""
        return "quarter" if self.hiding == "quarter" else f"{self.hiding} {self.share:.0%}"


@dataclass(frozen=True)
class RefiningRow:
    """One method on one case; ``scores`` is None where it failed, and ``note`` says why."""

    method: str
    case: str
    share: float
    scores: Scores | None
    seconds: float
    note: str = ""


@dataclass(frozen=True, eq=False)
class RefiningBoard:
    """All methods on all cases of one stack. ``shape`` is fine, ``spread`` the standard deviation of its known cells."""

    name: str
    units: str
    shape: tuple[int, int, int]
    factor: int
    spread: float
    rows: tuple[RefiningRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        rows = [{**asdict(row), "scores": row.scores.to_dict() if row.scores else None} for row in self.rows]
        return {
            "name": self.name, "units": self.units, "shape": list(self.shape), "factor": self.factor, "spread": self.spread,
            "rows": rows,
        }  # fmt: skip


def coarsened(fine: Stack, factor: int) -> tuple[Stack, Stack]:
    """Block means (of blocks at least half known), and the fine stack cut to whole blocks, still with its values.

    Raises
    ------
    InputError : smaller than two blocks along an axis, or no block that is half known.
    """
    t, ny, nx = fine.shape
    rows, cols = ny // factor, nx // factor
    if min(rows, cols) < 2:
        raise InputError(f"{ny} x {nx} cells are too few to be coarsened by {factor}; lower --factor")
    cut = fine.window(slice(None), slice(0, rows * factor), slice(0, cols * factor))
    blocks = (t, rows, factor, cols, factor)
    count = cut.valid.reshape(blocks).sum(axis=(2, 4))
    total = cut.values.reshape(blocks).sum(axis=(2, 4), dtype=np.float64)
    valid = count >= KNOWN_SHARE * factor**2
    if not valid.any():
        raise InputError(f"no block of {factor} x {factor} cells is half known; lower --factor")
    values = np.where(valid, total / np.maximum(count, 1), 0).astype(np.float32)
    coarse = Stack(values, valid, cut.times, _coarse_grid(cut.grid, factor), cut.year_phase, cut.day_phase)
    return coarse, cut


def _coarse_grid(grid: Grid, factor: int) -> Grid:
    """Centres of the blocks."""
    if grid.kind in ("affine", "rectilinear"):
        x, y = grid.x.reshape(-1, factor).mean(axis=1), grid.y.reshape(-1, factor).mean(axis=1)
        return Grid(grid.kind, (len(y), len(x)), x, y, grid.units, grid.km_per_unit, grid.crs_wkt)
    return Grid.from_shape(grid.shape[0] // factor, grid.shape[1] // factor)


def hidden_cells(valid: BoolArray, case: RefiningCase, seed: int = 0) -> BoolArray:
    """Coarse cells (time, y, x) to hide: of those ever observed (fixed), of those observed (random), a quarter of the area.

    >>> seen = np.ones((3, 4, 4), dtype=bool)
    >>> [int(hidden_cells(seen, RefiningCase(kind, 0.5)).sum()) for kind in ("fixed", "quarter")]
    [24, 12]
    """
    lot = np.random.default_rng([seed, HIDINGS.index(case.hiding), round(1000 * case.share)])
    _, ny, nx = valid.shape
    if case.hiding == "random":
        return np.asarray(valid & (lot.random(valid.shape) < case.share))
    where = np.zeros((ny, nx), dtype=bool)
    if case.hiding == "quarter":
        top, left = (int(lot.integers(2)) * (n - n // 2) for n in (ny, nx))
        where[top : top + ny // 2, left : left + nx // 2] = True
    else:
        ever = np.flatnonzero(valid.any(axis=0))
        where.ravel()[lot.permutation(ever)[: round(case.share * len(ever))]] = True
    return np.asarray(valid & where)


def evaluate_refining(
    stack: Stack,
    name: str,
    units: str,
    factor: int,
    refiners: Sequence[tuple[str, Callable[[], Refiner]]],
    cases: Sequence[RefiningCase],
    *,
    samples: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> RefiningBoard:
    """Coarsen, hide, complete and refine with every method, score on all known fine cells.

    Covariates of ``stack`` are given to every method on the fine grid.

    Raises
    ------
    InputError : the stack is too small, or has no block that is half known.
    """
    coarse, truth = coarsened(stack, factor)
    fine = truth.hide(np.ones(truth.shape, dtype=bool))
    rows = []
    for case in cases:
        shown = coarse.hide(hidden_cells(coarse.valid, case, seed))
        for label, make in refiners:
            rows.append(
                _scored(
                    label, make, case, shown, fine, truth.with_nan(), Refining(factor, samples, seed=seed)
                )
            )
            if progress:
                progress("evaluate", len(rows), len(cases) * len(refiners))
    spread = float(truth.values[truth.valid].std(dtype=np.float64))
    return RefiningBoard(name, units, truth.shape, factor, spread, tuple(rows))


def _scored(
    label: str, make: Callable[[], Refiner], case: RefiningCase, shown: Stack, fine: Stack, truth: Float32Array,
    wanted: Refining,
) -> RefiningRow:  # fmt: skip
    started = time.perf_counter()
    try:
        estimate = make().refine(shown, fine, wanted)
        scores = score(truth, estimate.mean, estimate.scale)
        if estimate.members is not None:
            scores = _of_members(scores, truth, estimate.members)
        return RefiningRow(label, case.label, case.share, scores, round(time.perf_counter() - started, 2))
    except StimputeError as error:
        return RefiningRow(
            label, case.label, case.share, None, round(time.perf_counter() - started, 2), str(error)
        )


def _of_members(scores: Scores, truth: Float32Array, members: Float32Array) -> Scores:
    """The same with the CRPS of the ensemble itself; the coverage stays that of mean and standard error."""
    known = np.isfinite(truth)
    crps = crps_of_members(truth[known], members[:, known])
    return replace(scores, crps=float(crps.mean(dtype=np.float64)))


def crps_of_members(truth: npt.NDArray[Any], members: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Continuous ranked probability score of an ensemble (members, n), fair to its size (Ferro 2014).

    >>> crps_of_members(np.array([0.0]), np.array([[1.0], [1.0]])).tolist()
    [1.0]
    """
    m = len(members)
    ordered = np.sort(members.astype(np.float64), axis=0)
    weight = 2 * np.arange(1, m + 1) - m - 1
    pairs = np.tensordot(weight, ordered, axes=1) * 2 / (m * (m - 1))
    return np.asarray(np.abs(ordered - truth).mean(axis=0) - 0.5 * pairs)
