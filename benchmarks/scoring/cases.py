"""The public cases: which part of which file, and what is hidden in it. Knows files and hold-outs, no methods."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from stimpute.errors import InputError, StimputeWarning
from stimpute.holdout import KINDS, Kind, hold_out
from stimpute.io import open_source
from stimpute.io.options import ReadOptions
from stimpute.protocols import Layer, Window
from stimpute.stack import BoolArray, Float32Array, Stack

TABLE = Path(__file__).parents[1] / "cases.toml"
SHARE = 0.2
Range = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One part of one file. Ranges are half-open; None: all.

    ``judges``: in the table, the file never enters training; once :func:`scoring.seen.marked`, the weights never saw it.
    ``spared``: they never saw it although it is a file that trains.
    """

    name: str
    file: str
    variable: str
    judges: bool
    about: str
    time: Range | None = None
    y: Range | None = None
    x: Range | None = None
    kinds: tuple[Kind, ...] = KINDS
    spared: bool = False

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Case:
        """A row of the table."""
        lists = {k: tuple(row[k]) for k in ("time", "y", "x", "kinds") if k in row}
        return cls(**{**row, **lists})

    @property
    def digest(self) -> str:
        """Changes when another part of a file, or another share of it, is meant."""
        what = {k: v for k, v in asdict(self).items() if k not in {"kinds", "about", "judges", "spared"}}
        return hashlib.sha256(json.dumps([what, SHARE], sort_keys=True).encode()).hexdigest()[:12]


class Marked(Protocol):
    """A case, or a row of one."""

    @property
    def judges(self) -> bool: ...

    @property
    def spared(self) -> bool: ...


def mark(case: Marked) -> str:
    """What follows its name in tables."""
    return "" if case.judges and not case.spared else " ‡" if case.judges else " †"


def marks(cases: Iterable[Marked]) -> list[str]:
    """What the marks that occur mean."""
    found = {mark(case) for case in cases}
    said = {
        " †": "† the weights saw the file in training",
        " ‡": "‡ a file that trains, but these weights never saw it: it judges like the others",
    }
    return [text for sign, text in said.items() if sign in found]


@dataclass(frozen=True, eq=False)
class Material:
    """A case in memory: the stack as observed, and its layer's name, units and valid range."""

    stack: Stack
    layer: Layer

    @property
    def spread(self) -> float:
        """Standard deviation of the observed cells."""
        return float(self.stack.values[self.stack.valid].std(dtype=np.float64))


def read_table(path: Path = TABLE) -> list[Case]:
    """The committed cases, in their order."""
    return [Case.from_row(row) for row in tomllib.loads(path.read_text(encoding="utf-8"))["case"]]


def read_case(case: Case, data: Path) -> Material:
    """The part of the file, through the package's own reader.

    Raises
    ------
    InputError : the file is absent or has no such part.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        with open_source(data / case.file, ReadOptions(variables=(case.variable,))) as source:
            layer = source.layers[0]
            pairs = zip((case.time, case.y, case.x), layer.shape, strict=True)
            window = Window(*((0, size) if chosen is None else chosen for chosen, size in pairs))
            stack = source.read(window)
    return Material(stack, replace(layer, shape=stack.shape))


@dataclass(frozen=True, eq=False)
class Trial:
    """What is hidden once: a pattern over a case, from one seed."""

    kind: str
    seed: int
    held_out: BoolArray


def trials(material: Material, kinds: tuple[Kind, ...], seeds: tuple[int, ...]) -> Iterator[Trial]:
    """Every pattern with every seed; a pattern that this stack cannot have is left out."""
    for kind in kinds:
        for seed in seeds:
            try:
                yield Trial(kind, seed, hold_out(material.stack, kind, SHARE, seed))
            except InputError:
                continue


# --- the frame whose fills were published -----------------------------------------------------------------------------

PUBLISHED_FILE = "modis_lst_ssgp/StPetersburg.nc"
PUBLISHED_CASE = Case(
    "published_frame", PUBLISHED_FILE, "lst", True, "MODIS LST, St Petersburg, the frame of 2019-06-05 under 8 clouds"
)  # fmt: skip


def read_published(data: Path) -> tuple[Material, list[Trial], dict[tuple[str, str], Float32Array]]:
    """The stack with the target frame among the others, its eight clouds as trials, and what others filled in.

    Returns
    -------
    material ; trials whose kind is the clouded share in percent ; {(kind, name): values at the held-out cells}
    """
    around = read_case(PUBLISHED_CASE, data)
    with xr.open_dataset(data / PUBLISHED_FILE) as file:
        truth = file["target_truth"].values.astype(np.float32)
        shown = file["target_masked"].values
        labels = [str(label) for label in file["level"].values]
        date = str(file.attrs["target_time"])  # 20190605T000000.npy
        when = np.datetime64(f"{date[:4]}-{date[4:6]}-{date[6:8]}")
        day = float((when - file["time"].values[0].astype("datetime64[D]")) / np.timedelta64(1, "D"))
        published = {
            str(name).removeprefix("pub_"): file[name].values.astype(np.float32)
            for name in file.data_vars
            if str(name).startswith("pub_")
        }
    stack, step = _with_frame(around.stack, day, truth)
    found, answers = [], {}
    for level, label in enumerate(labels):
        match = re.search(r"_(\d+)_percent", label)
        kind = f"{int(match[1]):02d} %" if match else label
        held_out = np.zeros(stack.shape, dtype=bool)
        held_out[step] = np.isnan(shown[level]) & np.isfinite(truth)
        found.append(Trial(kind, 0, held_out))
        answers.update({(kind, name): values[level][held_out[step]] for name, values in published.items()})
    return (
        Material(stack, replace(around.layer, shape=stack.shape)),
        sorted(found, key=lambda t: t.kind),
        answers,
    )


def _with_frame(stack: Stack, day: float, frame: Float32Array) -> tuple[Stack, int]:
    """The stack with one more frame, complete, on its day; the index it got."""
    step = int(np.searchsorted(stack.times, day))

    def between(phase: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        weight = (day - stack.times[step - 1]) / (stack.times[step] - stack.times[step - 1])
        return np.insert(phase, step, phase[step - 1] + weight * (phase[step] - phase[step - 1]))

    return (
        replace(
            stack,
            values=np.insert(stack.values, step, frame, axis=0),
            valid=np.insert(stack.valid, step, np.isfinite(frame), axis=0),
            times=np.insert(stack.times, step, day),
            year_phase=between(stack.year_phase),
            day_phase=between(stack.day_phase),
        ),
        step,
    )
