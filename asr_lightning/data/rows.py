"""One line of a data set, and the text rules that every reader of it shares. Standard library only.

Knows no folder layout and no CSV; imported by ``folder``, ``manifest`` and ``splits``.
"""

from __future__ import annotations

import codecs
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from asr_lightning.errors import DataError


@dataclass(frozen=True)
class Row:
    """One recording and its transcript.

    Attributes:
        uid: Opaque name; nothing is read out of it.
        file_name: Audio file, relative to the audio folder.
        text: Transcript on one line, otherwise as the user wrote it.
    """

    uid: str
    file_name: str
    text: str


def split_key(text: str) -> str:
    """What makes two prompts the same one: words without case, accents in one form, no punctuation.

    Equal keys never cross a split. Empty where the text holds no word. Persisted splits rest on this function.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    kept = (char if unicodedata.category(char)[0] in "LMN" else " " for char in folded)
    return " ".join("".join(kept).split())


def one_line(text: str) -> str:
    """``text`` with every run of white space as one blank: line ends in a transcript are not spoken."""
    return " ".join(text.split())


def read_text(path: Path) -> str:
    """The whole text of a UTF-8 file, or of a UTF-16 file that says so in its first two bytes.

    Raises:
        ValueError: Another encoding, not a text, or not readable; names the file and the remedy.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name}: this file cannot be read ({error.strerror})") from error
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    remedy = "open it in a text editor and save it as UTF-8"
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}); {remedy}") from error
    if "\0" in text:
        raise DataError(f"{path.name} is not UTF-8 text (it holds NUL characters); {remedy}")
    return text
