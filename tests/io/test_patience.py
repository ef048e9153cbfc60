"""A library that goes round in circles is given up; the process still ends in one line."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from stimpute.errors import InputError
from stimpute.io import patience

RUN = """
import netCDF4, os, sys, threading
from stimpute import cli
from stimpute.io import patience
patience.OPEN_SECONDS = 0.2
netCDF4.Dataset = lambda *given, **options: threading.Event().wait()
sys.argv = ["stimpute", "fill", sys.argv[1], "out.nc", "--method", "mean"]
cli.main()
"""


def test_what_opens_in_time_is_returned_and_what_fails_fails():
    assert patience.opened_in_time("a.nc", lambda: "open") == "open"
    with pytest.raises(ZeroDivisionError):
        patience.opened_in_time("a.nc", lambda: 1 / 0)


def test_what_does_not_open_is_an_error_that_names_the_file(monkeypatch):
    monkeypatch.setattr(patience, "OPEN_SECONDS", 0.1)
    over = threading.Event()
    start = time.monotonic()
    with pytest.raises(InputError, match=r"a\.nc: not open after 0\.1 s"):
        patience.opened_in_time("a.nc", over.wait)
    assert time.monotonic() - start < 5
    over.set()


def test_the_command_ends_although_the_library_does_not(tmp_path, gappy, write_netcdf):
    path = write_netcdf(gappy())
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "stack.nc: not open after 0.2 s; is it truncated or damaged?" in done.stderr
    assert list(tmp_path.iterdir()) == [path]
