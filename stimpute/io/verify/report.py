"""The findings of a verification: a ledger that collects them, and the frozen report it becomes. Knows no formats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

COUNTS = ("observed", "filled", "refused", "outside_domain", "altered")


@dataclass(frozen=True)
class LayerCount:
    """Cells of one filled variable (or raster). ``altered``: observed, and changed by an option that says so in ``history``."""

    name: str
    observed: int = 0
    filled: int = 0
    refused: int = 0
    outside_domain: int = 0
    altered: int = 0


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found.

    Parameters
    ----------
    inputs, out : the paths compared.
    layers : counts per filled variable.
    differences : one line each, the first of its kind named with its place and both numbers; empty means proven.
    notes : what differs because the user asked for it, or what could not matter.
    """

    inputs: tuple[str, ...]
    out: str
    layers: tuple[LayerCount, ...] = ()
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """True where everything that must be unchanged is."""
        return not self.differences

    def total(self, count: str) -> int:
        """Sum over the layers of one of ``observed, filled, refused, outside_domain, altered``."""
        return sum(int(getattr(layer, count)) for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON-able values."""
        return {**asdict(self), "identical": self.identical, **{name: self.total(name) for name in COUNTS}}


@dataclass
class Ledger:
    """Collects differences, notes and counts while files are read slab by slab."""

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    cells: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def differ(self, text: str) -> None:
        """Something that must be equal is not."""
        if text not in self.differences:
            self.differences.append(text)

    def note(self, text: str) -> None:
        """Something worth saying that is no difference."""
        if text not in self.notes:
            self.notes.append(text)

    def expect(self, what: str, before: object, after: object, declared: bool = False) -> None:
        """``before`` and ``after`` must be equal, unless the user declared the change."""
        if before != after:
            (self.note if declared else self.differ)(f"{what}: {_short(before)} became {_short(after)}")

    def differ_cells(self, layer: str, kind: str, number: int, first: str) -> None:
        """``number`` further cells of ``layer`` differ in the way ``kind``; the first one of all is named in the report."""
        if number:
            before, named = self.cells.get((layer, kind), (0, first))
            self.cells[layer, kind] = before + number, named

    def count(self, layer: str, **numbers: int) -> None:
        """Add to the counts of ``layer``."""
        counts = self.counts.setdefault(layer, dict.fromkeys(COUNTS, 0))
        for name, number in numbers.items():
            counts[name] += int(number)

    def report(self, inputs: Iterable[object], out: object) -> VerifyReport:
        """The frozen result."""
        cells = [
            f"{layer}: {number:,} cells {kind}; first at {first}"
            for (layer, kind), (number, first) in self.cells.items()
        ]
        return VerifyReport(
            inputs=tuple(str(path) for path in inputs),
            out=str(out),
            layers=tuple(LayerCount(name, **numbers) for name, numbers in self.counts.items()),
            differences=(*self.differences, *cells),
            notes=tuple(self.notes),
        )


def _short(value: object, limit: int = 160) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
