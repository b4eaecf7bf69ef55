"""Skips and reports optimizer steps whose gradients are not finite. Knows recordings by name, and no model."""

from __future__ import annotations

import logging
import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from asr_lightning.scoring.text import name_some
from asr_lightning.training.sharded import whole
from asr_lightning.training.step_log import READ_SECONDS
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)


class FiniteGradients(Callback):
    """Skip each step whose gradients contain NaN or infinity, name its recordings, and stop after too many of them.

    A fused optimizer skips the step by itself if a flag on the GPU says so. Nothing waits for that flag: skipped steps
    are named and counted every few seconds. With float16 the loss scaler does all this, and overflows are normal while
    it searches for its scale.

    Args:
        limit: How many steps in a row may be skipped; one more ends the run.

    Attributes:
        in_a_row: How many steps in a row have been skipped.
    """

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self.in_a_row = 0
        self._uids: list[str] = []
        self._unread: list[tuple[int, list[str], Tensor]] = []
        self._last_read = time.monotonic()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SpeechBatch, batch_idx: int
    ) -> None:
        """Remember the recordings of the next step; it may use the gradients of several batches."""
        self._uids.extend(batch.uids)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Skip the step if a gradient is not finite.

        Raises:
            ValueError: More than ``limit`` steps in a row were skipped.
        """
        uids, self._uids = self._uids, []
        if trainer.scaler is not None:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        skipped = ~whole(get_total_norm(gradients)).isfinite()
        if not optimizer.param_groups[0]["fused"]:
            if skipped:
                optimizer.zero_grad(set_to_none=True)
            self._count(trainer.global_step, uids, bool(skipped))
            return
        optimizer.found_inf = skipped.float()  # the flag that torch.amp.GradScaler sets, too
        self._unread.append((trainer.global_step, uids, skipped))
        if time.monotonic() - self._last_read > READ_SECONDS:
            self._read()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the steps skipped since the last time; raises as ``on_before_optimizer_step`` does."""
        self._read()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the steps skipped at the end; raises as ``on_before_optimizer_step`` does."""
        self._read()

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        self._last_read = time.monotonic()
        if unread:
            flags = torch.stack([skipped for *_, skipped in unread]).tolist()  # waits for the GPU only once
            for (step, uids, _), skipped in zip(unread, flags, strict=True):
                self._count(step, uids, skipped)

    def _count(self, step: int, uids: list[str], skipped: bool) -> None:
        if not skipped:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        message = f"step {step}: the gradients of {name_some(uids)} are not finite"
        if self.in_a_row > self.limit:
            raise ValueError(
                f"{message}, {self.in_a_row} steps in a row: lower --model.optimizer.lr, or listen to these recordings"
            )
        logger.warning("%s; this step is left out", message)
