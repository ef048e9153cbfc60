"""What the name of an output stands for, and what is refused for it before anything is computed. Knows no formats but the folders that are one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from stimpute.errors import InputError, OutputError
from stimpute.io.inputs import expand_inputs, name_problem
from stimpute.io.object_store import is_address
from stimpute.io.zarr_layout import is_zarr


def is_folder_output(out: str | Path, wanted: str | None = None) -> bool:
    """Whether an output is a folder of files: it exists as one (and is no Zarr store), ends in a slash, or has no suffix.

    >>> is_folder_output("filled/"), is_folder_output("filled.tif"), is_folder_output("filled", "Zarr")
    (True, False, False)
    """
    target = Path(out)
    if target.is_dir():
        return not is_zarr(target) and target.suffix.lower() != ".zarr"
    return str(out).endswith("/") or (not target.suffix and wanted != "Zarr")


def check_spared(written: str | Path | None, read: Sequence[str | Path]) -> None:
    """Refuse to write onto a file that is read besides the inputs: a covariate (``PATH[:VAR]``), a domain.

    Raises
    ------
    OutputError : it would be overwritten.
    """
    from stimpute.io.covariates import split_variable

    for item in read:
        path = Path(split_variable(str(item))[0])
        if written is not None and path.exists() and _same(Path(written), path):
            raise OutputError(f"{written}: is read in this run ({item}); the output needs another name")


def check_output(out: str | Path, inputs: Sequence[str | Path], overwrite: bool = False) -> None:
    """Refuse an output before anything is computed.

    Raises
    ------
    OutputError : it equals an input, exists without ``overwrite``, or its folder is absent or not writable.
    UsageError : it is ``-`` and standard output is a terminal.
    """
    if str(out) == "-":
        from stimpute.io.streams import refuse_terminal

        refuse_terminal(sys.stdout.buffer)
        return
    if is_address(out):
        from stimpute.io.object_store import check_address

        if str(out) in (str(item) for item in inputs):
            raise OutputError(f"{out}: is an input; the output needs another name")
        check_address(str(out), overwrite)
        return
    target = Path(out)
    if target.suffix.lower() != ".zarr" and (problem := name_problem(str(out))):
        raise OutputError(problem)
    into_folder = is_folder_output(out) and target.is_dir()
    for item in _expanded(inputs):
        made = target / item.name if into_folder else target
        inside = not into_folder and target.resolve() in item.resolve().parents
        if item.exists() and (_same(made, item) or inside):
            raise OutputError(f"{made}: is the input {item}; the output needs another name")
        if into_folder and made.exists() and not overwrite:
            raise OutputError(f"{made}: already exists; --overwrite replaces it")
    if target.exists() and not target.is_file() and not target.is_dir():
        raise OutputError(f"{target}: is no file; - stands for standard output")
    if target.is_dir() and not into_folder and not is_zarr(target) and any(target.iterdir()):
        raise OutputError(
            f"{target}: is a folder of other files, which is not replaced; the output needs another name"
        )
    if target.exists() and not overwrite and not into_folder:
        raise OutputError(f"{target}: already exists; --overwrite replaces it")
    folder = target if into_folder else target.parent
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: the folder {folder} is not writable")


def _expanded(inputs: Sequence[str | Path]) -> list[Path]:
    """The files behind the inputs, as far as they can be told before they are opened."""
    paths: list[Path] = []
    for item in inputs:
        try:
            paths += [Path(p) for p in expand_inputs([item])]
        except InputError:  # absent inputs have an error of their own
            continue
    return paths


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve() or (one.exists() and one.samefile(other))
