"""A small run from end to end without any method: every gap gets one value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stimpute.io import ReadOptions, SinkOptions, create_sink, open_source
from stimpute.protocols import FILLED, OBSERVED, REFUSED, Filled, Window


@pytest.fixture
def fill_with() -> Callable[..., Any]:
    """``fill_with(value, inputs, out, options, sinking)``: fills all gaps but those of the first row, tile by tile."""

    def run(
        value: float,
        inputs: Any,
        out: Path | None,
        options: ReadOptions | None = None,
        sinking: SinkOptions | None = None,
        tile: tuple[int, int, int] = (3, 5, 4),
    ) -> Any:
        with open_source(inputs, options) as source, create_sink(out, source, sinking) as sink:
            for number, layer in enumerate(source.layers):
                for window in reversed(list(_windows(layer.shape, tile))):
                    stack = source.read(window, number)
                    flag = np.where(stack.valid, OBSERVED, FILLED).astype(np.uint8)
                    if window.y[0] == 0:
                        flag[:, 0][flag[:, 0] == FILLED] = REFUSED
                    values = np.full(window.shape, value, dtype=np.float32)
                    error = np.full(window.shape, 0.5, dtype=np.float32)
                    quantiles = {q: values - np.float32(q) for q in (sinking.quantiles if sinking else ())}
                    sink.write(window, Filled(values, flag, error, quantiles), number)
            sink.commit("2026-01-01T00:00:00Z stimpute fill (test)")
            return sink

    return run


def _windows(shape: tuple[int, int, int], tile: tuple[int, int, int]) -> Any:
    for t in range(0, shape[0], tile[0]):
        for y in range(0, shape[1], tile[1]):
            for x in range(0, shape[2], tile[2]):
                yield Window(
                    (t, min(t + tile[0], shape[0])),
                    (y, min(y + tile[1], shape[1])),
                    (x, min(x + tile[2], shape[2])),
                )
