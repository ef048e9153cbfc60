"""Conjugate gradients begun on a coarser grid: the same answer, sooner."""

import pytest
import torch

from stimpute.classical import kriging_solver as solver
from stimpute.classical.stack_covariance import SpatialPart, spatial_spectrum

STEPS, HEIGHT, WIDTH = 2, 24, 56


def problem(width: int = WIDTH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A field drawn from the covariance (1, T, H, W), what of it is observed, roots and whitened waves of the field."""
    generator = torch.Generator().manual_seed(3)
    between = torch.tensor([[1.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    spectrum = spatial_spectrum(SpatialPart("rough", 15.0), HEIGHT, width)
    roots = solver.roots_of(spectrum[:, :, None, None] * between)
    z = torch.randn(STEPS, 1, HEIGHT, width, generator=generator)
    truth = solver.fields(solver.lower(solver.by_steps(roots, torch.float32), z))
    clouds = torch.randn(1, STEPS, HEIGHT // 8, width // 8, generator=generator)
    clouds = clouds.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return truth, clouds > -0.3, roots, z


def fields(z: torch.Tensor, roots: torch.Tensor) -> torch.Tensor:
    return solver.fields(solver.lower(solver.by_steps(roots, torch.float32), z))


def test_where_it_begins_does_not_matter_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, valid, roots, _ = problem()
    begun = solver.solve(truth, valid, 0.01, roots, 2000, tolerance=1e-6)
    monkeypatch.setattr(solver, "COARSEST", 1000)
    straight = solver.solve(truth, valid, 0.01, roots, 2000, tolerance=1e-6)
    torch.testing.assert_close(fields(begun, roots), fields(straight, roots), rtol=0, atol=2e-3)


def test_a_coarser_grid_saves_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, valid, roots, _ = problem()
    exact = fields(solver.solve(truth, valid, 0.01, roots, 2000, tolerance=1e-6), roots)

    def off(levels: bool) -> float:
        monkeypatch.setattr(solver, "COARSEST", 48 if levels else 1000)
        monkeypatch.setattr(solver, "REFINING", (1, 1))
        return float(
            (fields(solver.solve(truth, valid, 0.01, roots, 6, tolerance=1e-6), roots) - exact).abs().mean()
        )

    assert off(levels=True) < 0.8 * off(levels=False)


@pytest.mark.parametrize("width", [56, 57])
def test_long_waves_are_the_same_on_the_coarser_grid(width: int) -> None:
    truth, _, roots, z = problem(width)
    weight = torch.ones(STEPS, 1, HEIGHT, width)
    _, weights, _, coarse = solver._coarser(truth.transpose(0, 1) * weight, weight, 0.01, roots)
    assert weights.shape[2:] == (HEIGHT // 2, (width + 1) // 2)
    smooth = torch.zeros_like(z)
    smooth[:, :, :4, :4] = z[:, :, :4, :4]
    means = solver._blocks(fields(smooth, roots)) / solver._blocks(torch.ones(HEIGHT, width))
    found = fields(smooth[:, :, : coarse.shape[0], : coarse.shape[1]], coarse)
    largest = float((found - means).abs().max() / means.std())
    assert largest < (1e-4 if width % 2 == 0 else 0.2), "begun there, little would be left to do"
