"""Whisper's collator: log-mel features at the true length, prompt, tokens. Holds no network; picklable.

Used by ``whisper.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperTokenizer

from asr_lightning.adapters._seq2seq import refuse_long, shift_once
from asr_lightning.adapters._whisper_prompt import spoken_text
from asr_lightning.types import AudioLimits, SpeechBatch, Utterance

BUCKET_FRAMES = 16
"""Contexts are multiples of 0.16 s: few distinct shapes, at most 4 % more work for a 4 s clip."""


REACH = 2
"""Frames after the end of the audio that still hear it: the window is 2.5 hops long, centred."""


@dataclass(frozen=True)
class WhisperCollator:
    """Makes ``input_features`` ``[B, M, F]`` and ``decoder_input_ids`` ``[B, U]``.

    Attributes:
        extractor: The checkpoint's log-mel settings.
        tokenizer: The checkpoint's tokenizer.
        prompt: Tokens before the text.
        eos: The end token.
        language: Code of the language; None for an English-only model.
        limits: What the checkpoint accepts.
        margin_seconds: Silence after the longest clip; None gives every batch the whole 30 s window.
    """

    extractor: WhisperFeatureExtractor
    tokenizer: WhisperTokenizer
    prompt: tuple[int, ...]
    eos: int
    language: str | None
    limits: AudioLimits
    margin_seconds: float | None

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances`` in their order.

        Raises:
            ValueError: A clip is too long or has another sample rate, or a transcript is too long; it names the uid.
        """
        for utterance in utterances:
            self._check(utterance)
        tokens = [self._tokens(u.text) for u in utterances]
        refuse_long(
            dict(zip((u.uid for u in utterances), tokens, strict=True)),
            len(self.prompt),
            self.limits.max_target_tokens,
        )
        shifted = shift_once(self.prompt, tokens, self.eos)
        features = self._features([utterance.waveform for utterance in utterances])
        return SpeechBatch.of(
            utterances,
            inputs={"input_features": features, "decoder_input_ids": shifted.decoder_input_ids},
            targets=shifted.targets,
            target_lengths=shifted.target_lengths,
        )

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Refuse transcripts with more tokens than the decoder has positions.

        Raises:
            ValueError: Lists them.
        """
        tokens = {name: self._tokens(text) for name, text in texts.items()}
        refuse_long(tokens, len(self.prompt), self.limits.max_target_tokens)

    def num_frames(self, num_samples: int) -> int:
        """The context of a batch whose longest clip has ``num_samples``; even, at most the whole window."""
        if self.margin_seconds is None:
            return self.extractor.nb_max_frames
        margin = self.margin_seconds * self.extractor.sampling_rate
        frames = math.ceil((num_samples + margin) / self.extractor.hop_length)
        return min(math.ceil(frames / BUCKET_FRAMES) * BUCKET_FRAMES, self.extractor.nb_max_frames)

    def _features(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Log-mel ``[B, M, F]``, equal to the first F frames of the 30 s features (pitfall T14).

        Two more frames of zeros are computed and cut off: the STFT reflects the audio at its end, which would change
        the last frames of a clip that fills its context. Frames of zeros further on are not computed, since all are
        alike: a tenth of the cost of a 30 s window.
        """
        longest = max(waveform.numel() for waveform in waveforms)
        num_frames, hop = self.num_frames(longest), self.extractor.hop_length
        computed = min(math.ceil(longest / hop) + REACH, num_frames)
        num_samples = min((computed + 2) * hop, self.extractor.n_samples)
        features = self.extractor(
            [waveform.numpy() for waveform in waveforms],
            sampling_rate=self.extractor.sampling_rate,
            padding="max_length",
            max_length=num_samples,
            return_tensors="pt",
        ).input_features
        silence = (features.amax((1, 2), keepdim=True) - 2).clamp(min=-1.5)  # log10(1e-10) and the clip's own floor
        padding = silence.expand(-1, features.shape[1], num_frames - computed)
        return torch.cat([features[..., :computed], padding], dim=-1)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(spoken_text(text, self.language), add_special_tokens=False).input_ids
        return tokens

    def _check(self, utterance: Utterance) -> None:
        if utterance.sample_rate != self.limits.sample_rate:
            raise ValueError(
                f"{utterance.uid} has {utterance.sample_rate} Hz, Whisper takes {self.limits.sample_rate}: resample it"
            )
        if utterance.waveform.numel() > self.extractor.n_samples:
            raise ValueError(
                f"{utterance.uid} lasts {utterance.seconds:.1f} s, Whisper takes {self.limits.max_seconds:.0f}: "
                "cut the recording into shorter clips"
            )
