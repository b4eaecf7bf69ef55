"""The log-mel features of Parakeet and of NeMo's models in numpy, equal to those of training. Loads no torch.

Sources: ``ParakeetFeatureExtractor`` of transformers, ``FilterbankFeatures`` of NeMo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_lightning.runtime.contract import Samples
from asr_lightning.runtime.whisper.features import mel_filters

LOG_GUARD = 2.0**-24
"""Added to the power before its logarithm."""
EPSILON = 1e-5
"""Added to the standard deviation."""


@dataclass(frozen=True)
class FeatureSettings:
    """How a model hears.

    Attributes:
        sample_rate: Sample rate of the clips in Hz; the filters are made for 16 kHz.
        fft: Number of points of the Fourier transform.
        window: Length of the window, in samples.
        hop: Distance of the frames, in samples.
        mels: Number of mel bins.
        preemphasis: Factor of the preceding sample that is subtracted; None for none.
    """

    sample_rate: int = 16_000
    fft: int = 512
    window: int = 400
    hop: int = 160
    mels: int = 80
    preemphasis: float | None = 0.97

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> FeatureSettings:
        """Read the settings from ``export.json``."""
        return cls(**settings)


def log_mel(samples: Samples, settings: FeatureSettings) -> NDArray[np.float32]:
    """Return the features ``[M, F]`` of ``samples`` ``[T]``: each bin with mean 0 and standard deviation 1."""
    if settings.preemphasis is not None:
        samples = np.concatenate([samples[:1], samples[1:] - np.float32(settings.preemphasis) * samples[:-1]])
    padded = np.pad(samples, settings.fft // 2)
    count = len(samples) // settings.hop
    frames = np.lib.stride_tricks.sliding_window_view(padded, settings.fft)[:: settings.hop][:count]
    spectrum = np.fft.rfft(frames * _window(settings.window, settings.fft), axis=-1)
    power = (np.abs(spectrum) ** 2).astype(np.float32)
    features = np.log(mel_filters(settings.mels, settings.fft) @ power.T + np.float32(LOG_GUARD))
    mean = features.mean(1, keepdims=True)
    deviation = np.sqrt(((features - mean) ** 2).sum(1, keepdims=True) / max(count - 1, 1))
    return ((features - mean) / (deviation + EPSILON)).astype(np.float32)


@lru_cache
def _window(length: int, fft: int) -> NDArray[np.float32]:
    """A Hann window of ``length``, in the middle of ``fft`` points."""
    before = (fft - length) // 2
    return np.pad(np.hanning(length), (before, fft - length - before)).astype(np.float32)
