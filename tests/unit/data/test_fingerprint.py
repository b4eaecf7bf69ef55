"""The hashes that identify a data set and its split."""

from __future__ import annotations

from pathlib import Path

from asr_lightning.data.fingerprint import data_sha256, split_sha256
from asr_lightning.data.rows import Row


def rows(folder: Path, *texts: str) -> list[Row]:
    for number, text in enumerate(texts):
        (folder / f"{number}.wav").write_bytes(text.encode())
    return [Row(str(number), f"{number}.wav", text) for number, text in enumerate(texts)]


def test_data_hash_depends_on_sound_and_text_only(tmp_path: Path) -> None:
    one, two, three = rows(tmp_path, "a", "b", "c")
    first = data_sha256(tmp_path, {"train": [one, two], "dev": [three]})
    assert first == data_sha256(tmp_path, {"dev": [one], "train": [three, two]}), "the split has a hash of its own"
    assert first != data_sha256(tmp_path, {"train": [one, two], "dev": [Row("2", "2.wav", "d")]})
    assert first != data_sha256(tmp_path, {"train": [one, two], "dev": []})
    (tmp_path / "0.wav").write_bytes(b"another take")
    assert first != data_sha256(tmp_path, {"train": [one, two], "dev": [three]})


def test_split_hash_depends_on_the_split(tmp_path: Path) -> None:
    one, two, three = rows(tmp_path, "a", "b", "c")
    first = split_sha256({"train": [one, two], "dev": [three]})
    assert first == split_sha256({"dev": [three], "train": [two, one]})
    assert first != split_sha256({"train": [one, three], "dev": [two]})
