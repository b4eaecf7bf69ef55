"""Makes the one channel that a model hears, and finds out whether it can be used; the one inspection for all doors.

Local commands, the Python functions and the server's intake all ask here. Knows numpy; knows no file and no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from asr_lightning.data.decoders import Decoded, Samples
from asr_lightning.scoring.text import name_some

SILENT_DB, LOW_DB = -50.0, -45.0  # of full scale
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.001
OFFSET = 0.05
MODEL_RATE = 16_000  # Hz; every model family here takes it
OVERLOAD = 4.0
"""Largest amplitude of a file whose full scale is 1: 12 dB above it, as a loud mix in floating point may have."""
CANCELLED = 0.1
"""Power of the sum of all channels over the sum of their powers, below which they cancel each other out. It is 1 for
channels that have nothing in common, and 0 where one is the other one inverted."""


class ScaleError(ValueError):
    """Samples with amplitudes of no known scale; the message is the cause without the file."""


class Kind(Enum):
    """What can be wrong with a sound; the value is what is said of several recordings, and the remedy."""

    SILENT = "are silent", "Record them again"
    CLIPPED = "are clipped", "Record them again less loudly, if you can"
    QUIET = "are very quiet", "Record them again closer to the microphone, if you can"
    OFFSET = "have a constant offset", "Check the microphone"
    ONE_CHANNEL = "have channels that cancel each other out", "Only the louder channel is read"
    RESCALED = "have another scale than their format says", "They are read at their true scale"
    LOW_RATE = f"have fewer than {MODEL_RATE} samples a second", f"{MODEL_RATE} Hz or more is better"

    @property
    def is_refused(self) -> bool:
        """Whether such a recording cannot be used."""
        return self is Kind.SILENT

    @property
    def is_repaired(self) -> bool:
        """Whether such a recording is not read as it is written, but as it must have been meant."""
        return self in (Kind.ONE_CHANNEL, Kind.RESCALED)


@dataclass(frozen=True)
class Finding:
    """Something wrong with a recording.

    Attributes:
        kind: What it is.
        message: The cause and the remedy, for this one recording.
    """

    kind: Kind
    message: str


@dataclass(frozen=True)
class Sound:
    """One channel at its own sample rate.

    Attributes:
        samples: Samples ``[T]``, float32, within [-1, 1].
        sample_rate: In Hz.
        one_channel: Whether it is one of several channels that cancel each other out.
        scale: What the samples of the file were divided by.
    """

    samples: Samples
    sample_rate: int
    one_channel: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Measures:
    """Measures of a recording at its own sample rate. An amplitude of 1 is full scale.

    Attributes:
        peak: Largest distance of a sample from the mean.
        rms: Root mean square of these distances.
        mean: Mean of the samples.
        clipped: Share of the samples at full scale.
        runs: 1 if three samples in a row are at full scale, else 0.
        rate: Sample rate, in Hz.
        one_channel: 1 if it is one of several channels that cancel each other out, else 0.
        scale: What the samples of the file were divided by.
    """

    peak: float
    rms: float
    mean: float
    clipped: float
    runs: float
    rate: float
    one_channel: float = 0.0
    scale: float = 1.0


def one_channel(decoded: Decoded) -> Sound:
    """Mix the channels, at their true scale. Channels that cancel each other out are not mixed; the loudest is taken.

    Raises:
        ScaleError: The amplitudes are of no known scale.
    """
    scale = true_scale(decoded)
    channels = decoded.channels / np.float32(scale) if scale != 1 else decoded.channels
    mix = channels.mean(axis=0, dtype=np.float32)
    powers = [float(np.var(channel, dtype=np.float64)) for channel in channels] if len(channels) > 1 else []
    cancel = len(channels) ** 2 * float(np.var(mix, dtype=np.float64)) < CANCELLED * sum(powers)
    samples = channels[int(np.argmax(powers))] if cancel else mix
    return Sound(np.clip(samples, -1, 1), decoded.sample_rate, cancel, scale)


def true_scale(decoded: Decoded) -> float:
    """What the samples must be divided by, for a full scale of 1.

    Some programs write 16-bit values into files of fractions, whose full scale is 1: they are up to 32768 there. Or
    they write them into integers of 32 bits, where nothing is louder than -90 dBFS. True recordings of 24 bits in such
    files are multiples of 256.

    Raises:
        ScaleError: The amplitudes are of no known scale.
    """
    peak = float(np.abs(decoded.channels).max())
    if decoded.is_int32 and 2**8 <= peak * 2**31 <= 2**15:
        has_low_bits = bool(np.any(np.remainder(decoded.channels * np.float32(2**31), 256)))
        return 2.0**-16 if has_low_bits else 1.0
    if peak <= OVERLOAD:
        return 1.0
    for bits in (16, 24, 32):
        full = 2.0 ** (bits - 1)
        if full / 128 <= peak <= 2 * full:
            return full
    raise ScaleError(f"its samples go up to {peak:.4g}, where full scale is 1")


def measure(sound: Sound) -> Measures:
    """Measure a sound of at least one sample."""
    samples = sound.samples
    loud = np.abs(samples) >= FULL_SCALE
    mean = float(np.mean(samples, dtype=np.float64))
    return Measures(
        peak=float(max(samples.max() - mean, mean - samples.min())),
        rms=float(np.std(samples, dtype=np.float64)),
        mean=mean,
        clipped=float(np.mean(loud)),
        runs=float((loud[:-2] & loud[1:-1] & loud[2:]).any()),
        rate=sound.sample_rate,
        one_channel=float(sound.one_channel),
        scale=sound.scale,
    )


def findings(measures: Measures) -> list[Finding]:
    """What is wrong with a recording, by its measures."""
    peak, level = _decibel(measures.peak), _decibel(measures.rms)
    height = f"peak {peak:.0f} dBFS" if measures.peak else "all samples are equal"
    is_clipped = measures.clipped >= CLIPPED_SHARE or measures.runs > 0
    is_quiet = peak >= SILENT_DB and level < LOW_DB
    rules = [
        (Kind.SILENT, peak < SILENT_DB, f"it is silent ({height})"),
        (Kind.CLIPPED, is_clipped, "it is clipped; record it again less loudly"),
        (Kind.QUIET, is_quiet, f"it is very quiet ({level:.0f} dBFS); record it again closer"),
        (Kind.OFFSET, abs(measures.mean) > OFFSET, "it has a constant offset; check the microphone"),
        (Kind.ONE_CHANNEL, measures.one_channel > 0, "its channels cancel each other out; only the louder one is read"),
        (Kind.RESCALED, measures.scale != 1, "its samples have another scale than its format says; it is put right"),
        (Kind.LOW_RATE, measures.rate < MODEL_RATE,
         f"it was recorded at {measures.rate:g} Hz; {MODEL_RATE} Hz or more is better"),
    ]  # fmt: skip
    return [Finding(kind, message) for kind, applies, message in rules if applies]


def warnings_of(found: Mapping[str, Sequence[Finding]]) -> list[str]:
    """One sentence for each kind of finding, with the names of the recordings.

    Args:
        found: Findings of each recording, by the name that the user knows.
    """
    names = {kind: [name for name, of_name in found.items() if kind in {f.kind for f in of_name}] for kind in Kind}
    return [
        f"{len(named)} recordings {kind.value[0]}: {name_some(named)}. {kind.value[1]}"
        for kind, named in names.items()
        if named
    ]


def _decibel(amplitude: float) -> float:
    return 20 * math.log10(max(amplitude, 1e-10))
