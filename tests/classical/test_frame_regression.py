"""Regression of frames on frames against numpy's least squares, and on what it is for."""

import numpy as np
import torch

from stimpute.classical.frame_regression import regress_frames, with_residual


def test_equals_the_ridge_written_out():
    rng = np.random.default_rng(0)
    frames, seen = rng.normal(size=(4, 6, 7)), rng.random((4, 6, 7)) > 0.3
    filled = np.where(seen, frames, rng.normal(size=frames.shape))
    got = regress_frames(
        *(torch.tensor(a)[None] for a in (frames, seen, filled)),
        torch.zeros(1, 6, 7),
        ridge=(2.0, 9.0),
        leverage=0.4,
    )
    raw = filled.reshape(4, -1)
    rows = (raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)
    for t in range(4):
        x, w, usual = np.delete(rows, t, axis=0), seen[t].ravel(), np.delete(raw, t, axis=0).mean(0)
        y = frames[t].ravel() - usual
        apart, level = x - x[:, w].mean(1, keepdims=True), y[w].mean()
        gram = apart[:, w] @ apart[:, w].T + 2.0 * 4 * np.eye(
            3
        )  # a constant coordinate is the fourth predictor
        fit = usual + level + np.linalg.solve(gram, apart[:, w] @ (y[w] - level)) @ apart
        spread = np.einsum("pn,pn->n", apart, np.linalg.solve(gram, apart)) + 1 / w.sum()
        believed = 1 / (1 + (spread / 0.4) ** 2)
        expected = believed * fit + (1 - believed) * raw[t]
        np.testing.assert_allclose(got[0, t].numpy().ravel(), expected, atol=1e-8)


def scene(steps=8, size=16, seed=1):
    """Frames that are a level and an amplitude times one rough pattern, half of one frame hidden."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(size, size, generator=generator)
    level, amplitude = torch.randn(2, steps, 1, 1, generator=generator)
    noise = 0.1 * torch.randn(steps, size, size, generator=generator)
    truth = (level + (1 + 0.5 * amplitude) * pattern + noise)[None]
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[0, 3, :, : size // 2] = False
    return truth, valid


def test_a_pattern_seen_at_other_times_fills_a_cloud():
    truth, valid = scene()
    filled = truth.mean().expand_as(truth)
    error = (regress_frames(truth, valid, filled) - truth)[~valid].abs().mean()
    assert error < 0.15 * truth.std()


def test_the_frame_itself_and_its_gaps_are_no_predictors():
    truth, valid = scene()
    filled = truth.clone()
    base = regress_frames(truth, valid, filled, leverage=1e9)[:, 3]
    filled[0, 3] = 1e3
    torch.testing.assert_close(
        regress_frames(truth, valid, filled, leverage=1e9)[:, 3], base, atol=1e-3, rtol=1e-4
    )


def test_a_frame_seen_in_its_oddest_cells_looks_like_the_others():
    truth, _ = scene(steps=12)
    usual = truth.mean(dim=1, keepdim=True)
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[0, 3] = usual[0, 0] > usual.flatten().quantile(0.95)
    error = (regress_frames(truth, valid, usual.expand_as(truth)) - truth)[~valid].abs().mean()
    assert error < 1.1 * (usual - truth)[~valid].abs().mean()


def test_an_empty_frame_stays_as_it_was_filled():
    truth, valid = scene()
    valid[0, 3] = False
    filled = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    assert torch.equal(regress_frames(truth, valid, filled)[0, 3], filled[0, 3])


def test_long_series_choose_their_predictors():
    truth, valid = scene(steps=60)
    filled = truth.mean().expand_as(truth)
    error = (regress_frames(truth, valid, filled, max_predictors=6) - truth)[~valid].abs().mean()
    assert error < 0.15 * truth.std()


def test_the_residual_is_followed_near_observations_only():
    fitted = torch.zeros(1, 1, 1, 80)
    valid = torch.zeros_like(fitted, dtype=torch.bool)
    valid[..., :20] = True
    values = torch.where(valid, 1.0, 0.0)
    corrected = with_residual(fitted, values, valid)[0, 0, 0]
    assert corrected[5] > 0.95
    assert 0.3 < corrected[20] < 1.1
    assert corrected[-1].abs() < 1e-3


def test_a_handful_of_cells_hardly_moves_a_frame():
    truth, valid = scene()
    filled = truth.mean().expand_as(truth)
    valid[0, 3] = False
    valid[0, 3, 0, :2] = True
    odd = truth.clone()
    odd[0, 3, 0, :2] = 30.0
    moved = regress_frames(odd, valid, filled)[0, 3] - filled[0, 3]
    assert moved.abs().max() < 0.1 * (30.0 - truth.mean())
