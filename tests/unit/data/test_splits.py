from __future__ import annotations

import logging
import os
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_lightning.data.division import SPLITS, divide
from asr_lightning.data.manifest import CSV_NAMES
from asr_lightning.data.rows import Row, split_key
from asr_lightning.data.splits import prepare_splits

SHARES = {"train": 0.7, "dev": 0.2, "test": 0.1}


def rows_of(texts: list[str]) -> list[Row]:
    return [Row(f"u{index:03d}", f"u{index:03d}.wav", text) for index, text in enumerate(texts)]


def csvs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*_files.csv"))}


def write_csv(folder: Path, split: str, *rows: tuple[str, str]) -> None:
    lines = ["uid,file_name,text", *(f"{uid},{uid}.wav,{text}" for uid, text in rows)]
    (folder / CSV_NAMES[split]).write_text("\n".join(lines) + "\n")


def test_split_never_empty():
    for num in range(3, 501):
        splits = divide(rows_of([f"text {index}" for index in range(num)]), SHARES, seed=num)
        sizes = {split: len(rows) for split, rows in splits.items()}
        assert sum(sizes.values()) == num and min(sizes.values()) >= 1
        for split, share in SHARES.items():
            assert abs(sizes[split] - share * num) <= (1 if num > 9 else 1.9), num


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=120), st.integers(0, 9))
def test_no_prompt_leak(texts, seed):
    rows = rows_of([random.Random(index).choice(["Text {}!", "text {}", " TEXT  {}."]).format(text)
                    for index, text in enumerate(texts)])  # fmt: skip
    if len(set(texts)) < 3:
        with pytest.raises(ValueError, match="different texts"):
            divide(rows, SHARES, seed)
        return
    splits = divide(rows, SHARES, seed)
    keys = {split: {split_key(row.text) for row in dealt} for split, dealt in splits.items()}
    assert all(keys.values())
    assert sum(map(len, keys.values())) == len(set(texts))  # disjoint
    assert sorted(row.uid for dealt in splits.values() for row in dealt) == [row.uid for row in rows]
    largest = max(Counter(texts).values())
    for split, share in SHARES.items():
        assert abs(len(splits[split]) - share * len(texts)) <= largest + 1


def test_split_stable_across_order():
    rows = rows_of([f"text {index // 2}" for index in range(100)])
    first = divide(rows, SHARES, seed=1)
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert divide(shuffled, SHARES, seed=1) == first
    assert divide(rows, SHARES, seed=2) != first
    known = "u062 u063 u072 u073 u082 u083 u092 u093 u098 u099"  # the same on every platform and in every release
    assert " ".join(row.uid for row in first["test"]) == known


def test_made_once_then_reused(make_folder, caplog):
    folder = make_folder(12)
    with caplog.at_level(logging.INFO):
        first = prepare_splits(folder)
    assert {split: len(rows) for split, rows in first.items()} == {"train": 9, "dev": 2, "test": 1}
    assert "wrote the split (9 train, 2 dev, 1 test) to" in caplog.text
    written, stamps = csvs(folder), [path.stat().st_mtime_ns for path in sorted(folder.glob("*.csv"))]
    assert prepare_splits(folder, (0.4, 0.3, 0.3), seed=5) == first
    assert csvs(folder) == written
    assert [path.stat().st_mtime_ns for path in sorted(folder.glob("*.csv"))] == stamps


@pytest.mark.parametrize(
    ("clips", "repeated", "sizes"),
    [
        (12, 1, (9, 2, 1)),  # too few for dev and test in any split
        (23, 1, (16, 5, 2)),
        (24, 1, (12, 6, 6)),
        (40, 1, (22, 8, 10)),
        (60, 2, (33, 12, 15)),  # thirty texts, each said twice: a quarter of the clips, at most
        (99, 1, (69, 20, 10)),
        (100, 1, (70, 20, 10)),
        (289, 1, (202, 58, 29)),
    ],
)
def test_few_clips_get_dev_and_test_that_can_decide(make_folder, clips, repeated, sizes):
    """Of forty clips, a tenth is four, from which no verdict was ever drawn. From a hundred on nothing changes."""
    folder = make_folder(clips, texts=[f"text {number // repeated}" for number in range(clips)])
    splits = prepare_splits(folder)
    assert sum(sizes) == clips
    assert all(abs(len(splits[split]) - size) < repeated for split, size in zip(SPLITS, sizes, strict=True))


def test_shares_that_were_asked_for_are_used(make_folder):
    splits = prepare_splits(make_folder(40), (0.8, 0.15, 0.05))
    assert [len(splits[split]) for split in SPLITS] == [32, 6, 2]


def test_creation_order_does_not_matter(make_folder):
    forwards = make_folder(12)
    backwards = forwards.parent / "backwards"
    backwards.mkdir()
    for path in sorted(forwards.iterdir(), reverse=True):
        shutil.copy(path, backwards / path.name)
    assert prepare_splits(forwards) == prepare_splits(backwards)
    assert csvs(forwards) == csvs(backwards)


def test_run_with_4_files(make_folder):
    splits = prepare_splits(make_folder(4))
    assert [len(splits[split]) for split in SPLITS] == [2, 1, 1]


@pytest.mark.parametrize("present", [("train",), ("dev",), ("test",), ("train", "dev"), ("dev", "test")])
def test_missing_csvs_are_made_from_the_rest(make_folder, present):
    folder = make_folder(12)
    everything = prepare_splits(folder)
    for split in SPLITS:
        if split not in present:
            (folder / CSV_NAMES[split]).unlink()
    kept = csvs(folder)
    splits = prepare_splits(folder, seed=9)
    assert kept.items() <= csvs(folder).items() and len(csvs(folder)) == 3
    assert all(splits[split] == everything[split] for split in present)
    assert sorted(row.uid for rows in splits.values() for row in rows) == [f"clip{i:03d}" for i in range(12)]


def test_rest_with_a_listed_text_is_left_out_and_named(make_folder, caplog):
    folder = make_folder(5, texts=["one", "One!", "two", "three", "four"])
    write_csv(folder, "test", ("clip000", "one"))
    splits = prepare_splits(folder)
    assert sorted(row.uid for split in ("train", "dev") for row in splits[split]) == ["clip002", "clip003", "clip004"]
    assert "1 recordings of the folder are not used" in caplog.text and "clip001.wav" in caplog.text


def test_nothing_left_for_a_missing_csv(make_folder):
    folder = make_folder(4)
    prepare_splits(folder)
    (folder / "test_files.csv").unlink()
    write_csv(folder, "dev", *[(row.uid, row.text) for row in prepare_splits(folder)["test"]])
    (folder / "test_files.csv").unlink()
    before = csvs(folder)
    splits = prepare_splits(folder)  # the old dev recording is free again
    assert len(splits["test"]) == 1
    (folder / "test_files.csv").unlink()
    (folder / f"{splits['test'][0].uid}.wav").unlink()
    (folder / f"{splits['test'][0].uid}.txt").unlink()
    with pytest.raises(ValueError, match=r"cannot make 1 splits \(test\) out of 0 different texts"):
        prepare_splits(folder)
    assert csvs(folder) == before


def test_no_silent_drop(make_folder, caplog):
    folder = make_folder(6)
    write_csv(folder, "train", ("clip000", "one"))
    write_csv(folder, "dev", ("clip001", "two"))
    write_csv(folder, "test", ("clip002", "three"))
    used = sum(map(len, prepare_splits(folder).values()))
    assert "3 recordings of the folder are not used, since no CSV lists them: clip003.wav, clip004.wav" in caplog.text
    assert used + 3 == 6


def test_csv_text_counts(make_folder, caplog):
    folder = make_folder(3)
    write_csv(folder, "train", ("clip000", "another text"))
    write_csv(folder, "dev", ("clip001", "call my sister 0"))
    write_csv(folder, "test", ("clip002", "What's the weather like today? 0"))
    (folder / "clip002.txt").unlink()
    assert prepare_splits(folder)["train"][0].text == "another text"
    assert "1 transcripts differ, the CSV is used: train_files.csv line 2 and clip000.txt" in caplog.text


def test_leaking_csvs_are_refused_unless_allowed(make_folder, caplog):
    folder = make_folder(4)
    write_csv(folder, "train", ("clip000", "one"), ("clip001", "two"))
    write_csv(folder, "dev", ("clip002", "Two!"))
    write_csv(folder, "test", ("clip003", "three"))
    with pytest.raises(ValueError, match=r"'Two!': train_files.csv line 3 and dev_files.csv line 2\n.*allow_text_leak"):
        prepare_splits(folder)
    assert len(prepare_splits(folder, allow_text_leak=True)["dev"]) == 1
    assert "flatter" in caplog.text


@pytest.fixture
def as_nobody():
    """The rights of an ordinary user for one test, since root may write anywhere; yields a folder of that user."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o777)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield place
    finally:
        if was_root:
            os.seteuid(0)
        for path in place.rglob("*"):
            path.chmod(0o777)
        shutil.rmtree(place)


def test_read_only_folder_keeps_its_split_in_the_run_folder(as_nobody, write_audio, caplog):
    folder, run_dir = as_nobody / "audio", as_nobody / "run"
    folder.mkdir()
    for index in range(6):
        write_audio(folder / f"{index}.wav")
        (folder / f"{index}.txt").write_text(f"text {index}")
    folder.chmod(0o555)
    with pytest.raises(ValueError, match=r"is read-only.*give a run folder"):
        prepare_splits(folder)
    with caplog.at_level(logging.INFO):
        first = prepare_splits(folder, run_dir=run_dir)
    assert f"to {run_dir}" in caplog.text
    assert sorted(csvs(run_dir)) == sorted(CSV_NAMES.values()) and not csvs(folder)
    before = csvs(run_dir)
    assert prepare_splits(folder, seed=3, run_dir=run_dir) == first
    assert csvs(run_dir) == before
