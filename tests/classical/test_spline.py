"""DCT-PLS against Garcia's algorithm written with scipy's DCT."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from stimpute.classical.spline import dct_pls


def garcia(y, w, z, s, relaxation, time_weight):
    """The iterates of Garcia (2010), eq. 14 and 15, with the relaxation of `inpaintn`."""
    axes = [2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in y.shape]
    eigenvalues = time_weight * axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
    states = []
    for level in s:
        gain = 1 / (1 + level * eigenvalues**2)
        z = (
            relaxation * idctn(gain * dctn(w * (y - z) + z, norm="ortho"), norm="ortho")
            + (1 - relaxation) * z
        )
        states.append(z)
    return states


@pytest.mark.parametrize(("relaxation", "time_weight"), [(2.0, 1.0), (1.0, 0.3)])
def test_iterates_are_garcias(relaxation, time_weight):
    rng = np.random.default_rng(1)
    y, w = rng.normal(size=(5, 8, 11)), rng.random((5, 8, 11)) > 0.5
    y -= y[w].mean()
    initial = np.where(w, y, rng.normal(size=y.shape))
    expected = garcia(y, w, initial, np.logspace(2, -3, 12), relaxation, time_weight)
    states = dct_pls(
        torch.tensor(y)[None],
        torch.tensor(w)[None],
        iterations=12,
        s_start=1e2,
        s_end=1e-3,
        snapshots=(1, 6, 12),
        relaxation=relaxation,
        time_weight=time_weight,
        initial=torch.tensor(initial)[None],
    )
    worst = max(np.abs(states[0, k].numpy() - expected[i]).max() for k, i in enumerate((0, 5, 11)))
    assert worst < 1e-10, f"largest difference {worst:.2e}"


def test_float32_agrees_with_float64():
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(2, 6, 9, 7, dtype=torch.float64, generator=generator)
    w = torch.rand(y.shape, generator=generator) > 0.5
    difference = (dct_pls(y.float(), w, iterations=40) - dct_pls(y, w, iterations=40)).abs().max().item()
    assert difference < 1e-3, f"largest difference {difference:.2e}"


def test_a_smooth_field_is_recovered_in_scattered_gaps():
    t, y, x = torch.meshgrid(torch.arange(6.0), torch.arange(20.0), torch.arange(24.0), indexing="ij")
    truth = (torch.sin(y / 5 + t / 4) + torch.cos(x / 6))[None]
    valid = torch.rand(truth.shape, generator=torch.Generator().manual_seed(3)) > 0.6
    error = (dct_pls(truth, valid)[:, -1] - truth)[~valid].abs().mean().item()
    assert error < 0.02


def test_snapshots_must_lie_within_the_iterations():
    with pytest.raises(ValueError, match="snapshots"):
        dct_pls(
            torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2, dtype=torch.bool), iterations=5, snapshots=(6,)
        )
