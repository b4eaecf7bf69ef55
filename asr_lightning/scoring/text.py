"""Text normalisers, which decide what counts as the same word. Imports nothing heavy; knows no model.

A WER means nothing without the name of its normaliser, so every report prints both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

from asr_lightning.errors import require_extra

Normalizer = Callable[[str], str]

MAX_NAMED = 10  # names that a message lists; the others are counted


def none(text: str) -> str:
    """Collapse white space and change nothing else."""
    return " ".join(text.split())


def basic(text: str) -> str:
    """Convert to lower case, and remove bracketed remarks, punctuation and symbols.

    The result is that of ``BasicTextNormalizer`` of openai/whisper, which the predecessor of this project used as well,
    without white space at the ends. "don't" becomes two words, "don t", on both sides of a comparison.
    """
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower())
    text = re.sub(r"\(([^)]+?)\)", "", text)
    text = unicodedata.normalize("NFKC", text)
    return none("".join(" " if unicodedata.category(char)[0] in "MSP" else char for char in text).lower())


def english(text: str) -> str:
    """Normalise as ``basic`` does, and also spell numbers, contractions and fillers in one way: "I'm" becomes "i am".

    The result is that of ``EnglishTextNormalizer`` of openai/whisper, which the Open ASR Leaderboard uses, without its
    list of British spellings, since that is part of checkpoints.
    """
    return none(_whisper_english()(text))


@cache
def _whisper_english() -> Normalizer:
    require_extra("train", "transformers", "the normalizer english")
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer  # takes a second, but no torch

    whisper_english: Normalizer = EnglishTextNormalizer({})  # type: ignore[no-untyped-call]
    return whisper_english


NORMALIZERS: dict[str, Normalizer] = {"none": none, "basic": basic, "english": english}


def normalizer(name: str) -> Normalizer:
    """The normaliser called ``name``.

    Raises:
        ValueError: No normaliser has that name; the message lists all names.
    """
    if name not in NORMALIZERS:
        raise ValueError(f"unknown text normalizer {name!r}: choose one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]


def spreadsheet_cell(text: str) -> str:
    """``text`` for a CSV cell, with an apostrophe before it if a spreadsheet would execute it as a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def name_some(names: Sequence[str], separator: str = ", ") -> str:
    """The first ten of ``names`` and the number of the others, for a message."""
    rest = f"{separator}and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return separator.join(names[:MAX_NAMED]) + rest
