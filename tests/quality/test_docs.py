"""The documentation covers the commands, and the commands explain themselves."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import typer

import stimpute
from stimpute.api import FillKeywords, ReadKeywords
from stimpute.api.keywords import WriteKeywords
from stimpute.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md")) + [ROOT / "README.md"]
COMMANDS = sorted(typer.main.get_command(app).commands)


def generator():
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_commands_exist():
    assert {
        "fill",
        "forecast",
        "info",
        "variogram",
        "train",
        "evaluate",
        "verify",
        "models",
        "simulate",
    } <= set(COMMANDS)


def test_the_command_reference_is_up_to_date():
    """`make docs` writes it anew."""
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == generator().reference()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented_with_an_example(name):
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"\n## stimpute {name}\n" in reference
    command = typer.main.get_command(app).commands[name]
    said = f"{command.help or ''} {command.epilog or ''}"
    assert re.search(rf"stimpute {name}\b", said), "no example in its --help"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_explains_itself(name):
    command = typer.main.get_command(app).commands[name]
    silent = [p.name for p in command.params if p.param_type_name == "option" and not p.help and not p.hidden]
    assert not silent


def test_readme_and_pages_name_only_commands_that_exist():
    unknown = {
        f"{page.relative_to(ROOT)}: stimpute {word}"
        for page in PAGES
        for word in re.findall(r"(?:^|[|`$] ?)stimpute ([a-z]+)\b", page.read_text(encoding="utf-8"), re.M)
        if word not in COMMANDS
    }
    assert not unknown


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken


@pytest.mark.parametrize("name", [name for name in stimpute.__all__ if not name.startswith("_")])
def test_every_function_of_the_api_is_described(name):
    """Its parameters, the options of fill among them, what it returns and raises."""
    function = getattr(stimpute, name)
    said = inspect.getdoc(function)
    for section in ("Parameters", "Returns", "Raises"):
        assert f"{section}\n{'-' * len(section)}\n" in said
    described = said.partition("Parameters")[2].partition("Returns")[0]
    for parameter in set(inspect.signature(function).parameters) - {"seed", "overwrite"}:
        assert re.search(rf"\b{parameter}\b", described), parameter
    if name == "fill":
        options = {
            *FillKeywords.__annotations__,
            *WriteKeywords.__annotations__,
            *ReadKeywords.__annotations__,
        }
        assert {option for option in options if f"``{option}``" not in described} == set()
