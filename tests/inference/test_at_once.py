"""Several computations at once: their order, who makes the items, and what is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from stimpute.cli import OWN_THREADS
from stimpute.estimate import Estimate
from stimpute.inference.at_once import THREAD_NAME, at_once
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.options import FillOptions
from stimpute.inference.survey import survey_layer
from stimpute.inference.watch import Watch
from stimpute.io.patience import THREAD
from stimpute.model.config import ModelConfig
from stimpute.model.method import STMethod
from stimpute.model.st_transformer import STTransformer
from stimpute.stack import Stack


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_answers_come_in_the_order_of_the_items_though_the_first_takes_longest(two_threads: None):
    def slow_first(n: int) -> int:
        time.sleep(0.05 if n == 0 else 0)
        return n * n

    assert list(at_once(slow_first, range(7), 2)) == [n * n for n in range(7)]


def test_items_are_made_in_the_calling_thread_and_computed_two_at_a_time_by_others_with_one_thread_each(
    two_threads: None,
):
    made, meeting = [], threading.Barrier(2, timeout=20)

    def items() -> Iterator[int]:
        for n in range(4):
            made.append(threading.current_thread())
            yield n

    def told(n: int) -> tuple[str, int]:
        meeting.wait()  # until another one is at work, too
        return threading.current_thread().name, torch.get_num_threads()

    found = list(at_once(told, items(), 2))
    assert set(made) == {threading.current_thread()}
    assert all(name.startswith(THREAD_NAME) and threads == 1 for name, threads in found)
    assert torch.get_num_threads() == 2


def test_items_are_not_made_far_ahead_of_the_answers(two_threads: None):
    made = []

    def items() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    answers = at_once(lambda n: n, items(), 2)
    next(answers)
    assert len(made) <= 4
    answers.close()


def test_one_worker_is_the_calling_thread_with_all_cpu_threads(two_threads: None):
    def told(_: int) -> tuple[threading.Thread, int]:
        return threading.current_thread(), torch.get_num_threads()

    assert list(at_once(told, [0], 1)) == [(threading.current_thread(), 2)]


def test_an_error_is_raised_where_its_answer_would_have_been_and_what_waits_is_not_begun(two_threads: None):
    begun = []

    def fails(n: int) -> int:
        begun.append(n)
        if n == 1:
            raise ValueError("one")
        return n

    answers = at_once(fails, range(1000), 2)
    assert next(answers) == 0
    with pytest.raises(ValueError, match="one"):
        list(answers)
    assert len(begun) <= 5
    assert torch.get_num_threads() == 2


def test_giving_up_does_not_wait_for_what_has_begun(two_threads: None):
    release = threading.Event()
    try:
        answers = at_once(lambda n: n == 0 or release.wait(30), range(10), 2)
        next(answers)
        started = time.perf_counter()
        answers.close()
        assert time.perf_counter() - started < 5
    finally:
        release.set()


def test_the_command_does_not_wait_for_threads_of_ours_at_its_end():
    assert THREAD_NAME.startswith(OWN_THREADS)
    assert THREAD.startswith(OWN_THREADS)


def test_a_watch_counts_time_once_however_many_are_at_work():
    watch, meeting = Watch(), threading.Barrier(2, timeout=20)

    def nap() -> None:
        meeting.wait()
        time.sleep(0.2)

    started = time.perf_counter()
    threads = [threading.Thread(target=watch.timed, args=(nap,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.2 <= watch.seconds <= time.perf_counter() - started


@pytest.fixture
def gappy() -> Stack:
    rng = np.random.default_rng(5)
    field = rng.normal(size=(3, 1, 1)) + np.sin(np.arange(64) / 9.0)[:, None] * np.cos(np.arange(64) / 7.0)
    field = field + 0.1 * rng.normal(size=(3, 64, 64))
    field[rng.random(field.shape) < 0.4] = np.nan
    field[1:3, 20:40, 30:50] = np.nan
    return Stack.from_array(field.astype(np.float32))


def network() -> STMethod:
    torch.manual_seed(0)
    return STMethod(STTransformer(ModelConfig(embed_dim=16, depth=1, num_heads=2, cell_dim=8)))


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
def test_a_fill_with_two_threads_is_that_with_one_to_the_last_bit(gappy: Stack, two_threads: None):
    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        method, options = network(), FillOptions(tile=32, overlap=8, memory=2**30)
        assert survey_layer(StackSource(gappy), 0, method, options).workers == threads
        sink = ArraySink(gappy.shape)
        summary = fill_source(StackSource(gappy), sink, method, options)
        assert summary.method_seconds is not None
        assert 0 < summary.method_seconds <= summary.seconds
        found[threads] = sink
    assert np.isfinite(found[1].standard_error).any()
    for name in ("values", "standard_error", "flag"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(found[2], name))


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
def test_a_single_tile_is_computed_beside_its_calibration_to_the_same_bits(gappy: Stack, two_threads: None):
    class Meeting:
        """Waits, on the CPU threads asked for, until as many calls are at work."""

        threadable, multiple, sees_whole, name = True, 2, False, "meeting"
        bytes_per_cell = 100

        def __init__(self, threads: int) -> None:
            self.barrier = threading.Barrier(threads, timeout=20)
            self.inner = network()

        def prepare(self, overview: Stack) -> Meeting:
            self.prepared = self.inner.prepare(overview)
            return self

        def impute(self, stack: Stack) -> Estimate:
            self.barrier.wait()
            assert torch.get_num_threads() == 1
            return self.prepared.impute(stack)

    found = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        sink = ArraySink(gappy.shape)
        fill_source(StackSource(gappy), sink, Meeting(threads), FillOptions(memory=2**30))
        found[threads] = sink
    for name in ("values", "standard_error", "flag"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(found[2], name))


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
def test_a_single_tile_without_a_calibration_has_all_threads(gappy: Stack, two_threads: None):
    options = FillOptions(memory=2**30, uncertainty=False)
    assert survey_layer(StackSource(gappy), 0, network(), options).workers == 1


@pytest.mark.filterwarnings("ignore::stimpute.errors.StimputeWarning")
def test_tiles_are_computed_at_once_only_as_far_as_memory_allows(gappy: Stack, two_threads: None):
    tile = 3 * 48 * 48 * STMethod.bytes_per_cell
    own = gappy.values.size * 32
    tight, ample = (
        survey_layer(StackSource(gappy), 0, network(), FillOptions(tile=48, overlap=0, memory=own + n * tile))
        for n in (1, 2)
    )
    assert (tight.workers, ample.workers) == (1, 2)
    assert ample.peak_bytes - tight.peak_bytes == tile
