"""Any recording -> float32 mono samples: soundfile first, PyAV for what phones and browsers write.

numpy in, numpy out: knows no torch, no transcript and no model. Needs no system ffmpeg, since both wheels bring
their decoders.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from asr_lightning.errors import DataError

Samples = NDArray[np.float32]

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".m4a", ".mp4", ".aac", ".webm", ".3gp"}
)

# libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING: another decoder may know the file. Any
# other code means a damaged file of a known kind, and PyAV would quietly return the part it could read.
UNKNOWN_TO_SOUNDFILE = {1, 4}
BLOCK = 1 << 18  # samples read at once, so that a damaged header cannot ask for terabytes
# First bytes -> the one FFmpeg format that may read the file. FFmpeg's own guess knows playlists, which open other
# files and addresses; none of those is here.
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
STREAMED = 0x7FFF_F000  # recorders that write to a pipe announce this size or more, since they cannot know it
REMEDY = "convert it to wav with another program, record it again, or move it out of the folder"


class AudioError(DataError):
    """A recording that cannot be used; the message names the file, the cause and the remedy."""

    def __init__(self, path: Path, cause: str, remedy: str = REMEDY) -> None:
        super().__init__(f"{path}: {cause}; {remedy}")


class TooLongError(AudioError):
    """A recording with more samples than the caller takes."""


def load(path: str | Path, sample_rate: int) -> Samples:
    """The samples ``[T]`` of a recording at ``sample_rate`` Hz: float32, mono, within [-1, 1].

    Raises:
        AudioError: As for ``decode``.
    """
    waveform, own_rate = decode(path)
    return resample(waveform, own_rate, sample_rate)


def resample(waveform: Samples, own_rate: int, sample_rate: int) -> Samples:
    """``waveform [T]`` of ``own_rate`` Hz at ``sample_rate`` Hz, within [-1, 1]."""
    if own_rate == sample_rate:
        return waveform
    resampled = soxr.resample(waveform, own_rate, sample_rate)
    return np.clip(resampled, -1, 1).astype(np.float32, copy=False)  # the filter overshoots at full scale


def decode(path: str | Path, max_samples: int | None = None) -> tuple[Samples, int]:
    """The samples ``[T]`` of a recording, float32, mono, within [-1, 1], and its own rate in Hz.

    Channels are averaged. Nothing is left out in silence: a file that ends before the length it announces is refused.

    Args:
        path: The recording.
        max_samples: Bound on frames times channels, which bounds the memory too; None is unbounded.

    Raises:
        TooLongError: More than ``max_samples`` are announced or present.
        AudioError: Missing, empty, damaged, cut off, without sound, or with NaN samples.
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
    """Samples ``[channels, T]`` and rate, or None where libsndfile does not know the format."""
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
    """Announced over present bytes of a WAV or AIFF body, 1 when whole.

    libsndfile shortens a cut-off body without an error and only notes "data : 32000 (should be 15978)".
    """
    found = re.search(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)", header_log, flags=re.MULTILINE)
    if not found:
        return 1.0
    announced, present = int(found[1]), int(found[2])
    return announced / max(present, 1) if announced < STREAMED else 1.0


def _ends_inside_ogg_page(path: Path) -> bool:
    """Whether an Ogg file was cut: it announces no length, and decoders quietly drop a part of a page.

    Source: RFC 3533, section 6: byte 26 of a page counts the segments, whose lengths follow.
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
    """Samples ``[channels, T]`` and rate, through PyAV.

    Raises:
        AudioError: Not audio, no audio inside, damaged, cut off or too long.
    """
    import av  # here, because most folders never need it

    try:
        # An open file instead of a path, and no protocol: whatever the content names, nothing else is opened.
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
    """FFmpeg's name of the format that the first bytes show.

    Raises:
        AudioError: None of those known.
    """
    with path.open("rb") as file:
        head = file.read(16)
    for magic, name in CONTAINERS:
        if magic.match(head):
            return name
    raise AudioError(path, "it is not audio of a known format")


def _decode_stream(path: Path, container, stream, max_samples: int | None) -> tuple[list[Samples], int]:
    """Blocks ``[channels, T]`` and their rate."""
    import av

    resampler = av.AudioResampler(format="fltp")  # keeps channels and rate: some AAC streams announce half
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


def _announced_seconds(container, stream) -> float:
    """The length a container's header states; 0 where it states none or FFmpeg only guesses it (raw AAC)."""
    if not container.format.name.startswith(("matroska", "mov")):
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # a longer picture track says nothing about the sound
    return container.duration / 1_000_000 if alone and container.duration else 0.0


def _refuse_cut_off(path: Path, seconds: float, announced: float) -> None:
    """Codec padding and rounded headers explain 0.1 s and 5 percent; more is a lost end."""
    if seconds < 0.95 * announced - 0.1:
        raise AudioError(path, f"it is cut off: {seconds:.2f} s of the {announced:.2f} s it announces")


def _refuse_too_long(path: Path, samples: int, max_samples: int | None) -> None:
    if max_samples is not None and samples > max_samples:
        raise TooLongError(path, f"it is too long: over {max_samples} samples in all channels")
