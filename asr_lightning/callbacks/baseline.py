"""Row one of every run: the dev WER of the untouched model, read the way its makers read it. Knows no model."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning import metrics
from asr_lightning.evaluation import transcribe_all
from asr_lightning.scoring import EditCounts, ErrorRates, count_edits

logger = logging.getLogger(__name__)


class BaselineWER(Callback):
    """Score dev before the first step, through ``adapter.native()``.

    A model that has not been adapted yet may fail outside its native input convention (whisper-tiny.en loops on short
    context: 4.73 % becomes 225.99 % on LibriSpeech), which would flatter every later figure.
    """

    def __init__(self) -> None:
        self.rates: ErrorRates | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score once; a resumed run keeps the figure of its first start."""
        if self.rates is None:
            self.rates = self._score(trainer, pl_module)
            logger.info("before training: dev WER %.1f %%", 100 * self.rates.wer)
        for pl_logger in trainer.loggers:
            pl_logger.log_metrics({"dev/wer": self.rates.wer, "dev/cer": self.rates.cer}, step=0)

    def _score(self, trainer: Trainer, pl_module: LightningModule) -> ErrorRates:
        native = pl_module.adapter.native()
        loader = trainer.datamodule.loader("dev", native.collator())
        counts = metrics.PerUtterance().to(pl_module.device)
        for transcript in transcribe_all(native, loader, pl_module.device):
            row = metrics.counts_row(count_edits(transcript.reference, transcript.hypothesis, pl_module.normalize))
            counts.update([transcript.uid], [row])
        return metrics.rates(counts.compute())

    def state_dict(self) -> dict[str, Any]:
        """The figure, as plain numbers."""
        return {} if self.rates is None else {**vars(self.rates), "words": tuple(self.rates.words)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the figure from a checkpoint."""
        if state_dict:
            self.rates = ErrorRates(**{**state_dict, "words": EditCounts(*state_dict["words"])})
