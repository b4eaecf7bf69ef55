"""Folds have disjoint texts and cover all clips, and no text of test is trained on."""

from __future__ import annotations

import logging

import pytest

from asr_lightning.data.folds import FEW, MANY, epochs_each, fold_splits, num_folds, pooled
from asr_lightning.data.rows import Row, split_key


def rows(split: str, texts: list[str]) -> tuple[Row, ...]:
    return tuple(Row(f"{split}{n}", f"{split}{n}.wav", text) for n, text in enumerate(texts))


def splits_of(num: int, dev: list[str] | None = None) -> dict[str, tuple[Row, ...]]:
    train = [f"text {n}" for n in range(num)] + ["Text 0!", "text 1"]  # two texts are spoken twice
    return {
        "train": rows("train", train),
        "dev": rows("dev", ["one more", "and another"] if dev is None else dev),
        "test": rows("test", ["never seen"]),
    }


@pytest.mark.parametrize("count", [2, 3, 4])
def test_folds_are_disjoint_by_text_and_cover_everything(count: int) -> None:
    splits = splits_of(8)
    clips = {row.uid for name in ("train", "dev") for row in splits[name]}
    folds = fold_splits(splits, count)
    assert len(folds) == count
    assert sorted(row.uid for fold in folds for row in fold["dev"]) == sorted(clips)
    for fold in folds:
        assert {row.uid for row in (*fold["train"], *fold["dev"])} == clips
        assert not {split_key(row.text) for row in fold["train"]} & {split_key(row.text) for row in fold["dev"]}
        assert fold["test"] == splits["test"]
    sizes = [len(fold["dev"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert fold_splits(splits, count) == folds
    together = pooled(splits)
    assert together["train"] == together["dev"] and {row.uid for row in together["dev"]} == clips


def test_a_dev_text_that_test_has_is_not_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    """In dev it would only affect the choice of weights, but in a fold it would be trained on."""
    splits = splits_of(5, dev=["Never seen.", "one more"])
    with caplog.at_level(logging.WARNING, "asr_lightning"):
        folds = fold_splits(splits, 2)
    assert "1 dev clips are left out" in caplog.text
    assert "dev0" not in {row.uid for fold in folds for row in (*fold["train"], *fold["dev"])}


def test_auto_makes_folds_except_for_large_sets() -> None:
    assert num_folds("auto", splits_of(8)) == 4
    assert num_folds("auto", splits_of(MANY - 3)) == 4
    assert num_folds("auto", splits_of(MANY - 2)) == 1, "with the two texts of dev there are too many for folds"
    assert num_folds("auto", splits_of(1, dev=["one more"])) == 3, "no more folds than texts"
    assert num_folds("few", splits_of(FEW - 3)) == 4 and num_folds("few", splits_of(FEW - 2)) == 1
    assert num_folds("off", splits_of(8)) == 1
    assert num_folds(5, splits_of(8)) == 5 and num_folds(2, splits_of(100)) == 2


def test_folds_share_the_epochs_except_of_few_clips() -> None:
    assert epochs_each(4, 16, splits_of(FEW - 2)) == 4
    assert epochs_each(4, 10, splits_of(100)) == 3
    assert epochs_each(4, 1, splits_of(100)) == 1
    assert epochs_each(4, 16, splits_of(FEW - 3)) == 16


@pytest.mark.parametrize(("wanted", "message"), [(1, "at least 2"), (99, "set --folds off")])
def test_impossible_numbers_of_folds_are_refused(wanted: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        num_folds(wanted, splits_of(8))
