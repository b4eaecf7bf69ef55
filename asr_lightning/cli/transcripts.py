"""The formats that ``transcribe`` writes, and a file or the terminal that it writes them to. Loads nothing heavy."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_lightning.recognizer import Transcription
    from asr_lightning.runtime.contract import Word
    from asr_lightning.runtime.segments import Segment

logger = logging.getLogger(__name__)

FORMATS = ("txt", "jsonl", "csv", "srt", "vtt")
ONE_EACH = ("srt", "vtt")
"""Formats that hold one recording."""
COLUMNS = ("file", "start", "end", "text", "confidence")


@dataclass(frozen=True)
class Style:
    """How texts are written.

    Attributes:
        format: One of ``FORMATS``.
        words: Whether the times of words are wanted.
        many: Whether several recordings share the output.
    """

    format: str
    words: bool = False
    many: bool = False

    def head(self) -> str:
        """What stands before the first text."""
        from asr_lightning.runtime import subtitles

        return _csv_line(COLUMNS) if self.format == "csv" else subtitles.HEADERS.get(f".{self.format}", "")

    def recording(self, name: str, found: Transcription) -> str:
        """The text of one recording."""
        if self.format == "jsonl":
            return _json_line(
                file=name,
                seconds=round(found.seconds, 3),
                language=found.language,
                text=found.text,
                segments=[self._segment(segment) for segment in found.segments],
            )
        if self.format == "txt" and self.many:
            return f"{name}\t{found.text}\n"
        return "".join(self.segments(name, found.segments))

    def segments(self, name: str, found: Iterable[Segment]) -> Iterator[str]:
        """The text of each phrase of a recording, as it comes."""
        from asr_lightning.runtime import subtitles

        if self.format in ONE_EACH:
            yield from subtitles.lines(found, f".{self.format}", self.words)
            return
        for segment in found:
            if self.format == "jsonl":
                yield _json_line(file=name, **self._segment(segment))
            elif self.format == "csv":
                confidence = "" if segment.confidence is None else f"{segment.confidence:.3f}"
                yield _csv_line((name, f"{segment.start:.3f}", f"{segment.end:.3f}", segment.text, confidence))
            else:
                yield f"{segment.text}\n"

    def _segment(self, segment: Segment) -> dict[str, Any]:
        content: dict[str, Any] = {"start": segment.start, "end": segment.end, "text": segment.text}
        if segment.confidence is not None:
            content["confidence"] = round(segment.confidence, 3)
        return content | ({"words": [_word(word) for word in segment.words]} if self.words else {})


class Output:
    """A file, or the terminal, that texts are written to one by one, so that none is lost if the work is stopped.

    If the file cannot be written, it is removed, and all its texts are printed.

    Args:
        path: The file, which must not exist; None is the terminal.
        style: How texts are written.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, path: Path | None, style: Style) -> None:
        self.path, self.style = path, style
        self._file = path.open("x", newline="", encoding="utf-8") if path else None
        self._written: list[str] = []
        self._error: OSError | None = None
        self._put(style.head())

    def write(self, name: str, found: Transcription) -> None:
        """Write the text of one recording."""
        self._put(self.style.recording(name, found))

    def stream(self, name: str, found: Iterable[Segment]) -> None:
        """Write the phrases of one recording as they come."""
        for text in self.style.segments(name, found):
            self._put(text)

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: It could not be written, and its texts were printed.
        """
        if self._file is not None and self._error is None:
            self._file.close()
        if self._error is not None:
            raise self._error

    def _put(self, text: str) -> None:
        if self._file is None or self._error is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        self._written.append(text)
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self._error = error
            self._give_up()

    def _give_up(self) -> None:
        """Print what the file should have held."""
        assert self.path is not None and self._file is not None
        with suppress(OSError):  # it cannot be written at its closing either
            self._file.close()
        self.path.unlink(missing_ok=True)
        logger.error("%s cannot be written, so the texts are printed", self.path)
        sys.stdout.write("".join(self._written))


def _word(word: Word) -> dict[str, Any]:
    content: dict[str, Any] = {"text": word.text, "start": word.start, "end": word.end}
    return content | ({} if word.confidence is None else {"confidence": round(word.confidence, 3)})


def _json_line(**content: Any) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _csv_line(cells: Iterable[str]) -> str:
    from asr_lightning.scoring.text import spreadsheet_cell

    line = io.StringIO()
    csv.writer(line).writerow([spreadsheet_cell(cell) for cell in cells])
    return line.getvalue()
