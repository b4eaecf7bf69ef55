from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_lightning.data import decoders
from asr_lightning.data.audio import AUDIO_SUFFIXES, AudioError, TooLongError, decode, load

FORMATS = [
    (".wav", 8000, 1),
    (".wav", 48_000, 2),
    (".WAV", 16_000, 1),
    (".flac", 44_100, 2),
    (".mp3", 44_100, 2),
    (".mp3", 16_000, 1),
    (".ogg", 22_050, 1),
    (".opus", 48_000, 2),
    (".aiff", 32_000, 1),
    (".m4a", 44_100, 2),
    (".m4a", 16_000, 1),
    (".mp4", 48_000, 1),
    (".aac", 24_000, 1),
    (".webm", 48_000, 1),
    (".webm", 48_000, 2),
    (".3gp", 16_000, 1),
]


@pytest.mark.parametrize(("suffix", "sample_rate", "channels"), FORMATS)
def test_every_format_decodes(tmp_path, write_audio, suffix, sample_rate, channels):
    path = write_audio(tmp_path / f"a{suffix}", 1.0, sample_rate, channels)
    assert suffix.lower() in AUDIO_SUFFIXES
    waveform, own_rate = decode(path)
    assert own_rate == sample_rate
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert 1.0 <= len(waveform) / own_rate < 1.1
    assert 0.25 < abs(waveform).max() < 0.5
    resampled = load(path, 16_000)
    assert resampled.dtype == np.float32
    assert len(resampled) == pytest.approx(len(waveform) * 16_000 / own_rate, abs=2)


def test_stereo_is_the_channel_mean(tmp_path):
    channels = np.stack([np.full(800, 0.5), np.full(800, -0.1)], axis=1)
    soundfile.write(tmp_path / "a.wav", channels, 8000, subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "a.wav")[0], 0.2, atol=1e-6)


def test_resampling_keeps_the_tone(tmp_path):
    time = np.arange(48_000) / 48_000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 48_000)
    spectrum = np.abs(np.fft.rfft(load(tmp_path / "a.wav", 16_000)))
    assert len(spectrum) == 8001 and spectrum.argmax() == 440


def test_loud_samples_are_clipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 3.0, -3.0] * 800), 8000, subtype="FLOAT")
    assert set(decode(tmp_path / "a.wav")[0]) == {0.0, 1.0, -1.0}
    assert abs(load(tmp_path / "a.wav", 16_000)).max() <= 1


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".m4a", ".webm"])
def test_cut_off_file_is_refused(tmp_path, write_audio, suffix):
    path = write_audio(tmp_path / f"whole{suffix}", 4.0, 48_000)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=rf"cut{suffix}: it is .*cut off.*record it again"):
        decode(cut)


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_written_to_a_pipe_is_whole(tmp_path, write_audio, size):
    path = write_audio(tmp_path / "a.wav", 0.5, 16_000)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"data") + 4
    raw[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(raw)
    assert len(decode(path)[0]) == 8000


def test_wrong_suffix_still_decodes(tmp_path, write_audio):
    path = write_audio(tmp_path / "a.m4a", 0.5, 16_000).rename(tmp_path / "a.wav")
    assert len(decode(path)[0]) >= 8000


def test_recording_inside_a_video_decodes(tmp_path, write_audio):
    import av

    whole = tmp_path / "film.mp4"
    with av.open(str(write_audio(tmp_path / "a.m4a", 1.0, 16_000))) as sound, av.open(str(whole), "w") as film:
        picture = film.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        track = film.add_stream_from_template(sound.streams.audio[0])
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = index
            film.mux(picture.encode(frame))
        film.mux(picture.encode(None))
        for packet in sound.demux(sound.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = track
                film.mux(packet)
    assert len(decode(whole)[0]) / 16_000 == pytest.approx(1.0, abs=0.1)


BAD_FILES = {
    "missing": (lambda path: None, "there is no such file"),
    "0 bytes": (lambda path: path.write_bytes(b""), "0 bytes"),
    "garbage": (lambda path: path.write_bytes(b"hello world" * 500), "not audio"),
    "random": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not audio|no sound"),
    "no samples": (lambda path: soundfile.write(path, np.zeros((0, 1)), 8000), "0 samples"),
    "NaN": (lambda path: soundfile.write(path, np.array([0.1, np.nan]), 8000, subtype="FLOAT"), "NaN"),
    "infinite": (lambda path: soundfile.write(path, np.array([0.1, np.inf]), 8000, subtype="FLOAT"), "infinite"),
    "a text": (lambda path: path.write_text("this is a transcript"), "not audio"),
    "header only": (lambda path: path.write_bytes(b"RIFF$\0\0\0WAVEfmt "), "damaged|not audio"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_named(tmp_path, name):
    build, message = BAD_FILES[name]
    path = tmp_path / "b.wav"
    build(path)
    before = path.read_bytes() if path.exists() else None
    remedy = "check its name" if name == "missing" else "convert it to wav"
    with pytest.raises(AudioError, match=rf"b\.wav: .*({message}).*; {remedy}"):
        decode(path)
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".opus", ".m4a", ".webm"])
def test_length_is_bounded_before_memory_is_spent(tmp_path, write_audio, suffix):
    """Frames times channels; a WAV announces them, a WebM does not."""
    path = write_audio(tmp_path / f"a{suffix}", 1.0, 48_000, 2)
    assert len(decode(path, max_samples=120_000)[0]) >= 48_000
    with pytest.raises(TooLongError, match="over 50000 samples"):
        decode(path, max_samples=50_000)


@pytest.mark.parametrize("suffix", [".webm", ".wav", ".m4a"])
def test_playlist_opens_no_other_file(tmp_path, write_audio, suffix):
    """FFmpeg's own detection would accept these playlists and open the files in them."""
    secret = write_audio(tmp_path / "secret.m4a", 1.0, 16_000)
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    for text in (hls, f"ffconcat version 1.0\nfile '{secret.name}'\n"):
        path = tmp_path / f"list{suffix}"
        path.write_text(text)
        with pytest.raises(AudioError, match="not audio of a known format"):
            decode(path)


def test_title_in_another_encoding_is_ignored(tmp_path, write_audio):
    import av

    titled = tmp_path / "a.webm"
    with av.open(str(write_audio(tmp_path / "b.webm", 0.5, 48_000))) as sound, av.open(str(titled), "w") as target:
        target.metadata["title"] = "Mueller"
        track = target.add_stream_from_template(sound.streams.audio[0])
        for packet in sound.demux(sound.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = track
                target.mux(packet)
    data = titled.read_bytes()
    assert b"Mueller" in data
    titled.write_bytes(data.replace(b"Mueller", b"M\xfcller "))
    assert len(decode(titled)[0]) >= 24_000


def test_film_without_sound_is_named(tmp_path):
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as film:
        picture = film.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
        film.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        film.mux(picture.encode(None))
    with pytest.raises(AudioError, match="no sound"):
        decode(path)


def test_import_without_ffmpeg(tmp_path, write_audio):
    """A child process without an ffmpeg program in its PATH, and without torch, decodes the format of a phone."""
    path = write_audio(tmp_path / "a.m4a", 0.5, 44_100)
    code = (
        "import sys, asr_lightning.data.audio, asr_lightning.data.splits, asr_lightning.data.durations\n"
        f"assert len(asr_lightning.data.audio.load({str(path)!r}, 16000)) >= 8000\n"
        "heavy = {'torch', 'torchaudio', 'lightning', 'transformers', 'datasets', 'torchcodec'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_mp3_is_read_without_gaps_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """soundfile seeks after each read, after which libsndfile's MP3 decoder lacks the bits of earlier frames."""
    time = np.arange(2 * 44_100) / 44_100
    samples = 0.3 * np.sin(2 * np.pi * 300 * time * (1 + time))
    soundfile.write(tmp_path / "a.mp3", samples, 44_100)
    monkeypatch.setattr(decoders, "BLOCK", 8000)
    found = decode(tmp_path / "a.mp3")[0]
    np.testing.assert_allclose(found[: len(samples)], samples, atol=0.05)
