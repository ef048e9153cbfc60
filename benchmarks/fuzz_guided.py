"""Broken inputs that follow coverage: atheris looks for bytes that reach new branches of what reads dates, time units and models.

    pip install 'stimpute[fuzz]'
    python benchmarks/fuzz_guided.py dates -max_total_time=600
    python benchmarks/fuzz_guided.py times|model -max_total_time=600 FOLDER_OF_INPUTS

The checks are those of `fuzz.py`; what follows the target goes to libFuzzer. A finding ends the run with the input written down;
`fuzz.py` covers the readers that are C libraries, which cannot be followed from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import atheris

with atheris.instrument_imports(include=["stimpute"]):
    import fuzz

    from stimpute.io import cf_time, dates
    from stimpute.pretrained import checkpoint, registry

READ = (cf_time, dates, checkpoint, registry)  # imported here, so that their branches are counted
CALENDARS = (
    "standard",
    "gregorian",
    "noleap",
    "360_day",
    "julian",
    "all_leap",
    "proleptic_gregorian",
    "none",
    "",
)


def some_dates(data: bytes) -> None:
    """Up to six file names, and perhaps a pattern."""
    given = atheris.FuzzedDataProvider(data)
    pattern = given.ConsumeUnicodeNoSurrogates(12) if given.ConsumeBool() else None
    names = [given.ConsumeUnicodeNoSurrogates(40) for _ in range(given.ConsumeIntInRange(1, 6))]
    fuzz.odd_dates(names, pattern)


def some_times(data: bytes) -> None:
    """Units, a calendar and up to eight numbers."""
    given = atheris.FuzzedDataProvider(data)
    calendar = given.PickValueInList(list(CALENDARS))
    numbers = [given.ConsumeFloat() for _ in range(given.ConsumeIntInRange(1, 8))]
    fuzz.odd_units(given.ConsumeUnicodeNoSurrogates(60), calendar, numbers)


def some_model(data: bytes) -> None:
    """The first bytes of the weights and the whole card; the rest as it is in a valid model."""
    given = atheris.FuzzedDataProvider(data)
    files = dict(MODEL)
    weights, card = (next(name for name in files if name.endswith(end)) for end in (".safetensors", ".json"))
    if given.ConsumeBool():
        head = given.ConsumeBytes(given.ConsumeIntInRange(0, 64))
        files[weights] = head + files[weights][len(head) :]
    else:
        files[card] = given.ConsumeBytes(4096)
    fuzz.broken_model(files)


TARGETS: dict[str, Callable[[bytes], None]] = {"dates": some_dates, "times": some_times, "model": some_model}
MODEL: dict[str, bytes] = {}


def main() -> None:
    """The target's name, then libFuzzer's own options."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"fuzz_guided: one of {', '.join(TARGETS)}, then options of libFuzzer")
    if sys.argv[1] == "model":
        MODEL.update(fuzz.Seeds.written().model)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
