"""One process or several (``torchrun``): the same weights on every rank. Knows nothing about networks or data.

Gradients are averaged by one all-reduce of one flat buffer; a parameter without a gradient on some rank counts as zero there, so
that examples with and without covariates may meet.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from stimpute.errors import DeviceError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """The one that validates and writes."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks."""
        if self.size == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in wanted])
        distributed.all_reduce(flat)
        flat /= self.size
        for p, gradient in zip(wanted, torch.split(flat, [p.numel() for p in wanted]), strict=True):
            p.grad = gradient.view_as(p)

    def agree(self, *values: float) -> tuple[float, ...]:
        """What the first rank says."""
        if self.size == 1:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return tuple(shared.tolist())

    def share(self, tensors: Iterable[Tensor]) -> None:
        """The first rank's tensors, in place, on all."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """The ranks that ``torchrun`` started (gloo on the CPU, nccl on CUDA), or this process alone.

    Parameters
    ----------
    device : ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    DeviceError : the device asked for is absent.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = training_device(device, int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    started = size > 1 and not distributed.is_initialized()
    if started:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    try:
        yield Ranks(rank, size, chosen)
    finally:
        if started:
            distributed.destroy_process_group()


def training_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one, else the CPU. With ``local_rank``, that one of the CUDA devices.

    Raises
    ------
    DeviceError : absent.

    >>> training_device("cpu")
    device(type='cpu')
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        raise DeviceError(f"--device {name}: no CUDA device here; use --device cpu")
    if chosen == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(f"--device {name}: no Apple GPU here; use --device cpu")
    if chosen == "cuda":
        return torch.device("cuda", local_rank or 0)
    try:
        return torch.device(chosen)
    except RuntimeError as error:
        raise DeviceError(f"--device {name}: unknown device; choose auto, cpu, cuda or mps") from error
