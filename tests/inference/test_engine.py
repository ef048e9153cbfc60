"""The engine against the protocols alone: trivial methods, stacks in memory."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stimpute.errors import InputError, StimputeWarning
from stimpute.estimate import Estimate
from stimpute.grid import Grid
from stimpute.inference import scan, trust
from stimpute.inference.bounds import resolve_bounds
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, RecordingSink, StackSource
from stimpute.inference.options import FillOptions
from stimpute.inference.plan import plan_fill
from stimpute.inference.refusal import gap_days
from stimpute.inference.statistics import layer_variogram
from stimpute.inference.summary import FillSummary
from stimpute.protocols import FILLED, OBSERVED, OUTSIDE_DOMAIN, REFUSED, Filled, Layer, Window
from stimpute.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")


@dataclass
class Plane:
    """A method that says exactly ``10 + x + 2 y + 3 t`` (times of the stack, columns of the grid)."""

    name: str = "plane"
    sees_whole: bool = False
    scale: float | None = 0.5

    def prepare(self, overview: Stack) -> Plane:
        return self

    def impute(self, stack: Stack) -> Estimate:
        mean = (
            10 + stack.grid.x[None, None] + 2 * stack.grid.y[:, None] + 3 * stack.times[:, None, None]
        ).astype(np.float32)
        return Estimate(mean, None if self.scale is None else np.full_like(mean, self.scale))


@dataclass
class TileMean:
    """A method that says the mean of what it sees: tiles disagree, so blending shows."""

    name: str = "tile-mean"
    sees_whole: bool = False
    bytes_per_cell: int = 10

    def prepare(self, overview: Stack) -> TileMean:
        return self

    def impute(self, stack: Stack) -> Estimate:
        return Estimate(
            np.full(stack.shape, stack.values[stack.valid].mean(dtype=np.float64), dtype=np.float32)
        )


@dataclass
class Seer(Plane):
    """A plane that wants tiles of windows, as large as they may be, and remembers the shapes of what it was shown."""

    multiple: int = 8
    min_tile: int = 16
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    @staticmethod
    def largest_tile(steps: int) -> int:
        return 96 if steps < 5 else 48

    def impute(self, stack: Stack) -> Estimate:
        self.shapes.append(stack.shape)
        return super().impute(stack)


def plane(shape: tuple[int, int, int], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    t, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (10 + x + 2 * y + 3 * t + noise * np.random.default_rng(seed).normal(size=shape)).astype(
        np.float32
    )


def gappy(shape: tuple[int, int, int], missing: float = 0.4, noise: float = 0.0, seed: int = 1) -> Stack:
    gap = np.random.default_rng(seed).random(shape) < missing
    return Stack.from_array(np.where(gap, np.nan, plane(shape, noise)))


def run(
    stack: Stack, method: object = None, domain: np.ndarray | None = None, **options: object
) -> tuple[ArraySink, FillSummary]:
    source, sink = StackSource(stack, domain=domain), ArraySink(stack.shape)
    return sink, fill_source(source, sink, method or Plane(), FillOptions(**options))  # type: ignore[arg-type]


def test_tiles_cover_everything_and_blend_to_the_methods_own_answer() -> None:
    stack = gappy((8, 50, 70))
    sink, summary = run(stack, tile=11, overlap=3)
    ever = stack.valid.any(axis=0)
    expected = np.where(stack.valid, OBSERVED, np.where(ever, FILLED, REFUSED))
    np.testing.assert_array_equal(sink.flag, expected)
    np.testing.assert_allclose(
        sink.values[sink.flag == FILLED], plane(stack.shape)[sink.flag == FILLED], rtol=1e-5
    )
    layer = summary.layers[0]
    assert layer.tiles > 20
    assert (layer.observed, layer.filled) == (int(stack.valid.sum()), int((sink.flag == FILLED).sum()))


def test_streaming_by_bands_gives_what_one_pass_in_memory_gives() -> None:
    stack = gappy((12, 80, 90), noise=1.0)
    in_memory, one = run(stack, TileMean(), tile=24, overlap=6)
    streamed, other = run(stack, TileMean(), tile=24, overlap=6, memory=2**20)
    np.testing.assert_array_equal(in_memory.flag, streamed.flag)
    np.testing.assert_array_equal(in_memory.values, streamed.values)
    assert one.layers[0].filled == other.layers[0].filled


def test_streaming_reads_only_windows_that_fit() -> None:
    stack, sizes = gappy((12, 80, 90)), []

    class Watched(StackSource):
        def read(self, window: Window, layer: int = 0) -> Stack:
            sizes.append(np.prod(window.shape))
            return super().read(window, layer)

    sink = ArraySink(stack.shape)
    fill_source(
        Watched(stack), sink, TileMean(), FillOptions(tile=24, overlap=6, memory=2**20, uncertainty=False)
    )
    assert max(sizes) * 32 <= 2**20


def test_no_tile_border_shows_where_tiles_disagree() -> None:
    stack = gappy((1, 60, 60), noise=0.0, missing=0.5)
    sink, _ = run(stack, TileMean(), tile=20, overlap=8, fill_never_observed=True, uncertainty=False)
    steps = np.abs(np.diff(np.where(sink.flag == FILLED, sink.values, np.nan), axis=2))
    tile_difference = 20.0  # neighbouring tiles lie 20 columns apart on a slope of one per column
    assert np.nanmax(steps) < tile_difference / 4


def test_networks_on_few_steps_get_the_largest_tile_whatever_the_range() -> None:
    noise = (
        np.random.default_rng(0).normal(size=(6, 150, 150)).astype(np.float32)
    )  # correlated over no distance at all
    noise[np.random.default_rng(1).random(noise.shape) < 0.3] = np.nan
    sides = {}
    for steps in (6, 3):
        method = Seer()
        run(Stack.from_array(noise[:steps]), method, uncertainty=False)
        sides[steps] = {side for shape in method.shapes for side in shape[1:]}
    assert max(sides[6]) < 48
    assert sides[3] <= {88, 96}  # no larger than the number of tiles needs


def test_large_tiles_are_calibrated_on_parts_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "WINDOW_CELLS", 6 * 24 * 24)
    monkeypatch.setattr(trust, "WINDOW_SIDE", 16)
    method = Seer()
    sink, summary = run(gappy((6, 100, 100), noise=2.0), method, tile=32, overlap=8, seed=3)
    tiles = summary.layers[0].tiles
    assert method.shapes.count((6, 24, 24)) == len(method.shapes) - tiles > 0
    assert method.shapes.count((6, 48, 48)) == tiles
    assert summary.layers[0].coverage == pytest.approx(0.9, abs=0.03)
    assert np.nanmedian(sink.standard_error) == pytest.approx(2.0, rel=0.2)


def test_never_observed_cells_are_refused_unless_asked_for() -> None:
    values = plane((6, 10, 10))
    values[:, 2, 3] = np.nan
    values[0, 0, 0] = np.nan
    stack = Stack.from_array(values)
    sink, summary = run(stack, uncertainty=False)
    assert (sink.flag[:, 2, 3] == REFUSED).all()
    assert np.isnan(sink.values[:, 2, 3]).all()
    assert sink.flag[0, 0, 0] == FILLED
    assert summary.gaps_left == 6
    sink, summary = run(stack, uncertainty=False, fill_never_observed=True)
    assert (sink.flag[:, 2, 3] == FILLED).all()
    assert summary.gaps_left == 0


def test_with_few_steps_distance_decides() -> None:
    noise = np.random.default_rng(0).normal(size=(1, 60, 200))
    smooth = gaussian_filter(noise, (0, 4, 4)).astype(np.float32)
    smooth[:, :, 100:] = np.nan
    smooth[:, 10, 50] = np.nan
    with pytest.warns(StimputeWarning, match=r"effective range|fallback|single time step"):
        sink, _ = run(Stack.from_array(smooth), TileMean(), uncertainty=False)
    assert sink.flag[0, 10, 50] == FILLED
    assert sink.flag[0, 30, 100] == FILLED
    assert sink.flag[0, 30, 199] == REFUSED


def test_outside_the_domain_nothing_is_filled() -> None:
    stack = gappy((6, 12, 12))
    domain = np.ones((12, 12), dtype=bool)
    domain[:, :4] = False
    sink, summary = run(stack, domain=domain, uncertainty=False)
    outside = sink.flag[:, :, :4]
    assert set(np.unique(outside)) == {OBSERVED, OUTSIDE_DOMAIN}
    assert summary.layers[0].outside_domain == (outside == OUTSIDE_DOMAIN).sum()
    assert (outside == OBSERVED).sum() == stack.valid[:, :, :4].sum()


def test_what_is_observed_outside_the_domain_hides_no_gaps_inside() -> None:
    stack = gappy((6, 12, 12))
    domain = np.ones((12, 12), dtype=bool)
    domain[:, :6] = False
    seen = np.where(domain, stack.with_nan(), plane(stack.shape))
    sink, summary = run(Stack.from_array(seen), domain=domain, uncertainty=False)
    assert summary.layers[0].filled > 0
    filled = sink.flag == FILLED
    np.testing.assert_allclose(sink.values[filled], plane(stack.shape)[filled], rtol=1e-5)


def test_a_variogram_is_of_the_domain_alone() -> None:
    stack = gappy((6, 24, 24), noise=1.0)
    domain = np.zeros((24, 24), dtype=bool)
    domain[:, 12:] = True
    other = replace(stack, values=np.where(domain | ~stack.valid, stack.values, stack.values + 1000))
    one, two = (layer_variogram(StackSource(s, domain=domain), 0) for s in (stack, other))
    assert one.to_dict() == two.to_dict()
    assert one.to_dict() != layer_variogram(StackSource(stack), 0).to_dict()


def test_gaps_outside_the_domain_alone_are_no_gaps() -> None:
    values = plane((6, 12, 12), noise=1.0)
    domain = np.ones((12, 12), dtype=bool)
    domain[0, 0] = False
    values[2, 0, 0] = np.nan
    sink, summary = run(Stack.from_array(values), domain=domain)
    assert any("no gaps" in note for note in summary.layers[0].notes)
    assert sink.flag[2, 0, 0] == OUTSIDE_DOMAIN
    assert np.isnan(sink.values[2, 0, 0])


def test_nothing_observed_is_an_error() -> None:
    with pytest.raises(InputError, match="no observed value"):
        run(Stack.from_array(np.full((3, 4, 5), np.nan)))


def test_no_gaps_are_copied_and_said_so() -> None:
    sink, summary = run(Stack.from_array(plane((6, 7, 8), noise=1.0)))
    assert (sink.flag == OBSERVED).all()
    assert summary.layers[0].filled == 0
    assert any("no gaps" in note for note in summary.layers[0].notes)


def test_a_constant_field_is_filled_with_its_constant() -> None:
    values = np.full((6, 12, 12), 4.0, dtype=np.float32)
    values[2, 3:6, 3:6] = np.nan
    sink, _ = run(Stack.from_array(values), TileMean())
    np.testing.assert_array_equal(sink.values[sink.flag == FILLED], 4.0)
    assert (sink.standard_error[sink.flag == FILLED] == 0).all()


def test_one_observation_alone_says_nothing_about_the_error() -> None:
    values = np.full((6, 1, 1), np.nan, dtype=np.float32)
    values[2] = 4.0
    with pytest.warns(StimputeWarning):
        sink, _ = run(Stack.from_array(values), TileMean())
    assert (sink.values == 4.0)[sink.flag == FILLED].all()
    assert np.isnan(sink.standard_error).all()


def test_errors_of_huge_values_are_finite() -> None:
    values = plane((8, 24, 24), noise=1.0) * np.float32(1e36)
    values[2, 3:9, 3:9] = np.nan
    _, summary = run(Stack.from_array(values), TileMean())
    assert summary.layers[0].expected_error is not None
    assert 1e34 < summary.layers[0].expected_error < 1e38


def test_one_observed_cell_is_said_and_the_rest_refused() -> None:
    values = np.full((6, 5, 5), np.nan, dtype=np.float32)
    values[:3, 2, 2] = [1, 2, 3]
    with pytest.warns(StimputeWarning, match="only one cell"):
        sink, summary = run(Stack.from_array(values), TileMean())
    assert (sink.flag[3:, 2, 2] == FILLED).all()
    assert summary.gaps_left == 24 * 6


def test_empty_steps_are_counted() -> None:
    values = plane((8, 10, 10), noise=1.0)
    values[[2, 5]] = np.nan
    with pytest.warns(StimputeWarning, match="2 of 8 time steps"):
        sink, _ = run(Stack.from_array(values), uncertainty=False)
    assert (sink.flag[[2, 5]] == FILLED).all()


def test_standard_errors_cover_what_they_claim() -> None:
    stack = gappy((20, 40, 40), noise=2.0)
    sink, summary = run(stack, Plane(scale=0.1))  # a method that is twenty times too sure
    filled = sink.flag == FILLED
    error = np.abs(sink.values - plane(stack.shape, noise=2.0))[filled]
    covered = float((error <= 1.645 * sink.standard_error[filled]).mean())
    layer = summary.layers[0]
    assert 0.86 < covered < 0.94
    assert layer.coverage is not None
    assert 0.85 < layer.coverage < 0.95
    assert layer.expected_error == pytest.approx(float(error.mean()), rel=0.1)


def test_a_method_without_a_scale_gets_one() -> None:
    stack = gappy((20, 40, 40), noise=2.0)
    sink, _ = run(stack, Plane(scale=None))
    assert float(np.nanmean(sink.standard_error)) == pytest.approx(2.0, rel=0.15)


def test_too_few_cells_to_calibrate_on_leave_the_spread_as_the_error() -> None:
    stack = gappy((2, 4, 5))
    with pytest.warns(StimputeWarning, match="too few"):
        sink, _ = run(stack, Plane(scale=None))
    spread = stack.values[stack.valid].std()
    np.testing.assert_allclose(sink.standard_error[sink.flag == FILLED], spread, rtol=1e-5)


def test_quantiles_and_bounds() -> None:
    stack = gappy((12, 30, 30), noise=1.0)
    kept: list[Filled] = []

    class Keeping(ArraySink):
        def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
            kept.append(filled)
            super().write(window, filled, layer)

    sink = Keeping(stack.shape)
    options = FillOptions(quantiles=(0.05, 0.95), bounds=(20.0, 60.0))
    summary = fill_source(StackSource(stack), sink, Plane(), options)
    filled = kept[0]
    chosen = filled.flag == FILLED
    assert filled.values[chosen].min() >= 20
    assert filled.values[chosen].max() <= 60
    assert summary.layers[0].clipped > 0
    low, high = filled.quantiles[0.05][chosen], filled.quantiles[0.95][chosen]
    assert (low <= filled.values[chosen]).all()
    assert (high >= filled.values[chosen]).all()
    assert low.min() >= 20


def test_long_gaps_and_rarely_seen_cells_are_refused_on_request() -> None:
    values = plane((10, 6, 6))
    values[2:8, 1, 1] = np.nan
    values[4, 2, 2] = np.nan
    stack = Stack.from_array(values)
    sink, _ = run(stack, uncertainty=False, max_gap_days=3.0)
    assert (sink.flag[2:8, 1, 1] == REFUSED).all()
    assert sink.flag[4, 2, 2] == FILLED
    sink, _ = run(stack, uncertainty=False, min_obs=0.5)
    assert (sink.flag[2:8, 1, 1] == REFUSED).all()
    assert sink.flag[4, 2, 2] == FILLED


def test_gap_days_counts_from_observation_to_observation() -> None:
    valid = np.array([[1, 0], [0, 0], [0, 0], [1, 0]], dtype=bool)[:, None, :]
    days = gap_days(valid, np.array([0.0, 1.0, 5.0, 7.0]))
    assert days[:, 0, 0].tolist() == [0, 7, 7, 0]
    assert np.isinf(days[:, 0, 1]).all()


def test_auto_bounds_come_from_the_file_then_from_the_name() -> None:
    layer = Layer("p", "p", {}, (1, 1, 1), np.dtype("f4"), standard_name="precipitation_flux")
    auto = FillOptions()
    assert resolve_bounds(layer, auto)[0] == (0.0, None)
    declared = Layer("n", "n", {}, (1, 1, 1), np.dtype("i2"), valid_range=(-0.2, 1.0))
    assert resolve_bounds(declared, auto)[0] == (-0.2, 1.0)
    assert resolve_bounds(declared, FillOptions(bounds=None))[0] == (None, None)
    assert resolve_bounds(declared, FillOptions(bounds=(0.0, None)))[0] == (0.0, None)


def observed(
    values: np.ndarray, units: str = "", **named: str
) -> tuple[tuple[float | None, float | None], str]:
    stack = Stack.from_array(np.asarray(values, dtype=np.float32).reshape(1, -1, 50))
    layer = Layer("v", "v", {}, stack.shape, np.dtype("f4"), units=units, **named)
    return resolve_bounds(layer, FillOptions(), stack.values[stack.valid])


def test_auto_bounds_are_seen_where_observations_pile_up() -> None:
    rng = np.random.default_rng(0)
    rain = np.maximum(rng.normal(size=5000), 0)
    ice = np.clip(rng.normal(0.5, 1, size=5000), 0, 1)
    assert observed(rain)[0] == (0.0, None)
    assert "nothing observed is below 0" in observed(rain)[1]
    assert observed(ice)[0] == (0.0, 1.0)
    assert observed(100 * ice, "%")[0] == (0.0, 100.0)
    assert observed(100 * ice, "K")[0] == (None, None)
    assert observed(np.round(rng.normal(3, 2, size=5000)).clip(0), "degC")[0] == (None, None), (
        "a scale of its own"
    )
    assert observed(rng.normal(0, 5, size=5000), "degC", standard_name="air_temperature")[0] == (None, None)
    assert observed(rng.normal(280, 5, size=5000), "K", standard_name="air_temperature")[0] == (0.0, None)
    assert observed(
        rng.uniform(5, 60, size=5000), "%", standard_name="volume_fraction_of_condensed_water_in_soil"
    )[0] == (0.0, 100.0)
    assert observed(
        rng.normal(5000, 3000, size=5000), "1", standard_name="normalized_difference_vegetation_index"
    )[0] == (None, None)
    assert observed(ice - 0.01)[0] == (None, None)
    assert observed(np.exp(rng.normal(size=5000)))[0] == (None, None)
    assert observed(np.exp(rng.normal(size=5000)), "mg m-3")[0] == (0.0, None)
    assert observed(rng.uniform(2, 25, size=5000), "degC")[0] == (None, None)
    assert observed(np.append(rng.uniform(2, 25, size=4999), 0), "degC")[0] == (None, None), "a single zero"
    assert observed(rain, standard_name="relative_humidity")[1] == "", "the name says it"


@pytest.mark.parametrize("bounds", ["auto", None])
def test_what_is_filled_stays_where_observations_pile_up(bounds) -> None:
    rng = np.random.default_rng(1)
    values = np.maximum(rng.normal(size=(8, 20, 20)), 0).astype("f4")
    values[rng.random(values.shape) < 0.3] = np.nan
    stack = Stack.from_array(values)
    sink = ArraySink(stack.shape)
    below = replace(Plane(), name="below")
    below.impute = lambda stack: Estimate(
        np.full(stack.shape, -1.0, np.float32), np.ones(stack.shape, np.float32)
    )
    summary = fill_source(StackSource(stack), sink, below, FillOptions(bounds=bounds))
    filled = sink.values[sink.flag == FILLED]
    assert (filled == (0 if bounds == "auto" else -1)).all()
    assert any("below 0" in note for note in summary.layers[0].notes) == (bounds == "auto")
    assert summary.layers[0].clipped == (filled.size if bounds == "auto" else 0)


def test_a_wrapping_grid_has_no_edge_at_the_antimeridian() -> None:
    lon, lat = np.arange(0.5, 360, 5.0), np.arange(42.5, -43, -5.0)
    grid = Grid("affine", (len(lat), len(lon)), lon, lat, "degrees", wraps=True)
    seen: list[int] = []

    @dataclass
    class NearestColumn:
        """Fills with the mean of the columns it sees within two cells: across the line too."""

        name: str = "nearest"
        sees_whole: bool = False

        def prepare(self, overview: Stack) -> NearestColumn:
            return self

        def impute(self, stack: Stack) -> Estimate:
            seen.append(stack.shape[2])
            assert (np.diff(stack.grid.x) > 0).all()
            mean = np.zeros(stack.shape, dtype=np.float32)
            for column in range(stack.shape[2]):
                near = slice(max(column - 2, 0), column + 3)
                mean[:, :, column] = stack.values[:, :, near].sum() / max(stack.valid[:, :, near].sum(), 1)
            return Estimate(mean)

    field = np.cos(np.radians(lon))[None, None] * np.ones((6, len(lat), 1))
    values = np.broadcast_to(field, (6, len(lat), len(lon))).astype(np.float32).copy()
    values[2, :, 0] = np.nan
    source, sink = StackSource(Stack.from_array(values, grid=grid)), ArraySink(values.shape)
    fill_source(source, sink, NearestColumn(), FillOptions(tile=24, overlap=4, uncertainty=False))
    expected = np.mean([*np.cos(np.radians(lon[[-2, -1, 1, 2]])), np.cos(np.radians(lon[0]))])
    assert sink.values[2, 5, 0] == pytest.approx(expected, abs=5e-3)


def test_columns_read_twice_on_a_wrapping_grid_are_hidden_alike() -> None:
    lon, lat = np.arange(0.5, 360, 5.0), np.arange(42.5, -43, -5.0)
    grid = Grid("affine", (len(lat), len(lon)), lon, lat, "degrees", wraps=True)
    stack = gappy((6, len(lat), len(lon)), noise=1.0)
    shown: list[np.ndarray] = []

    class Remembering(TileMean):
        def impute(self, stack: Stack) -> Estimate:
            shown.append(stack.valid)
            return super().impute(stack)

    source = StackSource(Stack.from_array(stack.values, stack.valid, grid=grid))
    fill_source(source, ArraySink(stack.shape), Remembering(sees_whole=True), FillOptions())
    twice = shown[0].shape[2] - len(lon)
    assert twice > 0
    assert not (shown[0] == shown[-1]).all()  # the first call calibrates
    np.testing.assert_array_equal(shown[0][..., :twice], shown[0][..., -twice:])


def test_the_same_run_twice_is_the_same() -> None:
    stack = gappy((8, 24, 24), noise=1.0)
    first, _ = run(stack, TileMean(), tile=16, overlap=4, seed=5)
    second, _ = run(stack, TileMean(), tile=16, overlap=4, seed=5)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.standard_error, second.standard_error)


def test_the_recorder_keeps_what_a_picture_needs() -> None:
    stack = gappy((8, 40, 60))
    source, sink = StackSource(stack), ArraySink(stack.shape)
    recorder = RecordingSink(sink, source, cells=8 * 10 * 15)
    fill_source(source, recorder, Plane(), FillOptions(tile=12, overlap=2, memory=2**20, uncertainty=False))
    assert recorder.every == 4
    np.testing.assert_array_equal(recorder.flag, sink.flag[:, ::4, ::4])
    np.testing.assert_array_equal(recorder.before, stack.with_nan()[:, ::4, ::4])
    kept = recorder.flag == FILLED
    np.testing.assert_array_equal(recorder.after[kept], sink.values[:, ::4, ::4][kept])


def test_history_names_version_method_and_seed() -> None:
    stack = gappy((6, 12, 12))
    source, sink = StackSource(stack), ArraySink(stack.shape)
    fill_source(source, sink, Plane(), FillOptions(seed=3, uncertainty=False), command="stimpute fill a b")
    assert sink.history is not None
    assert "stimpute fill a b (stimpute " in sink.history
    assert "method plane, seed 3" in sink.history


def test_a_survey_holds_one_slab_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fresh(StackSource):
        def read(self, window: Window, layer: int = 0) -> Stack:
            alive.append(sum(slab() is not None for slab in slabs))
            part = super().read(window, layer)
            values = part.values.copy()
            slabs.append(weakref.ref(values))
            return replace(part, values=values, valid=part.valid.copy())

    slabs: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    monkeypatch.setattr(scan, "OVERVIEW_CELLS", 500)
    found = scan.scan_layer(Fresh(gappy((9, 40, 40))), 0, budget=3 * 40 * 40 * scan.ENGINE_BYTES)
    assert found.whole is None
    assert len(slabs) == 3
    assert max(alive) <= 1


@dataclass
class CellMean:
    """A network in the engine's eyes, with short windows of time: the mean of each cell, NaN where it sees nothing of it."""

    name: str = "cell-mean"
    sees_whole: bool = False
    multiple: int = 8
    max_steps: int = 60
    bytes_per_cell: int = 10

    def prepare(self, overview: Stack) -> CellMean:
        return self

    def impute(self, stack: Stack) -> Estimate:
        assert (np.diff(stack.times) > 0).all()
        count = stack.valid.sum(axis=0)
        mean = np.where(count > 0, stack.values.sum(axis=0) / np.maximum(count, 1), np.nan)
        return Estimate(np.broadcast_to(mean, stack.shape).astype(np.float32))


@pytest.mark.parametrize("memory", [None, 1_000_000])
def test_windows_inside_an_outage_look_at_what_lies_around_it(memory):
    values = np.broadcast_to(np.arange(144.0).reshape(12, 12), (400, 12, 12)).astype("f4").copy()
    values += np.random.default_rng(0).normal(scale=0.1, size=values.shape).astype("f4")
    values[100:300] = np.nan
    stack = Stack.from_array(values)
    sink = ArraySink(stack.shape)
    options = FillOptions(uncertainty=False, memory=memory, max_extrapolation_days=np.inf)
    summary = fill_source(StackSource(stack), sink, CellMean(), options)
    assert summary.layers[0].tiles > 5
    assert summary.layers[0].filled == 200 * 144
    np.testing.assert_allclose(
        sink.values[100:300], np.broadcast_to(np.arange(144.0).reshape(12, 12), (200, 12, 12)), atol=0.1
    )


@dataclass
class Slow(Plane):
    """Takes a twentieth of a second for each stack, whatever its size."""

    sees_whole: bool = True

    def impute(self, stack: Stack) -> Estimate:
        time.sleep(0.05)
        return super().impute(stack)


def test_a_plan_counts_every_fill_that_the_calibration_asks_for() -> None:
    values = np.random.default_rng(0).normal(size=(60, 8, 8)).astype("f4")
    values[values > 1] = np.nan
    cut = values.copy()
    cut[10:20] = np.nan  # whole steps are hidden, too, some in runs
    seconds, fills = [], []
    for shown in (values, cut):
        source = StackSource(Stack.from_array(shown))
        seconds.append(plan_fill(source, Slow(), FillOptions(), {}).layers[0].expected_seconds)
        counting = Slow()
        counted: list[int] = []
        counting.impute = lambda stack, counted=counted: counted.append(1) or Plane.impute(Plane(), stack)
        fill_source(source, ArraySink(shown.shape), counting, FillOptions())
        fills.append(len(counted))
    assert fills[1] > fills[0] == 2
    assert all(expected > 0.05 * count for expected, count in zip(seconds, fills, strict=True))
