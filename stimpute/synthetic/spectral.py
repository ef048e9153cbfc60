"""Gaussian random fields in space and time by spectral synthesis, batched on the generator's device.

A field is a sum of plane waves whose amplitudes follow a Matérn spectrum (aliases folded in, so that the
variogram is right from the first lag). Most waves live on the Fourier grid of a domain twice the tile (no
wrap-around inside the tile); those longer than that domain are added one by one, so that ranges wider than the
tile come out as the slopes they are. Each wave's coefficient is a stationary process in time, evaluated at
the real, possibly uneven, times. Knows nothing about variables, gaps, or what a field is for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stimpute.synthetic.draw import Draw

_LONG_EDGES = (
    0.08,
    0.27,
    0.58,
    1.0,
)  # how the zero-frequency cell of the Fourier grid is divided, per half axis


@dataclass(frozen=True, eq=False)
class Covariance:
    """What a batch of n fields looks like; every tensor is (n,) float32.

    Parameters
    ----------
    len_scale : cells. With smoothness 0.5 the correlation at distance h is exp(-h / len_scale).
    smoothness : Matérn nu: 0.5 rough (exponential), 1.5, 2.5, ... smooth.
    ratio : anisotropy >= 1: length along ``angle`` over length across it.
    angle : radians.
    memory : days. Temporal len_scale of the longest waves; 0 is white in time.
    memory_smoothness : 0 exponential, 1 Matérn 3/2, 2 Matérn 5/2 in time (separable fields only).
    dispersion : how much faster short waves forget than long ones (0: separable; 1: memory ~ wavelength).
    velocity : (n, 2) cells per day, (y, x): the whole field is carried along.
    """

    len_scale: Tensor
    smoothness: Tensor
    ratio: Tensor
    angle: Tensor
    memory: Tensor
    memory_smoothness: Tensor
    dispersion: Tensor
    velocity: Tensor

    @classmethod
    def isotropic(
        cls, n: int, len_scale: float, smoothness: float = 0.5, memory: float = 0.0, device: str = "cpu"
    ) -> Covariance:
        """The same plain covariance for n fields."""

        def full(x: float) -> Tensor:
            return torch.full((n,), x, device=device)

        return cls(
            full(len_scale), full(smoothness), full(1.0), full(0.0), full(memory), full(0.0), full(0.0),
            torch.zeros(n, 2, device=device),
        )  # fmt: skip


def random_field(draw: Draw, covariance: Covariance, times: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-mean, unit-variance Gaussian fields.

    Parameters
    ----------
    draw : the source of randomness; its device is the output's.
    covariance : n fields.
    times : (n, T) days, increasing.
    size : (H, W) cells.

    Returns
    -------
    float32 (n, T, H, W), finite.

    Notes
    -----
    Spectral density of a Matérn field in two dimensions: (2 nu / l^2 + k^2)^-(nu + 1)
    (Rasmussen and Williams 2006, eq. 4.15).
    """
    n, steps = times.shape
    domain = (_fourier_length(2 * size[0]), _fourier_length(2 * size[1]))
    ky, kx = _fourier_waves(domain, draw.device)
    ly, lx, share = _long_waves(domain, draw.device)
    k = torch.stack([torch.cat([ky.reshape(-1), ly]), torch.cat([kx.reshape(-1), lx])])
    amplitude = _amplitudes(covariance, k, ky.shape, domain[1], share)
    noise = torch.view_as_complex(draw.normal(n, steps, k.shape[1], 2)) * math.sqrt(0.5)
    waves = _evolve(noise, covariance, k, times) * amplitude[:, None]
    fine, long = waves[..., : ky.numel()], waves[..., ky.numel() :]
    return _inverse_fourier(fine.reshape(n, steps, *ky.shape), domain, size) + _sum_waves(long, ly, lx, size)


def temporal_factor(times: Tensor, memory: Tensor, smoothness: Tensor) -> Tensor:
    """Cholesky factor (n, T, T) of a Matérn correlation over real times; multiply white noise by it.

    Parameters
    ----------
    times : (n, T) days.
    memory : (n,) days; 0 gives the identity.
    smoothness : (n,) 0, 1, 2 for Matérn 1/2, 3/2, 5/2.
    """
    # differences of rounded times are no distances, and their correlation not positive definite
    exact = times.double()
    lag = (exact[:, :, None] - exact[:, None, :]).abs() / memory.double().clamp_min(1e-6)[:, None, None]
    order = smoothness[:, None, None]
    s3, s5 = math.sqrt(3) * lag, math.sqrt(5) * lag
    correlation = torch.where(
        order < 0.5,
        torch.exp(-lag),
        torch.where(order < 1.5, (1 + s3) * torch.exp(-s3), (1 + s5 + s5.square() / 3) * torch.exp(-s5)),
    )
    jitter = 1e-6 * torch.eye(times.shape[1], dtype=torch.float64, device=times.device)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(correlation + jitter)
    if bool(failed.any()):
        factor = torch.linalg.cholesky(correlation + 1e3 * jitter)
    return factor.float()


def _fourier_length(cells: int) -> int:
    """The next even length >= cells whose only factors are 2, 3 and 5.

    >>> [_fourier_length(n) for n in (1, 14, 64, 66)]
    [2, 16, 64, 72]
    """
    length = max(2, cells + cells % 2)
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 2


def _fourier_waves(domain: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Wave numbers (ky, kx) in radians per cell of the half plane that a real field needs."""
    ky = 2 * math.pi * torch.fft.fftfreq(domain[0], device=device)
    kx = 2 * math.pi * torch.fft.rfftfreq(domain[1], device=device)
    grid = torch.meshgrid(ky, kx, indexing="ij")
    return grid[0], grid[1]


def _long_waves(domain: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Wave numbers of the waves longer than the domain, and the share of the zero-frequency cell each stands for."""
    edges = torch.tensor([0.0, *_LONG_EDGES], device=device)
    centre, width = (edges[1:] + edges[:-1]) / 2, edges.diff()
    part, share = torch.cat([-centre, centre]) / 2, torch.cat([width, width]) / 2
    ky, kx = torch.meshgrid(2 * math.pi / domain[0] * part, 2 * math.pi / domain[1] * part, indexing="ij")
    return ky.reshape(-1), kx.reshape(-1), torch.outer(share, share).reshape(-1)


def _density(covariance: Covariance, ky: Tensor, kx: Tensor) -> Tensor:
    """Matérn spectral density (n, K), not normalised."""
    c, s = torch.cos(covariance.angle)[:, None], torch.sin(covariance.angle)[:, None]
    stretch = covariance.ratio.sqrt()[:, None]
    along, across = (c * kx + s * ky) * stretch, (c * ky - s * kx) / stretch
    nu, length = covariance.smoothness[:, None], covariance.len_scale[:, None]
    return torch.pow(1 + (along.square() + across.square()) * length.square() / (2 * nu), -(nu + 1))


def _amplitudes(covariance: Covariance, k: Tensor, half: torch.Size, width: int, share: Tensor) -> Tensor:
    """Standard deviation (n, K) of every wave's complex coefficient, so that fields have unit variance."""
    ky, kx = k
    folded = _density(covariance, ky, kx) + _density_beyond(covariance)[:, None]
    for my in (-1, 0, 1):
        for mx in (-1, 0, 1):
            if my or mx:
                folded = folded + _density(covariance, ky + 2 * math.pi * my, kx + 2 * math.pi * mx)
    fine = half.numel()
    weight = torch.full_like(ky, 2.0)
    weight[:fine].reshape(half)[:, [0, width // 2]] = 1.0
    weight[0] = 0.0  # the zero frequency is what the long waves resolve
    weight[fine:] = share
    variance = folded * weight
    variance = variance / variance.sum(dim=1, keepdim=True)
    # Re(c exp(ikx)) has half the variance of c
    return (2 * variance).sqrt()


def _density_beyond(covariance: Covariance) -> Tensor:
    """What all aliases beyond the nearest add to every wave, (n,): the integral outside a circle as large as nine cells."""
    nu, length = covariance.smoothness, covariance.len_scale
    radius_squared = 9 * 4 * math.pi
    tail = 2 * math.pi / length.square() * torch.pow(1 + radius_squared * length.square() / (2 * nu), -nu)
    return tail / (2 * math.pi) ** 2


def _evolve(noise: Tensor, covariance: Covariance, k: Tensor, times: Tensor) -> Tensor:
    """Coefficients (n, T, K): white noise in, correlated in time out, carried by the velocity."""
    plain = covariance.dispersion <= 0
    out = noise
    if bool(plain.any()):
        factor = temporal_factor(times[plain], covariance.memory[plain], covariance.memory_smoothness[plain])
        mixed = torch.view_as_complex(
            torch.einsum("nts,nskc->ntkc", factor, torch.view_as_real(noise[plain])).contiguous()
        )
        out = out.index_put((plain.nonzero().squeeze(1),), mixed)
    if bool((~plain).any()):
        forgetful = _ornstein_uhlenbeck(noise[~plain], _memories(covariance, k)[~plain], times[~plain])
        out = out.index_put(((~plain).nonzero().squeeze(1),), forgetful)
    if bool(covariance.velocity.any()):
        phase = torch.einsum("nt,nd,dk->ntk", times - times[:, :1], -covariance.velocity, k)
        out = out * torch.polar(torch.ones_like(phase), phase)
    return out


def _memories(covariance: Covariance, k: Tensor) -> Tensor:
    """Days (n, K) that each wave lasts: the longer the wave, the longer it lives."""
    short = 1 + k.square().sum(dim=0).sqrt() * covariance.len_scale[:, None]
    return covariance.memory[:, None] * torch.pow(short, -covariance.dispersion[:, None])


def _ornstein_uhlenbeck(noise: Tensor, memory: Tensor, times: Tensor) -> Tensor:
    """Exact first-order process of every wave over uneven steps."""
    states = [noise[:, 0]]
    for t in range(1, noise.shape[1]):
        kept = torch.exp(-(times[:, t] - times[:, t - 1])[:, None] / memory.clamp_min(1e-6))
        states.append(kept * states[-1] + (1 - kept.square()).sqrt() * noise[:, t])
    return torch.stack(states, dim=1)


def _inverse_fourier(waves: Tensor, domain: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The tile's corner of the domain (n, T, H, W), rows first so that only the tile's rows are finished."""
    rows = torch.fft.ifft(waves, dim=2, norm="forward")[:, :, : size[0]]
    rows[..., 1 : domain[1] // 2] *= 0.5  # irfft counts these columns twice, and they hold one wave each
    field: Tensor = torch.fft.irfft(rows, n=domain[1], dim=3, norm="forward")
    return field[..., : size[1]]


def _sum_waves(waves: Tensor, ky: Tensor, kx: Tensor, size: tuple[int, int]) -> Tensor:
    """Real part of the sum of a few explicit waves (n, T, H, W)."""
    y, x = torch.arange(size[0], device=ky.device), torch.arange(size[1], device=ky.device)
    phase = ky[:, None, None] * y[:, None] + kx[:, None, None] * x
    return torch.einsum("ntk,khw->nthw", waves.real, phase.cos()) - torch.einsum(
        "ntk,khw->nthw", waves.imag, phase.sin()
    )
