"""Refining layers that memory does not hold, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest

from stimpute.inference.pieces import HALO, blended_windows, cut_layer, finer
from stimpute.protocols import Window
from stimpute.stack import Stack

K = 2


def layer(shape=(6, 70, 90), seed=0) -> Stack:
    values = np.random.default_rng(seed).normal(size=shape).astype("f4")
    values[np.random.default_rng(seed + 1).random(shape) < 0.3] = np.nan
    return Stack.from_array(values)


def fine_of(stack: Stack) -> Stack:
    t, ny, nx = stack.shape
    return Stack.from_array(np.full((t, ny * K, nx * K), np.nan, dtype="f4"))


def reader(stack: Stack):
    return lambda window: stack.window(*window.slices)


def spread(stack: Stack, fine: Stack, origin: tuple[int, int, int]):
    """Every cell repeated, and which piece says so."""
    field = np.repeat(np.repeat(np.where(stack.valid, stack.values, np.nan), K, axis=1), K, axis=2)
    assert field.shape == fine.shape
    return {"mean": field, "row": np.full_like(field, origin[1])}


def assembled(stack: Stack, cells: int, say=spread, wraps=False, window_cells=1000):
    cut = cut_layer(stack.shape, wraps, cells)
    t, ny, nx = stack.shape
    found: dict[str, np.ndarray] = {}
    coarse, fine = cut.around(reader(stack)), cut.around(reader(fine_of(stack)), K)

    def of(window: Window):
        origin = window.time[0], window.y[0], window.x[0] - cut.margin
        return say(coarse(window), fine(finer(window, K)), origin)

    for window, fields in blended_windows(cut, of, (1, 8, nx), window_cells, K):
        for name, field in fields.items():
            whole = found.setdefault(name, np.full((t, ny * K, nx * K), -99, dtype="f4"))
            place = whole[finer(window, K).slices]
            assert (place == -99).all(), "said twice"
            whole[finer(window, K).slices] = field
    assert not any((field == -99).any() for field in found.values())
    return cut, found


def test_pieces_fit_and_cover_everything():
    for cells in (10**9, 60_000, 17_000):
        cut = cut_layer((6, 200, 150), False, cells)
        assert max(np.prod(piece.read.shape) for piece in cut.pieces) <= cells
        covered = np.zeros((6, 200, 150), dtype=int)
        for piece in cut.pieces:
            covered[piece.core.slices] += 1
        assert (covered == 1).all()
    assert len(cut.pieces) == 20


def test_long_series_are_cut_in_time_before_pieces_become_slivers():
    cut = cut_layer((4000, 100, 100), False, 100_000)
    assert max(np.prod(piece.read.shape) for piece in cut.pieces) <= 100_000
    assert min(min(piece.read.shape[1:]) for piece in cut.pieces) >= 24


def test_whole_series_stay_whole():
    cut = cut_layer((400, 100, 100), False, 100_000, whole_series=True)
    assert {piece.read.time for piece in cut.pieces} == {(0, 400)}
    assert len(cut.pieces) > 40


def test_what_pieces_agree_upon_comes_out():
    stack = layer()
    whole, expected = assembled(stack, 10**9)
    cut, found = assembled(stack, 16_384)
    assert len(whole.pieces) == 1 < len(cut.pieces)
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-6)
    assert len(np.unique(found["row"])) > len({piece.read.y for piece in cut.pieces}), "blended"


def test_a_coarse_cell_has_one_weight():
    _, found = assembled(layer(), 16_384)
    row = found["row"]
    np.testing.assert_array_equal(row[:, ::K], row[:, 1::K])


def test_beyond_the_seam_lies_the_other_side():
    stack = layer((2, 40, 60))
    seen = []

    def look(coarse: Stack, fine: Stack, origin: tuple[int, int, int]):
        t0, y0, x0 = origin
        columns = np.arange(x0, x0 + coarse.shape[2]) % 60
        part = stack.values[t0 : t0 + coarse.shape[0], y0 : y0 + coarse.shape[1]][..., columns]
        np.testing.assert_array_equal(coarse.values, part)
        seen.append(x0)
        return spread(coarse, fine, origin)

    for cells in (10**9, 3000):
        cut, found = assembled(stack, cells, look, wraps=True)
        assert cut.margin == HALO
        known = np.isfinite(found["mean"])
        assert known.sum() == stack.valid.sum() * K * K
    assert min(seen) == -HALO


def test_who_says_nothing_has_no_vote():
    stack = Stack.from_array(np.ones((2, 500, 40), dtype="f4"))

    def silent_at_the_top(coarse: Stack, fine: Stack, origin: tuple[int, int, int]):
        said = spread(coarse, fine, origin)
        return said if origin[1] else {name: np.full_like(f, np.nan) for name, f in said.items()}

    cut, found = assembled(stack, 16_384, silent_at_the_top)
    second = min(piece.read.y[0] for piece in cut.pieces if piece.read.y[0])
    assert np.isnan(found["mean"][:, : second * K]).all()
    np.testing.assert_array_equal(found["mean"][:, second * K :], 1)


def test_a_full_disk_is_said(monkeypatch):
    from stimpute.errors import OutputError

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        assembled(layer(), 16_384)


def test_finer_windows():
    assert finer(Window((1, 3), (2, 5), (0, 4)), 3) == Window((1, 3), (6, 15), (0, 12))
