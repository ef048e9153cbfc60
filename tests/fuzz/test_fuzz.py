"""A short part of `benchmarks/fuzz.py`: what once was a finding, and some new inputs of every kind, the same ones every time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz

pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLES = {"dates": 100, "times": 100, "model": 15, "netcdf": 10, "tiff": 10, "zarr": 10, "options": 12}


@pytest.fixture(scope="module")
def seeds() -> fuzz.Seeds:
    return fuzz.Seeds.written()


@pytest.mark.parametrize("path", fuzz.corpus(), ids=lambda p: p.stem)
def test_what_was_a_finding_is_none_now(path):
    fuzz.replay(path)


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_breaks_it(name, seeds):
    fuzz.explore(name, seeds, EXAMPLES[name], 7)


def test_a_finding_is_found(tmp_path, seeds, monkeypatch):
    """The judge itself: an internal error, a success that verifies as none, something left behind."""
    with pytest.raises(fuzz.FindingError, match="internal error"):
        fuzz.judge(["fill"], 1, "stimpute: error: internal error: KeyError: 'x'")
    with pytest.raises(fuzz.FindingError, match="exit code -11"):
        fuzz.judge(["fill"], -11, "")
    with pytest.raises(fuzz.FindingError, match="0 error lines"):
        fuzz.judge(["fill"], 1, "something")
    monkeypatch.setattr(fuzz, "command", lambda *words: (0, "", ""))
    with pytest.raises(fuzz.FindingError, match="without an output"):
        fuzz.broken_file("a.nc", seeds.netcdf[0])
