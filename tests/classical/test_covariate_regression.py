"""Regression on covariates: recovers a known law, ignores what is unknown."""

import torch

from stimpute.classical.covariate_regression import regress_covariates

SHAPE = (1, 6, 8, 9)


def world(seed=0):
    generator = torch.Generator().manual_seed(seed)
    dynamic = torch.randn((1, 2, *SHAPE[1:]), generator=generator)
    static = torch.randn((1, 1, *SHAPE[2:]), generator=generator)
    truth = 3 + 2 * dynamic[:, 0] - 0.5 * dynamic[:, 0] ** 2 + static
    valid = torch.rand(SHAPE, generator=generator) > 0.6
    return truth, valid, dynamic, static


def regress(truth, valid, dynamic, static, **options):
    known = torch.ones_like(dynamic, dtype=torch.bool), torch.ones_like(static, dtype=torch.bool)
    return regress_covariates(truth, valid, dynamic, known[0], static, known[1], **options)


def test_a_quadratic_law_is_recovered():
    truth, valid, dynamic, static = world()
    error = (regress(truth, valid, dynamic, static, ridge=1e-3) - truth).abs().max().item()
    assert error < 1e-2


def test_anomalies_keep_what_covariates_do_not_explain():
    _, valid, dynamic, static = world()
    offset = 10 * torch.randn((1, 1, *SHAPE[2:]), generator=torch.Generator().manual_seed(5))
    linear_law = offset + 2 * dynamic[:, 0]
    seen_twice = (valid.sum(1, keepdim=True) >= 2) & ~valid
    plain = (regress(linear_law, valid, dynamic, static) - linear_law)[seen_twice].abs().mean()
    by_cell = (
        (regress(linear_law, valid, dynamic, static, anomalies=True) - linear_law)[seen_twice].abs().mean()
    )
    assert by_cell < 0.1 * plain


def test_none_without_covariates_and_nan_where_none_is_known():
    truth, valid, dynamic, static = world()
    assert regress(truth, valid, dynamic[:, :0], static[:, :0]) is None
    known = torch.ones_like(dynamic, dtype=torch.bool)
    known[:, :, 2, 3, 4] = False
    static_known = torch.ones_like(static, dtype=torch.bool)
    static_known[:, :, 3, 4] = False
    fitted = regress_covariates(
        truth, valid, dynamic.masked_fill(~known, torch.nan), known, static, static_known
    )
    assert fitted[0, 2, 3, 4].isnan()
    assert fitted.isnan().sum() == 1
