"""What a fill keeps while it runs: ``OUT.stimpute-partial/`` with a manifest and every finished tile, checksummed.

    manifest.json                    what the run is: inputs, options, model, version, memory, threads, command
    layer-000/survey.json            what was read: a checksum of the layer's overview and counts, and its tiles
    layer-000/trust.json             the calibration
    layer-000/000012-SHA.safetensors the answer of tile 12, under the start of its SHA-256
    adapted/                         weights that were adapted to the stack (--adapt)
    output/                          the unfinished output, assembled from the tiles; begun anew on resuming
    committing                       the output is being given its name

Who may have the folder, what a resumed run must share with the interrupted one, what remains of it. Knows layers by number;
neither formats of satellite data nor methods. Nothing in the folder is code.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from stimpute.errors import InputError, OutputError, StimputeWarning, UploadError
from stimpute.inference.answers import Kept, KeptInMemory
from stimpute.inference.finished_tiles import LayerFolder, RefusalError, write_whole
from stimpute.inference.survey import Survey
from stimpute.io.fingerprint import refuse_changed

FORMAT_VERSION = 1


class Partial:
    """The folder of one fill, made or taken up again. A context manager: what remains of it depends on how it is left.

    Parameters
    ----------
    folder : ``OUT.stimpute-partial``.
    identity : what the run is, JSON-able: a resumed one must be the same. ``inputs`` and ``options`` are mappings.
    settings : what a resumed run takes over from the interrupted one, JSON-able: memory, threads, command.
    resume : take up the folder if it is there.
    overwrite : remove it if it is there.

    Attributes
    ----------
    settings : those of the interrupted run where it is resumed.
    resumed, committing : whether it was taken up; whether the output was just being named when it was interrupted.

    Raises
    ------
    OutputError : it is there and neither ``resume`` nor ``overwrite`` is given, another run writes it now, it is damaged, or
        it was made from other inputs, options, weights, or by another version.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.folder, self.settings = folder, dict(settings)
        self.resumed = self.committing = self._outdated = False
        self._lock: Any = None
        self._layers: dict[int, LayerFolder] = {}
        identity = json.loads(json.dumps(identity, default=str))
        self._inputs = identity["inputs"]
        self.staging = folder / "output"
        try:
            self._open(identity, resume, overwrite)
        except BaseException:
            self._unlock()
            raise

    def _open(self, identity: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        if self.folder.exists():
            self._lock = _locked(self.folder)
            if resume:
                try:
                    self._take_up(identity)
                except OutputError:
                    if not overwrite:
                        raise
                    self.remove()
            elif overwrite:
                self.remove()
            else:
                raise OutputError(found(self.folder))
        elif resume:
            _warn(f"--resume: no interrupted fill ({self.folder} is not there); starting from the beginning")
        if not self.resumed:
            self._make(identity)

    def _make(self, identity: Mapping[str, Any]) -> None:
        manifest = {
            "format": "stimpute-partial",
            "format_version": FORMAT_VERSION,
            "started": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "identity": identity,
            "settings": self.settings,
        }
        try:
            self.folder.mkdir()
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        self._lock = _locked(self.folder)
        try:
            self.staging.mkdir()
            write_whole(self.folder / "manifest.json", json.dumps(manifest, indent=1).encode())
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError):
                raise OutputError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
            raise

    def _take_up(self, identity: Mapping[str, Any]) -> None:
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            known, settings = manifest["identity"], manifest["settings"]
            version = manifest["format_version"]
        except FileNotFoundError:  # killed before anything was written
            self.remove()
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self.folder}: its manifest.json cannot be read; start anew with --overwrite"
            ) from error
        unlike = (
            differences(known, identity) if version == FORMAT_VERSION else ["format of the folder changed"]
        )
        if unlike:
            raise OutputError(
                f"--resume: {self.folder} was begun otherwise: {'; '.join(unlike)}. Run it as it was begun, or start anew with"
                " --overwrite"
            )
        shutil.rmtree(self.staging, ignore_errors=True)
        try:
            self.staging.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        self.settings, self.resumed = settings, True
        self.committing = (self.folder / "committing").exists()

    def layer(self, survey: Survey, layers: int) -> Kept:
        """Where the results of one layer are kept; a single tile of a single layer is not worth it.

        Raises
        ------
        OutputError : the layer reads otherwise than before the interruption.
        """
        if len(survey.tiles) == 1 and layers == 1:
            return KeptInMemory()
        self._layers[survey.index] = LayerFolder(self.folder / f"layer-{survey.index:03}", survey)
        return self._layers[survey.index]

    def naming(self) -> None:
        """To be called just before the output gets its name: from now on what lies there may be ours.

        Raises
        ------
        InputError : an input was changed since the beginning. No run can go on with what was read of it: nothing is kept.
        """
        try:
            refuse_changed(self._inputs)
        except InputError:
            self._outdated = True
            raise
        (self.folder / "committing").touch()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Done: nothing stays. Interrupted or failed: what is finished stays, and what was interrupted before."""
        interrupted = isinstance(error, KeyboardInterrupt | UploadError)
        finished = "" if error is None or _is_final(error) else self._finished(interrupted)
        if self._outdated or (not finished and not (self.resumed and error is not None)):
            self.remove()
            return
        shutil.rmtree(self.staging, ignore_errors=True)
        if not interrupted:  # what lies under the output's name is not ours
            (self.folder / "committing").unlink(missing_ok=True)
        if not isinstance(error, RefusalError):
            _warn(
                f"{finished or 'what there is'} kept in {self.folder}; the same command with --resume goes on from there"
            )
        self._unlock()

    def _finished(self, interrupted: bool) -> str:
        """What is worth keeping, in words. After an error a calibration alone is not: no resumed run may mend the input."""
        layers = self._layers.values()
        if any(len(layer) for layer in layers) or (interrupted and layers):
            return ", ".join(f"{len(layer)} of {layer.count} tiles of {layer.name}" for layer in layers)
        if tiles := _count_tiles(self.folder):  # of an earlier run; this one did not come as far
            return f"{tiles} tiles"
        return "the adapted model" if (self.folder / "adapted").exists() else ""


def _is_final(error: BaseException) -> bool:
    """Whether the same command would end the same way: a refusal of ours that nothing outside caused (a value that the output cannot hold)."""
    return (
        isinstance(error, OutputError)
        and not isinstance(error, RefusalError | UploadError)
        and error.__cause__ is None
    )


def found(folder: Path) -> str:
    """What to say where an interrupted fill is in the way."""
    return (
        f"{folder}: an interrupted fill of the same output ({_count_tiles(folder)} finished tiles); --resume goes on from there, --overwrite"
        " starts anew"
    )


def _count_tiles(folder: Path) -> int:
    return sum(1 for _ in folder.glob("layer-*/*.safetensors"))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two identities differ in, in words.

    >>> differences({"options": {"tile": 24}, "version": 1}, {"options": {"tile": None}, "version": 1})
    ['--tile was 24, is none']
    >>> differences({"inputs": {"a.nc": [5, 1]}}, {"inputs": {"a.nc": [5, 2], "b.nc": [1, 1]}})
    ['the input a.nc was changed', 'the input b.nc is new']
    """
    said = []
    for name in dict.fromkeys([*before, *now]):
        one, other = before.get(name), now.get(name)
        if name == "inputs":
            said += _changed_inputs(one or {}, other or {})
        elif name == "options":
            keys = dict.fromkeys([*(one or {}), *(other or {})])
            said += [
                f"--{key} was {_text((one or {}).get(key))}, is {_text((other or {}).get(key))}"
                for key in keys
                if (one or {}).get(key) != (other or {}).get(key)
            ]
        elif one != other:
            said.append(f"{name} was {_text(one)}, is {_text(other)}")
    return said


def _changed_inputs(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    said = []
    for path in dict.fromkeys([*before, *now]):
        if path not in now:
            said.append(f"the input {path} is no longer read")
        elif path not in before:
            said.append(f"the input {path} is new")
        elif before[path] != now[path]:
            said.append(f"the input {path} was changed")
    return said


def _text(value: Any) -> str:
    if value is None or value in ([], {}, ""):
        return "none"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _locked(folder: Path) -> Any:
    """A lock on a folder for as long as this process lives.

    Raises
    ------
    OutputError : another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows: there two runs on one output are not told apart
        return None
    try:
        file = (folder / "lock").open("a")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise OutputError(f"{folder}: another fill writes the same output right now") from error
    except OSError:  # a file system without locks
        pass
    return file


def _warn(text: str) -> None:
    warnings.warn(text, StimputeWarning, stacklevel=4)
