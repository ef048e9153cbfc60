#!/usr/bin/env python
"""Completing and refining by 4, side by side on coarsened, hidden stacks. `python benchmarks/reconstruct.py --quick` first.

Simulated worlds that no training saw, and complete fields (ERA5 temperature, sea surface temperature, daily maximum
temperature) are coarsened by block means; 20 to 80 % of the coarse cells are hidden at fixed places or at random, or one
quarter of the area; all fine cells are scored. The shipped network stands beside interpolation, kriging and
`fill`. What its parts are worth is measured by `benchmarks/reconstruct_ablations.py`.

Methods that end in `+archive` are also told by a fine archive of the same place: the last 70 % of a field's steps (what is refined
are its first 24), and 40 later steps of a simulated world of 64.

Writes reconstruct.md, reconstruct.json and reconstruct.png to --out (docs/benchmarks). Results are kept one by one under
runs/reconstruct, so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from scoring.command import names

from stimpute import __version__, io
from stimpute.api.refining import refiner_maker
from stimpute.errors import StimputeError, StimputeWarning
from stimpute.evaluation.refining import HIDINGS, RefiningCase, evaluate_refining
from stimpute.inference.beside_archive import BesideArchive
from stimpute.inference.methods import default_reconstructor
from stimpute.pretrained.registry import load_model, load_reconstructor
from stimpute.protocols import Refiner, Window
from stimpute.stack import Stack
from stimpute.synthetic import sample_worlds

ROOT = Path(__file__).resolve().parents[1]
FACTOR = 4
FIELDS = {  # name -> file, variable, steps, rows, columns
    "era5_t2m": ("complete_fields/era5_t2m_uk_201903.nc", (), (0, 24), (0, 32), (0, 48)),
    "pacific_sst": ("complete_fields/pacificSST.nc", (), (0, 24), (0, 28), (0, 56)),
    "tasmax": ("complete_fields/tasmax_day_CanESM2_365day.nc", ("tasmax",), (0, 24), (0, 36), (0, 36)),
}
WORLD_SEED = 777_000  # far from every seed that trains
WORLDS, WORLD_SHAPE = 6, (16, 48, 48)
SHARES = (0.2, 0.4, 0.6, 0.8)
ARCHIVE_FROM = 0.3  # of a field's steps, where its archive begins
WORLD_STEPS = 64  # of a world that has an archive
BESIDE, COVERED = "+archive", "worlds+covariates"
DRAWN = 3  # rows of the picture
BASELINES = ("linear+bilinear", "linear+cubic", "kriging+cubic", "st+cubic", "st")
ARCHIVED = ("st+cubic+archive", "st+archive", "diffrecon+archive")


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    stacks: tuple[str, ...]
    shares: tuple[float, ...]
    hidings: tuple[str, ...]
    methods: tuple[str, ...]
    samples: int
    steps: int  # of the training of a network that is not shipped
    worlds: int
    data: Path
    cache: Path
    model: str | None
    deadline: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write."""
    options = _parser().parse_args(arguments)
    quick = options.quick
    plan = Plan(
        options.stacks or (("worlds",) if quick else ("worlds", COVERED, "worlds+archive", *FIELDS)),
        (0.4,) if quick else options.shares or SHARES,
        options.hidings or HIDINGS,
        options.methods or (("linear+cubic", "st", "diffrecon") if quick else (*BASELINES, "diffrecon", *ARCHIVED)),
        4 if quick else options.samples, 0, 1 if quick else options.worlds, options.data,
        options.cache, options.model, time.monotonic() + 60 * options.minutes,
    )  # fmt: skip
    out = options.out or (ROOT / "runs" / "quick" if quick else ROOT / "docs" / "benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    try:
        rows, left = measure(plan)
        write_page(plan, rows, left, out, sys.argv[1:] if arguments is None else list(arguments))
        draw(plan, out / "reconstruct.png")
    except StimputeError as error:
        print(f"reconstruct: {error}", file=sys.stderr)
        return 1
    print(out / "reconstruct.md")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public files"
    )
    parser.add_argument(
        "--out", type=Path, help="where the page goes (default: docs/benchmarks; with --quick runs/quick)"
    )
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "runs" / "reconstruct", help="where results are kept"
    )
    parser.add_argument(
        "--stacks", type=names, help=f"some of worlds,worlds+covariates,worlds+archive,{','.join(FIELDS)}"
    )
    parser.add_argument(
        "--methods",
        type=names,
        help=f"some of {','.join(BASELINES)},diffrecon,{','.join(ARCHIVED)}",
    )
    parser.add_argument(
        "--shares", type=shares, help="of the coarse cells hidden, with commas (default: 0.2,0.4,0.6,0.8)"
    )
    parser.add_argument("--hidings", type=names, help="some of fixed,random,quarter (default: all)")
    parser.add_argument("--samples", type=int, default=8, help="members of an ensemble")
    parser.add_argument("--worlds", type=int, default=WORLDS, help="how many simulated worlds")
    parser.add_argument("--model", help="name or path of the model of diffrecon (default: the shipped one)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no new run after")
    parser.add_argument("--quick", action="store_true", help="one world, one share, under a minute")
    return parser


def shares(text: str) -> tuple[float, ...]:
    """``0.4,0.8``."""
    return tuple(float(part) for part in names(text))


# --- stacks ---------------------------------------------------------------------------------------------------------


def stacks_of(name: str, plan: Plan) -> list[Stack]:
    """The fine stacks of a name; several for worlds."""
    if name == "worlds+archive":
        return [long_world(number)[0] for number in range(plan.worlds)]
    if name not in FIELDS:
        return [world(number, name == COVERED) for number in range(plan.worlds)]
    part = field(name, plan, lambda steps: FIELDS[name][2])
    return [] if part is None else [part]


def field(name: str, plan: Plan, steps: Callable[[int], tuple[int, int]]) -> Stack | None:
    """The cells of a field at some of the steps that it has; None where the file is not there."""
    file, variables, _, rows, cols = FIELDS[name]
    path = plan.data / file
    if not path.exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StimputeWarning)
        with io.open_source(path, io.ReadOptions(variables=variables)) as source:
            return source.read(Window(steps(source.layers[0].shape[0]), rows, cols), 0)


def archive_of(name: str, number: int, plan: Plan) -> Stack | None:
    """Other times of a stack's place; None where there are none."""
    if name == "worlds+archive":
        return long_world(number)[1]
    return field(name, plan, lambda steps: (round(ARCHIVE_FROM * steps), steps)) if name in FIELDS else None


def long_world(number: int) -> tuple[Stack, Stack]:
    """The first steps of a longer world, and its last."""
    whole = world(number, False, WORLD_STEPS)
    first, last = slice(0, WORLD_SHAPE[0]), slice(WORLD_STEPS - 40, WORLD_STEPS)
    return tuple(whole.window(steps, slice(None), slice(None)) for steps in (first, last))  # type: ignore[return-value]


def world(number: int, covariates: bool, steps: int | None = None) -> Stack:
    """One simulated world as a stack without gaps."""
    generator = torch.Generator().manual_seed(WORLD_SEED + number)
    made = sample_worlds(generator, 1, (steps or WORLD_SHAPE[0], *WORLD_SHAPE[1:]))
    dynamic, static = {}, {}
    if covariates:
        for kind, target in (("dynamic", dynamic), ("static", static)):
            fields, known = getattr(made, kind)[0].numpy(), getattr(made, f"{kind}_valid")[0].numpy()
            for i in range(len(fields)):
                if known[i].any():
                    target[f"{kind}{i}"] = np.where(known[i], fields[i], np.float32(np.nan))
    return Stack.from_array(
        made.truth[0].numpy(), times=made.times[0].numpy(), year_phase=made.year_phase[0].numpy(),
        day_phase=made.day_phase[0].numpy(), dynamic=dynamic, static=static,
    )  # fmt: skip


def cases_of(plan: Plan) -> list[RefiningCase]:
    """What is hidden."""
    shared = [
        RefiningCase(kind, share) for kind in plan.hidings if kind != "quarter" for share in plan.shares
    ]
    return shared + [RefiningCase("quarter")] * ("quarter" in plan.hidings)


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(
    plan: Plan, makers: Mapping[str, Callable[[], Refiner]] | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Every method on every stack and case, from the cache where it is; and how many runs the deadline left out.

    ``makers`` opens methods that have no name of their own: networks trained for ``plan.steps``.
    """
    plan.cache.mkdir(parents=True, exist_ok=True)
    store = plan.cache / "rows.jsonl"
    kept = {}
    if store.exists():
        for line in store.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            kept[row["key"]] = row
    makers = makers or {name: maker(name, plan) for name in plan.methods}
    rows, left = [], 0
    for name in plan.stacks:
        for number, stack in enumerate(stacks_of(name, plan)):
            archive = archive_of(name, number, plan)
            for case in cases_of(plan):
                for method in plan.methods:
                    if method.endswith(BESIDE) and archive is None:
                        continue
                    key = f"{name}/{number}/{case.label}/{method}/{plan.samples}/{identity(method, plan)}"
                    if key not in kept:
                        if time.monotonic() > plan.deadline:
                            left += 1
                            continue
                        board = evaluate_refining(
                            stack,
                            name,
                            "",
                            FACTOR,
                            [(method, beside(makers[method], method, archive))],
                            [case],
                            samples=plan.samples,
                        )
                        row = {
                            "key": key,
                            "stack": name,
                            "number": number,
                            **board.to_dict()["rows"][0],
                            "spread": board.spread,
                        }
                        with store.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(row) + "\n")
                        kept[key] = row
                        print(f"{key}: {row['scores'] and row['scores']['mae']}", file=sys.stderr)
                    rows.append(kept[key])
    return rows, left


def beside(make: Callable[[], Refiner], method: str, archive: Stack | None) -> Callable[[], Refiner]:
    """What opens a method, told by an archive if its name says so."""
    if archive is None or not method.endswith(BESIDE):
        return make
    return lambda: BesideArchive(make(), archive)


def identity(method: str, plan: Plan) -> str:
    """What else a result depends on: the weights."""
    method = method.removesuffix(BESIDE)
    if method == "diffrecon":
        return load_reconstructor(plan.model or default_reconstructor(FACTOR)).sha256[:12]
    if method == "st" or method.startswith("st+"):
        return load_model().sha256[:12]
    return str(plan.steps) if plan.steps else __version__


def maker(method: str, plan: Plan) -> Callable[[], Refiner]:
    """What opens a method."""
    method = method.removesuffix(BESIDE)
    return refiner_maker(method, FACTOR, plan.model if method == "diffrecon" else None, "cpu")


# --- the page -------------------------------------------------------------------------------------------------------


def pooled(rows: list[dict[str, Any]], stack: str, case: str, method: str, score: str) -> float:
    """Mean over the stacks of a name of a score; errors in units of each stack's spread."""
    found = [
        r["scores"][score] / (r["spread"] if score in ("mae", "rmse", "crps") else 1)
        for r in rows
        if (r["stack"], r["case"], r["method"]) == (stack, case, method)
        and r["scores"]
        and r["scores"][score] is not None
    ]
    return float(np.mean(found)) if found else math.nan


def against(
    rows: list[dict[str, Any]],
    plan: Plan,
    method: str,
    others: Sequence[str],
    score: str,
    cases: Sequence[str],
) -> float:
    """Geometric mean over stacks and cases of a method's error divided by the lowest of the others'."""
    ratios = []
    for stack in plan.stacks:
        for case in cases:
            ours = pooled(rows, stack, case, method, score)
            theirs = [
                v for o in others if o != method and not math.isnan(v := pooled(rows, stack, case, o, score))
            ]
            if theirs and not math.isnan(ours):
                ratios.append(ours / min(theirs))
    return float(np.exp(np.mean(np.log(ratios)))) if ratios else math.nan


def table(rows: list[dict[str, Any]], plan: Plan, stack: str, score: str) -> list[str]:
    """One row per method, one column per case; the lowest is bold."""
    cases = [case.label for case in cases_of(plan)]
    values = {m: [pooled(rows, stack, c, m, score) for c in cases] for m in plan.methods}
    best = [
        min((v[i] for v in values.values() if not math.isnan(v[i])), default=math.nan)
        for i in range(len(cases))
    ]
    lines = [f"| method | {' | '.join(cases)} |", f"|---|{'---:|' * len(cases)}"]
    for method, numbers_ in values.items():
        cells = [
            "-" if math.isnan(v) else f"**{v:.3f}**" if v == best[i] else f"{v:.3f}"
            for i, v in enumerate(numbers_)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def write_page(plan: Plan, rows: list[dict[str, Any]], left: int, out: Path, arguments: list[str]) -> None:
    """reconstruct.md and reconstruct.json."""
    cases = [case.label for case in cases_of(plan)]
    sparse = [case.label for case in cases_of(plan) if case.share >= 0.4 and case.hiding != "quarter"]
    usual = [m for m in BASELINES if m in plan.methods and m != "st"]
    model = load_reconstructor(plan.model or default_reconstructor(FACTOR))
    training, best = model.card["training"], model.card["scores"]["best_step"]
    lines = [
        "# Complete and refine",
        "",
        f"`python benchmarks/reconstruct.py {' '.join(arguments)}`, stimpute {__version__}. Refined by {FACTOR}; {plan.samples} samples;"
        f" network {model.name} (sha256 {model.sha256[:12]}, trained for {training['steps']} steps, best at step {best}). Errors in units of the"
        " standard deviation of each stack, over all fine cells, means over the stacks of a name.",
        "",
        *([f"Not finished: {left} runs were not made within the time given.", ""] if left else []),
        "## Against the best of the usual ways",
        "",
        f"Geometric mean over stacks and cases of the error divided by the lowest of {', '.join(usual)}; below 1 is better. Methods"
        " with an archive are told by other times of the same place, fine; they are left out where there is none. What the parts of the"
        " network are worth: [ablations](reconstruct_ablations.md).",
        "",
        "| method | MAE, all cases | MAE, 40 % hidden and more | RMSE, 40 % and more | CRPS / MAE | 90 % coverage |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for method in plan.methods:
        ratios = [
            against(rows, plan, method, usual, s, c)
            for s, c in (("mae", cases), ("mae", sparse), ("rmse", sparse))
        ]
        crps, mae, cover = (
            float(np.nanmean([pooled(rows, s, c, method, score) for s in plan.stacks for c in cases] or [math.nan]))
            if any(r["method"] == method and r["scores"] and r["scores"][score] is not None for r in rows) else math.nan
            for score in ("crps", "mae", "coverage")
        )  # fmt: skip
        shown = ["-" if math.isnan(r) else f"{r:.3f}" for r in (*ratios, crps / mae)]
        lines.append(f"| {method} | {' | '.join(shown)} | {'-' if math.isnan(cover) else f'{cover:.1%}'} |")
    for stack in plan.stacks:
        if any(r["stack"] == stack for r in rows):
            for score, title in (("mae", "MAE"), ("rmse", "RMSE")):
                lines += ["", f"## {stack}: {title}", "", *table(rows, plan, stack, score)]
    named = [s for s in plan.stacks if s != COVERED and any(r["stack"] == s for r in rows)][:DRAWN]
    what = "coarse cells with holes, the usual way, the mean of the ensemble, its standard error, the truth"
    lines += ["", f"![{', '.join(named)}: {what}](reconstruct.png)", ""]
    (out / "reconstruct.md").write_text("\n".join(lines), encoding="utf-8")
    (out / "reconstruct.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def draw(plan: Plan, path: Path) -> None:
    """A step of the first stack of each name: coarse with holes, the usual way, ours, its spread, the truth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from stimpute.evaluation.refining import coarsened, hidden_cells
    from stimpute.protocols import Refining

    chosen = [
        (name, stacks[0]) for name in plan.stacks if name != COVERED and (stacks := stacks_of(name, plan))
    ][:DRAWN]
    figure, axes = pyplot.subplots(len(chosen), 5, figsize=(13, 2.6 * len(chosen)), squeeze=False)
    for row, (name, stack) in zip(axes, chosen, strict=True):
        coarse, truth = coarsened(stack, FACTOR)
        shown = coarse.hide(hidden_cells(coarse.valid, RefiningCase("random", 0.6)))
        fine, wanted = truth.hide(np.ones(truth.shape, dtype=bool)), Refining(FACTOR, plan.samples)
        usual = refiner_maker("linear+bilinear", FACTOR)().refine(shown, fine, wanted)
        ours = maker("diffrecon", plan)().refine(shown, fine, wanted)
        step = truth.shape[0] // 2
        field = truth.with_nan()[step]
        low, high = np.nanpercentile(field, (1, 99))
        panels = (
            ("coarse, 60 % hidden", shown.with_nan()[step]), ("linear, bilinear", usual.mean[step]), ("reconstruct: mean", ours.mean[step]),
            ("standard error", ours.scale[step] if ours.scale is not None else field), ("truth", field),
        )  # fmt: skip
        for axis, (title, panel) in zip(row, panels, strict=True):
            limits = {} if title == "standard error" else {"vmin": low, "vmax": high}
            image = axis.imshow(panel, interpolation="nearest", **limits)
            axis.set_title(f"{name}: {title}", fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
            figure.colorbar(image, ax=axis, shrink=0.7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
