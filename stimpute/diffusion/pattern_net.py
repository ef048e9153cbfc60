"""T-PatternNet: what repeats in the completed coarse series, as features (arXiv 2410.05323 after TimesNet, 2210.02186)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from stimpute.diffusion.config import DiffReconConfig


class PatternNet(nn.Module):
    """FFT finds the top periods; each series folds into (cycles x period); multi-scale kernels; weights by amplitude.

    Steps are taken as evenly spaced: a period is a number of steps.
    """

    def __init__(self, config: DiffReconConfig) -> None:
        super().__init__()
        dim = config.pattern_dim
        self.periods = config.periods
        self.embed = nn.Linear(1, dim)
        self.scales = nn.ModuleList(nn.Conv2d(dim, dim, k, padding=k // 2) for k in config.kernels)
        self.out = nn.Linear(dim, dim)

    def forward(self, series: Tensor) -> Tensor:
        """(B, T, H, W) -> (B, T, H, W, pattern_dim)."""
        b, t = series.shape[:2]
        tokens = self.embed(series[..., None])
        if t < 4:
            result: Tensor = self.out(tokens)
            return result
        periods, amplitudes = top_periods(series, self.periods)
        mixed = torch.stack([self._one(tokens[i], periods[i], amplitudes[i]) for i in range(b)])
        patterned: Tensor = self.out(tokens + mixed)
        return patterned

    def _one(self, tokens: Tensor, periods: list[int], amplitudes: Tensor) -> Tensor:
        """One stack (T, H, W, C)."""
        t, h, w, c = tokens.shape
        rows = tokens.permute(1, 2, 3, 0).reshape(h * w, c, t)
        total = torch.zeros_like(rows)
        for period, share in zip(periods, amplitudes.softmax(dim=0), strict=True):
            cycles = -(-t // period)
            folded = F.pad(rows, (0, cycles * period - t)).view(h * w, c, cycles, period)
            seen = torch.stack([scale(folded) for scale in self.scales]).mean(dim=0)
            total = total + share * F.gelu(seen).reshape(h * w, c, -1)[..., :t]
        return total.view(h, w, c, t).permute(3, 0, 1, 2)


def top_periods(series: Tensor, count: int) -> tuple[list[list[int]], Tensor]:
    """The strongest periods in steps of each stack (B, T, H, W), and their amplitudes (B, count), means over the cells.

    >>> wave = torch.sin(torch.arange(32) * (2 * torch.pi / 8)).view(1, 32, 1, 1)
    >>> top_periods(wave, 1)[0]
    [[8]]
    """
    t = series.shape[1]
    amplitude = torch.fft.rfft(series, dim=1).abs().mean(dim=(2, 3)) / t
    amplitude = amplitude[:, 1:]  # the mean is no period
    strongest, index = amplitude.topk(min(count, amplitude.shape[1]), dim=1)
    return [[max(1, round(t / (k + 1))) for k in row] for row in index.tolist()], strongest
