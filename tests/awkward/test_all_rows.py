"""Every row of the list of awkward inputs has a test that bears its number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
ROWS = range(1, 71)
RESUMED = (
    TESTS / "cli" / "test_resume.py"
)  # row 65: with everything else about going on after an interruption
NAMED = re.compile(r"^def test_(\d\d)_\w+", re.MULTILINE)


def covered() -> dict[int, list[str]]:
    """Row -> the files with tests of it, all over the tests: what is interrupted is tested with the faults."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for number in NAMED.findall(path.read_text(encoding="utf-8")):
            found.setdefault(int(number), []).append(path.name)
    if "def test_another_run_is_not_resumed" in RESUMED.read_text(encoding="utf-8"):
        found.setdefault(65, []).append(RESUMED.name)
    return found


@pytest.mark.parametrize("row", ROWS)
def test_the_row_has_a_test(row):
    assert covered().get(row), f"no test_{row:02d}_... anywhere"


def test_no_test_bears_a_number_that_no_row_has():
    assert set(covered()) <= set(ROWS)
