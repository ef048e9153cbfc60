"""Fill the gaps in satellite image time series, georeferenced and with honest error bars.

The functions of the Python API, one per command, live in :mod:`stimpute.api` and are loaded on first use, so that
``import stimpute`` stays instant:

fill : fill the gaps of a stack.
plan : what a fill would do (``fill --dry-run``).
forecast : say the next steps of a stack.
reconstruct : complete a coarse stack and refine it onto a finer grid.
info : what is in a stack, and how much is missing where.
variogram : the ranges of a stack in space and time.
evaluate, evaluate_forecasts, evaluate_reconstruct : score the methods where cells were hidden.
verify : compare a filled output with what it was made from.
train : specialise or train a model.
models : the cards of the shipped models.
simulate : a gappy stack with its truth.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "evaluate",
    "evaluate_forecasts",
    "evaluate_reconstruct",
    "fill",
    "forecast",
    "info",
    "models",
    "plan",
    "reconstruct",
    "simulate",
    "train",
    "variogram",
    "verify",
]

if TYPE_CHECKING:
    from stimpute.api import (
        evaluate,
        evaluate_forecasts,
        evaluate_reconstruct,
        fill,
        forecast,
        info,
        models,
        plan,
        reconstruct,
        simulate,
        train,
        variogram,
        verify,
    )
else:  # of which a type checker would conclude that every name is there

    def __getattr__(name):
        if name in __all__:
            from importlib import import_module

            return getattr(import_module("stimpute.api"), name)
        raise AttributeError(f"module 'stimpute' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
