"""Keep the best weights in the model's own format, never half written. Knows the adapter's ``save`` and no model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn


def replace_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a fresh directory with ``write`` and put it in the place of ``target``.

    A kill at any moment leaves the old or the new directory whole, as ``target`` or as ``target.previous``.
    """
    fresh, previous = target.with_name(target.name + ".new"), target.with_name(target.name + ".previous")
    if not target.exists() and previous.exists():
        previous.rename(target)
    for leftover in (fresh, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    write(fresh)
    if target.exists():
        target.rename(previous)
    fresh.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


class SaveBest(Callback):
    """Save when dev WER improves; of equal WERs the one with the lower dev loss wins, since WER ties are common.

    Args:
        directory: Where the model goes; replaced as a whole.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.best: tuple[float, float] | None = None
        self.epoch = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the check that has just ended with the best so far."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = (trainer.callback_metrics["dev/wer"].item(), trainer.callback_metrics["dev/loss"].item())
        if self.best is not None and score >= self.best:
            return
        self.best, self.epoch = score, epochs_done(trainer)
        if trainer.is_global_zero:
            replace_directory(self.directory, pl_module.adapter.save)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far; the directory belongs to the run, not to the checkpoint."""
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score from a checkpoint."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]


def epochs_done(trainer: Trainer) -> float:
    """Epochs trained so far, with the current one's share."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return trainer.current_epoch + batches / trainer.num_training_batches
