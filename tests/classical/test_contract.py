"""What every classical function promises: gaps are not read, units do not matter, nothing breaks at the edges."""

import pytest
import torch

from stimpute.classical.convolution import normalized
from stimpute.classical.covariate_regression import regress_covariates
from stimpute.classical.eof import dineof
from stimpute.classical.frame_regression import regress_frames, with_residual
from stimpute.classical.spline import dct_pls
from stimpute.classical.temporal import linear, linear_filled
from stimpute.classical.variational_pca import variational_pca


def covariates(values, valid, times):
    dynamic = times[:, None, :, None, None].expand(len(values), 1, *values.shape[1:]).to(values.dtype)
    none = values[:, :0], valid[:, :0]
    known = torch.ones_like(dynamic, dtype=torch.bool)
    return regress_covariates(values, valid, dynamic, known, none[0], none[1], times)


def regression(values, valid, times):
    return regress_frames(values, valid, linear_filled(values, valid, times))


FUNCTIONS = {
    "linear": lambda v, k, t: linear(v, k, t)[0],
    "convolution": lambda v, k, t: normalized(v, k, 2.0, 1.0, t)[0],
    "spline": lambda v, k, t: dct_pls(v, k, iterations=20, snapshots=(10, 20)),
    "dineof": lambda v, k, t: dineof(v, k, (1, 3), iterations=4, times=t),
    "variational_pca": lambda v, k, t: variational_pca(v, k, times=t),
    "regression": regression,
    "with_residual": lambda v, k, t: with_residual(regression(v, k, t), v, k),
    "covariates": covariates,
}
SHAPES = [(2, 6, 9, 7), (1, 1, 8, 8), (2, 5, 1, 1), (1, 1, 1, 1), (1, 365, 4, 3), (1, 40, 10, 12)]
KINDS = ["scattered", "nothing", "constant", "empty frame", "complete"]


def case(shape, kind):
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(shape, generator=generator)
    valid = torch.rand(shape, generator=generator) > 0.5
    times = torch.rand(shape[:2], generator=generator).add(0.1).cumsum(1)
    if kind == "nothing":
        valid[:] = False
    elif kind == "constant":
        values[:] = 3.0
    elif kind == "empty frame":
        valid[:, 0] = False
    elif kind == "complete":
        valid[:] = True
    return values, valid, times


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gaps_are_not_read_and_results_are_finite_and_in_units(name, shape, kind):
    function = FUNCTIONS[name]
    values, valid, times = case(shape, kind)
    result = function(torch.where(valid, values, 0.0), valid, times)
    for rubbish in (1e9, torch.nan):
        assert torch.equal(
            function(torch.where(valid, values, rubbish), valid, times).nan_to_num(-77.0),
            result.nan_to_num(-77.0),
        )
    never = ~valid.any(dim=1, keepdim=True).expand(shape) if name == "linear" else torch.zeros_like(valid)
    assert torch.equal(result.isnan(), never.expand_as(result))
    if valid.any():
        moved = function(torch.where(valid, 5 * values + 100, 0.0), valid, times)
        torch.testing.assert_close(moved, 5 * result + 100, atol=5e-3, rtol=0, equal_nan=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sample_does_not_depend_on_its_batch(name):
    function = FUNCTIONS[name]
    values, valid, times = case((3, 6, 9, 7), "scattered")
    together = function(values, valid, times)
    alone = torch.cat([function(values[i, None], valid[i, None], times[i, None]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0, equal_nan=True)
