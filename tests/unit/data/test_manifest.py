from __future__ import annotations

import codecs

import pytest

from asr_lightning.data.manifest import Entry, read_manifest, write_manifests
from asr_lightning.data.rows import Row

ROWS = (
    Row("a", "clip000.wav", 'she said "yes", twice'),
    Row("ü 1", "clip001.wav", "grüße; aus köln"),
    Row("=cmd", "clip002.wav", "'quoted'"),
)


def test_written_rows_read_back(make_folder):
    folder = make_folder(3)
    write_manifests(folder, {"train": ROWS[:2], "dev": ROWS[2:]})
    entries = read_manifest(folder / "train_files.csv", folder)
    assert tuple(entry.row for entry in entries) == ROWS[:2]
    assert entries[1] == Entry(ROWS[1], "train_files.csv", 3) and entries[1].place == "train_files.csv line 3"
    assert (folder / "dev_files.csv").read_text(encoding="utf-8").startswith("uid,file_name,text\n=cmd,")
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    "raw",
    [
        b"uid,file_name,text\na,clip000.wav,one two\n",
        b"uid,file_name,text\r\na,clip000.wav,one two\r\n\r\n",
        codecs.BOM_UTF8 + b"uid,file_name,text\na,clip000.wav,one two",
        b'"uid","file_name","text"\n"a","clip000.wav","one two"\n',
        b"uid;file_name;text\na;clip000.wav;one two\n",
        b"uid\tfile_name\ttext\na\tclip000.wav\tone two\n",
        "uid\tfile_name\ttext\na\tclip000.wav\tone two\n".encode("utf-16"),
        b'UID, file_name, text\n a , clip000.wav ,"one\n two"\n',
        b"uid,file_name,text\na,./clip000.wav,one two\n",
    ],
)
def test_dialects(make_folder, raw):
    folder = make_folder(1)
    (folder / "dev_files.csv").write_bytes(raw)
    (entry,) = read_manifest(folder / "dev_files.csv", folder)
    assert (entry.row.uid, entry.row.text, entry.line) == ("a", "one two", 2)
    assert entry.row.file_name == "clip000.wav"


def test_every_bad_line_is_named(make_folder):
    folder = make_folder(2)
    lines = [
        "uid,file_name,text",
        "a,clip000.wav,one",
        "b,clip001.wav",
        "",
        'c,clip001.wav,"two\nlines"',
        "d,x.wav,four",
    ]
    (folder / "dev_files.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError) as error:
        read_manifest(folder / "dev_files.csv", folder)
    message = str(error.value)
    assert "2 bad lines" in message and "dev_files.csv line 3: 2 fields instead of 3" in message
    assert "dev_files.csv line 7: there is no file 'x.wav'" in message


def test_subfolders_and_links_are_the_users_own_decision(make_folder, write_audio, tmp_path):
    folder = make_folder(1)
    (folder / "sub").mkdir()
    write_audio(folder / "sub" / "b.wav")
    (folder / "c.wav").symlink_to(write_audio(tmp_path / "elsewhere.wav"))
    (folder / "dev_files.csv").write_text("uid,file_name,text\nb,sub/b.wav,one\nc,c.wav,two\n")
    assert len(read_manifest(folder / "dev_files.csv", folder)) == 2


def test_nothing_is_overwritten_and_nothing_half_written(make_folder):
    folder = make_folder(3)
    (folder / "dev_files.csv").write_text("mine")
    with pytest.raises(FileExistsError):
        write_manifests(folder, {"train": ROWS[:2], "dev": ROWS[2:]})
    assert (folder / "dev_files.csv").read_text() == "mine"
    assert not (folder / "train_files.csv").exists() and not list(folder.glob(".*"))
