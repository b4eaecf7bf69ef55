"""A transcription in each format of ``response_format``. Knows no server."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

from asr_lightning.recognizer import Transcription
from asr_lightning.runtime import subtitles
from asr_lightning.runtime.contract import Word
from asr_lightning.runtime.segments import Segment

PLAIN = ("text", "srt", "vtt")
FORMATS = ("json", "verbose_json", *PLAIN)
GRANULARITIES = ("segment", "word")
NO_SPEECH = 0.0
"""OpenAI's ``no_speech_prob``. A model of another family has no such token, so it is the same for all: what has no
speech was left out before a model read it."""


def as_json(read: Transcription) -> dict[str, object]:
    """The object of ``json``."""
    return {"text": read.text, "usage": {"type": "duration", "seconds": math.ceil(read.seconds)}}


def as_verbose_json(read: Transcription, granularities: Sequence[str]) -> dict[str, object]:
    """The object of ``verbose_json``, with the times of segments or of words, or both."""
    answer: dict[str, object] = {
        "task": "transcribe",
        "language": read.language or "",
        "duration": round(read.seconds, 3),
        **as_json(read),
    }
    if "word" in granularities:
        answer["words"] = [_word(word) for segment in read.segments for word in segment.words]
    if "segment" in granularities:
        answer["segments"] = [_segment(number, segment) for number, segment in enumerate(read.segments)]
    return answer


def _word(word: Word) -> dict[str, object]:
    return {"word": word.text, "start": word.start, "end": word.end}


def _segment(number: int, segment: Segment) -> dict[str, object]:
    """A segment with all the fields that typed clients require; those that belong to OpenAI's decoding are empty."""
    raw = segment.text.encode()
    return {
        "id": number,
        "seek": round(100 * segment.start),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": math.log(max(segment.confidence, 1e-9)) if segment.confidence is not None else 0.0,
        "compression_ratio": len(raw) / len(zlib.compress(raw)),
        "no_speech_prob": NO_SPEECH,
    }


def as_text(read: Transcription, kind: str) -> str:
    """The text of ``text``, ``srt`` or ``vtt``."""
    return read.text + "\n" if kind == "text" else subtitles.document(read.segments, f".{kind}")
