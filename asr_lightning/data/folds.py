"""K-fold in place of a dev of a few clips: every clip is read by a model that was not trained on its text. No torch.

Source: Stone, "Cross-validatory choice and assessment of statistical predictions", 1974.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from asr_lightning.data.rows import Row, split_key
from asr_lightning.data.splits import Splits, divide
from asr_lightning.errors import OptionError

log = logging.getLogger(__name__)

FoldCount = int | Literal["auto", "few", "off"]

FEW = 40
"""Distinct texts of train and dev below which each fold trains all epochs of the run, at a smaller rate, since there
are few steps in an epoch. A fifth of 40 would be a dev of eight, which can prove nothing: if four of them get better
and one gets worse, by a word each, the bootstrap's probability is 0.93, and the untouched model stays. On all 40 it is
0.999."""

MANY = 1000
"""Distinct texts from which one model is trained on train, and dev chooses: it is large enough for that."""

COUNT = 4
"""Models that ``auto`` trains: each learns from three quarters of the clips."""


HELP = (
    "How many models are trained, each on the clips outside one fold. Dev is what each reads of its fold, and their "
    f"average is handed over. The epochs of the run are divided among them, except below {FEW} different texts. auto: "
    f"{COUNT} for less than {MANY} different texts in train and dev; few: {COUNT} for less than {FEW}; off: one model, "
    "whose checks of dev choose."
)
"""Of the option ``--folds``."""


@dataclass(frozen=True)
class Fold:
    """Which of the trainings of a run it is.

    Attributes:
        number: From 0.
        count: 1 for a run without folds.
    """

    number: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"fold {self.number + 1} of {self.count}"


def num_folds(wanted: FoldCount, splits: Splits) -> int:
    """How many models are trained on the clips of ``splits``; 1 for no folds.

    Raises:
        ValueError: There are fewer texts than folds, or fewer than two folds.
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
    """How many of the ``epochs`` of a run each of ``count`` folds trains: its share, or all of few clips."""
    return epochs if is_few(splits) else -(-epochs // count)


def is_few(splits: Splits) -> bool:
    """Whether train and dev have so few texts that small changes are right."""
    return num_texts(splits) < FEW


def num_texts(splits: Splits) -> int:
    """Different texts in train and dev."""
    return len({split_key(row.text) for row in _clips(splits)})


def fold_splits(splits: Splits, count: int) -> list[Splits]:
    """For each fold: dev is the fold, train is everything else of train and dev, test is test.

    The same clips always give the same folds, whatever the seed of a run, so that runs of several seeds can be
    compared and averaged fold by fold. Equal texts share a fold.
    """
    clips = _clips(splits)
    dealt = divide(clips, {str(number): 1.0 for number in range(count)}, seed=0)
    return [{"train": _without(clips, fold), "dev": fold, "test": splits["test"]} for fold in dealt.values()]


def pooled(splits: Splits) -> Splits:
    """What all folds together are: every clip of train and dev is trained on, and every one is read as dev."""
    clips = _clips(splits)
    return {"train": clips, "dev": clips, "test": splits["test"]}


def _clips(splits: Splits) -> tuple[Row, ...]:
    """Train and dev, less the dev clips whose text is also in test: it would be trained on now."""
    kept = _without(splits["dev"], splits["test"])
    if len(kept) < len(splits["dev"]):
        log.warning("%d dev clips are left out: test has their text", len(splits["dev"]) - len(kept))
    return (*splits["train"], *kept)


def _without(rows: Iterable[Row], others: Iterable[Row]) -> tuple[Row, ...]:
    """Those of ``rows`` whose text ``others`` do not have."""
    texts = {split_key(row.text) for row in others}
    return tuple(row for row in rows if split_key(row.text) not in texts)
