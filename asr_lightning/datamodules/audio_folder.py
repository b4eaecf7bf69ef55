"""Loads an audio folder: AudioFolderDataModule makes its splits, validates the recordings and makes batches.

Knows audio, splits and limits, but no model: the collator makes the tokens. Imported by the command line and by any
script that trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from asr_lightning.data.division import SPLITS, Splits, require_valid_shares
from asr_lightning.data.folder import scan_folder
from asr_lightning.data.folds import Fold
from asr_lightning.data.rows import Row
from asr_lightning.data.splits import Plan, plan_splits
from asr_lightning.datamodules.augment import Augmentation
from asr_lightning.datamodules.dataset import AudioCache, SpeakerAndReplay, UtteranceDataset, WholeBatches, measure
from asr_lightning.datamodules.loaders import LateLoader, make_loader
from asr_lightning.datamodules.sampler import EvaluationBatches, TrainBatches
from asr_lightning.errors import DataError, require_at_least
from asr_lightning.protocols import Collator
from asr_lightning.types import AudioLimits, SpeechBatch

BUNDLED_REPLAY = Path(__file__).parents[1] / "replay_clips"

# fit needs the test split as well, so that an unusable test clip is reported before training and not after it.
NEEDED_SPLITS = {"fit": SPLITS, "validate": ("dev",), "test": ("test",)}


class AudioFolderDataModule(LightningDataModule):
    """Splits, decodes, validates, augments and batches the recordings of one folder.

    Args:
        audio_dir: Folder with ``<UID>.wav|mp3|…`` and ``<UID>.txt``, and optionally ``train_files.csv``,
            ``dev_files.csv`` and ``test_files.csv``. Missing CSV files are written when all recordings have been
            inspected; nothing else is changed.
        batch_size: Largest number of utterances in a training batch.
        eval_batch_size: Largest number of utterances in a batch of dev or test; None means ``batch_size``.
        shares: Shares of train, dev and test, if CSV files have to be made.
        seed: Seed of splits, batches and augmentation.
        num_workers: Number of loader processes. 0 is fastest for a few hundred short clips.
        augmentation: Augmentation of training utterances; None leaves them unchanged.
        allow_text_leak: Whether to accept CSV files with the same text in train and in dev or test.
        run_dir: Where CSV files are written if ``audio_dir`` is read-only.
        collator: Makes the batches; the command line takes the adapter's.
        limits: The recordings that the model accepts; the command line takes the adapter's. None means 16 kHz and at
            least 0.1 s.
        cache_gib: Memory for decoded recordings in GiB; those that do not fit are decoded at each use.
        replay: General speech to train on as well, so that the model does not forget it: a folder of recordings with
            transcripts, ``bundled`` for English, or ``off``.
        replay_share: Number of replay clips in each epoch, as a share of its training clips.
        replay_least: Smallest number of replay clips in each epoch, however few training clips there are.
        epoch_clips: Smallest number of training clips in an epoch. If there are fewer, they are repeated with different
            augmentation, so that a small data set is trained for as many steps as a large one. 0 uses every clip once.

    Attributes:
        fold: The fold of the run that this data belongs to.
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
        require_valid_shares(shares)
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        require_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        require_at_least(0, num_workers=num_workers, cache_gib=cache_gib, seed=seed)
        require_at_least(0, replay_share=replay_share, replay_least=replay_least, epoch_clips=epoch_clips)
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
        self.replay_dir = {"off": None, "bundled": BUNDLED_REPLAY}.get(replay, Path(replay))
        self.replay_share = replay_share
        self.replay_least = replay_least
        self.epoch_clips = epoch_clips
        self.cache_bytes = int(cache_gib * 2**30)
        self._cache = AudioCache(self.audio_dir, self.limits.sample_rate, self.cache_bytes)
        self.fold = Fold()
        self._plan: Plan | None = None
        self._datasets: dict[str, UtteranceDataset] = {}

    @property
    def splits(self) -> dict[str, tuple[Row, ...]]:
        """Rows of train, dev and test. Missing CSV files are made in memory; ``prepare_data`` writes them.

        Raises:
            ValueError: The folder or one of its CSV files cannot be used.
        """
        return self._planned().splits

    def _planned(self) -> Plan:
        if self._plan is None:
            self._plan = plan_splits(
                self.audio_dir, self.shares, self.seed, self.run_dir, allow_text_leak=self.allow_text_leak
            )
        return self._plan

    @property
    def num_clips(self) -> int:
        """Number of utterances in all three splits."""
        return sum(map(len, self.splits.values()))

    def use(self, splits: Splits) -> None:
        """Use ``splits``, whatever the CSV files of the folder list."""
        self._plan, self._datasets = Plan(splits), {}

    def divided(self, splits: Splits, fold: Fold = Fold()) -> AudioFolderDataModule:  # noqa: B008 - never changed
        """A copy with the same recordings in other ``splits`` but the same test; decoded recordings are shared."""
        other = copy(self)
        other._plan, other.fold = Plan(splits), fold
        other._datasets = {name: self._datasets[name] for name in ("test", "replay") if name in self._datasets}
        return other

    def prepare_data(self) -> None:
        """Write the splits that no CSV file has yet, when all recordings have been inspected.

        Lightning calls this in one process only; the others read the CSV files.

        Raises:
            ValueError: Some recordings or transcripts cannot be used, or the files cannot be written.
        """
        if self._planned().made:
            self._load(SPLITS)
            self._planned().write()
            self._plan = Plan(self.splits)

    def inspect(self) -> None:
        """Validate all recordings and write nothing. What an earlier run has left in ``run_dir`` does not count.

        Raises:
            ValueError: Some recordings or transcripts cannot be used; the message lists them.
        """
        plan = self._plan
        if plan is None or plan.made or plan.listed:  # and not what ``use`` was given
            plan = plan_splits(self.audio_dir, self.shares, self.seed, allow_text_leak=self.allow_text_leak)
        fresh = self.divided(plan.splits)
        fresh._plan = plan
        fresh._load(SPLITS)

    def setup(self, stage: str | None = None) -> None:
        """Decode and validate all recordings that ``stage`` needs; before training those of all three splits.

        Raises:
            ValueError: Some recordings or transcripts cannot be used; the message lists them.
        """
        self.prepare_data()
        self._load(NEEDED_SPLITS.get(stage or "fit", SPLITS))

    def _load(self, splits: Sequence[str]) -> None:
        needed = [split for split in splits if split not in self._datasets]
        rows = [row for split in needed for row in self.splits[split]]
        try:
            seconds = dict(zip((row.uid for row in rows), measure(rows, self._cache, self.limits), strict=True))
            if self.collator is not None and rows:
                self._require_usable_texts(self.collator, rows, seconds)
        except DataError as error:
            listed = " or ".join(self._planned().listed)
            advice = f"\nIf you move a recording away, delete its line in {listed} as well." if listed else ""
            raise DataError(f"{error}{advice}") from error
        for split in needed:
            self._datasets[split] = UtteranceDataset(
                self.splits[split],
                [seconds[row.uid] for row in self.splits[split]],
                self._cache,
                augmentation=self.augmentation if split == "train" else None,
                max_seconds=self.limits.max_seconds,
                seed=self.seed,
            )

    def _require_usable_texts(self, collator: Collator, rows: Sequence[Row], seconds: Mapping[str, float]) -> None:
        """Let the collator validate the transcripts before the first step, since only it knows tokens.

        Raises:
            ValueError: Some transcripts cannot be used; the message lists them.
        """
        texts = {row.file_name: row.text for row in rows}
        try:
            collator.check(texts, {row.file_name: seconds[row.uid] for row in rows})
        except ValueError as error:
            raise DataError(f"{self.audio_dir}: {error}") from error

    def dataset(self, split: str) -> UtteranceDataset:
        """The utterances of ``train``, ``dev`` or ``test``.

        Raises:
            ValueError: ``split`` has another name, or some recordings cannot be used.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
        if split not in self._datasets:
            self.setup({"dev": "validate", "test": "test"}.get(split, "fit"))
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader:
        """Augmented training batches, which differ in each epoch."""
        speaker, replay = self.dataset("train"), self._replay()
        clips = speaker if replay is None else SpeakerAndReplay(speaker, replay)
        num_drawn = max(round(self.replay_share * max(len(speaker), self.epoch_clips)), self.replay_least)
        sampler = TrainBatches(
            clips.seconds,
            self.batch_size,
            *self._rank_and_world_size(),
            seed=self.seed,
            num_replay=len(clips) - len(speaker),
            num_drawn=num_drawn,
            epoch_clips=self.epoch_clips,
        )
        return make_loader(LateLoader, WholeBatches(clips, sampler), sampler, self.collator, self.num_workers)

    def _replay(self) -> UtteranceDataset | None:
        """General speech, validated and augmented like the speaker's recordings; None without replay.

        Raises:
            ValueError: The folder has no recordings with transcripts, or one of them cannot be used.
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
        """Batches for scoring all utterances of a split, in a fixed order and without augmentation.

        Args:
            split: ``train``, ``dev`` or ``test``.
            collator: Makes the batches instead of the data module's own collator.
            distributed: Whether to divide the batches among the processes of the trainer. A process that would get
                fewer batches repeats some, so each UID must be counted once. False gives this process all batches.
        """
        dataset = self.dataset(split)
        rank, world_size = self._rank_and_world_size() if distributed else (0, 1)
        uids = [row.uid for row in dataset.rows]
        sampler = EvaluationBatches(dataset.seconds, uids, self.eval_batch_size, rank, world_size)
        batches = WholeBatches(dataset, sampler)
        return make_loader(DataLoader, batches, sampler, collator or self.collator, self.num_workers)

    def transfer_batch_to_device(self, batch: SpeechBatch, device: torch.device, dataloader_idx: int) -> SpeechBatch:
        """Copy without waiting, while the GPU computes; Lightning would wait for each tensor of a batch."""
        return batch.to(device, non_blocking=device.type not in ("cpu", "mps"))  # MPS may read tensors too early

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
