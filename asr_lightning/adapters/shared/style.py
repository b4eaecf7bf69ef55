"""Compares how transcripts are written with how a model writes: capital letters, small letters and punctuation.

Knows no audio and no network. Used by the collators of all families that have a vocabulary.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Any

logger = logging.getLogger(__name__)

PUNCTUATION = ".,?!"
BYTE = re.compile("<0x[0-9A-F]{2}>")  # tokens of single bytes, with which any character can be written
ADVICE = "Write the transcripts as the model would, if its style is to stay"


def characters_of(tokenizer: Any) -> set[str]:
    """The ASCII characters of a Hugging Face tokenizer's tokens of more than one character, special ones left out.

    A vocabulary of byte pairs has a token for each byte, and so for each letter in both cases, even if it was learned
    from texts in small letters only. In its tokens, other characters stand for bytes: "Ġ" for a blank.
    """
    special = set(tokenizer.all_special_tokens)
    tokens = (token for token in tokenizer.get_vocab() if token not in special and not BYTE.fullmatch(token))
    return {char for token in tokens if len(token) > 1 for char in token if char.isascii()}


def warn_of_style(texts: Collection[str], characters: set[str]) -> None:
    """Warn if a model that writes small letters, capitals and full stops is about to unlearn them (NeMo #15382).

    Texts in scripts without capitals say nothing about the style.

    Args:
        texts: The transcripts.
        characters: The characters that the model's vocabulary was learned from.
    """
    text = "".join(texts)
    has_capitals, has_small = (any(map(test, text)) for test in (str.isupper, str.islower))
    if not has_capitals and not has_small:
        return
    lacks = []
    if any(map(str.isupper, characters)) and any(map(str.islower, characters)):
        in_capitals = [text for text in texts if text.isupper()]
        if len(in_capitals) > len(texts) / 2:
            logger.warning(
                "%d of %d transcripts are in capitals only, and this model writes small letters too: it will learn to "
                "write in capitals. %s", len(in_capitals), len(texts), ADVICE,
            )  # fmt: skip
        lacks += [] if has_capitals else ["capital letters"]
    if {".", ","} <= characters and not any(mark in text for mark in PUNCTUATION):
        lacks.append("punctuation")
    if lacks:
        logger.warning(
            "this model writes %s and the transcripts have none: it will learn to leave them out. %s",
            " and ".join(lacks), ADVICE,
        )  # fmt: skip
