"""How long a method computes, to tell its share of a run. Knows protocols only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from stimpute.estimate import Estimate
from stimpute.protocols import Imputer
from stimpute.stack import Stack

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class Watch:
    """Seconds of wall time in which at least one call was at work; answers that covariates helped, and all that told."""

    seconds: float = 0.0
    helped: int = 0
    told: int = 0
    _calls: int = 0
    _since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, function: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """What ``function`` returns, its time added."""
        with self._lock:
            if not self._calls:
                self._since = time.perf_counter()
            self._calls += 1
        try:
            return function(*arguments, **keywords)
        finally:
            with self._lock:
                self._calls -= 1
                if not self._calls:
                    self.seconds += time.perf_counter() - self._since

    def hear(self, estimate: Estimate) -> Estimate:
        """Count an answer."""
        if estimate.covariates_help is not None:
            with self._lock:
                self.told += 1
                self.helped += estimate.covariates_help
        return estimate


@dataclass(frozen=True, eq=False)
class Watched:
    """An imputer whose time is taken, and whose word on covariates is heard."""

    imputer: Imputer
    watch: Watch

    def impute(self, stack: Stack) -> Estimate:
        """As the imputer does."""
        return self.watch.hear(self.watch.timed(self.imputer.impute, stack))
