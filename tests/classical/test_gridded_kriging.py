"""Kriging of whole grids against the dense textbook solution, and what its covariance must be."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from stimpute.classical import gridded_kriging as kriging
from stimpute.classical import kriging_solver, wave_classes
from stimpute.classical.cosine import cosines
from stimpute.classical.stack_covariance import Covariance, fit_covariance


def field(seed: int, t: int, h: int, w: int, smooth: float = 2.0) -> torch.Tensor:
    """A smooth random field (t, h, w) of about unit variance."""
    rng = np.random.default_rng(seed)
    rough = np.fft.fftn(rng.normal(size=(t, h, w)))
    waves = np.meshgrid(*(np.fft.fftfreq(n) for n in (t, h, w)), indexing="ij")
    low = np.fft.ifftn(rough * np.exp(-20 * smooth * sum(k * k for k in waves))).real
    return torch.from_numpy((low / low.std()).astype(np.float32))


def days(t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    times = torch.arange(t, dtype=torch.float32)
    return times, times / 365.2425 % 1, times % 1


def krige_one(values: torch.Tensor, valid: torch.Tensor, **options: int) -> torch.Tensor:
    times = [x[None] for x in days(len(values))]
    return kriging.krige([values[None]], [valid[None]], *times, **options)[0][0]


def dense(covariance: Covariance, h: int, w: int) -> np.ndarray:
    """The covariance of all cell-steps (t, h, w) with those of the observed steps (s, h, w), written out."""
    rows, columns = (cosines(n, torch.float64, torch.device("cpu")).numpy() for n in (h, w))
    spectrum = torch.einsum("jyx,jts->yxts", covariance.spectra, covariance.between).numpy()
    between = np.einsum("ky,lx,klst,kv,lu->syxtvu", rows, columns, spectrum, rows, columns)
    return between.reshape(spectrum.shape[2] * h * w, spectrum.shape[3] * h * w)


@pytest.mark.parametrize("empty", [None, 0, 1])
@pytest.mark.parametrize(("classes", "off"), [(30, 5e-3), (wave_classes.CLASSES, 8e-2)])
def test_it_is_the_textbook_solution(
    empty: int | None, classes: int, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    t, h, w = 4, 5, 6
    truth = field(1, t, h, w)
    valid = torch.from_numpy(np.random.default_rng(2).random((t, h, w)) < 0.6)
    filled = torch.arange(t)
    if empty is not None:
        valid[empty] = False
        filled = filled[filled != empty]
    covariance = fit_covariance(truth, valid, filled, *days(t))
    assert covariance is not None
    monkeypatch.setattr(kriging_solver, "solve", partial(kriging_solver.solve, tolerance=1e-6))
    monkeypatch.setattr(wave_classes, "CLASSES", classes)
    (found,) = kriging._solved((truth * valid)[None], valid[None], covariance, 5000)
    seen, known = valid.flatten().numpy(), valid[filled].flatten().numpy()
    whole = dense(covariance, h, w)[:, known]
    system = whole[seen] + covariance.nugget * np.eye(seen.sum())
    expected = whole @ np.linalg.solve(system, truth.flatten().numpy()[seen])
    apart = np.abs(found.flatten().numpy() - expected)
    assert apart.max() < off
    assert apart.mean() < off / 5


def test_gaps_of_a_smooth_field_are_found_again() -> None:
    truth = field(3, 6, 24, 24)
    valid = torch.from_numpy(np.random.default_rng(4).random(truth.shape) < 0.5)
    error = (krige_one(truth, valid) - truth)[~valid].abs().mean()
    assert error < 0.1 * truth[~valid].abs().mean()


def test_a_frame_without_data_comes_from_its_neighbours_in_time() -> None:
    truth = field(5, 8, 16, 16)
    valid = torch.ones_like(truth, dtype=torch.bool)
    valid[4] = False
    error = (krige_one(truth, valid) - truth)[4].abs().mean()
    assert error < 0.5 * truth[4].abs().mean()


def test_units_do_not_matter() -> None:
    truth = field(6, 4, 12, 12)
    valid = torch.from_numpy(np.random.default_rng(7).random(truth.shape) < 0.5)
    found = krige_one(truth, valid)
    torch.testing.assert_close(krige_one(truth * 30 + 280, valid), found * 30 + 280, rtol=1e-4, atol=2e-2)


def test_what_stands_in_a_gap_is_never_read() -> None:
    truth = field(8, 4, 10, 10)
    valid = torch.from_numpy(np.random.default_rng(9).random(truth.shape) < 0.5)
    spoilt = torch.where(valid, truth, torch.full_like(truth, torch.nan))
    torch.testing.assert_close(krige_one(spoilt, valid), krige_one(truth, valid), rtol=0, atol=0)


@pytest.mark.parametrize("seen", [0, 3])
def test_hardly_anything_observed(seen: int) -> None:
    values = torch.zeros(3, 6, 6)
    valid = torch.zeros(3, 6, 6, dtype=torch.bool)
    values[0, 0, :seen], valid[0, 0, :seen] = 5.0, True
    found = krige_one(values, valid)
    torch.testing.assert_close(found, torch.full_like(found, 5.0 if seen else 0.0))


@pytest.mark.parametrize("shape", [(1, 9, 9), (5, 1, 1), (7, 1, 12), (2, 2, 2), (1, 1, 1)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = krige_one(values, torch.ones(shape, dtype=torch.bool))
    assert found.shape == shape
    assert bool(torch.isfinite(found).all())


def test_a_constant_stays_constant() -> None:
    valid = torch.from_numpy(np.random.default_rng(1).random((3, 8, 8)) < 0.5)
    found = krige_one(torch.full((3, 8, 8), 7.0), valid)
    torch.testing.assert_close(found, torch.full_like(found, 7.0))


def test_samples_of_a_batch_do_not_meet() -> None:
    a, b = field(10, 4, 9, 9), field(11, 4, 9, 9) * 3 + 1
    valid = torch.from_numpy(np.random.default_rng(12).random((2, 4, 9, 9)) < 0.5)
    times = [x.expand(2, -1) for x in days(4)]
    both = kriging.krige([torch.stack((a, b))], [valid], *times)[0]
    torch.testing.assert_close(both[1], krige_one(b, valid[1]))


def test_the_second_target_does_not_see_what_was_hidden_from_it() -> None:
    truth = field(13, 4, 12, 12)
    valid = torch.ones_like(truth, dtype=torch.bool)
    hidden = torch.from_numpy(np.random.default_rng(14).random(truth.shape) < 0.2)
    times = [x[None] for x in days(4)]
    targets = [truth[None], truth[None]]
    whole, blind = kriging.krige(targets, [valid[None], (valid & ~hidden)[None]], *times)
    error, blind_error = ((x[0] - truth)[hidden].abs().mean() for x in (whole, blind))
    assert error < blind_error


def test_each_target_is_kriged_around_its_own_mean() -> None:
    values = torch.tensor([-1.0, 1.0])[:, None, None] + 0.1 * field(6, 2, 8, 8)
    both = torch.ones(1, 2, 8, 8, dtype=torch.bool)
    second = both.clone()
    second[:, 0] = False
    times = [x[None] for x in days(2)]
    _, blind = kriging.krige([values[None]] * 2, [both, second], *times)
    assert float(blind[0, 0].mean()) == pytest.approx(float(values[1].mean()), abs=0.1), (
        "what was hidden has no part in it"
    )


def test_long_stacks_are_done_in_spells_that_join(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = field(15, 40, 8, 8)
    valid = torch.from_numpy(np.random.default_rng(16).random(truth.shape) < 0.6)
    whole = krige_one(truth, valid)
    monkeypatch.setattr(kriging, "_LONG", 16)
    monkeypatch.setattr(kriging, "_WORK", 0)
    assert len(kriging.windows(40, 8, 8)) > 1
    pieces = krige_one(truth, valid)
    error, apart = ((x - truth)[~valid].abs().mean() for x in (whole, pieces))
    assert apart < 1.3 * error


def test_spells_cover_everything() -> None:
    for steps in (1, 7, 8, 9, 100, 365, 1000):
        spells = kriging.windows(steps, 400, 400)
        assert spells[0][0] == 0
        assert spells[-1][1] == steps
        assert all(b[0] < a[1] for a, b in pairwise(spells))
        assert len({stop - start for start, stop in spells}) == 1
        assert spells[0][1] <= kriging._LONG


def test_few_steps_among_many_empty_ones_are_kriged() -> None:
    truth = field(17, 30, 10, 10)
    valid = torch.zeros_like(truth, dtype=torch.bool)
    valid[::6] = torch.from_numpy(np.random.default_rng(18).random((5, 10, 10)) < 0.7)
    found = krige_one(truth, valid)
    gaps = ~valid[::6]
    assert (found - truth)[::6][gaps].abs().mean() < 0.3 * truth[::6][gaps].abs().mean()
    assert bool(torch.isfinite(found).all())
