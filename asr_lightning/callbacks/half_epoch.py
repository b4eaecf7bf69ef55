"""Validates in the middle and at the end of every epoch, and after the last step. Knows no model.

``val_check_interval=0.5`` cannot do this, since it rounds down: of 11 batches it validates after 5 and after 10, and
never at the end.
"""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class HalfEpochValidation(Callback):
    """In every epoch of n batches, validate after batch ceil(n / 2) and after batch n.

    Args:
        half: Whether to validate in the middle of an epoch as well; False validates at the end of each epoch only.
    """

    def __init__(self, half: bool = True) -> None:
        self.half = half

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set ``val_check_batch`` so that the next validation follows the middle or the last batch.

        Lightning validates after each batch whose number is divisible by it.
        """
        number, last = batch_idx + 1, int(trainer.num_training_batches)
        middle = math.ceil(last / 2)
        trainer.val_check_batch = middle if self.half and number <= middle else last
        if number % trainer.accumulate_grad_batches == 0 and trainer.global_step + 1 == trainer.max_steps:
            trainer.val_check_batch = number  # max_steps ends the run after this batch, whose weights are scored too
