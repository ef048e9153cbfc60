"""Prints docs/cli.md: what every command says in its own --help, so that the reference cannot drift from the code.

python docs/generate_cli.py > docs/cli.md
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import typer

HEAD = """# Commands

Generated from `--help` by `make docs`; do not edit. `stimpute COMMAND --help` says the same in the terminal.

Data and JSON go to stdout; log, progress and warnings to stderr. Exit codes: 0 done; 1 failed once a file was opened or
looked at; 2 the command line alone is wrong; 3 done but gaps remain, under `--strict`; 130 interrupted (129: hung up).
"""


def reference() -> str:
    """The whole page."""
    from stimpute.cli import app

    group: Any = typer.main.get_command(app)
    commands = sorted(group.commands.items())
    return HEAD + alone(group) + "".join(section(name, command) for name, command in commands)


def alone(group: Any) -> str:
    """What `stimpute` takes without a command."""
    context = group.context_class(group, info_name="stimpute")
    rows = [row(parameter, context) for parameter in group.params if is_option(parameter)]
    return "\n| Without a command | |\n|---|---|\n" + "".join(rows)


def section(name: str, command: Any) -> str:
    """One command: what it does, usage, example, arguments, options by panel."""
    context = command.context_class(command, info_name=f"stimpute {name}")
    usage = re.sub(r"^Usage: ", "", command.get_usage(context))
    text = f"\n## stimpute {name}\n\n{inspect.cleandoc(command.help or '')}\n\n```\n{' '.join(usage.split())}\n```\n"
    if command.epilog:
        text += f"\n{inspect.cleandoc(command.epilog)}\n"
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        panel = getattr(parameter, "rich_help_panel", None) or (
            "Options" if is_option(parameter) else "Arguments"
        )
        panels.setdefault(panel, []).append(row(parameter, context))
    for panel, rows in panels.items():
        text += f"\n| {panel} | |\n|---|---|\n" + "".join(rows)
    return text


def is_option(parameter: Any) -> bool:
    """An option, not an argument (Typer brings its own click, so that classes cannot be asked)."""
    return bool(parameter.param_type_name == "option")


def row(parameter: Any, context: Any) -> str:
    """One line of a table."""
    said = parameter.help or ""
    if not is_option(parameter):
        return cells(f"`{parameter.metavar or parameter.name.upper()}`", said)
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if not (parameter.is_flag or parameter.count):
        names += f" {parameter.metavar or parameter.type.name.upper()}"
    if parameter.multiple and "epeatable" not in said:
        said += " Repeatable."
    plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
    if plain and "default" not in said.lower():
        said += f" Default: `{parameter.default}`."
    return cells(f"`{names}`", said)


def cells(left: str, right: str) -> str:
    """A row, with the bars inside escaped."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in (left, right)) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
