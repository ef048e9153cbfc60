"""Worlds are seeded, finite, varied, of unit scale, and their informative covariates inform."""

import pytest
import torch
from torch import Tensor

from stimpute.synthetic import MARGINALS, WorldBatch, sample_worlds
from stimpute.synthetic.calendar import DAYS_PER_YEAR, sample_calendar
from stimpute.synthetic.draw import Draw


def worlds(
    seed: int, batch: int = 4, shape: tuple[int, int, int] = (12, 16, 16), **options: bool
) -> WorldBatch:
    return sample_worlds(torch.Generator().manual_seed(seed), batch, shape, **options)


@pytest.fixture(scope="module")
def many() -> WorldBatch:
    return worlds(5, 96, (16, 16, 16))


def test_same_seed_same_worlds():
    a, b, c = worlds(3), worlds(3), worlds(4)
    for name in ("truth", "times", "dynamic", "static", "domain"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert not torch.equal(a.truth, c.truth)


def test_global_randomness_is_neither_used_nor_touched():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a = worlds(3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(a.truth, worlds(3).truth)


@pytest.mark.parametrize("shape", [(1, 20, 30), (40, 1, 1), (2, 3, 1), (1, 1, 1), (70, 8, 8), (3, 48, 20)])
def test_any_shape(shape):
    world = worlds(0, 3, shape)
    assert world.truth.shape == (3, *shape)
    assert world.domain.shape == (3, *shape[1:])
    for x in (world.truth, world.dynamic, world.static, world.times):
        assert torch.isfinite(x).all()
        assert x.dtype == torch.float32


def test_unit_scale_around_an_offset(many):
    scale = many.truth.std(dim=(1, 2, 3))
    assert float(scale.min()) > 0.5
    assert float(scale.max()) < 1.8
    assert float(many.truth.mean(dim=(1, 2, 3)).abs().max()) < 2.5
    assert float(many.truth.abs().max()) < 200


def test_every_marginal_occurs_and_zero_inflation_is_zero_inflated(many):
    assert set(many.marginal.tolist()) == set(range(len(MARGINALS)))
    zero_inflated = many.truth[many.marginal == MARGINALS.index("zero-inflated")]
    lowest = zero_inflated.amin(dim=(1, 2, 3), keepdim=True)
    assert float((zero_inflated == lowest).float().mean()) > 0.4


def test_worlds_differ_in_spatial_and_temporal_memory(many):
    centred = many.truth - many.truth.mean(dim=(1, 2, 3), keepdim=True)
    power = centred.square().mean(dim=(1, 2, 3))
    space = (centred[..., 1:] * centred[..., :-1]).mean(dim=(1, 2, 3)) / power
    time = (centred[:, 1:] * centred[:, :-1]).mean(dim=(1, 2, 3)) / power
    for correlation in (space, time):
        assert float(correlation.min()) < 0.25
        assert float(correlation.max()) > 0.9


def test_informative_covariates_inform_and_the_others_do_not(many):
    def correlation(a: Tensor, b: Tensor, where: Tensor) -> float:
        a, b = a[where], b[where]
        return abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1]))

    def all_of(informative: bool) -> list[float]:
        found = []
        for b, c in (many.dynamic_informative == informative).nonzero().tolist():
            known = many.dynamic_valid[b, c]
            if known.any() and many.dynamic[b, c][known].std() > 0:
                found.append(correlation(many.dynamic[b, c], many.truth[b], known))
        return sorted(found)

    informed, misled = all_of(True), all_of(False)
    assert len(informed) > 30
    assert len(misled) > 15
    assert informed[len(informed) // 2] > misled[len(misled) // 2] + 0.1
    assert informed[-1] > 0.8


def test_static_covariates_tell_cell_means(many):
    def strength(informative: bool) -> float:
        found = []
        for b, s in (many.static_informative == informative).nonzero().tolist():
            if many.static_valid[b, s].any() and many.static[b, s].std() > 0:
                mean = many.truth[b].mean(0).flatten()
                found.append(
                    abs(float(torch.corrcoef(torch.stack([many.static[b, s].flatten(), mean]))[0, 1]))
                )
        return sorted(found)[len(found) // 2]

    assert strength(True) > strength(False) + 0.1


def test_absent_covariates_are_zero_and_invalid(many):
    assert not many.dynamic[~many.dynamic_valid].any()
    assert not many.static[~many.static_valid].any()
    per_world = many.dynamic_valid.flatten(2).any(2).sum(1)
    assert int(per_world.min()) == 0
    assert int(per_world.max()) == many.dynamic.shape[1]
    none = worlds(1, covariates=False)
    assert none.dynamic.shape[1] == 0
    assert none.static.shape[1] == 0


def test_domain_is_mostly_whole_never_empty(many):
    share = many.domain.float().mean(dim=(1, 2))
    assert 0.5 < float((share == 1).float().mean()) < 0.95
    assert float(share.min()) > 0.25


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        worlds(0, 0)
    with pytest.raises(ValueError, match="shape \\(3, 0, 4\\)"):
        worlds(0, 1, (3, 0, 4))


def test_calendars_increase_and_phases_follow_the_dates():
    calendar = sample_calendar(Draw(torch.Generator().manual_seed(2)), 300, 20)
    assert bool((calendar.times.diff(dim=1) > 0).all())
    for phase, period in ((calendar.year_phase, DAYS_PER_YEAR), (calendar.day_phase, 1.0)):
        assert float(phase.min()) >= 0
        assert float(phase.max()) < 1
        turned = (phase[:, -1] - phase[:, 0] - calendar.times[:, -1].double() / period).double()
        assert float((turned - turned.round()).abs().max()) < 0.01
    steps = calendar.times.diff(dim=1)
    regular = (steps.amax(1) - steps.amin(1)) < 0.01 * steps.amin(1)
    assert 0.4 < float(regular.float().mean()) < 0.8
    assert float(calendar.step.min()) < 1 / 24 + 1e-6
    assert float((steps.amax(1) / steps.amin(1)).max()) > 20  # bursts with long holes
