"""Conjugate gradients: begun on a coarser grid they find the same answer sooner, and they end near the solution."""

import math

import pytest
import torch

from stimpute.classical import kriging_solver as solver
from stimpute.classical.stack_covariance import Covariance, SpatialPart, spatial_spectrum
from stimpute.classical.wave_classes import WaveClasses

STEPS, HEIGHT, WIDTH = 2, 24, 56


def problem(
    width: int = WIDTH, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, WaveClasses, torch.Tensor]:
    """A field drawn from the covariance (1, T, H, W), what of it is observed, the covariance and the modes of the field."""
    generator = torch.Generator().manual_seed(3)
    between = torch.tensor([[[1.0, 0.7], [0.7, 1.0]]], dtype=torch.float64)
    spectrum = spatial_spectrum(SpatialPart("rough", 15.0), HEIGHT, width)[None]
    waves = WaveClasses.of(Covariance(spectrum, between, torch.arange(STEPS), 0.01), dtype)
    z = torch.randn(1, STEPS, HEIGHT * width, generator=generator).to(dtype)
    clouds = torch.randn(1, STEPS, HEIGHT // 8, width // 8, generator=generator)
    clouds = clouds.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    clouds = clouds if clouds.shape[3] == width else torch.cat((clouds, clouds[..., -1:]), dim=3)
    return waves.fields(z), clouds > -0.3, waves, z


def test_where_it_begins_does_not_matter_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, valid, waves, _ = problem(dtype=torch.float64)
    begun = solver.solve(truth, valid, 0.01, waves, 2000, tolerance=1e-8)
    monkeypatch.setattr(solver, "COARSEST", 1000)
    straight = solver.solve(truth, valid, 0.01, waves, 2000, tolerance=1e-8)
    torch.testing.assert_close(waves.fields(begun), waves.fields(straight), rtol=0, atol=1e-5)


def test_a_coarser_grid_saves_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, valid, waves, _ = problem()
    exact = waves.fields(solver.solve(truth, valid, 0.01, waves, 2000, tolerance=1e-6))

    def off(levels: bool) -> float:
        monkeypatch.setattr(solver, "COARSEST", 48 if levels else 1000)
        monkeypatch.setattr(solver, "REFINING", (1, 1))
        found = waves.fields(solver.solve(truth, valid, 0.01, waves, 6, tolerance=1e-6))
        return float((found - exact).abs().mean())

    assert off(levels=True) < 0.8 * off(levels=False)


@pytest.mark.parametrize("width", [56, 57])
def test_long_waves_are_the_same_on_the_coarser_grid(width: int) -> None:
    _, _, waves, z = problem(width)
    coarse, kept, short = waves.coarser()
    assert coarse.shape == (HEIGHT // 2, (width + 1) // 2)
    assert int(kept.sum()) == coarse.root.shape[1] == HEIGHT // 2 * ((width + 1) // 2)
    y, x = waves.wavenumbers()
    smooth = z * ((y < 4) & (x < 4))
    means = solver._blocks(waves.fields(smooth)) / solver._blocks(torch.ones(HEIGHT, width))
    found = coarse.fields(smooth[:, :, kept])
    largest = float((found - means).abs().max() / means.std())
    assert largest < (1e-4 if width % 2 == 0 else 0.2), "begun there, little would be left to do"
    rest = waves.fields(z * ~kept)
    assert short == pytest.approx(rest.square().mean(dim=(0, 2, 3)), rel=0.1)


def long_series() -> tuple[torch.Tensor, torch.Tensor, WaveClasses, torch.Tensor]:
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
    spectra, between = (
        torch.stack(x)
        for x in zip(*((spatial_spectrum(part, side, side), b) for part, b in parts), strict=True)
    )
    waves = WaveClasses.of(Covariance(spectra, between, torch.arange(steps), 1e-3), torch.float32)
    truth = waves.fields(torch.randn(1, steps, side * side, generator=generator))
    clouds = torch.randn(1, steps, side // 8, side // 8, generator=generator)
    valid = clouds.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3) > 0.4
    return truth, valid, waves, truth + 0.2 * torch.randn(truth.shape, generator=generator)


def test_a_long_series_under_wide_clouds_is_solved_nearly_to_the_end() -> None:
    truth, valid, waves, seen = long_series()
    exact = waves.fields(solver.solve(seen, valid, 1e-3, waves, 5000, tolerance=1e-7))
    found = waves.fields(solver.solve(seen, valid, 1e-3, waves, 400))
    wrong, off = (float((x - y)[~valid].abs().mean()) for x, y in ((exact, truth), (found, exact)))
    assert off < 0.1 * wrong, f"{off:.3f} from the solution, which errs by {wrong:.3f}"
