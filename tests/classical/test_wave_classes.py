"""Waves in classes: what they stand for is the covariance, and steps without observations belong to it."""

import math
from dataclasses import replace

import pytest
import torch

from stimpute.classical.cosine import cosines
from stimpute.classical.kriging_solver import Preconditioner
from stimpute.classical.stack_covariance import Covariance, SpatialPart, spatial_spectrum
from stimpute.classical.wave_classes import CLASSES, WaveClasses

STEPS, HEIGHT, WIDTH = 12, 9, 14


def covariance(filled: torch.Tensor | None = None) -> Covariance:
    """Four parts that change differently in time; all steps are observed, or ``filled``."""
    filled = torch.arange(STEPS) if filled is None else filled
    apart = (torch.arange(STEPS)[:, None] - torch.arange(STEPS)).abs().double()
    parts = [
        (SpatialPart("bell", 5.0), torch.ones_like(apart)),
        (SpatialPart("rough", 6.0), torch.exp(-apart / 3)),
        (SpatialPart("rough", 1.0), 0.3 * torch.eye(STEPS).double() + 0.2 * torch.exp(-apart / 10)),
        (SpatialPart("everywhere", math.inf), 0.4 * torch.exp(-0.5 * (apart / 2) ** 2)),
    ]
    spectra = torch.stack([spatial_spectrum(part, HEIGHT, WIDTH) for part, _ in parts])
    return Covariance(spectra, torch.stack([between[:, filled] for _, between in parts]), filled, 0.01)


def implied(waves: WaveClasses) -> torch.Tensor:
    """Covariance between the observed steps at every wavenumber, (H, W, S, S)."""
    steps = len(waves.shown[0])
    found = torch.empty(HEIGHT * WIDTH, steps, steps, dtype=waves.root.dtype)
    for basis, columns in zip(waves.shown, waves.columns, strict=True):
        loaded = basis * waves.root[:, columns].T[:, None]
        found[waves.order[columns]] = loaded @ loaded.mT
    return found.view(HEIGHT, WIDTH, *found.shape[1:])


def test_a_few_classes_say_nearly_what_the_covariance_says() -> None:
    given = covariance()
    exact = torch.einsum("jyx,jst->yxst", given.spectra, given.between)
    found = implied(WaveClasses.of(given, torch.float64))
    size = exact.diagonal(dim1=2, dim2=3).mean(dim=2)[..., None, None]
    assert float(((found - exact) / size).abs().max()) < 0.05
    torch.testing.assert_close(
        found.diagonal(dim1=2, dim2=3).sum(dim=2),
        exact.diagonal(dim1=2, dim2=3).sum(dim=2),
        rtol=1e-3,
        atol=0,
    )


def test_one_class_for_each_wave_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stimpute.classical.wave_classes.CLASSES", HEIGHT * WIDTH)
    given = covariance()
    exact = torch.einsum("jyx,jst->yxst", given.spectra, given.between)
    found = implied(WaveClasses.of(given, torch.float64))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=2e-3)


def test_there_are_no_more_classes_than_kinds_of_change() -> None:
    given = covariance()
    alike = replace(given, between=given.between[1].expand_as(given.between))
    assert len(WaveClasses.of(alike, torch.float32).ends) == 1
    several = WaveClasses.of(given, torch.float32)
    assert 1 < len(several.ends) <= CLASSES
    assert several.ends[-1] == HEIGHT * WIDTH
    assert torch.equal(several.order.sort().values, torch.arange(HEIGHT * WIDTH))


def test_modes_are_adjoint_to_fields() -> None:
    filled = torch.tensor([0, 1, 4, 7, 11])
    waves = WaveClasses.of(covariance(filled), torch.float64)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, len(filled), HEIGHT * WIDTH, dtype=torch.float64, generator=generator)
    y = torch.randn(2, len(filled), HEIGHT, WIDTH, dtype=torch.float64, generator=generator)
    there, back = (waves.fields(z) * y).sum(dim=(1, 2, 3)), (waves.modes(y) * z).sum(dim=(1, 2))
    torch.testing.assert_close(there, back)
    torch.testing.assert_close(waves.fields(z, everywhere=True)[:, filled], waves.fields(z))


def test_loadings_are_what_single_modes_are() -> None:
    filled = torch.tensor([2, 3, 9])
    waves = WaveClasses.of(covariance(filled), torch.float64)
    mode, wave = torch.tensor([0, 1, 2]), torch.tensor([0, 40, HEIGHT * WIDTH - 1])
    found = waves.loadings(mode, wave)
    for row, m, w in zip(found, mode, wave, strict=True):
        z = torch.zeros(1, len(filled), HEIGHT * WIDTH, dtype=torch.float64)
        z[0, m, w] = 1
        fields = waves.fields(z)[0].flatten(1)
        torch.testing.assert_close(fields @ fields.T, torch.outer(row, row))


def test_a_coarser_grid_keeps_the_classes_of_its_waves() -> None:
    waves = WaveClasses.of(covariance(), torch.float64)
    coarse, kept, _ = waves.coarser()
    assert coarse.shape == (5, 7)
    y, x = waves.wavenumbers()
    for number, (columns, fewer) in enumerate(zip(waves.columns, coarse.columns, strict=True)):
        there = (y[columns] < 5) & (x[columns] < 7)
        expected = y[columns][there] * 7 + x[columns][there]
        assert torch.equal(coarse.order[fewer], expected), f"class {number}"
    assert (coarse.root <= waves.root[:, kept]).all()


def test_what_is_solved_with_all_couplings_is_solved_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stimpute.classical.kriging_solver.COUPLED", (1000, 1000))
    waves = WaveClasses.of(replace(covariance(), spectra=covariance().spectra[:, :8, :8]), torch.float64)
    generator = torch.Generator().manual_seed(9)
    weight = (torch.rand(2, STEPS, 8, 8, generator=generator) < 0.6).double()
    z = torch.randn(2, STEPS, 64, dtype=torch.float64, generator=generator)
    pushed = waves.modes(waves.fields(z) * weight) + 0.01 * z
    found = Preconditioner(waves, 0.01, weight)(pushed)
    torch.testing.assert_close(found, z, rtol=1e-4, atol=1e-4)


def test_steps_without_observations_are_what_is_expected_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stimpute.classical.wave_classes.CLASSES", HEIGHT * WIDTH)
    filled, empty = torch.tensor([0, 1, 3, 4, 6, 9]), torch.tensor([2, 5, 7, 8, 10, 11])
    given = covariance(filled)
    waves = WaveClasses.of(given, torch.float64)
    z = torch.randn(
        1, len(filled), HEIGHT * WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    fields = waves.fields(z, everywhere=True)[0]
    rows, columns = (cosines(n, torch.float64, torch.device("cpu")) for n in (HEIGHT, WIDTH))
    found = (rows @ fields @ columns.mT).flatten(1)
    each = torch.einsum("jn,jst->nst", given.spectra.flatten(1), given.between)
    level = (
        1e-5
        * each[:, filled].diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        * torch.eye(len(filled)).double()
    )
    expected = each[:, empty] @ torch.linalg.solve(each[:, filled] + level, found[filled].T[..., None])
    torch.testing.assert_close(found[empty], expected[..., 0].T, rtol=0.05, atol=0.02 * float(found.std()))
