"""Rows -> utterances: decoded once, kept in memory when they fit, varied anew in every training epoch.

Knows seconds and samples; knows no token and no model. The same epoch, seed and UID always give the same samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from asr_lightning.data import audio
from asr_lightning.data.checks import duration_problems
from asr_lightning.data.rows import Row
from asr_lightning.datamodules.augment import Augmentation, partners, perturb
from asr_lightning.errors import DataError
from asr_lightning.scoring.text import name_some
from asr_lightning.types import AudioLimits, Utterance


class Pick(NamedTuple):
    """Which utterance, and how it is varied.

    Attributes:
        epoch: In training; None in dev and test, which are never varied.
        clip: Index of the utterance.
        repeat: How often this epoch has drawn it before.
        is_duplicate: Whether another process has drawn it too, and counts it.
    """

    epoch: int | None
    clip: int
    repeat: int = 0
    is_duplicate: bool = False


class AudioCache:
    """Decoded recordings of one folder, kept up to a number of bytes; beyond it they are decoded at each use.

    A copy that travels to a loader worker starts empty and keeps nothing: the worker is there to decode.

    Args:
        folder: What file names are relative to.
        sample_rate: Hz, of every waveform.
        max_bytes: Memory for decoded samples.
    """

    def __init__(self, folder: Path, sample_rate: int, max_bytes: int) -> None:
        self.folder = folder
        self.sample_rate = sample_rate
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._clips: dict[str, Tensor] = {}

    def load(self, row: Row) -> Tensor:
        """The float32 samples ``[T]`` of ``row``, read-only by agreement.

        Raises:
            AudioError: The file cannot be used.
        """
        if row.file_name in self._clips:
            return self._clips[row.file_name]
        clip = torch.from_numpy(audio.load(self.folder / row.file_name, self.sample_rate))
        if self.num_bytes + clip.nbytes <= self.max_bytes:
            self._clips[row.file_name] = clip
            self.num_bytes += clip.nbytes
        return clip

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_clips": {}, "num_bytes": 0, "max_bytes": 0}


class UtteranceDataset(Dataset):
    """Utterances of one split.

    Args:
        rows: The split.
        seconds: Length of each recording, in the order of ``rows``.
        cache: Where samples come from.
        augmentation: Applied where an epoch is asked for; None for dev and test.
        max_seconds: What augmentation may not exceed; None is unbounded.
        seed: Of augmentation.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        seconds: Sequence[float],
        cache: AudioCache,
        augmentation: Augmentation | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        self.rows = tuple(rows)
        self.seconds = tuple(seconds)
        self.cache = cache
        self.augmentation = augmentation
        self.max_seconds = max_seconds
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Utterance:
        """The utterance as recorded, never augmented."""
        return self.utterance(index)

    def utterance(self, index: int, epoch: int | None = None, repeat: int = 0) -> Utterance:
        """The utterance as training sees it in ``epoch`` for the ``repeat``-th time, or as recorded without one."""
        row = self.rows[index]
        waveform = self.cache.load(row).clone()  # whoever changes it in place must not reach the cache
        if epoch is None or self.augmentation is None:
            return Utterance(row.uid, waveform, self.cache.sample_rate, row.text)
        generator = _generator(self.seed, epoch, row.uid, repeat)
        waveform = perturb(waveform, self.cache.sample_rate, self.augmentation, generator, self.max_seconds)
        texts = [row.text]
        for other in partners(index, len(self), self.augmentation, generator):
            more = self.cache.load(self.rows[other])
            left = None if self.max_seconds is None else self.max_seconds - waveform.numel() / self.cache.sample_rate
            if left is None or self.seconds[other] <= left:
                more = perturb(more, self.cache.sample_rate, self.augmentation, generator, left)
                waveform = torch.cat([waveform, more])
                texts.append(self.rows[other].text)
        return Utterance(row.uid, waveform, self.cache.sample_rate, " ".join(texts))


class Batches(Protocol):
    """What ``WholeBatches`` asks of a sampler."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Pick]]: ...


class Mixed:
    """Two datasets one behind the other: the speaker's own utterances, then general speech.

    Args:
        own: What the run is about.
        replay: What must not be forgotten.
    """

    def __init__(self, own: UtteranceDataset, replay: UtteranceDataset) -> None:
        self.own = own
        self.replay = replay
        self.seconds = own.seconds + replay.seconds

    def __len__(self) -> int:
        return len(self.seconds)

    def utterance(self, index: int, epoch: int | None = None, repeat: int = 0) -> Utterance:
        """As the dataset that holds ``index`` makes it."""
        if index < len(self.own):
            return self.own.utterance(index, epoch, repeat)
        return self.replay.utterance(index - len(self.own), epoch, repeat)


class WholeBatches(Dataset):
    """A dataset addressed by whole batches, as a ``DataLoader`` with ``batch_size=None`` asks for them.

    The epoch travels with the index because a loader worker never hears of ``set_epoch``. A number stands for a batch
    of the sampler's first epoch: ``Trainer(overfit_batches=…)`` puts a sampler of its own into the loader.

    Args:
        utterances: What batches are made of.
        sampler: Says which utterances share a batch.
    """

    def __init__(self, utterances: UtteranceDataset | Mixed, sampler: Batches) -> None:
        self.utterances = utterances
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __getitem__(self, batch: list[Pick] | int) -> list[Utterance]:
        match batch:
            case int():
                picks = list(self.sampler)[batch]
            case _:
                picks = batch
        found = ((self.utterances.utterance(pick.clip, pick.epoch, pick.repeat), pick) for pick in picks)
        return [replace(utterance, is_duplicate=pick.is_duplicate) for utterance, pick in found]


def measure(rows: Sequence[Row], cache: AudioCache, limits: AudioLimits) -> list[float]:
    """The length of every recording in seconds, after decoding each one once.

    Raises:
        ValueError: Lists every recording that cannot be decoded, is too short or too long.
    """
    seconds: dict[str, float] = {}
    unusable = []
    for row in rows:
        try:
            seconds[row.file_name] = cache.load(row).numel() / cache.sample_rate
        except audio.AudioError as error:
            unusable.append(str(error))
    problems = [f"{len(unusable)} recordings cannot be used:\n{name_some(unusable, chr(10))}"] if unusable else []
    problems += duration_problems(seconds, limits.min_seconds, limits.max_seconds)
    if problems:
        raise DataError(f"{cache.folder}: " + "\n".join(problems))
    return list(seconds.values())


def _generator(seed: int, epoch: int, uid: str, repeat: int) -> torch.Generator:
    """Randomness of one utterance in one epoch: equal after a resume and for any number of workers."""
    name = f"{seed}\n{epoch}\n{uid}" + (f"\n{repeat}" if repeat else "")
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
