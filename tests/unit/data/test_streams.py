"""Long recordings are decoded block by block to the samples that decoding them whole gives."""

from __future__ import annotations

import io
import logging
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from asr_lightning.data import audio, streams

RATE = 16_000
SECONDS = 4.0


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SCALE_SECONDS", 0.5)


def sound(rate: int = RATE, channels: int = 1) -> np.ndarray:
    time = np.arange(round(SECONDS * rate)) / rate
    return np.stack([0.3 * np.sin(2 * np.pi * (300 + 50 * n) * time * (1 + time / 9)) for n in range(channels)], axis=1)


def write(path: Path, rate: int, channels: int) -> Path:
    samples = sound(rate, channels)
    if path.suffix not in (".m4a", ".webm"):
        soundfile.write(path, samples, rate)
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac" if path.suffix == ".m4a" else "libopus", rate=rate)
        layout = "mono" if channels == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32).T.copy(), format="fltp", layout=layout)
        frame.sample_rate = rate
        stream.layout = layout
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


FORMATS = [
    ("a.wav", RATE, 1), ("a.wav", 44_100, 2), ("a.flac", 48_000, 2), ("a.ogg", RATE, 1), ("a.mp3", 44_100, 2),
    ("a.m4a", 48_000, 1), ("a.webm", 48_000, 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rate", "channels"), FORMATS)
def test_blocks_give_what_the_whole_gives(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    path = write(tmp_path / name, rate, channels)
    whole = audio.load(path, RATE)
    found = list(streams.blocks(path, RATE))
    assert len(found) > 1
    np.testing.assert_allclose(np.concatenate(found), whole, atol=2e-3)
    assert streams.seconds_of(path) == pytest.approx(len(whole) / RATE, abs=0.1)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.webm"])
def test_a_pipe_gives_what_the_file_gives(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 48_000, 1)

    class Pipe(io.RawIOBase):
        """It cannot be asked for a place, and gives few bytes at once."""

        content = io.BytesIO(path.read_bytes())

        def read(self, size: int = -1) -> bytes:
            return self.content.read(min(size, 1000) if size >= 0 else size)

    found = np.concatenate(list(streams.piped_blocks(Pipe(), "stdin", RATE)))
    whole = audio.load(path, RATE)
    np.testing.assert_allclose(found[: len(whole) - 200], whole[: len(found)][: len(whole) - 200], atol=3e-3)


def test_a_pipe_without_sound_says_what_to_send() -> None:
    with pytest.raises(audio.AudioError, match="stdin: nothing comes through it; send a WAV"):
        list(streams.piped_blocks(io.BytesIO(b""), "stdin", RATE))
    with pytest.raises(audio.AudioError, match="is not audio of a known format"):
        list(streams.piped_blocks(io.BytesIO(b"x" * 9000), "stdin", RATE))


def test_channels_and_scale_are_put_right_as_in_short_recordings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    voice = sound()[:, 0]
    soundfile.write(tmp_path / "inverted.wav", np.stack([voice, -voice], axis=1), RATE)
    soundfile.write(tmp_path / "scaled.wav", np.rint(voice * 2**15), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "int32.wav", np.rint(voice * 2**15).astype(np.int32), RATE, subtype="PCM_32")
    with caplog.at_level(logging.WARNING):
        for name in ("inverted.wav", "scaled.wav", "int32.wav"):
            found = np.concatenate(list(streams.blocks(tmp_path / name, RATE)))
            np.testing.assert_allclose(abs(found), abs(voice), atol=2e-4)
    assert caplog.text.count("cancel each other out") == 1


def test_a_quiet_part_keeps_its_scale(tmp_path: Path) -> None:
    """By itself, a part of a recording of 32 bits may look like 16-bit values in too large a format."""
    random = np.random.default_rng(0)
    quiet = random.integers(-(2**12), 2**12, 3 * RATE)
    loud = (sound()[:, 0] * 2**31).astype(np.int64)
    samples = np.concatenate([loud, quiet]).astype(np.int32)
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_32")
    found = np.concatenate(list(streams.blocks(tmp_path / "a.wav", RATE)))
    assert abs(found[-2 * RATE :]).max() < 1e-5


def test_what_is_damaged_is_read_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", RATE, 1)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4 :] = bytes(len(content) - len(content) * 3 // 4)
    path.write_bytes(content)
    read, error = 0, None
    try:
        for block in streams.blocks(path, RATE):
            read += len(block)
    except audio.AudioError as found:
        error = found
    assert read >= 0.5 * SECONDS * RATE and error is not None and "damaged" in str(error)


def test_only_long_recordings_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WHOLE", 3 * RATE)
    assert streams.is_long(write(tmp_path / "a.wav", RATE, 1)) and streams.is_long(write(tmp_path / "a.m4a", 48_000, 1))
    soundfile.write(tmp_path / "b.wav", sound()[: 2 * RATE], RATE)
    (tmp_path / "c.wav").write_bytes(b"no sound")
    assert not any(streams.is_long(tmp_path / name) for name in ("b.wav", "c.wav", "nowhere.wav"))


def test_the_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8_000, 1, subtype="PCM_U8") as file:
        for _ in range(60):
            file.write(np.tile(sound(8_000)[:, 0], 15))
    assert streams.is_long(path) and streams.seconds_of(path) == 3600
    tracemalloc.start()
    try:
        count = sum(len(block) for block in streams.blocks(path, RATE))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3600 * RATE and peak < 20e6, "the whole is 230 MB"
