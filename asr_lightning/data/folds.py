"""Divides train and dev into folds, so that each clip is scored by a model that was not trained on its text.

This replaces a dev set of only a few clips. Imports no torch.

Source: Stone, "Cross-validatory choice and assessment of statistical predictions", 1974.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from asr_lightning.data.division import UNSPLIT, Splits, divide
from asr_lightning.data.division import num_texts as num_texts_of
from asr_lightning.data.rows import Row, split_key
from asr_lightning.errors import OptionError

log = logging.getLogger(__name__)

FoldCount = int | Literal["auto", "few", "off"]
TestOn = Literal["auto", "split", "folds"]

FEW = 40
"""Number of different texts in train and dev below which each fold trains for all epochs of the run, at a smaller
learning rate, since an epoch has few steps. A fifth of 40 texts would be a dev set of eight, which proves nothing: if
four of them get better and one gets worse, by a word each, the bootstrap's probability of an improvement is 0.93, and
the untouched model is kept. With all 40 texts it is 0.999."""

MANY = 1000
"""Number of different texts from which a single model is trained: dev is then large enough to choose weights."""

COUNT = 4
"""Number of folds for ``auto``: each model learns from three quarters of the clips."""


HELP = (
    "How many models are trained, each on the clips outside one fold. Each model is validated on its own fold, and the "
    "average of all models is the result. The epochs of the run are divided among them, except below "
    f"{FEW} different texts. auto: {COUNT} for less than {MANY} different texts in train and dev; few: {COUNT} for "
    f"less than {FEW}; off: one model, whose weights are chosen by its validations."
)
"""Help of the option ``--folds``."""

TEST_HELP = (
    "What the test figures are measured on. split: a test split of its own. folds: every clip, of a test split too, "
    "is transcribed by the model that was not trained on it, which needs folds. auto: folds for a folder with fewer "
    f"than {UNSPLIT} different texts that has no split yet, so that all of its clips are trained on and tested."
)
"""Help of the option ``--test_on``."""


@dataclass(frozen=True)
class Fold:
    """One of the trainings of a run.

    Attributes:
        number: Number of the fold, counted from 0.
        count: Number of folds; 1 for a run without folds.
    """

    number: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"fold {self.number + 1} of {self.count}"


def num_folds(wanted: FoldCount, splits: Splits) -> int:
    """The number of models to train on the clips of ``splits``; 1 means no folds.

    Raises:
        ValueError: ``wanted`` is less than 2, or there are fewer different texts than folds.
    """
    if wanted == "off":
        return 1
    texts = num_texts(splits)
    if isinstance(wanted, str):
        return min(COUNT, texts) if 1 < texts < {"auto": MANY, "few": FEW}[wanted] else 1
    if wanted < 2:
        raise OptionError(f"--folds must be auto, few, off or a number of at least 2, not {wanted}")
    if texts < wanted:
        raise OptionError(
            f"--folds {wanted} needs as many different texts in train and dev, and there are {texts}: "
            "record more phrases, or set --folds off"
        )
    return wanted


def epochs_each(count: int, epochs: int, splits: Splits) -> int:
    """The number of epochs for each of ``count`` folds: a share of ``epochs``, or all of them for few clips."""
    return epochs if is_few(splits) else -(-epochs // count)


def is_few(splits: Splits) -> bool:
    """Whether train and dev have so few texts that only small changes of the weights are justified."""
    return num_texts(splits) < FEW


def num_texts(splits: Splits) -> int:
    """Number of different texts in train and dev."""
    return num_texts_of(_clips(splits))


def fold_splits(splits: Splits, count: int) -> list[Splits]:
    """Splits for each fold: dev is the fold, train is the rest of train and dev, and test is unchanged.

    Equal texts share a fold. The same clips always give the same folds, so that runs with different seeds can be
    compared and averaged fold by fold.
    """
    clips = _clips(splits)
    dealt = divide(clips, {str(number): 1.0 for number in range(count)}, seed=0)
    return [{"train": _without(clips, fold), "dev": fold, "test": splits["test"]} for fold in dealt.values()]


def pooled(splits: Splits) -> Splits:
    """The splits of all folds together: every clip of train and dev is in both train and dev."""
    clips = _clips(splits)
    return {"train": clips, "dev": clips, "test": splits["test"]}


def _clips(splits: Splits) -> tuple[Row, ...]:
    """Train and dev without the dev clips whose text is also in test, since folds train on dev clips as well."""
    dev = _without(splits["dev"], splits["test"])
    if len(dev) < len(splits["dev"]):
        log.warning("%d dev clips are left out: test has their text", len(splits["dev"]) - len(dev))
    return (*splits["train"], *dev)


def _without(rows: Iterable[Row], others: Iterable[Row]) -> tuple[Row, ...]:
    """The ``rows`` whose texts do not occur in ``others``."""
    texts = {split_key(row.text) for row in others}
    return tuple(row for row in rows if split_key(row.text) not in texts)
