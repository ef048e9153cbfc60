"""The network: the paper's configuration, no leak from hidden values, gradients everywhere, fused equals plain."""

import dataclasses

import numpy as np
import pytest
import torch

from stimpute.errors import ModelError
from stimpute.layers.attention import MultiHeadAttention, WindowAttention
from stimpute.model.batch import Batch, covariate_moments
from stimpute.model.candidates import CANDIDATES, FEATURES, compute_candidates
from stimpute.model.config import ModelConfig
from stimpute.model.inner_hold_out import inner_hold_out
from stimpute.model.method import STMethod, predict
from stimpute.model.st_transformer import STTransformer, with_candidates
from stimpute.stack import Stack

TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "cell_dim": 8}


def batch(shape: tuple[int, int, int, int] = (2, 6, 9, 10), *, covariates: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn(shape, generator=generator).cumsum(1) * 0.3
    valid = torch.rand(shape, generator=generator) < 0.5
    plain = Batch.plain(smooth, valid)
    dynamic = torch.randn(shape[0], covariates, *shape[1:], generator=generator)
    static = torch.randn(shape[0], 1, *shape[2:], generator=generator)
    return dataclasses.replace(
        plain,
        dynamic=dynamic,
        dynamic_valid=torch.ones_like(dynamic, dtype=torch.bool),
        static=static,
        static_valid=torch.ones_like(static, dtype=torch.bool),
    )


def network(seed: int = 0, **changes: object) -> STTransformer:
    torch.manual_seed(seed)
    return STTransformer(ModelConfig(**{**TINY, **changes}))  # type: ignore[arg-type]


def test_the_paper_can_be_built() -> None:
    config = ModelConfig.paper(covariates=("rain", "tmin", "clay"), spatial_embedding=(12, 12))
    net = STTransformer(config)
    assert (config.embed_dim, config.depth, config.window_size, config.shift_size) == (64, 4, 4, 2)
    assert net.spread.in_features == 4 * 64  # all layers' outputs joined
    for layer in net.layers:
        shifts = [s.shift_size for s in layer.spatial if isinstance(s, WindowAttention)]
        assert shifts == [0, 2]
        assert layer.temporal is not None
    small = batch((1, 5, 12, 12), covariates=2)
    assert net(small).mean.shape == (1, 5, 12, 12)


@pytest.mark.parametrize("attention", ["msa", "swmsa", "sba"])
@pytest.mark.parametrize("head", ["blend", "direct"])
@pytest.mark.parametrize("shape", [(2, 6, 9, 10), (1, 1, 7, 5), (1, 9, 1, 1), (1, 3, 1, 6)])
def test_any_shape_gives_finite_means_and_positive_scales(
    attention: str, head: str, shape: tuple[int, ...]
) -> None:
    stack = batch(shape)  # type: ignore[arg-type]
    answer = predict(network(attention=attention, head=head), stack)
    assert answer.mean.shape == shape
    assert torch.isfinite(answer.mean).all()
    assert (answer.scale > 0).all()


@pytest.mark.parametrize("head", ["blend", "direct"])
def test_no_cell_reads_a_hidden_value(head: str) -> None:
    """Whatever stands in the cells held out, nothing that comes out changes."""
    stack = batch()
    held_out = stack.valid & (torch.rand(stack.shape, generator=torch.Generator().manual_seed(1)) < 0.4)
    other = dataclasses.replace(stack, values=torch.where(held_out, stack.values + 7.0, stack.values))
    net = network(head=head)
    first, second = predict(net, stack.hide(held_out)), predict(net, other.hide(held_out))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.scale, second.scale)
    unzeroed = dataclasses.replace(
        stack.hide(held_out), values=torch.where(held_out, 9.0, stack.hide(held_out).values)
    )
    third = predict(net, unzeroed)
    assert torch.equal(first.mean, third.mean), "a value left in a gap was read"
    assert torch.equal(first.scale, third.scale)


@pytest.mark.parametrize("attention", ["msa", "swmsa", "sba"])
def test_gradients_reach_every_parameter(attention: str) -> None:
    stack = batch()
    net = network(attention=attention, spatial_embedding=(9, 10))
    answer = net(stack, compute_candidates(stack))
    (answer.mean.square().mean() + answer.scale.mean()).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("attention", ["msa", "swmsa", "sba"])
def test_fused_attention_equals_plain(attention: str) -> None:
    stack, net = batch(), network(attention=attention)
    fused = predict(net, stack)
    for module in net.modules():
        if isinstance(module, MultiHeadAttention):
            module.fused = False
    difference = (predict(net, stack).mean - fused.mean).abs().max().item()
    assert difference < 1e-4, f"largest difference {difference}"


def test_bf16_agrees_with_fp32() -> None:
    stack, net = batch(), network()
    difference = (predict(net, stack, "bf16").mean - predict(net, stack).mean).abs().max().item()
    assert difference < 0.05, f"largest difference {difference}"


def test_ablations_switch_parts_off() -> None:
    assert network(use_time=False).layers[0].temporal is None
    assert len(network(use_space=False).layers[0].spatial) == 0


def test_an_untrained_network_is_next_to_its_prior() -> None:
    stack = batch(covariates=0)
    candidates = compute_candidates(stack)
    assert (network()(stack, candidates).mean - candidates.prior).abs().max() < 0.1


def test_candidates_are_finite_and_named() -> None:
    found = compute_candidates(batch())
    assert found.estimates.shape[1] == len(CANDIDATES)
    assert found.features.shape[1] == len(FEATURES)
    for tensor in (found.estimates, found.log_error, found.prior, found.features):
        assert torch.isfinite(tensor).all()
    assert (found.prior_error > 0).all()


def test_the_inner_hold_out_hides_observed_cells_only_and_leaves_most() -> None:
    valid = batch((3, 12, 16, 16)).valid
    held_out = inner_hold_out(valid)
    assert not (held_out & ~valid).any()
    share = held_out.flatten(1).sum(1) / valid.flatten(1).sum(1)
    assert (share > 0.02).all()
    assert (share < 0.6).all()
    assert torch.equal(inner_hold_out(valid[1:2]), held_out[1:2]), "depends on the place in the batch"


def test_method_is_equivariant_to_units_and_deterministic() -> None:
    rng = np.random.default_rng(0)
    field = rng.normal(size=(5, 8, 9)).cumsum(0).astype(np.float32)
    field[rng.random(field.shape) < 0.4] = np.nan
    method = STMethod(network())
    kelvin, celsius = Stack.from_array(field * 4 + 290), Stack.from_array(field)
    first = method.prepare(kelvin).impute(kelvin)
    second = method.prepare(celsius).impute(celsius)
    assert np.allclose((first.mean - 290) / 4, second.mean, atol=2e-3)
    assert first.scale is not None
    again = method.prepare(kelvin).impute(kelvin)
    assert np.array_equal(first.mean, again.mean)


def test_a_model_that_needs_covariates_says_which() -> None:
    method = STMethod(network(covariates=("rain", "clay")))
    stack = Stack.from_array(np.ones((2, 3, 3)), static={"clay": np.ones((3, 3))})
    with pytest.raises(ModelError, match="rain"):
        method.prepare(stack)


def test_config_round_trip_and_refusals() -> None:
    config = ModelConfig.paper(covariates=("a",), spatial_embedding=(3, 4))
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ModelError, match="unknown"):
        ModelConfig.from_dict({"wings": 2})
    with pytest.raises(ModelError, match="shift"):
        ModelConfig(shift_size=4)


def test_covariates_are_standardised_by_the_stack() -> None:
    stack = Stack.from_array(np.zeros((2, 2, 2)), static={"z": np.array([[0, 2], [np.nan, 4]])})
    made = Batch.from_stacks([stack], 0.0, 1.0, covariate_moments(stack))
    assert made.static_valid.tolist() == [[[[True, True], [False, True]]]]
    assert made.static[0, 0, 1, 0] == 0
    assert abs(float(made.static[0, 0].sum())) < 1e-5


@pytest.mark.parametrize("attention", ["msa", "swmsa", "sba"])
def test_working_in_parts_changes_nothing(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, net = batch((1, 11, 9, 10)), network(attention=attention)
    whole = predict(net, stack)
    monkeypatch.setattr("stimpute.layers.attention.PART_TOKENS", 40)
    monkeypatch.setattr("stimpute.model.st_transformer.PART_CELLS", 200)
    parts = predict(net, stack)
    difference = max(
        (parts.mean - whole.mean).abs().max().item(), (parts.scale - whole.scale).abs().max().item()
    )
    assert difference < 1e-5, f"largest difference {difference}"


def test_models_that_do_not_name_their_candidates_have_the_first_eleven() -> None:
    stored = {k: v for k, v in ModelConfig(**TINY).to_dict().items() if k != "candidates"}  # type: ignore[arg-type]
    config = ModelConfig.from_dict(stored)
    assert config.candidates == CANDIDATES[:11]
    assert torch.isfinite(predict(STTransformer(config), batch()).mean).all()
    for hostile in (5, None, [1], [["kriging"]]):
        with pytest.raises(ModelError, match="cannot be read"):
            ModelConfig.from_dict({"candidates": hostile})
    assert ModelConfig.from_dict({"candidates": list(CANDIDATES)}) == ModelConfig()
    with pytest.raises(ModelError, match="crystal ball"):
        ModelConfig(candidates=("crystal ball",))


def test_other_candidates_than_the_networks_are_refused() -> None:
    stack = batch()
    with pytest.raises(ValueError, match="was given linear"):
        network()(stack, compute_candidates(stack, names=("linear",)))


def test_a_network_given_more_candidates_keeps_what_it_knows() -> None:
    few = network(candidates=("kriging", "linear", "eof"))
    torch.nn.init.normal_(few.head.last.weight, std=0.1)
    wide = with_candidates(few, ("linear", "spline", "kriging", "eof"))
    stack = batch()
    given = compute_candidates(stack, names=few.config.candidates)
    more = compute_candidates(stack, names=wide.config.candidates)
    never = torch.full_like(more.log_error[:, 1], 30.0)  # the new one errs beyond measure
    muted = dataclasses.replace(
        more,
        **{name: getattr(given, name) for name in ("prior", "prior_error", "features")},
        log_error=torch.stack((more.log_error[:, 0], never, *more.log_error[:, 2:].unbind(1)), dim=1),
    )
    torch.testing.assert_close(wide(stack, muted).mean, few(stack, given).mean)
