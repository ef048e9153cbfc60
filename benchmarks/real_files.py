"""Every real file of a folder: filled and proven with `verify`, or refused, and why.

    python benchmarks/real_files.py run ../shared/data --out runs/real_files.json
    python benchmarks/real_files.py page runs/real_files.json docs/benchmarks/real_files.md docs/inputs.md

`run` is resumable; every file has a time limit and a process of its own. It is about files, not about skill: the method is `mean`. A
file that is refused as it is, is tried again with what the refusal itself suggests (`--var all`, `--nodata 0`), or what
`real_files.toml` says its owner knows; what nothing answers stays refused. `page` writes the counts as one page, and the table of the awkward files between two marks of another.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RECIPE = Path(__file__).with_suffix(".toml")
SUFFIXES = (".nc", ".tif", ".jp2", ".hdf", ".h5", ".grib", ".zip")
TOLD = ("awkward", "landsat8_newyork")  # folders whose files are listed one by one
BEGIN, END = "<!-- real files: begin -->", "<!-- real files: end -->"
Row = dict[str, Any]


def main(given: Sequence[str] | None = None) -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="fill and verify every file")
    running.add_argument("data", type=Path)
    running.add_argument("--out", type=Path, required=True, help="JSON with one entry per attempt")
    running.add_argument(
        "--seconds", type=float, default=600, help="limit for a fill, and for a verification"
    )
    running.add_argument("--only", default="*", help="glob of paths inside the folder")
    running.add_argument("--again", action="store_true", help="also what the JSON holds already")
    running.set_defaults(run=run)
    paging = commands.add_parser("page", help="JSON -> Markdown")
    paging.add_argument("rows", type=Path)
    paging.add_argument("page", type=Path)
    paging.add_argument("inputs", type=Path, help="page with two marks, between which the table is written")
    paging.set_defaults(run=write_pages)
    arguments = parser.parse_args(given)
    return int(arguments.run(arguments))


def attempts(data: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """(name, inputs relative to the folder, options): every file as it is, and with what its owner knows; stacks of several files."""
    recipe = tomllib.loads(RECIPE.read_text())
    files = sorted(str(p.relative_to(data)) for p in data.rglob("*") if p.suffix.lower() in SUFFIXES)
    for file in files:
        yield file, [file], []
        for entry in recipe["again"]:
            if fnmatch.fnmatch(file, entry["files"]):
                yield file, [file], list(entry["options"])
    for entry in recipe["stack"]:
        inputs = [f for f in files if fnmatch.fnmatch(f, entry["files"])]
        if inputs:
            yield entry["files"], inputs, list(entry["options"])


def run(arguments: argparse.Namespace) -> int:
    """Try everything that is not in the JSON yet; returns 1 where something crashed, hung, or did not verify."""
    rows: dict[str, Row] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name, inputs, options in attempts(arguments.data):
        key = " ".join([name, *options])
        if not fnmatch.fnmatch(name, arguments.only) or (key in rows and not arguments.again):
            continue
        while options is not None:
            key = " ".join([name, *options])
            row = tried(arguments.data, inputs, options, arguments.seconds)
            rows[key] = {"file": name, "options": options, **row}
            arguments.out.write_text(json.dumps(rows, indent=1))
            print(f"{key}: {outcome(rows[key])}", flush=True)
            options = suggested(row, options)
    bad = [key for key, row in rows.items() if row["end"] not in ("proven", "refused")]
    print(f"{len(rows)} attempts, {len(bad)} that neither verify nor are refused", *bad, sep="\n  ")
    return 1 if bad else 0


def suggested(row: Row, options: Sequence[str]) -> list[str] | None:
    """The options a refusal names, with those there were; None: it names none, or they were given already."""
    said = row["errors"][0] if row["end"] == "refused" else ""
    held = re.search(r"of the cells hold (\S+); if that marks gaps", said)
    more = ["--var", "all"] if "or --var all" in said else ["--nodata", held[1]] if held else []
    return [*options, *more] if more and more[0] not in options else None


def tried(data: Path, inputs: Sequence[str], options: Sequence[str], seconds: float) -> Row:
    """One fill and its verification."""
    paths = [str(data / path) for path in inputs]
    with tempfile.TemporaryDirectory(prefix="real-files-") as folder:
        out = Path(folder) / f"filled{suffix_for(inputs[0])}"
        words = ["fill", *paths, str(out), "--method", "mean", "--no-uncertainty", "--json", *options]
        start = time.monotonic()
        code, told, said = in_a_process(words, seconds)
        spent = time.monotonic() - start
        row: Row = {"seconds": round(spent, 1), "warnings": plain(said, data, "warning: ")}
        if code is None or code not in (0, 1, 2, 3) or "internal error" in said:
            return {**row, "end": "hang" if code is None else "crash", "said": said[-500:]}
        if code in (1, 2):
            errors = plain(said, data, "stimpute: error: ")
            left = [p.name for p in Path(folder).iterdir()]
            return {
                **row,
                "end": "refused" if len(errors) == 1 and not left else "crash",
                "errors": errors,
                "left": left,
            }
        kept = [w for pair in itertools.pairwise(options) if pair[0] in ("--nodata", "--var") for w in pair]
        code, told, said = in_a_process(["verify", *paths, str(out), "--json", *kept], seconds)
        if code not in (0, 1):
            return {**row, "end": "hang" if code is None else "crash", "said": said[-500:]}
        report = json.loads(told)
        return {
            **row,
            "end": "proven" if not report["differences"] and code == 0 else "differs",
            "layers": report["layers"],
            "differences": [line.replace(str(data), "") for line in report["differences"]],
            "dtypes": dtypes(out, [layer["name"] for layer in report["layers"]]),
            "format": format_of(out),
        }


def suffix_for(path: str) -> str:
    """The suffix of an output in the input's own format, as far as it can be written."""
    if path.endswith(".zarr.zip"):
        return ".zarr"
    return {".nc": ".nc", ".h5": ".nc"}.get(Path(path).suffix.lower(), ".tif")


def in_a_process(words: Sequence[str], seconds: float) -> tuple[int | None, str, str]:
    """One command line: (exit code, None where it took too long; stdout; stderr)."""
    with tempfile.TemporaryDirectory(prefix="said-") as folder:
        streams = [Path(folder) / name for name in ("out", "err")]

        def child() -> None:
            for number, path in enumerate(streams, start=1):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            from stimpute.cli import run as run_command

            code = run_command(list(words))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(seconds)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            return None, "", ""
        out, err = (path.read_text() if path.exists() else "" for path in streams)
        return process.exitcode, out, err


def plain(said: str, data: Path, start: str) -> list[str]:
    """The lines that start so, without the folder's name."""
    lines = [line.removeprefix(start) for line in said.splitlines() if line.startswith(start)]
    lines = [re.sub(r"\S*/real-files-\w+/", "", line) for line in lines]
    return [line.replace(f"{data}/", "").replace(f"{data.resolve()}/", "") for line in lines]


def dtypes(out: Path, names: Sequence[str]) -> list[str]:
    """The stored type of every layer of an output."""
    if out.suffix == ".nc":
        import netCDF4

        with netCDF4.Dataset(out) as file:
            return [str(file[name].dtype) for name in names]
    if out.suffix == ".zarr":
        import zarr

        return [str(zarr.open_group(out, mode="r")[name].dtype) for name in names]
    import rasterio

    with rasterio.open(out) as file:
        return [str(np.dtype(file.dtypes[0]))] * len(names)


def format_of(out: Path) -> str:
    """What was written, in words."""
    if out.suffix == ".nc":
        import netCDF4

        with netCDF4.Dataset(out) as file:
            return "NetCDF-3" if file.data_model.startswith("NETCDF3") else "NetCDF-4"
    return "Zarr" if out.suffix == ".zarr" else "GeoTIFF"


def outcome(row: Row) -> str:
    """In a few words."""
    if row["end"] == "proven":
        counts = {
            key: sum(layer[key] for layer in row["layers"]) for key in ("observed", "filled", "refused")
        }
        return ", ".join(f"{number:,} {key}" for key, number in counts.items())
    if row["end"] == "refused":
        return f"refused: {row['errors'][0]}"
    return f"{row['end'].upper()} {row.get('said', '')}{row.get('differences', '')}{row.get('errors', '')}"


# --- pages ----------------------------------------------------------------------------------------------------------------


def write_pages(arguments: argparse.Namespace) -> int:
    """The counts as a page, and the table between the marks of another."""
    rows = sorted(
        json.loads(arguments.rows.read_text()).values(), key=lambda row: (row["file"], len(row["options"]))
    )
    arguments.page.write_text(counts_page(rows), encoding="utf-8")
    text = arguments.inputs.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(table_of([row for row in rows if row["file"].split("/")[0] in TOLD]))
    arguments.inputs.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return 0


def counts_page(rows: Sequence[Row]) -> str:
    """How many files, cells and types were proven."""
    proven = [row for row in rows if row["end"] == "proven"]
    kinds: Counter[tuple[str, str]] = Counter()
    cells: Counter[tuple[str, str]] = Counter()
    filled: Counter[tuple[str, str]] = Counter()
    for row in proven:
        for layer, dtype in zip(row["layers"], row["dtypes"], strict=True):
            kind = (row["format"], dtype)
            kinds[kind] += 1
            cells[kind] += layer["observed"]
            filled[kind] += layer["filled"]
    lines = [f"| {k[0]} | {k[1]} | {kinds[k]:,} | {cells[k]:,} | {filled[k]:,} |" for k in sorted(kinds)]
    ends = Counter(row["end"] for row in rows)
    files = {row["file"] for row in rows}
    right = {row["file"] for row in proven}
    stay = "".join(
        f"- `{' '.join([row['file'], *row['options']])}`: {escaped(row['errors'][0])}\n"
        for row in rows
        if row["file"] not in right and suggested(row, row["options"]) is None
    )
    other = "".join(
        f"- `{' '.join([row['file'], *row['options']])}`: {outcome(row)}\n"
        for row in rows
        if row["end"] not in ("proven", "refused")
    )
    return "\n".join((
        "# Real files, proven cell by cell\n",
        "`python benchmarks/real_files.py run ../shared/data --out runs/real_files.json` fills every NetCDF, GeoTIFF, HDF, GRIB, JPEG 2000",
        "and Zarr file of the development data (method `mean`) and runs `stimpute verify`, which compares the stored bits of every observed",
        "cell, and all metadata, with the input.\n",
        f"- {len(files)} files and stacks, {len(rows)} attempts (as they are; then with the options a refusal asks for).",
        f"- {len(right)} were filled and proven: {sum(cells.values()):,} observed cells, **{sum(len(r.get('differences', ())) for r in rows)} changed**;"
        f" {sum(filled.values()):,} cells filled.",
        f"- {ends['refused']} attempts were refused in one line with nothing written; {len(files - right)} files stay refused.",
        f"- {ends['crash']} crashed, {ends['hang']} took too long, {ends['differs']} differed.\n",
        "| format written | stored type | variables | observed cells, unchanged | filled cells |",
        "|---|---|---:|---:|---:|",
        *lines,
        "\nWhat stays refused:\n",
        stay,
        other,
    )).rstrip("\n") + "\n"  # fmt: skip


def table_of(rows: Sequence[Row]) -> list[str]:
    """One line per attempt; those that end alike, but for names and numbers, are one line with their count."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        said = (
            re.sub(r"[\w./*-]*/[\w./*-]+|\d[\d,.]*", "#", row["errors"][0])
            if row["end"] == "refused"
            else row["end"]
        )
        folder = row["file"].split("/")[0]
        alone = "" if folder != "awkward" or row["file"].endswith(".jp2") else row["file"]
        groups.setdefault((folder, alone, " ".join(row["options"]), said), []).append(row)
    lines = ["| file | options | what happens |", "|---|---|---|"]
    for (folder, alone, options, _), members in groups.items():
        name = alone.partition("/")[2] or f"{folder}: {len(members)} of `{common(members)}`"
        lines.append(f"| {name} | {f'`{options}`' if options else ''} | {happening(members)} |")
    return lines


def common(members: Sequence[Row]) -> str:
    """A glob that stands for several files."""
    names = [row["file"].rpartition("/")[2] for row in members]
    if len(names) == 1:
        return names[0]
    alike = [set(letters) for letters in zip(*names)]
    start = next((k for k, letters in enumerate(alike) if len(letters) > 1), 0)
    return f"{names[0][:start]}*{Path(names[0]).suffix}"


def happening(members: Sequence[Row]) -> str:
    """What the first of them came to, the counts of all."""
    first = members[0]
    if first["end"] == "refused":
        return f"refused: {escaped(first['errors'][0])}"
    if first["end"] != "proven":
        return f"**{first['end']}**"
    keys = ("observed", "filled", "refused", "outside_domain")
    counts = {key: sum(layer[key] for row in members for layer in row["layers"]) for key in keys}
    words = ", ".join(
        f"{number:,} {key.replace('_', ' ')}" for key, number in counts.items() if number or key == "observed"
    )
    warned = list(dict.fromkeys(escaped(line) for row in members[:1] for line in row["warnings"]))
    return f"proven: {words}" + "".join(f"<br>warning: {line}" for line in warned[:3])


def escaped(line: str) -> str:
    """Short enough for a table, and without what Markdown takes for its own."""
    line = re.sub(r"(?:[\w*.-]+/)+([\w*.-]+)", r"\1", line).replace("|", "\\|").replace("<", "&lt;")
    return line if len(line) <= 330 else f"{line[:330]}…"


if __name__ == "__main__":
    import stimpute.api
    import stimpute.inference.engine
    import stimpute.inference.methods
    import stimpute.io  # noqa: F401  (once, before the processes fork)

    shutil.rmtree(Path(tempfile.gettempdir()) / "real-files", ignore_errors=True)
    sys.exit(main())
