"""Transcripts and split files of an upload. A transcript's words never reach a message."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from asr_lightning.data.manifest import HEADER
from asr_lightning.data.rows import one_line, split_key
from asr_lightning.server.intake.verdict import IntakeError

UTF8 = "save it as UTF-8 in a text editor"
# UTF-8 of a Latin letter or a quotation mark that was read as cp1252 and saved again: "Ã¤", "â€™".
MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ]|â€[\u0080-\u00bf™œ˜“”¦]")


@dataclass(frozen=True)
class Line:
    """One record of a split file.

    Attributes:
        number: Counted from 1, the header.
        uid: The client's.
        file_name: The client's.
        text: Transcript on one line.
    """

    number: int
    uid: str
    file_name: str
    text: str


def to_text(raw: bytes) -> str:
    """UTF-8 with or without byte-order mark, or UTF-16 with one.

    Raises:
        ValueError: Another encoding or not a text; says what, without quoting it.
    """
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start}); {UTF8}") from error
    if "\0" in text:
        raise ValueError(f"it is no text, it holds NUL characters; {UTF8}")
    return text


def transcript(raw: bytes) -> tuple[str, str | None]:
    """The text on one line, and a warning or None.

    Raises:
        ValueError: As for ``to_text``.
    """
    text = to_text(raw)
    warning = None
    if MOJIBAKE.search(text):
        warning = f"letters look wrongly decoded, such as 'Ã¤' for 'ä'; {UTF8} once more"
    plain = "".join(" " if unicodedata.category(char) == "Cc" else char for char in one_line(text))
    if plain != one_line(text):
        warning = "control characters were replaced by blanks; delete them from the text"
    return one_line(plain), warning


def is_empty(text: str) -> bool:
    """Whether no word is left after normalisation."""
    return not split_key(text)


def split_file(raw: bytes, name: str) -> Iterator[Line]:
    """Records of ``train_files.csv`` and its like, below the header ``uid,file_name,text``.

    Raises:
        IntakeError: Encoding, header, quoting or ragged rows, with the line.
    """
    try:
        text = to_text(raw)
    except ValueError as error:
        raise IntakeError("dataset_invalid", f"{name}: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, name), strict=True)
    number = 1
    try:
        for fields in reader:
            if number > 1 and fields:
                yield _line(fields, number, name)
            number = reader.line_num + 1
    except csv.Error as error:
        cause = 'is no valid CSV; a text with a quotation mark is written as "she said ""yes"""'
        raise IntakeError("dataset_invalid", f"{name} line {number} {cause}") from error


def _line(fields: list[str], number: int, name: str) -> Line:
    if len(fields) != len(HEADER):
        cause = f"has {len(fields)} fields instead of 3; put a text that holds the delimiter in quotation marks"
        raise IntakeError("dataset_invalid", f"{name} line {number} {cause}")
    uid, file_name, text = (field.strip() for field in fields)
    return Line(number, uid, file_name, transcript(text.encode())[0])


def _delimiter(text: str, name: str) -> str:
    header = text.split("\n", 1)[0].rstrip("\r")
    for delimiter in ",;\t":
        if tuple(part.strip().strip('"').lower() for part in header.split(delimiter)) == HEADER:
            return delimiter
    raise IntakeError("dataset_invalid", f"{name}: line 1 must be the header {','.join(HEADER)}")
