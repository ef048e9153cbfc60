#!/usr/bin/env python
"""Do borders of tiles show in a fill, and does it depend on them? `python benchmarks/seams.py --quick` first.

Fills simulated stationary fields and parts of real files in tiles of several sizes and in one piece, and writes seams.md,
seams.json and seams.png to --out (docs/benchmarks). Fills are kept one by one under runs/seams, so that a run that was killed goes
on, and another model computes its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from scoring import seam_fields, seam_page
from scoring.borders import Steps, agreement, border_lines, steps_of
from scoring.cases import Case
from scoring.command import ROOT, about_run, check_known, fill, names, numbers, threads
from scoring.runs import Key, Result, Store, code_digest
from scoring.seam_fields import FIELDS, QUICK, QUICK_REAL, REAL, Field, Scene, Sizes
from scoring.seam_page import HERO, SIMPLE, WHOLE, Cut, Findings, Maps

from stimpute.errors import StimputeError
from stimpute.inference.methods import open_method
from stimpute.inference.options import FillOptions
from stimpute.pretrained.registry import DEFAULT_MODEL, load_model

METHODS = (HERO, SIMPLE)
SCENES = ("fields", "real")


@dataclass(frozen=True)
class Task:
    """What is to be run."""

    fields: tuple[Field, ...]
    crops: tuple[Case, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    sizes: Sizes
    model: str
    device: str
    data: Path
    deadline: float  # of time.monotonic()
    fresh: bool = False
    current_code: bool = False

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Small to large, one tile last, and the smallest without a halo, which must show."""
        return (
            *(Cut(t) for t in self.sizes.tiles), Cut(None), Cut(self.sizes.tiles[0], 0),
        )  # fmt: skip

    def cuts_of(self, method: str) -> tuple[Cut, ...]:
        """What a method is asked for."""
        return self.cuts if method == HERO else tuple(c for c in self.cuts if c.halo is None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, write."""
    options = _parser().parse_args(arguments)
    try:
        task, partial = _task(options)
        quick = ROOT / "runs" / "seams-quick"
        store = Store(options.cache or (quick if options.quick else ROOT / "runs" / "seams"))
        results, maps, left = measure(task, store)
        partial += [f"{left} fills were not made within --minutes {options.minutes:g}"] if left else []
        if not any(r.agreement for r in results):
            raise StimputeError("no stack was filled in two ways: nothing to compare")
        about = about_run("seams", task.model, task.seeds, partial, arguments)
        findings = Findings(results, task.cuts, about, asdict(task.sizes), maps)
        report(findings, options.out or (quick if options.quick else ROOT / "docs" / "benchmarks"))
    except StimputeError as error:
        print(f"seams: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=names, default=SCENES, help=f"some of {','.join(SCENES)}")
    parser.add_argument(
        "--seeds", type=numbers, help="of the simulated fields (default: 0,1; with --quick 0)"
    )
    parser.add_argument("--methods", type=names, default=METHODS, help=f"some of {','.join(METHODS)}")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or path of the model of st")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; threads by OMP_NUM_THREADS (default: 1)")  # fmt: skip
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the public files")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, help="where the page goes (default: docs/benchmarks; with --quick runs/seams-quick)"
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="where fills are kept (default: runs/seams)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no new fill after")
    parser.add_argument("--fresh", action="store_true", help="ignore fills kept earlier")
    parser.add_argument(
        "--current-code", action="store_true", help="keep no fill of another state of the code"
    )
    parser.add_argument("--quick", action="store_true", help="tiny stacks and tiles, to see that it works")
    return parser


def _task(options: argparse.Namespace) -> tuple[Task, list[str]]:
    """What to run, and in words what of the whole benchmark is left out."""
    check_known("--scenes", options.scenes, SCENES)
    check_known("--methods", options.methods, METHODS)
    load_model(options.model)  # a model that cannot be read is told now
    partial = [f"{', '.join(options.scenes)} only"] if len(set(options.scenes)) < len(SCENES) else []
    partial += [f"{', '.join(options.methods)} only"] if len(set(options.methods)) < len(METHODS) else []
    partial += ["a try on tiny stacks (--quick): the figures mean nothing"] if options.quick else []
    fields = (FIELDS[:1] if options.quick else FIELDS) if "fields" in options.scenes else ()
    files = (QUICK_REAL if options.quick else REAL) if "real" in options.scenes else ()
    crops = tuple(c for c in files if (options.data / c.file).is_file())
    absent = [c.name for c in files if c not in crops]
    partial += [f"no {', '.join(absent)}: not in the data folder"] if absent else []
    task = Task(
        fields, crops, options.seeds or ((0,) if options.quick else (0, 1)), options.methods, QUICK if options.quick else Sizes(),
        options.model, options.device, options.data, time.monotonic() + 60 * options.minutes, options.fresh, options.current_code,
    )  # fmt: skip
    return task, partial


# --- measuring --------------------------------------------------------------------------------------------------------


def scenes(task: Task) -> Iterator[Scene]:
    """Real files, then every field with the first seed before any with the second."""
    for case in task.crops:
        yield seam_fields.real(case, task.data)
    for seed in task.seeds:
        for field in task.fields:
            yield seam_fields.simulated(field, task.sizes, seed)


def measure(task: Task, store: Store) -> tuple[list[seam_page.Result], Maps | None, int]:
    """Figures of every scene and method, maps of one scene, and how many fills the clock did not allow."""
    results, maps, left = [], None, 0
    for scene in scenes(task):
        for method in task.methods:
            said = {}
            for cut in task.cuts_of(method):
                kept = _filled(task, store, scene, method, cut)
                if kept is None:
                    left += 1
                else:
                    said[cut.name] = kept
            results.append(compare(scene, method, said))
            if maps is None and method == HERO and scene.truth is not None and len(said) == len(task.cuts):
                maps = _maps(scene, said)
    return results, maps, left


def _filled(task: Task, store: Store, scene: Scene, method: str, cut: Cut) -> Result | None:
    """What a method says at the wanted cells under one cut, from the store where it is; None where the clock does not allow it."""
    model = load_model(task.model).sha256[:12] if method == HERO else "-"
    kind = cut.name.replace(",", "")
    key = Key(scene.name.replace(",", ""), scene.digest, kind, scene.seed, method, model)
    found = None if task.fresh else store.load(key)
    if found is not None and not (task.current_code and found.code != code_digest()):
        return found
    if time.monotonic() > task.deadline:
        return None
    opened = open_method(method, task.model if method == HERO else None, task.device, threads=threads())
    run = FillOptions(
        tile=cut.tile or max(scene.stack.shape[1:]), overlap=cut.halo, uncertainty=False, fill_never_observed=scene.truth is not None
    )  # fmt: skip
    values, layer, seconds = fill(scene.stack, scene.layer, opened, run)
    mean = values[scene.wanted]
    # the note holds what the engine says of its tiles: where the borders are
    tile = {} if layer.tiles == 1 else layer.tile
    result = Result(key, mean, np.full_like(mean, np.nan), seconds, layer.tiles == 1, json.dumps(tile), code_digest())  # fmt: skip
    store.save(result)
    print(f"{scene.name:28s} seed {scene.seed}  {method:7s} {cut.name:12s} {layer.tiles:3d} tiles {seconds:7.1f} s", flush=True)  # fmt: skip
    return result


def compare(scene: Scene, method: str, said: dict[str, Result]) -> seam_page.Result:
    """Errors, steps at borders, and differences between cuts."""
    spread = scene.spread
    tiles = {name: json.loads(kept.note or "{}") for name, kept in said.items()}
    mae: dict[str, float] = {}
    steps: dict[str, Steps] = {}
    control: dict[str, Steps] = {}
    if scene.truth is not None:
        errors = {name: scene.whole(kept.mean) - scene.truth for name, kept in said.items()}
        mae = {name: float(np.nanmean(np.abs(e), dtype=np.float64)) / spread for name, e in errors.items()}
        for name, tile in tiles.items():
            if tile:
                lines = border_lines(scene.stack.shape, tile)
                steps[name] = steps_of(errors[name], lines)
                if WHOLE in errors:
                    control[name] = steps_of(errors[WHOLE], lines)
    pairs = {(a, b): agreement(said[a].mean, said[b].mean, spread) for a, b in combinations(said, 2)}
    return seam_page.Result(
        scene.name, scene.seed, method, scene.truth is not None, mae, steps, control, pairs, tiles,
        {name: kept.seconds for name, kept in said.items()}, tuple(kept.code for kept in said.values()),
    )  # fmt: skip


def _maps(scene: Scene, said: dict[str, Result]) -> Maps:
    """How far each cut is from the uncut fill, at the step where most is missing without all of it being so."""
    step = int(np.argsort(scene.stack.valid.mean(axis=(1, 2)))[len(scene.stack.times) // 4])
    whole = scene.whole(said[WHOLE].mean)[step]
    cut = {name: kept for name, kept in said.items() if name != WHOLE}
    fields = {name: (scene.whole(kept.mean)[step] - whole) / np.float32(scene.spread) for name, kept in cut.items()}  # fmt: skip
    lines = {
        name: border_lines(scene.stack.shape, json.loads(kept.note or "{}")) for name, kept in cut.items()
    }
    return Maps(f"{scene.name}, step {step}: difference from the fill in one piece", scene.stack.grid, fields, lines)  # fmt: skip


def report(findings: Findings, out: Path) -> None:
    """Page, figures, picture."""
    out.mkdir(parents=True, exist_ok=True)
    seam_page.draw(findings, out / "seams.png")
    seam_page.write_json(out / "seams.json", findings)
    seam_page.write_page(out / "seams.md", findings, "seams.png")
    print(seam_page.verdict(findings))
    print(f"written: {out / 'seams.md'}")


if __name__ == "__main__":
    sys.exit(main())
