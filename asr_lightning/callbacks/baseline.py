"""Scores the untouched model on dev before training, read the way its makers read it. Knows no model."""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.evaluation import Evaluation, evaluate
from asr_lightning.scoring.known_texts import find_known_texts
from asr_lightning.training.sharded import whole_weights

logger = logging.getLogger(__name__)


class BaselineWER(Callback):
    """Score dev before the first step, through ``adapter.native()``.

    A model that has not been adapted yet may fail outside its native input convention, which would flatter every later
    figure: whisper-tiny.en repeats itself on short windows, and its WER on LibriSpeech rises from 4.73 % to 225.99 %.
    Every process scores all clips, so that each of them has all transcripts.

    Args:
        data: The data module whose dev clips are scored; None uses the trainer's.

    Attributes:
        dev: Transcripts and loss of the untouched model; None before training has started.
        seconds_per_clip: Time that it took; 0 if it was not measured, in a resumed run.
    """

    def __init__(self, data: Any = None) -> None:
        self.data = data
        self.dev: Evaluation | None = None
        self.seconds_per_clip = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the untouched model once; a resumed run keeps the result of its first start."""
        normalize = pl_module.normalize
        if self.dev is None:
            native, started = pl_module.adapter.native(), time.monotonic()
            loader = (self.data or trainer.datamodule).loader("dev", native.collator(), distributed=False)
            with whole_weights(trainer.strategy):
                known = find_known_texts(native, pl_module.device)
                self.dev = evaluate(native, loader, pl_module.device, known)
            self.seconds_per_clip = (time.monotonic() - started) / len(self.dev.transcripts)
            logger.info("before training: dev WER %.1f %%", 100 * score(self.dev.transcripts, normalize).wer)
        rates = score(self.dev.transcripts, normalize)
        for pl_logger in trainer.loggers:
            pl_logger.log_metrics({"dev/wer": rates.wer, "dev/cer": rates.cer}, step=0)

    def state_dict(self) -> dict[str, Any]:
        """Transcripts and loss as plain values."""
        return {} if self.dev is None else {"loss": self.dev.loss, "rows": [tuple(row) for row in self.dev.transcripts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore transcripts and loss from a checkpoint."""
        if state_dict:
            self.dev = Evaluation(tuple(Transcript(*row) for row in state_dict["rows"]), state_dict["loss"])
