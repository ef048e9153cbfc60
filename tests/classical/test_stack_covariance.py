"""A fitted covariance: semi-variances by their definition, parts that are covariances, shares that fit."""

import numpy as np
import pytest
import torch

from stimpute.classical import stack_covariance as covariance
from stimpute.classical.cosine import cosines
from stimpute.model.kriged import EVENNESS


def test_semi_variances_are_those_of_the_definition() -> None:
    values, valid = (
        torch.from_numpy(np.random.default_rng(17).normal(size=(3, 5, 6)).astype(np.float32)),
        torch.from_numpy(np.random.default_rng(18).random((3, 5, 6)) < 0.7),
    )
    found = covariance.semi_variances(values * valid, valid, 2)
    assert [step for _, _, step in found] == [(2, 0), (0, 2)]
    v, seen = values.double().numpy(), valid.numpy()
    for sums, pairs, (down, right) in found:
        total, count = np.zeros((3, 3)), np.zeros((3, 3))
        for s in range(3):
            for u in range(3):
                for y in range(5):
                    for x in range(6):
                        for other in ((y + down, x + right), (y - down, x - right)):
                            inside = 0 <= other[0] < 5 and 0 <= other[1] < 6
                            if inside and seen[s, y, x] and seen[(u, *other)]:
                                total[s, u] += 0.5 * (v[s, y, x] - v[(u, *other)]) ** 2
                                count[s, u] += 1
        np.testing.assert_allclose(pairs, count)
        np.testing.assert_allclose(sums, total, rtol=1e-4)


def parts(times: np.ndarray) -> dict[str, np.ndarray]:
    return covariance.temporal_parts(times, times / 365.2425 % 1, times % 1, np.arange(len(times)))


def test_temporal_parts_are_covariances() -> None:
    times = np.sort(np.random.default_rng(19).uniform(0, 900, 40))
    for name, part in parts(times).items():
        np.testing.assert_allclose(np.diag(part), 1.0)
        assert np.linalg.eigvalsh(part).min() > -1e-8, name


def test_what_differs_between_observed_steps_fades_over_the_empty_ones_between_them() -> None:
    days, filled = np.arange(15.0), np.array([0, 7, 14])
    white = covariance.temporal_parts(days, days / 365.2425, days % 1, filled)["white"]
    np.testing.assert_array_equal(white[filled], np.eye(3))
    from_first = white[1:7, 0]
    assert (np.diff(from_first) < 0).all()
    assert 0.3 < from_first[0] < covariance.LASTS
    assert from_first[-1] < 0.01
    np.testing.assert_allclose(white[8:14, 2], from_first[::-1], rtol=1e-6)
    assert (white.sum(axis=1) <= 1).all()


def test_empty_steps_as_far_apart_as_observed_ones_share_nothing_white_with_these() -> None:
    days = np.arange(9.0)
    white = covariance.temporal_parts(days, days / 365.2425, days % 1, np.array([0, 1, 2, 4, 5, 7, 8]))[
        "white"
    ]
    np.testing.assert_allclose(white[[3, 6]], 0, atol=1e-6)


def test_cycles_are_used_where_the_series_is_long_enough() -> None:
    daily = np.arange(0, 800.0)
    hourly = np.arange(0, 4, 1 / 24)
    assert "year" in parts(daily)
    assert "day" in parts(hourly)
    assert "year" not in parts(daily[:100])


def layered(turned: bool) -> torch.Tensor:
    """Fields (T, H, W) that are five times as long along x as along y, or along y if ``turned``; variance about 1."""
    spectrum = covariance.spatial_spectrum(covariance.SpatialPart("bell", 4.0, 5.0), 40, 40)
    waves = spectrum.sqrt().float()[:, None] * torch.randn(
        40, 6, 40, generator=torch.Generator().manual_seed(5)
    )
    basis = cosines(40, waves.dtype, waves.device)
    drawn = basis.mT @ waves.transpose(0, 1) @ basis
    drawn = (drawn - drawn.mean()) / drawn.std()
    return drawn.mT.contiguous() if turned else drawn


@pytest.mark.parametrize("turned", [False, True])
def test_layers_are_found_whichever_way_they_lie(turned: bool) -> None:
    values = layered(turned)
    times = torch.arange(6.0)
    found = covariance.fit_covariance(
        values, torch.ones_like(values, dtype=torch.bool), torch.arange(6), times, times / 365, times * 0
    )
    assert found is not None
    power = torch.einsum("jyx,j->yx", found.spectra, found.between.diagonal(dim1=1, dim2=2).mean(dim=1))
    along_y, along_x = power[1:, 0].sum(), power[0, 1:].sum()  # short waves across the layers
    assert (along_x > 1.5 * along_y) if turned else (along_y > 1.5 * along_x)


@pytest.mark.parametrize("stretch", [0.4, 1.0, 2.5])
def test_a_spatial_part_is_its_spectrum(stretch: float) -> None:
    part = covariance.SpatialPart("bell", 2.0, stretch)
    spectrum = covariance.spatial_spectrum(part, 32, 32)
    rows = cosines(32, torch.float64, torch.device("cpu"))
    one = torch.zeros(32, 32, dtype=torch.float64)
    one[16, 16] = 1
    found = rows.mT @ (spectrum * (rows @ one @ rows.mT)) @ rows
    assert float(found[16, 16]) == pytest.approx(1, abs=0.02)
    for down, right in ((2, 0), (0, 2), (1, 3)):
        assert float(found[16 + down, 16 + right]) == pytest.approx(part.at(down, right), abs=0.02)


def test_an_even_covariance_leaves_no_part_out_and_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(19)
    rows = np.column_stack([1 - np.exp(-np.arange(1, 13)[:, None] / [1.0, 3.0, 9.0, 30.0]), np.ones(12)])
    truth = np.array([0.0, 0.6, 0.0, 0.3, 0.1])
    gammas = rows @ truth * rng.uniform(0.98, 1.02, 12)
    few, used, even = (covariance._shares(rows, gammas, evenness) for evenness in (0.0, EVENNESS, 1.0))
    np.testing.assert_allclose(covariance._shares(rows, gammas, 0.5), (few + even) / 2)
    monkeypatch.setattr(covariance, "_UPDATES", 400)
    late = covariance._shares(rows, gammas, 1.0)
    assert few.min() < 1e-6
    assert min(even[:-1].min(), late[:-1].min()) > 1e-3
    for shares in (few, used, late):
        assert np.abs(rows @ shares / gammas - 1).max() < 0.1
