"""The ST-Transformer (arXiv 2312.00963) and what goes beyond it: candidates, pooled windows, patches, a scale.

Pure mathematics on a :class:`~stimpute.model.batch.Batch` in normalised units; knows nothing about files or devices.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from stimpute.layers.attention import (
    BalancedAttention,
    SpatialAttention,
    TemporalAttention,
    WindowAttention,
    in_parts,
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
from stimpute.layers.prediction import Prediction
from stimpute.model.batch import Batch
from stimpute.model.candidates import CLIP, FEATURES, PRIOR_POWER, Candidates
from stimpute.model.config import ModelConfig

RELATIONS = 2  # what a covariate is described by: its correlation with the target, overall and within frames
HEAD_DIM = 32
PART_CELLS = 65536


class STTransformer(nn.Module):
    """A masked encoder of space-time stacks.

    ``h = MLP(y) * valid + mask_token * gap + MLP(covariates) + MLP(candidates) + time + space``, then ``depth`` layers of temporal
    attention, spatial attention and an MLP (each with a residual and LayerNorm), whose outputs are joined for the head.

    Networks that blend candidates hear of covariates through these alone, unless the config names the covariates.

    Parameters
    ----------
    config : the architecture.
    """

    outgrown = ("covariates.",)  # weights that models from before may hold and these do not need

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        blend = config.head == "blend"
        self.value = MaskedMLP(1 if not blend else 2, config.cell_dim)
        self.covariates: nn.Module | None = None  # of networks that blend, candidates speak for covariates
        if config.covariates:
            self.covariates = JointCovariates(len(config.covariates), config.cell_dim)
        elif not blend:
            self.covariates = SetCovariates(RELATIONS, config.cell_dim)
        self.guess = perceptron(cell_features(config), config.cell_dim, config.cell_dim) if blend else None
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
        ValueError : no candidates for a blending head, or other ones; a learned spatial embedding for another grid.
        """
        if self.config.head == "blend" and (candidates is None or candidates.names != self.config.candidates):
            given = "none" if candidates is None else ", ".join(candidates.names)
            raise ValueError(f"this network blends {', '.join(self.config.candidates)} and was given {given}")
        used = candidates if self.config.head == "blend" else None
        hears = self.covariates is not None and count_covariates(batch) > 0
        bond = relations(batch) if hears and not self.config.covariates else None
        parts = steps_in_parts(batch)
        cells = [self.patches(self.embed_cells(batch, used, bond, part)) for part in parts]
        tokens = torch.cat(cells, dim=1) + self.positions(batch)
        steps = batch.times / median_step(batch.times) if self.config.rotary_time else None
        outputs = []
        for layer in self.layers:
            tokens = layer(tokens, steps)
            outputs.append(tokens)
        if not self.config.join_layers:
            outputs = outputs[-1:]
        answers = [
            self.answer([output[:, part] for output in outputs], used, part, batch.shape[2:])
            for part in parts
        ]
        return Prediction(torch.cat([a.mean for a in answers], 1), torch.cat([a.scale for a in answers], 1))

    def embed_cells(
        self, batch: Batch, candidates: Candidates | None, bond: Tensor | None, part: slice
    ) -> Tensor:
        """The sum of all embeddings of single cells at the steps of ``part``, (B, t, H, W, cell_dim)."""
        seen, valid = batch.values[:, part], batch.valid[:, part]
        value = seen[..., None]
        if candidates is not None:
            surprise = torch.asinh(
                (seen - candidates.prior[:, part]) / candidates.prior_error[:, part]
            ).clamp(-CLIP, CLIP)
            value = torch.stack((torch.asinh(seen), surprise), dim=-1)
        cells: Tensor = self.value(value, valid)
        if self.guess is not None and candidates is not None:
            cells = cells + self.guess(describe_cells(candidates, part))
        if self.covariates is not None and count_covariates(batch):
            cells = cells + embed_covariates(self.covariates, batch, bond, part)
        if self.place is not None:
            if self.place.shape[:2] != batch.shape[2:]:
                raise ValueError(
                    f"the learned spatial embedding is for {tuple(self.place.shape[:2])}, not {batch.shape[2:]}"
                )
            cells = cells + self.place
        return cells

    def answer(
        self, outputs: list[Tensor], candidates: Candidates | None, part: slice, size: tuple[int, int]
    ) -> Prediction:
        """Mean and scale at the steps of ``part`` from the layers' outputs there."""
        cells = from_patches(self.spread(torch.cat(outputs, dim=-1)), self.config.patch_size, *size)
        return self.head(cells, candidates, part)  # type: ignore[no-any-return]

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
        return in_parts(lambda part: part + self.mlp(self.mlp_norm(part)), tokens, dim=1)


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
                nn.Linear(HEAD_DIM + cell_features(config), 64),
                nn.Linear(64, len(config.candidates) + 2),
            )
            self.power = nn.Parameter(torch.tensor(PRIOR_POWER))
        else:
            self.first, self.last = nn.Linear(HEAD_DIM, 64), nn.Linear(64, 2)

    def forward(self, cells: Tensor, candidates: Candidates | None, part: slice) -> Prediction:
        """``cells`` (B, t, H, W, HEAD_DIM) at the steps of ``part`` -> mean and scale there."""
        if not self.blends or candidates is None:
            mean, log_scale = self.last(F.gelu(self.first(F.gelu(cells)))).float().unbind(dim=-1)
            return Prediction(mean, F.softplus(log_scale) + 1e-3)
        joined = torch.cat((F.gelu(cells), describe_cells(candidates, part).to(cells.dtype)), dim=-1)
        answer = self.last(F.gelu(self.first(joined))).float()
        unit = candidates.prior_error[:, part]
        logits = answer[..., :-2] - self.power * candidates.log_error[:, :, part].movedim(1, -1)
        blended = (logits.softmax(dim=-1) * candidates.estimates[:, :, part].movedim(1, -1)).sum(dim=-1)
        mean = blended + answer[..., -2] * unit
        # a mean absolute error is 0.8 of a normal's standard deviation
        scale = unit * 1.25 * F.softplus(answer[..., -1] + 0.5413) + 1e-4
        return Prediction(mean, scale)


def cell_features(config: ModelConfig) -> int:
    """How many numbers :func:`describe_cells` gives per cell."""
    return 2 * len(config.candidates) + len(FEATURES)


def describe_cells(candidates: Candidates, part: slice) -> Tensor:
    """Candidates relative to their prior, in units of its error, with their own errors, at the steps of ``part``.

    (B, t, H, W, features), bounded.
    """
    unit = candidates.prior_error[:, None, part]
    offset = torch.asinh((candidates.estimates[:, :, part] - candidates.prior[:, None, part]) / unit)
    error = candidates.log_error[:, :, part] - unit.log()
    joined = torch.cat((offset, error, candidates.features[:, :, part]), dim=1).clamp(-CLIP, CLIP)
    return joined.movedim(1, -1)


@torch.no_grad()
def with_candidates(network: STTransformer, names: tuple[str, ...]) -> STTransformer:
    """A blending network for other candidates: what it knows of those it has it keeps, new ones count like the mean of these.

    >>> from stimpute.model.config import FIRST_CANDIDATES
    >>> from stimpute.model.candidates import CANDIDATES
    >>> few = STTransformer(ModelConfig(embed_dim=16, depth=1, num_heads=1, candidates=FIRST_CANDIDATES))
    >>> with_candidates(few, CANDIDATES).head.last.weight.shape[0] - few.head.last.weight.shape[0]
    2
    """
    known = network.config.candidates
    if network.config.head != "blend" or known == names:
        return network
    wider = STTransformer(replace(network.config, candidates=names)).to(next(network.parameters()).device)
    old, shared = network.state_dict(), [(names.index(n), known.index(n)) for n in names if n in known]
    for name, tensor in wider.state_dict().items():
        if tensor.shape == old[name].shape:
            tensor.copy_(old[name])
        elif tensor.shape[0] == len(names) + 2:
            tensor[:-2], tensor[-2:] = old[name][:-2].mean(dim=0), old[name][-2:]
            for new, before in shared:
                tensor[new] = old[name][before]
        else:  # columns: what comes before, offsets, errors, features
            lead = tensor.shape[1] - 2 * len(names) - len(FEATURES)
            tensor.zero_()
            tensor[:, :lead], tensor[:, -len(FEATURES) :] = (
                old[name][:, :lead],
                old[name][:, -len(FEATURES) :],
            )
            for new, before in shared:
                tensor[:, lead + new] = old[name][:, lead + before]
                tensor[:, lead + len(names) + new] = old[name][:, lead + len(known) + before]
    return wider


def sharpened(network: STTransformer) -> STTransformer:
    """The network itself, whose blend now follows the candidates' errors no less sharply than the prior does.

    >>> dull = STTransformer(ModelConfig(embed_dim=16, depth=1, num_heads=1))
    >>> _ = dull.head.power.data.fill_(6.0)
    >>> sharpened(dull).head.power.item() == PRIOR_POWER
    True
    """
    if network.config.head == "blend":
        network.head.power.data.clamp_(min=PRIOR_POWER)
    return network


def steps_in_parts(batch: Batch) -> list[slice]:
    """Slices of time: all of it with gradients, else ``PART_CELLS`` cells at a time (less memory, the same answer)."""
    t = batch.shape[1]
    size = t if torch.is_grad_enabled() else max(1, PART_CELLS * t // max(batch.values.numel(), 1))
    return [slice(start, min(start + size, t)) for start in range(0, t, size)]


def count_covariates(batch: Batch) -> int:
    """Dynamic and static together."""
    return batch.dynamic.shape[1] + batch.static.shape[1]


def all_covariates(batch: Batch, part: slice) -> tuple[Tensor, Tensor]:
    """Dynamic, then static covariates and their validity at the steps of ``part``, each (B, C + S, t, H, W)."""
    steps = batch.times[:, part].shape[1]
    static, static_valid = (
        x[:, :, None].expand(-1, -1, steps, -1, -1) for x in (batch.static, batch.static_valid)
    )
    return torch.cat((batch.dynamic[:, :, part], static), 1), torch.cat(
        (batch.dynamic_valid[:, :, part], static_valid), 1
    )


def embed_covariates(embedding: nn.Module, batch: Batch, bond: Tensor | None, part: slice) -> Tensor:
    """Covariates and their validity at the steps of ``part`` as (B, t, H, W, cell_dim); ``bond`` as of :func:`relations`."""
    values, valid = (x.movedim(1, -1) for x in all_covariates(batch, part))
    further = () if bond is None else (bond,)
    return embedding(torch.asinh(values), valid, *further)  # type: ignore[no-any-return]


def relations(batch: Batch) -> Tensor:
    """Correlation of each covariate with the observed target (B, C, 2): overall, and of deviations from the frame's mean."""
    x, known = all_covariates(batch, slice(None))
    weight = (known & batch.valid[:, None]).float()
    y = batch.values[:, None].expand_as(x)
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
    """All initialisation: small normal weights, zero biases; a blending head starts as the prior. None of shapes without memory."""
    if (
        network.value.mask_token.is_meta
    ):  # drawing normal numbers there loads torch's compiler: seconds of every start
        return
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    nn.init.normal_(network.value.mask_token, std=0.02)
    if network.place is not None:
        nn.init.normal_(network.place, std=0.02)
    if network.config.head == "blend":
        nn.init.normal_(network.head.last.weight, std=1e-3)
