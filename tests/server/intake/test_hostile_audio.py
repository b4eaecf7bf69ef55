"""Hostile recordings: each gets an issue with its code, and the good ones beside them are used."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_lightning.data.audio import AUDIO_SUFFIXES
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.run import run
from tests.server.intake.archives import good_clips, make_job, member, tar_gz, wav_bytes
from tests.unit.conftest import write_audio

LIMITS = replace(IntakeLimits(), clip_seconds=20.0, clip_samples=1_000_000, decode_seconds=30.0)


def encoded(samples: np.ndarray, rate: int, **kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **kind)
    return buffer.getvalue()


def wav(channels=1, rate=16_000, bits=16, align=2, tag=1, fmt=16, data=None, content=b"\1\2" * 8000) -> bytes:
    """A WAV file with any header."""
    size = len(content) if data is None else data
    form = struct.pack("<4sIHHIIHH", b"fmt ", fmt, tag, channels, rate, rate * 2 % 2**32, align, bits)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", size) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def flac_claiming(frames: int) -> bytes:
    """A short FLAC file whose header announces ``frames``."""
    data = bytearray(wav_bytes(0.5, format="FLAC"))
    data[21] = data[21] & 0xF0 | frames >> 32
    data[22:26] = (frames & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def mp4_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def nested_boxes(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = mp4_box(b"moov", content)
    return mp4_box(b"ftyp", b"isom\0\0\0\0") + content


def ogg_lying() -> bytes:
    """An Ogg file whose last page claims to end at sample 2^62."""
    data = bytearray(wav_bytes(0.5, format="OGG", subtype="VORBIS"))
    at = data.rfind(b"OggS") + 6
    data[at : at + 8] = (1 << 62).to_bytes(8, "little")
    return bytes(data)


def playlists(secret: Path) -> dict[str, bytes]:
    """Texts that make FFmpeg open other files when it guesses the format."""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    sdp = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n"
    return {
        "hls one.webm": hls, "hls two.mp4": hls, "hls three.wav": hls, "sdp.aac": sdp,
        "concat one.m4a": concat, "concat two.ogg": concat,
        "behind a brand.mp4": mp4_box(b"ftyp", b"isom\0\0\0\0") + hls, "behind ebml.webm": b"\x1aE\xdf\xa3" + hls,
        "dash.webm": f"<?xml version='1.0'?><MPD><BaseURL>file://{secret}</BaseURL></MPD>".encode(),
    }  # fmt: skip


def hostile(secret: Path) -> dict[str, bytes]:
    zeros = np.zeros(25 * 8000)
    nan = encoded(np.array([0.1, np.nan] * 800), 8000, format="WAV", subtype="FLOAT")
    return {
        **playlists(secret),
        "empty.wav": b"",
        "random one.wav": np.random.default_rng(0).bytes(5000),
        "random two.mp3": b"\xff\xfb" + np.random.default_rng(1).bytes(5000),
        "random three.aac": b"\xff\xf1" + np.random.default_rng(2).bytes(5000),
        "text.flac": b"this is a transcript",
        "pickle.wav": pickle.dumps(print),
        "program.ogg": b"\x7fELF" + bytes(1000),
        "archive.opus": tar_gz(member(b"a.wav")),
        "flac bomb.flac": encoded(zeros, 8000, format="FLAC"),
        "flac channels.flac": encoded(np.zeros((150_000, 8)), 16_000, format="FLAC"),
        "vorbis bomb.ogg": encoded(zeros, 8000, format="OGG", subtype="VORBIS"),
        "opus bomb.opus": encoded(zeros, 8000, format="OGG", subtype="OPUS"),
        "mp3 bomb.mp3": encoded(zeros, 8000, format="MP3"),
        "flac claims.flac": flac_claiming(2**36 - 1),
        "ogg claims.ogg": ogg_lying(),
        "no channels.wav": wav(channels=0),
        "65535 channels.wav": wav(channels=65_535),
        "1024 channels.wav": wav(channels=1024, align=2048),
        "no rate.wav": wav(rate=0),
        "huge rate.wav": wav(rate=2**32 - 1),
        "high rate.wav": wav(rate=10**9),
        "low rate.wav": wav(rate=1000, content=b"\1\2" * 8000),
        "no bits.wav": wav(bits=0, align=0),
        "huge block.wav": wav(tag=17, align=65_535, bits=4),
        "no block.wav": wav(tag=17, align=0, bits=4),
        "gsm.wav": wav(tag=49, align=65, bits=0),
        "unknown codec.wav": wav(tag=0xABCD),
        "huge format.wav": wav(fmt=2**31),
        "cut off.wav": wav(data=2**30),
        "header only.wav": wav(content=b"", data=0),
        "not numbers.wav": nan,
        "nested.mp4": nested_boxes(3000),
        "huge box.m4a": mp4_box(b"ftyp", b"isom\0\0\0\0") + struct.pack(">I4sQ", 1, b"moov", 2**62),
        "huge tag.mp3": b"ID3\4\0\0\x7f\x7f\x7f\x7f" + b"x" * 500,
        "silent.wav": encoded(np.zeros(8000), 16_000, format="WAV"),
        "click.wav": wav_bytes(0.05),
    }


TOO_LONG = {"flac bomb.flac", "flac channels.flac", "vorbis bomb.ogg", "opus bomb.opus", "mp3 bomb.mp3"}
ANY_CODE = {"flac claims.flac", "huge rate.wav", "65535 channels.wav", "1024 channels.wav", "ogg claims.ogg"}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, dict[str, bytes]]:
    """One intake over all of them."""
    folder = tmp_path_factory.mktemp("hostile")
    secret = folder / "secret.wav"
    secret.write_bytes(wav_bytes(2))
    files = hostile(secret)
    members = [piece for name, data in files.items() for piece in (member(name.encode(), data), text_of(name))]
    job = make_job(folder / "job", tar_gz(*good_clips(), *members))
    run(job, LIMITS)
    return job, json.loads((job / "intake.json").read_text()), files


def text_of(name: str) -> bytes:
    return member(f"{Path(name).stem}.txt".encode(), f"these are the words of {name}".encode())


def test_each_is_named_with_its_code(outcome) -> None:
    _, verdict, files = outcome
    assert len(files) >= 20
    codes: dict[str, set[str]] = {}
    for issue in verdict["issues"]:
        if issue["level"] == "E":
            codes.setdefault(issue["name"], set()).add(issue["code"])
    for name in files:
        expected = {"D06"} if name in TOO_LONG else {"D03"}
        expected = {"silent.wav": {"D09"}, "click.wav": {"D07"}}.get(name, expected)
        of_file = codes.get(name)
        assert of_file == expected or (name in ANY_CODE and of_file), (name, of_file)


def test_the_good_ones_are_used(outcome) -> None:
    job, verdict, _ = outcome
    assert verdict["ok"] and verdict["utterances"] == 4
    names = json.loads((job / "dataset" / "names.json").read_text())
    assert sorted(names.values()) == [f"good{index}.wav" for index in range(4)]
    assert sorted(path.name for path in job.iterdir()) == ["dataset", "input", "intake.json", "tmp"]
    assert list((job / "tmp").iterdir()) == []


def test_messages_tell_no_path_and_no_transcript(outcome) -> None:
    job, verdict, _ = outcome
    text = json.dumps(verdict)
    assert "/dev/fd" not in text and str(job) not in text and "these are the words" not in text


KINDS = [".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".m4a", ".webm", ".aac"]


def test_mutated_recordings(tmp_path: Path) -> None:
    """Real recordings with damaged bytes: accepted or refused, but the run ends and says which."""
    assert set(KINDS) <= AUDIO_SUFFIXES
    rng = np.random.default_rng(0)
    members = []
    for kind in KINDS:
        data = write_audio(tmp_path / f"a{kind}", 0.4, 48_000).read_bytes()
        for index in range(12):
            broken = bytearray(data)
            places = rng.integers(0, min(len(data), 200) if index % 2 else len(data), 1 + index)
            for at in places:
                broken[at] = rng.integers(256)
            name = f"{kind[1:]}{index}{kind}"
            members += [member(name.encode(), bytes(broken)), text_of(name)]
    job = make_job(tmp_path / "job", tar_gz(*good_clips(), *members))
    verdict = run(job, LIMITS)
    refused = {issue.name for issue in verdict.issues if issue.level == "E"}
    assert verdict.error is None
    assert verdict.utterances + len(refused) == 4 + 12 * len(KINDS)
    assert len(refused) > 20
    for path in (job / "dataset").glob("*.wav"):
        assert soundfile.info(path).samplerate == 16_000


def test_memory_and_exit_status_of_the_real_process(tmp_path: Path) -> None:
    """A whole run with bombs: status 0, clean verdict, and neither process grows beyond what one clip may cost."""
    bomb = encoded(np.zeros((1_300_000, 8), np.int16), 48_000, format="FLAC")  # 27 s x 8 channels: 40 MB from 20 kB
    long = encoded(np.zeros(301 * 8000, np.int16), 8000, format="FLAC")
    files = {"bomb.flac": bomb, "long.flac": long, "claims.flac": flac_claiming(2**36 - 1), "none.wav": b""}
    members = [piece for name, data in files.items() for piece in (member(name.encode(), data), text_of(name))]
    job = make_job(tmp_path / "job", tar_gz(*members))
    # In a process between: what this one holds at the moment of the fork would count as the child's.
    code = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:])\n"
    code += "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    call = [sys.executable, "-c", code, sys.executable, "-m", "asr_lightning.server.intake", str(job)]
    done = subprocess.run(call, capture_output=True, text=True)
    status, most = map(int, done.stdout.split())
    assert status == 0, done.stderr
    verdict = json.loads((job / "intake.json").read_text())
    assert not verdict["ok"] and verdict["error"]["code"] == "dataset_invalid" and verdict["error"]["param"] == "data"
    assert {issue["name"]: issue["code"] for issue in verdict["issues"]} == {
        "bomb.flac": "D09", "long.flac": "D06", "claims.flac": "D06", "none.wav": "D03"
    }  # fmt: skip
    assert not (job / "dataset").exists()
    unit = 1 if sys.platform == "darwin" else 1024
    print(f"most memory: {most * unit >> 20} MiB")
    assert most * unit < 400 << 20
