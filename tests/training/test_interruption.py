"""Signals wait for the end of a block, and only for that."""

from __future__ import annotations

import signal
import threading

import pytest

from stimpute.training.interruption import uninterrupted


def test_an_interruption_takes_effect_at_the_end_of_the_block() -> None:
    done = []

    @uninterrupted()
    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ValueError, match="within"), uninterrupted():
        raise ValueError("within")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_have_nothing_to_wait_for() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
