"""``models``: the models that ``--model`` knows by name."""

from __future__ import annotations

import argparse
import json

from asr_lightning.adapters import registry
from asr_lightning.adapters.cards import ModelCard

COLUMNS = ("name", "family", "parameters", "licence", "languages", "GB to train", "GB to run", "needs")
NOTE = (
    "GB to train: the encoder, 8 clips a batch, on a CPU; with ~ an estimate for every weight. GB to run: the weights "
    "in float32.\n* forbids some uses: read the licence first."
)


def parser() -> argparse.ArgumentParser:
    """The options of ``models``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning models", description=__doc__)
    options.add_argument("--json", action="store_true", help="one JSON object a line")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Print one line for each model."""
    options = parser().parse_args(arguments)
    known = registry.cards().values()
    if options.json:
        for card in known:
            print(json.dumps(record(card), ensure_ascii=False))
        return 0
    rows = [COLUMNS, *map(row, known)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    for line in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"\n{NOTE}")
    return 0


def row(card: ModelCard) -> tuple[str, ...]:
    """The cells of ``card``."""
    parameters = f"{card.parameters:.0f} M" if card.parameters >= 1 else f"{1000 * card.parameters:.0f} k"
    train = f"{'' if card.train_gb else '~'}{card.gb_to_train:.1f}"
    licence = card.licence + ("*" if card.restricted else "")
    needs = f"extra {card.extra}" if card.extra else ""
    return (card.name, card.family, parameters, licence, card.languages, train, f"{card.gb_to_run:.1f}", needs)


def record(card: ModelCard) -> dict[str, object]:
    """``card`` for programs."""
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
