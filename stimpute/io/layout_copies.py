"""What an output takes over from its input: the stored numbers of copied variables, cut to the selection, in pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stimpute.io.cf import Axes
from stimpute.io.cf_source import CFSource
from stimpute.io.layout import STORED_LIMITS, OutVariable
from stimpute.io.layout_times import is_time_number, time_numbers
from stimpute.io.packing import DEFAULT_FILLS
from stimpute.io.packing_attributes import packing_of
from stimpute.io.raw import Array, RawVariable

_SLAB_BYTES = 64 << 20


def slabs(source: CFSource, variable: OutVariable) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """The stored numbers of a copied variable, cut to the selection, in pieces of bounded size: (where, numbers)."""
    raw = source.files[0].variables[variable.of]
    lead = source.axes[0][source.variables[0]]
    if is_time_number(source, raw):
        numbers = time_numbers(source, raw)
        if numbers is not None:
            whole = tuple(slice(0, n) for n in variable.shape)
            yield whole, np.rint(numbers).astype(variable.dtype) if variable.dtype.kind in "iu" else numbers
            return
    if source.selection.rolled and raw.dims == (lead.x,) and raw is source.files[0].coordinate(lead.x):
        yield (slice(0, variable.shape[0]),), _rolled_coordinate(source, raw)
        return
    for key in _pieces(variable):
        yield key, _read(source, raw, key, lead)


def _pieces(variable: OutVariable) -> Iterator[tuple[slice, ...]]:
    if not variable.shape:
        yield ()
        return
    row = max(1, int(np.prod(variable.shape[1:], dtype=np.int64))) * max(variable.dtype.itemsize, 1)
    step = max(1, _SLAB_BYTES // row)
    for start in range(0, variable.shape[0], step):
        yield (slice(start, min(start + step, variable.shape[0])), *(slice(0, n) for n in variable.shape[1:]))


def _read(source: CFSource, raw: RawVariable, key: tuple[slice, ...], lead: Axes) -> Array:
    """A piece of a copied variable, along the steps out of the files where they lie."""
    if not raw.dims:
        return raw.read()
    at = {d: np.arange(k.start, k.stop) for d, k in zip(raw.dims, key)}
    if lead.y in at:
        at[lead.y] = source.selection.rows[at[lead.y]]
    if lead.x in at:
        at[lead.x] = source.selection.cols[at[lead.x]]
    if lead.time is None or lead.time not in at:
        return raw.read_at(at)
    axis = raw.dims.index(lead.time)
    steps = np.argsort(source.steps.position)[at[lead.time]]  # output position -> step
    places = [source.steps.places[s] for s in steps]
    out = _empty(raw, tuple(k.stop - k.start for k in key))
    for file in sorted({p[0][0] for p in places if p}):
        theirs = source.files[file].variables.get(raw.name)
        here = [i for i, p in enumerate(places) if p and p[0][0] == file]
        if theirs is None or theirs.dims != raw.dims:
            continue
        at[lead.time] = np.array([places[i][0][1] for i in here])
        out[(slice(None),) * axis + (here,)] = theirs.read_at(at)
    return out


def _empty(raw: RawVariable, shape: tuple[int, ...]) -> Array:
    """Nothing but fill, for steps that no file holds."""
    if raw.dtype.kind not in "iuf":
        return np.zeros(shape, dtype=raw.dtype)
    fill = np.asarray(raw.attrs.get("_FillValue", np.nan)).ravel()[0]
    if not np.isfinite(fill):
        fill = DEFAULT_FILLS.get(raw.dtype.str[1:], 0) if raw.dtype.kind in "iu" else np.nan
    return np.full(shape, fill, dtype=raw.dtype)


def _rolled_coordinate(source: CFSource, raw: RawVariable) -> Array:
    attrs = {k: v for k, v in raw.attrs.items() if k not in STORED_LIMITS}
    return packing_of(attrs, raw.dtype, label=raw.name).encode(source.grid.x, raw.name)
