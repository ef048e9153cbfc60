"""Where training and inference meet: train a model, or adapt one to the stack it is about to fill."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from stimpute.api.keywords import Progress, TrainKeywords, as_inputs, check_known, given_of, read_options
from stimpute.api.values import as_typed
from stimpute.errors import ModelError, OutputError, StimputeWarning, UsageError

if TYPE_CHECKING:
    from stimpute.api.keywords import Inputs
    from stimpute.inference.methods import PretrainedMethod
    from stimpute.inference.partial import Partial
    from stimpute.protocols import Source
    from stimpute.training.adaptation import AdaptOptions
    from stimpute.training.archive import Archive
    from stimpute.training.diffusion_loop import DiffusionSummary
    from stimpute.training.options import TrainProgress, TrainSummary


@as_typed
def train(
    archives: Inputs,
    out: str | Path,
    *,
    progress: Callable[[Any], None] | None = None,
    **options: Unpack[TrainKeywords],
) -> TrainSummary | DiffusionSummary:
    """Specialise or train a model on archives (files, xarray objects, ``.npz``), on simulated worlds, or on both.

    Parameters
    ----------
    archives : may be an empty list where ``worlds`` is 1.
    out : the model to write, ``.safetensors``; its card and log beside it.
    progress : called after every step.
    options : as on the command line, with ``_`` for ``-``; ``start`` is ``--from``, ``task`` what the model is for.

    Returns
    -------
    TrainSummary or DiffusionSummary : ``path``, ``steps``, ``minutes`` and the ``card`` of the model.

    Raises
    ------
    UsageError : an option that does not fit.
    InputError, OutputError : an archive cannot be read, the model not be written.
    DivergenceError : the training ran away; what it started from is untouched.
    """
    check_known(options, TrainKeywords, "train")
    from stimpute.training.forecasting import train_forecaster
    from stimpute.training.loop import run_training

    task = options.get("task", "fill")
    if task not in ("fill", "reconstruct", "forecast"):
        raise UsageError(f"--task {task}: fill, reconstruct or forecast")
    _check_task(options)
    paths = [] if isinstance(archives, list | tuple) and not archives else as_inputs(archives)
    _check_model_path(Path(out), options.get("overwrite", False), options.get("resume", False))
    loaded = _archives(paths, options)
    if task == "reconstruct":
        from stimpute.api.diffusing import train_reconstructor

        return train_reconstructor(loaded, Path(out), options, progress)
    learn = train_forecaster if task == "forecast" else run_training
    return learn(_train_options(Path(out), loaded, options), loaded, progress)


_OF_FILLING: Mapping[str, Any] = {
    "attention": None, "window": None, "spatial_embedding": False, "covariate": (),
}  # fmt: skip


def _check_task(options: Mapping[str, Any]) -> None:
    """Refuse options of another task."""
    if options.get("task", "fill") != "reconstruct" and options.get("factor") is not None:
        raise UsageError("--factor: only for --task reconstruct; leave it out")
    if options.get("task", "fill") == "forecast":
        given = given_of(options, _OF_FILLING)
        if given or options.get("size", "small") == "paper":
            raise UsageError(
                f"--task forecast: --{(given or ['size paper'])[0].replace('_', '-')} is of the task fill; leave it out"
            )
    elif options.get("horizon") is not None:
        raise UsageError("--horizon belongs to --task forecast")


def _check_model_path(out: Path, overwrite: bool, resume: bool) -> None:
    if out.suffix != ".safetensors":
        raise UsageError(f"-o {out}: a model ends in .safetensors")
    if not out.parent.is_dir():
        raise OutputError(f"{out}: no folder {out.parent}; create it first")
    interrupted = out.with_name(f"{out.name}.stimpute-training").exists()
    if out.exists() and not overwrite and not (resume and interrupted):
        nothing = "no interrupted run to resume, and the model " if resume else ""
        raise OutputError(f"{out}: {nothing}already exists; --overwrite replaces it")
    if resume and not interrupted:
        warnings.warn(
            f"--resume: no interrupted run of {out} (no {out.name}.stimpute-training beside it); starting from the beginning",
            StimputeWarning, stacklevel=3,
        )  # fmt: skip


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

        with io.open_source([item] if isinstance(item, Path) else item, read_options(options)) as source:
            io.read_observed_only(source)
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
    _check_numbers(options)
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
    if options.get("task") == "forecast":
        return _forecast_options(out, options, share, settings)
    feed: dict[str, Any] = {"world_share": share}
    if options.get("batch") is not None:
        feed["shapes"] = tuple((options["batch"], *shape[1:]) for shape in FeedOptions().shapes)
    try:
        config = _model_config(archives, options)
        if config.covariates or config.spatial_embedding:  # made for these archives, as they are
            feed["augment"] = "none"
        return TrainOptions(out, config, feed=FeedOptions(**feed), **settings)
    except (ValueError, ModelError) as error:
        raise UsageError(f"train: {error}") from error


def _check_numbers(options: TrainKeywords) -> None:
    """Refuse numbers that no run can have, by the names of their options."""
    for name, number in (("steps", options.get("steps")), ("batch", options.get("batch"))):
        if number is not None and number < 1:
            raise UsageError(f"--{name} {number}: at least 1")
    minutes, share = options.get("minutes"), options.get("val_fraction")
    if minutes is not None and not minutes > 0:
        raise UsageError(f"--minutes {minutes:g}: more than 0")
    if share is not None and not 0 <= share < 0.5:
        raise UsageError(f"--val-fraction {share:g}: from 0 to below 0.5")
    if options.get("start") is not None and options.get("size", "small") != "small":
        raise UsageError(
            f"--size {options['size']}: --from goes on with the size of its model; leave --size out"
        )


def _forecast_options(out: Path, options: Mapping[str, Any], share: float, settings: dict[str, Any]) -> Any:
    from stimpute.forecasting.config import ForecastConfig
    from stimpute.training.forecasting import ForecastFeedOptions
    from stimpute.training.options import TrainOptions

    feed: dict[str, Any] = {"world_share": share}
    if options.get("batch") is not None:
        feed["batch"] = options["batch"]
    if options.get("horizon") is not None:
        if not options["horizon"] or min(options["horizon"]) < 1:
            raise UsageError(f"--horizon {','.join(map(str, options['horizon']))}: at least 1 step each")
        feed["horizons"] = tuple(options["horizon"])
    shape: dict[str, Any] = {"embed_dim": 96} if options.get("size") == "base" else {}
    if options.get("width") is not None:
        shape["embed_dim"] = options["width"]
    if options.get("depth") is not None:
        shape["sides"] = tuple(4 * 2**i for i in range(options["depth"]))
    if shape and options.get("start") is not None:
        raise UsageError(
            f"--from {options['start']} brings its own architecture; leave out --size, --width, --depth"
        )
    settings.setdefault("val_fraction", 0.1)
    settings |= {"reuse": 4, "val_examples": 6, "average": 0.99}
    try:
        return TrainOptions(out, ForecastConfig(**shape), feed=ForecastFeedOptions(**feed), **settings)
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


# --- adapting ---------------------------------------------------------------------------------------------------------


def adapt_budget(
    adapt: float | str | None, method: str, fast: bool = False
) -> tuple[float | None, int | None] | None:
    """(minutes, steps) of ``--adapt``, one of them None; None where nothing is to be adapted.

    Raises
    ------
    UsageError : no budget, or a method that learns nothing, as ``st`` does if it is ``fast``.

    >>> adapt_budget(2, "st"), adapt_budget("300steps", "st"), adapt_budget(None, "linear")
    ((2.0, None), (None, 300), None)
    """
    if adapt is None:
        return None
    if method != "st":
        raise UsageError(
            f"--adapt {adapt}: method {method} has no model to adapt; leave --adapt out or use --method st"
        )
    if fast:
        raise UsageError(f"--adapt {adapt}: --fast leaves the network out; leave one of them out")
    steps = re.fullmatch(r"(\d+) ?steps?", str(adapt).strip())
    if steps and int(steps[1]) > 0:
        return None, int(steps[1])
    try:
        minutes = float(adapt)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise UsageError(f"--adapt {adapt}: minutes above 0, such as 2, or steps, such as 300steps")
    return minutes, None


def adapt_method(
    source: Source,
    method: PretrainedMethod,
    budget: tuple[float | None, int | None],
    *,
    seed: int = 0,
    memory: int | None = None,
    progress: Progress | None = None,
) -> PretrainedMethod:
    """The method with its model adapted to a stack, or as it is where that is not better; its ``adaptation`` tells.

    Parameters
    ----------
    budget : of :func:`adapt_budget`.
    memory : bytes the run may use for arrays; bounds what is read to learn from.
    """
    from stimpute.inference.methods import PretrainedMethod
    from stimpute.inference.summary import Adaptation
    from stimpute.training.adaptation import adapt, read_archives

    def show(now: TrainProgress) -> None:
        if progress:
            progress("adapt", int(1000 * now.fraction), 1000)

    archives = read_archives(source, _cells(memory), seed)
    done = adapt(method.model, archives, _adapt_options(method, budget, seed), show)
    summary, start = done.summary, method.model
    before, after = (None, None) if summary is None else (summary.start, summary.best)
    adaptation = Adaptation(
        start=start.name, start_sha256=start.sha256, kept=done.kept, minutes=0.0 if summary is None else round(summary.minutes, 3),
        steps=0 if summary is None else summary.steps,
        best_step=summary.card["scores"]["best_step"] if summary is not None and done.kept else 0,
        stopped_early=summary is not None and summary.stopped_early, error_before=None if before is None else before.mae,
        error_after=None if after is None else after.mae, optimism=round(done.optimism, 4), windows=len(archives), cells=sum(a.values.size for a in archives), diverged=done.diverged,
    )  # fmt: skip
    if before is None:
        warnings.warn(adaptation.sentence, StimputeWarning, stacklevel=2)
    return PretrainedMethod(done.model, method.device, method.precision, adaptation)


def adapt_once(
    source: Source, method: PretrainedMethod, budget: tuple[float | None, int | None], partial: Partial | None, **more: Any
) -> PretrainedMethod:  # fmt: skip
    """:func:`adapt_method`, or the model as it was adapted before the fill was interrupted."""
    from stimpute.inference.methods import PretrainedMethod
    from stimpute.inference.summary import Adaptation
    from stimpute.pretrained.registry import load_model, save_copy

    folder = None if partial is None else partial.folder / "adapted"
    if folder is not None and (folder / "adaptation.json").exists():
        known = json.loads((folder / "adaptation.json").read_text(encoding="utf-8"))
        adaptation = Adaptation(**known["adaptation"])
        model = load_model(folder / known["weights"]) if adaptation.kept else method.model
        return PretrainedMethod(model, method.device, method.precision, adaptation)
    adapted = adapt_method(source, method, budget, **more)
    if folder is not None and adapted.adaptation is not None:
        folder.mkdir(exist_ok=True)
        weights = save_copy(adapted.model, folder).name if adapted.adaptation.kept else None
        facts = {"adaptation": asdict(adapted.adaptation), "weights": weights}
        (folder / "adaptation.tmp").write_text(json.dumps(facts), encoding="utf-8")
        (folder / "adaptation.tmp").replace(folder / "adaptation.json")
    return adapted


def planned_adaptation(
    source: Source, budget: tuple[float | None, int | None], seed: int = 0, memory: int | None = None
) -> str:
    """What :func:`adapt_method` would do, in words."""
    from stimpute.training.adaptation import WINDOWS, layer_windows

    parts = []
    for index, layer in enumerate(source.layers):
        windows = layer_windows(source, index, _cells(memory), seed)
        t, y, x = windows[0].shape
        count = min(WINDOWS, len(windows))
        where = "the whole stack" if count == 1 else f"{count} windows of about {t} x {y} x {x}"
        parts.append(f"{where} ({layer.name})")
    minutes, steps = budget
    spent = f"{steps} steps" if minutes is None else f"{minutes:g} min"
    return f"{spent} of training on {', '.join(parts)} before filling, besides the time above; kept only if better; not done in a dry run"


def _cells(memory: int | None) -> int:
    from stimpute.training.adaptation import CELLS

    return CELLS if memory is None else max(2**16, min(CELLS, memory // 64))


def _adapt_options(
    method: PretrainedMethod, budget: tuple[float | None, int | None], seed: int
) -> AdaptOptions:
    from stimpute.training.adaptation import AdaptOptions

    minutes, steps = budget
    return AdaptOptions(minutes, steps, seed=seed, device=str(method.device), precision=method.precision)
