"""Folders of recordings and transcripts: sound that cannot be used, other formats and names, invisible characters."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr_lightning as asr
from asr_lightning.__main__ import main
from asr_lightning.adapters.shared.style import warn_of_style
from asr_lightning.cli import lightning_cli, run_job
from asr_lightning.cli.predict import audio_files
from asr_lightning.data.audio import load
from asr_lightning.data.folder import scan_folder
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.scoring.text import basic
from tests.cases import FILES, case
from tests.server.trainer.jobs import make_job
from tests.toy_run import toy_data
from tests.unit.conftest import SENTENCES, tone, write_audio

RATE = 16_000


def clip(folder: Path, name: str, text: str, seconds: float = 0.4) -> None:
    soundfile.write(folder / f"{name}.wav", tone(seconds, RATE), RATE)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def clips(folder: Path, count: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(SENTENCES[:count], start=1):
        clip(folder, f"{number:03d}", text)
    return folder


def csvs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.csv"))


def by_command(command: str) -> Callable[[Path, Path], None]:
    def start(folder: Path, run_dir: Path) -> None:
        data = ["fit", "--data.audio_dir"] if command == "fit" else ["specialize"]
        assert main([*data, str(folder), "--model", "toy", "--run_dir", str(run_dir)]) == 2

    return start


def by_python(folder: Path, run_dir: Path) -> None:
    with pytest.raises(asr.errors.DataError, match="too short"):
        asr.specialize(folder, "toy", run_dir=run_dir, accelerator="cpu")


def by_job(folder: Path, run_dir: Path) -> None:
    """What the trainer of a server does with its assignment, in its job's folder."""
    job = make_job(run_dir.parent / "job", folder)
    with contextlib.chdir(job), pytest.raises(asr.errors.DataError, match="too short"):
        lightning_cli.run(run_job.spec_of(Assignment.read(job), resumed=False))
    assert csvs(job / "dataset") == []


@case("01_split_before_check")
def split_is_written_last(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The advice of the message works: the named recordings are moved away, and the folder is accepted."""
    folder = clips(tmp_path / "in")
    clip(folder, "102", "a click", 0.05)
    before = sorted(folder.iterdir())
    for start in (by_command("specialize"), by_command("fit"), by_python, by_job):
        start(folder, tmp_path / "run")
        assert sorted(folder.iterdir()) == before and not (tmp_path / "run").exists()
    for suffix in (".wav", ".txt"):
        (folder / f"102{suffix}").rename(tmp_path / f"102{suffix}")
    data = toy_data(folder)
    data.prepare_data()
    data.setup("fit")
    assert data.num_clips == 8
    assert csvs(folder) == ["dev_files.csv", "test_files.csv", "train_files.csv"]


@case("03_unfit_sound")
def unfit_sound_is_refused_or_put_right(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    caplog = request.getfixturevalue("caplog")
    folder, voice = clips(tmp_path / "in"), tone(0.5, RATE)[:, 0]
    soundfile.write(folder / "001.wav", np.zeros(8000), RATE)
    with pytest.raises(asr.errors.DataError, match=r"001\.wav: it is silent"):
        toy_data(folder).setup("fit")
    recognizer = asr.Recognizer(asr.adapters.ToyAdapter(), "cpu")
    with pytest.raises(ValueError, match=r"001\.wav: it is silent"):
        recognizer.transcribe(folder / "001.wav")
    soundfile.write(folder / "001.wav", np.stack([voice, -voice], axis=1), RATE)
    soundfile.write(folder / "002.wav", np.rint(voice * 2**15), RATE, subtype="FLOAT")
    soundfile.write(folder / "003.wav", np.rint(voice * 2**15).astype(np.int32), RATE, subtype="PCM_32")
    for name in ("001.wav", "002.wav", "003.wav"):
        np.testing.assert_allclose(abs(load(folder / name, RATE)), abs(voice), atol=2e-4)
        recognizer.transcribe(folder / name)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        toy_data(folder).setup("fit")
    assert "1 recordings have channels that cancel each other out" in caplog.text
    assert "2 recordings have another scale" in caplog.text and "002.wav, 003.wav" in caplog.text


@case("04_valid_audio_refused")
def content_decides_the_decoder(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    names = ["3gp_as.mp3", "aac_as.mp3", "abr_noxing.mp3", "m4a_as.mp3", "pipe.flac"]
    samples = [load(FILES / name, RATE) for name in names]
    assert all(2.85 < len(wave) / RATE < 3.0 and 0.03 < wave.std() < 0.06 for wave in samples)


@case("05_nfc_nfd")
def names_in_two_forms_of_unicode_are_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Übung 1") for form in ("NFC", "NFD"))
    folder = clips(tmp_path / "in1")
    clip(folder, decomposed, "practice")
    (folder / f"{decomposed}.txt").rename(folder / f"{composed}.txt")
    assert len(scan_folder(folder)) == 9
    with (folder / "train_files.csv").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows([("uid", "file_name", "text"), ("1", f"{composed}.wav", "practice")])
    data = toy_data(folder)
    data.setup("fit")
    assert [row.file_name for row in data.splits["train"]] == [f"{decomposed}.wav"]
    clip(folder, composed, "practice too")  # two files, on a disk that tells them apart
    if len(list(folder.glob("*bung*.wav"))) == 2:
        (folder / "train_files.csv").unlink()
        with pytest.raises(asr.errors.DataError, match=r"'U\\u0308bung 1.wav' = '\\xdcbung 1.wav'. Keep one"):
            scan_folder(folder)


@case("06_non_utf8_name")
def name_that_is_not_utf8_is_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = clips(tmp_path / "in", 7)
    for suffix in (b".wav", b".txt"):
        try:
            shutil.copy(os.fsencode(folder / "001") + suffix, os.fsencode(folder) + b"/caf\xe9" + suffix)
        except OSError:
            pytest.skip("this disk takes names in UTF-8 only")
    with pytest.raises(
        asr.errors.DataError, match=r"2 names of files are not UTF-8: caf\\xe9.txt, caf\\xe9.wav. Rename"
    ):
        toy_data(folder).prepare_data()
    strange = clips(tmp_path / "other", 3).rename(os.fsdecode(os.fsencode(tmp_path) + b"/in\xe9"))
    with pytest.raises(asr.errors.DataError, match=r"in\\xe9: the name of this folder is not UTF-8; rename it"):
        toy_data(strange).prepare_data()
    output = tmp_path / "texts.csv"
    model = tmp_path / "toy"
    asr.adapters.ToyAdapter().save(model)
    assert main(["predict", str(folder), "--model", str(model), "--output", str(output)]) == 0
    assert r"caf\xe9.wav" in output.read_text(encoding="utf-8")


@case("07_other_suffixes")
def whatever_can_be_decoded_is_a_recording(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    caplog = request.getfixturevalue("caplog")
    folder = clips(tmp_path / "in", 4)
    names = ["amr.amr", "wma.wma", "caf.caf", "3gp.3gp"]
    shutil.copy(FILES / "001.amr", folder / names[0])
    shutil.copy(FILES / "002.wma", folder / names[1])
    soundfile.write(folder / names[2], tone(0.5, RATE), RATE, format="CAF")
    write_audio(folder / names[3], 0.5)
    for name in names:
        (folder / name).with_suffix(".txt").write_text(f"words of {name}")
    (folder / "._001.wav").write_bytes(b"\0\5\x16\7")  # macOS writes such files on foreign disks
    expected = sorted([*names, *(f"00{number}.wav" for number in range(1, 5))])
    data = toy_data(folder)
    data.setup("fit")
    assert sorted(row.file_name for rows in data.splits.values() for row in rows) == expected
    assert sorted(path.name for path in audio_files([folder])) == expected
    shutil.copy(FILES / "001.amr", folder / "005.phone")
    (folder / "005.txt").write_text("another one")
    with caplog.at_level(logging.WARNING):
        assert sorted(path.name for path in audio_files([folder])) == expected
        assert "1 files hold sound and are not read" in caplog.text and "005.phone" in caplog.text
        with pytest.raises(asr.errors.DataError, match=r"no recording: 005.txt \(005.phone is not read\)"):
            scan_folder(folder)


@case("12_invisible_chars")
def invisible_characters_are_left_out(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    caplog = request.getfixturevalue("caplog")
    folder, text = clips(tmp_path / "in"), "My brother\u200b drives to work on Thurs\u00addays."
    (folder / "005.txt").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        data = toy_data(folder)
        data.setup("fit")
    texts = {row.uid: row.text for rows in data.splits.values() for row in rows}
    assert texts["005"] == "My brother drives to work on Thursdays."
    assert basic(texts["005"]) == "my brother drives to work on thursdays"
    assert "1 transcripts hold characters that nobody sees" in caplog.text
    assert "005.txt (ZERO WIDTH SPACE, SOFT HYPHEN)" in caplog.text
    assert (folder / "005.txt").read_text(encoding="utf-8") == text  # the user's file stays as it is


@case("14_caps_no_warning")
def capitals_are_warned_of(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """That Whisper's and Moonshine's collators ask is in their own tests, with their tokenizers."""
    caplog = request.getfixturevalue("caplog")
    cased = set("abcABC.,")
    with caplog.at_level(logging.WARNING):
        warn_of_style([text.upper().strip("?") for text in SENTENCES], cased)
        assert "12 of 12 transcripts are in capitals only" in caplog.text
        assert "this model writes punctuation and" in caplog.text
        caplog.clear()
        warn_of_style([f"{text.capitalize()}." for text in SENTENCES], cased)
        warn_of_style([text.upper() for text in SENTENCES], set("ABC"))
        warn_of_style(["दरवाज़ा खोलो", "开门"], cased)
    assert caplog.text == ""
