"""Whisper's collator: padded audio, prompt and tokens. Holds no network; picklable. Used by ``adapter.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperTokenizer

from asr_lightning.adapters.shared.seq2seq import refuse_long, shift_once
from asr_lightning.adapters.shared.style import characters_of, warn_of_style
from asr_lightning.adapters.whisper.prompts import spoken_text
from asr_lightning.types import AudioLimits, SpeechBatch, Utterance


@dataclass(frozen=True)
class WhisperCollator:
    """Makes ``waveforms`` float32 ``[B, T]`` padded with zeros, and ``decoder_input_ids`` ``[B, U]``.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        prompt: Tokens before the text.
        eos: The end token.
        language: Code of the language; None for an English-only model.
        limits: Limits of the checkpoint.
    """

    tokenizer: WhisperTokenizer
    prompt: tuple[int, ...]
    eos: int
    language: str | None
    limits: AudioLimits

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances`` in their order.

        Raises:
            ValueError: A clip is too long or has another sample rate, or a transcript is too long. The message names
                the uid.
        """
        for utterance in utterances:
            self._validate(utterance)
        tokens = [self._tokens(u.text) for u in utterances]
        refuse_long(
            dict(zip((u.uid for u in utterances), tokens, strict=True)),
            len(self.prompt),
            self.limits.max_target_tokens,
        )
        shifted = shift_once(self.prompt, tokens, self.eos)
        return SpeechBatch.of(
            utterances,
            inputs={
                "waveforms": pad_sequence([utterance.waveform for utterance in utterances], batch_first=True),
                "decoder_input_ids": shifted.decoder_input_ids,
            },
            targets=shifted.targets,
            target_lengths=shifted.target_lengths,
        )

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Refuse transcripts with more tokens than the decoder has positions; warn of another style than the model's.

        Raises:
            ValueError: There are such transcripts; the message lists them.
        """
        tokens = {name: self._tokens(text) for name, text in texts.items()}
        refuse_long(tokens, len(self.prompt), self.limits.max_target_tokens)
        warn_of_style(texts.values(), characters_of(self.tokenizer))

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(spoken_text(text, self.language), add_special_tokens=False).input_ids
        return tokens

    def _validate(self, utterance: Utterance) -> None:
        if utterance.sample_rate != self.limits.sample_rate:
            raise ValueError(
                f"{utterance.uid} has {utterance.sample_rate} Hz, Whisper takes {self.limits.sample_rate}: resample it"
            )
        if utterance.seconds > (self.limits.max_seconds or math.inf):
            raise ValueError(
                f"{utterance.uid} lasts {utterance.seconds:.1f} s, Whisper takes {self.limits.max_seconds:.0f}: "
                "cut the recording into shorter clips"
            )
