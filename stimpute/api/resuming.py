"""What a fill must be to take up an interrupted one, and where the interrupted one lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimpute import __version__
from stimpute.api.keywords import FillKeywords, paths_of
from stimpute.errors import OutputError, UsageError

if TYPE_CHECKING:
    from stimpute.inference.options import FillOptions
    from stimpute.inference.partial import Partial
    from stimpute.io import ReadOptions, SinkOptions

_FLAGS = {
    "variables": "var", "covariates": "covariate", "wrap": "no-wrap", "format": "of", "creation": "co", "max_gap_days": "max-gap",
}  # fmt: skip
_FREE = ("overwrite", "staging", "memory")  # what a resumed run may be told otherwise, or takes over


def partial_folder(out: str | Path | None, inputs: Any) -> Path | None:
    """Where a fill keeps its finished tiles: ``OUT.stimpute-partial``, inside OUT where that is a folder there already, here where OUT is an address.

    None where nothing can be taken up again: the result stays in memory, or a stream is read or written.
    """
    if out is None or str(out) == "-" or "-" in (str(item) for item in paths_of(inputs)):
        return None
    from stimpute.io import is_address, is_folder_output

    if is_address(out):
        from stimpute.io.object_store import local_name

        return Path(f"{local_name(str(out))}.stimpute-partial")
    target = Path(out) if Path(out).name else Path(out).absolute()  # "." is a folder with a name of its own
    if not target.name or not str(out):
        raise UsageError(f"{out}: names neither a file nor a folder for the outputs")
    beside = target.with_name(f"{target.name}.stimpute-partial")
    inside = target / ".stimpute-partial"
    into = target.is_dir() and is_folder_output(target) and not beside.exists()
    return inside if into else beside


def check_partial(folder: Path | None, options: FillKeywords) -> bool:
    """Refuse an interrupted fill in the way before anything is computed; True: its output may be ours, half named.

    Raises
    ------
    OutputError : it is there, and neither ``resume`` nor ``overwrite`` is given.
    UsageError : ``resume`` where nothing can be resumed.
    """
    resume = options.get("resume", False)
    if folder is None:
        if resume:
            raise UsageError("--resume: what goes through a stream or stays in memory cannot be resumed")
        return False
    if not folder.exists():
        return False
    if not resume and not options.get("overwrite", False):
        from stimpute.inference.partial import found

        raise OutputError(found(folder))
    return resume and (folder / "committing").exists()


def open_partial(
    folder: Path,
    source: Any,
    method: Any,
    run: FillOptions,
    reading: ReadOptions,
    writing: SinkOptions,
    options: FillKeywords,
    command: str,
) -> Partial:
    """The folder of this fill, new or taken up.

    Raises
    ------
    OutputError : see :class:`stimpute.inference.partial.Partial`.
    """
    from stimpute.inference.devices import choose_device, thread_count
    from stimpute.inference.partial import Partial
    from stimpute.inference.survey import memory_budget
    from stimpute.io.fingerprint import fingerprints

    device = getattr(method, "device", None)
    identity = {
        "inputs": fingerprints([*source.paths, *getattr(source, "besides", ())]),
        "options": _told(run, reading, writing, options),
        "method": method.name,
        "model": getattr(method, "model_name", None),
        "model SHA-256": getattr(method, "sha256", None),
        "device": "cpu" if device is None else device.type,
        "stimpute": __version__,
    }
    settings = {"memory": memory_budget(run), "threads": thread_count(), "command": command}
    partial = Partial(
        folder, identity, settings, resume=options.get("resume", False), overwrite=writing.overwrite
    )
    if partial.resumed and options.get("threads") is None:
        choose_device("cpu", partial.settings["threads"])
    return partial


def _told(
    run: FillOptions, reading: ReadOptions, writing: SinkOptions, options: FillKeywords
) -> dict[str, Any]:
    """Every option that the result depends on, under its name on the command line."""
    told: dict[str, Any] = {}
    for group in (run, reading, writing):
        for field in fields(group):
            if field.name not in _FREE:
                value = getattr(group, field.name)
                told[_FLAGS.get(field.name, field.name.replace("_", "-"))] = (
                    dict(value) if isinstance(value, Mapping) else value
                )
    named = {"precision": options.get("precision", "fp32"), "threads": options.get("threads")}
    return {
        **told,
        **named,
        "fast": options.get("fast", False),
        "memory": run.memory,
        "adapt": options.get("adapt"),
    }
