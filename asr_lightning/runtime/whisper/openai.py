"""Whisper in OpenAI's own package, openai-whisper. The one runtime that needs torch, since that package is torch.

It reads in the 30 s window only, so ``Decoding.native`` changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples, Word
from asr_lightning.runtime.whisper.settings import SAMPLE_RATE, WINDOW_SECONDS, WhisperSettings
from asr_lightning.runtime.whisper.tokens import CLOSING, OPENING

FILE_NAME = "model.pt"


def load(folder: Path, settings: Mapping[str, object], threads: int) -> OpenAIWhisperModel:
    """Load the model in ``folder``, which ``export`` wrote.

    Raises:
        ModelError: openai-whisper cannot read it.
    """
    import torch  # openai-whisper has it; here for the number of threads
    import whisper

    torch.set_num_threads(threads)
    path = folder / FILE_NAME
    try:
        network = whisper.load_model(str(path), device="cpu")
    except (RuntimeError, KeyError, TypeError, EOFError, OSError) as error:
        raise ModelError(f"openai-whisper cannot read {path} ({error}): export the model again") from error
    return OpenAIWhisperModel(network, WhisperSettings.from_json(settings))


class OpenAIWhisperModel:
    """A model of openai-whisper.

    Args:
        network: The ``whisper.model.Whisper``.
        settings: How the model reads audio.
    """

    sample_rate = SAMPLE_RATE
    min_seconds = 0.0
    max_seconds: float | None = WINDOW_SECONDS

    def __init__(self, network: Any, settings: WhisperSettings) -> None:
        self._network = network
        self._settings = settings
        self.language = settings.language

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``.

        Raises:
            ModelError: A clip is longer than the window.
        """
        return [self._hypothesis(clip, decoding) for clip in clips]

    def _hypothesis(self, clip: Samples, decoding: Decoding) -> Hypothesis:
        import whisper

        if len(clip) > WINDOW_SECONDS * SAMPLE_RATE:
            raise ModelError(f"Whisper reads {WINDOW_SECONDS:g} s at once, and this clip is longer: cut it")
        settings = self._settings
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(clip), settings.num_mels)
        options = whisper.DecodingOptions(
            task=settings.task or "transcribe",
            language=settings.language or "en",
            without_timestamps=True,
            fp16=False,
            beam_size=decoding.beam if decoding.beam > 1 else None,
            sample_len=settings.max_tokens(len(clip)),
            suppress_tokens=[token for token in settings.suppress if token < settings.eos],
            suppress_blank=bool(settings.begin_suppress),
        )
        result = whisper.decode(self._network, mel, options)
        words = self._words(mel, result.tokens, len(clip)) if decoding.words else ()
        return Hypothesis(result.text.strip(), words, math.exp(result.avg_logprob))

    def _words(self, mel: Any, tokens: Sequence[int], num_samples: int) -> tuple[Word, ...]:
        from whisper.timing import find_alignment, merge_punctuations
        from whisper.tokenizer import get_tokenizer

        tokenizer = get_tokenizer(
            self._network.is_multilingual,
            num_languages=self._network.num_languages,
            language=self.language,
            task=self._settings.task,
        )
        text = [token for token in tokens if token < tokenizer.eot]
        found = find_alignment(self._network, tokenizer, text, mel, num_samples // 160)
        merge_punctuations(found, OPENING, CLOSING)
        return tuple(
            Word(part.word.strip(), float(part.start), float(part.end), float(part.probability))
            for part in found if part.word.strip()
        )  # fmt: skip
