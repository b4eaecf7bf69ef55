import copy

import pytest
import torch

from asr_lightning.scoring.edits import count_edits, error_rates
from asr_lightning.scoring.metrics import PerUtterance, counts_row, rates, weighted_mean
from asr_lightning.scoring.text import none

PAIRS = {"u1": ("one two", "one"), "u2": ("three", "three four"), "u3": ("five six seven", "five six eight")}


def rows(uids: list[str]) -> list[list[int]]:
    return [counts_row(count_edits(*PAIRS[uid], none)) for uid in uids]


def test_rates_equal_direct_scoring() -> None:
    metric = PerUtterance()
    metric.update(["u1", "u2"], rows(["u1", "u2"]))
    metric.update(["u3"], rows(["u3"]))
    assert rates(metric.compute()) == error_rates([count_edits(*pair, none) for pair in PAIRS.values()])


def test_a_clip_scored_twice_counts_once() -> None:
    metric, once = PerUtterance(), PerUtterance()
    for uids in (["u1", "u2"], ["u3"], ["u1", "u2"]):
        metric.update(uids, rows(uids))
    once.update(list(PAIRS), rows(list(PAIRS)))
    assert torch.equal(metric.compute(), once.compute())


def test_wer_invariant_to_ranks() -> None:
    """The states of two processes together give the same rows as a single process, in any order."""
    left, right, one = PerUtterance(), PerUtterance(), PerUtterance()
    left.update(["u3", "u1"], rows(["u3", "u1"]))
    right.update(["u2", "u1"], rows(["u2", "u1"]))
    one.update(list(PAIRS), rows(list(PAIRS)))
    merged = copy.deepcopy(left)
    merged.keys, merged.rows = left.keys + right.keys, left.rows + right.rows
    assert torch.equal(merged.compute(), one.compute())


def test_weighted_mean() -> None:
    metric = PerUtterance(torch.float32)
    metric.update(["a"], [[6.0, 3.0]])
    metric.update(["b"], [[1.0, 1.0]])
    assert weighted_mean(metric.compute()) == 7 / 4


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 utterances but 1 rows"):
        PerUtterance().update(["u1", "u2"], rows(["u1"]))
