"""A fitted covariance: semi-variances by their definition, parts that are covariances, shares that fit."""

import numpy as np
import torch

from stimpute.classical import stack_covariance as covariance


def test_semi_variances_are_those_of_the_definition() -> None:
    values, valid = (
        torch.from_numpy(np.random.default_rng(17).normal(size=(3, 5, 6)).astype(np.float32)),
        torch.from_numpy(np.random.default_rng(18).random((3, 5, 6)) < 0.7),
    )
    found = covariance.semi_variances(values * valid, valid, 2)
    assert found is not None
    total, count = np.zeros((3, 3)), np.zeros((3, 3))
    v, seen = values.double().numpy(), valid.numpy()
    for s in range(3):
        for u in range(3):
            for y in range(5):
                for x in range(6):
                    for other in ((y + 2, x), (y - 2, x), (y, x + 2), (y, x - 2)):
                        inside = 0 <= other[0] < 5 and 0 <= other[1] < 6
                        if inside and seen[s, y, x] and seen[(u, *other)]:
                            total[s, u] += 0.5 * (v[s, y, x] - v[(u, *other)]) ** 2
                            count[s, u] += 1
    np.testing.assert_allclose(found[1], count)
    np.testing.assert_allclose(found[0], total, rtol=1e-4)


def parts(times: np.ndarray) -> dict[str, np.ndarray]:
    return covariance.temporal_parts(times, times / 365.2425 % 1, times % 1, np.arange(len(times)))


def test_temporal_parts_are_covariances() -> None:
    times = np.sort(np.random.default_rng(19).uniform(0, 900, 40))
    for name, part in parts(times).items():
        np.testing.assert_allclose(np.diag(part), 1.0)
        assert np.linalg.eigvalsh(part).min() > -1e-8, name


def test_cycles_are_used_where_the_series_is_long_enough() -> None:
    daily = np.arange(0, 800.0)
    hourly = np.arange(0, 4, 1 / 24)
    assert "year" in parts(daily)
    assert "day" in parts(hourly)
    assert "year" not in parts(daily[:100])


def test_an_even_covariance_leaves_no_part_out_and_still_fits() -> None:
    rng = np.random.default_rng(19)
    rows = np.column_stack([1 - np.exp(-np.arange(1, 13)[:, None] / [1.0, 3.0, 9.0, 30.0]), np.ones(12)])
    truth = np.array([0.0, 0.6, 0.0, 0.3, 0.1])
    gammas = rows @ truth * rng.uniform(0.98, 1.02, 12)
    few, even = (covariance._shares(rows, gammas, evenness) for evenness in (0.0, 1.0))
    assert few.min() < 1e-6
    assert even[:-1].min() > 1e-3
    for shares in (few, even):
        assert np.abs(rows @ shares / gammas - 1).max() < 0.1
    np.testing.assert_allclose(covariance._shares(rows, gammas, 0.5), (few + even) / 2)
