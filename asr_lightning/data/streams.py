"""Decodes long recordings block by block, so that the memory is the same for a minute and for ten hours.

Short recordings are decoded whole by ``decoders.py``, which can refuse a damaged one before it is used. Here, what is
wrong with a file is found only on the way: what could be decoded is given out, and the rest is an error at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from asr_lightning.data.decoders import UNKNOWN_LENGTH, AudioError, Decoded, InOrder, Samples
from asr_lightning.data.formats import HEAD, MP3, Format, format_of, format_of_head, mp3_seconds
from asr_lightning.data.sound import ScaleError, one_channel, true_scale

WHOLE = 16_000 * 60 * 12
"""Samples of all channels in the longest recording that is decoded whole, about 46 MB: 12 minutes of 16 kHz and one
channel, or 2 minutes of 48 kHz and two channels."""

BLOCK = 1 << 14
"""Samples of all channels that are read at once: so much is lost before a damaged place."""
PART_SECONDS = 1.0
"""Length of the parts that are mixed at once."""
SCALE_SECONDS = 30.0
"""Length of the part from which the scale of a file is found."""

logger = logging.getLogger(__name__)


def is_long(path: Path) -> bool:
    """Whether ``path`` is so long that it should be decoded block by block. What cannot be read is not long."""
    size = 0
    try:
        frames, channels, _ = _stated(path)
        if frames:
            return frames * channels > WHOLE
        for part in _parts(path):
            size += part.channels.size
            if size > WHOLE:
                return True
    except (AudioError, OSError):
        return False
    return False


def seconds_of(path: Path) -> float:
    """Length in seconds as the file states it; 0 if it does not."""
    import av

    frames, _, rate = _stated(path)
    if frames:
        return frames / rate
    known = format_of(path)
    if known is None or not known.states_length:
        return mp3_seconds(path) if known is MP3 else 0.0
    try:
        with path.open("rb") as file, _container(file, known) as container:
            return float(container.duration or 0) / 1_000_000
    except av.FFmpegError:
        return 0.0


def blocks(path: Path, sample_rate: int) -> Iterator[Samples]:
    """Decode a recording to blocks of samples ``[T]`` of one channel at ``sample_rate`` Hz, within [-1, 1].

    Raises:
        AudioError: It cannot be decoded from here on, or its samples have no known scale.
    """
    yield from _mono(_parts(path), path, sample_rate, SCALE_SECONDS)


def piped_blocks(pipe: BinaryIO, name: str, sample_rate: int) -> Iterator[Samples]:
    """Decode what comes through a pipe, in any format that can be read from its start on, as ``blocks`` does.

    Raises:
        AudioError: As for ``blocks``, or what comes is not audio.
    """
    head = pipe.read(HEAD) or b""
    known = format_of_head(head)
    if known is None:
        cause = "nothing comes through it" if not head else "what comes through it is not audio of a known format"
        raise AudioError(Path(name), cause, "send a WAV, such as: ffmpeg -i FILE -f wav - | ... -")
    yield from _mono(_with_av(_Replayed(head, pipe), known, Path(name)), Path(name), sample_rate, PART_SECONDS)


class _Replayed:
    """A pipe whose first bytes were read already."""

    def __init__(self, head: bytes, pipe: BinaryIO) -> None:
        self._head, self._pipe = head, pipe

    def read(self, size: int = -1) -> bytes:
        if self._head:
            found, self._head = self._head[:size], self._head[size:] if size >= 0 else b""
            return found
        return self._pipe.read(size)


def _stated(path: Path) -> tuple[int, int, int]:
    """Number of frames and of channels and the sample rate, if soundfile can read ``path``; else zeros.

    An MP3 that does not state its length is read by PyAV too: libsndfile guesses it.
    """
    try:
        with path.open("rb") as opened, InOrder(opened) as file:
            states_length = file.frames < UNKNOWN_LENGTH and (file.format != "MP3" or mp3_seconds(path) > 0)
            return (file.frames, file.channels, file.samplerate) if states_length else (0, 0, 0)
    except soundfile.SoundFileError:
        return 0, 0, 0


def _parts(path: Path) -> Iterator[Decoded]:
    """The recording in parts with all channels, decoded by soundfile, or by PyAV what soundfile cannot read."""
    if _stated(path)[0]:
        with path.open("rb") as opened, InOrder(opened) as file:
            yield from _with_soundfile(file, path)
        return
    known = format_of(path)
    if known is None:
        raise AudioError(path, "it is not audio of a known format")
    with path.open("rb") as opened:
        yield from _with_av(opened, known, path)


def _with_soundfile(file: InOrder, path: Path) -> Iterator[Decoded]:
    try:
        while len(part := file.read(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)):
            yield Decoded(part.T, file.samplerate, is_int32=file.subtype == "PCM_32")
    except soundfile.LibsndfileError as error:
        raise AudioError(path, f"it is damaged or cut off here ({error.error_string})") from error


def _container(file: Any, known: Format) -> Any:
    """Open a file, and no protocols, so that the content cannot make FFmpeg open anything else."""
    import av

    return av.open(file, format=known.name, options={"protocol_whitelist": "none"}, metadata_errors="replace")


def _with_av(file: Any, known: Format, path: Path) -> Iterator[Decoded]:
    import av

    try:
        with _container(file, known) as container:
            if not container.streams.audio:
                raise AudioError(path, "it holds no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise AudioError(path, "it has a codec that nobody here can decode")
            resampler = av.AudioResampler(format="fltp")  # keeps channels and rate
            for frame in container.decode(stream):
                for out in resampler.resample(frame):
                    is_int32 = stream.codec_context.format.name in ("s32", "s32p")
                    yield Decoded(out.to_ndarray().astype(np.float32, copy=False), out.sample_rate, is_int32)
    except av.FFmpegError as error:
        raise AudioError(path, f"it is not audio, or it is damaged or cut off here ({error.strerror})") from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except ScaleError as error:
        raise AudioError(path, str(error), "export it as WAV of 16 bits") from error


def _mono(parts: Iterator[Decoded], path: Path, sample_rate: int, first_seconds: float) -> Iterator[Samples]:
    """Mix the channels of ``parts``, all at the scale that their first seconds have."""
    first = next(_gathered(parts, first_seconds), None)
    if first is None:
        raise AudioError(path, "it holds no sound (0 samples)")
    with _named(path):
        scale = true_scale(first)
    rest = _gathered(parts, PART_SECONDS)
    yield from resampled(_mixed(chain([first], rest), scale, path), first.sample_rate, sample_rate)


def _gathered(parts: Iterator[Decoded], seconds: float) -> Iterator[Decoded]:
    """Join small parts, such as the frames of a codec, to parts of at least ``seconds``."""
    held: list[Decoded] = []
    length = 0.0
    for part in parts:
        held.append(part)
        length += part.seconds
        if length >= seconds:
            yield _joined(held)
            held, length = [], 0.0
    if held:
        yield _joined(held)


def _joined(parts: list[Decoded]) -> Decoded:
    return replace(parts[0], channels=np.concatenate([part.channels for part in parts], axis=1))


def _mixed(parts: Iterable[Decoded], scale: float, path: Path) -> Iterator[Samples]:
    """The mix of the channels of each part."""
    is_told = False
    for part in parts:
        if not np.isfinite(part.channels).all():
            raise AudioError(path, "it holds samples that are not numbers (NaN or infinite)")
        with _named(path):
            sound = one_channel(Decoded(part.channels / np.float32(scale), part.sample_rate))
        if sound.one_channel and not is_told:
            logger.warning("%s: its channels cancel each other out; only the louder one is read", path)
            is_told = True
        yield sound.samples


def resampled(parts: Iterable[Samples], own_rate: int, sample_rate: int) -> Iterator[Samples]:
    """Convert blocks of samples ``[T]`` from ``own_rate`` Hz to ``sample_rate`` Hz, within [-1, 1]."""
    if own_rate == sample_rate:
        yield from parts
        return
    stream = soxr.ResampleStream(own_rate, sample_rate, 1, dtype="float32")
    for part in parts:
        yield np.clip(stream.resample_chunk(part), -1, 1)
    yield np.clip(stream.resample_chunk(np.zeros(0, np.float32), last=True), -1, 1)
