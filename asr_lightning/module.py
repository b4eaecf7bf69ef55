"""The training loop for every model family. Knows the adapter's contract and no model.

Validation, freezing, stopping and saving are in callbacks; this file only defines a step.
"""

from __future__ import annotations

from contextlib import ExitStack

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import metrics
from asr_lightning.scoring.edits import Transcript, count_edits
from asr_lightning.scoring.evaluation import transcripts_of
from asr_lightning.scoring.text import normalizer as normalizer_named
from asr_lightning.training import optim
from asr_lightning.training.optim import OptimizerSettings
from asr_lightning.training.sharded import whole_weights
from asr_lightning.training.step_log import StepLog
from asr_lightning.types import SpeechBatch


class ASRModule(pl.LightningModule):
    """Trains and scores the network of an adapter.

    Args:
        adapter: Adapter of the model family, with the model loaded.
        optimizer: Learning rates and schedule.
        normalizer: Text normaliser for every WER: none, basic or english.
    """

    def __init__(
        self,
        adapter: ASRAdapter,
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008 - frozen
        normalizer: str = "basic",
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.model = adapter.model
        self.settings = optimizer
        self.normalize = normalizer_named(normalizer)
        self.normalizer = normalizer
        # from_pretrained returns eval mode and fit() has not called train() since Lightning 2.2 (#18951).
        self.model.train()
        self.counts = metrics.PerUtterance()
        self.losses = metrics.PerUtterance(torch.float32)
        self.steps = StepLog()
        self._evaluating: ExitStack | None = None
        self._start: dict[str, Tensor] | None = None
        self._seed = torch.initial_seed()
        self._weight = 0

    def setup(self, stage: str) -> None:
        """Keep the untouched weights now: Lightning loads a checkpoint's weights before it asks for an optimizer."""
        if stage == "fit" and self.settings.pull:
            self._start = optim.trained_weights(self.model)

    def on_train_start(self) -> None:
        """Move the schedule to the current epoch, in case a run is resumed with another number of processes."""
        self._schedule.resume_at(self.trainer.current_epoch, self.trainer.max_epochs or 0)

    def seed_batch(self, number: int) -> None:
        """Seed dropout and masks by epoch and batch: a resumed run, and any number of processes, draw the same."""
        seed = (self._seed + self.current_epoch) * 1_000_003 + number
        torch.manual_seed(seed % 2**63)
        np.random.seed(seed % 2**32)  # Hugging Face draws the masks of wav2vec2 from NumPy

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """Return the summed loss of the batch; ``on_before_optimizer_step`` makes it a mean over the whole step."""
        self.seed_batch(batch_idx * self.trainer.world_size + self.trainer.global_rank)
        output = self.adapter.loss(batch)
        self.steps.add(self.global_step, batch.uids, output.loss, output.parts)
        if self.steps.due:
            self._log_steps()
        weight = 0 if batch.is_duplicate else output.weight
        self._weight += weight
        return output.loss * weight

    def _log_steps(self) -> None:
        """Give the loggers the losses of all steps since the last call."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        for step, values in self.steps.read().items():
            if not every or (step + 1) % every:
                continue
            named = {f"train/{name}": value for name, value in values.items()} | {"epoch": float(self.current_epoch)}
            for logger in self.loggers:
                logger.log_metrics(named, step)

    def on_train_end(self) -> None:
        """Log the losses of the last steps."""
        self._log_steps()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Weigh accumulated batches and ranks exactly by their numbers of tokens.

        Lightning has divided each summed loss by the number of accumulated batches, and DDP by the number of ranks.
        """
        weight = torch.full((), float(self._weight), device=self.device)  # torch.tensor would wait for the GPU
        total = self.trainer.strategy.reduce(weight, reduce_op="sum")
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / total
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            parameter.grad.mul_(scale)
        self._weight = 0

    def on_validation_epoch_start(self) -> None:
        """Enter the adapter's evaluation context, after leaving that of an earlier pass that has raised."""
        self._log_steps()
        self._leave_evaluation()
        self._evaluating = ExitStack()
        self._evaluating.enter_context(whole_weights(self.trainer.strategy))
        self._evaluating.enter_context(self.adapter.evaluating())

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> dict[str, list[Transcript]]:
        """Score one batch; callbacks use the transcripts that this returns."""
        output, texts = self.adapter.evaluate(batch)
        transcripts = transcripts_of(batch, texts)
        self.losses.update(batch.uids[:1], [[output.loss.item() * output.weight, output.weight]])
        rows = [metrics.counts_row(count_edits(t.reference, t.hypothesis, self.normalize)) for t in transcripts]
        self.counts.update(batch.uids, rows)
        return {"transcripts": transcripts}

    def on_validation_epoch_end(self) -> None:
        """Log the rates of the dev set, which are the same on every rank."""
        self._log_rates("dev")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log the rates of the test set."""
        self._log_rates("test")

    def _log_rates(self, split: str) -> None:
        self._leave_evaluation()
        rates = metrics.rates(self.counts.compute())
        loss = metrics.weighted_mean(self.losses.compute())
        self.counts.reset()
        self.losses.reset()
        logged = {"wer": rates.wer, "cer": rates.cer, "mean_wer": rates.mean_wer, "loss": loss}
        self.log_dict({f"{split}/{name}": value for name, value in logged.items()})

    def _leave_evaluation(self) -> None:
        if self._evaluating is not None:
            self._evaluating.close()
            self._evaluating = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW over the trainable parameters, with a schedule over the planned number of steps."""
        num_steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = optim.build(self.model, self.adapter.groups, self.settings, num_steps, self._start)
        self._schedule = schedule
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}
