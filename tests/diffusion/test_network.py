"""The networks of DiffRecon: what they may and may not look at, and that they start from the guess."""

from __future__ import annotations

import pytest
import torch

from stimpute.classical.refinement import block_mean
from stimpute.diffusion.config import DiffReconConfig
from stimpute.diffusion.ensemble import draw_ensemble, widening_for
from stimpute.diffusion.guess import fine_guess, growth_sum, octaves, regress_details
from stimpute.diffusion.network import DiffRecon
from stimpute.diffusion.noise import Noise
from stimpute.diffusion.pattern_net import PatternNet, top_periods
from stimpute.diffusion.point_former import PointFormer, block_shape
from stimpute.errors import ModelError
from stimpute.training.diffusion_loss import stage_loss
from stimpute.training.pairs import PairFeed

CONFIG = DiffReconConfig(factor=2, width=8, token_dim=16, num_heads=2, pattern_dim=4)


@pytest.fixture(scope="module")
def pairs():
    return PairFeed([], 2, shapes=((2, 6, 6, 7),), seed=3).pairs(0)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DiffRecon(CONFIG).eval()


def shaken(network):
    """Weights that do something, the last layers too."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return network


def conditions(network, pairs):
    with torch.no_grad():
        return network.conditions(pairs.batch, pairs.guess, pairs.covariates)


def test_an_untrained_network_is_the_guess(network, pairs):
    given = conditions(network, pairs)
    completed, members = draw_ensemble(network, given, 4, Noise(0))
    start = network.completed(pairs.guess, torch.zeros_like(pairs.coarse))
    guess = network.guessed(given, start).field
    assert float((members.mean(dim=0) - guess).abs().mean()) < 0.05 * float(members.std(dim=0).mean())
    assert float(members.std(dim=0).mean()) > 0.05
    assert torch.equal(completed[:, pairs.batch.valid], pairs.batch.values[pairs.batch.valid].expand(4, -1))


def test_block_means_of_every_member_are_the_completed_field(network, pairs):
    completed, members = draw_ensemble(shaken(network), conditions(network, pairs), 3, Noise(0))
    assert members.shape[0] == 3
    assert torch.allclose(block_mean(members, 2), completed, atol=1e-4)


def test_coefficients_and_fields_are_inverse(network):
    field = torch.randn(1, 2, 8, 6)
    back = network.inside(network.coefficients(field))
    means = block_mean(field, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(back, field - means, atol=1e-5)


def test_joint_training_reaches_both_diffusions_and_the_encoders(network, pairs):
    network = shaken(network).train()
    for stage, silent in (("coarse", "fine."), ("fine", "coarse."), ("joint", "nothing")):
        network.zero_grad()
        stage_loss(network, pairs, stage, torch.Generator().manual_seed(0)).backward()
        reached = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert not any(name.startswith(silent) for name in reached)
        for part in {"coarse.", "fine.", "points.", "pattern."} - {
            silent,
            "pattern." if stage == "coarse" else "",
        }:
            assert any(name.startswith(part) for name in reached), (stage, part)


def test_the_loss_of_the_fine_diffusion_alone_reaches_the_coarse_one_when_joint(network, pairs):
    """Gradients through both: what Diffusion-C says changes what Diffusion-F is asked."""
    from stimpute.training.diffusion_loss import coarse_loss, fine_loss

    network = shaken(network).train()
    given = network.conditions(pairs.batch, pairs.guess, pairs.covariates)
    generator = torch.Generator().manual_seed(0)
    _, completed = coarse_loss(network, given, pairs, generator)
    fine_loss(network, given, pairs, completed, generator).backward()
    assert float(network.coarse.leave.weight.grad.abs().sum()) > 0


def test_single_stage_works_too(pairs):
    torch.manual_seed(0)
    single = DiffRecon(DiffReconConfig(factor=2, width=8, token_dim=16, num_heads=2, stages=1))
    stage_loss(single, pairs, "single", torch.Generator().manual_seed(0)).backward()
    completed, members = draw_ensemble(single, conditions(single, pairs), 2, Noise(0))
    assert torch.allclose(block_mean(members, 2), completed, atol=1e-4)


def test_gaps_are_never_read_by_the_point_former():
    torch.manual_seed(0)
    encoder = PointFormer(DiffReconConfig(token_dim=16, num_heads=2, block_tokens=40), 1).eval()
    values, times = torch.randn(1, 4, 5, 6), torch.arange(4.0)[None]
    valid = torch.rand(1, 4, 5, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    features = torch.zeros(1, 4, 5, 6, 1)
    seen = encoder(values, valid, features, times, times / 365, times % 1)
    other = encoder(torch.where(valid, values, 1e3), valid, features, times, times / 365, times % 1)
    assert torch.equal(seen, other)
    nothing = encoder(values, torch.zeros_like(valid), features, times, times / 365, times % 1)
    assert bool(torch.isfinite(nothing).all())


def test_blocks_hold_no_more_tokens_than_allowed():
    for shape in ((8, 12, 12), (365, 40, 90), (1, 300, 300), (2000, 2, 2)):
        steps, side = block_shape(*shape, 512)
        assert steps * side**2 <= 512


def test_the_strongest_periods_are_found_and_any_length_works():
    t = torch.arange(60.0)
    series = (torch.sin(2 * torch.pi * t / 12) + 0.3 * torch.sin(2 * torch.pi * t / 5)).view(1, 60, 1, 1)
    assert top_periods(series, 2)[0] == [[12, 5]]
    net = PatternNet(CONFIG)
    for steps in (1, 3, 5, 13):
        assert net(torch.randn(2, steps, 3, 2)).shape == (2, steps, 3, 2, 4)


def test_odd_and_tiny_grids_go_through(network):
    for t, h, w in ((1, 1, 1), (3, 1, 5), (2, 7, 3)):
        tiny = PairFeed([], 2, shapes=((1, t, h, w),), seed=1).pairs(0)
        _, members = draw_ensemble(network, conditions(network, tiny), 2, Noise(0))
        assert members.shape == (2, 1, t, 2 * h, 2 * w)
        assert bool(torch.isfinite(members).all())


def test_covariates_that_share_the_detail_draw_it_and_others_do_not():
    generator = torch.Generator().manual_seed(0)
    ground = torch.randn(1, 1, 1, 32, 32, generator=generator)
    truth = 2 * ground[:, 0].expand(-1, 4, -1, -1)
    coarse, seen = block_mean(truth, 2), torch.ones(1, 4, 16, 16, dtype=torch.bool)
    drawn = fine_guess(coarse, seen, ground, 2)
    plain = fine_guess(coarse, seen, ground[:, :0], 2)
    unrelated = fine_guess(coarse, seen, torch.randn(1, 1, 1, 32, 32, generator=generator), 2)
    errors = [float((g.field - truth).abs().mean()) for g in (drawn, plain, unrelated)]
    assert errors[0] < 0.2 * errors[1]
    assert errors[2] < 1.02 * errors[1]
    assert float(drawn.scale.mean()) < 0.5 * float(plain.scale.mean())


def test_white_noise_has_the_expected_size_inside_a_block():
    white = torch.randn(4, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    coarse = block_mean(white, 4)
    guess = fine_guess(coarse, torch.ones_like(coarse).bool(), torch.zeros(4, 0, 1, 64, 64), 4)
    assert 0.8 < float(guess.scale.mean()) < 1.1
    assert growth_sum(torch.tensor([0.5]), 1).item() == pytest.approx(0.5)
    assert octaves(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), 2).shape == (
        1,
        1,
        1,
        1,
    )
    assert (
        regress_details(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 4, 4), torch.ones(1, 1, 4, 4))[0].item()
        == 0
    )


def test_widening_restores_coverage():
    generator = torch.Generator().manual_seed(0)
    members, truth = 0.5 * torch.randn(60, 3000, generator=generator), torch.randn(3000, generator=generator)
    widening, before = widening_for([members], [truth])
    assert widening == pytest.approx(2.0, rel=0.1)
    assert before < 0.65


def test_contradictions_are_refused():
    with pytest.raises(ModelError, match="factor 1"):
        DiffReconConfig(factor=1)
    with pytest.raises(ModelError, match="unknown fields depth"):
        DiffReconConfig.from_dict({"depth": 4})


def test_points_hear_what_is_near_the_more_the_steeper_their_rates():
    """Far observations change; with steep rates, a point among near ones hardly notices."""
    torch.manual_seed(0)
    encoder = PointFormer(DiffReconConfig(token_dim=16, num_heads=2, point_depth=1), 1).eval()
    values, times = torch.randn(1, 3, 6, 8), torch.arange(3.0)[None]
    valid, features = torch.ones(1, 3, 6, 8, dtype=torch.bool), torch.zeros(1, 3, 6, 8, 1)

    def noticed(rate):
        with torch.no_grad():
            encoder.layers[0].near.fill_(rate)
            changed = values.clone()
            changed[..., 6:] += 5.0
            one, other = (
                encoder(v, valid, features, times, times / 365, times % 1) for v in (values, changed)
            )
        return float((one - other)[..., :2, :].abs().mean())

    assert noticed(1.5) < 0.05 * noticed(-3.0)


def test_few_sequences_at_once_give_what_all_do(monkeypatch):
    from stimpute.diffusion import point_former

    torch.manual_seed(0)
    encoder = PointFormer(DiffReconConfig(token_dim=16, num_heads=2, block_tokens=40), 1).eval()
    given = (torch.randn(2, 4, 9, 7), torch.rand(2, 4, 9, 7) < 0.5, torch.zeros(2, 4, 9, 7, 1))
    times = torch.arange(4.0).expand(2, -1)
    whole = encoder(*given, times, times / 365, times % 1)
    monkeypatch.setattr(point_former, "_PAIRS", 1)
    assert torch.allclose(encoder(*given, times, times / 365, times % 1), whole, atol=1e-5)


def test_models_from_before_there_was_a_choice_keep_their_architecture():
    stored = CONFIG.to_dict()
    assert DiffReconConfig.from_dict(stored) == CONFIG
    before = {k: v for k, v in stored.items() if k not in ("nearness", "everywhere", "start")}
    old = DiffReconConfig.from_dict(before)
    assert (old.nearness, old.everywhere, old.start) == (False, False, "filled")
    assert not any("near" in name or "beside" in name for name in DiffRecon(old).state_dict())
    with pytest.raises(ModelError, match="start 'zero'"):
        DiffReconConfig(start="zero")


def test_without_a_guess_the_coarse_diffusion_starts_from_the_mean(pairs):
    from dataclasses import replace

    from stimpute.diffusion.guess import no_guess

    plain = no_guess(pairs.batch)
    assert not plain.prior.any()
    assert not plain.features.any()
    torch.manual_seed(0)
    network = DiffRecon(replace(CONFIG, start="mean"))
    completed, _ = network.start(conditions(network, replace(pairs, guess=plain)))
    assert torch.equal(completed[pairs.batch.valid], pairs.batch.values[pairs.batch.valid])
    assert not completed[~pairs.batch.valid].any()


def test_both_in_one_step_are_trained_each_for_itself(network, pairs):
    """What Diffusion-F is asked does not reach Diffusion-C: its gradient is that of its own loss."""
    network = shaken(network).train()
    found = {}
    for stage in ("coarse", "both", "joint"):
        network.zero_grad()
        stage_loss(network, pairs, stage, torch.Generator().manual_seed(0)).backward()
        found[stage] = network.coarse.leave.weight.grad.clone()
    assert torch.allclose(found["both"], found["coarse"])
    assert not torch.allclose(found["joint"], found["coarse"])
