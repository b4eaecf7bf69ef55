"""The pieces of a text with their times. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr_lightning.runtime.contract import Hypothesis, Word


@dataclass(frozen=True)
class Segment:
    """A phrase of a recording; times are in seconds from the start of the recording.

    Attributes:
        text: The text, as the model writes it.
        start: Start of the phrase.
        end: End of the phrase.
        words: Its words with their times; empty if they were not asked for, or the model cannot tell them.
        confidence: Geometric mean of the probabilities of its tokens, from 0 to 1; None if the model does not tell.
    """

    text: str
    start: float
    end: float
    words: tuple[Word, ...] = ()
    confidence: float | None = None


def of(found: Hypothesis, offset: float, start: float, end: float) -> Segment:
    """Make a segment of what was read in a clip. Words do not reach into the silence around its speech.

    Args:
        found: What was read.
        offset: Where the clip starts in the recording, in seconds.
        start: Where its speech starts in the recording.
        end: Where its speech ends in the recording.
    """

    def within(seconds: float) -> float:
        return round(min(max(seconds + offset, start), end), 3)

    words = tuple(Word(word.text, within(word.start), within(word.end), word.confidence) for word in found.words)
    return Segment(found.text, round(start, 3), round(end, 3), words, found.confidence)


def text_of(segments: Sequence[Segment], spaced: bool = True) -> str:
    """The text of ``segments`` in a row."""
    return (" " if spaced else "").join(segment.text for segment in segments if segment.text)
