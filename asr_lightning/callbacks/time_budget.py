"""Makes a run end in time: plans as many epochs as fit, and stops training early if it turns out slower.

Knows no model. Two runs with the same seed may differ here, since the measured times do.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.callbacks.scoring_work import work_after_training
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.protocols import ASRAdapter
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)

UNITS = {"s": 1, "m": 60, "h": 3600}
DECODING_FACTOR = 1.5  # time for loss and transcript of a clip, relative to the loss alone, once the model is usable
SAFETY_FACTOR = 1.15  # on every estimate: the last batches are no slower than the first, but machines are noisy


def seconds_of(budget: str) -> float:
    """The number of seconds in a time such as ``90s``, ``5m`` or ``1.5h``.

    Raises:
        ValueError: ``budget`` is not such a time, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
    if not match or float(match[1]) == 0:
        raise ValueError(f"--budget is a time such as 90s, 5m or 1h, not {budget!r}")
    return float(match[1]) * UNITS[match[2]]


class TimeBudget(Callback):
    """Plan the epochs of a run from two timed batches, and stop training in time for selection, test and report.

    Args:
        seconds: Time for the whole run, including the start of the program.
        started: Value of ``time.monotonic()`` at that start.
        num_canary: Number of clips in the canary.
    """

    def __init__(self, seconds: float, started: float, num_canary: int = 0) -> None:
        self.seconds = seconds
        self.started = started
        self.num_canary = num_canary
        self._deadline = math.inf

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lower ``max_epochs`` before the learning-rate schedule is built from it. All folds get equal times."""
        if stage != "fit":
            return
        pl_module.to(trainer.strategy.root_device)
        validation, before, after = self._scoring_seconds(trainer, pl_module)
        epoch = self._training_seconds(trainer, pl_module) + 2 * validation
        used = time.monotonic() - self.started
        fold = trainer.datamodule.fold
        all_left = self.seconds - used - SAFETY_FACTOR * (before + after)
        left = all_left / (fold.count - fold.number)
        wanted = trainer.max_epochs if trainer.max_epochs not in (None, -1) else 10
        planned = max(1, min(wanted, int(left / (SAFETY_FACTOR * epoch))))
        planned = trainer.strategy.broadcast(planned)  # since each process has measured other times
        trainer.fit_loop.max_epochs = planned
        self._deadline = self.started + self.seconds - SAFETY_FACTOR * after - (all_left - left)
        logger.info(
            "budget %.0f s: %d of %d epochs (%.0f s each; %.0f s of scoring)", self.seconds, planned, wanted, epoch,
            before + after,
        )  # fmt: skip
        if left < epoch:
            logger.warning(
                "the budget is short for one epoch on this machine; give it %.0f s",
                used + before + after + epoch * (fold.count - fold.number),
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SpeechBatch, batch_idx: int
    ) -> None:
        """Stop when only the time for selection, test and report is left."""
        is_late = time.monotonic() > self._deadline
        if trainer.strategy.reduce_boolean_decision(is_late, all=False) and not trainer.should_stop:
            logger.info("the budget ends training after step %d", trainer.global_step)
            trainer.should_stop = True

    def _training_seconds(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """Estimated seconds of one epoch; measured in eval mode, so that no statistics of the model change."""
        loader = trainer.datamodule.train_dataloader()
        batch = _median_batch(loader).to(pl_module.device)

        def step() -> None:
            with pl_module.adapter.evaluating(), trainer.precision_plugin.train_step_context():
                loss = pl_module.adapter.loss(batch).loss
            loss.backward()
            pl_module.zero_grad(set_to_none=True)

        return _measure_seconds(step) * len(loader) / max(trainer.world_size, 1)

    def _scoring_seconds(self, trainer: Trainer, pl_module: LightningModule) -> tuple[float, float, float]:
        """Estimated seconds of one validation, of all scoring before training, and of all scoring after it."""
        data = trainer.datamodule
        dev, fold = len(data.dataset("dev")), data.fold
        # The decoding time of an untrained model says nothing: one that repeats itself takes ten times as long.
        per_clip = DECODING_FACTOR * self._seconds_per_clip(pl_module, data, pl_module.adapter, _compute_loss)
        per_clip_native = self._seconds_per_clip(pl_module, data, pl_module.adapter.native(), _compute_loss_and_texts)
        work = work_after_training(data, self.num_canary)
        before = per_clip_native * dev * fold.count if not fold.number else 0.0
        return per_clip * dev, before, work.seconds(per_clip, per_clip_native)

    def _seconds_per_clip(
        self,
        pl_module: LightningModule,
        data: AudioFolderDataModule,
        adapter: ASRAdapter,
        work: Callable[[ASRAdapter, SpeechBatch], None],
    ) -> float:
        """Measured seconds of ``work`` for one dev clip."""
        batch = _median_batch(data.loader("dev", adapter.collator(), distributed=False)).to(pl_module.device)
        return _measure_seconds(lambda: work(adapter, batch)) / len(batch)


@torch.no_grad()
def _compute_loss(adapter: ASRAdapter, batch: SpeechBatch) -> None:
    with adapter.evaluating():
        adapter.loss(batch)


@torch.no_grad()
def _compute_loss_and_texts(adapter: ASRAdapter, batch: SpeechBatch) -> None:
    with adapter.evaluating():
        adapter.loss(batch)
        adapter.transcribe(batch)


def _measure_seconds(work: Callable[[], None]) -> float:
    """Duration of the second call of ``work``; the first one warms up."""
    work()
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _median_batch(batches: Iterable[SpeechBatch]) -> SpeechBatch:
    """The batch whose longest clip has the median length among the longest clips of all batches."""
    by_length = sorted(batches, key=lambda batch: float(batch.seconds.max()))
    return by_length[len(by_length) // 2]
