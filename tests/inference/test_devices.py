"""Choosing a device and a method."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from stimpute.errors import DeviceError, StimputeWarning, UsageError
from stimpute.inference import devices
from stimpute.inference.devices import choose_device
from stimpute.inference.methods import method_names, open_method
from stimpute.stack import Stack


def test_auto_is_a_device_that_works() -> None:
    device = choose_device("auto")
    assert float(torch.ones(2, device=device).sum()) == 2


def test_a_broken_accelerator_is_said_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_present", lambda name: name == "cuda")
    monkeypatch.setattr(devices, "_fault", lambda name: "CUDA error: out of memory" if name == "cuda" else "")
    with pytest.warns(StimputeWarning, match=r"cuda is there but does not work.*out of memory"):
        assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match="--device cuda: CUDA error"):
        choose_device("cuda")


def test_devices_and_threads_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="tpu"):
        choose_device("tpu")
    with pytest.raises(UsageError, match="threads"):
        choose_device("cpu", threads=0)


@pytest.mark.parametrize("name", method_names())
def test_every_method_opens_and_answers(name: str) -> None:
    values = np.random.default_rng(0).normal(size=(6, 8, 8))
    values[2, 2:5, 2:5] = np.nan
    stack = Stack.from_array(values)
    method = open_method(name, device="cpu")
    assert method.name == name
    estimate = method.prepare(stack).impute(stack)
    assert estimate.mean.shape == stack.shape
    assert np.isfinite(estimate.mean[stack.gap]).all()


def test_a_model_belongs_to_st_only() -> None:
    with pytest.raises(UsageError, match="linear has no model"):
        open_method("linear", model="st-small")


FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from stimpute.inference.devices import choose_device
    choose_device("cpu")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        a, b = np.ones(2_500_000), np.ones(2_500_000)  # 20 MB each, dropped at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def test_freed_memory_is_kept_for_the_next_array() -> None:
    said = {}
    clean = {name: value for name, value in os.environ.items() if name not in devices.MALLOC_ENVIRONMENT}
    for how, environment in (
        ("kept", clean),
        ("as it is", clean),
        ("told", {**clean, "MALLOC_TRIM_THRESHOLD_": "65536"}),
    ):
        program = [sys.executable, "-c", FAULTS, "as it is" if how == "as it is" else "kept"]
        said[how] = int(
            subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout
        )
    if platform.libc_ver()[0] == "glibc":  # elsewhere: that it runs
        assert said["kept"] < 0.1 * said["as it is"], said
        assert said["told"] > 10 * said["kept"], said  # what the environment asks for goes first
