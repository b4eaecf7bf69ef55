"""The bundled replay set has many voices, and no text or voice that the canary or the sample data set measures."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "asr_lightning"
REPLAY = PACKAGE / "replay_clips"
CLIPS = sorted(REPLAY.glob("*.ogg"))
MEASURED = (
    PACKAGE / "canary_clips" / "en" / "source" / "sentences.txt",
    ROOT / "examples" / "german_accent" / "phrases.txt",
    ROOT / "benchmarks" / "second_speaker" / "phrases.txt",
)


def words(text: str) -> str:
    """The text in lower case and without punctuation."""
    return re.sub(r"[^a-z ]", "", text.lower())


def voice(clip: Path) -> str:
    """The voice of a clip: its name without the number."""
    return clip.stem.rpartition("_")[0]


def test_every_sentence_is_spoken_once() -> None:
    sources = (REPLAY / "source").glob("*.txt")
    sentences = [line for source in sources for line in source.read_text(encoding="utf-8").splitlines()]
    assert sorted(clip.with_suffix(".txt").read_text(encoding="utf-8").strip() for clip in CLIPS) == sorted(sentences)
    assert len(set(map(words, sentences))) == len(sentences) == 206


def test_many_voices_take_turns() -> None:
    counts = Counter(map(voice, CLIPS))
    assert counts.pop("jf_gongitsune") == counts.pop("jf_nezumi") == 33
    assert len(counts) == 28 and set(counts.values()) == {5}


def test_clips_are_short_and_the_folder_is_small() -> None:
    for clip in CLIPS:
        info = soundfile.info(clip)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "OGG", "OPUS")
        assert 1.5 < info.duration < 8
    assert sum(file.stat().st_size for file in REPLAY.rglob("*")) < 4_000_000


@pytest.mark.parametrize("measured", MEASURED, ids=lambda path: path.parent.name)
def test_replay_has_no_text_that_is_measured(measured: Path) -> None:
    texts = {words(line) for line in measured.read_text(encoding="utf-8").splitlines()}
    assert texts and not texts & {words(clip.with_suffix(".txt").read_text(encoding="utf-8").strip()) for clip in CLIPS}


def test_replay_has_no_voice_of_the_canary() -> None:
    others = {voice(clip) for clip in (PACKAGE / "canary_clips" / "en").glob("*.ogg")}
    assert others and not set(map(voice, CLIPS)) & others
