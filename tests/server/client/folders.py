"""Audio folders with a few tones, for tests of packing and sending."""

from __future__ import annotations

from pathlib import Path

from tests.unit.conftest import write_audio

TEXTS = ("turn on the light", "call my sister", "open the window", "read the news")


def make_folder(folder: Path, names: tuple[str, ...] = ("a.wav", "b.flac", "c.ogg", "d.wav")) -> Path:
    """Create a folder of short tones in several formats and sample rates, with transcripts."""
    folder.mkdir()
    for number, (name, text) in enumerate(zip(names, TEXTS, strict=True)):
        write_audio(folder / name, 0.3, sample_rate=(16_000, 44_100)[number % 2], channels=1 + number % 2)
        (folder / name).with_suffix(".txt").write_text(f"{text}\n", encoding="utf-8")
    return folder
