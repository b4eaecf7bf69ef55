"""Writes segments as subtitles: SubRip (SRT) and WebVTT. Loads nothing heavy."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from asr_lightning.runtime.contract import Word
from asr_lightning.runtime.segments import Segment

LINE = 42
"""Characters in a line. Source: Netflix, Timed Text Style Guide; BBC and EBU have about as many."""
LINES = 2
SHORTEST = 0.3
"""Seconds for which a subtitle is shown at least, unless the next one begins earlier."""
HEADERS = {".srt": "", ".vtt": "WEBVTT\n\n"}
"""What a file of each format begins with."""


class Cue(NamedTuple):
    """A text that is shown from ``start`` to ``end``, in seconds."""

    start: float
    end: float
    text: str


def lines(segments: Iterable[Segment], suffix: str, by_word: bool = False) -> Iterator[str]:
    """Make subtitles of ``segments``, as they come; before the first of WebVTT, ``HEADERS`` must stand.

    Args:
        segments: Phrases in the order of their times.
        suffix: ``.srt`` or ``.vtt``.
        by_word: Whether each word is a cue of its own; segments without words are shown whole.
    """
    mark = "." if suffix == ".vtt" else ","
    for number, cue in enumerate(_apart(cue for segment in segments for cue in cues(segment, by_word)), start=1):
        text = "\n".join(wrapped(cue.text))
        shown = _escaped(text) if suffix == ".vtt" else text
        yield f"{number}\n{clock(cue.start, mark)} --> {clock(cue.end, mark)}\n{shown}\n\n"


def document(segments: Iterable[Segment], suffix: str, by_word: bool = False) -> str:
    """The whole content of a file of subtitles."""
    return HEADERS[suffix] + "".join(lines(segments, suffix, by_word))


def cues(segment: Segment, by_word: bool = False) -> Iterator[Cue]:
    """Divide a segment into texts that fit on the screen: by the times of its words, or else by their lengths."""
    if by_word and segment.words:
        yield from (Cue(word.start, word.end, word.text) for word in segment.words)
        return
    words = list(segment.words) or _spread(segment)
    for group in _screens(words):
        yield Cue(group[0].start, group[-1].end, _joined(group, segment.text))


def clock(seconds: float, mark: str) -> str:
    """``seconds`` as 01:02:03,456, with ``mark`` in front of the milliseconds."""
    milliseconds = round(max(seconds, 0) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def wrapped(text: str) -> list[str]:
    """``text`` in lines of at most 42 characters, two lines of about the same length where one is not enough."""
    if len(text) <= LINE:
        return [text]
    for width in range(max(len(text) // LINES, 1), LINE + 1):
        lines = textwrap.wrap(text, width, break_on_hyphens=False)
        if len(lines) <= LINES:
            return lines
    return textwrap.wrap(text, LINE)


def _apart(found: Iterable[Cue]) -> Iterator[Cue]:
    """Show each cue for a while, and end it where the next one begins."""
    held: Cue | None = None
    for cue in found:
        if held is not None:
            yield held._replace(end=max(min(max(held.end, held.start + SHORTEST), cue.start), held.start + 0.001))
        held = cue
    if held is not None:
        yield held._replace(end=max(held.end, held.start + SHORTEST))


def _spread(segment: Segment) -> list[Word]:
    """The words of a segment that has no times for them, with times by their share of its characters."""
    texts = segment.text.split() if " " in segment.text.strip() else list(textwrap.wrap(segment.text, LINE))
    total, now, result = sum(map(len, texts)), 0, []
    for text in texts:
        start, now = now, now + len(text)
        span = segment.end - segment.start
        result.append(Word(text, segment.start + span * start / total, segment.start + span * now / total))
    return result


def _screens(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Divide words into groups of two lines."""
    group: list[Word] = []
    for word in words:
        text = " ".join(each.text for each in (*group, word))
        if group and (len(wrapped(text)) > LINES or len(text) > LINES * LINE):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _joined(words: Sequence[Word], whole: str) -> str:
    """The words with the spaces that the text has between them."""
    return (" " if " " in whole.strip() else "").join(word.text for word in words)


def _escaped(text: str) -> str:
    """``text`` as WebVTT has it: & and < begin an entity and a tag."""
    return re.sub("[&<>]", lambda found: {"&": "&amp;", "<": "&lt;", ">": "&gt;"}[found[0]], text)
