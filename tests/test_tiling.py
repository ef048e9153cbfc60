"""Integer arithmetic of tiles: literal cases, and any shape whatever."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimpute.protocols import Window
from stimpute.tiling import CONTEXT, Tile, TilePlan, blend_weights, borders, plan_tiles, tiles, with_context

PLAN = TilePlan(24, 6, 1, 0, "range")


def ranges(n, core, halo):
    return [(t.read.x, t.core.x) for t in tiles((1, 1, n), TilePlan(core, halo, 1, 0, "user"))]


def test_axis_literals():
    assert ranges(10, 24, 6) == [((0, 10), (0, 10))]
    assert ranges(36, 24, 6) == [((0, 36), (0, 36))]
    assert ranges(37, 24, 6) == [((0, 36), (0, 18)), ((1, 37), (18, 37))]
    assert ranges(60, 24, 6) == [((0, 36), (0, 30)), ((24, 60), (30, 60))]
    assert ranges(6, 2, 0) == [((0, 2), (0, 2)), ((2, 4), (2, 4)), ((4, 6), (4, 6))]
    assert ranges(7, 3, 0) == [((0, 3), (0, 2)), ((2, 5), (2, 4)), ((4, 7), (4, 7))]
    assert ranges(5, 1, 1) == [((0, 3), (0, 2)), ((1, 4), (2, 3)), ((2, 5), (3, 5))]
    assert ranges(1, 24, 6) == [((0, 1), (0, 1))]


def test_tiles_run_time_then_rows_then_columns():
    plan = TilePlan(2, 0, 3, 0, "user")
    cores = [t.core for t in tiles((6, 2, 4), plan)]
    assert cores == [
        Window((0, 3), (0, 2), (0, 2)),
        Window((0, 3), (0, 2), (2, 4)),
        Window((3, 6), (0, 2), (0, 2)),
        Window((3, 6), (0, 2), (2, 4)),
    ]


def test_weights_literal():
    tile = Tile(Window((0, 1), (0, 1), (0, 6)), Window((0, 1), (0, 1), (0, 4)), (0, 0, 2))
    weight = blend_weights(tile, (1, 1, 12))[0, 0]
    np.testing.assert_allclose(weight, [1, 1, 0.95703125, 0.68359375, 0.31640625, 0.04296875], atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 8), st.integers(1, 16), st.integers(1, 40)),
    core=st.integers(3, 12),
    halo=st.integers(0, 7),
    time_core=st.integers(2, 6),
    time_halo=st.integers(0, 4),
)
def test_any_shape_is_covered_once_and_weights_sum_to_one(shape, core, halo, time_core, time_halo):
    plan = TilePlan(core, halo, time_core, time_halo, "user")
    owned, total = np.zeros(shape, dtype=int), np.zeros(shape)
    reads = set()
    for tile in tiles(shape, plan):
        for (first, last), (start, stop), n in zip(
            (tile.read.time, tile.read.y, tile.read.x),
            (tile.core.time, tile.core.y, tile.core.x),
            shape,
            strict=True,
        ):
            assert 0 <= first <= start < stop <= last <= n
        owned[tile.core.slices] += 1
        weight = blend_weights(tile, shape)
        assert weight.min() >= 0
        total[tile.read.slices] += weight
        reads.add(tile.read.shape)
        assert tile.core.y[0] - tile.read.y[0] >= min(halo, tile.core.y[0])
        assert tile.read.x[1] - tile.core.x[1] >= min(halo, shape[2] - tile.core.x[1])
    assert (owned == 1).all()
    assert len(reads) == 1
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_borders():
    assert borders((5, 10, 100), PLAN) == ([], [28, 50, 72])


def test_reference_range_of_twelve_cells():
    plan = plan_tiles((2557, 360, 360), range_cells=12, range_steps=20, multiple=4, max_steps=72)
    assert plan == TilePlan(24, 6, 52, 10, "range")
    assert plan.read == 36


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"range_cells": 12}, (24, 6, "range")),
        ({"range_cells": 12, "multiple": 8}, (28, 6, "range")),
        ({"range_cells": 2}, (14, 1, "min_tile")),
        ({"range_cells": 300}, (77, 21, "max_tile")),
        ({"range_cells": 5, "min_tile": 96, "max_tile": 96}, (83, 3, "max_tile")),
        ({"range_cells": float("inf")}, (77, 21, "max_tile")),
        ({"range_cells": 300, "max_tile": 100, "multiple": 8}, (64, 16, "max_tile")),
        ({"range_cells": None}, (24, 6, "fallback")),
        ({"range_cells": 12, "overlap": 0}, (24, 0, "range")),
        ({"range_cells": 12, "tile": 50}, (50, 6, "user")),
        ({"range_cells": 12, "tile": 8, "overlap": 2}, (8, 2, "user")),
        ({"range_cells": 12, "cells_budget": 10 * 20 * 20}, (14, 3, "budget")),
        ({"range_cells": 12, "cells_budget": 10 * 22 * 22, "multiple": 4}, (14, 3, "budget")),
        ({"range_cells": 3000, "max_tile": 2048}, (1366, 341, "extent")),
    ],
)
def test_space(kwargs, expected):
    plan = plan_tiles((10, 500, 400), **kwargs)
    assert (plan.core, plan.halo, plan.bound_by) == expected


def test_budget_is_kept_by_every_read():
    for budget in (1, 50, 1000, 10_000):
        plan = plan_tiles(
            (40, 30, 20), range_cells=12, range_steps=8, min_tile=4, cells_budget=budget, multiple=4
        )
        assert max(np.prod(t.read.shape) for t in tiles((40, 30, 20), plan)) <= budget


def test_narrow_extent_may_be_long():
    plan = plan_tiles((10, 1, 5000), range_cells=12, cells_budget=10 * 64)
    assert plan.bound_by == "range"


def test_bad_plan():
    with pytest.raises(ValueError, match="core"):
        TilePlan(0, 1, 1, 0, "user")


@pytest.mark.parametrize("extent", [97, 192, 500, 512, 1000])
@pytest.mark.parametrize("multiple", [1, 8, 16])
def test_tiles_are_no_larger_than_their_number_needs(extent, multiple):
    plan = plan_tiles((3, extent, extent), range_cells=300, max_tile=96, multiple=multiple, overlap=8)
    widest = TilePlan(96 - 16, 8, 3, 0, "max_tile")
    count = len(tiles((3, extent, extent), widest))
    assert len(tiles((3, extent, extent), plan)) == count
    assert plan.read % multiple == 0
    smaller = TilePlan(plan.core - multiple, 8, 3, 0, "max_tile")
    assert len(tiles((3, extent, extent), smaller)) > count


def test_windows_that_see_enough_look_at_nothing_else():
    window = Window((100, 300), (0, 4), (0, 4))
    seen = np.random.default_rng(0).random(500) < 0.6
    tile = Tile(window, window, (0, 0, 0))
    assert with_context(tile, seen) == tile
    assert with_context(tile, np.zeros(500, dtype=bool)) == tile
    assert tile.looked_at == 200 * 16


@pytest.mark.parametrize("empty", [(0, 500), (90, 120), (290, 310), (150, 220), (100, 300), (0, 260)])
def test_context_lies_outside_and_holds_something(empty):
    window = Window((100, 300), (0, 4), (0, 4))
    seen = np.random.default_rng(0).random(500) < 0.6
    seen[empty[0] : empty[1]] = False
    tile = with_context(Tile(window, window, (0, 0, 0)), seen)
    steps = [*tile.before, *tile.after]
    assert steps == sorted(set(steps))
    assert all(step < 100 for step in tile.before)
    assert all(step >= 300 for step in tile.after)
    assert seen[steps].all()
    assert bool(steps) == bool(seen.any())
    assert len(steps) <= 4 * CONTEXT
