"""How long a method computes, to tell its share of a run. Knows protocols only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from stimpute.estimate import Estimate
from stimpute.protocols import Imputer
from stimpute.stack import Stack

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class Watch:
    """Seconds of wall time, summed up over calls."""

    seconds: float = 0.0

    def timed(self, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """What ``function`` returns, its time added."""
        started = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            self.seconds += time.perf_counter() - started


@dataclass(frozen=True, eq=False)
class Watched:
    """An imputer whose time is taken."""

    imputer: Imputer
    watch: Watch

    def impute(self, stack: Stack) -> Estimate:
        """As the imputer does."""
        return self.watch.timed(self.imputer.impute, stack)
