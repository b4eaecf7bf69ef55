"""The content of a file decides how it is read, and only a length that its header states can be missed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from asr_lightning.data.audio import AUDIO_SUFFIXES, AudioError, TooLongError, decode
from asr_lightning.data.formats import FORMATS, format_of, mp3_seconds
from tests.unit.conftest import tone, write_audio

SECONDS, RATE = 1.0, 16_000
CODECS = {  # what FFmpeg can write; soundfile writes the others
    ".amr": ("libopencore_amrnb", "amr", 8000), ".wma": ("wmav2", "asf", 44_100), ".caf": ("alac", "caf", 16_000),
    ".3gp": ("libopencore_amrnb", "3gp", 8000), ".mka": ("flac", "matroska", 16_000), ".avi": ("mp2", "avi", 16_000),
    ".mov": ("pcm_s16le", "mov", 16_000), ".wv": ("wavpack", "wv", 16_000), ".tta": ("tta", "tta", 16_000),
    ".ac3": ("ac3", "ac3", 48_000), ".eac3": ("eac3", "eac3", 48_000), ".mp2": ("mp2", "mp2", 16_000),
    ".wav": ("adpcm_ms", "wav", 16_000), ".flv": ("libmp3lame", "flv", 44_100), ".weba": ("libopus", "webm", 48_000),
}  # fmt: skip


def by_ffmpeg(path: Path, suffix: str, seconds: float = SECONDS, **options: str) -> Path:
    """Write a recording as ``CODECS`` says."""
    codec, container, rate = CODECS[suffix] if suffix in CODECS else ("libmp3lame", suffix[1:], 44_100)
    with av.open(str(path), "w", format=container, options=options) as target:
        stream = target.add_stream(codec, rate=rate, layout="mono")
        context = stream.codec_context
        context.bit_rate = 64_000
        resampler = av.AudioResampler(context.format, "mono", rate, context.frame_size or 1024)
        samples = np.ascontiguousarray(tone(seconds, rate).T)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            target.mux(stream.encode(piece))
        target.mux(stream.encode(None))
    return path


def seconds_of(path: Path) -> float:
    samples, rate = decode(path)
    assert 0.2 < abs(samples).max() < 0.5
    return len(samples) / rate


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("name", ["a{}", "a.mp3", "a.wav"])
def test_content_decides_whatever_the_name(tmp_path: Path, suffix: str, name: str) -> None:
    path = by_ffmpeg(tmp_path / name.format(suffix), suffix)
    assert suffix in AUDIO_SUFFIXES
    assert seconds_of(path) == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("suffix", [".m4a", ".webm", ".3gp", ".aac", ".opus", ".flac", ".wav"])
def test_other_formats_named_mp3(tmp_path: Path, suffix: str) -> None:
    path = write_audio(tmp_path / f"a{suffix}", SECONDS, 48_000).rename(tmp_path / "a.mp3")
    assert seconds_of(path) == pytest.approx(SECONDS, abs=0.1)


def test_every_suffix_belongs_to_a_format_that_ffmpeg_has() -> None:
    for known in FORMATS:
        assert known.suffixes and known.name in av.formats_available
    assert {".wav", ".mp3", ".amr", ".wma", ".caf", ".3gp", ".dss"} <= AUDIO_SUFFIXES
    assert not {".txt", ".csv", ".m3u8", ".jpg", ".md"} & AUDIO_SUFFIXES


@pytest.mark.parametrize("content", [b"", b"words", b"\xff", b"\xff\xfe\x00", b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"\0" * 99])
def test_other_content_has_no_format(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp3").write_bytes(content)
    assert format_of(tmp_path / "a.mp3") is None


def sized(raw: bytes, at: int, size: int, width: int = 4) -> bytes:
    return raw[:at] + size.to_bytes(width, "little") + raw[at + width :]


@pytest.mark.parametrize("riff", [0, 36, 8])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM"])
def test_wav_of_a_recorder_that_crashed(tmp_path: Path, riff: int, subtype: str) -> None:
    """Its sizes are still those that were written when it began."""
    soundfile.write(tmp_path / "a.wav", tone(SECONDS, RATE), RATE, subtype=subtype)
    raw = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(sized(sized(raw, 4, riff), raw.index(b"data") + 4, 0))
    assert seconds_of(tmp_path / "a.wav") == pytest.approx(SECONDS, abs=0.1)
    (tmp_path / "a.wav").write_bytes(sized(sized(raw[: raw.index(b"data") + 8], 4, riff), raw.index(b"data") + 4, 0))
    with pytest.raises(AudioError, match="it holds no sound"):
        decode(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [2**64 - 1, 0])
def test_caf_of_unknown_size(tmp_path: Path, size: int) -> None:
    soundfile.write(tmp_path / "a.caf", tone(SECONDS, RATE), RATE, format="CAF")
    raw = (tmp_path / "a.caf").read_bytes()
    (tmp_path / "a.caf").write_bytes(sized(raw, raw.index(b"data") + 4, size, 8))
    assert seconds_of(tmp_path / "a.caf") == pytest.approx(SECONDS, abs=0.1)


@pytest.fixture
def streamed(tmp_path: Path) -> Path:
    """A FLAC that was written to a pipe, so that its header states no length."""
    path = write_audio(tmp_path / "a.flac", 4.0, 44_100)
    raw = bytearray(path.read_bytes())
    raw[21] &= 0xF0
    raw[22:26] = bytes(4)
    path.write_bytes(raw)
    return path


def test_flac_of_unknown_length(streamed: Path) -> None:
    assert seconds_of(streamed) == 4.0
    with pytest.raises(TooLongError):
        decode(streamed, max_samples=100_000)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing piece"])
@pytest.mark.parametrize("states_length", [True, False])
def test_damaged_flac_loses_nothing_silently(tmp_path: Path, streamed: Path, damage: str, states_length: bool) -> None:
    path = write_audio(tmp_path / "b.flac", 4.0, 44_100) if states_length else streamed
    raw = path.read_bytes()
    half = len(raw) // 2
    changed = bytes(byte ^ 0xFF for byte in raw[half : half + 50])
    rest = {"cut": b"", "changed": changed + raw[half + 50 :], "missing piece": raw[half + 5000 :]}[damage]
    path.write_bytes(raw[:half] + rest)
    with pytest.raises(AudioError, match="it is (damaged|cut off)"):
        decode(path)


@pytest.mark.parametrize("suffix", [".wma", ".caf", ".mka", ".mov", ".tta"])
def test_stated_length_is_missed(tmp_path: Path, suffix: str) -> None:
    path = by_ffmpeg(tmp_path / f"a{suffix}", suffix, 4.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="cut off"):
        decode(path)


@pytest.mark.parametrize("options", [{"write_xing": "0"}, {"write_xing": "0", "id3v2_version": "0"}, {}])
def test_mp3_states_a_length_only_in_its_first_frame(tmp_path: Path, options: dict[str, str]) -> None:
    """The first frame is of silence, so decoders that guess by its bit rate expect a much longer file."""
    path = by_ffmpeg(tmp_path / "a.mp3", ".mp3", 3.0, **options)
    assert mp3_seconds(path) == (0 if options else pytest.approx(3.0, abs=0.1))
    assert seconds_of(path) == pytest.approx(3.0, abs=0.1)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if options:
        assert seconds_of(path) == pytest.approx(1.5, abs=0.2)  # nothing was stated, so nothing is known to be missing
    else:
        with pytest.raises(AudioError, match="it is cut off: 1"):
            decode(path)


def test_length_that_vbri_states(tmp_path: Path) -> None:
    """Made by hand, since only Fraunhofer's encoder writes it."""
    frame = bytearray(b"\xff\xfb\x90\x00" + bytes(413))
    frame[36:40], frame[50:54] = b"VBRI", (1000).to_bytes(4, "big")
    (tmp_path / "a.mp3").write_bytes(frame)
    assert mp3_seconds(tmp_path / "a.mp3") == pytest.approx(1000 * 1152 / 44_100)


@pytest.mark.parametrize("suffix", [".mp3", ".aac", ".flac"])
def test_tags_before_the_sound(tmp_path: Path, suffix: str) -> None:
    path = write_audio(tmp_path / f"a{suffix}", SECONDS, 44_100)
    tag = b"ID3\4\0\0\0\0\x07\x68" + bytes(1000)
    path.write_bytes(tag + path.read_bytes())
    assert seconds_of(path) == pytest.approx(SECONDS, abs=0.1)


def test_mp3_that_begins_with_something_else(tmp_path: Path) -> None:
    path = by_ffmpeg(tmp_path / "a.mp3", ".mp3", id3v2_version="0")
    path.write_bytes(bytes(1500) + path.read_bytes())
    assert seconds_of(path.rename(tmp_path / "a.bin")) == pytest.approx(SECONDS, abs=0.1)
