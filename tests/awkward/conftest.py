"""Filling an awkward file the way a user would: the real command line, its exit code, what it said; every success is verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest

from stimpute.cli import run
from stimpute.io.verify import LayerCount


@dataclass(frozen=True)
class Outcome:
    """A fill that went through: its output, summary, proof, and everything it warned of."""

    out: Path
    summary: dict[str, Any]
    layers: tuple[LayerCount, ...]
    warned: str

    @property
    def counts(self) -> tuple[int, int, int]:
        """(observed, filled, refused) over all layers, as the verification counts them."""
        return self.total("observed"), self.total("filled"), self.total("refused")

    def total(self, count: str) -> int:
        """Sum over the layers."""
        return sum(getattr(layer, count) for layer in self.layers)

    def stored(self, name: str) -> np.ndarray:
        """A variable of a NetCDF output as it is stored."""
        with netCDF4.Dataset(self.out) as file:
            file.set_auto_maskandscale(False)
            return np.asarray(file[name][...])


def words(inputs: Any, out: Path | None = None, **options: Any) -> list[str]:
    """Inputs, output and keywords as a user types them."""
    many = isinstance(inputs, Iterable) and not isinstance(inputs, str | Path)
    typed = [str(item) for item in (inputs if many else [inputs])]
    typed += [] if out is None else [str(out)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            typed += [flag] if value else []
        elif name in ("nodata", "var", "covariate"):  # may be repeated
            for item in value if isinstance(value, list | tuple) else [value]:
                typed += [flag, str(item)]
        else:
            typed += [flag, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
    return typed


@pytest.fixture
def fill(tmp_path, capsys) -> Callable[..., Outcome]:
    """``fill(inputs, "out.nc", **options)``: the command with a quick method, then ``verify``; both must exit 0."""

    def call(
        inputs: Any, out: str = "out.nc", *, proof: dict[str, Any] | None = None, **options: Any
    ) -> Outcome:
        target = tmp_path / out
        capsys.readouterr()
        code = run(["fill", *words(inputs, target, **{"method": "linear", **options}), "--json"])
        filled = capsys.readouterr()
        assert code == 0, filled.err
        assert "Traceback" not in filled.err
        named = {k: options[k] for k in ("nodata",) if k in options} | (proof or {})
        code = run(["verify", *words(inputs, target, **named), "--json"])
        verified = capsys.readouterr()
        assert code == 0, verified.err + verified.out
        report = json.loads(verified.out)
        assert report["differences"] == []
        layers = tuple(LayerCount(**layer) for layer in report["layers"])
        said = [line for line in filled.err.splitlines() if line.startswith("warning: ")]
        return Outcome(target, json.loads(filled.out), layers, "\n".join(said))

    return call


@pytest.fixture
def refuses(tmp_path, capsys) -> Callable[..., str]:
    """``refuses(inputs, **options)``: exit code 1 (or 2), one error line, nothing written; returns the line."""

    def call(inputs: Any, out: str = "out.nc", **options: Any) -> str:
        before = set(tmp_path.rglob("*"))
        capsys.readouterr()
        code = run(["fill", *words(inputs, tmp_path / out, **{"method": "linear", **options})])
        said = capsys.readouterr()
        errors = [line for line in said.err.splitlines() if line.startswith("stimpute: error: ")]
        assert code in (1, 2), said.err
        assert len(errors) == 1, said.err
        assert "Traceback" not in said.err
        assert said.out == ""
        assert set(tmp_path.rglob("*")) == before
        return errors[0]

    return call
