"""A stack that is unlike everything a model was trained on is said to be so, in one line, with numbers."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from stimpute.errors import ModelError, StimputeWarning
from stimpute.inference.familiarity import traits, unfamiliar
from stimpute.inference.memory import StackSource
from stimpute.inference.methods import open_method
from stimpute.inference.options import FillOptions
from stimpute.inference.survey import survey_layer
from stimpute.pretrained.checkpoint import read_card, seen_path
from stimpute.pretrained.registry import find_model
from stimpute.stack import Stack
from stimpute.variography import analyse


@pytest.fixture(scope="module")
def shipped():
    return open_method("st", device="cpu")


def said(values: np.ndarray, method: object) -> list[str]:
    """The warnings of the survey about what was trained on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StimputeWarning)
        survey_layer(StackSource(Stack.from_array(values), "sst"), 0, method, FillOptions())
    return [str(w.message) for w in caught if "trained on" in str(w.message)]


@pytest.fixture
def field() -> np.ndarray:
    """Smooth: waves of some ten cells, moving."""
    t, y, x = np.meshgrid(np.arange(10), np.arange(40), np.arange(40), indexing="ij")
    return 15 + 3 * np.sin((y + 2 * t) / 5) + 2 * np.cos(x / 6 - t / 3)


def test_traits_of_known_fields(field):
    noise = np.random.default_rng(0).normal(size=field.shape)
    gaps = np.random.default_rng(1).random(field.shape) < 0.4
    for share in (0.0, 0.5):
        values = np.where(
            gaps, np.nan, np.sqrt(1 - share) * (field - 15) / field.std() + np.sqrt(share) * noise
        )
        stack = Stack.from_array(values)
        found = traits(stack.valid.sum(axis=0), 10, analyse(stack), stack.grid)
        assert found["gap_share"] == pytest.approx(gaps.mean(), abs=1e-6)
        assert found["noise_share"] == pytest.approx(share, abs=0.12)
        assert 5 < found["range_cells"] < 25


def test_never_observed_cells_are_no_gaps_and_what_cannot_be_fitted_is_left_out():
    values = np.full((4, 5, 5), np.nan)
    values[:3, 0, 0] = 1.0
    found = traits(np.isfinite(values).sum(axis=0), 4, None, Stack.from_array(values).grid)
    assert found == {"gap_share": 0.25}


def test_the_shipped_model_says_what_it_has_seen():
    seen = read_card(find_model("st-small"))["seen"]
    assert set(seen) == {"gap_share", "range_cells", "noise_share"}
    for low, middle, high in seen.values():
        assert 0 <= low <= middle <= high
    assert seen["gap_share"][2] > 0.8
    assert unfamiliar({name: limits[1] for name, limits in seen.items()}, seen) == []


def test_an_ordinary_stack_is_not_remarked_on(field, shipped):
    gaps = np.random.default_rng(1).random(field.shape) < 0.4
    assert said(np.where(gaps, np.nan, field), shipped) == []


def test_a_stack_unlike_all_of_training_is_one_line_with_its_numbers(field, shipped):
    empty = np.tile(field, (10, 1, 1))[:, :15, :15]
    empty[np.random.default_rng(1).random(empty.shape) < 0.992] = np.nan
    lines = said(empty, shipped)
    assert len(lines) == 1, lines
    assert lines[0].startswith("sst: unlike what st-small was trained on (share of gaps 98.")
    for words in (", seen 0.0% to 9", "stimpute evaluate", "--adapt"):
        assert words in lines[0]
    assert said(empty, open_method("linear")) == []  # a method that was not trained


def test_a_model_adapted_to_the_stack_is_not_warned_of(field):
    narrow = {"gap_share": [0.0, 0.05, 0.1]}
    gaps = np.random.default_rng(1).random(field.shape) < 0.4
    probe = SimpleNamespace(name="st", sees_whole=True, seen=narrow, model_name="mine", adaptation=None)
    assert len(said(np.where(gaps, np.nan, field), probe)) == 1
    probe.adaptation = "adapted"
    assert said(np.where(gaps, np.nan, field), probe) == []


def test_damaged_ranges_are_an_error_of_the_model(tmp_path):
    shipped = find_model("st-small")
    for name in (shipped.name, shipped.with_suffix(".json").name):
        (tmp_path / name).write_bytes(shipped.with_name(name).read_bytes())
    copied = tmp_path / shipped.name
    assert "seen" not in read_card(copied)
    seen_path(copied).write_text(json.dumps({"ranges": {"gap_share": "all"}}))
    with pytest.raises(ModelError, match=r"st-small\.seen\.json"):
        read_card(copied)
