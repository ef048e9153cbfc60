"""Zarr v2 and v3 stores (folders, zip files, URLs) as raw files. Knows the zarr library, nothing about CF."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from stimpute.errors import InputError
from stimpute.io.raw import Array, Key, RawFile, RawVariable
from stimpute.io.zarr_layout import inner_root

_COUNTED_CHUNKS = 100_000
_PACKAGES = {  # that fsspec needs, by scheme
    "http": "aiohttp requests", "https": "aiohttp requests", "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
}  # fmt: skip


def open_zarr(path: str | Path) -> RawFile:
    """Open a Zarr store.

    Raises
    ------
    InputError : absent, or not a Zarr group.
    """
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)
            group = zarr.open_group(_store(path), mode="r", path=inner_root(path))
            return _raw_file(path, group)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise InputError(f"{path}: no Zarr group there") from error
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        wanted = _PACKAGES.get(str(path).partition("://")[0], "what its message names")
        raise InputError(
            f"{path}: cannot be read without another package ({error}); pip install {wanted}"
        ) from error
    except Exception as error:  # whatever the library makes of damaged metadata
        raise InputError(f"{path}: cannot be read as Zarr ({error}); is it damaged?") from error


def _store(path: str | Path) -> Any:
    if Path(path).is_file():
        return zarr.storage.ZipStore(str(path), mode="r")
    return str(path)


def _raw_file(path: str | Path, root: Any) -> RawFile:
    groups: dict[str, Mapping[str, Any]] = {"": root.attrs.asdict()}
    variables: dict[str, RawVariable] = {}
    dims: dict[str, int] = {}
    for name, member in sorted(root.members(max_depth=None)):
        if isinstance(member, zarr.Group):
            groups[name] = member.attrs.asdict()
            continue
        variable = _raw_variable(path, name, member)
        variables[name] = variable
        dims |= dict(zip(variable.dims, variable.shape))
    return RawFile(
        path=path,
        format="Zarr",
        variant=f"v{root.metadata.zarr_format}",
        dims=dims,
        variables=variables,
        groups=groups,
        native=root,
        close=root.store.close,
    )


def missing_chunks(array: Any) -> int:
    """How many chunks of an array were never written; 0 where the store cannot tell."""
    if array.nchunks > _COUNTED_CHUNKS:
        return 0
    try:
        return int(array.nchunks - array.nchunks_initialized)
    except ValueError:  # zip stores list arrays whose names only begin alike
        return 0


def _raw_variable(path: str | Path, name: str, array: Any) -> RawVariable:
    _refuse_pickles(path, name, array)
    attrs = dict(array.attrs.asdict())
    names = attrs.pop("_ARRAY_DIMENSIONS", None) or getattr(array.metadata, "dimension_names", None)
    group = name.rpartition("/")[0]
    own = name.rpartition("/")[2]  # what has no names may not share them: arrays differ in length
    short = [n or f"{own}_dim_{i}" for i, n in enumerate(names or [None] * array.ndim)]
    attrs |= _declared_fill(array, attrs.pop("_FillValue", None))

    def load(key: Key) -> Array:
        try:
            data = np.asarray(array[key] if key else array[...])
            return data if data.dtype.kind != "T" else data.astype(object)  # text of any length
        except MemoryError:
            raise
        except Exception as error:  # whatever a codec makes of damaged bytes
            raise InputError(f"{path}: {name} cannot be read ({error}); is the store damaged?") from error

    return RawVariable(
        name=name,
        dims=tuple(f"{group}/{n}" if group else n for n in short),
        shape=tuple(array.shape),
        dtype=np.dtype(array.dtype).newbyteorder("=") if array.dtype.kind in "biufcSU" else np.dtype(object),
        attrs=attrs,
        load=load,
        storage={"chunksizes": tuple(array.chunks)},
        label=str(path),
    )


def _refuse_pickles(path: str | Path, name: str, array: Any) -> None:
    """A chunk that is a pickle can run code when it is read."""
    described = array.metadata.to_dict()
    codecs = [
        described.get("compressor"),
        *(described.get("filters") or ()),
        *(described.get("codecs") or ()),
    ]
    named = {str(c.get("id", c.get("name", ""))) for c in codecs if isinstance(c, dict)}
    if any("pickle" in codec for codec in named):
        raise InputError(f"{path}: {name} is stored as pickles, which can run code; it is never read")


def _declared_fill(array: Any, attribute: Any) -> dict[str, Any]:
    """The ``_FillValue`` a store declares: its attribute; else, in v2 and where it is not zero, the array's fill value.

    A fill value of zero says how a missing chunk reads, not that zeros are missing.
    """
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "iuf":
        return {}
    if attribute is not None:
        return {"_FillValue": dtype.type(_decoded(attribute, dtype))}
    fill = array.fill_value
    if fill is None or fill == 0:
        return {}
    return {"_FillValue": dtype.type(fill)}


def _decoded(value: Any, dtype: np.dtype[Any]) -> Any:
    """xarray stores float fill values in v3 attributes as base64 of a little-endian double."""
    if isinstance(value, str) and dtype.kind == "f":
        try:
            return float(value)
        except ValueError:
            return np.frombuffer(base64.standard_b64decode(value), dtype="<f8")[0]
    return value
