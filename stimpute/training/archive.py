"""What training learns from: arrays in memory, however they came here. Knows nothing about geodata files.

`api` makes an :class:`Archive` from any source; a training machine without geodata libraries reads ``.npz``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.grid import Grid
from stimpute.stack import Stack

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Archive:
    """A space-time array with gaps.

    Parameters
    ----------
    name : for messages and the model's card.
    values : float32 (time, y, x), NaN in gaps.
    times : float64 (time,), days, strictly increasing.
    year_phase, day_phase : float64 (time,) in [0, 1).
    dynamic : named covariates float32 (time, y, x), NaN where unknown.
    static : named covariates float32 (y, x), NaN where unknown.
    grid : where the cells are; None: a raster of evenly spaced cells. Only forecasts ask.

    Raises
    ------
    InputError : shapes that do not fit, times that do not increase, nothing observed.
    """

    name: str
    values: Float32Array
    times: Float64Array
    year_phase: Float64Array
    day_phase: Float64Array
    dynamic: Mapping[str, Float32Array] = field(default_factory=dict)
    static: Mapping[str, Float32Array] = field(default_factory=dict)
    grid: Grid | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype != np.float32:
            raise InputError(
                f"{self.name}: values {self.values.dtype} {self.values.shape}, expected float32 (time, y, x)"
            )
        steps = len(self.values)
        if any(a.shape != (steps,) for a in (self.times, self.year_phase, self.day_phase)):
            raise InputError(f"{self.name}: {steps} steps but times of shape {self.times.shape}")
        if steps > 1 and not bool((np.diff(self.times) > 0).all()):
            raise InputError(f"{self.name}: times do not increase")
        for name, array in (*self.dynamic.items(), *self.static.items()):
            expected = self.values.shape if name in self.dynamic else self.values.shape[1:]
            if array.shape != expected:
                raise InputError(
                    f"{self.name}: covariate {name} has shape {array.shape}, expected {expected}"
                )
        if not bool(np.isfinite(self.values).any()):
            raise InputError(f"{self.name}: nothing observed in it")

    @classmethod
    def from_array(
        cls,
        name: str,
        values: npt.ArrayLike,
        *,
        times: npt.ArrayLike | None = None,
        year_phase: npt.ArrayLike | None = None,
        day_phase: npt.ArrayLike | None = None,
        dynamic: Mapping[str, npt.ArrayLike] | None = None,
        static: Mapping[str, npt.ArrayLike] | None = None,
    ) -> Archive:
        """An archive from anything array-like; daily steps, and phases counted from 1 January midnight, unless said.

        >>> Archive.from_array("one", [[[1.0, float("inf")]]]).values.tolist()
        [[[1.0, nan]]]
        """
        array = np.array(values, dtype=np.float32)
        array[~np.isfinite(array)] = np.nan
        days = (
            np.arange(len(array), dtype=np.float64) if times is None else np.asarray(times, dtype=np.float64)
        )
        return cls(
            name,
            array,
            days,
            np.asarray(days / 365.2425 % 1 if year_phase is None else year_phase, dtype=np.float64),
            np.asarray(days % 1 if day_phase is None else day_phase, dtype=np.float64),
            {k: np.asarray(v, dtype=np.float32) for k, v in (dynamic or {}).items()},
            {k: np.asarray(v, dtype=np.float32) for k, v in (static or {}).items()},
        )

    @classmethod
    def from_stack(cls, name: str, stack: Stack) -> Archive:
        """The same content as a stack."""
        return cls(
            name,
            stack.with_nan(),
            stack.times,
            stack.year_phase,
            stack.day_phase,
            stack.dynamic,
            stack.static,
            stack.grid,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(time, y, x)."""
        t, ny, nx = self.values.shape
        return t, ny, nx

    @property
    def valid(self) -> BoolArray:
        """True where observed."""
        return np.isfinite(self.values)

    def hide(self, held_out: BoolArray) -> Archive:
        """The same archive with the cells of ``held_out`` turned into gaps."""
        return replace(self, values=np.where(held_out, np.float32(np.nan), self.values))

    def standardised(self) -> Archive:
        """Values and covariates with mean 0 and variance 1 over all that is known of them, as a fill of the whole sees them."""
        return replace(
            self,
            values=_standardised(self.values),
            dynamic={k: _standardised(v) for k, v in self.dynamic.items()},
            static={k: _standardised(v) for k, v in self.static.items()},
        )


def _standardised(values: Float32Array) -> Float32Array:
    """NaN stays NaN; what does not vary becomes 0."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return values
    center, spread = known.mean(), known.std()
    scale = spread if spread > 1e-12 * (1 + abs(center)) else 1.0
    return np.asarray((values - center) / scale, dtype=np.float32)


def read_npz(path: Path) -> Archive:
    """An archive from ``.npz``: ``values`` (time, y, x), optional ``valid``, ``times`` (days), ``year_phase``, ``day_phase``,
    and covariates named ``dynamic_NAME`` (time, y, x) or ``static_NAME`` (y, x). Arrays only: a pickle is refused.

    Raises
    ------
    InputError : missing, not an ``.npz``, pickled objects inside, no ``values``, shapes that do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(
            f"{path}: not an .npz of plain arrays ({error}); pickled objects are never loaded"
        ) from error
    if "values" not in arrays:
        raise InputError(
            f"{path}: no array named 'values' in it, only {', '.join(sorted(arrays)) or 'nothing'}"
        )
    values = np.array(arrays["values"], dtype=np.float32)
    if values.ndim != 3:
        raise InputError(f"{path}: values of shape {values.shape}, expected (time, y, x)")
    if "valid" in arrays:
        if arrays["valid"].shape != values.shape:
            raise InputError(f"{path}: valid of shape {arrays['valid'].shape} for values of {values.shape}")
        values[~arrays["valid"].astype(bool)] = np.nan
    return Archive.from_array(
        path.name,
        values,
        times=arrays.get("times"),
        year_phase=arrays.get("year_phase"),
        day_phase=arrays.get("day_phase"),
        dynamic={k.removeprefix("dynamic_"): v for k, v in arrays.items() if k.startswith("dynamic_")},
        static={k.removeprefix("static_"): v for k, v in arrays.items() if k.startswith("static_")},
    )
