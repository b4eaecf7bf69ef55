"""Reads recordings with a saved or named model: ``load(MODEL).transcribe(FILE).text``. Knows the contract and no model.

``predict`` is its command. Imports torch.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from asr_lightning.adapters import registry, saved
from asr_lightning.data import audio
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring.evaluation import transcribe_all
from asr_lightning.training.devices import accelerator_in_use
from asr_lightning.types import Utterance

Audio = str | os.PathLike[str] | bytes | np.ndarray[Any, Any] | Tensor
"""A file, the content of one, or samples ``[T]`` of one channel."""
Several = list[Any] | tuple[Any, ...]

FULL = 2.0
"""Samples of more than full scale are clipped; of more than this they are in another unit."""


@dataclass(frozen=True)
class Transcription:
    """What was said in one recording.

    Attributes:
        text: As the model writes it.
        seconds: Length of the recording.
    """

    text: str
    seconds: float


class Recognizer:
    """A loaded model that reads recordings.

    Args:
        adapter: Of any family.
        device: auto, cpu, cuda or mps.
        batch_size: Most recordings that are read at once.
    """

    def __init__(self, adapter: ASRAdapter, device: str = "auto", batch_size: int = 16) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.adapter = adapter
        self.device = accelerator_in_use(device)
        self.batch_size = batch_size
        adapter.model.to(self.device)

    @overload
    def transcribe(self, recording: Audio, sample_rate: int | None = None) -> Transcription: ...

    @overload
    def transcribe(self, recording: Several, sample_rate: int | None = None) -> list[Transcription]: ...

    def transcribe(
        self, recording: Audio | Several, sample_rate: int | None = None
    ) -> Transcription | list[Transcription]:
        """What is said in one recording, or in each of a list, in its order.

        Args:
            recording: A file, the bytes of one, or samples ``[T]``; or a list or tuple of them.
            sample_rate: Hz, of samples; files know their own.

        Raises:
            ValueError: A recording cannot be read, or is longer or shorter than the model takes.
        """
        if isinstance(recording, list | tuple):
            clips = [self.clip(one, sample_rate, f"recording {n}") for n, one in enumerate(recording)]
            return self.read(clips)
        return self.read([self.clip(recording, sample_rate, "the recording")])[0]

    def clip(self, recording: Audio, sample_rate: int | None = None, name: str = "the recording") -> Utterance:
        """``recording`` at the model's sample rate; ``name`` is what a message calls it, unless it is a file.

        Raises:
            ValueError: It cannot be read, or is longer or shorter than the model takes.
        """
        rate, limits = self.adapter.limits.sample_rate, self.adapter.limits
        if isinstance(recording, str | os.PathLike):
            name = str(Path(recording))
            samples = audio.load(Path(recording).expanduser(), rate)
        elif isinstance(recording, bytes):
            samples = _load_bytes(recording, rate, name)
        else:
            samples = _resampled(recording, sample_rate, rate, name)
        clip = Utterance(name, torch.from_numpy(samples), rate, text="")
        if limits.max_seconds is not None and clip.seconds > limits.max_seconds:
            raise ValueError(f"{name}: {clip.seconds:.1f} s, and this model reads {limits.max_seconds:g} s; cut it")
        if clip.seconds < limits.min_seconds:
            raise ValueError(f"{name}: {clip.seconds:.2f} s is shorter than {limits.min_seconds:g} s")
        return clip

    def read(self, clips: Sequence[Utterance]) -> list[Transcription]:
        """The text of each of ``clips``, in their order; equal lengths share a batch."""
        collate, texts = self.adapter.collator(), [""] * len(clips)
        order = sorted(range(len(clips)), key=lambda index: clips[index].seconds)
        places = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        batches = (collate([clips[index] for index in place]) for place in places)
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
    """The recogniser of a model folder, such as ``runs/mine/model``, or of a model called by name.

    Args:
        model: As above; ``python -m asr_lightning models`` lists the names.
        device: auto, cpu, cuda or mps.
        language: Of a multilingual model that was not saved with one.
        native: Read audio as the makers of the model do. A model that nobody has specialized is always read so: at
            true length an untouched Whisper repeats itself.
        batch_size: Most recordings that are read at once.

    Raises:
        ValueError: There is no such model, or it cannot be loaded.
    """
    adapter = registry.build(str(model), **({"language": language} if language else {}))
    is_specialized = saved.record(Path(model).expanduser()) is not None
    return Recognizer(adapter if is_specialized and not native else adapter.native(), device, batch_size)


def _load_bytes(content: bytes, rate: int, name: str) -> audio.Samples:
    """A decoder wants a file: some formats have their index at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording"
        path.write_bytes(content)
        try:
            return audio.load(path, rate)
        except audio.AudioError as error:
            raise ValueError(str(error).replace(str(path), name)) from error


def _resampled(samples: np.ndarray[Any, Any] | Tensor, own_rate: int | None, rate: int, name: str) -> audio.Samples:
    if not isinstance(samples, np.ndarray | Tensor):
        raise ValueError(f"{name}: give a file, the bytes of one, or samples; {type(samples).__name__} is none of them")
    if own_rate is None:
        raise ValueError(f"{name}: give sample_rate, in Hz, with samples")
    if not isinstance(own_rate, int | np.integer) or own_rate < 1:
        raise ValueError(f"{name}: sample_rate is a whole number of Hz, not {own_rate!r}")
    if isinstance(samples, Tensor):
        samples = samples.detach().cpu()
        samples = (samples.float() if samples.is_floating_point() else samples).numpy()
    if samples.ndim != 1:
        raise ValueError(f"{name}: samples have the shape {samples.shape}: give one channel, [T], such as their mean")
    scale = 1 / 32768 if samples.dtype == np.int16 else 1.0
    if scale == 1 and not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"{name}: give samples as int16, or as numbers from -1 to 1")
    array = np.array(samples, dtype=np.float32) * np.float32(scale)  # a copy: nobody else changes it
    if not (np.abs(array) <= FULL).all():  # NaN is not
        raise ValueError(f"{name}: give samples as int16, or as numbers from -1 to 1")
    return audio.resample(array.clip(-1, 1), int(own_rate), rate)
