"""The intake from archive to verdict: real clips, every issue, split files, restarts, a full disk, a cancellation."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from asr_lightning.data.splits import prepare_splits
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.run import CancelledError, run
from tests.cases import FILES
from tests.server.intake.archives import good_clips, make_job, member, tar_gz, wav_bytes

CLIPS = Path(__file__).parents[3] / "examples" / "german_accent" / "clips"
LIMITS = IntakeLimits()


def intake(job: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    call = [sys.executable, "-m", "asr_lightning.server.intake", str(job), *arguments]
    return subprocess.run(call, capture_output=True, text=True, **options)


def issues_of(verdict) -> dict[str, set[tuple[str, str]]]:
    issues: dict[str, set[tuple[str, str]]] = {}
    for issue in verdict.issues:
        issues.setdefault(str(issue.name), set()).add((issue.code, issue.level))
    return issues


def test_real_clips(tmp_path: Path) -> None:
    """The process, on recordings of a person: all used, texts kept, 16 kHz mono, nothing else in the job folder."""
    (tmp_path / "job" / "input").mkdir(parents=True)
    with tarfile.open(tmp_path / "job" / "input" / "archive.tar.gz", "w:gz") as archive:
        for name in sorted(path.name for path in CLIPS.glob("00[1-6].*")):
            archive.add(CLIPS / name, f"./{name}")
    job = tmp_path / "job"
    done = intake(job)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((job / "intake.json").read_text())
    assert verdict["ok"] and verdict["error"] is None and verdict["issues"] == [] and verdict["counts"] == {}
    names = json.loads((job / "dataset" / "names.json").read_text())
    assert verdict["utterances"] == len(names) == len(list(CLIPS.glob("00[1-6].ogg")))
    for uid, name in names.items():
        sound, own = soundfile.info(job / "dataset" / f"{uid}.wav"), soundfile.info(CLIPS / name)
        assert (sound.samplerate, sound.channels, sound.subtype) == (16_000, 1, "PCM_16")
        assert sound.duration == pytest.approx(own.duration, abs=0.001)
        assert (job / "dataset" / f"{uid}.txt").read_text().strip() == (CLIPS / name).with_suffix(
            ".txt"
        ).read_text().strip()
    assert verdict["seconds"] == pytest.approx(
        sum(soundfile.info(p).duration for p in CLIPS.glob("00[1-6].ogg")), abs=0.1
    )
    assert sorted(path.name for path in job.iterdir()) == ["dataset", "input", "intake.json", "tmp"]
    assert sum(map(len, prepare_splits(job / "dataset").values())) == len(names)


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, asr_lightning.server.intake.__main__, asr_lightning.server.intake.decoder\n"
    code += "print([name for name in ('torch', 'lightning', 'transformers', 'nemo') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def noisy(seconds: float, seed: int, **kind) -> bytes:
    return wav_bytes(seconds, pitch=300 + seed, **kind)


def tone_of(samples: np.ndarray, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def pair(name: str, sound: bytes, text: str | bytes | None = None, suffix: str = "wav") -> bytes:
    content = text if isinstance(text, bytes) else (text or f"words of {name} here").encode()
    return member(f"{name}.{suffix}".encode(), sound) + member(f"{name}.txt".encode(), content)


def test_every_check(tmp_path: Path) -> None:
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 300 * time)
    members = [
        *good_clips(8),
        member(b"no text.wav", noisy(0.5, 1)),
        member(b"no sound.txt", b"hello"),
        pair("latin", noisy(0.5, 2), "Müller".encode("latin-1")),
        pair("nul", noisy(0.5, 3), b"a\0b"),
        pair("utf16", noisy(0.5, 4), "Grüße aus Köln".encode("utf-16")),
        pair("bom", noisy(0.5, 5), "\ufeffgood morning all".encode()),
        pair("mojibake", noisy(0.5, 6), "GrÃ¼ÃŸe aus KÃ¶ln"),
        pair("escape", noisy(0.5, 7), "turn \x1b[31mred light"),
        pair("empty", noisy(0.5, 8), " ?! \n"),
        pair("endless", noisy(0.5, 9), "word " * 3000),
        pair("long", noisy(31, 10)),
        pair("too long", noisy(301, 11, rate=8000)),
        pair("short", noisy(0.2, 12), "hi"),
        pair("too short", noisy(0.05, 13)),
        pair("silent", wav_bytes(0.5, loudness=0.001)),
        pair("clipped", tone_of(np.clip(4 * tone, -1, 1))),
        pair("quiet", wav_bytes(0.5, loudness=0.005)),
        pair("offset", tone_of(0.3 * tone + 0.2)),
        pair("phone", noisy(0.5, 14, rate=8000)),
        pair("slow", noisy(8, 15), "a"),
        pair("inverted", tone_of(np.stack([0.3 * tone, -0.3 * tone], axis=1))),
        pair("integers", tone_of(np.rint(8000 * tone))),
        pair("no scale", tone_of(100 * tone)),
        pair("voice", (FILES / "001.amr").read_bytes(), "many words of a voice " * 4, suffix="amr"),
        pair("unseen", noisy(0.5, 19), "turn\u200b on the hall\u00adway light"),
        member(b"same.wav", noisy(0.5, 16)),
        member(b"same.flac", noisy(0.5, 17, format="FLAC")),
        member(b"same.txt", b"which one"),
        pair("copy", wav_bytes(pitch=200), "the same sound as the first"),
        pair("Upper", noisy(0.5, 18), suffix="WAV"),
        member(b"notes.md", b"not a clip"),
    ]
    job = make_job(tmp_path / "job", tar_gz(*members))
    verdict = run(job, LIMITS)
    assert verdict.error is None
    assert issues_of(verdict) == {
        "no text.wav": {("D02", "E")}, "no sound.txt": {("D01", "E")}, "latin.txt": {("D04", "E")},
        "nul.txt": {("D04", "E")}, "mojibake.txt": {("D04", "W")}, "escape.txt": {("D04", "W")},
        "empty.wav": {("D05", "E")}, "endless.wav": {("D08", "E")}, "long.wav": {("D06", "W"), ("D17", "W")},
        "too long.wav": {("D06", "E")}, "short.wav": {("D07", "W")}, "too short.wav": {("D07", "E")},
        "silent.wav": {("D09", "E")}, "clipped.wav": {("D10", "W")}, "quiet.wav": {("D11", "W")},
        "offset.wav": {("D12", "W")}, "phone.wav": {("D16", "W")}, "slow.wav": {("D17", "W")},
        "same.wav": {("D30", "E")}, "same.flac": {("D30", "E")}, "good0.wav": {("D19", "W")},
        "inverted.wav": {("D13", "W")}, "integers.wav": {("D14", "W")}, "no scale.wav": {("D03", "E")},
        "voice.amr": {("D16", "W")}, "unseen.txt": {("D04", "W")}, "notes.md": {("D29", "W")},
    }  # fmt: skip
    names = json.loads((job / "dataset" / "names.json").read_text())
    text = {name: (job / "dataset" / f"{uid}.txt").read_text() for uid, name in names.items()}
    assert text["utf16.wav"] == "Grüße aus Köln\n" and text["bom.wav"] == "good morning all\n"
    assert text["unseen.wav"] == "turn on the hallway light\n"
    assert text["escape.wav"] == "turn [31mred light\n" and "Upper.WAV" in names.values()
    left_out = {issue.name for issue in verdict.issues if issue.level == "E" and not issue.name.endswith(".txt")}
    recordings = sum(item.count(magic) for item in members for magic in (b"RIFF", b"fLaC", b"#!AMR"))
    assert len(names) + len(left_out) + 2 == recordings  # 2: the ones whose transcripts cannot be read
    assert all("left out" in issue.message for issue in verdict.issues if issue.level == "E" and issue.code != "D01")


def csv_of(*rows: tuple[str, str, str], delimiter: str = ",") -> bytes:
    return "\r\n".join(delimiter.join(row) for row in [("uid", "file_name", "text"), *rows]).encode()


def test_split_files_are_mapped(tmp_path: Path) -> None:
    """Own names, own texts, folders, delimiters: the splits of the client reach the trainer under server names."""
    members = [member(f"data/{i}.wav".encode(), noisy(0.5, i)) for i in range(6)]
    members += [member(b"data/0.txt", b"other text"), member(b"data/5.txt", b"nobody lists me")]
    lists = {
        "train": csv_of(("x", "0.wav", "red light"), ("y", "./1.wav", "green light"), ("w", "gone.wav", "white light")),
        "dev": csv_of(("z", "data/2.wav", "blue light"), delimiter=";"),
        "test": b"\xef\xbb\xbf" + csv_of(("v", "3.wav", '"black, light"'), ("u", "4.wav", "no light")),
    }
    members += [member(f"data/{split}_files.csv".encode(), data) for split, data in lists.items()]
    job = make_job(tmp_path / "job", tar_gz(*members))
    verdict = run(job, LIMITS)
    assert verdict.error is None and verdict.utterances == 5
    assert issues_of(verdict) == {"0.txt": {("D30", "W")}, "gone.wav": {("D30", "E")}, "5.wav": {("D30", "I")}}
    splits = prepare_splits(job / "dataset")
    texts = {split: [row.text for row in rows] for split, rows in splits.items()}
    assert texts == {"train": ["red light", "green light"], "dev": ["blue light"], "test": ["black, light", "no light"]}
    assert {row.uid for rows in splits.values() for row in rows} == {f"clip-{i:04d}" for i in range(1, 6)}


GOOD_ROW = ("a", "good0.wav", "one")
BAD_LISTS = {
    "no header": (b"good0.wav,secret words\n", "line 1 must be the header"),
    "no rows": (csv_of(), "lists no recording"),
    "ragged": (csv_of(("a", "good0.wav", "one, two")), "line 2 has 4 fields"),
    "quoting": (b'uid,file_name,text\na,"good0.wav"x,one\n', "line 2 is no valid CSV"),
    "not UTF-8": (b"uid,file_name,text\na,good0.wav,M\xfcller\n", "not UTF-8"),
    "twice": (csv_of(GOOD_ROW, ("b", "good0.wav", "two")), "line 3 lists the recording or the uid of .* line 2"),
    "one uid twice": (csv_of(GOOD_ROW, ("a", "good1.wav", "two")), "lists the recording or the uid"),
    "only other files": (csv_of(("a", "../etc/passwd", "one"), ("b", "/etc/passwd", "two")), "no usable recording"),
    "empty text": (csv_of(("a", "good0.wav", "")), "no usable recording"),
    "endless field": (csv_of(("a", "good0.wav", '"' + "x" * 200_000 + '"')), "no valid CSV"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_bad_split_file_is_refused(tmp_path: Path, name: str) -> None:
    content, message = BAD_LISTS[name]
    job = make_job(tmp_path / "job", tar_gz(*good_clips(), member(b"dev_files.csv", content)))
    verdict = run(job, LIMITS)
    assert verdict.error and verdict.error.code == "dataset_invalid"
    assert re.search(message, str(verdict.error)), verdict.error
    assert "secret words" not in (job / "intake.json").read_text() and not (job / "dataset").exists()


def test_leak_and_too_few_texts_are_refused(tmp_path: Path) -> None:
    train = member(b"train_files.csv", csv_of(("a", "good0.wav", "Red light!"), ("b", "good1.wav", "green light")))
    test = member(b"test_files.csv", csv_of(("c", "good2.wav", "red light")))
    verdict = run(make_job(tmp_path / "leak", tar_gz(*good_clips(5), train, test)), LIMITS)
    assert verdict.error and "also in train" in str(verdict.error)
    assert [(issue.code, issue.name) for issue in verdict.issues if issue.level == "E"] == [("D21", "good2.wav")]
    same = [pair(str(index), noisy(0.5, index), ["one", "Two", "two!"][index % 3]) for index in range(6)]
    verdict = run(make_job(tmp_path / "few", tar_gz(*same)), LIMITS)
    assert verdict.error and verdict.error.code == "dataset_invalid" and "has 2" in str(verdict.error)
    verdict = run(make_job(tmp_path / "none", tar_gz()), LIMITS)
    assert verdict.error and "no usable recording" in str(verdict.error)


def test_hash_does_not_depend_on_the_archive(tmp_path: Path) -> None:
    clips = good_clips()
    first = run(make_job(tmp_path / "a", tar_gz(*clips)), LIMITS)
    other = run(make_job(tmp_path / "b", tar_gz(member(b"./", b"", b"5"), *reversed(clips))), LIMITS)
    changed = run(make_job(tmp_path / "c", tar_gz(*clips[:-1], member(b"good3.txt", b"another text"))), LIMITS)
    assert first.sha256 == other.sha256 != changed.sha256
    assert (tmp_path / "a/dataset/names.json").read_text() == (tmp_path / "b/dataset/names.json").read_text()


def test_total_length_is_bounded(tmp_path: Path) -> None:
    verdict = run(make_job(tmp_path / "job", tar_gz(*good_clips())), replace(LIMITS, total_seconds=1.2))
    assert verdict.error and verdict.error.code == "too_large" and not (tmp_path / "job" / "dataset").exists()


def test_it_starts_over_and_leaves_planted_links_alone(tmp_path: Path) -> None:
    """Leftovers of a killed run, and links where the intake writes, cost nobody a file."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").write_text("mine")
    job = make_job(tmp_path / "job", tar_gz(*good_clips()))
    (job / "dataset").symlink_to(victim)
    (job / "tmp").symlink_to(victim)
    (job / "intake.json").symlink_to(victim / "mine")
    assert run(job, LIMITS).error is None
    (job / "tmp/intake/raw").mkdir(parents=True)
    (job / "tmp/intake/raw/000000").write_text("old")
    (job / "dataset" / "stranger.wav").write_text("old")
    assert run(job, LIMITS).error is None
    assert not (job / "dataset" / "stranger.wav").exists()
    assert [path.name for path in victim.iterdir()] == ["mine"] and (victim / "mine").read_text() == "mine"
    shutil.rmtree(job / "input")
    (job / "input").symlink_to(victim)
    with pytest.raises(OSError, match="directory|symbolic"):
        run(job, LIMITS)


def test_check_only_leaves_no_data(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", tar_gz(*good_clips()))
    assert intake(job, "--check_only").returncode == 0
    assert json.loads((job / "intake.json").read_text())["utterances"] == 4
    assert not (job / "dataset").exists()


def test_kill_and_again(tmp_path: Path) -> None:
    """A killed intake leaves no verdict, its decoder dies with it, and the next run ends well."""
    clips = [pair(str(index), noisy(20, index, rate=48_000, format="FLAC"), f"text {index}") for index in range(8)]
    job = make_job(tmp_path / "job", tar_gz(*clips))
    process = subprocess.Popen(
        [sys.executable, "-m", "asr_lightning.server.intake", str(job)], stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 20
    while len(list(job.glob("tmp/intake/dataset/*.wav"))) < 2 and time.monotonic() < until:
        time.sleep(0.002)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) == 1 and psutil.wait_procs(children, timeout=20)[1] == []
    assert not (job / "intake.json").exists() and not (job / "dataset").exists()
    assert run(job, LIMITS).utterances == 8


def test_cancel_stops_without_a_verdict(tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", tar_gz(*good_clips()))
    (job / "cancel").touch()
    with pytest.raises(CancelledError):
        run(job, LIMITS)
    done = intake(job)
    assert done.returncode == 3 and "cancelled" in done.stderr
    assert sorted(path.name for path in job.iterdir()) == ["cancel", "input", "tmp"]


@pytest.mark.parametrize("limit", [100_000, 200_000])
def test_full_disk_is_named(tmp_path: Path, limit: int) -> None:
    """A file-size limit stands for the full disk: the smaller one is hit while unpacking, the other in the decoder."""
    job = make_job(tmp_path / "job", tar_gz(pair("big", noisy(10, 1, rate=8000)), *good_clips()))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = intake(job, preexec_fn=small_files)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((job / "intake.json").read_text())
    assert verdict["error"]["code"] == "disk_full" and not (job / "dataset").exists()
    assert list((job / "tmp").iterdir()) == []


def test_issue_list_is_bounded_and_printable(tmp_path: Path) -> None:
    """The worst come first, the rest is counted; names hold no character that a terminal obeys."""
    others = [member(f"x\u202e\u200b{index}.md".encode()) for index in range(250)]
    job = make_job(tmp_path / "job", tar_gz(*good_clips(), *others, member(b"alone.txt", b"hello")))
    run(job, LIMITS)
    verdict = json.loads((job / "intake.json").read_text())
    assert verdict["ok"] and len(verdict["issues"]) == 200 and verdict["counts"] == {"D01": 1, "D29": 250}
    assert verdict["issues"][0]["code"] == "D01" and "\u202e" not in (job / "intake.json").read_text()
