"""How an exported Moonshine reads audio: the settings that a converter writes to ``export.json``. Knows no runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

CAP_BASE_TOKENS = 8
"""A text may have so many tokens, and ``max_tokens_per_second`` more for each second, as in training."""


@dataclass(frozen=True)
class MoonshineSettings:
    """How a model reads audio and writes text.

    Attributes:
        sample_rate: Sample rate in Hz.
        min_seconds: Length of the shortest clip.
        max_seconds: Length of the longest clip.
        max_tokens_per_second: Cap on the text of a clip, by its length.
        start: Token that the decoder starts with.
        eos: Token that ends a text.
        max_positions: Number of positions of the decoder, the start token included.
        layers: Number of layers of the decoder.
        heads: Number of heads of an attention.
        head_width: Width of a head.
        vocabulary: Number of tokens.
        language: Code of the language; None if the model does not say.
    """

    sample_rate: int
    min_seconds: float
    max_seconds: float
    max_tokens_per_second: float
    start: int
    eos: int
    max_positions: int
    layers: int
    heads: int
    head_width: int
    vocabulary: int
    language: str | None = None

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> MoonshineSettings:
        """Read the settings from ``export.json``; other entries are left out."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__})

    def as_json(self) -> dict[str, object]:
        """The settings as ``export.json`` has them."""
        return asdict(self)

    def max_tokens(self, num_samples: int) -> int:
        """Cap on the tokens of a clip of ``num_samples``."""
        wanted = CAP_BASE_TOKENS + math.ceil(self.max_tokens_per_second * num_samples / self.sample_rate)
        return min(wanted, self.max_positions - 1)
