"""A stack's covariance in the cosine basis, its waves sorted into classes that change alike in time. Knows nothing about solving.

One covariance between steps for every wave would take a matrix for each. Waves of a class share a basis of time instead, the
eigenvectors of the class's mean covariance between steps; each wave keeps its own variance along each of them, and what it says
of two of them together is left out. That is exact where the waves' covariances have the same eigenvectors, and nearly so for the
smooth functions of time that covariances are made of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from stimpute.classical.cosine import cosines
from stimpute.classical.stack_covariance import Covariance

CLASSES = 8
_ROUNDS = 12  # of sorting
_JITTER = 1e-5
_ALIKE = 1e-6  # squared distance of covariances between steps, over their size, that makes no other class


@dataclass(frozen=True, eq=False)
class WaveClasses:
    """Fields (K, S, H, W) of S observed steps as modes (K, S, N) of unit variance, independent a priori: N waves, S modes of each.

    Parameters
    ----------
    shape : (H, W).
    order : (N,) int64, numbers of the waves in the flattened cosine basis, class by class.
    ends : where in ``order`` each class ends.
    shown : basis of each class, (S, S), steps x modes, orthonormal.
    everywhere : the same at all T steps, (T, S): what the class's mean covariance expects of a step from the observed ones.
    root : (S, N), standard deviation of every mode of every wave.
    """

    shape: tuple[int, int]
    order: Tensor
    ends: tuple[int, ...]
    shown: tuple[Tensor, ...]
    everywhere: tuple[Tensor, ...]
    root: Tensor

    @classmethod
    def of(cls, covariance: Covariance, dtype: torch.dtype) -> WaveClasses:
        """Sort the waves of a covariance; ``dtype`` of bases and roots."""
        spectra = covariance.spectra.flatten(1)
        variance = spectra.T @ covariance.among.diagonal(dim1=1, dim2=2).sum(
            dim=1
        )  # of each wave, over the steps
        label, mixtures = _sorted(covariance, variance)
        order = label.argsort(stable=True)
        filled, among = covariance.filled, covariance.among
        jitter = _JITTER * variance.mean() / len(filled) + 1e-12
        shown, everywhere, roots = [], [], []
        ends: list[int] = []
        for number, mixture in enumerate(mixtures):
            waves = order[label[order] == number]
            if not len(waves):
                continue
            mean = torch.tensordot(mixture, covariance.between, dims=1)
            strength, basis = torch.linalg.eigh(mean[filled])
            along = (basis * (among @ basis)).sum(dim=1)  # J x modes
            roots.append((along.T @ spectra[:, waves]).clamp_min(0).add_(jitter).sqrt_())
            expected = mean @ (basis / (strength.clamp_min(0) + _JITTER * strength.mean() + 1e-30))
            expected[filled] = basis
            shown.append(basis.to(dtype))
            everywhere.append(expected.to(dtype))
            ends.append((ends[-1] if ends else 0) + len(waves))
        height, width = covariance.spectra.shape[1:]
        root = torch.cat(roots, dim=1).to(dtype)
        return cls((height, width), order, tuple(ends), tuple(shown), tuple(everywhere), root)

    @property
    def columns(self) -> Iterator[slice]:
        """Of each class, in ``order``."""
        start = 0
        for end in self.ends:
            yield slice(start, end)
            start = end

    @cached_property
    def place(self) -> Tensor:
        """(N,) int64, where in ``order`` each wave stands."""
        return self.order.argsort()

    def fields(self, modes: Tensor, everywhere: bool = False) -> Tensor:
        """(K, S, N) -> (K, S, H, W); ``everywhere``: at all T steps, (K, T, H, W)."""
        waves = self._turned(modes * self.root, self.everywhere if everywhere else self.shown)
        waves = self._arranged(waves, self.place)
        rows, columns = self._cosines(modes.dtype)
        fields: Tensor = rows.mT @ (waves.view(*waves.shape[:2], *self.shape) @ columns)
        return fields

    def modes(self, fields: Tensor) -> Tensor:
        """(K, S, H, W) -> (K, S, N): what is adjoint to :meth:`fields`."""
        rows, columns = self._cosines(fields.dtype)
        waves = self._arranged((rows @ (fields @ columns.mT)).flatten(2), self.order)
        return self._turned(waves, [basis.mT for basis in self.shown]).mul_(self.root)

    def _arranged(self, waves: Tensor, order: Tensor) -> Tensor:
        """Waves (K, ., N) in another order; as one table, in which it is several times quicker."""
        if len(self.ends) == 1:
            return waves
        return waves.flatten(0, 1).index_select(1, order).view(waves.shape)

    def _turned(self, waves: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        """The columns of each class times its matrix, (K, ., N) -> (K, ., N)."""
        turned = waves.new_empty(len(waves), len(matrices[0]), waves.shape[2])
        for matrix, columns in zip(matrices, self.columns, strict=True):
            for one, answer in zip(waves, turned, strict=True):
                torch.mm(matrix, one[:, columns], out=answer[:, columns])
        return turned

    def _cosines(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        rows, columns = (cosines(n, dtype, self.root.device) for n in self.shape)
        return rows, columns

    def wavenumbers(self) -> tuple[Tensor, Tensor]:
        """Along y and along x, each (N,), in ``order``."""
        return torch.div(self.order, self.shape[1], rounding_mode="floor"), self.order % self.shape[1]

    def loadings(self, mode: Tensor, wave: Tensor) -> Tensor:
        """What single modes are at the observed steps, (n, S) float64: of the waves at places ``wave`` (n,) in ``order``."""
        number = torch.bucketize(wave, torch.tensor(self.ends, device=wave.device), right=True)
        bases = torch.stack(self.shown).double()
        return bases[number, :, mode] * self.root[mode, wave].double()[:, None]

    def coarser(self) -> tuple[WaveClasses, Tensor, Tensor]:
        """The long half of the waves on means of 2 x 2 cells; which they are, (N,) bool; and what the others vary at each step, (S,).

        Their modes are those of the fine grid: the roots become smaller by what means leave of a wave.
        """
        sides = [-(-n // 2) for n in self.shape]
        y, x = self.wavenumbers()
        kept = (y < sides[0]) & (x < sides[1])
        left = [
            math.sqrt(m / n)
            * torch.cos(math.pi / (2 * n) * torch.arange(m, dtype=torch.float64, device=self.root.device))
            for n, m in zip(self.shape, sides, strict=True)
        ]
        scale = (left[0][y[kept]] * left[1][x[kept]]).to(self.root.dtype)
        short = self.root.new_zeros(len(self.shown[0]))
        for basis, columns in zip(self.shown, self.columns, strict=True):
            short += basis.square() @ self.root[:, columns][:, ~kept[columns]].square().sum(dim=1)
        number = kept.cumsum(dim=0)
        fewer = WaveClasses(
            (sides[0], sides[1]),
            y[kept] * sides[1] + x[kept],
            tuple(int(number[end - 1]) for end in self.ends),
            self.shown,
            self.everywhere,
            self.root[:, kept] * scale,
        )
        return fewer, kept, short / math.prod(self.shape)


def _sorted(covariance: Covariance, variance: Tensor) -> tuple[Tensor, Tensor]:
    """The class of every wave (N,), and of each class by how much the parts' covariances between steps make up its mean, (C, J).

    k-means of covariances between steps over their traces; a wave whose ``variance`` (N,) is more than the nugget's counts more. Begun with the
    waves farthest from each other.
    """
    among = covariance.among
    traces = among.diagonal(dim1=1, dim2=2).sum(dim=1).clamp_min(1e-30)
    shapes = (among / traces[:, None, None]).flatten(1)
    alike = shapes @ shapes.T
    size = float(alike.diagonal().mean())
    shares = covariance.spectra.flatten(1).T * traces  # N x J
    shares /= variance.clamp_min(1e-12 * float(variance.max()) + 1e-30)[:, None]
    if float((alike.diagonal() + alike.diagonal()[:, None] - 2 * alike).max()) <= _ALIKE * size:
        return torch.zeros_like(variance, dtype=torch.long), shares[variance.argmax()][None] / traces
    weight = variance / (variance + covariance.nugget * len(covariance.filled))
    alike.diagonal().add_(1e-9 * size + 1e-12)
    root = torch.linalg.cholesky(alike)  # distances of shares times it are those of covariances
    where = shares @ root
    squares = where.square().sum(dim=1)
    chosen = [int(variance.argmax())]
    apart = _apart(where, squares, chosen[0]) * weight
    while len(chosen) < min(CLASSES, len(where)) and float(apart.max()) > _ALIKE * size:
        chosen.append(int(apart.argmax()))
        apart = torch.minimum(apart, _apart(where, squares, chosen[-1]) * weight)
    means = shares[chosen]
    label = _nearest(where, means @ root)
    for _ in range(_ROUNDS if len(chosen) > 1 else 0):
        member = F.one_hot(label, len(means)).to(weight.dtype) * weight[:, None]
        total = member.sum(dim=0)[:, None]
        means = torch.where(total > 0, member.T @ shares / total.clamp_min(1e-30), means)
        label = _nearest(where, means @ root)
    return label, means / traces


def _apart(where: Tensor, squares: Tensor, wave: int) -> Tensor:
    """Squared distance of each of (N, J) from one of them, (N,)."""
    return (squares + squares[wave] - 2 * where @ where[wave]).clamp_min(0)


def _nearest(where: Tensor, means: Tensor) -> Tensor:
    """Number of the nearest of (C, J) to each of (N, J)."""
    return (means.square().sum(dim=1) - 2 * where @ means.T).argmin(dim=1)
