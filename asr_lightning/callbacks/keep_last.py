"""Checkpoints to resume from, at the end of each epoch: the last and the one before. Knows no model."""

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
    """Write a checkpoint at the end of each epoch, since a loader cannot be resumed in the middle of one.

    Lightning's ``ModelCheckpoint`` writes in place: a crash leaves half a file and nothing before it. Its base class
    makes this callback the last of all, so every other one's state is that of the whole epoch.

    Args:
        directory: For the checkpoints.
        best: Keeps the weights that both checkpoints refer to.
    """

    def __init__(self, directory: str | Path, best: KeepBest) -> None:
        self.directory = Path(directory)
        self.best = best
        self._stopped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train no further where the run had ended before its last epoch, perhaps inside one."""
        if self._stopped:
            logger.info("training was stopped early before: nothing more is trained")
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.fast_dev_run:
            return
        self._stopped = trainer.should_stop
        trainer.save_checkpoint(self.directory / checkpoints.FRESH)  # every process: some strategies gather
        if trainer.is_global_zero:
            checkpoints.adopt(self.directory)
            self.best.protect()
        trainer.strategy.barrier()

    def state_dict(self) -> dict[str, Any]:
        """Whether this is where training was stopped early."""
        return {"stopped": self._stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        self._stopped = state_dict["stopped"]
