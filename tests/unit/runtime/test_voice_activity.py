"""A stream is cut at its pauses: every phrase is found, and nothing is lost or heard twice at a cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from asr_lightning.data import audio
from asr_lightning.listening import KeyCutter
from asr_lightning.runtime.voice_activity import CHUNK_SECONDS, Pauses, PhraseCutter, phrases
from tests import long_recording
from tests.long_recording import RATE, LongRecording


@pytest.fixture(scope="module")
def recording() -> LongRecording:
    return long_recording.make(list(long_recording.test_clips(4)), fillers=16, seed=3)


def in_blocks(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def test_each_clip_is_a_phrase_and_nothing_else_is(recording: LongRecording) -> None:
    """There are silence, noise and music between them."""
    found = list(phrases(in_blocks(recording.samples, 7000), RATE))
    assert len(found) == len(recording.spoken)
    for phrase, spoken in zip(found, recording.spoken, strict=True):
        assert phrase.start <= phrase.speech_start == pytest.approx(spoken.start, abs=0.2)
        assert phrase.speech_end == pytest.approx(spoken.end, abs=0.5)
        first = round(phrase.start * RATE)
        np.testing.assert_array_equal(phrase.samples, recording.samples[first : first + len(phrase.samples)])


@pytest.mark.parametrize("size", [1, 500, 512, 160_000])
def test_the_size_of_the_blocks_changes_nothing(recording: LongRecording, size: int) -> None:
    samples = recording.samples[: 6 * RATE] if size == 1 else recording.samples
    expected = list(phrases([samples], RATE))
    found = list(phrases(in_blocks(samples, size), RATE))
    assert [phrase[1:] for phrase in found] == [phrase[1:] for phrase in expected]


def test_speech_without_a_pause_is_cut_without_a_loss() -> None:
    """The pieces follow each other to the sample, and no piece is longer than was asked for."""
    voiced = [samples[4000:-8000] for samples, _ in long_recording.test_clips(8)]
    samples = np.concatenate(voiced)
    longest = 3.0
    found = list(phrases([samples], RATE, Pauses(pause=5.0, after=0.2, longest=longest)))
    assert len(found) >= len(samples) / RATE / longest
    for before, after in pairwise(found):
        assert before.start + len(before.samples) / RATE == pytest.approx(after.start, abs=1e-6)
    assert all(len(phrase.samples) <= (longest + CHUNK_SECONDS) * RATE for phrase in found)
    whole = np.concatenate([phrase.samples for phrase in found])
    first = round(found[0].start * RATE)
    np.testing.assert_array_equal(whole, np.pad(samples, (0, RATE))[first : first + len(whole)])
    assert len(samples) - first - len(whole) < 0.5 * RATE


def test_another_sample_rate_gives_the_same_phrases(recording: LongRecording) -> None:
    own = [audio.resample(recording.samples, RATE, rate) for rate in (8_000, 44_100)]
    expected = list(phrases([recording.samples], RATE))
    for rate, samples in zip((8_000, 44_100), own, strict=True):
        found = list(phrases(in_blocks(samples, 999), rate))
        assert len(found) == len(expected)
        for phrase, other in zip(found, expected, strict=True):
            assert phrase.speech_start == pytest.approx(other.speech_start, abs=0.1)
            assert len(phrase.samples) / rate == pytest.approx(len(other.samples) / RATE, abs=0.2)


def test_a_phrase_is_given_out_early_and_again_when_it_goes_on(recording: LongRecording) -> None:
    pauses = Pauses(pause=0.5, after=0.13)
    cutter = PhraseCutter(RATE, pauses, early=True)
    found = [phrase for block in in_blocks(recording.samples, 512) for phrase in cutter.feed(block)]
    found += cutter.finish()
    final = [phrase for phrase in found if phrase.is_final]
    early = [phrase for phrase in found if not phrase.is_final]
    assert len(final) == len(recording.spoken) <= len(early)
    for phrase in final:
        match = [other for other in early if other.speech_end == phrase.speech_end]
        assert match and np.array_equal(match[-1].samples, phrase.samples)


def test_speech_after_long_music_is_heard_from_its_first_word() -> None:
    """Without being reset, the detector is 0.15 s late here, and up to 0.9 s after longer music: words were lost."""
    music = long_recording.music(15, np.random.default_rng(8))
    clips = [
        samples for samples, text in long_recording.test_clips() if text.startswith(("You can leave", "The valve"))
    ]
    for samples in clips:
        alone = next(phrases([samples], RATE)).speech_start
        after = [phrase.speech_start - 15 for phrase in phrases([np.concatenate([music, samples])], RATE)]
        assert after == [pytest.approx(alone, abs=0.08)]


def test_the_memory_is_that_of_a_phrase() -> None:
    cutter = PhraseCutter(RATE, Pauses(longest=2.0))
    voiced = np.concatenate([samples for samples, _ in long_recording.test_clips(3)])
    for samples in (np.zeros(20 * RATE, np.float32), voiced):
        for block in in_blocks(samples, RATE):
            list(cutter.feed(block))
            assert len(cutter._chunks) * CHUNK_SECONDS <= 2.0 + CHUNK_SECONDS and len(cutter._own) < 1024


def test_a_key_makes_a_phrase_of_what_is_said_while_it_is_down() -> None:
    is_down = False
    cutter = KeyCutter(RATE, 2.0, lambda: is_down)
    blocks, found = in_blocks(np.arange(5 * RATE, dtype=np.float32), RATE // 10), []
    for number, block in enumerate(blocks):
        is_down = 10 <= number < 15 or number >= 25
        found += cutter.feed(block)
    found += cutter.finish()
    assert [(phrase.start, len(phrase.samples)) for phrase in found[:1]] == [(pytest.approx(1.0, abs=0.11), RATE // 2)]
    assert sum(len(phrase.samples) for phrase in found[1:]) == 2.5 * RATE, "the key was down to the end"
    assert all(len(phrase.samples) <= 2.1 * RATE for phrase in found)
