"""The model file: safetensors and a JSON card of the same stem. Knows nothing about architectures or training.

A model is data, never code: the header is bounded before anything is allocated, every tensor is checked against what
the architecture expects, the weights against the SHA-256 in the card. Pickles are refused unread.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

import stimpute
from stimpute.errors import DivergenceError, ModelError, OutputError

FORMAT = "stimpute-model"
FORMAT_VERSION = 1
MAX_HEADER_BYTES = 1 << 20
MAX_CARD_BYTES = 1 << 20

Storage = Literal["float16", "float32"]
Shapes = Mapping[str, tuple[int, ...]]

_DTYPES: dict[str, tuple[torch.dtype, int]] = {"F16": (torch.float16, 2), "F32": (torch.float32, 4)}
_PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds: names, shapes, dtypes; checked against the file's size."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def save_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    training: Mapping[str, Any],
    scores: Mapping[str, Any],
    covariates: tuple[str, ...] = (),
    storage: Storage = "float16",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``path`` (``.safetensors``) and its card (``.json``); returns the card.

    Parameters
    ----------
    path : the weights' file; the card takes the same stem.
    tensors : name -> floating tensor, any device.
    config : the model's configuration, JSON-able.
    training : on what, with which seed, how long (JSON-able).
    scores : what validation said (JSON-able).
    covariates : names without which the model must not be used.
    storage : dtype of the file.
    extra : further entries of the card (JSON-able), such as a calibration.

    Raises
    ------
    OutputError : the suffix is not ``.safetensors``, or the folder cannot be written.
    ModelError : a weight is not finite in ``storage``.
    """
    if path.suffix != ".safetensors":
        raise OutputError(f"{path}: a model file ends in .safetensors")
    dtype = torch.float16 if storage == "float16" else torch.float32
    stored = {name: _stored(name, t, dtype) for name, t in tensors.items()}
    # one entry only: of several, safetensors writes now one and now another first, and the same weights hash differently
    data = safetensors.torch.save(stored, {"format": f"{FORMAT} {FORMAT_VERSION}"})
    card: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": path.stem,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "stimpute": stimpute.__version__,
        "config": dict(config),
        "parameters": sum(t.numel() for t in stored.values()),
        "storage": storage,
        "sha256": hashlib.sha256(data).hexdigest(),
        "covariates_required": list(covariates),
        "training": dict(training),
        "scores": dict(scores),
        **(extra or {}),
    }
    text = (json.dumps(card, indent=2, allow_nan=False) + "\n").encode()
    write_atomic(path, data)
    write_atomic(card_path(path), text)
    return card


def card_path(path: Path) -> Path:
    """The card beside a weights' file.

    >>> card_path(Path("models/st-small.safetensors")).name
    'st-small.json'
    """
    return path.with_suffix(".json")


def read_card(path: Path) -> dict[str, Any]:
    """The card of the weights at ``path``: format and version checked, the rest as written.

    Raises
    ------
    ModelError : no weights there, a pickle, no card, no JSON, another format, another version.
    """
    _refuse_pickle(path)
    beside = card_path(path)
    try:
        if beside.stat().st_size > MAX_CARD_BYTES:
            raise ModelError(f"{beside}: a model card of more than {MAX_CARD_BYTES} bytes is refused")
        card = json.loads(beside.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: its card {beside.name} is missing; keep the two files together") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{beside}: not a model card (no valid JSON)") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ModelError(f"{beside}: not a stimpute model card")
    if card.get("format_version") != FORMAT_VERSION:
        raise ModelError(
            f"{path}: model format {card.get('format_version')!r}, this version of stimpute reads {FORMAT_VERSION}; "
            "train it again or use a matching version"
        )
    if not isinstance(card.get("config"), dict) or not isinstance(card.get("sha256"), str):
        raise ModelError(f"{beside}: the card lacks its config or its sha256")
    return {**card, "seen": _seen(path)} if "seen" not in card and seen_path(path).exists() else card


def seen_path(path: Path) -> Path:
    """Where the ranges seen in training are, beside the weights: they belong to the recipe, and outlive a set of weights.

    >>> seen_path(Path("models/st-small.safetensors")).name
    'st-small.seen.json'
    """
    return path.with_suffix(".seen.json")


def _seen(path: Path) -> dict[str, Any]:
    """Name of a trait -> (1 %, 50 %, 99 %) of the training examples."""
    beside = seen_path(path)
    try:
        if beside.stat().st_size > MAX_CARD_BYTES:
            raise ModelError(f"{beside}: more than {MAX_CARD_BYTES} bytes are refused")
        ranges = json.loads(beside.read_bytes())["ranges"]
        return {str(name): [float(number) for number in limits] for name, limits in ranges.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{beside}: not the ranges seen in training (no valid JSON of them)") from error


def read_tensors(
    path: Path, expected: Shapes, sha256: str, outgrown: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The weights at ``path`` in float32, if they are exactly those named by ``expected`` and hash to ``sha256``.

    Others are left out if their names begin with one of ``outgrown``.

    Raises
    ------
    ModelError : a pickle, a damaged file, tensors missing, unexpected or of another shape, another SHA-256.
    """
    header = read_header(path)
    missing = sorted(set(expected) - set(header.shapes))
    unexpected = sorted(name for name in set(header.shapes) - set(expected) if not name.startswith(outgrown))
    if missing or unexpected:
        named = [f"lacks {name}" for name in missing[:1]] + [
            f"has an unknown {name}" for name in unexpected[:1]
        ]
        counts = f"{len(missing)} missing, {len(unexpected)} unknown"
        raise ModelError(f"{path}: does not fit its config: {' and '.join(named)} ({counts})")
    for name, shape in expected.items():
        if header.shapes[name] != tuple(shape):
            raise ModelError(
                f"{path}: tensor {name} is {header.shapes[name]}, its config says {tuple(shape)}; do the two files belong together?"
            )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path}: SHA-256 {found[:12]}..., its card says {sha256[:12]}...; the file was altered or cut"
        )
    tensors = safetensors.torch.load(data)
    return {name: tensors[name].float() for name in expected}


def read_header(path: Path) -> Header:
    """Names and shapes in a safetensors file, read without allocating more than the bounded header.

    Raises
    ------
    ModelError : missing, a pickle, a header too large or unreadable, another dtype, sizes that do not add up.
    """
    _refuse_pickle(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise ModelError(
                f"{path}: not a safetensors file, or cut short (header of {length} bytes in {size})"
            )
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        metadata = dict(entries.pop("__metadata__", {}))
        spans = {name: _span(entry) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path}: not a safetensors file (its header cannot be read)") from error
    end = 0
    for name, (_, first, last, expected) in sorted(spans.items(), key=lambda item: item[1][1]):
        if first != end or last - first != expected:
            raise ModelError(f"{path}: tensor {name} does not fit its place in the file")
        end = last
    if end != size - 8 - length:
        raise ModelError(f"{path}: {size - 8 - length} bytes of weights where its header says {end}")
    return Header({name: span[0] for name, span in spans.items()}, metadata)


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``path`` whole or not at all: a temporary name beside it, flushed, renamed.

    Raises
    ------
    OutputError : the folder is absent or not writable.
    """
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored = tensor.detach().to("cpu", dtype).contiguous().clone()
    if not bool(torch.isfinite(stored).all()):
        raise DivergenceError(f"weight {name} is not finite in {dtype}; the training diverged, lower --lr")
    return stored


def _span(entry: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int, int]:
    shape = tuple(int(n) for n in entry["shape"])
    first, last = (int(n) for n in entry["data_offsets"])
    if any(n < 0 for n in shape):
        raise ValueError("negative shape")
    return shape, first, last, math.prod(shape) * _DTYPES[entry["dtype"]][1]


def _refuse_pickle(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    with path.open("rb") as file:
        start = file.read(4)
    pickled = start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or start == b"PK\x03\x04"
    if pickled or path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ModelError(
            f"{path}: a pickled model is never loaded (it can run code); give a .safetensors with its card"
        )
