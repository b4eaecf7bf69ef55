"""Read the transcripts and split files of an upload. No message quotes a transcript."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from asr_lightning.data.characters import visible
from asr_lightning.data.manifest import HEADER
from asr_lightning.data.rows import split_key
from asr_lightning.server.intake.verdict import IntakeError

UTF8 = "save it as UTF-8 in a text editor"
# UTF-8 of a Latin letter or a quotation mark that was read as cp1252 and saved again: "Ã¤", "â€™".
MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹Œ‘’“”•–—˜™š›œžŸ]|â€[\u0080-\u00bf™œ˜“”¦]")


@dataclass(frozen=True)
class Line:
    """One record of a split file.

    Attributes:
        number: Number of the line; the header is line 1.
        uid: The client's uid of the recording.
        file_name: The client's name of the file.
        text: The transcript, on one line.
    """

    number: int
    uid: str
    file_name: str
    text: str


def to_text(raw: bytes) -> str:
    """Decode UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Raises:
        ValueError: The encoding is another one, or this is not a text.
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
    """The text of a transcript on one line, and a warning or None.

    Raises:
        ValueError: See ``to_text``.
    """
    text = to_text(raw)
    warning = None
    if MOJIBAKE.search(text):
        warning = f"letters look wrongly decoded, such as 'Ã¤' for 'ä'; {UTF8} once more"
    plain, left_out = visible(text)
    if left_out:
        warning = f"characters that nobody sees were left out ({', '.join(left_out)}); delete them from the text"
    return plain, warning


def is_empty(text: str) -> bool:
    """Whether no word is left after normalization."""
    return not split_key(text)


def split_file(raw: bytes, name: str) -> Iterator[Line]:
    """The records of a split file, such as ``train_files.csv``, below its header ``uid,file_name,text``.

    Raises:
        IntakeError: The encoding, the header, the quoting or a row is wrong; the message has the line.
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
