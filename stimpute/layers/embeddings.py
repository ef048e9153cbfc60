"""From numbers per cell to tokens: masked and generic perceptrons, patches. Knows nothing about attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear - GELU - linear over the last axis."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


class MaskedMLP(nn.Module):
    """``MLP(value)`` where observed, a learned token where not (arXiv 2312.00963, masked MLP + mask token)."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.mlp = perceptron(inputs, dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """``values`` (..., inputs), ``valid`` (...) bool -> (..., dim). What stands in a gap is never read."""
        seen = torch.where(valid[..., None], values, values.new_zeros(()))
        return torch.where(valid[..., None], self.mlp(seen), self.mask_token.to(seen.dtype))


class JointCovariates(nn.Module):
    """The paper's generic MLP: a fixed list of covariates and their validity flags, together."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.mlp = perceptron(2 * count, dim, dim)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """``values``, ``valid`` (..., count) -> (..., dim)."""
        result: Tensor = self.mlp(torch.cat((values, valid.to(values.dtype)), dim=-1))
        return result


class SetCovariates(nn.Module):
    """Any number of covariates, in any order: one shared MLP over (value, validity, relation to the target), averaged."""

    def __init__(self, relations: int, dim: int) -> None:
        super().__init__()
        self.mlp = perceptron(2 + relations, dim, dim)

    def forward(self, values: Tensor, valid: Tensor, relations: Tensor) -> Tensor:
        """``values``, ``valid`` (B, ..., count); ``relations`` (B, count, relations) -> (B, ..., dim)."""
        b, count, kinds = relations.shape
        shape = (b, *([1] * (values.ndim - 2)), count, kinds)
        joined = torch.cat(
            (
                values[..., None],
                valid.to(values.dtype)[..., None],
                relations.view(shape).expand(*values.shape, kinds),
            ),
            dim=-1,
        )
        result: Tensor = self.mlp(joined).mean(dim=-2)
        return result


class PatchEmbedding(nn.Module):
    """Cells (B, T, H, W, D) to tokens (B, T, H/p, W/p, C); H and W are padded by repeating the edge."""

    def __init__(self, cell_dim: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Identity() if patch_size == 1 else nn.Linear(cell_dim * patch_size**2, embed_dim)
        if patch_size == 1 and cell_dim != embed_dim:
            self.project = nn.Linear(cell_dim, embed_dim)

    def forward(self, cells: Tensor) -> Tensor:
        """(B, T, H, W, D) -> (B, T, ceil(H/p), ceil(W/p), C)."""
        tokens: Tensor = self.project(to_patches(cells, self.patch_size))
        return tokens


def to_patches(cells: Tensor, patch_size: int) -> Tensor:
    """(B, T, H, W, D) -> (B, T, ceil(H/p), ceil(W/p), p*p*D), edge cells repeated where the last patch is cut."""
    p = patch_size
    if p == 1:
        return cells
    h, w = cells.shape[2:4]
    rows = torch.arange(-(-h // p) * p, device=cells.device).clamp_max(h - 1)
    cols = torch.arange(-(-w // p) * p, device=cells.device).clamp_max(w - 1)
    if len(rows) != h or len(cols) != w:
        cells = cells[:, :, rows][:, :, :, cols]
    b, t, h, w, d = cells.shape
    return (
        cells.view(b, t, h // p, p, w // p, p, d)
        .permute(0, 1, 2, 4, 3, 5, 6)
        .reshape(b, t, h // p, w // p, p * p * d)
    )


def from_patches(tokens: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """(B, T, H/p, W/p, p*p*D) -> (B, T, height, width, D): the inverse of :func:`to_patches`, cut to size."""
    p = patch_size
    if p == 1:
        return tokens
    b, t, h, w, d = tokens.shape
    cells = tokens.view(b, t, h, w, p, p, d // (p * p)).permute(0, 1, 2, 4, 3, 5, 6)
    return cells.reshape(b, t, h * p, w * p, d // (p * p))[:, :, :height, :width]
