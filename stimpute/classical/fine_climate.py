"""What a fine archive of the same place says about a coarse stack: its cycle, and the patterns in which it departs from it.

Per fine cell a mean with the cycles of the day and of the year that the archive covers, by ridge regression; beside it the leading
patterns of the departures, of which each frame of the coarse stack shows how much it holds (optimal interpolation with the archive's own
covariance). How many patterns, and how far a coarse cell is to be trusted, is judged on the last part of the archive. Gaps count as no departure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stimpute.classical.convolution import normalized
from stimpute.classical.refinement import block_mean, refined

RANKS = (0, 4, 8, 16, 32)
DOUBTS = (1.0, 4.0, 16.0)  # times the variance of what the patterns miss
JUDGED = 0.25  # of the archive's steps
LEAST_STEPS, LEAST_FOR_PATTERNS = 4, 24
_RIDGE = 2.0  # observations that no cycle counts for
_FAR = 8.0  # cells, from which a cell without archive takes its mean


@dataclass(frozen=True, eq=False)
class FineClimate:
    """A background for coarse stacks of the same place.

    Parameters
    ----------
    cycle : (P, H, W), coefficients of :func:`_regressors`.
    harmonics : of the day and of the year that ``cycle`` has.
    patterns : (K, H, W), of unit spread of their scores; K may be 0.
    doubt : variance of what a coarse cell holds beyond the patterns.
    factor : fine cells per coarse cell and axis.
    """

    cycle: Tensor
    harmonics: tuple[int, int]
    patterns: Tensor
    doubt: float
    factor: int

    @classmethod
    def fit(
        cls,
        values: Tensor,
        valid: Tensor,
        year_phase: Tensor,
        day_phase: Tensor,
        times: Tensor,
        factor: int,
    ) -> FineClimate:
        """From an archive (T, H, W), 0 where not ``valid``; times in days, (T,) like the phases.

        Raises
        ------
        ValueError : fewer than ``LEAST_STEPS`` steps, or nothing observed.
        """
        if len(values) < LEAST_STEPS or not bool(valid.any()):
            raise ValueError(f"{len(values)} steps, {int(valid.sum())} of their cells observed")
        harmonics = _harmonics(times, year_phase, day_phase)
        known = _reliable(
            _cycle(values, valid, _regressors(year_phase, day_phase, harmonics)), values, valid, factor
        )
        departures = _departures(values, valid, known, _regressors(year_phase, day_phase, harmonics))
        bare = cls(known, harmonics, values.new_zeros(0, *values.shape[1:]), 1.0, factor)
        if len(values) < LEAST_FOR_PATTERNS:
            return bare
        return bare._with_patterns(departures)

    def _with_patterns(self, departures: Tensor) -> FineClimate:
        """As many patterns as tell most about the last part of the archive, half of whose blocks are hidden."""
        cut = len(departures) - max(round(JUDGED * len(departures)), 4)
        earlier, later = _leading(departures[:cut], max(RANKS)), departures[cut:]
        coarse = block_mean(later, self.factor)
        shown = torch.rand(coarse.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        best: tuple[float, int, float] = (float(later.abs().mean()), 0, 1.0)
        for rank in RANKS:
            if not 0 < rank <= len(earlier):
                continue
            patterns = earlier[:rank]
            means = block_mean(patterns, self.factor)
            for doubt in DOUBTS:
                missed = _missed(coarse, shown, means, doubt)
                said = torch.einsum("tk,khw->thw", _scores(coarse, shown, means, missed), patterns)
                error = float((later - said).abs().mean())
                if error < best[0]:
                    best = error, rank, missed
        _, rank, missed = best
        patterns = _leading(departures, rank)
        return FineClimate(self.cycle, self.harmonics, patterns, missed, self.factor)

    def background(self, coarse: Tensor, valid: Tensor, year_phase: Tensor, day_phase: Tensor) -> Tensor:
        """(T, H * factor, W * factor) for a coarse stack (T, H, W), 0 where not ``valid``."""
        regressors = _regressors(year_phase, day_phase, self.harmonics)
        expected = torch.einsum("tp,phw->thw", regressors, self.cycle)
        if not len(self.patterns):
            return expected
        apart = torch.where(valid, coarse - block_mean(expected, self.factor), 0.0)
        level = (apart.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp_min(1))[:, None, None]
        means = block_mean(self.patterns, self.factor)
        # a level that the archive never had is not for the patterns to explain
        scores = _scores(apart, valid, means, self.doubt)
        beyond = _scores(torch.where(valid, apart - level, 0.0), valid, means, self.doubt)
        scores = torch.where(scores.abs().amax(dim=1, keepdim=True) > 4, beyond, scores)
        return expected + torch.einsum("tk,khw->thw", scores, self.patterns)


def _harmonics(times: Tensor, year_phase: Tensor, day_phase: Tensor) -> tuple[int, int]:
    """How many harmonics of the day and of the year an archive can tell: cycles that it covers, at phases enough."""
    span = float(times[-1] - times[0]) if len(times) > 1 else 0.0
    phases = [len(torch.unique(torch.round(p * n))) for p, n in ((day_phase, 24), (year_phase, 12))]
    return tuple(
        min(2, (count - 1) // 2) if span >= length else 0
        for count, length in zip(phases, (2.0, 330.0), strict=True)
    )  # type: ignore[return-value]


def _regressors(year_phase: Tensor, day_phase: Tensor, harmonics: tuple[int, int]) -> Tensor:
    """(T, 1 + 2 * harmonics): one, then sines and cosines."""
    parts = [torch.ones_like(year_phase)]
    for phase, count in zip((day_phase, year_phase), harmonics, strict=True):
        for number in range(1, count + 1):
            angle = 2 * math.pi * number * phase
            parts += [angle.sin(), angle.cos()]
    return torch.stack(parts, dim=1).float()


def _cycle(values: Tensor, valid: Tensor, regressors: Tensor) -> Tensor:
    """(P, H, W); where a cell was never observed, the mean of those around."""
    t, h, w = values.shape
    weight = valid.to(values.dtype)
    count = weight.sum(dim=0)
    mean = values.sum(dim=0) / count.clamp_min(1)
    smooth, _ = normalized(mean[None, None], (count > 0)[None, None], _FAR, torch.inf)
    mean = torch.where(count > 0, mean, smooth[0, 0])
    flat, seen = (x.reshape(t, h * w) for x in ((values - mean) * weight, weight))
    gram = torch.einsum("tp,tq,tn->npq", regressors, regressors, seen)
    ridge = torch.full((regressors.shape[1],), _RIDGE)
    ridge[0] = 1e-3
    found = torch.linalg.solve(gram + torch.diag(ridge), (regressors.T @ flat).T[..., None])[..., 0]
    found = found.T.reshape(-1, h, w)
    found[0] += mean
    cycle: Tensor = found
    return cycle


def _reliable(cycle: Tensor, values: Tensor, valid: Tensor, factor: int) -> Tensor:
    """The cycle with what is inside the blocks scaled by how well both halves of the archive agree on it."""
    half = len(values) // 2
    inside = []
    for part in (slice(0, half), slice(half, None)):
        count = valid[part].sum(dim=0)
        mean = torch.where(count > 0, values[part].sum(dim=0) / count.clamp_min(1), cycle[0])
        inside.append((mean - refined(block_mean(mean, factor), factor)).flatten())
    shared = float((inside[0] * inside[1]).sum() / (inside[0].norm() * inside[1].norm()).clamp_min(1e-12))
    share = max(0.0, 2 * shared / (1 + shared)) if shared > -1 else 0.0
    smooth = refined(block_mean(cycle, factor), factor)
    trusted: Tensor = smooth + min(share, 1.0) * (cycle - smooth)
    return trusted


def _departures(values: Tensor, valid: Tensor, cycle: Tensor, regressors: Tensor) -> Tensor:
    return torch.where(valid, values - torch.einsum("tp,phw->thw", regressors, cycle), 0.0)


def _leading(departures: Tensor, count: int) -> Tensor:
    """(K, H, W): the leading patterns, each times the spread of its scores."""
    t, h, w = departures.shape
    flat = departures.reshape(t, h * w).double()
    count = min(count, t // 3, h * w)
    if not count:
        return departures.new_zeros(0, h, w)
    square, vectors = torch.linalg.eigh(flat @ flat.T)
    leading = vectors[:, -count:].flip(1)
    kept = square[-count:].flip(0) > 1e-9 * square[-1].clamp_min(1e-30)
    patterns: Tensor = ((leading[:, kept].T @ flat) / math.sqrt(t)).float().reshape(-1, h, w)
    return patterns


def _scores(coarse: Tensor, valid: Tensor, means: Tensor, doubt: float) -> Tensor:
    """(T, K): how much of each pattern every frame holds, by its observed cells; 0 where it has none."""
    weight = valid.flatten(1).double()
    rows = means.flatten(1).double()
    gram = torch.einsum("kn,ln,tn->tkl", rows, rows, weight) / doubt
    right = torch.einsum("kn,tn->tk", rows, coarse.flatten(1).double() * weight) / doubt
    scores: Tensor = torch.linalg.solve(gram + torch.eye(len(rows), dtype=gram.dtype), right[..., None])
    return scores[..., 0].float()


def _missed(coarse: Tensor, shown: Tensor, means: Tensor, doubt: float) -> float:
    """Variance of what the patterns miss of the hidden blocks, times ``doubt``."""
    usual = float(coarse.square().mean().clamp_min(1e-12))
    scores = _scores(coarse, shown, means, 0.1 * usual)
    rest = coarse - torch.einsum("tk,khw->thw", scores, means)
    return max(doubt * float(rest[~shown].square().mean()) if bool((~shown).any()) else usual, 1e-6 * usual)
