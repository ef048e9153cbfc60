"""Where methods are judged: hide what was observed, ask every method, score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from stimpute.api.keywords import (
    Memory,
    Progress,
    ReadKeywords,
    as_inputs,
    check_known,
    check_picture,
    check_scored,
    paths_of,
    read_options,
)
from stimpute.api.learning import adapt_budget, adapt_method
from stimpute.api.values import as_typed
from stimpute.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stimpute.api.keywords import Inputs
    from stimpute.evaluation.scoreboard import Scoreboard
    from stimpute.stack import Stack


@as_typed
def evaluate(
    x: Inputs,
    *,
    holdout: str | Sequence[str] = "gap",
    share: float = 0.2,
    methods: str | Sequence[str] | None = None,
    model: str | None = None,
    fast: bool = False,
    adapt: float | str | None = None,
    by: Any = None,
    seeds: int = 1,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    memory: Memory = None,
    plot: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ReadKeywords],
) -> list[Scoreboard]:
    """Hide observed cells, run every method without them, score what it says there: one scoreboard per layer.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object. What an earlier run filled counts as gaps.
    holdout : pattern(s): pixel, gap, block, frames, swath, value.
    share : of the observed cells that are hidden, between 0 and 1.
    methods : names; None: all, the pretrained network included.
    model : of method ``st``, by name or path.
    fast : of ``st``: scored a second time, as ``st+fast``, with fewer candidates and without the network.
    adapt : as of :func:`fill`: the network is scored a second time, as ``st+adapt``, adapted to what is not hidden.
    by : also score by ``distance`` to the nearest observation, or by gap ``length``.
    seeds : how many repetitions, with seeds ``seed``, ``seed + 1``, ...
    device, threads, memory : as of :func:`fill`.
    plot : where to draw the first layer's scores, PNG; ``overwrite`` replaces one.
    progress : called with (stage, done, total).
    options : how it is read, as of :func:`fill`.

    Returns
    -------
    list of Scoreboard : with ``rows``, one for each pattern and method; their ``scores`` in the layer's units.

    Raises
    ------
    UsageError : an option that does not fit.
    InputError : it cannot be read, or no method could be scored.
    """
    check_known(options, ReadKeywords, "evaluate")
    from stimpute import io
    from stimpute.evaluation.sample import sampled_stack
    from stimpute.evaluation.scoreboard import EvaluateOptions
    from stimpute.evaluation.scoreboard import evaluate as evaluate_stack
    from stimpute.inference.memory import StackSource
    from stimpute.inference.methods import method_names, open_method

    kinds: Any = tuple([holdout] if isinstance(holdout, str) else holdout)
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least 1")
    chosen = EvaluateOptions(kinds, share, tuple(range(seed, seed + seeds)), by, memory=memory)
    names = tuple(methods) if methods else method_names()
    for name in names:
        if name not in method_names():
            raise UsageError(f"--methods {name}: some of {', '.join(method_names())}")
    if model is not None and "st" not in names:
        raise UsageError(f"--model {model}: without method st among --methods it has no effect")
    if adapt is not None and "st" not in names:
        raise UsageError(f"--adapt {adapt}: without method st among --methods it has no effect")
    if fast and "st" not in names:
        raise UsageError("--fast: without method st among --methods it has no effect")
    budget = adapt_budget(adapt, "st")
    picture = check_picture(plot, overwrite, paths_of(as_inputs(x)))

    def maker(name: str) -> Callable[[Stack], Any]:
        return lambda _: open_method(name, model if name == "st" else None, device, threads=threads)

    def adapted(shown: Stack) -> Any:
        method: Any = open_method("st", model, device, threads=threads)
        return adapt_method(StackSource(shown), method, budget or (None, 1), seed=seed, memory=memory)

    if model is not None:
        open_method(
            "st", model, device, threads=threads
        )  # a model that cannot be used is no matter of scores
    runs = [(name, maker(name)) for name in names]
    if budget is not None:
        runs.insert(names.index("st") + 1, ("st+adapt", adapted))
    if fast:
        runs.insert(
            names.index("st") + 1,
            ("st+fast", lambda _: open_method("st", None, device, threads=threads, fast=True)),
        )
    boards = []
    with io.open_source(as_inputs(x), read_options(options)) as source:
        io.read_observed_only(source)
        for index, layer in enumerate(source.layers):
            stack, notes = sampled_stack(source, index, chosen.max_cells, memory)
            board = evaluate_stack(stack, layer, runs, chosen, progress, notes)
            check_scored(board.rows)
            boards.append(board)
            if picture and index == 0:
                from stimpute.report.evaluation_picture import draw_evaluation

                draw_evaluation(board, picture)
    return boards
