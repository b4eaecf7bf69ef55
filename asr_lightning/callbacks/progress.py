"""One line a check: where the run is, what it reached, how long it will take. Also the run's stop-watch."""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from asr_lightning.callbacks.keep_best import epochs_done, steps_done
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)


class Progress(Callback):
    """Log a line after every check, and measure what the results report.

    Attributes:
        validation_seconds: Time in checks of the dev set.
        num_utterances: Utterances trained on by this process, repeats included.
    """

    def __init__(self) -> None:
        self.validation_seconds = 0.0
        self.num_utterances = 0
        self._started = self._ended = self._check_started = 0.0
        self._best = float("inf")
        self._first_step = 0

    @property
    def train_seconds(self) -> float:
        """Time from the first batch to the last, checks left out; 0 where a finished run is resumed."""
        if not self._started:
            return 0.0
        return (self._ended or time.monotonic()) - self._started - self.validation_seconds

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what there is to learn from; a fold has a best WER of its own."""
        fold = trainer.datamodule.fold
        if fold.number:
            self._best = float("inf")
        seconds = {split: sum(trainer.datamodule.dataset(split).seconds) for split in trainer.datamodule.splits}
        parts = ", ".join(f"{len(rows)} {split}" for split, rows in trainer.datamodule.splits.items())
        place = f", {fold}" if fold.count > 1 else ""
        minutes = sum(seconds.values()) / 60
        logger.info("%s: %.1f minutes of speech, %s%s", trainer.datamodule.audio_dir, minutes, parts, place)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the watch at the first epoch, after the baseline has been scored."""
        if not self._started:
            self._started, self._first_step = time.monotonic(), steps_done(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SpeechBatch, batch_idx: int
    ) -> None:
        """Count utterances."""
        self.num_utterances += len(batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the watch of this check."""
        self._check_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it, and say where the run is."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.validation_seconds += time.monotonic() - self._check_started
        wer = trainer.callback_metrics["dev/wer"].item()
        self._best = min(self._best, wer)
        logger.info(
            "epoch %.1f of %s  step %d  train loss %.3f  dev WER %.1f %%  best %.1f %%  %s",
            epochs_done(trainer),
            trainer.max_epochs,
            trainer.global_step,
            pl_module.steps.loss,
            100 * wer,
            100 * self._best,
            self._clock(trainer),
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the watch."""
        self._ended = time.monotonic()

    def cost(self, num_processes: int) -> dict[str, float]:
        """What training took so far, for the results."""
        return {
            "train_seconds": self.train_seconds,
            "train_utterances_per_second": self.num_utterances * num_processes / max(self.train_seconds, 1e-9),
            "validation_seconds": self.validation_seconds,
        }

    def _clock(self, trainer: Trainer) -> str:
        """Time used and the most that may be left; early stopping can only shorten it."""
        used = time.monotonic() - self._started
        done = steps_done(trainer)
        planned = trainer.datamodule.fold.count * trainer.estimated_stepping_batches
        left = used / max(done - self._first_step, 1) * (planned - done)
        return f"{_minutes(used)} used, at most {_minutes(left)} left"

    def state_dict(self) -> dict[str, Any]:
        """The best WER, so that a resumed run prints it."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best WER from a checkpoint."""
        self._best = state_dict["best"]


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
