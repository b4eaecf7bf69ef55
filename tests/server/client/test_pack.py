"""Packing gives a small archive with always the same bytes, is complete, and changes nothing in the user's folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_lightning.client.pack import pack
from tests.server.client.folders import TEXTS, make_folder
from tests.unit.conftest import write_audio

HEADER = "uid,file_name,text\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "clips")


def members(archive: Path) -> dict[str, bytes]:
    """The content of an archive by name."""
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def state(folder: Path) -> dict[str, tuple[str, int]]:
    """The hash and the time of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_clips_become_16_khz_mono_flac(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar.gz")
    files = members(tmp_path / "a.tar.gz")
    assert sorted(files) == sorted(f"{uid}.{kind}" for uid in "abcd" for kind in ("flac", "txt"))
    for uid in "abcd":
        info = soundfile.info(io.BytesIO(files[f"{uid}.flac"]))
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.duration == pytest.approx(0.3, abs=0.01)
    assert files["a.txt"].decode() == f"{TEXTS[0]}\n"
    own, _ = soundfile.read(folder / "a.wav", dtype="int16")
    sent, _ = soundfile.read(io.BytesIO(files["a.flac"]), dtype="int16")
    assert np.abs(own.astype(int) - sent.astype(int)).max() <= 1


def test_equal_folders_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    first = pack(folder, tmp_path / "first.tar.gz")
    for path in folder.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    folder = folder.rename(tmp_path / "renamed")
    assert pack(folder, tmp_path / "second.tar.gz") == first
    assert (tmp_path / "first.tar.gz").read_bytes() == (tmp_path / "second.tar.gz").read_bytes()
    (folder / "a.txt").write_text("something else\n")
    assert pack(folder, tmp_path / "third.tar.gz") != first


def test_nothing_of_the_user_is_altered_or_told(folder: Path, tmp_path: Path) -> None:
    (folder / ".DS_Store").write_text("x")
    (folder / "notes.md").write_text("private")
    before = state(folder)
    pack(folder, tmp_path / "a.tar.gz")
    assert state(folder) == before
    assert not {".DS_Store", "notes.md"} & members(tmp_path / "a.tar.gz").keys()
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        for member in tar.getmembers():
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
    raw = (tmp_path / "a.tar.gz").read_bytes()
    assert raw[3] == 0 and raw[4:8] == b"\0\0\0\0"  # no name, no time: RFC 1952


def test_a_whole_split_is_sent_as_it_is(folder: Path, tmp_path: Path) -> None:
    """Recordings that it does not list are not sent, and its texts override those of the text files."""
    (folder / "sub").mkdir()
    write_audio(folder / "sub" / "e.wav", 0.3)
    (folder / "train_files.csv").write_text(f'{HEADER}1,a.wav,"well, other text"\n5,sub/e.wav,from below\n')
    (folder / "dev_files.csv").write_text(f"\ufeff{HEADER.replace(',', ';')}2;b.flac;{TEXTS[1]}\n", encoding="utf-8")
    (folder / "test_files.csv").write_text(f"{HEADER}3,c.ogg,{TEXTS[2]}\n")
    pack(folder, tmp_path / "a.tar.gz")
    files = members(tmp_path / "a.tar.gz")
    assert "d.flac" not in files
    assert files["train_files.csv"].decode() == f'{HEADER}1,a.flac,"well, other text"\n5,e.flac,from below\n'
    assert files["dev_files.csv"].decode() == f"{HEADER}2,b.flac,{TEXTS[1]}\n"
    assert files["a.txt"] == b"well, other text\n"
    assert files["e.txt"] == b"from below\n"


def test_a_part_of_a_split_leaves_the_rest_to_the_server(folder: Path, tmp_path: Path) -> None:
    (folder / "test_files.csv").write_text(f"{HEADER}3,c.ogg,{TEXTS[2]}\n")
    pack(folder, tmp_path / "a.tar.gz")
    files = members(tmp_path / "a.tar.gz")
    assert "train_files.csv" not in files
    assert {f"{uid}.flac" for uid in "abcd"} <= files.keys()


def test_uids_in_any_script(tmp_path: Path) -> None:
    names = ("ä ö.wav", "日本語.wav", "x" * 120 + ".wav", "it's.wav")
    folder = make_folder(tmp_path / "clips", names)
    pack(folder, tmp_path / "a.tar.gz")
    assert {f"{Path(name).stem}.flac" for name in names} <= members(tmp_path / "a.tar.gz").keys()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "a.txt").unlink(), r"a\.wav \(expected a\.txt\)"),
        (lambda folder: (folder / "a.txt").write_text(" \n"), r"transcripts are empty \(no word\): a\.txt"),
        (lambda folder: (folder / "b.flac").write_bytes(b""), r"b\.flac: the file is empty .*record it again"),
        (lambda folder: (folder / "B.WAV").write_bytes(b"x"), r"belong to more than one file"),
        (lambda folder: (folder / "dev_files.csv").write_text("uid;text\n"), r"dev_files\.csv: line 1 must be the hea"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], r"clips: no audio file in this folder"),
    ],
    ids=["no-text", "empty-text", "empty-audio", "two-of-one-name", "bad-csv", "empty"],
)
def test_bad_folders_are_refused_with_the_file(folder: Path, tmp_path: Path, spoil, message: str) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        pack(folder, tmp_path / "a.tar.gz")


def test_all_damaged_clips_are_named(folder: Path, tmp_path: Path) -> None:
    for name in ("a.wav", "d.wav"):
        (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"2 recordings cannot be used:\n.*a\.wav: it is cut off.*\n.*d\.wav"):
        pack(folder, tmp_path / "a.tar.gz")


def test_one_name_from_two_folders_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "sub").mkdir()
    write_audio(folder / "sub" / "A.wav", 0.3)
    (folder / "train_files.csv").write_text(f"{HEADER}5,sub/A.wav,from below\n")
    with pytest.raises(ValueError, match=r"one name in the archive: (a\.wav and sub/A\.wav|sub/A\.wav and a\.wav)"):
        pack(folder, tmp_path / "a.tar.gz")


def test_the_intake_takes_what_was_packed(tmp_path: Path) -> None:
    """The real intake, in its own process, with unusual names and one of the CSVs of a split."""
    folder = make_folder(tmp_path / "clips", ("ä ö.wav", "日本語.wav", "x" * 120 + ".wav", "it's.wav"))
    (folder / "test_files.csv").write_text(f"{HEADER}7,日本語.wav,{TEXTS[1]}\n", encoding="utf-8")
    job = tmp_path / "job"
    (job / "input").mkdir(parents=True)
    pack(folder, job / "input" / "archive.tar.gz")
    subprocess.run([sys.executable, "-m", "asr_lightning.server.intake", str(job)], check=True, timeout=60)
    verdict = json.loads((job / "intake.json").read_text())
    assert (verdict["ok"], verdict["utterances"]) == (True, 4)
    assert [issue for issue in verdict["issues"] if issue["level"] == "E"] == []
    assert TEXTS[1] in (job / "dataset" / "test_files.csv").read_text()
