"""How an exported CTC model or transducer reads audio: the settings that a converter writes to ``export.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from asr_lightning.runtime.labels.features import FeatureSettings

Kind = Literal["samples", "ctc", "transducer"]
"""CTC over samples (wav2vec2 and its relatives), CTC over features, or a transducer over features."""


@dataclass(frozen=True)
class LabelSettings:
    """How a model reads audio and writes labels.

    Attributes:
        kind: What it takes, and how it writes.
        sample_rate: Sample rate in Hz.
        min_seconds: Length of the shortest clip.
        max_seconds: Length of the longest clip; None is no limit.
        labels: Number of labels, the blank included.
        blank: Number of the blank.
        frame_seconds: Distance of the frames of its output, in seconds.
        subsampling: Number of frames of features that one frame of its output stands for; 1 for samples.
        variant: Variant of the weights.
        language: Code of the language; None if the model does not say.
        is_normalized: Whether samples get mean 0 and variance 1 first.
        features: How features are made; None for samples.
        durations: Numbers of frames that a TDT model may go on by; empty for other models.
        special: Labels other than the blank that write nothing, such as that of what is unknown.
        max_symbols: Most labels that a transducer writes at one frame.
        predictor_layers: Number of layers of a transducer's prediction network.
        predictor_width: Width of these layers.
    """

    kind: Kind
    sample_rate: int
    min_seconds: float
    max_seconds: float | None
    labels: int
    blank: int
    frame_seconds: float
    subsampling: int
    variant: str = ""
    language: str | None = None
    is_normalized: bool = False
    features: FeatureSettings | None = None
    durations: tuple[int, ...] = ()
    special: tuple[int, ...] = ()
    max_symbols: int = 10
    predictor_layers: int = 0
    predictor_width: int = 0

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> LabelSettings:
        """Read the settings from ``export.json``; other entries are left out."""
        own = {name: settings[name] for name in cls.__dataclass_fields__}
        own |= {name: tuple(own[name]) for name in ("durations", "special")}
        own["features"] = FeatureSettings.from_json(own["features"]) if own["features"] else None
        return cls(**own)

    def as_json(self) -> dict[str, object]:
        """The settings as ``export.json`` has them."""
        return asdict(self)
