#!/usr/bin/env python
"""Does skill come from having seen the file? Training with and without it, at equal steps. `python benchmarks/leave_out.py --quick` first.

Trains the recipe of the shipped weights once with everything and once without each data set, scores all of them on crops of the
file that was left out, and writes leave_out.md, leave_out.json and leave_out.png to --out (docs/benchmarks). Weights and results
are kept one by one under runs/leave-out, so that a run that was killed goes on. Pack the archives first
(`python benchmarks/pretrain.py pack ../shared/data runs/archives`).
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from pretrain import archive_paths
from scoring import cases as public
from scoring import leave_out_page, left_out, peers
from scoring.command import ROOT, about_run, check_known, names, threads
from scoring.leave_out_figures import NEVER, OTHER_RUN, PRIOR, SAW, SHIPPED, Asked, Row, make_row
from scoring.leave_out_page import EVERYTHING, Cut, Findings
from scoring.left_out import Course, Crop, Dataset, Plan
from scoring.runs import Key, Result, Store, run
from scoring.seen import account_of

from stimpute.errors import StimputeError
from stimpute.holdout import KINDS
from stimpute.inference.methods import open_method
from stimpute.pretrained.registry import DEFAULT_MODEL, LoadedModel, load_model
from stimpute.protocols import Method
from stimpute.training import TrainProgress

DATASETS = (
    "goes16_lst_southamerica_tropics", "mcd43a4_slovenia", "c3s_sm_combined_monthly_2018", "strbook_sst_anom",
)  # fmt: skip
KINDS_ASKED = ("gap", "pixel", "frames")
PEERS = ("mean", "linear", "dct-pls", "dineof")
STEPS, SEED, CELLS = 400, 1, 50_000
QUICK_STEPS, QUICK_CELLS, QUICK_SHAPES = 2, 2_000, ((1, 4, 12, 12),)


@dataclass(frozen=True)
class Task:
    """What is to be run."""

    datasets: tuple[Dataset, ...]
    kinds: tuple[str, ...]
    steps: int | None
    minutes: float | None
    seed: int
    start: str | None
    model: str
    archives: tuple[Path, ...]
    data: Path
    cells: int
    device: str
    workers: int
    cache: Path
    quick: bool
    fresh: bool

    def plan(self, dataset: Dataset | None) -> Plan:
        """The training without a data set, or with everything."""
        gone = dataset.gone if dataset else ()
        return Plan(
            gone, self.steps, self.minutes, self.seed, self.start, QUICK_SHAPES if self.quick else None
        )

    @property
    def budget(self) -> str:
        """In words."""
        return f"{self.minutes:g} minutes each" if self.steps is None else f"{self.steps:,} steps each"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write."""
    options = _parser().parse_args(arguments)
    try:
        task, partial = _task(options)
        left_out.set_threads(threads())
        weights, courses = train(task)
        rows, cuts, codes = score(task, weights, Store(task.cache / "results"))
        shipped = load_model(task.model)
        account, steps = account_of(shipped), shipped.card.get("training", {}).get("steps")
        findings = Findings(
            rows, courses, {d.name: d.gone for d in task.datasets}, {d.name: account.saw(d.file) for d in task.datasets}, steps, cuts,
            about_run("leave_out", task.model, (task.seed,), partial, arguments), task.budget,
            load_model(task.start).name if task.start else "", public.SHARE, codes,
        )  # fmt: skip
        report(
            findings, options.out or ROOT / ("runs/leave-out-quick" if options.quick else "docs/benchmarks")
        )
    except StimputeError as error:
        print(f"leave_out: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archives", type=Path, default=ROOT / "runs" / "archives", help="folder of the packed archives")  # fmt: skip
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public files")  # fmt: skip
    parser.add_argument(
        "--datasets", type=names, help=f"stems of training files, with commas (default: {','.join(DATASETS)})"
    )
    parser.add_argument(
        "--kinds", type=names, help=f"what is hidden (default: {','.join(KINDS_ASKED)}; with --quick gap)"
    )
    parser.add_argument("--steps", type=int, help=f"of every training run (default: {STEPS}; with --quick {QUICK_STEPS})")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="of every training run, instead of --steps")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of weights, examples and hidden cells (default: {SEED})")  # fmt: skip
    parser.add_argument(
        "--start", help="name or path of a model to go on from that saw none of the data sets"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or path of the shipped model")
    parser.add_argument("--max-cells", type=int, help=f"of a crop, cell-steps (default: {CELLS:,})")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; threads by OMP_NUM_THREADS (default: 1)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, help="further processes that make batches ahead")
    parser.add_argument(
        "--out", type=Path, help="where the page goes (default: docs/benchmarks; with --quick runs/leave-out-quick)"
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="where weights and results are kept (default: runs/leave-out; with --quick runs/leave-out-quick)")  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="train and fill again what is kept")
    parser.add_argument("--quick", action="store_true", help="two steps without one data set, to see that it works")  # fmt: skip
    return parser


def _task(options: argparse.Namespace) -> tuple[Task, list[str]]:
    """What to run, and in words what of the whole is left out."""
    known = left_out.read_datasets()
    wanted = options.datasets or (DATASETS[1:2] if options.quick else DATASETS)
    kinds = options.kinds or (KINDS_ASKED[:1] if options.quick else KINDS_ASKED)
    check_known("--datasets", wanted, list(known))
    check_known("--kinds", kinds, KINDS)
    if options.steps is not None and options.minutes is not None:
        raise StimputeError("--steps and --minutes: one of them is the budget")
    steps = None if options.minutes is not None else (options.steps or (QUICK_STEPS if options.quick else STEPS))  # fmt: skip
    if (steps or options.minutes) <= 0:
        raise StimputeError(f"a budget of {steps or options.minutes:g}: more than 0")
    datasets = tuple(known[name] for name in dict.fromkeys(wanted))
    archives = archive_paths(options.archives)
    left_out.check_archives(archives, datasets)
    left_out.check_start(options.start, datasets)
    load_model(options.model)  # a model that cannot be read is told now
    absent = [d.file for d in datasets if not (options.data / d.file).is_file()]
    if absent:
        raise StimputeError(f"--data {options.data}: no {', '.join(absent)} in it")
    lacking = [name for name in DATASETS if name not in wanted]
    partial = [f"without {', '.join(map(leave_out_page.title, lacking))}"] if lacking else []
    partial += [f"patterns {', '.join(kinds)}"] if set(kinds) < set(KINDS_ASKED) else []
    partial += ["a try on tiny examples (--quick): the figures mean nothing"] if options.quick else []  # fmt: skip
    task = Task(
        datasets, tuple(kinds), steps, options.minutes, options.seed, options.start, options.model, tuple(archives), options.data,
        options.max_cells or (QUICK_CELLS if options.quick else CELLS), options.device, options.workers,
        options.cache or ROOT / "runs" / ("leave-out-quick" if options.quick else "leave-out"), options.quick, options.fresh,
    )  # fmt: skip
    return task, partial


# --- training ---------------------------------------------------------------------------------------------------------


def train(task: Task) -> tuple[dict[str, LoadedModel], dict[str, Course]]:
    """The weights by the data set that they were trained without, or ``EVERYTHING``; and how the runs went."""
    weights, courses = {}, {}
    for dataset in (None, *task.datasets):
        name = dataset.name if dataset else EVERYTHING
        weights[name], courses[name] = left_out.trained(
            task.plan(dataset), task.archives, task.cache / "models", task.device, task.workers, task.fresh, _teller(name)
        )  # fmt: skip
        c = courses[name]
        print(
            f"trained without {name}: {c.archives} archives, {c.steps} steps, {c.minutes:g} min", flush=True
        )
    return weights, courses


def _teller(name: str) -> Callable[[TrainProgress], None]:
    """Says now and then where a training run is."""
    last = [time.monotonic(), 0.0]

    def tell(state: TrainProgress) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            each = state.elapsed / max(state.step, 1)
            print(
                f"  without {name}: step {state.step}, {state.fraction:.0%}, {each:.2f} s per step",
                flush=True,
            )

    return tell


# --- scoring ----------------------------------------------------------------------------------------------------------


def score(
    task: Task, weights: dict[str, LoadedModel], store: Store
) -> tuple[list[Row], list[Cut], list[str]]:
    """One row per data set and pattern, the crops, and the states of the code that the results come from."""
    rows: list[Row] = []
    cuts: list[Cut] = []
    codes: list[str] = []
    for dataset in task.datasets:
        several = left_out.crops(dataset, task.data, task.cells, 1 if task.quick else left_out.CROPS)
        several = several[:1] if task.quick else several
        for crop in several:
            stack = crop.material.stack
            cuts.append(Cut(crop.name, dataset.name, stack.shape, float(stack.gap.mean())))
        for kind in task.kinds:
            asked = [
                (crop, trial)
                for crop in several
                for trial in public.trials(crop.material, (kind,), (task.seed,))  # type: ignore[arg-type]
            ]
            if not asked:
                continue
            answers = {
                name: [_answer(task, store, crop, trial, method, identity, make) for crop, trial in asked]
                for name, (method, identity, make) in _methods(task, dataset, weights).items()
            }
            codes += [r.code for several_results in answers.values() for r in several_results]
            materials = [Asked(crop.material, trial) for crop, trial in asked]
            rows.append(make_row(dataset.name, kind, materials, answers, seed=len(rows)))
            _say(rows[-1])
    return rows, cuts, codes


def _methods(
    task: Task, dataset: Dataset, weights: dict[str, LoadedModel]
) -> dict[str, tuple[str, str, Callable[[], Method]]]:
    """Everything that is compared on a data set: name in the store, what a kept result depends on, how to open it."""

    def network(model: LoadedModel) -> tuple[str, str, Callable[[], Method]]:
        return (
            "st",
            model.sha256[:12],
            lambda: open_method("st", str(model.path), task.device, threads=threads()),
        )

    found = {NEVER: network(weights[dataset.name]), SAW: network(weights[EVERYTHING])}
    for other in task.datasets:
        if other != dataset and dataset.name not in other.gone:
            found[f"{OTHER_RUN}{other.name}"] = network(weights[other.name])
    found[SHIPPED] = network(load_model(task.model))
    found[PRIOR] = ("prior", "-", lambda: left_out.prior_method(task.device, threads()))
    for name in PEERS:
        found[name] = (name, "-", functools.partial(peers.open_peer, name, None))
    return found


def _answer(
    task: Task, store: Store, crop: Crop, trial: public.Trial, method: str, identity: str, make: Callable[[], Method]
) -> Result:  # fmt: skip
    """What a method says, from the store where it has been run before."""
    key = Key(crop.name, crop.digest, trial.kind, trial.seed, method, identity)
    found = None if task.fresh else store.load(key)
    if found is None:
        found = run(crop.material, trial, key, make, uncertainty=False)
        store.save(found)
    return found


def _say(row: Row) -> None:
    told = "  ".join(f"{name} {value:.4f}" for name, value in row.mae.items() if not name.startswith(OTHER_RUN))  # fmt: skip
    print(f"{row.dataset:34s} {row.kind:7s} MAE/sd  {told}  never / saw {row.ratio(SAW)}", flush=True)


# --- reporting --------------------------------------------------------------------------------------------------------


def report(findings: Findings, out: Path) -> None:
    """Page, figures, picture."""
    if not any(np.isfinite(row.error(NEVER)) for row in findings.rows):
        raise StimputeError("nothing was scored")
    out.mkdir(parents=True, exist_ok=True)
    leave_out_page.draw(findings, out / "leave_out.png")
    leave_out_page.write_json(out / "leave_out.json", findings)
    leave_out_page.write_page(out / "leave_out.md", findings, "leave_out.png")
    print(leave_out_page.verdict(findings))
    print(f"written: {out / 'leave_out.md'}")


if __name__ == "__main__":
    sys.exit(main())
