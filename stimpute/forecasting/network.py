"""The SBATransformer (arXiv 2509.18115), one token per node, and what goes beyond it: validity instead of filled input, guesses, a scale.

Pure mathematics on a normalised :class:`~stimpute.forecasting.series.History`; knows nothing about files or graphs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from stimpute.forecasting.config import ForecastConfig
from stimpute.forecasting.guesses import Guesses, Sample
from stimpute.forecasting.series import History, target_phases
from stimpute.layers.attention import BalancedAttention, Division
from stimpute.layers.embeddings import perceptron
from stimpute.layers.positions import sinusoidal
from stimpute.layers.prediction import Prediction

STATIC = 5  # spread of the node, share observed, age of the last observation, log error of the prior, log steps per day
LEAD = 16
HEAD = 64
LONGEST = 96.0  # steps ahead that leads are told apart to
CLIP = 8.0


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a network knows about the graph: a division for every block, and positions (N, count)."""

    divisions: list[Division]
    positions: Tensor


class SBATransformer(nn.Module):
    """Blocks of Spatial Balance Attention over nodes, their parts growing from block to block.

    A node's token holds its last steps with their validity, what is known about it, where it is (Laplacian eigenvectors) and when
    it is (phases of year and day). The head reads the token once for every step to come, beside the guesses there: it reweighs
    them and adds a correction in units of the prior's error. Untrained, it says the prior.

    Parameters
    ----------
    config : the architecture.
    """

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__()
        self.config = config
        inputs = 2 * config.history + STATIC + config.positions + 4
        self.embed = perceptron(inputs, 2 * config.embed_dim, config.embed_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in config.sides)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.token = nn.Linear(config.embed_dim, HEAD)
        self.lead = nn.Linear(LEAD + 4, HEAD)
        self.guess = nn.Linear(2 * config.guesses + 2, HEAD)
        self.hidden = nn.Linear(HEAD, HEAD)
        self.out = nn.Linear(HEAD, config.guesses + 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, history: History, guesses: Guesses, around: Surroundings, sample: Sample | None = None
    ) -> Prediction:
        """Mean and scale (B, H, 1, N), normalised as ``history`` is; of the nodes of ``sample`` only where the guesses are."""
        level = guesses.prior_error[:, :, 0].mean(dim=1)
        if sample is not None:
            level = sample.everywhere(level.log()).exp()
        tokens = self.embed(self.features(history, guesses.anomalies, level, around.positions))[:, None]
        for block, division in zip(self.blocks, around.divisions, strict=True):  # tokens are B, 1, N, C
            tokens = block(tokens, division)
        heard = tokens[:, 0] if sample is None else tokens[:, 0, sample.nodes]
        return self.answer(self.norm(heard), history, guesses)

    def features(self, history: History, anomalies: Tensor, level: Tensor, positions: Tensor) -> Tensor:
        """(B, N, inputs); ``level`` (B, N) is the error of the prior."""
        length = self.config.history
        past, seen = (_last(t, length) for t in (anomalies, history.valid.float()))
        count = history.valid.sum(dim=1)
        spread = (history.values.square().sum(dim=1) / count.clamp_min(1)).sqrt()
        slots = torch.arange(history.values.shape[1], device=count.device)[:, None]
        age = history.values.shape[1] - torch.where(history.valid, slots, 0).amax(dim=1)
        known = torch.stack(
            (spread.clamp_max(CLIP), count / history.values.shape[1], age.float().log1p(), level.log()),
            dim=-1,
        )  # fmt: skip
        b, n = count.shape
        rate = history.step.log()[:, None, None].expand(b, n, 1)
        phases = target_phases(history, 1).expand(b, n, 4)
        where = positions[None].expand(b, -1, -1)
        return torch.cat(
            (past.transpose(1, 2).clamp(-CLIP, CLIP), seen.transpose(1, 2), known, rate, where, phases),
            dim=-1,
        )

    def answer(self, tokens: Tensor, history: History, guesses: Guesses) -> Prediction:
        """The head: every node at every step to come."""
        steps = guesses.prior.shape[1]
        ahead = torch.arange(1, steps + 1, device=tokens.device, dtype=torch.float32).clamp_max(LONGEST)
        leads = torch.cat(
            (sinusoidal(ahead, LEAD - 2, 4.0, 2 * LONGEST), ahead.log()[:, None], ahead[:, None] / LONGEST),
            dim=-1,
        )
        when = torch.cat((leads[None].expand(len(tokens), -1, -1), target_phases(history, steps)), dim=-1)
        estimates, log_error, log_weight = (
            t[:, :, :, 0].permute(0, 2, 3, 1)
            for t in (guesses.estimates, guesses.log_error, guesses.log_weight)
        )
        prior, error = guesses.prior[:, :, 0], guesses.prior_error[:, :, 0]
        unit, known = error[..., None], self.config.guesses
        beside = torch.cat(
            (((estimates - prior[..., None]) / unit)[..., :known].clamp(-CLIP, CLIP), log_error[..., :known] - error.log()[..., None],
             prior[..., None].clamp(-CLIP, CLIP), error.log()[..., None]), dim=-1,
        )  # fmt: skip
        hidden = F.gelu(self.token(tokens)[:, None] + self.lead(when)[:, :, None] + self.guess(beside))
        out = self.out(F.gelu(self.hidden(hidden)) + hidden)
        turned = F.pad(out[..., :known], (0, estimates.shape[-1] - known))
        weight = (log_weight + turned).softmax(dim=-1)
        mean = (weight * estimates).sum(dim=-1) + out[..., -2] * error
        scale = 1.25 * error * torch.exp(out[..., -1].clamp(-4, 4))
        return Prediction(mean[:, :, None], scale[:, :, None])


class Block(nn.Module):
    """Spatial Balance Attention and an MLP, each with a norm before and a residual round it."""

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__()
        self.before = nn.LayerNorm(config.embed_dim)
        self.attention = BalancedAttention(config.embed_dim, config.num_heads, nearness=True)
        self.between = nn.LayerNorm(config.embed_dim)
        self.mlp = perceptron(config.embed_dim, round(config.mlp_ratio * config.embed_dim), config.embed_dim)

    def forward(self, tokens: Tensor, division: Division) -> Tensor:
        """(B, 1, N, C) -> the same; rows and columns of a raster are found in ``division``."""
        b, _, n, c = tokens.shape
        shape = division.shape if division.shape is not None else (1, n)
        mixed = self.attention(self.before(tokens).view(b, 1, *shape, c), division=division)
        tokens = tokens + mixed.reshape(b, 1, n, c)
        result: Tensor = tokens + self.mlp(self.between(tokens))
        return result


def _last(steps: Tensor, length: int) -> Tensor:
    """The last ``length`` of (B, C, N), zeros before the first."""
    return F.pad(steps[:, -length:], (0, 0, max(length - steps.shape[1], 0), 0))
