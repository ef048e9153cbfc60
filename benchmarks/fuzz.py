"""Broken inputs by the thousand: mutated files, dates, command lines and models; every one must end in an answer or one clear error.

    python benchmarks/fuzz.py                 ten minutes over all targets
    python benchmarks/fuzz.py --minutes 60 --targets netcdf,tiff
    python benchmarks/fuzz.py --minutes 60 --page docs/benchmarks/fuzz.md

A finding is a traceback, an internal error, a hang, a crash of the process, something left behind, a success without an output that
verifies. Inputs that once were findings are kept in tests/fuzz/corpus and come first. Exit 1 where there is a finding. The files that
are mutated are written here, by netCDF4, rasterio and zarr.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

CORPUS = Path(__file__).resolve().parents[1] / "tests" / "fuzz" / "corpus"
HANG_SECONDS = 60
MEMORY_BYTES = 6 << 30
EXAMPLES = 100  # between two looks at the clock


class FindingError(AssertionError):
    """An input that did not end as every input must."""


# --- files to start from ------------------------------------------------------------------------------------------------


def _field(dtype: str = "f4") -> np.ndarray:
    t, y, x = np.meshgrid(np.arange(5), np.arange(6), np.arange(7), indexing="ij")
    values = 15 + 3 * np.sin(y / 3 + t / 4) + 2 * np.cos(x / 4 - t / 5)
    values[np.random.default_rng(0).random(values.shape) < 0.3] = -9999
    return values.astype(dtype)


def _netcdf(path: Path, kind: str) -> None:
    import netCDF4

    packed = kind == "packed"
    with netCDF4.Dataset(path, "w", format="NETCDF4" if packed else kind) as file:
        file.history = "made for breaking"
        for name, size in (("time", 5), ("lat", 6), ("lon", 7)):
            file.createDimension(name, None if name == "time" else size)
            file.createVariable(name, "f8", (name,))[:] = np.arange(size)
        file["time"].setncatts({"units": "days since 2020-01-01", "calendar": "standard"})
        file["lat"].units, file["lon"].units = "degrees_north", "degrees_east"
        extra = {"zlib": True, "chunksizes": (2, 3, 7)} if packed else {}
        data = file.createVariable(
            "sst", "i2" if packed else "f4", ("time", "lat", "lon"), fill_value=-9999, **extra
        )
        data.set_auto_maskandscale(False)
        if packed:
            data.setncatts(
                {"scale_factor": 0.01, "add_offset": 1.0, "valid_range": np.array([-9000, 9000], "i2")}
            )
        data.setncatts({"units": "degC", "standard_name": "sea_surface_temperature"})
        data[:] = _field("i2" if packed else "f4")


def _tiff(path: Path, **creation: object) -> None:
    import rasterio

    field = _field("i2")
    with rasterio.open(
        path, "w", driver="GTiff", width=7, height=6, count=5, dtype="int16", nodata=-9999, crs="EPSG:32630",
        transform=rasterio.transform.from_origin(5e5, 4.6e6, 1000, 1000), **creation,
    ) as file:  # fmt: skip
        file.write(field)
        for band in range(1, 6):
            file.set_band_description(band, f"2020-01-0{band}")


def _zarr(folder: Path, version: int) -> None:
    import zarr

    root = zarr.open_group(folder, mode="w", zarr_format=version)
    for name, data, dims in (("time", np.arange(5.0), ["time"]), ("sst", _field(), ["time", "y", "x"])):
        names = {"dimension_names": dims} if version == 3 else {}
        array = root.create_array(
            name, shape=data.shape, dtype=data.dtype, chunks=data.shape, fill_value=-9999.0, **names
        )
        array[...] = data
        array.attrs.update({"_ARRAY_DIMENSIONS": dims} if version == 2 else {})
    root["time"].attrs["units"] = "days since 2020-01-01"


def _model(path: Path) -> None:
    """The shipped model, cut to what a header and a card say: a whole one is megabytes."""
    header = json.dumps({"w": {"dtype": "F16", "shape": [4, 4], "data_offsets": [0, 32]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    from stimpute.pretrained.checkpoint import read_card
    from stimpute.pretrained.registry import find_model

    card = read_card(find_model("st-small"))
    path.with_suffix(".json").write_text(json.dumps({**card, "training": {}, "scores": {}}))


@dataclass(frozen=True)
class Seeds:
    """Valid files by kind, as bytes; of a Zarr store its metadata documents by name."""

    netcdf: tuple[bytes, ...]
    tiff: tuple[bytes, ...]
    zarr: tuple[dict[str, bytes], ...]
    model: dict[str, bytes]

    @classmethod
    def written(cls) -> Seeds:
        """Written anew in a temporary folder."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            netcdf = []
            for kind in ("NETCDF3_CLASSIC", "NETCDF3_64BIT_DATA", "NETCDF4", "packed"):
                _netcdf(folder / "a.nc", kind)
                netcdf.append((folder / "a.nc").read_bytes())
            tiff = []
            for creation in ({}, {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
                             {"compress": "lzw", "predictor": 2, "interleave": "pixel"}, {"bigtiff": "YES"}):  # fmt: skip
                _tiff(folder / "a.tif", **creation)
                tiff.append((folder / "a.tif").read_bytes())
            stores = []
            for version in (2, 3):
                _zarr(folder / f"{version}.zarr", version)
                files = sorted(p for p in (folder / f"{version}.zarr").rglob("*") if p.is_file())
                stores.append({str(p.relative_to(folder / f"{version}.zarr")): p.read_bytes() for p in files})
            _model(folder / "m.safetensors")
            model = {p.name: p.read_bytes() for p in sorted(folder.glob("m.*"))}
            return cls(tuple(netcdf), tuple(tiff), tuple(stores), model)


# --- mutations ------------------------------------------------------------------------------------------------------------

NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
)
edits = st.lists(
    st.tuples(
        st.sampled_from(("byte", "number", "cut", "drop", "repeat", "swap", "text")),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.sampled_from(NUMBERS),
    ),
    min_size=1,
    max_size=6,
)


def mutated(data: bytes, changes: list[tuple[str, float, int, int]]) -> bytes:
    """A file with some changes; early places are hit more often, because that is where headers are."""
    found = bytearray(data)
    for kind, where, byte, number in changes:
        at = int(where**2 * len(found)) if found else 0
        if kind == "byte" and found:
            found[at] = byte
        elif kind == "number":
            size = (1, 2, 4, 8)[byte % 4]
            found[at : at + size] = (number % 256**size).to_bytes(size, "little" if byte % 8 < 4 else "big")
        elif kind == "cut" and byte < 64:
            del found[at:]
        elif kind == "drop":
            del found[at : at + byte]
        elif kind == "repeat":
            found[at:at] = found[at : at + byte]
        elif kind == "swap" and found:
            other = (at + byte) % len(found)
            found[at], found[other] = found[other], found[at]
        elif kind == "text":
            found[at : at + 3] = (b"NaN", b"-1,", b'"a"', b"{}}", b"[[[", b"1e9", b"\0\0\0", b"../")[byte % 8]
    return bytes(found)


# --- running one input ----------------------------------------------------------------------------------------------------


def command(*words: str) -> tuple[int, str, str]:
    """One command line in this process: (exit code, stdout, stderr)."""
    from stimpute.cli import run

    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.simplefilter("ignore")
        code = run(list(words))
    return code, out.getvalue(), err.getvalue()


def leave_a_hanging_library() -> None:
    """A reader that never returns is given up with its process: what was counted so far counts."""
    if _counts is not None:
        _counts.write_text(json.dumps({"tried": sum(tried.values()), "finding": ""}))
        os._exit(0)


def judge(words: list[str], code: int, err: str) -> None:
    """What must hold for every command line.

    Raises
    ------
    FindingError : it does not.
    """
    lines = [line for line in err.splitlines() if line.startswith("stimpute: error: ")]
    if code == 1 and len(lines) == 1 and "not open after" in lines[0]:
        leave_a_hanging_library()
    if code not in (0, 1, 2, 3):
        raise FindingError(f"exit code {code}: {words}: {err[-300:]}")
    if "internal error" in err or "Traceback" in err:
        raise FindingError(f"{words}: {err.strip()[-400:]}")
    if (code in (1, 2)) != (len(lines) >= 1):
        raise FindingError(f"exit code {code} with {len(lines)} error lines: {words}: {err[-300:]}")


def filled(folder: Path, name: str, *more: str) -> None:
    """Fill a file of a folder, then verify; whatever fails must leave only the input.

    Raises
    ------
    FindingError : it does not end well.
    """
    source, out = folder / name, folder / f"out{Path(name).suffix}"
    before = set(folder.rglob("*"))
    words = ["fill", str(source), str(out), "--method", "mean", "--no-uncertainty", *more]
    code, _, err = command(*words)
    judge(words, code, err)
    if code != 0:
        left = set(folder.rglob("*")) - before
        if left:
            raise FindingError(f"left behind {sorted(map(str, left))}: {err[-200:]}")
        return
    if not out.exists():
        raise FindingError(f"exit 0 without an output: {err[-300:]}")
    words = ["verify", str(source), str(out)]
    code, _, err = command(*words)
    judge(words, code, err)
    if code != 0:
        raise FindingError(f"exit 0, but verify finds: {err[-400:]}")


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def broken_file(name: str, data: bytes) -> None:
    """One file of any kind through fill and verify."""
    with workplace() as folder:
        (folder / name).write_bytes(data)
        filled(folder, name)


def broken_store(files: dict[str, bytes]) -> None:
    """One Zarr store."""
    with workplace() as folder:
        for name, data in files.items():
            path = folder / "a.zarr" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        filled(folder, "a.zarr")


def broken_model(files: dict[str, bytes]) -> None:
    """One model: its weights and its card."""
    with workplace() as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        words = ["models", "show", str(folder / "m.safetensors")]
        code, _, err = command(*words)
        judge(words, code, err)
        from stimpute.errors import StimputeError
        from stimpute.pretrained.checkpoint import read_card, read_tensors
        from stimpute.pretrained.registry import load_model

        path = folder / "m.safetensors"
        for attempt in (
            lambda: load_model(str(path)),
            lambda: read_tensors(path, {"w": (4, 4)}, read_card(path)["sha256"]),
        ):
            try:
                attempt()
            except StimputeError:
                pass
            except Exception as error:
                raise FindingError(f"model: {type(error).__name__}: {error}") from error


def odd_dates(names: list[str], pattern: str | None) -> None:
    """File names as dates."""
    from stimpute.errors import StimputeError
    from stimpute.io.dates import detect_dates

    try:
        found = detect_dates(names, pattern)
    except StimputeError:
        return
    except Exception as error:
        raise FindingError(f"dates {names!r} {pattern!r}: {type(error).__name__}: {error}") from error
    if len(found.instants) != len(names):
        raise FindingError(f"{len(names)} names, {len(found.instants)} dates: {names!r}")


def odd_units(units: str, calendar: str, numbers: list[float]) -> None:
    """Any units, calendar and numbers as a CF time axis."""
    from stimpute.errors import StimputeError
    from stimpute.io.cf_time import decode_times

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode_times(np.array(numbers), {"units": units, "calendar": calendar}, label="t", name="time")
    except StimputeError:
        return
    except Exception as error:
        raise FindingError(
            f"times {units!r} {calendar!r} {numbers!r}: {type(error).__name__}: {error}"
        ) from error


_stack: dict[str, Path] = {}


def odd_command(words: list[str]) -> None:
    """A command line of options that exist, with values that may not make sense."""
    if "in" not in _stack or not _stack["in"].exists():
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        _netcdf(folder / "in.nc", "NETCDF4")
        _stack["in"] = folder / "in.nc"
    with workplace() as folder:
        shutil.copy(_stack["in"], folder / "in.nc")
        before = (folder / "in.nc").read_bytes()
        filled_words = [
            w.replace("IN", str(folder / "in.nc")).replace("OUT", str(folder / "out")) for w in words
        ]
        code, _, err = command(*filled_words)
        judge(filled_words, code, err)
        if (folder / "in.nc").read_bytes() != before:
            raise FindingError(f"the input changed: {words}")


# --- what hypothesis draws ------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=30)
VALUES = st.one_of(
    TEXT,
    st.sampled_from((
        "", "0", "-1", "1", "nan", "inf", "-inf", "1e400", "10d", "0d", "1e9y", "50km", "0.1", "a,b", "1,2", "1,2,3,4",
        "-200,0,200,91", "5,5,5,5", "2020-01-01", "2020-01-02,2020-01-04", "2020-13-45,", ",", "auto", "none", "first", "mean",
        "2GB", "1MB", "99999999TB", "-5GB", "i2", "f8", "u1", "O", "S3", "complex64", "datetime64", "sst", "time", "all", "lat",
        "IN", "IN:sst", "IN:", ":sst", "OUT", "OUT.nc", "OUT.tif", "OUT.zarr", "NetCDF", "NetCDF3", "Zarr", "GeoTIFF", "COG",
        "COMPRESS=ZSTD", "FORMAT=NC4", "ZLEVEL=99", "=", "cpu", "cuda:99", "bf16", "linear", "dct-pls", "%Y%j", "%Q", "EPSG:4326",
        "EPSG:999999", "0.05,0.95", "2", "3cells", "7", "2020-01-01,2020-01-02,2020-01-03,2020-01-04,2020-01-05",
    )),
)  # fmt: skip
OPTIONS = (
    "--var", "--bbox", "--bbox-crs", "--time", "--covariate", "--nodata", "--date-format", "--times", "--dedupe", "--domain",
    "--max-gap", "--max-distance", "--max-extrapolation", "--min-obs", "--quantiles", "--plot", "--bounds", "--dtype", "--of", "--co",
    "--device", "--precision", "--tile", "--overlap", "--memory", "--seed",
)  # fmt: skip
SWITCHES = ("--regular", "--qc", "--force", "--no-wrap", "--fill-never-observed", "--strict", "--no-uncertainty", "--no-flags",
            "--overwrite", "--dry-run", "--json", "-q", "-v")  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """``fill`` or ``info`` with some options."""
    words = [
        "fill",
        "IN",
        draw(st.sampled_from(("OUT.nc", "OUT.tif", "OUT.zarr", "OUT", "IN", "OUT.xyz"))),
        "--method",
        "mean",
    ]
    for name in draw(st.lists(st.sampled_from(OPTIONS), max_size=4)):
        words += [name, draw(VALUES)]
    words += [w for w in draw(st.lists(st.sampled_from(SWITCHES), max_size=3)) if w != "-v"]
    return words


DATE_NAMES = st.lists(
    st.one_of(
        TEXT,
        st.from_regex(r"[a-z_]{0,6}[0-9]{2,14}[a-z_.\-]{0,5}[0-9]{0,8}\.(tif|jp2)", fullmatch=True),
        st.from_regex(r"(A|doy|T|LC08_)?(19|20)[0-9]{2}[-_.]?[0-9]{2,3}[-_.]?[0-9]{0,2}", fullmatch=True),
    ),
    min_size=1,
    max_size=5,
)
FORMATS = st.one_of(
    st.none(), st.sampled_from(("%Y%m%d", "%Y%j", "%d%m%Y", "%y%m", "%", "%Q", "%Y", "%H:%M")), TEXT
)
UNITS = st.one_of(
    TEXT,
    st.from_regex(r"(days|hours|seconds|microseconds|months|years|d|s)( since )[0-9]{1,5}-[0-9]{1,2}-[0-9]{1,2}( [0-9:.Z+-]{0,9})?", fullmatch=True),
)  # fmt: skip
CALENDARS = st.one_of(
    st.sampled_from(("standard", "gregorian", "noleap", "360_day", "julian", "all_leap", "none")), TEXT
)
AXIS = st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=5)


def targets(seeds: Seeds) -> dict[str, Callable[[], Callable[[], None]]]:
    """By name: a hypothesis test of one kind of input."""

    @given(st.sampled_from(range(len(seeds.netcdf))), edits)
    def netcdf(which: int, changes: list[tuple[str, float, int, int]]) -> None:
        watched(broken_file, "a.nc", mutated(seeds.netcdf[which], changes))

    @given(st.sampled_from(range(len(seeds.tiff))), edits)
    def tiff(which: int, changes: list[tuple[str, float, int, int]]) -> None:
        watched(broken_file, "a.tif", mutated(seeds.tiff[which], changes))

    @given(st.data(), edits)
    def store(data: st.DataObject, changes: list[tuple[str, float, int, int]]) -> None:
        files = dict(seeds.zarr[data.draw(st.sampled_from(range(len(seeds.zarr))))])
        name = data.draw(st.sampled_from(sorted(files)))
        watched(broken_store, {**files, name: mutated(files[name], changes)})

    @given(st.data(), edits)
    def model(data: st.DataObject, changes: list[tuple[str, float, int, int]]) -> None:
        name = data.draw(st.sampled_from(sorted(seeds.model)))
        watched(broken_model, {**seeds.model, name: mutated(seeds.model[name], changes)})

    @given(DATE_NAMES, FORMATS)
    def dates(names: list[str], pattern: str | None) -> None:
        watched(odd_dates, names, pattern)

    @given(UNITS, CALENDARS, AXIS)
    def times(units: str, calendar: str, numbers: list[float]) -> None:
        watched(odd_units, units, calendar, numbers)

    @given(command_lines())
    def options(words: list[str]) -> None:
        watched(odd_command, words)

    return {
        "netcdf": netcdf,
        "tiff": tiff,
        "zarr": store,
        "model": model,
        "dates": dates,
        "times": times,
        "options": options,
    }


# --- counting, watching, keeping ------------------------------------------------------------------------------------------

tried: Counter[str] = Counter()
_note: Path | None = None
_counts: Path | None = None


def watched(check: Callable[..., None], *given_: object) -> None:
    """Run one check; what it was given is written down first, so that it survives a crash of the process."""
    tried[check.__name__] += 1
    if _note is not None:
        _note.write_bytes(repr((check.__name__, given_)).encode())
    check(*given_)


def replay(path: Path) -> None:
    """An input that was kept: what ``watched`` wrote down."""
    import ast

    name, given_ = ast.literal_eval(path.read_text())
    globals()[name](*given_)


def corpus() -> list[Path]:
    """Inputs that were findings once."""
    return sorted(CORPUS.glob("*.txt"))


def explore(name: str, seeds: Seeds, examples: int, number: int | None = None) -> None:
    """So many inputs of one target, the same ones for the same ``number``.

    Raises
    ------
    FindingError : one that does not end as it must.
    """
    test = targets(seeds)[name]
    chosen = settings(
        max_examples=examples,
        phases=(
            Phase.generate,
        ),  # a finding is kept as it is: making it smaller takes minutes that find more elsewhere
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    (chosen(test) if number is None else seed(number)(chosen(test)))()


def _worker(name: str, number: int, note: Path, counts: Path) -> None:
    global _note, _counts
    from stimpute.io import patience

    _note, _counts, patience.OPEN_SECONDS = note, counts, HANG_SECONDS / 4
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    finding = ""
    try:
        explore(name, Seeds.written(), EXAMPLES, number)
    except Exception as error:
        inner = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        finding = f"{type(inner).__name__}: {inner}"
    counts.write_text(json.dumps({"tried": sum(tried.values()), "finding": finding}))


def hunt(name: str, number: int, kept: Path) -> tuple[int, str]:
    """One round of a target in a process of its own: (inputs tried, the finding or nothing)."""
    note, counts = kept / f"{name}-{number}.txt", kept / f"{name}-{number}.json"
    process = multiprocessing.get_context("fork").Process(target=_worker, args=(name, number, note, counts))
    process.start()
    while process.is_alive():
        process.join(5)
        if note.exists() and time.time() - note.stat().st_mtime > HANG_SECONDS and process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            return 0, f"hang of more than {HANG_SECONDS} s"
    if process.exitcode:
        return (
            0,
            f"the process died ({signal.Signals(-process.exitcode).name if process.exitcode < 0 else process.exitcode})",
        )
    told = json.loads(counts.read_text())
    counts.unlink()
    if not told["finding"]:
        note.unlink(missing_ok=True)
    return told["tried"], told["finding"]


WHAT = {
    "netcdf": "NetCDF-3 and -4 files with changed, missing, repeated bytes and numbers, through `fill` and `verify`",
    "tiff": "the same of GeoTIFFs (plain, tiled, predicted, BigTIFF)",
    "zarr": "the same of the metadata and chunks of Zarr v2 and v3 stores",
    "model": "the same of weights and cards, through `models show` and the loaders",
    "dates": "file names and `--date-format`",
    "times": "CF units, calendars and numbers of a time axis",
    "options": "command lines of `fill`: real options, values that may make no sense",
}


def page(words: list[str], minutes: float, seeds: str, total: Counter[str], findings: list[str]) -> str:
    """What was tried and what was found, as Markdown."""
    from stimpute import __version__

    rows = [
        f"| {name} | {WHAT[name]} | {total[name]:,} | {sum(f.startswith(f'{name} ') for f in findings)} |"
        for name in total
    ]
    found = "".join(f"- `{finding[:300]}`\n" for finding in findings)
    return "\n".join((
        "# Broken inputs, by the thousand\n",
        f"`python benchmarks/fuzz.py {' '.join(words)}`, stimpute {__version__}, {minutes:.0f} minutes on one core, seeds {seeds}.\n",
        "A finding is a traceback, an internal error, a hang of more than a minute, a crash of the process, something left behind, or a",
        "success whose output does not verify. Inputs that were findings once are kept in `tests/fuzz/corpus` and are tried first.\n",
        "| target | what is broken | inputs | findings |",
        "|---|---|---:|---:|",
        *rows,
        f"| all | | {sum(total.values()):,} | {len(findings)} |\n",
        found,
    )).rstrip("\n") + "\n"  # fmt: skip


def replayed() -> list[str]:
    """The corpus, once more: what is a finding again."""
    again = []
    for path in corpus():
        try:
            replay(path)
        except FindingError as error:
            again.append(f"corpus ({path.stem}): {error}")
    return again


def main(arguments: list[str] | None = None) -> int:
    """Replay the corpus, then hunt until the time is up."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--targets", default="netcdf,tiff,zarr,model,dates,times,options")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where findings are written")
    parser.add_argument("--page", type=Path, help="Markdown of what was tried, renewed after every round")
    options = parser.parse_args(words)
    options.keep.mkdir(parents=True, exist_ok=True)
    for kind, data in (("nc", Seeds.written().netcdf[0]), ("tif", Seeds.written().tiff[0])):
        broken_file(f"a.{kind}", data)  # everything is imported once, before the workers are forked
    names, number = options.targets.split(","), options.seed
    findings, total = replayed(), Counter(dict.fromkeys(names, 0))
    start = time.monotonic()
    end = start + 60 * options.minutes
    while time.monotonic() < end:
        for name in names:
            done, finding = hunt(name, number, options.keep)
            total[name] += done
            if finding:
                findings.append(f"{name} (seed {number}): {finding}")
                print(findings[-1], flush=True)
            if time.monotonic() > end:
                break
        if options.page:
            spent = (time.monotonic() - start) / 60
            options.page.write_text(
                page(words, spent, f"{options.seed} to {number}", total, findings), "utf-8"
            )
        number += 1
    for name in names:
        print(f"{name}: {total[name]:,} inputs")
    print(f"{sum(total.values()):,} inputs, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
