"""Simple kriging as penalised least squares in the cosine basis, by conjugate gradients. Knows nothing about how a covariance is fitted.

On coarser grids first: what they find starts the next finer one, which then has little left to do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from stimpute.classical.cosine import cosines
from stimpute.classical.wave_classes import WaveClasses

LONG_WAVES = 8  # wavenumbers per axis, whose strongest modes are solved together:
COUPLED, EACH = (250, 1000), 100  # of so many cell-steps one, at least and at most so many
COARSEST, SHORTEST = (
    48,
    8,
)  # cells of the longer and the shorter side from which on a coarser grid comes first
REFINING = (2, 5)  # of the iterations are made on all grids but the coarsest
TOLERANCE = 3e-5  # of the residuals


def solve(
    values: Tensor,
    valid: Tensor,
    nugget: float,
    waves: WaveClasses,
    iterations: int,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """The kriged fields of K targets (K, S, H, W) with mean 0, as modes ``z`` (K, S, N) of ``waves``.

    They minimise ``|observed - waves.fields(z)|^2 / nugget + |z|^2``, for all targets side by side. It ends when
    every residual has fallen to ``tolerance``, or after ``iterations`` on the coarsest grid and a part of them on finer ones.
    """
    weight = valid.to(values.dtype)
    return _refined(values * weight, weight, nugget, waves, iterations, tolerance)


def _refined(
    shown: Tensor, weight: Tensor, nugget: float, waves: WaveClasses, iterations: int, tolerance: float
) -> Tensor:
    """The solution from ``weight`` (K, S, H, W) and values times weight, begun with that of a grid half as fine."""
    if max(waves.shape) < COARSEST or min(waves.shape) < SHORTEST:
        return _conjugate_gradients(shown, weight, nugget, waves, iterations, tolerance, None)
    fewer, kept, short = waves.coarser()
    share = (nugget / (nugget + short))[:, None, None]  # short waves become noise of the means
    coarse = _refined(_blocks(shown) * share, _blocks(weight) * share, nugget, fewer, iterations, tolerance)
    start = coarse.new_zeros(*coarse.shape[:2], len(kept))
    start[:, :, kept] = coarse
    less = -(-iterations * REFINING[0] // REFINING[1])
    return _conjugate_gradients(shown, weight, nugget, waves, less, tolerance, start)


def _blocks(cells: Tensor) -> Tensor:
    """Sums of 2 x 2 cells (..., H, W); the last row and column alone where their number is odd."""
    height, width = cells.shape[-2:]
    padded = F.pad(cells, (0, width % 2, 0, height % 2))
    return padded[..., ::2, ::2] + padded[..., 1::2, ::2] + padded[..., ::2, 1::2] + padded[..., 1::2, 1::2]


def _conjugate_gradients(
    shown: Tensor,
    weight: Tensor,
    nugget: float,
    waves: WaveClasses,
    iterations: int,
    tolerance: float,
    start: Tensor | None,
) -> Tensor:
    preconditioned = Preconditioner(waves, nugget, weight)

    def pushed(z: Tensor) -> Tensor:
        return waves.modes(waves.fields(z).mul_(weight)).add_(z, alpha=nugget)

    residual = waves.modes(shown)
    ahead = preconditioned(residual)
    energy = (residual * ahead).sum(dim=(1, 2))
    enough = tolerance**2 * energy
    if start is None:
        z = torch.zeros_like(residual)
    else:
        z = start
        residual -= pushed(z)
        ahead = preconditioned(residual)
        energy = (residual * ahead).sum(dim=(1, 2))
    direction = ahead.clone()
    for _ in range(iterations):
        going = energy > enough
        if not bool(going.any()):
            break
        moved = pushed(direction)
        length = torch.where(going, energy / (direction * moved).sum(dim=(1, 2)), 0.0)[:, None, None]
        z.addcmul_(length, direction)
        residual.addcmul_(length, moved, value=-1)
        ahead = preconditioned(residual)
        energy, before = torch.where(going, (residual * ahead).sum(dim=(1, 2)), energy), energy
        turn = torch.where(going, energy / before.clamp_min(1e-30), 0.0)[:, None, None]
        direction = ahead.addcmul_(turn, direction)
    return z


class Preconditioner:
    """An approximate inverse of the normal equations of stacks whose observations have ``weight`` (K, S, H, W).

    The strongest modes of the longest waves are solved with all their couplings through the gaps, the others each by itself, as if
    frames were complete: gaps are mostly wide, and what is observed lies together (decision 33).
    """

    def __init__(self, waves: WaveClasses, nugget: float, weight: Tensor) -> None:
        self.each = 1 / (waves.root.square() + nugget)
        y, x = waves.wavenumbers()
        long = ((y < LONG_WAVES) & (x < LONG_WAVES)).nonzero()[:, 0]
        strength = waves.root[:, long].flatten()
        count = min(max(weight[0].numel() // EACH, COUPLED[0]), COUPLED[1], len(strength))
        strongest = strength.topk(count).indices
        mode, wave = torch.div(strongest, len(long), rounding_mode="floor"), long[strongest % len(long)]
        self.strongest = mode * waves.root.shape[1] + wave
        loadings, at = waves.loadings(mode, wave), (y[wave], x[wave])
        self.together = [
            _coupled(loadings, at, _overlap(seen.double()), nugget).to(weight.dtype) for seen in weight
        ]

    def __call__(self, residual: Tensor) -> Tensor:
        """(K, S, N) -> (K, S, N)."""
        answer = residual * self.each
        for inverse, one, said in zip(self.together, residual, answer, strict=True):
            said.view(-1)[self.strongest] = inverse @ one.flatten()[self.strongest]
        return answer


def _coupled(loadings: Tensor, at: tuple[Tensor, Tensor], overlap: Tensor, nugget: float) -> Tensor:
    """Inverse (n, n) of the normal equations of some modes of one stack: their ``loadings`` (n, S), and the wavenumbers they are of."""
    y, x = at
    coupled = loadings.new_empty(len(loadings), len(loadings))
    for row, column in torch.unique(torch.stack(at), dim=1).T:
        own = (y == row) & (x == column)
        shared = overlap[row, y, :, column, x]  # n x S
        coupled[own] = loadings[own] @ (shared * loadings).mT
    coupled.diagonal().add_(nugget)
    return torch.cholesky_inverse(torch.linalg.cholesky(coupled))


def _overlap(seen: Tensor) -> Tensor:
    """Products of two long waves summed over what each frame of (S, H, W) shows: (y, y, S, x, x) by their wavenumbers."""
    rows, columns = (cosines(n, seen.dtype, seen.device)[:LONG_WAVES] for n in seen.shape[1:])
    pairs_y, pairs_x = ((waves[:, None] * waves[None]).flatten(0, 1) for waves in (rows, columns))
    along = pairs_y @ seen @ pairs_x.mT  # S x pairs x pairs
    size = len(rows), len(rows), len(columns), len(columns)
    return along.view(len(seen), *size).permute(1, 2, 0, 3, 4)
