"""What a fill keeps while it runs: ``OUT.stimpute-partial/`` with a manifest and every finished tile, checksummed.

    manifest.json                    what the run is: inputs, options, model, version, memory, threads, command
    layer-000/survey.json            what was read: a checksum of the layer's overview and counts, and its tiles
    layer-000/trust.json             the calibration
    layer-000/000012-SHA.safetensors the answer of tile 12, under the start of its SHA-256
    adapted/                         weights that were adapted to the stack (--adapt)
    output/                          the unfinished output, assembled from the tiles; begun anew on resuming
    committing                       the output is being given its name

A tile is written under another name first: after ``kill -9`` it is there whole, or not at all. Knows layers and tiles by
number; neither formats of satellite data nor methods. Nothing in the folder is code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from stimpute import calibration
from stimpute.errors import OutputError, StimputeWarning, UploadError
from stimpute.inference import trust as trusts
from stimpute.inference.answers import Answer, Kept, KeptInMemory
from stimpute.inference.survey import Survey
from stimpute.inference.trust import Trust

FORMAT_VERSION = 1
_CHECK = 16  # hexadecimal digits of the SHA-256 in a tile's name


class RefusalError(OutputError):
    """What lies in the folder does not belong to this run; it stays where it is."""


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
        self.resumed = self.committing = self._refused = False
        self._lock: Any = None
        self._layers: dict[int, LayerFolder] = {}
        identity = json.loads(json.dumps(identity, default=str))
        try:
            self._open(identity, resume, overwrite)
        except BaseException:
            self._unlock()
            raise
        self.staging = folder / "output"
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()

    def _open(self, identity: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        if self.folder.exists():
            self._lock = _locked(self.folder)
            if resume:
                self._take_up(identity)
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
            self._lock = _locked(self.folder)
            _write(self.folder / "manifest.json", json.dumps(manifest, indent=1).encode())
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written: {error.strerror or error}") from error

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
        try:
            layer = LayerFolder(self.folder / f"layer-{survey.index:03}", survey)
        except RefusalError:
            self._refused = True
            raise
        self._layers[survey.index] = layer
        return self._layers[survey.index]

    def naming(self) -> None:
        """To be called just before the output gets its name: from now on what lies there may be ours."""
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
        """Interrupted, or not arrived where it was to be uploaded: what is finished stays. Done, or failed: nothing stays."""
        if self._refused:
            shutil.rmtree(self.staging, ignore_errors=True)
            self._unlock()
            return
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt | UploadError)
        kept = [f"{len(layer)} of {layer.count} tiles of {layer.name}" for layer in self._layers.values()]
        if interrupted and (kept or (self.folder / "adapted").exists()):
            shutil.rmtree(self.staging, ignore_errors=True)
            done = ", ".join(kept) or "the adapted model"
            _warn(f"{done} kept in {self.folder}; the same command with --resume goes on from there")
            self._unlock()
        else:
            self.remove()


def found(folder: Path) -> str:
    """What to say where an interrupted fill is in the way."""
    tiles = sum(1 for _ in folder.glob("layer-*/*.safetensors"))
    return (
        f"{folder}: an interrupted fill of the same output ({tiles} finished tiles); --resume goes on from there, --overwrite"
        " starts anew"
    )


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


class LayerFolder:
    """The results of one layer, as files. See :class:`stimpute.inference.answers.Kept`."""

    def __init__(self, folder: Path, survey: Survey) -> None:
        self._folder, self.name, self.count = folder, survey.layer.name, len(survey.tiles)
        self._shapes = [tile.read.shape for tile in survey.tiles]
        self._files: dict[int, Path] = {}
        self._whole: set[int] = set()
        self._latest: tuple[int, Answer] | None = None
        self.trust: Trust | None = None
        facts = {"sha256": _checksum(survey), "tiles": self.count}
        described = folder / "survey.json"
        if described.exists():
            if json.loads(described.read_text(encoding="utf-8")) != facts:
                raise RefusalError(
                    f"--resume: {folder.parent}: {survey.layer.name} reads otherwise than when the fill was begun; start anew"
                    " with --overwrite"
                )
            self._look()
        else:
            folder.mkdir(exist_ok=True)
            _write(described, json.dumps(facts).encode())

    def _look(self) -> None:
        for path in sorted(self._folder.glob("*.safetensors")):
            number, _, check = path.stem.partition("-")
            if number.isdigit() and int(number) < self.count and len(check) == _CHECK:
                self._files[int(number)] = path
        known = self._folder / "trust.json"
        if known.exists():
            self.trust = _decoded(json.loads(known.read_text(encoding="utf-8")))

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int) or number not in self._files:
            return False
        if self._intact(number):
            return True
        self._files.pop(number).unlink(missing_ok=True)
        return False

    def _intact(self, number: int) -> bool:
        if number in self._whole:
            return True
        path = self._files[number]
        try:
            whole = path.stem.endswith(hashlib.sha256(path.read_bytes()).hexdigest()[:_CHECK])
        except OSError:
            return False
        if whole:
            self._whole.add(number)
        return whole

    def keep_trust(self, trust: Trust) -> None:
        """Write the calibration."""
        self.trust = trust
        _write(self._folder / "trust.json", json.dumps(_encoded(trust)).encode())

    def keep(self, number: int, answer: Answer) -> None:
        """Write what a tile says about the gaps in it, step after step."""
        gap = ~answer.valid
        steps = len(gap)
        arrays = {
            "valid": np.packbits(answer.valid.reshape(steps, -1), axis=1),
            "first": np.concatenate([[0], gap.reshape(steps, -1).sum(axis=1).cumsum()]),
            "mean": answer.mean[gap],
        }
        if answer.scale is not None:
            arrays["scale"] = answer.scale[gap]
        data = safetensors.numpy.save(arrays)
        check = hashlib.sha256(data).hexdigest()[:_CHECK]
        path = self._folder / f"{number:06}-{check}.safetensors"
        _write(path, data)
        self._files[number] = path
        self._whole.add(number)
        self._latest = number, answer

    def take(self, number: int) -> Answer:
        """What a tile says; NaN where something was observed.

        Raises
        ------
        OutputError : the file is not what was written.
        """
        if self._latest is not None and self._latest[0] == number:
            return self._latest[1]
        return self.steps(number, slice(0, self._shapes[number][0]))

    def steps(self, number: int, steps: slice) -> Answer:
        """What a tile says at some of its steps, read without the others.

        Raises
        ------
        OutputError : the file is not what was written.
        """
        path, (_, ny, nx) = self._files[number], self._shapes[number]
        count = steps.stop - steps.start
        try:
            with safetensors.safe_open(path, framework="np") as file:
                first = file.get_slice("first")[steps.start : steps.stop + 1]
                packed = file.get_slice("valid")[steps.start : steps.stop]
                valid = np.unpackbits(packed, axis=1, count=ny * nx).astype(bool).reshape(count, ny, nx)
                parts = {
                    name: _scattered(_cut(file.get_slice(name), int(first[0]), int(first[-1])), valid)
                    for name in ("mean", "scale")
                    if name in file.keys()  # noqa: SIM118
                }
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
            raise OutputError(
                f"{path}: a finished tile cannot be read ({error}); start anew with --overwrite"
            ) from error
        return Answer(parts["mean"], parts.get("scale"), valid)


def _cut(stored: Any, start: int, stop: int) -> np.ndarray[Any, Any]:
    """Part of a stored array; safetensors cuts no empty ones."""
    return stored[start:stop] if start < stop else np.empty(0, dtype=np.float32)


def _scattered(values: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = np.full(valid.shape, np.nan, dtype=np.float32)
    out[~valid] = values
    return out


def _checksum(survey: Survey) -> str:
    """Of what the survey read, and of how the layer was cut."""
    found = hashlib.sha256()
    counts = (survey.observed_per_cell, survey.observed_per_step)
    for array in (survey.overview.values, survey.overview.valid, *counts, survey.fillable, survey.times):
        found.update(np.ascontiguousarray(array).tobytes())
    found.update(repr((survey.shape, survey.margin, survey.plan, survey.tiles[-1])).encode())
    return found.hexdigest()


def _write(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all, should the process be killed."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError as error:
        raise OutputError(
            f"{path.parent}: cannot be written ({error.strerror}); is the disk full?"
        ) from error


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


def _encoded(value: Any) -> Any:
    """A calibration as JSON, exact to the last bit."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "type": type(value).__name__,
            **{f.name: _encoded(getattr(value, f.name)) for f in fields(value)},
        }
    if isinstance(value, np.ndarray):
        return {"type": "array", "dtype": str(value.dtype), "values": value.tolist()}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} in a calibration")


def _decoded(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    rest = {k: _decoded(v) for k, v in value.items() if k != "type"}
    if value["type"] == "array":
        return np.array(rest["values"], dtype=rest["dtype"])
    known: Any = getattr(trusts, value["type"], None) or getattr(calibration, value["type"])
    return known(**rest)


def _warn(text: str) -> None:
    warnings.warn(text, StimputeWarning, stacklevel=4)
