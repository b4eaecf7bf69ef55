"""The mean of the weights over the later steps of training. Knows no model.

Source: Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization".
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from asr_lightning.callbacks.keep_best import weights_of
from asr_lightning.training.sharded import is_sharded


class AverageSteps(Callback):
    """Average the weights over the later steps: one more candidate, and what a fold hands over.

    What a single step changes by chance is averaged out, and with it much of what other people lose
    (docs/recipes.md). Not with FSDP.

    Args:
        share: How much of the planned steps, counted from the end, is averaged; 0 averages none.
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"average_steps.share is a share of the steps between 0 and 1, not {share:g}")
        self.share = share
        self.count = 0
        self._mean: dict[str, Tensor] = {}
        self._step = 0

    @property
    def weights(self) -> dict[str, Tensor]:
        """The mean on the CPU, by name; empty if no step was averaged."""
        return {name: tensor.cpu() for name, tensor in self._mean.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the fold before this one."""
        self._step = trainer.global_step
        if not trainer.global_step:
            self.count, self._mean = 0, {}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights of this step, if it has changed them."""
        step, self._step = self._step, trainer.global_step
        if step == trainer.global_step or trainer.global_step <= self._first(trainer) or is_sharded(pl_module.model):
            return
        self.count += 1
        for name, tensor in weights_of(pl_module.model).items():
            if self.count == 1:
                self._mean[name] = tensor.clone()
            elif tensor.is_floating_point():
                self._mean[name] = self._mean[name].to(tensor.device).lerp_(tensor, 1 / self.count)
            else:
                self._mean[name] = tensor.clone()

    def _first(self, trainer: Trainer) -> float:
        """Steps that are left out."""
        return (1 - self.share) * trainer.estimated_stepping_batches if self.share else float("inf")

    def state_dict(self) -> dict[str, Any]:
        """The mean so far, so that a resumed run goes on with it."""
        return {"count": self.count, "mean": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from a checkpoint."""
        self.count, self._mean = state_dict["count"], dict(state_dict["mean"])
