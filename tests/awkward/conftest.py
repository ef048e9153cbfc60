"""Filling an awkward file the way a user would, keeping what was said about it; every success is verified."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from stimpute import api
from stimpute.errors import StimputeWarning
from stimpute.inference.summary import FillSummary
from stimpute.io.verify import VerifyReport


@dataclass(frozen=True)
class Outcome:
    """A fill that went through: its output, summary, proof, and everything it warned of."""

    out: Path
    summary: FillSummary
    proof: VerifyReport
    warned: str

    @property
    def counts(self) -> tuple[int, int, int]:
        """(observed, filled, refused) over all layers, as the verification counts them."""
        return self.proof.total("observed"), self.proof.total("filled"), self.proof.total("refused")

    def stored(self, name: str) -> np.ndarray:
        """A variable of a NetCDF output as it is stored."""
        with netCDF4.Dataset(self.out) as file:
            file.set_auto_maskandscale(False)
            return np.asarray(file[name][...])


@pytest.fixture
def fill(tmp_path) -> Callable[..., Outcome]:
    """``fill(inputs, "out.nc", **options)`` with a quick method; then ``verify``, which must find nothing."""

    def run(
        inputs: Any, out: str = "out.nc", *, proof: dict[str, Any] | None = None, **options: Any
    ) -> Outcome:
        target = tmp_path / out
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            summary = api.fill(inputs, target, **{"method": "linear", **options})
        strangers = [str(w.message) for w in caught if not issubclass(w.category, StimputeWarning)]
        assert not [s for s in strangers if "matmul" not in s]
        named = {k: options[k] for k in ("nodata",) if k in options} | (proof or {})
        report = api.verify(inputs, target, **named)
        assert report.differences == ()
        said = "\n".join(str(w.message) for w in caught if issubclass(w.category, StimputeWarning))
        return Outcome(target, summary, report, said)

    return run


@pytest.fixture
def refuses(tmp_path) -> Callable[..., str]:
    """``refuses(inputs, **options)``: the one-line error, after checking that nothing was written."""

    def run(inputs: Any, out: str = "out.nc", **options: Any) -> str:
        from stimpute.errors import StimputeError

        before = set(tmp_path.rglob("*"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(StimputeError) as caught:
                api.fill(inputs, tmp_path / out, **{"method": "linear", **options})
        assert set(tmp_path.rglob("*")) == before
        return str(caught.value)

    return run
