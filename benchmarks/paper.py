#!/usr/bin/env python
"""The study of the ST-Transformer's paper (arXiv 2312.00963) on what can be had here. `python benchmarks/paper.py --quick` first.

Trains the paper's configuration and its ablations for equal times on simulated soil moisture and on Healing MNIST, sets
the shipped model and simple methods beside them, and writes paper.md, paper.json and paper.png to --out
(docs/benchmarks). Models and results are kept one by one under runs/paper, so that a run that was killed goes on.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from scoring import paper_page, trained, worlds
from scoring.paper_page import Errors, Findings, errors_of
from scoring.runs import Key, Result, Store, code_digest
from scoring.seen import training_of
from scoring.trained import Budget, Course, Row

from stimpute import __version__
from stimpute.errors import StimputeError, StimputeWarning
from stimpute.inference.devices import choose_device
from stimpute.inference.engine import fill_source
from stimpute.inference.memory import ArraySink, StackSource
from stimpute.inference.methods import open_method
from stimpute.inference.options import FillOptions
from stimpute.pretrained.registry import DEFAULT_MODEL, LoadedModel, load_model
from stimpute.protocols import Method
from stimpute.stack import Float32Array

ROOT = Path(__file__).resolve().parents[1]
TABLE = Path(__file__).with_suffix(".toml")
MINUTES, QUICK_STEPS = Budget(10.0), Budget(4, "steps")


@dataclass(frozen=True)
class Task:
    """What is to be run."""

    rows: tuple[Row, ...]
    studies: tuple[worlds.Study, ...]
    seeds: tuple[int, ...]
    budget: Budget
    sizes: worlds.Sizes
    batch: int
    digits: Path
    model: str
    device: str
    cache: Path
    fresh: bool = False
    page_only: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write."""
    options = _parser().parse_args(arguments)
    trained.set_threads()
    try:
        task, partial = _task(options)
        scored, courses, failed = measure(task)
        findings = _findings(task, scored, courses, [*partial, *failed], arguments)
        out = options.out or ROOT / ("runs/paper-quick" if options.quick else "docs/benchmarks")
        report(findings, out)
    except StimputeError as error:
        print(f"paper: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(row.name for row in read_rows())
    parser.add_argument("--minutes", type=float, help="of training per network (default: 10)")
    parser.add_argument("--steps", type=int, help="of training per network, instead of minutes")
    parser.add_argument("--seeds", type=_numbers, help="with commas (default: 0,1; with --quick 0)")
    parser.add_argument("--rows", type=_names, help=f"some of {names}")
    parser.add_argument(
        "--studies", type=_names, default=tuple(worlds.HIDDEN), help=f"some of {','.join(worlds.HIDDEN)}"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or path of the pretrained model")
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        help="examples per step (default: 1, for most steps in minutes of a CPU; the paper: 16)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu or cuda; threads by OMP_NUM_THREADS (default: 1)"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the digits"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where the page goes (default: docs/benchmarks; with --quick runs/paper-quick)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="where models and results are kept (default: runs/paper; with --quick runs/paper-quick)",
    )
    parser.add_argument("--fresh", action="store_true", help="train and fill again what is kept")
    parser.add_argument(
        "--page-only", action="store_true", help="write the page from what is kept, run nothing"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny stacks and four steps per network, to see that it works"
    )
    return parser


def _budget(options: argparse.Namespace) -> Budget:
    if options.steps:
        return Budget(options.steps, "steps")
    return Budget(options.minutes) if options.minutes else (QUICK_STEPS if options.quick else MINUTES)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _names(text))


def read_rows(path: Path = TABLE) -> tuple[Row, ...]:
    """The rows of the tables, in their order."""
    return tuple(Row(**row) for row in tomllib.loads(path.read_text(encoding="utf-8"))["row"])


def _task(options: argparse.Namespace) -> tuple[Task, list[str]]:
    """What to run, and in words what of the whole study is left out."""
    rows = read_rows()
    known = [row.name for row in rows]
    for name, given, allowed in (
        ("--rows", options.rows or (), known),
        ("--studies", options.studies, list(worlds.HIDDEN)),
    ):
        for value in given:
            if value not in allowed:
                raise StimputeError(f"{name} {value}: some of {', '.join(allowed)}")
    for name in ("minutes", "steps"):
        given = getattr(options, name)
        if given is not None and given <= 0:
            raise StimputeError(f"--{name} {given:g}: more than 0")
    if options.minutes and options.steps:
        raise StimputeError("--minutes and --steps: one of them")
    if options.batch < 1:
        raise StimputeError(f"--batch {options.batch}: at least 1")
    chosen = tuple(row for row in rows if row.name in (options.rows or known))
    partial = [f"rows {', '.join(row.name for row in chosen)} only"] if len(chosen) < len(rows) else []
    partial += [f"{', '.join(options.studies)} only"] if len(options.studies) < len(worlds.HIDDEN) else []
    partial += ["a try on tiny stacks (--quick): the figures mean nothing"] if options.quick else []
    digits, studies = options.data / worlds.DIGITS_FILE, list(options.studies)
    if "digits" in studies and not digits.is_file():
        studies.remove("digits")
        partial.append("no Healing MNIST: the digits are not in the data folder")
    load_model(options.model)  # a model that cannot be read is told now, not after hours
    if not studies:
        raise StimputeError(f"nothing to run: no {worlds.DIGITS_FILE} in {options.data}")
    task = Task(
        chosen, tuple(studies), options.seeds or ((0,) if options.quick else (0, 1)),
        _budget(options), worlds.QUICK if options.quick else worlds.Sizes(),
        options.batch, digits, options.model, options.device,
        options.cache or ROOT / "runs" / ("paper-quick" if options.quick else "paper"), options.fresh, options.page_only,
    )  # fmt: skip
    return task, partial


# --- measuring --------------------------------------------------------------------------------------------------------

Scored = dict[str, dict[str, dict[str, list[Errors]]]]
Courses = dict[str, dict[str, list[Course]]]


def measure(task: Task) -> tuple[Scored, Courses, list[str]]:
    """Train and fill whatever is not kept, seed by seed, so that the first seed is complete before the second begins.

    A row that fails is told at the end and left out; nothing is kept of it, so that the next run tries it again.
    """
    store = Store(task.cache)
    scored: Scored = {s: {h: {} for h in worlds.HIDDEN[s]} for s in task.studies}
    courses: Courses = {s: {} for s in task.studies}
    failed = []
    for seed in task.seeds:
        for study in task.studies:
            for row in (r for r in task.rows if study in r.studies):
                try:
                    found = _row(task, store, study, row, seed)
                except (StimputeError, RuntimeError) as error:  # linear algebra that does not converge is one
                    failed.append(
                        f"{row.label} ({study}, seed {seed}) failed: {str(error).splitlines()[0].rstrip('.')}"
                    )
                    print(f"  {failed[-1]}", file=sys.stderr, flush=True)
                    continue
                if found is None:
                    continue
                errors, course = found
                for hidden, one in errors.items():
                    scored[study][hidden].setdefault(row.name, []).append(one)
                if course is not None:
                    courses[study].setdefault(row.name, []).append(course)
    return scored, courses, failed


def _row(
    task: Task, store: Store, study: worlds.Study, row: Row, seed: int
) -> tuple[dict[str, Errors], Course | None] | None:
    """One row with one seed; None where only kept results are wanted and some are not there."""
    model, course = _model(task, study, row, seed)
    if row.kind == "trained" and model is None:
        return None
    identity = "-" if model is None else model.sha256[:12]
    errors = {}
    for hidden in worlds.HIDDEN[study]:
        key = Key(study, task.sizes.digest, hidden, seed, row.name, identity)
        questions = list(_questions(task, study, row, hidden, seed))
        result = None if task.fresh else store.load(key)
        if result is None:
            if task.page_only:
                return None
            result = _answer(study, questions, _method(task, study, row, model), key)
            store.save(result)
            _say(result, questions)
        truth = np.concatenate([q.truth for q in questions])
        errors[hidden] = errors_of(truth, result.mean, result.seconds, result.code)
    return errors, course


def _model(task: Task, study: worlds.Study, row: Row, seed: int) -> tuple[LoadedModel | None, Course | None]:
    """The network of a row, if it has one, trained if need be."""
    if row.kind == "simple":
        return None, None
    if row.kind == "pretrained":
        return load_model(task.model), None
    plan = trained.Plan(study, row, seed, task.budget, task.sizes, task.batch, task.digits)
    folder = task.cache / "models"
    if task.page_only and not (folder / f"{plan.stem}.safetensors").exists():
        return None, None
    return trained.trained(plan, folder, task.device, task.fresh, lambda line: print(line, flush=True))


def _questions(
    task: Task, study: worlds.Study, row: Row, hidden: str, seed: int
) -> Iterator[worlds.Question]:
    """What a row is asked, with the covariates that it may see."""
    if study == "digits":
        yield from worlds.digit_questions(worlds.read_digits(task.digits), task.sizes, hidden, seed)
    else:
        asked = worlds.soil_question(task.sizes, hidden, seed)
        yield worlds.Question(worlds.with_covariates(asked.stack, row.covariates), asked.wanted, asked.truth)


def _method(task: Task, study: worlds.Study, row: Row, model: LoadedModel | None) -> Method:
    if model is None:
        return open_method(row.name)
    if row.kind == "trained" and study == "soil_moisture":
        return trained.InWindows(model, task.device)
    return open_method("st", str(model.path), task.device, threads=int(os.environ["OMP_NUM_THREADS"]))


def _answer(study: worlds.Study, questions: Sequence[worlds.Question], method: Method, key: Key) -> Result:
    """What a method says at the wanted cells of all questions: soil moisture through the engine, digits one by one."""
    started = time.perf_counter()
    if study == "soil_moisture":
        said = [_filled(question, method, key.seed) for question in questions]
    else:
        said = [method.prepare(q.stack).impute(q.stack).mean[q.wanted] for q in questions]
    mean = np.concatenate(said)
    return Result(
        key, mean, np.full_like(mean, np.nan), time.perf_counter() - started, True, code=code_digest()
    )


def _filled(question: worlds.Question, method: Method, seed: int) -> Float32Array:
    source = StackSource(question.stack)
    source.layers = (worlds.layer_of(question.stack),)
    sink = ArraySink(question.stack.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        fill_source(source, sink, method, FillOptions(fill_never_observed=True, uncertainty=False, seed=seed))
    return sink.values[question.wanted]


def _say(result: Result, questions: Sequence[worlds.Question]) -> None:
    e = errors_of(np.concatenate([q.truth for q in questions]), result.mean, result.seconds)
    key = result.key
    print(f"{key.case:14s} {key.method:14s} seed {key.seed}  {key.kind:7s} {result.seconds:7.1f} s  MAE {e.mae:.4f}  RMSE {e.rmse:.4f}", flush=True)  # fmt: skip


# --- reporting --------------------------------------------------------------------------------------------------------


def _findings(
    task: Task, scored: Scored, courses: Courses, partial: list[str], arguments: Sequence[str] | None
) -> Findings:
    scored = {s: {h: r for h, r in kinds.items() if r} for s, kinds in scored.items()}
    scored = {s: kinds for s, kinds in scored.items() if kinds}
    if not scored:
        raise StimputeError("nothing was scored")
    absent = _absent(task, scored)
    partial = [*partial, f"without all seeds: {', '.join(absent)}"] if absent else partial
    return Findings(
        task.rows, task.seeds, str(task.budget), scored, {s: c for s, c in courses.items() if c}, _about(task, arguments), partial
    )  # fmt: skip


def _absent(task: Task, scored: Scored) -> list[str]:
    """Rows that lack a seed."""
    return [
        f"{row.label} ({study})"
        for study in task.studies
        for row in task.rows
        if study in row.studies
        and any(
            len(scored.get(study, {}).get(h, {}).get(row.name, ())) < len(task.seeds)
            for h in worlds.HIDDEN[study]
        )
    ]


def _about(task: Task, arguments: Sequence[str] | None) -> dict[str, object]:
    model = load_model(task.model)
    given = list(sys.argv[1:] if arguments is None else arguments)
    shown = [Path(a).name if os.path.isabs(a) else a for a in given]  # paths of one machine stay there
    device = choose_device(task.device)
    threads = os.environ["OMP_NUM_THREADS"]
    plan = trained.Plan("soil_moisture", task.rows[0], 0, task.budget, task.sizes)
    return {
        "command": " ".join(["python benchmarks/paper.py", *shown]),
        "model": model.name, "sha256": model.sha256, "training": training_of(model.card),
        "device": f"{threads} thread{'s' if threads != '1' else ''} of a CPU" if device.type == "cpu" else device.type,
        "versions": {"stimpute": __version__, "Python": platform.python_version()}
        | {n: importlib.metadata.version(n) for n in ("torch", "numpy", "scipy")},
        "sizes": asdict(task.sizes), "window": list(plan.window), "batch": task.batch,
    }  # fmt: skip


def report(findings: Findings, out: Path) -> None:
    """Page, figures, picture."""
    out.mkdir(parents=True, exist_ok=True)
    paper_page.draw(findings, out / "paper.png")
    paper_page.write_json(out / "paper.json", findings)
    paper_page.write_page(out / "paper.md", findings, "paper.png")
    print(paper_page.verdict(findings))
    print(f"written: {out / 'paper.md'}")


if __name__ == "__main__":
    sys.exit(main())
