#!/usr/bin/env python
"""Every method on every public case: tables, figures and pictures of skill. `python benchmarks/skill.py --quick` first.

Writes skill.md, skill.json, skill_heat.png, skill_maps.png and skill_calibration.png to --out (docs/benchmarks). Results
are kept one by one under runs/skill, so that a run that was killed goes on where it stopped, and a run with another model
computes that model's rows only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from scoring import cases as public
from scoring import pages, peers, pictures, seen
from scoring.figures import Entry, Row, make_row, score
from scoring.runs import Key, Result, Store, code_digest, run, skipped

from stimpute import __version__
from stimpute.errors import StimputeError
from stimpute.holdout import KINDS
from stimpute.pretrained.registry import DEFAULT_MODEL, load_model

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("gapfill_ndvi", "landsat_cell", "alboran_frame", "gabon_corner")
MAPS = (("gabon_ndvi", "gap"), ("stpetersburg_lst", "frames"), ("gom_chl", "gap"), ("gabon_corner", "gap"), ("gapfill_ndvi", "gap"))  # fmt: skip
PUBLISHED = public.PUBLISHED_CASE.name
NO_FILE = "the file is not in the data folder"


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    cases: tuple[public.Case, ...]
    kinds: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    model: str | None
    data: Path
    published: bool
    kriging_cells: int
    deadline: float  # of time.monotonic()
    account: seen.Account
    fresh: bool = False
    current_code: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write."""
    options = _parser().parse_args(arguments)
    try:
        plan, partial = _plan(options)
        rows, published, maps, left = measure(plan, Store(options.cache))
        if not rows and not published:
            raise StimputeError("nothing was scored: no case, pattern and method are left")
        partial += [f"{left} runs were not made within --minutes {options.minutes:g}"] if left else []
        report(plan, rows, published, maps, options.out or _out(options.quick), "; ".join(partial), arguments)
    except StimputeError as error:
        print(f"skill: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public files")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="where the page goes (default: docs/benchmarks; with --quick runs/quick)"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / "runs" / "skill", help="where results are kept")
    parser.add_argument(
        "--cases", type=_names, help=f"names from cases.toml and {PUBLISHED}, with commas (default: all)"
    )
    parser.add_argument("--kinds", type=_names, help=f"some of {','.join(KINDS)}")
    parser.add_argument("--methods", type=_names, help=f"some of {','.join(peers.names())}")
    parser.add_argument("--seeds", type=_numbers, default=(0,), help="seeds of the patterns (default: 0)")
    parser.add_argument("--model", help="name or path of the model of st (default: the shipped one)")
    parser.add_argument("--max-cells", type=int, help="leave out cases of more cell-steps")
    parser.add_argument("--kriging-cells", type=int, default=peers.KRIGING_CELLS, help="no kriging above")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no new run after")
    parser.add_argument("--no-published", action="store_true", help="leave out the published fills")
    parser.add_argument("--fresh", action="store_true", help="ignore results kept earlier")
    parser.add_argument(
        "--current-code", action="store_true", help="keep no result of another state of the code"
    )
    parser.add_argument("--quick", action="store_true", help="four small cases, one pattern, under a minute")
    return parser


def _out(quick: bool) -> Path:
    """The committed page is not overwritten by a try."""
    return ROOT / "runs" / "quick" if quick else ROOT / "docs" / "benchmarks"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _names(text))


def _plan(options: argparse.Namespace) -> tuple[Plan, list[str]]:
    """What to run, and in words what of the whole benchmark is left out."""
    account = seen.account_of(load_model(options.model or DEFAULT_MODEL))
    table = {case.name: case for case in seen.marked(public.read_table(), account)}
    wanted = options.cases or (QUICK if options.quick else tuple(table))
    kinds = options.kinds or (("gap",) if options.quick else KINDS)
    methods = options.methods or peers.names()
    for given, known, name in (
        (wanted, [*table, PUBLISHED], "--cases"), (kinds, KINDS, "--kinds"), (methods, peers.names(), "--methods"),
    ):  # fmt: skip
        for value in given:
            if value not in known:
                raise StimputeError(f"{name} {value}: some of {', '.join(known)}")
    if not options.data.is_dir():
        raise StimputeError(f"--data {options.data}: no such folder")
    chosen = [table[name] for name in wanted if name != PUBLISHED]
    partial = [] if len(chosen) == len(table) else [f"{len(chosen)} of {len(table)} cases"]
    partial += [] if len(kinds) == len(KINDS) else [f"patterns {', '.join(kinds)}"]
    partial += [] if len(methods) == len(peers.names()) else [f"methods {', '.join(methods)}"]
    present = [case for case in chosen if (options.data / case.file).is_file()]
    partial += [f"{case.name}: {NO_FILE}" for case in chosen if case not in present]
    if options.max_cells:
        small = [
            c for c in present if public.read_case(c, options.data).stack.values.size <= options.max_cells
        ]
        partial += [f"cases of at most {options.max_cells:,} cell-steps"] if len(small) < len(present) else []
        present = small
    published = PUBLISHED in wanted or not (options.cases or options.quick or options.max_cells)
    published &= not options.no_published
    plan = Plan(
        tuple(present), tuple(kinds), tuple(methods), options.seeds, options.model, options.data,
        published and (options.data / public.PUBLISHED_FILE).is_file(), options.kriging_cells,
        time.monotonic() + 60 * options.minutes, account, options.fresh, options.current_code,
    )  # fmt: skip
    return plan, partial


def measure(plan: Plan, store: Store) -> tuple[list[Row], list[Row], list[pictures.ErrorMaps], int]:
    """Rows of the cases, rows of the published frame, maps of error, and how many runs the clock did not allow."""
    rows, maps, left = [], [], 0
    identities = {name: peers.identity(name, plan.model) for name in plan.methods}
    for case in plan.cases:
        material = public.read_case(case, plan.data)
        kinds = tuple(kind for kind in case.kinds if kind in plan.kinds)
        several = list(public.trials(material, kinds, plan.seeds))
        for kind in dict.fromkeys(t.kind for t in several):
            chosen = [t for t in several if t.kind == kind]
            results, missed = _results(plan, store, case, material, chosen, identities)
            left += missed
            rows.append(make_row(case, material, kind, chosen, results))
            if (case.name, kind) in MAPS:
                maps.append(_maps(case, material, chosen, results))
    published, missed = _published(plan, store, identities) if plan.published else ([], 0)
    return rows, published, maps, left + missed


def _results(
    plan: Plan,
    store: Store,
    case: public.Case,
    material: public.Material,
    trials: Sequence[public.Trial],
    identities: dict[str, str],
) -> tuple[dict[str, list[Result]], int]:
    """Every method on every trial, from the store where it has been run before."""
    results: dict[str, list[Result]] = {}
    left = 0
    for method in plan.methods:
        results[method] = []
        for trial in trials:
            key = Key(case.name, case.digest, trial.kind, trial.seed, method, identities[method])
            found = None if plan.fresh else store.load(key)
            if found is not None and plan.current_code and found.code != code_digest():
                found = None
            if found is None:
                found = _new_result(plan, material, trial, key)
                if found is None:
                    left += 1
                    found = skipped(key, "not run yet")
                else:
                    store.save(found)
                    _say(found, material, trial)
            results[method].append(found)
    return results, left


def _new_result(plan: Plan, material: public.Material, trial: public.Trial, key: Key) -> Result | None:
    """A run; None where the clock does not allow one."""
    reason = peers.why_not(key.method, material.stack, plan.kriging_cells)
    if reason:
        return skipped(key, reason)
    if time.monotonic() > plan.deadline:
        return None
    return run(material, trial, key, lambda: peers.open_peer(key.method, plan.model))


def _say(result: Result, material: public.Material, trial: public.Trial) -> None:
    key = result.key
    what = result.note
    if result.done:
        mae = score(material.stack.values[trial.held_out], result.mean).mae
        what = f"MAE {mae:.4g} (sd {material.spread:.4g})"
    print(f"{key.case:18s} {key.kind:7s} {key.seed} {key.method:14s} {result.seconds:7.1f} s  {what}", flush=True)  # fmt: skip


def _maps(
    case: public.Case,
    material: public.Material,
    trials: Sequence[public.Trial],
    results: dict[str, list[Result]],
) -> pictures.ErrorMaps:
    """Mean absolute error over the steps of all trials, per method, in standard deviations."""
    maps, mae = {}, {}
    for method, several in results.items():
        if not all(r.done for r in several):
            continue
        total, count = np.zeros(material.stack.shape[1:]), np.zeros(material.stack.shape[1:])
        for trial, result in zip(trials, several, strict=True):
            error = np.zeros(material.stack.shape, dtype=np.float32)
            error[trial.held_out] = np.nan_to_num(np.abs(result.mean - material.stack.values[trial.held_out]))
            said = np.zeros(material.stack.shape, dtype=bool)
            said[trial.held_out] = np.isfinite(result.mean)
            total += error.sum(axis=0)
            count += said.sum(axis=0)
        if count.any():
            mean = total / np.maximum(count, 1) / material.spread
            maps[method] = np.where(count > 0, mean, np.nan).astype(np.float32)
            mae[method] = float(total.sum() / count.sum() / material.spread)
    return pictures.ErrorMaps(case.name, trials[0].kind, material.stack.grid, maps, mae)


def _published(plan: Plan, store: Store, identities: dict[str, str]) -> tuple[list[Row], int]:
    """The published fills of one frame beside ours, one row per cloud."""
    material, trials, answers = public.read_published(plan.data)
    (case,) = seen.marked([public.PUBLISHED_CASE], plan.account)
    rows, left = [], 0
    for trial in trials:
        results, missed = _results(plan, store, case, material, [trial], identities)
        left += missed
        for (kind, name), values in answers.items():
            if kind == trial.kind:
                key = Key(public.PUBLISHED_CASE.name, "-", kind, 0, f"{name} (published)", "-")
                results[key.method] = [Result(key, values, np.full_like(values, np.nan), float("nan"), True)]
        rows.append(make_row(case, material, trial.kind, [trial], results))
    return rows, left


def report(
    plan: Plan,
    rows: Sequence[Row],
    published: Sequence[Row],
    maps: Sequence[pictures.ErrorMaps],
    out: Path,
    partial: str,
    arguments: Sequence[str] | None,
) -> None:
    """Page, figures, pictures."""
    out.mkdir(parents=True, exist_ok=True)
    figures = []
    scored = [m for m in plan.methods if any(_scored(r.entries.get(m)) for r in rows)]
    if rows:
        pictures.draw_heat(rows, scored, out / "skill_heat.png")
        figures.append("skill_heat.png")
    order = {pair: i for i, pair in enumerate(MAPS)}
    chosen = sorted((m for m in maps if m.maps), key=lambda m: order[m.case, m.kind])[:2]
    if chosen:
        pictures.draw_error_maps(chosen, out / "skill_maps.png")
        figures.append("skill_maps.png")
    if rows:
        pictures.draw_calibration(rows, scored, out / "skill_calibration.png")
        figures.append("skill_calibration.png")
    about = _about(plan, partial, figures, arguments)
    pages.write_json(out / "skill.json", about, rows, published, plan.cases)
    pages.write_page(out / "skill.md", about, rows, published, plan.cases)
    print("\n".join(_closing(rows, out)))


def _scored(entry: Entry | None) -> bool:
    return entry is not None and entry.n > 0


def _about(plan: Plan, partial: str, figures: Sequence[str], arguments: Sequence[str] | None) -> pages.About:
    model = load_model(plan.model or DEFAULT_MODEL)
    given = list(sys.argv[1:] if arguments is None else arguments)
    shown = [Path(a).name if os.path.isabs(a) else a for a in given]  # paths of one machine stay there
    libraries = ("torch", "numpy", "rasterio")
    return pages.About(
        model.name, model.sha256, seen.training_of(model.card), plan.seeds,
        " ".join(["python benchmarks/skill.py", *shown]),
        {"stimpute": __version__, "Python": platform.python_version()} | {n: importlib.metadata.version(n) for n in libraries},
        partial, figures, plan.account.told,
    )  # fmt: skip


def _closing(rows: Sequence[Row], out: Path) -> Iterator[str]:
    from scoring.figures import summarise

    for title, chosen in (
        ("judging", [r for r in rows if r.judges]),
        ("trained", [r for r in rows if not r.judges]),
    ):
        for method in pages.methods_of(chosen):
            s = summarise(chosen, method)
            if s:
                yield f"{title:8s} {method:14s} MAE / best other {s.ratio:.3f}, {s.won:.0%} of {s.rows} rows at most 1, worst {s.worst:.2f} ({s.worst_at})"
    yield f"written: {out / 'skill.md'}"


if __name__ == "__main__":
    sys.exit(main())
