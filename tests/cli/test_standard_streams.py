"""Standard streams that are closed, full or gone, encodings without umlauts, and signals: through the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import netCDF4
import pytest

from stimpute import cli

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
POSIX = pytest.mark.skipif(os.name != "posix", reason="no such streams and signals on this system")


def closing(*numbers: int) -> Callable[[], None]:
    """What a process does before it starts: as ``2>&-``."""

    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def leading(number: int, place: Path) -> Callable[[], None]:
    """As ``2>place``."""

    def lead() -> None:
        os.dup2(os.open(place, os.O_WRONLY), number)

    return lead


@POSIX
def test_a_closed_stderr_takes_no_output_with_it(process: Callable, small: Path, tmp_path: Path) -> None:
    done = process("fill", small, tmp_path / "out.nc", "--method", "mean", preexec_fn=closing(2))
    assert (done.returncode, done.stdout) == (0, b"")
    assert process("verify", small, tmp_path / "out.nc").returncode == 0
    failed = process("info", tmp_path / "absent.nc", preexec_fn=closing(2))
    assert (failed.returncode, failed.stdout) == (1, b"")
    failed = process("info", tmp_path / "absent.nc", preexec_fn=closing(0, 1, 2))
    assert failed.returncode == 1


@POSIX
def test_a_closed_stdout_is_an_error_where_data_were_to_go(
    process: Callable, small: Path, tmp_path: Path
) -> None:
    done = process("info", small, "--json", preexec_fn=closing(1))
    assert done.returncode == 1
    assert b"standard output cannot be written" in done.stderr
    assert done.stderr.count(b"\n") == 1
    done = process("fill", small, tmp_path / "out.nc", "--method", "mean", "-q", preexec_fn=closing(1))
    assert (done.returncode, done.stderr) == (0, b"")


@POSIX
def test_a_closed_stdin_holds_nothing(process: Callable, tmp_path: Path) -> None:
    done = process("fill", "-", tmp_path / "out.nc", "--method", "mean", preexec_fn=closing(0))
    assert done.returncode == 1
    assert done.stderr == b"stimpute: error: -: nothing came through standard input\n"


@needs_full
def test_a_full_stderr_does_not_stop_a_run(process: Callable, small: Path, tmp_path: Path) -> None:
    done = process("fill", small, tmp_path / "out.nc", "--method", "mean", preexec_fn=leading(2, FULL))
    assert done.returncode == 0
    assert process("verify", small, tmp_path / "out.nc").returncode == 0
    assert process("info", "absent.nc", "-v", preexec_fn=leading(2, FULL)).returncode == 1


@needs_full
@pytest.mark.parametrize(
    "arguments", [("info", "{}", "--json"), ("fill", "{}", "-", "--method", "mean", "-q")]
)
def test_a_full_stdout_is_one_line(process: Callable, small: Path, arguments: tuple[str, ...]) -> None:
    done = process(*(word.format(small) for word in arguments), preexec_fn=leading(1, FULL))
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"standard output cannot be written: No space left on device" in done.stderr


@POSIX
def test_any_encoding_holds_what_is_said(process: Callable, small: Path) -> None:
    with netCDF4.Dataset(small, "a") as file:
        file["sst"].units = "°C"
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = process("info", small, "--json", env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statistics"][0]["units"] == "°C"
    done = process("info", small, env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert b"\\xb0C" in done.stdout


@POSIX
def test_a_list_of_inputs_comes_through_stdin(process: Callable, small: Path, tmp_path: Path) -> None:
    names = f"{small.name}\n".encode()
    filled = process("fill", "@-", "out.nc", "--method", "mean", input=names, cwd=tmp_path)
    assert filled.returncode == 0, filled.stderr
    assert process("verify", "@-", "out.nc", input=names, cwd=tmp_path).returncode == 0
    asked = process("info", "-", input=names, cwd=tmp_path)
    assert asked.returncode == 1
    assert b"@- reads a list of inputs" in asked.stderr


@POSIX
@pytest.mark.parametrize("encoding", ["ASCII", "UTF-8"])
def test_a_name_that_is_no_text_is_said_to_be_so(
    process: Callable, small: Path, tmp_path: Path, encoding: str
) -> None:
    """Of a locale without its letters, or of another one: GDAL and HDF5 would not take it, Zarr does."""
    name = "m\u00e4.nc".encode() if encoding == "ASCII" else b"m\xe4.nc"
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    os.link(small, odd)
    plain = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    env = plain if encoding == "ASCII" else {**os.environ, "PYTHONUTF8": "1"}
    way = b"set PYTHONUTF8=1" if encoding == "ASCII" else b"rename it"
    message = f"this name is no {encoding}, the encoding of names here; ".encode() + way
    for words in (["info", odd], ["fill", small, odd, "--method", "mean", "--overwrite"], ["verify", odd, small]):  # fmt: skip
        done = process(*words, env=env)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count(b"\n") == 1
    done = process("fill", small, odd.replace(".nc", ".zarr"), "--method", "mean", env=env)
    assert done.returncode == 0, done.stderr


@POSIX
@pytest.mark.parametrize("command", ["info", "fill", "verify"])
def test_a_working_folder_that_is_gone(process: Callable, small: Path, tmp_path: Path, command: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    more = [] if command == "info" else [tmp_path / "out.nc"]
    done = process(
        command, small, *more, cwd=gone, preexec_fn=gone.rmdir,
        env={**os.environ, "PWD": str(gone), "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"stimpute: error: {gone}: the working folder does not exist any more; cd to one that does\n".encode()  # fmt: skip


WAITING = """
import time
from stimpute.baselines.averages import MeanImputer
def wait(*given):
    print("here", flush=True)
    time.sleep(60)
MeanImputer.impute = wait
from stimpute.cli import main; main()
"""


@POSIX
@pytest.mark.parametrize(
    ("number", "ignored", "code", "said"),
    [
        ("SIGTERM", False, cli.INTERRUPTED, b"terminated"),
        ("SIGINT", False, cli.INTERRUPTED, b"interrupted"),
        ("SIGHUP", False, cli.HUNG_UP, b"terminated"),
        ("SIGHUP", True, None, b""),
    ],
)
def test_signals(
    small: Path, tmp_path: Path, number: str, ignored: bool, code: int | None, said: bytes
) -> None:
    def begin() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    command = [
        sys.executable,
        "-c",
        WAITING,
        "fill",
        str(small),
        str(tmp_path / "out.nc"),
        "--method",
        "mean",
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=begin)
    assert running.stdout is not None
    assert running.stdout.readline() == b"here\n"
    running.send_signal(getattr(signal, number))
    if code is None:  # nohup
        time.sleep(0.5)
        assert running.poll() is None
        running.kill()
        running.communicate()
        return
    _, errors = running.communicate(timeout=60)
    assert running.returncode == code
    assert errors.splitlines()[-1] == b"stimpute: error: " + said
    assert [p.name for p in tmp_path.iterdir()] == [small.name]
