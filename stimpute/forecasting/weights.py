"""How much to believe each guess: what it got wrong at earlier origins, alone and together with the others. Knows nothing about networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PRIOR_POWER = 4.0
ERROR_FLOOR = 5e-3
TILT_POWER = 2.0  # by which a node and lead time depart from the stacked weights
STACKED_SHARE, FEW = 0.7, 3  # of the weights, where at least so many origins could be asked; with fewer half
FAR = 2.0  # times the error of the best: guesses that are worse are not heard
STACKED_ROWS, STACKING_STEPS, STACKING_RATE = 20_000, 200, 0.3
_SMALLEST = 1e-6


@dataclass(frozen=True, eq=False)
class Asked:
    """What the guesses said at an earlier origin, and what came.

    Parameters
    ----------
    said : (K, H, N).
    truth : (H, N), 0 where not ``known``.
    known : bool (H, N).
    """

    said: Tensor
    truth: Tensor
    known: Tensor


def trust(asked: list[Asked], like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute error of every guess by lead time (K, H), and its log for every node (K, H, N)."""
    k, steps, nodes = like.shape
    if not asked:
        level = like.new_ones(k, steps)
        return level, level.log()[:, :, None].expand(-1, -1, nodes)
    missed = torch.stack([torch.where(a.known, (a.said - a.truth).abs(), 0.0) for a in asked]).sum(dim=0)
    count = torch.stack([a.known for a in asked]).sum(dim=0).to(like.dtype)
    by_lead = (missed.sum(dim=2) + ERROR_FLOOR) / (count.sum(dim=1) + 1)
    seen = count.sum(dim=1) > 0
    overall = missed.sum(dim=(1, 2)) / count.sum().clamp_min(1)
    by_lead = torch.where(seen, by_lead, overall[:, None]).clamp_min(ERROR_FLOOR)
    expected = (by_lead[:, :, None] * count).sum(dim=1)
    prior = 8.0 * overall.clamp_min(ERROR_FLOOR)[:, None]
    ratio = (missed.sum(dim=1) + prior) / (expected + prior)
    error = by_lead[:, :, None] * ratio[:, None]
    return by_lead, error.clamp_min(ERROR_FLOOR).log()


def blend_weights(asked: list[Asked], like: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (K, H, N) that sum to 1 over the guesses, and the log of each guess's error there (K, H, N).

    One part are powers of each guess's own error; the other the weights, shared by all, with which the guesses together were
    best, tilted towards those that were better at a node, and at a lead time too where a few origins tell. The first are safe
    where few origins could be asked, the second know which guesses err alike. Guesses far worse than the best have no part in either.
    """
    by_lead, log_error = trust(asked, like)
    alone = (-PRIOR_POWER * log_error).softmax(dim=0)
    if not asked:
        return alone, log_error
    overall = by_lead.mean(dim=1)
    heard = overall <= FAR * overall.min()
    alone = alone * heard[:, None, None]
    alone = alone / alone.sum(dim=0)
    kept = [Asked(a.said[heard], a.truth, a.known) for a in asked]
    shared = torch.zeros_like(overall)
    shared[heard] = stacked(kept, by_lead[heard])
    usual = overall[:, None] if len(asked) >= FEW else by_lead
    tilted = shared[:, None, None] * torch.exp(-TILT_POWER * (log_error - usual.log()[:, :, None]))
    together = tilted / tilted.sum(dim=0).clamp_min(_SMALLEST)
    share = STACKED_SHARE if len(asked) >= FEW else 0.5
    return ((1 - share) * alone + share * together).clamp_min(_SMALLEST), log_error


def stacked(asked: list[Asked], by_lead: Tensor) -> Tensor:
    """(K,) weights >= 0 with sum 1 and a low mean absolute error of the blend: exponentiated gradient from the guesses' own errors."""
    said = torch.cat([a.said.flatten(1) for a in asked], dim=1)
    truth, known = (torch.cat([getattr(a, name).flatten() for a in asked]) for name in ("truth", "known"))
    rows = known.nonzero()[:, 0]
    weight = (-2 * by_lead.mean(dim=1).log()).softmax(dim=0)
    if not len(rows):
        return weight
    if len(rows) > STACKED_ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, STACKED_ROWS, device=rows.device).round().long()]
    said, truth = said[:, rows], truth[rows]
    for step in range(STACKING_STEPS):
        slope = said @ (weight @ said - truth).sign() / len(rows)
        steepest = (slope - slope.mean()).abs().max().clamp_min(_SMALLEST)
        rate = STACKING_RATE / (1 + 0.05 * step)
        weight = weight * torch.exp(-rate * (slope - weight @ slope) / steepest)
        weight = weight / weight.sum()
    return weight


def blend_error(asked: list[Asked], weight: Tensor) -> Tensor:
    """Mean absolute error of the blend (H, N); without earlier origins as large as the spread."""
    if not asked:
        return torch.ones_like(weight[0])
    blind = [Asked((weight * a.said).sum(dim=0, keepdim=True), a.truth, a.known) for a in asked]
    _, log_blend = trust(blind, weight[:1])
    return log_blend[0].exp()
