"""Row one of every run: the dev WER of the untouched model, read the way its makers read it. Knows no model."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.evaluation import Evaluation, evaluate
from asr_lightning.scoring.known_texts import of_untouched
from asr_lightning.training.sharded import whole_weights

logger = logging.getLogger(__name__)


class BaselineWER(Callback):
    """Score dev before the first step, through ``adapter.native()``.

    A model that has not been adapted yet may fail outside its native input convention (whisper-tiny.en loops on short
    context: 4.73 % becomes 225.99 % on LibriSpeech), which would flatter every later figure. Every process scores all
    clips, so that each has all texts.

    Args:
        data: The data module whose dev is read; None for the trainer's.

    Attributes:
        dev: What the untouched model wrote; None before training has started.
    """

    def __init__(self, data: Any = None) -> None:
        self.data = data
        self.dev: Evaluation | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score once; a resumed run keeps what its first start found."""
        normalize = pl_module.normalize
        if self.dev is None:
            native = pl_module.adapter.native()
            loader = (self.data or trainer.datamodule).loader("dev", native.collator(), distributed=False)
            with whole_weights(trainer.strategy):
                known = of_untouched(native, pl_module.device)
                self.dev = evaluate(native, loader, pl_module.device, known)
            logger.info("before training: dev WER %.1f %%", 100 * score(self.dev.transcripts, normalize).wer)
        rates = score(self.dev.transcripts, normalize)
        for pl_logger in trainer.loggers:
            pl_logger.log_metrics({"dev/wer": rates.wer, "dev/cer": rates.cer}, step=0)

    def state_dict(self) -> dict[str, Any]:
        """Texts and loss, as plain values."""
        return {} if self.dev is None else {"loss": self.dev.loss, "rows": [tuple(row) for row in self.dev.transcripts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them from a checkpoint."""
        if state_dict:
            self.dev = Evaluation(tuple(Transcript(*row) for row in state_dict["rows"]), state_dict["loss"])
