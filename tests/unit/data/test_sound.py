"""Sound that cannot be used as it is: refused, put right or named, and the same for all who ask."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_lightning.data.audio import AudioError, inspect, load, read
from asr_lightning.data.folder import scan_folder
from asr_lightning.data.sound import Kind, findings, measure, warnings_of
from asr_lightning.datamodules.dataset import AudioCache
from asr_lightning.datamodules.dataset import measure as inspect_all
from asr_lightning.types import AudioLimits
from tests.unit.conftest import tone, write_audio

RATE = 16_000


def written(path: Path, samples: np.ndarray, subtype: str = "PCM_16", rate: int = RATE) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def speech(channels: int = 1) -> np.ndarray:
    return tone(0.5, RATE, channels)


def kinds(path: Path) -> set[Kind]:
    return {finding.kind for finding in inspect(path, RATE).findings}


@pytest.mark.parametrize(
    "samples",
    [np.zeros(8000), np.full(8000, 0.5), 0.009 * speech(), np.stack([np.full(8000, 0.3), np.full(8000, -0.3)], axis=1)],
    ids=["zeros", "constant", "under -50 dBFS", "two constants"],
)
def test_silence_is_refused(tmp_path: Path, samples: np.ndarray) -> None:
    path = written(tmp_path / "a.wav", samples)
    with pytest.raises(AudioError, match=r"a\.wav: it is silent \((peak -5\d dBFS|all samples are equal)\); record it"):
        load(path, RATE)


@pytest.mark.parametrize("louder", [0, 1])
@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_inverted_channel_is_left_out(tmp_path: Path, louder: int, gain: float) -> None:
    voice = speech()[:, 0]
    channels = [voice, -gain * voice] if louder == 0 else [-gain * voice, voice]
    path = written(tmp_path / "a.wav", np.stack(channels, axis=1))
    np.testing.assert_allclose(abs(read(path).samples), abs(voice), atol=1e-4)  # nobody hears the sign
    assert kinds(path) == {Kind.ONE_CHANNEL}


@pytest.mark.parametrize("other", ["the same", "silent", "another voice", "delayed"])
def test_ordinary_stereo_is_averaged(tmp_path: Path, other: str) -> None:
    voice = speech()[:, 0]
    second = {
        "the same": voice,
        "silent": np.zeros_like(voice),
        "another voice": tone(0.5, RATE, pitch=330)[:, 0],
        "delayed": np.roll(voice, 8),
    }[other]
    path = written(tmp_path / "a.wav", np.stack([voice, second], axis=1))
    np.testing.assert_allclose(read(path).samples, (voice + second) / 2, atol=1e-4)
    assert kinds(path) == set()


@pytest.mark.parametrize(
    ("factor", "whole", "subtype"),
    [
        (2**15, True, "FLOAT"),
        (2**15, False, "FLOAT"),
        (2**15, True, "DOUBLE"),
        (2**23, True, "FLOAT"),
        (2**31, True, "DOUBLE"),
    ],
)
def test_integers_in_a_file_of_fractions_are_put_right(tmp_path, factor, whole, subtype) -> None:
    samples = speech()[:, 0].astype(np.float64) * factor
    path = written(tmp_path / "a.wav", np.rint(samples) if whole else samples, subtype)
    np.testing.assert_allclose(read(path).samples, speech()[:, 0], atol=2**-15)
    assert kinds(path) == {Kind.RESCALED}


def test_values_of_16_bits_among_32_are_put_right(tmp_path: Path) -> None:
    small = np.rint(speech()[:, 0] * 2**15).astype(np.int32)
    path = written(tmp_path / "a.wav", small, "PCM_32")
    np.testing.assert_allclose(read(path).samples, speech()[:, 0], atol=2**-15)
    assert kinds(path) == {Kind.RESCALED}
    muted = 256 * np.random.default_rng(0).integers(-50, 50, 8000).astype(np.int32)  # 24 bits: noise of a muted input
    with pytest.raises(AudioError, match="it is silent"):
        load(written(tmp_path / "b.wav", muted, "PCM_32"), RATE)
    assert kinds(written(tmp_path / "c.wav", speech(), "PCM_32")) == set()


def test_unknown_scale_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", 100 * speech(), "FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: its samples go up to 30\.\d+, where full scale is 1; export"):
        read(path)


def test_loud_fractions_are_clipped_and_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", 10 * speech(), "FLOAT")
    assert abs(read(path).samples).max() == 1
    assert kinds(path) == {Kind.CLIPPED}


@pytest.mark.parametrize(
    ("samples", "rate", "kind"),
    [
        (np.clip(5 * speech(), -1, 1), RATE, Kind.CLIPPED),
        (0.012 * speech(), RATE, Kind.QUIET),
        (speech() + 0.1, RATE, Kind.OFFSET),
        (speech(), 8000, Kind.LOW_RATE),
        (speech(), RATE, None),
    ],
)
def test_doubtful_sound_is_named(tmp_path: Path, samples: np.ndarray, rate: int, kind: Kind | None) -> None:
    sound = read(written(tmp_path / "a.wav", samples, rate=rate))
    assert {finding.kind for finding in findings(measure(sound))} == ({kind} if kind else set())


def test_local_inspection_lists_all_recordings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the datamodule, and so specialize, fit and run-job, find out before training."""
    for number, samples in enumerate([speech(), 4 * speech(), 5 * speech(), np.concatenate([speech(), -speech()], 1)]):
        written(tmp_path / f"{number}.wav", np.clip(samples, -1, 1))
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    rows, limits = scan_folder(tmp_path), AudioLimits(sample_rate=RATE)
    with caplog.at_level(logging.WARNING):
        assert inspect_all(rows, AudioCache(tmp_path, RATE, 2**20), limits) == [0.5] * 4
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "2 recordings are clipped",
        "1 recordings have channels that cancel each other out",
    ]
    assert "1.wav, 2.wav" in caplog.text
    written(tmp_path / "0.wav", np.zeros(8000))
    (tmp_path / "1.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)2 recordings cannot be used:\n.*0\.wav: it is silent.*\n.*1\.wav: "):
        inspect_all(rows, AudioCache(tmp_path, RATE, 2**20), limits)


def test_nothing_is_said_of_good_recordings(tmp_path: Path) -> None:
    names = [f"a{suffix}" for suffix in (".wav", ".flac", ".mp3", ".opus", ".m4a", ".webm")]
    found = {name: inspect(write_audio(tmp_path / name, 0.5, 48_000, 2), RATE).findings for name in names}
    assert warnings_of(found) == []
