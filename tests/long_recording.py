"""Recordings of known content: the test clips of the demo between silence, noise and music, which are computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr_lightning.data import audio
from asr_lightning.data.manifest import read_manifest

RATE = 16_000
CLIPS = Path(__file__).parents[1] / "examples" / "german_accent" / "clips"


class Spoken(NamedTuple):
    """A clip of the recording: its text, and where it starts and ends in it, in seconds."""

    text: str
    start: float
    end: float


class LongRecording(NamedTuple):
    """The samples, and what is said in them."""

    samples: np.ndarray
    spoken: list[Spoken]


def noise(seconds: float, random: np.random.Generator) -> np.ndarray:
    """Noise of a fan: white noise through a low pass, at -35 dBFS, that comes and goes."""
    count = round(seconds * RATE)
    white = np.fft.rfft(random.standard_normal(count))
    frequencies = np.fft.rfftfreq(count, 1 / RATE)
    shaped = np.fft.irfft(white / (1 + frequencies / 400), count)
    swell = 1 + 0.5 * np.sin(2 * np.pi * 0.3 * np.arange(count) / RATE)
    return (shaped / shaped.std() * 10 ** (-35 / 20) * swell).astype(np.float32)


def music(seconds: float, random: np.random.Generator) -> np.ndarray:
    """Chords of harmonics that fade, over a drum on every beat and a hi-hat between, at about -20 dBFS."""
    count, beat = round(seconds * RATE), RATE // 2
    sound, time = np.zeros(count), np.arange(2 * beat) / RATE
    for place in range(0, count, 2 * beat):
        root = 110 * 2 ** (random.choice([0, 5, 7, 9]) / 12)
        for interval in (0, 4, 7, 12):
            pitch = root * 2 ** (interval / 12)
            tone = sum(np.sin(2 * np.pi * pitch * n * time + random.uniform(0, 6)) / n**1.5 for n in range(1, 7))
            _add(sound, place, 0.05 * tone * np.exp(-1.5 * time))
    for number, place in enumerate(range(0, count, beat // 2)):
        short = time[: beat // 2]
        drum = 0.3 * np.sin(2 * np.pi * (50 + 60 * np.exp(-30 * short)) * short) * np.exp(-12 * short)
        hat = 0.05 * random.standard_normal(len(short)) * np.exp(-60 * short)
        _add(sound, place, hat if number % 2 else drum)
    return sound.clip(-1, 1).astype(np.float32)


def _add(sound: np.ndarray, place: int, part: np.ndarray) -> None:
    end = min(place + len(part), len(sound))
    sound[place:end] += part[: end - place]


def test_clips(number: int | None = None) -> Iterator[tuple[np.ndarray, str]]:
    """The clips of the demo's test split with their texts."""
    for entry in read_manifest(CLIPS / "test_files.csv", CLIPS)[:number]:
        yield audio.load(CLIPS / entry.row.file_name, RATE), entry.row.text


def make(clips: list[tuple[np.ndarray, str]], fillers: float, seed: int = 0) -> LongRecording:
    """Put ``clips`` in a row, with pauses between them and ``fillers`` seconds of silence, noise and music in all."""
    random = np.random.default_rng(seed)
    kinds = (quiet, noise, music)
    places = sorted(random.choice(len(clips), size=min(12, len(clips)), replace=False).tolist()) if fillers else []
    parts, spoken, now = [], [], 0.0

    def put(samples: np.ndarray) -> None:
        nonlocal now
        parts.append(samples)
        now += len(samples) / RATE

    for number, (samples, text) in enumerate(clips):
        if number in places:
            put(kinds[places.index(number) % 3](fillers / len(places), random))
        put(quiet(random.uniform(0.2, 1.2), random))
        speech = np.flatnonzero(np.abs(samples) > 0.02)
        spoken.append(Spoken(text, now + speech[0] / RATE, now + speech[-1] / RATE))
        put(samples)
    return LongRecording(np.concatenate(parts), spoken)


def quiet(seconds: float, random: np.random.Generator) -> np.ndarray:
    """Silence as a microphone has it, at -70 dBFS."""
    return (random.standard_normal(round(seconds * RATE)) * 10 ** (-70 / 20)).astype(np.float32)
