"""Reports the progress of a training job to the server, and stops it when it is cancelled. Knows no model."""

from __future__ import annotations

import math
import time
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.keep_best import KeepBest, epochs_done, steps_done
from asr_lightning.durable import faults
from asr_lightning.job_folder.progress import Position, ValidationResult
from asr_lightning.job_folder.status import TrainerStatus
from asr_lightning.scoring.edits import score

PREPARED, TRAINED = 0.05, 0.85
"""Shares of the whole job that are done before and after training: rough values, since models differ."""

CallbackType = TypeVar("CallbackType", bound=Callback)


class JobStatus(Callback):
    """Reports phase, position and validation results to the server.

    It stops a cancelled training by an exception: after ``should_stop``, Lightning would write a checkpoint of half an
    epoch (lightning#21406 is about signals; the loop is the same).

    Args:
        status: The status of the job.
    """

    def __init__(self, status: TrainerStatus) -> None:
        self.status = status
        self._started = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that the model is loaded; ``BaselineWER``, which runs next, scores it before the first fold."""
        if trainer.datamodule.fold.number:
            return
        self.status.phase("preparing", "running base model evaluation", fraction=PREPARED / 2)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch."""
        if not self._started:
            self._started, self._first_step = time.monotonic(), steps_done(trainer)
        number, count = trainer.current_epoch + 1, int(trainer.max_epochs or 0)
        fold = trainer.datamodule.fold
        message = f"training, epoch {number} of {count}" + (f", {fold}" if fold.count > 1 else "")
        base_wer = _base_wer(trainer, pl_module)
        self.status.phase("running", message, epochs=count, base_wer=base_wer, **self._position(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop here if the user cancelled the job."""
        self.status.check()
        faults.point("training.batch")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the position."""
        self.status.update(**self._position(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop here if the user cancelled the job."""
        self.status.check()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that weights are chosen and scored next. This also runs when a finished training is resumed."""
        fold = trainer.datamodule.fold
        if fold.number + 1 < fold.count:
            return
        base_wer, validations = _base_wer(trainer, pl_module), _validation_results(trainer)
        message = "running fine-tuned model evaluation"
        self.status.phase("evaluating", message, fraction=TRAINED, eta_s=None, base_wer=base_wer, checks=validations)
        faults.point("training.evaluating")

    def _position(self, trainer: Trainer) -> Position:
        """The epoch of this fold, and the step, the finished share and the time left of all folds."""
        step, steps = steps_done(trainer), trainer.datamodule.fold.count * int(trainer.estimated_stepping_batches)
        done, left = step - self._first_step, steps - step
        # After the last step, a validation follows whose length is not known: 0 would say that the training is over.
        eta = (time.monotonic() - self._started) / done * left if done and left > 0 else None
        return {
            "epoch": round(min(epochs_done(trainer), float(trainer.max_epochs or 0)), 3),
            "step": step,
            "steps": steps,
            "fraction": round(PREPARED + (TRAINED - PREPARED) * min(1.0, step / max(steps, 1)), 4),
            "eta_s": None if eta is None else round(eta, 1),
            "checks": _validation_results(trainer),
        }


def _callback(trainer: Trainer, kind: type[CallbackType]) -> CallbackType:
    """The trainer's callback of exactly this class."""
    return next(callback for callback in trainer.callbacks if type(callback) is kind)


def _validation_results(trainer: Trainer) -> list[ValidationResult]:
    return [
        {"epoch": v.epoch, "step": v.step, "wer": v.wer, "loss": v.loss if math.isfinite(v.loss) else None}
        for v in _callback(trainer, KeepBest).validations
    ]


def _base_wer(trainer: Trainer, pl_module: LightningModule) -> float | None:
    dev = _callback(trainer, BaselineWER).dev
    return None if dev is None else score(dev.transcripts, pl_module.normalize).wer
