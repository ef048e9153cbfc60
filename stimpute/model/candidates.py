"""The good guesses a network starts from: classical estimates, each with its own error on an internal hold-out.

Some observed cells are hidden the way other frames of the same stack are hidden, every classical method runs again without
them, and what it gets wrong there - overall, and smoothed nearby - says how far to trust it here. A blend weighted by
these errors is the prior which the network reweighs and corrects. Knows nothing about networks.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from stimpute.classical import convolution, frame_regression, spline, temporal, temporal_patterns
from stimpute.classical.variational_pca import variational_pca
from stimpute.layers.positions import median_step
from stimpute.model.batch import Batch
from stimpute.model.candidate_errors import FramesAsked, alike, farther, frame_error, local_error, proximity
from stimpute.model.drift import Drift, regress_on_covariates
from stimpute.model.inner_hold_out import empty_frames, hidden_by_turns, hidden_runs, reach
from stimpute.model.kriged import krige, krige_anomalies, krige_rest, krige_transformed

TRANSFORMED, PATTERNS = "kriging of transformed values", "regression on patterns"
REGRESSED, REGRESSED_KRIGED = "covariate regression", "covariate regression + kriging"
CANDIDATES = (
    "cell mean",
    "linear",
    "convolution",
    "spline",
    "eof",
    "kriging",
    "kriging of anomalies",
    "frame regression + residual",
    "frame regression + kriging",
    REGRESSED,
    REGRESSED_KRIGED,
    TRANSFORMED,
    PATTERNS,
)
SPLINE_ITERATIONS = 32
PRIOR_POWER = 12.0
GROWTH = 0.12  # of candidates' errors in empty frames with each octave of distance to those around them, nats; but for
GROWTHS = {"cell mean": 0.0, REGRESSED: 0.0, "linear": 0.15, "spline": 0.15}
PRIOR_GROWTH = 0.2  # of the blend's
CLIP = 8.0
COMPARED = 1000  # cells in which candidates must agree to be the same

FEATURES = (
    "prior",
    "log error of the prior",
    "density near",
    "density far",
    "steps to previous",
    "steps to next",
    "hold-out residual",
    "held out",
    "frame cover",
    "cell cover",
    "cover",
    "ever observed",
)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Classical estimates of a batch, in its normalised units.

    Parameters
    ----------
    estimates : (B, K, T, H, W), finite everywhere, in the order of ``CANDIDATES``.
    log_error : (B, K, T, H, W), log of the local mean absolute error on the internal hold-out; a little more for candidates that say
        the same as others, so that all of these weigh as one.
    prior : (B, T, H, W), the estimates weighted by ``error ** -PRIOR_POWER``.
    prior_error : (B, T, H, W), local mean absolute error of ``prior``, > 0.
    features : (B, F, T, H, W), in the order of ``FEATURES``, bounded.
    names : of the estimates, in their order.
    """

    estimates: Tensor
    log_error: Tensor
    prior: Tensor
    prior_error: Tensor
    features: Tensor
    names: tuple[str, ...] = CANDIDATES

    @property
    def covariates_help(self) -> Tensor | None:
        """Samples (B,) whose candidates start from covariates; None of candidates that hear of none."""
        if REGRESSED not in self.names or "cell mean" not in self.names:
            return None
        regressed, mean = (self.estimates[:, self.names.index(name)] for name in (REGRESSED, "cell mean"))
        return (regressed != mean).flatten(1).any(dim=1)  # what covariates do not help is the cell mean

    def to(self, device: torch.device | str) -> Candidates:
        """All tensors on ``device``."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "names"}
        return Candidates(**moved, names=self.names)


@torch.no_grad()
def compute_candidates(batch: Batch, fast: bool = False, names: tuple[str, ...] = CANDIDATES) -> Candidates:
    """All candidates, their errors and the features that go with them, for a batch in normalised units.

    ``fast``: kriging once for each view; the candidates that krige something else first, or regress on patterns, become this one. ``names``: those of
    ``CANDIDATES`` to give, in this order.
    """
    hidden = hidden_by_turns(batch.valid)
    return blend(batch, estimate_candidates(batch, hidden, fast, names), hidden, names)


Estimated = tuple[Tensor, tuple[Tensor, ...]]


@torch.no_grad()
def blend(
    batch: Batch, views: list[Estimated], hidden: list[Tensor], names: tuple[str, ...] = CANDIDATES
) -> Candidates:
    """The errors of candidates that are at hand, their prior and its features: the second half of :func:`compute_candidates`.

    Parameters
    ----------
    batch : what was estimated.
    views, hidden : what :func:`estimate_candidates` gave for :func:`hidden_by_turns`; of the estimates, those of ``names``.
    names : of the estimates, in their order.
    """
    (estimates, densities), (blind, blind_densities), *frames = views
    held_out = hidden[0]
    empty = empty_frames(batch.valid)
    there, here = proximity(blind_densities), proximity(densities)
    error = local_error((blind - batch.values[:, None]).abs(), held_out, there, here)
    if frames:
        asked = [FramesAsked(batch, said, cells) for (said, _), cells in zip(frames, hidden[1:], strict=True)]
        cells, own = (
            torch.cat(parts, dim=1) for parts in zip(*((a.cells, a.reach) for a in asked), strict=True)
        )
        missed = torch.cat([a.missed() for a in asked], dim=2)
        usual = error.flatten(2).mean(dim=2)
        real = reach(batch.valid, batch.times)
        runs = hidden_runs(batch.valid).flatten(1).any(dim=1)[:, None, None]
        empty = (empty & (cells.sum(dim=1) > 0)[:, None])[:, None, :, None, None]
        like, like_asked = (alike(wanted, own, cells, runs) for wanted in (real, own))
        octaves, octaves_asked = (
            farther(wanted, own, weight * cells[:, None])
            for wanted, weight in ((real, like), (own, like_asked))
        )
        growth = torch.tensor([GROWTHS.get(name, GROWTH) for name in names]).to(error)[:, None]
        in_frames = frame_error(missed, cells, usual, like) * (growth * octaves).exp()
        error = torch.where(empty, in_frames[..., None, None], error)
    shared = (copies(estimates).log() / PRIOR_POWER)[:, :, None, None, None]
    log_error = error.log() + shared
    weight = (-PRIOR_POWER * log_error).softmax(dim=1)
    prior = (weight * estimates).sum(dim=1)
    residual = torch.where(held_out, batch.values - (weight * blind).sum(dim=1), batch.values.new_zeros(()))
    prior_error = local_error(residual.abs()[:, None], held_out, there, here)
    if frames:
        there_too = frame_error(missed, cells, usual, like_asked) * (growth * octaves_asked).exp()
        said = [
            (-PRIOR_POWER * (e[..., None, None].log() + shared)).softmax(dim=1)
            for e in there_too.chunk(len(asked), dim=2)
        ]
        of_prior = torch.cat([a.missed(weight) for a, weight in zip(asked, said, strict=True)], dim=2)
        in_prior = frame_error(of_prior, cells, prior_error.flatten(2).mean(dim=2), like)
        in_prior = in_prior * (PRIOR_GROWTH * octaves).exp()
        prior_error = torch.where(empty, in_prior[..., None, None], prior_error)
    prior_error = prior_error[:, 0]
    features = torch.stack(
        (
            torch.asinh(prior),
            prior_error.log(),
            *(density.clamp_min(1e-4).log() for density in densities[:2]),
            *(torch.log1p(distance) for distance in densities[2:]),
            torch.asinh(residual / prior_error),
            held_out.float(),
            *cover(batch.valid),
        ),
        dim=1,
    )
    return Candidates(estimates, log_error, prior, prior_error, features.clamp(-CLIP, CLIP), names)


def estimate_candidates(
    batch: Batch, hidden: list[Tensor], fast: bool = False, names: tuple[str, ...] = CANDIDATES
) -> list[Estimated]:
    """The classical estimates (B, K, T, H, W), with densities near and far and steps to the neighbours, each (B, T, H, W).

    First from all that was observed, then without the cells of each entry of ``hidden`` (B, T, H, W). ``fast`` and ``names`` as
    in :func:`compute_candidates`.
    """
    views = [batch, *(batch.hide(cells) for cells in hidden)]
    kriged = krige(views, [v.values for v in views])
    drift = regress_on_covariates(views, hidden, kriged)
    if drift is None:
        return estimate_all(views, kriged, fast, names)
    found = estimate_all(drift.taken_off(views), drift.rest(kriged), fast, names)
    parts = enumerate(zip(views, found, strict=True))
    return [(put_back(view, names, said, drift, i, kriged[i]), near) for i, (view, (said, near)) in parts]


def estimate_all(
    views: list[Batch], kriged: list[Tensor], fast: bool, names: tuple[str, ...]
) -> list[Estimated]:
    """What :func:`estimate_candidates` gives where there are no covariates, from views that are kriged already."""
    regressed = [
        frame_regression.regress_frames(v.values, v.valid, field)
        for v, field in zip(views, kriged, strict=True)
    ]
    if fast:
        anomalous = framed = transformed = patterned = kriged
    else:
        anomalous = krige_anomalies(views)
        transformed = krige_transformed(views, kriged) if TRANSFORMED in names else kriged
        patterned = regress_on_patterns(views, kriged) if PATTERNS in names else kriged
        framed = krige_rest(views, regressed)
    fields = zip(kriged, anomalous, regressed, framed, transformed, patterned, strict=True)
    return [_all_estimates(view, names, *found) for view, found in zip(views, fields, strict=True)]


def put_back(
    view: Batch, names: tuple[str, ...], rest: Tensor, drift: Drift, number: int, kriged: Tensor
) -> Tensor:
    """Candidates (B, K, T, H, W) of what covariates leave over, with what these say; one says it alone, one never heard it."""
    whole = dict(zip(names, (rest + drift.start(number)[:, None]).unbind(1), strict=True))
    if "kriging" in whole:
        whole["kriging"] = kriged
    if REGRESSED in whole:
        helps = drift.helps[:, None, None, None]
        whole[REGRESSED] = torch.where(helps, drift.fitted[number], whole[REGRESSED])
    return bound(torch.stack(list(whole.values()), dim=1), view.values, view.valid)


def regress_on_patterns(views: list[Batch], kriged: list[Tensor]) -> list[Tensor]:
    """Each cell's series from the patterns in time of the kriged stack."""
    pairs = zip(views, kriged, strict=True)
    return [temporal_patterns.regress_on_patterns(v.values, v.valid, field) for v, field in pairs]


def _all_estimates(
    batch: Batch,
    names: tuple[str, ...],
    kriged: Tensor,
    anomalous: Tensor,
    regressed: Tensor,
    framed: Tensor,
    transformed: Tensor,
    patterned: Tensor,
) -> Estimated:
    values, valid = batch.values, batch.valid
    linear, previous, following = temporal.linear(values, valid, batch.times)
    near, near_density = convolution.normalized(values, valid, 1.2, 0.6)
    far, far_density = convolution.normalized(values, valid, 4.0, 2.0)
    mean = cell_mean(values, valid, far)
    linear = torch.where(torch.isfinite(linear), linear, far)
    near = torch.where(near_density > 1e-3, near, far)
    (splined,) = spline.dct_pls(values, valid, iterations=SPLINE_ITERATIONS).unbind(1)
    found = {
        "cell mean": mean,
        "linear": linear,
        "convolution": near,
        "spline": splined,
        "eof": variational_pca(values, valid, times=batch.times),
        "kriging": kriged,
        "kriging of anomalies": anomalous,
        "frame regression + residual": frame_regression.with_residual(regressed, values, valid),
        "frame regression + kriging": framed,
        REGRESSED: mean,
        REGRESSED_KRIGED: kriged,
        TRANSFORMED: transformed,
        PATTERNS: patterned,
    }
    estimates = torch.stack([found[name] for name in names], dim=1)
    step = median_step(batch.times)[:, :, None, None]
    distances = [(d / step).nan_to_num(posinf=1e3).clamp(0, 1e3) for d in (previous, following)]
    return bound(estimates, values, valid), (near_density, far_density, *distances)


def copies(estimates: Tensor) -> Tensor:
    """How many candidates say the same as each of them, itself included, (B, K); looked at in a thousand cells or so.

    Without covariates a regression on them is the cell mean, and of what is not skewed, transformed kriging is kriging.
    """
    said = estimates.flatten(2)
    said = said[:, :, :: max(1, said.shape[2] // COMPARED)]
    return (said[:, :, None] == said[:, None]).all(dim=3).sum(dim=2)


def bound(estimates: Tensor, values: Tensor, valid: Tensor) -> Tensor:
    """No estimate further outside the observed range than that range is wide; what is not finite becomes the mean."""
    lowest = values.masked_fill(~valid, torch.inf).flatten(1).amin(dim=1)
    highest = values.masked_fill(~valid, -torch.inf).flatten(1).amax(dim=1)
    nothing = ~torch.isfinite(lowest)
    lowest, highest = lowest.masked_fill(nothing, 0.0), highest.masked_fill(nothing, 0.0)
    reach = 0.5 * (highest - lowest)
    shape = (-1, 1, 1, 1, 1)
    finite = torch.nan_to_num(estimates, nan=0.0, posinf=0.0, neginf=0.0)
    return finite.clamp((lowest - reach).view(shape), (highest + reach).view(shape))


def cell_mean(values: Tensor, valid: Tensor, fallback: Tensor) -> Tensor:
    """Mean over time of each cell, drawn towards ``fallback`` where it was hardly ever observed, (B, T, H, W)."""
    count = valid.sum(dim=1, keepdim=True)
    mean = values.sum(dim=1, keepdim=True) / count.clamp_min(1)
    return torch.where(count > 0, mean, fallback.mean(dim=1, keepdim=True)).expand_as(values)


def cover(valid: Tensor) -> tuple[Tensor, ...]:
    """Observed share of the frame, of the cell's series, of everything; and whether the cell was ever observed."""
    seen = valid.float()
    cell = seen.mean(dim=1, keepdim=True)
    shares = (
        seen.mean(dim=(2, 3), keepdim=True),
        cell,
        seen.mean(dim=(1, 2, 3), keepdim=True),
        (cell > 0).float(),
    )
    return tuple(share.expand_as(seen) for share in shares)
