"""EOF filling against an iterated SVD in numpy, a low-rank truth, and the reference run of DINEOF itself."""

import numpy as np
import pytest
import torch

from stimpute.classical.eof import dineof, truncate


def iterated_svd(values, valid, ranks, iterations):
    """Beckers and Rixen (2003) on one (T, N) matrix, in float64."""
    center = values[valid].mean()
    matrix, states = np.where(valid, values - center, 0.0), []

    def low_rank(rank):
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        return (u[:, :rank] * s[:rank]) @ v[:rank]

    for rank in ranks:
        for _ in range(iterations):
            matrix = np.where(valid, values - center, low_rank(rank))
        states.append(low_rank(rank) + center)
    return states


@pytest.mark.parametrize("shape", [(7, 5, 6), (12, 2, 3)])
def test_dineof_is_the_iterated_svd(shape):
    rng = np.random.default_rng(0)
    values, valid = rng.normal(size=shape), rng.random(shape) > 0.3
    got = dineof(torch.tensor(values)[None], torch.tensor(valid)[None], (1, 2, 3), iterations=5)
    expected = iterated_svd(values.reshape(len(values), -1), valid.reshape(len(valid), -1), (1, 2, 3), 5)
    worst = max(np.abs(got[0, k].numpy().ravel() - e.ravel()).max() for k, e in enumerate(expected))
    assert worst < 1e-8, f"largest difference {worst:.2e}"


def test_truncation_keeps_the_largest_values():
    matrix = torch.diag(torch.tensor([5.0, 3.0, 2.0]))[None]
    assert truncate(matrix, 2)[0].diagonal().tolist() == pytest.approx([5.0, 3.0, 0.0], abs=1e-5)
    assert truncate(matrix, 9)[0].diagonal().tolist() == pytest.approx([5.0, 3.0, 2.0], abs=1e-5)


def test_a_low_rank_field_is_recovered():
    rng = np.random.default_rng(1)
    truth = torch.tensor(rng.normal(size=(12, 2)) @ rng.normal(size=(2, 150)), dtype=torch.float32)
    truth = truth.reshape(1, 12, 10, 15)
    valid = torch.tensor(rng.random(truth.shape) > 0.3)
    error = (dineof(truth, valid, (1, 2), iterations=60)[:, -1] - truth)[~valid].abs().mean() / truth.std()
    assert error < 0.05


def test_empty_frames_are_linear_in_time_between_their_neighbours():
    values = torch.tensor([1.0, 0.0, 4.0]).reshape(1, 3, 1, 1) * torch.arange(1.0, 5).reshape(1, 1, 2, 2)
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[:, 1] = False
    filled = dineof(values, valid, (2,), times=torch.tensor([[0.0, 1.0, 3.0]]))
    torch.testing.assert_close(filled[0, 0, 1], 2 * values[0, 0], atol=1e-4, rtol=0)


@pytest.mark.data
def test_alboran_eofs_are_those_of_the_reference_run(shared_data):
    """DINEOF 2.0 with 3 modes on the same file; it also filters its covariance in time, so agreement is not exact."""
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(shared_data / "alboran_sst" / "alboranSST_small.nc") as file:
        sea = np.asarray(file["mask"][:]) == 1
        sst = np.ma.filled(file["SST"][:], np.nan)[:, sea]
    with netcdf.Dataset(shared_data / "alboran_sst" / "ref_eof.nc") as file:
        patterns = np.ma.filled(file["Usst"][:], 0.0)[:, sea]
        reference = np.einsum("k,kt,kn->tn", file["Sigma"][:], file["V"][:], patterns)
    valid = torch.from_numpy(np.isfinite(sst))[None, :, :, None]
    values = torch.from_numpy(np.nan_to_num(sst))[None, :, :, None]
    filled = dineof(values, valid, (1, 2, 3), iterations=20)[0, -1, :, :, 0].double().numpy()
    anomaly = filled - np.nanmean(sst, dtype=np.float64)
    ours = np.linalg.svd(anomaly, full_matrices=False)[2][:3]
    cosines = np.linalg.svd(np.linalg.qr(patterns.T)[0].T @ ours.T, compute_uv=False)
    assert cosines.min() > 0.96
    assert np.sqrt(np.mean((anomaly - reference) ** 2)) < 0.3 * reference.std()


def test_many_empty_frames_do_not_stop_the_eigensolver() -> None:
    """Gram matrices with hundreds of zero rows once failed to converge in LAPACK."""
    rng = np.random.default_rng(3)
    for seed in range(3):
        frames = np.zeros((365, 400), dtype=np.float32)
        some = rng.choice(365, 40 + seed, replace=False)
        frames[some] = rng.normal(size=(len(some), 2)) @ rng.normal(size=(2, 400))
        found = truncate(torch.from_numpy(frames)[None], 2)[0].numpy()
        np.testing.assert_allclose(found, frames, atol=1e-4)
