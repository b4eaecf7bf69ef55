"""Whisper in sherpa-onnx, as its apps for phones and small computers read it. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, RuntimeModel, Samples, Word
from asr_lightning.runtime.whisper.settings import SAMPLE_RATE

WINDOW_FRAMES = 3000
"""So many frames of silence fill the 30 s window; sherpa-onnx cuts off what is beyond it."""
FILES = ("encoder.onnx", "decoder.onnx", "tokens.txt")


def load(folder: Path, settings: Mapping[str, object], threads: int) -> RuntimeModel:
    """Load the graphs that ``export/whisper/sherpa_onnx.py`` wrote to ``folder``, to be run with so many ``threads``.

    Raises:
        ModelError: A file is missing. sherpa-onnx ends the process at a file that it cannot read.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ModelError(f"{folder} lacks {missing[0]}: export the model again")
    return SherpaWhisper(folder, settings, threads)


class SherpaWhisper:
    """A Whisper in sherpa-onnx, which reads clips one by one and greedily, and tells no confidence.

    Args:
        folder: Folder of the files.
        settings: The content of ``settings`` in ``export.json``.
        threads: Number of threads.
    """

    sample_rate = SAMPLE_RATE
    min_seconds = 0.1
    max_seconds: float | None = 29.4
    """It drops what is beyond 29.5 s."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], threads: int) -> None:
        self.language: str | None = settings["language"]
        self._recognizer = lru_cache(maxsize=2)(self._new_recognizer)
        self._folder, self._settings, self._threads = folder, settings, threads
        self._recognizer(False, False)

    def _new_recognizer(self, native: bool, words: bool) -> sherpa_onnx.OfflineRecognizer:
        return sherpa_onnx.OfflineRecognizer.from_whisper(
            *(str(self._folder / name) for name in FILES),
            language=self._settings["language"] or "",
            task=self._settings["task"] or "transcribe",
            num_threads=self._threads,
            tail_paddings=WINDOW_FRAMES if native else self._settings["tail_paddings"],
            enable_token_timestamps=words,
        )

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order."""
        return [self._read(clip, decoding) for clip in clips]

    def _read(self, clip: Samples, decoding: Decoding) -> Hypothesis:
        recognizer = self._recognizer(decoding.native, decoding.words)
        stream = recognizer.create_stream()
        around = self._settings["leading_samples"], self._settings["trailing_samples"]
        stream.accept_waveform(SAMPLE_RATE, np.pad(clip, around))
        recognizer.decode_stream(stream)
        result = stream.result
        seconds = len(clip) / SAMPLE_RATE
        words = _words(result.tokens, result.timestamps, result.durations, seconds) if decoding.words else ()
        return Hypothesis(result.text.strip(), tuple(words))


def _words(tokens: Sequence[str], starts: Sequence[float], lengths: Sequence[float], seconds: float) -> list[Word]:
    """Join tokens to words, each of which starts with a space. The last one ends with the silence after the clip."""
    words: list[Word] = []
    for token, start, length in zip(tokens, starts, lengths, strict=False):
        end = round(min(start + length, seconds), 3)
        if token.startswith(" ") or not words:
            words.append(Word(token, round(min(start, seconds), 3), end))
        else:
            words[-1] = Word(words[-1].text + token, words[-1].start, end)
    return [Word(word.text.strip(), word.start, word.end) for word in words if word.text.strip()]
