"""Start-up stays instant, and the rooms that train need no geodata library. Each check runs in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "xarray", "rasterio", "dask", "matplotlib")
GEODATA = ("rasterio", "rioxarray", "xarray", "netCDF4", "zarr", "pyproj", "cftime")
TRAINING_ROOMS = (
    "training", "diffusion", "model", "forecasting", "layers", "classical", "synthetic", "pretrained",
)  # fmt: skip


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.parametrize(
    "start",
    [
        "import stimpute",
        "import stimpute; stimpute.__version__",
        "from stimpute.cli import run; run(['--help'])",
        "from stimpute.cli import run; run(['fill', '--help'])",
        "from stimpute.cli import run; run(['--version'])",
    ],
)
def test_starting_up_loads_nothing_heavy(start):
    code = f"import sys; {start}; print('LOADED', *sorted(set(sys.modules) & set({HEAVY!r})))"
    assert run(code).splitlines()[-1].split() == ["LOADED"]


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (["fill", "OUT"], ["torch"]),
        (["fill", "OUT", "--fast"], ["torch"]),
        (["forecast", "OUT", "--steps", "2"], ["torch"]),
        (["reconstruct", "OUT", "--factor", "2"], ["torch"]),
        (["info"], []),
        (["variogram"], []),
    ],
)
def test_commands_load_what_they_need_only(tmp_path, command, needed):
    """torch, its compiler (sympy), zarr and scipy.stats take seconds to load."""
    name, *rest = command
    asked = [name, str(tmp_path / "in.nc"), *(str(tmp_path / "out.nc") if r == "OUT" else r for r in rest)]
    code = f"""
import sys
import numpy as np, xarray as xr
values = np.random.default_rng(0).normal(size=(12, 8, 8)).astype("f4")
values[2, 2:5, 2:5] = np.nan
xr.DataArray(values, dims=("time", "y", "x"), name="v", coords={{"time": np.arange(12.0)}}).to_netcdf({asked[1]!r})
from stimpute.cli import run
code = run({asked!r})
print("LOADED", code, *sorted(set(sys.modules) & {{"torch", "torch._dynamo", "sympy", "zarr", "scipy.stats"}}))
"""
    assert run(code).splitlines()[-1].split() == ["LOADED", "0", *needed]


def test_no_submodule_takes_the_name_of_a_function_of_the_api():
    code = """
import pkgutil, stimpute
modules = {m.name for m in pkgutil.iter_modules(stimpute.__path__)}
print(*sorted(modules & set(stimpute.__all__)))
"""
    assert run(code).split() == []


@pytest.mark.parametrize("room", TRAINING_ROOMS)
def test_training_rooms_need_no_geodata_library(room):
    code = f"""
import importlib, importlib.abc, pkgutil, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {GEODATA!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (absent on training machines)", name=name)
        return None

sys.meta_path.insert(0, Absent())
try:
    import xarray
except ModuleNotFoundError:
    pass  # the blockade works
else:
    sys.exit("xarray could be imported")
package = importlib.import_module("stimpute.{room}")
names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    assert int(run(code)) > 0


def test_the_functions_can_be_seen_before_they_are_loaded():
    code = f"""
import sys, stimpute
assert set(stimpute.__all__) <= set(dir(stimpute)), dir(stimpute)
assert {{"fill", "plan"}} <= set(stimpute.__all__)
print("LOADED", *sorted(set(sys.modules) & set({HEAVY!r})))
assert all(name in stimpute.__doc__ for name in stimpute.__all__ if not name.startswith("_"))
assert callable(stimpute.plan)
"""
    assert run(code).split() == ["LOADED"]


def test_type_checkers_know_the_functions_and_misspelt_ones(tmp_path):
    path = tmp_path / "calls.py"
    path.write_text(
        "import stimpute\nimport xarray as xr\n"
        'data: xr.Dataset = stimpute.fill("a.nc", max_gap="10d")\n'
        'size: int = stimpute.fill("a.nc", "b.nc").layers[0].filled\n'
        'stimpute.fil("a.nc")\n'
        'wrong: int = stimpute.forecast("a.nc", steps=3)\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent", "--ignore-missing-imports", str(path)],
        capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    found = [
        line.partition("calls.py:")[2].partition(":")[0]
        for line in done.stdout.splitlines()
        if " error: " in line
    ]
    assert found == ["5", "6"], done.stdout
