"""Every error and warning as it is written, kept: a changed message shows in a diff, where it can be read aloud.

What was wrong, in which file, which value, what to do? After a change: python tests/quality/test_messages.py --keep
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("messages.txt")
TELLING = {"warn", "complain", "append", "differ", "differ_cells", "expect"}
NAMED_ABOVE = {  # these are told with their file by who calls: inference/forecasting.py, and of all archives together
    "training/pairs.py: InputError: the archives have too many gaps of their own to be coarsened: no crop is a third full",
}
INTERNAL = {
    "ValueError",
    "TypeError",
    "AssertionError",
    "KeyError",
    "IndexError",
    "NotImplementedError",
    "FindingError",
}


def messages() -> list[str]:
    """``file: kind: text``, sorted, with ``{...}`` for what is filled in."""
    found = set()
    for path in sorted((REPOSITORY / "stimpute").rglob("*.py")):
        name = path.relative_to(REPOSITORY / "stimpute").as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {f"{name}: {kind}: {text}" for kind, text in _told(tree)}
    return sorted(found)


def _told(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            kind = _name(node.exc.func)
            if kind.endswith("Error") and kind not in INTERNAL:
                yield from ((kind, text) for text in _texts(node.exc.args[:1]))
        elif isinstance(node, ast.Call) and _name(node.func) in TELLING:
            kind = {"append": "note"}.get(_name(node.func), _name(node.func))
            yield from ((kind, text) for text in _texts(node.args[:1]) if kind != "note" or len(text) > 25)


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _texts(arguments: list[ast.expr]) -> Iterator[str]:
    """The literal parts of an expression: both sides of a choice, what is added up, templates with their holes."""
    for node in arguments:
        if isinstance(node, ast.IfExp):
            yield from _texts([node.body, node.orelse])
        elif text := _template(node):
            yield " ".join(text.split())


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _hole(part) if isinstance(part, ast.FormattedValue) else _template(part) for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return ""


def _hole(part: ast.FormattedValue) -> str:
    conversion = f"!{chr(part.conversion)}" if part.conversion > 0 else ""
    form = f":{_template(part.format_spec)}" if part.format_spec else ""
    return "{" + ast.unparse(part.value) + conversion + form + "}"


def test_the_messages_are_those_that_were_read_aloud():
    kept, now = KEPT.read_text(encoding="utf-8").splitlines(), messages()
    new, gone = sorted(set(now) - set(kept)), sorted(set(kept) - set(now))
    advice = "read them aloud (what was wrong, which file, which value, what to do?), then python tests/quality/test_messages.py --keep"
    assert new + gone == [], "\n".join(
        [advice, *(f"+ {line}" for line in new), *(f"- {line}" for line in gone)]
    )


def test_errors_have_the_house_form():
    """One line, no full stop, no shouting, no excuses, and something of the case at hand in it."""
    for line in messages():
        _, kind, text = line.split(": ", 2)
        if not kind.endswith("Error"):
            continue
        assert not re.search(r"[^.]\.$|!$|!\s|\b(please|sorry|oops|invalid)\b", text, re.IGNORECASE), line
        assert not text.startswith(("Error", "ERROR")), line


def test_errors_name_the_file_value_or_option_they_are_about():
    about = (
        "--",
        "-: ",
        "no input",
        "VariogramError",
        "Config",
        "config.py",
        "ahead.py",
    )  # the last: named by who catches them
    bare = [line for line in messages() if re.search(r": \w+Error: [^{]*$", line)]
    bare = [line for line in bare if not any(word in line for word in about)]
    assert set(bare) == NAMED_ABOVE


def test_every_template_is_found():
    """The collector itself."""
    source = 'def f(x):\n    raise InputError(f"{x}: gone" if x else "one " + "two")\n    warn("three " f"{x!r} four")\n    raise ValueError("no")'
    assert sorted(_told(ast.parse(source))) == [
        ("InputError", "one two"), ("InputError", "{x}: gone"), ("warn", "three {x!r} four"),
    ]  # fmt: skip


if __name__ == "__main__" and "--keep" in sys.argv:
    KEPT.write_text("\n".join(messages()) + "\n", encoding="utf-8")
