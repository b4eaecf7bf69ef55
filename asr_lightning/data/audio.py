"""Reads recordings as float32 mono samples: decoded, inspected and resampled.

Knows numpy but no torch, no transcript and no model. No ffmpeg has to be installed, since soundfile and PyAV contain
their decoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from asr_lightning.data.decoders import AudioError, Samples, TooLongError, decode_channels
from asr_lightning.data.formats import AUDIO_SUFFIXES
from asr_lightning.data.sound import Finding, ScaleError, Sound, findings, measure, one_channel

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioError",
    "Inspected",
    "Samples",
    "TooLongError",
    "decode",
    "inspect",
    "load",
    "read",
    "resample",
]


@dataclass(frozen=True)
class Inspected:
    """A recording that can be used.

    Attributes:
        samples: Samples ``[T]``, float32, mono, within [-1, 1], at the sample rate that was asked for.
        findings: What is doubtful about it.
    """

    samples: Samples
    findings: tuple[Finding, ...]


def load(path: str | Path, sample_rate: int) -> Samples:
    """Decode a recording to samples ``[T]`` at ``sample_rate`` Hz: float32, mono, within [-1, 1].

    Raises:
        AudioError: As for ``inspect``.
    """
    return inspect(path, sample_rate).samples


def inspect(path: str | Path, sample_rate: int) -> Inspected:
    """Decode a recording at ``sample_rate`` Hz, and find out what is doubtful about it.

    Raises:
        AudioError: As for ``read``, or the recording is silent.
    """
    sound = read(path)
    found = findings(measure(sound))
    for finding in found:
        if finding.kind.is_refused:
            raise AudioError(Path(path), finding.message, "record it again, or move it out of the folder")
    return Inspected(resample(sound.samples, sound.sample_rate, sample_rate), tuple(found))


def to_pcm16(samples: Samples) -> NDArray[np.int16]:
    """Samples within [-1, 1] as 16-bit integers; those that were read from 16 bits come back unchanged.

    Reading divides by 32768. libsndfile multiplies by 32767 when it writes, so loud samples would change each time.
    """
    return np.rint(samples * 32_768).clip(-32_768, 32_767).astype(np.int16)


def resample(waveform: Samples, own_rate: int, sample_rate: int) -> Samples:
    """Convert ``waveform`` ``[T]`` from ``own_rate`` Hz to ``sample_rate`` Hz, within [-1, 1]."""
    if own_rate == sample_rate:
        return waveform
    resampled = soxr.resample(waveform, own_rate, sample_rate)
    clipped: Samples = np.clip(resampled, -1, 1).astype(np.float32, copy=False)  # the filter may overshoot
    return clipped


def decode(path: str | Path, max_samples: int | None = None) -> tuple[Samples, int]:
    """Decode a recording to samples ``[T]``, float32, mono, within [-1, 1], and its own sample rate in Hz.

    Raises:
        TooLongError: The file announces or contains more than ``max_samples``.
        AudioError: As for ``read``.
    """
    sound = read(path, max_samples)
    return sound.samples, sound.sample_rate


def read(path: str | Path, max_samples: int | None = None) -> Sound:
    """Decode a recording to one channel at its own sample rate.

    Channels are averaged, unless they cancel each other out. Nothing is dropped silently: a file that ends before the
    length that it announces is refused.

    Args:
        path: The recording.
        max_samples: Limit of frames times channels, which also limits the memory; None means no limit.

    Raises:
        TooLongError: The file announces or contains more than ``max_samples``.
        AudioError: The file is missing, empty, damaged or cut off, contains no sound, or contains samples that are not
            numbers or have no known scale.
    """
    path = Path(path)
    decoded = decode_channels(path, max_samples)
    if decoded.channels.size == 0:
        raise AudioError(path, "it holds no sound (0 samples)")
    if not np.isfinite(decoded.channels).all():
        raise AudioError(path, "it holds samples that are not numbers (NaN or infinite)")
    try:
        return one_channel(decoded)
    except ScaleError as error:
        raise AudioError(path, str(error), "export it as WAV of 16 bits, or move it out of the folder") from error
