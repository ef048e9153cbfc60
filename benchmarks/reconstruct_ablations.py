#!/usr/bin/env python
"""What the parts of DiffRecon are worth: networks trained for equal steps on the same batches, each without one part.

    python benchmarks/reconstruct_ablations.py            the page; about 20 minutes on one core
    python benchmarks/reconstruct_ablations.py --quick    a few steps, to see that it runs

Diffusion-C starts from the mean of what is observed, as in the paper, where the network has all of the completing to do; with
`--starts mean,filled` also from what `fill` says, as shipped, for a third of the steps. Simulated worlds are trained on; scored are
other worlds and ERA5 temperature, coarsened by 4, 40 and 80 % of the coarse cells hidden.

Writes reconstruct_ablations.md and .json to --out (docs/benchmarks). Batches, networks and results are kept under runs/reconstruct.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import reconstruct  # sets the number of threads, comes first
import torch

from stimpute import __version__
from stimpute.diffusion.config import DiffReconConfig
from stimpute.diffusion.method import DiffReconRefiner
from stimpute.pretrained.registry import load_model, load_reconstructor
from stimpute.protocols import Refiner
from stimpute.training.diffusion_loop import DiffusionTraining, train_diffusion
from stimpute.training.pairs import SHAPES, PairFeed, Pairs

FACTOR = reconstruct.FACTOR
SEED, BATCHES, VALIDATION = 5, 64, 6
WHOLE = "all parts"
STARTS = {"mean": 1.0, "filled": 1 / 3}  # where Diffusion-C starts, and the share of the steps
PARTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "not jointly": {"joint": False},
    "no ST-PointFormer": {"point_depth": 0},
    "plain ST-PointFormer": {"nearness": False, "everywhere": False},
    "one stage": {"stages": 1},
}
STACKS = ("worlds", "era5_t2m")


class KeptFeed(PairFeed):
    """Batches that are made once and kept in ``folder``, shared by all runs."""

    folder: Path

    def pairs(self, number: int) -> Pairs:
        """The batch of a number."""
        path = self.folder / f"{number}.pickle"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(super().pairs(number)))
        made: Pairs = pickle.loads(path.read_bytes())
        return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, write."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    quick = given.quick
    shapes = ((1, 6, 4, 4),) if quick else SHAPES
    feed = KeptFeed([], FACTOR, seed=SEED, shapes=shapes, filler=load_model().network)
    out = given.out or (
        reconstruct.ROOT / "runs" / "quick" if quick else reconstruct.ROOT / "docs" / "benchmarks"
    )
    out.mkdir(parents=True, exist_ok=True)
    feed.folder = given.cache / ("batches-quick" if quick else "batches")
    sections = []
    for start in STARTS if quick else given.starts:
        share = STARTS[start]
        steps = 3 if quick else max(round(share * given.steps), 1)
        plan = reconstruct.Plan(
            ("worlds",) if quick else given.stacks, (0.4,) if quick else given.shares, ("random",) if quick else ("fixed", "random"),
            tuple(f"{start}: {part}" for part in PARTS), 2 if quick else given.samples, steps, 1 if quick else given.worlds, given.data,
            given.cache, None, math.inf,
        )  # fmt: skip
        makers = {f"{start}: {part}": trained(start, part, plan, feed, quick) for part in PARTS}
        rows, _ = reconstruct.measure(plan, makers)
        sections.append((start, plan, rows))
        write_page(sections, out, sys.argv[1:] if arguments is None else list(arguments), given.samples)
    print(out / "reconstruct_ablations.md")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=reconstruct.ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, help="where the page goes (default: docs/benchmarks)")
    parser.add_argument("--cache", type=Path, default=reconstruct.ROOT / "runs" / "reconstruct")
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--samples", type=int, default=4, help="members of an ensemble")
    parser.add_argument("--worlds", type=int, default=6, help="how many simulated worlds are scored")
    parser.add_argument("--stacks", type=reconstruct.names, default=STACKS)
    parser.add_argument("--shares", type=reconstruct.shares, default=(0.4, 0.8))
    parser.add_argument("--starts", type=reconstruct.names, default=("mean",), help="mean, filled or both")
    parser.add_argument("--quick", action="store_true", help="a few steps of tiny batches, under a minute")
    return parser


def network_path(start: str, part: str, plan: reconstruct.Plan) -> Path:
    """Where a trained network is kept."""
    return plan.cache / f"{start}-{part.replace(' ', '-')}-{plan.steps}.safetensors"


def trained(
    start: str, part: str, plan: reconstruct.Plan, feed: PairFeed, quick: bool = False
) -> Callable[[], Refiner]:
    """What opens a network; it is trained first, if it is not at hand."""
    settings = {k: v for k, v in PARTS[part].items() if k != "joint"}
    config = DiffReconConfig(factor=FACTOR, start=start, **settings)  # type: ignore[arg-type]
    path = network_path(start, part, plan)

    def opened() -> Refiner:
        if not path.exists():
            began = time.monotonic()
            plan.cache.mkdir(parents=True, exist_ok=True)
            summary = train_diffusion(
                DiffusionTraining(
                    path, steps=plan.steps, seed=SEED, pool=2 if quick else BATCHES, network=config, resume=True, device="cpu",
                    joint=PARTS[part].get("joint", True), val_examples=1 if quick else VALIDATION, val_steps=max(plan.steps // 5, 1),
                    shapes=feed.shapes,
                ),
                feed=feed,
            )  # fmt: skip
            print(
                f"{start}, {part}: {summary.best}, {time.monotonic() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        return DiffReconRefiner(load_reconstructor(path).network, filler=load_model().network)

    return opened


def write_page(
    sections: list[tuple[str, reconstruct.Plan, list[dict[str, Any]]]],
    out: Path,
    arguments: list[str],
    samples: int,
) -> None:
    """reconstruct_ablations.md and .json."""
    lines = [
        "# Parts of DiffRecon, left out one by one",
        "",
        f"`python {' '.join(['benchmarks/reconstruct_ablations.py', *arguments])}`, stimpute {__version__}. Refined by {FACTOR};"
        f" {samples} samples. Networks trained for equal steps on the same {BATCHES} batches of simulated worlds, one seed.",
    ]
    for start, plan, rows in sections:
        cases = [case.label for case in reconstruct.cases_of(plan)]
        title = {"mean": "From the mean, as in the paper", "filled": "From what `fill` says, as shipped"}[
            start
        ]
        lines += [
            "",
            f"## {title}: {plan.steps} steps",
            "",
            "MAE in standard deviations of the stack for all parts; for the others the ratio to it, above 1 is worse (geometric mean over"
            " the stacks of a name). Last column: geometric mean of the ratios. Below: the error on six batches of worlds that no network"
            " was trained on, made as those it was trained on, over that of the start (`coarse`: of hidden coarse cells; `fine`: of all cells).",
        ]
        for stack in plan.stacks:
            if not any(r["stack"] == stack for r in rows):
                continue
            lines += ["", f"| {stack} | {' | '.join(cases)} | all |", f"|---|{'---:|' * (len(cases) + 1)}"]
            whole = [reconstruct.pooled(rows, stack, c, f"{start}: {WHOLE}", "mae") for c in cases]
            lines.append(f"| {WHOLE} | {' | '.join(f'{v:.3f}' for v in whole)} | |")
            for part in PARTS:
                if part == WHOLE:
                    continue
                ratios = [paired(rows, stack, c, f"{start}: {part}", f"{start}: {WHOLE}") for c in cases]
                together = math.exp(sum(math.log(r) for r in ratios) / len(ratios))
                lines.append(f"| {part} | {' | '.join(f'{r:.3f}' for r in ratios)} | {together:.3f} |")
        lines += ["", "| network | coarse | fine |", "|---|---:|---:|"]
        for part in PARTS:
            best = load_reconstructor(network_path(start, part, plan)).card["scores"]["best"]
            lines.append(f"| {part} | {best['coarse']:.3f} | {best['fine']:.3f} |")
    (out / "reconstruct_ablations.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    (out / "reconstruct_ablations.json").write_text(
        json.dumps([row for *_, rows in sections for row in rows], indent=1) + "\n", encoding="utf-8"
    )


def paired(rows: list[dict[str, Any]], stack: str, case: str, method: str, whole: str) -> float:
    """Geometric mean over the stacks of a name of a method's MAE divided by another's."""
    errors = {
        (r["number"], r["method"]): r["scores"]["mae"]
        for r in rows
        if (r["stack"], r["case"]) == (stack, case)
    }
    logs = [math.log(e / errors[n, whole]) for (n, m), e in errors.items() if m == method]
    return math.exp(sum(logs) / len(logs))


if __name__ == "__main__":
    sys.exit(main())
