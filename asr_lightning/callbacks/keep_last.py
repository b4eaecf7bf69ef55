"""Writes a checkpoint to resume from at the end of each epoch, and keeps the one before it. Knows no model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from asr_lightning.callbacks.keep_best import KeepBest
from asr_lightning.training import checkpoints

logger = logging.getLogger(__name__)


class KeepLast(Checkpoint):
    """Write a checkpoint at the end of each epoch, since a data loader cannot be resumed in the middle of one.

    Lightning's ``ModelCheckpoint`` overwrites its file: a crash while it writes leaves half a checkpoint and none
    before it. Lightning calls subclasses of ``Checkpoint`` after all other callbacks, so the states of those include
    the whole epoch.

    Args:
        directory: Folder for the checkpoints.
        best: The callback that keeps the weights to which both checkpoints refer.
    """

    def __init__(self, directory: str | Path, best: KeepBest) -> None:
        self.directory = Path(directory)
        self.best = best
        self._stopped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if the resumed run had already ended early, possibly in the middle of an epoch."""
        if self._stopped:
            logger.info("training was stopped early before: nothing more is trained")
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run:
            return
        self._stopped = trainer.should_stop
        trainer.save_checkpoint(self.directory / checkpoints.FRESH)  # in every process: some strategies gather here
        if trainer.is_global_zero:
            checkpoints.rotate(self.directory)
            self.best.protect_checkpointed_weights()
        trainer.strategy.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Whether training was stopped early at this checkpoint."""
        return {"stopped": self._stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it from a checkpoint."""
        self._stopped = state_dict["stopped"]
