"""A row of a data set, and the rules for texts that all readers share. Imports the standard library only.

Knows no folder layout and no CSV; imported by ``folder``, ``manifest`` and ``splits``.
"""

from __future__ import annotations

import codecs
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from asr_lightning.data.characters import visible
from asr_lightning.errors import DataError


@dataclass(frozen=True)
class Row:
    """One recording and its transcript.

    Attributes:
        uid: Unique name of the recording, without further meaning.
        file_name: Path of the audio file, relative to the audio folder.
        text: Transcript on one line and without invisible characters, otherwise as the user wrote it.
    """

    uid: str
    file_name: str
    text: str


def split_key(text: str) -> str:
    """The words of ``text`` in lower case, with normalised accents and without punctuation; empty if there is no word.

    Texts with equal keys count as the same text and always go into the same split. A change of this function would
    change which splits are made for existing data sets.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("’", "")
    characters = (char if unicodedata.category(char)[0] in "LMN" else " " for char in folded)
    return " ".join("".join(characters).split())


def one_line(text: str) -> str:
    """The text as ``visible`` leaves it: line ends and characters that nobody sees are not spoken."""
    return visible(text).text


def read_text(path: Path) -> str:
    """Read a UTF-8 file, or a UTF-16 file with a byte-order mark.

    Raises:
        ValueError: The file cannot be read, has another encoding, or is not text; the message names file and remedy.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name}: this file cannot be read ({error.strerror})") from error
    is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    remedy = "open it in a text editor and save it as UTF-8"
    try:
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}); {remedy}") from error
    if "\0" in text:
        raise DataError(f"{path.name} is not UTF-8 text (it holds NUL characters); {remedy}")
    return text
