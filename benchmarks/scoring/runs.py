"""One method on one trial through the package's engine, kept on disk so that a killed benchmark goes on."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

import stimpute
from scoring.cases import Material, Trial
from stimpute.errors import StimputeError, StimputeWarning
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.options import FillOptions
from stimpute.protocols import FILLED, Method
from stimpute.stack import Float32Array


@dataclass(frozen=True)
class Key:
    """What a result is a result of. ``model`` is the hash of the weights, '-' for methods without any."""

    case: str
    digest: str
    kind: str
    seed: int
    method: str
    model: str

    @property
    def stem(self) -> str:
        """A file name."""
        safe = f"{self.case}.{self.digest}.{self.kind}.{self.seed}.{self.method}.{self.model}"
        return safe.replace(" ", "").replace("%", "pc")


@dataclass(frozen=True, eq=False)
class Result:
    """What a method says at the held-out cells, in the order of ``held_out``; NaN where it says nothing."""

    key: Key
    mean: Float32Array
    scale: Float32Array
    seconds: float
    whole: bool
    note: str = ""
    code: str = ""

    @property
    def done(self) -> bool:
        """False where the method was skipped or failed (``note`` says why)."""
        return self.mean.size > 0


def run(
    material: Material, trial: Trial, key: Key, make: Callable[[], Method], uncertainty: bool = True
) -> Result:
    """Hide, fill through the engine as `evaluate` does, look at what was hidden. No scale without ``uncertainty``."""
    source = StackSource(material.stack.hide(trial.held_out), material.layer.name)
    source.layers = (material.layer,)
    sink = ArraySink(material.stack.shape)
    method = make()
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StimputeWarning)
            options = FillOptions(fill_never_observed=True, uncertainty=uncertainty, seed=trial.seed)
            summary = fill_source(source, sink, method, options)
    except StimputeError as error:
        return skipped(key, f"failed: {error}")
    seconds = time.perf_counter() - started
    said = (sink.flag == FILLED)[trial.held_out]
    mean = np.where(said, sink.values[trial.held_out], np.float32(np.nan))
    return Result(
        key, mean, sink.standard_error[trial.held_out], seconds, summary.layers[0].whole, code=code_digest()
    )


def skipped(key: Key, note: str) -> Result:
    """Nothing, and why."""
    nothing = np.empty(0, dtype=np.float32)
    return Result(key, nothing, nothing, 0.0, True, note, code_digest())


class Store:
    """Results as files in one folder: `<key>.json` with the figures of the run, `<key>.npz` with what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, key: Key) -> Result | None:
        """A result kept earlier; None if there is none. A file cut short counts as none."""
        try:
            about = json.loads((self.folder / f"{key.stem}.json").read_text(encoding="utf-8"))
            with np.load(self.folder / f"{key.stem}.npz") as arrays:
                mean, scale = arrays["mean"], arrays["scale"]
        except (OSError, ValueError, KeyError):
            return None
        return Result(key, mean, scale, about["seconds"], about["whole"], about["note"], about["code"])

    def save(self, result: Result) -> None:
        """Keep a result; the JSON comes last and makes it valid."""
        path = self.folder / result.key.stem
        partial = self.folder / f"{result.key.stem}.{os.getpid()}.partial.npz"
        np.savez_compressed(partial, mean=result.mean, scale=result.scale)
        partial.replace(f"{path}.npz")
        about = {
            **asdict(result.key),
            "seconds": result.seconds,
            "whole": result.whole,
            "note": result.note,
            "code": result.code,
        }
        text = self.folder / f"{result.key.stem}.{os.getpid()}.partial.json"
        text.write_text(json.dumps(about, indent=1), encoding="utf-8")
        text.replace(f"{path}.json")


@cache
def code_digest(*rooms: str) -> str:
    """A hash of the package's Python files, or of those of some rooms: do two results come from the same code?"""
    root = Path(stimpute.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(p for part in rooms or (".",) for p in (root / part).rglob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]
