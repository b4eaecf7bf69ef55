"""Makes utterances from rows: decodes recordings once, keeps them in memory, and augments them in each training epoch.

The same epoch, seed and UID always give the same samples. Knows seconds and samples; knows no token and no model.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from asr_lightning.data import audio
from asr_lightning.data.durations import duration_problems
from asr_lightning.data.rows import Row
from asr_lightning.data.sound import Finding, warnings_of
from asr_lightning.datamodules.augment import Augmentation, partners, perturb
from asr_lightning.errors import DataError
from asr_lightning.scoring.text import name_some
from asr_lightning.types import AudioLimits, Utterance

log = logging.getLogger(__name__)


class Pick(NamedTuple):
    """An utterance in a batch, and what its augmentation depends on.

    Attributes:
        epoch: The epoch in training; None in dev and test, which are never augmented.
        clip: Index of the utterance in its data set.
        repeat: How many times the utterance has occurred in this epoch before.
        is_duplicate: Whether another process has the utterance as well and counts it.
    """

    epoch: int | None
    clip: int
    repeat: int = 0
    is_duplicate: bool = False


class AudioCache:
    """Keeps decoded recordings of one folder in memory, up to a limit; others are decoded at each use.

    A copy in a loader worker is empty and keeps nothing, since the worker's purpose is to decode.

    Args:
        folder: The folder that file names are relative to.
        sample_rate: Sample rate of all waveforms in Hz.
        max_bytes: Memory for decoded samples in bytes.

    Attributes:
        num_bytes: Memory that is used.
    """

    def __init__(self, folder: Path, sample_rate: int, max_bytes: int) -> None:
        self.folder = folder
        self.sample_rate = sample_rate
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._findings: dict[str, tuple[Finding, ...]] = {}  # of recordings decoded since they were last taken
        self._clips: dict[str, Tensor] = {}

    def load(self, row: Row) -> Tensor:
        """The float32 samples ``[T]`` of ``row``. The caller must not change them.

        Raises:
            AudioError: The file cannot be decoded, or is silent.
        """
        if row.file_name in self._clips:
            return self._clips[row.file_name]
        inspected = audio.inspect(self.folder / row.file_name, self.sample_rate)
        clip, self._findings[row.file_name] = torch.from_numpy(inspected.samples), inspected.findings
        if self.num_bytes + clip.nbytes <= self.max_bytes:
            self._clips[row.file_name] = clip
            self.num_bytes += clip.nbytes
        return clip

    def take_findings(self) -> dict[str, tuple[Finding, ...]]:
        """What is doubtful about the recordings that were decoded since the last call, by file name."""
        taken, self._findings = self._findings, {}
        return taken

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_clips": {}, "num_bytes": 0, "max_bytes": 0}


class UtteranceDataset(Dataset):
    """Utterances of one split.

    Args:
        rows: Rows of the split.
        seconds: Length of each recording, in the order of ``rows``.
        cache: Loads the recordings.
        augmentation: Augmentation for training; None for dev and test.
        max_seconds: Largest length of an augmented recording; None means no limit.
        seed: Seed of augmentation.
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
        """The utterance as recorded, without augmentation."""
        return self.utterance(index)

    def utterance(self, index: int, epoch: int | None = None, repeat: int = 0) -> Utterance:
        """The utterance with the augmentation of ``epoch``, in which it occurred ``repeat`` times before.

        Without an epoch the utterance is not augmented.
        """
        row = self.rows[index]
        waveform = self.cache.load(row).clone()  # a copy, so that changes in place do not affect the cache
        if epoch is None or self.augmentation is None:
            return Utterance(row.uid, waveform, self.cache.sample_rate, row.text)
        generator = _generator(self.seed, epoch, row.uid, repeat)
        waveform = perturb(waveform, self.cache.sample_rate, self.augmentation, generator, self.max_seconds)
        texts = [row.text]
        for other in partners(index, len(self), self.augmentation, generator):
            appended = self.cache.load(self.rows[other])
            left = None if self.max_seconds is None else self.max_seconds - waveform.numel() / self.cache.sample_rate
            if left is None or self.seconds[other] <= left:
                appended = perturb(appended, self.cache.sample_rate, self.augmentation, generator, left)
                waveform = torch.cat([waveform, appended])
                texts.append(self.rows[other].text)
        return Utterance(row.uid, waveform, self.cache.sample_rate, " ".join(texts))


class BatchSampler(Protocol):
    """The part of a sampler that ``WholeBatches`` uses."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Pick]]: ...


class SpeakerAndReplay:
    """Concatenation of the speaker's utterances and general speech.

    Args:
        speaker: Utterances of the speaker that the model is specialized for.
        replay: General speech that the model must not forget.
    """

    def __init__(self, speaker: UtteranceDataset, replay: UtteranceDataset) -> None:
        self.speaker = speaker
        self.replay = replay
        self.seconds = speaker.seconds + replay.seconds

    def __len__(self) -> int:
        return len(self.seconds)

    def utterance(self, index: int, epoch: int | None = None, repeat: int = 0) -> Utterance:
        """The utterance from the data set that contains ``index``."""
        if index < len(self.speaker):
            return self.speaker.utterance(index, epoch, repeat)
        return self.replay.utterance(index - len(self.speaker), epoch, repeat)


class WholeBatches(Dataset):
    """A data set that returns whole batches, for a ``DataLoader`` with ``batch_size=None``.

    Each index includes the epoch, since loader workers do not know of ``set_epoch``. A number as index means a batch of
    the sampler's first epoch, because ``Trainer(overfit_batches=…)`` replaces the loader's sampler by its own.

    Args:
        utterances: The data set of single utterances.
        sampler: Decides which utterances share a batch.
    """

    def __init__(self, utterances: UtteranceDataset | SpeakerAndReplay, sampler: BatchSampler) -> None:
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
        return [
            replace(self.utterances.utterance(pick.clip, pick.epoch, pick.repeat), is_duplicate=pick.is_duplicate)
            for pick in picks
        ]


def measure(rows: Sequence[Row], cache: AudioCache, limits: AudioLimits) -> list[float]:
    """Decode each recording once and return all lengths in seconds; log what is doubtful about the sound.

    Raises:
        ValueError: Some recordings cannot be decoded, are silent, too short or too long; the message lists them.
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
    for warning in warnings_of(cache.take_findings()):
        log.warning(warning)
    return list(seconds.values())


def _generator(seed: int, epoch: int, uid: str, repeat: int) -> torch.Generator:
    """The random generator of one utterance in one epoch, the same after a resume and for any number of workers."""
    name = f"{seed}\n{epoch}\n{uid}" + (f"\n{repeat}" if repeat else "")
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
