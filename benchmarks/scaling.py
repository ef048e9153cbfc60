#!/usr/bin/env python
"""Time against the number of cells, one Dask worker against two, and beside a busy process. `python benchmarks/scaling.py --quick` first.

Whole commands on generated stacks. The time of a command that fills almost nothing is taken off before the exponent of time over
cells is fitted (least squares in logarithms). Writes scaling.md and scaling.json to --out (docs/benchmarks).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from scoring.timed import ROOT, Measured, measure, stimpute, write_stack

GNU_SPINS = "300000"  # turns that a waiting thread of GNU OpenMP makes by default
LIMIT = 120  # seconds, of the run that waits so
TIMED_OUT = 124  # exit code of timeout(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    given = _parser().parse_args(arguments)
    sides = [24, 48] if given.quick else [int(n) for n in given.sides.split(",")]
    steps = 6 if given.quick else given.steps
    method = "mean" if given.quick else given.method
    out = given.out or (ROOT / "runs" / "quick" if given.quick else ROOT / "docs" / "benchmarks")
    given.work.mkdir(parents=True, exist_ok=True)
    base = _fill(given.work, 4, 16, method, given.tile)
    sizes = [(steps * side * side, _fill(given.work, steps, side, method, given.tile)) for side in sides]
    workers = {}
    for count in (1, 2) if given.workers else ():
        workers[count] = _fill(given.work, steps, sides[-1], method, given.tile, "--dask", f"local:{count}")
    beside = _beside_another(given.work, steps, min(sides), method, given.tile) if given.busy else {}
    found = {
        "command": " ".join(
            ["python benchmarks/scaling.py", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "method": method,
        "steps": steps,
        "start_seconds": base.seconds,
        "start_cpu_seconds": base.cpu_seconds,
        "sizes": [{"cells": cells, "seconds": m.seconds, "cpu_seconds": m.cpu_seconds} for cells, m in sizes],
        "exponent_wall": exponent([(c, m.seconds - base.seconds) for c, m in sizes]),
        "exponent_cpu": exponent([(c, m.cpu_seconds - base.cpu_seconds) for c, m in sizes]),
        "workers": {str(n): m.seconds for n, m in workers.items()},
        "beside": {"side": min(sides), **beside} if beside else {},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    (out / "scaling.md").write_text(page(found))
    print(page(found))
    shutil.rmtree(given.work, ignore_errors=True)
    return 0


def _beside_another(work: Path, steps: int, side: int, method: str, tile: int) -> dict[str, float | None]:
    """Seconds with two threads: on free cores, beside a process that keeps one busy, and there with threads that wait as GNU OpenMP does."""
    alone = _fill(work, steps, side, method, tile, threads=2)
    with _busy():
        with_us = _fill(work, steps, side, method, tile, threads=2)
        with_gnu = _fill(work, steps, side, method, tile, threads=2, spins=GNU_SPINS, limit=LIMIT)
    return {
        "free": alone.seconds,
        "busy": with_us.seconds,
        "busy_gnu": None if with_gnu.code else with_gnu.seconds,
    }


@contextmanager
def _busy() -> Iterator[None]:
    """A process that computes all the time, in a session of its own, as another user's or a service's would."""
    running = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        yield
    finally:
        running.kill()
        running.wait()


def _fill(
    work: Path,
    steps: int,
    side: int,
    method: str,
    tile: int,
    *more: str,
    threads: int = 1,
    spins: str | None = None,
    limit: int | None = None,
) -> Measured:
    path, out = write_stack(work / f"in-{steps}-{side}.nc", steps, side, side), work / "out.nc"
    fixed = (
        "--method",
        method,
        "--tile",
        str(tile),
        "--threads",
        str(threads),
        "--no-uncertainty",
        "--overwrite",
        "-q",
    )
    settings = {} if spins is None else {"GOMP_SPINCOUNT": spins}
    command = stimpute("fill", path, out, *fixed, *more)
    done = measure(command if limit is None else ["timeout", str(limit), *command], threads, settings)
    if done.code and (limit is None or done.code != TIMED_OUT):
        raise SystemExit(f"{path}: exit code {done.code}\n{done.said}")
    return done


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The slope of log time over log cells; None where there are fewer than two times above zero.

    >>> round(exponent([(10, 3.0), (100, 30.0), (1000, 300.0)]), 6)
    1.0
    """
    usable = [(np.log(cells), np.log(seconds)) for cells, seconds in points if seconds > 0]
    if len(usable) < 2:
        return None
    cells, seconds = np.array(usable).T
    return float(np.polyfit(cells, seconds, 1)[0])


def page(found: dict[str, object]) -> str:
    """scaling.md."""
    sizes: list[dict[str, float]] = found["sizes"]  # type: ignore[assignment]
    workers: dict[str, float] = found["workers"]  # type: ignore[assignment]
    lines = [
        "# Time against size, and against workers",
        "",
        f"Written by `{found['command']}`. Whole commands, method {found['method']}, {found['steps']} steps, one thread,"
        f" {os.cpu_count()} cores. Starting and filling next to nothing takes {found['start_seconds']:.1f} s"
        f" ({found['start_cpu_seconds']:.1f} s of CPU), which the exponents leave out.",
        "",
        "| cell-steps | wall | CPU | CPU per million cell-steps |",
        "|---:|---:|---:|---:|",
        *(
            f"| {row['cells']:,} | {row['seconds']:.1f} s | {row['cpu_seconds']:.1f} s"
            f" | {1e6 * (row['cpu_seconds'] - float(found['start_cpu_seconds'])) / row['cells']:.2f} s |"  # type: ignore[arg-type]
            for row in sizes
        ),
        "",
        f"Exponent of time over cells: {_number(found['exponent_wall'])} (wall), {_number(found['exponent_cpu'])} (CPU).",
    ]
    if workers:
        gain = workers["1"] / workers["2"]
        lines += ["", f"One Dask worker: {workers['1']:.1f} s; two: {workers['2']:.1f} s, {gain:.2f} times as fast (starting included)."]  # fmt: skip
    if beside := found["beside"]:
        gnu = f"more than {LIMIT} s" if beside["busy_gnu"] is None else f"{beside['busy_gnu']:.1f} s"
        lines += [
            "",
            f"Two threads, {found['steps']} x {beside['side']} x {beside['side']}: {beside['free']:.1f} s on free cores,"
            f" {beside['busy']:.1f} s beside a process that keeps a core busy;"
            f" {gnu} there if threads wait as GNU OpenMP's do by default.",
        ]
    return "\n".join(lines) + "\n"


def _number(value: object) -> str:
    return "not to be had" if value is None else f"{value:.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="24 and 48 cells along a side, method mean")
    parser.add_argument("--sides", default="96,192,384", help="cells along a side, comma-separated")
    parser.add_argument("--steps", type=int, default=31)
    parser.add_argument("--method", default="st")
    parser.add_argument(
        "--tile", type=int, default=64, help="the same for all sizes, so that halos cost the same"
    )
    parser.add_argument(
        "--workers", action=argparse.BooleanOptionalAction, default=True, help="1 against 2 Dask workers too"
    )
    parser.add_argument(
        "--busy", action=argparse.BooleanOptionalAction, default=True, help="beside a busy process too"
    )
    parser.add_argument("--out", type=Path, help="default docs/benchmarks; runs/quick with --quick")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "scaling", help="for the files themselves; removed"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
