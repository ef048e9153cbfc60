"""Further variables brought onto the grid and steps of a stack. Values only: NaN where unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stimpute.protocols import Window


@dataclass(frozen=True, eq=False)
class Covariate:
    """One covariate on a stack's own grid.

    Parameters
    ----------
    name : unique among a stack's covariates.
    dynamic : whether it has a time axis.
    read : float32 (time, y, x) of a window, NaN where unknown; one step if it is static.
    """

    name: str
    dynamic: bool
    read: Callable[[Window], npt.NDArray[np.float32]]
    close: Callable[[], None] = lambda: None
