"""The ST-Transformer (arXiv 2312.00963) and what goes beyond it: candidates, pooled windows, patches, a scale.

Pure mathematics on a :class:`~stimpute.model.batch.Batch` in normalised units; knows nothing about files or devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from stimpute.layers.attention import (
    BalancedAttention,
    MultiHeadAttention,
    SpatialAttention,
    TemporalAttention,
    WindowAttention,
)
from stimpute.layers.embeddings import (
    JointCovariates,
    MaskedMLP,
    PatchEmbedding,
    SetCovariates,
    from_patches,
    perceptron,
)
from stimpute.layers.positions import median_step, space_encoding, time_encoding
from stimpute.model.batch import Batch
from stimpute.model.candidates import CANDIDATES, CLIP, FEATURES, PRIOR_POWER, Candidates
from stimpute.model.config import ModelConfig

RELATIONS = 2  # what a covariate is described by: its correlation with the target, overall and within frames
HEAD_DIM = 32


@dataclass(frozen=True, eq=False)
class Prediction:
    """Mean and scale (one standard error, > 0) of every cell, each (B, T, H, W), in normalised units."""

    mean: Tensor
    scale: Tensor


class STTransformer(nn.Module):
    """A masked encoder of space-time stacks.

    ``h = MLP(y) * valid + mask_token * gap + MLP(covariates) + MLP(candidates) + time + space``, then ``depth`` layers of temporal
    attention, spatial attention and an MLP (each with a residual and LayerNorm), whose outputs are joined for the head.

    Parameters
    ----------
    config : the architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        blend = config.head == "blend"
        self.value = MaskedMLP(1 if not blend else 2, config.cell_dim)
        self.covariates: nn.Module
        if config.covariates:
            self.covariates = JointCovariates(len(config.covariates), config.cell_dim)
        else:
            self.covariates = SetCovariates(RELATIONS, config.cell_dim)
        self.guess = perceptron(cell_features(), config.cell_dim, config.cell_dim) if blend else None
        self.patches = PatchEmbedding(config.cell_dim, config.embed_dim, config.patch_size)
        self.time = nn.Linear(config.embed_dim, config.embed_dim)
        self.space = nn.Linear(config.embed_dim, config.embed_dim)
        self.place = None
        if config.spatial_embedding is not None:
            ny, nx = config.spatial_embedding
            self.place = nn.Parameter(torch.zeros(ny, nx, config.cell_dim))
        self.layers = nn.ModuleList(EncoderLayer(config, i) for i in range(config.depth))
        joined = config.embed_dim * (config.depth if config.join_layers else 1)
        self.spread = nn.Linear(joined, HEAD_DIM * config.patch_size**2)
        self.head = Head(config)
        initialise(self)

    def forward(self, batch: Batch, candidates: Candidates | None = None) -> Prediction:
        """Mean and scale of every cell.

        Parameters
        ----------
        batch : in normalised units.
        candidates : of the same batch (:func:`~stimpute.model.candidates.compute_candidates`); needed where the head blends.

        Raises
        ------
        ValueError : no candidates for a blending head, or a learned spatial embedding for another grid.
        """
        if self.config.head == "blend" and candidates is None:
            raise ValueError("this network blends candidates and was given none")
        features = None if candidates is None or self.guess is None else describe_cells(candidates)
        tokens = self.patches(self.embed_cells(batch, candidates, features)) + self.positions(batch)
        steps = batch.times / median_step(batch.times) if self.config.rotary_time else None
        outputs = []
        for layer in self.layers:
            tokens = layer(tokens, steps)
            outputs.append(tokens)
        joined = torch.cat(outputs, dim=-1) if self.config.join_layers else outputs[-1]
        cells = from_patches(self.spread(joined), self.config.patch_size, *batch.shape[2:])
        return self.head(cells, features, candidates)  # type: ignore[no-any-return]

    def embed_cells(self, batch: Batch, candidates: Candidates | None, features: Tensor | None) -> Tensor:
        """The sum of all embeddings of single cells, (B, T, H, W, cell_dim)."""
        value = torch.asinh(batch.values)[..., None] if candidates is not None else batch.values[..., None]
        if candidates is not None and self.guess is not None:
            surprise = torch.asinh((batch.values - candidates.prior) / candidates.prior_error).clamp(
                -CLIP, CLIP
            )
            value = torch.cat((value, surprise[..., None]), dim=-1)
        cells: Tensor = self.value(value, batch.valid)
        if self.guess is not None and features is not None:
            cells = cells + self.guess(features)
        known = self.embed_covariates(batch)
        if known is not None:
            cells = cells + known
        if self.place is not None:
            if self.place.shape[:2] != batch.shape[2:]:
                raise ValueError(
                    f"the learned spatial embedding is for {tuple(self.place.shape[:2])}, not {batch.shape[2:]}"
                )
            cells = cells + self.place
        return cells

    def embed_covariates(self, batch: Batch) -> Tensor | None:
        """Covariates and their validity as (B, T, H, W, cell_dim); None where there are none."""
        t = batch.shape[1]
        static, static_valid = (
            x[:, :, None].expand(-1, -1, t, -1, -1) for x in (batch.static, batch.static_valid)
        )
        values = torch.cat((batch.dynamic, static), dim=1)
        valid = torch.cat((batch.dynamic_valid, static_valid), dim=1)
        if values.shape[1] == 0:
            return None
        last = torch.asinh(values).movedim(1, -1), valid.movedim(1, -1)
        if self.config.covariates:
            return self.covariates(*last)  # type: ignore[no-any-return]
        return self.covariates(*last, relations(batch.values, batch.valid, values, valid))  # type: ignore[no-any-return]

    def positions(self, batch: Batch) -> Tensor:
        """Time plus space encoding of the tokens, broadcastable to (B, T, h, w, embed_dim)."""
        dim, p = self.config.embed_dim, self.config.patch_size
        _, _, height, width = batch.shape
        time = self.time(time_encoding(batch.times, batch.year_phase, batch.day_phase, dim))
        space = self.space(space_encoding(-(-height // p), -(-width // p), dim, batch.values.device))
        return time[:, :, None, None] + space[None, None]  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Temporal attention, spatial attention, MLP; pre-norm residuals."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        dim, heads, window, shift = config.embed_dim, config.num_heads, config.window_size, config.shift_size
        self.temporal = TemporalAttention(dim, heads) if config.use_time else None
        self.spatial = nn.ModuleList()
        if config.use_space and config.attention == "msa":
            self.spatial.append(SpatialAttention(dim, heads))
        elif config.use_space and config.attention == "swmsa":
            self.spatial.extend(
                (WindowAttention(dim, heads, window, 0), WindowAttention(dim, heads, window, shift))
            )
        elif config.use_space:
            self.spatial.append(BalancedAttention(dim, heads, window, shift if number % 2 else 0))
        self.mlp = perceptron(dim, int(dim * config.mlp_ratio), dim)
        self.time_norm = nn.LayerNorm(dim) if config.use_time else None
        self.space_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.spatial)
        self.mlp_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, steps: Tensor | None) -> Tensor:
        """(B, T, H, W, C) -> the same shape; ``steps`` (B, T) are real times in median steps, or None."""
        if self.temporal is not None and self.time_norm is not None:
            tokens = tokens + self.temporal(self.time_norm(tokens), steps)
        for norm, spatial in zip(self.space_norms, self.spatial, strict=True):
            normed = norm(tokens)
            tokens = tokens + (
                spatial(normed, steps) if isinstance(spatial, BalancedAttention) else spatial(normed)
            )
        return tokens + self.mlp(self.mlp_norm(tokens))  # type: ignore[no-any-return]


class Head(nn.Module):
    """From what the encoder knows of a cell to its mean and scale.

    ``blend``: new weights for the candidates (the prior's weights plus logits), plus a correction in units of the prior's error;
    untrained it is next to the prior itself. ``direct``: the value and its log scale.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.blends = config.head == "blend"
        if self.blends:
            self.first, self.last = (
                nn.Linear(HEAD_DIM + cell_features(), 64),
                nn.Linear(64, len(CANDIDATES) + 2),
            )
            self.power = nn.Parameter(torch.tensor(PRIOR_POWER))
        else:
            self.first, self.last = nn.Linear(HEAD_DIM, 64), nn.Linear(64, 2)

    def forward(self, cells: Tensor, features: Tensor | None, candidates: Candidates | None) -> Prediction:
        """``cells`` (B, T, H, W, HEAD_DIM) -> mean and scale."""
        if not self.blends or candidates is None or features is None:
            mean, log_scale = self.last(F.gelu(self.first(F.gelu(cells)))).float().unbind(dim=-1)
            return Prediction(mean, F.softplus(log_scale) + 1e-3)
        joined = torch.cat((F.gelu(cells), features.to(cells.dtype)), dim=-1)
        answer = self.last(F.gelu(self.first(joined))).float()
        logits = answer[..., :-2] - self.power * candidates.log_error.movedim(1, -1)
        blended = (logits.softmax(dim=-1) * candidates.estimates.movedim(1, -1)).sum(dim=-1)
        mean = blended + answer[..., -2] * candidates.prior_error
        # a mean absolute error is 0.8 of a normal's standard deviation
        scale = candidates.prior_error * 1.25 * F.softplus(answer[..., -1] + 0.5413) + 1e-4
        return Prediction(mean, scale)


def cell_features() -> int:
    """How many numbers :func:`describe_cells` gives per cell."""
    return 2 * len(CANDIDATES) + len(FEATURES)


def describe_cells(candidates: Candidates) -> Tensor:
    """Candidates relative to their prior, in units of its error, with their own errors: (B, T, H, W, features), bounded."""
    unit = candidates.prior_error[:, None]
    offset = torch.asinh((candidates.estimates - candidates.prior[:, None]) / unit)
    error = candidates.log_error - unit.log()
    joined = torch.cat((offset, error, candidates.features), dim=1).clamp(-CLIP, CLIP)
    return joined.movedim(1, -1)


def relations(target: Tensor, valid: Tensor, covariates: Tensor, known: Tensor) -> Tensor:
    """Correlation of each covariate with the observed target (B, C, 2): overall, and of deviations from the frame's mean."""
    both = known & valid[:, None]
    weight = both.float()
    y, x = target[:, None].expand_as(covariates), covariates
    overall = _correlation(x, y, weight, dims=(2, 3, 4))
    count = weight.sum(dim=(3, 4), keepdim=True).clamp_min(1)
    x_anomaly = x - (x * weight).sum(dim=(3, 4), keepdim=True) / count
    y_anomaly = y - (y * weight).sum(dim=(3, 4), keepdim=True) / count
    within = _correlation(x_anomaly, y_anomaly, weight, dims=(2, 3, 4))
    return torch.stack((overall, within), dim=-1)


def _correlation(x: Tensor, y: Tensor, weight: Tensor, dims: tuple[int, ...]) -> Tensor:
    count = weight.sum(dim=dims, keepdim=True).clamp_min(1)
    dx = (x - (x * weight).sum(dim=dims, keepdim=True) / count) * weight
    dy = (y - (y * weight).sum(dim=dims, keepdim=True) / count) * weight
    spread = (dx.square().sum(dim=dims) * dy.square().sum(dim=dims)).sqrt()
    return (dx * dy).sum(dim=dims) / spread.clamp_min(1e-6)


def initialise(network: STTransformer) -> None:
    """All initialisation: small normal weights, zero biases; a blending head starts as the prior."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    nn.init.normal_(network.value.mask_token, std=0.02)
    if network.place is not None:
        nn.init.normal_(network.place, std=0.02)
    if network.config.head == "blend":
        nn.init.normal_(network.head.last.weight, std=1e-3)


def use_fused_attention(network: nn.Module, fused: bool) -> None:
    """Choose torch's fused attention or the plain reference, everywhere in ``network``."""
    for module in network.modules():
        if isinstance(module, MultiHeadAttention):
            module.fused = fused
