"""The methods that are compared: the package's own by name, and outside ones behind the same interface."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from rasterio.fill import fillnodata

from scoring.runs import code_digest
from stimpute.estimate import Estimate
from stimpute.inference.methods import method_names, open_method
from stimpute.pretrained.registry import DEFAULT_MODEL, load_model
from stimpute.protocols import Method
from stimpute.stack import Stack

HERO = "st"
FAST = "st-fast"  # `fill --fast`
ROOMS = ("classical", "inference", "layers", "model")  # whose code both of them are
GDAL = "gdal-fillnodata"
KRIGING_CELLS = 300_000


@dataclass(frozen=True)
class GdalFillnodata:
    """GDAL's ``gdal_fillnodata``, frame by frame, with the program's defaults (search 100 cells, no smoothing).

    The function behind the program (GDALFillNodata, inverse distance weighting) is called through rasterio, a program
    start per frame would take longer than the filling; a test holds it to the program. Frames without any observation
    stay empty. No scale.
    """

    name: str = GDAL
    sees_whole: bool = True
    bytes_per_cell: int = 16

    def prepare(self, overview: Stack) -> GdalFillnodata:
        """Nothing to freeze."""
        return self

    def impute(self, stack: Stack) -> Estimate:
        """Every frame on its own."""
        frames = [
            fillnodata(frame, mask=valid.astype(np.uint8) * 255, max_search_distance=100, smoothing_iterations=0)
            if valid.any()
            else frame
            for frame, valid in zip(stack.with_nan(), stack.valid, strict=True)
        ]  # fmt: skip
        return Estimate(np.stack(frames).astype(np.float32))


def names() -> tuple[str, ...]:
    """Every method, the pretrained model first."""
    return (*method_names(), FAST, GDAL)


def open_peer(name: str, model: str | None) -> Method:
    """A method ready to be prepared; ``model`` is used by ``st`` alone.

    Raises
    ------
    StimputeError : no such method or model.
    """
    if name == GDAL:
        return GdalFillnodata()
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    if name == FAST:
        return open_method(HERO, None, "cpu", threads=threads, fast=True)
    return open_method(name, model if name == HERO else None, "cpu", threads=threads)


def identity(name: str, model: str | None) -> str:
    """What a cached result of the method depends on: the code for ``st`` and ``st-fast``, for ``st`` the model's hash too, else nothing."""
    if name not in (HERO, FAST):
        return "-"
    code = code_digest(*ROOMS)
    return f"{load_model(model or DEFAULT_MODEL).sha256[:12]}-{code}" if name == HERO else code


def why_not(name: str, stack: Stack, kriging_cells: int = KRIGING_CELLS) -> str:
    """The reason for which a method is not run on a stack, empty if it is."""
    if name == "kriging" and stack.values.size > kriging_cells:
        return f"{stack.values.size:,} cell-steps: kriging is run on at most {kriging_cells:,}"
    return ""
