"""The time left is that of the whole run, of which training may be the smaller part."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.keep_best import KeepBest
from asr_lightning.callbacks.progress import Progress, minutes
from asr_lightning.callbacks.scoring_work import ScoringWork, work_after_training
from asr_lightning.data.folds import Fold
from tests.toy_run import toy_data, toy_fit, toy_module

LINE = re.compile(
    r"(\d+):(\d\d) used, at most (\d+):(\d\d) left, (\d+):(\d\d) of it to choose the weights and test them"
)


def test_what_follows_training_is_part_of_the_time_left(
    tones_once: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the last validation nothing is left of training: "at most 0:16 left" stood before a quarter of an hour."""
    baseline = BaselineWER()
    progress = Progress(baseline)
    progress.num_canary = 100_000
    with caplog.at_level(logging.INFO):
        toy_fit(toy_module(), toy_data(tones_once), [baseline, progress, KeepBest(tmp_path)], max_epochs=2)
    lines = [match for match in map(LINE.search, caplog.messages) if match]
    assert len(lines) == 4
    *_, left_minutes, left_seconds, after_minutes, after_seconds = map(int, lines[-1].groups())
    after = 60 * after_minutes + after_seconds
    assert after == int(progress.seconds_after) > 0
    assert 60 * left_minutes + left_seconds == after
    per_clip = progress.seconds_after / (7 * 2 + 1 + 2 * 100_000 + 2 + 1.125 * 100_000)
    assert 0 < per_clip < 1, "the toy reads natively as it is trained, so each clip counts the same"


def test_every_fold_and_clip_counts(tones_once: Path) -> None:
    data = toy_data(tones_once)
    assert work_after_training(data, 80) == ScoringWork(7 * 2 + 1 + 160, 2 + 90)
    assert work_after_training(data, 80, untouched_known=True) == ScoringWork(7 * 2 + 1 + 160, 1 + 10)
    rows = data.splits["train"]
    fold = data.divided({"train": rows[:6], "dev": rows[6:], "test": ()}, Fold(1, 4))
    assert work_after_training(fold, 0) == ScoringWork(7 * 3 * 4, 3 * 4), "without test, dev is also read natively"
    assert ScoringWork(10, 2).seconds(0.5, 3) == 11
    assert minutes(187.9) == "3:07"
