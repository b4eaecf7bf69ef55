"""Validate at the middle and at the end of every epoch, and after the last step. Knows no model.

``val_check_interval=0.5`` does not do it: it floors, so 11 batches are checked after 5 and 10 and never at the end.
"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class HalfEpochValidation(Callback):
    """Check after batch ceil(n / 2) and after batch n of every epoch of n batches, or only after n.

    Args:
        half: False validates at the end of each epoch only.
    """

    def __init__(self, half: bool = True) -> None:
        self.half = half

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Point ``val_check_batch``, which Lightning tests as a divisor of the batch number, at the next check."""
        number, last = batch_idx + 1, int(trainer.num_training_batches)
        middle = math.ceil(last / 2)
        trainer.val_check_batch = middle if self.half and number <= middle else last
        if number % trainer.accumulate_grad_batches == 0 and trainer.global_step + 1 == trainer.max_steps:
            trainer.val_check_batch = number  # max_steps ends the run here: its weights are scored too
