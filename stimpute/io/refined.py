"""A stack's own grid, cut ``factor`` times finer, as a source: same CRS, corners, orientation, times, attributes; all gaps.

What is written onto it goes through the same sinks as a filled stack. Variables that lie on the coarse cells and are
no coordinates have no place on the finer ones: they are left out, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError, StimputeWarning
from stimpute.io.cf import time_variable
from stimpute.io.cf_grid import horizontal
from stimpute.io.cf_source import CFSource
from stimpute.io.layout import OutVariable, layout_of
from stimpute.io.layout_copies import slabs
from stimpute.io.options import ReadOptions, SinkOptions
from stimpute.io.packing_attributes import packing_of
from stimpute.io.raw import Array, Key, RawFile, RawVariable, holds_text

FloatArray = npt.NDArray[np.float64]
_STORAGE_WORDS = (
    "scale_factor", "add_offset", "_FillValue", "missing_value", "valid_range", "valid_min", "valid_max", "_Unsigned",
)  # fmt: skip
_ON_COARSE_CELLS = ("ancillary_variables", "cell_measures")


def refine_source(coarse: CFSource, factor: int, *, even: bool = False) -> CFSource:
    """The refined counterpart of an opened stack, without covariates. ``coarse`` must stay open as long as it is used.

    ``even``: evenly spaced whatever the latitudes (rasters, whose rows at the poles reach beyond them).
    """
    if coarse.grid.kind == "points":
        raise InputError(f"{coarse.paths[0]}: stations have no cells to refine; reconstruct works on rasters")
    dated = coarse.options.times is not None or coarse.axes[0][coarse.variables[0]].time is None
    order = np.argsort(coarse.steps.position)
    labels = tuple(coarse.steps.stamps[i] for i in order) if dated else None
    raw = _Refining(coarse, factor, even).file()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        options = ReadOptions(variables=coarse.variables, times=labels, force=True, wrap=coarse.options.wrap)
        fine = CFSource([raw], options)
    fine.paths, fine.alterations = coarse.paths, coarse.alterations
    fine.besides = coarse.besides
    if coarse.domain is not None:
        fine.domain = np.repeat(np.repeat(np.asarray(coarse.domain), factor, 0), factor, 1)
    return fine


class _Refining:
    """One coarse source on its way to a raw file of finer cells."""

    def __init__(self, coarse: CFSource, factor: int, even: bool) -> None:
        self.coarse, self.factor, self.even = coarse, factor, even
        lead = coarse.axes[0][coarse.variables[0]]
        self.y, self.x = lead.y, lead.x
        self.layout = layout_of(coarse, SinkOptions(flags=False, uncertainty=False))
        self.dims = dict(self.layout.dims) | {d: self.layout.dims[d] * factor for d in (self.y, self.x)}
        first = coarse.files[0]
        dated = time_variable(first, first.variables[coarse.variables[0]], lead)
        self.dated = "" if dated is None else dated.name
        self.bounds = {
            v.attrs["bounds"]: v for v in self.layout.variables if v.dims in ((self.y,), (self.x,)) and "bounds" in v.attrs
        }  # fmt: skip

    def file(self) -> RawFile:
        own = [v.name for v in self.layout.variables if self._of_its_own_type(v)]
        if own:
            warnings.warn(
                f"{self.coarse.paths[0]}: {', '.join(own)} hold values of types of their own and are left out of the refined output",
                StimputeWarning, stacklevel=4,
            )  # fmt: skip
        given = [v for v in self.layout.variables if v.name not in own]
        made = [self._variable(v) for v in given]
        variables = {v.name: v for v in made if v is not None}
        lost = [v.name for v, m in zip(given, made, strict=True) if m is None]
        if lost:
            warnings.warn(
                f"{self.coarse.paths[0]}: {', '.join(lost)} lie on the coarse cells and are left out of the refined output",
                StimputeWarning, stacklevel=4,
            )  # fmt: skip
        return RawFile(
            path=self.coarse.files[0].path, format="refined", variant="", dims=self.dims, variables=variables,
            groups=self.layout.groups, native=None, unlimited=self.layout.unlimited,
        )  # fmt: skip

    def _of_its_own_type(self, variable: OutVariable) -> bool:
        """Whether a variable holds neither numbers nor text (compounds, ragged cells), which no other file can declare."""
        if variable.dtype.kind != "O" or variable.role != "copied":
            return False
        return not holds_text(self._raw(variable))

    def _variable(self, variable: OutVariable) -> RawVariable | None:
        across = [d for d in variable.dims if d in (self.y, self.x)]
        if variable.role == "filled":
            return self._filled(variable)
        if not across:
            return self._kept(variable)
        if variable.dims in ((self.y,), (self.x,)) and variable.dtype.kind in "iuf":
            return self._axis(variable)
        if variable.name in self.bounds and variable.dims[1:] and variable.shape[1:] == (2,):
            return self._bounds(variable)
        two = variable.dims in ((self.y, self.x), (self.x, self.y))
        if two and variable.dtype.kind in "iuf" and horizontal(self._raw(variable)) is not None:
            return self._plane(variable)
        return None

    def _raw(self, variable: OutVariable) -> RawVariable:
        return self.coarse.files[0].variables[variable.of]

    def _filled(self, variable: OutVariable) -> RawVariable:
        """All gaps; a fill is declared where the input declares none."""
        packing = self.layout.packings[variable.name]
        layer = next(i for i, one in enumerate(self.coarse.layers) if one.variable == variable.name)
        number = self.coarse.fill_number(layer) if packing.fill is None else packing.fill
        gap = packing.as_stored(number)
        shape = tuple(self.dims[d] for d in variable.dims)

        def load(key: Key) -> Array:
            lengths = [len(range(*k.indices(n))) for k, n in zip(key or (slice(None),) * len(shape), shape)]
            return np.broadcast_to(gap, lengths).copy()

        attrs = {k: v for k, v in variable.attrs.items() if k not in _ON_COARSE_CELLS}
        if packing.fill is None:
            attrs["_FillValue"] = gap[()]
        return RawVariable(
            variable.name, variable.dims, shape, variable.dtype, attrs, load, self._chunks(variable)
        )

    def _chunks(self, variable: OutVariable) -> dict[str, Any]:
        storage = dict(variable.storage)
        if storage.get("chunksizes"):
            grown = (
                c * self.factor if d in (self.y, self.x) else c
                for d, c in zip(variable.dims, storage["chunksizes"])
            )
            storage["chunksizes"] = tuple(grown)  # fmt: skip
        return storage

    def _kept(self, variable: OutVariable) -> RawVariable:
        """Neither y nor x: as it is. GDAL's GeoTransform follows the cells."""
        attrs = dict(variable.attrs)
        if "GeoTransform" in attrs:
            attrs = self._transformed(attrs)
        return _constant(variable.name, variable.dims, self._numbers(variable), attrs)

    def _transformed(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        out = {k: v for k, v in attrs.items() if k != "GeoTransform"}
        at_poles = self.coarse.grid.units == "degrees" and bool(np.abs(self.coarse.grid.y).max() >= 90 - 1e-6)
        if at_poles and not self.even:  # rows that end there are uneven
            return out
        whole = self.coarse.grid.shape == tuple(self.coarse.files[0].dims[d] for d in (self.y, self.x))
        try:
            c, a, b, f, d, e = (float(n) for n in str(attrs["GeoTransform"]).split())
        except ValueError:
            return out
        n = self.factor
        return out | (
            {"GeoTransform": " ".join(map(repr, (c, a / n, b / n, f, d / n, e / n)))} if whole else {}
        )

    def _axis(self, variable: OutVariable) -> RawVariable:
        """A 1-D coordinate: centres of the fine cells."""
        raw, numbers = self._decoded(variable)
        kind, step = horizontal(raw), self._step(variable)
        if kind == "lon":  # over the seam and back, so that every cell keeps the turn its coarse cell is on
            turned = np.unwrap(numbers, period=360.0)
            fine = self.between(turned, step) + np.repeat(numbers - turned, self.factor)
        else:
            fine = self.between(numbers, step)
            if kind == "lat" and len(numbers) > 1 and not self.even:
                fine = self._short_of_poles(fine, numbers)
        return _constant(variable.name, variable.dims, fine, _plain(variable.attrs))

    def _short_of_poles(self, fine: FloatArray, coarse: FloatArray) -> FloatArray:
        """Latitudes whose outermost rows of cells end at the pole, not beyond it."""
        share = (np.arange(self.factor) + 0.5) / self.factor
        for row, inner in ((0, 1), (-1, -2)):
            part = slice(0, self.factor) if row == 0 else slice(-self.factor, None)
            if np.abs(fine[part]).max() > 90:
                edge, pole = (coarse[row] + coarse[inner]) / 2, np.copysign(90.0, coarse[row])
                fine[part] = (pole + (edge - pole) * share) if row == 0 else (edge + (pole - edge) * share)
        return fine

    def _step(self, variable: OutVariable) -> float:
        """Size of a cell where an axis has one only: that of its bounds, else of the other axis, else 1."""
        for name, of in self.bounds.items():
            if of.name == variable.name and (edges := self._named(name)) is not None:
                numbers = self._decoded(edges)[1]
                return float(numbers[0, 1] - numbers[0, 0])
        other = self.coarse.grid.x if variable.dims == (self.y,) else self.coarse.grid.y
        if other.ndim == 1 and other.size > 1:
            return float(abs(other[1] - other[0])) * (-1.0 if variable.dims == (self.y,) else 1.0)
        return 1.0

    def _named(self, name: str) -> OutVariable | None:
        return next((v for v in self.layout.variables if v.name == name), None)

    def _bounds(self, variable: OutVariable) -> RawVariable:
        """Edges (cells, 2) of the fine cells, each pair in the order of the coarse ones."""
        _, edges = self._decoded(variable)
        axis, centres = self._decoded(self.bounds[variable.name])
        if horizontal(axis) == "lon":  # around their centre, not around the globe
            off = edges - centres[:, None]
            edges = centres[:, None] + off - 360.0 * np.round(off / 360.0)
            centres = np.unwrap(centres, period=360.0)
        share = np.arange(self.factor + 1) / self.factor
        cuts = edges[:, :1] + (edges[:, 1:] - edges[:, :1]) * share
        fine = np.stack([cuts[:, :-1], cuts[:, 1:]], axis=2)
        if (centres[-1] - centres[0]) * (edges[0, 1] - edges[0, 0]) < 0:  # pairs that run against their axis
            fine = fine[:, ::-1]
        return _constant(variable.name, variable.dims, fine.reshape(-1, 2), _plain(variable.attrs))

    def _plane(self, variable: OutVariable) -> RawVariable:
        """A 2-D coordinate, linear between the centres; its bounds, if any, are not kept."""
        raw, numbers = self._decoded(variable)
        if horizontal(raw) == "lon":
            known = np.isfinite(numbers)
            turned = np.unwrap(
                np.unwrap(np.where(known, numbers, 0.0), period=360.0, axis=0), period=360.0, axis=1
            )
            numbers = np.where(known, turned, np.nan)
        fine = np.apply_along_axis(self.between, 0, np.apply_along_axis(self.between, 1, numbers))
        if horizontal(raw) == "lat":
            fine = np.clip(fine, -90.0, 90.0)
        attrs = {k: v for k, v in _plain(variable.attrs).items() if k != "bounds"}
        return _constant(variable.name, variable.dims, fine, attrs)

    def between(self, centres: FloatArray, step: float = 1.0) -> FloatArray:
        """Centres of the fine cells, linear in the index, beyond the outermost centres too."""
        n, k = len(centres), self.factor
        at = (np.arange(n * k) + 0.5) / k - 0.5
        if n == 1:
            return np.asarray(centres[0] + at * step)
        lower = np.clip(np.floor(at).astype(int), 0, n - 2)
        return np.asarray(centres[lower] + (at - lower) * (centres[lower + 1] - centres[lower]))

    def _decoded(self, variable: OutVariable) -> tuple[RawVariable, FloatArray]:
        raw = self._raw(variable)
        kept = {k: v for k, v in raw.attrs.items() if not k.startswith("valid")}
        values, valid = packing_of(kept, raw.dtype, label=raw.name).decode64(self._numbers(variable))
        return raw, np.where(valid, values, np.nan)

    def _numbers(self, variable: OutVariable) -> Array:
        out = np.empty(variable.shape, dtype=variable.dtype)
        for key, data in slabs(self.coarse, replace(variable, role="copied")):
            out[key if key else ...] = data
        return out


def _plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a coordinate that is stored as plain float64 now."""
    return {k: v for k, v in attrs.items() if k not in _STORAGE_WORDS}


def _constant(name: str, dims: tuple[str, ...], values: Array, attrs: Mapping[str, Any]) -> RawVariable:
    return RawVariable(
        name, dims, values.shape, values.dtype, attrs, lambda key: values[key] if key else values
    )
