"""What the commands share: lists in options, a fill through the engine, what a page says about its run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from scoring.pages import About
from scoring.seen import training_of
from stimpute import __version__
from stimpute.errors import StimputeError, StimputeWarning
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.options import FillOptions
from stimpute.inference.summary import LayerSummary
from stimpute.pretrained.registry import load_model
from stimpute.protocols import FILLED, Layer, Method
from stimpute.stack import Float32Array, Stack

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "numpy", "scipy")


def names(text: str) -> tuple[str, ...]:
    """``a,b`` as a tuple."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[int, ...]:
    """``0,1`` as a tuple of numbers."""
    return tuple(int(part) for part in names(text))


def check_known(option: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raises StimputeError for a value that is none of ``known``."""
    for value in given:
        if value not in known:
            raise StimputeError(f"{option} {value}: some of {', '.join(known)}")


def threads() -> int:
    """Of a fill: what the environment allows."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def fill(
    stack: Stack, layer: Layer, method: Method, options: FillOptions
) -> tuple[Float32Array, LayerSummary, float]:
    """A stack through the engine behind `stimpute fill`: values (time, y, x), NaN where nothing was filled; summary, seconds."""
    source = StackSource(stack, layer.name)
    source.layers = (layer,)
    sink = ArraySink(stack.shape)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        summary = fill_source(source, sink, method, options)
    seconds = time.perf_counter() - started
    values = np.where(sink.flag == FILLED, sink.values, np.float32(np.nan))
    return values, summary.layers[0], seconds


def about_run(
    program: str, model: str, seeds: tuple[int, ...], partial: Sequence[str], arguments: Sequence[str] | None
) -> About:
    """Model, command and software of a run; paths of one machine stay there."""
    loaded = load_model(model)
    given = list(sys.argv[1:] if arguments is None else arguments)
    shown = [Path(a).name if os.path.isabs(a) else a for a in given]
    versions = {"stimpute": __version__, "Python": platform.python_version()}
    return About(
        loaded.name, loaded.sha256, training_of(loaded.card), seeds,
        " ".join([f"python benchmarks/{program}.py", *shown]),
        versions | {n: importlib.metadata.version(n) for n in LIBRARIES}, "; ".join(partial),
    )  # fmt: skip


def head(title: str, what: Sequence[str], about: About, codes: Iterable[str]) -> str:
    """The top of a page: title, what it is about, and how it was made. ``codes``: states of the code of all results."""
    seeds = ", ".join(map(str, about.seeds))
    lines = [
        f"# {title}\n", *what, "Written by:\n", f"```\n{about.command}\n```\n",
        f"- Model: `{about.model}`, sha256 `{about.sha256[:16]}…`; training: {about.training}.",
        f"- Seeds {seeds}. Software: {', '.join(f'{k} {v}' for k, v in about.versions.items())}.",
    ]  # fmt: skip
    states = len(set(codes) - {""})
    if states > 1:
        lines.append(
            f"- The figures come from {states} states of the code: the run was interrupted and went on."
        )
    if about.partial:
        lines.append(f"- **What was run:** {about.partial}.")
    return "\n".join(lines) + "\n"


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(rows + ["| " + " | ".join(line) + " |" for line in lines]) + "\n"
