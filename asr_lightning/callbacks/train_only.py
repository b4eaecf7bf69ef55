"""Train some groups of a model and hold all else still: gradients off, eval mode on. Knows groups by name only.

``requires_grad=False`` stops neither dropout nor BatchNorm statistics; eval mode does, and Lightning restores modes
submodule by submodule after validation, so it lasts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from asr_lightning.optim import group_of
from asr_lightning.protocols import ASRAdapter

logger = logging.getLogger(__name__)


def train_only(adapter: ASRAdapter, groups: Sequence[str]) -> None:
    """Freeze every group of ``adapter`` that is not in ``groups``.

    Gradients are only ever switched off: what the model itself holds fixed, such as sinusoidal positions, stays fixed.

    Raises:
        ValueError: A name is not a group of this adapter, or none is given.
    """
    unknown = sorted(set(groups) - set(adapter.groups))
    if unknown or not groups:
        named = ", ".join(unknown) or "nothing"
        raise ValueError(f"train_only names {named}; this model's groups are {', '.join(adapter.groups)}")
    for name, parameter in adapter.model.named_parameters():
        if group_of(name, adapter.groups) not in groups:
            parameter.requires_grad = False
    for name, module in adapter.model.named_modules():
        group = group_of(name, adapter.groups)
        if group is not None and group not in groups:
            module.training = False  # this module alone: a parent may hold trained children


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
