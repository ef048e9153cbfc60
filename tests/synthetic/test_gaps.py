"""Gaps: seeded, within bounds, of the requested share, and each kind looks like itself."""

import pytest
import torch
from torch import Tensor

from stimpute.synthetic import GAP_KINDS, sample_gaps, sample_worlds

SHAPE = (16, 24, 24)


def gaps(
    kind: str | None, fraction: float | None = None, batch: int = 8, seed: int = 0, shape=SHAPE, **more
) -> Tensor:
    return sample_gaps(torch.Generator().manual_seed(seed), batch, shape, kind, fraction, **more)


def missing(valid: Tensor) -> Tensor:
    return (~valid).float().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return sample_worlds(torch.Generator().manual_seed(1), 8, SHAPE).truth


def test_seeded(truth):
    assert torch.equal(gaps(None, truth=truth), gaps(None, truth=truth))
    assert not torch.equal(gaps(None), gaps(None, seed=1))


@pytest.mark.parametrize("kind", GAP_KINDS)
def test_requested_share(kind, truth):
    fraction = {"tracks": 0.9, "stripes": 0.4}.get(kind, 0.6)
    share = missing(gaps(kind, fraction, truth=truth))
    tolerance = 0.25 if kind == "mixture" else 0.16 if kind == "swaths" else 0.08
    assert float((share - fraction).abs().max()) < tolerance


@pytest.mark.parametrize("shape", [SHAPE, (1, 12, 20), (30, 1, 1), (1, 1, 2), (2, 50, 1)])
def test_always_something_seen_and_something_hidden(shape):
    truth = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    valid = gaps(None, batch=64, shape=shape, truth=truth)
    cells = valid[0].numel()
    seen = valid.flatten(1).sum(1)
    assert int(seen.min()) >= min(max(1, int(0.02 * cells)), cells - 1)
    assert int(seen.max()) < cells


def test_outside_the_domain_nothing_is_seen_inside_something_is():
    domain = torch.zeros(64, 24, 24, dtype=torch.bool)
    domain[:, 20:, :3] = True
    valid = gaps(None, batch=64, domain=domain)
    assert not valid.permute(0, 2, 3, 1)[~domain].any()
    seen = valid.flatten(1).sum(1)
    assert int(seen.min()) >= 4  # 2 % of 16 x 12 cells
    assert int(seen.max()) <= 16 * 12 - 4


def test_mixed_kinds_span_two_to_ninety_eight_per_cent():
    share = missing(gaps(None, batch=200))
    assert float(share.min()) < 0.06
    assert float(share.max()) > 0.94
    assert 0.4 < float(share.median()) < 0.75


def test_clouds_cover_whole_frames_or_none_and_cohere():
    valid = gaps("clouds", 0.5, batch=40)
    cover = (~valid).float().mean(dim=(2, 3)).flatten()
    assert float(((cover < 0.1) | (cover > 0.9)).float().mean()) > 0.35
    assert float((cover == 1).float().mean()) > 0.08
    edges = (valid[..., 1:] != valid[..., :-1]).float().mean()
    assert float(edges) < 0.15


def test_close_frames_share_their_clouds():
    hourly = torch.arange(16.0).expand(16, 16) / 240
    valid = gaps("clouds", 0.5, batch=16, times=hourly)
    daily = gaps("clouds", 0.5, batch=16)

    def change(x: Tensor) -> float:
        return float((x[:, 1:] != x[:, :-1]).float().mean())

    assert change(valid) < 0.7 * change(daily)


def test_frames_are_whole():
    per_frame = gaps("frames", 0.5).float().mean(dim=(2, 3))
    assert bool(((per_frame == 0) | (per_frame == 1)).all())


def test_coast_is_never_observed():
    never = ~gaps("coast", 0.5).any(dim=1)
    assert 0.35 < float(never.float().mean()) < 0.5


def test_tracks_are_thin_and_straight():
    valid = gaps("tracks", 0.95)
    assert float(missing(valid).mean()) == pytest.approx(0.95, abs=0.03)
    neighbours = valid[:, :, 1:, 1:] & (valid[:, :, :-1, 1:] | valid[:, :, 1:, :-1])
    assert float(neighbours.sum() / valid[:, :, 1:, 1:].sum()) > 0.5


def test_swaths_are_bands_that_shift():
    valid = gaps("swaths", 0.5, batch=16)
    assert float((valid[..., 1:] != valid[..., :-1]).float().mean()) < 0.15
    assert float((valid[:, 1:] != valid[:, :-1]).float().mean()) > 0.1


def test_stripes_are_parallel_gaps():
    valid = gaps("stripes", 0.3, batch=16)
    per_frame = (~valid).float().mean(dim=(2, 3))
    assert float(per_frame.max()) < 0.75
    assert float((per_frame > 0).float().mean()) > 0.9


def test_values_hide_one_end(truth):
    valid = gaps("values", 0.3, truth=truth)
    centred = (truth - truth.mean(dim=(1, 2, 3), keepdim=True)) / truth.std(dim=(1, 2, 3), keepdim=True)
    shifts = [abs(float(centred[b][~valid[b]].mean())) for b in range(8)]
    assert sorted(shifts)[2] > 0.4


def test_cells_are_independent():
    valid = gaps("cells", 0.5, batch=1).float() - 0.5
    neighbours = (valid[..., 1:] * valid[..., :-1]).mean() / 0.25
    # frames may differ in cover, cells within a frame know nothing of each other
    frame = valid.mean(dim=(2, 3), keepdim=True)
    within = ((valid - frame)[..., 1:] * (valid - frame)[..., :-1]).mean() / 0.25
    assert abs(float(within)) < 0.05
    assert float(neighbours) < 1


def test_season_returns():
    never_or_always = gaps("season", 0.5).float().mean(dim=1)
    assert float(((never_or_always > 0) & (never_or_always < 1)).float().mean()) > 0.5


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="kind 'fog'"):
        gaps("fog")
    with pytest.raises(ValueError, match="give truth"):
        gaps("values")
    with pytest.raises(ValueError, match=r"fraction 0\.99"):
        gaps("clouds", 0.99)
