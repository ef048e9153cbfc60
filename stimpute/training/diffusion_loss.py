"""What the two diffusions minimise, each apart or both together. Knows nothing about where examples come from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stimpute.classical.refinement import spread_blocks
from stimpute.diffusion.ensemble import draw_ensemble
from stimpute.diffusion.network import Conditions, DiffRecon
from stimpute.diffusion.noise import Noise
from stimpute.diffusion.schedule import LATEST, alpha_sigma, data_of, noised
from stimpute.training.pairs import Pairs

Stage = Literal["coarse", "fine", "joint", "both", "single"]
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # of the way from the guess to the expected field
_DRAWS = 4  # of noise, in opposite pairs, that the expected field is averaged over
_LEAST_SIZE = 0.05  # of an example's squared residual: below, the guess is good enough
_LATE, _LATE_SHARE = 0.8, 0.3  # where the mean of the ensemble is decided


def stage_loss(network: DiffRecon, pairs: Pairs, stage: Stage, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocities over the cells that count; gradients through both diffusions where ``joint``.

    ``coarse``: completed by Diffusion-C alone. ``fine``: Diffusion-F on the true coarse field. ``joint``: Diffusion-F on what
    Diffusion-C says of the data from one noise level. ``both``: both in one step, each as if apart. ``single``: the network of one stage.
    """
    given = network.conditions(pairs.batch, pairs.guess, pairs.covariates)
    if stage == "single":
        return single_loss(network, given, pairs, generator)
    if stage == "fine":
        return fine_loss(network, given, pairs, pairs.coarse, generator)
    loss, completed = coarse_loss(network, given, pairs, generator)
    if stage == "coarse":
        return loss
    return loss + fine_loss(network, given, pairs, completed if stage == "joint" else pairs.coarse, generator)


def coarse_loss(
    network: DiffRecon, given: Conditions, pairs: Pairs, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The loss of Diffusion-C, and the completed field that it stands for."""
    target = network.coarse_target(pairs.guess, pairs.coarse)
    time, noise = _drawn(target, generator)
    seen, velocity = noised(target, noise, time)
    said = network.coarse_velocity(given, seen, time)
    wanted = pairs.known & ~pairs.guess.valid
    loss = _balanced((said - velocity).square(), target.square(), wanted, time)
    return loss, network.completed(pairs.guess, data_of(seen, said, time))


def fine_loss(
    network: DiffRecon, given: Conditions, pairs: Pairs, completed: Tensor, generator: torch.Generator
) -> Tensor:
    """The loss of Diffusion-F on a completed field."""
    fine = network.guessed(given, completed)
    target = network.fine_target(fine, pairs.fine)
    time, noise = _drawn(target, generator)
    seen, velocity = noised(target, noise, time)
    said = network.fine_velocity(given, completed, fine, network.pattern(completed), seen, time)
    return _balanced((said - velocity).square().mean(dim=-1), target.square().mean(dim=-1), pairs.known, time)


def single_loss(network: DiffRecon, given: Conditions, pairs: Pairs, generator: torch.Generator) -> Tensor:
    """The loss of a single diffusion straight to the fine field."""
    start = network.completed(pairs.guess, torch.zeros_like(pairs.coarse))
    fine = network.guessed(given, start)
    means = network.coarse_target(pairs.guess, pairs.coarse)[..., None]
    target = torch.cat((means, network.fine_target(fine, pairs.fine)), dim=-1)
    time, noise = _drawn(target, generator)
    seen, velocity = noised(target, noise, time)
    error = (
        network.fine_velocity(given, start, fine, network.pattern(start), seen, time) - velocity
    ).square()
    wanted = pairs.known & ~pairs.guess.valid
    size = target.square()
    return _balanced(error[..., 0], size[..., 0], wanted, time) + _balanced(
        error[..., 1:].mean(dim=-1), size[..., 1:].mean(dim=-1), pairs.known, time
    )


def _drawn(target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times (B,), spread evenly over the batch with more of the late ones, and noise."""
    count = len(target)
    lot = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1
    late = torch.rand(count, generator=generator) < _LATE_SHARE
    time = torch.where(late, _LATE + (LATEST - _LATE) * lot, lot * LATEST).to(target.device)
    return time, torch.randn(target.shape, generator=generator).to(target.device)


def _balanced(error: Tensor, size: Tensor, wanted: Tensor, time: Tensor) -> Tensor:
    """Mean over the cells that count of each example, in units of the variance of its velocity; then over the examples.

    A network that says nothing has a loss of about 1 on every example, so that what nobody can predict does not drown what can
    be improved.
    """
    weight = wanted.to(error).flatten(1)
    count = weight.sum(dim=1)
    means = ((x.flatten(1) * weight).sum(dim=1) / count.clamp_min(1) for x in (error, size))
    mean, usual = means
    alpha, sigma = alpha_sigma(time)
    variance = alpha.square() + sigma.square() * usual.clamp_min(_LEAST_SIZE)
    return (mean / variance * (count > 0)).mean()


@torch.no_grad()
def measure_spreads(network: DiffRecon, batches: list[Pairs]) -> None:
    """Set the usual sizes of the residuals from some batches, so that both diffusions see data of unit variance."""
    network.coarse_spread.fill_(1.0)
    network.detail_spread.fill_(1.0)
    coarse, details = [], []
    for pairs in batches:
        wanted = pairs.known & ~pairs.guess.valid
        coarse.append(network.coarse_target(pairs.guess, pairs.coarse)[wanted])
        given = network.conditions(pairs.batch, pairs.guess, pairs.covariates)
        details.append(network.fine_target(network.guessed(given, pairs.coarse), pairs.fine)[pairs.known])
    network.coarse_spread.fill_(float(torch.cat(coarse).square().mean().sqrt().clamp_min(0.1)))
    network.detail_spread.copy_(torch.cat(details).square().mean(dim=0).sqrt().clamp_min(0.05))


@torch.no_grad()
def judge(network: DiffRecon, batches: list[Pairs]) -> dict[str, float]:
    """Mean absolute errors of the expected field (what the networks say of pure noise), divided by those of the guess.

    ``fine``: over all cells, geometric mean over the examples; ``coarse``: over the hidden coarse cells; both where the expected field
    moves the guess by the ``share`` of the way that is best for ``fine``. ``network.share`` is left as it was.
    """
    kept = float(network.share)
    found: dict[str, list[Tensor]] = {}
    network.share.fill_(1.0)
    for pairs in batches:
        given = network.conditions(pairs.batch, pairs.guess, pairs.covariates)
        said = [x.mean(dim=0) for x in draw_ensemble(network, given, _DRAWS, Noise(0), steps=1)]
        hidden = pairs.known & ~pairs.guess.valid
        truths = (pairs.coarse, pairs.fine)
        weights = (hidden.float(), spread_blocks(pairs.known.float(), network.config.factor))
        for name, full, guess, truth, where in zip(
            ("coarse", "fine"), said, network.start(given), truths, weights, strict=True
        ):
            errors = torch.stack(
                [((guess + s * (full - guess) - truth).abs() * where).flatten(1).sum(dim=1) for s in SHARES]
            )
            usual = errors[0] > 1e-6
            found.setdefault(name, []).append(
                (errors / errors[0].clamp_min(1e-6)).clamp_min(1e-6).log()[:, usual]
            )
    network.share.fill_(kept)
    ratios = {name: torch.cat(logs, dim=1).mean(dim=1).exp() for name, logs in found.items()}
    best = int(ratios["fine"].nan_to_num(nan=1.0).argmin())
    result = {name: float(r[best]) for name, r in ratios.items() if bool(torch.isfinite(r[best]))}
    return {**result, "share": SHARES[best]}
