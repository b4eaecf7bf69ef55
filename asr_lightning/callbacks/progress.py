"""Logs progress, scores and remaining time after every validation, and measures the time that training takes.

The remaining time is that of the whole run: choosing the weights and testing them can take longer than training.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.keep_best import epochs_done, steps_done
from asr_lightning.callbacks.scoring_work import work_after_training
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)


NATIVE_FACTOR = 10
"""Time of a clip in native mode, relative to the mode of training, where the native time was not measured, since all
texts of the untouched model were known. Whisper reads 30 s for a phrase of 3 s."""


class Progress(Callback):
    """Log one line after every validation, and measure the costs that the results report.

    Args:
        baseline: Has measured the untouched model.

    Attributes:
        num_canary: Number of clips in the canary.
        seconds_after: Estimated time of what follows training; 0 before the first validation.
        validation_seconds: Time spent in validation.
        num_utterances: Number of utterances that this process has trained on, repetitions included.
    """

    def __init__(self, baseline: BaselineWER) -> None:
        self.baseline = baseline
        self.num_canary = 0
        self.seconds_after = 0.0
        self.validation_seconds = 0.0
        self.num_utterances = 0
        self._started = self._ended = self._validation_started = 0.0
        self._best = float("inf")
        self._first_step = self._num_validated = 0

    @property
    def train_seconds(self) -> float:
        """Time from the first to the last batch without validation; 0 if a finished run was resumed."""
        if not self._started:
            return 0.0
        return (self._ended or time.monotonic()) - self._started - self.validation_seconds

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how much speech there is, and forget the best WER of an earlier fold."""
        fold = trainer.datamodule.fold
        if fold.number:
            self._best = float("inf")
        seconds = {split: sum(trainer.datamodule.dataset(split).seconds) for split in trainer.datamodule.splits}
        parts = ", ".join(f"{len(rows)} {split}" for split, rows in trainer.datamodule.splits.items())
        place = f", {fold}" if fold.count > 1 else ""
        minutes = sum(seconds.values()) / 60
        logger.info("%s: %.1f minutes of speech, %s%s", trainer.datamodule.audio_dir, minutes, parts, place)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring at the first epoch, after the baseline has been scored."""
        if not self._started:
            self._started, self._first_step = time.monotonic(), steps_done(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SpeechBatch, batch_idx: int
    ) -> None:
        """Count the utterances."""
        self.num_utterances += len(batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring this validation."""
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the time of this validation, and log where the run is."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.validation_seconds += time.monotonic() - self._validation_started
        self._num_validated += len(trainer.datamodule.splits["dev"])
        self.seconds_after = self._time_after(trainer, pl_module)
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
            self._remaining_time(trainer),
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop measuring."""
        self._ended = time.monotonic()

    def cost(self, num_processes: int) -> dict[str, float]:
        """Times and speed of training so far, by their names in ``results.json``."""
        return {
            "train_seconds": self.train_seconds,
            "train_utterances_per_second": self.num_utterances * num_processes / max(self.train_seconds, 1e-9),
            "validation_seconds": self.validation_seconds,
        }

    def _remaining_time(self, trainer: Trainer) -> str:
        """Time used, and an upper limit of the remaining time of the run: early stopping may end training before."""
        used = time.monotonic() - self._started
        done = steps_done(trainer)
        planned = trainer.datamodule.fold.count * trainer.estimated_stepping_batches
        left = used / max(done - self._first_step, 1) * (planned - done)
        after = f"{minutes(self.seconds_after)} of it to choose the weights and test them"
        return f"{minutes(used)} used, at most {minutes(left + self.seconds_after)} left, {after}"

    def _time_after(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """Estimated time of what follows training, from the time that a clip took in all validations so far."""
        data, adapter = trainer.datamodule, pl_module.adapter
        per_clip = self.validation_seconds * trainer.world_size / self._num_validated  # one process scores afterwards
        native = per_clip if adapter.native() is adapter else self.baseline.seconds_per_clip
        is_known = native < per_clip  # known texts are not measured, and those of test and canary are known too, mostly
        if is_known:
            native = NATIVE_FACTOR * per_clip
        return work_after_training(data, self.num_canary, is_known).seconds(per_clip, native)

    def state_dict(self) -> dict[str, Any]:
        """The best WER so far, which a resumed run goes on printing."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best WER from a checkpoint."""
        self._best = state_dict["best"]


def minutes(seconds: float) -> str:
    """A time as minutes and seconds, such as 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
