"""The base models that clients may ask for: those of this package by name or hub id, and the operator's folders.

A client's text is only looked up in this list. It never becomes a path or an address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from asr_lightning.adapters import registry
from asr_lightning.adapters.cards import ALIASES
from asr_lightning.job_folder.spec import DEFAULT_EPOCHS
from asr_lightning.server.http.problems import Problem

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Catalogue:
    """The models that clients may ask for.

    Attributes:
        sources: Each model as the trainer's ``--model`` takes it, by its name.
        other_names: The name of a model by each of its hub ids and aliases.
        listing: The models as JSON objects, for ``GET /v1/models``.
        epochs: Default number of epochs of each model, from its recipe.
    """

    sources: Mapping[str, str]
    other_names: Mapping[str, str]
    listing: tuple[dict[str, object], ...]
    epochs: Mapping[str, int] = field(default_factory=dict)

    def resolve(self, name: str, param: str) -> str:
        """The name in ``sources`` of the model that a client calls ``name``.

        Raises:
            Problem: There is no such model.
        """
        resolved = self.other_names.get(name, name)
        if resolved not in self.sources:
            raise Problem("model_not_allowed", "this base model is not on the list of GET /v1/models", param=param)
        return resolved


def catalogue(folder: Path | None = None) -> Catalogue:
    """The models of this installation, and those in the subfolders of ``folder``.

    Raises:
        ValueError: ``folder`` is no folder, or a model in it has the name of one of this package.
    """
    cards = {name: card for name, card in registry.cards().items() if card.extra is None or _installed(card.extra)}
    listing: list[dict[str, object]] = [
        {
            "name": name, "source": card.source, "licence": card.licence, "restricted": card.restricted,
            "languages": card.languages, "parameters": round(card.parameters * 1e6), "gb_to_train": card.gb_to_train,
        }
        for name, card in cards.items()
    ]  # fmt: skip
    sources = {name: name for name in cards}
    for name, path in (_folders(folder) if folder else {}).items():
        if name in sources:
            raise ValueError(f"{path} has the name of a model of this package: rename the folder")
        sources[name] = str(path)
        listing.append({"name": name, "source": "this server's", "licence": None, "restricted": False,
                        "languages": None, "parameters": None, "gb_to_train": None})  # fmt: skip
    others = {card.source: name for name, card in cards.items() if card.source not in sources}
    others |= {alias: name for alias, name in ALIASES.items() if name in sources}
    return Catalogue(sources, others, tuple(listing), {name: _epochs(source) for name, source in sources.items()})


def _epochs(source: str) -> int:
    try:
        return registry.epochs_of(source, DEFAULT_EPOCHS)
    except ValueError as error:
        raise ValueError(f"{source} is a model that cannot be read ({error}): copy it again, or remove it") from error


def _installed(extra: str) -> bool:
    return find_spec(extra) is not None


def _folders(folder: Path) -> dict[str, Path]:
    """The models in ``folder``, by name."""
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise ValueError(f"--models_dir {folder} is no folder")
    paths = {}
    for path in sorted(folder.iterdir()):
        is_model = path.suffix == ".nemo" or (path / "config.json").is_file() or (path / "asr_lightning.json").is_file()
        if is_model and NAME.fullmatch(path.name):
            paths[path.name] = path
    return paths
