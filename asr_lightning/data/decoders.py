"""Decodes recordings to samples of all channels, with soundfile or PyAV, both of which contain their decoders.

soundfile comes first; what it refuses, PyAV is asked for before the file is refused. Nothing is dropped silently: a
file that ends before the length that its header states is refused. Knows no transcript and no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from asr_lightning.data.formats import MP3, WAV, Format, format_of, mp3_seconds
from asr_lightning.errors import DataError

Samples = NDArray[np.float32]

# libsndfile's SF_ERR_UNRECOGNISED_FORMAT and SF_ERR_UNSUPPORTED_ENCODING: it does not know the format. Any other code
# means that it knows the format and finds fault with the file, so PyAV is then not allowed to skip anything.
UNKNOWN_TO_SOUNDFILE = {1, 4}
UNKNOWN_LENGTH = 1 << 62  # libsndfile's SF_COUNT_MAX, of a FLAC that states no length, is larger
BLOCK = 1 << 18  # samples read at once, so that a damaged header cannot make us allocate terabytes
OGG_PAGE = 27 + 255 + 255 * 255  # bytes of the longest Ogg page
STREAMED = 0x7FFF_F000  # recorders that write to a pipe do not know the size, and announce this or more
GAP = 0.02  # seconds; FFmpeg leaves a damaged frame of FLAC out, of about 0.1 s, and only the times show it
SKIP_NOTHING = {"err_detect": "crccheck+bitstream+buffer+explode"}
REMEDY = "convert it to wav with another program, record it again, or move it out of the folder"


class AudioError(DataError):
    """A recording that cannot be used; the message names the file, the cause and the remedy.

    Attributes:
        cause: The cause alone.
    """

    def __init__(self, path: Path, cause: str, remedy: str = REMEDY) -> None:
        super().__init__(f"{path}: {cause}; {remedy}")
        self.cause = cause


class TooLongError(AudioError):
    """A recording with more samples than the caller accepts."""


class InOrder(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from its start to its end.

    soundfile 0.14 seeks after each read, and in an MP3 libsndfile 1.2.2 then loses the bits that the next frame takes
    from earlier ones: 20 ms of noise at every block.
    """

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek."""
        return False


class _UnreadError(Exception):
    """soundfile has not read a file.

    Attributes:
        cause: What is wrong; None if it does not know the format.
        announced: Length in seconds that the header states; 0 if it states none.
    """

    def __init__(self, cause: str | None, announced: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.announced = announced


@dataclass(frozen=True)
class Decoded:
    """A recording as its file has it.

    Attributes:
        channels: Samples ``[channels, T]``. Full scale is 1, unless the file has numbers of another scale.
        sample_rate: In Hz.
        is_int32: Whether the file has integers of 32 bits.
    """

    channels: Samples
    sample_rate: int
    is_int32: bool = False

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return float(self.channels.shape[1] / self.sample_rate)


def decode_channels(path: Path, max_samples: int | None = None) -> Decoded:
    """Decode all channels of a recording.

    Args:
        path: The recording.
        max_samples: Limit of frames times channels, which also limits the memory; None means no limit.

    Raises:
        TooLongError: The file announces or contains more than ``max_samples``.
        AudioError: The file is missing, empty, damaged or cut off, or contains no sound.
    """
    if not path.is_file():
        raise AudioError(path, "there is no such file", "check its name and its folder")
    if path.stat().st_size == 0:
        raise AudioError(path, "the file is empty (0 bytes)")
    if _ends_inside_ogg_page(path):
        raise AudioError(path, "it is cut off: its last Ogg page is not complete")
    try:
        return _with_soundfile(path, max_samples)
    except _UnreadError as error:
        unread = error
    try:
        decoded = _with_av(path, max_samples, skip_nothing=unread.cause is not None)
        _refuse_cut_off(path, decoded.seconds, unread.announced)
        return decoded
    except TooLongError:
        raise
    except AudioError as error:
        if unread.cause is None:
            raise
        raise AudioError(path, unread.cause) from error  # it knows the format, and so the cause


def _with_soundfile(path: Path, max_samples: int | None) -> Decoded:
    """Decode with soundfile.

    Raises:
        AudioError: The file announces or contains more than ``max_samples``, or it is a WAV with a damaged header.
        _UnreadError: It does not know the format, the file is damaged or cut off, or it states no length.
    """
    try:
        # An open file has no name: by one that ends in .mp3, libsndfile takes any file for MP3.
        with path.open("rb") as opened, InOrder(opened) as file:
            states_length = file.frames < UNKNOWN_LENGTH and (file.format != "MP3" or mp3_seconds(path) > 0)
            frames = file.frames if states_length else 0
            if file.frames >= UNKNOWN_LENGTH:
                raise _UnreadError("it is damaged or cut off")  # soundfile cannot read on without a length
            _refuse_too_long(path, frames * file.channels, max_samples)
            samples = _read_blocks(path, file, max_samples)
            announced = max(frames, round(len(samples) * _announced_share(file.extra_info))) / file.samplerate
            seconds = len(samples) / file.samplerate
            if _is_cut_off(seconds, announced):
                raise _UnreadError(_cut_off(seconds, announced), announced)
            if not len(samples):
                raise _UnreadError("it holds no sound (0 samples)")
            return Decoded(samples.T, file.samplerate, is_int32=file.subtype == "PCM_32")
    except soundfile.LibsndfileError as error:
        if error.code in UNKNOWN_TO_SOUNDFILE:
            raise _UnreadError(None) from error
        cause = f"it is damaged or cut off ({error.error_string})"
        if format_of(path) is WAV:
            # Its header says how to decode. FFmpeg would read ADPCM with a wrong size of blocks, as noise.
            raise AudioError(path, cause) from error
        raise _UnreadError(cause) from error


def _read_blocks(path: Path, file: InOrder, max_samples: int | None) -> Samples:
    """All samples ``[T, channels]``."""
    blocks = [file.read(0, dtype="float32", always_2d=True)]
    size, frames = 0, max(1, BLOCK // file.channels)
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        blocks.append(block)
        size += block.size
        _refuse_too_long(path, size, max_samples)
    return np.concatenate(blocks)


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


def _with_av(path: Path, max_samples: int | None, skip_nothing: bool) -> Decoded:
    """Decode with PyAV. With ``skip_nothing`` a damaged frame is an error; FFmpeg would leave it out.

    Raises:
        AudioError: The file is not audio, contains none, or is damaged, cut off or too long.
    """
    import av  # not at the top, since most folders never need it

    known = format_of(path)
    if known is None:
        raise AudioError(path, "it is not audio of a known format")
    strictness = SKIP_NOTHING if skip_nothing else {}
    try:
        # An open file instead of a path, and no protocols, so that the content cannot make FFmpeg open anything else.
        options = {"protocol_whitelist": "none", **strictness}
        with (
            path.open("rb") as file,
            av.open(file, format=known.name, options=options, metadata_errors="replace") as container,
        ):
            if not container.streams.audio:
                raise AudioError(path, "it holds no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(path, "it has a codec that nobody here can decode")
            stream.codec_context.options = strictness
            decoded, span = _decode_stream(path, container, stream, max_samples)
            if skip_nothing and span - decoded.seconds > GAP:
                raise AudioError(path, f"it is damaged: {span - decoded.seconds:.2f} s of it are missing")
            _refuse_cut_off(path, decoded.seconds, _announced_seconds(path, known, container, stream))
            return decoded
    except av.FFmpegError as error:
        raise AudioError(path, f"it is not audio, damaged or cut off ({error.strerror})") from error


def _decode_stream(path: Path, container: Any, stream: Any, max_samples: int | None) -> tuple[Decoded, float]:
    """Decode an audio stream; also return the seconds from the start of its first frame to the end of its last one."""
    import av

    resampler = av.AudioResampler(format="fltp")  # keeps channels and rate; some AAC streams announce half of them
    blocks: list[Samples] = []
    size, sample_rate, start, end = 0, 0, None, 0.0
    for frame in container.decode(stream):
        if frame.time is not None:
            start = frame.time if start is None else start
            end = frame.time + frame.samples / frame.sample_rate
        for out in resampler.resample(frame):
            blocks.append(out.to_ndarray().astype(np.float32, copy=False))
            sample_rate = sample_rate or out.sample_rate
            size += blocks[-1].size
            _refuse_too_long(path, size, max_samples)
    if not blocks:
        raise AudioError(path, "it holds no sound (0 samples)")
    is_int32 = stream.codec_context.format.name in ("s32", "s32p")
    return Decoded(np.concatenate(blocks, axis=1), sample_rate, is_int32), end - (start or 0.0)


def _announced_seconds(path: Path, known: Format, container: Any, stream: Any) -> float:
    """The length that a header states; 0 if it states none, or if FFmpeg only guesses it (raw AAC)."""
    if known is MP3:
        return mp3_seconds(path)
    if not known.states_length:
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    is_only_stream = len(container.streams) == 1  # the length of a video track says nothing about the sound
    return container.duration / 1_000_000 if is_only_stream and container.duration else 0.0


def _cut_off(seconds: float, announced: float) -> str:
    return f"it is cut off: {seconds:.2f} s of the {announced:.2f} s it announces"


def _is_cut_off(seconds: float, announced: float) -> bool:
    """Whether more than 0.1 s and 5 % are missing, which padding of codecs and rounded headers do not explain."""
    return seconds < 0.95 * announced - 0.1


def _refuse_cut_off(path: Path, seconds: float, announced: float) -> None:
    if _is_cut_off(seconds, announced):
        raise AudioError(path, _cut_off(seconds, announced))


def _refuse_too_long(path: Path, samples: int, max_samples: int | None) -> None:
    if max_samples is not None and samples > max_samples:
        raise TooLongError(path, f"it is too long: over {max_samples} samples in all channels")
