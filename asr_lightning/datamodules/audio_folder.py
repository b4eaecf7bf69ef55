"""AudioFolderDataModule: an audio folder -> checked splits -> loaders of batches.

Knows audio, splits and limits; tokens belong to the collator that it is given, and it never asks which model that
serves. Imported by the command line and by any script that trains.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from asr_lightning.data.folder import scan_folder
from asr_lightning.data.folds import Fold
from asr_lightning.data.rows import Row
from asr_lightning.data.splits import SPLITS, Splits, check_shares, prepare_splits
from asr_lightning.datamodules.augment import Augmentation
from asr_lightning.datamodules.dataset import AudioCache, Mixed, UtteranceDataset, WholeBatches, measure
from asr_lightning.datamodules.sampler import EvaluationBatches, TrainBatches
from asr_lightning.errors import DataError, OptionError
from asr_lightning.protocols import Collator
from asr_lightning.types import AudioLimits, SpeechBatch

REPLAY = Path(__file__).parents[1] / "replay_clips"

# A bad test clip is found before training, not after it.
NEEDED = {"fit": SPLITS, "validate": ("dev",), "test": ("test",)}


class AudioFolderDataModule(LightningDataModule):
    """Splits, decodes, checks, augments and batches the recordings of one folder.

    Args:
        audio_dir: Folder with ``<UID>.wav|mp3|…`` and ``<UID>.txt``; optional ``train_files.csv``,
            ``dev_files.csv``, ``test_files.csv``. Missing CSVs are written, nothing else is touched.
        batch_size: Most utterances in a training batch.
        eval_batch_size: The same for dev and test; None takes ``batch_size``.
        shares: Of train, dev and test, where CSVs have to be made.
        seed: Of splits, batches and augmentation.
        num_workers: Loader processes. 0 is fastest for the few hundred short clips this is made for.
        augmentation: For training utterances; None leaves them as they are.
        allow_text_leak: Accept CSVs that put one text into train and into dev or test.
        run_dir: Where CSVs go when ``audio_dir`` is read-only.
        collator: Makes the batches; the command line links the adapter's.
        limits: What the model accepts; the command line links the adapter's. None: 16 kHz, from 0.1 s on.
        cache_gib: Memory for decoded recordings; what does not fit is decoded at each use.
        replay: General speech that is trained on as well, so that it is not forgotten: a folder of recordings with
            transcripts, ``bundled`` for English, or ``off``.
        replay_share: How much of it each epoch draws, as a share of what it draws of the training clips.
        replay_least: How many clips of it each epoch draws at least, if there are so few of the speaker's own.
        epoch_clips: How many training clips an epoch draws at least: fewer are repeated for it, each time varied
            otherwise, so that a few clips get as many steps as many. 0 draws every clip once.

    Attributes:
        fold: Which of the trainings of a run this is the data of.
    """

    def __init__(
        self,
        audio_dir: str,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        shares: tuple[float, float, float] = (0.7, 0.2, 0.1),
        seed: int = 0,
        num_workers: int = 0,
        augmentation: Augmentation | None = None,
        allow_text_leak: bool = False,
        run_dir: str | None = None,
        collator: Collator | None = None,
        limits: AudioLimits | None = None,
        cache_gib: float = 2.0,
        replay: str = "off",
        replay_share: float = 0.25,
        replay_least: int = 0,
        epoch_clips: int = 0,
    ) -> None:
        super().__init__()
        check_shares(shares)
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        _at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        _at_least(0, num_workers=num_workers, cache_gib=cache_gib, seed=seed)
        _at_least(0, replay_share=replay_share, replay_least=replay_least, epoch_clips=epoch_clips)
        self.audio_dir = Path(audio_dir).expanduser()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.shares = tuple(shares)
        self.seed = seed
        self.num_workers = num_workers
        self.augmentation = augmentation
        self.allow_text_leak = allow_text_leak
        self.run_dir = run_dir
        self.collator = collator
        self.limits = limits or AudioLimits(sample_rate=16_000)
        self.replay_dir = {"off": None, "bundled": REPLAY}.get(replay, Path(replay))
        self.replay_share = replay_share
        self.replay_least = replay_least
        self.epoch_clips = epoch_clips
        self.cache_bytes = int(cache_gib * 2**30)
        self._cache = AudioCache(self.audio_dir, self.limits.sample_rate, self.cache_bytes)
        self.fold = Fold()
        self._splits: Splits | None = None
        self._datasets: dict[str, UtteranceDataset] = {}

    @property
    def splits(self) -> dict[str, tuple[Row, ...]]:
        """Rows of train, dev and test, made and persisted at the first use where the folder has no CSVs.

        Raises:
            ValueError: Anything wrong with the folder or its CSVs.
        """
        if self._splits is None:
            self._splits = prepare_splits(
                self.audio_dir, self.shares, self.seed, self.run_dir, allow_text_leak=self.allow_text_leak
            )
        return self._splits

    @property
    def num_clips(self) -> int:
        """Utterances in all three splits."""
        return sum(map(len, self.splits.values()))

    def divided(self, splits: Splits, fold: Fold = Fold()) -> AudioFolderDataModule:  # noqa: B008 - never changed
        """The same recordings in other splits, with test as it is; decoded ones are shared."""
        other = copy(self)
        other._splits, other.fold = splits, fold
        other._datasets = {name: self._datasets[name] for name in ("test", "replay") if name in self._datasets}
        return other

    def prepare_data(self) -> None:
        """Make and persist the split; Lightning calls this in one process only, the others read the CSVs."""
        _ = self.splits

    def setup(self, stage: str | None = None) -> None:
        """Decode and check every recording that ``stage`` needs; all three splits before training.

        Raises:
            ValueError: Lists every recording and every transcript that cannot be used.
        """
        needed = [split for split in NEEDED.get(stage or "fit", SPLITS) if split not in self._datasets]
        rows = [row for split in needed for row in self.splits[split]]
        seconds = dict(zip((row.uid for row in rows), measure(rows, self._cache, self.limits), strict=True))
        if self.collator is not None and rows:
            self._check_texts(self.collator, rows, seconds)
        for split in needed:
            self._datasets[split] = UtteranceDataset(
                self.splits[split],
                [seconds[row.uid] for row in self.splits[split]],
                self._cache,
                augmentation=self.augmentation if split == "train" else None,
                max_seconds=self.limits.max_seconds,
                seed=self.seed,
            )

    def _check_texts(self, collator: Collator, rows: Sequence[Row], seconds: Mapping[str, float]) -> None:
        """Let the collator, which alone knows tokens, refuse transcripts before the first step.

        Raises:
            ValueError: Lists them.
        """
        texts = {row.file_name: row.text for row in rows}
        try:
            collator.check(texts, {row.file_name: seconds[row.uid] for row in rows})
        except ValueError as error:
            raise DataError(f"{self.audio_dir}: {error}") from error

    def dataset(self, split: str) -> UtteranceDataset:
        """The utterances of ``train``, ``dev`` or ``test``.

        Raises:
            ValueError: Another name, or a recording that cannot be used.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        if split not in self._datasets:
            self.setup({"dev": "validate", "test": "test"}.get(split, "fit"))
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader:
        """Augmented training batches, other ones in each epoch."""
        own, replay = self.dataset("train"), self._replay()
        clips = own if replay is None else Mixed(own, replay)
        drawn = max(round(self.replay_share * max(len(own), self.epoch_clips)), self.replay_least)
        sampler = TrainBatches(
            clips.seconds,
            self.batch_size,
            *self._place(),
            seed=self.seed,
            num_replay=len(clips) - len(own),
            num_drawn=drawn,
            epoch_clips=self.epoch_clips,
        )
        return LateLoader(WholeBatches(clips, sampler), sampler=sampler, **self._options(self.collator))

    def _replay(self) -> UtteranceDataset | None:
        """General speech, checked and varied as the speaker's own recordings are; None for none.

        Raises:
            ValueError: The folder holds no recordings with transcripts, or one of them cannot be used.
        """
        if (folder := self.replay_dir) is None:
            return None
        if "replay" not in self._datasets:
            rows = [replace(row, uid=f"replay/{row.uid}") for row in scan_folder(folder)]
            cache = AudioCache(folder, self.limits.sample_rate, self.cache_bytes)
            seconds = measure(rows, cache, self.limits)
            self._datasets["replay"] = UtteranceDataset(
                rows, seconds, cache, self.augmentation, self.limits.max_seconds, self.seed
            )
        return self._datasets["replay"]

    def val_dataloader(self) -> DataLoader:
        """Dev batches in a fixed order."""
        return self.loader("dev")

    def test_dataloader(self) -> DataLoader:
        """Test batches in a fixed order."""
        return self.loader("test")

    def loader(self, split: str, collator: Collator | None = None, distributed: bool = True) -> DataLoader:
        """Batches of any split for scoring: fixed order, no augmentation, every utterance.

        Args:
            split: ``train``, ``dev`` or ``test``.
            collator: In place of the datamodule's own.
            distributed: Deal the batches to the processes of the trainer; False gives this process all of them.
                Processes that would get fewer batches repeat some, so count each UID once.
        """
        dataset = self.dataset(split)
        place = self._place() if distributed else (0, 1)
        uids = [row.uid for row in dataset.rows]
        sampler = EvaluationBatches(dataset.seconds, uids, self.eval_batch_size, *place)
        return DataLoader(WholeBatches(dataset, sampler), sampler=sampler, **self._options(collator or self.collator))

    def transfer_batch_to_device(self, batch: SpeechBatch, device: torch.device, dataloader_idx: int) -> SpeechBatch:
        """Lightning would wait for each tensor of a batch; pinned ones travel while a GPU computes."""
        return batch.to(device, non_blocking=device.type not in ("cpu", "mps"))  # MPS may read them too early

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _options(self, collator: Collator | None) -> dict[str, Any]:
        """What every loader shares: ``batch_size=None``, because the sampler hands out whole batches."""
        if collator is None:
            raise ValueError("no collator: pass collator=adapter.collator() to AudioFolderDataModule")
        # Lightning advises more workers wherever there are fewer than two; here none is the right number.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        options: dict[str, Any] = {"batch_size": None, "collate_fn": collator, "pin_memory": torch.cuda.is_available()}
        if self.num_workers:
            # A forked process may inherit a lock that an audio or BLAS thread holds, and hang. PyTorch itself limits
            # each worker to one thread.
            options |= {"num_workers": self.num_workers, "multiprocessing_context": "spawn", "persistent_workers": True}
        return options


class LateLoader(DataLoader):
    """Asks its sampler for nothing before the first batch is wanted.

    On a resume Lightning makes the first iterator, from which workers read ahead, before it sets the epoch.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


def _at_least(least: int, **options: float) -> None:
    """Refuse options below ``least``.

    Raises:
        ValueError: Names option and value.
    """
    for name, value in options.items():
        if value < least:
            raise OptionError(f"{name} must be at least {least}, but is {value}")
