#!/usr/bin/env python
"""Cell-steps per second of whole commands, side by side in one run. `python benchmarks/throughput.py --quick` first.

Every contender is a process of its own that reads the same generated NetCDF stack, fills it and writes NetCDF: `stimpute fill`
with its methods; DCT-PLS with 100 iterations on scipy's cosine transform (Garcia 2010, Wang et al. 2012); DINEOF with 20 modes by
iterated truncated SVD (Beckers and Rixen 2003); `xarray.DataArray.interpolate_na`. Writes throughput.md and throughput.json
to --out (docs/benchmarks), with the error against the truth under the clouds beside the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from scoring.timed import ROOT, Array, measure, scenes, stimpute, write_stack

ITERATIONS, MODES = 100, 20
OURS = {
    "st": ("--method", "st"),
    "st --fast": ("--method", "st", "--fast"),
    "linear": ("--method", "linear"),
    "stimpute dct-pls": ("--method", "dct-pls"),
}


@dataclass(frozen=True)
class Row:
    """One contender: whole command, wall and CPU seconds, peak memory in bytes, error under the clouds in the field's units.

    ``method_seconds`` of them were spent in the method, as the command itself says; None of others.
    """

    name: str
    steps: int
    side: int
    threads: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    mae: float
    method_seconds: float | None = None

    @property
    def speed(self) -> float:
        """Cell-steps per second of wall time."""
        return self.steps * self.side**2 / self.seconds


# --- the others -------------------------------------------------------------------------------------------------------


def dct_pls(stack: Array, workers: int, iterations: int = ITERATIONS) -> Array:
    """Penalised least squares in the cosine basis: the smoothing relaxes from 1e3 to 1e-2 over the iterations. (time, y, x)"""
    from scipy.fft import dctn, idctn

    weight = np.isfinite(stack)
    seen = np.where(weight, stack, 0.0)
    filled = np.where(weight, stack, np.nanmean(stack))
    axes = (2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in stack.shape)
    eigenvalues = sum(np.ix_(*axes))
    for strength in np.logspace(3, -2, iterations):
        shrink = 1 / (1 + strength * eigenvalues**2)
        spectrum = dctn(weight * (seen - filled) + filled, norm="ortho", workers=workers)
        filled = idctn(shrink * spectrum, norm="ortho", workers=workers)
    return np.where(weight, stack, filled)


def dineof(stack: Array, workers: int, modes: int = MODES, most: int = 50) -> Array:
    """Gaps filled by the leading EOFs, again and again until they settle. (time, y, x)"""
    from scipy.linalg import svd

    flat = stack.reshape(len(stack), -1).astype(np.float64)
    seen = np.isfinite(flat)
    mean = np.nanmean(flat)
    filled = np.where(seen, flat - mean, 0.0)
    count, before = min(modes, len(stack) - 1), np.inf
    for _ in range(most):
        left, values, right = svd(filled, full_matrices=False)
        guess = (left[:, :count] * values[:count]) @ right[:count]
        change = float(np.sqrt(np.mean((guess[~seen] - filled[~seen]) ** 2)))
        filled[~seen] = guess[~seen]
        if abs(before - change) < 1e-4 * filled.std():
            break
        before = change
    return (filled + mean).reshape(stack.shape)


OTHERS: dict[str, Callable[[Array, int], Array]] = {"DCT-PLS (scipy)": dct_pls, "DINEOF (20 modes)": dineof}
INTERPOLATED = "xarray.interpolate_na"


def other(name: str, path: Path, out: Path, workers: int) -> None:
    """One of the others as a whole command: read, fill, write."""
    import xarray as xr

    with xr.open_dataset(path) as data:
        stack = data["sst"].load()
    if name == INTERPOLATED:
        done = stack.interpolate_na("time", method="linear", fill_value="extrapolate")
    else:
        done = stack.copy(data=OTHERS[name](stack.values, workers).astype(np.float32))
    done.to_dataset(name="sst").to_netcdf(out)


# --- the run ----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write."""
    given = _parser().parse_args(arguments)
    if given.one:
        other(given.one, given.input, given.output, given.threads)
        return 0
    steps, side = (8, 32) if given.quick else (given.steps, given.side)
    out = given.out or (ROOT / "runs" / "quick" if given.quick else ROOT / "docs" / "benchmarks")
    names = [*OURS, *OTHERS, INTERPOLATED] if given.contenders is None else given.contenders.split(",")
    given.work.mkdir(parents=True, exist_ok=True)
    path = write_stack(given.work / f"stack-{steps}-{side}.nc", steps, side, side)
    rows = []
    for name in names:
        rows.append(contend(name, path, given.work / "filled.nc", steps, side, given.threads))
        print(_line(rows[-1]), flush=True)
        words = sys.argv[1:] if arguments is None else arguments
        write_page(rows, out, shlex.join(["python", "benchmarks/throughput.py", *words]))
    shutil.rmtree(given.work, ignore_errors=True)
    return 0


def contend(name: str, path: Path, out: Path, steps: int, side: int, threads: int) -> Row:
    """Time one whole command, and score what it wrote."""
    out.unlink(missing_ok=True)
    if name in OURS:
        command = stimpute(
            "fill", path, out, *OURS[name], "--threads", str(threads), "--no-uncertainty", "-q", "--json"
        )
    else:
        command = [
            sys.executable,
            __file__,
            "--one",
            name,
            "--input",
            path,
            "--output",
            out,
            "--threads",
            str(threads),
        ]
    done = measure(command, threads)
    if done.code:
        raise SystemExit(f"{name}: exit code {done.code}\n{done.said}")
    inside = json.loads(done.printed)["method_seconds"] if name in OURS else None
    return Row(
        name, steps, side, threads, round(done.seconds, 3), round(done.cpu_seconds, 3), done.peak_bytes, _mae(out, steps, side), inside
    )  # fmt: skip


def _mae(out: Path, steps: int, side: int) -> float:
    import netCDF4

    total = count = 0.0
    with netCDF4.Dataset(out) as file:
        for step, (field, gap) in enumerate(scenes(steps, side, side)):
            filled = np.ma.filled(file["sst"][step].astype(np.float64), np.nan)
            error = np.abs(filled - field)[gap]
            total, count = total + float(np.nansum(error)), count + float(np.isfinite(error).sum())
    return total / max(count, 1.0)


def write_page(rows: Sequence[Row], out: Path, command: str) -> None:
    """throughput.md and throughput.json."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "throughput.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    reference = next((row for row in rows if row.name == "DCT-PLS (scipy)"), None)
    first = rows[0]
    lines = [
        "# Throughput",
        "",
        f"Written by `{command}`. Whole commands (start, read, fill, write) on one generated stack of"
        f" {first.steps} x {first.side} x {first.side}, 40 % under clouds; {first.threads} threads, {os.cpu_count()} cores"
        f" ({platform.machine()}). MAE against the truth under the clouds, whose noise alone has a mean of 0.24."
        " *Outside the method*:"
        " share of the wall time for starting, reading, surveying, blending and writing.",
        "",
        "| | cell-steps/s | of DCT-PLS | wall | outside the method | CPU | peak memory | MAE |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = f"{row.speed / reference.speed:.2f}" if reference else ""
        outside = "" if row.method_seconds is None else f"{1 - row.method_seconds / row.seconds:.0%}"
        lines.append(
            f"| {row.name} | {row.speed:,.0f} | {share} | {row.seconds:.1f} s | {outside} | {row.cpu_seconds:.1f} s"
            f" | {row.peak_bytes / 2**20:,.0f} MiB | {row.mae:.3f} |"
        )
    (out / "throughput.md").write_text("\n".join(lines) + "\n")


def _line(row: Row) -> str:
    return f"{row.name:24s} {row.speed:12,.0f} cell-steps/s  {row.seconds:8.1f} s wall  {row.cpu_seconds:8.1f} s CPU  MAE {row.mae:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="8 x 32 x 32, to see that it works")
    parser.add_argument("--steps", type=int, default=31)
    parser.add_argument("--side", type=int, default=512, help="cells along a side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contenders", help=f"of {', '.join([*OURS, *OTHERS, INTERPOLATED])}")
    parser.add_argument("--out", type=Path, help="default docs/benchmarks; runs/quick with --quick")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "throughput", help="for the files themselves; removed"
    )
    for hidden in ("--one", "--input", "--output"):
        parser.add_argument(hidden, help=argparse.SUPPRESS, type=str if hidden == "--one" else Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
