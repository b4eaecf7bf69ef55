"""Decodes recordings to float32 mono samples: with soundfile, or with PyAV for the formats of phones and browsers.

Knows numpy but no torch, no transcript and no model. No ffmpeg has to be installed, since both packages contain their
decoders.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from asr_lightning.errors import DataError

Samples = NDArray[np.float32]

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".mp4", ".aac", ".webm", ".3gp"}
)

# libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING: another decoder may know the format. Any
# other code means a damaged file of a known format, of which PyAV would silently return the readable part.
UNKNOWN_TO_SOUNDFILE = {1, 4}
BLOCK = 1 << 18  # samples read at once, so that a damaged header cannot make us allocate terabytes
# First bytes of a file, and the only FFmpeg format that may read it. FFmpeg's own detection also accepts playlists,
# which open other files and addresses; this table has none.
CONTAINERS = (
    (re.compile(rb"\x1aE\xdf\xa3"), "matroska"),
    (re.compile(rb".{4}(ftyp|moov|mdat|wide|free|skip)", re.DOTALL), "mov"),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "aac"),
    (re.compile(rb"ID3|\xff[\xe2-\xfb]"), "mp3"),
    (re.compile(rb"OggS"), "ogg"),
    (re.compile(rb"fLaC"), "flac"),
    (re.compile(rb"(RIFF|RF64).{4}WAVE", re.DOTALL), "wav"),
    (re.compile(rb"FORM.{4}AIF", re.DOTALL), "aiff"),
)
OGG_PAGE = 27 + 255 + 255 * 255  # bytes of the longest Ogg page
STREAMED = 0x7FFF_F000  # recorders that write to a pipe do not know the size, and announce this or more
REMEDY = "convert it to wav with another program, record it again, or move it out of the folder"


class AudioError(DataError):
    """A recording that cannot be used; the message names the file, the cause and the remedy."""

    def __init__(self, path: Path, cause: str, remedy: str = REMEDY) -> None:
        super().__init__(f"{path}: {cause}; {remedy}")


class TooLongError(AudioError):
    """A recording with more samples than the caller accepts."""


def load(path: str | Path, sample_rate: int) -> Samples:
    """Decode a recording to samples ``[T]`` at ``sample_rate`` Hz: float32, mono, within [-1, 1].

    Raises:
        AudioError: As for ``decode``.
    """
    waveform, own_rate = decode(path)
    return resample(waveform, own_rate, sample_rate)


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

    Channels are averaged. Nothing is dropped silently: a file that ends before the length that it announces is refused.

    Args:
        path: The recording.
        max_samples: Limit of frames times channels, which also limits the memory; None means no limit.

    Raises:
        TooLongError: The file announces or contains more than ``max_samples``.
        AudioError: The file is missing, empty, damaged or cut off, contains no sound, or contains NaN samples.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(path, "there is no such file", "check its name and its folder")
    if path.stat().st_size == 0:
        raise AudioError(path, "the file is empty (0 bytes)")
    if _ends_inside_ogg_page(path):
        raise AudioError(path, "it is cut off: its last Ogg page is not complete")
    channels, sample_rate = _with_soundfile(path, max_samples) or _with_av(path, max_samples)
    if channels.size == 0:
        raise AudioError(path, "it holds no sound (0 samples)")
    if not np.isfinite(channels).all():
        raise AudioError(path, "it holds samples that are not numbers (NaN or infinite)")
    return np.clip(channels.mean(axis=0, dtype=np.float32), -1, 1), sample_rate


def _with_soundfile(path: Path, max_samples: int | None) -> tuple[Samples, int] | None:
    """Samples ``[channels, T]`` and sample rate; None if libsndfile does not know the format."""
    try:
        with soundfile.SoundFile(path) as file:
            _refuse_too_long(path, file.frames * file.channels, max_samples)
            blocks = [file.read(0, dtype="float32", always_2d=True)]
            size, frames = 0, max(1, BLOCK // file.channels)
            while len(block := file.read(frames, dtype="float32", always_2d=True)):
                blocks.append(block)
                size += block.size
                _refuse_too_long(path, size, max_samples)
            samples = np.concatenate(blocks)
            announced = max(file.frames, round(len(samples) * _announced_share(file.extra_info)))
            _refuse_cut_off(path, len(samples) / file.samplerate, announced / file.samplerate)
            return samples.T, file.samplerate
    except soundfile.LibsndfileError as error:
        if error.code in UNKNOWN_TO_SOUNDFILE:
            return None
        raise AudioError(path, f"it is damaged or cut off ({error.error_string})") from error


def _announced_share(header_log: str) -> float:
    """Announced size of the sound data in a WAV or AIFF file, divided by the actual size; 1 if the file is whole.

    libsndfile reads a cut-off file without an error and only logs "data : 32000 (should be 15978)".
    """
    match = re.search(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", header_log, flags=re.MULTILINE)
    if not match:
        return 1.0
    announced, present = int(match[1]), int(match[2])
    return announced / max(present, 1) if announced < STREAMED else 1.0


def _ends_inside_ogg_page(path: Path) -> bool:
    """Whether the last page of an Ogg file is incomplete.

    Ogg files announce no length, and decoders silently drop an incomplete page. Byte 26 of a page is the number of
    segments, whose lengths follow (RFC 3533, section 6).
    """
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        file.seek(max(0, path.stat().st_size - OGG_PAGE))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    header = 27 + page[26] if len(page) > 26 else len(page) + 1
    return len(page) < header + sum(page[27:header])


def _with_av(path: Path, max_samples: int | None) -> tuple[Samples, int]:
    """Decode with PyAV to samples ``[channels, T]`` and sample rate.

    Raises:
        AudioError: The file is not audio, contains none, or is damaged, cut off or too long.
    """
    import av  # not at the top, since most folders never need it

    try:
        # An open file instead of a path, and no protocols, so that the content cannot make FFmpeg open anything else.
        with (
            path.open("rb") as file,
            av.open(
                file, format=_container(path), options={"protocol_whitelist": "none"}, metadata_errors="replace"
            ) as container,
        ):
            if not container.streams.audio:
                raise AudioError(path, "it holds no sound")
            stream = container.streams.audio[0]
            blocks, sample_rate = _decode_stream(path, container, stream, max_samples)
            samples = np.concatenate(blocks, axis=1)
            _refuse_cut_off(path, samples.shape[1] / sample_rate, _announced_seconds(container, stream))
            return samples, sample_rate
    except av.FFmpegError as error:
        raise AudioError(path, f"it is not audio, damaged or cut off ({error.strerror})") from error


def _container(path: Path) -> str:
    """FFmpeg's name of the format, found by the first bytes of the file.

    Raises:
        AudioError: The format is none of ``CONTAINERS``.
    """
    with path.open("rb") as file:
        head = file.read(16)
    for magic, name in CONTAINERS:
        if magic.match(head):
            return name
    raise AudioError(path, "it is not audio of a known format")


def _decode_stream(path: Path, container: Any, stream: Any, max_samples: int | None) -> tuple[list[Samples], int]:
    """Decode an audio stream to blocks ``[channels, T]`` and their sample rate."""
    import av

    resampler = av.AudioResampler(format="fltp")  # keeps channels and rate; some AAC streams announce half of them
    blocks: list[Samples] = []
    size, sample_rate = 0, 0
    for frame in container.decode(stream):
        for out in resampler.resample(frame):
            blocks.append(out.to_ndarray().astype(np.float32, copy=False))
            sample_rate = sample_rate or out.sample_rate
            size += blocks[-1].size
            _refuse_too_long(path, size, max_samples)
    if not blocks:
        raise AudioError(path, "it holds no sound (0 samples)")
    return blocks, sample_rate


def _announced_seconds(container: Any, stream: Any) -> float:
    """The length in a container's header; 0 if there is none, or if FFmpeg only guesses it (raw AAC)."""
    if not container.format.name.startswith(("matroska", "mov")):
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    is_only_stream = len(container.streams) == 1  # the length of a video track says nothing about the sound
    return container.duration / 1_000_000 if is_only_stream and container.duration else 0.0


def _refuse_cut_off(path: Path, seconds: float, announced: float) -> None:
    """Refuse a recording that lacks more than 0.1 s and 5 %, which padding of codecs and rounded headers explain."""
    if seconds < 0.95 * announced - 0.1:
        raise AudioError(path, f"it is cut off: {seconds:.2f} s of the {announced:.2f} s it announces")


def _refuse_too_long(path: Path, samples: int, max_samples: int | None) -> None:
    if max_samples is not None and samples > max_samples:
        raise TooLongError(path, f"it is too long: over {max_samples} samples in all channels")
