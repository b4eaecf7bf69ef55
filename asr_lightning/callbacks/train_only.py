"""Freezes all but some groups of a model before the optimizer is built. Knows groups by name only."""

from __future__ import annotations

import logging
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.errors import OptionError
from asr_lightning.training.groups import hold_batch_norm, train_only

logger = logging.getLogger(__name__)


class TrainOnly(Callback):
    """Freeze all groups but ``groups`` before the optimizer is built.

    Args:
        groups: Groups of the adapter to train; ``[encoder]`` is right for a voice or an accent.
        batch_norm: What happens to the statistics of BatchNorm layers: ``hold`` keeps those of the checkpoint,
            ``train`` adapts those in trained groups to the clips, for a new language or a model trained from scratch.
    """

    def __init__(
        self,
        groups: list[str] = ["encoder"],  # noqa: B006 - never modified
        batch_norm: Literal["hold", "train"] = "hold",
    ) -> None:
        if batch_norm not in ("hold", "train"):
            raise ValueError(f"--train_only.batch_norm must be hold or train, not {batch_norm!r}")
        if type(groups) is str:  # a list of letters, to Python
            raise OptionError(f"--train_only.groups is a list: write [{groups}]", "groups")
        self.groups = groups
        self.batch_norm = batch_norm

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze in ``setup``, which Lightning calls before ``configure_optimizers``."""
        if stage != "fit":
            return
        train_only(pl_module.adapter, self.groups)
        if self.batch_norm == "hold":
            hold_batch_norm(pl_module.model)
        num_trained = sum(p.numel() for p in pl_module.model.parameters() if p.requires_grad)
        num_all = sum(p.numel() for p in pl_module.model.parameters())
        logger.info("training %s: %s of %s parameters", ", ".join(self.groups), f"{num_trained:,}", f"{num_all:,}")
