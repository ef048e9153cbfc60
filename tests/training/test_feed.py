"""What a step sees is seeded by its number alone, hides what it asks for, and wears its own units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stimpute.errors import InputError
from stimpute.training.archive import Archive, read_npz
from stimpute.training.crops import augmented, cut
from stimpute.training.feed import (
    Example,
    Feed,
    FeedOptions,
    crops_example,
    in_larger_stacks,
    set_aside,
    validation_example,
    whole_grid_shapes,
    worthwhile,
)
from stimpute.training.remask import blob, block, frames, pixel, remask, smooth_noise, swath, transplant

SHAPES = ((3, 6, 8, 10), (2, 1, 12, 12))


def ramp(name: str = "ramp", shape: tuple[int, int, int] = (12, 20, 24), missing: float = 0.3) -> Archive:
    """Every cell another number, so that a cell out of place shows."""
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    gone = np.random.default_rng(5).random(shape) < missing
    return Archive.from_array(
        name, np.where(gone, np.nan, values), dynamic={"same": values}, static={"place": values[0]}
    )


def same(one: Example, other: Example) -> bool:
    pairs = [(one.target, other.target), (one.wanted, other.wanted)]
    pairs += [(getattr(one.given, n), getattr(other.given, n)) for n in vars(one.given)]
    return all(a.shape == b.shape and bool(torch.equal(a, b)) for a, b in pairs)


def test_a_step_depends_on_seed_step_and_rank_alone() -> None:
    archives, options = [ramp("a"), ramp("b")], FeedOptions(SHAPES)
    one, again = Feed(archives, options, seed=3), Feed(archives, options, seed=3)
    for number in (4, 0, 4):  # in any order
        assert same(one.example(number), again.example(number))
    assert not same(one.example(4), one.example(5))
    assert not same(one.example(4), Feed(archives, options, seed=4).example(4))
    assert not same(one.example(4), Feed(archives, options, seed=3, rank=1).example(4))
    assert Feed(archives, options, seed=3, rank=1).shape(4) == one.shape(4)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_examples_are_consistent(share: float) -> None:
    feed = Feed([ramp("a"), ramp("b", (5, 9, 30))], FeedOptions(SHAPES, world_share=share), seed=1)
    for step in range(6):
        example = feed.example(step)
        given = example.given
        assert example.given.shape == feed.shape(step)
        assert not bool((given.valid & example.wanted).any())
        assert bool(example.wanted.flatten(1).any(dim=1).all())
        assert bool(given.valid.flatten(1).any(dim=1).all())
        assert bool((given.values[~given.valid] == 0).all())
        assert bool((example.target[~example.wanted] == 0).all())
        assert bool(torch.isfinite(example.target).all())
        assert given.dynamic.shape == given.dynamic_valid.shape
        if given.shape[1] > 1:
            assert bool((given.times.diff(dim=1) > 0).all())


def test_some_samples_look_like_parts_of_a_larger_stack() -> None:
    feed = Feed([], FeedOptions(((8, 4, 12, 12),)), seed=1)
    example = next(
        e for e in map(feed.example, range(9)) if bool(e.given.valid.flatten(1).sum(1).ge(20).all())
    )
    spread = torch.stack(
        [v[seen].std() for v, seen in zip(example.given.values, example.given.valid, strict=True)]
    )
    assert float(spread.min()) < 0.9
    assert float(spread.max()) > 0.99
    same = in_larger_stacks(example, np.random.default_rng(0), share=1.0)
    changed, before = (e.target[0][e.wanted[0]] for e in (same, example))
    assert float(torch.corrcoef(torch.stack((changed, before)))[0, 1]) > 0.999
    assert float((changed - before).abs().max()) > 0.01
    assert bool((same.given.values[~same.given.valid] == 0).all())


def test_targets_are_in_the_units_of_what_is_visible() -> None:
    values = np.array([[[1.0, 3.0, 11.0]]], dtype=np.float32)
    crop = cut(Archive.from_array("x", values), np.random.default_rng(0), (1, 1, 3), strides=False)
    visible = np.array([[[True, True, False]]])
    example = crops_example([type(crop)(**{**vars(crop), "given": visible, "wanted": ~visible})])
    assert example.given.values.flatten().tolist() == [-1.0, 1.0, 0.0]  # mean 2, deviation 1
    assert example.target.flatten().tolist() == [0.0, 0.0, 9.0]


def test_augmentation_moves_covariates_with_the_values() -> None:
    archive = ramp(missing=0.0)
    generator = np.random.default_rng(2)
    for _ in range(30):
        crop = augmented(cut(archive, generator, (6, 8, 8), strides=True), generator)
        order = np.argsort(crop.values, axis=None)
        covariate = crop.dynamic["same"].ravel()[order]
        assert (np.diff(covariate) >= 0).all() or (np.diff(covariate) <= 0).all()
        assert (np.diff(crop.times) > 0).all()
        assert crop.year_phase.min() >= 0
        assert crop.year_phase.max() < 1


def test_a_window_larger_than_the_archive_is_padded_with_gaps() -> None:
    crop = cut(ramp(shape=(3, 5, 4), missing=0.0), np.random.default_rng(1), (6, 8, 4), strides=False)
    assert crop.values.shape == (6, 8, 4)
    assert int(np.isfinite(crop.values).sum()) == 3 * 5 * 4
    assert np.allclose(np.diff(crop.times), 1.0)
    assert crop.static["place"].shape == (8, 4)


def test_cells_set_aside_are_wanted_in_validation_and_gone_in_training() -> None:
    archive = ramp()
    aside = set_aside(archive, 0.1, seed=0)
    assert not (aside & ~archive.valid).any()
    assert 0.02 < aside.sum() / archive.valid.sum() < 0.25
    assert np.isnan(archive.hide(aside).values[aside]).all()
    whole = validation_example(archive, aside, np.random.default_rng(0), (1, *archive.shape))
    assert bool((whole.wanted[0].numpy() == aside).all())
    assert bool((whole.given.valid[0].numpy() == (archive.valid & ~aside)).all())


def test_required_covariates_come_in_their_order() -> None:
    values = ramp().values
    archive = Archive.from_array("x", values, dynamic={"a": np.full_like(values, 2) + values, "b": -values})
    options = FeedOptions(((2, 4, 6, 6),), augment="none")
    example = Feed([archive], options, covariates=("b", "a")).example(0)
    observed = example.given.valid
    b, a = (example.given.dynamic[:, i][observed] for i in (0, 1))
    assert torch.corrcoef(torch.stack((b, a)))[0, 1] < -0.9
    b_and_values = torch.stack((b, example.given.values[observed]))
    assert torch.corrcoef(b_and_values)[0, 1] < 0
    with pytest.raises(InputError, match="covariates c are absent"):
        Feed([archive], options, covariates=("c",))


def test_a_learned_grid_must_be_the_archives() -> None:
    with pytest.raises(InputError, match=r"spatial embedding is for \(9, 9\)"):
        Feed([ramp()], whole_grid=(9, 9))
    assert all(s[2:] == (20, 24) for s in Feed([ramp()], whole_grid=(20, 24)).options.shapes)
    assert whole_grid_shapes([(1, 2, 4, 4)], (40, 40)) == ((1, 1, 40, 40),)


def test_nothing_to_train_on() -> None:
    with pytest.raises(InputError, match="--worlds"):
        Feed([], FeedOptions(world_share=0.0))
    assert Feed([], FeedOptions(SHAPES)).options.world_share == 1.0


def test_shapes_that_an_archive_hardly_fills_are_left_out() -> None:
    flat = ramp(shape=(2, 40, 40))
    assert worthwhile([(1, 2, 32, 32), (1, 3, 32, 32), (1, 365, 4, 4)], [flat]) == (
        (1, 2, 32, 32),
        (1, 3, 32, 32),
    )


# re-masking

SHAPE = (20, 24, 26)


@pytest.mark.parametrize("pattern", [pixel, block, frames, swath, blob])
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_patterns_hide_about_what_is_asked(pattern: object, share: float) -> None:
    generator = np.random.default_rng(0)
    found = np.mean([pattern(SHAPE, generator, share).mean() for _ in range(40)])  # type: ignore[operator]
    assert abs(found - share) < 0.12


def test_transplanted_gaps_are_those_of_other_frames() -> None:
    valid = np.ones((6, 5, 5), dtype=bool)
    valid[2, 1:3, 1:4] = False
    valid[:, 4, 4] = False  # never observed: no gap shape
    for seed in range(20):
        hidden = transplant(valid, np.random.default_rng(seed), 0.5)
        assert not (hidden & ~valid).any()
        shapes = {tuple(np.argwhere(frame).ravel()) for frame in hidden if frame.any()}
        assert shapes <= {tuple(np.argwhere(np.pad(np.ones((2, 3)), ((1, 2), (1, 1)))).ravel())}


@pytest.mark.parametrize("missing", [0.0, 0.5, 0.97])
def test_remask_hides_something_and_leaves_something(missing: float) -> None:
    generator = np.random.default_rng(1)
    for _ in range(40):
        valid = generator.random((5, 9, 9)) >= missing
        hidden = remask(smooth_noise(valid.shape, generator), valid, generator, (0.1, 0.9))
        assert not (hidden & ~valid).any()
        assert hidden.any()
        assert (valid & ~hidden).sum() >= min(12, valid.sum() // 2)


def test_value_dependent_gaps_depend_on_values() -> None:
    from stimpute.training.remask import value_dependent

    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    hidden = value_dependent(values, np.ones(SHAPE, dtype=bool), np.random.default_rng(3), 0.3)
    assert abs(values[hidden].mean() - values[~hidden].mean()) > 0.3


# archives


def test_npz_round_trip(tmp_path: Path) -> None:
    values = np.array([[[1.0, 2.0]], [[3.0, 4.0]]], dtype=np.float64)
    valid = np.array([[[True, False]], [[True, True]]])
    np.savez(
        tmp_path / "a.npz",
        values=values,
        valid=valid,
        times=[0.0, 8.0],
        dynamic_rain=values,
        static_height=values[0],
    )
    archive = read_npz(tmp_path / "a.npz")
    assert np.isnan(archive.values[0, 0, 1])
    assert archive.times.tolist() == [0.0, 8.0]
    assert set(archive.dynamic) == {"rain"}
    assert set(archive.static) == {"height"}
    assert np.allclose(archive.year_phase, [0.0, 8 / 365.2425])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros(3)}, "no array named 'values' in it, only other"),
        ({"values": np.zeros((3, 3))}, r"values of shape \(3, 3\)"),
        ({"values": np.zeros((2, 3, 3)), "times": np.array([1.0, 1.0])}, "times do not increase"),
        ({"values": np.zeros((2, 3, 3)), "times": np.zeros(3)}, "2 steps but times"),
        ({"values": np.full((2, 3, 3), np.nan)}, "nothing observed"),
        ({"values": np.zeros((2, 3, 3)), "valid": np.ones(2)}, "valid of shape"),
        ({"values": np.zeros((2, 3, 3)), "static_h": np.ones(2)}, "covariate h has shape"),
        ({"values": np.array([{"a": 1}], dtype=object)}, "pickled objects are never loaded"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_npz(tmp_path / "a.npz")


def test_npz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no zip at all")
    with pytest.raises(InputError, match=r"not an \.npz"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "b.npz")


def test_without_augmentation_crops_are_in_units_of_their_archive() -> None:
    values = np.arange(40, dtype=np.float32)[:, None, None] * np.ones((1, 6, 6), dtype=np.float32)
    archive = Archive.from_array("x", values, dynamic={"same": values * 3 + 7})
    options = FeedOptions(((2, 5, 6, 6),), world_share=0.0, augment="none", drop_covariates=0.0)
    given = Feed([archive], options, seed=3).example(0).given
    expected = (given.times[:, 0, None] * 0 + 1) * given.values.amax(dim=(2, 3))  # (B, T), one value per step
    position = given.dynamic[:, 0, :, 0, 0]
    seen = given.valid.flatten(2).any(dim=2)
    torch.testing.assert_close(expected[seen], position[seen])
    assert float(position.abs().max()) < 2
    assert float(position.mean(dim=1).abs().max()) > 0.2
