"""Classical methods behind the common interface: stacks in, estimates in the stack's units out."""

from collections.abc import Callable

from stimpute.baselines.averages import LinearMethod, MeanMethod
from stimpute.baselines.dct_pls import DctPlsMethod
from stimpute.baselines.dineof import DineofMethod
from stimpute.baselines.kriging import KrigingMethod
from stimpute.protocols import Method

METHODS: dict[str, Callable[[], Method]] = {
    "mean": MeanMethod,
    "linear": LinearMethod,
    "dct-pls": DctPlsMethod,
    "dineof": DineofMethod,
    "kriging": KrigingMethod,
}

__all__ = ["METHODS"]
