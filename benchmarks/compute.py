#!/usr/bin/env python
"""Error against compute: two sizes, two data mixes, several budgets. `python benchmarks/compute.py --quick` first.

Trains the recipe of the shipped weights from nothing in sizes small and base, on half simulated worlds and on simulated worlds only,
once for each budget, and writes compute.md, compute.json and compute.png to --out (docs/benchmarks). Runs, batches and results are
kept under runs/compute, so that a run that was killed goes on. Pack the archives first
(`python benchmarks/pretrain.py pack ../shared/data runs/archives`). `--page-only` writes the page from what is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from pretrain import archive_paths
from scoring import compute_page, compute_runs
from scoring.command import ROOT, about_run, numbers, threads
from scoring.compute_runs import Plan
from scoring.left_out import set_threads

from stimpute.errors import StimputeError
from stimpute.pretrained.registry import DEFAULT_MODEL
from stimpute.training import TrainProgress

STEPS, SEED, POINTS, EXAMPLES = (75, 300), 1, 4, 8
QUICK_STEPS, QUICK_SHAPES, QUICK_EXAMPLES = (1, 2), ((2, 4, 12, 12), (1, 6, 10, 10)), 2
QUICK_ARCHIVES = 8  # every so many


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, write."""
    options = _parser().parse_args(arguments)
    try:
        plans, archives = _asked(options)
        cache = options.cache or ROOT / "runs" / ("compute-quick" if options.quick else "compute")
        set_threads(threads())
        curves = [
            compute_runs.kept(plan, archives, cache)
            if options.page_only
            else compute_runs.trained(plan, archives, cache, options.fresh, _teller(plan))
            for plan in plans
        ]
        done = [curve for curve in curves if curve is not None]
        if not done:
            raise StimputeError(f"--page-only: no run of these options is kept in {cache}")
        partial = [f"without {_named(p)}" for p, c in zip(plans, curves, strict=True) if c is None]
        partial += ["a try on tiny examples (--quick): the figures mean nothing"] if options.quick else []
        given = sys.argv[1:] if arguments is None else arguments
        told = [word for word in given if word != "--page-only"]  # writes what the command without it would
        about = about_run("compute", DEFAULT_MODEL, (options.seed,), partial, told)
        report(compute_page.Findings(done, len(archives), about), options)
    except StimputeError as error:
        print(f"compute: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=numbers, help="budgets, each a run of its own (default: 75,300; with --quick 1,2)")  # fmt: skip
    parser.add_argument("--points", type=int, default=POINTS, help=f"validations of the longest run, the start apart (default: {POINTS})")  # fmt: skip
    parser.add_argument("--examples", type=int, help=f"batches of worlds validated on, and of archives beyond one of each (default: {EXAMPLES})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=SEED, help=f"of weights and examples (default: {SEED})")
    parser.add_argument("--archives", type=Path, default=ROOT / "runs" / "archives", help="folder of the packed archives")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="where the page goes (default: docs/benchmarks; with --quick runs/compute-quick)"
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="where runs and batches are kept (default: runs/compute; with --quick runs/compute-quick)")  # fmt: skip
    parser.add_argument("--page-only", action="store_true", help="train nothing: the page from what is kept")
    parser.add_argument("--fresh", action="store_true", help="train again what is kept")
    parser.add_argument("--quick", action="store_true", help="a few steps on tiny examples, to see that it works")  # fmt: skip
    return parser


def _asked(options: argparse.Namespace) -> tuple[list[Plan], list[Path]]:
    """The runs, and what they are trained and validated on."""
    budgets = options.steps or (QUICK_STEPS if options.quick else STEPS)
    if min(budgets) < 1 or options.points < 1:
        raise StimputeError(f"--steps {budgets}, --points {options.points}: at least 1")
    archives = archive_paths(options.archives)
    if not archives:
        raise StimputeError(
            f"--archives {options.archives}: no archives; pack them (benchmarks/pretrain.py pack)"
        )
    examples = options.examples or (QUICK_EXAMPLES if options.quick else EXAMPLES)
    shapes, archives = (QUICK_SHAPES, archives[::QUICK_ARCHIVES]) if options.quick else (None, archives)
    return compute_runs.plans(budgets, options.seed, options.points, shapes, examples), archives


def _named(plan: Plan) -> str:
    return f"{plan.size} on {compute_page.MIX[plan.mix]} for {plan.steps} steps"


def _teller(plan: Plan) -> Callable[[TrainProgress], None]:
    """Says now and then where a training run is."""
    last = [time.monotonic()]

    def tell(state: TrainProgress) -> None:
        checked = state.validation
        if checked is not None:
            told = f"vs_prior {checked.vs_prior:.4f}  vs_best {checked.vs_best:.4f}"
        elif time.monotonic() - last[0] > 60:
            told = f"loss {state.loss:.4f}"
        else:
            return
        last[0] = time.monotonic()
        print(f"{_named(plan)}: step {state.step}, {state.elapsed / 60:.1f} min  {told}", flush=True)

    return tell


def report(findings: compute_page.Findings, options: argparse.Namespace) -> None:
    """Page, figures, picture."""
    out = options.out or ROOT / ("runs/compute-quick" if options.quick else "docs/benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    compute_page.draw(findings, out / "compute.png")
    compute_page.write_json(out / "compute.json", findings)
    compute_page.write_page(out / "compute.md", findings, "compute.png")
    print(compute_page.verdict(findings))
    print(f"written: {out / 'compute.md'}")


if __name__ == "__main__":
    sys.exit(main())
