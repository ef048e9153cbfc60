"""Training what completes and refines: keywords to the options of a diffusion's training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimpute.api.keywords import given_of
from stimpute.errors import ModelError, UsageError

if TYPE_CHECKING:
    from stimpute.training.archive import Archive
    from stimpute.training.diffusion_loop import DiffusionProgress, DiffusionSummary

_OF_THE_TRANSFORMER = {
    "attention": None, "window": None, "depth": None, "spatial_embedding": False, "val_fraction": None, "size": "small", "precision": "auto",
}  # fmt: skip


def train_reconstructor(
    archives: Sequence[Archive],
    out: Path,
    options: Mapping[str, Any],
    progress: Callable[[DiffusionProgress], None] | None = None,
) -> DiffusionSummary:
    """Train a DiffRecon network on archives, on simulated worlds, or on both; keywords as of ``stimpute train``.

    Raises
    ------
    UsageError : options that this task does not have, or values out of range.
    """
    from stimpute.diffusion.config import DiffReconConfig
    from stimpute.inference.devices import choose_device
    from stimpute.training.diffusion_loop import DiffusionTraining, train_diffusion

    for name in given_of(options, _OF_THE_TRANSFORMER):
        raise UsageError(f"--{name.replace('_', '-')}: not for --task reconstruct; leave it out")
    factor = options.get("factor")
    if factor is None:
        raise UsageError("--task reconstruct needs --factor, fine cells per coarse cell and axis")
    worlds = options.get("worlds")
    share = (0.0 if archives else 1.0) if worlds is None else worlds
    if not 0 <= share <= 1 or (share < 1 and not archives):
        raise UsageError(f"--worlds {share:g}: a share between 0 and 1, and 1 where there is no archive")
    steps, minutes = options.get("steps"), options.get("minutes")
    device = choose_device(options.get("device", "auto"), options.get("threads"))
    settings: dict[str, Any] = {
        "steps": steps, "minutes": 10.0 if steps is None and minutes is None else minutes, "start": options.get("start"),
        "seed": options.get("seed", 0), "resume": options.get("resume", False), "world_share": share, "device": str(device),
    }  # fmt: skip
    if options.get("lr") is not None:
        settings["lr"] = options["lr"]
    if options.get("batch") is not None:
        settings["shapes"] = tuple((options["batch"], *shape[1:]) for shape in DiffusionTraining.shapes)
    width = {"width": options["width"]} if options.get("width") is not None else {}
    try:
        run = DiffusionTraining(out, network=DiffReconConfig(factor=factor, **width), **settings)
    except (ValueError, ModelError) as error:
        raise UsageError(f"train: {error}") from error
    return train_diffusion(run, archives, progress)
