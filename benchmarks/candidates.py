#!/usr/bin/env python
"""What each candidate of the blend is worth: the prior with and without it. `python benchmarks/candidates.py --quick` first.

Hides observed cells of crops of the training archives (never of files that judge), as they are and with a share of the steps taken
away, blends all classical candidates and all but one, and writes candidates.md, candidates.json and candidates.png to --out
(docs/benchmarks). Rows are kept one by one under runs/candidates, so that a run that was killed goes on. Pack the archives first
(`python benchmarks/pretrain.py pack ../shared/data runs/archives`). `--page-only` writes the page from what is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from pretrain import archive_paths
from scoring import candidate_page, candidate_rows
from scoring.candidate_figures import PRIOR, Row
from scoring.cases import SHARE, read_table
from scoring.command import ROOT, about_run, check_known, names, threads
from scoring.compute_figures import file_of
from scoring.left_out import set_threads
from scoring.seen import account_of, is_of

from stimpute.errors import InputError, StimputeError
from stimpute.holdout import KINDS
from stimpute.pretrained.registry import DEFAULT_MODEL, load_model

KINDS_ASKED = ("gap", "block", "frames", "swath", "pixel")
EMPTY, MOST_EMPTY = (0.0, 0.4), 0.8
QUICK_KINDS, QUICK_CELLS, QUICK_ARCHIVES = KINDS_ASKED[:1], 2_000, 8  # every so many archives


@dataclass(frozen=True)
class Task:
    """What is to be run."""

    archives: tuple[Path, ...]
    kinds: tuple[str, ...]
    shares: tuple[float, ...]
    cells: int
    cache: Path
    page_only: bool
    fresh: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, write."""
    options = _parser().parse_args(arguments)
    try:
        task, partial = _task(options)
        set_threads(threads())
        rows, absent = measure(task)
        scored = [row for row in rows if row.hidden]
        if not scored:
            raise StimputeError(f"no row of these options and this state of the code is kept in {task.cache}" if task.page_only else "nothing could be hidden in any crop")  # fmt: skip
        partial += [f"{absent} rows are not measured yet"] if absent else []
        given = sys.argv[1:] if arguments is None else arguments
        told = [word for word in given if word != "--page-only"]  # writes what the command without it would
        about = about_run("candidates", DEFAULT_MODEL, (candidate_rows.SEED,), partial, told)
        report(candidate_page.Findings(scored, SHARE, task.cells, seen_of(scored), about), options)
    except StimputeError as error:
        print(f"candidates: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", type=names, help=f"what is hidden (default: {','.join(KINDS_ASKED)}; with --quick gap)")  # fmt: skip
    parser.add_argument("--empty", type=names, help="shares of the steps taken away, each a setting of its own; 0: as they are (default: 0,0.4)")  # fmt: skip
    parser.add_argument("--archives", type=Path, default=ROOT / "runs" / "archives", help="folder of the packed archives")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="where the page goes (default: docs/benchmarks; with --quick runs/candidates-quick)"
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="where rows are kept (default: runs/candidates; with --quick runs/candidates-quick)")  # fmt: skip
    parser.add_argument("--page-only", action="store_true", help="measure nothing: the page from what is kept")  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--quick", action="store_true", help="some tiny crops under one pattern, to see that it works")  # fmt: skip
    return parser


def _task(options: argparse.Namespace) -> tuple[Task, list[str]]:
    """What to run, and in words what of the whole is left out."""
    kinds = options.kinds or (QUICK_KINDS if options.quick else KINDS_ASKED)
    check_known("--kinds", kinds, KINDS)
    shares = _shares(options.empty) if options.empty else EMPTY
    archives = archive_paths(options.archives)
    if not archives:
        raise InputError(f"--archives {options.archives}: no archives; pack them (benchmarks/pretrain.py pack ../shared/data {options.archives})")  # fmt: skip
    check_training(archives)
    partial = [f"hidden by {', '.join(kinds)}"] if set(kinds) < set(KINDS_ASKED) else []
    partial += [f"not {candidate_page.setting(s)}" for s in EMPTY if s not in shares]
    partial += ["a try on tiny crops (--quick): the figures mean nothing"] if options.quick else []
    task = Task(
        tuple(archives[::QUICK_ARCHIVES] if options.quick else archives), tuple(dict.fromkeys(kinds)), shares,
        QUICK_CELLS if options.quick else candidate_rows.CELLS,
        options.cache or ROOT / "runs" / ("candidates-quick" if options.quick else "candidates"), options.page_only, options.fresh,
    )  # fmt: skip
    return task, partial


def check_training(archives: Sequence[Path]) -> None:
    """Candidates are not chosen on files that judge.

    Raises
    ------
    InputError : an archive of such a file.
    """
    judging = {Path(case.file).stem for case in read_table() if case.judges}
    for path in archives:
        if any(is_of(path.name, stem) for stem in judging):
            raise InputError(f"--archives: {path.name} is of a file that judges (benchmarks/cases.toml); take it out of the folder")  # fmt: skip


def seen_of(rows: Sequence[Row]) -> frozenset[str]:
    """The files that the shipped network saw in training, by its card."""
    account = account_of(load_model(DEFAULT_MODEL))
    return frozenset(f for f in {file_of(row.archive) for row in rows} if account.saw(f"{f}.nc"))


def _shares(given: Sequence[str]) -> tuple[float, ...]:
    """``--empty`` as numbers, in ascending order."""
    try:
        shares = sorted({float(part) for part in given})
    except ValueError as error:
        raise StimputeError(f"--empty {','.join(given)}: numbers with commas") from error
    if not 0 <= shares[0] <= shares[-1] <= MOST_EMPTY:
        raise StimputeError(f"--empty {','.join(given)}: from 0 to {MOST_EMPTY:g}")
    return tuple(shares)


def measure(task: Task) -> tuple[list[Row], int]:
    """All rows, and how many are not there because nothing is to be measured now."""
    model = load_model(DEFAULT_MODEL)
    cuts = candidate_rows.crops(task.archives, task.cells)
    asked = candidate_rows.questions(cuts, task.kinds, task.shares)  # type: ignore[arg-type]
    if task.page_only:
        found = [candidate_rows.kept(question, model, task.cache) for question in asked]
        return [row for row in found if row], found.count(None)
    rows = []
    for number, question in enumerate(asked, 1):
        rows.append(candidate_rows.measured(question, model, task.cache, task.fresh))
        _say(rows[-1], f"{number}/{len(asked)}")
    return rows, 0


def _say(row: Row, where: str) -> None:
    told = f"prior {row.error(PRIOR):.4f}  {row.seconds:.1f} s" if row.hidden else "cannot be hidden so"
    print(f"{where:>8s}  {row.archive:60s} {row.kind:7s} {candidate_page.setting(row.empty)}: {told}", flush=True)  # fmt: skip


def report(findings: candidate_page.Findings, options: argparse.Namespace) -> None:
    """Page, figures, picture."""
    out = options.out or ROOT / ("runs/candidates-quick" if options.quick else "docs/benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    candidate_page.draw(findings, out / "candidates.png")
    candidate_page.write_json(out / "candidates.json", findings)
    candidate_page.write_page(out / "candidates.md", findings, "candidates.png")
    print(candidate_page.verdict(findings))
    print(f"written: {out / 'candidates.md'}")


if __name__ == "__main__":
    sys.exit(main())
