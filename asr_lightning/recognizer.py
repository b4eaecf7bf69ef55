"""Reads recordings with a saved or named model: ``load(MODEL).transcribe(FILE).text``. Knows the contract and no model.

The command ``predict`` uses it. Imports torch.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from asr_lightning.adapters import registry, saved
from asr_lightning.data import audio
from asr_lightning.data.sound import Sound, findings, measure
from asr_lightning.errors import OptionError
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring.evaluation import transcribe_all
from asr_lightning.training.devices import accelerator_in_use
from asr_lightning.types import Utterance

Audio = str | os.PathLike[str] | bytes | bytearray | memoryview | BytesIO | np.ndarray[Any, Any] | Tensor
"""A recording: a file, the content of a file, or samples ``[T]`` of one channel."""
Recordings = list[Any] | tuple[Any, ...]

DEVICES = ("auto", "gpu", "cpu", "cuda", "mps")

logger = logging.getLogger(__name__)

MAX_LEVEL = 2.0
"""Samples above full scale, which is 1, are clipped. Samples above this level are refused: they have another unit."""


@dataclass(frozen=True)
class Transcription:
    """The text of one recording.

    Attributes:
        text: The text, as the model writes it.
        seconds: Length of the recording in seconds.
    """

    text: str
    seconds: float


class Recognizer:
    """A loaded model that reads recordings.

    Args:
        adapter: Adapter of the model, of any family.
        device: Device that the model runs on: auto, cpu, cuda or mps.
        batch_size: Number of recordings that are read at once, at most.
    """

    def __init__(self, adapter: ASRAdapter, device: str = "auto", batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.adapter = adapter
        self.device = _available_device(device)
        self.batch_size = batch_size
        adapter.model.to(self.device)

    @overload
    def transcribe(self, recording: Audio, sample_rate: int | None = None) -> Transcription: ...

    @overload
    def transcribe(self, recording: Recordings, sample_rate: int | None = None) -> list[Transcription]: ...

    def transcribe(
        self, recording: Audio | Recordings, sample_rate: int | None = None
    ) -> Transcription | list[Transcription]:
        """Transcribe one recording, or each one of a list, in the order of the list.

        Args:
            recording: A file, the bytes of a file, or samples ``[T]``; or a list or tuple of these.
            sample_rate: Sample rate of samples in Hz; files have their own.

        Raises:
            ValueError: A recording cannot be read, or is longer or shorter than the model takes.
        """
        if isinstance(recording, list | tuple):
            clips = [self.clip(item, sample_rate, f"recording {number}") for number, item in enumerate(recording)]
            return self.read(clips)
        return self.read([self.clip(recording, sample_rate, "the recording")])[0]

    def clip(self, recording: Audio, sample_rate: int | None = None, name: str = "the recording") -> Utterance:
        """Load ``recording`` at the model's sample rate; messages call it ``name`` unless it is a file.

        Raises:
            ValueError: It cannot be read, is silent, or is longer or shorter than the model takes.
        """
        rate, limits = self.adapter.limits.sample_rate, self.adapter.limits
        if isinstance(recording, str | os.PathLike):
            name = str(Path(recording))
            samples = _load_file(Path(recording).expanduser(), rate, name)
        elif isinstance(recording, bytes | bytearray | memoryview | BytesIO):
            content = recording.getvalue() if isinstance(recording, BytesIO) else bytes(recording)
            samples = _load_bytes(content, rate, name)
        else:
            samples = _resampled(recording, sample_rate, rate, name)
        clip = Utterance(name, torch.from_numpy(samples), rate, text="")
        if limits.max_seconds is not None and clip.seconds > limits.max_seconds:
            raise ValueError(f"{name}: {clip.seconds:.1f} s, and this model reads {limits.max_seconds:g} s; cut it")
        if clip.seconds < limits.min_seconds:
            raise ValueError(f"{name}: {clip.seconds:.2f} s is shorter than {limits.min_seconds:g} s")
        return clip

    def read(self, clips: Sequence[Utterance]) -> list[Transcription]:
        """Transcribe ``clips``; results are in their order, though clips of similar length share a batch."""
        collate, texts = self.adapter.collator(), [""] * len(clips)
        order = sorted(range(len(clips)), key=lambda index: clips[index].seconds)
        groups = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        batches = (collate([clips[index] for index in group]) for group in groups)
        for index, transcript in zip(order, transcribe_all(self.adapter, batches, self.device), strict=True):
            texts[index] = transcript.hypothesis
        return [Transcription(text, clip.seconds) for text, clip in zip(texts, clips, strict=True)]


def load(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    language: str | None = None,
    native: bool = False,
    batch_size: int = 16,
) -> Recognizer:
    """Load a recogniser from a model folder, such as ``runs/mine/model``, or by the name of a model.

    Args:
        model: A folder, or a name that ``python -m asr_lightning models`` lists.
        device: Device that the model runs on: auto, cpu, cuda or mps.
        language: Language that a multilingual model reads, if it was not saved with one.
        native: Read audio as the makers of the model do. A model that nobody has specialized is always read this way:
            at true length an untouched Whisper repeats itself.
        batch_size: Number of recordings that are read at once, at most.

    Raises:
        ValueError: There is no such model or device, or the model cannot be loaded.
    """
    adapter = registry.build(str(model), **({"language": language} if language else {}))
    # Of what was loaded: a folder here may have the name of a model, and a model's card may name a specialized folder.
    is_specialized = saved.record(registry.choose(str(model)).source) is not None
    return Recognizer(adapter if is_specialized and not native else adapter.native(), device, batch_size)


def _available_device(requested: str) -> str:
    """The device that ``requested`` stands for.

    Raises:
        OptionError: It is none that this package knows, or this machine does not have it.
    """
    kind = requested.partition(":")[0]
    missing = (kind == "cuda" and not torch.cuda.is_available()) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    if kind not in DEVICES or missing:
        raise OptionError(f"there is no device {requested!r} here: take --device auto, or --device cpu", "device")
    return accelerator_in_use(requested)


def _load_bytes(content: bytes, rate: int, name: str) -> audio.Samples:
    """Decode ``content`` through a temporary file, since some formats have their index at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        path.write_bytes(content)
        try:
            return _load_file(path, rate, name)
        except audio.AudioError as error:
            raise ValueError(str(error).replace(str(path), name)) from error


def _load_file(path: Path, rate: int, name: str) -> audio.Samples:
    """Decode a file. What is put right without asking, such as channels that cancel each other out, is logged."""
    inspected = audio.inspect(path, rate)
    for finding in inspected.findings:
        logger.log(logging.WARNING if finding.kind.is_repaired else logging.INFO, "%s: %s", name, finding.message)
    return inspected.samples


def _resampled(samples: np.ndarray[Any, Any] | Tensor, given_rate: int | None, rate: int, name: str) -> audio.Samples:
    if not isinstance(samples, np.ndarray | Tensor):
        raise ValueError(f"{name}: give a file, the bytes of one, or samples; {type(samples).__name__} is none of them")
    if given_rate is None:
        raise ValueError(f"{name}: give sample_rate, in Hz, with samples")
    if not isinstance(given_rate, int | np.integer) or given_rate < 1:
        raise ValueError(f"{name}: sample_rate is a whole number of Hz, not {given_rate!r}")
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    if samples.ndim != 1:
        raise ValueError(f"{name}: samples have the shape {samples.shape}: give one channel, [T], such as their mean")
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    if scale == 1 and not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{name}: give samples as int16, or as numbers from -1 to 1")
    array = np.array(samples, dtype=np.float32) * np.float32(scale)  # a copy: the caller's array must not change
    if not (np.abs(array) <= MAX_LEVEL).all():  # this refuses NaN too
        raise ValueError(f"{name}: give samples as int16, or as numbers from -1 to 1")
    sound = Sound(array.clip(-1, 1), int(given_rate))
    if array.size and (silence := [found for found in findings(measure(sound)) if found.kind.is_refused]):
        raise ValueError(f"{name}: {silence[0].message}; record it again")
    return audio.resample(sound.samples, sound.sample_rate, rate)
