"""`stimpute models`: parse, call :func:`stimpute.api.models`, print."""

from __future__ import annotations

from typing import Annotated

import typer

from stimpute.cli import console
from stimpute.cli import options as o

EPILOG = "Example: stimpute models show st-small"


def models(
    action: Annotated[str, typer.Argument(metavar="[list|show|path]", help="What to print.")] = "list",
    name: Annotated[str | None, typer.Argument(metavar="NAME|PATH", help="Which model (show, path).")] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> int:
    """The models at hand: list them, show a card, print where one lies."""
    if action not in {"list", "show", "path"}:
        raise typer.BadParameter(f"{action!r} is not one of list, show, path")
    from stimpute import api

    if action == "list":
        if name is not None:
            raise typer.BadParameter(f"list takes no name; 'stimpute models show {name}' prints its card")
        cards = api.models()
        if json:
            console.write_json(cards)
            return 0
        for card in cards:
            training = card.get("training", {})
            described = training.get("description", "") if isinstance(training, dict) else ""
            console.write_text(
                f"{card['name']}: {card.get('parameters', 0):,} parameters, sha256 {card['sha256'][:12]} {described}".rstrip()
            )
        return 0
    card = api.models(name or "st-small")[0]
    if action == "path" and not json:
        console.write_text(card["path"])
    else:
        console.write_json(card["path"] if action == "path" else card)
    return 0
