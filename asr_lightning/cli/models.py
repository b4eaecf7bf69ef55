"""``models``: list the models that ``--model`` knows by name."""

from __future__ import annotations

import argparse
import json

from asr_lightning.adapters import registry
from asr_lightning.adapters.cards import ModelCard

COLUMNS = ("name", "family", "parameters", "licence", "languages", "GB to train", "GB to run", "needs")
NOTE = (
    "GB to train: memory to train the encoder on a CPU, with 8 clips a batch; ~ marks an estimate, for training all "
    "weights. GB to run: size of the weights in float32.\n* The licence forbids some uses: read it first."
)


def parser() -> argparse.ArgumentParser:
    """The parser for ``models``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning models", description=__doc__)
    options.add_argument("--json", action="store_true", help="print one JSON object a line, for programs")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Print one line for each model."""
    options = parser().parse_args(arguments)
    cards = registry.cards().values()
    if options.json:
        for card in cards:
            print(json.dumps(as_json(card), ensure_ascii=False))
        return 0
    rows = [COLUMNS, *map(cells, cards)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"\n{NOTE}")
    return 0


def cells(card: ModelCard) -> tuple[str, ...]:
    """The cells of a model's row in the table."""
    parameters = f"{card.parameters:.0f} M" if card.parameters >= 1 else f"{1000 * card.parameters:.0f} k"
    train = f"{'' if card.train_gb else '~'}{card.gb_to_train:.1f}"
    licence = card.licence + ("*" if card.restricted else "")
    needs = f"extra {card.extra}" if card.extra else ""
    return (card.name, card.family, parameters, licence, card.languages, train, f"{card.gb_to_run:.1f}", needs)


def as_json(card: ModelCard) -> dict[str, object]:
    """The JSON object that describes a model to programs."""
    return {
        "name": card.name,
        "family": card.family,
        "adapter": card.adapter,
        "source": card.source,
        "parameters": round(card.parameters * 1e6),
        "licence": card.licence,
        "restricted": card.restricted,
        "languages": card.languages,
        "gb_to_train": round(card.gb_to_train, 1),
        "measured": card.train_gb is not None,
        "gb_to_run": round(card.gb_to_run, 2),
        "extra": card.extra,
    }
