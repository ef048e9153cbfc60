"""From a method's name to a forecaster: the pretrained network, the blend of the guesses, or one of them. Knows no files but model files."""

from __future__ import annotations

from pathlib import Path

import torch

from stimpute.forecasting.baselines import CellForecaster
from stimpute.forecasting.method import GuessForecaster, SBAForecaster
from stimpute.inference.devices import choose_device
from stimpute.pretrained.registry import DEFAULT_FORECASTER, LoadedForecaster, load_forecaster
from stimpute.protocols import Forecaster


class PretrainedForecaster(SBAForecaster):
    """The SBATransformer with the weights of a named model."""

    def __init__(self, model: LoadedForecaster, device: torch.device) -> None:
        super().__init__(model.network, device)
        self.model = model
        self.model_name = model.name
        self.sha256 = model.sha256


def named_forecaster(
    method: str, model: str | Path | None = None, device: str = "auto", threads: int | None = None
) -> Forecaster:
    """A forecaster, by one of the names in :mod:`stimpute.forecasting.names`.

    Raises
    ------
    ModelError, DeviceError : the model or the device cannot be used.
    """
    where = choose_device(device, threads)
    if method == "sba":
        return PretrainedForecaster(load_forecaster(model or DEFAULT_FORECASTER), where)
    if method == "blend":
        return SBAForecaster(None, where)
    if method in ("ar", "dlinear"):
        return CellForecaster(method)
    return GuessForecaster(method.replace("-", " "))
