"""Training DiffRecon: pairs, stages, resuming, cards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stimpute.classical.refinement import block_mean
from stimpute.diffusion.config import DiffReconConfig
from stimpute.errors import DivergenceError, InputError, ModelError, OutputError
from stimpute.pretrained.registry import load_model, load_reconstructor
from stimpute.training import diffusion_loop
from stimpute.training.archive import Archive
from stimpute.training.diffusion_loop import DiffusionTraining, train_diffusion
from stimpute.training.diffusion_loss import judge, measure_spreads
from stimpute.training.pairs import PairFeed, hide_fixed, hide_quarter

TINY = DiffReconConfig(factor=2, width=8, token_dim=16, num_heads=2, pattern_dim=4)


def options(tmp_path, **changes):
    given = {
        "network": TINY,
        "pool": 2,
        "shapes": ((2, 4, 4, 5),),
        "val_examples": 1,
        "val_steps": 4,
        "steps": 8,
        "save_steps": 4,
    }
    return DiffusionTraining(tmp_path / "m.safetensors", **(given | changes))


def archive(gappy):
    return Archive.from_array("sea", gappy(t=8, ny=14, nx=16, missing=0.02))


def test_pairs_hold_the_truth_their_block_means_and_gaps(gappy):
    for feed in (
        PairFeed([], 2, shapes=((2, 4, 5, 6),)),
        PairFeed([archive(gappy)], 2, world_share=0.0, shapes=((2, 4, 5, 6),)),
    ):
        pairs = feed.pairs(0)
        assert torch.allclose(block_mean(pairs.fine, 2), pairs.coarse, atol=1e-4)
        assert bool((pairs.batch.valid <= pairs.known).all())
        hidden = pairs.known & ~pairs.batch.valid
        assert bool(hidden.any())
        shown = pairs.batch.valid
        assert torch.allclose(pairs.batch.values[shown], pairs.coarse[shown], atol=1e-5)
        assert torch.equal(feed.pairs(0).fine, pairs.fine)


def test_turned_pairs_are_still_pairs():
    pairs = PairFeed([], 2, shapes=((1, 3, 4, 6),)).pairs(1)
    turned = pairs.turned(np.random.default_rng(2))
    assert torch.allclose(block_mean(turned.fine, 2), turned.coarse, atol=1e-4)
    assert not torch.equal(turned.fine, pairs.fine)
    assert torch.equal(turned.batch.times, pairs.batch.times)


def test_fixed_cells_and_quarters():
    lot = np.random.default_rng(0)
    fixed, quarter = hide_fixed((5, 4, 4), 0.5, lot), hide_quarter((5, 4, 6), lot)
    assert (fixed == fixed[0]).all()
    assert fixed[0].sum() == 8
    assert (~quarter)[0].sum() == 6


def test_archives_too_small_or_too_gappy_are_refused(gappy):
    with pytest.raises(InputError, match="too few to be coarsened"):
        PairFeed([archive(gappy)], 8)
    values = np.full((4, 12, 12), np.nan, np.float32)
    values[0, 0, 0] = 1
    with pytest.raises(InputError, match="too many gaps"):
        PairFeed([Archive.from_array("holes", values)], 2, world_share=0.0, shapes=((1, 3, 4, 4),)).pairs(0)


def test_archives_smaller_than_a_crop_are_called_small():
    values = np.random.default_rng(0).normal(size=(6, 20, 20)).astype(np.float32)
    feed = PairFeed([Archive.from_array("small", values)], 4, world_share=0.0, shapes=((1, 12, 16, 16),))
    with pytest.raises(
        InputError, match="smaller than the crops that are trained on, 12 steps of 64 x 64 cells"
    ):
        feed.pairs(0)


def test_training_learns_writes_a_card_and_loads_again(tmp_path):
    seen = []
    summary = train_diffusion(options(tmp_path, steps=12), progress=seen.append)
    assert {p.stage for p in seen} == {"coarse", "fine", "joint"}
    loaded = load_reconstructor(summary.path)
    assert loaded.config == TINY
    assert loaded.card["task"] == "reconstruct"
    assert float(loaded.network.widening) > 0
    assert not summary.path.with_name("m.safetensors.stimpute-training").exists()
    with pytest.raises(ModelError, match="a model for reconstruct, not for fill"):
        load_model(summary.path)


def test_a_model_for_filling_is_no_model_for_reconstructing():
    with pytest.raises(ModelError, match="a model for fill, not for reconstruct"):
        load_reconstructor("st-small")


def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path):
    whole = train_diffusion(options(tmp_path))
    expected = load_reconstructor(whole.path).network.state_dict()

    def interrupt(now):
        if now.step == 5:
            raise KeyboardInterrupt

    other = tmp_path / "other"
    other.mkdir()
    again = replace(options(tmp_path), out=other / "m.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train_diffusion(again, progress=interrupt)
    with pytest.raises(OutputError, match="--resume"):
        train_diffusion(again)
    resumed = train_diffusion(replace(again, resume=True))
    for name, tensor in load_reconstructor(resumed.path).network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_interrupted_while_it_is_judged_it_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    never = {"save_steps": None, "save_seconds": 1e9}
    whole = train_diffusion(options(tmp_path, **never))
    other = tmp_path / "other"
    other.mkdir()
    again = replace(options(tmp_path, **never), out=other / "m.safetensors")
    original = diffusion_loop.judge

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(diffusion_loop, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_diffusion(again)
    monkeypatch.setattr(diffusion_loop, "judge", original)
    resumed = train_diffusion(replace(again, resume=True))
    one, two = (load_reconstructor(made.path).network.state_dict() for made in (whole, resumed))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert resumed.best == whole.best


def test_interrupted_after_the_model_is_written_it_leaves_no_state(tmp_path, monkeypatch):
    original = diffusion_loop._Run.log

    def interrupted(run, event, **facts):
        if event == "end":
            raise KeyboardInterrupt
        original(run, event, **facts)

    monkeypatch.setattr(diffusion_loop._Run, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_diffusion(options(tmp_path, steps=2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.json", "m.log.jsonl", "m.safetensors"]


def test_a_run_that_diverges_says_so_and_leaves_no_model(tmp_path, monkeypatch):
    def ruined(network, *given):
        return torch.stack([p.sum() for p in network.parameters()]).sum() * float("nan")

    monkeypatch.setattr(diffusion_loop, "stage_loss", ruined)
    with pytest.raises(DivergenceError, match="lower --lr"):
        train_diffusion(options(tmp_path, steps=40))
    assert not (tmp_path / "m.safetensors").exists()


def test_a_model_for_another_factor_lends_its_coarse_diffusion(tmp_path):
    start = train_diffusion(options(tmp_path, steps=3)).path
    three = replace(
        options(tmp_path, steps=1, lr=1e-9),
        out=tmp_path / "three.safetensors",
        start=start,
        network=replace(TINY, factor=3),
    )
    made = load_reconstructor(train_diffusion(three).path)
    lent = load_reconstructor(start)
    assert made.config.factor == 3
    assert torch.allclose(made.network.coarse.enter.weight, lent.network.coarse.enter.weight, atol=1e-3)


def test_training_beats_the_guess_on_what_it_has_seen(tmp_path):
    """A hundred steps on one batch: the expected field must come closer than the guess it starts from."""
    run = options(
        tmp_path,
        steps=100,
        pool=1,
        val_steps=100,
        save_steps=1000,
        lr=4e-3,
        average=0.9,
        warmup=0.0,
        apart=0.5,
    )
    network = load_reconstructor(train_diffusion(run).path).network
    pairs = PairFeed([], 2, shapes=run.shapes).pairs(0)
    assert judge(network, [pairs])["fine"] < 0.97


def test_spreads_make_the_residuals_of_unit_variance():
    from stimpute.diffusion.network import DiffRecon

    network, pairs = DiffRecon(TINY), PairFeed([], 2, shapes=((4, 6, 6, 6),)).pairs(0)
    measure_spreads(network, [pairs])
    given = network.conditions(pairs.batch, pairs.guess, pairs.covariates)
    target = network.fine_target(network.guessed(given, pairs.coarse), pairs.fine)
    assert 0.7 < float(target.std()) < 1.2


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_a_network_that_says_nothing_has_a_loss_of_about_one(stage):
    """On every example, however badly its guess foresaw the error: none drowns the others."""
    from stimpute.diffusion.network import DiffRecon
    from stimpute.training.diffusion_loss import stage_loss

    network, pairs = DiffRecon(TINY), PairFeed([], 2, shapes=((4, 6, 6, 6),)).pairs(0)
    loss = [
        float(stage_loss(network, pairs, stage, torch.Generator().manual_seed(i)).detach()) for i in range(4)
    ]
    assert np.mean(loss) == pytest.approx(1.0, abs=0.15)
