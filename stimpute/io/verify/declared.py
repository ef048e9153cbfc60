"""Which alterations the user asked for, as the output's own ``history`` tells. Knows one line of text, no files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

# an alteration that no option asks for: one output of several files
DECODED = "files of different packing decoded"


@dataclass(frozen=True)
class Declared:
    """Options of the run that change more than gaps.

    >>> Declared.from_history("2024-01-01 stimpute fill --nodata 0 --nodata=255 --qc a.nc b.nc; stimpute 0.1.0").nodata
    (0.0, 255.0)
    """

    var: tuple[str, ...] = ()
    nodata: tuple[float, ...] = ()
    dedupe: str | None = None
    dtype: bool = False  # or decoded, because files differ
    qc: bool = False
    regular: bool = False
    window: bool = False  # --bbox or --time: the output is a part
    format: bool = False  # --of, --co
    no_flags: bool = False

    @classmethod
    def from_history(cls, history: str, before: str = "") -> Declared:
        """From the lines that stimpute added to ``history``, those of the input (``before``) excepted."""
        old = set(before.splitlines())
        lines = [line for line in history.splitlines() if "stimpute" in line and line not in old]
        values: dict[str, list[str]] = {}
        for line in lines:
            for name, value in _options(line):
                values.setdefault(name, []).append(value)
        return cls(
            var=tuple(name for name in values.get("var", []) if name != "all"),
            nodata=tuple(float(v) for v in values.get("nodata", []) if _is_number(v)),
            dedupe=next(iter(values.get("dedupe", [])), None),
            dtype="dtype" in values or any(DECODED in line for line in lines),
            qc="qc" in values,
            regular="regular" in values,
            window="bbox" in values or "time" in values,
            format="of" in values or "co" in values,
            no_flags="no-flags" in values,
        )


def _options(line: str) -> list[tuple[str, str]]:
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found.append((name, value if equals else following))
    return [(name.rstrip(";,)]"), value.rstrip(";,)]")) for name, value in found]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
