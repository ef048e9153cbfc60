"""A training run that can be killed: everything it needs to go on, in one safetensors file. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from stimpute.errors import ModelError
from stimpute.pretrained.checkpoint import write_atomic

STATE_VERSION = 1
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass
class RunState:
    """What changes while a run goes on, besides the network and the optimiser.

    Parameters
    ----------
    average : exponential moving average of the weights, the ones that are validated and shipped.
    best : the average at its best validation.
    step : steps done.
    elapsed : seconds of training done, over all resumptions.
    record : JSON-able: best and start validation, how many validations brought nothing.
    """

    average: dict[str, Tensor]
    best: dict[str, Tensor]
    step: int
    elapsed: float
    record: dict[str, Any]


def write_state(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: RunState,
    fingerprint: Mapping[str, Any],
) -> None:
    """The whole run in one file, atomically."""
    tensors = {f"network/{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in state.average.items()}
    tensors |= {f"best/{k}": v for k, v in state.best.items()}
    for name, parameter in network.named_parameters():
        for moment in _MOMENTS:
            if moment in optimiser.state.get(parameter, {}):
                tensors[f"{moment}/{name}"] = optimiser.state[parameter][moment]
    facts = {
        "version": STATE_VERSION,
        "step": state.step,
        "elapsed": state.elapsed,
        "record": state.record,
        "fingerprint": dict(fingerprint),
    }
    contiguous = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    write_atomic(path, safetensors.torch.save(contiguous, {"run": json.dumps(facts)}))


def read_state(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, fingerprint: Mapping[str, Any]
) -> RunState:
    """Put network and optimiser where :func:`write_state` found them; returns the rest.

    Raises
    ------
    ModelError : damaged, of another version, or of a run with other settings (the first that differs is named).
    """
    device = next(network.parameters()).device
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: not the state of a training run ({error}); start again without --resume"
        ) from error
    if facts.get("version") != STATE_VERSION:
        raise ModelError(
            f"{path}: state of version {facts.get('version')}, this is {STATE_VERSION}; start again"
        )
    stored = facts["fingerprint"]
    for key, value in json.loads(json.dumps(dict(fingerprint))).items():
        if stored.get(key) != value:
            raise ModelError(
                f"{path}: the interrupted run had {key} {stored.get(key)}, this one has {value}; same options, or no --resume"
            )
    try:
        network.load_state_dict(_part(tensors, "network/", device))
    except RuntimeError as error:
        raise ModelError(
            f"{path}: the interrupted run trained another network, of an earlier version; start again without --resume"
        ) from error
    parameters = dict(network.named_parameters())
    for moment in _MOMENTS:
        for name, tensor in _part(tensors, f"{moment}/", torch.device("cpu")).items():
            where = tensor if moment == "step" else tensor.to(device)
            optimiser.state[parameters[name]][moment] = where
    return RunState(
        _part(tensors, "average/", device),
        _part(tensors, "best/", device),
        int(facts["step"]),
        float(facts["elapsed"]),
        facts["record"],
    )


def _part(tensors: Mapping[str, Tensor], prefix: str, device: torch.device) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.to(device) for k, v in tensors.items() if k.startswith(prefix)}
