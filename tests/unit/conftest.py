"""Fixtures with real recordings in every format, which soundfile writes where it can, and PyAV otherwise."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

SENTENCES = [
    "turn on the kitchen light",
    "call my sister",
    "What's the weather like today?",
    "open the window",
    "play the next song",
    "I would like some tea",
    "set a timer for ten minutes",
    "where are my keys",
    "read the news",
    "good night",
    "lock the front door",
    "find a recipe for soup",
]
PYAV_CODECS = {".m4a": "aac", ".mp4": "aac", ".aac": "aac", ".webm": "libopus", ".3gp": "aac"}
SUBTYPES = {".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}


def tone(seconds: float, sample_rate: int, channels: int = 1, pitch: float = 220.0) -> np.ndarray:
    """Make a voiced sound with pauses and a little noise, ``[T, channels]``."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    wave = 0.3 * np.sin(2 * np.pi * pitch * time) * (np.sin(2 * np.pi * 2 * time) > -0.5)
    noise = 0.001 * np.random.default_rng(0).standard_normal(len(time))
    return np.repeat((wave + noise)[:, None], channels, axis=1).astype(np.float32)


def write_audio(path: Path, seconds: float = 0.5, sample_rate: int = 16_000, channels: int = 1, pitch=220.0) -> Path:
    """Write a recording in the format that the suffix of ``path`` names."""
    samples = tone(seconds, sample_rate, channels, pitch)
    suffix = path.suffix.lower()
    if suffix in PYAV_CODECS:
        _write_with_av(path, samples, sample_rate, PYAV_CODECS[suffix])
    else:
        kind, subtype = SUBTYPES.get(suffix, (None, None))
        soundfile.write(path, samples, sample_rate, format=kind, subtype=subtype)
    return path


def _write_with_av(path: Path, samples: np.ndarray, sample_rate: int, codec: str) -> None:
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        frame_format = stream.codec_context.format
        size = stream.codec_context.frame_size or 960
        resampler = av.AudioResampler(format=frame_format, layout=layout, rate=sample_rate, frame_size=size)
        source = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        source.sample_rate, source.pts, source.time_base = sample_rate, 0, Fraction(1, sample_rate)
        for frame in [*resampler.resample(source), *resampler.resample(None)]:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(name="write_audio")
def _write_audio() -> Callable[..., Path]:
    return write_audio


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that fills an audio folder with ``num`` short wav recordings of different lengths."""

    def make(num: int = 12, name: str = "audio", texts: list[str] | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for index in range(num):
            write_audio(folder / f"clip{index:03d}.wav", 0.4 + 0.05 * (index * 7 % 11), 8000, pitch=150 + 10 * index)
            text = texts[index] if texts else f"{SENTENCES[index % len(SENTENCES)]} {index // len(SENTENCES)}"
            (folder / f"clip{index:03d}.txt").write_text(text + "\n", encoding="utf-8")
        return folder

    return make


@pytest.fixture
def mixed_folder(tmp_path: Path) -> Path:
    """Twelve recordings as phones, browsers and recorders write them: 8-48 kHz, mono and stereo, any suffix case."""
    kinds = [".wav", ".WAV", ".mp3", ".ogg", ".opus", ".flac", ".m4a", ".webm", ".mp4", ".aiff", ".aac", ".3gp"]
    rates = [8000, 48_000, 44_100, 22_050, 48_000, 16_000, 44_100, 48_000, 16_000, 32_000, 24_000, 16_000]
    folder = tmp_path / "mixed ünïcode"
    folder.mkdir()
    for index, (kind, rate) in enumerate(zip(kinds, rates, strict=True)):
        write_audio(folder / f"rec {index:02d}.é{kind}", 0.4 + 0.1 * index, rate, channels=1 + index % 2)
        (folder / f"rec {index:02d}.é.txt").write_text(SENTENCES[index], encoding="utf-8")
    (folder / ".hidden.wav").write_bytes(b"no sound")
    (folder / "notes.md").write_text("not a recording")
    return folder
