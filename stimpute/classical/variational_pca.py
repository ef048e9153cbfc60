"""Principal components of the (space x time) matrix with gaps, by variational Bayes: what is not known of a component stays small.

Bishop, C. M. (1999), Variational principal components, Proc. ICANN, 509-514; with gaps: Ilin, A. and Raiko, T. (2010), J. Mach. Learn.
Res. 11, 1957-2000. Each cell has loadings, each step amplitudes, both normal; they are estimated in turns from what was observed, and
components that the observations do not ask for vanish. Knows nothing about coordinates; time only where it carries empty
frames over from their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stimpute.classical.eof import carry_over_empty
from stimpute.classical.mean import observed, overall_mean

_NOISE = 0.3  # of the variance, at first
_LEAST_NOISE = 1e-4  # of the variance
_TINY = 1e-8
_MANY = 16_384  # cells that say enough of how steps differ


def variational_pca(
    values: Tensor, valid: Tensor, *, count: int = 8, iterations: int = 6, times: Tensor | None = None
) -> Tensor:
    """The posterior mean of ``count`` principal components, of which those that do not pay are held near zero.

    Parameters
    ----------
    values : (B, T, H, W); gaps may hold anything.
    valid : bool (B, T, H, W), True = observed.
    count : of components, at most T - 1 and H * W.
    iterations : turns of loadings and amplitudes; of many cells all but the last on evenly spread ones.
    times : (B, T) days; steps if None. Read for frames without any observation, which are linear in time between the others.

    Returns
    -------
    (B, T, H, W), at observed cells too, without NaN; the mean of all that was observed where there is a single step.
    """
    center = overall_mean(values, valid)
    shown = observed(values - center, valid).flatten(2)
    seen = valid.flatten(2).to(values.dtype)
    seen_cells = seen.sum(dim=(1, 2)).clamp_min(1)
    spread = (shown.square().sum(dim=(1, 2)) / seen_cells).sqrt()[:, None, None]
    shown = shown / torch.where(spread > 0, spread, 1.0)
    size = min(count, shown.shape[1] - 1, shown.shape[2])
    if size < 1:
        return center.expand_as(values).clone()
    amplitudes, variance = _begin(shown, size)
    noise = shown.new_full((len(shown), 1, 1), _NOISE, dtype=torch.float64)
    thinned = -(-shown.shape[2] // _MANY)
    for turn in range(iterations):
        some = slice(None, None, thinned if turn < iterations - 1 else None)
        part, there = shown[..., some], seen[..., some]
        loadings = _loadings(part, there, amplitudes, noise)
        amplitudes, noise = _amplitudes(part, there, loadings, variance, noise)
        amplitudes, cells, variance = _turned(amplitudes, loadings)
    fitted = amplitudes.mean.to(shown.dtype) @ cells.mT * spread
    states = fitted.reshape(values.shape) + center
    return carry_over_empty(states[:, None], ~valid.flatten(2).any(dim=2, keepdim=True), times)[:, 0]


@dataclass(frozen=True, eq=False)
class _Normal:
    """The loadings of cells or the amplitudes of steps as normal distributions: ``mean`` (B, n, K), ``covariance`` (B, n, K, K)."""

    mean: Tensor
    covariance: Tensor

    @property
    def moments(self) -> Tensor:
        """Mean of the outer products of each vector, (B, n, K * K)."""
        return (self.mean[..., :, None] * self.mean[..., None, :] + self.covariance).flatten(2)


def _begin(shown: Tensor, size: int) -> tuple[_Normal, Tensor]:
    """The leading components in time with 0 in the gaps, taken for certain; and the variance (B, K) of each over the steps."""
    gram = (shown @ shown.mT).double() / shown.shape[2]
    gram.diagonal(dim1=1, dim2=2).add_(_TINY)
    energy, vectors = torch.linalg.eigh(gram)
    mean = vectors[..., -size:] * energy[..., -size:].clamp_min(_TINY).sqrt()[:, None]
    variance = mean.square().mean(dim=1).clamp_min(_TINY)
    return _Normal(mean, mean.new_zeros(*mean.shape, size)), variance


def _loadings(shown: Tensor, seen: Tensor, amplitudes: _Normal, noise: Tensor) -> _Normal:
    """Of each cell, from the steps at which it was observed; a priori of unit variance."""
    weight = (1 / noise).to(shown.dtype)
    size = amplitudes.mean.shape[2]
    precision = (seen.mT @ amplitudes.moments.to(shown.dtype) * weight).reshape(
        *shown.mT.shape[:2], size, size
    )
    precision.diagonal(dim1=2, dim2=3).add_(1)
    covariance = torch.linalg.inv(precision)
    moment = shown.mT @ amplitudes.mean.to(shown.dtype) * weight
    return _Normal((covariance @ moment[..., None])[..., 0], covariance)


def _amplitudes(
    shown: Tensor, seen: Tensor, loadings: _Normal, variance: Tensor, noise: Tensor
) -> tuple[_Normal, Tensor]:
    """Of each step, from the cells that it observed; a priori of ``variance`` (B, K). And the noise (B, 1, 1) left over."""
    size = variance.shape[1]
    known = (seen @ loadings.moments).double()
    precision = (known / noise).reshape(*shown.shape[:2], size, size) + torch.diag_embed(1 / variance)[
        :, None
    ]
    covariance = torch.linalg.inv(precision)
    moment = (shown @ loadings.mean).double()
    mean = (covariance @ (moment / noise)[..., None])[..., 0]
    found = _Normal(mean, covariance)
    square = shown.square().sum(dim=(1, 2), dtype=torch.float64)
    missed = square - 2 * (mean * moment).sum(dim=(1, 2)) + (found.moments * known).sum(dim=(1, 2))
    cells = seen.sum(dim=(1, 2)).clamp_min(1)
    return found, (missed / cells).clamp_min(_LEAST_NOISE)[:, None, None]


def _turned(amplitudes: _Normal, loadings: _Normal) -> tuple[_Normal, Tensor, Tensor]:
    """Both along axes on which loadings have unit variance and amplitudes are uncorrelated; their products stay what they are.

    Amplitudes, the means (B, N, K) of loadings, and the variance (B, K) of each component over the steps.
    """
    spread = loadings.mean.mT @ loadings.mean + loadings.covariance.sum(dim=1)
    energy, vectors = torch.linalg.eigh(spread.double() / loadings.mean.shape[1])
    root = vectors * energy.clamp_min(_TINY).sqrt()[:, None]
    steps = amplitudes.mean @ root
    covariance = root.mT[:, None] @ amplitudes.covariance @ root[:, None]
    variance, axes = torch.linalg.eigh((steps.mT @ steps + covariance.sum(dim=1)) / steps.shape[1])
    covariance = axes.mT[:, None] @ covariance @ axes[:, None]
    cells = torch.linalg.solve(root @ axes, loadings.mean.mT.double()).mT.to(loadings.mean.dtype)
    return _Normal(steps @ axes, covariance), cells, variance.clamp_min(_TINY)
