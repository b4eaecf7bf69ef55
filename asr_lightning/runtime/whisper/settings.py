"""How an exported Whisper reads audio: the settings that a converter writes to ``export.json``. Knows no runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CAP_BASE_TOKENS = 8
"""A text may have so many tokens, and ``max_tokens_per_second`` more for each second."""

SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30.0
HOP = 160
BUCKET_FRAMES = 16
"""Contexts are multiples of so many frames, as in training."""


@dataclass(frozen=True)
class WhisperSettings:
    """How a model reads audio and writes text.

    Attributes:
        true_length: Whether the encoder gets the length of the clip and a margin; else it gets the 30 s window.
        margin_seconds: Silence after the clip at true length.
        max_tokens_per_second: Cap on the text of a clip, by its length.
        language: Code of the language; None for an English-only model.
        task: ``transcribe`` or ``translate``; None for an English-only model.
        prompt: Tokens that the decoder starts with.
        eos: Token that ends a text.
        suppress: Tokens that are never written.
        begin_suppress: Tokens that are not written first.
        timestamp_begin: Token of 0.00 s.
        num_mels: Number of mel bins.
        max_positions: Number of positions of the decoder, prompt included.
        alignment_heads: Layer and head of the cross attentions that follow the audio, for the times of words.
    """

    true_length: bool
    margin_seconds: float
    max_tokens_per_second: float
    language: str | None
    task: str | None
    prompt: tuple[int, ...]
    eos: int
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    timestamp_begin: int
    num_mels: int
    max_positions: int
    alignment_heads: tuple[tuple[int, int], ...]

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> WhisperSettings:
        """Read the settings from ``export.json``; entries of a runtime's own are left out."""
        own = {name: settings[name] for name in cls.__dataclass_fields__}
        own |= {name: tuple(own[name]) for name in ("prompt", "suppress", "begin_suppress")}
        heads = tuple((int(layer), int(head)) for layer, head in own["alignment_heads"])
        return cls(**{**own, "alignment_heads": heads})

    def as_json(self) -> dict[str, object]:
        """The settings as ``export.json`` has them."""
        return asdict(self)

    def num_frames(self, num_samples: int, native: bool = False) -> int:
        """Number of feature frames that the encoder gets for a clip of ``num_samples``: even, at most 3000.

        Source: ``adapters/whisper/features.py``, by which the model was trained.
        """
        whole = int(WINDOW_SECONDS * SAMPLE_RATE) // HOP
        if native or not self.true_length:
            return whole
        frames = math.ceil((num_samples + self.margin_seconds * SAMPLE_RATE) / HOP)
        return min(math.ceil(frames / BUCKET_FRAMES) * BUCKET_FRAMES, whole)

    def max_tokens(self, num_samples: int) -> int:
        """Cap on the new tokens of a clip of ``num_samples``. Training has the seconds of a clip in float32."""
        seconds = float(np.float32(num_samples / SAMPLE_RATE))
        wanted = CAP_BASE_TOKENS + math.ceil(self.max_tokens_per_second * seconds)
        return min(wanted, self.max_positions - len(self.prompt))
