"""No step on gradients that are not numbers, and never in silence. Knows recordings by name, and no model."""

from __future__ import annotations

import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from asr_lightning.sharded import whole
from asr_lightning.text import name_some
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)


class FiniteGradients(Callback):
    """Leave out a step whose gradients hold NaN or infinity, name its recordings, and stop when it goes on.

    With float16 the loss scaler does this by itself, and overflows while it looks for its scale are normal.

    Args:
        limit: Steps in a row that may be left out; one more ends the run.
    """

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self.in_a_row = 0
        self._uids: list[str] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SpeechBatch, batch_idx: int
    ) -> None:
        """Remember whose gradients the next step will use; several batches may share it."""
        self._uids.extend(batch.uids)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the gradients if one of them is not finite.

        Raises:
            ValueError: It is one step too many in a row.
        """
        uids, self._uids = self._uids, []
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if trainer.scaler is not None or whole(get_total_norm(gradients)).isfinite():
            self.in_a_row = 0
            return
        optimizer.zero_grad(set_to_none=True)
        self.in_a_row += 1
        message = f"step {trainer.global_step}: the gradients of {name_some(uids)} are not finite"
        if self.in_a_row > self.limit:
            raise ValueError(
                f"{message}, {self.in_a_row} steps in a row: lower model.optimizer.lr, or listen to these recordings"
            )
        logger.warning("%s; this step is left out", message)
