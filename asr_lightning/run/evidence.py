"""Settles before training what the test figures are measured on, and says where dev or test are too small to decide."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

from asr_lightning.data.division import UNSPLIT, Splits, num_texts
from asr_lightning.data.folder import scan_folder
from asr_lightning.data.folds import FoldCount, TestOn, num_folds
from asr_lightning.data.splits import has_split
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.errors import OptionError
from asr_lightning.reports.statistics import MIN_GROUPS, different_texts, most_certain

logger = logging.getLogger(__name__)


def settle(wanted: TestOn, folds: FoldCount, data: AudioFolderDataModule, obstacle: str, is_new: bool = True) -> None:
    """Pool the recordings of ``data`` if their figures are to be out of fold; otherwise they get a test split.

    Args:
        wanted: The option ``--test_on``.
        folds: The option ``--folds``.
        data: The data module, before its split is made.
        obstacle: What keeps the run from being trained in folds; empty if nothing does.
        is_new: Whether a new run begins. The split that an earlier run has left in the run folder is not for this one.

    Raises:
        ValueError: Figures out of fold were asked for, but this run has no folds; or the folder cannot be used.
    """
    is_split = has_split(data.audio_dir, Path(data.run_dir) if data.run_dir and not is_new else None)
    if wanted == "split" or (wanted == "auto" and (obstacle or folds == "off" or is_split)):
        return
    if obstacle:
        raise OptionError(f"{obstacle} cannot be trained in folds: set --test_on split, or start a run of one process")
    rows = [row for part in data.splits.values() for row in part] if is_split else scan_folder(data.audio_dir)
    splits: Splits = {"train": tuple(rows), "dev": (), "test": ()}
    count = num_folds(folds, splits)
    if wanted == "auto" and (num_texts(splits["train"]) >= UNSPLIT or count == 1):
        return
    if count == 1:
        raise OptionError(f"--test_on folds needs folds, and --folds {folds} trains one model: add --folds 4")
    data.use(splits)
    logger.info(
        "%d clips get no test split of their own: each is tested by a model that was not trained on it "
        "(--test_on split keeps some apart)",
        len(splits["train"]),
    )


def doubts(splits: Splits, folds: FoldCount, min_probability: float, obstacle: str) -> Iterator[str]:
    """Why dev or test cannot decide anything, in a sentence for each, and what to do.

    Args:
        splits: The splits of the run; in folds with all clips of train and dev in both.
        folds: The option ``--folds``.
        min_probability: The required probability of being better than the untouched model on dev.
        obstacle: What keeps the run from being trained in folds; empty if nothing does.
    """
    texts = {split: num_texts(rows) for split, rows in splits.items()}
    everything = num_texts(row for rows in splits.values() for row in rows)
    in_folds = splits["train"] == splits["dev"]
    if most_certain(texts["dev"]) < min_probability:
        least = math.ceil(-math.log2(1 - min_probability)) if min_probability < 1 else MIN_GROUPS
        remedy = "record more phrases"
        if not in_folds and not obstacle and texts["train"] + texts["dev"] >= least:
            remedy = "add --folds 4, so that every clip of train and dev counts"
        yield (
            f"dev has {different_texts(texts['dev'])}: on fewer than {least} nothing can be shown to be better than "
            f"the untouched model with a probability of {min_probability:g}, so that one will be kept; {remedy}"
        )
    if not splits["test"]:
        texts["test"] = texts["dev"]
    if texts["test"] < MIN_GROUPS:
        remedy = "record more phrases"
        if splits["test"] and not obstacle and everything >= MIN_GROUPS:
            options = "--test_on folds" if in_folds and folds != "few" else "--folds 4 --test_on folds"
            remedy = f"add {options}, so that every clip is tested by a model that was not trained on it"
        yield f"test has {different_texts(texts['test'])}: no verdict is drawn from fewer than {MIN_GROUPS}; {remedy}"
