"""The Python API takes what the command line takes, and refuses the rest by the option's name."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import stimpute
from stimpute.api.keywords import as_command
from stimpute.api.values import value_of
from stimpute.errors import StimputeError, UsageError


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("max_gap", "10d", 10.0),
        ("max_gap", 10, 10.0),
        ("max_extrapolation", "none", math.inf),
        ("max_extrapolation", "2w", 14.0),
        ("every", "36h", 1.5),
        ("memory", "2GB", 2 * 10**9),
        ("memory", 2e9, 2 * 10**9),
        ("quantiles", "0.05,0.95", (0.05, 0.95)),
        ("quantiles", 0.5, (0.5,)),
        ("quantiles", [0.5], (0.5,)),
        ("bounds", "none", None),
        ("bounds", "auto", "auto"),
        ("bounds", "0,", (0.0, None)),
        ("bounds", (0, None), (0.0, None)),
        ("co", ["A=b", "C=d"], {"A": "b", "C": "d"}),
        ("co", "A=b", {"A": "b"}),
        ("co", {"A": "b"}, {"A": "b"}),
        ("minutes", "1", 1.0),
        ("methods", "mean", ("mean",)),
        ("methods", "mean,linear", ("mean", "linear")),
        ("methods", ["mean"], ("mean",)),
        ("holdout", "random", ("random",)),
        ("time", "2020-01-01,", ("2020-01-01", "")),
        ("time", (datetime.date(2020, 1, 1), None), ("2020-01-01", "")),
        ("bbox", "1,2,3,4", (1.0, 2.0, 3.0, 4.0)),
        ("bbox", np.arange(4), (0.0, 1.0, 2.0, 3.0)),
        ("nodata", "-9999,0", (-9999.0, 0.0)),
        ("nodata", -9999, (-9999.0,)),
        ("shape", "9x8x7", (9, 8, 7)),
        ("horizon", 6, (6,)),
        ("seed", np.int64(3), 3),
        ("regular", np.True_, True),
        ("progress", print, print),
    ],
)
def test_a_value_or_its_text(name: str, given: Any, meant: Any) -> None:
    assert value_of(name, given) == meant


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("max_gap", "ten"), ("max_gap", [10]), ("max_gap", math.nan), ("max_gap", True), ("memory", "much"), ("memory", 1.5),
        ("quantiles", "a"), ("quantiles", [None]), ("bounds", "1"), ("bounds", 3), ("co", "a"), ("co", 3), ("minutes", "soon"),
        ("methods", 3), ("time", "2020"), ("time", 2020), ("bbox", (1, 2)), ("bbox", "1,2"), ("nodata", "x"), ("seed", 1.5),
        ("regular", "yes"), ("method", 3), ("out", 3), ("tile", np.arange(2)), ("flags", np.arange(2)), ("shape", "a"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(name: str, given: Any) -> None:
    with pytest.raises(UsageError, match="OUT" if name == "out" else f"^--{name.replace('_', '-')}"):
        value_of(name, given)


def test_fill_takes_the_words_of_the_command_line(small: Path) -> None:
    words: dict[str, Any] = {
        "max_gap": "3d",
        "max_extrapolation": "none",
        "memory": "2GB",
        "quantiles": "0.1,0.9",
        "bounds": "none",
    }
    values: dict[str, Any] = {
        "max_gap": 3,
        "max_extrapolation": math.inf,
        "memory": 2 * 10**9,
        "quantiles": (0.1, 0.9),
        "bounds": None,
    }
    by_words, by_values = (
        stimpute.fill(small, method="linear", seed=None, **options) for options in (words, values)
    )
    xr.testing.assert_equal(by_words, by_values)
    asked = "--max-gap 3.0 --max-extrapolation none --memory 2000000000 --quantiles 0.1,0.9 --bounds none"
    assert asked in by_words.attrs["history"]
    assert asked in by_values.attrs["history"]


def test_threads_are_of_one_run(small: Path) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        stimpute.fill(small, method="mean", threads=1)
        assert torch.get_num_threads() == 3
        with pytest.raises(UsageError):
            stimpute.fill(small, method="mean", threads=1, precision="bf16")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_strings_are_no_lists_of_letters(small: Path) -> None:
    boards = stimpute.evaluate(small, holdout="gap,pixel", methods="mean")
    assert {(row.kind, row.method) for row in boards[0].rows} == {("gap", "mean"), ("pixel", "mean")}
    with pytest.raises(UsageError, match="--methods nan"):
        stimpute.evaluate_reconstruct(small, factor=2, methods="nan")


@pytest.mark.parametrize(
    "call", [stimpute.fill, stimpute.info, stimpute.evaluate, stimpute.forecast, stimpute.variogram]
)
@pytest.mark.parametrize("given", [np.zeros((3, 4, 5)), [np.zeros((3, 4, 5))], 3, None, {"a": 1}])
def test_an_input_without_coordinates_is_refused(call: Callable[..., Any], given: Any) -> None:
    with pytest.raises(StimputeError, match="input of type"):
        call(given)


def test_an_archive_without_coordinates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="input of type ndarray"):
        stimpute.train([np.zeros((3, 4, 5))], tmp_path / "m.safetensors", minutes="0.01")


def test_a_wrong_keyword_is_still_pythons_own_error(small: Path) -> None:
    with pytest.raises(TypeError, match="tyle"):
        stimpute.fill(small, tyle=None)
    with pytest.raises(TypeError, match="factor"):
        stimpute.reconstruct(small)


def test_what_was_asked_for_as_the_command_line_has_it() -> None:
    assert as_command("stimpute.fill", {"bounds": None, "max_extrapolation": math.inf, "max_gap": None}) == (
        "stimpute.fill --bounds none --max-extrapolation none"
    )


def test_the_current_folder_is_an_output_like_any_other(tmp_path, monkeypatch, small):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    stimpute.fill(small, ".", method="mean")
    assert (tmp_path / "out" / Path(small).name).exists()
    for nothing in ("", "/"):
        with pytest.raises(StimputeError, match="names neither a file nor a folder"):
            stimpute.fill(small, nothing, method="mean")
