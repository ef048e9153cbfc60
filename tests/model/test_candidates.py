"""The candidates: their errors must be those that a gap of this kind would show."""

import math

import pytest
import torch

from stimpute.classical import gridded_kriging
from stimpute.model.batch import Batch
from stimpute.model.candidate_errors import alike, farther, frame_error
from stimpute.model.candidates import (
    CANDIDATES,
    TRANSFORMED,
    blend,
    compute_candidates,
    copies,
    estimate_candidates,
)
from stimpute.model.inner_hold_out import (
    empty_frames,
    hidden_by_turns,
    hidden_frames,
    hidden_runs,
    inner_hold_out,
    reach,
)


def test_empty_frames_are_judged_on_frames_hidden_wholly() -> None:
    generator = torch.Generator().manual_seed(5)
    level = 3 * torch.randn(1, 24, 1, 1, generator=generator)  # unforeseeable from frame to frame
    pattern = torch.randn(1, 1, 12, 12, generator=generator)
    values = level + pattern
    valid = torch.rand(values.shape, generator=generator) < 0.7
    valid[:, 7] = False
    batch, _, _ = Batch.plain(torch.where(valid, values, 0.0), valid).renormalised()
    found = compute_candidates(batch)
    index = CANDIDATES.index("kriging")
    empty, other = found.log_error[0, index, 7].exp().mean(), found.log_error[0, index, 8].exp().mean()
    assert empty > 5 * other
    assert empty > 0.4
    assert bool((found.prior_error[0, 7] > 0.4).all())


def test_hidden_frames_are_whole_and_leave_most() -> None:
    valid = torch.rand(2, 20, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    valid[0, 3:9] = False
    hidden = hidden_frames(valid)
    touched = hidden.flatten(2).any(dim=2)
    assert torch.equal(hidden, valid & touched[:, :, None, None])
    assert touched.sum(dim=1).tolist() == [5, 7]
    assert torch.equal(empty_frames(valid)[0], ~valid[0].flatten(1).any(dim=1))
    assert not bool(empty_frames(torch.zeros_like(valid)).any())


def test_few_frames_are_hidden_by_turns_each_once() -> None:
    valid = torch.rand(3, 16, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    valid[0, 3:5] = False
    valid[1, 1:] = False  # one frame is left
    held_out, *frames = hidden_by_turns(valid)
    assert len(frames) == 3
    assert torch.equal(held_out, inner_hold_out(valid))
    times = torch.stack(frames).sum(dim=0)
    assert torch.equal(times[0], valid[0].long()), "every observed frame once"
    assert not bool(times[1:].any()), "neither the only frame nor those of a stack without empty ones"
    assert [int(f[0].flatten(1).any(dim=1).sum()) for f in frames] == [5, 4, 5]
    alone = hidden_by_turns(valid[:1])
    assert all(torch.equal(one[0], many[0]) for one, many in zip(alone, (held_out, *frames), strict=True))


@pytest.mark.parametrize(
    ("frames", "turns"), [(2, 2), (15, 3), (16, 3), (17, 3), (24, 2), (47, 2), (48, 1), (200, 1)]
)
def test_more_frames_take_fewer_turns(frames: int, turns: int) -> None:
    valid = torch.ones(1, frames + 1, 2, 2, dtype=torch.bool)
    valid[:, 0] = False
    hidden = hidden_by_turns(valid)[1:]
    assert len(hidden) == turns
    assert all(0 < int(h.flatten(2).any(dim=2).sum()) < frames for h in hidden)


def test_a_frame_none_can_foresee_does_not_decide_between_candidates() -> None:
    errors = torch.tensor([[0.1, 0.1, 0.1, 4.0], [0.3, 0.3, 0.3, 3.0], [0.5, 0.5, 0.5, 0.5]])
    cells = torch.full((1, 4), 900)
    found = frame_error(900 * errors[None], cells, errors.mean(dim=1)[None], torch.ones(1, 1, 4))
    first, second, third = found.flatten().tolist()
    assert first < 0.6 * second
    assert second == pytest.approx(errors[1].mean().item(), rel=0.01)
    assert third > first


def test_frames_of_single_cells_are_compared_by_their_mean_error() -> None:
    error = torch.tensor([[0.001, 1.0, 1.0], [0.5, 0.5, 0.5]])[None]  # one lucky hit
    cells = torch.ones(1, 3, dtype=torch.long)
    lucky, steady = frame_error(error, cells, error.mean(dim=2), torch.ones(1, 1, 3)).flatten().tolist()
    assert lucky > 1.1 * steady


def test_frames_are_judged_by_those_as_far_from_others() -> None:
    near, far, alone, not_asked = (0.0, 0.0), (3.0, 3.0), (0.0, 8.0), (3.0, 3.0)
    asked = torch.tensor([[near, far, alone, not_asked]])
    wanted, cells = torch.tensor([[near, far, alone, (4.0, 5.0)]]), torch.tensor([[5, 5, 5, 0]])
    runs = torch.ones(1, 1, 1, dtype=torch.bool)
    weight = alike(wanted, asked, cells, runs)[0]
    assert weight.argmax(dim=1).tolist() == [0, 1, 2, 1]
    assert weight.max(dim=1).values.tolist() == [2, 2, 2, 2], "one of its own, a third of three of any"
    assert bool((weight[:, 3] == 0).all())
    assert 1 <= float(weight[0, 1]) < 1.01
    assert not bool(alike(asked, asked, torch.zeros(1, 4), runs).any())
    assert alike(wanted, asked, cells, ~runs)[0].tolist() == 4 * [[1, 1, 1, 0]], (
        "no runs: one as good as another"
    )


def test_frames_are_farther_from_others_where_fewer_are_near() -> None:
    between, beside, wide, last = (0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 256.0)
    asked, weight = torch.tensor([[wide, wide]]), torch.ones(1, 4, 2)
    found = farther(torch.tensor([[between, beside, wide, last]]), asked, weight)
    assert found.flatten().tolist() == pytest.approx([-1, -math.log2(1.5), 0, 0])
    nothing = farther(torch.tensor([[between]]), asked, torch.zeros(1, 1, 2))
    assert nothing.flatten().tolist() == [-1]


def test_every_second_frame_is_foreseen_better_than_those_hidden_between() -> None:
    generator = torch.Generator().manual_seed(6)
    walk = torch.randn(1, 41, 1, 1, generator=generator).cumsum(dim=1)
    values = walk + 0.2 * torch.randn(1, 1, 10, 10, generator=generator)
    valid = (torch.arange(41) % 2 == 0)[None, :, None, None].expand(values.shape)
    batch, center, scale = Batch.plain(torch.where(valid, values, 0.0), valid).renormalised()
    found = compute_candidates(batch)
    missed = (found.estimates - ((values - center) / scale)[:, None]).abs()[0, :, 1::2].mean(dim=(1, 2, 3))
    expected = found.log_error[0, :, 1::2].exp().mean(dim=(1, 2, 3))
    linear, mean = (CANDIDATES.index(name) for name in ("linear", "cell mean"))
    assert missed[linear] < expected[linear] < 1.5 * missed[linear]
    assert expected[mean] == pytest.approx(missed[mean].item(), rel=0.1)
    assert missed[linear] < found.prior_error[0, 1::2].mean() < 1.5 * missed[linear]


@pytest.mark.parametrize("where", ["end", "inside"])
def test_long_runs_of_empty_frames_are_judged_by_runs(where: str) -> None:
    generator = torch.Generator().manual_seed(4)
    walk = 0.3 * torch.randn(1, 60, 1, 1, generator=generator).cumsum(
        dim=1
    )  # near frames tell, far ones do not
    values = walk + 0.1 * torch.randn(1, 60, 10, 10, generator=generator)
    valid = torch.rand(values.shape, generator=generator) < 0.8
    empty = slice(46, 60) if where == "end" else slice(24, 38)
    valid[:, empty] = False
    batch, _, _ = Batch.plain(torch.where(valid, values, 0.0), valid).renormalised()
    assert bool(hidden_runs(valid).flatten(2).any(dim=2).any())
    found = compute_candidates(batch)
    error = found.log_error[0, CANDIDATES.index("kriging"), empty].exp().mean(dim=(1, 2))
    first, deep = error[0], error[7 if where == "inside" else 10]
    assert deep > 1.25 * first
    prior = found.prior_error[0, empty].mean(dim=(1, 2))
    assert prior[7] > 1.2 * prior[0]


def test_reach_counts_in_steps_from_either_side() -> None:
    seen = torch.tensor([[False, True, False, False, False, True, False]])[..., None, None]
    times = torch.tensor([[0.0, 2.0, 4.0, 8.0, 12.0, 14.0, 16.0]])
    near, far = reach(seen, times)[0].T.exp2()
    assert near.tolist() == pytest.approx([1, 1, 1, 3, 1, 1, 1])
    assert far.tolist() == pytest.approx([256, 1, 5, 3, 5, 1, 256])


def test_a_sample_with_one_frame_is_blended_the_same_beside_others() -> None:
    generator = torch.Generator().manual_seed(12)
    values = torch.randn(2, 9, 8, 8, generator=generator)
    valid = torch.rand(values.shape, generator=generator) < 0.7
    valid[0, 1:] = False
    valid[1, 4] = False
    batch = Batch.plain(torch.where(valid, values, 0.0), valid)
    alone, both = compute_candidates(batch.sample(0)), compute_candidates(batch)
    torch.testing.assert_close(both.log_error[:1], alone.log_error)
    torch.testing.assert_close(both.prior[:1], alone.prior)


def test_fast_kriges_once_for_each_view(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(1, 6, 8, 8, generator=generator)
    valid = torch.rand(1, 6, 8, 8, generator=generator) < 0.6
    batch, _, _ = Batch.plain(torch.where(valid, values, 0.0), valid).renormalised()
    calls: list[int] = []
    krige = gridded_kriging.krige

    def counted(targets: list[torch.Tensor], *args: object, **kwargs: object) -> list[torch.Tensor]:
        calls.append(len(targets))
        return krige(targets, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(gridded_kriging, "krige", counted)
    compute_candidates(batch)
    whole = len(calls)
    found = compute_candidates(batch, fast=True)
    assert (whole, len(calls) - whole) == (3, 1)
    plain, anomalous, framed = (
        found.estimates[:, CANDIDATES.index(name)]
        for name in ("kriging", "kriging of anomalies", "frame regression + kriging")
    )
    assert torch.equal(plain, anomalous)
    assert torch.equal(plain, framed)


def lognormal(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    rough = torch.randn(1, 12, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, (24, 24), mode="bicubic")
    values = (1.5 * smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).exp()
    return values, torch.rand(values.shape, generator=generator) < 0.4


def test_skewed_values_are_kriged_transformed() -> None:
    values, valid = lognormal(torch.Generator().manual_seed(7))
    batch, center, scale = Batch.plain(torch.where(valid, values, 0.0), valid).renormalised()
    found, truth = compute_candidates(batch), (values - center) / scale
    plain, transformed = (
        (found.estimates[:, CANDIDATES.index(name)] - truth)[~valid].abs().mean()
        for name in ("kriging", TRANSFORMED)
    )
    assert transformed < 0.8 * plain


def test_values_that_are_not_skewed_are_kriged_once_less() -> None:
    generator = torch.Generator().manual_seed(8)
    values = torch.randn(1, 6, 8, 8, generator=generator)
    found = compute_candidates(Batch.plain(values, torch.rand(values.shape, generator=generator) < 0.6))
    plain, transformed = (found.estimates[:, CANDIDATES.index(name)] for name in ("kriging", TRANSFORMED))
    assert torch.equal(plain, transformed)


def test_a_list_of_candidates_gives_these_and_their_prior() -> None:
    values, valid = lognormal(torch.Generator().manual_seed(9))
    batch, _, _ = Batch.plain(torch.where(valid, values, 0.0), valid).renormalised()
    everything, one = compute_candidates(batch), compute_candidates(batch, names=("linear",))
    assert one.names == ("linear",)
    torch.testing.assert_close(one.estimates[:, 0], everything.estimates[:, CANDIDATES.index("linear")])
    torch.testing.assert_close(one.prior, one.estimates[:, 0])


@pytest.mark.parametrize("empty", [False, True])
def test_views_of_all_candidates_blend_to_the_prior_of_some(empty: bool) -> None:
    values, valid = lognormal(torch.Generator().manual_seed(10))
    valid[:, 5] &= not empty
    batch, _, _ = Batch.plain(torch.where(valid, values, 0.0), valid).renormalised()
    names = tuple(name for name in CANDIDATES if name != "kriging")
    kept = [CANDIDATES.index(name) for name in names]
    hidden = hidden_by_turns(batch.valid)
    assert len(hidden) == 1 + 3 * empty
    views = [(estimates[:, kept], densities) for estimates, densities in estimate_candidates(batch, hidden)]
    some, expected = blend(batch, views, hidden, names), compute_candidates(batch, names=names)
    assert some.names == names
    for field in ("prior", "prior_error", "log_error", "features"):
        assert torch.equal(getattr(some, field), getattr(expected, field))


def test_candidates_that_say_the_same_weigh_as_one() -> None:
    generator = torch.Generator().manual_seed(11)
    valid = torch.rand(1, 8, 12, 12, generator=generator) < 0.7
    batch, _, _ = Batch.plain(
        torch.where(valid, torch.randn(1, 8, 12, 12, generator=generator), 0.0), valid
    ).renormalised()
    hidden = hidden_by_turns(batch.valid)
    names = ("linear", "kriging", "covariate regression + kriging")
    views = estimate_candidates(batch, hidden, names=names)
    assert copies(views[0][0]).tolist() == [[1, 2, 2]]
    once = [(estimates[:, :2], densities) for estimates, densities in views]
    torch.testing.assert_close(
        blend(batch, views, hidden, names).prior, blend(batch, once, hidden, names[:2]).prior
    )


def test_frames_that_hold_nothing_lend_no_gaps() -> None:
    valid = torch.rand(2, 24, 12, 12, generator=torch.Generator().manual_seed(2)) < 0.7
    valid[0, ::2] = False
    held_out = inner_hold_out(valid)
    share = held_out.flatten(2).sum(dim=2) / valid.flatten(2).sum(dim=2).clamp_min(1)
    assert share.max() < 0.6, "a frame was hidden wholly"
    assert share[0, 1::2].mean() > 0.1
