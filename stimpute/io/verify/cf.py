"""NetCDF and Zarr against NetCDF and Zarr: structure, attributes and every stored number."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stimpute.errors import InputError
from stimpute.io.verify.cells import Encoding, Rules, blocks, compare, count_flag, same_bits
from stimpute.io.verify.declared import Declared
from stimpute.io.verify.mapping import DROPPED, NOWHERE, Mapping1D, Part, positions
from stimpute.io.verify.raw import Array, RawArray, RawFile, open_raw
from stimpute.io.verify.report import Ledger
from stimpute.protocols import FILLED, OBSERVED, REFUSED

FLAG_SUFFIX, ERROR_SUFFIX = "_fill_flag", "_standard_error"
_OF_A_FILL = re.compile(r"(.+)(_fill_flag|_standard_error|_q\d+(_\d+)?)")
OWN_SUFFIXES = (FLAG_SUFFIX, ERROR_SUFFIX)
NOT_COMPARED = ("history", "ancillary_variables")
Positions = npt.NDArray[np.intp]


def compare_files(
    ledger: Ledger, sources: Sequence[Path], out: Path, *, nodata: Sequence[float], variables: Sequence[str]
) -> None:
    """Compare the inputs (one file, or several merged into one) with the output, into ``ledger``."""
    shared = _shared_times(sources)
    with open_raw(out) as after:
        covered: dict[str, npt.NDArray[np.bool_]] = {}
        declared = Declared()
        targets: dict[str, Encoding] = {}
        for number, path in enumerate(sources):
            with open_raw(path) as before:
                absent = [name for name in variables if name not in before.arrays]
                if absent:
                    names = ", ".join(list(before.arrays)[:12])
                    raise InputError(f"{path}: --var {absent[0]}: no such variable, only {names}")
                declared = Declared.from_history(after.history, before.history)
                one = _Comparison(
                    ledger, before, after, declared, (*nodata, *declared.nodata), tuple(variables), number > 0
                )
                one.merged, one.shared = len(sources) > 1, shared
                one.run(covered)
                targets |= one.targets
        for name in sorted(targets):
            _count_inserted(ledger, after, name, targets[name], covered, declared)


def _shared_times(sources: Sequence[Path]) -> list[str]:
    """Times (as ISO 8601) that more than one of several files hold."""
    seen: Counter[str] = Counter()
    for path in sources if len(sources) > 1 else ():
        with open_raw(path) as file:
            for array in file.arrays.values():
                if len(array.shape) == 1 and " since " in str(array.attributes.get("units", "")):
                    seen.update(set(positions(array).tolist()))
    return [time for time, number in seen.items() if number > 1]


def _count_inserted(
    ledger: Ledger,
    after: RawFile,
    name: str,
    encoding: Encoding,
    covered: Mapping[str, npt.NDArray[np.bool_]],
    declared: Declared,
) -> None:
    """Steps of the output that no input has: only ``--regular`` makes them; all of their cells must be filled or refused.

    ``encoding``: what the output's stored numbers mean; a filled cell holds a value by it, a refused one does not.
    """
    array = after.arrays[name]
    prefix = name.rpartition("/")[0]
    for axis, dim in enumerate(array.dims):
        seen = covered.get(f"{prefix}/{dim}" if prefix else dim)
        if seen is None or seen.all():
            continue
        missing = np.flatnonzero(~seen)
        if not declared.regular:
            ledger.differ(f"{name}: {missing.size} positions along {dim} are in the output but in no input")
        flag = after.arrays.get(name + FLAG_SUFFIX)
        for position in missing if flag is not None else ():
            index = tuple(
                slice(int(position), int(position) + 1) if a == axis else slice(0, n)
                for a, n in enumerate(array.shape)
            )
            block = flag.read(index) if flag is not None else np.zeros(0, dtype=np.uint8)
            present = encoding.observed(encoding.stored(array.read(index)))
            for kind, where in (
                ("flagged observed, but in no input", block == OBSERVED),
                ("flagged filled, but hold no value", (block == FILLED) & ~present),
                ("flagged refused or outside the domain, but hold a value", (block >= REFUSED) & present),
            ):
                ledger.differ_cells(name, kind, int(where.sum()), f"{dim}={position}")
            count_flag(ledger, name, block)


@dataclass
class _Comparison:
    """One input file against the output."""

    ledger: Ledger
    before: RawFile
    after: RawFile
    declared: Declared
    nodata: tuple[float, ...]
    variables: tuple[str, ...]
    later: bool  # not the first of several merged files
    merged: bool = False
    shared: Sequence[str] = ()  # times that several of the merged files hold
    targets: dict[str, Encoding] = field(default_factory=dict)  # filled, and how the output stores them
    maps: dict[str, Mapping1D | None] = field(default_factory=dict)
    turned: set[str] = field(default_factory=set)  # longitudes given modulo 360

    @property
    def converted(self) -> bool:
        """From NetCDF to Zarr or back."""
        return self.before.is_netcdf != self.after.is_netcdf

    def run(self, covered: dict[str, npt.NDArray[np.bool_]]) -> None:
        """Everything: attributes, dimensions, layout, numbers."""
        if not self.later:
            for prefix, attributes in self.before.attributes.items():
                self.attributes(f"attribute {prefix}", attributes, self.after.attributes.get(prefix, {}))
            self.ledger.expect(
                "format", self.before.kind, self.after.kind, self.converted or self.declared.format
            )
        for name in self.before.dimensions:
            self.dimension(name, covered)
        for name, array in self.before.arrays.items():
            twin = self.after.arrays.get(name)
            if twin is None and self._left_by_an_earlier_run(name):
                self.ledger.note(f"variable {name}: of an earlier run, left out")
                continue
            if twin is None:
                self.ledger.differ(f"variable {name}: absent from the output")
                continue
            owner = self._filled_again(name)
            if owner is None:
                self.variable(array, twin)
            else:
                self.kept_from_before(array, twin, owner)
        for name in self.after.arrays:
            own = "_q" in name or any(suffix in name for suffix in OWN_SUFFIXES)
            if name not in self.before.arrays and not own:
                self.ledger.note(f"variable {name}: only in the output")

    def dimension(self, name: str, covered: dict[str, npt.NDArray[np.bool_]]) -> None:
        """Find every position of an input dimension in the output."""
        size, unlimited = self.before.dimensions[name]
        if name not in self.after.dimensions:
            self.ledger.differ(f"dimension {name}: absent from the output")
            self.maps[name] = None
            return
        size_out, unlimited_out = self.after.dimensions[name]
        if not self.later:
            may_change = self.converted or self.declared.format
            self.ledger.expect(f"dimension {name}, unlimited", unlimited, unlimited_out, may_change)
        mapping = self._locate(name, size, size_out)
        self.maps[name] = mapping
        if mapping is None:
            return
        reached = covered.setdefault(name, np.zeros(size_out, dtype=bool))
        reached[mapping.out[mapping.out >= 0]] = True
        lost = int((mapping.out == NOWHERE).sum())
        if lost and self.declared.window:
            self.ledger.note(f"dimension {name}: {lost} of {size} positions left out by --bbox or --time")
        elif lost:
            self.ledger.differ(
                f"dimension {name}: {lost} of {size} positions of {self.before.path.name} are not in the output"
            )

    def _locate(self, name: str, size: int, size_out: int) -> Mapping1D | None:
        a, b = self.before.arrays.get(name), self.after.arrays.get(name)
        identity = Mapping1D(np.arange(size, dtype=np.intp), np.zeros(size, dtype=bool))
        axes = a is not None and b is not None and len(a.shape) == 1 and len(b.shape) == 1
        if a is None or b is None or not axes:
            first = (
                self._first_of_window(name, size_out) if self.declared.window and size != size_out else None
            )
            if first is not None:
                places = np.arange(size) - first
                places = np.where((places >= 0) & (places < size_out), places, NOWHERE)
                return Mapping1D(places.astype(np.intp), identity.altered)
            if size != size_out:
                self.ledger.differ(
                    f"dimension {name}: {size} became {size_out}, and no coordinate says which remain"
                )
                return None
            return identity
        mine, theirs = positions(a), positions(b)
        if self.declared.dedupe and self.merged:
            return self._match(mine, theirs)
        if len(mine) == len(theirs) and bool(np.all(mine == theirs)):
            return identity
        mapping = self._match(mine, theirs)
        east = str(a.attributes.get("units", "")).lower().startswith(("degrees_east", "degree_east"))
        if self.declared.window and east and len(set(mapping.out[mapping.out >= 0])) < len(theirs):
            self.turned.add(name)
            self.ledger.note(f"variable {name}: longitudes are counted on across the antimeridian (--bbox)")
            return self._match(mine % 360, theirs % 360)
        return mapping

    def _first_of_window(self, name: str, size_out: int) -> int | None:
        """Where a part begins along a dimension without a coordinate, by 2-D coordinates over it; None where none tells."""
        for a in self.before.arrays.values():
            b = self.after.arrays.get(a.name)
            if len(a.shape) != 2 or name not in a.dims or b is None or b.dims != a.dims or a.dtype != b.dtype:
                continue
            if a.dtype == "string" or np.dtype(a.dtype).kind != "f":
                continue
            mine, theirs = (
                a.read(tuple(slice(0, n) for n in a.shape)),
                b.read(tuple(slice(0, n) for n in b.shape)),
            )
            for row, column in np.argwhere(mine == theirs[0, 0]):
                part = mine[row : row + theirs.shape[0], column : column + theirs.shape[1]]
                if part.shape == theirs.shape and bool((part == theirs).all()):
                    return int((row, column)[a.dims.index(name)])
        return None

    def _match(self, mine: Array, theirs: Array) -> Mapping1D:
        """Equal coordinates, nearest within 1e-9 of the axis' extent where they are numbers."""
        if mine.dtype.kind in "iuf" and theirs.dtype.kind in "iuf" and theirs.size:
            order = np.argsort(theirs, kind="stable")
            snap = 1e-9 * max(1.0, float(np.ptp(theirs.astype(np.float64))))
            at = np.searchsorted(theirs[order], mine.astype(np.float64) - snap)
            near = order[np.minimum(at, theirs.size - 1)]
            places = np.where(np.abs(theirs[near].astype(np.float64) - mine) <= snap, near, NOWHERE)
        else:
            where = {value: k for k, value in reversed(list(enumerate(theirs.tolist())))}
            places = np.array([where.get(value, NOWHERE) for value in mine.tolist()], dtype=np.intp)
        altered = np.zeros(mine.size, dtype=bool)
        _, first, inverse, repeats = np.unique(
            mine, return_index=True, return_inverse=True, return_counts=True
        )
        if bool((repeats > 1).any()) and self.declared.dedupe:
            twin = repeats[inverse] > 1
            if self.declared.dedupe == "mean":
                altered = twin
                places = np.where(
                    twin & ~np.isin(np.arange(mine.size), first), DROPPED, places
                )  # counted once
            else:
                last = mine.size - 1 - np.unique(mine[::-1], return_index=True)[1]
                keep = np.isin(np.arange(mine.size), first if self.declared.dedupe == "first" else last)
                places = np.where(twin & ~keep, DROPPED, places)
        altered |= np.isin(mine, self.shared) if self.declared.dedupe else False
        return Mapping1D(places.astype(np.intp), altered)

    def variable(self, a: RawArray, b: RawArray) -> None:
        """Attributes, dtype, layout and numbers of one variable."""
        target = self._is_target(a)
        what = f"variable {a.name}"
        self.ledger.expect(f"{what}, dimensions", a.dims, b.dims)
        may_change = self.declared.dtype or self.later if target else self._stored_otherwise(a, b)
        self.ledger.expect(f"{what}, dtype", a.dtype, b.dtype, may_change)
        if not self.later:
            self.attributes(f"{what}, attribute ", a.attributes, b.attributes, target and self.declared.dtype)
            if a.shape == b.shape and self.before.kind == self.after.kind:
                self.layout(a, b, target)
        if a.dims != b.dims or any(self._map(a, dim) is None for dim in a.dims):
            return
        moves = (
            self.merged and bool(a.dims) and a.name == a.dims[0]
        )  # a coordinate along which files were merged
        if target:
            self.filled(a, b)
        elif self._stored_otherwise(a, b):
            self.untouched(a, b, by_value=True)
        elif a.dtype != b.dtype or moves or a.name in self.turned or (self.later and not self._own(a)):
            return
        else:
            self.untouched(a, b)

    def layout(self, a: RawArray, b: RawArray, target: bool) -> None:
        """Chunks, filters and the like. Zarr v2 declares the nodata by ``fill_value``: one that a filled variable gained is an attribute's note."""
        gained = target and "_FillValue" in b.attributes and "_FillValue" not in a.attributes
        for key in {**a.layout, **b.layout}:
            if not (key == "fill_value" and gained and self.after.kind == "Zarr (v2)"):
                self.ledger.expect(
                    f"variable {a.name}, layout, {key}",
                    a.layout.get(key),
                    b.layout.get(key),
                    self.declared.format or self.declared.dtype,
                )

    def _stored_otherwise(self, a: RawArray, b: RawArray) -> bool:
        """Whether a type that the other format does not know was stored as another that means the same.

        Text of fixed and of any length, truth values as bytes; integers that NetCDF-3 does not know, on request (``--of NetCDF3``).
        """
        kinds = ["O" if x.dtype == "string" else np.dtype(x.dtype).kind for x in (a, b)]
        if self.converted and a.dtype != b.dtype and (set(kinds) <= {"O", "U", "S"} or kinds == ["b", "i"]):
            return True
        numbers = "O" not in kinds and kinds[0] in "iu"
        return numbers and a.dtype != b.dtype and self.declared.format and "NETCDF3" in str(self.after.kind)

    def _own(self, a: RawArray) -> bool:
        """In a later file only what lies along the merged dimension is its own."""
        return any(self.before.dimensions.get(d) != self.after.dimensions.get(d) for d in a.dims)

    def _map(self, a: RawArray, dim: str) -> Mapping1D | None:
        prefix = a.name.rpartition("/")[0]
        while True:
            full = f"{prefix}/{dim}" if prefix else dim
            if full in self.maps or not prefix:
                return self.maps.get(full)
            prefix = prefix.rpartition("/")[0]

    def _left_by_an_earlier_run(self, name: str) -> bool:
        """Whether an array is the flag of a variable that was filled before, and is not written this time (``--no-flags``)."""
        owner = name.removesuffix(FLAG_SUFFIX)
        return self.declared.no_flags and name != owner and owner in self.before.arrays

    def _filled_again(self, name: str) -> RawArray | None:
        """The flag of the variable of which an array is the flag, error or quantile, if that was filled before and again."""
        parts = _OF_A_FILL.fullmatch(name)
        if parts is None or parts[1] not in self.before.arrays:
            return None
        flag, owner = self.before.arrays.get(parts[1] + FLAG_SUFFIX), self.before.arrays[parts[1]]
        beside = self.before.arrays[name].dims == owner.dims
        return flag if flag is not None and beside and self._is_target(owner) else None

    def kept_from_before(self, a: RawArray, b: RawArray, flag: RawArray) -> None:
        """What an earlier run said of the cells it filled stays."""
        self.ledger.expect(f"variable {a.name}, dimensions", a.dims, b.dims)
        if a.dims != b.dims or a.dtype != b.dtype or any(self._map(a, dim) is None for dim in a.dims):
            return
        for part in self._parts(a):
            old, new = part.cut(a), b.read(part.where)
            wrong = ~same_bits(old, new) & (part.cut(flag) == FILLED) & ~part.altered
            if wrong.any():
                first = part.place(tuple(int(i) for i in np.argwhere(wrong)[0]))
                self.ledger.differ_cells(
                    a.name, "filled by an earlier run, and said otherwise", int(wrong.sum()), first
                )

    def _is_target(self, a: RawArray) -> bool:
        if self.variables:
            return a.name in self.variables
        if a.name in self.declared.var:
            return True
        if a.name + FLAG_SUFFIX in self.after.arrays:
            again = not self.declared.var or a.name in self.declared.var
            return again or a.name + FLAG_SUFFIX not in self.before.arrays
        if any(name.endswith(FLAG_SUFFIX) for name in self.after.arrays):
            return False
        numeric = a.dtype != "string" and np.dtype(a.dtype).kind in "iuf"
        return numeric and len(a.dims) >= 2 and not a.name.endswith(("_bnds", "_bounds"))

    def filled(self, a: RawArray, b: RawArray) -> None:
        """A variable whose gaps may have been filled."""
        codes = self.nodata if a.dtype == b.dtype else ()
        before, after = encoding_of(self.before, a, self.nodata), encoding_of(self.after, b, codes)
        rules = Rules(a.name, before, after, self.declared.qc)
        self.targets[a.name] = after
        flag, earlier = (f.arrays.get(a.name + FLAG_SUFFIX) for f in (self.after, self.before))
        error = self.after.arrays.get(a.name + ERROR_SUFFIX)
        if error is not None and error.dims != b.dims:
            error = None
        for part in self._parts(a):
            claimed = None if flag is None else flag.read(part.where)
            old, new = part.cut(a), b.read(part.where)
            if claimed is not None and earlier is not None and earlier.dims == a.dims:
                known = before.observed(old) & (
                    part.cut(earlier) == FILLED
                )  # by an earlier run: as good as observed
                claimed = np.where(known & (claimed == FILLED), np.int8(OBSERVED), claimed)
            errors = None if error is None else encoding_of(self.after, error).values(error.read(part.where))
            compare(self.ledger, rules, old, new, claimed, part.place, altered=part.altered, errors=errors)

    def untouched(self, a: RawArray, b: RawArray, by_value: bool = False) -> None:
        """A variable that must be bit for bit the same (``by_value``: the same numbers)."""
        for part in self._parts(a):
            old, new = part.cut(a), b.read(part.where)
            wrong = np.asarray(~(old == new if by_value else same_bits(old, new)) & ~part.altered)
            if wrong.any():
                first = (
                    part.place(tuple(int(i) for i in np.argwhere(wrong)[0]))
                    if wrong.ndim
                    else "its only cell"
                )
                self.ledger.differ_cells(
                    a.name, "changed in a variable that was not filled", int(wrong.sum()), first
                )

    def _parts(self, a: RawArray) -> Iterator[Part]:
        maps = [m for m in (self._map(a, dim) for dim in a.dims) if m is not None]
        if not a.shape:
            yield Part((), (), (), (), np.zeros((), dtype=bool))
            return
        for block in blocks(a.shape, a.chunks):
            pairs = [m.slices(p) for m, p in zip(maps, block, strict=True)]
            inside, where = tuple(kept for kept, _ in pairs), tuple(place for _, place in pairs)
            if all(kept.size for kept in inside):
                flags = [m.altered[p][kept] for m, p, kept in zip(maps, block, inside, strict=True)]
                altered = (
                    sum(np.meshgrid(*flags, indexing="ij", sparse=True))
                    if any(f.any() for f in flags)
                    else False
                )
                yield Part(a.dims, block, where, inside, np.asarray(altered, dtype=bool))

    def attributes(
        self, what: str, a: Mapping[str, Any], b: Mapping[str, Any], declared: bool = False
    ) -> None:
        """Every attribute of the input is in the output, unchanged."""
        for name, value in a.items():
            if name in NOT_COMPARED:
                continue
            if (
                name == "_FillValue"
                and not _same_attribute(value, b.get(name), self.converted)
                and _still_fills(value, b)
            ):
                self.ledger.note(
                    f"{what}{name}: {_plain(value)!r} is missing_value now, which may hold several numbers"
                )
                continue
            if name not in b:
                (self.ledger.note if declared else self.ledger.differ)(
                    f"{what}{name}: absent from the output"
                )
            elif not _same_attribute(value, b[name], self.converted or self.declared.format):
                self.ledger.expect(f"{what}{name}", _plain(value), _plain(b[name]), declared)
        for name in b:
            if name not in a and name not in NOT_COMPARED:
                self.ledger.note(f"{what}{name}: only in the output ({_plain(b[name])!r})")


def encoding_of(file: RawFile, array: RawArray, nodata: Sequence[float] = ()) -> Encoding:
    """What the stored numbers of an array mean."""
    return Encoding.from_cf(np.dtype(array.dtype), array.attributes, nodata, file.is_netcdf)


def _still_fills(value: Any, after: Mapping[str, Any]) -> bool:
    """Whether fill values that no NetCDF writer takes (several, or of another type) are declared by ``missing_value``."""
    declared = np.asarray(after.get("missing_value", ()))
    given = np.asarray(value)
    return (
        given.dtype.kind in "iuf"
        and declared.dtype == given.dtype
        and bool(np.array_equal(declared.ravel(), given.ravel()))
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _same_attribute(a: Any, b: Any, converted: bool) -> bool:
    x, y = np.asarray(a), np.asarray(b)
    if converted and {x.dtype.kind, y.dtype.kind} <= set("iuf"):  # JSON has one kind of number
        return x.size == y.size and bool(np.array_equal(x.ravel(), y.ravel(), equal_nan=True))
    if x.dtype.kind != y.dtype.kind or x.shape != y.shape:
        return x.size == y.size == 1 and x.dtype == y.dtype and bool(x.reshape(()) == y.reshape(()))
    if x.dtype.kind == "f":
        return x.dtype == y.dtype and bool(np.array_equal(x, y, equal_nan=True))
    return bool(np.array_equal(x, y))
