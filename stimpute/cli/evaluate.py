"""`stimpute evaluate`: parse, call :func:`stimpute.api.evaluate`, print the scoreboard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from stimpute.cli import console, parse
from stimpute.cli import options as o
from stimpute.errors import UsageError

if TYPE_CHECKING:
    from stimpute.evaluation.forecasts import ForecastBoard
    from stimpute.evaluation.refining import RefiningBoard
    from stimpute.evaluation.scoreboard import Row, Scoreboard

EPILOG = "Example: stimpute evaluate sm.nc --holdout gap --by distance"
KINDS = "pixel|gap|block|frames|swath|value"


def evaluate(
    paths: o.Input,
    var: o.Var = None,
    bbox: o.BBox = None,
    bbox_crs: o.BBoxCRS = None,
    time: o.Time = None,
    covariate: o.Covariate = None,
    nodata: o.NoData = None,
    date_format: o.DateFormat = None,
    times: o.Times = None,
    dedupe: o.Dedupe = None,
    domain: o.Domain = None,
    force: o.Force = False,
    steps: Annotated[
        int | None,
        o.option("--steps", panel=o.METHOD, metavar="N", help="Steps ahead (task forecast; default 14)."),
    ] = None,
    origins: Annotated[
        int | None,
        o.option(
            "--origins",
            panel=o.METHOD,
            metavar="N",
            help="Origins to forecast from (task forecast; default 8).",
        ),
    ] = None,
    last: Annotated[
        float | None,
        o.option(
            "--last",
            panel=o.METHOD,
            metavar="SHARE",
            help="Part of the series they lie in (task forecast; default 0.3).",
        ),
    ] = None,
    holdout: Annotated[
        str | None,
        o.option(
            "--holdout",
            panel=o.METHOD,
            metavar=KINDS,
            help="How cells are hidden; several with commas (default gap; reconstruct: random, also fixed, quarter).",
        ),
    ] = None,
    share: Annotated[
        float | None,
        o.option(
            "--share",
            panel=o.METHOD,
            metavar="SHARE",
            help="Share of the observed cells to hide (default 0.2; reconstruct 0.4).",
        ),
    ] = None,
    methods: Annotated[
        Any,
        o.option(
            "--methods",
            panel=o.METHOD,
            parser=parse.names,
            metavar="A,B,...",
            help="Methods to compare (default: all).",
        ),
    ] = None,
    model: o.Model = None,
    fast: o.Fast = False,
    adapt: o.Adapt = None,
    by: Annotated[
        str | None,
        o.option(
            "--by",
            panel=o.RESULT,
            metavar="distance|length",
            help="Also score by distance to data, or gap length.",
        ),
    ] = None,
    seeds: Annotated[
        int, o.option("--seeds", panel=o.METHOD, metavar="N", help="Repetitions, each hiding other cells.")
    ] = 1,
    task: Annotated[
        str,
        o.option(
            "--task",
            panel=o.METHOD,
            metavar="fill|reconstruct|forecast",
            help="reconstruct: coarsen by --factor, hide, refine; forecast: from origins in the last part.",
        ),
    ] = "fill",
    factor: Annotated[
        int | None,
        o.option(
            "--factor", panel=o.METHOD, metavar="K", help="Fine cells per coarse cell and axis (reconstruct)."
        ),
    ] = None,
    samples: Annotated[
        int | None,
        o.option("--samples", panel=o.METHOD, metavar="N", help="Members of the ensemble (reconstruct)."),
    ] = None,
    plot: o.Plot = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    memory: o.Memory = None,
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """Hide observed cells the way real gaps hide them, and score every method side by side."""
    from stimpute import api

    read = o.reading(
        var=var, bbox=bbox, bbox_crs=bbox_crs, time=time, covariate=covariate, nodata=nodata, date_format=date_format,
        times=times, dedupe=dedupe, domain=domain, force=force,
    )  # fmt: skip
    ahead = o.reading(steps=steps, origins=origins, last=last)
    repeated = seeds if seeds != 1 else None
    if task == "forecast":
        return _forecasts(
            paths, {"fast": fast or None, "adapt": adapt, "by": by, "plot": plot, "holdout": holdout, "share": share, "factor": factor, "samples": samples,
                    "seeds": repeated, "seed": seed or None}, json,
            methods=methods, model=model, device=device, threads=threads, memory=memory, **ahead, **read,
        )  # fmt: skip
    if ahead:
        raise UsageError(f"--{next(iter(ahead))}: only for --task forecast; leave it out")
    if task != "fill":
        return _refining(
            paths, task, factor, {"fast": fast or None, "adapt": adapt, "by": by, "plot": plot, "seeds": repeated}, json,
            {**read, **o.reading(holdout=holdout, share=share, samples=samples)},
            {"methods": methods, "model": model, "seed": seed, "device": device, "threads": threads, "memory": memory},
        )  # fmt: skip
    if factor is not None or samples is not None:
        raise UsageError("--factor, --samples: only for --task reconstruct; leave them out")
    with console.progress() as progress:
        boards = api.evaluate(
            paths, holdout=holdout or "gap", share=0.2 if share is None else share, methods=methods, model=model, fast=fast, adapt=adapt, by=by, seeds=seeds,
            seed=seed, device=device, threads=threads, memory=memory, plot=plot, overwrite=overwrite, progress=progress, **read,
        )  # fmt: skip
    if json:
        console.write_json(boards if len(boards) > 1 else boards[0])
        return 0
    for board in boards:
        _print(board)
    return 0


def _forecasts(paths: list[str], unused: dict[str, Any], json: bool, **options: Any) -> int:
    """``--task forecast``."""
    from stimpute import api

    for name, value in unused.items():
        if value is not None:
            raise UsageError(f"--{name}: not for --task forecast; leave it out")
    with console.progress() as progress:
        boards = api.evaluate_forecasts(paths, progress=progress, **options)
    if json:
        console.write_json(boards if len(boards) > 1 else boards[0])
        return 0
    for board in boards:
        _print_forecasts(board)
    return 0


def _print_forecasts(board: ForecastBoard) -> None:
    from rich.table import Table

    t, ny, nx = board.shape
    unit = f" {board.units}" if board.units else ""
    console.write_text(
        f"{board.name}: {t} x {ny} x {nx}; {board.steps} steps ahead from {len(board.origins)} origins"
        f" (steps {board.origins[0]} to {board.origins[-1]}); errors in{unit or ' its own units'}"
    )
    leads = sorted({1, max(1, board.steps // 4), max(1, board.steps // 2), board.steps})
    table = Table()
    for name in (
        "method",
        "MAE",
        "RMSE",
        "90 % cov.",
        *(f"step {h}" for h in leads),
        "of best baseline",
        "s",
    ):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    best = min((r.scores.mae for r in board.rows if r.scores and r.scores.n), default=math.nan)
    for row in board.rows:
        if row.scores is None:
            table.add_row(row.method, *["-"] * (len(leads) + 4), f"{row.seconds:.1f}")
            continue
        star = "*" if row.scores.mae == best else ""
        by_lead = (_number(row.mae_by_lead[h - 1]) for h in leads)
        table.add_row(
            row.method, f"{_number(row.scores.mae)}{star}", _number(row.scores.rmse), _percent(row.scores.coverage), *by_lead,
            _number(board.ratio(row.method)), f"{row.seconds:.1f}",
        )  # fmt: skip
    console.write_table(table)
    for note in (*board.notes, *(f"{r.method}: {r.note}" for r in board.rows if r.note)):
        console.write_text(f"note: {note}")


def _refining(
    paths: list[str],
    task: str,
    factor: int | None,
    unused: dict[str, Any],
    json: bool,
    given: dict[str, Any],
    options: dict[str, Any],
) -> int:
    """``--task reconstruct``."""
    from stimpute import api

    if task != "reconstruct":
        raise UsageError(f"--task {task}: fill, reconstruct or forecast")
    if factor is None:
        raise UsageError("--task reconstruct needs --factor")
    for name, value in unused.items():
        if value is not None:
            raise UsageError(f"--{name}: not for --task reconstruct; leave it out")
    with console.progress() as progress:
        boards = api.evaluate_reconstruct(paths, factor=factor, progress=progress, **given, **options)
    if json:
        console.write_json(boards if len(boards) > 1 else boards[0])
        return 0
    for board in boards:
        _print_refining(board)
    return 0


def _print_refining(board: RefiningBoard) -> None:
    from rich.table import Table

    t, ny, nx = board.shape
    unit = f" {board.units}" if board.units else ""
    console.write_text(
        f"{board.name}: {t} x {ny} x {nx}, coarsened by {board.factor}, spread {board.spread:.4g}{unit}; all fine cells scored"
    )
    table = Table()
    for name in ("hidden", "method", "MAE", "RMSE", "bias", "R", "90 % cov.", "CRPS", "s", ""):
        table.add_column(
            name, justify="left" if name in {"hidden", "method", ""} else "right", no_wrap=bool(name)
        )
    for case in dict.fromkeys(row.case for row in board.rows):
        rows = [row for row in board.rows if row.case == case]
        best = min((row.scores.mae for row in rows if row.scores), default=math.nan)
        for row in rows:
            s = row.scores
            if s is None:
                table.add_row(case, row.method, *["-"] * 6, f"{row.seconds:.1f}", row.note)
                continue
            numbers = [_number(s.rmse), _number(s.bias), _number(s.r), _percent(s.coverage), _number(s.crps)]
            star = "*" if s.mae == best else ""
            table.add_row(
                case, row.method, f"{_number(s.mae)}{star}", *numbers, f"{row.seconds:.1f}", row.note
            )
        table.add_section()
    console.write_table(table)


def _print(board: Scoreboard) -> None:
    from rich.table import Table

    t, ny, nx = board.shape
    unit = f" {board.units}" if board.units else ""
    console.write_text(
        f"{board.name}: {t} x {ny} x {nx}, {board.missing:.1%} missing, spread {board.spread:.4g}{unit};"
        f" {board.share:.0%} of the observed cells hidden, {len(board.seeds)} repetition(s)"
    )
    table = Table()
    columns: tuple[str, ...] = (
        "hidden by",
        "method",
        "MAE",
        "RMSE",
        "bias",
        "MRE",
        "R",
        "90 % cov.",
        "CRPS",
        "cells",
        "s",
        "sees",
        "",
    )
    if not any(_remark(row) for row in board.rows):
        columns = columns[:-1]
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in {"hidden by", "method", "sees", ""} else "right",
            no_wrap=bool(name),
        )
    for kind in dict.fromkeys(row.kind for row in board.rows):
        rows = [row for row in board.rows if row.kind == kind]
        best = min((row.scores.mae for row in rows if row.scores and row.scores.n), default=math.nan)
        for row in rows:
            table.add_row(*_cells(row, best)[: len(columns)])
        table.add_section()
    console.write_table(table)
    if board.by:
        _print_bins(board)
    for method, ratio in board.ratios().items():
        if method in {"st", "st+fast", "st+adapt"}:
            console.write_text(
                f"MAE of {method} / best other method: {ratio:.3f} (geometric mean over the cases)"
            )
    for note in board.notes:
        console.write_text(f"note: {note}")


def _cells(row: Row, best: float) -> list[str]:
    if row.scores is None:
        return [row.kind, row.method, *["-"] * 8, f"{row.seconds:.1f}", "-", row.note]
    s = row.scores
    star = "*" if s.mae == best else ""
    numbers = [
        f"{_number(s.mae)}{star}",
        _number(s.rmse),
        _number(s.bias),
        _percent(s.mre),
        _number(s.r),
        _percent(s.coverage),
        _number(s.crps),
    ]
    return [
        row.kind,
        row.method,
        *numbers,
        f"{s.n:,}",
        f"{row.seconds:.1f}",
        "whole" if row.whole else "tiles",
        _remark(row),
    ]


def _remark(row: Row) -> str:
    if row.scores is not None and row.scores.not_estimated:
        return f"{row.scores.not_estimated:,} not estimated"
    return row.note


def _print_bins(board: Scoreboard) -> None:
    from rich.table import Table

    title = "distance to the nearest observation" if board.by == "distance" else "gap length"
    rows = [row for row in board.rows if row.bins]
    if not rows:
        return
    console.write_text(f"MAE by {title} ({board.bin_unit})")
    table = Table()
    table.add_column("hidden by")
    table.add_column("method")
    for b in rows[0].bins:
        table.add_column(
            f"{b.lower:.3g}-{b.upper:.3g}" if math.isfinite(b.upper) else f">= {b.lower:.3g}", justify="right"
        )
    for row in rows:
        table.add_row(row.kind, row.method, *(_number(b.scores.mae) if b.scores.n else "-" for b in row.bins))
    table.add_row("", "cells", *(f"{b.scores.n:,}" for b in rows[0].bins))
    console.write_table(table)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
