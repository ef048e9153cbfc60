#!/usr/bin/env python
"""Does memory grow with the file? `python benchmarks/memory.py --quick` first.

Generates stacks of growing size, fills each through the command line under one `--memory`, and sets peak resident memory, disk
and time beside what `--dry-run` predicted: memory.md and memory.json in --out (docs/benchmarks). Rows of other formats,
sizes and methods that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from scoring.timed import ROOT, measure, side_of, stimpute, write_stack

REFERENCE = 256  # MB, that larger files are compared with


@dataclass(frozen=True)
class Row:
    """One fill. Bytes are bytes; what is predicted comes from ``--dry-run``."""

    format: str
    megabytes: float
    cells: int
    method: str
    memory: str
    threads: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    disk_bytes: int
    predicted_seconds: float
    predicted_peak_bytes: int
    predicted_disk_bytes: int

    @property
    def key(self) -> tuple[str, float, str]:
        """What a row is replaced by."""
        return self.format, self.megabytes, self.method


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    given = _parser().parse_args(arguments)
    sizes = [4.0] if given.quick else [float(s) for s in given.sizes.split(",")]
    out = given.out or (ROOT / "runs" / "quick" if given.quick else ROOT / "docs" / "benchmarks")
    memory = "8MB" if given.quick else given.memory
    given.work.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for kind in given.formats.split(","):
        for size in sizes:
            rows.append(one_fill(kind, size, given.steps, given.method, memory, given.threads, given.work))
            print(_line(rows[-1]), flush=True)
            write_page(_merged(rows, out), out)
    return 0


def one_fill(
    kind: str, megabytes: float, steps: int, method: str, memory: str, threads: int, work: Path
) -> Row:
    """Generate, predict, fill, remove."""
    side = side_of(megabytes, steps)
    path, out = work / f"in-{megabytes:g}.{kind}", work / "out" / f"filled.{kind}"
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir()
    write_stack(path, steps, side, side)
    command = stimpute("fill", path, out, "--method", method, "--memory", memory, "--threads", str(threads))
    try:
        plan = json.loads(
            subprocess.run(
                [*command, "--dry-run", "--json"],
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            ).stdout
        )["layers"][0]
        with Watched(out.parent) as disk:
            done = measure(command, threads)
        if done.code:
            raise SystemExit(f"{path}: exit code {done.code}\n{done.said}")
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(out.parent, ignore_errors=True)
    return Row(
        kind, megabytes, steps * side * side, method, memory, threads, round(done.seconds, 2), round(done.cpu_seconds, 2),
        done.peak_bytes, disk.most, plan["expected_seconds"], plan["memory_bytes"], plan["disk_bytes"],
    )  # fmt: skip


class Watched:
    """The most bytes that a folder held while it was watched."""

    def __init__(self, folder: Path) -> None:
        self.most = 0
        self._folder, self._stop = folder, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            self._look()

    def _look(self) -> None:
        total = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                try:
                    total += os.stat(os.path.join(folder, name)).st_blocks * 512
                except FileNotFoundError:
                    continue
        self.most = max(self.most, total)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._look()
        self._stop.set()
        self._thread.join()


def _merged(rows: Sequence[Row], out: Path) -> list[Row]:
    """These rows, and those of other keys that are in the file already; by format, method and size."""
    kept = {row.key: row for row in read_rows(out)} | {row.key: row for row in rows}
    return sorted(kept.values(), key=lambda row: (row.format, row.method, row.megabytes))


def read_rows(out: Path) -> list[Row]:
    """The rows written last; none where there are none."""
    path = out / "memory.json"
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


def write_page(rows: Sequence[Row], out: Path) -> None:
    """memory.md and memory.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "memory.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    lines = [
        "# Memory, disk and time against size",
        "",
        "Written by `python benchmarks/memory.py` (st: `--method st --sizes 64,256`). Generated float32 stacks, 40 % under clouds, filled by the command line; peak",
        "resident memory of the whole process, largest size of the output's folder while it ran, wall and CPU time. *Predicted* is what",
        f"`--dry-run` said before. The last column is peak memory over that of the {REFERENCE} MB file.",
        "",
        "| format | size | cell-steps | method | --memory | peak | predicted | disk | predicted | wall | CPU | predicted | peak ratio |",
        "|---|---:|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        base = next((r for r in rows if r.key == (row.format, REFERENCE, row.method)), None)
        ratio = f"{row.peak_bytes / base.peak_bytes:.2f}" if base else ""
        lines.append(
            f"| {row.format} | {row.megabytes:g} MB | {row.cells:,} | {row.method} | {row.memory} | {_mib(row.peak_bytes)}"
            f" | {_mib(row.predicted_peak_bytes)} | {_mib(row.disk_bytes)} | {_mib(row.predicted_disk_bytes)}"
            f" | {row.seconds:.0f} s | {row.cpu_seconds:.0f} s | {row.predicted_seconds:.0f} s | {ratio} |"
        )
    (out / "memory.md").write_text("\n".join(lines) + "\n")


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _line(row: Row) -> str:
    return (
        f"{row.format:5s} {row.megabytes:7g} MB {row.method}: peak {_mib(row.peak_bytes)} (predicted {_mib(row.predicted_peak_bytes)}),"
        f" disk {_mib(row.disk_bytes)} ({_mib(row.predicted_disk_bytes)}), {row.seconds:.1f} s wall, {row.cpu_seconds:.1f} s CPU"
        f" ({row.predicted_seconds:.1f} s)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="4 MB, to see that it works")
    parser.add_argument("--sizes", default="64,256,1024,4096", help="MB, comma-separated")
    parser.add_argument("--formats", default="nc", help="of nc, zarr, tif")
    parser.add_argument("--method", default="mean")
    parser.add_argument("--memory", default="512MB")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default docs/benchmarks; runs/quick with --quick")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "memory", help="for the files themselves"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
