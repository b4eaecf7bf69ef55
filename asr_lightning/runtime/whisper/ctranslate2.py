"""Whisper in CTranslate2, at the length that the model was trained on. Loads no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from asr_lightning.errors import DataError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples, Word
from asr_lightning.runtime.whisper.features import log_mel
from asr_lightning.runtime.whisper.settings import HOP, SAMPLE_RATE, WINDOW_SECONDS, WhisperSettings
from asr_lightning.runtime.whisper.tokens import WhisperTokens

WEIGHTS, CONFIG, VOCABULARY = "model.bin", "config.json", "vocabulary.json"
TOKENIZER, EXTRACTOR = "tokenizer.json", "preprocessor_config.json"
STORED_TYPE = "stored_type"
"""Setting with the type of the weights in the file: int8, float16 or float32."""
SECONDS_PER_POSITION = 0.02
"""Length of one position of the encoder, and of the shortest clip."""
MAX_MEDIAN_SECONDS = 0.7
"""Half of the length of the longest first word. Source: openai/whisper ``timing.py``."""
TINY = 1e-10
MAX_BATCH = 8
"""Clips that are decoded together, at most: the weights are read from memory once for all of them."""


class Group(NamedTuple):
    """Clips that are decoded together give the same text as alone: all have this number of frames and this cap."""

    num_frames: int
    max_tokens: int


class CTranslate2Whisper:
    """A Whisper that is loaded in CTranslate2; ``contract.RuntimeModel`` explains the attributes.

    Args:
        folder: Folder with the converted model and its ``tokenizer.json``.
        settings: The settings in its ``export.json``.
        threads: Number of CPU threads.
    """

    sample_rate = SAMPLE_RATE
    min_seconds = SECONDS_PER_POSITION
    max_seconds: float | None = WINDOW_SECONDS

    def __init__(self, folder: Path, settings: Mapping[str, object], threads: int) -> None:
        self.settings = WhisperSettings.from_json(settings)
        self.language: str | None = self.settings.language or "en"
        self._tokens = WhisperTokens(folder / TOKENIZER, self.settings.eos, self.settings.language)
        # CPUs compute in int8 or float32. "default" is int8 for an int8 file, and float32 where the CPU has no int8.
        compute_type = "default" if settings[STORED_TYPE] == "int8" else "float32"
        self._model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=compute_type, intra_threads=threads
        )

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order. The result for a clip depends on no other one.

        Raises:
            DataError: A clip is too short or too long.
        """
        groups: dict[Group, list[int]] = defaultdict(list)
        for number, clip in enumerate(clips):
            groups[self._group(clip, decoding)].append(number)
        results: dict[int, Hypothesis] = {}
        for group, numbers in groups.items():
            for start in range(0, len(numbers), MAX_BATCH):
                batch = numbers[start : start + MAX_BATCH]
                hypotheses = self._read([clips[number] for number in batch], group, decoding)
                results.update(zip(batch, hypotheses, strict=True))
        return [results[number] for number in range(len(clips))]

    def _group(self, clip: Samples, decoding: Decoding) -> Group:
        seconds = len(clip) / SAMPLE_RATE
        if not self.min_seconds <= seconds <= WINDOW_SECONDS:
            raise DataError(
                f"a clip of {seconds:.2f} s cannot be read at once: cut it into clips of {self.min_seconds} to "
                f"{WINDOW_SECONDS:.0f} s"
            )
        return Group(self.settings.num_frames(len(clip), decoding.native), self.settings.max_tokens(len(clip)))

    def _read(self, clips: Sequence[Samples], group: Group, decoding: Decoding) -> list[Hypothesis]:
        settings = self.settings
        mels = [log_mel(clip, group.num_frames, settings.num_mels) for clip in clips]
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.stack(mels)))
        results = self._model.generate(
            encoded,
            [list(settings.prompt)] * len(clips),
            beam_size=decoding.beam,
            # CTranslate2 writes at most half of max_length. Source: its src/models/whisper.cc.
            max_length=max(2 * group.max_tokens, group.max_tokens + len(settings.prompt)),
            suppress_tokens=list(settings.suppress),
            suppress_blank=True,  # stands for all of suppress_ids_begin in config.json
            return_scores=True,
        )
        tokens = [result.sequences_ids[0] for result in results]
        words = self._words(encoded, clips, tokens) if decoding.words else [()] * len(clips)
        return [
            Hypothesis(self._tokens.text(ids), own, _confidence(result.scores[0], len(ids), group.max_tokens))
            for result, ids, own in zip(results, tokens, words, strict=True)
        ]

    def _words(self, encoded: Any, clips: Sequence[Samples], tokens: Sequence[list[int]]) -> list[tuple[Word, ...]]:
        """Return the words of each text, with times by the cross attentions of the heads that follow the audio."""
        room = self.settings.max_positions - len(self.settings.prompt) - 1  # for the end
        texts = [[token for token in ids if token < self.settings.eos][:room] for ids in tokens]
        heard = [min(2 * math.ceil(len(clip) / (2 * HOP)), 2 * encoded.shape[1]) for clip in clips]
        found = self._model.align(encoded, list(self.settings.prompt[:-1]), texts, heard)
        return [
            self._timed(text, alignment, len(clip) / SAMPLE_RATE)
            for text, alignment, clip in zip(texts, found, clips, strict=True)
        ]

    def _timed(self, text: Sequence[int], alignment: Any, seconds: float) -> tuple[Word, ...]:
        starts = np.minimum(_token_starts(alignment.alignments, len(text) + 1), seconds)
        probabilities, words, first = alignment.text_token_probs, [], 0
        for word, count in self._tokens.words(text):
            last = first + count
            if word:
                confidence = _geometric_mean(probabilities[first:last])
                words.append(Word(word, float(starts[first]), float(starts[last]), confidence))
            first = last
        return _without_pause(words)


def load(folder: Path, settings: Mapping[str, object], threads: int) -> CTranslate2Whisper:
    """Load the model in ``folder`` with the ``settings`` of its ``export.json``; it uses so many CPU ``threads``."""
    return CTranslate2Whisper(folder, settings, threads)


def _confidence(score: float, num_tokens: int, max_tokens: int) -> float | None:
    """Return the mean probability of the tokens and of the end, which a text that was cut off at its cap lacks.

    CTranslate2's score is the sum of all their logarithms, divided by the number of tokens without the end.
    """
    if num_tokens == 0:
        return None
    return math.exp(score * num_tokens / (num_tokens + (num_tokens < max_tokens)))


def _token_starts(path: Sequence[tuple[int, int]], num_tokens: int) -> NDArray[np.float64]:
    """Return the start of each token in seconds: where the ``path`` of (token, position) first comes to it."""
    tokens, positions = np.asarray(path).T
    starts: NDArray[np.float64] = positions[np.searchsorted(tokens, np.arange(num_tokens))] * SECONDS_PER_POSITION
    return starts


def _geometric_mean(probabilities: Sequence[float]) -> float:
    return math.exp(fmean(math.log(max(probability, TINY)) for probability in probabilities))


def _without_pause(words: Sequence[Word]) -> tuple[Word, ...]:
    """Let the first word start later if it seems to last long, since the alignment counts silence before it as its own.

    Source of the limit, twice the median: openai/whisper ``timing.py``.
    """
    if not words:
        return ()
    first, *others = words
    longest = 2 * min(MAX_MEDIAN_SECONDS, median(word.end - word.start for word in others or words))
    return (replace(first, start=max(first.start, first.end - longest)), *others)
