"""Every script in examples/ runs from start to end in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = ("01_fill_netcdf.sh", "02_python_api.py", "03_pipeline.sh", "04_train_and_evaluate.sh")


def run(script: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """The script with this interpreter's ``stimpute`` and ``python`` first on the path."""
    command = [sys.executable] if script.suffix == ".py" else [shutil.which("bash") or "bash"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [*command, str(script), str(folder)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_example(name, repository, tmp_path):
    if not (Path(sys.executable).parent / "stimpute").exists():
        pytest.skip("the stimpute command is not installed beside this interpreter")
    done = run(repository / "examples" / name, tmp_path)
    assert done.returncode == 0, f"{name}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.strip()


def test_every_script_is_run(repository):
    numbered = {p.name for p in (repository / "examples").iterdir() if p.name[:2].isdigit()}
    assert numbered == set(SCRIPTS)
