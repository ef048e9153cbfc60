"""The finished tiles of one layer as files, checksummed, with what the layer's survey read and its calibration.

A tile is written under another name first: after ``kill -9`` it is there whole, or not at all. Knows tiles by number, and
nothing about the run they belong to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from stimpute import calibration
from stimpute.errors import OutputError
from stimpute.inference import trust as trusts
from stimpute.inference.answers import Answer
from stimpute.inference.survey import Survey
from stimpute.inference.trust import Trust

_CHECK = 16  # hexadecimal digits of the SHA-256 in a tile's name


class RefusalError(OutputError):
    """What lies in the folder does not belong to this run; it stays where it is."""


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
        described = _read(folder / "survey.json")
        if described is None:  # a new layer, or one of which nobody knows what it was
            self._begin(facts)
        elif described != facts:
            raise RefusalError(
                f"--resume: {folder.parent}: {survey.layer.name} reads otherwise than when the fill was begun; start anew"
                " with --overwrite"
            )
        else:
            self._look()

    def _begin(self, facts: dict[str, Any]) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        try:
            self._folder.mkdir()
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot be written: {error.strerror or error}") from error
        write_whole(self._folder / "survey.json", json.dumps(facts).encode())

    def _look(self) -> None:
        for path in sorted(self._folder.glob("*.safetensors")):
            number, _, check = path.stem.partition("-")
            if number.isdigit() and int(number) < self.count and len(check) == _CHECK:
                self._files[int(number)] = path
        known = _read(self._folder / "trust.json")
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # damaged: it is calibrated anew
            self.trust = _decoded(known)
        if not isinstance(self.trust, Trust):
            self.trust = None

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
        write_whole(self._folder / "trust.json", json.dumps(_encoded(trust)).encode())

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
        write_whole(path, data)
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


def _read(path: Path) -> Any:
    """A small JSON file; None where there is none, or a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all, should the process be killed; should the power fail, too, unless it is a tile.

    Raises
    ------
    OutputError : it cannot be written, be it that the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            if path.suffix == ".json":  # a tile bears a checksum in its name
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(
            f"{path.parent}: cannot be written ({error.strerror}); is the disk full?"
        ) from error


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
