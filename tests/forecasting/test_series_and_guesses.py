"""Pasts as regular series, and the guesses made from them: closed-form answers, gaps left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stimpute.forecasting import cell_maps
from stimpute.forecasting.field_maps import followed
from stimpute.forecasting.guesses import make_guesses, origins
from stimpute.forecasting.names import GUESSES
from stimpute.forecasting.series import History, closed_up, regular
from stimpute.forecasting.weights import Asked, blend_weights, stacked, trust

HOUR = 1 / 24


def history(values, step=HOUR, valid=None):
    array = np.asarray(values, dtype=np.float32)
    seen = np.isfinite(array) if valid is None else valid
    slots = np.arange(len(array)) - len(array) + 1
    return regular(np.where(seen, array, 0).astype(np.float32), seen, slots, step)


def guess(name, past, steps=6):
    return make_guesses(past, steps).estimates[0, GUESSES.index(name), :, 0]


def test_gaps_between_stored_steps_are_slots_without_observation():
    past = regular(np.ones((3, 2), np.float32), np.ones((3, 2), bool), np.array([-5, -1, 0]), HOUR)
    assert past.valid[0, :, 0].tolist() == [True, False, False, False, True, True]


def test_of_several_steps_in_one_slot_the_last_observed_counts():
    values = np.array([[1.0], [2.0], [3.0]], np.float32)
    past = regular(values, np.array([[True], [True], [False]]), np.array([-1, 0, 0]), HOUR)
    assert past.values[0, :, 0].tolist() == [1.0, 2.0]


def test_normalised_nodes_have_zero_mean_and_common_unit_spread_and_gaps_hold_zero():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 5)) * 3 + np.arange(5) * 100
    values[rng.random(values.shape) < 0.3] = np.nan
    past, center, unit = history(values).normalised()
    count = past.valid.sum(dim=1)
    assert torch.allclose(past.values.sum(dim=1) / count, torch.zeros(5), atol=1e-4)
    assert (past.values.square().sum() / count.sum()).item() == pytest.approx(1, abs=1e-4)
    assert not past.values[~past.valid].any()
    back = past.values * unit.float() + center.float()[:, None]
    assert np.allclose(
        back[past.valid].numpy(), np.nan_to_num(values[-200:])[past.valid[0].numpy()], atol=1e-2
    )


def test_a_pure_daily_cycle_is_forecast_exactly_in_the_limit():
    hours = np.arange(24 * 20 + 6)
    wave = np.sin(2 * np.pi * hours / 24)[:, None] * np.array([1.0, 2.0])
    past = history(wave[:-6])
    truth = torch.from_numpy(wave[-6:]).float()
    assert torch.allclose(guess("last cycle", past), truth, atol=1e-4)
    assert (guess("climate", past) - truth).abs().max() < 0.1
    assert (make_guesses(past, 6).prior[0, :, 0] - truth).abs().max() < 0.1


def test_a_random_walk_trusts_persistence_more_than_climate():
    walk = np.random.default_rng(1).normal(size=(300, 8)).cumsum(axis=0)
    past = history(walk, step=1.0).normalised()[0]
    error = make_guesses(past, 3).log_error[0, :, :, 0].mean(dim=(1, 2))
    assert error[GUESSES.index("persistence")] < error[GUESSES.index("climate")]


def test_an_autoregression_is_found_by_the_linear_map():
    rng = np.random.default_rng(2)
    x = np.zeros((400, 30))
    for t in range(2, 400):
        x[t] = 1.6 * x[t - 1] - 0.8 * x[t - 2] + 0.1 * rng.normal(size=30)
    past = history(x[:-1], step=1.0).normalised()
    linear = guess("linear", past[0], 1)[0] * past[2].float() + past[1][0].float()
    known = 1.6 * x[-2] - 0.8 * x[-3]
    assert np.abs(linear.numpy() - known).mean() < 0.15 * np.abs(known).mean()


def test_what_stands_in_a_gap_is_never_read():
    rng = np.random.default_rng(3)
    values, seen = rng.normal(size=(120, 4)).astype(np.float32), rng.random((120, 4)) < 0.6
    clean = history(np.where(seen, values, 0), valid=seen)
    dirty = History(
        torch.where(clean.valid, clean.values, torch.tensor(1e6)),
        clean.valid,
        clean.period,
        clean.phases,
        clean.step,
    )
    one, other = (make_guesses(h.normalised()[0], 5).prior for h in (clean, dirty))
    assert torch.isfinite(one).all()
    # normalised() zeroes gaps, so that nothing downstream can see them
    assert torch.allclose(one, make_guesses(clean.normalised()[0], 5).prior)
    assert not dirty.normalised()[0].values[~dirty.valid].any()
    del other


def test_a_node_hardly_observed_leans_on_the_cycle_all_share():
    hours = np.arange(24 * 10)
    wave = np.repeat(np.sin(2 * np.pi * hours / 24)[:, None], 20, axis=1)
    wave[:, 0] = np.nan
    wave[-30, 0] = wave[-30, 1]
    past = history(wave).normalised()[0]
    climate = guess("climate", past, 24)
    assert np.corrcoef(climate[:, 0], climate[:, 1])[0, 1] > 0.9


def test_earlier_origins_leave_enough_to_guess_from():
    past = history(np.random.default_rng(0).normal(size=(100, 2)))
    assert origins(past, 10, 2) == [10, 20]
    assert origins(history(np.zeros((9, 2)) + 1), 8) == []


def test_constant_series_stay_constant():
    past, center, unit = history(np.full((50, 3), 7.0)).normalised()
    prior = make_guesses(past, 4).prior[0, :, 0] * unit.float() + center[0].float()
    assert torch.allclose(prior, torch.full((4, 3), 7.0))


def asked_of(rng, errors, origins=4, steps=3, nodes=6):
    """Guesses that miss by noise of their own size; the last two err alike."""
    asked = []
    for _ in range(origins):
        truth = torch.from_numpy(rng.normal(size=(steps, nodes))).float()
        apart = [torch.from_numpy(rng.normal(size=(steps, nodes)) * e).float() for e in errors]
        apart[-1] = apart[-2]
        said = torch.stack([truth + a for a in apart])
        asked.append(Asked(said, truth, torch.ones_like(truth, dtype=torch.bool)))
    return asked


def test_weights_go_to_the_better_guess_and_sum_to_one():
    asked = asked_of(np.random.default_rng(0), (0.1, 1.0, 1.0))
    weight, _ = blend_weights(asked, asked[0].said)
    assert torch.allclose(weight.sum(dim=0), torch.ones(3, 6), atol=1e-4)
    assert (weight[0] > 0.9).all()


def test_two_guesses_that_err_alike_count_once_in_what_is_stacked():
    asked = asked_of(np.random.default_rng(1), (1.0, 1.0, 1.0), origins=60)
    shared = stacked(asked, trust(asked, asked[0].said)[0])
    assert shared[0] == pytest.approx(0.5, abs=0.08)  # alone it would have had a third


def test_unknown_truth_plays_no_part_in_weights():
    rng = np.random.default_rng(2)
    asked = asked_of(rng, (0.2, 1.0, 1.0))
    known = torch.from_numpy(rng.random((3, 6)) < 0.5)
    changed = [Asked(a.said + torch.where(known, 0.0, 99.0), a.truth, known) for a in asked]
    before, after = (
        blend_weights(x, asked[0].said)[0] for x in ([Asked(a.said, a.truth, known) for a in asked], changed)
    )
    assert torch.allclose(before, after)


def test_without_earlier_origins_all_guesses_weigh_the_same():
    weight, _ = blend_weights([], torch.zeros(4, 2, 3))
    assert torch.allclose(weight, torch.full((4, 2, 3), 0.25))


def test_the_two_maps_of_dlinear_under_one_ridge_are_one_map_under_another():
    rng = np.random.default_rng(3)
    values = torch.from_numpy(rng.normal(size=(2, 200)).cumsum(axis=1) / 5).float()
    valid = torch.from_numpy(rng.random((2, 200)) < 0.9)
    values = torch.where(valid, values, 0.0)
    said = cell_maps.dlinear(values, valid, 3)
    window, smooth = cell_maps.WINDOW, cell_maps.moving_average(cell_maps.WINDOW)
    both = torch.cat((smooth, torch.eye(window) - smooth))
    for row in range(2):
        rows = values[row].unfold(0, window + 3, 1)
        known = valid[row].unfold(0, window + 3, 1)[:, window:].float()
        x, weight = rows[:, :window] @ both.T, known.mean(dim=1, keepdim=True)
        gram = (x * weight).T @ x
        strength = cell_maps.RIDGE * gram.diagonal().mean() + 1e-4
        maps = torch.linalg.solve(
            gram + strength * torch.eye(2 * window), (x * weight).T @ (rows[:, window:] * known)
        )
        assert torch.allclose(said[row], (both @ values[row, -window:]) @ maps, atol=2e-3)


@pytest.mark.parametrize("length", [3, 8, 9, 20])
def test_maps_of_a_short_past_say_something_finite(length):
    values = torch.randn(length, 4, generator=torch.Generator().manual_seed(0))
    for name in ("ar", "dlinear"):
        said = cell_maps.in_parts(name, values, torch.ones_like(values, dtype=torch.bool), 8)
        assert said.shape == (8, 4)
        assert torch.isfinite(said).all()


def test_a_hole_of_months_is_closed_by_whole_days_so_that_what_was_before_is_looked_back_on():
    slots = np.concatenate([np.arange(72), np.arange(72) + 72 + 24 * 60 + 5]) - (2 * 72 + 24 * 60 + 4)
    closed = closed_up(slots, HOUR)
    assert closed[-1] == slots[-1] == 0
    assert ((closed - slots) % 24 == 0).all()
    assert closed[0] > -300
    assert (np.diff(closed)[np.diff(slots) == 1] == 1).all()
    assert (closed_up(np.arange(-50, 1), HOUR) == np.arange(-50, 1)).all()


def test_earlier_origins_are_where_something_follows():
    values = np.random.default_rng(0).normal(size=(200, 2))
    values[100:180] = np.nan
    asked = origins(history(values), 10, 8)
    assert asked == [
        10,
        110,
        120,
        130,
        140,
        150,
    ]  # none in the hole, or just after it; what precedes 160 is too short
    assert origins(history(values[:, :1] * np.nan), 10) == []


def test_the_last_observation_moves_on_as_the_cycle_moves():
    hours = np.arange(24 * 20 + 6)
    wave = np.sin(2 * np.pi * hours / 24)[:, None] * np.array([1.0, 2.0])
    wave[-30:] += 3.0  # warmer since yesterday
    wave[-8:-6, 1] = np.nan  # and last seen two hours ago
    moved = guess("cycle ahead", history(wave[:-6]))
    assert (moved - torch.from_numpy(wave[-6:]).float()).abs().max() < 0.25


def test_changes_of_a_random_walk_are_about_none_and_those_of_a_wave_are_foreseen():
    rng = np.random.default_rng(1)
    walk = rng.normal(size=(300, 8)).cumsum(axis=0)
    past = history(walk, step=1.0).normalised()[0]
    changes, persistence = guess("changes", past, 3), guess("persistence", past, 3)
    assert (changes - persistence).abs().mean() < 0.1
    hours = np.arange(24 * 20 + 6)
    wave = np.sin(2 * np.pi * hours / 24 + np.arange(5)[:, None]).T + 0.02 * rng.normal(size=(486, 5))
    for name in ("changes", "short changes", "wide changes"):
        said = guess(name, history(wave[:-6]))
        assert np.abs(said.numpy() - wave[-6:]).mean() < 0.25 * np.abs(wave[-7] - wave[-6:]).mean(), name


def drifting(steps=400, nodes=30, lead=3):
    """What each node brings at random reaches the next one a step later; and what comes after the last but ``lead`` steps."""
    rng = np.random.default_rng(4)
    front = rng.normal(size=steps + nodes)
    field = np.stack([front[nodes - i : nodes - i + steps] for i in range(nodes)], axis=1)
    field += 0.05 * rng.normal(size=field.shape)
    return history(field[:-lead], step=1.0).normalised()[0], field[-lead:]


def test_near_changes_know_which_node_is_followed():
    past, truth = drifting()
    field, near = (
        np.abs(guess(n, past, 3).numpy() - truth)[0, 3:].mean() for n in ("changes", "near changes")
    )
    assert near < 0.3 < field, "from the second node on, a step ahead is what the node before shows now"
    leader = followed(past.values[0], 1, torch.arange(past.values.shape[2]))[0]
    assert (leader[1:] == torch.arange(29)).float().mean() > 0.9


def test_far_changes_know_which_node_is_followed_half_of_the_horizon_later():
    past, truth = drifting(lead=4)
    near, far = (np.abs(guess(n, past, 4).numpy() - truth)[1, 3:].mean() for n in ("changes", "far changes"))
    assert far < 0.3 < near, "two steps ahead comes what the node two before shows now"
    leader = followed(past.values[0], 2, torch.arange(past.values.shape[2]))[0]
    assert (leader[2:] == torch.arange(28)).float().mean() > 0.9


def test_short_series_of_many_nodes_share_a_map():
    noise = np.random.default_rng(6).normal(
        size=(31, 60)
    )  # persistence errs sqrt(2) times as much as the mean
    past, center, unit = history(noise[:-1], step=1.0).normalised()
    truth = (noise[-1] - center[0].numpy()) / float(unit)
    persistence, changes = (
        np.abs(guess(n, past, 1).numpy()[0] - truth).mean() for n in ("persistence", "changes")
    )
    assert changes < 0.85 * persistence


def test_no_node_follows_itself_and_a_single_one_follows_none():
    values = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert bool((followed(values, 1, torch.arange(6)) != torch.arange(6)).all())
    assert followed(values, 1, torch.arange(6)).shape == (5, 6)
    assert followed(values[:, :1], 1, torch.arange(1)).shape == (0, 1)
    assert followed(values[:2], 1, torch.arange(6)).shape == (0, 6)


def test_guesses_far_worse_than_the_best_are_not_heard():
    asked = asked_of(np.random.default_rng(5), (1.0, 1.2, 5.0, 1.1, 1.1))
    weight, _ = blend_weights(asked, asked[0].said)
    assert float(weight[2].max()) < 1e-5
    assert float(weight[[0, 1, 3, 4]].sum(dim=0).min()) > 0.999


def test_a_guess_bad_at_the_first_step_is_not_heard_there_though_it_is_the_best_later():
    falling, rising = np.array([[1.5], [1.0], [0.5]]), np.array([[0.3], [1.0], [1.5]])
    asked = asked_of(np.random.default_rng(6), (falling, rising, 1.9, 1.9), origins=8, nodes=40)
    weight, _ = blend_weights(asked, asked[0].said)
    assert float(weight[0, 0].max()) < 0.1
    assert float(weight[0, 2].min()) > 0.6
