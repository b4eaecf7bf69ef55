"""Freezing as a callback: all but some groups of a model, before the optimizer is built. Knows groups by name only."""

from __future__ import annotations

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.groups import train_only

logger = logging.getLogger(__name__)


class TrainOnly(Callback):
    """Freeze all but ``groups`` before the optimizer is built.

    Args:
        groups: Groups of the adapter to train; ``[encoder]`` is right for a voice or an accent.
    """

    def __init__(self, groups: list[str] = ["encoder"]) -> None:  # noqa: B006 - read only
        self.groups = groups

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze in ``setup``, which Lightning calls before ``configure_optimizers``."""
        if stage != "fit":
            return
        train_only(pl_module.adapter, self.groups)
        trained = sum(p.numel() for p in pl_module.model.parameters() if p.requires_grad)
        every = sum(p.numel() for p in pl_module.model.parameters())
        logger.info("training %s: %s of %s parameters", ", ".join(self.groups), f"{trained:,}", f"{every:,}")
