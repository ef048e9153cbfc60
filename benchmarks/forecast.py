"""Forecasts against persistence, the last cycle, DLinear and AR per cell; multiscale against one scale; time and memory against size.

    python benchmarks/forecast.py skill ../shared/data --quick          the table: fewer origins, fewer cells
    python benchmarks/forecast.py skill ../shared/data --model M        with a model trained on the first 70 %:
    python benchmarks/forecast.py train ../shared/data era5 -o M --minutes 20 [--sides 8,8,8]
    python benchmarks/forecast.py scales ../shared/data                 three blocks whose parts grow against three of one size
    python benchmarks/forecast.py intervals ../shared/data              whether 90 % intervals hold 90 % on short series
    python benchmarks/forecast.py scaling [--full]                      1k, 4k, 16k (and 64k) nodes beside full attention

Tables are printed as Markdown. Training sees the first 70 % of a case only, and validates on the last tenth of that; scores are
taken at origins in the last 30 %.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

CASES = {
    "era5": ("complete_fields/era5_t2m_uk_201903.nc", 14),
    "goes": ("goes_lst_fulldisk/goes16_lst_northamerica.nc", 6),
    "los": ("graph_mnist", 12),
}
FIRST = 0.7
LARGEST_FULL = 64  # side, for full attention: 16k nodes would need 16 times its memory, about 15 GiB
SCALES = {"growing": (4, 8, 16), "one": (8, 8, 8)}  # sides of the parts of the three blocks
# how intervals were made was chosen on the first, and judged on the second: file, variable, first step, steps, every so manieth cell, ahead
SHORT = {
    "chosen": {
        "ostia, 6 ahead": ("ostia_monthly", "", 0, 54, 4, 6),
        "ostia, 12 ahead": ("ostia_monthly", "", 0, 54, 4, 12),
        "pacificSST 0-54": ("pacificSST", "", 0, 54, 4, 6),
        "pacificSST 100-160": ("pacificSST", "", 100, 60, 4, 12),
        "pacificSST 200-242": ("pacificSST", "", 200, 42, 4, 6),
        "pacificSST 250-286": ("pacificSST", "", 250, 36, 4, 3),
        "csm_ts 0-54": ("csm_ts_monthly", "", 0, 54, 8, 6),
        "csm_ts 30-90": ("csm_ts_monthly", "", 30, 60, 8, 12),
        "csm_ts 55-95": ("csm_ts_monthly", "", 55, 40, 8, 4),
        "tasmax 100-160": ("tasmax_day_CanESM2_365day", "tasmax", 100, 60, 4, 7),
        "NRCAN annual": ("NRCAN_SECan_annual", "tg_mean", 0, 30, 8, 3),
    },
    "judged": {
        "GPCP 0-54": ("australiaGPCP", "", 0, 54, 1, 6),
        "GPCP 100-160": ("australiaGPCP", "", 100, 60, 1, 12),
        "GPCP 200-242": ("australiaGPCP", "", 200, 42, 1, 6),
        "SST anomaly 0-54": ("strbook_sst_anom", "", 0, 54, 4, 6),
        "SST anomaly 150-210": ("strbook_sst_anom", "", 150, 60, 4, 12),
        "SST anomaly 300-342": ("strbook_sst_anom", "", 300, 42, 4, 6),
        "chlorophyll 0-60": ("chl_monthly_baie_de_seine", "", 0, 60, 2, 6),
        "chlorophyll 60-120": ("chl_monthly_baie_de_seine", "", 60, 60, 2, 12),
        "E1 annual 0-40": ("E1_north_america", "", 0, 40, 4, 4),
        "E1 annual 120-180": ("E1_north_america", "", 120, 60, 4, 6),
        "CCSM annual 40-80": ("ccsm_trefht_annual", "", 40, 40, 8, 4),
        "pr 100-160": ("pr_day_HadGEM2-CC_360day", "pr", 100, 60, 4, 7),
        "mrsos": ("mrsos_day_EC-Earth3", "", 0, 31, 4, 4),
        "ERA5 100-196": ("era5_t2m_uk_201903", "", 100, 96, 4, 12),
    },
}
UNREAD_TIMES = {"csm_ts_monthly": 100}  # months in a calendar with a year zero, which no reader decodes
METHODS = ("sba", "blend", "persistence", "last-cycle", "dlinear", "ar")


def main(given: Sequence[str] | None = None) -> int:
    """Parse, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    scoring = commands.add_parser("skill")
    scoring.add_argument("data", type=Path)
    scoring.add_argument("--cases", default=",".join(CASES))
    scoring.add_argument("--model", help="name or path; default: the shipped one")
    scoring.add_argument("--methods", default=",".join(METHODS))
    scoring.add_argument(
        "--quick", action="store_true", help="every second (era5) or eighth (goes) cell, 4 origins"
    )
    scoring.add_argument("--origins", type=int, help="how many (16, with --quick 4)")
    scoring.add_argument(
        "--inside", action="store_true", help="origins inside the first 70 %%, to choose a method by"
    )
    scoring.set_defaults(run=skill)
    training = commands.add_parser("train")
    training.add_argument("data", type=Path)
    training.add_argument("case", choices=CASES)
    training.add_argument("-o", "--out", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=20)
    training.add_argument("--sides", default="4,8,16", help="one scale: 8,8,8")
    training.add_argument("--start", help="model to go on from")
    training.set_defaults(run=train)
    multiscale = commands.add_parser("scales")
    multiscale.add_argument("data", type=Path)
    multiscale.add_argument("--cases", default="worlds,los", help=f"of worlds,{','.join(CASES)}")
    multiscale.add_argument("--examples", type=int, default=16, help="batches of four origins to learn from")
    multiscale.add_argument("--judged", type=int, default=8, help="batches to be judged on")
    multiscale.add_argument("--steps", type=int, default=160, help="of each training")
    multiscale.add_argument("--seeds", type=int, default=2, help="trainings of each")
    multiscale.set_defaults(run=scales)
    held = commands.add_parser("intervals")
    held.add_argument("data", type=Path)
    held.add_argument("--groups", default=",".join(SHORT))
    held.add_argument("--method", default="blend")
    held.set_defaults(run=intervals)
    growing = commands.add_parser("scaling")
    growing.add_argument("--full", action="store_true", help="64k nodes too")
    growing.add_argument(
        "--one", help=argparse.SUPPRESS
    )  # NODES,KIND: one measurement in a process of its own
    growing.set_defaults(run=scaling)
    arguments = parser.parse_args(given)
    arguments.run(arguments)
    return 0


def stack_of(data: Path, case: str, thin: int = 1):
    """(stack, layer, steps): a case in memory, every ``thin``-th row and column."""
    from stimpute.io import open_source
    from stimpute.protocols import Window

    name, steps = CASES[case]
    if case == "los":
        sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
        stations = __import__("stations_from_table").stations
        source = open_source(stations(data / name / "los_speed.csv", data / name / "los_adj.csv"))
        thin = 1
    else:
        source = open_source([data / name])
    with source:
        stack = source.read(Window.whole(source.layers[0].shape))
        every = slice(None, None, thin)
        return stack.window(slice(None), every, every), source.layers[0], steps


def skill(given: argparse.Namespace) -> None:
    """One table per case."""
    from stimpute.api.forecasting import open_forecaster
    from stimpute.evaluation.forecasts import ForecastEvaluation, evaluate_forecasts

    for case in given.cases.split(","):
        thin = {"goes": 8, "era5": 2}.get(case, 1) if given.quick else {"goes": 3}.get(case, 1)
        stack, layer, steps = stack_of(given.data, case, thin)
        last = 1 - FIRST
        if given.inside:
            last = 0.4
            stack = stack.window(slice(0, round(FIRST * stack.shape[0])), slice(None), slice(None))
        options = ForecastEvaluation(steps, given.origins or (4 if given.quick else 16), last)
        runs = [
            (m, lambda m=m: open_forecaster(m, given.model if m == "sba" else None))
            for m in given.methods.split(",")
        ]
        board = evaluate_forecasts(stack, layer, runs, options)
        t, ny, nx = board.shape
        print(
            f"\n### {case}: {layer.name}, {t} x {ny} x {nx}, {steps} steps from {len(board.origins)} origins\n",
            flush=True,
        )
        print(
            "| method | MAE | RMSE | first step | last step | 90 % cov. | of best baseline | s |\n|---|---|---|---|---|---|---|---|"
        )
        for row in board.rows:
            if row.scores is None:
                print(f"| {row.method} | - | - | - | - | - | - | {row.note} |")
                continue
            s = row.scores
            print(
                f"| {row.method} | {s.mae:.4g} | {s.rmse:.4g} | {row.mae_by_lead[0]:.4g} | {row.mae_by_lead[-1]:.4g} | "
                f"{s.coverage:.1%} | {board.ratio(row.method):.3f} | {row.seconds:.0f} |".replace(
                    "nan%", "-"
                ),
                flush=True,
            )


def intervals(given: argparse.Namespace) -> None:
    """What 90 % intervals held on short pieces, from up to eight origins in the last 40 % of each."""
    from stimpute.api.forecasting import open_forecaster
    from stimpute.evaluation.forecasts import ForecastEvaluation, evaluate_forecasts

    for group in given.groups.split(","):
        print(
            f"\n### {group}\n\n| series | shape | ahead | MAE | CRPS | 90 % cov. |\n|---|---|---|---|---|---|"
        )
        held = []
        for name, (*where, steps) in SHORT[group].items():
            stack, layer = piece_of(given.data, *where)
            runs = [(given.method, lambda: open_forecaster(given.method, None))]
            row = evaluate_forecasts(stack, layer, runs, ForecastEvaluation(steps, 8, 0.4)).rows[0]
            if row.scores is None:
                raise SystemExit(f"{name}: {row.note}")
            s, shape = row.scores, " x ".join(map(str, stack.shape))
            held.append(s.coverage)
            print(
                f"| {name} | {shape} | {steps} | {s.mae:.3g} | {s.crps:.3g} | {s.coverage:.1%} |", flush=True
            )
        apart = np.abs(np.array(held) - 0.9).mean()
        print(f"| mean, and mean distance from 90 % | | | | | {np.mean(held):.1%}, {apart:.1%} |")


def piece_of(data: Path, name: str, variable: str, first: int, count: int, thin: int):
    """(stack, layer) of some steps and every ``thin``-th row and column of a complete field."""
    from stimpute.io import ReadOptions, open_source
    from stimpute.protocols import Window

    months = UNREAD_TIMES.get(name)
    times = tuple(f"{1901 + i // 12}-{i % 12 + 1:02d}-15" for i in range(months)) if months else None
    options = ReadOptions(variables=(variable,) if variable else (), times=times)
    with open_source([data / "complete_fields" / f"{name}.nc"], options) as source:
        stack, every = source.read(Window.whole(source.layers[0].shape)), slice(None, None, thin)
        return stack.window(slice(first, first + count), every, every), source.layers[0]


def train(given: argparse.Namespace) -> None:
    """A model from the first 70 % of one case."""
    from stimpute.forecasting.config import ForecastConfig
    from stimpute.training.archive import Archive
    from stimpute.training.forecasting import ForecastFeedOptions, before, train_forecaster
    from stimpute.training.options import TrainOptions

    stack, _, steps = stack_of(given.data, given.case)
    archive = Archive.from_stack(given.case, stack)
    archive = before(archive, round(FIRST * archive.shape[0]))
    config = ForecastConfig(sides=tuple(int(s) for s in given.sides.split(",")))
    options = TrainOptions(
        given.out, config, start=given.start, minutes=given.minutes, lr=1e-3, reuse=5, val_fraction=0.1, val_examples=6, average=0.99,
        feed=ForecastFeedOptions(horizons=(steps,), world_share=0.0, hide=0.1), device="auto",
    )  # fmt: skip
    summary = train_forecaster(options, [archive])
    for name, v in (("start", summary.start), ("best", summary.best)):
        print(
            f"{name}: error / blend {v.vs_prior:.4f}, / best guess {v.vs_best:.4f}, coverage {v.coverage:.3f}"
        )
    print(f"{summary.steps} steps in {summary.minutes:.1f} min -> {summary.path}")


def scales(given: argparse.Namespace) -> None:
    """Error over the blend's on origins never seen (of a case: in its last 30 %), of networks with growing parts and of one size."""
    from dataclasses import replace

    import torch

    from stimpute.forecasting.config import ForecastConfig
    from stimpute.forecasting.guesses import make_guesses
    from stimpute.training.archive import Archive
    from stimpute.training.forecasting import ASKED, ForecastFeed, ForecastFeedOptions, before

    torch.set_num_threads(1)
    configs = {name: ForecastConfig(sides=sides) for name, sides in SCALES.items()}
    print(
        "| case | "
        + " | ".join(f"{name} {sides}" for name, sides in SCALES.items())
        + " | growing / one |\n|---|---|---|---|"
    )
    for case in given.cases.split(","):
        options = ForecastFeedOptions(world_share=1.0)
        whole, first, learnt = [], [], []
        if case != "worlds":
            stack, _, steps = stack_of(given.data, case)
            options = replace(options, horizons=(steps,), world_share=0.0, hide=0.0)
            whole = [Archive.from_stack(case, stack)]
            first = [round(FIRST * whole[0].shape[0])]
            learnt = [before(whole[0], first[0])]

        def examples(archives, count, seed, starts=(), options=options):
            """The same origins for each of the configurations; the guesses are shared."""
            feeds = [ForecastFeed(archives, options, c, seed=seed, first=starts) for c in configs.values()]
            made = []
            for number in range(count):
                each = [feed.example(number) for feed in feeds]
                guesses = make_guesses(each[0].given, each[0].target.shape[1], ASKED)
                made.append((dict(zip(configs, each, strict=True)), guesses))
            return made

        pool, judged = examples(learnt, given.examples, 1), examples(whole, given.judged, 2, first)
        found = {
            name: [learnt_ratio(name, c, pool, judged, given.steps, seed) for seed in range(given.seeds)]
            for name, c in configs.items()
        }
        shown = {n: f"{np.mean(v):.4f} ({', '.join(f'{x:.4f}' for x in v)})" for n, v in found.items()}
        ratio = np.mean(found["growing"]) / np.mean(found["one"])
        print(f"| {case} | {' | '.join(shown.values())} | {ratio:.4f} |", flush=True)


def learnt_ratio(name: str, config, pool, judged, steps: int, seed: int) -> float:
    """Train on a pool of (examples by configuration, guesses); the geometric mean of error over the blend's on those judged."""
    import torch

    from stimpute.forecasting.network import SBATransformer
    from stimpute.training.loss import per_example, training_loss

    torch.manual_seed(seed)
    network = SBATransformer(config)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    order = np.random.default_rng(seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (0.05 + 0.95 * (1 + np.cos(np.pi * step / steps)) / 2)
        examples, guesses = pool[int(order.integers(len(pool)))]
        example = examples[name]
        loss = training_loss(network(example.given, guesses, example.around), example, None)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    ratios = []
    with torch.no_grad():
        for examples, guesses in judged:
            example = examples[name]
            said = network(example.given, guesses, example.around).mean
            ours, blend = (
                per_example((mean - example.target).abs(), example.wanted) for mean in (said, guesses.prior)
            )
            ratios.append((ours / blend.clamp_min(1e-6)).log()[example.wanted.flatten(1).any(dim=1)])
    return float(torch.cat(ratios).mean().exp())


def scaling(given: argparse.Namespace) -> None:
    """Time and memory of the network alone against the number of nodes, and the exponent between neighbours."""
    if given.one:
        nodes, kind = given.one.split(",")
        one_pass(int(nodes), kind)
        return
    import subprocess

    sizes = (32, 64, 128, 256) if given.full else (32, 64, 128)
    print("| nodes | attention | s | exponent | memory MiB | exponent |\n|---|---|---|---|---|---|")
    for kind in ("balanced", "full"):
        before: tuple[int, float, float] | None = None
        for side in sizes:
            if kind == "full" and side > LARGEST_FULL:
                continue
            out = subprocess.run(
                [sys.executable, __file__, "scaling", "--one", f"{side},{kind}"], capture_output=True, text=True, check=True
            ).stdout.split()  # fmt: skip
            seconds, memory = float(out[0]), float(out[1])
            grows = ["", ""]
            if before is not None:
                grows = [
                    f"{exponent(now, then, side**2, before[0]):.2f}"
                    for now, then in ((seconds, before[1]), (memory, before[2]))
                ]
            print(
                f"| {side**2} | {kind} | {seconds:.2f} | {grows[0]} | {memory:.0f} | {grows[1]} |", flush=True
            )
            before = side**2, seconds, memory


def exponent(now: float, then: float, nodes: int, before: float) -> float:
    """Of a cost that was ``then`` at ``before`` nodes."""
    return float(np.log(max(now, 1e-9) / max(then, 1e-9)) / np.log(nodes / before))


def one_pass(side: int, kind: str) -> None:
    """CPU seconds and MiB above the start of one pass of the attention blocks over side x side nodes with a coast."""
    import torch

    from stimpute.forecasting.config import ForecastConfig
    from stimpute.forecasting.graph import divisions_of, graph_of
    from stimpute.forecasting.network import SBATransformer
    from stimpute.grid import Grid
    from stimpute.layers.attention import Parts

    torch.set_num_threads(1)
    network = SBATransformer(ForecastConfig()).eval()
    ever = np.ones((side, side), dtype=bool)
    ever[0, 0] = False  # one cell never observed: METIS cuts the parts, not windows
    graph = graph_of(Grid.from_shape(side, side), ever)
    if kind == "balanced":
        divisions = divisions_of(graph, network.config.sides)
    else:
        whole = torch.arange(len(graph))[None]
        divisions = [Parts(whole, torch.from_numpy(graph.places))] * 3
    tokens = torch.randn(1, 1, len(graph), network.config.embed_dim)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    with torch.no_grad():
        for block, division in zip(network.blocks, divisions, strict=True):
            tokens = block(tokens, division)
    seconds = time.process_time() - started
    print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)


if __name__ == "__main__":
    sys.exit(main())
