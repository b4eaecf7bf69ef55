"""Subtitles are read back by FFmpeg's demuxers, which are not ours."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from asr_lightning.runtime import subtitles
from asr_lightning.runtime.contract import Word
from asr_lightning.runtime.segments import Segment

LONG = "The quick brown fox jumps over the lazy dog while seven angry wizards box with jumping quivers of flax at noon."


def demuxed(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        return [
            (float(packet.pts * stream.time_base), float(packet.duration * stream.time_base), bytes(packet).decode())
            for packet in container.demux(stream)
            if packet.size
        ]


def timed(text: str, start: float, end: float) -> Segment:
    parts = text.split()
    step = (end - start) / len(parts)
    words = [Word(part, start + n * step, start + (n + 1) * step, 0.9) for n, part in enumerate(parts)]
    return Segment(text, start, end, tuple(words), 0.9)


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
@pytest.mark.parametrize("has_words", [True, False])
def test_an_independent_parser_reads_them(tmp_path: Path, suffix: str, has_words: bool) -> None:
    texts = [("Hello there.", 0.5, 1.25), (LONG, 3661.0, 3667.5), ("A < B & C > D", 3670.0, 3671.0)]
    found = [timed(*each) if has_words else Segment(*each) for each in texts]
    path = tmp_path / f"a{suffix}"
    path.write_text(subtitles.document(found, suffix), encoding="utf-8")
    read = demuxed(path)
    assert (read[0][0], round(read[0][1], 3), read[0][2]) == (0.5, 0.75, "Hello there.")
    middle = [cue for cue in read if 3660 < cue[0] < 3669]
    assert " ".join(" ".join(text for _, _, text in middle).split()) == LONG
    assert middle[0][0] == pytest.approx(3661, abs=0.01) and sum(middle[-1][:2]) == pytest.approx(3667.5, abs=0.01)
    assert read[-1][2] == ("A &lt; B &amp; C &gt; D" if suffix == ".vtt" else "A < B & C > D")
    for _, _, text in read:
        lines = text.split("\n")
        assert len(lines) <= 2 and all(len(line) <= 42 or "&" in line for line in lines)


def test_words_are_cues_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    found = [timed("one two three", 1, 4), Segment("no words", 5, 6)]
    path.write_text(subtitles.document(found, ".srt", by_word=True))
    assert [(start, text) for start, _, text in demuxed(path)] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
        (5, "no words"),
    ]


def test_cues_do_not_overlap_and_last_long_enough_to_be_seen() -> None:
    found = [Segment("a", 1.0, 1.0), Segment("b", 1.1, 1.15), Segment("c", 9.0, 9.01)]
    text = subtitles.document(found, ".srt")
    times = [line for line in text.splitlines() if "-->" in line]
    assert times == [
        "00:00:01,000 --> 00:00:01,100", "00:00:01,100 --> 00:00:01,400", "00:00:09,000 --> 00:00:09,300",
    ]  # fmt: skip


def test_a_text_without_spaces_is_divided_too() -> None:
    cues = list(subtitles.cues(Segment("語" * 200, 0.0, 10.0)))
    assert "".join(cue.text for cue in cues) == "語" * 200
    assert all(len(line) <= 42 for cue in cues for line in subtitles.wrapped(cue.text))
    assert cues[0].start == 0 and cues[-1].end == 10


def test_silence_has_no_cues() -> None:
    assert subtitles.document([], ".srt") == "" and subtitles.document([], ".vtt") == "WEBVTT\n\n"
