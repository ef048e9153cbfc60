"""The benchmarks of memory, throughput and scaling: what they generate, measure and write."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import memory
import scaling
import throughput
from scoring import timed


def test_a_stack_of_a_size_has_that_size() -> None:
    side = timed.side_of(4, 10)
    assert 10 * side * side * 4 == pytest.approx(4 * 2**20, rel=0.01)


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".tif"])
def test_generated_stacks_are_the_same_in_every_format(tmp_path: Path, suffix: str) -> None:
    from stimpute.io import open_source
    from stimpute.protocols import Window

    path = timed.write_stack(tmp_path / f"stack{suffix}", 9, 40, 30, seed=2)
    expected = np.stack(list(timed.frames(9, 40, 30, seed=2)))
    assert 0.2 < np.isnan(expected).mean() < 0.6
    with open_source([path]) as source:
        assert source.times.tolist() == list(range(9))
        found = source.read(Window.whole((9, 40, 30))).with_nan()
    np.testing.assert_array_equal(found, expected)


def test_peak_memory_is_that_of_the_command() -> None:
    small, large = (
        timed.measure([sys.executable, "-c", f"import sys; x = bytearray({n}); sys.exit(3)"])
        for n in (1, 200 << 20)
    )
    assert small.code == large.code == 3
    assert small.peak_bytes < large.peak_bytes
    assert 200 << 20 < large.peak_bytes < 260 << 20


def test_the_others_keep_what_was_observed_and_fill_the_rest() -> None:
    truth, gap = (np.stack(part) for part in zip(*timed.scenes(12, 40, 40), strict=True))
    stack = np.where(gap, np.nan, truth)
    for filled in (throughput.dct_pls(stack, 1), throughput.dineof(stack, 1, modes=2)):
        np.testing.assert_allclose(filled[~gap], truth[~gap], rtol=1e-5)
        assert np.abs(filled - truth)[gap].mean() < 0.7 * np.abs(np.nanmean(stack) - truth)[gap].mean()


def test_the_page_of_memory_keeps_what_was_there(tmp_path: Path) -> None:
    def row(megabytes: float, peak: int) -> memory.Row:
        return memory.Row("nc", megabytes, 100, "mean", "512MB", 1, 1.0, 1.0, peak, 10, 1.0, peak, 10)

    memory.write_page(memory._merged([row(256, 100 << 20)], tmp_path), tmp_path)
    memory.write_page(memory._merged([row(4096, 130 << 20)], tmp_path), tmp_path)
    assert [r.megabytes for r in memory.read_rows(tmp_path)] == [256, 4096]
    assert "| 1.30 |" in (tmp_path / "memory.md").read_text()


def test_a_quick_run_of_memory_and_throughput(tmp_path: Path) -> None:
    assert (
        memory.main(["--quick", "--out", str(tmp_path), "--work", str(tmp_path / "work"), "--steps", "20"])
        == 0
    )
    rows = memory.read_rows(tmp_path)
    assert all(row.peak_bytes > 100 << 20 and row.disk_bytes > row.cells * 4 for row in rows)
    command = ["--quick", "--out", str(tmp_path), "--work", str(tmp_path / "runs"), "--threads", "1"]
    assert throughput.main([*command, "--contenders", "DCT-PLS (scipy),linear"]) == 0
    found = json.loads((tmp_path / "throughput.json").read_text())
    assert [row["name"] for row in found] == ["DCT-PLS (scipy)", "linear"]
    assert found[0]["method_seconds"] is None
    assert 0 < found[1]["method_seconds"] < found[1]["seconds"]
    assert all(0.1 < row["mae"] < 3 for row in found)
    assert "cell-steps/s" in (tmp_path / "throughput.md").read_text()


def test_the_exponent_leaves_out_what_took_no_time() -> None:
    assert scaling.exponent([(10, -0.1), (100, 2.0)]) is None
    assert scaling.exponent([(10, 1.0), (100, 100.0)]) == pytest.approx(2)
