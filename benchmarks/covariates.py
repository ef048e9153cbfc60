#!/usr/bin/env python
"""What covariates bring, and what irrelevant ones cost, zero-shot. `python benchmarks/covariates.py --quick` first.

Fills simulated soil moisture, simulated worlds and real files with none, all, some of their covariates and with irrelevant
ones, and writes covariates.md, covariates.json and covariates.png to --out (docs/benchmarks). Results are kept one by one under
runs/covariates, so that a run that was killed goes on, and another model computes its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from scoring import covariate_page
from scoring.command import ROOT, about_run, check_known, fill, names, numbers, threads
from scoring.covariate_page import Entry, Findings, Row
from scoring.covariate_worlds import (
    ASKED,
    BLOCK,
    ORBIT,
    PARTS,
    QUICK,
    REAL,
    Name,
    Question,
    Sizes,
    ask,
    digest,
    informed_worlds,
    with_covariates,
)
from scoring.runs import Key, Result, Store, code_digest

from stimpute.errors import StimputeError
from stimpute.inference.methods import open_method
from stimpute.inference.options import FillOptions
from stimpute.metrics import score
from stimpute.pretrained.registry import DEFAULT_MODEL, load_model


@dataclass(frozen=True)
class Task:
    """What is to be run."""

    names: tuple[Name, ...]
    sizes: Sizes
    model: str
    device: str
    data: Path
    deadline: float  # of time.monotonic()
    fresh: bool = False
    current_code: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write."""
    options = _parser().parse_args(arguments)
    try:
        task, partial = _task(options)
        quick = ROOT / "runs" / "covariates-quick"
        rows, left = measure(
            task, Store(options.cache or (quick if options.quick else ROOT / "runs" / "covariates"))
        )
        partial += [f"{left} runs were not made within --minutes {options.minutes:g}"] if left else []
        if not any(row.complete for row in rows):
            raise StimputeError("no stack was filled with all of its covariates: nothing to compare")
        about = about_run("covariates", task.model, options.seeds, partial, arguments)
        findings = Findings(rows, about, asdict(task.sizes))
        report(findings, options.out or (quick if options.quick else ROOT / "docs" / "benchmarks"))
    except StimputeError as error:
        print(f"covariates: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=names, default=PARTS, help=f"some of {','.join(PARTS)}")
    parser.add_argument(
        "--seeds", type=numbers, default=(0, 1, 2, 3, 4), help="of stacks, gaps and hidden cells (default: 0,1,2,3,4)"
    )  # fmt: skip
    parser.add_argument("--days", type=int, help=f"of soil moisture (default: {Sizes().days})")
    parser.add_argument("--worlds", type=int, help=f"how many (default: {Sizes().worlds})")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or path of the model")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; threads by OMP_NUM_THREADS (default: 1)")  # fmt: skip
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public files")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="where the page goes (default: docs/benchmarks; with --quick runs/covariates-quick)"
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="where results are kept (default: runs/covariates)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no new run after")
    parser.add_argument("--fresh", action="store_true", help="ignore results kept earlier")
    parser.add_argument(
        "--current-code", action="store_true", help="keep no result of another state of the code"
    )
    parser.add_argument("--quick", action="store_true", help="tiny stacks, to see that it works")
    return parser


def _task(options: argparse.Namespace) -> tuple[Task, list[str]]:
    """What to run, and in words what of the whole benchmark is left out."""
    check_known("--parts", options.parts, PARTS)
    load_model(options.model)  # a model that cannot be read is told now
    usual = QUICK if options.quick else Sizes()
    sizes = Sizes(**{**asdict(usual), **{k: v for k in ("days", "worlds") if (v := getattr(options, k)) is not None}})  # fmt: skip
    if sizes.days < 2 or sizes.worlds < 1:
        raise StimputeError(f"--days {sizes.days} --worlds {sizes.worlds}: at least 2 and 1")
    partial = [f"{', '.join(options.parts)} only"] if len(set(options.parts)) < len(PARTS) else []
    partial += ["a try on tiny stacks (--quick): the figures mean nothing"] if options.quick else []
    files = (REAL[:1] if options.quick else REAL) if "real" in options.parts else ()
    asked: list[Name] = []
    for seed in options.seeds:
        if "soil_moisture" in options.parts:
            asked += [Name("soil_moisture", "soil moisture", gaps, seed) for gaps in (ORBIT, BLOCK)]
        asked += [Name("real", c.name, "gap", seed) for c in files if (options.data / c.file).is_file()]
    if "worlds" in options.parts:
        asked += [Name("worlds", f"world {seed}", "drawn", seed) for seed in informed_worlds(sizes)]
    absent = [c.name for c in files if not (options.data / c.file).is_file()]
    partial += [f"no {', '.join(absent)}: not in the data folder"] if absent else []
    task = Task(
        tuple(asked), sizes, options.model, options.device, options.data, time.monotonic() + 60 * options.minutes,
        options.fresh, options.current_code,
    )  # fmt: skip
    return task, partial


def measure(task: Task, store: Store) -> tuple[list[Row], int]:
    """Every stack with every variant, from the store where it has been run before; how many runs the clock did not allow."""
    rows, left = [], 0
    for name in task.names:
        question = ask(name, task.sizes, task.data)
        if not question.wanted.any():
            continue
        entries = {}
        for variant in ASKED[name.part]:
            result = _result(task, store, question, name, variant)
            if result is None:
                left += 1
                continue
            s = score(question.truth, result.mean)
            entries[variant] = Entry(s.mae, s.rmse, s.n, result.seconds, result.code)
        missing = float(question.stack.gap.mean())
        spread = float(question.stack.values[question.stack.valid].std(dtype=np.float64))
        rows.append(Row(name, spread, entries, {**question.about, "missing": missing}))
    return rows, left


def _result(task: Task, store: Store, question: Question, name: Name, variant: str) -> Result | None:
    """One fill; None where the clock does not allow it."""
    key = Key(
        name.stack.replace(" ", "_"), digest(name, task.sizes), name.gaps, name.seed, f"st-{variant}", load_model(task.model).sha256[:12]
    )  # fmt: skip
    found = None if task.fresh else store.load(key)
    if found is not None and not (task.current_code and found.code != code_digest()):
        return found
    if time.monotonic() > task.deadline:
        return None
    stack = with_covariates(question.stack, variant, name.seed)
    method = open_method("st", task.model, task.device, threads=threads())
    run = FillOptions(fill_never_observed=True, uncertainty=False, seed=name.seed)
    values, layer, seconds = fill(stack, question.layer, method, run)
    mean = values[question.wanted]
    result = Result(key, mean, np.full_like(mean, np.nan), seconds, layer.tiles == 1, code=code_digest())
    store.save(result)
    mae = score(question.truth, mean).mae
    print(f"{name.stack:14s} {name.gaps:6s} seed {name.seed}  {variant:15s} {seconds:7.1f} s  MAE {mae:.4g}", flush=True)  # fmt: skip
    return result


def report(findings: Findings, out: Path) -> None:
    """Page, figures, picture."""
    out.mkdir(parents=True, exist_ok=True)
    covariate_page.draw(findings, out / "covariates.png")
    covariate_page.write_json(out / "covariates.json", findings)
    covariate_page.write_page(out / "covariates.md", findings, "covariates.png")
    print(covariate_page.verdict(findings))
    print(f"written: {out / 'covariates.md'}")


if __name__ == "__main__":
    sys.exit(main())
