"""Conjugate gradients: begun on a coarser grid they find the same answer sooner, and they end near the solution."""

import math

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


def long_series() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A field alike in all of 60 frames, noisier than the covariance says and each frame under other wide clouds; as of `problem`."""
    steps, side = 60, 16
    generator = torch.Generator().manual_seed(5)
    apart = (torch.arange(steps)[:, None] - torch.arange(steps)).abs().double()
    always, slow, never = (
        torch.ones_like(apart),
        torch.exp(-0.5 * (apart / 8) ** 2),
        torch.eye(steps).double(),
    )
    parts = [
        (SpatialPart("bell", 5.0), 0.4 * always),
        (SpatialPart("rough", 15.0), 0.2 * always + 0.1 * slow),
    ]
    parts += [(SpatialPart("rough", 1.0), 0.2 * slow), (SpatialPart("everywhere", math.inf), 0.1 * never)]
    spectra = [(spatial_spectrum(part, side, side), between) for part, between in parts]
    roots = solver.roots_of(sum(s[:, :, None, None] * b for s, b in spectra))  # type: ignore[arg-type]
    truth = fields(torch.randn(steps, 1, side, side, generator=generator), roots)
    clouds = torch.randn(1, steps, side // 8, side // 8, generator=generator)
    valid = clouds.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3) > 0.4
    return truth, valid, roots, truth + 0.2 * torch.randn(truth.shape, generator=generator)


def test_a_long_series_under_wide_clouds_is_solved_nearly_to_the_end() -> None:
    truth, valid, roots, seen = long_series()
    exact = fields(solver.solve(seen, valid, 1e-3, roots, 5000, tolerance=1e-7), roots)
    found = fields(solver.solve(seen, valid, 1e-3, roots, 400), roots)
    wrong, off = (float((x - y)[~valid].abs().mean()) for x, y in ((exact, truth), (found, exact)))
    assert off < 0.1 * wrong, f"{off:.3f} from the solution, which errs by {wrong:.3f}"


def test_under_wide_clouds_frames_are_better_thought_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    _, valid, roots, seen = long_series()
    exact = fields(solver.solve(seen, valid, 1e-3, roots, 5000, tolerance=1e-7), roots)

    def off(even: float) -> float:
        monkeypatch.setattr(solver, "EVEN", even)
        return float((fields(solver.solve(seen, valid, 1e-3, roots, 40), roots) - exact).abs().mean())

    assert off(solver.EVEN) < 0.7 * off(1.0)
