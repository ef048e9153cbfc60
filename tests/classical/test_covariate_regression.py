"""Regression on covariates: recovers known laws, remembers, stays level where covariates say nothing, ignores what is unknown."""

import torch

from stimpute.classical.covariate_regression import recent_mean, regress_covariates

SHAPE = (1, 6, 8, 9)


def world(seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    dynamic = torch.randn((1, 2, *shape[1:]), generator=generator)
    static = torch.randn((1, 1, *shape[2:]), generator=generator)
    truth = 3 + 2 * dynamic[:, 0] - 0.5 * dynamic[:, 0] ** 2 + static
    valid = torch.rand(shape, generator=generator) > 0.6
    return truth, valid, dynamic, static


def regress(truth, valid, dynamic, static):
    known = torch.ones_like(dynamic, dtype=torch.bool), torch.ones_like(static, dtype=torch.bool)
    days = torch.arange(float(truth.shape[1])).expand(len(truth), -1)
    return regress_covariates(truth, valid, dynamic, known[0], static, known[1], days)


def share_missed(fitted, truth, valid):
    """Mean error in gaps over that of the mean."""
    return (fitted - truth)[~valid].abs().mean() / (truth - truth[valid].mean())[~valid].abs().mean()


def test_a_quadratic_law_is_recovered():
    truth, valid, dynamic, static = world(shape=(1, 20, 16, 16))
    assert share_missed(regress(truth, valid, dynamic, static), truth, valid) < 0.01


def test_a_law_that_is_no_polynomial_is_learned():
    _, valid, dynamic, static = world(1, (1, 20, 16, 16))
    truth = torch.sin(2 * dynamic[:, 0]) + (static > 0)
    assert share_missed(regress(truth, valid, dynamic, static), truth, valid) < 0.3


def test_what_was_is_remembered_and_what_will_be_is_not_known():
    _, valid, dynamic, static = world(2, (1, 40, 8, 8))
    later = dynamic[:, 0].flip(1)
    for known, remembered in ((dynamic[:, 0], True), (later, False)):
        truth = recent_mean(known, torch.arange(40.0), 3.0)
        truth = truth if remembered else truth.flip(1)
        missed = share_missed(regress(truth, valid, dynamic, static), truth, valid)
        assert (missed < 0.2) == remembered


def test_days_without_a_step_are_forgotten_like_others():
    fields = torch.tensor([[8.0, 0.0]])
    next_day, next_year = (
        recent_mean(torch.cat((fields, fields), 1), torch.tensor([0.0, 1.0, 2.0, last]), 1.0)[0]
        for last in (3.0, 366.0)
    )
    assert next_day[3] > 1
    assert next_year[3] < 1e-6


def test_noise_says_next_to_nothing():
    truth, valid, dynamic, static = world(3, (1, 20, 16, 16))
    generator = torch.Generator().manual_seed(9)
    others = torch.randn(dynamic.shape, generator=generator), torch.randn(static.shape, generator=generator)
    assert share_missed(regress(truth, valid, *others), truth, valid) < 1.1


def test_beyond_what_was_seen_covariates_count_as_at_its_edge():
    truth, valid, dynamic, static = world()
    far = dynamic.clone()
    far[:, :, ~valid[0]] *= 1e4
    found = regress(truth, valid, far, static)
    assert found.abs().max() < 10 * truth.abs().max()


def test_few_cells_give_their_mean():
    truth, valid, dynamic, static = world()
    valid[:] = False
    valid[0, 2, 3, :4] = True
    torch.testing.assert_close(regress(truth, valid, dynamic, static), truth[valid].mean().expand_as(truth))


def test_none_without_covariates() -> None:
    truth, valid, dynamic, static = world()
    assert regress(truth, valid, dynamic[:, :0], static[:, :0]) is None


def test_unknown_covariates_are_what_lies_around_them_whatever_stands_there():
    generator = torch.Generator().manual_seed(6)
    rough = torch.randn((2, 1, 5, 4, 4), generator=generator)
    dynamic, static = torch.nn.functional.interpolate(rough, (20, 16, 16), mode="trilinear")
    static = static[:, 0]
    truth = (2 * dynamic[0] + static)[None]
    valid = torch.rand(truth.shape, generator=generator) > 0.6
    known, still = (
        torch.rand(dynamic.shape, generator=generator) > 0.3,
        torch.ones_like(static, dtype=torch.bool),
    )
    still[0, 3:5, 3:5] = False
    days = torch.arange(20.0)[None]

    def missed(fill):
        spoilt = dynamic.masked_fill(~known, fill)[None], static.masked_fill(~still, fill)[None]
        found = regress_covariates(truth, valid, spoilt[0], known[None], spoilt[1], still[None], days)
        return share_missed(found, truth, valid)

    assert missed(torch.nan) < 0.15
    assert missed(torch.nan) == missed(1e9)
