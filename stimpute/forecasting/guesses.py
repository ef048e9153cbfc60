"""The good guesses a forecast starts from, each with its own error at earlier origins of the same series.

Persistence, climate (the node's mean with its cycle), the last cycle again, damped anomalies, one linear map from the last
steps to the next shared by all nodes, the last observation moved on as the cycle moves, maps of every node from its own last steps and the
leading patterns of the whole field (one of anomalies, four of how the values change, told the phase of the cycle, one of them also
told the last steps of the nodes that this one follows), and DLinear and an autoregression of every node; all fitted on the series itself. What they got wrong when asked at earlier origins says how far to trust each; a blend weighted so is the prior
which the network reweighs and corrects. Gaps are left out of every sum. Knows nothing about networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from stimpute.forecasting.cell_maps import in_parts
from stimpute.forecasting.series import History
from stimpute.forecasting.weights import Asked, blend_error, blend_weights

GUESSES = (
    "persistence",
    "climate",
    "last cycle",
    "damped anomaly",
    "linear",
    "cycle ahead",
    "field of anomalies",
    "changes",
    "short changes",
    "free changes",
    "dlinear",
    "ar",
    "near changes",
)
CYCLE_MEMORY = 0.75  # weight of a cycle beside that of the one after it
SHRINK = 0.5  # observations that the shape of the cycle shared by all nodes counts for
LAGS = 24
ROWS, NODES = 8000, 200  # examples that the linear map is fitted on, and nodes they are from, at most
RIDGE = 0.002
ORIGINS = 8  # earlier origins asked, where there are as many
Known = dict[int, tuple[Tensor, Tensor]]
CHANGES = {  # own last steps, leading patterns of the field, ridge, nodes that are followed
    "changes": (12, 6, 0.1, 0),
    "short changes": (4, 3, 0.3, 0),
    "free changes": (12, 6, 0.02, 0),
    "near changes": (6, 3, 0.05, 8),
}
LEADERS = 1500  # nodes that may be followed, at most
PATTERN_STEPS, HARMONICS = 2, 2  # last steps of the patterns, of the cycle
FIELD_LAGS, FIELD_PATTERNS, FIELD_RIDGE = 12, 6, 0.01
FIELD_ROWS, FIELD_NODES = 1500, 256  # the most recent examples of a node, and nodes solved together


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
    history: History, steps: int, asked: int = ORIGINS, known: Known | None = None, back: int = 0
) -> Guesses:
    """All guesses for the next ``steps`` slots of a normalised past, their errors and their blend.

    Parameters
    ----------
    asked : earlier origins that errors are taken from, at most.
    known : estimates of a single sample by slots before its last origin, kept between calls; ``history`` then is ``back`` slots earlier.
    """
    each = [_one(sample, steps, asked, {} if known is None else known, back) for sample in _samples(history)]
    return Guesses(*(torch.stack([getattr(g, f.name) for g in each]) for f in fields(Guesses)))


def _samples(history: History) -> list[History]:
    return [
        History(history.values[i : i + 1], history.valid[i : i + 1], (period,), history.phases[i : i + 1], history.step[i : i + 1])
        for i, period in enumerate(history.period)
    ]  # fmt: skip


def _one(history: History, steps: int, count: int, known: Known, back: int) -> Guesses:
    """One sample; tensors without the batch axis."""

    def at(past: History, before: int) -> tuple[Tensor, Tensor]:
        if before not in known:
            known[before] = estimate(past, steps)
        return known[before]

    estimates, anomalies = at(history, back)
    asked = []
    for earlier in origins(history, steps, count):
        past = history.earlier(earlier)
        start = past.values.shape[1]
        truth, seen = (t[0, start : start + steps] for t in (history.values, history.valid))
        asked.append(Asked(at(past, back + earlier)[0], truth, seen))
    weight, log_error = blend_weights(asked, estimates)
    prior = (weight * estimates).sum(dim=0)
    prior_error = blend_error(asked, weight)
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


def estimate(history: History, steps: int) -> tuple[Tensor, Tensor]:
    """(K, steps, N) of one sample, and its anomalies (C, N)."""
    values, valid, period = history.values[0], history.valid[0], history.period[0]
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
    field = ahead + _field(anomalies, valid, steps)
    *changes, near = _changes(values, valid, period, steps)
    cells = (in_parts("dlinear", values, valid, steps), in_parts("ar", values, valid, steps))
    return torch.stack(
        (persistence, ahead, again, damped, linear, moved, field, *changes, *cells, near)
    ), anomalies


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
    chosen = _spread(anomalies.shape[1], min(anomalies.shape[1], NODES), anomalies.device)
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
    chosen = _spread(nodes, min(nodes, NODES), anomalies.device)
    starts = _spread(room, min(room, max(ROWS // len(chosen), 1)), anomalies.device)
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


def _field(anomalies: Tensor, valid: Tensor, steps: int) -> Tensor:
    """(steps, N): per node, ridge regression of the next anomalies on its own last ones and on the last scores of the field's patterns.

    Patterns are the leading principal components, gaps counting as 0; a frame's score is the fit to what it shows. Zeros where
    the past is too short.
    """
    length, nodes = anomalies.shape
    lags = min(FIELD_LAGS, max(1, length // 6))
    scores = _scores(anomalies, valid, min(FIELD_PATTERNS, max(nodes // 4, 1), max(length // 12, 1)))
    recent = [scores[lags - 1 - back : length - back] for back in range(min(PATTERN_STEPS, lags))]
    shared = torch.cat(recent, dim=1)
    room = length - lags - steps + 1
    if room < 2 * (lags + shared.shape[1]):
        return torch.zeros(steps, nodes, device=anomalies.device)
    rows = torch.arange(max(0, room - FIELD_ROWS), room, device=anomalies.device)
    parts = zip(torch.split(anomalies, FIELD_NODES, 1), torch.split(valid, FIELD_NODES, 1), strict=True)
    said = torch.cat(
        [_mapped(own, own, k, shared, rows, lags, steps, FIELD_RIDGE) for own, k in parts], dim=1
    )
    return _bounded(said, anomalies)


def _changes(values: Tensor, valid: Tensor, period: int, steps: int) -> list[Tensor]:
    """(steps, N) of each of ``CHANGES``: per node, ridge regression of how far the next values are from the last one.

    Inputs are the node's own last steps, the last scores of the field's leading patterns, where in the cycle it is and, of the
    last, how far the nodes it follows are from it; in gaps what was last observed. The more ridge, the more it is persistence, which
    it is where the past is too short.
    """
    length, nodes = values.shape
    shown = _carried(values, valid)
    most = min(max(c[1] for c in CHANGES.values()), max(nodes // 4, 1), max(length // 12, 1))
    stored = valid.any(dim=1)
    slots = torch.arange(length, device=values.device)
    scores = _scores(values, valid, most)[torch.where(stored, slots, 0).cummax(dim=0).values]
    phase = torch.ones(length, 1, device=values.device)
    if period:
        angle = slots[:, None] * (
            torch.arange(1, HARMONICS + 1, device=values.device) * (2 * math.pi / period)
        )
        phase = torch.cat((angle.sin(), angle.cos(), phase), dim=1)
    followed = _followed(shown, max(c[3] for c in CHANGES.values()))
    said = []
    for lags, patterns, ridge, neighbours in CHANGES.values():
        lags = min(lags, max(1, length // 6))
        recent = [
            scores[lags - 1 - back : length - back, -patterns:] for back in range(min(PATTERN_STEPS, lags))
        ]
        shared = torch.cat((*recent, phase[lags - 1 :]), dim=1)  # a row for every origin
        room = length - lags - steps + 1
        rows = stored[lags - 1 :][: max(room, 0)].nonzero()[-FIELD_ROWS:, 0]
        theirs = followed[:neighbours]
        if len(rows) < 2 * (lags + shared.shape[1] + PATTERN_STEPS * len(theirs)):
            said.append(shown[-1].expand(steps, -1))
            continue
        changed = []
        for some in torch.split(torch.arange(nodes, device=values.device), FIELD_NODES):
            own = shown[:, some]
            apart = [shown[:, leader[some]] - own for leader in theirs]
            beside = [
                a[lags - 1 - back : length - back] for a in apart for back in range(min(PATTERN_STEPS, lags))
            ]
            inputs = torch.stack(beside, dim=2).transpose(0, 1) if beside else None
            changed.append(
                own[-1]
                + _mapped(
                    own, values[:, some], valid[:, some], shared, rows, lags, steps, ridge, True, inputs
                )
            )
        said.append(torch.cat(changed, dim=1))
    return [_bounded(s, values) for s in said]


def _followed(shown: Tensor, count: int) -> Tensor:
    """For every node of (C, N) those whose last change tells most about its next one, (count, N) or fewer; itself not among them."""
    length, nodes = shown.shape
    among = _spread(nodes, min(nodes, LEADERS), shown.device)
    count = min(count, len(among) - 1)
    if length < 3 or count < 1:
        return among.new_empty(0, nodes)
    change = shown.diff(dim=0)
    change = change - change.mean(dim=0)
    change = change / change.square().mean(dim=0).sqrt().clamp_min(1e-6)
    found = []
    for some in torch.split(torch.arange(nodes, device=shown.device), FIELD_NODES):
        tells = (change[:-1, among].T @ change[1:, some]).abs()
        tells = tells.masked_fill(among[:, None] == some, -1.0)
        found.append(among[tells.topk(count, dim=0).indices])
    return torch.cat(found, dim=1)


def _bounded(said: Tensor, values: Tensor) -> Tensor:
    """An ill-posed map may run away, the series hardly."""
    largest = values.abs().amax(dim=0) * 1.5
    return torch.maximum(torch.minimum(said, largest), -largest)


def _mapped(
    shown: Tensor, values: Tensor, valid: Tensor, shared: Tensor, rows: Tensor, lags: int, steps: int, ridge: float,
    change: bool = False, beside: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(steps, n): one map of some nodes from ``shown`` (C, n) to the next ``values``, or to how far these are from the last one shown.

    ``shared`` (C - lags + 1, F) are further inputs of all nodes, ``beside`` (n, C - lags + 1, G) of each; ``rows`` of them are
    fitted on. A row counts by the part of its targets that is known.
    """
    windows = shown.unfold(0, lags, 1).transpose(0, 1)  # n, C - lags + 1, lags
    inputs = torch.cat((windows, shared.expand(len(windows), -1, -1)), dim=-1)
    if beside is not None:
        inputs = torch.cat((inputs, beside), dim=-1)
    x = inputs[:, rows]
    y, k = (t[lags:].unfold(0, steps, 1)[rows].transpose(0, 1) for t in (values, valid))
    y = torch.where(k, y - windows[:, rows, -1:] if change else y, 0.0)
    weighted = (x * k.float().mean(dim=-1, keepdim=True)).transpose(1, 2)
    gram = weighted @ x
    strength = ridge * gram.diagonal(dim1=1, dim2=2).mean(dim=1) + 1e-3
    gram = gram + strength[:, None, None] * torch.eye(x.shape[-1], device=x.device)
    maps = torch.linalg.solve(gram, weighted @ y)
    return torch.einsum("nf,nfh->hn", inputs[:, -1], maps)


def _carried(values: Tensor, valid: Tensor) -> Tensor:
    """What was last observed at every slot, 0 before the first observation; (C, N)."""
    slots = torch.arange(len(values), device=values.device)[:, None]
    at = torch.where(valid, slots, -1).cummax(dim=0).values
    return torch.where(at >= 0, values.gather(0, at.clamp_min(0)), 0.0)


def _scores(values: Tensor, valid: Tensor, count: int) -> Tensor:
    """(C, count): how much of each leading pattern a frame shows, of unit spread. Signs are those of the largest weight's."""
    frames, nodes = values.shape
    gram = values @ values.T if frames <= nodes else values.T @ values
    _, vectors = torch.linalg.eigh(gram.double())
    vectors = vectors[:, -count:].float()
    patterns = vectors if frames > nodes else values.T @ vectors  # nodes x count
    patterns = patterns / patterns.norm(dim=0).clamp_min(1e-9)
    largest = patterns.gather(0, patterns.abs().argmax(dim=0, keepdim=True))
    patterns = patterns * torch.where(largest < 0, -1.0, 1.0)
    fit = (values @ patterns) / (valid.to(values.dtype) @ patterns.square()).clamp_min(1e-2)
    scores: Tensor = fit / fit.std(dim=0).clamp_min(1e-6)
    return scores


def _spread(size: int, count: int, device: torch.device) -> Tensor:
    """``count`` numbers below ``size``, evenly spread, the last one among them."""
    return (
        torch.linspace(0, size - 1, count, device=device).round().long()
        if count > 1
        else torch.tensor([size - 1], device=device)
    )
