"""Fill the gaps in satellite image time series, georeferenced and with honest error bars.

The functions of the Python API (``fill``, ``train``, ``evaluate``, ...) live in :mod:`stimpute.api` and are loaded on
first use, so that ``import stimpute`` stays instant.
"""

from typing import TYPE_CHECKING, Any

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
        reconstruct,
        simulate,
        train,
        variogram,
        verify,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("stimpute.api"), name)
    raise AttributeError(f"module 'stimpute' has no attribute {name!r}")
