"""Text normalisers, by name: what counts as the same word. Loads nothing heavy; knows no model.

A WER without the name of its normaliser means nothing, so every report prints it beside the figure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

Normalizer = Callable[[str], str]

NAMED = 10  # offenders spelled out in a message; the rest is counted


def none(text: str) -> str:
    """Collapse white space and change nothing else."""
    return " ".join(text.split())


def basic(text: str) -> str:
    """Lower-case, without bracketed remarks, punctuation or symbols.

    Source: ``BasicTextNormalizer`` of openai/whisper, which the seed's figures used; equal on every string, except
    that white space at the ends is dropped. "don't" becomes two words, "don t", on both sides of a comparison.
    """
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text.lower())
    text = re.sub(r"\(([^)]+?)\)", "", text)
    kept = (" " if unicodedata.category(char)[0] in "MSP" else char for char in unicodedata.normalize("NFKC", text))
    return none("".join(kept).lower())


def english(text: str) -> str:
    """As basic, and with one spelling for numbers, contractions and fillers: "1" is "one", "I'm" is "i am".

    Source: ``EnglishTextNormalizer`` of openai/whisper, the one of the Open ASR Leaderboard, without its list of
    British spellings, which comes with checkpoints.
    """
    return none(_whisper_english()(text))


@cache
def _whisper_english() -> Normalizer:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer  # a second, but no torch

    made: Normalizer = EnglishTextNormalizer({})
    return made


NORMALIZERS: dict[str, Normalizer] = {"none": none, "basic": basic, "english": english}


def normalizer(name: str) -> Normalizer:
    """The normaliser called ``name``.

    Raises:
        ValueError: There is none of that name; the message lists those there are.
    """
    if name not in NORMALIZERS:
        raise ValueError(f"unknown text normalizer {name!r}: choose one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]


def spreadsheet_cell(text: str) -> str:
    """``text`` for a CSV cell, behind an apostrophe where a spreadsheet would run it as a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def name_some(names: Sequence[str], separator: str = ", ") -> str:
    """The first ten of ``names``, and how many more there are."""
    rest = f"{separator}and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return separator.join(names[:NAMED]) + rest
