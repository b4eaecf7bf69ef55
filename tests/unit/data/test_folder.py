from __future__ import annotations

import codecs

import pytest

from asr_lightning.data.folder import list_audio, scan_folder
from asr_lightning.data.rows import Row, split_key
from asr_lightning.scoring.text import name_some


def test_mixed_folder_is_read(mixed_folder):
    rows = scan_folder(mixed_folder)
    assert len(rows) == 12
    assert rows[1] == Row("rec 01.é", "rec 01.é.WAV", "call my sister")
    assert [row.uid for row in rows] == sorted(row.uid for row in rows)
    assert len(list_audio(mixed_folder)) == 12


def test_suffix_case_is_ignored(tmp_path, write_audio):
    write_audio(tmp_path / "a.Mp3", 0.5)
    (tmp_path / "a.TXT").write_text("hello")
    assert scan_folder(tmp_path) == (Row("a", "a.Mp3", "hello"),)


@pytest.mark.parametrize(
    "raw",
    [
        "grüße aus köln".encode(),
        codecs.BOM_UTF8 + "grüße aus köln".encode(),
        "grüße aus köln".encode("utf-16"),
        codecs.BOM_UTF16_BE + "grüße aus köln".encode("utf-16-be"),
        "\n grüße\r\n aus \t köln \n".encode(),
    ],
)
def test_encodings(tmp_path, write_audio, raw):
    write_audio(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_bytes(raw)
    assert scan_folder(tmp_path)[0].text == "grüße aus köln"


def test_hidden_files_folders_and_others_are_ignored(make_folder):
    folder = make_folder(3)
    (folder / "._clip000.wav").write_bytes(b"")
    (folder / "notes.pdf").write_bytes(b"")
    (folder / "old.wav").mkdir()
    assert len(scan_folder(folder)) == 3


def test_one_message_lists_every_kind(make_folder):
    folder = make_folder(12)
    for index in range(11):
        (folder / f"clip{index:03d}.txt").rename(folder / f"other{index:03d}.txt")
    (folder / "clip011.txt").write_text("  \n")
    with pytest.raises(ValueError) as error:
        scan_folder(folder)
    message = str(error.value)
    assert "11 of 12 recordings have no transcript: clip000.wav (expected clip000.txt)" in message
    assert message.count("and 1 more") == 2 and "clip010.wav" not in message
    assert "11 transcripts have no recording: other000.txt" in message
    assert "1 transcripts are empty (no word): clip011.txt" in message


def test_empty_transcript_rejected(make_folder):
    folder = make_folder(3)
    for text in ("", " \n\t", "...", "\ufeff"):
        (folder / "clip001.txt").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"1 transcripts are empty \(no word\): clip001\.txt"):
            scan_folder(folder)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's up?", "whats up"),
        ("Hello,  WORLD!", "hello world"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "café"),
        ("well-known", "well known"),
        ("it’s", "it's"),
        ("①  ok", "1 ok"),
    ],
)
def test_split_key_equal(one, other):
    assert split_key(one) == split_key(other) != ""


@pytest.mark.parametrize(("one", "other"), [("hello", "hallo"), ("को", "का"), ("日本", "日木"), ("a b", "ab")])
def test_split_key_different(one, other):
    assert split_key(one) != split_key(other)


def test_name_some():
    assert name_some(["a"] * 10) == ", ".join(["a"] * 10)
    assert name_some([str(number) for number in range(12)]).endswith("9, and 2 more")
