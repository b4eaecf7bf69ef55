"""Write a synthetic audio folder: twelve phrases spelled in tones, one tone for each letter.

Run: ``python examples/make_tones.py tones``. The toy adapter learns it in seconds. It needs no download and is not
speech.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

SAMPLE_RATE = 8000
TONE_SECONDS = 0.08
PHRASES = (
    "open the window",
    "close the back door",
    "turn off the light",
    "start the music",
    "make some black coffee",
    "queue the next song",
    "just lock everything",
    "zip up my jacket",
    "fix the kitchen clock",
    "the quick brown fox jumps",
    "over the very lazy dog",
    "water the garden",
)


def tone(letter: str) -> np.ndarray:
    """Return one letter as float32 ``[T]``: its pitch between 200 and 2800 Hz, then as much silence."""
    seconds = np.arange(int(TONE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 200 + 100 * " abcdefghijklmnopqrstuvwxyz".index(letter)
    wave = 0.3 * np.sin(2 * np.pi * pitch * seconds)
    return np.concatenate([wave, np.zeros_like(wave)]).astype(np.float32)


def write_tones(folder: Path, phrases: tuple[str, ...] = PHRASES) -> None:
    """Write ``<UID>.wav`` and ``<UID>.txt`` for each phrase.

    Raises:
        FileExistsError: ``folder`` exists; nothing in it is changed.
    """
    folder.mkdir(parents=True)
    for number, phrase in enumerate(phrases, start=1):
        wave = np.concatenate([tone(letter) for letter in phrase])
        soundfile.write(folder / f"{number:03d}.wav", wave, SAMPLE_RATE)
        (folder / f"{number:03d}.txt").write_text(phrase + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder to write, which must not exist")
    write_tones(parser.parse_args().folder)
