"""A run that ends in time: as many epochs are planned as fit, and an end is made if that was too hopeful.

Knows no model. Two runs with one seed may differ here, since clocks do.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.datamodules.canary import SPOT_CHECK
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)

UNITS = {"s": 1, "m": 60, "h": 3600}
PASSES_OF_DEV = 7  # after training: two ends, four steps towards the untouched model, one to spare
PASSES_OF_CANARY = 2  # as trained: the best on dev, and one step towards the untouched model
TEXT = 1.5  # times the loss: what loss and text of a clip take together, once the model reads
RESERVE = 1.15  # of everything estimated: the last batches are no slower than the first, but machines are noisy


def seconds_of(budget: str) -> float:
    """Seconds of a time such as ``90s``, ``5m`` or ``1.5h``.

    Raises:
        ValueError: It is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", budget.strip())
    if not found or float(found[1]) == 0:
        raise ValueError(f"a budget is a time such as 90s, 5m or 1h, not {budget!r}")
    return float(found[1]) * UNITS[found[2]]


class TimeBudget(Callback):
    """Plan the epochs of a run from two timed batches, and stop training when what must follow would not fit.

    Args:
        seconds: For the whole run, the start of the program included.
        started: ``time.monotonic()`` at that start.
        num_canary: Clips of the canary.
    """

    def __init__(self, seconds: float, started: float, num_canary: int = 0) -> None:
        self.seconds = seconds
        self.started = started
        self.num_canary = num_canary
        self._deadline = math.inf

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lower ``max_epochs`` before the schedule of the learning rate is made of it; each fold gets an equal part."""
        if stage != "fit":
            return
        pl_module.to(trainer.strategy.root_device)
        check, before, after = self._scoring(trainer, pl_module)
        epoch = self._training(trainer, pl_module) + 2 * check
        used = time.monotonic() - self.started
        fold = trainer.datamodule.fold
        all_left = self.seconds - used - RESERVE * (before + after)
        left = all_left / (fold.count - fold.number)
        most = trainer.max_epochs if trainer.max_epochs not in (None, -1) else 10
        planned = max(1, min(most, int(left / (RESERVE * epoch))))
        planned = trainer.strategy.broadcast(planned)  # each process has a clock of its own
        trainer.fit_loop.max_epochs = planned
        self._deadline = self.started + self.seconds - RESERVE * after - (all_left - left)
        logger.info(
            "budget %.0f s: %d of %d epochs (%.0f s each; %.0f s of scoring)", self.seconds, planned, most, epoch,
            before + after,
        )  # fmt: skip
        if left < epoch:
            logger.warning(
                "the budget is short for one epoch on this machine; give it %.0f s",
                used + before + after + epoch * (fold.count - fold.number),
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: SpeechBatch, batch_idx: int
    ) -> None:
        """Stop when only the time for choosing, testing and reporting is left."""
        late = time.monotonic() > self._deadline
        if trainer.strategy.reduce_boolean_decision(late, all=False) and not trainer.should_stop:
            logger.info("the budget ends training after step %d", trainer.global_step)
            trainer.should_stop = True

    def _training(self, trainer: Trainer, pl_module: LightningModule) -> float:
        """Seconds of one epoch. In eval mode, so that no statistic of the model moves."""
        loader = trainer.datamodule.train_dataloader()
        batch = _middle(loader).to(pl_module.device)

        def step() -> None:
            with pl_module.adapter.evaluating(), trainer.precision_plugin.train_step_context():
                loss = pl_module.adapter.loss(batch).loss
            loss.backward()
            pl_module.zero_grad(set_to_none=True)

        return _seconds(step) * len(loader) / max(trainer.world_size, 1)

    def _scoring(self, trainer: Trainer, pl_module: LightningModule) -> tuple[float, float, float]:
        """Seconds of one check of dev, of all that is scored before training, and of all after it."""
        data = trainer.datamodule
        dev, test, fold = len(data.dataset("dev")), len(data.dataset("test")), data.fold
        # How long texts of an untrained model take says nothing: one that loops takes ten times as long.
        one = TEXT * self._per_clip(pl_module, data, pl_module.adapter, _loss)
        one_native = self._per_clip(pl_module, data, pl_module.adapter.native(), _score)
        natively = 2 * test + (1 + 1 / SPOT_CHECK) * self.num_canary
        as_trained = PASSES_OF_DEV * dev * fold.count + test + PASSES_OF_CANARY * self.num_canary
        before = one_native * dev * fold.count if not fold.number else 0.0
        return one * dev, before, one_native * natively + one * as_trained

    def _per_clip(self, pl_module: LightningModule, data: Any, adapter: Any, work: Callable[..., None]) -> float:
        """Seconds of ``work`` for one dev clip."""
        batch = _middle(data.loader("dev", adapter.collator(), distributed=False)).to(pl_module.device)
        return _seconds(lambda: work(adapter, batch)) / len(batch)


@torch.no_grad()
def _loss(adapter: Any, batch: SpeechBatch) -> None:
    with adapter.evaluating():
        adapter.loss(batch)


@torch.no_grad()
def _score(adapter: Any, batch: SpeechBatch) -> None:
    with adapter.evaluating():
        _loss(adapter, batch)
        adapter.transcribe(batch)


def _seconds(work: Callable[[], None]) -> float:
    """Of the second call: the first one warms up."""
    work()
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _middle(batches: Iterable[SpeechBatch]) -> SpeechBatch:
    """The batch whose longest clip is the median of all batches'."""
    by_length = sorted(batches, key=lambda batch: float(batch.seconds.max()))
    return by_length[len(by_length) // 2]
