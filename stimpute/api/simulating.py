"""Where a world is made up: a gappy stack beside its truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from stimpute.api.values import as_typed
from stimpute.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

    from stimpute.synthetic.archives import SimulatedStack


@overload
def simulate(
    out: None = None,
    *,
    kind: str = "soil-moisture",
    shape: tuple[int, int, int] | str | None = None,
    seed: int = 0,
    missing: float | None = None,
    truth: str | Path | None = None,
    covariates: bool = False,
    overwrite: bool = False,
) -> tuple[xr.Dataset, xr.Dataset]: ...


@overload
def simulate(
    out: str | Path,
    *,
    kind: str = "soil-moisture",
    shape: tuple[int, int, int] | str | None = None,
    seed: int = 0,
    missing: float | None = None,
    truth: str | Path | None = None,
    covariates: bool = False,
    overwrite: bool = False,
) -> list[Path]: ...


@as_typed
def simulate(
    out: str | Path | None = None,
    *,
    kind: str = "soil-moisture",
    shape: tuple[int, int, int] | str | None = None,
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
    covariates : put what drives the simulation beside it (not in a GeoTIFF, and not of a kind that nothing drives).

    Returns
    -------
    the files written, or two Datasets where ``out`` is None.

    Raises
    ------
    StimputeError : what was wrong with which option, or with the output.
    """
    from stimpute.io.simulated import check_simulated, simulated_dataset, write_simulated

    for target in (out, truth):
        if target is not None and str(target) != "-":
            check_simulated(target, overwrite)
    if truth is not None and (out is None or str(truth) == "-" or Path(truth) == Path(out)):
        raise UsageError(f"--truth {truth}: a file of its own, beside an output")
    if covariates and Path(out or "").suffix in (".tif", ".tiff"):
        raise UsageError(
            f"--covariates: {out}, a GeoTIFF, holds one variable; leave it out, or write .nc or .zarr"
        )
    stack = _simulated(kind, seed, shape, missing)
    if covariates and not (stack.dynamic or stack.static):
        raise UsageError(f"--covariates: nothing drives --kind {kind}; leave it out")
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


def _simulated(kind: str, seed: int, shape: Any, missing: float | None) -> SimulatedStack:
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
