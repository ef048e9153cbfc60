"""Weights that travel with the package: the file format, the registry, the shipped models. Knows nothing about training."""

from stimpute.pretrained.checkpoint import save_checkpoint
from stimpute.pretrained.registry import (
    DEFAULT_FORECASTER,
    DEFAULT_MODEL,
    LoadedForecaster,
    LoadedModel,
    ModelEntry,
    find_model,
    list_models,
    load_forecaster,
    load_model,
)

__all__ = [
    "DEFAULT_FORECASTER",
    "DEFAULT_MODEL",
    "LoadedForecaster",
    "LoadedModel",
    "ModelEntry",
    "find_model",
    "list_models",
    "load_forecaster",
    "load_model",
    "save_checkpoint",
]
