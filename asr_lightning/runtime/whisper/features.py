"""Whisper's log-mel features in numpy, equal to those that the model was trained on. Loads no torch."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from asr_lightning.runtime.contract import Samples
from asr_lightning.runtime.whisper.settings import HOP, SAMPLE_RATE

FFT = 400
REACH = 2
"""Number of frames after the end of the audio that still hear it: the window is centred and 2.5 hops long."""

Features = NDArray[np.float32]


def log_mel(samples: Samples, num_frames: int, num_mels: int) -> Features:
    """Return the features ``[M, F]`` of ``samples`` ``[T]``, of which no more than ``num_frames`` are heard.

    Frames after the audio and its echo in the window are all alike and are not computed. Source of the formula:
    openai/whisper ``audio.py``; of the shortcut: ``adapters/whisper/features.py``.
    """
    computed = min(math.ceil(len(samples) / HOP) + REACH, num_frames)
    length = min((computed + 2) * HOP, int(30 * SAMPLE_RATE))
    padded = np.pad(samples[:length], (FFT // 2, max(length - len(samples), 0) + FFT // 2), mode="constant")
    padded[: FFT // 2] = padded[FFT // 2 + 1 : FFT + 1][::-1]
    padded[-(FFT // 2) :] = padded[-FFT - 1 : -(FFT // 2) - 1][::-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP][: length // HOP]
    power = np.abs(np.fft.rfft(frames * _window(), axis=-1)).astype(np.float32) ** 2
    mel = np.log10(np.maximum(mel_filters(num_mels) @ power.T, 1e-10))[:, :computed]
    mel = (np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
    silence = max(float(mel.max()) - 2, -1.5)  # of log10(1e-10) and the clip's own floor
    padding = ((0, 0), (0, num_frames - mel.shape[1]))
    return np.pad(mel, padding, constant_values=silence).astype(np.float32)


@lru_cache
def _window() -> NDArray[np.float32]:
    return np.hanning(FFT + 1)[:-1].astype(np.float32)


@lru_cache
def mel_filters(num_mels: int, fft: int = FFT) -> Features:
    """Return Slaney's filters ``[M, fft / 2 + 1]`` up to 8 kHz, of unit area. Source: librosa ``filters.mel``."""
    edges = _hertz(np.linspace(_mel(0.0), _mel(SAMPLE_RATE / 2), num_mels + 2))
    bins = np.linspace(0, SAMPLE_RATE / 2, fft // 2 + 1)
    widths, slopes = np.diff(edges), edges[:, None] - bins
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))[:, None]
    result: Features = filters.astype(np.float32)
    return result


_LINEAR, _START, _STEP = 200.0 / 3, 1000.0, math.log(6.4) / 27
"""Slaney's scale: linear up to 1 kHz with 200/3 Hz a mel, logarithmic above. Source: Auditory Toolbox."""


def _mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < _START else _START / _LINEAR + math.log(hertz / _START) / _STEP


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    start = _START / _LINEAR
    return np.where(mels < start, mels * _LINEAR, _START * np.exp(_STEP * (mels - start)))
