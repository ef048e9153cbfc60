"""One window of a space-time stack in memory: plain numpy, checked once when made. Knows nothing about files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.grid import Grid

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Stack:
    """Values, validity, times and covariates of one window.

    Parameters
    ----------
    values : float32 (time, y, x), in the variable's units. **Zero wherever ``valid`` is False**: no code can read
        what is not observed.
    valid : bool (time, y, x), True = observed.
    times : float64 (time,), days since the first step *of the source* (so that windows agree), strictly increasing.
    grid : the cells.
    year_phase, day_phase : float64 (time,), position in the year and in the day, in [0, 1).
    dynamic : named covariates float32 (time, y, x), NaN where unknown.
    static : named covariates float32 (y, x), NaN where unknown.

    Raises
    ------
    ValueError : shapes or dtypes that do not fit, times that do not increase, non-finite observed values.
    """

    values: Float32Array
    valid: BoolArray
    times: npt.NDArray[np.float64]
    grid: Grid
    year_phase: npt.NDArray[np.float64]
    day_phase: npt.NDArray[np.float64]
    dynamic: Mapping[str, Float32Array] = field(default_factory=dict)
    static: Mapping[str, Float32Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        t, ny, nx = self.values.shape
        if self.values.dtype != np.float32 or self.valid.dtype != np.bool_:
            raise ValueError(
                f"values {self.values.dtype}, valid {self.valid.dtype}: expected float32 and bool"
            )
        if self.valid.shape != self.values.shape or self.grid.shape != (ny, nx):
            raise ValueError(f"values {self.values.shape}, valid {self.valid.shape}, grid {self.grid.shape}")
        if not (len(self.times) == len(self.year_phase) == len(self.day_phase) == t):
            raise ValueError(f"{t} steps but {len(self.times)} times")
        if t > 1 and not bool((np.diff(self.times) > 0).all()):
            raise ValueError("times do not increase")
        if not bool(np.isfinite(self.values).all()):
            raise ValueError("values are not finite (gaps are stored as 0)")
        if bool(self.values[~self.valid].any()):
            raise ValueError("a gap holds a value (gaps are stored as 0)")
        for name, array in self.dynamic.items():
            if array.shape != self.values.shape:
                raise ValueError(
                    f"dynamic covariate {name}: {array.shape} for a stack of {self.values.shape}"
                )
        for name, array in self.static.items():
            if array.shape != (ny, nx):
                raise ValueError(f"static covariate {name}: {array.shape} for a grid of {(ny, nx)}")
        object.__setattr__(self, "dynamic", MappingProxyType(dict(self.dynamic)))
        object.__setattr__(self, "static", MappingProxyType(dict(self.static)))

    @classmethod
    def from_array(
        cls,
        values: npt.ArrayLike,
        valid: npt.ArrayLike | None = None,
        *,
        times: npt.ArrayLike | None = None,
        grid: Grid | None = None,
        year_phase: npt.ArrayLike | None = None,
        day_phase: npt.ArrayLike | None = None,
        dynamic: Mapping[str, npt.ArrayLike] | None = None,
        static: Mapping[str, npt.ArrayLike] | None = None,
    ) -> Stack:
        """A stack from an array with NaN (or ``valid`` False) in the gaps; daily steps on an index grid unless said.

        Phases default to those of ``times`` counted from 1 January, midnight.

        >>> stack = Stack.from_array([[[1.0, float("nan")]]])
        >>> stack.valid.tolist(), stack.values.tolist()
        ([[[True, False]]], [[[1.0, 0.0]]])
        """
        array = np.asarray(values, dtype=np.float32)
        observed = np.isfinite(array) if valid is None else np.asarray(valid, dtype=bool) & np.isfinite(array)
        steps = (
            np.arange(array.shape[0], dtype=np.float64)
            if times is None
            else np.asarray(times, dtype=np.float64)
        )
        return cls(
            values=np.where(observed, array, np.float32(0)),
            valid=observed,
            times=steps,
            grid=grid or Grid.from_shape(*array.shape[1:]),
            year_phase=np.asarray(
                steps / 365.2425 % 1 if year_phase is None else year_phase, dtype=np.float64
            ),
            day_phase=np.asarray(steps % 1 if day_phase is None else day_phase, dtype=np.float64),
            dynamic={k: np.asarray(v, dtype=np.float32) for k, v in (dynamic or {}).items()},
            static={k: np.asarray(v, dtype=np.float32) for k, v in (static or {}).items()},
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(time, y, x)."""
        t, ny, nx = self.values.shape
        return t, ny, nx

    @property
    def gap(self) -> BoolArray:
        """True where nothing was observed."""
        return ~self.valid

    def with_nan(self) -> Float32Array:
        """The values with NaN in the gaps (a copy)."""
        return np.where(self.valid, self.values, np.float32(np.nan))

    def hide(self, held_out: BoolArray) -> Stack:
        """The same stack with the observed cells of ``held_out`` turned into gaps (their values set to 0)."""
        valid = self.valid & ~held_out
        return replace(self, valid=valid, values=np.where(valid, self.values, np.float32(0)))

    def contiguous(self) -> Stack:
        """The same stack in memory of its own: sums then run in the same order wherever it was cut from."""
        if self.values.flags.c_contiguous and self.valid.flags.c_contiguous:
            return self
        return replace(
            self,
            values=np.ascontiguousarray(self.values),
            valid=np.ascontiguousarray(self.valid),
            dynamic={name: np.ascontiguousarray(array) for name, array in self.dynamic.items()},
            static={name: np.ascontiguousarray(array) for name, array in self.static.items()},
        )

    def window(self, time: slice, y: slice, x: slice) -> Stack:
        """A part of the stack; times keep their origin."""
        cut: dict[str, Any] = {
            "values": self.values[time, y, x],
            "valid": self.valid[time, y, x],
            "times": self.times[time],
            "grid": self.grid.window(y, x),
            "year_phase": self.year_phase[time],
            "day_phase": self.day_phase[time],
            "dynamic": {k: v[time, y, x] for k, v in self.dynamic.items()},
            "static": {k: v[y, x] for k, v in self.static.items()},
        }
        return Stack(**cut)
