"""Which files a model's card says it was trained on. Knows cards and names of files, neither data nor methods."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scoring.cases import Case, read_table
from stimpute.errors import ModelError
from stimpute.pretrained.checkpoint import read_card
from stimpute.pretrained.registry import LoadedModel, list_models

RECIPE = Path(__file__).parents[1] / "pretrain.toml"
ANCESTORS = 20


def is_of(archive: str, stem: str) -> bool:
    """Whether an archive's file name begins with a file's stem, as `pretrain.py pack` names archives.

    >>> [is_of(name, "c3s_2018") for name in ("c3s_2018-sm-0.npz", "c3s_2018.npz", "c3s_20181-sm-0.npz", "c3s_0.npz")]
    [True, True, False, False]
    """
    return archive.startswith(stem) and not archive[len(stem) : len(stem) + 1].isalnum()


def training_of(card: dict[str, Any]) -> str:
    """The last training run that a card tells of, in words.

    >>> training_of({"training": {"archives": [{}, {}], "world_share": 0.5, "steps": 1143, "from": {"name": "a", "sha256": "0123456789ab"}}})
    '1,143 steps on 2 archives and simulated worlds (50% of the examples), from a (sha256 01234567…)'
    >>> training_of({})
    'unknown'
    """
    told = card.get("training", {})
    if "steps" not in told:
        return str(told.get("data", "unknown"))
    archives, share = len(told.get("archives", ())), told.get("world_share", 0)
    sources = [f"{archives} archive{'' if archives == 1 else 's'}"] if archives else []
    sources += [f"simulated worlds ({share:.0%} of the examples)"] if share else []
    origin = told.get("from")
    start = f", from {origin['name']} (sha256 {origin['sha256'][:8]}…)" if origin else ""
    return f"{told['steps']:,} steps on {' and '.join(sources)}{start}"


@dataclass(frozen=True)
class Account:
    """What weights were trained on.

    Parameters
    ----------
    archives : file names, of the weights and of those that they come from.
    complete : every archive is one of a known file, so that a file of which there is none was not seen.
    why : it is not complete, in words.
    """

    archives: tuple[str, ...]
    complete: bool
    why: str = ""

    def saw(self, file: str) -> bool | None:
        """Whether the weights saw a file; None where the card does not tell.

        >>> account = Account(("sst_monthly-sst-0.npz",), complete=True)
        >>> account.saw("oceans/sst_monthly.nc"), account.saw("lst.nc"), Account((), complete=False).saw("lst.nc")
        (True, False, None)
        """
        if any(is_of(archive, Path(file).stem) for archive in self.archives):
            return True
        return False if self.complete else None

    @property
    def told(self) -> str:
        """Where it comes from, in words."""
        count = f"{len(self.archives)} archive{'' if len(self.archives) == 1 else 's'}"
        if self.complete:
            return f"the model's card ({count})"
        why = f": {self.why}" if self.why else ""
        return f"the model's card ({count}) where that names the file, else benchmarks/cases.toml{why}"


def account_of(model: LoadedModel) -> Account:
    """What a model was trained on by its card and by those of the models that it comes from, where they are at hand."""
    cards = list(lineage(model))
    known = known_stems()
    archives: list[str] = []
    why = ""
    if cards[-1].get("training", {}).get("from") is not None:
        why = "the card of the weights that it was trained on from is not at hand"
    for card in cards:
        names = archive_names(card.get("training", {}))
        if names is None:
            why = "it does not list its archives"
        elif not all(any(is_of(name, stem) for stem in known) for name in names):
            why = "it lists archives that are called after no known file"
        archives += names or []
    return Account(tuple(dict.fromkeys(archives)), not why, why)


def archive_names(training: dict[str, Any]) -> list[str] | None:
    """The names in a card's account of its training; None where it gives none. No archives at all is an account too."""
    entries = training.get("archives")
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "name" in e for e in entries):
        return None
    return [str(entry["name"]) for entry in entries]


def lineage(model: LoadedModel) -> Iterator[dict[str, Any]]:
    """The card of a model and of those it was trained on from, found by SHA-256 among the shipped ones and beside it."""
    card = model.card
    yield card
    for _ in range(ANCESTORS):
        origin = card.get("training", {}).get("from")
        found = _card(model.path.parent, origin) if isinstance(origin, dict) else None
        if found is None:
            return
        card = found
        yield card


def _card(folder: Path, origin: dict[str, Any]) -> dict[str, Any] | None:
    cards = [entry.card for entry in list_models()]
    with suppress(ModelError):  # not beside it
        cards.append(read_card(folder / f"{Path(str(origin.get('name'))).name}.safetensors"))
    return next((c for c in cards if origin.get("sha256") and c.get("sha256") == origin["sha256"]), None)


def training_stems(recipe: Path = RECIPE) -> list[str]:
    """Stems of the files that `pretrain.py` packs."""
    return [
        Path(entry["path"]).stem for entry in tomllib.loads(recipe.read_text(encoding="utf-8"))["archive"]
    ]


def known_stems() -> set[str]:
    """Stems of all files that train or judge."""
    return {*training_stems(), *(Path(case.file).stem for case in read_table())}


def marked(cases: Iterable[Case], account: Account) -> list[Case]:
    """The cases as these weights see them: a case judges if they never saw its file; as in the table where nobody can tell."""
    return [_marked(case, account.saw(case.file)) for case in cases]


def _marked(case: Case, saw: bool | None) -> Case:
    if saw is None:
        return case
    return replace(case, judges=not saw, spared=not saw and not case.judges)
