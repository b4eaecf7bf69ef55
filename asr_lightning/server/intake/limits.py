"""The limits of an intake."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
RATE = 16_000
"""Sample rate in Hz that every model family here takes."""


@dataclass(frozen=True)
class IntakeLimits:
    """What an upload may hold and cost. Sizes are counted while reading, never taken from a header alone.

    Attributes:
        unpacked_bytes: Size of the whole unpacked archive.
        ratio: Unpacked size over packed size, from ``ratio_free_bytes`` on; gzip reaches 1000, audio 2.
        ratio_free_bytes: Unpacked size up to which the ratio may be larger.
        headers: Number of tar headers, with those of folders and long names.
        extension_bytes: Size of one pax or long-name record.
        name_bytes: Length of one component of a member's name.
        audio_bytes: Size of one recording.
        text_bytes: Size of one transcript.
        text_chars: Length of one transcript; the clip of a longer one is left out (D08).
        csv_bytes: Size of one split file.
        clips: Number of recordings.
        clip_seconds: Length of one recording; a longer one is left out (D06).
        long_seconds: Length from which a recording gets a warning, since most models take no more.
        total_seconds: Length of all recordings together.
        clip_samples: Frames times channels of one recording, before resampling.
        decoder_bytes: Address space of a decoder process.
        decode_seconds: Time in which one recording must be decoded.
        all_decode_seconds: Time in which all recordings must be decoded.
        crashes: Number of recordings that may crash or hang a decoder before the upload is refused.
        clips_per_decoder: Number of recordings after which a new decoder process is started.
    """

    unpacked_bytes: int = 4096 * MIB
    ratio: int = 200
    ratio_free_bytes: int = MIB
    headers: int = 20_000
    extension_bytes: int = MIB
    name_bytes: int = 255
    audio_bytes: int = 200 * MIB
    text_bytes: int = 64 << 10
    text_chars: int = 10_000  # 300 s of fast speech are 6000
    csv_bytes: int = 8 * MIB
    clips: int = 5000
    clip_seconds: float = 300.0
    long_seconds: float = 30.0
    total_seconds: float = 10 * 3600.0
    clip_samples: int = 60_000_000  # 300 s of 96 kHz stereo; 240 MB as float32
    decoder_bytes: int = 3 << 30
    decode_seconds: float = 120.0  # 300 s of sound take 2 s
    all_decode_seconds: float = 7200.0
    crashes: int = 50
    clips_per_decoder: int = 200
