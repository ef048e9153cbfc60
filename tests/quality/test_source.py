"""House rules that can be read off the source: docstrings, banned names, file sizes, nobody's own paths."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "stimpute").rglob("*.py"))
LARGEST = 16 * 2**20
BANNED_MODULES = {"utils", "util", "helpers", "helper", "manager", "misc"}
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt|opt|tmp/bash)/[\w.-]+")


def tracked() -> list[Path]:
    """What git would ship: tracked files, or everything where this is no checkout."""
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def public_definitions(
    module: Path,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Public functions, classes and their public methods; overrides of dunder methods need no words of their own."""

    def walk(
        body: list[ast.stmt], prefix: str
    ) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
        for node in body:
            if not isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            ) or node.name.startswith("_"):
                continue
            if isinstance(node, ast.FunctionDef) and any(
                "overload" in ast.unparse(d) for d in node.decorator_list
            ):
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef) and "Protocol" not in ast.unparse(node).partition(":")[0]:
                yield from walk(node.body, f"{prefix}{node.name}.")

    yield from walk(ast.parse(module.read_text(encoding="utf-8")).body, "")


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_class_and_public_function_says_what_it_is(module):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    silent = [] if ast.get_docstring(tree) or not tree.body else ["the module itself"]
    silent += [
        name for name, node in public_definitions(module) if len((ast.get_docstring(node) or "").strip()) < 8
    ]
    assert not silent, f"without a docstring: {', '.join(silent)}"


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that the source binds itself: variables, arguments, functions, classes, attributes of self."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def test_the_bare_word_mask_names_nothing():
    """``valid`` (True = observed), ``gap``, ``held_out``, ``attn_bias`` say which way round they are; ``mask`` does not."""
    found = [
        f"{module.relative_to(ROOT)}:{line} {name}"
        for module in MODULES
        for name, line in identifiers(ast.parse(module.read_text(encoding="utf-8")))
        if re.fullmatch(r"_?masks?", name)
    ]
    assert not found


def test_modules_are_named_after_one_idea():
    assert not [str(m.relative_to(ROOT)) for m in MODULES if m.stem in BANNED_MODULES]


def test_no_tracked_file_is_larger_than_16_mib():
    assert not [
        f"{p.relative_to(ROOT)}: {p.stat().st_size:,} bytes" for p in tracked() if p.stat().st_size > LARGEST
    ]


def test_no_pickle_is_shipped():
    assert not [
        str(p.relative_to(ROOT)) for p in tracked() if p.suffix in {".pkl", ".pickle", ".pt", ".pth", ".ckpt"}
    ]


def test_no_tracked_text_holds_a_path_of_some_machine():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in MACHINE_PATHS.finditer(text)]
    assert not found
