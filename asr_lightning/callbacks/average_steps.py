"""Averages the weights over the later steps of training. Knows no model.

Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from asr_lightning.callbacks.keep_best import trained_state
from asr_lightning.training.sharded import is_sharded


class AverageSteps(Callback):
    """Average the weights over the later steps of training.

    The average is one more candidate for the final weights, and the result of a fold. It removes what a single step
    changes by chance, and with that much of what the model forgets about other speakers (docs/recipes.md). It is not
    computed with FSDP.

    Args:
        share: Share of the planned steps, counted from the end, that is averaged; 0 averages none.

    Attributes:
        count: Number of steps averaged so far.
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"--average_steps.share is a share of the steps between 0 and 1, not {share:g}")
        self.share = share
        self.count = 0
        self._mean: dict[str, Tensor] = {}
        self._step = 0

    @property
    def weights(self) -> dict[str, Tensor]:
        """The averaged weights on the CPU, by name; empty if no step was averaged."""
        return {name: tensor.cpu() for name, tensor in self._mean.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard the average of an earlier fold."""
        self._step = trainer.global_step
        if not trainer.global_step:
            self.count, self._mean = 0, {}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the current weights if this batch ended an optimizer step."""
        previous_step, self._step = self._step, trainer.global_step
        is_too_early = trainer.global_step <= self._num_skipped(trainer)
        if previous_step == trainer.global_step or is_too_early or is_sharded(pl_module.model):
            return
        self.count += 1
        for name, tensor in trained_state(pl_module.model).items():
            if self.count == 1:
                self._mean[name] = tensor.clone()
            elif tensor.is_floating_point():
                self._mean[name] = self._mean[name].to(tensor.device).lerp_(tensor, 1 / self.count)
            else:
                self._mean[name] = tensor.clone()

    def _num_skipped(self, trainer: Trainer) -> float:
        """Number of steps before the first one that is averaged."""
        return (1 - self.share) * trainer.estimated_stepping_batches if self.share else float("inf")

    def state_dict(self) -> dict[str, Any]:
        """The average so far, which a resumed run continues."""
        return {"count": self.count, "mean": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the average from a checkpoint."""
        self.count, self._mean = state_dict["count"], dict(state_dict["mean"])
