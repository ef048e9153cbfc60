"""The models at hand: those shipped with the package, by name, and any other by path. Never downloads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from stimpute.diffusion.config import TASK as RECONSTRUCT
from stimpute.diffusion.config import DiffReconConfig
from stimpute.diffusion.network import DiffRecon
from stimpute.errors import ModelError
from stimpute.forecasting.config import TASK as FORECAST
from stimpute.forecasting.config import ForecastConfig
from stimpute.forecasting.network import SBATransformer
from stimpute.model.config import ModelConfig
from stimpute.model.st_transformer import STTransformer
from stimpute.pretrained.checkpoint import read_card, read_header, read_tensors, save_checkpoint

DEFAULT_MODEL = "st-small"
DEFAULT_FORECASTER = "forecast-small"
_SHIPPED = Path(__file__).parent
Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class ModelEntry:
    """A shipped model: its name, its weights' file, its card."""

    name: str
    path: Path
    card: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Loaded(Generic[Config, Network]):
    """A network in eval mode on the CPU, with what its card says."""

    name: str
    path: Path
    config: Config
    network: Network
    card: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Of the weights' file; goes into ``history`` and manifests."""
        return str(self.card["sha256"])

    @property
    def covariates_required(self) -> tuple[str, ...]:
        """Names without which the model must not be used."""
        return tuple(self.card.get("covariates_required", ()))


LoadedModel = Loaded[ModelConfig, STTransformer]
LoadedForecaster = Loaded[ForecastConfig, SBATransformer]
LoadedReconstructor = Loaded[DiffReconConfig, DiffRecon]


def list_models(folder: Path = _SHIPPED) -> list[ModelEntry]:
    """The models in a folder (default: those shipped), by name.

    Raises
    ------
    ModelError : weights whose card is missing or unreadable.
    """
    return [ModelEntry(path.stem, path, read_card(path)) for path in sorted(folder.glob("*.safetensors"))]


def find_model(name_or_path: str | Path = DEFAULT_MODEL) -> Path:
    """The weights' file of a shipped model's name, or of a path.

    Raises
    ------
    ModelError : neither.
    """
    text = str(name_or_path)
    shipped = _SHIPPED / f"{text}.safetensors"
    if "/" not in text and "\\" not in text and shipped.is_file():
        return shipped
    path = Path(text)
    if path.is_file():
        return path
    names = ", ".join(entry.stem for entry in sorted(_SHIPPED.glob("*.safetensors"))) or "none"
    raise ModelError(f"{text}: neither a model file nor a shipped model ({names})")


def load_model(name_or_path: str | Path = DEFAULT_MODEL) -> LoadedModel:
    """A shipped model that fills, by name, or any by path: checked, in eval mode, float32, on the CPU.

    Raises
    ------
    ModelError : missing, a pickle, damaged, another version or task, or weights that do not fit the config.
    """
    return _load(name_or_path, "fill", ModelConfig.from_dict, STTransformer)


def load_forecaster(name_or_path: str | Path = DEFAULT_FORECASTER) -> LoadedForecaster:
    """Likewise a model for ``forecast``.

    Raises
    ------
    ModelError : as of :func:`load_model`.
    """
    return _load(name_or_path, FORECAST, ForecastConfig.from_dict, SBATransformer)


def load_reconstructor(name_or_path: str | Path) -> LoadedReconstructor:
    """Likewise a model for ``reconstruct``.

    Raises
    ------
    ModelError : as of :func:`load_model`.
    """
    return _load(name_or_path, RECONSTRUCT, DiffReconConfig.from_dict, DiffRecon)


def _load(
    name_or_path: str | Path,
    task: str,
    configure: Callable[[dict[str, Any]], Config],
    build: Callable[[Config], Network],
) -> Loaded[Config, Network]:
    path = find_model(name_or_path)
    card = _card_for(path, task)
    try:
        config = configure(card["config"])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    network = _network(path, card, lambda: build(config))
    return Loaded(str(card.get("name", path.stem)), path, config, network, card)


def _card_for(path: Path, task: str) -> dict[str, Any]:
    card = read_card(path)
    made_for = card.get("task", card["config"].get("task", "fill"))
    if made_for != task:
        raise ModelError(f"{path}: a model for {made_for}, not for {task}; choose another --model")
    return card


def _network(path: Path, card: dict[str, Any], build: Callable[[], Network]) -> Network:
    """The architecture that ``build`` makes, with the weights at ``path``."""
    read_header(path)  # a damaged file is named before anything is built
    with torch.device("meta"):  # the architecture's shapes, without its memory
        shapes = build()
    expected = {name: tuple(t.shape) for name, t in shapes.state_dict().items()}
    tensors = read_tensors(path, expected, card["sha256"], getattr(shapes, "outgrown", ()))
    with torch.random.fork_rng(devices=()):
        network = build()
    network.load_state_dict(tensors)
    return network.eval()


def save_copy(model: LoadedModel, folder: Path) -> Path:
    """Write a model as it is in memory, in float32, with its card; the SHA-256 is that of the card where it was float32."""
    path = folder / model.path.name
    card = model.card
    known = {
        "format",
        "format_version",
        "name",
        "created",
        "stimpute",
        "config",
        "parameters",
        "storage",
        "sha256",
    }
    known |= {"covariates_required", "training", "scores"}
    save_checkpoint(
        path, model.network.state_dict(), card["config"], training=card["training"], scores=card["scores"],
        covariates=model.covariates_required, storage="float32", extra={k: v for k, v in card.items() if k not in known},
    )  # fmt: skip
    return path
