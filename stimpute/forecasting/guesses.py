"""The good guesses a forecast starts from, each with its own error at earlier origins of the same series.

Persistence, climate (the node's mean with its cycle), the last cycle again, damped anomalies, one linear map from the last
steps to the next shared by all nodes, the last observation moved on as the cycle moves, maps of every node from its own last steps and the
leading patterns of the whole field (one of anomalies, the others of how the values change, some of them told of the nodes that this
one follows), and DLinear and an autoregression of every node; all fitted on the series itself. What they got wrong when asked at earlier origins says how far to trust each; a blend weighted so is the prior
which the network reweighs and corrects. Gaps are left out of every sum. Knows nothing about networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from stimpute.forecasting.cell_maps import in_parts
from stimpute.forecasting.field_maps import maps_of_changes, next_anomalies, spread
from stimpute.forecasting.names import GUESSES
from stimpute.forecasting.series import History
from stimpute.forecasting.weights import Asked, blend_error, blend_weights

CYCLE_MEMORY = 0.75  # weight of a cycle beside that of the one after it
SHRINK = 0.5  # observations that the shape of the cycle shared by all nodes counts for
LAGS = 24
ROWS, NODES = 8000, 200  # examples that the linear map is fitted on, and nodes they are from, at most
RIDGE = 0.002
ORIGINS = 8  # earlier origins asked, where there are as many
Known = dict[int, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Sample:
    """Some nodes of a large graph.

    Parameters
    ----------
    nodes : int64 (n,), their numbers, increasing.
    near : int64 (N, k), which of them, counted from 0, speak for each node of the graph.
    share : float32 (N, k), of each of those; they sum to 1.
    """

    nodes: Tensor
    near: Tensor
    share: Tensor

    def everywhere(self, said: Tensor) -> Tensor:
        """What was found at the nodes of the sample (..., n), at every node (..., N)."""
        result = said[..., self.near[:, 0]] * self.share[:, 0]
        for near, share in zip(self.near.T[1:], self.share.T[1:], strict=True):
            result += said[..., near] * share
        return result


@dataclass(frozen=True, eq=False)
class Guesses:
    """Guesses of a batch in its normalised units; (B, K, H, 1, N) like candidates of a raster of one row.

    Parameters
    ----------
    estimates : (B, K, H, 1, N), finite everywhere, in the order of ``GUESSES``.
    log_error : (B, K, H, 1, N), log of the mean absolute error at earlier origins.
    log_weight : (B, K, H, 1, N), log of the weight of each in the blend.
    prior : (B, H, 1, N), the blend.
    prior_error : (B, H, 1, N), mean absolute error of the prior there, > 0.
    anomalies : (B, C, N), the past without its cycle, 0 in gaps.
    """

    estimates: Tensor
    log_error: Tensor
    log_weight: Tensor
    prior: Tensor
    prior_error: Tensor
    anomalies: Tensor

    names: ClassVar[tuple[str, ...]] = GUESSES

    def to(self, device: torch.device | str) -> Guesses:
        """All tensors on ``device``."""
        return Guesses(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@torch.no_grad()
def make_guesses(
    history: History, steps: int, asked: int = ORIGINS, known: Known | None = None, back: int = 0, sample: Sample | None = None
) -> Guesses:  # fmt: skip
    """All guesses for the next ``steps`` slots of a normalised past, their errors and their blend.

    Parameters
    ----------
    asked : earlier origins that errors are taken from, at most.
    known : estimates of a single sample by slots before its last origin, kept between calls; ``history`` then is ``back`` slots earlier.
    sample : nodes that earlier origins are asked at, for all others those near to them speak; guesses from ``back`` slots earlier are
        those of the sample only.
    """
    each = [_one(h, steps, asked, {} if known is None else known, back, sample) for h in _samples(history)]
    return Guesses(*(torch.stack([getattr(g, f.name) for g in each]) for f in fields(Guesses)))


def _samples(history: History) -> list[History]:
    return [
        History(history.values[i : i + 1], history.valid[i : i + 1], (period,), history.phases[i : i + 1], history.step[i : i + 1])
        for i, period in enumerate(history.period)
    ]  # fmt: skip


def _one(history: History, steps: int, count: int, known: Known, back: int, sample: Sample | None) -> Guesses:
    """One series; tensors without the batch axis."""
    some = None if sample is None else sample.nodes

    def at(past: History, before: int) -> tuple[Tensor, Tensor]:
        if before not in known:
            known[before] = estimate(past, steps, some if before else None)
        return known[before]

    estimates, anomalies = at(history, back)
    asked = []
    for earlier in origins(history, steps, count):
        past = history.earlier(earlier)
        start = past.values.shape[1]
        truth, seen = (t[0, start : start + steps] for t in (history.values, history.valid))
        if some is not None:
            truth, seen = truth[:, some], seen[:, some]
        asked.append(Asked(at(past, back + earlier)[0], truth, seen))
    like = estimates if sample is None or back else estimates[:, :, sample.nodes]
    weight, log_error = blend_weights(asked, like)
    prior_error = blend_error(asked, weight)
    if sample is not None and not back:
        weight, log_error = sample.everywhere(weight), sample.everywhere(log_error)
        prior_error = sample.everywhere(prior_error.log()).exp()
    prior = (weight * estimates).sum(dim=0)
    parts = (estimates[:, :, None], log_error[:, :, None], weight.log()[:, :, None])
    return Guesses(*parts, prior[:, None], prior_error[:, None], anomalies)


def origins(history: History, steps: int, count: int = ORIGINS, *, nearer: bool = False) -> list[int]:
    """Slots before the origin at which guesses are asked: what follows is known, what precedes is long enough.

    Where the series has holes, an origin follows something stored; those of which more than half of the steps to come were stored are
    taken first, then any with some. ``nearer``: where fewer than ``count`` fit one after the other they come closer together, and
    after the last of them only the first steps to come are known.
    """
    length, period = history.values.shape[1], history.period[0]
    stored = history.valid[0].any(dim=1)
    needed = max(steps, 2 * period if length >= 3 * period + steps else round(1.5 * period), 8)
    room = length - needed
    apart = steps
    if nearer and steps <= room < count * steps:
        apart = math.ceil(room / count)
    possible = list(range(apart, room + 1, apart))
    followed = {back: float(stored[length - back :][:steps].float().mean()) for back in possible}
    recent = {back: bool(stored[max(length - back - steps, 0) : length - back].any()) for back in possible}
    best = [back for back in possible if followed[back] > 0.5 and recent[back]]
    others = [back for back in possible if 0 < followed[back] <= 0.5 and recent[back]]
    return sorted([*best, *others][:count])


def estimate(history: History, steps: int, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(K, steps, n) of one series at ``wanted`` nodes (n,), by default all, and the anomalies of all (C, N)."""
    values, valid, period = history.values[0], history.valid[0], history.period[0]
    if wanted is None:
        wanted = torch.arange(values.shape[1], device=values.device)
    ring = _cycle(values, valid, period)
    slots = torch.arange(len(values) + steps, device=values.device) % max(period, 1)
    climate = ring[slots]
    anomalies = torch.where(valid, values - climate[: len(values)], 0.0)
    ahead = climate[len(values) :]
    last, age = _latest(values, valid)
    persistence = last.expand(steps, -1)
    again = _again(values, valid, period, ahead, persistence)
    last_anomaly, _ = _latest(anomalies, valid)
    memory = _memory(anomalies, valid, steps + LAGS)
    lead = torch.arange(1, steps + 1, device=values.device)[:, None] + age.clamp_max(LAGS)[None]
    damped = ahead + memory[lead - 1] * last_anomaly
    linear = ahead + _linear(anomalies, valid, steps)
    moved = last + ahead - climate[len(values) - 1 - age, torch.arange(values.shape[1], device=values.device)]
    simple = [guess[:, wanted] for guess in (persistence, ahead, again, damped, linear, moved)]
    field = ahead[:, wanted] + next_anomalies(anomalies, valid, steps, wanted)
    first, short, wide, *others = maps_of_changes(values, valid, anomalies, period, steps, wanted)
    cells = (in_parts(name, values[:, wanted], valid[:, wanted], steps) for name in ("dlinear", "ar"))
    return torch.stack((*simple, field, first, short, wide, *cells, *others)), anomalies


def _cycle(values: Tensor, valid: Tensor, period: int) -> Tensor:
    """(max(period, 1), N): each node's mean at each phase, recent cycles first; thin phases lean on what all nodes show."""
    count = valid.sum(dim=0).clamp_min(1)
    mean = values.sum(dim=0) / count
    if not period:
        return mean[None]
    length, nodes = values.shape
    pad = -length % period
    apart = torch.where(valid, values - mean, 0.0)
    weight = valid.to(values.dtype)
    cycles = (length + pad) // period
    apart, weight = (
        torch.cat((t.new_zeros(pad, nodes), t)).view(cycles, period, nodes) for t in (apart, weight)
    )
    recent = CYCLE_MEMORY ** torch.arange(cycles - 1, -1, -1, device=values.device, dtype=values.dtype)
    weight = weight * recent[:, None, None]
    total, seen = (weight * apart).sum(dim=0), weight.sum(dim=0)
    shared = total.sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp_min(1e-6)
    ring = mean + (total + SHRINK * shared) / (seen + SHRINK)
    return ring.roll(-pad, dims=0)  # so that slot 0 has phase 0


def _latest(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The last observation of each node (N,) and how many slots before the origin it was; 0 where never observed."""
    length = len(values)
    steps = torch.arange(length, device=values.device)[:, None]
    at = torch.where(valid, steps, -1).amax(dim=0)
    last = values.gather(0, at.clamp_min(0)[None])[0]
    return torch.where(at >= 0, last, 0.0), length - 1 - at.clamp_min(0)


def _again(values: Tensor, valid: Tensor, period: int, climate: Tensor, persistence: Tensor) -> Tensor:
    """The last observation at the same phase, climate where there is none; persistence without a cycle."""
    if not period:
        return persistence
    result, found = climate.clone(), torch.zeros_like(climate, dtype=torch.bool)
    length, steps = len(values), len(climate)
    for back in range(1, length // period + 1):
        at = torch.arange(length, length + steps, device=values.device) - back * period
        there = (at >= 0) & (at < length)
        at = at.clamp(0, length - 1)
        use = valid[at] & there[:, None] & ~found
        result = torch.where(use, values[at], result)
        found |= use
        if bool(found.all()):
            break
    return result


def _memory(anomalies: Tensor, valid: Tensor, lags: int) -> Tensor:
    """(lags,): regression of anomalies on those 1, 2, ... slots before, over all nodes; falls off, never negative."""
    kept = []
    chosen = spread(anomalies.shape[1], min(anomalies.shape[1], NODES), anomalies.device)
    anomalies, valid = anomalies[:, chosen], valid[:, chosen]
    weight = valid.to(anomalies.dtype)
    for lag in range(1, lags + 1):
        if lag >= len(anomalies):
            kept.append(anomalies.new_zeros(()))
            continue
        both = weight[lag:] * weight[:-lag]
        before = anomalies[:-lag] * both
        kept.append(
            (anomalies[lag:] * before).sum() / ((before * anomalies[:-lag]).sum() + 1e-3 * both.sum() + 1e-6)
        )
    memory = torch.stack(kept).clamp(0, 1)
    return memory.cummin(dim=0).values


def _linear(anomalies: Tensor, valid: Tensor, steps: int) -> Tensor:
    """(steps, N): ridge regression of the next anomalies on the last ``LAGS``, one map for all nodes; gaps count as 0."""
    length, nodes = anomalies.shape
    lags = min(LAGS, max(1, length // 4))
    room = length - lags - steps + 1
    if room < 4:
        return torch.zeros(steps, nodes, device=anomalies.device)
    chosen = spread(nodes, min(nodes, NODES), anomalies.device)
    starts = spread(room, min(room, max(ROWS // len(chosen), 1)), anomalies.device)
    window = starts[:, None] + torch.arange(lags + steps, device=anomalies.device)
    rows, known = (
        t[window][:, :, chosen].permute(0, 2, 1).reshape(-1, lags + steps) for t in (anomalies, valid)
    )
    x, y, w = rows[:, :lags], rows[:, lags:], known[:, lags:].to(rows.dtype)
    weights = []
    eye = torch.eye(lags, device=x.device, dtype=torch.float64)
    for h in range(steps):
        weighted = x * w[:, h : h + 1]
        gram = (weighted.T @ x).double()
        strength = RIDGE * (gram.diagonal().mean() + 1e-9) + 1e-6
        weights.append(torch.linalg.solve(gram + strength * eye, (weighted.T @ y[:, h]).double()).float())
    return torch.stack(weights) @ anomalies[-lags:]
