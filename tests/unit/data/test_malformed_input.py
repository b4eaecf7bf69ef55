"""Malformed input that users may have gives a clear error each time, and none of their files is changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.datamodules.augment import Augmentation
from asr_lightning.errors import DataError
from asr_lightning.types import AudioLimits

HEADER = "uid,file_name,text\n"


def wav(path: Path, seconds: float = 0.5) -> None:
    time = np.arange(round(seconds * 8000)) / 8000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 220 * time), 8000)


def clip(folder: Path, uid: str, text: str | bytes | None = None, seconds: float = 0.5, suffix: str = ".wav") -> None:
    wav(folder / f"{uid}{suffix}", seconds)
    if text is not None:
        (folder / f"{uid}.txt").write_bytes(text.encode() if isinstance(text, str) else text)


def good(folder: Path, num: int = 4) -> Path:
    folder.mkdir()
    for index in range(num):
        clip(folder, f"g{index}", f"good text {index}")
    return folder


def with_clip(uid: str = "bad", **options: Any) -> Callable[[Path], Any]:
    return lambda folder: clip(good(folder), uid, **options)


def with_file(name: str, content: bytes | str) -> Callable[[Path], Any]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (good(folder) / name).write_bytes(raw)


def csv(*lines: str, header: str = HEADER) -> Callable[[Path], Any]:
    return with_file("dev_files.csv", header + "\n".join(lines) + "\n")


def both(first: Callable[[Path], Any], then: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: (first(folder), then(folder))


def bad_audio(raw: bytes) -> Callable[[Path], Any]:
    return both(with_clip(text="words"), lambda folder: (folder / "bad.wav").write_bytes(raw))


def cut_off(folder: Path) -> None:
    clip(good(folder), "bad", "words", 3.0)
    raw = (folder / "bad.wav").read_bytes()
    (folder / "bad.wav").write_bytes(raw[: len(raw) // 2])


def texts(*values: str) -> Callable[[Path], Any]:
    def build(folder: Path) -> None:
        folder.mkdir()
        for index, text in enumerate(values):
            clip(folder, f"c{index}", text)

    return build


def nan(folder: Path) -> None:
    with_clip(text="words")(folder)
    soundfile.write(folder / "bad.wav", np.full(4000, np.nan), 8000, subtype="FLOAT")


def two_csvs(folder: Path) -> None:
    csv("g0,g0.wav,one")(folder)
    (folder / "train_files.csv").write_text(HEADER + "g0,g1.wav,two\n")


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "folder missing": (lambda folder: None, r"there is no such audio folder"),
    "folder is a file": (lambda folder: folder.write_text("x"), r"this is a file; name the folder"),
    "folder empty": (lambda folder: folder.mkdir(), r"no audio file in this folder; expected <UID>"),
    "only transcripts": (both(lambda f: f.mkdir(), lambda f: (f / "a.txt").write_text("a")), r"no audio file in this"),
    "only hidden audio": (both(lambda f: f.mkdir(), lambda f: wav(f / ".a.wav")), r"no audio file in this folder"),
    "audio in subfolder only": (both(lambda f: f.mkdir(), lambda f: good(f / "sub")), r"no audio file in this folder"),
    "transcript missing": (with_clip(), r"1 of 5 recordings have no transcript: bad.wav \(expected bad.txt\)"),
    "transcript in other case": (
        both(with_clip("Bad"), lambda f: (f / "bad.txt").write_text("x")),
        r"expected Bad.txt",
    ),
    "recording missing": (with_file("orphan.txt", "x"), r"1 transcripts have no recording: orphan.txt"),
    "transcript empty": (with_clip(text=""), r"1 transcripts are empty \(no word\): bad.txt"),
    "transcript blank": (with_clip(text=" \n\t\n"), r"1 transcripts are empty \(no word\): bad.txt"),
    "transcript only punctuation": (with_clip(text="?!"), r"1 transcripts are empty \(no word\): bad.txt"),
    "transcript latin-1": (with_clip(text="für".encode("latin-1")), r"bad.txt is not UTF-8 text \(byte 1\); open it"),
    "transcript UTF-16 without mark": (with_clip(text="hi".encode("utf-16-le")), r"bad.txt is not UTF-8 text.*NUL"),
    "transcript binary": (with_clip(text=bytes(range(256))), r"bad.txt is not UTF-8 text"),
    "two suffixes, one UID": (
        both(with_clip(text="x"), lambda f: wav(f / "bad.flac")),
        r"bad.flac = bad.wav. Keep one",
    ),
    "UIDs differ in case": (both(with_clip(text="x"), lambda f: clip(f, "BAD", "y")), r"BAD.wav = bad.wav"),
    "audio of 0 bytes": (bad_audio(b""), r"bad.wav: the file is empty \(0 bytes\)"),
    "audio garbage": (bad_audio(b"not a sound" * 99), r"bad.wav: it is not audio"),
    "audio without samples": (both(with_clip(text="x"), lambda f: wav(f / "bad.wav", 0)), r"bad.wav: .*0 samples"),
    "audio cut off": (cut_off, r"bad.wav: it is cut off: 1\.\d\d s of the 3.00 s"),
    "audio silent": (
        both(with_clip(text="x"), lambda f: soundfile.write(f / "bad.wav", np.zeros(4000), 8000)),
        r"bad.wav: it is silent \(all samples are equal\); record it again",
    ),
    "audio of no known scale": (
        both(with_clip(text="x"), lambda f: soundfile.write(f / "bad.wav", 50 * np.hanning(4000), 8000, "FLOAT")),
        r"bad.wav: its samples go up to 50, where full scale is 1; export it",
    ),
    "audio NaN": (nan, r"bad.wav: .*NaN"),
    "audio too short": (
        with_clip(text="x", seconds=0.05),
        r"1 recordings are too short, under 0.1 s: bad.wav \(0.05 s\)",
    ),
    "audio too long": (with_clip(text="x", seconds=3), r"1 recordings are too long.* 2 s at most: bad.wav \(3.00 s\)"),
    "one recording": (texts("a"), r"cannot make 3 splits .* out of 1 different texts in 1 recordings"),
    "one text": (texts("a", "A", "a!", " a"), r"out of 1 different texts in 4 recordings.*Record at least 3"),
    "two texts": (texts("a", "b", "a", "b"), r"out of 2 different texts in 4 recordings"),
    "CSV empty": (with_file("dev_files.csv", ""), r"dev_files.csv: line 1 must be the header 'uid,file_name,text'"),
    "CSV without rows": (csv(), r"dev_files.csv: the file lists no recording"),
    "CSV without header": (csv("g0,g0.wav,one", header=""), r"line 1 must be the header .*, but is 'g0,g0.wav,one'"),
    "CSV other header": (csv("g0.wav,one", header="file_name,transcription\n"), r"line 1 must be the header"),
    "CSV extra column": (csv("0,g0,g0.wav,one", header=",uid,file_name,text\n"), r"line 1 must be the header"),
    "CSV pipe": (csv("g0|g0.wav|one", header="uid|file_name|text\n"), r"line 1 must be the header"),
    "CSV short row": (csv("g0,g0.wav,one", "g1,g1.wav"), r"dev_files.csv line 3: 2 fields instead of 3"),
    "CSV comma in text": (
        csv("g0,g0.wav,one, two"),
        r"line 2: 4 fields instead of 3; put a text .* in quotation marks",
    ),
    "CSV open quote": (csv('g0,g0.wav,"one'), r"line 2 is no valid CSV"),
    "CSV stray quote": (csv('g0,g0.wav,"one"two'), r"line 2 is no valid CSV"),
    "CSV empty uid": (csv(",g0.wav,one"), r"line 2: uid is empty"),
    "CSV empty name and text": (csv("g0,,"), r"line 2: file_name and text is empty"),
    "CSV text without word": (csv("g0,g0.wav,..."), r"line 2: the text '...' holds no word"),
    "CSV uid twice": (
        csv("g0,g0.wav,one", "g0,g1.wav,two"),
        r"dev_files.csv line 3: uid 'g0' is already in dev_.* line 2",
    ),
    "CSV file twice": (csv("g0,g0.wav,one", "g1,./g0.wav,two"), r"line 3: file_name '\.?/?g0.wav' is already in"),
    "CSV uid in two CSVs": (two_csvs, r"dev_files.csv line 2: uid 'g0' is already in train_files.csv line 2"),
    "CSV file missing": (
        csv("x,x.wav,one"),
        r"dev_.* line 2: there is no file 'x.wav' .*; put it back, or delete this line",
    ),
    "CSV names a folder": (csv("x,.,one"), r"line 2: there is no file '\.'"),
    "CSV absolute path": (csv("x,/etc/passwd,one"), r"line 2: file_name '/etc/passwd' leads out of the folder"),
    "CSV parent path": (csv("x,../x.wav,one"), r"line 2: file_name '../x.wav' leads out of the folder"),
    "CSV hidden parent path": (csv("x,sub/../../x.wav,one"), r"line 2: .* leads out of the folder"),
    "CSV Windows path": (
        csv(r"x,C:\x.wav,one", r"y,..\x.wav,two"),
        r"2 bad lines\n.*line 2: .*\n.*line 3: .* leads out",
    ),
    "CSV endless name": (csv(f"x,{'x' * 5000},one"), r"line 2: there is no file"),
    "CSV endless field": (csv(f"g0,g0.wav,{'x' * 200_000}"), r"line 2 is no valid CSV \(field larger"),
    "CSV latin-1": (with_file("dev_files.csv", (HEADER + "g0,g0.wav,für").encode("latin-1")), r"not UTF-8 text"),
    "CSV NUL": (with_file("dev_files.csv", HEADER + "g0,g0.wav,one\0two"), r"dev_files.csv is not UTF-8 text.*NUL"),
    "CSV is a spreadsheet": (with_file("dev_files.csv", b"PK\x03\x04" + bytes(range(256))), r"not UTF-8 text"),
    "CSV is a folder": (
        lambda folder: (good(folder) / "dev_files.csv").mkdir(),
        r"dev_files.csv: this file cannot be read \(Is a directory",
    ),
    "nothing left for train": (
        csv(*(f"g{i},g{i}.wav,text {i}" for i in range(4))),
        r"cannot make 2 splits \(train, test\)",
    ),
}

OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "batch_size 0": ({"batch_size": 0}, r"batch_size must be at least 1, but is 0"),
    "eval_batch_size 0": ({"eval_batch_size": 0}, r"eval_batch_size must be at least 1, but is 0"),
    "num_workers -1": ({"num_workers": -1}, r"num_workers must be at least 0, but is -1"),
    "seed -1": ({"seed": -1}, r"seed must be at least 0, but is -1"),
    "cache_gib -1": ({"cache_gib": -1}, r"cache_gib must be at least 0"),
    "two shares": ({"shares": (0.9, 0.1)}, r"shares must be three positive numbers"),
    "shares in percent": ({"shares": (70, 20, 10)}, r"sum to 1, but are \(70, 20, 10\)"),
    "share of 0": ({"shares": (0.9, 0.1, 0.0)}, r"shares must be three positive numbers"),
    "share NaN": ({"shares": (0.9, float("nan"), 0.1)}, r"shares must be three positive numbers"),
}


def tree_hash(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_bad_folder(tmp_path, name):
    build, message = FOLDERS[name]
    folder = tmp_path / "audio"
    build(folder)
    before = tree_hash(tmp_path)
    datamodule = AudioFolderDataModule(str(folder), limits=AudioLimits(sample_rate=16_000, max_seconds=2.0))
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        datamodule.prepare_data()
        datamodule.setup("fit")
    assert type(error.value) is DataError and len(str(error.value)) < 2500
    assert tree_hash(tmp_path) == before  # no file of the user is changed, and none is made


@pytest.mark.parametrize("name", OPTIONS)
def test_bad_option(tmp_path, name):
    options, message = OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        AudioFolderDataModule(str(tmp_path), **options)


@pytest.mark.parametrize("speeds", [(), (0.0,), (-1.0,), (3.0,), (1.0333,), (float("nan"),)])
def test_bad_speeds(speeds):
    with pytest.raises(ValueError, match="speeds must be factors"):
        Augmentation(speeds=speeds)


def test_bad_silence():
    with pytest.raises(ValueError, match="must not be negative"):
        Augmentation(lead_silence_seconds=-0.1)
