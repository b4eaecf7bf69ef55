"""Recordings in any form, as the samples that a model reads: files, bytes of files, and samples. Loads no torch."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from asr_lightning.data import audio, streams
from asr_lightning.data.sound import Sound, findings, measure

if TYPE_CHECKING:
    from torch import Tensor

Audio: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BytesIO | np.ndarray[Any, Any] | Tensor"
"""A recording: a file, the content of a file, or samples ``[T]`` of one channel."""

MAX_LEVEL = 2.0
"""Samples above full scale, which is 1, are clipped. Samples above this level are refused: they have another unit."""

logger = logging.getLogger(__name__)


class Clip(NamedTuple):
    """A recording at the sample rate of a model.

    Attributes:
        name: Its name in messages.
        samples: Its samples; None if it is so long that it is decoded block by block while it is read.
        seconds: Its length; as its header states it if ``samples`` is None, and 0 if the header does not.
        path: Its file, if it has one.
    """

    name: str
    samples: audio.Samples | None
    seconds: float
    path: Path | None = None


def load(recording: Any, given_rate: int | None, rate: int, name: str) -> Clip:
    """Load a recording in any form.

    Args:
        recording: A file, the bytes of a file, or samples ``[T]``.
        given_rate: Sample rate of samples in Hz; files have their own.
        rate: Sample rate in Hz that the model reads.
        name: What messages call it, unless it is a file.

    Raises:
        ValueError: It cannot be read, or is silent.
    """
    if isinstance(recording, str | os.PathLike):
        return _file(Path(recording).expanduser(), rate, str(Path(recording)))
    if isinstance(recording, bytes | bytearray | memoryview | BytesIO):
        content = recording.getvalue() if isinstance(recording, BytesIO) else bytes(recording)
        samples = _from_bytes(content, rate, name)
    else:
        samples = _resampled(recording, given_rate, rate, name)
    return Clip(name, samples, len(samples) / rate)


def _file(path: Path, rate: int, name: str) -> Clip:
    if streams.is_long(path):
        return Clip(name, None, streams.seconds_of(path), path)
    samples = _decoded(path, rate, name)
    return Clip(name, samples, len(samples) / rate, path)


def _from_bytes(content: bytes, rate: int, name: str) -> audio.Samples:
    """Decode ``content`` through a temporary file, since some formats have their index at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        path.write_bytes(content)
        try:
            return _decoded(path, rate, name)
        except audio.AudioError as error:
            raise ValueError(str(error).replace(str(path), name)) from error


def _decoded(path: Path, rate: int, name: str) -> audio.Samples:
    """Decode a file. What is put right without asking, such as channels that cancel each other out, is logged."""
    inspected = audio.inspect(path, rate)
    for finding in inspected.findings:
        logger.log(logging.WARNING if finding.kind.is_repaired else logging.INFO, "%s: %s", name, finding.message)
    return inspected.samples


def _resampled(samples: Any, given_rate: int | None, rate: int, name: str) -> audio.Samples:
    if given_rate is not None and (not isinstance(given_rate, int | np.integer) or given_rate < 1):
        raise ValueError(f"{name}: sample_rate is a whole number of Hz, not {given_rate!r}")
    array = scaled(samples, name)
    if given_rate is None:
        raise ValueError(f"{name}: give sample_rate, in Hz, with samples")
    sound = Sound(array, int(given_rate))
    if array.size and (silence := [found for found in findings(measure(sound)) if found.kind.is_refused]):
        raise ValueError(f"{name}: {silence[0].message}; record it again")
    return audio.resample(sound.samples, sound.sample_rate, rate)


def scaled(samples: Any, name: str) -> audio.Samples:
    """Return a copy of ``samples`` ``[T]``, from numpy or torch, as float32 within [-1, 1].

    Raises:
        ValueError: They have another shape, type or unit, or are not numbers.
    """
    torch = sys.modules.get("torch")  # whoever has a tensor has loaded it
    if torch is not None and isinstance(samples, torch.Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    if not isinstance(samples, np.ndarray):
        raise ValueError(f"{name}: give a file, the bytes of one, or samples; {type(samples).__name__} is none of them")
    if samples.ndim != 1:
        raise ValueError(f"{name}: samples have the shape {samples.shape}: give one channel, [T], such as their mean")
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    if scale == 1 and not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{name}: give samples as int16, or as numbers from -1 to 1")
    array = np.array(samples, dtype=np.float32) * np.float32(scale)  # a copy: the caller's array must not change
    if not (np.abs(array) <= MAX_LEVEL).all():  # this refuses NaN too
        raise ValueError(f"{name}: give samples as int16, or as numbers from -1 to 1")
    return array.clip(-1, 1)
