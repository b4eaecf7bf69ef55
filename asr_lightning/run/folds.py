"""Trains one model for each fold of the clips, all from the same weights. Knows the adapter contract and no model.

The average of their weights is handed over. Every clip has trained all of the models but one, so no further training
is needed. Source: model soups, Wortsman et al. 2022. What a single model forgets of other people's speech is mostly
chance, and the average forgets less (docs/recipes.md). The weights of each fold are the mean over its later steps, so
the dev clips of a fold choose nothing.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import WandbLogger
from safetensors import safe_open
from safetensors.torch import load_file

from asr_lightning.callbacks.average_steps import AverageSteps
from asr_lightning.callbacks.early_stopping import StopEarly
from asr_lightning.callbacks.half_epoch import HalfEpochValidation
from asr_lightning.callbacks.keep_best import KeepBest, trained_state, write_weights
from asr_lightning.callbacks.keep_last import KeepLast
from asr_lightning.data.fingerprint import split_sha256
from asr_lightning.data.folds import Fold, FoldCount, epochs_each, fold_splits, is_few, num_folds, pooled
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.durable import faults
from asr_lightning.module import ASRModule
from asr_lightning.run.ends import End, Part, State

logger = logging.getLogger(__name__)

FOLDER, NAME = Path("checkpoints", "folds"), "fold-{}-of-{}.safetensors"
CLIPS = "split_sha256"
"""What the file of a fold calls the hash of its clips."""


def obstacle(trainer: Trainer, from_checkpoint: bool) -> str:
    """What keeps a run from being trained in folds, in words; empty if nothing does."""
    return "several processes" if trainer.world_size > 1 else "a checkpoint" if from_checkpoint else ""


def folds_of(wanted: FoldCount, data: AudioFolderDataModule, obstacle: str) -> list[AudioFolderDataModule]:
    """The data module of each fold; empty for a run without folds.

    Args:
        wanted: The option ``--folds``.
        data: The data module with all recordings.
        obstacle: What keeps the run from being trained in folds; empty if nothing does.

    Raises:
        ValueError: A number of folds was asked for, but this run cannot be trained in folds.
    """
    if obstacle and isinstance(wanted, int):
        raise ValueError(f"{obstacle} cannot be trained in folds: set --folds off, or start a run of one process anew")
    data.prepare_data()
    count = 1 if obstacle else num_folds(wanted, data.splits)
    if count == 1:
        return []
    logger.info("%d models are trained, each reads the clips that it was not trained on", count)
    return [data.divided(splits, Fold(number, count)) for number, splits in enumerate(fold_splits(data.splits, count))]


def together(data: AudioFolderDataModule) -> AudioFolderDataModule:
    """A data module whose dev split has the clips of both train and dev."""
    return data.divided(pooled(data.splits))


def finished(run_dir: Path) -> list[Path]:
    """Files with the weights of the finished folds, in order. A killed run leaves no incomplete file among them."""
    return sorted((run_dir / FOLDER).glob(NAME.format("*", "*")))


def train(
    folds: list[AudioFolderDataModule],
    model: ASRModule,
    make_trainer: Callable[[str], Trainer],
    run_dir: Path,
    resumed: bool = False,
) -> tuple[End, Trainer]:
    """Train ``model`` once for each fold, from the weights that it has now.

    Args:
        folds: The data module of each fold.
        model: The module to train. It ends with the weights of the last fold.
        make_trainer: Makes the trainer of a fold; its argument names the folder of the logs.
        run_dir: Folder for the weights of the folds. Weights that an earlier start has left there are removed.
        resumed: Whether folds that an earlier start has finished are kept instead, if they were trained on the same
            clips. The last fold is always trained, because the steps after training need a trainer that has run.

    Returns:
        The weights of all folds, and the trainer of the last one.
    """
    directory = run_dir / FOLDER
    if not resumed:
        shutil.rmtree(directory, ignore_errors=True)
    untouched = {name: tensor.detach().cpu().clone() for name, tensor in model.model.state_dict().items()}
    if is_few(folds[0].splits):
        model.settings = model.settings.in_folds()
    parts = []
    for data in folds:
        number = data.fold.number + 1
        path = directory / NAME.format(number, data.fold.count)  # resumed with another count, it is trained anew
        parts.append(Part(data, partial(load_file, path)))
        clips = split_sha256(data.splits)
        if path.exists() and data is not folds[-1]:
            if _trained_on(path) == clips:
                logger.info("%s is trained already", data.fold)
                continue
            # Its model may have been trained on the very clips that it is now to be tested with.
            logger.warning("%s was trained on other clips than the folder has now: it is trained again", data.fold)
        model.model.load_state_dict(untouched)
        trainer = make_trainer(f"fold-{number}")
        _make_part(trainer, data)
        trainer.fit(model, datamodule=data)
        weights = _averaged(trainer) or trained_state(model.model)
        write_weights(weights, half := path.with_suffix(".half"), {CLIPS: clips})
        half.replace(path)
        faults.point("training.fold.kept")
        for log in trainer.loggers:
            if isinstance(log, WandbLogger):
                log.experiment.finish()  # the next fold is a run of its own
    return End(f"average of {len(folds)} folds", tuple(parts)), trainer


def _trained_on(path: Path) -> str:
    """The hash of the clips that the model of a finished fold was trained on; empty if its file does not say."""
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
    return metadata.get(CLIPS, "")


def _averaged(trainer: Trainer) -> State:
    """The mean of the weights over the later steps; empty if no steps were averaged."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback.weights for callback in callbacks if isinstance(callback, AverageSteps))


def _make_part(trainer: Trainer, data: AudioFolderDataModule) -> None:
    """Give ``trainer`` its share of the epochs, and one validation for each epoch, which stops and chooses nothing."""
    if trainer.max_epochs not in (None, -1):
        trainer.fit_loop.max_epochs = epochs_each(data.fold.count, trainer.max_epochs, data.splits)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, StopEarly | KeepLast)]
    for callback in callbacks:
        if isinstance(callback, KeepBest):
            callback.count = 0
        if isinstance(callback, HalfEpochValidation):
            callback.half = False
