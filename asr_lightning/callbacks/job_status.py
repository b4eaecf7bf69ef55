"""Reports the progress of a training job to the server, and stops it when it is cancelled. Knows no model."""

from __future__ import annotations

import math
import time
from typing import Any, TypedDict, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.keep_best import KeepBest, epochs_done, steps_done
from asr_lightning.durable import faults
from asr_lightning.job_folder.status import TrainerStatus
from asr_lightning.scoring.edits import score

PREPARED, TRAINED = 0.05, 0.85
"""Shares of the whole job that are done before and after training: rough values, since models differ."""

CallbackType = TypeVar("CallbackType", bound=Callback)


class ValidationProgress(TypedDict):
    """One validation, as an entry of ``checks`` in ``progress.json``."""

    epoch: float
    step: int
    wer: float
    loss: float | None


class TrainingProgress(TypedDict):
    """How far training is, as entries of ``progress.json``.

    The epoch is that of the current fold; step, number of steps, fraction and remaining seconds are those of all folds.
    """

    epoch: float
    step: int
    steps: int
    fraction: float
    eta_s: float | None
    checks: list[ValidationProgress]


class JobStatus(Callback):
    """Translate what Lightning does into phases, fractions and validations of a job.

    A cancelled job is stopped by an exception. After ``should_stop``, Lightning would write a checkpoint in the middle
    of an epoch (lightning#21406 is about signals; the loop is the same).

    Args:
        status: Status of the job.
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
        self.status.phase("running", message, epochs=count, base_wer=base_wer, **self._progress(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop here if the job was cancelled."""
        self.status.check()
        faults.point("training.batch")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report how far training is."""
        self.status.update(**self._progress(trainer))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop here if the job was cancelled."""
        self.status.check()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that the weights are now chosen and scored, also if a finished run was resumed and nothing trained."""
        fold = trainer.datamodule.fold
        if fold.number + 1 < fold.count:
            return
        base_wer, validations = _base_wer(trainer, pl_module), _validations(trainer)
        message = "running fine-tuned model evaluation"
        self.status.phase("evaluating", message, fraction=TRAINED, eta_s=None, base_wer=base_wer, checks=validations)
        faults.point("training.evaluating")

    def _progress(self, trainer: Trainer) -> TrainingProgress:
        step, steps = steps_done(trainer), trainer.datamodule.fold.count * int(trainer.estimated_stepping_batches)
        done = step - self._first_step
        eta = (time.monotonic() - self._started) / done * max(steps - step, 0) if done else None
        return {
            "epoch": round(min(epochs_done(trainer), float(trainer.max_epochs or 0)), 3),
            "step": step,
            "steps": steps,
            "fraction": round(PREPARED + (TRAINED - PREPARED) * min(1.0, step / max(steps, 1)), 4),
            "eta_s": None if eta is None else round(eta, 1),
            "checks": _validations(trainer),
        }


def _callback(trainer: Trainer, kind: type[CallbackType]) -> CallbackType:
    """The trainer's callback of exactly this class."""
    return next(callback for callback in trainer.callbacks if type(callback) is kind)


def _validations(trainer: Trainer) -> list[ValidationProgress]:
    return [
        {"epoch": v.epoch, "step": v.step, "wer": v.wer, "loss": v.loss if math.isfinite(v.loss) else None}
        for v in _callback(trainer, KeepBest).validations
    ]


def _base_wer(trainer: Trainer, pl_module: LightningModule) -> float | None:
    dev = _callback(trainer, BaselineWER).dev
    return None if dev is None else score(dev.transcripts, pl_module.normalize).wer
