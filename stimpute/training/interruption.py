"""Ctrl-C between two steps, never within one: what is saved after an interruption is a state the run was in. Knows no training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A block at whose end an interruption that came meanwhile takes effect.

    Handlers of other than the main thread are not touched: Python delivers signals to the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Any] = {
        number: handler for number in _NUMBERS if callable(handler := signal.getsignal(number))
    }
    try:
        for number in before:
            signal.signal(number, lambda n, _: came.append(n))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
