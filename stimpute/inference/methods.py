"""From a method's name to a method: the pretrained network, or a classical one. Knows no files but model files."""

from __future__ import annotations

import torch

from stimpute.baselines import METHODS
from stimpute.diffusion.method import ClassicalRefiner, DiffReconRefiner
from stimpute.errors import ModelError, UsageError
from stimpute.inference.devices import choose_device
from stimpute.inference.summary import Adaptation
from stimpute.model.method import Precision, STMethod
from stimpute.pretrained.registry import (
    DEFAULT_MODEL,
    LoadedModel,
    LoadedReconstructor,
    list_models,
    load_model,
    load_reconstructor,
)
from stimpute.protocols import Method, Refiner

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


class PretrainedMethod(STMethod):
    """The ST-Transformer with the weights of a named model, as it is or adapted to the stack."""

    def __init__(
        self,
        model: LoadedModel,
        device: torch.device,
        precision: Precision,
        adaptation: Adaptation | None = None,
        fast: bool = False,
    ) -> None:
        super().__init__(model.network, device, precision, fast)
        self.model = model
        self.model_name = None if fast else model.name  # that speaks
        self.sha256 = None if fast else model.sha256
        self.adaptation = adaptation
        self.seen = None if fast else model.card.get("seen")  # ranges of what it was trained on


def method_names() -> tuple[str, ...]:
    """Every method that ``--method`` takes, the default first."""
    return ("st", *METHODS)


def open_method(
    name: str = "st",
    model: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    fast: bool = False,
) -> Method:
    """A method ready to be prepared.

    Parameters
    ----------
    name : one of :func:`method_names`.
    model : name or path of a model, for ``st``; None: the default one.
    fast : of ``st``: fewer candidates and no network.

    Raises
    ------
    UsageError : an unknown method or precision, or a model for a method that has none, or with ``fast``.
    ModelError, DeviceError : the model or the device cannot be used.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision}: one of {', '.join(PRECISIONS)}")
    if name not in method_names():
        raise UsageError(f"--method {name}: one of {', '.join(method_names())}")
    if name != "st":
        if model is not None:
            raise UsageError(
                f"--model {model}: method {name} has no model; leave --model out or use --method st"
            )
        if precision != "fp32":
            raise UsageError(
                f"--precision {precision}: only the network of method st computes in it, {name} is not one; leave it out"
            )
        if fast:
            raise UsageError(f"--fast: only method st has a faster setting, {name} has none; leave it out")
        choose_device("cpu" if device == "auto" else device, threads)
        return METHODS[name]()
    if fast and (model is not None or precision != "fp32"):
        given = f"--precision {precision}" if model is None else f"--model {model}"
        raise UsageError(f"{given}: --fast leaves the network out; leave one of them out")
    where = choose_device(device, threads)
    return PretrainedMethod(load_model(model or DEFAULT_MODEL), where, precision, fast=fast)


REFINERS = ("diffrecon", "st", "classical")


class PretrainedRefiner(DiffReconRefiner):
    """DiffRecon with the weights of a named model."""

    def __init__(self, model: LoadedReconstructor, device: torch.device) -> None:
        super().__init__(model.network, device, load_model().network)
        self.model_name = model.name
        self.sha256 = model.sha256


def open_refiner(
    name: str = "diffrecon",
    model: str | None = None,
    factor: int = 4,
    device: str = "auto",
    threads: int | None = None,
) -> Refiner:
    """A refiner ready to use.

    Parameters
    ----------
    name : one of ``REFINERS``.
    model : name or path of a model made for ``factor``, for ``diffrecon``; None: the shipped one.

    Raises
    ------
    UsageError : an unknown method, or a model for a method that has none.
    ModelError, DeviceError : the model or the device cannot be used, or no model is shipped for the factor.
    """
    if name not in REFINERS:
        raise UsageError(f"--method {name}: one of {', '.join(REFINERS)}")
    where = choose_device(device, threads)
    if name != "diffrecon":
        if model is not None:
            raise UsageError(f"--model {model}: method {name} takes none; leave --model out")
        return ClassicalRefiner() if name == "classical" else ClassicalRefiner(load_model().network, "st")
    loaded = load_reconstructor(model or default_reconstructor(factor))
    if loaded.config.factor != factor:
        raise ModelError(
            f"{loaded.path}: refines by {loaded.config.factor}, --factor says {factor}; choose another --model"
        )
    return PretrainedRefiner(loaded, where)


def default_reconstructor(factor: int) -> str:
    """The shipped model for a factor.

    Raises
    ------
    ModelError : there is none.
    """
    name = f"reconstruct-x{factor}"
    names = [entry.name for entry in list_models() if entry.name.startswith("reconstruct-x")]
    if name not in names:
        factors = ", ".join(one.removeprefix("reconstruct-x") for one in names) or "none"
        raise ModelError(
            f"--factor {factor}: no model is shipped for it (only for {factors}); train one (stimpute train --task reconstruct "
            f"--factor {factor}), or use --method st or --method classical"
        )
    return name
