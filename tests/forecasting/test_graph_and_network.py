"""The graph, its parts, and the network on it: order, padding, borders, starting point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stimpute.errors import InputError, ModelError
from stimpute.forecasting import method
from stimpute.forecasting.config import ForecastConfig
from stimpute.forecasting.graph import (
    adjacency,
    bridges,
    divisions_of,
    evenly_spread,
    graph_of,
    laplacian_positions,
    members,
)
from stimpute.forecasting.guesses import Sample, estimate, make_guesses
from stimpute.forecasting.method import SBAForecaster
from stimpute.forecasting.names import GUESSES
from stimpute.forecasting.network import SBATransformer, Surroundings
from stimpute.forecasting.series import History
from stimpute.grid import Grid
from stimpute.layers.attention import BalancedAttention, Parts, Windows
from stimpute.stack import Stack

SMALL = ForecastConfig(embed_dim=16, num_heads=2, history=12, sides=(2, 4), positions=3)


def woken(config=SMALL, seed=0):
    """A network whose head says something."""
    torch.manual_seed(seed)
    network = SBATransformer(config).eval()
    torch.nn.init.normal_(network.out.weight, std=0.3)
    return network


def coast(ny=12, nx=14):
    ever = np.add.outer(np.arange(ny), np.arange(nx)) > 8
    ever[3, 10] = False
    return ever


def points(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return Grid("points", (1, n), rng.uniform(0, 50, n), rng.uniform(0, 50, n), "length")


def test_parts_hold_every_node_once_and_none_is_too_large():
    graph = graph_of(Grid.from_shape(12, 14), coast())
    table = members(graph, 9)
    inside = table[table >= 0]
    assert sorted(inside.tolist()) == list(range(len(graph)))
    assert table.shape[1] <= 14


def test_parts_hang_together():
    from scipy.sparse.csgraph import connected_components

    graph = graph_of(Grid.from_shape(12, 14), coast())
    near = adjacency(graph)
    together = [connected_components(near[p[p >= 0]][:, p[p >= 0]])[0] for p in members(graph, 16)]
    assert np.mean(np.array(together) == 1) > 0.8


def test_cut_and_join_are_inverse_and_pads_are_zero():
    graph = graph_of(Grid.from_shape(12, 14), coast())
    division = divisions_of(graph, (3,))[0]
    tokens = torch.randn(2, 1, 1, len(graph), 5)
    cut = division.cut(tokens)
    assert torch.equal(division.join(cut), tokens)
    assert division.real is not None
    assert not cut[:, :, ~division.real].any()


def test_a_graph_whose_parts_are_windows_attends_like_windows():
    torch.manual_seed(1)
    attention = BalancedAttention(16, 2, 4, 0, nearness=True).eval()
    tokens = torch.randn(1, 1, 8, 8, 16)
    windows = Windows(8, 8, 4, 0, torch.device("cpu"), places=True)
    number = torch.arange(64).view(1, 1, 8, 8, 1)
    table = windows.cut(number)[0, 0].reshape(4, 16)
    yx = torch.stack(
        (torch.arange(64) // 8, torch.arange(64) % 8, torch.zeros(64, dtype=torch.long)), 1
    ).float()
    parts = Parts(table, yx)
    windows.centres = parts.centres  # means of cells instead of corners: the same distances
    one = attention(tokens, division=windows).reshape(64, 16)
    other = attention(tokens.view(1, 1, 1, 64, 16), division=parts)[0, 0, 0]
    assert (one - other).abs().max() < 1e-5


def test_pad_tokens_change_nothing():
    """The same parts with more padding: the same answer, whatever the pads would hold."""
    torch.manual_seed(2)
    attention = BalancedAttention(16, 2, nearness=True).eval()
    tokens = torch.randn(1, 1, 1, 10, 16)
    places = torch.randn(10, 3)
    tight = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]])
    loose = torch.cat((tight, torch.full((2, 6), -1)), dim=1)
    loose = torch.cat((loose, torch.full((1, 11), -1)))  # and a part of padding only
    one = attention(tokens, division=Parts(tight, places))
    other = attention(tokens, division=Parts(loose, places))
    assert (one - other).abs().max() < 1e-5


def test_taking_parts_a_few_at_a_time_changes_nothing(monkeypatch):
    graph = graph_of(Grid.from_shape(12, 14), coast())
    division = divisions_of(graph, (3,))[0]
    attention = BalancedAttention(16, 2, nearness=True).eval()
    tokens = torch.randn(2, 1, 1, len(graph), 16)
    whole = attention(tokens, division=division)
    monkeypatch.setattr("stimpute.layers.attention.PART_TOKENS", 10)
    with torch.no_grad():
        assert (attention(tokens, division=division) - whole).abs().max() < 1e-5


def stack(grid, ever=None, steps=60, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(steps, *grid.shape)).cumsum(axis=0).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    if ever is not None:
        values[:, ~ever] = np.nan
    return Stack.from_array(values, grid=grid)


def test_untrained_it_says_the_blend():
    given = stack(Grid.from_shape(9, 8))
    blend, network = (
        SBAForecaster(n, always=True).forecast(given, 4).mean for n in (None, SBATransformer(SMALL))
    )
    assert np.abs(blend - network).max() < 1e-4


def test_a_network_that_was_worse_at_earlier_origins_is_not_heard():
    given, network = stack(Grid.from_shape(9, 8)), woken()
    torch.nn.init.normal_(network.out.weight, std=30.0)
    forecaster = SBAForecaster(network)
    assert np.array_equal(forecaster.forecast(given, 4).mean, SBAForecaster().forecast(given, 4).mean)
    assert forecaster.used == "blend"


def test_the_order_of_stations_changes_nothing():
    grid, order = points(), np.random.default_rng(7).permutation(40)
    given = stack(grid)
    shuffled_grid = Grid("points", (1, 40), grid.x[order], grid.y[order], "length")
    shuffled = Stack.from_array(given.with_nan()[:, :, order], grid=shuffled_grid)
    one, other = (SBAForecaster(woken(), always=True).forecast(s, 4).mean for s in (given, shuffled))
    assert np.array_equal(one[:, :, order], other)


def test_cells_never_observed_are_no_nodes_and_change_nothing():
    ever = coast()
    given = stack(Grid.from_shape(12, 14), ever)
    framed = np.full((60, 15, 18), np.nan, np.float32)
    framed[:, 2:14, 3:17] = given.with_nan()
    one = SBAForecaster(woken(), always=True).forecast(given, 4).mean
    other = SBAForecaster(woken(), always=True).forecast(Stack.from_array(framed), 4).mean
    assert np.isnan(one[:, ~ever]).all()
    assert np.allclose(other[:, 2:14, 3:17][:, ever], one[:, ever], atol=1e-4)


def test_no_seam_between_parts(monkeypatch):
    """Steps of the error (forecast minus truth) across borders of parts are hardly larger than those inside (DESIGN, decision 4)."""
    rng = np.random.default_rng(3)
    spectrum = np.fft.rfft2(rng.normal(size=(80, 32, 32)))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.rfftfreq(32), indexing="ij"))
    smooth = np.fft.irfft2(spectrum * np.exp(-((k / 0.08) ** 2)), s=(32, 32)).cumsum(axis=0)
    given, config = Stack.from_array(smooth[:-3].astype(np.float32)), replace(SMALL, sides=(4, 8))
    borders = np.zeros(31, dtype=bool)
    borders[3::4] = True  # between windows of four

    def ratio(forecaster):
        across = np.abs(np.diff(forecaster.forecast(given, 3).mean - smooth[-3:], axis=2))
        return across[:, :, borders].mean() / across[:, :, ~borders].mean()

    kept = {}  # the guesses are the same for every network
    monkeypatch.setattr(method, "CALIBRATED", 0)
    monkeypatch.setattr(method, "make_guesses", lambda *a, **k: kept.setdefault("one", make_guesses(*a, **k)))
    ratios = [ratio(SBAForecaster(woken(config, seed), always=True)) for seed in range(16)]  # drawn at random
    assert np.median(ratios) < 1.05 * ratio(
        SBAForecaster()
    )  # the blend knows of no parts: chance alone makes its steps differ


def test_laplacian_positions_are_eigenvectors_of_unit_variance():
    ever = coast()
    graph = graph_of(Grid.from_shape(12, 14), ever)
    vectors = laplacian_positions(graph, 4).double().numpy()
    near = adjacency(graph)
    laplacian = np.diag(np.asarray(near.sum(axis=1)).ravel()) - near.toarray()
    values = np.linalg.eigvalsh(laplacian)[1:5]
    for vector, value in zip(vectors.T, values, strict=True):
        assert np.abs(laplacian @ vector - value * vector).max() < 1e-4
    assert np.allclose((vectors**2).mean(axis=0), 1, atol=1e-4)


def test_islands_are_bridged_to_the_mainland_where_it_is_nearest():
    ever = np.zeros((9, 9), dtype=bool)
    ever[:, :4] = ever[2:4, 6] = ever[8, 8] = True
    graph = graph_of(Grid.from_shape(9, 9), ever)
    cells = np.stack(np.divmod(graph.cells[bridges(graph)], 9), axis=-1)
    assert sorted(map(tuple, cells.reshape(-1, 4).tolist())) in (
        [(2, 6, 2, 3), (8, 8, 8, 3)],
        [(3, 6, 3, 3), (8, 8, 8, 3)],  # as near
    )
    assert not len(bridges(graph_of(Grid.from_shape(12, 14), coast())))


def test_positions_tell_nodes_apart_beside_many_islands():
    """Without bridges every island has an eigenvalue of 0: the solver then finds no end, or vectors that name islands."""
    ever = np.zeros((60, 60), dtype=bool)
    ever[:, :30] = True
    ever[::3, 33::3] = True  # 180 islands of one cell
    vectors = laplacian_positions(graph_of(Grid.from_shape(60, 60), ever), 4).numpy()
    mainland = np.flatnonzero(graph_of(Grid.from_shape(60, 60), ever).cells % 60 < 30)
    assert (vectors[mainland].std(axis=0) > 0.3).all()
    rows = graph_of(Grid.from_shape(60, 60), ever).cells[mainland] // 60
    assert abs(np.corrcoef(vectors[mainland, 0], rows)[0, 1]) > 0.9  # the longest axis


@pytest.mark.parametrize("grid", [Grid.from_shape(40, 50), points(700)])
def test_some_nodes_are_evenly_spread_and_those_near_speak_for_each_node(grid):
    graph = graph_of(grid, np.ones(grid.shape, bool))
    nodes, near, share = evenly_spread(graph, 50)
    assert 50 <= len(nodes) < 100
    assert len(set(nodes.tolist())) == len(nodes)
    apart = np.linalg.norm(graph.places[:, None] - graph.places[nodes][None], axis=2)
    own = apart[np.arange(len(graph)), near[:, 0]]
    assert np.allclose(share.sum(axis=1), 1, atol=1e-5)
    assert (np.diff(share, axis=1) <= 1e-6).all()
    assert np.allclose(own, apart.min(axis=1), atol=1e-5)
    assert own.max() < 3 * np.sqrt(len(graph) / len(nodes))


def wandering(steps=60, ny=12, nx=14, seed=0):
    rng = np.random.default_rng(seed)
    smooth = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(steps, ny, nx)))
        * np.exp(-40 * np.add.outer(np.fft.fftfreq(ny) ** 2, np.fft.rfftfreq(nx) ** 2)),
        s=(ny, nx),
    )
    return smooth.cumsum(axis=0).astype(np.float32)


def test_guesses_for_some_nodes_are_those_for_all():
    values = torch.from_numpy(wandering().reshape(1, 60, -1))
    past = History(
        values, torch.ones_like(values, dtype=torch.bool), (0,), torch.zeros(1, 2), torch.ones(1)
    ).normalised()[0]
    some = torch.tensor([3, 17, 40, 100, 167])
    assert torch.allclose(estimate(past, 4, some)[0], estimate(past, 4)[0][:, :, some], atol=1e-4)
    everyone = Sample(torch.arange(168), torch.arange(168)[:, None], torch.ones(168, 1))
    told, usual = make_guesses(past, 4, sample=everyone), make_guesses(past, 4)
    assert torch.allclose(told.prior, usual.prior, atol=1e-5)
    assert torch.allclose(told.prior_error, usual.prior_error, atol=1e-5)
    few = Sample(some, (torch.arange(168) % 5)[:, None], torch.ones(168, 1))
    error = make_guesses(past, 4, sample=few).log_error
    assert torch.equal(error[..., 5:], error[..., :-5])  # every node hears the one that speaks for it


@pytest.mark.parametrize("network", [None, woken()])
def test_large_graphs_are_judged_at_some_nodes(monkeypatch, network):
    values = wandering(64)
    given, truth = Stack.from_array(values[:-4]), values[-4:]
    usual = SBAForecaster(network, always=True).forecast(given, 4)
    monkeypatch.setattr(method, "ALL_ASKED", 60)
    monkeypatch.setattr(method, "SOME_ASKED", 40)
    judged, make = [], make_guesses
    monkeypatch.setattr(method, "make_guesses", lambda *a, **k: judged.append(make(*a, **k)) or judged[-1])
    said = SBAForecaster(network, always=True).forecast(given, 4)
    assert np.isfinite(said.mean).all()
    assert (said.scale > 0).all()
    today, *earlier = (g.prior.shape[-1] for g in judged)
    assert today == 168
    assert all(40 <= n < 80 for n in earlier)
    wrong, before = (np.abs(e.mean - truth).mean() for e in (said, usual))
    assert wrong < 1.15 * before
    assert said.scale.mean() == pytest.approx(usual.scale.mean(), rel=0.3)


def test_cosines_of_a_full_grid_are_what_the_solver_finds():
    ever = np.ones((6, 9), dtype=bool)
    graph = graph_of(Grid.from_shape(6, 9), ever)
    known = laplacian_positions(graph, 3)
    found = laplacian_positions(replace(graph, raster=None), 3)
    assert torch.allclose(known.abs(), found.abs(), atol=1e-3)


def test_gaps_are_never_read():
    graph = graph_of(Grid.from_shape(5, 5), np.ones((5, 5), bool))
    around = Surroundings(divisions_of(graph, SMALL.sides), laplacian_positions(graph, SMALL.positions))
    valid = torch.rand(1, 50, 25) < 0.7
    values = torch.randn(1, 50, 25)
    given = [
        History(torch.where(valid, values, torch.tensor(junk)), valid, (0,), torch.zeros(1, 2), torch.ones(1))
        for junk in (0.0, 1e3)
    ]
    said = []
    for history in given:
        clean = (
            history.normalised()[0]
            if not said
            else replace(history, values=torch.where(valid, history.values, 0.0)).normalised()[0]
        )
        said.append(woken()(clean, make_guesses(clean, 3), around).mean)
    assert torch.equal(said[0], said[1])


@pytest.mark.parametrize(("shape", "message"), [((5, 3, 3), "too few"), ((30, 3, 3), "nothing observed")])
def test_what_cannot_be_forecast_is_refused(shape, message):
    values = np.ones(shape, np.float32)
    if "nothing" in message:
        values[:] = np.nan
    with pytest.raises(InputError, match=message):
        SBAForecaster().forecast(Stack.from_array(values), 3)


def test_a_model_that_fills_is_refused():
    with pytest.raises(ModelError, match="fill gaps"):
        ForecastConfig.from_dict({"embed_dim": 64})


def test_a_model_from_before_a_guess_was_added_still_speaks():
    stored = {k: v for k, v in SMALL.to_dict().items() if k != "guesses"}
    before = ForecastConfig.from_dict(stored)
    assert before.guesses == 12 < len(GUESSES)
    given = stack(Grid.from_shape(9, 8))
    blend, said = (SBAForecaster(n, always=True).forecast(given, 4).mean for n in (None, woken(before)))
    assert np.isfinite(said).all()
    assert np.abs(said - blend).max() > 1e-3


def test_a_model_of_more_guesses_than_are_made_is_refused():
    with pytest.raises(ModelError, match="knows 99 guesses"):
        ForecastConfig.from_dict({**SMALL.to_dict(), "guesses": 99})


def test_scales_cover_what_they_claim_on_a_stationary_field():
    rng = np.random.default_rng(5)
    x = np.zeros((330, 6, 6), np.float32)
    for t in range(1, 330):
        x[t] = 0.8 * x[t - 1] + rng.normal(size=(6, 6))
    inside = []
    for origin in range(250, 320, 6):
        said = SBAForecaster().forecast(Stack.from_array(x[:origin]), 6)
        inside.append(np.abs(x[origin : origin + 6] - said.mean) <= 1.645 * said.scale)
    assert 0.85 < np.mean(inside) < 0.96
