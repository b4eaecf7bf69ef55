"""Before training, a run says where dev or test are too small to decide, and what it is tested on instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_lightning.data.division import Splits
from asr_lightning.data.manifest import CSV_NAMES
from asr_lightning.data.rows import Row
from asr_lightning.errors import OptionError
from asr_lightning.run.evidence import doubts, settle
from tests.toy_run import toy_data

KEPT = "so that one will be kept; "
NO_VERDICT = "no verdict is drawn from fewer than 6; "


def splits(train: int, dev: int, test: int) -> Splits:
    sizes, made, start = {"train": train, "dev": dev, "test": test}, {}, 0
    for name, size in sizes.items():
        made[name] = tuple(Row(f"{n}", f"{n}.wav", f"text {n}") for n in range(start, start + size))
        start += size
    return made


def in_folds(train: int, test: int) -> Splits:
    made = splits(train, 0, test)
    return made | {"dev": made["train"]}


@pytest.mark.parametrize(
    ("made", "folds", "obstacle", "expected"),
    [
        (splits(70, 20, 10), "off", "", []),
        (in_folds(90, 10), "auto", "", []),
        (in_folds(12, 0), "auto", "", []),
        (
            splits(6, 1, 1),
            "off",
            "",
            [
                f"dev has one text: {KEPT}add --folds 4, so that every clip of train and dev counts",
                f"test has one text: {NO_VERDICT}add --folds 4 --test_on folds, so that every clip is tested",
            ],
        ),
        (in_folds(36, 4), "auto", "", [f"test has 4 different texts: {NO_VERDICT}add --test_on folds, so that"]),
        (in_folds(36, 4), "few", "", [f"test has 4 different texts: {NO_VERDICT}add --folds 4 --test_on folds"]),
        (
            splits(6, 5, 1),
            "auto",
            "several processes",
            [
                f"dev has 5 different texts: {KEPT}record more phrases",
                f"test has one text: {NO_VERDICT}record more phrases",
            ],
        ),
        (
            in_folds(4, 0),
            "auto",
            "",
            [
                f"dev has 4 different texts: {KEPT}record more phrases",
                f"test has 4 different texts: {NO_VERDICT}record more phrases",
            ],
        ),
    ],
)
def test_doubts_name_the_remedy(made: Splits, folds, obstacle: str, expected: list[str]) -> None:
    said = list(doubts(made, folds, 0.975, obstacle))
    assert len(said) == len(expected)
    for sentence, (start, end) in zip(said, (text.split(": ") for text in expected), strict=True):
        assert sentence.startswith(f"{start}: ") and end in sentence


def test_a_lower_probability_needs_fewer_texts() -> None:
    assert not list(doubts(splits(20, 4, 6), "off", 0.9, ""))
    assert "on fewer than 4 nothing" in next(doubts(splits(20, 3, 6), "off", 0.9, ""))


def test_few_clips_without_a_split_are_tested_out_of_fold(tones_once: Path, tmp_path: Path) -> None:
    folder = copied_without_split(tones_once, tmp_path)
    for wanted, folds, obstacle in (("split", "auto", ""), ("auto", "off", ""), ("auto", "auto", "several processes")):
        settle(wanted, folds, data := toy_data(folder), obstacle)
        assert data._plan is None
    settle("auto", "auto", data := toy_data(folder), "")
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 12, "dev": 0, "test": 0}
    assert not list(folder.glob("*.csv")), "nothing is written, so that the next run decides the same"


def test_a_split_that_exists_is_kept_unless_asked(tones: Path) -> None:
    before = {path.name: path.read_bytes() for path in tones.iterdir()}
    settle("auto", "auto", data := toy_data(tones), "")
    assert [len(rows) for rows in data.splits.values()] == [9, 2, 1]
    settle("folds", "auto", data := toy_data(tones), "")
    assert [len(rows) for rows in data.splits.values()] == [12, 0, 0]
    assert {path.name: path.read_bytes() for path in tones.iterdir()} == before


def test_the_split_of_an_earlier_run_is_not_for_a_new_one(tones: Path, tones_once: Path, tmp_path: Path) -> None:
    """A read-only folder has its split in the run folder, which a new run renames."""
    (tmp_path / "audio").mkdir()
    folder = copied_without_split(tones_once, tmp_path / "audio")
    settle("auto", "auto", data := toy_data(folder, run_dir=str(tones)), "", is_new=True)
    assert [len(rows) for rows in data.splits.values()] == [12, 0, 0]
    settle("auto", "auto", data := toy_data(folder, run_dir=str(tones)), "", is_new=False)
    assert [len(rows) for rows in data.splits.values()] == [9, 2, 1]


def test_folds_that_cannot_be_had_are_refused(tones_once: Path) -> None:
    with pytest.raises(OptionError, match="several processes cannot be trained in folds: set --test_on split"):
        settle("folds", "auto", toy_data(tones_once), "several processes")
    with pytest.raises(OptionError, match="--folds off trains one model: add --folds 4"):
        settle("folds", "off", toy_data(tones_once), "")


def copied_without_split(tones_once: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tones"
    folder.mkdir()
    for path in tones_once.iterdir():
        if path.name not in CSV_NAMES.values():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder
