"""Collects a filled stack in memory and hands it back as a decoded xarray dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from stimpute.io.cf_source import CFSource
from stimpute.io.layout import ERROR_FILL, Layout, OutVariable, history_line, layout_of
from stimpute.io.layout_copies import slabs
from stimpute.io.layout_windows import arranged, contents, placements
from stimpute.io.options import SinkOptions
from stimpute.io.raw import Array
from stimpute.protocols import Filled, Window

_ENCODED = ("coordinates", "grid_mapping")


class MemorySink:
    """A sink without a file. ``dataset`` is there after ``commit``.

    An xarray input comes back as it was (coordinates, attributes, order), its filled variables replaced and the new
    ones beside them; what came from a file is decoded by xarray.
    """

    def __init__(self, source: CFSource, options: SinkOptions) -> None:
        self.source, self.options = source, options
        self.layout: Layout = layout_of(source, options)
        self.dataset: xr.Dataset | None = None
        self._arrays: dict[str, Array] = {}

    def write(self, window: Window, filled: Filled, layer: int = 0) -> None:
        """One window."""
        for variable, data in contents(self.source, self.layout, window, filled, layer):
            target = self._array(variable)
            for steps, key, transpose in placements(self.source, variable, window, layer):
                target[key] = arranged(data, steps, transpose)

    def commit(self, history: str) -> tuple[Path, ...]:
        """Build ``dataset``; no files."""
        for variable in self.layout.variables:
            if variable.role != "copied":
                self._array(variable)
        altered = list(self.source.alterations)
        if self.options.dtype is not None:
            altered.append(f"stored as {self.options.dtype}")
        dataset = self._as_given() if self._keeps_objects() else self._decoded()
        dataset.attrs["history"] = history_line(str(dataset.attrs.get("history", "")), history, altered)
        self.dataset = dataset
        return ()

    def abort(self) -> None:
        """Forget what was written."""
        self._arrays.clear()

    def __enter__(self) -> MemorySink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    def _array(self, variable: OutVariable) -> Array:
        if variable.name not in self._arrays:
            fill: Any = 0
            if variable.role == "filled":
                fill = self.layout.packings[variable.name].fill
                fill = fill if fill is not None else np.nan if variable.dtype.kind == "f" else 0
            elif variable.role in ("error", "quantile", "member"):
                fill = ERROR_FILL
            self._arrays[variable.name] = np.full(variable.shape, fill, dtype=variable.dtype)
        return self._arrays[variable.name]

    def _keeps_objects(self) -> bool:
        places = self.source.steps.places
        return (
            self.source.format == "memory"
            and self.source.files[0].native is not None
            and all(len(p) == 1 for p in places)
            and len(self.source.files) == 1
        )

    def _as_given(self) -> xr.Dataset:
        """The caller's dataset, cut to the selection, with the new arrays in it."""
        source = self.source
        lead = source.axes[0][source.variables[0]]
        picks: dict[str, Any] = {lead.x: source.selection.cols}
        if lead.y:  # stations lie along x alone
            picks[lead.y] = source.selection.rows
        if lead.time is not None:
            order = np.argsort(source.steps.position)
            picks[lead.time] = [source.steps.places[s][0][1] for s in order]
        dataset: xr.Dataset = source.files[0].native.isel(picks).copy()
        for variable in self.layout.variables:
            if variable.role == "filled":
                before = dataset[variable.name]
                attrs = dict(before.attrs) if self.options.dtype is None else dict(variable.attrs)
                new = ("ancillary_variables", *(["_FillValue"] if variable.dtype.kind in "iu" else []))
                attrs |= {key: variable.attrs[key] for key in new if key in variable.attrs}
                dataset[variable.name] = (variable.dims, self._arrays[variable.name], attrs)
                dataset[variable.name].encoding = {
                    k: v
                    for k, v in before.encoding.items()
                    if k in (*_ENCODED, "chunksizes", "zlib", "complevel")
                }
            elif variable.role != "copied":
                dataset[variable.name] = self._decoded_new(variable)
        if source.selection.rolled and lead.x in dataset.coords:
            dataset = dataset.assign_coords({lead.x: dataset[lead.x].copy(data=source.grid.x)})
        return dataset

    def _decoded_new(self, variable: OutVariable) -> xr.Variable:
        attrs = {k: v for k, v in variable.attrs.items() if k != "_FillValue" and k not in _ENCODED}
        encoding = {k: v for k, v in variable.attrs.items() if k in _ENCODED}
        array = self._arrays[variable.name]
        if variable.role in ("error", "quantile", "member"):
            array = np.where(array == ERROR_FILL, np.float32(np.nan), array)
        return xr.Variable(variable.dims, array, attrs, encoding)

    def _decoded(self) -> xr.Dataset:
        """What a file would hold, decoded."""
        group = self.layout.of(self.source.variables[0], "filled")[0].name.rpartition("/")[0]
        variables: dict[str, xr.Variable] = {}
        for variable in self.layout.variables:
            home = variable.name.rpartition("/")[0]
            if home not in ("", group) or variable.dtype.kind not in "iufbSU":
                continue
            data = self._arrays[variable.name] if variable.role != "copied" else self._copy(variable)
            dims = [d.rpartition("/")[2] for d in variable.dims]
            variables[variable.name.rpartition("/")[2]] = xr.Variable(dims, data, dict(variable.attrs))
        raw = xr.Dataset(variables, attrs=dict(self.layout.groups.get("", {})))
        try:
            return xr.decode_cf(raw, decode_timedelta=False)
        except ValueError:  # times that only --times can date
            return xr.decode_cf(raw, decode_times=False, decode_timedelta=False)

    def _copy(self, variable: OutVariable) -> Array:
        out = np.empty(variable.shape, dtype=variable.dtype)
        for key, data in slabs(self.source, variable):
            out[key if key else ...] = data
        return out
