"""What a candidate is worth: errors of the prior with and without it, as ratios with a bootstrap over files. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from scoring.compute_figures import NOISE, Effect, drawn_again, file_of

PRIOR, BEST, FAST, NETWORK = "prior", "best", "fast", "network"
WITHOUT, ALONE = "without ", "alone: "


def without(candidate: str) -> str:
    """The variant: the prior of all other candidates."""
    return f"{WITHOUT}{candidate}"


def alone(candidate: str) -> str:
    """The variant: this candidate and nothing else."""
    return f"{ALONE}{candidate}"


@dataclass(frozen=True)
class Row:
    """One crop under one pattern in one setting.

    Parameters
    ----------
    archive, kind, empty : what was asked: file name of the archive, pattern, share of the steps that was taken away wholly before.
    shape, missing : of the crop (steps, rows, columns), with steps taken away and gaps laid over, before cells were hidden.
    laid : gaps of other archives were laid over it.
    hidden : cells scored; 0 where this crop cannot be asked so.
    mae : mean absolute error at these by variant, in standard deviations of what was given.
    doubles : candidates that say here exactly what another one says.
    seconds : CPU, of all variants together.
    code : state of the package's code.
    """

    archive: str
    kind: str
    empty: float
    shape: tuple[int, int, int]
    missing: float
    laid: bool
    hidden: int = 0
    mae: Mapping[str, float] = field(default_factory=dict)
    doubles: tuple[str, ...] = ()
    seconds: float = 0.0
    code: str = ""

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Row:
        """From what :meth:`to_json` gave."""
        steps, rows, columns = told["shape"]
        return cls(**{**told, "shape": (steps, rows, columns), "doubles": tuple(told["doubles"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def error(self, variant: str) -> float:
        """MAE of a variant; ``BEST``: of the candidate that is best here, chosen with the truth in hand."""
        if variant == BEST:
            return min(value for name, value in self.mae.items() if name.startswith(ALONE))
        return self.mae[variant]

    def ratio(self, variant: str) -> float:
        """MAE of a variant / that of the prior; both a little larger, so that errors of rounding say nothing.

        >>> row = Row("a-v-0.npz", "gap", 0.0, (1, 1, 1), 0.0, False, 9, {PRIOR: 0.198, without("eof"): 0.208})
        >>> round(row.ratio(without("eof")), 9)
        1.05
        """
        return (self.error(variant) + NOISE) / (self.error(PRIOR) + NOISE)


def candidates_of(rows: Sequence[Row]) -> list[str]:
    """Those that were left out, in the order of the first row."""
    return [name.removeprefix(WITHOUT) for name in rows[0].mae if name.startswith(WITHOUT)] if rows else []


def settings_of(rows: Sequence[Row]) -> list[float]:
    """The shares of steps taken away, in ascending order."""
    return sorted({row.empty for row in rows})


def against_prior(rows: Sequence[Row], variant: str) -> Effect:
    """Geometric mean over rows of MAE / MAE of the prior. Drawn are files, since archives of one file are alike."""
    logs = np.array([math.log(row.ratio(variant)) for row in rows])
    return drawn_again(logs, [file_of(row.archive) for row in rows])


def better(rows: Sequence[Row], variant: str) -> float:
    """Share of rows in which a variant errs less than the prior; NaN of none."""
    return sum(r.error(variant) < r.error(PRIOR) for r in rows) / len(rows) if rows else math.nan
