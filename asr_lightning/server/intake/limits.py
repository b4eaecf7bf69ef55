"""Every bound of the intake in one place."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class IntakeLimits:
    """What an upload may hold and cost. Counted while reading, never taken from a header alone.

    Attributes:
        unpacked_bytes: Of the whole archive.
        ratio: Unpacked over packed bytes, past ``ratio_free_bytes``; gzip reaches 1000, audio 2.
        ratio_free_bytes: Unpacked bytes that the ratio does not count.
        headers: Tar headers, those of folders and long names included.
        extension_bytes: One pax or long-name record.
        name_bytes: One member name, and one component of it.
        audio_bytes: One recording.
        text_bytes: One transcript.
        text_chars: One transcript; a longer one is refused alone (D08).
        csv_bytes: One split file.
        clips: Recordings in the archive.
        clip_seconds: One recording; a longer one is refused (D06).
        long_seconds: Longer ones are warned of, since most models take no more.
        total_seconds: All recordings together.
        clip_samples: Frames times channels of one recording, before resampling.
        decoder_bytes: Address space of the decoder process.
        decode_seconds: One recording in the decoder.
        all_decode_seconds: All of them.
        crashes: Recordings that may crash or stall the decoder before the whole upload is refused.
        clips_per_decoder: A fresh decoder process after that many.
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
