"""Simple kriging as penalised least squares in the cosine basis, by conjugate gradients. Knows nothing about how a covariance is fitted.

On coarser grids first: what they find starts the next finer one, which then has little left to do.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from stimpute.classical.cosine import cosines

LONG_WAVES, COUPLED = (
    8,
    1000,
)  # wavenumbers per axis solved together, while squared and times the steps they are no more
COARSEST, SHORTEST = (
    48,
    8,
)  # cells of the longer and the shorter side from which on a coarser grid comes first
REFINING = (2, 5)  # of the iterations are made on all grids but the coarsest
TOLERANCE = 1e-4  # of the residuals
EVEN = 0.25  # power of a frame's cover: at 1 as if what it observed were spread evenly, at 0 as if it were complete
_JITTER = 1e-5


def fields(waves: Tensor) -> Tensor:
    """From the cosine basis (T, K, H, W) to fields (K, T, H, W)."""
    rows, columns = (cosines(n, waves.dtype, waves.device) for n in waves.shape[2:])
    return (rows.mT @ (waves @ columns)).transpose(0, 1)


def by_steps(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """From one matrix per wavenumber (H, W, T, T) to a contiguous (T, T, 1, H, W)."""
    height, width, steps, _ = matrices.shape
    flat = matrices.to(dtype).reshape(height * width, steps * steps)
    return flat.mT.contiguous().view(steps, steps, 1, height, width)


# Products over the steps at every wavenumber, as sums over whole planes: the matrices are far too small to be multiplied singly.


def lower(roots: Tensor, waves: Tensor) -> Tensor:
    """Lower triangular ``roots`` (T, T, 1, H, W) times ``waves`` (T, K, H, W)."""
    total = torch.zeros_like(waves)
    for s, plane in enumerate(waves):
        total[s:].addcmul_(roots[s:, s], plane)
    return total


def lower_transposed(roots: Tensor, waves: Tensor) -> Tensor:
    """The transposed of lower triangular ``roots`` (T, T, 1, H, W) times ``waves`` (T, K, H, W)."""
    total = torch.zeros_like(waves)
    for s, plane in enumerate(waves):
        total[: s + 1].addcmul_(roots[s, : s + 1], plane)
    return total


def _full(matrices: Tensor, waves: Tensor) -> Tensor:
    """Symmetric ``matrices`` (T, T, K, H, W) times ``waves`` (T, K, H, W)."""
    total = torch.zeros_like(waves)
    for s, plane in enumerate(waves):
        total.addcmul_(matrices[s], plane)
    return total


def roots_of(spectrum: Tensor) -> Tensor:
    """Cholesky factors of a covariance (H, W, T, T) float64 at each wavenumber."""
    jitter = _JITTER * spectrum.diagonal(dim1=2, dim2=3).mean() + 1e-12
    roots: Tensor = torch.linalg.cholesky(
        spectrum + jitter * torch.eye(spectrum.shape[-1], dtype=spectrum.dtype, device=spectrum.device)
    )
    return roots


def solve(
    values: Tensor,
    valid: Tensor,
    nugget: float,
    roots: Tensor,
    iterations: int,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """The kriged fields of K targets (K, T, H, W) with mean 0, whitened in the cosine basis: ``z`` (T, K, H, W).

    With ``field = root @ z`` it minimises ``|observed - field|^2 / nugget + |z|^2``, for all targets side by side. It ends when
    every residual has fallen to ``tolerance``, or after ``iterations`` on the coarsest grid and a part of them on finer ones.
    """
    weight = valid.transpose(0, 1).to(values.dtype).contiguous()
    return _refined(values.transpose(0, 1) * weight, weight, nugget, roots, iterations, tolerance)


def _refined(
    shown: Tensor, weight: Tensor, nugget: float, roots: Tensor, iterations: int, tolerance: float
) -> Tensor:
    """The solution from ``weight`` (T, K, H, W) and values times weight, begun with that of a grid half as fine."""
    height, width = shown.shape[2:]
    if max(height, width) < COARSEST or min(height, width) < SHORTEST:
        return _conjugate_gradients(shown, weight, nugget, roots, iterations, tolerance, None)
    coarse = _refined(*_coarser(shown, weight, nugget, roots), iterations, tolerance)
    start = torch.zeros_like(shown)
    start[:, :, : coarse.shape[2], : coarse.shape[3]] = coarse
    fewer = -(-iterations * REFINING[0] // REFINING[1])
    return _conjugate_gradients(shown, weight, nugget, roots, fewer, tolerance, start)


def _coarser(
    shown: Tensor, weight: Tensor, nugget: float, roots: Tensor
) -> tuple[Tensor, Tensor, float, Tensor]:
    """The problem on means of 2 x 2 cells, for the long half of the waves: their ``z`` are those of the fine grid.

    The short waves become noise of the cells, less of it where more cells are averaged.
    """
    (steps, _, *sizes), sides = shown.shape, [-(-n // 2) for n in shown.shape[2:]]
    variance = roots.square().sum(dim=3)
    short = variance.sum(dim=(0, 1)) - variance[: sides[0], : sides[1]].sum(dim=(0, 1))
    share = (nugget / (nugget + short / (sizes[0] * sizes[1]))).to(shown.dtype).view(steps, 1, 1, 1)
    y, x = (
        math.sqrt(m / n)
        * torch.cos(math.pi / (2 * n) * torch.arange(m, dtype=roots.dtype, device=roots.device))
        for n, m in zip(sizes, sides, strict=True)
    )  # of a wave of the fine grid, what means of two cells leave in the basis of the coarse one
    fewer = roots[: sides[0], : sides[1]] * (y[:, None] * x)[:, :, None, None]
    return _blocks(shown) * share, _blocks(weight) * share, nugget, fewer


def _blocks(cells: Tensor) -> Tensor:
    """Sums of 2 x 2 cells (..., H, W); the last row and column alone where their number is odd."""
    height, width = cells.shape[-2:]
    padded = F.pad(cells, (0, width % 2, 0, height % 2))
    return padded[..., ::2, ::2] + padded[..., 1::2, ::2] + padded[..., ::2, 1::2] + padded[..., 1::2, 1::2]


def _conjugate_gradients(
    shown: Tensor,
    weight: Tensor,
    nugget: float,
    roots: Tensor,
    iterations: int,
    tolerance: float,
    start: Tensor | None,
) -> Tensor:
    rows, columns = (cosines(n, shown.dtype, shown.device) for n in shown.shape[2:])
    preconditioned = Preconditioner(roots, nugget, weight)
    root = by_steps(roots, shown.dtype)

    def back(x: Tensor) -> Tensor:
        return lower_transposed(root, rows @ (x @ columns.mT))

    def pushed(z: Tensor) -> Tensor:
        seen = (rows.mT @ (lower(root, z) @ columns)).mul_(weight)
        return back(seen).add_(z, alpha=nugget)

    residual = back(shown)
    ahead = preconditioned(residual)
    energy = (residual * ahead).sum(dim=(0, 2, 3))
    enough = tolerance**2 * energy
    if start is None:
        z = torch.zeros_like(residual)
    else:
        z = start
        residual -= pushed(z)
        ahead = preconditioned(residual)
        energy = (residual * ahead).sum(dim=(0, 2, 3))
    direction = ahead.clone()
    for _ in range(iterations):
        going = energy > enough
        if not bool(going.any()):
            break
        moved = pushed(direction)
        length = torch.where(going, energy / (direction * moved).sum(dim=(0, 2, 3)), 0.0)[:, None, None]
        z.addcmul_(length, direction)
        residual.addcmul_(length, moved, value=-1)
        ahead = preconditioned(residual)
        energy, before = torch.where(going, (residual * ahead).sum(dim=(0, 2, 3)), energy), energy
        turn = torch.where(going, energy / before.clamp_min(1e-30), 0.0)[:, None, None]
        direction = ahead.addcmul_(turn, direction)
    return z


class Preconditioner:
    """An approximate inverse of the normal equations of stacks whose observations have ``weight`` (T, K, H, W).

    The longest waves are solved with all their couplings through the gaps, the others each by itself, nearly as if frames were
    complete: gaps are mostly wide, and what is observed lies together (decision 33). Exact where every frame is complete or empty.
    """

    def __init__(self, roots: Tensor, nugget: float, weight: Tensor) -> None:
        steps, _, height, width = weight.shape
        side = max(1, min(LONG_WAVES, math.isqrt(COUPLED // steps)))
        self.size = min(side, height), min(side, width)
        self.long: list[Tensor] = []
        a, b = self.size
        single = roots.float()
        single[:a, :b] = 0  # solved with their couplings
        cover = weight.mean(dim=(1, 2, 3)) ** EVEN
        inner = single.mT @ (cover[:, None] * single)
        inner.diagonal(dim1=2, dim2=3).add_(nugget)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(inner))
        self.each = by_steps(inverse, torch.float32)
        for seen in weight.double().unbind(1):
            self.long.append(self._coupled(roots, nugget, seen))

    def _coupled(self, roots: Tensor, nugget: float, seen: Tensor) -> Tensor:
        """Inverse, (t y x, t y x), for the longest waves of one stack."""
        (steps, *sizes), (a, b) = seen.shape, self.size
        rows, columns = (
            cosines(n, torch.float64, seen.device)[:k] for n, k in zip(sizes, self.size, strict=True)
        )
        pairs_y = (rows[:, None] * rows[None]).flatten(0, 1)
        pairs_x = (columns[:, None] * columns[None]).flatten(0, 1)
        overlap = (pairs_y @ seen @ pairs_x.mT).view(steps, a, a, b, b)
        waves = roots[:a, :b]
        coupled = torch.einsum("yxts,tyvxw,vwtu->syxuvw", waves, overlap, waves)
        coupled = coupled.reshape(a * b * steps, a * b * steps)
        coupled.diagonal().add_(nugget)
        return torch.cholesky_inverse(torch.linalg.cholesky(coupled)).float()

    def __call__(self, residual: Tensor) -> Tensor:
        """(T, K, H, W) -> (T, K, H, W)."""
        answer = _full(self.each, residual)
        a, b = self.size
        for k, inverse in enumerate(self.long):
            part = residual[:, k, :a, :b]
            answer[:, k, :a, :b] = (inverse @ part.reshape(-1)).view(part.shape)
        return answer
