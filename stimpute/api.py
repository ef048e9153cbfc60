"""One function per command: xarray objects or paths in, a Dataset, a summary or a table out. Knows how the rooms join.

Everything heavy is imported inside the functions, so that importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from stimpute.errors import InputError, ModelError, OutputError, UsageError

if TYPE_CHECKING:
    import xarray as xr

    from stimpute.evaluation.scoreboard import Scoreboard
    from stimpute.inference.options import FillOptions
    from stimpute.inference.plan import FillPlan
    from stimpute.inference.summary import FillSummary
    from stimpute.io import ReadOptions, SinkOptions
    from stimpute.io.verify import VerifyReport
    from stimpute.protocols import Source
    from stimpute.synthetic.archives import SimulatedStack
    from stimpute.training.archive import Archive
    from stimpute.training.options import TrainProgress, TrainSummary

    Inputs = str | Path | Sequence[str | Path] | xr.Dataset | xr.DataArray

Progress = Callable[[str, int, int], None]


class ReadKeywords(TypedDict, total=False):
    """How inputs are read; the command line's options of the same names."""

    var: str | Sequence[str]
    bbox: tuple[float, float, float, float] | None
    bbox_crs: str | None
    time: tuple[str, str] | None
    covariate: str | Sequence[str]
    nodata: float | Sequence[float]
    date_format: str | None
    times: str | Path | Sequence[str] | None
    dedupe: Literal["first", "last", "mean"] | None
    regular: bool
    domain: str | None
    qc: bool
    force: bool
    no_wrap: bool


class FillKeywords(ReadKeywords, total=False):
    """How a stack is filled and written; the command line's options of the same names."""

    method: str
    model: str | None
    fill_never_observed: bool
    max_gap: float | None
    min_obs: float | None
    uncertainty: bool
    quantiles: Sequence[float]
    flags: bool
    plot: str | Path | None
    bounds: tuple[float | None, float | None] | Literal["auto"] | None
    dtype: str | None
    of: Literal["NetCDF", "NetCDF3", "Zarr", "GeoTIFF", "COG"] | None
    co: Mapping[str, str]
    device: str
    precision: Literal["fp32", "bf16"]
    threads: int | None
    tile: int | None
    overlap: int | None
    memory: int | None
    overwrite: bool
    seed: int


def fill(
    x: Inputs,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    command: str = "",
    **options: Unpack[FillKeywords],
) -> Any:
    """Fill the gaps of a stack.

    Parameters
    ----------
    x : a path, several paths of one stack, or an xarray object.
    out : where to write; None returns the filled Dataset (with ``NAME_fill_flag`` and ``NAME_standard_error``).
    progress : called with (stage, done, total).
    command : recorded in ``history``.
    options : as on the command line, with ``_`` for ``-``; ``max_gap`` in days, ``memory`` in bytes, ``co`` a mapping.

    Returns
    -------
    xarray.Dataset where ``out`` is None, else a :class:`~stimpute.inference.summary.FillSummary`.

    Raises
    ------
    StimputeError : what was wrong, in which file, what to do.
    """
    _known(options, FillKeywords, "fill")
    from stimpute import io
    from stimpute.inference.engine import fill_source
    from stimpute.inference.memory import RecordingSink

    run, writing, reading = _run_options(options), _sink_options(options), _read_options(options)
    inputs = _inputs(x)
    plot = _picture(
        options.get("plot"), writing.overwrite, [*_paths(inputs), *_beside(reading), *([out] if out else [])]
    )
    if out is not None:
        io.check_output(out, _paths(inputs), writing.overwrite)
        io.check_spared(out, _beside(reading))
    method = _method(options)
    with io.open_source(inputs, reading) as source:
        sink = io.create_sink(out, source, writing)
        recorder = RecordingSink(sink, source) if plot else sink
        with recorder:
            summary = fill_source(source, recorder, method, run, progress, command)
        if isinstance(recorder, RecordingSink) and plot is not None:
            _draw_fill(recorder, source, summary, plot)
    return getattr(sink, "dataset") if out is None else summary  # noqa: B009


def plan(
    x: Inputs,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[FillKeywords],
) -> FillPlan:
    """What :func:`fill` would do (``fill --dry-run``): checks, gaps, variogram, tiles, memory, disk, time. Writes nothing."""
    _known(options, FillKeywords, "plan")
    from stimpute import io
    from stimpute.inference.plan import plan_fill

    run, writing, reading = _run_options(options), _sink_options(options), _read_options(options)
    inputs = _inputs(x)
    _picture(
        options.get("plot"), writing.overwrite, [*_paths(inputs), *_beside(reading), *([out] if out else [])]
    )
    if out is not None:
        io.check_output(out, _paths(inputs), writing.overwrite)
        io.check_spared(out, _beside(reading))
    method = _method(options)
    with io.open_source(inputs, reading) as source:
        return plan_fill(source, method, run, io.describe(source), progress)


def info(x: Inputs, **options: Unpack[ReadKeywords]) -> dict[str, Any]:
    """What is in a stack: format, layers, CRS, time axis, and per layer how much is missing and where.

    Without ``var`` every variable that could be filled is described.
    """
    _known(options, ReadKeywords, "info")
    from stimpute import io
    from stimpute.inference.statistics import layer_statistics

    if "var" not in options:
        options["var"] = "all"
    with io.open_source(_inputs(x), _read_options(options)) as source:
        described = io.describe(source)
        statistics = [layer_statistics(source, index).to_dict() for index in range(len(source.layers))]
    return {**described, "statistics": statistics}


def variogram(
    x: Inputs,
    *,
    plot: str | Path | None = None,
    estimator: str = "cressie",
    seed: int = 0,
    overwrite: bool = False,
    **options: Unpack[ReadKeywords],
) -> list[dict[str, Any]]:
    """Spatial and temporal variogram of every layer, their fits, and the tile they imply.

    Raises
    ------
    VariogramError : no pairs, or no variance.
    """
    _known(options, ReadKeywords, "variogram")
    from stimpute import io
    from stimpute.inference.statistics import layer_variogram

    if estimator not in ("cressie", "matheron"):
        raise UsageError(f"--estimator {estimator}: cressie or matheron")
    picture = _picture(plot, overwrite, _paths(_inputs(x)))
    found = []
    with io.open_source(_inputs(x), _read_options(options)) as source:
        for index, layer in enumerate(source.layers):
            result = layer_variogram(source, index, matheron=estimator == "matheron", seed=seed)
            if picture and index == 0:
                from stimpute.report.variogram_picture import draw_variogram

                draw_variogram(result.analysis, layer.name, layer.units, picture)
            found.append(result.to_dict())
    return found


def evaluate(
    x: Inputs,
    *,
    holdout: str | Sequence[str] = "gap",
    share: float = 0.2,
    methods: Sequence[str] | None = None,
    model: str | None = None,
    by: Any = None,
    seeds: int = 1,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    memory: int | None = None,
    plot: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ReadKeywords],
) -> list[Scoreboard]:
    """Hide observed cells, run every method without them, score what it says there: one scoreboard per layer.

    Parameters
    ----------
    holdout : pattern(s): pixel, gap, block, frames, swath, value.
    by : also score by ``distance`` to the nearest observation, or by gap ``length``.
    methods : names; None: all, the pretrained network included.
    seeds : how many repetitions, with seeds ``seed``, ``seed + 1``, ...
    """
    _known(options, ReadKeywords, "evaluate")
    from stimpute import io
    from stimpute.evaluation.sample import sampled_stack
    from stimpute.evaluation.scoreboard import EvaluateOptions
    from stimpute.evaluation.scoreboard import evaluate as evaluate_stack
    from stimpute.inference.methods import method_names, open_method

    kinds: Any = tuple([holdout] if isinstance(holdout, str) else holdout)
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least 1")
    chosen = EvaluateOptions(kinds, share, tuple(range(seed, seed + seeds)), by, memory=memory)
    names = tuple(methods) if methods else method_names()
    for name in names:
        if name not in method_names():
            raise UsageError(f"--methods {name}: some of {', '.join(method_names())}")
    if model is not None and "st" not in names:
        raise UsageError(f"--model {model}: without method st among --methods it has no effect")
    picture = _picture(plot, overwrite, _paths(_inputs(x)))

    def maker(name: str) -> Callable[[], Any]:
        return lambda: open_method(name, model if name == "st" else None, device, threads=threads)

    boards = []
    with io.open_source(_inputs(x), _read_options(options)) as source:
        for index, layer in enumerate(source.layers):
            stack, notes = sampled_stack(source, index, chosen.max_cells, memory)
            board = evaluate_stack(stack, layer, [(n, maker(n)) for n in names], chosen, progress, notes)
            boards.append(board)
            if picture and index == 0:
                from stimpute.report.evaluation_picture import draw_evaluation

                draw_evaluation(board, picture)
    return boards


def verify(
    x: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    nodata: float | Sequence[float] = (),
    var: str | Sequence[str] = (),
) -> VerifyReport:
    """Compare a filled output with what it was made from: observed cells, CRS, times, attributes; count what was filled."""
    from stimpute.io.inputs import expand_inputs
    from stimpute.io.verify import verify as compare

    return compare(expand_inputs(_inputs(x)), out, nodata=_tuple(nodata), variables=_tuple(var))


def models(name: str | Path | None = None) -> list[dict[str, Any]]:
    """The cards of the shipped models, or of one model by name or path; each with its ``path``."""
    from stimpute.pretrained.checkpoint import read_card
    from stimpute.pretrained.registry import find_model, list_models

    if name is not None:
        path = find_model(name)
        return [{"path": str(path), **read_card(path)}]
    return [{"path": str(entry.path), **entry.card, "name": entry.name} for entry in list_models()]


def simulate(
    out: str | Path | None = None,
    *,
    kind: str = "soil-moisture",
    shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    missing: float | None = None,
    truth: str | Path | None = None,
    covariates: bool = False,
    overwrite: bool = False,
) -> Any:
    """A realistic gappy stack with its truth, seeded.

    Parameters
    ----------
    out : where to write (``.nc``, ``.zarr``, ``.tif``, ``-``); None returns (gappy Dataset, truth Dataset).
    kind : soil-moisture, ndvi, sst, lst or rain.
    shape : (time, y, x); None: the kind's own.
    missing : share of gaps, for soil-moisture (default 0.9).
    truth : where to write what is under the gaps.
    covariates : put what drives the simulation beside it.

    Returns
    -------
    the files written, or two Datasets where ``out`` is None.
    """
    from stimpute.io.simulated import check_simulated, simulated_dataset, write_simulated

    for target in (out, truth):
        if target is not None and str(target) != "-":
            check_simulated(target, overwrite)
    if truth is not None and (out is None or str(truth) == "-" or Path(truth) == Path(out)):
        raise UsageError(f"--truth {truth}: a file of its own, beside an output")
    stack = _simulated(kind, seed, shape, missing)
    gappy = simulated_dataset(stack, covariates=covariates)
    if out is None:
        return gappy, simulated_dataset(stack, truth=True)
    written = []
    if str(out) == "-":
        from stimpute.io import streams

        streams.write_dataset(gappy)
    else:
        written.append(write_simulated(gappy, stack.name, out, overwrite=overwrite))
    if truth is not None:
        written.append(
            write_simulated(simulated_dataset(stack, truth=True), stack.name, truth, overwrite=overwrite)
        )
    return written


def _simulated(
    kind: str, seed: int, shape: tuple[int, int, int] | None, missing: float | None
) -> SimulatedStack:
    from stimpute.synthetic.archives import STACK_KINDS, gappy_stack, smap_like

    if kind not in STACK_KINDS:
        raise UsageError(f"--kind {kind}: one of {', '.join(STACK_KINDS)}")
    if shape is not None and (len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < 2):
        raise UsageError(f"--shape {shape}: time, y, x; at least 1 step and 2 x 2 cells")
    if missing is None:
        return gappy_stack(kind, seed, shape)
    if kind != "soil-moisture":
        raise UsageError(
            f"--missing {missing:g}: only for --kind soil-moisture; the gaps of {kind} are as they come"
        )
    if not 0 < missing < 1:
        raise UsageError(f"--missing {missing:g}: a share between 0 and 1")
    return smap_like(seed, shape or (365, 36, 36), missing)


class TrainKeywords(ReadKeywords, total=False):
    """How a model is trained; the command line's options of the same names."""

    val_fraction: float
    minutes: float | None
    steps: int | None
    size: Literal["small", "base", "paper"]
    attention: Literal["msa", "swmsa", "sba"] | None
    window: int | None
    depth: int | None
    width: int | None
    spatial_embedding: bool
    batch: int | None
    lr: float | None
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    threads: int | None
    seed: int
    start: str | Path | None
    resume: bool
    worlds: float | None
    overwrite: bool


def train(
    archives: Inputs,
    out: str | Path,
    *,
    progress: Callable[[TrainProgress], None] | None = None,
    **options: Unpack[TrainKeywords],
) -> TrainSummary:
    """Specialise or train a model on archives (files, xarray objects, ``.npz``), on simulated worlds, or on both.

    Parameters
    ----------
    archives : may be an empty list where ``worlds`` is 1.
    out : the model to write, ``.safetensors``; its card and log beside it.
    progress : called after every step.
    options : as on the command line; ``start`` is ``--from``.
    """
    _known(options, TrainKeywords, "train")
    from stimpute.training.loop import run_training

    paths = [] if isinstance(archives, list | tuple) and not archives else _inputs(archives)
    _check_model_path(Path(out), options.get("overwrite", False), options.get("resume", False))
    loaded = _archives(paths, options)
    return run_training(_train_options(Path(out), loaded, options), loaded, progress)


def _check_model_path(out: Path, overwrite: bool, resume: bool) -> None:
    if out.suffix != ".safetensors":
        raise UsageError(f"-o {out}: a model ends in .safetensors")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: no folder {out.parent}; create it first")
    interrupted = out.with_name(f"{out.name}.stimpute-training").exists()
    if out.exists() and not overwrite and not (resume and interrupted):
        nothing = "no interrupted run to resume, and the model " if resume else ""
        raise OutputError(f"{out}: {nothing}already exists; --overwrite replaces it")


def _archives(inputs: Any, options: TrainKeywords) -> list[Archive]:
    """Every input an archive of its own; a file with several variables gives one per layer."""
    from stimpute.training.archive import Archive, read_npz

    archives = []
    for item in inputs if isinstance(inputs, list) else [inputs]:
        if isinstance(item, Path) and item.suffix == ".npz":
            archives.append(read_npz(item))
            continue
        from stimpute import io
        from stimpute.protocols import Window

        with io.open_source([item] if isinstance(item, Path) else item, _read_options(options)) as source:
            for index, layer in enumerate(source.layers):
                name = f"{source.paths[0]}:{layer.name}" if source.paths else layer.name
                archives.append(
                    Archive.from_stack(Path(name).name, source.read(Window.whole(layer.shape), index))
                )
    return archives


def _train_options(out: Path, archives: Sequence[Archive], options: TrainKeywords) -> Any:
    from stimpute.training.feed import FeedOptions
    from stimpute.training.options import TrainOptions

    worlds = options.get("worlds")
    share = (0.0 if archives else 1.0) if worlds is None else worlds
    if not 0 <= share <= 1:
        raise UsageError(f"--worlds {share:g}: a share between 0 and 1")
    if share < 1 and not archives:
        raise UsageError(
            "no archive to train on; give files, or --worlds 1 to train on simulated worlds alone"
        )
    steps, minutes = options.get("steps"), options.get("minutes")
    settings: dict[str, Any] = {
        "start": options.get("start"), "steps": steps, "minutes": 10.0 if steps is None and minutes is None else minutes,
        "resume": options.get("resume", False), "device": options.get("device", "auto"), "seed": options.get("seed", 0),
        "precision": options.get("precision", "auto"),
    }  # fmt: skip
    given: Mapping[str, Any] = options
    settings |= {name: given[name] for name in ("lr", "val_fraction") if given.get(name) is not None}
    if options.get("threads") is not None:
        from stimpute.inference.devices import choose_device

        choose_device("cpu", options["threads"])
    feed: dict[str, Any] = {"world_share": share}
    if options.get("batch") is not None:
        feed["shapes"] = tuple((options["batch"], *shape[1:]) for shape in FeedOptions().shapes)
    try:
        return TrainOptions(out, _model_config(archives, options), feed=FeedOptions(**feed), **settings)
    except (ValueError, ModelError) as error:
        raise UsageError(f"train: {error}") from error


def _model_config(archives: Sequence[Archive], options: Mapping[str, Any]) -> Any:
    from stimpute.model.config import ModelConfig

    sizes = {"small": ModelConfig.small, "base": ModelConfig.base, "paper": ModelConfig.paper}
    size = options.get("size", "small")
    if size not in sizes:
        raise UsageError(f"--size {size}: one of {', '.join(sizes)}")
    names = {"attention": "attention", "window": "window_size", "depth": "depth", "width": "embed_dim"}
    changes: dict[str, Any] = {
        field: options[key] for key, field in names.items() if options.get(key) is not None
    }
    if "window_size" in changes:
        changes["shift_size"] = changes["window_size"] // 2
    if changes and options.get("start") is not None:
        given = ", ".join(f"--{key}" for key in names if options.get(key) is not None)
        raise UsageError(f"--from {options['start']} brings its own architecture; leave out {given}")
    if size == "paper" and options.get("covariate"):
        changes["covariates"] = tuple(sorted({name for a in archives for name in (*a.dynamic, *a.static)}))
    if options.get("spatial_embedding"):
        grids = {archive.shape[1:] for archive in archives}
        if len(grids) != 1:
            raise UsageError("--spatial-embedding needs archives that share one grid")
        changes["spatial_embedding"] = grids.pop()
    return sizes[size](**changes)


# --- from keywords to the rooms' own options ------------------------------------------------------------------------


def _known(options: Mapping[str, Any], keywords: Any, function: str) -> None:
    unknown = sorted(set(options) - set(keywords.__annotations__) - set(ReadKeywords.__annotations__))
    if unknown:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


def _tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Path | int | float) else tuple(value)


def _inputs(x: Any) -> Any:
    """Paths as a list; an xarray object as it is."""
    if isinstance(x, str | Path):
        return [x if str(x) == "-" else Path(x) if isinstance(x, str) and not _is_address(x) else x]
    if isinstance(x, list | tuple):
        if not x:
            raise UsageError("no input given")
        return [
            Path(item) if isinstance(item, str) and item != "-" and not _is_address(item) else item
            for item in x
        ]
    return x


def _is_address(text: str) -> bool:
    return "://" in text or text.startswith(("/vsi", "@"))


def _paths(inputs: Any) -> list[Any]:
    return inputs if isinstance(inputs, list) else []


def _read_options(options: Mapping[str, Any]) -> ReadOptions:
    from stimpute.io import ReadOptions

    return ReadOptions(
        variables=_tuple(options.get("var")), bbox=options.get("bbox"), bbox_crs=options.get("bbox_crs"),
        time=options.get("time"), covariates=_tuple(options.get("covariate")), nodata=_tuple(options.get("nodata")),
        date_format=options.get("date_format"), times=_times(options.get("times")), dedupe=options.get("dedupe"),
        regular=options.get("regular", False), domain=options.get("domain"), qc=options.get("qc", False),
        force=options.get("force", False), wrap=not options.get("no_wrap", False),
    )  # fmt: skip


def _times(times: Any) -> tuple[str, ...] | None:
    """Labels as given, or one per line (or comma) of a text file."""
    if times is None:
        return None
    if isinstance(times, str | Path):
        path = Path(times)
        text = str(times) if not path.is_file() else path.read_text(encoding="utf-8")
        labels = tuple(
            label
            for line in text.splitlines()
            for label in (part.strip() for part in line.split(","))
            if label
        )
        if not labels:
            raise InputError(f"{times}: no time labels in it")
        return labels
    return tuple(str(label) for label in times)


def _sink_options(options: FillKeywords) -> SinkOptions:
    from stimpute.io import SinkOptions

    return SinkOptions(
        format=options.get("of"), flags=options.get("flags", True), uncertainty=options.get("uncertainty", True),
        quantiles=tuple(options.get("quantiles", ())), dtype=options.get("dtype"), creation=options.get("co", {}),
        overwrite=options.get("overwrite", False),
    )  # fmt: skip


def _run_options(options: FillKeywords) -> FillOptions:
    from stimpute.inference.options import FillOptions

    quantiles, uncertainty = tuple(options.get("quantiles", ())), options.get("uncertainty", True)
    if quantiles and not uncertainty:
        raise UsageError("--quantiles need the uncertainty; leave out --no-uncertainty")
    return FillOptions(
        tile=options.get("tile"), overlap=options.get("overlap"), memory=options.get("memory"),
        bounds=options.get("bounds", "auto"), quantiles=quantiles, uncertainty=uncertainty,
        fill_never_observed=options.get("fill_never_observed", False), max_gap_days=options.get("max_gap"),
        min_obs=options.get("min_obs"), seed=options.get("seed", 0),
    )  # fmt: skip


def _method(options: FillKeywords) -> Any:
    from stimpute.inference.methods import open_method

    return open_method(
        options.get("method", "st"), options.get("model"), options.get("device", "auto"),
        options.get("precision", "fp32"), options.get("threads"),
    )  # fmt: skip


def _beside(reading: ReadOptions) -> list[str]:
    """What is read besides the inputs."""
    return [*reading.covariates, *([reading.domain] if reading.domain else [])]


def _picture(plot: str | Path | None, overwrite: bool, others: Sequence[str | Path] = ()) -> Path | None:
    """Where to draw: a path of its own, neither read nor written otherwise."""
    if plot is None:
        return None
    from stimpute.report.canvas import check_picture

    path = check_picture(plot)
    for other in others:
        if path.resolve() == Path(other).resolve():
            raise OutputError(f"--plot {path}: is {other}; the picture needs another name")
    if path.exists() and not overwrite:
        raise OutputError(f"--plot {path}: already exists; --overwrite replaces it")
    return path


def _draw_fill(recorder: Any, source: Source, summary: FillSummary, path: Path) -> None:
    from stimpute.report.fill_picture import FilledStack, draw_fill

    layer = source.layers[0]
    draw_fill(
        FilledStack(
            layer.name, layer.units, recorder.grid, source.times, source.time_labels, recorder.before, recorder.after,
            recorder.standard_error, recorder.flag, summary.model or summary.method,
        ),
        path,
    )  # fmt: skip
