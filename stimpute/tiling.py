"""Cutting a stack of any size into tiles and windows of time. Pure integers: knows nothing about files, kilometres or models.

A tile is read with a halo and owns a core. Along each axis the cores are balanced pieces that cover every cell exactly
once; all reads have one length, so that tiles can be batched, and are shifted inward at the edges, so that nothing is
ever padded. The weights of :func:`blend_weights` ramp from 0 to 1 within one halo of each border between cores; over all
tiles they sum to one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt

from stimpute.protocols import Window

Float32Array = npt.NDArray[np.float32]

HALO_SHARE = 6  # a halo is at most this part of a tile, or most of the work would be thrown away
RANGE_FACTOR = 2.0  # core / effective range: the reference range of 12 cells gives a core of 24
FALLBACK_RANGE_CELLS = 12.0  # where no variogram could be fitted
FALLBACK_RANGE_STEPS = 12.0
MIN_TILE = 16
MAX_TILE = 128
EDGE_RUN = 10  # empty steps at the edge of a window of time, from which steps beyond it are looked at,
CONTEXT = 24  # so many on a side;
LONG_RUN, FEW_SEEN = (
    60,
    64,
)  # on both sides, and twice as many of the rest, where as many are empty in a row, or fewer hold anything


@dataclass(frozen=True)
class TilePlan:
    """Lengths, in cells and steps, of a tile's core and halo, and what decided them.

    ``bound_by`` names the limit: ``range`` (the variogram), ``fallback`` (there is none), ``min_tile``, ``max_tile``
    (the model's limits), ``budget`` (memory), ``user`` or ``extent`` (the stack is smaller than one tile).
    A read is ``core + 2 * halo`` long, or the whole axis where that is shorter.
    """

    core: int
    halo: int
    time_core: int
    time_halo: int
    bound_by: str

    def __post_init__(self) -> None:
        if self.core < 1 or self.time_core < 1 or self.halo < 0 or self.time_halo < 0:
            raise ValueError(
                f"a core of {self.core} cells, {self.time_core} steps; halos {self.halo}, {self.time_halo}"
            )

    @property
    def read(self) -> int:
        """Cells along each side of a tile with its halo."""
        return self.core + 2 * self.halo

    def to_dict(self) -> dict[str, int | str]:
        """Plain numbers for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Tile:
    """What to read, the part of it this tile owns, and the halo (time, y, x) over which it blends.

    ``before`` and ``after`` are further steps of the same cells to look at, increasing, where the window of time shows too little.
    """

    read: Window
    core: Window
    halo: tuple[int, int, int]
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def looked_at(self) -> int:
        """Cell-steps that are read."""
        steps, ny, nx = self.read.shape
        return (len(self.before) + steps + len(self.after)) * ny * nx


def plan_tiles(
    shape: tuple[int, int, int],
    *,
    range_cells: float | None,
    range_steps: float | None = None,
    multiple: int = 1,
    min_tile: int = MIN_TILE,
    max_tile: int = MAX_TILE,
    max_steps: int = 365,
    overlap: int | None = None,
    tile: int | None = None,
    cells_budget: int | None = None,
    factor: float = RANGE_FACTOR,
) -> TilePlan:
    """Tile and halo for a stack, from how far its values are correlated.

    Parameters
    ----------
    shape : (time, y, x) of the stack.
    range_cells : effective range of the spatial variogram, in cells; None where it could not be fitted.
    range_steps : effective range of the temporal variogram, in steps; None likewise.
    multiple : a tile with its halo is a multiple of this many cells (the model's windows).
    min_tile, max_tile : limits of a tile with its halo, in cells (the model's).
    max_steps : longest window of time, halos included; a shorter stack is one window.
    overlap, tile : the user's own halo and core, in cells; they beat the range and the model's limits.
    cells_budget : most cells (time x y x x) of one read (the machine's memory).
    factor : core = factor x range; halo = range / 2.

    >>> plan_tiles((100, 500, 500), range_cells=12)
    TilePlan(core=24, halo=6, time_core=100, time_halo=0, bound_by='range')
    >>> plan_tiles((100, 500, 500), range_cells=400).bound_by
    'max_tile'
    """
    steps, ny, nx = shape
    time_core, time_halo = _plan_time(steps, range_steps, max_steps)
    core, halo, bound_by = _plan_space(range_cells, factor, multiple, (min_tile, max_tile), tile, overlap)
    if cells_budget is not None:
        side = _affordable_side(cells_budget // min(steps, time_core + 2 * time_halo), (ny, nx))
        if side < min(core + 2 * halo, max(ny, nx)):
            core, halo, bound_by = *_squeezed(core, halo, side, multiple), "budget"
            volume = min(core + 2 * halo, ny) * min(core + 2 * halo, nx)
            affordable = max(cells_budget // volume, 1)
            if affordable < min(steps, time_core + 2 * time_halo):
                time_core, time_halo = _plan_time(steps, range_steps, affordable)
    if bound_by != "budget" and core + 2 * halo >= max(ny, nx):
        bound_by = "extent"
    if tile is None:
        core = _balanced(core, halo, max(ny, nx), multiple)
    return TilePlan(core, halo, time_core, time_halo, bound_by)


def _balanced(core: int, halo: int, extent: int, multiple: int) -> int:
    """The smallest core that needs no more tiles along an extent, of a tile that is a multiple as before.

    >>> _balanced(80, 8, 512, 8)
    72
    """
    inner = extent - 2 * halo
    if inner <= core:
        return core
    return min(core, _up(-(-inner // -(-inner // core)) + 2 * halo, multiple) - 2 * halo)


def _plan_time(steps: int, range_steps: float | None, max_steps: int) -> tuple[int, int]:
    """One window where the stack is short enough, else the longest allowed with half the range on either side."""
    if steps <= max_steps:
        return steps, 0
    reach = FALLBACK_RANGE_STEPS if range_steps is None else range_steps
    halo = _half(reach, longest=max_steps // 4)
    return max_steps - 2 * halo, halo


def _plan_space(
    range_cells: float | None,
    factor: float,
    multiple: int,
    limits: tuple[int, int],
    tile: int | None,
    overlap: int | None,
) -> tuple[int, int, str]:
    """Core, halo and the limit that bound them, before the machine's memory has its say."""
    reach = FALLBACK_RANGE_CELLS if range_cells is None else range_cells
    bound_by = "fallback" if range_cells is None else "range"
    low, high = _up(limits[0], multiple), max(limits[1] // multiple * multiple, multiple)
    if tile is not None:
        halo = _half(reach, longest=tile // 2) if overlap is None else overlap
        return tile, halo, "user"
    halo = _half(reach, longest=high // HALO_SHARE) if overlap is None else overlap
    wanted = _up(math.ceil(min(reach, 1e9) * factor) + 2 * halo, multiple)
    if wanted > high or wanted < low:
        bound_by = "max_tile" if wanted > high or low >= high else "min_tile"
    side = max(min(wanted, high), low, 2 * halo + 1)
    return side - 2 * halo, halo, bound_by


def _half(reach: float, longest: int) -> int:
    """Half the range in whole cells, at most ``longest``."""
    return min(math.ceil(min(reach, 1e9) / 2), longest)


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _affordable_side(cells: int, extent: tuple[int, int]) -> int:
    """Longest side of a tile of at most ``cells`` cells inside an extent (a narrow extent lets it be longer)."""
    narrow = min(extent)
    side = math.isqrt(max(cells, 1))
    return side if side < narrow else max(cells // narrow, 1)


def _squeezed(core: int, halo: int, side: int, multiple: int) -> tuple[int, int]:
    """Core and halo of a tile of at most ``side`` cells (whole multiples where that leaves any)."""
    side = max(side // multiple * multiple, min(side, multiple), 1)
    halo = min(halo, side // HALO_SHARE)
    return min(side - 2 * halo, core + 2 * halo), halo


def tiles(shape: tuple[int, int, int], plan: TilePlan) -> list[Tile]:
    """All tiles of a stack, in time, y, x order; their cores cover every cell exactly once.

    >>> [t.core.x for t in tiles((1, 1, 100), TilePlan(24, 6, 1, 0, "range"))]
    [(0, 28), (28, 50), (50, 72), (72, 100)]
    """
    halo = (plan.time_halo, plan.halo, plan.halo)
    cores = (plan.time_core, plan.core, plan.core)
    axes = [_axis(n, core, h) for n, core, h in zip(shape, cores, halo, strict=True)]
    return [
        Tile(Window(time[0], y[0], x[0]), Window(time[1], y[1], x[1]), halo)
        for time, y, x in product(axes[0], axes[1], axes[2])
    ]


def with_context(tile: Tile, seen: npt.NDArray[np.bool_]) -> Tile:
    """The same tile, looking beyond its window of time where that ends in a long run of empty steps, or holds few that are not.

    Parameters
    ----------
    seen : bool, steps of the stack that hold observations.

    >>> seen = np.arange(1000) % 2 == 0
    >>> seen[300:750] = False
    >>> window = Window((400, 765), (0, 9), (0, 9))
    >>> tile = with_context(Tile(window, window, (0, 0, 0)), seen)
    >>> len(tile.before), tile.before[-1], len(tile.after), tile.after[0]
    (52, 298, 44, 766)
    """
    start, stop = tile.read.time
    inside = seen[start:stop]
    earlier, later = np.flatnonzero(seen[:start]), stop + np.flatnonzero(seen[stop:])
    near = np.zeros(0, dtype=np.intp)
    if not inside[:EDGE_RUN].any():
        near = np.concatenate([near, earlier[-CONTEXT:]])
    if not inside[-EDGE_RUN:].any():
        near = np.concatenate([near, later[:CONTEXT]])
    bounds = np.flatnonzero(np.concatenate([[True], inside, [True]]))
    if inside.sum() < FEW_SEEN or np.diff(bounds).max() > LONG_RUN:
        near = np.concatenate([near, earlier[-CONTEXT:], later[:CONTEXT]])
        far = np.setdiff1d(np.concatenate([earlier, later]), near)
        near = np.concatenate(
            [near, far[np.linspace(0, len(far) - 1, min(len(far), 2 * CONTEXT)).round().astype(np.intp)]]
        )
    steps = np.unique(near)
    before, after = (tuple(side.tolist()) for side in (steps[steps < start], steps[steps >= stop]))
    return replace(tile, before=before, after=after)


def _axis(n: int, core: int, halo: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(read, core) ranges along one axis. Cores at the ends take up the halo that has nothing to lie on."""
    read = min(core + 2 * halo, n)
    inner = n - 2 * halo
    count = 1 if read == n else -(-inner // core)
    borders = [0, *(halo + i * inner // count for i in range(1, count)), n]
    ranges = []
    for start, stop in pairwise(borders):
        first = min(max(start - halo, 0), n - read)
        ranges.append(((first, first + read), (start, stop)))
    return ranges


def borders(shape: tuple[int, int, int], plan: TilePlan) -> tuple[list[int], list[int]]:
    """Rows, and columns, at which a new core begins (0 left out): what :func:`stimpute.metrics.seam_ratio` takes."""
    rows = [core[0] for _, core in _axis(shape[1], plan.core, plan.halo)[1:]]
    cols = [core[0] for _, core in _axis(shape[2], plan.core, plan.halo)[1:]]
    return rows, cols


def blend_weights(tile: Tile, shape: tuple[int, int, int], window: Window | None = None) -> Float32Array:
    """Weight of a tile's answer at every cell of its read window, or of a part of it.

    Along each axis it is the difference of two smooth steps, each centred on a border of the core and one halo wide to
    either side; the edges of the volume have no step. The steps of neighbours being the same, the weights of all tiles
    of a plan sum to one, whatever core and halo are.

    Returns
    -------
    float32, shape of ``window``, by default of ``tile.read``.
    """
    place = tile.read if window is None else window
    parts = [
        _axis_weight(read, core, halo, n)
        for read, core, halo, n in zip(
            (place.time, place.y, place.x),
            (tile.core.time, tile.core.y, tile.core.x),
            tile.halo,
            shape,
            strict=True,
        )
    ]
    weight = parts[0][:, None, None] * parts[1][None, :, None] * parts[2][None, None, :]
    return np.asarray(weight, dtype=np.float32)


def _axis_weight(read: tuple[int, int], core: tuple[int, int], halo: int, n: int) -> npt.NDArray[np.float64]:
    position = np.arange(*read, dtype=np.float64) + 0.5
    rise = _step(position - core[0], halo) if core[0] > 0 else np.ones(len(position))
    fall = _step(position - core[1], halo) if core[1] < n else np.zeros(len(position))
    return np.asarray(rise - fall)


def _step(offset: npt.NDArray[np.floating], halo: int) -> npt.NDArray[np.float64]:
    """0 before -halo, 1 after +halo, smooth and odd about (0, 1/2) between (3u^2 - 2u^3)."""
    if halo == 0:
        return (offset > 0).astype(np.float64)
    u = np.clip(offset / (2 * halo) + 0.5, 0, 1)
    return np.asarray(u * u * (3 - 2 * u))
