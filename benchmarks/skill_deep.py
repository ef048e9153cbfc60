#!/usr/bin/env python
"""Networks trained on each stack (PyPOTS: SAITS, ImputeFormer, CSDI) against the pretrained model, on 32 x 32 cells of each.

Needs an environment of its own: stimpute and benchmarks/requirements.txt. Every network has --minutes per stack or stops
early; every method is scored on the same hidden cells of the same crop. Writes skill_deep.md and skill_deep.json; results
are kept under runs/skill_deep, so that a killed run goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from scoring import cases as public
from scoring import deep, pages, peers, seen
from scoring.figures import Row, make_row, score
from scoring.runs import Key, Store, run

from stimpute import __version__
from stimpute.errors import StimputeError
from stimpute.evaluation.scoreboard import crop_to
from stimpute.pretrained.registry import DEFAULT_MODEL, load_model
from stimpute.protocols import Method, Window

ROOT = Path(__file__).resolve().parents[1]
SIDE, STEPS = 32, 240  # of a crop: cells, and steps at most (the last ones)
LEAST = (4, 12, 12)  # a stack must have to be one


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "skill_deep")
    parser.add_argument("--cases", help="names from cases.toml, with commas (default: all that judge)")
    parser.add_argument("--kind", default="gap", help="the pattern of what is hidden (default: gap)")
    parser.add_argument("--methods", default=",".join((*peers.names(), *deep.NAMES)))
    parser.add_argument("--model", help="name or path of the model of st")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training per network and stack")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("pypots") is None:
        print(
            "skill_deep: skipped, PyPOTS is not installed (pip install -r benchmarks/requirements.txt)",
            file=sys.stderr,
        )
        return 0
    try:
        rows, chosen = measure(options)
        report(options, rows, chosen, list(sys.argv[1:] if arguments is None else arguments))
    except StimputeError as error:
        print(f"skill_deep: {error}", file=sys.stderr)
        return 1
    return 0


def measure(options: argparse.Namespace) -> tuple[list[Row], list[public.Case]]:
    """One row per stack."""
    account = seen.account_of(load_model(options.model or DEFAULT_MODEL))
    table = seen.marked([c for c in public.read_table() if c.judges], account)
    wanted = options.cases.split(",") if options.cases else [c.name for c in table]
    if unknown := [name for name in wanted if name not in {c.name for c in table}]:
        raise StimputeError(
            f"--cases {','.join(unknown)}: some of {', '.join(c.name for c in table)} (files that judge)"
        )
    store, rows, chosen = Store(options.cache), [], []
    for case in table:
        if case.name not in wanted:
            continue
        whole = public.read_case(case, options.data)
        if any(size < least for size, least in zip(whole.stack.shape, LEAST, strict=True)):
            print(f"{case.name}: {whole.stack.shape} is too small for tiles of {deep.TILE} cells")
            continue
        cropped, material = crop(case, whole)
        trials = list(public.trials(material, (options.kind,), (0,)))
        results = {}
        for name in options.methods.split(",") if trials else []:
            budget = f"{options.minutes:g}min" if name in deep.NAMES else peers.identity(name, options.model)
            key = Key(case.name, cropped.digest, options.kind, 0, name, budget)
            result = store.load(key)
            if result is None:
                result = run(material, trials[0], key, lambda name=name: make(name, options))
                store.save(result)
                said = result.note or score(material.stack.values[trials[0].held_out], result.mean).mae
                print(f"{case.name:18s} {name:14s} {result.seconds:7.1f} s  {said}", flush=True)
            results[name] = [result]
        if results:
            rows.append(make_row(cropped, material, options.kind, trials, results))
            chosen.append(cropped)
    return rows, chosen


def make(name: str, options: argparse.Namespace) -> Method:
    """A network to be trained, or a method of `skill.py`."""
    if name in deep.NAMES:
        return deep.DeepMethod(name, options.minutes)
    return peers.open_peer(name, options.model)


def crop(case: public.Case, whole: public.Material) -> tuple[public.Case, public.Material]:
    """The 32 x 32 cells of a case with most ever-observed ones, and its last steps."""
    steps = min(whole.stack.shape[0], STEPS)
    stack = whole.stack.window(slice(whole.stack.shape[0] - steps, None), slice(None), slice(None))
    window: Window = crop_to(stack.valid.any(axis=0), steps, steps * SIDE * SIDE)
    inside = stack.window(*window.slices)
    origin = [0 if r is None else r[0] for r in (case.time, case.y, case.x)]
    origin[0] += whole.stack.shape[0] - steps
    ranges = (window.time, window.y, window.x)
    time, y, x = ((o + a, o + b) for o, (a, b) in zip(origin, ranges, strict=True))
    layer = dataclasses.replace(whole.layer, shape=inside.shape)
    return dataclasses.replace(case, time=time, y=y, x=x), public.Material(inside, layer)


def report(
    options: argparse.Namespace, rows: Sequence[Row], cases: Sequence[public.Case], given: Sequence[str]
) -> None:
    """Page and figures."""
    if not rows:
        raise StimputeError("nothing was scored")
    options.out.mkdir(parents=True, exist_ok=True)
    model = load_model(options.model or DEFAULT_MODEL)
    shown = [Path(a).name if os.path.isabs(a) else a for a in given]
    about = pages.About(
        model.name, model.sha256, seen.training_of(model.card), (0,),
        " ".join(["python benchmarks/skill_deep.py", *shown]),
        {"stimpute": __version__, "Python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("torch", "numpy", "pypots")},
        f"crops of {SIDE} x {SIDE} cells and at most {STEPS} steps, pattern {options.kind}; "
        f"{', '.join(n for n in options.methods.split(',') if n in deep.NAMES)} trained on each crop for {options.minutes:g} minutes or until they stop improving",
        seen=seen.account_of(model).told,
    )  # fmt: skip
    pages.write_json(options.out / "skill_deep.json", about, rows, [], cases)
    pages.write_page(
        options.out / "skill_deep.md", about, rows, [], cases, "Skill against networks trained on the stack"
    )
    print(f"written: {options.out / 'skill_deep.md'}")


if __name__ == "__main__":
    sys.exit(main())
