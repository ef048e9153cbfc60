"""Linear maps from what a field last showed to the next steps of each node: ridge regression on the series itself. Knows no networks.

A node is told its own last steps, the leading patterns of the whole field and, where in the cycle it is, and the nodes that it
follows. Maps of changes are drawn towards one map shared by all nodes instead of towards none: nodes are alike in how they go on and in
how they follow others, not in what a pattern or an hour means to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stimpute.forecasting.cell_maps import bounded

PATTERN_STEPS, HARMONICS = 2, 2  # last steps of the patterns, of the cycle
ROWS, NODES = 1500, 256  # the most recent examples of a node, and nodes solved together
FEWEST, RARE = 8, 4.0  # examples; what ridge gains where inputs are as many as examples
SHARING, LEADERS = 64, 1500  # nodes that the shared map is fitted on, that may be followed, at most
ANOMALY_LAGS, ANOMALY_PATTERNS, ANOMALY_RIDGE = 12, 6, 0.01
SHARED_RIDGE = 1e-3

Beside = Sequence[tuple[Tensor, int]]


@dataclass(frozen=True)
class Told:
    """What a map is told: own last steps, leading patterns of the field, ridge; of the nodes that are followed how many and last steps.

    Followed are, by ``change``, those whose last change tells most about a node's next; by ``next`` and ``half``, those whose anomaly
    tells most about its anomaly at the next step and half of the horizon later, beyond what it knows itself.
    """

    lags: int
    patterns: int
    ridge: float
    followed: Mapping[str, tuple[int, int]] = field(default_factory=dict)


CHANGES = {
    "changes": Told(12, 6, 0.1),
    "short changes": Told(4, 3, 0.3),
    "wide changes": Told(12, 3, 0.15, {"change": (6, 2), "next": (6, 2), "half": (6, 1)}),
    "near changes": Told(12, 3, 0.15, {"next": (8, 2)}),
    "far changes": Told(18, 3, 0.15, {"half": (8, 1)}),
}


def next_anomalies(anomalies: Tensor, valid: Tensor, steps: int, wanted: Tensor) -> Tensor:
    """(steps, n) of the ``wanted`` nodes (n,) from anomalies (C, N): from a node's own last ones and the last scores of the field's patterns.

    Patterns are the leading principal components, gaps counting as 0; a frame's score is the fit to what it shows. Zeros where
    the past is too short.
    """
    length, nodes = anomalies.shape
    lags = min(ANOMALY_LAGS, max(1, length // 6))
    scores = _scores(anomalies, valid, min(ANOMALY_PATTERNS, max(nodes // 4, 1), max(length // 12, 1)))
    shared = _recent(scores, lags, PATTERN_STEPS)
    room = length - lags - steps + 1
    if room < 2 * (lags + len(shared)):
        return torch.zeros(steps, len(wanted), device=anomalies.device)
    rows = torch.arange(max(0, room - ROWS), room, device=anomalies.device)
    series, known = anomalies.T.contiguous(), valid.T
    said = []
    for some in torch.split(wanted, NODES):
        inputs = _inputs(series, some, lags, shared)
        gram, cross = _equations(
            _columns(inputs, rows), *_targets(series[some], known[some], lags, steps, rows)
        )
        said.append(torch.einsum("nf,nfh->hn", inputs[:, :, -1], _solved(gram, cross, ANOMALY_RIDGE)))
    return bounded(torch.cat(said, dim=1), anomalies[:, wanted])


def maps_of_changes(
    values: Tensor, valid: Tensor, anomalies: Tensor, period: int, steps: int, wanted: Tensor
) -> list[Tensor]:
    """(steps, n) of each of ``CHANGES`` for the ``wanted`` nodes (n,): how far the next values are from the last one, mapped, and added to that.

    In gaps a node is told what was last observed. The more ridge, the more a map is the shared one; where the past is too short it is
    persistence.

    Parameters
    ----------
    values, valid : (C, N).
    anomalies : (C, N), the values without their cycle, 0 in gaps.
    period : slots of a cycle, 0 where there is none.
    """
    length, nodes = values.shape
    shown = _carried(values, valid)
    slots = torch.arange(length, device=values.device)
    most = min(max(told.patterns for told in CHANGES.values()), max(nodes // 4, 1), max(length // 12, 1))
    stored = valid.any(dim=1)
    scores = _scores(values, valid, most)[torch.where(stored, slots, 0).cummax(dim=0).values]
    phase = torch.ones(length, 1, device=values.device)
    if period:
        angle = slots[:, None] * (
            torch.arange(1, HARMONICS + 1, device=values.device) * (2 * math.pi / period)
        )
        phase = torch.cat((angle.sin(), angle.cos(), phase), dim=1)
    apart = _carried(anomalies, valid)
    teachers = spread(nodes, min(nodes, SHARING), values.device)
    needed = torch.zeros(nodes, dtype=torch.bool, device=values.device)
    needed[teachers] = needed[wanted] = True
    mapped = needed.nonzero()[:, 0]
    leaders = {
        "change": followed(shown.diff(dim=0), 1, mapped, beyond=False),
        "next": followed(apart, 1, mapped),
        "half": followed(apart, (steps + 1) // 2, mapped),
    }
    said = []
    for told in CHANGES.values():
        lags = min(told.lags, max(1, length // 6))
        shared = torch.cat((_recent(scores[:, -told.patterns :], lags, PATTERN_STEPS), phase[lags - 1 :].T))
        room = length - lags - steps + 1
        rows = stored[lags - 1 :][: max(room, 0)].nonzero()[-ROWS:, 0]
        beside = [
            (leader, min(back, lags))
            for name, (count, back) in told.followed.items()
            for leader in leaders[name][:count]
        ]
        inputs = lags + len(shared) + sum(back for _, back in beside)
        if len(rows) < FEWEST or len(rows) * min(nodes, SHARING) < 4 * inputs:
            said.append(shown[-1, wanted].expand(steps, -1))
            continue
        ridge = told.ridge * (1 + RARE * inputs / len(rows))
        changed = _changed(shown, values, valid, shared, beside, rows, lags, steps, ridge, teachers, wanted)
        said.append(shown[-1, wanted] + changed)
    return [bounded(s, values[:, wanted]) for s in said]


def _changed(
    shown: Tensor, values: Tensor, valid: Tensor, shared: Tensor, beside: Beside, rows: Tensor, lags: int, steps: int, ridge: float,
    teachers: Tensor, wanted: Tensor,
) -> Tensor:  # fmt: skip
    """One map of changes of the ``wanted`` nodes (steps, n), the shared one being taught by others; arguments as of :func:`_inputs`."""
    series, later, known = shown.T.contiguous(), values.T, valid.T

    def equations(some: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = _inputs(series, some, lags, shared, beside)
        asked = _columns(inputs, rows)
        change = _targets(later[some], known[some], lags, steps, rows, asked[:, lags - 1])
        return inputs[:, :, -1], *_equations(asked, *change)

    _, gram, cross = equations(teachers)
    common = _solved(gram.mean(dim=0), cross.mean(dim=0), SHARED_RIDGE)
    common[lags : lags + len(shared)] = 0
    said = []
    for some in torch.split(wanted, NODES):
        last, gram, cross = equations(some)
        said.append(torch.einsum("nf,nfh->hn", last, common + _solved(gram, cross - gram @ common, ridge)))
    return torch.cat(said, dim=1)


def _inputs(series: Tensor, some: Tensor, lags: int, shared: Tensor, beside: Beside = ()) -> Tensor:
    """What nodes are told at every origin from slot ``lags - 1`` on, (n, F, C - lags + 1).

    Parameters
    ----------
    series : (N, C), what was last observed of every node.
    shared : (S, C - lags + 1), inputs of all nodes.
    beside : leaders (N,), whose distance from the node is told, and how many last steps of it.
    """
    own = series[some]
    width = own.shape[1] - lags + 1
    count = lags + len(shared) + sum(back for _, back in beside)
    inputs = own.new_empty(len(some), count, width)
    inputs[:, :lags] = own.unfold(1, width, 1)
    inputs[:, lags : lags + len(shared)] = shared
    at = lags + len(shared)
    for leader, back in beside:
        apart = series[leader[some]] - own
        for ago in range(back):
            inputs[:, at] = apart[:, lags - 1 - ago : own.shape[1] - ago]
            at += 1
    return inputs


def _columns(inputs: Tensor, rows: Tensor) -> Tensor:
    """Those of some origins; a view where they follow each other."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    return inputs[:, :, first:last] if last - first == len(rows) else inputs[:, :, rows]


def _recent(series: Tensor, lags: int, back: int) -> Tensor:
    """The last ``back`` rows at every origin from slot ``lags - 1`` on, of (C, F): (F x back, C - lags + 1)."""
    return torch.cat([series[lags - 1 - ago : len(series) - ago].T for ago in range(min(back, lags))])


def _targets(
    values: Tensor, valid: Tensor, lags: int, steps: int, rows: Tensor, last: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The ``steps`` values (n, C) after each of ``rows``, less ``last`` (n, rows), 0 where not known; and what is known; (n, rows, steps)."""
    y, known = (t[:, lags:].unfold(1, steps, 1)[:, rows] for t in (values, valid))
    if last is not None:
        y = y - last[:, :, None]
    return torch.where(known, y, 0.0), known


def _equations(inputs: Tensor, wanted: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations (n, F, F) and (n, F, steps); a row counts by the part of its targets that is known."""
    weighted = inputs if bool(known.all()) else inputs * known.float().mean(dim=-1)[:, None]
    return weighted @ inputs.mT, weighted @ wanted


def _solved(gram: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """Maps (..., F, steps), ``ridge`` of the mean square of the inputs."""
    strength = ridge * gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1) + 1e-3
    eye = torch.eye(gram.shape[-1], device=gram.device)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(gram + strength[..., None, None] * eye))


def followed(series: Tensor, ahead: int, wanted: Tensor, *, beyond: bool = True) -> Tensor:
    """For ``wanted`` nodes of (C, N) those, most telling first, whose last value says most about its own ``ahead`` steps later: (8, N) or fewer.

    Zeros for all other nodes. Itself is not among them. ``beyond``: what they say beyond what it knows itself, by partial correlation.
    """
    length, nodes = series.shape
    among = spread(nodes, min(nodes, LEADERS), series.device)
    count = min(max(c for told in CHANGES.values() for c, _ in told.followed.values()), len(among) - 1)
    if length < ahead + 2 or count < 1:
        return among.new_empty(0, nodes)
    first, later = _standardised(series[:-ahead]), _standardised(series[ahead:])
    theirs = first[:, among].T
    found = among.new_zeros(count, nodes)
    for some in torch.split(wanted, NODES):
        tells = theirs @ later[:, some]
        if beyond:
            alike, lasting = theirs @ first[:, some], (first[:, some] * later[:, some]).sum(dim=0)
            rest = (1 - alike.square()).clamp_min(1e-2) * (1 - lasting.square()).clamp_min(1e-4)
            tells = (tells - alike * lasting) / rest.sqrt()
        tells = tells.abs().masked_fill(among[:, None] == some, -1.0)
        found[:, some] = among[tells.topk(count, dim=0).indices]
    return found


def _standardised(series: Tensor) -> Tensor:
    """Products of two columns of it are correlations."""
    apart = series - series.mean(dim=0)
    standardised: Tensor = apart / apart.norm(dim=0).clamp_min(1e-6)
    return standardised


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


def spread(size: int, count: int, device: torch.device) -> Tensor:
    """``count`` numbers below ``size``, evenly spread, the last one among them."""
    return (
        torch.linspace(0, size - 1, count, device=device).round().long()
        if count > 1
        else torch.tensor([size - 1], device=device)
    )
