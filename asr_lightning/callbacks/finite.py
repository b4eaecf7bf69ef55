"""No step on gradients that are not numbers, and never in silence. Knows recordings by name, and no model."""

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
    """Leave out a step whose gradients hold NaN or infinity, name its recordings, and stop when it goes on.

    A fused optimizer leaves the step out by itself, told by a tensor that stays on the GPU: nobody waits for it, and
    steps are named and counted every few seconds. With float16 the loss scaler does all this, and overflows while it
    looks for its scale are normal.

    Args:
        limit: Steps in a row that may be left out; one more ends the run.
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
        """Remember whose gradients the next step will use; several batches may share it."""
        self._uids.extend(batch.uids)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Leave the step out if a gradient is not finite.

        Raises:
            ValueError: It is one step too many in a row.
        """
        uids, self._uids = self._uids, []
        if trainer.scaler is not None:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        bad = ~whole(get_total_norm(gradients)).isfinite()
        if not optimizer.param_groups[0]["fused"]:
            if bad:
                optimizer.zero_grad(set_to_none=True)
            self._count(trainer.global_step, uids, bool(bad))
            return
        optimizer.found_inf = bad.float()  # as torch.amp.GradScaler does
        self._unread.append((trainer.global_step, uids, bad))
        if time.monotonic() - self._last_read > READ_SECONDS:
            self._read()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the steps that were left out since the last time; raises as ``on_before_optimizer_step`` does."""
        self._read()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self._read()

    def _read(self) -> None:
        unread, self._unread = self._unread, []
        self._last_read = time.monotonic()
        if unread:
            found = torch.stack([bad for *_, bad in unread]).tolist()  # one wait for all
            for (step, uids, _), bad in zip(unread, found, strict=True):
                self._count(step, uids, bad)

    def _count(self, step: int, uids: list[str], left_out: bool) -> None:
        if not left_out:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        message = f"step {step}: the gradients of {name_some(uids)} are not finite"
        if self.in_a_row > self.limit:
            raise ValueError(
                f"{message}, {self.in_a_row} steps in a row: lower model.optimizer.lr, or listen to these recordings"
            )
        logger.warning("%s; this step is left out", message)
