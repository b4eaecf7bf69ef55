"""Trains one model for each fold of a few clips, all from the same weights. Knows the contract and no model.

What is handed over is the average of their weights: every clip has trained all of them but one, and no further
training is needed. Source: model soups, Wortsman et al. 2022. A fold decides nothing about its own weights, since a dev
of two or three clips can prove nothing: they are those at the end of the schedule.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from safetensors.torch import load_file

from asr_lightning.callbacks.early_stopping import StopEarly
from asr_lightning.callbacks.keep_best import KeepBest, weights_of, write_weights
from asr_lightning.callbacks.keep_last import KeepLast
from asr_lightning.data.folds import Fold, FoldCount, fold_splits, num_folds, pooled
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.ends import End, Part
from asr_lightning.module import ASRModule

logger = logging.getLogger(__name__)

NAME = "fold-{}.safetensors"


def folds_of(
    wanted: FoldCount, data: AudioFolderDataModule, trainer: Trainer, resumed: bool
) -> list[AudioFolderDataModule]:
    """The data of each fold; empty for a run without folds.

    Raises:
        ValueError: Folds were asked for by number, and cannot be had.
    """
    obstacle = "several processes" if trainer.world_size > 1 else "a resumed run" if resumed else ""
    if obstacle and wanted not in ("auto", "off"):
        raise ValueError(f"{obstacle} cannot be trained in folds: set --folds off, or start a run of one process anew")
    data.prepare_data()
    count = 1 if obstacle else num_folds(wanted, data.splits)
    if count == 1:
        return []
    logger.info("few clips: %d models are trained, each reads the clips that it was not trained on", count)
    return [data.divided(splits, Fold(number, count)) for number, splits in enumerate(fold_splits(data.splits, count))]


def together(data: AudioFolderDataModule) -> AudioFolderDataModule:
    """Every clip of train and dev as dev."""
    return data.divided(pooled(data.splits))


def train(
    folds: list[AudioFolderDataModule], model: ASRModule, make_trainer: Callable[[str], Trainer], directory: Path
) -> tuple[End, Trainer]:
    """Train ``model`` once for each fold, from the weights that it has now.

    Args:
        folds: Data of each.
        model: Trained; the weights of the last fold are left in it.
        make_trainer: A fresh trainer; its argument names what it logs.
        directory: For the weights of the folds; what an earlier start has left there is removed.

    Returns:
        The weights of all folds, and the last trainer.
    """
    shutil.rmtree(directory, ignore_errors=True)
    untouched = {name: tensor.detach().cpu().clone() for name, tensor in model.model.state_dict().items()}
    model.settings = model.settings.in_folds()
    parts = []
    for data in folds:
        path = directory / NAME.format(data.fold.number + 1)
        model.model.load_state_dict(untouched)
        trainer = make_trainer(path.stem)
        _decide_nothing(trainer)
        trainer.fit(model, datamodule=data)
        write_weights(weights_of(model.model), path)
        parts.append(Part(data, partial(load_file, path)))
        for log in trainer.loggers:
            if isinstance(log, WandbLogger):
                log.experiment.finish()  # the next fold is a run of its own
    return End(f"average of {len(folds)} folds", tuple(parts)), trainer


def _decide_nothing(trainer: Trainer) -> None:
    """A fold's own dev stops and chooses nothing, and a fold is too short to be resumed."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, StopEarly | KeepLast)]
    for callback in callbacks:
        if isinstance(callback, KeepBest):
            callback.count = 0
